"""The picture of a forecast: what each run's public and private score, and the gap, are likely to be."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.figures import save_figure
from scoring.score_forecast import Forecast

# Source of the colours: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
ORANGE, BLUE, GREEN, BLACK = "#E69F00", "#0072B2", "#009E73", "#000000"


def plot_forecast(path: Path, frame: pd.DataFrame, seen: Forecast, title: str) -> Path:
    """Writes a PNG of two panels, a row a run: scores, and private minus public; returns the path.

    frame: `run`, and where known `public_was` and `private_was`;  title: the metric's.
    """
    names, (public, private) = frame["run"].tolist(), seen.images
    figure = Figure(figsize=(11, 1.9 + 0.5 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for m in range(len(names)):
        _draw_range(left, seen, seen.public[m], m - 0.14, ORANGE)
        _draw_range(left, seen, seen.private[m], m + 0.14, BLUE)
        _draw_range(right, seen, seen.private[m] - seen.public[m], m, GREEN)
    left.plot(seen.scores, range(len(names)), "|", color=BLACK, markersize=20, markeredgewidth=1.3)
    known = {"public_was", "private_was"} <= {*frame}
    if known:
        for column, shift, colour in (("public_was", -0.14, ORANGE), ("private_was", 0.14, BLUE)):
            left.plot(frame[column], np.arange(len(names)) + shift, "o", color=colour, markeredgecolor=BLACK)
        right.plot(frame["private_was"] - frame["public_was"], range(len(names)), "o", color=GREEN,
                   markeredgecolor=BLACK)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)  # the best on top
    left.set_xlabel(title)
    left.grid(axis="x", alpha=0.3)
    right.axvline(0, color=BLACK, linewidth=0.8)
    right.set_xlabel("private - public")
    right.grid(axis="x", alpha=0.3)
    handles = [Line2D([], [], color=ORANGE, linewidth=5, label=f"public, {public:,} images"),
               Line2D([], [], color=BLUE, linewidth=5, label=f"private, {private:,} images"),
               Line2D([], [], color=GREEN, linewidth=5, label="their gap"),
               Line2D([], [], color=BLACK, marker="|", linestyle="", markersize=12, label="CV")]
    if known:
        handles.append(Line2D([], [], color="white", marker="o", markeredgecolor=BLACK, label="what it then was"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
                  title="Forecast: 50 % (thick) and 95 % (thin) of what is likely")
    return save_figure(figure, path)


def _draw_range(axes: Axes, seen: Forecast, draws: np.ndarray, height: float, colour: str) -> None:
    for level, width in ((0.95, 1.8), (0.5, 6.0)):
        axes.plot(seen.interval(draws, level), (height, height), color=colour, linewidth=width, solid_capstyle="butt")
