"""Comparison of runs: paired differences with intervals, and a forecast of public and private scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from common.commands import command_line
from common.console import make_console
from common.files import write_csv
from competition import Competition
from data.folds import fold_numbers
from data.tables import read_part, read_sample, scored_targets, submitted_part
from reporting.forecast_plot import plot_forecast
from results.adopted_rules import metric_values, rule_for
from results.runs import Oof, list_runs, read_oof, read_predictions, run_folder, train_command
from scoring.metrics import METRICS
from scoring.model_comparison import Comparison, compare, holm
from scoring.score_forecast import PUBLIC_SHARE, REPLICATES, Forecast, fold_mean_gain, forecast

MOST = 10  # runs in a forecast, the best by cross-validation


@dataclass(frozen=True)
class ScoredRun:
    """A run with what the competition's metric takes of it, (N, K) in the order of the table."""

    oof: Oof
    values: np.ndarray
    score: float


def show_comparison(competition: Competition, table: pd.DataFrame, folds_hash: str, names: list[str]) -> pd.DataFrame:
    """Prints the first run against each other one; returns the comparisons, a row each.

    Raises ValueError where fewer than two runs are named or one lacks folds.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise ValueError("a comparison needs two runs or more: --compare lite0 cnn_e")
    runs = {name: _read(competition, table, folds_hash, name) for name in names}
    targets, groups = scored_targets(competition, table), table["group"].to_numpy(str)
    first, *others = runs.values()
    comparisons = [compare(competition.metric, targets, first.values, other.values, competition.task, groups)
                   for other in tqdm(others, desc="comparing", unit="run", leave=False, disable=None)]
    _show_comparisons(competition, names, comparisons)
    return pd.DataFrame([{
        "run": names[0], "against": name, "score": each.score, "against_score": each.baseline,
        "difference": each.difference, "low": each.low, "high": each.high, "p": each.p,
        "winner": each.winner, "smallest_difference": each.smallest_difference,
        "groups": each.groups, "groups_needed": each.groups_needed,
    } for name, each in zip(names[1:], comparisons, strict=True)])


def _read(competition: Competition, table: pd.DataFrame, folds_hash: str, name: str) -> ScoredRun:
    known = list_runs(competition)
    if name not in known:
        raise ValueError(f"there is no run {name!r} in {run_folder(competition, '')}; there are {', '.join(known)}")
    oof = read_oof(competition, name, table, folds_hash)
    if not oof.is_whole:
        raise ValueError(f"run {name!r} lacks the folds {list(oof.folds_missing)}; scores of other images cannot be "
                         f"compared. Run: {train_command(competition, oof.name, oof.folds_missing)}")
    targets = scored_targets(competition, table)
    values = metric_values(competition, oof, targets, fold_numbers(table, oof.split))
    return ScoredRun(oof, values, METRICS[competition.metric].score(targets, values, competition.task))


def _show_comparisons(competition: Competition, names: list[str], comparisons: list[Comparison]) -> None:
    metric, several = METRICS[competition.metric], len(comparisons) > 1
    shown = Table("against", f"{metric.title}", f"{names[0]} minus it", "95 % interval", "p", *(["p (Holm)"] * several),
                  "smallest difference\nthese patients show", "verdict",
                  title=f"{competition.name}: {names[0]}, {metric.title} {comparisons[0].score:.4f}, against others")
    corrected = holm([each.p for each in comparisons])
    for name, each, holms in zip(names[1:], comparisons, corrected, strict=True):
        p_values = [each.p, *([holms] * several)]
        shown.add_row(name, f"{each.baseline:.4f}", f"{each.difference:+.4f}", f"{each.low:+.4f} to {each.high:+.4f}",
                      *(_p_text(p) for p in p_values), f"{each.smallest_difference:.4f}",
                      winner_text(names[0], name, each))
    make_console().print(shown)
    for name, each in zip(names[1:], comparisons, strict=True):
        if each.winner == 0 and np.isfinite(each.groups_needed):
            print(f"{names[0]} against {name}: were the true difference the {abs(each.difference):.4f} seen here, "
                  f"{max(0, each.groups_needed - each.groups):,.0f} more patients beside these {each.groups:,} would "
                  f"show it (80 % power at 5 %)")
    print(f"Paired bootstrap over {comparisons[0].groups:,} groups, drawn whole. The intervals are "
          "about which patients are scored; what another seed would change is not in them.")


def _p_text(p: float) -> str:
    return "-" if np.isnan(p) else f"{p:.4f}" if p >= 1e-4 else "< 0.0001"


def winner_text(name: str, other: str, comparison: Comparison) -> str:
    """The verdict in words."""
    return {1: f"{name} is better", -1: f"{other} is better", 0: "no difference beyond noise"}[comparison.winner]


def show_forecast(competition: Competition, data_dir: Path, table: pd.DataFrame, folds_hash: str,
                  solution: pd.DataFrame | None, numbers: list[float]) -> pd.DataFrame:
    """Prints, writes and draws what the best runs' public and private scores will be; returns it, a row a run.

    numbers: as given with --forecast. Writes forecast.csv and forecast.png beside the runs. A solution is reported
    beside the forecast and changes nothing in it. Raises ValueError where no run has all folds.
    """
    ids = _test_ids(competition, data_dir, solution)
    images, share = _sizes(competition, ids, solution, numbers)
    runs = _read_best(competition, table, folds_hash)
    groups = table["group"].to_numpy(str)
    seen = forecast(competition.metric, scored_targets(competition, table), [run.values for run in runs],
                    competition.task, groups, images, share)
    gains = _read_gains(competition, table, groups, runs, ids, images)
    if not np.isnan(gains).all():
        least = gains[np.nanargmin(gains.mean(axis=1))]  # so that no run is ahead for being less known
        seen = seen.raised(np.where(np.isnan(gains), least, gains))
    rows = [{"run": run.oof.name, "cv": run.score, "fold_mean": gains[m].mean(), **_intervals(seen, m),
             "beats_first": seen.chance(m, 0), "is_best": best, **_known_scores(competition, table, run, solution)}
            for m, (run, best) in enumerate(zip(runs, seen.chances_of_first(), strict=True))]
    frame = pd.DataFrame(rows)
    _show_forecast(competition, frame, seen)
    folder = run_folder(competition, "")
    write_csv(folder / "forecast.csv", frame, float_format="%.6g")
    plot_forecast(folder / "forecast.png", frame, seen, METRICS[competition.metric].title)
    print(f"all columns: {folder / 'forecast.csv'}; a picture: {folder / 'forecast.png'}")
    return frame


def _test_ids(competition: Competition, data_dir: Path, solution: pd.DataFrame | None) -> pd.Series | None:
    """The images that are submitted; None where there is no such part."""
    if solution is not None:
        return solution["image_id"]
    if (sample := read_sample(competition, data_dir)) is not None:
        return sample[competition.id_column]
    part = submitted_part(competition)
    return read_part(competition, data_dir, part)["image_id"] if part else None


def _sizes(competition: Competition, ids: pd.Series | None, solution: pd.DataFrame | None,
           numbers: list[float]) -> tuple[int, float]:
    """Test images and the public share: as asked for, else as the competition has it."""
    if len(numbers) > 2:
        raise ValueError("--forecast takes the number of test images and the public share: --forecast 5000 0.3")
    if not numbers and ids is None:
        raise ValueError(f"competition {competition.name!r} has no test part; say how many images: --forecast 5000 0.3")
    images = numbers[0] if numbers else len(ids)
    if not 2 <= images < np.inf or images != int(images):
        raise ValueError(f"--forecast {images:g}: the first number counts test images, 2 or more; the second is the "
                         "public share of them, between 0 and 1")
    share = PUBLIC_SHARE
    if len(numbers) == 2:
        share = numbers[1]
    elif solution is not None and {*solution["usage"]} == {"Public", "Private"}:
        share = float((solution["usage"] == "Public").mean())
    return int(images), share


def _read_gains(competition: Competition, table: pd.DataFrame, groups: np.ndarray, runs: list[ScoredRun],
                ids: pd.Series | None, images: int) -> np.ndarray:
    """(M, R) what the mean of all folds' models adds to each AUC; NaN where that cannot be told.

    That is for other metrics, for runs that have predicted no test images, and for ranks, whose spread says nothing.
    """
    gains = np.full((len(runs), REPLICATES), np.nan)
    if competition.metric == "roc_auc" and ids is not None:
        for m, run in enumerate(tqdm(runs, desc="mean of folds", unit="run", leave=False, disable=None)):
            probs = read_predictions(competition, run.oof, submitted_part(competition), ids)
            if probs is not None and "rank" not in run.oof.kind:
                gains[m] = fold_mean_gain(scored_targets(competition, table), run.oof.probs, probs, groups, images)[1]
    return gains


def _read_best(competition: Competition, table: pd.DataFrame, folds_hash: str) -> list[ScoredRun]:
    """The best whole runs and blends by their out-of-fold scores, best first; stale and unfinished ones are named."""
    runs = []
    for name in tqdm(list_runs(competition), desc="reading", unit="run", leave=False, disable=None):
        try:
            runs.append(_read(competition, table, folds_hash, name))
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


def _known_scores(competition: Competition, table: pd.DataFrame, run: ScoredRun,
                  solution: pd.DataFrame | None) -> dict[str, float]:
    """What the run scored on the parts of the solution, for reporting; empty without one or without predictions."""
    if solution is None or {*solution["usage"]} != {"Public", "Private"}:
        return {}
    if (probs := read_predictions(competition, run.oof, "test", solution["image_id"])) is None:
        return {}
    metric, truth = METRICS[competition.metric], scored_targets(competition, solution)
    rule = rule_for(competition, run.oof, metric.uses, submitted=True)
    values = rule.fit(scored_targets(competition, table), run.oof.probs).apply(probs)
    return {usage.lower() + "_was": metric.score(truth[rows], values[rows], competition.task)
            for usage in ("Public", "Private") if len(rows := np.flatnonzero(solution["usage"] == usage))}


def _show_forecast(competition: Competition, frame: pd.DataFrame, seen: Forecast) -> None:
    metric, (public, private) = METRICS[competition.metric], seen.images
    known = [usage for usage in ("public_was", "private_was") if usage in frame]
    shown = Table("run", f"CV {metric.title}", "mean of\nfolds adds", f"public, n {public:,}",
                  f"private, n {private:,}", "private - public", f"beats {frame['run'][0]}\non private", "best of all",
                  *(each.replace("_", " ") for each in known),
                  title=f"{competition.name}: forecast for {public + private:,} test images, 95 % intervals")
    for m, row in enumerate(frame.to_dict("records")):
        ends = [f"{row[f'{name}_low']:{sign}.4f} to {row[f'{name}_high']:{sign}.4f}"
                for name, sign in (("public", ""), ("private", ""), ("gap", "+"))]
        gain = "-" if np.isnan(row["fold_mean"]) else f"{row['fold_mean']:+.4f}"
        shown.add_row(row["run"], f"{row['cv']:.4f}", gain, *ends, f"{row['beats_first']:.0%}" if m else "",
                      f"{row['is_best']:.0%}", *("-" if pd.isna(row[each]) else f"{row[each]:.4f}" for each in known))
    make_console().print(shown)
    for line in forecast_lines(frame["run"].tolist(), seen):
        print(line)


def forecast_lines(names: list[str], seen: Forecast) -> list[str]:
    """What follows from a forecast, in sentences; names: the runs, best first."""
    first, lines = names[0], []
    if (undefined := float(np.isnan(seen.public[0]).mean())) > 0:
        lines.append(f"In {undefined:.0%} of the draws the {seen.images[0]} public images lack a class and have no "
                     "score: that part is too small to say anything.")
    low, high = seen.interval(seen.private[0] - seen.public[0])
    lines.append(f"By noise alone {first} may score {low:+.4f} to {high:+.4f} on private beside public: a gap inside "
                 "that is no shake-up.")
    weight, (middle, _) = seen.public_weight(0), seen.interval(seen.private[0], 0)
    lines.append(f"A public score counts {weight:.2f} beside {1 - weight:.2f} for CV: for {first} guess {middle:.4f} + "
                 f"{weight:.2f} x (public - {middle:.4f}) on private. One outside its interval above says that the "
                 "test images are others than these: believe it then for the level, but not for the order of runs.")
    if len(names) > 1:
        weight = seen.public_weight(0, 1)
        noise = 1.96 * float(np.nanstd(seen.public_draws[0] - seen.public_draws[1]))
        lines.append(f"Between {first} and {names[1]} the public difference counts {weight:.2f} beside "
                     f"{1 - weight:.2f} for CV's; one below {noise:.4f} is noise.")
        lines.append(f"{first} was chosen for its CV among {len(names)}: by that alone its CV is about "
                     f"{max(0.0, seen.optimism()):.4f} too good.")
    if len(names) > 1 and not np.isnan(seen.private).any(axis=0).all():
        a, b, gain = seen.choose_two()
        lines.append(f"Select {names[a]} and {names[b]}: of all pairs, the better one of these two has the best "
                     f"expected private score, by {gain:.4f} better than the best run alone.")
    lines.append("All this assumes test images like the training images. And the mean of all folds' models predicts "
                 "test images, better than the one model that CV has, most of all where models are unstable. What that "
                 "adds is told by the spread of the test predictions. Where it is told above, it is in the forecast; "
                 "where not, the least of the others' is; if none is, expect more, and take chances between runs of "
                 "different kinds as rough.")
    return lines
