"""The audit's pictures: one function a plot, of arrays and frames, written as a PNG. Colours by Okabe and Ito."""

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from auditing.label_stats import MeanImages
from common.console import shorten
from common.figures import save_figure

# Source of the colours: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
                                               "#999999")
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
SMALL, NORMAL, LARGE = 8, 9.5, 12  # points
LONGEST = 42  # letters of a name
VIOLIN_POINTS = 3000  # a violin is drawn from at most so many values, evenly spaced in rank
FEWEST = 10  # with fewer the values themselves are drawn
SHARE = FuncFormatter(lambda value, _: f"{round(100 * value, 3):g}%")  # 2.5% is not 2%
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


# ---- labels


def plot_cells(counts: pd.DataFrame, path: Path) -> Path:
    """Bars of present, absent, uncertain and blank cells, a row a label. counts: labelstats.count_cells."""
    figure, axes = _rows_figure(len(counts), 9, extra=1.3)
    left = np.zeros(len(counts))
    for kind, meaning, colour in (("present", "1 present", BLUE), ("absent", "0 absent", "#D9D9D9"),
                                  ("uncertain", "-1 uncertain", ORANGE), ("blank", "blank", "#FFFFFF")):
        values = counts[kind].to_numpy()
        if values.any():
            axes.barh(range(len(counts)), values, left=left, color=colour, edgecolor="0.4", linewidth=0.5,
                      label=meaning)
        left = left + values
    for row, values in enumerate(counts.itertuples()):
        extra = f", {values.uncertain:,} uncertain" if values.uncertain else ""
        axes.annotate(f"{values.present:,}{extra}", (left.max(), row), (5, 0), textcoords="offset points", va="center",
                      fontsize=SMALL)
    _name_rows(axes, counts["label"])
    _finish_bars(axes, "Label cells (at the right: how many are 1)", "images", THOUSANDS)
    figure.legend(loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    return save_figure(figure, path)


def plot_prevalence(by_part: dict[str, pd.DataFrame], path: Path) -> Path:
    """Share of positives among certain cells by label, a bar a part. by_part: part: labelstats.count_cells."""
    labels = next(iter(by_part.values()))["label"]
    figure, axes = _rows_figure(len(labels) * max(1, 0.55 * len(by_part)), 8, extra=1.5)
    rates = {}
    for part, counts in by_part.items():
        images = int(counts.iloc[0][["present", "absent", "uncertain", "blank"]].sum())
        rates[f"{part} ({images:,} images)"] = counts["prevalence"].to_numpy()
    _bars_beside(axes, rates, _rate_texts(rates))
    axes.set_xlim(0, 1.16 * max(0.01, axes.dataLim.x1))
    _name_rows(axes, labels)
    _finish_bars(axes, "Positives among certain cells", "", SHARE)
    if len(by_part) > 1:  # below, where it hides no bar
        figure.legend(loc="outside lower center", ncols=len(by_part), fontsize=SMALL, frameon=False)
    return save_figure(figure, path)


def plot_counts(by_series: dict[str, pd.DataFrame], title: str, path: Path, with_absent: bool = False) -> Path:
    """Bars of positives by label at the left and of their prevalence at the right, a colour a sampler, a file or so.

    by_series: what the legend says: one row a label with `label`, `present`, `absent`, `prevalence`;  with_absent: the
    negatives stand behind the positives, light grey.
    """
    labels = next(iter(by_series.values()))["label"]
    figure, (left, right) = _rows_figure(len(labels) * max(1, 0.55 * len(by_series)), 12, extra=1.7, columns=2)
    present, rates = ({name: counts[kind].to_numpy() for name, counts in by_series.items()}
                      for kind in ("present", "prevalence"))
    stated = {name: present[name] + counts["absent"].to_numpy() for name, counts in by_series.items()}
    texts = {name: [f"{count:,.0f}" + (f" of {of:,.0f}" if with_absent else "")
                    for count, of in zip(present[name], stated[name], strict=True)] for name in by_series}
    if with_absent:
        _bars_beside(left, stated, texts, "0.88")
    _bars_beside(left, present, None if with_absent else texts)
    _bars_beside(right, rates, _rate_texts(rates))
    figure.suptitle(title, fontsize=LARGE)
    for axes, words, formatter in ((left, "Positives", THOUSANDS), (right, "Positives among certain cells", SHARE)):
        _name_rows(axes, labels)
        _finish_bars(axes, words, "", formatter)
        axes.set_xlim(0, 1.2 * axes.dataLim.x1 or 1)
    right.tick_params(axis="y", labelleft=False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=SMALL,
                  frameon=False)
    return save_figure(figure, path)


def plot_correlation(phi: np.ndarray, labels: Sequence[str], path: Path) -> Path:
    """Heat map of labelstats.phi_matrix with its values, red where two come together, blue where they avoid."""
    side = 2.6 + 0.46 * len(labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(phi), cmap="coolwarm", vmin=-1, vmax=1)
    axes.set_facecolor("0.85")
    for i, row in enumerate(phi):
        for j, value in enumerate(row):
            rounded = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".")  # of -0.0 the sum with 0.0 has no sign
            text = "–" if np.isnan(value) else "" if i == j else rounded
            axes.text(j, i, text, ha="center", va="center", fontsize=SMALL - 1,
                      color="white" if abs(np.nan_to_num(value)) > 0.65 else "black")
    axes.set_xticks(range(len(labels)), shorten_names(labels), rotation=45, ha="right", rotation_mode="anchor",
                    fontsize=SMALL)
    axes.set_yticks(range(len(labels)), shorten_names(labels), fontsize=SMALL)
    axes.set_title("Correlation of labels (phi, certain cells)", fontsize=LARGE)
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=SMALL)
    return save_figure(figure, path)


