"""Look where the networks look:  python src/explain.py --experiment cnn_e

Grad-CAM of out-of-fold images, each explained by the one model that never saw its group: for every label the most
confident true and false positives and negatives, to runs/<competition>/<experiment>/gradcam.png. Where masks of the
findings are known (the demo's), it also tells how often the hottest pixel falls inside, in pointing.csv. A blend is
explained by the mean of its members' maps. --method hirescam, a map of finer cells, points better for some networks
and worse for others; occlusion points better than both and takes longer.

--image ID: that image instead, by every method and every fold or member, to look_<ID>.png beside it.
--measure N: how good the maps of N images of every label are, by every method, chance and a guess: measures.csv.
"""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names
from common.console import make_console, short_id
from common.figures import save_figure
from common.files import read_json, sha256, write_csv, write_json
from common.hardware import tune_process
from competition import Competition
from data.decoding import decode_image, fit_image
from data.folds import Folds, fold_numbers, read_predicted_parts
from data.labels import scoring_targets
from data.pixel_store import PixelSettings
from data.tables import label_cells
from explaining.heatmap_sheet import COLUMNS, Panel, draw_sheet
from explaining.held_out_maps import BlendMember, explained_by, held_out_maps, largest_store, layer_name, open_members
from explaining.methods import METHODS
from explaining.pointing_game import NEARLY, hottest_pixel, pointing_game
from results.adopted_rules import policy_for, policy_inputs
from results.runs import Oof, read_oof, run_folder
from scoring.decision_rules import FittedRule

OUTCOMES = {"true positives": (1, 1), "false positives": (0, 1), "false negatives": (1, 0),
            "true negatives": (0, 0)}  # target, decision
LABELS_A_PAGE = 3
NEAR_AMONG = 20_000      # ids that one mistyped is compared with
FORMAT = 5               # of the sheets: raise it when they come to look different


@dataclass(frozen=True)
class Case:
    """One label's outcome on a sheet: the rows of the table to be shown, and how many there are in all."""

    label: int
    outcome: str
    rows: np.ndarray
    total: int


def main(argv: list[str] | None = None) -> list[Path]:
    """Explains every experiment's run; returns the sheets' paths."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--method", default="gradcam", choices=METHODS, help="of the spot checks; default: gradcam")
    parser.add_argument("--image", nargs="+", metavar="ID", help="one image or several, of the training or test part")
    parser.add_argument("--measure", type=int, metavar="N", help="judge every method by N images of every label")
    args = parser.parse_args(argv)
    if args.measure is not None and args.measure < 1:
        parser.error("--measure needs at least one image")
    if args.image and args.measure:
        parser.error("--image and --measure are two things; ask for one at a time")
    tune_process()
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    if args.image:
        places = [find_image(competition, data_dir, table, folds, image_id) for image_id in args.image]
        return [look_at(competition, data_dir, name, table, folds, *place)
                for name in run_names(args) for place in places]
    if args.measure:
        return [path for name in run_names(args)
                for path in measure_run(competition, data_dir, name, table, folds, args.measure)]
    return [path for name in run_names(args)
            for path in explain_run(competition, data_dir, name, table, folds, args.method)]


def read_explained(competition: Competition, name: str, table: pd.DataFrame, folds: Folds) -> Oof:
    """The run or blend. Raises FileNotFoundError where no fold of it is finished."""
    oof = read_oof(competition, name, table, folds.hash)
    if not oof.runs:
        raise FileNotFoundError(f"run {name!r} has no finished fold; run: python src/train.py "
                                f"--competition {competition.name} --experiment {name}")
    if oof.folds_missing:
        missing = ", ".join(map(str, oof.folds_missing))
        print(f"{name}: the folds {missing} are not trained, their images are not explained")
    return oof


def explain_run(competition: Competition, data_dir: Path, name: str, table: pd.DataFrame, folds: Folds,
                method: str = "gradcam") -> list[Path]:
    """Writes a run's sheets and plays the pointing game; returns the sheets' paths, none with nothing to look at."""
    oof = read_explained(competition, name, table, folds)
    members, others = explained_by(open_members(competition, oof, table), method)
    for other in others:
        print(f"{other}: {METHODS[method].title} cannot explain it: {_why_not(oof, other)}. Use --method occlusion or "
              "lime, which explain any network")
    if not members:
        return []
    folder, cells = run_folder(competition, name), label_cells(competition, table)
    layers = {member.name: layer_name(member, method) for member in members}
    inputs = {
        "format": FORMAT,
        "method": method,
        "images": [member.store.folder.name for member in members],
        "labels": sha256(cells.tobytes()),
        "folds": folds.hash,
        "weights": oof.made_of,
        "layer": layers,
    } | policy_inputs(competition, oof)
    account, sheet = folder / f"{method}.json", folder / f"{method}.png"
    made = read_json(account) if account.exists() else {}
    files = [folder / file for file in made.get("files", [])]
    if made.get("made_from") == inputs and all(path.exists() for path in files):
        print(f"{sheet} is there already, made from these very models and images")
    else:
        files = _explain(competition, data_dir, table, oof, members, cells, method, layers)
        write_json(account, {"made_from": inputs, "files": [path.name for path in files]})
    if (played := folder / _pointing(method)) in files:
        show_pointing(f"{name}, {METHODS[method].title}", pd.read_csv(played))
    sheets = [path for path in files if path.suffix == ".png"]
    print(f"look at {', '.join(map(str, sheets))}")
    return sheets


def find_image(competition: Competition, data_dir: Path, table: pd.DataFrame, folds: Folds,
               image_id: str) -> tuple[str, pd.DataFrame, int]:
    """The part that has an image, its table and the image's row. Raises ValueError where none has."""
    is_training = (table["image_id"] == image_id).any()
    parts = {"train": table} | ({} if is_training else read_predicted_parts(competition, data_dir, folds))
    for part, images in parts.items():
        if len(rows := np.flatnonzero(images["image_id"] == image_id)):
            return part, images, int(rows[0])
    known = [name for images in parts.values() for name in images["image_id"]]
    near = difflib.get_close_matches(image_id, known[:NEAR_AMONG], n=3)
    raise ValueError(f"no image {image_id!r} in the parts {', '.join(parts)} of {competition.name!r}; "
                     f"ids are such as {', '.join(near or known[:3])}")


