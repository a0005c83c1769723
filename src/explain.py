"""Look where the networks look:  python src/explain.py --experiment cnn_e

Grad-CAM of out-of-fold images, each explained by the one model that never saw its group: for every label the most
confident true positives, false positives and false negatives, to runs/<competition>/<experiment>/gradcam.png. Where
masks of the findings are known (the demo's), it also tells how often the hottest pixel falls inside, in pointing.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from rich.table import Table
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest
from tqdm import tqdm

from commandline import add_experiment, load_competition, load_folded_table, make_console, make_parser, run_names
from competition import Competition
from decisions import policy_for, policy_inputs
from decoding import decode_image, fit_image
from files import read_json, replace_atomically, sha256, write_csv, write_json
from folds import Folds, fold_numbers
from hardware import pick_device, tune_process
from labels import scoring_targets
from pixels import PixelSettings, PixelStore, open_store, pixel_settings
from policies import Fitted
from runs import Oof, read_oof, run_folder
from tables import label_cells

OUTCOMES = {"true positives": (1, 1), "false positives": (0, 1), "false negatives": (1, 0)}  # target, decision
EXAMPLES = 4             # of an outcome
LABELS_A_PAGE = 3
BATCH = 32
POINTING_IMAGES = 300    # of a label at most, drawn at random
NEARLY = 1 / 16          # of the image's side: a miss by no more than this is nearly a hit
FORMAT = 3               # of the sheets: raise it when they come to look different

# inches of a sheet, points of its letters
TILE, SEAM, GAP, LEFT, RIGHT, TOP, HEAD, LINES = 1.3, 0.03, 0.22, 1.35, 0.85, 0.95, 0.5, 0.48
SMALL, NORMAL, LARGE = 7.5, 9, 14
# heat: red, green, blue, opacity
HEAT = ((0.0, (1.0, 1.0, 0.4, 0.0)), (0.5, (1.0, 0.65, 0.0, 0.4)), (1.0, (1.0, 0.0, 0.0, 0.7)))
OUTLINE = "#00e5ff"


@dataclass(frozen=True)
class Panel:
    """One explained image: pixels (S, S) or (S, S, 3), heat (S, S), and the finding's mask (S, S) where it is known."""

    text: str
    image: np.ndarray
    heat: np.ndarray
    is_empty: bool
    mask: np.ndarray | None


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
    args = parser.parse_args(argv)
    tune_process()
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    return [path for name in run_names(args) for path in explain_run(competition, data_dir, name, table, folds)]


def explain_run(competition: Competition, data_dir: Path, name: str, table: pd.DataFrame, folds: Folds) -> list[Path]:
    """Writes a run's sheets and plays the pointing game; returns the sheets' paths, none with nothing to look at."""
    from checkpoints import load_model
    from saliency import cam_layer

    oof = read_oof(competition, name, table, folds.hash)
    if oof.members:
        print(f"{name} is a blend; it is explained by its members: {', '.join(oof.members)}")
        return []
    if not oof.runs:
        raise FileNotFoundError(f"run {name!r} has no finished fold; run: python src/train.py "
                                f"--competition {competition.name} --experiment {name}")
    experiment = oof.runs[0].experiment
    if (layer := cam_layer(model := load_model(oof.runs[0]))) is None:
        print(f"{name}: {experiment.network} has no convolution and no tokens, so Grad-CAM has nothing to look at")
        return []
    if oof.folds_missing:
        missing = ", ".join(map(str, oof.folds_missing))
        print(f"{name}: the folds {missing} are not trained, their images are not explained")
    layer_name = next(path for path, module in model.named_modules() if module is layer).removeprefix("classifiers.0.")
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    folder, cells = run_folder(competition, name), label_cells(competition, table)
    inputs = {
        "format": FORMAT,
        "images": store.folder.name,
        "labels": sha256(cells.tobytes()),
        "folds": folds.hash,
        "weights": oof.made_of,
        "layer": layer_name,
    } | policy_inputs(competition, oof)
    made = read_json(folder / "gradcam.json") if (folder / "gradcam.json").exists() else {}
    files = [folder / file for file in made.get("files", [])]
    if made.get("made_from") == inputs and all(path.exists() for path in files):
        print(f"{folder / 'gradcam.png'} is there already, made from these very models and images")
    else:
        files = _explain(competition, data_dir, table, oof, store, cells, f"layer {layer_name}")
        write_json(folder / "gradcam.json", {"made_from": inputs, "files": [path.name for path in files]})
    if folder / "pointing.csv" in files:
        show_pointing(name, pd.read_csv(folder / "pointing.csv"))
    sheets = [path for path in files if path.suffix == ".png"]
    print(f"look at {', '.join(map(str, sheets))}")
    return sheets


