"""Look at an augmentation before training:  python src/preview.py --experiment lite0_128_strong

Writes runs/<competition>/<experiment>/preview.png: six training images as they are stored, and each as training sees it
in eight epochs, with the share of it that is destroyed. Prints what is destroyed on average, and warns where that is
more than half, or where the augmentation mirrors or turns images although left and right differ.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from commandline import add_experiment, add_set, load_workspace, make_parser, named_experiments, run_script
from common.figures import save_figure
from common.hardware import tune_process
from common.settings import read_value
from competition import Competition
from data.pixel_store import pixel_settings, stored_image
from data.tables import label_cells
from experiment import Experiment
from results.runs import run_folder
from training.augmentation import AUGMENTATIONS, augment_batch, augmentation_seed, make_augmentation

IMAGES, EPOCHS = 6, 8    # rows and columns of the sheet
DRAWS = 300              # from which an augmentation's effect is measured
INDISTINCT = 32          # grey levels: white and black that come out closer than this cannot be told apart
MUCH, OFTEN = 0.5, 0.25  # limits that give a warning: share of an image that is destroyed, share of such draws

# inches of a sheet, points of its letters
TILE, SEAM, HEAD, LEFT, TOP, EDGE = 1.25, 0.06, 0.22, 1.95, 1.0, 0.12
SMALL, NORMAL, LARGE = 7.5, 9, 13
CHARACTERS, LABELS = 27, 4  # of a line beside the pictures; labels named there


@dataclass(frozen=True)
class Effect:
    """What an augmentation does to an image, measured over many draws; shares are between 0 and 1."""

    destroyed: float  # of an image, on average
    often: float      # of the draws in which more than half of the image is destroyed


@dataclass(frozen=True)
class Preview:
    """A sheet, what was measured, and warnings."""

    path: Path
    effect: Effect
    warnings: tuple[str, ...]


def main(argv: list[str] | None = None) -> list[Preview]:
    """Writes a sheet for every experiment; returns them in the order asked for."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    add_set(parser)
    args = parser.parse_args(argv)
    experiments = named_experiments(args)
    tune_process()  # before torch is imported
    from training.recipe_checks import check_values

    for experiment in experiments.values():
        check_values(experiment)
    workspace = load_workspace(args, with_folds=False)
    return [preview(workspace.competition, workspace.train, name, experiment)
            for name, experiment in experiments.items()]


def preview(competition: Competition, table: pd.DataFrame, name: str, experiment: Experiment) -> Preview:
    """Measures an experiment's augmentation and writes its sheet. `table`: the training table.

    Raises ValueError where there is no such augmentation, an image cannot be read, or all images have one grey value.
    """
    settings = pixel_settings(competition, experiment)
    shape = (settings.size, settings.size) + ((3,) if settings.channels == 3 else ())
    effect = measure(experiment, shape)
    warnings = tuple(_warnings(competition, experiment, effect))
    chosen = choose_images(label_cells(competition, table), table["group"].to_numpy(str),
                           lambda row: stored_image(table["path"].iloc[row], settings))
    if not chosen:
        raise ValueError(f"every image of {competition.name} has one grey value: no image can be shown")
    path = run_folder(competition, name) / "preview.png"
    figure = _draw_sheet(competition, table, name, experiment, chosen, effect, warnings)
    save_figure(figure, path, dpi=100, metadata={"Software": None})
    print(f"{name}: {_summary(experiment, effect)}; see {path}")
    for warning in warnings:
        print(f"warning: {warning}")
    return Preview(path, effect, warnings)


# ---- measuring


def measure(experiment: Experiment, shape: tuple[int, ...], draws: int = DRAWS) -> Effect:
    """What the experiment's augmentation destroys of images of `shape`, (S, S) or (S, S, 3), over many draws."""
    augment = make_augmentation(experiment.augmentation, shape[0])
    shares = np.array([destroyed_share(augment, shape, augmentation_seed(experiment.seed, 0, f"draw {draw}"))
                       for draw in tqdm(range(draws), f"drawing {experiment.augmentation}", unit="draw",
                                        disable=None, delay=1)])
    return Effect(float(shares.mean()), float((shares > MUCH).mean()))


def destroyed_share(augment: Callable[[np.ndarray, int], np.ndarray], shape: tuple[int, ...], seed: int) -> float:
    """The share of pixels, 0 to 1, that show nothing of the image after one draw: cut out, padded, over-exposed.

    They are those at which a white and a black image, changed by the same seed, come out less than 32 grey levels apart
    (in every channel). Where the filling is black, that is where a white image comes out black.
    """
    white, black = (augment(np.full(shape, value, np.uint8), seed).astype(np.float32) for value in (255, 0))
    alike = np.abs(white - black) < INDISTINCT
    return float((alike.all(axis=2) if alike.ndim == 3 else alike).mean())


