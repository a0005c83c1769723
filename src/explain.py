"""Shows which image regions a prediction rests on:  python src/explain.py --experiment cnn_e

Writes Grad-CAM heat maps of out-of-fold images, each computed by the model that did not train on its group, to
runs/<competition>/<experiment>/gradcam.png: for every label the most confident true and false positives and negatives.
errors.csv beside it lists everything that was decided wrongly, with truth and probability, the worst first. Where masks
of the findings are known (the demo's), pointing.csv says how often the hottest pixel lies inside. A blend is explained
by the mean of its members' maps. --method hirescam has finer maps, better for some networks and worse for others;
occlusion is better than both and slower.

--image ID: explains that image instead, by every method and every fold or member, in look_<ID>.png.
--evaluate-maps N: measures the maps of N images per label, by every method and by chance, in measures.csv.
"""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from commandline import (
    add_experiment,
    load_workspace,
    make_parser,
    run_script,
    trained_names,
)
from common.console import interval, make_console, number, percent, short_id
from common.figures import save_figure
from common.files import read_json, sha256, write_csv, write_json
from common.hardware import tune_process
from common.image_grid import labels_text
from competition import Competition
from data.decoding import decode_image, fit_image
from data.folds import fold_numbers
from data.pixel_store import PixelSettings
from explaining.errors import list_errors
from explaining.heatmap_sheet import COLUMNS, Panel, draw_sheet
from explaining.held_out_maps import (
    BlendMember,
    explained_by,
    held_out_maps,
    largest_store,
    layer_name,
    open_members,
    read_trained,
)
from explaining.methods import METHODS
from explaining.pointing_game import hottest_pixel, pointing_game
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import Oof, run_folder
from results.workspace import Workspace
from scoring.decision_rules import FittedRule

OUTCOMES = {"true positives": (1, 1), "false positives": (0, 1), "false negatives": (1, 0),
            "true negatives": (0, 0)}  # target, decision
LABELS_PER_PAGE = 3
MOST_COMPARED = 20_000   # ids that a mistyped id is compared with
FORMAT = 6               # of the figures: raise it when their look changes


@dataclass(frozen=True)
class Case:
    """One outcome of one label: the rows of the table that are shown, and how many there are in all."""

    label: int
    outcome: str
    rows: np.ndarray
    total: int


