"""Expected public and private scores of the best runs: a table, forecast.csv, a plot and advice."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table
from tqdm import tqdm

from common.commands import command_line
from common.console import fit_width, interval, make_console, number
from common.figures import save_figure
from common.files import write_csv
from competition import Competition
from data.tables import scored_targets, submitted_part
from reporting.run_comparison import ScoredRun, score_run
from results.adopted_rules import rule_for
from results.runs import read_predictions, run_folder
from results.workspace import Workspace
from scoring.metrics import METRICS
from scoring.score_forecast import PUBLIC_SHARE, REPLICATES, Forecast, fold_mean_gain, forecast

MOST = 10  # runs in a forecast, the best by cross-validation
# Source of the colours: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
ORANGE, BLUE, GREEN, BLACK = "#E69F00", "#0072B2", "#009E73", "#000000"


def show_forecast(workspace: Workspace, numbers: list[float]) -> pd.DataFrame:
    """Prints, writes and plots the expected public and private scores of the best runs; returns one row for each run.

    numbers: the values of --forecast. Writes forecast.csv and forecast.png to the folder of the runs. If the solution
    is known, its scores are reported too and do not change the forecast.
    Raises ValueError if no run has all folds.
    """
    competition = workspace.competition
    ids = _test_ids(workspace)
    images, share = _sizes(workspace, ids, numbers)
    runs = _read_best(workspace)
    groups = workspace.groups
    seen = forecast(competition.metric, workspace.targets, [run.values for run in runs],
                    competition.task, groups, images, share)
    gains = _read_gains(workspace, runs, ids, images)
    if not np.isnan(gains).all():
        least = gains[np.nanargmin(gains.mean(axis=1))]  # so that a run without an estimate gets no advantage
        seen = seen.raised(np.where(np.isnan(gains), least, gains))
    rows = [{"run": run.oof.name, "cv": run.score, "fold_mean": gains[m].mean(), **_intervals(seen, m),
             "beats_first": seen.chance(m, 0), "is_best": best, **_known_scores(workspace, run)}
            for m, (run, best) in enumerate(zip(runs, seen.chances_of_first(), strict=True))]
    frame = pd.DataFrame(rows)
    _show_forecast(competition, frame, seen)
    folder = run_folder(competition, "")
    write_csv(folder / "forecast.csv", frame, float_format="%.6g")
    plot_forecast(folder / "forecast.png", frame, seen, METRICS[competition.metric].title)
    print(f"all columns: {folder / 'forecast.csv'}; plot: {folder / 'forecast.png'}")
    return frame


def _test_ids(workspace: Workspace) -> pd.Series | None:
    """The ids of the submitted images; None if there is no such part."""
    competition = workspace.competition
    if workspace.test_solution is not None:
        return workspace.test_solution["image_id"]
    if (sample := workspace.sample) is not None:
        return sample[competition.id_column]
    part = submitted_part(competition)
    return workspace.part(part)["image_id"] if part else None


def _sizes(workspace: Workspace, ids: pd.Series | None, numbers: list[float]) -> tuple[int, float]:
    """The number of test images and the public share: from the command line, else from the competition."""
    if len(numbers) > 2:
        raise ValueError("--forecast takes the number of test images and the public share: --forecast 5000 0.3")
    if not numbers and ids is None:
        raise ValueError(f"competition {workspace.competition.name!r} has no test part; give the number of images: "
                         "--forecast 5000 0.3")
    images = numbers[0] if numbers else len(ids)
    if not 2 <= images < np.inf or images != int(images):
        raise ValueError(f"--forecast {images:g}: the first number is the number of test images, 2 or more; the "
                         "second is their public share, between 0 and 1")
    share = PUBLIC_SHARE
    if len(numbers) == 2:
        share = numbers[1]
    elif workspace.test_solution is not None and {*workspace.test_solution["usage"]} == {"Public", "Private"}:
        share = float((workspace.test_solution["usage"] == "Public").mean())
    return int(images), share


def _read_gains(workspace: Workspace, runs: list[ScoredRun], ids: pd.Series | None, images: int) -> np.ndarray:
    """(M, R) gain in AUC from averaging the models of all folds; NaN if it cannot be estimated.

    There is no estimate for other metrics, for runs without test predictions, and for blends of ranks.
    """
    competition = workspace.competition
    gains = np.full((len(runs), REPLICATES), np.nan)
    if competition.metric == "roc_auc" and ids is not None:
        for m, run in enumerate(tqdm(runs, desc="mean of folds", unit="run", leave=False, disable=None)):
            probs = read_predictions(competition, run.oof, submitted_part(competition), ids)
            if probs is not None and "rank" not in run.oof.kind:
                gains[m] = fold_mean_gain(workspace.targets, run.oof.probs, probs, workspace.groups, images)[1]
    return gains


def _read_best(workspace: Workspace) -> list[ScoredRun]:
    """The best complete runs and blends by out-of-fold score, best first; prints the reason for each one left out."""
    competition = workspace.competition
    runs = []
    for name in tqdm(workspace.runs, desc="reading", unit="run", leave=False, disable=None):
        try:
            runs.append(score_run(workspace, name))
        except (ValueError, FileNotFoundError) as error:  # one stale run must not hide all others
            print(f"not counted: {error}")
    runs = [run for run in runs if not np.isnan(run.score)]
    if not runs:
        raise ValueError(f"no run of {competition.name!r} has a score over all folds yet; run: "
                         f"{command_line('train', competition)}")
    sign = -METRICS[competition.metric].sign
    return sorted(runs, key=lambda run: sign * run.score)[:MOST]


def _intervals(seen: Forecast, m: int) -> dict[str, float]:
    gap = seen.private[m] - seen.public[m]
    ends = {}
    for name, draws in (("public", seen.public[m]), ("private", seen.private[m]), ("gap", gap)):
        ends[f"{name}_low"], ends[f"{name}_high"] = seen.interval(draws)
    return ends


def _known_scores(workspace: Workspace, run: ScoredRun) -> dict[str, float]:
    """The run's public and private scores, for reporting; {} without a solution or predictions."""
    competition = workspace.competition
    if workspace.test_solution is None or {*workspace.test_solution["usage"]} != {"Public", "Private"}:
        return {}
    if (probs := read_predictions(competition, run.oof, "test", workspace.test_solution["image_id"])) is None:
        return {}
    metric, truth = METRICS[competition.metric], scored_targets(competition, workspace.test_solution)
    rule = rule_for(workspace, run.oof, metric.uses)
    values = rule.fit(workspace.targets, run.oof.probs).apply(probs)
    return {usage.lower() + "_was": metric.score(truth[rows], values[rows], competition.task)
            for usage in ("Public", "Private")
            if len(rows := np.flatnonzero(workspace.test_solution["usage"] == usage))}


