"""Paired comparisons of runs: which one is better beyond noise."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from common.console import fit_width, interval, make_console, number
from competition import Competition
from results.adopted_rules import metric_values
from results.runs import Oof, run_folder, train_command
from results.workspace import Workspace
from scoring.metrics import METRICS
from scoring.model_comparison import Comparison, compare, holm


@dataclass(frozen=True)
class ScoredRun:
    """A run with its score and the values that the metric scores, (N, K) in the order of the table."""

    oof: Oof
    values: np.ndarray
    score: float


def show_comparison(workspace: Workspace, names: list[str]) -> pd.DataFrame:
    """Compares the first run with each of the others, prints the results and returns them, one row for each run.

    Raises ValueError if fewer than two runs are named or one lacks folds.
    """
    competition = workspace.competition
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise ValueError("a comparison needs at least two runs: --compare lite0 cnn_e")
    first, *others = (score_run(workspace, name) for name in names)
    comparisons = [compare(competition.metric, workspace.targets, first.values, other.values, competition.task,
                           workspace.groups)
                   for other in tqdm(others, desc="comparing", unit="run", leave=False, disable=None)]
    _show_comparisons(competition, names, comparisons)
    return pd.DataFrame([{
        "run": names[0], "against": name, "score": each.score, "against_score": each.baseline,
        "difference": each.difference, "low": each.low, "high": each.high, "p": each.p,
        "winner": each.winner, "smallest_difference": each.smallest_difference, "groups": each.groups,
        "groups_needed": each.groups_needed,
    } for name, each in zip(names[1:], comparisons, strict=True)])


def score_run(workspace: Workspace, name: str) -> ScoredRun:
    """A complete run or blend with its score. Raises ValueError if the name is unknown or folds are missing."""
    competition, known = workspace.competition, workspace.runs
    if name not in known:
        raise ValueError(f"there is no run {name!r} in {run_folder(competition, '')}; there are {', '.join(known)}")
    oof = workspace.oof(name)
    if not oof.is_whole:
        raise ValueError(f"run {name!r} lacks the folds {list(oof.folds_missing)}; scores of other images cannot be "
                         f"compared. Run: {train_command(competition, oof.name, oof.folds_missing)}")
    values = metric_values(workspace, oof)
    return ScoredRun(oof, values, METRICS[competition.metric].score(workspace.targets, values, competition.task))


def _show_comparisons(competition: Competition, names: list[str], comparisons: list[Comparison]) -> None:
    metric, several = METRICS[competition.metric], len(comparisons) > 1
    shown = Table("against", f"{names[0]}\nminus this", "95 % interval", "p", *(["p (Holm)"] * several), "verdict",
                  metric.title, "smallest detectable\ndifference",
                  title=f"{competition.name}: {names[0]}, {metric.title} {comparisons[0].score:.4f}, against others")
    corrected = holm([each.p for each in comparisons])
    for name, each, holms in zip(names[1:], comparisons, corrected, strict=True):
        shown.add_row(name, number(each.difference, sign="+"), interval(each.low, each.high, sign="+"),
                      *(_format_p(p) for p in [each.p, *([holms] * several)]), _verdict(names[0], name, each),
                      number(each.baseline), number(each.smallest_difference))
    console = make_console()
    fit_width(shown, console, keep=5 + several)
    console.print(shown)
    for name, each in zip(names[1:], comparisons, strict=True):
        if each.winner == 0 and np.isfinite(each.groups_needed):
            print(f"{names[0]} against {name}: if the true difference is {abs(each.difference):.4f}, as observed, "
                  f"about {max(0, each.groups_needed - each.groups):,.0f} more patients in addition to these "
                  f"{each.groups:,} are needed to detect it (80 % power at 5 %)")
    print(f"Paired over {comparisons[0].groups:,} groups: both runs are scored on the same resampled patients. The "
          "test does not include the variation over seeds of training: train with another seed to see it "
          "(--set seed=1).")


def _format_p(p: float) -> str:
    return "-" if np.isnan(p) else f"{p:.4f}" if p >= 1e-4 else "< 0.0001"


def _verdict(name: str, other: str, comparison: Comparison) -> str:
    return {1: f"{name} is better", -1: f"{other} is better", 0: "no difference beyond noise"}[comparison.winner]
