"""Compares leaderboard scores with cross-validation: slope, rank correlation, outliers, and a plot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import norm, spearmanr, theilslopes

from common.console import make_console, number
from common.figures import save_figure
from common.files import home
from competition import Competition
from scoring.metrics import METRICS
from submitting.ledger import Entry, read_ledger

HALF_WIDTH = norm.ppf(0.975)  # of a 95 % interval, in standard errors
MIN_RUNS = 3                  # for a slope and a correlation
USAGES = ("public", "private")


@dataclass(frozen=True)
class Agreement:
    """How one leaderboard's scores (n,) follow the cross-validated ones."""

    shift: float            # median of score minus CV: how much easier the test part is for all runs
    slope: float            # Theil-Sen: score gained per CV gained; NaN with fewer than MIN_RUNS submissions
    slope_low: float        # its 95 % interval
    slope_high: float
    rank_correlation: float  # Spearman; NaN as above, or if all scores are equal
    residuals: np.ndarray   # (n,) score minus CV minus shift
    allowed: np.ndarray     # (n,) the limit that sampling errors of both exceed in 5 of 100 cases

    @property
    def outliers(self) -> np.ndarray:
        """(n,) bool; False if the interval, and so the limit, is not known."""
        return np.abs(self.residuals) > self.allowed  # NaN compares as False


def compare(cv: np.ndarray, low: np.ndarray, high: np.ndarray, scores: np.ndarray, cv_images: int,
            scored_images: float) -> Agreement:
    """The agreement of scores (n,) with CV (n,) and its 95 % intervals.

    A score's standard error is that of CV times sqrt(cv_images / scored_images); the residual's is the root of the sum
    of both squares. All runs are scored on the same test images, so their residuals vary less than that among each
    other, and the limit is conservative.
    scored_images: NaN if the number is not known; the limit then allows for CV's interval alone.
    Source of the slope: Sen 1968, https://doi.org/10.1080/01621459.1968.10480934
    """
    shift = float(np.median(scores - cv))
    error = (high - low) / (2 * HALF_WIDTH)
    ratio = cv_images / scored_images if scored_images > 0 else 0.0
    slope = slope_low = slope_high = correlation = float("nan")
    if len(cv) >= MIN_RUNS and np.ptp(cv) > 0:
        slope, _, slope_low, slope_high = theilslopes(scores, cv)
        correlation = spearmanr(cv, scores).statistic if np.ptp(scores) > 0 else float("nan")
    return Agreement(shift, float(slope), float(slope_low), float(slope_high), float(correlation),
                     scores - cv - shift, HALF_WIDTH * error * np.sqrt(1 + ratio))


def scored_entries(competition: Competition) -> list[Entry]:
    """The newest scored submission of every run whose CV is known, best CV first."""
    newest = {entry.run: entry for entry in read_ledger(competition)
              if entry.state == "scored" and entry.cv is not None and entry.metric == competition.metric}
    return sorted(newest.values(), key=lambda entry: entry.cv, reverse=METRICS[competition.metric].greater_is_better)


def report_agreement(competition: Competition, cv_images: int, scored_images: dict[str, int]) -> Path | None:
    """Prints CV against public and private for every run in the ledger, and plots it; returns the plot's path.

    cv_images: number of cross-validated images;  scored_images: by part of the test, if the number is known.
    Returns None and prints nothing if the ledger has no score.
    """
    entries = scored_entries(competition)
    agreements = {}
    for usage in USAGES:
        scored = [entry for entry in entries if getattr(entry, usage) is not None]
        if scored:
            columns = [np.array([getattr(entry, name) for entry in scored], float)
                       for name in ("cv", "low", "high", usage)]
            agreements[usage] = scored, compare(*columns, cv_images, scored_images.get(usage, float("nan")))
    if not agreements:
        return None
    console = make_console()
    console.print(_table(competition, entries, agreements))
    for usage, (scored, agreement) in agreements.items():
        console.print(_summary(competition, usage, scored, agreement, usage in scored_images), highlight=False)
    path = home() / "runs" / competition.name / "cv_lb.png"
    save_figure(plot_agreement(competition, agreements), path, dpi=120)
    print(f"plot: {path}")
    return path


def _table(competition: Competition, entries: list[Entry], agreements: dict[str, tuple]) -> Table:
    usages = list(agreements)
    residuals = {}
    for usage, (scored, agreement) in agreements.items():
        found = zip(agreement.residuals, agreement.outliers, strict=True)
        residuals[usage] = dict(zip([entry.run for entry in scored], found, strict=True))
    table = Table("run", "CV", "95 % interval", *(column for usage in usages for column in (usage, "residual")),
                  "scored, UTC",
                  title=f"{competition.name}: {METRICS[competition.metric].title} of submissions")
    for entry in entries:
        cells = []
        for usage in usages:
            residual, is_outlier = residuals[usage].get(entry.run, (None, False))
            cells += [number(getattr(entry, usage)), "-" if residual is None else f"{residual:+.4f}"
                      + (" outlier" if is_outlier else "")]
        is_outlier_row = any(residuals[usage].get(entry.run, (0, False))[1] for usage in usages)
        table.add_row(entry.run, number(entry.cv), f"{number(entry.low)} - {number(entry.high)}", *cells, entry.date,
                      style="yellow" if is_outlier_row else None)
    return table