def main(argv: list[str] | None = None) -> list[Path]:
    """Explains every run; returns the paths of the figures, or of measures.csv with --evaluate-maps."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--method", default="gradcam", choices=METHODS, help="default: gradcam")
    parser.add_argument("--image", nargs="+", metavar="ID", help="explain these images, of any part, instead")
    parser.add_argument("--evaluate-maps", type=int, metavar="N", help="measure every method on N images per label")
    args = parser.parse_args(argv)
    if args.evaluate_maps is not None and args.evaluate_maps < 1:
        parser.error("--evaluate-maps must be at least 1")
    if args.image and args.evaluate_maps:
        parser.error("--image and --evaluate-maps exclude each other")
    tune_process()
    workspace = load_workspace(args)
    if args.image:
        found = [find_image(workspace, image_id) for image_id in args.image]
        return [explain_image(workspace, name, *each) for name in trained_names(args) for each in found]
    if args.evaluate_maps:
        return [evaluate_maps(workspace, name, args.evaluate_maps) for name in trained_names(args)]
    return [path for name in trained_names(args) for path in explain_run(workspace, name, args.method)]


def explain_run(workspace: Workspace, name: str, method: str = "gradcam") -> list[Path]:
    """Writes a run's errors, its figures and its pointing game; returns the figures' paths, none if it has no maps.

    Figures that were made from the same models, images and labels are kept.
    """
    competition, oof = workspace.competition, read_trained(workspace, name)
    folder = run_folder(competition, name)
    errors = write_errors(workspace, oof)
    members, others = explained_by(open_members(competition, oof, workspace.table), method)
    for other in others:
        print(f"{other}: {METHODS[method].title} cannot explain it: {_why_not(oof, other)}. Use --method occlusion or "
              "lime, which explain any network")
    if not members:
        print(f"written: {errors}")
        return []
    layers = {member.name: layer_name(member, method) for member in members}
    inputs = {
        "format": FORMAT,
        "method": method,
        "images": [member.store.folder.name for member in members],
        "labels": sha256(workspace.cells.tobytes()),
        "folds": workspace.folds.hash,
        "weights": oof.made_of,
        "layer": layers,
    } | adopted_inputs(workspace, oof)
    record, sheet = folder / f"{method}.json", folder / f"{method}.png"
    made = read_json(record) if record.exists() else {}
    files = [folder / file for file in made.get("files", [])]
    if made.get("made_from") == inputs and all(path.exists() for path in files):
        print(f"{sheet} is up to date: same models, images and labels")
    else:
        files = _explain(workspace, oof, members, method, layers)
        write_json(record, {"made_from": inputs, "files": [path.name for path in files]})
    if (pointing := folder / _pointing_file(method)) in files:
        show_pointing(f"{name}, {METHODS[method].title}", pd.read_csv(pointing))
    sheets = [path for path in files if path.suffix == ".png"]
    print(f"written: {', '.join(map(str, [*sheets, errors]))}")
    return sheets


def write_errors(workspace: Workspace, oof: Oof) -> Path:
    """Writes errors.csv, what the run decided wrongly on its held-out images; returns its path."""
    targets = np.where(np.isnan(oof.probs), np.nan, workspace.label_targets)
    fitted = rule_for(workspace, oof, "decisions").fit(targets, oof.probs)
    folds = fold_numbers(workspace.table, oof.split)
    errors = list_errors(workspace.competition, workspace.table["image_id"], targets, oof.probs,
                         fitted.apply(oof.probs), folds)
    print(f"{oof.name}: {len(errors):,} wrong decisions")
    return write_csv(run_folder(workspace.competition, oof.name) / "errors.csv", errors, float_format="%.6g")


def find_image(workspace: Workspace, image_id: str) -> tuple[str, int]:
    """The part that has an image, and its row there. Raises ValueError, with similar ids, if no part has it."""
    is_training = (workspace.table["image_id"] == image_id).any()
    parts = {"train": workspace.table} | ({} if is_training else workspace.predicted_parts)
    for part, images in parts.items():
        if len(rows := np.flatnonzero(images["image_id"] == image_id)):
            return part, int(rows[0])
    known = [name for images in parts.values() for name in images["image_id"]]
    near = difflib.get_close_matches(image_id, known[:MOST_COMPARED], n=3)
    raise ValueError(f"no image {image_id!r} in the parts {', '.join(parts)} of {workspace.competition.name!r}; "
                     f"ids are such as {', '.join(near or known[:3])}")


def explain_image(workspace: Workspace, name: str, part: str, row: int) -> Path:
    """Draws one image by every method and model; returns the figure's path."""
    from explaining.image_view import view_image

    competition, oof = workspace.competition, read_trained(workspace, name)
    images = workspace.table if part == "train" else workspace.part(part)
    if oof.members and oof.kind != "mean":  # the figure shows the mean of a blend's members
        oof = replace(oof, probs=np.mean([workspace.oof(member).probs for member in oof.members], axis=0))
    members, image_id = open_members(competition, oof, images, part), images["image_id"].iloc[row]
    _, _, fitted = _decided(workspace, oof)
    cells, masks = None, {}
    if part == "train":
        cells, settings = workspace.cells[row], largest_store(members).settings
        masks = {k: mask for k, label in enumerate(competition.labels) for mask in
                 read_masks(workspace.data_dir, label, images["image_id"], np.array([row]), settings, 1).values()}
    figure = view_image(competition, name, members, images, row, cells, fitted, masks)
    path = save_figure(figure, run_folder(competition, name) / f"look_{image_id.replace('/', '_')}.png")
    print(f"written: {path}")
    return path


def evaluate_maps(workspace: Workspace, name: str, count: int) -> Path:
    """Measures the maps of `count` images per label that have it, at most one per group; returns the table's path."""
    from explaining.map_quality import measure_maps, summarise

    competition, table, oof = workspace.competition, workspace.table, read_trained(workspace, name)
    members = open_members(competition, oof, table)
    _, predicted, _ = _decided(workspace, oof)
    rows, masks, rng = {}, {}, np.random.default_rng(0)
    for k, label in enumerate(competition.labels):
        positive = rng.permutation(np.flatnonzero(predicted[:, k] == 1))
        _, first = np.unique(workspace.groups[positive], return_index=True)
        positive = positive[np.sort(first)]
        masks[k] = read_masks(workspace.data_dir, label, table["image_id"], positive, largest_store(members).settings,
                              len(positive))
        with_mask = [row for row in positive.tolist() if row in masks[k]]
        rows[k] = (with_mask or positive.tolist())[:count]
    if not any(rows.values()):
        raise ValueError(f"no label of {competition.name!r} is present in a trained fold; there is nothing to measure")
    measured = measure_maps(members, table, rows, masks)
    measured["label"] = [competition.labels[k] for k in measured["label"]]
    folder = run_folder(competition, name)
    write_csv(folder / "measured_images.csv", measured, float_format="%.6g")
    summary = summarise(measured)
    show_measures(name, summary)
    path = write_csv(folder / "measures.csv", summary, float_format="%.6g")
    print(f"written: {path}")
    return path