def _show_forecast(competition: Competition, frame: pd.DataFrame, seen: Forecast) -> None:
    metric, (public, private) = METRICS[competition.metric], seen.images
    known = [usage for usage in ("public_was", "private_was") if usage in frame]
    shown = Table("run", f"CV {metric.title}", f"public, n {public:,}", f"private, n {private:,}", "best of all",
                  *(each.replace("_", " ") for each in known), "private - public",
                  f"beats {frame['run'][0]}\non private", "mean of\nfolds adds",
                  title=f"{competition.name}: forecast for {public + private:,} test images, 95 % intervals")
    for m, row in enumerate(frame.to_dict("records")):
        ends = [interval(row[f"{name}_low"], row[f"{name}_high"], sign=sign)
                for name, sign in (("public", ""), ("private", ""), ("gap", "+"))]
        gain = number(row["fold_mean"], sign="+")
        shown.add_row(row["run"], number(row["cv"]), *ends[:2], f"{row['is_best']:.0%}",
                      *(number(row[each]) for each in known), ends[2], f"{row['beats_first']:.0%}" if m else "", gain)
    console = make_console()
    fit_width(shown, console, keep=4)
    console.print(shown)
    for line in forecast_lines(frame["run"].tolist(), seen):
        print(line)


def forecast_lines(names: list[str], seen: Forecast) -> list[str]:
    """Advice that follows from a forecast, one sentence or more a line. names: the runs, best first."""
    first, lines = names[0], []
    if (undefined := float(np.isnan(seen.public[0]).mean())) > 0:
        lines.append(f"In {undefined:.0%} of the replicates the {seen.images[0]} public images lack a class and have "
                     "no score: that part is too small.")
    low, high = seen.interval(seen.private[0] - seen.public[0])
    lines.append(f"By noise alone, private minus public of {first} is between {low:+.4f} and {high:+.4f}: a gap inside "
                 "this interval is not a shake-up.")
    weight, (middle, _) = seen.public_weight(0), seen.interval(seen.private[0], 0)
    lines.append(f"A public score has the weight {weight:.2f}, CV {1 - weight:.2f}: for {first} expect {middle:.4f} + "
                 f"{weight:.2f} x (public - {middle:.4f}) on private. A public score outside its interval above means "
                 "that the test images differ from these: then trust its level, but not the order of runs.")
    if len(names) > 1:
        weight = seen.public_weight(0, 1)
        noise = 1.96 * float(np.nanstd(seen.public_draws[0] - seen.public_draws[1]))
        lines.append(f"Between {first} and {names[1]}, the public difference has the weight {weight:.2f}, that of CV "
                     f"{1 - weight:.2f}; a public difference below {noise:.4f} is noise.")
        lines.append(f"{first} was selected by CV among {len(names)} runs: this selection alone makes its CV about "
                     f"{max(0.0, seen.optimism()):.4f} too optimistic.")
    if len(names) > 1 and not np.isnan(seen.private).any(axis=0).all():
        a, b, gain = seen.choose_two()
        lines.append(f"Select {names[a]} and {names[b]}: the better of these two has the highest expected private "
                     f"score of all pairs, {gain:.4f} better than the best run alone.")
    lines.append("The forecast assumes that test images are like the training images. Test predictions are the mean of "
                 "all folds' models, which scores better than the single models of CV, most of all if they are "
                 "unstable. This gain is estimated from the variance of the test predictions and included in the "
                 "forecast (last column). A run without an estimate gets the smallest of the others; if there is none, "
                 "expect higher scores, and take the chances between runs of different kinds as rough.")
    return lines


def plot_forecast(path: Path, frame: pd.DataFrame, seen: Forecast, title: str) -> Path:
    """Writes a PNG of two panels, one row for each run: scores, and private minus public; returns the path.

    frame: has `run` and, if known, `public_was` and `private_was`;  title: the metric's title.
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
               Line2D([], [], color=GREEN, linewidth=5, label="difference"),
               Line2D([], [], color=BLACK, marker="|", linestyle="", markersize=12, label="CV")]
    if known:
        handles.append(Line2D([], [], color="white", marker="o", markeredgecolor=BLACK, label="actual score"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
                  title="Forecast: 50 % (thick) and 95 % (thin) intervals")
    return save_figure(figure, path)


def _draw_range(axes: Axes, seen: Forecast, draws: np.ndarray, height: float, colour: str) -> None:
    for level, width in ((0.95, 1.8), (0.5, 6.0)):
        axes.plot(seen.interval(draws, level), (height, height), color=colour, linewidth=width, solid_capstyle="butt")