def _summary(experiment: Experiment, effect: Effect) -> str:
    return (f"augmentation {experiment.augmentation!r} destroys {100 * effect.destroyed:.1f} % of an image on average; "
            f"{100 * effect.often:.0f} % of the draws lose more than half")


def _warnings(competition: Competition, experiment: Experiment, effect: Effect) -> Iterator[str]:
    name = experiment.augmentation
    if competition.laterality and read_value("augmentation", name, AUGMENTATIONS).choice.mirrors:
        yield f"{name!r} mirrors or turns images, and in {competition.name} left and right differ"
    if effect.destroyed > MUCH or effect.often > OFTEN:
        yield (f"{name!r} destroys {100 * effect.destroyed:.0f} % of an image on average, and more than half of it in "
               f"{100 * effect.often:.0f} % of the draws: little is left to learn from")


# ---- the sheet


def choose_images(cells: np.ndarray, groups: np.ndarray,
                  read: Callable[[int], np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """(row, image) of up to six images of different groups, always the same ones, none of one grey value.

    cells: (N, K) label cells. Every other image has a label, each label in its turn; the others have none, where there
    are such images. read: gives a row's image.
    """
    order = np.random.default_rng(0).permutation(len(cells))
    positive = cells[order] == 1
    labels = np.flatnonzero(positive.any(axis=0)).tolist()
    bare = (~positive.any(axis=1)).any()
    chosen, taken = [], set()
    for number in range(IMAGES):
        wanted = np.ones(len(order), bool)
        if bare and number % 2:
            wanted = ~positive.any(axis=1)
        elif labels:
            wanted = positive[:, labels[(number // 2 if bare else number) % len(labels)]]
        for row in (*order[wanted].tolist(), *order[~wanted].tolist()):
            if groups[row] not in taken and (image := read(row)).min() < image.max():
                chosen.append((row, image))
                taken.add(groups[row])
                break
    return chosen


def _draw_sheet(competition: Competition, table: pd.DataFrame, name: str, experiment: Experiment,
                chosen: list[tuple[int, np.ndarray]], effect: Effect, warnings: tuple[str, ...]) -> Figure:
    ids = [str(table["image_id"].iloc[row]) for row, _ in chosen]
    top = TOP + 0.2 * len(warnings)
    width = LEFT + (1 + EPOCHS) * (TILE + SEAM) + 2 * EDGE
    height = top + len(chosen) * (TILE + HEAD) - HEAD + EDGE
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(EDGE / width, 1 - 0.3 / height, f"{competition.name}: {name} as training sees it", fontsize=LARGE)
    figure.text(EDGE / width, 1 - 0.55 / height, _summary(experiment, effect) + f" ({DRAWS} draws)", fontsize=NORMAL)
    for number, warning in enumerate(warnings):
        figure.text(EDGE / width, 1 - (0.77 + 0.2 * number) / height, f"Warning: {warning}", fontsize=NORMAL,
                    color="#b00020")
    augment = make_augmentation(experiment.augmentation, experiment.image_size)
    for number, ((row, image), image_id) in enumerate(zip(chosen, ids, strict=True)):
        bottom = height - top - (number + 1) * TILE - number * HEAD
        figure.text(EDGE / width, (bottom + TILE / 2) / height, _describe(competition, table.iloc[row]),
                    fontsize=SMALL, va="center", linespacing=1.3)
        _show(figure, image, "stored", LEFT, bottom)
        for epoch in range(EPOCHS):
            drawn = augment_batch(experiment.augmentation, image[None], [image_id], experiment.seed, epoch)[0]
            share = destroyed_share(augment, image.shape, augmentation_seed(experiment.seed, epoch, image_id))
            left = LEFT + EDGE + (epoch + 1) * (TILE + SEAM)
            _show(figure, drawn, f"epoch {epoch + 1}: {100 * share:.0f} % destroyed", left, bottom)
    return figure


def _show(figure: Figure, image: np.ndarray, text: str, left: float, bottom: float) -> None:
    """An image with a line above it; inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, TILE / width, TILE / height))
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(text, fontsize=SMALL, pad=3)
    axes.set_axis_off()


def _describe(competition: Competition, row: pd.Series) -> str:
    """The image's id and labels in lines that fit beside its pictures."""
    labels = [label for label in competition.labels if row[label] == 1]
    image_id = str(row["image_id"])
    lines = [image_id if len(image_id) <= CHARACTERS else "…" + image_id[1 - CHARACTERS:]]
    for label in labels[:LABELS]:
        lines.append(label if len(label) <= CHARACTERS else label[:CHARACTERS - 1] + "…")
    if len(labels) > LABELS:
        lines.append(f"and {len(labels) - LABELS} more")
    if not labels:
        lines.append("no label" if (row[list(competition.labels)] == 0).all() else "no certain label")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