def show_measures(name: str, summary: pd.DataFrame) -> None:
    """Prints a summary of `map_quality.summarise`."""
    board = Table("method", "images", "empty", "hottest inside", "heat inside", "deletion ↓", "insertion ↑",
                  "random weights ↓", title=f"{name}: mean and 95 % interval over images")
    for row in summary.to_dict("records"):
        cells = ["" if np.isnan(row[key]) else
                 f"{number(row[key], 2)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 2)})"
                 for key in ("inside", "share_inside", "deletion", "insertion", "randomised")]
        board.add_row(row["method"], str(row["images"]), str(row["empty"]), *cells)
    make_console().print(board)
    if not np.isnan(area := summary["area"].iloc[0]):
        print(f"The findings cover {area:.1%} of the images; by chance that share of the heat lies inside.")
    print("Deletion, insertion: mean probability of the label while the hottest pixels are blurred first, or last. "
          "Random weights: rank correlation with the map of\nthe same network after its weights were drawn at random; "
          "near 1 the map shows the image and not what was learned. Chance: smooth noise.")


def _why_not(oof: Oof, member: str) -> str:
    experiment = next(run.experiment for run in oof.runs if run.folder.parent.name == member)
    if experiment.head_fit == "knn":
        return "a nearest-neighbour head has no gradient"
    return f"{experiment.network} has no convolution and no tokens that give a map"


def _pointing_file(method: str) -> str:
    return "pointing.csv" if method == "gradcam" else f"pointing_{method}.csv"


def _explain(workspace: Workspace, oof: Oof, members: list[BlendMember], method: str,
             layers: dict[str, str]) -> list[Path]:
    """Computes all maps that are needed, fold by fold, and writes the files."""
    competition, table, ids = workspace.competition, workspace.table, workspace.table["image_id"]
    store = largest_store(members)
    targets, predicted, fitted = _decided(workspace, oof)
    decisions = fitted.apply(oof.probs)
    cases = [Case(k, outcome, *pick_examples(predicted[:, k], oof.probs[:, k], decisions[:, k], workspace.groups,
                                             outcome))
             for k in range(len(competition.labels)) for outcome in OUTCOMES]
    masks = [read_masks(workspace.data_dir, label, ids, np.flatnonzero(targets[:, k] == 1), store.settings,
                        METHODS[method].pointing_images)
             for k, label in enumerate(competition.labels)]  # row: mask
    shown = {(case.label, row) for case in cases for row in case.rows.tolist()}
    wanted = shown | {(k, row) for k in range(len(masks)) for row in masks[k] if not np.isnan(predicted[row, k])}

    heats, hottest = {}, {}
    for k, row, heat, is_empty in held_out_maps(members, table, wanted, method):
        hottest[k, row] = None if is_empty else hottest_pixel(heat)
        if (k, row) in shown:  # the maps of the pointing game are not kept, because there may be many
            heats[k, row] = heat, is_empty

    def panel(k: int, row: int) -> Panel:
        text = (f"{short_id(ids.iloc[row], 34)}\np {oof.probs[row, k]:.3f},  true: "
                f"{labels_text(competition, workspace.cells[row])}")
        mask = read_masks(workspace.data_dir, competition.labels[k], ids, np.array([row]), store.settings, 1).get(row)
        return Panel(text, store.read(store.rows([ids.iloc[row]]))[0], *heats[k, row], mask)

    pages, folder = [], run_folder(competition, oof.name)
    for first in range(0, len(competition.labels), LABELS_PER_PAGE):
        rows = [(*_row_texts(competition, case, fitted), [panel(case.label, row) for row in case.rows.tolist()])
                for case in cases if first <= case.label < first + LABELS_PER_PAGE]
        figure = draw_sheet(f"{competition.name} / {oof.name}", _caption(method, layers, members, any(masks)), rows)
        page = f"{method}.png" if first == 0 else f"{method}_{first // LABELS_PER_PAGE + 1}.png"
        pages.append(save_figure(figure, folder / page))
    if not any(masks):
        return pages
    pointing = pointing_game(competition.labels, masks, hottest, fold_numbers(table, oof.split))
    if pointing.empty:  # every mask belongs to a fold that is not trained
        return pages
    return [*pages, write_csv(folder / _pointing_file(method), pointing, float_format="%.6g")]