def plot_findings(findings: np.ndarray, path: Path) -> Path:
    """Bars of images with no, one, two, ... labels present, coloured none, single, multiple. findings: (K + 1,)."""
    last = int(np.flatnonzero(findings)[-1]) if findings.any() else 0
    shown = findings[: max(last, 2) + 1]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    colours = [GREY, BLUE, *[ORANGE] * (len(shown) - 2)]
    axes.bar(range(len(shown)), shown, color=colours[:len(shown)])
    for number, count in enumerate(shown):
        axes.annotate(f"{count:,}", (number, count), (0, 2), textcoords="offset points", ha="center", fontsize=SMALL)
    axes.set_xticks(range(len(shown)))
    total = max(1, findings.sum())
    none, single, multiple = findings[0], findings[1:2].sum(), findings[2:].sum()
    axes.set_title(f"Labels present on an image: none {none / total:.1%}, single {single / total:.1%}, "
                   f"multiple {multiple / total:.1%}", fontsize=LARGE)
    axes.set_xlabel("labels present", fontsize=NORMAL)
    _finish_columns(axes)
    return save_figure(figure, path)


def plot_combinations(combinations: pd.DataFrame, distinct: int, path: Path) -> Path:
    """Bars of the most frequent combinations of labels. combinations: labelstats.top_combinations."""
    figure, axes = _rows_figure(len(combinations), 9)
    is_other = [name.endswith(" other") and row == len(combinations) - 1 and distinct > len(combinations)
                for row, name in enumerate(combinations["combination"])]
    axes.barh(range(len(combinations)), combinations["images"], color=[GREY if other else BLUE for other in is_other])
    for row, (count, share) in enumerate(zip(combinations["images"], combinations["share"], strict=True)):
        axes.annotate(f"{count:,} ({share:.1%})", (count, row), (4, 0), textcoords="offset points", va="center",
                      fontsize=SMALL)
    axes.set_xlim(0, 1.2 * combinations["images"].max())
    _name_rows(axes, combinations["combination"].map(_two_lines), longest=125)
    _finish_bars(axes, f"Labels present together: {distinct:,} different combinations", "images", THOUSANDS)
    return save_figure(figure, path)


