"""Figure of a map of images, coloured by label, prediction, error and fold."""

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure

from competition import Competition

# Okabe & Ito 2008, distinguishable by the colour-blind; then others
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255", "#44aa99", "#999933")
GREY, CORRECT, FALSE_POSITIVE, FALSE_NEGATIVE = "#9aa0a6", "#b9d4c2", "#d55e00", "#0072b2"
# probabilities in tenths: blue to red
TENTHS = ("#2166ac", "#4393c3", "#74add1", "#a6cee3", "#c9d7df", "#e0cfc4", "#f4b08a", "#ef8a62", "#d6604d", "#b2182b")
MOST_LABELS = 6      # rows of the map's figure
THUMBNAILS = 24      # along a side of the map
THUMBNAIL_SIDE = 40  # pixels


@dataclass(frozen=True)
class View:
    """One way to colour n images: `values` (n,) int are indices into `texts` and `colours`."""

    name: str
    texts: tuple[str, ...]
    colours: tuple[str, ...]
    values: np.ndarray


def make_views(competition: Competition, cells: np.ndarray, probs: np.ndarray, decisions: np.ndarray,
               folds: np.ndarray) -> list[View]:
    """All views of n images; the last one is the fold.

    cells: (n, K), 1, 0, -1 (uncertain) or NaN (empty);  probs, decisions: (n, K);  folds: (n,).
    """
    labels = competition.labels
    if competition.task == "multiclass":
        colours = tuple(COLOURS[k % len(COLOURS)] for k in range(len(labels)))
        truth, decided, known = cells.argmax(axis=1), decisions.argmax(axis=1), (cells == 1).sum(axis=1) == 1
        views = [View("label", (*labels, "empty"), (*colours, GREY), np.where(known, truth, len(labels))),
                 View("prediction", labels, colours, decided),
                 View("error", ("correct", *(f"{label}, decided otherwise" for label in labels), "not scored"),
                      (CORRECT, *colours, GREY),
                      np.where(known, np.where(truth == decided, 0, truth + 1), len(labels) + 1))]
    else:
        views = [view for k, label in enumerate(labels)
                 for view in _views_of(label, cells[:, k], probs[:, k], decisions[:, k])]
    numbers, place = np.unique(folds, return_inverse=True)
    return [*views, View("fold", tuple(f"fold {number}" for number in numbers),
                         tuple(COLOURS[k % len(COLOURS)] for k in range(len(numbers))), place)]


def _views_of(label: str, cells: np.ndarray, probs: np.ndarray, decisions: np.ndarray) -> list[View]:
    stated = np.select([cells == 0, cells == 1, cells == -1], [0, 1, 2], 3)
    error = np.select([stated >= 2, decisions == cells, decisions == 1], [3, 0, 1], 2)
    tenths = np.clip((probs * 10).astype(int), 0, 9)
    return [View(f"{label}: label", ("absent", "present", "uncertain", "empty"),
                 (COLOURS[0], COLOURS[5], "#5f6368", GREY), stated),
            View(f"{label}: prediction", tuple(f"p {k / 10:.1f} to {(k + 1) / 10:.1f}" for k in range(10)), TENTHS,
                 tenths),
            View(f"{label}: error", ("correct", "false positive", "false negative", "not scored"),
                 (CORRECT, FALSE_POSITIVE, FALSE_NEGATIVE, GREY), error)]


def draw_map(title: str, note: str, places: np.ndarray, views: list[View], images: np.ndarray) -> Figure:
    """The map as a figure: a panel per view, of many labels the first six, then a panel of thumbnails.

    places: (n, 2) in [0, 1];  images: (n, S, S) or (n, S, S, 3) uint8. Legends list only what occurs.
    """
    shown = [*views[:-1][:3 * MOST_LABELS], views[-1]]
    columns = 3 if len(shown) > 4 else 2
    lines = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.1 * lines + 0.9), layout="constrained", facecolor="white")
    size = float(np.clip(6000 / max(len(places), 1), 3, 30))
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, view in zip(grid.flat, shown, strict=False):
        axes.set(aspect="equal", title=view.name)
        for number, (text, colour) in enumerate(zip(view.texts, view.colours, strict=True)):
            rows = view.values == number
            if rows.any():
                axes.scatter(places[rows, 0], places[rows, 1], s=size, c=colour, lw=0, alpha=0.85,
                             label=f"{text} ({rows.sum():,})")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7, markerscale=2)
    thumbnails = grid.flat[len(shown)]
    thumbnails.set(title="images")
    thumbnails.imshow(place_thumbnails(places, images), interpolation="bilinear")
    figure.suptitle("\n".join([title, *textwrap.wrap(note, 46 * columns)]), fontsize=10)
    return figure


def place_thumbnails(places: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The map as one image (H, H, 3) uint8, white where no image lies; of images in one cell the first is drawn.

    places: (n, 2) in [0, 1], x to the right and y upwards;  images: (n, S, S) or (n, S, S, 3) uint8.
    """
    canvas = np.full((THUMBNAILS * THUMBNAIL_SIDE,) * 2 + (3,), 255, np.uint8)
    cells = np.clip((np.stack([1 - places[:, 1], places[:, 0]], axis=1) * THUMBNAILS).astype(int), 0, THUMBNAILS - 1)
    cells, first = np.unique(cells, axis=0, return_index=True)
    for (top, left), row in zip(cells * THUMBNAIL_SIDE, first, strict=True):
        small = cv2.resize(images[row], (THUMBNAIL_SIDE,) * 2, interpolation=cv2.INTER_AREA)
        canvas[top:top + THUMBNAIL_SIDE, left:left + THUMBNAIL_SIDE] = small if small.ndim == 3 else small[..., None]
    return canvas
