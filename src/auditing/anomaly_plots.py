"""Pictures of anomaly scores: their distribution for normal and other images, and reconstructions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.console import short_id
from common.figures import save_figure

BLUE, RED = "#0072B2", "#D55E00"  # source: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
SHOWN = (0.005, 0.98)  # quantiles: scores outside are counted in the outermost bars
BINS = 40
TILE, LEFT, RIGHT, TOP, LINES, GAP = 1.05, 1.25, 0.95, 0.85, 0.42, 0.16  # inches


@dataclass(frozen=True)
class Reconstruction:
    """An image and its reconstruction by an autoencoder, both (C, S, S) in [0, 1]; the score of its error."""

    image_id: str
    score: float
    image: np.ndarray
    back: np.ndarray


def draw_scores(title: str, part: str, methods: dict[str, str], is_anomaly: np.ndarray, scores: np.ndarray,
                path: Path) -> Path:
    """Histograms of scores (N, M), one panel a method. is_anomaly: (N,) 0, 1 or NaN."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for axes, (m, name) in zip(figure.subplots(2, 2).flat, enumerate(methods.values()), strict=True):
        values = scores[:, m]
        known = ~np.isnan(values)
        kinds = [("normal", BLUE, known & (is_anomaly == 0)), ("not normal", RED, known & (is_anomaly == 1))]
        if not (kinds[0][2] | kinds[1][2]).any():
            kinds = [("unknown", "0.5", known)]
        low, high = np.quantile(values[known], SHOWN) if known.any() else (0.0, 1.0)
        low, high = min(low, -0.1), max(high, 1.2)
        for kind, colour, rows in kinds:
            if rows.any():
                axes.hist(np.clip(values[rows], low, high), np.linspace(low, high, BINS + 1), color=colour, alpha=0.55,
                          weights=np.full(rows.sum(), 1 / rows.sum()), label=f"{kind}, {rows.sum():,}")
        axes.axvline(1, color="0.2", linewidth=1, linestyle="--")
        axes.set_title(name, fontsize=9.5)
        axes.set_xlabel("score: 0 median, 1 threshold of held-out normal images", fontsize=8)
        axes.set_ylabel("share of images", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False, loc="upper right")  # "best" is slow
    figure.suptitle(f"{title}, {part}: anomaly scores (the outermost bars include values beyond)", fontsize=11)
    return save_figure(figure, path)


def draw_reconstructions(title: str, lines: list[tuple[str, list[Reconstruction]]], path: Path) -> Path:
    """Rows of images with their reconstructions and absolute errors, one colour scale for all."""
    most = max((len(shown) for _, shown in lines), default=0)
    width = LEFT + most * (3 * TILE + GAP) + RIGHT
    height = TOP + len(lines) * (TILE + LINES) + GAP
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(GAP / width, 1 - GAP / height, f"{title}: reconstructions by autoencoders that learned normal images",
                fontsize=13, weight="bold", va="top")
    figure.text(GAP / width, 1 - (GAP + 0.3) / height, "Held-out images: the image, its reconstruction, the absolute "
                "error. Score: 0 is the median and 1 the threshold of held-out normal images.", fontsize=9,
                color="0.35", va="top")
    maps = [np.abs(one.image - one.back).mean(axis=0) for _, shown in lines for one in shown]
    brightest = max(np.quantile(maps, 0.998), 1e-3) if maps else 1.0
    drawn, errors = None, iter(maps)
    for line, (name, shown) in enumerate(lines):
        top = TOP + line * (TILE + LINES) + LINES
        figure.text(GAP / width, 1 - top / height, name, fontsize=9, va="top")
        for number, one in enumerate(shown):
            left = LEFT + number * (3 * TILE + GAP)
            figure.text(left / width, 1 - (top - 0.06) / height,
                        f"{short_id(one.image_id, 30)}   score {one.score:.2f}", fontsize=7.5, va="bottom")
            for place, picture in enumerate((one.image, one.back, next(errors))):
                axes = figure.add_axes(((left + place * TILE) / width, 1 - (top + TILE) / height,
                                        0.97 * TILE / width, TILE / height))
                axes.set_axis_off()
                if place < 2:
                    axes.imshow(np.squeeze(np.moveaxis(picture, 0, -1)), cmap="gray", vmin=0, vmax=1)
                else:
                    drawn = axes.imshow(picture, cmap="magma", vmin=0, vmax=brightest)
    if drawn is not None:
        place = ((width - RIGHT + 0.1) / width, 1 - (TOP + LINES + 2 * TILE) / height, 0.16 / width, 2 * TILE / height)
        bar = figure.colorbar(drawn, cax=figure.add_axes(place))
        bar.ax.tick_params(labelsize=7.5)
        bar.ax.set_title("error,\n1: black\nto white", fontsize=7.5)
    return save_figure(figure, path)
