"""Figures of images with heat maps over them, a text above each, and a colour bar."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

COLUMNS = 4          # panels in a row
CAPTION_WIDTH = 9.5  # inches
# sizes in inches, then of text in points
TILE, SEAM, GAP, LEFT, RIGHT, TOP, HEAD, LINES = 1.3, 0.03, 0.22, 1.35, 0.85, 0.95, 0.5, 0.48
SMALL, NORMAL, LARGE = 7.5, 9, 14
# heat, and its red, green, blue and opacity
HEAT = ((0.0, (1.0, 1.0, 0.4, 0.0)), (0.5, (1.0, 0.65, 0.0, 0.4)), (1.0, (1.0, 0.0, 0.0, 0.7)))
OUTLINE = "#00e5ff"


@dataclass(frozen=True)
class Panel:
    """One explained image: pixels (S, S) or (S, S, 3), heat (S, S), and the finding's mask (S, S) if it is known."""

    text: str
    image: np.ndarray
    heat: np.ndarray
    is_empty: bool
    mask: np.ndarray | None


class _Page:
    """A figure measured in inches from its top left corner, with its title and caption."""

    def __init__(self, width: float, height: float, title: str, caption: str):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.write(GAP, GAP, title, LARGE, weight="bold")
        self.write(GAP, GAP + 0.3, caption, NORMAL, color="0.35")

    def write(self, left: float, top: float, text: str, size: float, **style) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, fontsize=size, va="top", **style)

    def place(self, left: float, top: float, wide: float = TILE) -> Axes:
        return self.figure.add_axes((left / self.width, 1 - (top + TILE) / self.height, wide / self.width,
                                     TILE / self.height))


def _place_rows(title: str, caption: str, columns: float, rows: list[tuple],
                min_width: float = 0.0) -> tuple[_Page, list[tuple[float, bool]]]:
    """A page with headings, row titles and a colour bar; and of every row its top and whether it starts a label.

    columns: the width of the panels in inches;  rows: (label, title, panels); the label is a heading where it changes.
    """
    is_first = [row == 0 or rows[row][0] != rows[row - 1][0] for row in range(len(rows))]
    width = LEFT + columns + RIGHT
    page = _Page(max(width, min_width), TOP + len(rows) * (TILE + LINES) + sum(is_first) * HEAD + GAP, title, caption)
    tops, top = [], TOP
    for (label, text, _), starts in zip(rows, is_first, strict=True):
        if starts:
            page.write(GAP, top + HEAD / 4, label, LARGE - 2, weight="bold")
            top += HEAD
        page.write(GAP, top + LINES, text, NORMAL)
        tops.append((top, starts))
        top += TILE + LINES
    return page, tops


def draw_sheet(title: str, caption: str, rows: list[tuple[str, str, list[Panel]]]) -> Figure:
    """A figure with one line of panels per row (label, outcome, panels); the label is a heading where it changes."""
    step = 2 * TILE + SEAM + GAP
    page, tops = _place_rows(title, caption, COLUMNS * step, rows)
    for (_, _, panels), (top, _) in zip(rows, tops, strict=True):
        for number, panel in enumerate(panels):
            left = LEFT + number * step
            page.write(left, top + LINES / 4, panel.text, SMALL, linespacing=1.25)
            _draw_image(page.place(left, top + LINES), panel)
            _draw_heat(page.place(left + TILE + SEAM, top + LINES), panel)
    _draw_colour_bar(page.place(LEFT + COLUMNS * step + 0.1, TOP + HEAD + LINES, wide=0.16))
    return page.figure


def draw_grid(title: str, caption: str, columns: list[str], image: np.ndarray, masks: list[np.ndarray | None],
              rows: list[tuple[str, str, list[Panel | None]]]) -> Figure:
    """A figure of one image with a row per label and method, and a map per column, None if there is none.

    rows: (label, method, panels); the label is a heading where it changes.  masks: of every heading, the finding's mask
    (S, S), None if it is not known.
    """
    known, cold, step = iter(masks), np.zeros(image.shape[:2]), TILE + GAP
    page, tops = _place_rows(title, caption, (len(columns) + 1) * step, rows, CAPTION_WIDTH)
    for (_, _, panels), (top, is_first) in zip(rows, tops, strict=True):
        if is_first:
            _draw_heat(page.place(LEFT, top + LINES), Panel("", image, cold, False, next(known)))
        for number, (column, panel) in enumerate(zip(columns, panels, strict=True), start=1):
            if panel is not None:
                page.write(LEFT + number * step, top + LINES / 4, f"{column}\n{panel.text}", SMALL, linespacing=1.25)
                _draw_heat(page.place(LEFT + number * step, top + LINES), panel)
    _draw_colour_bar(page.place(LEFT + (len(columns) + 1) * step, TOP + HEAD + LINES, wide=0.16))
    return page.figure


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """Heat (...) in [0, 1] as red, green, blue and opacity (..., 4) in [0, 1]: transparent, then yellow, then red."""
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
    # the colours over medium grey
    on_grey = rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])
    bar = axes.figure.colorbar(ScalarMappable(cmap=ListedColormap(on_grey)), cax=axes, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.set_title("heat", fontsize=SMALL)