def _explain(competition: Competition, data_dir: Path, table: pd.DataFrame, oof: Oof, store: PixelStore,
             cells: np.ndarray, layer: str) -> list[Path]:
    """Computes all maps that are needed, fold by fold, and writes the files."""
    targets = scoring_targets(cells)
    targets[table["black"].to_numpy()] = np.nan  # they show nothing that could be pointed at
    seen = np.where(np.isnan(oof.probs), np.nan, targets)
    fitted = policy_for(competition, oof, "decisions").fit(seen, oof.probs)
    decisions, groups = fitted.apply(oof.probs), table["group"].to_numpy(str)
    cases = [Case(k, outcome, *pick_examples(seen[:, k], oof.probs[:, k], decisions[:, k], groups, outcome))
             for k in range(len(competition.labels)) for outcome in OUTCOMES]
    masks = [read_masks(data_dir, label, table["image_id"], np.flatnonzero(targets[:, k] == 1), store.settings)
             for k, label in enumerate(competition.labels)]  # row: mask
    shown = {(case.label, row) for case in cases for row in case.rows}
    wanted = shown | {(k, row) for k in range(len(masks)) for row in masks[k] if not np.isnan(seen[row, k])}

    heats, hottest = {}, {}
    for k, row, heat, is_empty in _look(oof, table, store, wanted):
        hottest[k, row] = None if is_empty else hottest_pixel(heat)
        if (k, row) in shown:  # the maps of the pointing game are not kept: there may be many
            heats[k, row] = heat, is_empty

    def panel(k: int, row: int) -> Panel:
        image_id = table["image_id"].iloc[row]
        text = f"{_short(image_id)}\np {oof.probs[row, k]:.3f},  true: {_truth(competition, cells[row])}"
        drawn = read_masks(data_dir, competition.labels[k], table["image_id"], np.array([row]), store.settings)
        return Panel(text, store.read(store.rows([image_id]))[0], *heats[k, row], drawn.get(row))

    pages = []
    for first in range(0, len(competition.labels), LABELS_A_PAGE):
        rows = [(*_row_texts(competition, case, fitted), [panel(case.label, row) for row in case.rows])
                for case in cases if first <= case.label < first + LABELS_A_PAGE]
        figure = draw_sheet(f"{competition.name} / {oof.name}", _caption(layer, any(masks)), rows)
        file_name = "gradcam.png" if first == 0 else f"gradcam_{first // LABELS_A_PAGE + 1}.png"
        path = run_folder(competition, oof.name) / file_name
        with replace_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        pages.append(path)
    if not any(masks):
        return pages
    played = pointing_game(competition.labels, masks, hottest,
                           fold_numbers(table, oof.runs[0].experiment.split))
    if played.empty:  # every mask belongs to a fold that is not trained
        return pages
    return [*pages, write_csv(run_folder(competition, oof.name) / "pointing.csv", played, float_format="%.6g")]


def pick_examples(targets: np.ndarray, probs: np.ndarray, decisions: np.ndarray, groups: np.ndarray, outcome: str,
                  count: int = EXAMPLES) -> tuple[np.ndarray, int]:
    """Rows of the `count` most confident cases of an outcome, at most one a group, and how many cases there are in all.

    All arrays (N,), of one label; targets: 1, 0 or NaN (never picked);  outcome: a key of OUTCOMES.
    """
    target, decision = OUTCOMES[outcome]
    cases = np.flatnonzero((targets == target) & (decisions == decision))
    cases = cases[np.argsort(-probs[cases] if decision else probs[cases], kind="stable")]
    _, first = np.unique(groups[cases], return_index=True)
    return cases[np.sort(first)][:count], len(cases)


def read_masks(data_dir: Path, label: str, image_ids: pd.Series, rows: np.ndarray,
               settings: PixelSettings) -> dict[int, np.ndarray]:
    """The finding's masks (size, size) of the rows that have one; of more than POINTING_IMAGES a random choice.

    None where borders are cropped before the image is stored: a mask does not say what was cut off.
    """
    if "crop_borders" in settings.steps:
        return {}
    folder, size = data_dir / "truth" / "masks" / label, settings.size
    paths = {int(row): folder / f"{image_ids.iloc[row]}.png" for row in rows} if folder.is_dir() else {}
    drawn = np.array([row for row, path in paths.items() if path.exists()], int)
    chosen = np.sort(np.random.default_rng(0).permutation(drawn)[:POINTING_IMAGES])
    masks = {int(row): fit_image(decode_image(paths[row], channels=1), size, settings.fit) >= 128 for row in chosen}
    return {row: mask for row, mask in masks.items() if mask.any()}


