"""The audit's plots: one function a plot, of arrays and tables, written as a PNG."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator
from scipy.stats import gaussian_kde

from auditing.label_stats import MeanImages
from common.console import percent, plural, shorten
from common.figures import save_figure

# Source of the colours: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
                                               "#999999")
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
CELLS = {"present": ("1 present", BLUE), "absent": ("0 absent", "#D9D9D9"), "uncertain": ("-1 uncertain", ORANGE),
         "blank": ("blank", "#FFFFFF")}
SMALL, NORMAL, LARGE = 8, 9.5, 12  # points
MAX_NAME = 42        # characters of a name
MAX_SEXES = 4        # values of the column of sexes that are drawn
VIOLIN_POINTS = 3000  # values that a violin is drawn from; of more, as many quantiles
MIN_VIOLIN = 10      # with fewer values, each is drawn as a point
MAX_NUMBERED = 20    # columns that have their counts above
RATE = "Positives among certain cells"
PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 3):g}%")  # 2.5 % is not rounded to 2 %
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


# ---- labels


@dataclass(frozen=True)
class Bars:
    """One panel of horizontal bars: in each row one bar a series, below each other.

    series: legend entry -> (K,) lengths, NaN for no bar;  texts: legend entry -> (K,) texts at the ends of the bars;
    behind: longer grey bars behind these, which then have the texts.
    """

    title: str
    series: dict[str, np.ndarray]
    texts: dict[str, list[str]] | None = None
    formatter: Formatter | None = None
    behind: dict[str, np.ndarray] | None = None
    colours: Sequence[str] = SERIES


def plot_cells(counts: pd.DataFrame, path: Path) -> Path:
    """Stacked bars of present, absent, uncertain and blank cells by label. counts: label_stats.count_cells."""
    figure, axes = _row_figure(len(counts), 9, extra=1.3)
    left = np.zeros(len(counts))
    for kind, (meaning, colour) in CELLS.items():
        values = counts[kind].to_numpy()
        if values.any():
            drawn = axes.barh(range(len(counts)), values, left=left, color=colour, edgecolor="0.4", linewidth=0.5,
                              label=meaning)
        left = left + values
    axes.bar_label(drawn, [f"{row.present:,}" + (f", {row.uncertain:,} uncertain" if row.uncertain else "")
                           for row in counts.itertuples()], padding=5, fontsize=SMALL)
    _name_rows(axes, counts["label"])
    _finish(axes, "Label cells; at the right: positive images", "images", formatter=THOUSANDS)
    _legend_below(figure, 4)
    return save_figure(figure, path)


def plot_counts(by_series: dict[str, pd.DataFrame], title: str, path: Path, with_absent: bool = False) -> Path:
    """Bars of positive images by label (left) and of their prevalence (right), for each part, sampler or file.

    by_series: legend entry -> one row a label with `label`, `present`, `absent`, `prevalence`;  with_absent: negative
    images too, as grey bars behind.
    """
    present, absent, rates = ({name: counts[kind].to_numpy() for name, counts in by_series.items()}
                              for kind in ("present", "absent", "prevalence"))
    certain = {name: present[name] + absent[name] for name in by_series}
    texts = {name: [f"{count:,.0f}" + (f" of {of:,.0f}" if with_absent else "")
                    for count, of in zip(present[name], certain[name], strict=True)] for name in by_series}
    shares = {name: ["unknown" if np.isnan(rate) else percent(rate) for rate in of] for name, of in rates.items()}
    panels = [Bars("Positives", present, texts, THOUSANDS, behind=certain if with_absent else None),
              Bars(RATE, rates, shares, PERCENT)]
    return plot_bars(next(iter(by_series.values()))["label"], panels, 12, path, title)


def plot_bars(names: Sequence[str], panels: Sequence[Bars], width: float, path: Path, title: str = "") -> Path:
    """Panels of horizontal bars with the same rows and the same legend, beside each other."""
    series = panels[0].series
    figure, grid = _row_figure(len(names) * max(1, 0.55 * len(series)), width, 1.7 if title else 1.5, len(panels))
    thick = 0.84 / len(series)
    for axes, panel in zip(np.atleast_1d(grid), panels, strict=True):
        for number, (name, values) in enumerate(panel.series.items()):
            rows = np.arange(len(values)) + (number - (len(series) - 1) / 2) * thick
            drawn = axes.barh(rows, np.nan_to_num(values), height=0.9 * thick, label=name, zorder=2,
                              color=panel.colours[number % len(panel.colours)])
            if panel.behind:
                drawn = axes.barh(rows, panel.behind[name], height=0.9 * thick, color="0.88")
            if panel.texts:
                axes.bar_label(drawn, panel.texts[name], padding=3, fontsize=SMALL - 1)
        _name_rows(axes, names)
        _finish(axes, panel.title, formatter=panel.formatter)
        axes.set_xlim(0, 1.2 * axes.dataLim.x1 or 1)
        axes.tick_params(axis="y", labelleft=panel is panels[0])
    figure.suptitle(title, fontsize=LARGE)
    if len(series) > 1:
        _legend_below(figure, 2)
    return save_figure(figure, path)


def plot_correlation(phi: np.ndarray, labels: Sequence[str], path: Path) -> Path:
    """Heat map of label_stats.phi_matrix with its values: red for labels that occur together, blue for the contrary."""
    side = 2.6 + 0.46 * len(labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = _heat_map(axes, phi, labels, labels, "Correlation of labels (phi, certain cells)", cmap="coolwarm", vmin=-1,
                      vmax=1)
    for i, row in enumerate(phi):
        for j, value in enumerate(row):
            rounded = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".")  # adding 0.0 removes the sign of -0.0
            axes.text(j, i, "–" if np.isnan(value) else "" if i == j else rounded, ha="center", va="center",
                      fontsize=SMALL - 1, color="white" if abs(np.nan_to_num(value)) > 0.65 else "black")
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=SMALL)
    return save_figure(figure, path)


def plot_columns(counts: dict[int, int], title: str, x: str, y: str, path: Path) -> Path:
    """Columns of counts by whole numbers, with a logarithmic scale if the counts differ much."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    drawn, positive = axes.bar(list(counts), list(counts.values()), color=BLUE), [n for n in counts.values() if n]
    if max(positive, default=0) > 20 * min(positive, default=1):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
    if len(counts) <= MAX_NUMBERED:
        axes.bar_label(drawn, [f"{count:,}" for count in counts.values()], fontsize=SMALL, padding=2)
    _finish(axes, title, x, y, THOUSANDS)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return save_figure(figure, path)