def _decided(workspace: Workspace, oof: Oof) -> tuple[np.ndarray, np.ndarray, FittedRule]:
    """Targets (N, K) of images that are not constant, the same where there are predictions, and the decision rule."""
    targets = workspace.label_targets.copy()
    targets[workspace.table["constant"].to_numpy()] = np.nan  # no region of a constant image could be evidence
    predicted = np.where(np.isnan(oof.probs), np.nan, targets)
    return targets, predicted, rule_for(workspace, oof, "decisions").fit(predicted, oof.probs)


def pick_examples(targets: np.ndarray, probs: np.ndarray, decisions: np.ndarray, groups: np.ndarray, outcome: str,
                  count: int = COLUMNS) -> tuple[np.ndarray, int]:
    """Rows of the `count` most confident cases of an outcome, at most one per group, and how many there are in all.

    All arrays are (N,), of one label. targets: 1, 0 or NaN (never picked);  outcome: a key of OUTCOMES.
    """
    target, decision = OUTCOMES[outcome]
    cases = np.flatnonzero((targets == target) & (decisions == decision))
    cases = cases[np.argsort(-probs[cases] if decision else probs[cases], kind="stable")]
    _, first = np.unique(groups[cases], return_index=True)
    return cases[np.sort(first)][:count], len(cases)


def read_masks(data_dir: Path, label: str, image_ids: pd.Series, rows: np.ndarray,
               settings: PixelSettings, most: int) -> dict[int, np.ndarray]:
    """Row to mask (size, size) bool, of the rows that have a mask; a random choice if there are more than `most`.

    Empty if borders are cropped before the image is stored, because it is not known what was cropped.
    """
    if "crop_borders" in settings.steps:
        return {}
    folder, size = data_dir / "truth" / "masks" / label, settings.size
    paths = {int(row): folder / f"{image_ids.iloc[row]}.png" for row in rows} if folder.is_dir() else {}
    known = np.array([row for row, path in paths.items() if path.exists()], int)
    chosen = np.sort(np.random.default_rng(0).permutation(known)[:most])
    masks = {int(row): fit_image(decode_image(paths[row], channels=1), size, settings.resize_mode) >= 128
             for row in chosen}
    return {row: mask for row, mask in masks.items() if mask.any()}


def show_pointing(name: str, pointing: pd.DataFrame) -> None:
    """Prints the pointing game: green if the whole interval is above chance, else red."""
    board = Table("label", "images", "inside", "95 % interval", "chance", "best guess", "empty maps",
                  title=f"{name}: is the hottest pixel inside the finding?")
    for row in pointing.to_dict("records"):
        share = {key: percent(row[key], 0) for key in ("inside", "low", "high", "chance", "best_guess")}
        colour = "green" if row["low"] > row["chance"] else "red"
        board.add_row(row["label"], str(row["images"]), f"[{colour}]{share['inside']}[/]",
                      f"{share['low']} to {share['high']}", share["chance"], share["best_guess"], str(row["empty"]))
    make_console().print(board)
    print("Out-of-fold images with the label and an annotated finding; a random choice if there are many. "
          "Chance: the finding's share of the image.\n"
          "Best guess: one pixel for all images, the one most often covered in the other folds.")


def _row_texts(competition: Competition, case: Case, fitted: FittedRule) -> tuple[str, str]:
    return (f"{competition.labels[case.label]}  ({fitted.describe(case.label)})",
            f"{case.outcome}\n{len(case.rows)} of {case.total:,}")


def _caption(method: str, layers: dict[str, str], members: list[BlendMember], has_masks: bool) -> str:
    name = next(iter(layers.values()))
    layer = f", layer {name}," if len(layers) == 1 and name else ""
    mean = f", the mean of {len(members)} members' maps," if len(members) > 1 else ""
    outlined = "; outlined: the annotated finding" if has_masks else ""
    return (f"{METHODS[method].title}{layer}{mean} of out-of-fold images, each explained by models that did not train "
            f"on its group. Heat is divided by the map's maximum.\nThe most confident cases, at most one per "
            f"group{outlined}")


if __name__ == "__main__":
    run_script(main)