def look_at(competition: Competition, data_dir: Path, name: str, table: pd.DataFrame, folds: Folds, part: str,
            images: pd.DataFrame, row: int) -> Path:
    """Writes one image's sheet; returns its path."""
    from explaining.image_view import view_image

    oof = read_explained(competition, name, table, folds)
    if oof.members and oof.kind != "mean":  # what the sheet shows of a blend is the mean of its members
        each = [read_oof(competition, member, table, folds.hash).probs for member in oof.members]
        oof = replace(oof, probs=np.mean(each, axis=0))
    members = open_members(competition, oof, images, part)
    cells, image_id = label_cells(competition, table), images["image_id"].iloc[row]
    settings = largest_store(members).settings
    _, _, fitted = _judged(competition, oof, table, cells)
    masks = {k: mask for k, label in enumerate(competition.labels) for mask in
             read_masks(data_dir, label, images["image_id"], np.array([row]), settings, 1).values()}
    figure = view_image(competition, name, members, images, row, cells[row] if part == "train" else None, fitted,
                        masks if part == "train" else {})
    path = run_folder(competition, name) / f"look_{image_id.replace('/', '_')}.png"
    save_figure(figure, path)
    print(f"look at {path}")
    return path


def measure_run(competition: Competition, data_dir: Path, name: str, table: pd.DataFrame, folds: Folds,
                count: int) -> list[Path]:
    """Measures the maps of images on which a label is there, one a group; returns the table's path."""
    from explaining.map_quality import measure_maps, summarise

    oof = read_explained(competition, name, table, folds)
    members = open_members(competition, oof, table)
    _, seen, _ = _judged(competition, oof, table, label_cells(competition, table))
    rows, masks, dice = {}, {}, np.random.default_rng(0)
    for k, label in enumerate(competition.labels):
        there = dice.permutation(np.flatnonzero(seen[:, k] == 1))
        _, first = np.unique(table["group"].to_numpy(str)[there], return_index=True)
        there = there[np.sort(first)]
        masks[k] = read_masks(data_dir, label, table["image_id"], there, largest_store(members).settings, len(there))
        drawn = [row for row in there.tolist() if row in masks[k]]
        rows[k] = (drawn or there.tolist())[:count]
    if not any(rows.values()):
        raise ValueError(f"no label of {competition.name!r} is there in a trained fold; there is nothing to measure")
    measured = measure_maps(members, table, rows, masks)
    measured["label"] = [competition.labels[k] for k in measured["label"]]
    folder = run_folder(competition, name)
    write_csv(folder / "measured_images.csv", measured, float_format="%.6g")
    summary = summarise(measured)
    show_measures(name, summary)
    return [write_csv(folder / "measures.csv", summary, float_format="%.6g")]