def plot_combinations(combinations: pd.DataFrame, distinct: int, path: Path) -> Path:
    """Bars of the most frequent combinations of labels. combinations: label_stats.top_combinations."""
    figure, axes = _row_figure(len(combinations), 9)
    colours = [BLUE] * len(combinations)
    if distinct > len(combinations):
        colours[-1] = GREY  # all other combinations
    texts = [f"{row.images:,} ({percent(row.share)})" for row in combinations.itertuples()]
    axes.bar_label(axes.barh(range(len(combinations)), combinations["images"], color=colours), texts, padding=4,
                   fontsize=SMALL)
    axes.set_xlim(0, 1.2 * combinations["images"].max())
    _name_rows(axes, combinations["combination"].map(_two_lines), longest=125)
    _finish(axes, f"Labels present together: {distinct:,} different combinations", "images", formatter=THOUSANDS)
    return save_figure(figure, path)


def plot_mean_images(means: MeanImages, labels: Sequence[str], path: Path) -> Path:
    """Three images a label: the mean image with it, without it, and the difference, red brighter and blue darker."""
    across = 1 if len(labels) == 1 else 2 if len(labels) <= 8 else 3
    down = -(-len(labels) // across)
    figure = Figure(figsize=(1 + 4.6 * across, 0.9 + 2.1 * down), layout="constrained")
    figure.suptitle("Mean image with and without each label, and the difference", fontsize=LARGE)
    panels = figure.subplots(down, 3 * across, squeeze=False)
    differences = means.present - means.absent
    known = np.isfinite(differences).all(axis=(1, 2))
    # one scale, from the median label: the mean of a rare label is noisy, and its scale would make all others pale
    largest = max(1.0, np.median(np.abs(differences[known]).max(axis=(1, 2)))) if known.any() else 1.0
    for axes in panels.ravel():
        axes.set_axis_off()
    for k, label in enumerate(labels):
        trio = panels[k // across, 3 * (k % across):][:3]
        trio[0].text(0, 1.22, shorten_names([label])[0], transform=trio[0].transAxes, fontsize=NORMAL, weight="bold")
        for axes, image, text in ((trio[0], means.present[k], f"with: {means.present_count[k]:,}"),
                                  (trio[1], means.absent[k], f"without: {means.absent_count[k]:,}")):
            axes.set_title(text, fontsize=SMALL)
            axes.imshow(np.ma.masked_invalid(image), cmap="gray", vmin=0, vmax=255)
        trio[2].set_title("difference", fontsize=SMALL)
        drawn = trio[2].imshow(np.ma.masked_invalid(differences[k]), cmap="RdBu_r", vmin=-largest, vmax=largest)
    bar = figure.colorbar(drawn, ax=panels, shrink=min(1, 2 / down), aspect=15, extend="both")
    bar.set_label("difference of grey values", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return save_figure(figure, path)


# ---- other columns


def plot_numbers(name: str, values: np.ndarray, cells: np.ndarray, labels: Sequence[str], path: Path,
                 one_a_patient: np.ndarray | None = None) -> Path:
    """Histogram of a number, and violins of it with and without each label.

    values: (N,), NaN are left out;  one_a_patient: (N,) bool, the rows of the histogram if it counts patients.
    """
    figure = Figure(figsize=(10, max(4.2, 1.6 + 0.42 * len(labels))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    shown = values[(np.ones(len(values), bool) if one_a_patient is None else one_a_patient) & ~np.isnan(values)]
    unit = "images" if one_a_patient is None else "patients"
    left.hist(shown, bins=_bins(shown), color=BLUE, edgecolor="white", linewidth=0.3)
    _finish(left, f"{name}: {len(shown):,} {unit}" + ("" if one_a_patient is None else ", one row each"), name, unit,
            THOUSANDS)
    _violins(right, labels, {text: [values[cells[:, k] == kind] for k in range(len(labels))]
                             for text, kind in (("with the label", 1), ("without", 0))}, (BLUE, GREY))
    _finish(right, f"{name} with and without each label; line: median", name)
    _legend_below(figure, 2)
    return save_figure(figure, path)


def plot_categories(name: str, categories: Sequence[str], rates: np.ndarray, counts: np.ndarray, labels: Sequence[str],
                    path: Path) -> Path:
    """Prevalence of each label by category: bars for up to four, a heat map for more.

    rates: (C, K), NaN without certain cells;  counts: (C,) images.
    """
    names = [f"{category or '(blank)'} ({count:,} images)" for category, count in zip(categories, counts, strict=True)]
    title = f"{RATE}, by {name}"
    if len(names) <= 4:
        return plot_bars(labels, [Bars(title, dict(zip(names, rates, strict=True)), None, PERCENT)], 8.5, path)
    figure = Figure(figsize=(3 + 0.55 * len(names), 2.6 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = _heat_map(axes, rates.T, labels, names, title, cmap="viridis", vmin=0,
                      vmax=np.nanmax([0.01, *rates.ravel()]), aspect="auto")
    figure.colorbar(image, ax=axes, format=PERCENT).ax.tick_params(labelsize=SMALL)
    return save_figure(figure, path)


def plot_decades(name: str, ages: np.ndarray, groups: np.ndarray, path: Path) -> Path:
    """Images by decade of age, and images of each patient in it. ages: (N,) years, NaN are left out."""
    known = ~np.isnan(ages)
    decades, groups = (ages[known] // 10 * 10).astype(int), groups[known]
    tens, counts = np.unique(decades, return_counts=True)
    sizes = [pd.Series(groups[decades == ten]).value_counts().to_numpy() for ten in tens]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(range(len(tens)), counts, color=BLUE)
    right.boxplot(sizes, positions=range(len(tens)), widths=0.6, showfliers=False, whis=(5, 95), showmeans=True,
                  medianprops={"color": RED}, boxprops={"color": BLUE},
                  meanprops={"marker": "D", "markerfacecolor": ORANGE, "markeredgecolor": ORANGE})
    names = [f"{ten}–{ten + 9}" for ten in tens]
    _finish(left, f"Images by decade of {name}", name, "images", THOUSANDS)
    left.set_xticks(range(len(tens)), names)
    _finish(right, "Images of a patient: box, 5–95 %, ◆ mean", f"{name}; mean and standard deviation below",
            "images of a patient", THOUSANDS)
    right.set_xticks(range(len(tens)), [f"{text}\n{each.mean():.1f}\n± {each.std():.1f}"
                                       for text, each in zip(names, sizes, strict=True)])
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    return save_figure(figure, path)


def plot_age_by_sex(name: str, ages: np.ndarray, sexes: np.ndarray, cells: np.ndarray, labels: Sequence[str],
                    path: Path) -> Path:
    """Violins of age for the images with each label, by sex. ages: (N,), NaN are left out;  sexes: (N,) str."""
    figure, axes = _row_figure(1.6 * len(labels), 9, extra=1.5)
    _violins(axes, labels, {sex: [ages[(cells[:, k] == 1) & (sexes == sex)] for k in range(len(labels))]
                            for sex in _filled(sexes)})
    _finish(axes, f"{name} of the images with each label, by sex; line: median", name)
    _legend_below(figure, MAX_SEXES)
    return save_figure(figure, path)


# ---- images


def plot_properties(by_part: dict[str, pd.DataFrame], path: Path) -> Path:
    """Histograms of brightness, contrast, file size and aspect ratio, and all sizes, by part.

    by_part: part -> one row a readable image with brightness, contrast, kilobytes, aspect, height, width.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle("Images by part (shares of each part)", fontsize=LARGE)
    *panels, sizes_panel, legend = figure.subplots(2, 3).ravel()
    together, fewest = pd.concat(by_part.values()), min(map(len, by_part.values()))
    units = {"brightness": "mean grey value", "contrast": "standard deviation of grey values",
             "kilobytes": "file size, kB", "aspect": "width / height"}
    for axes, (column, unit) in zip(panels, units.items(), strict=True):
        edges = _bins(together[column].to_numpy(float), 20, most=max(20, int(np.sqrt(fewest))))
        for frame, colour in zip(by_part.values(), SERIES, strict=False):
            axes.hist(frame[column].to_numpy(float), edges, weights=np.full(len(frame), 1 / max(1, len(frame))),
                      histtype="step", linewidth=1.6, color=colour)
        axes.set_xlabel(unit, fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL)
        axes.yaxis.set_major_formatter(PERCENT)
    for (part, frame), colour in zip(by_part.items(), SERIES, strict=False):
        sizes = frame.groupby(["width", "height"]).size().reset_index(name="images")
        sizes_panel.scatter(sizes["width"], sizes["height"], s=12 + 160 * sizes["images"] / len(frame), alpha=0.6,
                            facecolors="none", edgecolors=colour, linewidths=1.3)
        legend.plot([], [], color=colour, label=f"{part.replace('_', ' ')}: {plural(len(frame), 'image')}, "
                    f"{plural(len(sizes), 'size')}")
    sizes_panel.set_xlabel("width, pixels (area: share of images)", fontsize=NORMAL)
    sizes_panel.set_ylabel("height, pixels", fontsize=NORMAL)
    sizes_panel.tick_params(labelsize=SMALL)
    legend.legend(loc="center", fontsize=NORMAL, frameon=False)
    legend.set_axis_off()
    return save_figure(figure, path)


def plot_probes(names: Sequence[str], aucs: Sequence[tuple[float, float, float]], bests: Sequence[str], title: str,
                path: Path) -> Path:
    """Points with 95 % intervals and the chance line. aucs: (auc, low, high);  bests: texts for the right margin."""
    figure, axes = _row_figure(len(names), 9, extra=1.3)
    for row, ((auc, low, high), best) in enumerate(zip(aucs, bests, strict=True)):
        if np.isnan(auc):
            axes.text(0.5, row, " too few patients with or without it", va="center", fontsize=SMALL, color="0.4")
            continue
        colour = GREY if not low > 0.5 else RED if auc > 0.9 else ORANGE if auc > 0.6 else BLUE
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(auc, row, "o", color=colour, markersize=7)
        axes.annotate(f"{auc:.2f}  {best}", (1, row), (6, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=SMALL)
    axes.axvline(0.5, color="black", linewidth=1)
    axes.set_xlim(np.nanmin([0.4, *np.ravel(aucs)]) - 0.02, 1.0)
    _name_rows(axes, names)
    _finish(axes, title, "cross-validated ROC AUC, 95 % interval; black line: chance; grey: may be chance, or one "
            "column alone")
    axes.xaxis.label.set_size(SMALL)
    return save_figure(figure, path)


# ---- shared


def _row_figure(rows: float, width: float, extra: float = 1.2, columns: int = 1) -> tuple[Figure, Axes]:
    """A figure that grows with its rows, and its axes, an array for several columns."""
    figure = Figure(figsize=(width, extra + 0.32 * max(rows, 3)), layout="constrained")
    return figure, figure.subplots(1, columns)


def _name_rows(axes: Axes, names: Sequence[str], longest: int = MAX_NAME) -> None:
    axes.set_yticks(range(len(names)), shorten_names(names, longest), fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _two_lines(name: str, longest: int = 60) -> str:
    lines = textwrap.wrap(name, longest)
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"…{name[1 - longest:]}"])


def _finish(axes: Axes, title: str, x: str = "", y: str = "", formatter: Formatter | None = None) -> None:
    """Title, axis labels, and a grid across the axis of values: y if it has a label, else x."""
    values = "y" if y else "x"
    axes.set_title(title, fontsize=LARGE)
    axes.set_xlabel(x, fontsize=NORMAL)
    axes.set_ylabel(y, fontsize=NORMAL)
    axes.tick_params(axis="both" if y else "x", labelsize=SMALL)
    if formatter is not None:
        getattr(axes, f"{values}axis").set_major_formatter(formatter)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=values, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def _legend_below(figure: Figure, columns: int) -> None:
    """The legend of the last axes below all axes, where it hides nothing."""
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=columns,
                  fontsize=SMALL, frameon=False)


def _heat_map(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str,
              **style: object) -> AxesImage:
    """An image of values (R, C), NaN in grey, with names of rows and columns."""
    image = axes.imshow(np.ma.masked_invalid(values), **style)
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(columns)), shorten_names(columns), rotation=45, ha="right", rotation_mode="anchor",
                    fontsize=SMALL)
    axes.set_yticks(range(len(rows)), shorten_names(rows), fontsize=SMALL)
    axes.set_title(title, fontsize=LARGE)
    return image


def _violins(axes: Axes, names: Sequence[str], series: dict[str, list[np.ndarray]],
             colours: Sequence[str] = SERIES) -> None:
    """In each row one horizontal violin a series, with its median; points if there are too few values."""
    thick = 0.84 / max(1, len(series))
    for number, ((text, of_rows), colour) in enumerate(zip(series.items(), colours, strict=False)):
        axes.fill_between([], [], color=colour, linewidth=0, alpha=0.75, label=text)
        for row, values in enumerate(of_rows):
            values, place = values[~np.isnan(values)], row + (number - (len(series) - 1) / 2) * thick
            if len(values) < MIN_VIOLIN or len(np.unique(values)) < 3:
                axes.plot(values, np.full(len(values), place), ".", color=colour, markersize=4)
                continue
            if len(values) > VIOLIN_POINTS:
                values = np.quantile(values, np.linspace(0, 1, VIOLIN_POINTS))
            grid = np.linspace(values.min(), values.max(), 100)
            density = gaussian_kde(values)(grid)
            half = 0.45 * thick * density / density.max()
            axes.fill_between(grid, place - half, place + half, color=colour, linewidth=0, alpha=0.75)
            axes.plot([np.median(values)] * 2, [place - 0.45 * thick, place + 0.45 * thick], color="black",
                      linewidth=1.1)
    _name_rows(axes, names)


def _filled(sexes: np.ndarray) -> list[str]:
    return [sex for sex in np.unique(sexes) if sex][:MAX_SEXES]


def _bins(values: np.ndarray, fewest: int = 10, most: int = 60) -> np.ndarray:
    """Edges of bins; whole numbers over a short range get a bin each."""
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        middle = values[0] if len(values) else 0.0
        return np.linspace(middle - 0.5, middle + 0.5, 22)
    low, high = values.min(), values.max()
    if (values == np.rint(values)).all() and high - low <= 120:
        step = 5 if high - low > 60 else 2 if high - low > 30 else 1
        return np.arange(low, high + 2 * step, step) - 0.5
    inner = np.quantile(values, (0.001, 0.999)) if len(values) > 1000 else (low, high)
    if inner[0] < inner[1]:  # one extreme value does not squeeze all others into one bin
        low, high = inner
    return np.linspace(low, high, max(fewest, min(most, int(np.sqrt(len(values))))) + 1)


def shorten_names(names: Sequence[str], longest: int = MAX_NAME) -> list[str]:
    """Names without the middle of long ones; dollar signs are escaped, because they would begin a formula."""
    return [shorten(str(name), longest).replace("$", r"\$") for name in names]
