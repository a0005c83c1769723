"""A figure of many small images, each with a few lines of text above it."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from competition import Competition

TILE, GAP, LEFT, TOP = 1.45, 0.16, 0.2, 0.85  # inches
LINE = 0.135         # inches of a line of text
SMALL, NORMAL, LARGE = 7.5, 9, 14


@dataclass(frozen=True)
class Tile:
    """A uint8 image (H, W) or (H, W, 3), the text above it, and the colour of its frame, "" for none."""

    text: str
    image: np.ndarray
    frame: str = ""


def draw_tiles(title: str, caption: str, rows: list[list[Tile]]) -> Figure:
    """A figure with rows of tiles of one size. Raises ValueError if there are none."""
    if not any(rows):
        raise ValueError(f"{title}: there is nothing to draw")
    lines = max(tile.text.count("\n") + 1 for row in rows for tile in row)
    columns, high = max(map(len, rows)), TILE + lines * LINE + GAP
    width = max(LEFT + columns * (TILE + GAP), 7.0)
    height = TOP + len(rows) * high + GAP
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(LEFT / width, 1 - 0.15 / height, title, fontsize=LARGE, weight="bold", va="top")
    figure.text(LEFT / width, 1 - 0.45 / height, caption, fontsize=NORMAL, color="0.35", va="top")
    for number, row in enumerate(rows):
        for place, tile in enumerate(row):
            left, top = LEFT + place * (TILE + GAP), TOP + number * high
            figure.text(left / width, 1 - top / height, tile.text, fontsize=SMALL, va="top", linespacing=1.25)
            below = top + lines * LINE + TILE + 0.04
            axes = figure.add_axes((left / width, 1 - below / height, TILE / width, TILE / height))
            axes.imshow(tile.image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=bool(tile.frame), color=tile.frame or "black", linewidth=2.5)
    return figure


def labels_text(competition: Competition, cells: np.ndarray) -> str:
    """The positive labels in cells (K,), with a "?" after uncertain ones: "effusion, mass?", or "none".

    At most two labels are named. The text is "not stated" if all cells are blank.
    """
    stated = [label + ("" if cell == 1 else "?")
              for label, cell in zip(competition.labels, cells, strict=True) if cell in (1, -1)]
    more = f" +{len(stated) - 2}" if len(stated) > 2 else ""
    if not stated and np.isnan(cells).all():
        return "not stated"
    return ", ".join(stated[:2]) + more if stated else "none"