def plot_images_per_group(per_group: pd.DataFrame, path: Path) -> Path:
    """How many patients have one image, two, ...; on a logarithmic scale. per_group: labelstats.images_per_group."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(per_group["images"], per_group["groups"], color=BLUE, width=0.9)
    total = (per_group["images"] * per_group["groups"]).sum()
    axes.set_title(f"{total:,} images of {per_group['groups'].sum():,} patients, at most "
                   f"{per_group['images'].max():,} of one", fontsize=LARGE)
    axes.set_xlabel("images of a patient", fontsize=NORMAL)
    if per_group["groups"].max() > 20 * max(1, per_group["groups"].min()):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _finish_columns(axes, "patients")
    return save_figure(figure, path)


def plot_mean_images(means: MeanImages, labels: Sequence[str], path: Path) -> Path:
    """Three pictures a label: the mean image with it, without it, and the difference, red brighter and blue darker."""
    across = 1 if len(labels) == 1 else 2 if len(labels) <= 8 else 3
    down = -(-len(labels) // across)
    figure = Figure(figsize=(0.3 + 5.0 * across, 0.9 + 2.1 * down), layout="constrained")
    figure.suptitle("Mean image with and without each label, and the difference", fontsize=LARGE)
    axes = figure.subplots(down, 3 * across, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    differences = means.present - means.absent
    known = np.isfinite(differences).all(axis=(1, 2))
    # one scale for all, by the label in the middle: that of a rare label, all noise, would make all others pale
    largest = max(1.0, np.median(np.abs(differences[known]).max(axis=(1, 2)))) if known.any() else 1.0
    for k, label in enumerate(labels):
        trio = axes[k // across, 3 * (k % across):][:3]
        for axis, picture, text in ((trio[0], means.present[k], f"with: {means.present_count[k]:,}"),
                                    (trio[1], means.absent[k], f"without: {means.absent_count[k]:,}")):
            _show_picture(axis, picture, text, {"cmap": "gray", "vmin": 0, "vmax": 255})
        _show_picture(trio[2], differences[k], "difference", {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest})
        if np.isfinite(differences[k]).all():
            bar = figure.colorbar(trio[2].images[0], ax=trio[2], shrink=0.8, ticks=[-largest, 0, largest],
                                  extend="both" if np.abs(differences[k]).max() > largest else "neither")
            bar.ax.set_yticklabels([f"{-largest:.0f}", "0", f"+{largest:.0f}"], fontsize=SMALL - 1)
        trio[0].text(0, 1.22, shorten_names([label])[0], transform=trio[0].transAxes, fontsize=NORMAL, weight="bold")
    return save_figure(figure, path)


# ---- other columns


def plot_numbers(name: str, values: np.ndarray, cells: np.ndarray, labels: Sequence[str], path: Path,
                 one_a_patient: np.ndarray | None = None) -> Path:
    """A number's histogram, and violins of it with and without each label.

    values: (N,), NaN left out;  one_a_patient: (N,) bool, the histogram's rows where it is of patients.
    """
    figure = Figure(figsize=(10, max(4.2, 1.6 + 0.42 * len(labels))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    shown = values[(np.ones(len(values), bool) if one_a_patient is None else one_a_patient) & ~np.isnan(values)]
    left.hist(shown, bins=_bins(shown), color=BLUE, edgecolor="white", linewidth=0.3)
    left.set_title(f"{name}: {len(shown):,} {'images' if one_a_patient is None else 'patients, one row each'}",
                   fontsize=LARGE)
    left.set_xlabel(name, fontsize=NORMAL)
    _finish_columns(left, "images" if one_a_patient is None else "patients")
    for k in range(len(labels)):
        for kind, shift, colour in ((1, 0.2, BLUE), (0, -0.2, GREY)):
            _violin(right, values[(cells[:, k] == kind) & ~np.isnan(values)], k - shift, colour, vertical=False)
    _name_rows(right, labels)
    right.set_title("with (blue) and without (grey) the label; line: median", fontsize=NORMAL)
    right.set_xlabel(name, fontsize=NORMAL)
    right.tick_params(labelsize=SMALL)
    _light_grid(right, "x")
    return save_figure(figure, path)


def plot_categories(name: str, categories: Sequence[str], rates: np.ndarray, counts: np.ndarray, labels: Sequence[str],
                    path: Path) -> Path:
    """Prevalence of each label by category: bars for up to four, a table of colours for more.

    rates: (C, K), NaN where nothing is known;  counts: (C,) images.
    """
    names = [f"{category or '(blank)'} ({count:,})" for category, count in zip(categories, counts, strict=True)]
    if len(names) <= 4:
        figure, axes = _rows_figure(max(3, len(labels) * 0.5 * len(names)), 8.5)
        _bars_beside(axes, dict(zip(names, rates, strict=True)))
        _name_rows(axes, labels)
        _finish_bars(axes, f"Positives among certain cells, by {name}", "", SHARE)
        figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False, title="images",
                      title_fontsize=SMALL)
        return save_figure(figure, path)
    figure = Figure(figsize=(3 + 0.55 * len(names), 2.6 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(rates.T), cmap="viridis", vmin=0, vmax=np.nanmax([0.01, *rates.ravel()]),
                        aspect="auto")
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(names)), shorten_names(names), rotation=45, ha="right", rotation_mode="anchor",
                    fontsize=SMALL)
    axes.set_yticks(range(len(labels)), shorten_names(labels), fontsize=SMALL)
    axes.set_title(f"Positives among certain cells, by {name}", fontsize=LARGE)
    figure.colorbar(image, ax=axes, format=SHARE).ax.tick_params(labelsize=SMALL)
    return save_figure(figure, path)


def plot_decades(name: str, ages: np.ndarray, groups: np.ndarray, path: Path) -> Path:
    """Images by decade of age, and how many images a patient has in each. ages: (N,) years, NaN left out."""
    known = ~np.isnan(ages)
    decades, groups = (ages[known] // 10 * 10).astype(int), groups[known]
    tens, counts = np.unique(decades, return_counts=True)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{ten}–{ten + 9}" for ten in tens]
    left.bar(range(len(tens)), counts, color=BLUE)
    left.set_title(f"Images by decade of {name}", fontsize=LARGE)
    _finish_columns(left)
    each = [pd.Series(groups[decades == ten]).value_counts().to_numpy() for ten in tens]
    right.boxplot(each, positions=range(len(tens)), widths=0.6, showfliers=False, whis=(5, 95),
                  medianprops={"color": RED}, boxprops={"color": BLUE})
    means = [sizes.mean() for sizes in each]
    right.plot(range(len(tens)), means, "D", color=ORANGE, markersize=5)
    # the scale follows boxes and means, not the one patient with a hundred images
    top = max(max(np.quantile(sizes, 0.95) for sizes in each), *means) * 1.25 + 0.5 if each else 1
    right.set_ylim(0, top)
    for place, sizes in enumerate(each):
        right.annotate(f"{sizes.mean():.1f}\n± {sizes.std():.1f}", (place, top), textcoords="offset points",
                       xytext=(0, -3), ha="center", va="top", fontsize=SMALL - 1)
    right.set_title("Images a patient: box, 5–95 %, ◆ mean ± deviation", fontsize=NORMAL)
    _finish_columns(right, "images a patient")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.set_xticks(range(len(tens)), names, rotation=45 if len(tens) > 6 else 0, fontsize=SMALL)
        axes.set_xlabel(name, fontsize=NORMAL)
    return save_figure(figure, path)


def plot_age_by_sex(name: str, ages: np.ndarray, sexes: np.ndarray, cells: np.ndarray, labels: Sequence[str],
                    path: Path) -> Path:
    """Violins of age for the images with each label, a violin a sex. ages: (N,), NaN left out;  sexes: (N,) str."""
    kinds = [sex for sex in np.unique(sexes) if sex][:4]
    figure = Figure(figsize=(max(7, 2 + 0.85 * len(labels)), 5), layout="constrained")
    axes = figure.subplots()
    rng = np.arange(len(kinds)) - (len(kinds) - 1) / 2
    for k in range(len(labels)):
        for number, sex in enumerate(kinds):
            rows = (cells[:, k] == 1) & (sexes == sex) & ~np.isnan(ages)
            _violin(axes, ages[rows], k + rng[number] * 0.8 / len(kinds), SERIES[number], vertical=True,
                    width=0.72 / len(kinds))
    axes.set_xticks(range(len(labels)), shorten_names(labels), rotation=30, ha="right", rotation_mode="anchor",
                    fontsize=SMALL)
    axes.set_title(f"{name} of the images with each label, by sex; line: median", fontsize=LARGE)
    axes.set_ylabel(name, fontsize=NORMAL)
    axes.tick_params(axis="y", labelsize=SMALL)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    _light_grid(axes, "y")
    figure.legend(handles=[Patch(color=SERIES[number], label=sex) for number, sex in enumerate(kinds)], fontsize=SMALL,
                  loc="outside lower center", ncols=max(1, len(kinds)), frameon=False)
    return save_figure(figure, path)


def plot_age_histograms(name: str, ages: np.ndarray, sexes: np.ndarray, cells: np.ndarray, labels: Sequence[str],
                        path: Path) -> Path:
    """A histogram of age for each label, the sexes as lines over each other."""
    kinds = [sex for sex in np.unique(sexes) if sex][:4]
    across = min(4, len(labels))
    down = -(-len(labels) // across)
    figure = Figure(figsize=(1 + 2.6 * across, 1 + 1.9 * down), layout="constrained")
    figure.suptitle(f"{name} of the images with each label, by sex", fontsize=LARGE)
    figure.supxlabel(name, fontsize=NORMAL)
    figure.supylabel("images", fontsize=NORMAL)
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    bins = np.arange(0, max(10, np.nanmax(ages, initial=0)) + 10, 10)
    for k, axis in enumerate(axes):
        if k >= len(labels):
            axis.set_axis_off()
            continue
        for number, sex in enumerate(kinds):
            rows = (cells[:, k] == 1) & (sexes == sex) & ~np.isnan(ages)
            counts = np.histogram(ages[rows], bins)[0]
            axis.stairs(counts, bins, color=SERIES[number], linewidth=1.6, label=f"{sex} {rows.sum():,}")
        axis.set_title(shorten_names([labels[k]])[0], fontsize=NORMAL)
        axis.legend(fontsize=SMALL - 1.5, frameon=False)
        axis.tick_params(labelsize=SMALL - 1, labelbottom=k + across >= len(labels))  # the lowest of its column
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return save_figure(figure, path)


# ---- images


def plot_properties(by_part: dict[str, pd.DataFrame], path: Path) -> Path:
    """Histograms of brightness, contrast, file size and aspect, and all sizes, a colour a part.

    by_part: part: one row a readable image with brightness, contrast, kilobytes, height, width.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle("Images by part (shares of each part)", fontsize=LARGE)
    axes = figure.subplots(2, 3).ravel()
    together = pd.concat(by_part.values())
    for axis, (column, unit) in zip(axes, {"brightness": "mean grey value", "contrast": "deviation of grey values",
                                           "kilobytes": "file size, kB", "aspect": "width / height"}.items(),
                                    strict=False):
        edges = _bins(together[column].to_numpy(float), 20, most=max(20, int(np.sqrt(min(map(len, by_part.values()))))))
        for number, frame in enumerate(by_part.values()):
            values = frame[column].to_numpy(float)
            axis.hist(values, edges, weights=np.full(len(values), 1 / max(1, len(values))), histtype="step",
                      linewidth=1.6, color=SERIES[number])
        axis.set_xlabel(unit, fontsize=NORMAL)
        axis.yaxis.set_major_formatter(SHARE)
        axis.tick_params(labelsize=SMALL)
    for number, (part, frame) in enumerate(by_part.items()):
        sizes = frame.groupby(["width", "height"]).size().reset_index(name="images")
        axes[4].scatter(sizes["width"], sizes["height"], s=12 + 160 * sizes["images"] / len(frame), alpha=0.6,
                        facecolors="none", edgecolors=SERIES[number], linewidths=1.3)
        axes[5].plot([], [], color=SERIES[number],
                     label=f"{part}: {len(frame):,} images, different sizes: {len(sizes):,}")
    axes[4].set_xlabel("width, pixels (area: share of images)", fontsize=NORMAL)
    axes[4].set_ylabel("height, pixels", fontsize=NORMAL)
    axes[4].tick_params(labelsize=SMALL)
    axes[5].legend(loc="center", fontsize=NORMAL, frameon=False)
    axes[5].set_axis_off()
    return save_figure(figure, path)