def show_measures(name: str, summary: pd.DataFrame) -> None:
    """Prints what `measuring.summarise` gave."""
    board = Table("method", "images", "empty", "hottest inside", "heat inside", "deletion ↓", "insertion ↑",
                  "like random weights' ↓", title=f"{name}: mean and 95 % interval over images")
    for row in summary.to_dict("records"):
        cells = ["" if np.isnan(row[key]) else f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f})"
                 for key in ("inside", "share_inside", "deletion", "insertion", "randomised")]
        board.add_row(row["method"], str(row["images"]), str(row["empty"]), *cells)
    make_console().print(board)
    if not np.isnan(area := summary["area"].iloc[0]):
        print(f"The findings cover {area:.1%} of the images: so much of the heat lies inside by chance.")
    print("Deletion, insertion: mean probability of the label as the hottest pixels are blurred first, or all others. "
          "Random weights: of some images,\nrank correlation with the map of the same network with weights drawn anew; "
          "near 1 the map shows the image, not what was learned. Chance: smooth noise.")


def _why_not(oof: Oof, member: str) -> str:
    experiment = next(run.experiment for run in oof.runs if run.folder.parent.name == member)
    if experiment.head_fit == "knn":
        return "a head of nearest cases has no gradient"
    return f"{experiment.network} has no convolution and no tokens that a map is known of"


def _pointing(method: str) -> str:
    return "pointing.csv" if method == "gradcam" else f"pointing_{method}.csv"


def _explain(competition: Competition, data_dir: Path, table: pd.DataFrame, oof: Oof, members: list[BlendMember],
             cells: np.ndarray, method: str, layers: dict[str, str]) -> list[Path]:
    """Computes all maps that are needed, fold by fold, and writes the files."""
    store = largest_store(members)
    targets, seen, fitted = _judged(competition, oof, table, cells)
    decisions, groups = fitted.apply(oof.probs), table["group"].to_numpy(str)
    cases = [Case(k, outcome, *pick_examples(seen[:, k], oof.probs[:, k], decisions[:, k], groups, outcome))
             for k in range(len(competition.labels)) for outcome in OUTCOMES]
    masks = [read_masks(data_dir, label, table["image_id"], np.flatnonzero(targets[:, k] == 1), store.settings,
                        METHODS[method].pointing_images)
             for k, label in enumerate(competition.labels)]  # row: mask
    shown = {(case.label, row) for case in cases for row in case.rows.tolist()}
    wanted = shown | {(k, row) for k in range(len(masks)) for row in masks[k] if not np.isnan(seen[row, k])}

    heats, hottest = {}, {}
    for k, row, heat, is_empty in held_out_maps(members, table, wanted, method):
        hottest[k, row] = None if is_empty else hottest_pixel(heat)
        if (k, row) in shown:  # the maps of the pointing game are not kept: there may be many
            heats[k, row] = heat, is_empty

    def panel(k: int, row: int) -> Panel:
        image_id = table["image_id"].iloc[row]
        text = f"{short_id(image_id, 34)}\np {oof.probs[row, k]:.3f},  true: {_truth(competition, cells[row])}"
        drawn = read_masks(data_dir, competition.labels[k], table["image_id"], np.array([row]), store.settings, 1)
        return Panel(text, store.read(store.rows([image_id]))[0], *heats[k, row], drawn.get(row))

    pages = []
    for first in range(0, len(competition.labels), LABELS_A_PAGE):
        rows = [(*_row_texts(competition, case, fitted), [panel(case.label, row) for row in case.rows.tolist()])
                for case in cases if first <= case.label < first + LABELS_A_PAGE]
        figure = draw_sheet(f"{competition.name} / {oof.name}", _caption(method, layers, members, any(masks)), rows)
        page = f"{method}.png" if first == 0 else f"{method}_{first // LABELS_A_PAGE + 1}.png"
        path = run_folder(competition, oof.name) / page
        save_figure(figure, path)
        pages.append(path)
    if not any(masks):
        return pages
    played = pointing_game(competition.labels, masks, hottest, fold_numbers(table, oof.split))
    if played.empty:  # every mask belongs to a fold that is not trained
        return pages
    return [*pages, write_csv(run_folder(competition, oof.name) / _pointing(method), played, float_format="%.6g")]