def _summary(competition: Competition, usage: str, scored: list[Entry], agreement: Agreement, is_counted: bool) -> str:
    text = f"{usage}: {len(scored)} runs; scores lie {agreement.shift:+.4f} from CV (median)"
    if np.isnan(agreement.slope):
        text += f"; slope and correlation need {MIN_RUNS} runs of different CV"
    else:
        text += (f"; slope {agreement.slope:.2f} (95 % {agreement.slope_low:.2f} to {agreement.slope_high:.2f}), rank "
                 f"correlation {agreement.rank_correlation:.2f}")
    outliers = [entry.run for entry, is_outlier in zip(scored, agreement.outliers, strict=True) if is_outlier]
    text += f"; outliers: {', '.join(outliers) or 'none'}"
    return text + ("" if is_counted else " (the number of its images is not known: the limit allows for CV's interval "
                                         "alone)")


def plot_agreement(competition: Competition, agreements: dict[str, tuple[list[Entry], Agreement]]) -> Figure:
    """One panel per leaderboard: the score against CV with its interval; the line is CV plus the shift."""
    figure = Figure(figsize=(6.4 * len(agreements), 6), layout="constrained")
    panels = figure.subplots(1, len(agreements), squeeze=False)[0]
    for axes, (usage, (scored, agreement)) in zip(panels, agreements.items(), strict=True):
        cv, low, high, scores = (np.array([getattr(entry, name) for entry in scored], float)
                                 for name in ("cv", "low", "high", usage))
        outliers = agreement.outliers
        axes.errorbar(cv, scores, xerr=np.nan_to_num([cv - low, high - cv]), fmt="none", ecolor="0.8", elinewidth=1,
                      zorder=1)
        for rows, colour, label in ((~outliers, "tab:blue", "submission"),
                                    (outliers, "tab:red", "outlier")):
            if rows.any():
                axes.scatter(cv[rows], scores[rows], s=26, color=colour, zorder=3, label=label)
        ends = np.array([cv.min(), cv.max()]) + np.array([-1, 1]) * max(0.05 * np.ptp(cv), 1e-3)
        axes.plot(ends, ends + agreement.shift, color="0.4", linewidth=1, zorder=2, label="CV plus the median shift")
        allowed = np.nanmedian(agreement.allowed) if np.isfinite(agreement.allowed).any() else 0.0
        axes.fill_between(ends, ends + agreement.shift - allowed, ends + agreement.shift + allowed, color="0.93",
                          zorder=0, linewidth=0, label="95 % of sampling error")
        for entry, x, y in _labelled(scored, cv, scores, outliers):
            is_right = x > ends.mean()
            axes.annotate(entry.run, (x, y), xytext=(-4 if is_right else 4, 4), textcoords="offset points",
                          ha="right" if is_right else "left", fontsize=7, zorder=4)
        axes.set_xlim(*ends)
        axes.set_xlabel(f"CV {METRICS[competition.metric].title}, bars 95 % (clipped)")
        axes.set_ylabel(f"{usage} score")
        slope = "" if np.isnan(agreement.slope) else (f", slope {agreement.slope:.2f}, rank correlation "
                                                      f"{agreement.rank_correlation:.2f}")
        axes.set_title(f"{usage}: {len(scored)} runs{slope}", fontsize=10)
        axes.legend(fontsize=8, loc="lower right")
        axes.grid(color="0.92", zorder=0)
    figure.suptitle(f"{competition.name}: cross-validation against the leaderboard")
    return figure


def _labelled(scored: list[Entry], cv: np.ndarray, scores: np.ndarray, outliers: np.ndarray) -> list[tuple]:
    """The entries to label: all outliers, then others by CV that are far enough from those labelled."""
    span = np.array([max(np.ptp(cv), 1e-9), max(np.ptp(scores), 1e-9)])
    order = sorted(range(len(scored)), key=lambda i: (not outliers[i], i))
    named = []
    for i in order:
        gaps = [np.abs((np.array([cv[i], scores[i]]) - np.array([cv[j], scores[j]])) / span) for j in named]
        if outliers[i] or all(gap[1] > 0.03 or gap[0] > 0.2 for gap in gaps):
            named.append(i)
    return [(scored[i], cv[i], scores[i]) for i in named]
