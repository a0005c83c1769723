"""Pictures of anomaly scores: their distribution for normal and other images, and reconstructions."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from common.figures import save_figure
from common.image_grid import Tile, draw_tiles

BLUE, RED = "#0072B2", "#D55E00"  # source: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
SHOWN = (0.005, 0.98)  # quantiles: scores outside are counted in the outermost bars
BINS = 40


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


def draw_reconstructions(title: str, rows: list[list[tuple[str, np.ndarray, np.ndarray]]], path: Path) -> Path:
    """Images with their reconstructions and absolute errors, on one colour scale.

    rows: of examples (text, image, reconstruction), images (C, S, S) in [0, 1].
    """
    errors = [[np.abs(image - back).mean(axis=0) for _, image, back in row] for row in rows]
    brightest = max(np.quantile(np.concatenate([np.ravel(row) for row in errors]), 0.998), 1e-3)
    tiles = [[tile for (text, image, back), error in zip(row, maps, strict=True)
              for tile in (Tile(text, _grey_values(image)), Tile("reconstruction", _grey_values(back)),
                           Tile("error", colormaps["magma"](error / brightest, bytes=True)[..., :3]))]
             for row, maps in zip(rows, errors, strict=True)]
    caption = ("Held-out images, their reconstructions by autoencoders trained on normal images, and the absolute "
               f"errors, from 0 (black) to {brightest:.2f} (white) of the range of grey values.\n"
               "Score: 0 is the median and 1 the threshold of held-out normal images.")
    return save_figure(draw_tiles(f"{title}: reconstructions", caption, tiles), path)


def _grey_values(image: np.ndarray) -> np.ndarray:
    """(S, S) or (S, S, 3) in [0, 255] of an image (C, S, S) in [0, 1]."""
    return np.rint(255 * np.squeeze(np.moveaxis(image, 0, -1))).astype(np.uint8)