def _look(oof: Oof, table: pd.DataFrame, store: PixelStore, wanted: set[tuple[int, int]]) -> Iterator[tuple]:
    """Label, row, heat map (S, S) and whether it is empty, of all (label, row) wanted, by the row's fold's model."""
    from checkpoints import load_model
    from loader import ordered_batches
    from saliency import grad_cam

    device, places = pick_device(), store.rows(table["image_id"])
    folds = fold_numbers(table, oof.runs[0].experiment.split)
    with tqdm(total=len(wanted), desc=f"Grad-CAM of {oof.name}", unit="map", leave=False, disable=None) as bar:
        for run in oof.runs:
            model = load_model(run, device)
            for k in sorted({k for k, _ in wanted}):
                fold = run.recipe["fold"]
                rows = np.array(sorted(row for label, row in wanted if label == k and folds[row] == fold), int)
                if not len(rows):
                    continue
                for images, _, stored in ordered_batches(store, places[rows], BATCH):
                    heat, empty = grad_cam(model, images.to(device), k)
                    done, rows = rows[:len(stored)], rows[len(stored):]
                    yield from zip([k] * len(done), done.tolist(), heat.cpu().numpy(), empty.tolist(), strict=True)
                    bar.update(len(done))


def hottest_pixel(heat: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest value of a map (S, S); of several, the one nearest to their middle.

    Maps grown from few cells have plateaus at the border, whose first pixel would always be the one up and left.
    """
    places = np.argwhere(heat >= heat.max() - 1e-6)
    nearest = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
    return int(places[nearest, 0]), int(places[nearest, 1])


def distance_to_mask(mask: np.ndarray) -> np.ndarray:
    """Pixels from every place (S, S) to the nearest of the finding, 0 inside. Raises ValueError for an empty mask."""
    if not mask.any():
        raise ValueError("the mask is empty; the pointing game needs a finding that is drawn")
    return distance_transform_edt(~mask.astype(bool))


def pointing_game(labels: tuple[str, ...], masks: list[dict[int, np.ndarray]],
                  hottest: dict[tuple[int, int], tuple | None], folds: np.ndarray) -> pd.DataFrame:
    """How often the hottest pixel falls inside the finding: one row a label that has masks, and one over all.

    masks: a dictionary a label, row to mask (S, S);  hottest: (label, row) to a pixel, None where the map is empty,
    which counts as a miss. `nearly` allows a miss by NEARLY of the side. `chance` is the finding's mean share of the
    image, `nearly_chance` the same for `nearly`; `best_guess` is the hit rate of one pixel for all images: the most
    often covered one in the masks of the other folds.
    Source: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, section 4.2.
    """
    plays = []
    for k, label in enumerate(labels):
        rows = [row for row in masks[k] if (k, row) in hottest]
        sums = {fold: sum((masks[k][row] for row in masks[k] if folds[row] != fold), np.zeros(1))
                for fold in {*folds[rows]}}
        for row in rows:
            distance = distance_to_mask(masks[k][row])
            reach, pixel = NEARLY * len(distance), hottest[k, row]
            plays.append({
                "label": label,
                "empty": pixel is None,
                "inside": pixel is not None and distance[pixel] == 0,
                "nearly": pixel is not None and distance[pixel] <= reach,
                "chance": (distance == 0).mean(),
                "nearly_chance": (distance <= reach).mean(),
                "best_guess": distance[hottest_pixel(sums[folds[row]])] == 0 if np.any(sums[folds[row]]) else np.nan,
            })
    if not plays:
        return pd.DataFrame()
    frame = pd.DataFrame(plays)
    return pd.DataFrame([_summary(label, frame[frame["label"] == label]) for label in frame["label"].unique()]
                        + [_summary("all", frame)])


def _summary(label: str, plays: pd.DataFrame) -> dict:
    interval = binomtest(int(plays["inside"].sum()), len(plays)).proportion_ci(0.95, method="wilson")
    means = {name: plays[name].astype(float).mean()
             for name in ("inside", "nearly", "chance", "nearly_chance", "best_guess")}
    return {"label": label, "images": len(plays), "empty": int(plays["empty"].sum()),
            "low": interval.low, "high": interval.high, **means}


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
    print(f"Out-of-fold images on which the label is positive and drawn, {POINTING_IMAGES} a label at most. "
          f"By chance: the finding's share of the image.\n"
          f"Best guess: one pixel for all images, the one that the findings of the other folds cover most often. "
          f"Nearly: {NEARLY:.1%} of the side away or less.")


def draw_sheet(title: str, caption: str, rows: list[tuple[str, str, list[Panel]]]) -> Figure:
    """A figure, one line of panels a row; a row is its label (a heading where it changes), its outcome, its panels."""
    heads = [row == 0 or rows[row][0] != rows[row - 1][0] for row in range(len(rows))]
    width = LEFT + EXAMPLES * (2 * TILE + SEAM + GAP) + RIGHT
    height = TOP + len(rows) * (TILE + LINES) + sum(heads) * HEAD + GAP
    figure = Figure(figsize=(width, height), facecolor="white")

    def write(left: float, top: float, text: str, size: float, **style) -> None:
        figure.text(left / width, 1 - top / height, text, fontsize=size, va="top", **style)

    def place(left: float, top: float, wide: float = TILE, high: float = TILE) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    write(GAP, GAP, title, LARGE, weight="bold")
    write(GAP, GAP + 0.3, caption, NORMAL, color="0.35")
    top = TOP
    for (label, outcome, panels), is_head in zip(rows, heads, strict=True):
        if is_head:
            write(GAP, top + HEAD / 4, label, LARGE - 2, weight="bold")
            top += HEAD
        write(GAP, top + LINES, outcome, NORMAL)
        for number, panel in enumerate(panels):
            left = LEFT + number * (2 * TILE + SEAM + GAP)
            write(left, top + LINES / 4, panel.text, SMALL, linespacing=1.25)
            _draw_image(place(left, top + LINES), panel)
            _draw_heat(place(left + TILE + SEAM, top + LINES), panel)
        top += TILE + LINES
    _draw_colour_bar(place(width - RIGHT + 0.1, TOP + HEAD + LINES, wide=0.16, high=TILE))
    return figure


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """Heat (...) in [0, 1] as red, green, blue and opacity (..., 4) in [0, 1]: cold is clear, warm yellow, hot red."""
    points, colours = [point for point, _ in HEAT], np.array([colour for _, colour in HEAT])
    return np.stack([np.interp(heat, points, colours[:, channel]) for channel in range(4)], axis=-1)


def _draw_image(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    axes.set_axis_off()


def _draw_heat(axes: Axes, panel: Panel) -> None:
    _draw_image(axes, panel)
    axes.imshow(heat_colours(panel.heat), interpolation="bilinear")
    if panel.mask is not None and not panel.mask.all():
        axes.contour(panel.mask, levels=[0.5], colors=OUTLINE, linewidths=1.1)
    if panel.is_empty:
        axes.text(0.5, 0.5, "empty", transform=axes.transAxes, ha="center", va="center", fontsize=NORMAL, color="white",
                  bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none"})


def _draw_colour_bar(axes: Axes) -> None:
    rgba = heat_colours(np.linspace(0, 1, 256))
    # as the colours look on a grey that is neither dark nor bright
    on_grey = rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])
    bar = axes.figure.colorbar(ScalarMappable(cmap=ListedColormap(on_grey)), cax=axes, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.set_title("heat", fontsize=SMALL)


def _row_texts(competition: Competition, case: Case, fitted: Fitted) -> tuple[str, str]:
    return (f"{competition.labels[case.label]}  ({fitted.rule(case.label)})",
            f"{case.outcome}\n{len(case.rows)} of {case.total:,}")


def _caption(layer: str, has_masks: bool) -> str:
    outlined = "; outlined: the finding as it was drawn" if has_masks else ""
    return (f"Grad-CAM, {layer}, of out-of-fold images: each explained by the one model that never saw its group. "
            f"Heat is relative to the map's own maximum.\nThe most confident cases, one a group at most{outlined}")


def _truth(competition: Competition, cells: np.ndarray) -> str:
    stated = [label + ("" if cell == 1 else "?")
              for label, cell in zip(competition.labels, cells, strict=True) if cell in (1, -1)]
    more = f" and {len(stated) - 2} more" if len(stated) > 2 else ""
    return ", ".join(stated[:2]) + more if stated else "none"


def _short(image_id: str, most: int = 34) -> str:
    name = image_id.rpartition("/")[2]
    return name if len(name) <= most else f"{name[:most // 2 - 1]}…{name[-most // 2:]}"


if __name__ == "__main__":
    main()