def _judged(competition: Competition, oof: Oof, table: pd.DataFrame,
            cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, FittedRule]:
    """Targets (N, K) of images that show something, the same where there are predictions, and what decides."""
    targets = scoring_targets(cells)
    targets[table["constant"].to_numpy()] = np.nan  # they show nothing that could be pointed at
    seen = np.where(np.isnan(oof.probs), np.nan, targets)
    return targets, seen, policy_for(competition, oof, "decisions").fit(seen, oof.probs)


def pick_examples(targets: np.ndarray, probs: np.ndarray, decisions: np.ndarray, groups: np.ndarray, outcome: str,
                  count: int = COLUMNS) -> tuple[np.ndarray, int]:
    """Rows of the `count` most confident cases of an outcome, at most one a group, and how many cases there are in all.

    All arrays (N,), of one label; targets: 1, 0 or NaN (never picked);  outcome: a key of OUTCOMES.
    """
    target, decision = OUTCOMES[outcome]
    cases = np.flatnonzero((targets == target) & (decisions == decision))
    cases = cases[np.argsort(-probs[cases] if decision else probs[cases], kind="stable")]
    _, first = np.unique(groups[cases], return_index=True)
    return cases[np.sort(first)][:count], len(cases)


def read_masks(data_dir: Path, label: str, image_ids: pd.Series, rows: np.ndarray,
               settings: PixelSettings, most: int) -> dict[int, np.ndarray]:
    """The finding's masks (size, size) of the rows that have one; of more than `most` a random choice.

    None where borders are cropped before the image is stored: a mask does not say what was cut off.
    """
    if "crop_borders" in settings.steps:
        return {}
    folder, size = data_dir / "truth" / "masks" / label, settings.size
    paths = {int(row): folder / f"{image_ids.iloc[row]}.png" for row in rows} if folder.is_dir() else {}
    drawn = np.array([row for row, path in paths.items() if path.exists()], int)
    chosen = np.sort(np.random.default_rng(0).permutation(drawn)[:most])
    masks = {int(row): fit_image(decode_image(paths[row], channels=1), size, settings.resize_mode) >= 128
             for row in chosen}
    return {row: mask for row, mask in masks.items() if mask.any()}


def show_pointing(name: str, played: pd.DataFrame) -> None:
    """Prints the pointing game: green where even the interval's lower end is above chance, else red."""
    board = Table("label", "images", "inside", "95 % interval", "by chance", "best guess", "nearly", "by chance",
                  "empty maps", title=f"{name}: is the hottest pixel inside the finding?")
    for row in played.to_dict("records"):
        share = {key: f"{100 * row[key]:.0f} %"
                 for key in ("inside", "low", "high", "chance", "best_guess", "nearly", "nearly_chance")}
        colour = "green" if row["low"] > row["chance"] else "red"
        board.add_row(row["label"], str(row["images"]), f"[{colour}]{share['inside']}[/]",
                      f"{share['low']} - {share['high']}", share["chance"], share["best_guess"], share["nearly"],
                      share["nearly_chance"], str(row["empty"]))
    make_console().print(board)
    print("Out-of-fold images on which the label is positive and drawn, some at random where they are many. "
          "By chance: the finding's share of the image.\n"
          f"Best guess: one pixel for all images, the one that the findings of the other folds cover most often. "
          f"Nearly: {NEARLY:.1%} of the side away or less.")


def _row_texts(competition: Competition, case: Case, fitted: FittedRule) -> tuple[str, str]:
    return (f"{competition.labels[case.label]}  ({fitted.rule(case.label)})",
            f"{case.outcome}\n{len(case.rows)} of {case.total:,}")


def _caption(method: str, layers: dict[str, str], members: list[BlendMember], has_masks: bool) -> str:
    name = next(iter(layers.values()))
    layer = f", layer {name}," if len(layers) == 1 and name else ""
    mean = f", the mean of {len(members)} members' maps," if len(members) > 1 else ""
    outlined = "; outlined: the annotated finding" if has_masks else ""
    return (f"{METHODS[method].title}{layer}{mean} of out-of-fold images, each explained by models that did not train "
            f"on its group. Heat is divided by the map's maximum.\nThe most confident cases, at most one per "
            f"group{outlined}")


def _truth(competition: Competition, cells: np.ndarray) -> str:
    stated = [label + ("" if cell == 1 else "?")
              for label, cell in zip(competition.labels, cells, strict=True) if cell in (1, -1)]
    more = f" and {len(stated) - 2} more" if len(stated) > 2 else ""
    return ", ".join(stated[:2]) + more if stated else "none"


if __name__ == "__main__":
    main()