def plot_montage(pictures: Sequence[tuple[str, np.ndarray]], total: int, path: Path) -> Path:
    """Suspicious images with what is suspicious about each. pictures: (text, uint8 (H, W) or (H, W, 3)), at most 24."""
    across = min(6, len(pictures))
    down = -(-len(pictures) // across)
    figure = Figure(figsize=(2.2 * max(2, across), 0.6 + 2.5 * down), layout="constrained")
    figure.suptitle("Suspicious images" + (f": {len(pictures)} of {total:,}" if total > len(pictures) else ""),
                    fontsize=LARGE)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (text, picture) in zip(axes, pictures, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axis.add_patch(_frame(picture.shape))
        axis.set_title(text, fontsize=SMALL - 1)
    return save_figure(figure, path)


# ---- probes and prices


def plot_probes(names: Sequence[str], aucs: Sequence[tuple[float, float, float]], bests: Sequence[str], title: str,
                path: Path) -> Path:
    """Points with 95 % intervals, and the chance line; at the right the most telling column. aucs: (auc, low, high)."""
    figure, axes = _rows_figure(len(names), 9, extra=1.3)
    for row, ((auc, low, high), best) in enumerate(zip(aucs, bests, strict=True)):
        if np.isnan(auc):
            axes.text(0.5, row, " too few patients with or without it to say", va="center", fontsize=SMALL,
                      color="0.4")
            continue
        colour = GREY if not low > 0.5 else RED if auc > 0.9 else ORANGE if auc > 0.6 else BLUE
        if not np.isnan(low):
            axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(auc, row, "o", color=colour, markersize=7)
        axes.annotate(f"{auc:.2f}  {best}", (1, row), (6, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=SMALL)
    axes.axvline(0.5, color="black", linewidth=1)
    lowest = np.nanmin([0.4, *(low for _, low, _ in aucs), *(auc for auc, _, _ in aucs)])
    axes.set_xlim(lowest - 0.02, 1.0)
    _name_rows(axes, names)
    axes.set_title(title, fontsize=LARGE)
    axes.set_xlabel("cross-validated ROC AUC, 95 % interval; black line: chance; grey: may be chance, or one column "
                    "alone", fontsize=SMALL)
    axes.tick_params(axis="x", labelsize=SMALL)
    _light_grid(axes, "x")
    return save_figure(figure, path)


def plot_leakage(folds: Sequence[tuple[str, float, float]], f1: Sequence[tuple[str, float, float]], path: Path) -> Path:
    """What a leak adds: AUC under random and under audited folds, and the false and the true F1 of copying first.

    folds: (name, random AUC, audited AUC);  f1: (label, false F1, true F1), none to leave that half out.
    """
    rows = max(len(folds), len(f1))
    figure = Figure(figsize=(11 if f1 else 6.5, 2 + 0.42 * rows), layout="constrained")
    axes = figure.subplots(1, 2 if f1 else 1, squeeze=False)[0]
    halves = [(axes[0], folds, "ROC AUC", ("random folds", "audited folds"), "A classifier under both kinds of folds")]
    if f1:
        halves.append((axes[1], f1, "F1 at 0.5", ("copied, then split (false)", "split, then copied (true)"),
                       "Rare rows copied before the split"))
    for axis, values, unit, (wrong, right), title in halves:
        places = np.arange(len(values))
        axis.barh(places - 0.2, [row[1] for row in values], height=0.38, color=RED, label=wrong)
        axis.barh(places + 0.2, [row[2] for row in values], height=0.38, color=BLUE, label=right)
        for place, (_, first, second) in enumerate(values):
            for shift, value in ((-0.2, first), (0.2, second)):
                if not np.isnan(value):
                    axis.text(value + 0.01, place + shift, f"{value:.3f}", va="center", fontsize=SMALL - 1)
        _name_rows(axis, [row[0] for row in values], longest=60)
        axis.set_xlim(0, 1.12)
        _finish_bars(axis, title, unit, None)
        axis.set_ylim(max(rows, 5) - 0.4, -0.6)  # bars of both halves are as thick
        axis.legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        axis.set_title(title, fontsize=LARGE, pad=24)
    return save_figure(figure, path)


# ---- shared


def _rows_figure(rows: float, width: float, extra: float = 1.2, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, extra + 0.32 * max(rows, 3)), layout="constrained")
    return figure, figure.subplots(1, columns)


def _name_rows(axes: Axes, names: Sequence[str], longest: int = LONGEST) -> None:
    axes.set_yticks(range(len(names)), shorten_names(names, longest), fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _bars_beside(axes: Axes, series: dict[str, np.ndarray], texts: dict[str, list[str]] | None = None,
                 colour: str | None = None) -> None:
    """In every row a bar of each of the series (K,), one below the other, a colour a series; NaN has none.

    texts: what stands at the ends of the bars, (K,) of each series.
    """
    thick = 0.84 / len(series)
    for number, (name, values) in enumerate(series.items()):
        rows, ends = np.arange(len(values)) + (number - (len(series) - 1) / 2) * thick, np.nan_to_num(values)
        axes.barh(rows, ends, height=0.9 * thick, color=colour or SERIES[number % len(SERIES)], label=name)
        for row, end, text in zip(rows, ends, texts[name], strict=True) if texts else ():
            axes.annotate(text, (end, row), (3, 0), textcoords="offset points", va="center", fontsize=SMALL - 1)


def _rate_texts(rates: dict[str, np.ndarray]) -> dict[str, list[str]]:
    return {name: ["not stated" if np.isnan(rate) else f"{100 * rate:.1f} %" for rate in of]
            for name, of in rates.items()}


def _two_lines(name: str, longest: int = 60) -> str:
    lines = textwrap.wrap(name, longest)
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"…{name[1 - longest:]}"])


def _finish_bars(axes: Axes, title: str, unit: str, formatter: object) -> None:
    axes.set_title(title, fontsize=LARGE)
    axes.set_xlabel(unit, fontsize=NORMAL)
    axes.tick_params(axis="x", labelsize=SMALL)
    if formatter is not None:
        axes.xaxis.set_major_formatter(formatter)
    axes.spines[["top", "right"]].set_visible(False)
    _light_grid(axes, "x")


def _finish_columns(axes: Axes, unit: str = "images") -> None:
    axes.set_ylabel(unit, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.yaxis.set_major_formatter(THOUSANDS)
    axes.spines[["top", "right"]].set_visible(False)
    _light_grid(axes, "y")


def _light_grid(axes: Axes, axis: str) -> None:
    axes.grid(axis=axis, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def _violin(axes: Axes, values: np.ndarray, place: float, colour: str, vertical: bool, width: float = 0.38) -> None:
    """A violin with its median; dots where there are too few values for one."""
    if len(values) > VIOLIN_POINTS:
        values = np.quantile(values, np.linspace(0, 1, VIOLIN_POINTS))
    if len(values) < FEWEST or len(np.unique(values)) < 3:
        across = np.full(len(values), place)
        axes.plot(*((across, values) if vertical else (values, across)), ".", color=colour, markersize=4)
        return
    # `vert` gave way to `orientation` in 3.10, and with it comes a warning
    shape = axes.violinplot(values, [place], widths=width, showextrema=False, **_orientation(vertical))
    for body in shape["bodies"]:
        body.set(facecolor=colour, edgecolor="none", alpha=0.75)
    line, span = [np.median(values)] * 2, [place - width / 2, place + width / 2]
    axes.plot(*((span, line) if vertical else (line, span)), color="black", linewidth=1.1)


def _orientation(vertical: bool) -> dict:
    if "orientation" in inspect.signature(Axes.violinplot).parameters:
        return {"orientation": "vertical" if vertical else "horizontal"}
    return {"vert": vertical}


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
    # one wild value must not squeeze all others into one bin
    inner = np.quantile(values, (0.001, 0.999)) if len(values) > 1000 else (low, high)
    if inner[0] < inner[1]:
        low, high = inner
    return np.linspace(low, high, max(fewest, min(most, int(np.sqrt(len(values))))) + 1)


def _show_picture(axis: Axes, picture: np.ndarray, text: str, style: dict) -> None:
    axis.set_title(text, fontsize=SMALL)
    if np.isfinite(picture).all():
        axis.imshow(picture, **style)
    else:
        axis.imshow(np.ones((2, 2)), cmap="gray", vmin=0, vmax=1.1)
        axis.text(0.5, 0.5, "none", ha="center", va="center", fontsize=SMALL)


def _frame(shape: tuple[int, ...]) -> Rectangle:
    return Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, edgecolor=ORANGE, linewidth=1.2)


def shorten_names(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Names without the middle of long ones; dollar signs are escaped, because they would begin a formula."""
    return [shorten(str(name), longest).replace("$", r"\$") for name in names]
