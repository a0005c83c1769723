"""The gain of each blending method over the plain mean: naive, cross-fitted, and its uncertainty."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from scoring.blending import METHODS
from scoring.confidence_intervals import (
    LEVEL,
    MAX_UNDEFINED,
    REPLICATES,
    bootstrap_scores,
    percentile_interval,
    widen_differences,
)
from scoring.metrics import METRICS

FIT_ERROR_STRETCH = np.sqrt(2)  # see measure_gains


@dataclass(frozen=True)
class Gain:
    """A method's scores and gains; a positive gain is better, also for metrics where less is better."""

    method: str
    naive: float  # fitted on all rows, scored on all rows
    crossfitted: float  # fitted on the other folds, scored on the held-out one
    naive_gain: float  # over the mean
    gain: float  # of the cross-fitted score over the mean
    interval: tuple[float, float]  # of the cross-fitted gain alone
    joint_low: float  # a simultaneous lower bound for the gains of all methods; the mean's own is 0
    over_best: float  # gain of the cross-fitted score over the best member
    over_best_interval: tuple[float, float]

    @property
    def optimism(self) -> float:
        """How much higher the gain is if the method is scored on the rows it was fitted on."""
        return self.naive_gain - self.gain

    @property
    def is_credible(self) -> bool:
        """True if the cross-fitted gain is above 0, corrected for the number of methods."""
        return self.joint_low > 0


def measure_gains(metric_name: str, task: str, targets: np.ndarray, groups: np.ndarray, naive: Mapping[str, np.ndarray],
                  crossfitted: Mapping[str, np.ndarray], best_member: np.ndarray,
                  ranked: tuple[np.ndarray, np.ndarray] | None = None, replicates: int = REPLICATES) -> list[Gain]:
    """One Gain for each method, in the order of `naive`, which contains "mean", the baseline.

    The fits are not repeated for the replicates. Instead the errors of fitted methods are multiplied by
    FIT_ERROR_STRETCH: each fold is scored by a fit on the others, so a chance agreement of two folds counts twice, and
    without any true gain the variance is twice that of drawing images alone (a sum over pairs (i, j) that is drawn over
    i, with the fits on j fixed). With a large gain the intervals are too wide. tests/benchmarks/null_blend.py measures
    both.

    Parameters
    ----------
    groups : (N,), drawn whole, the same for all methods
    naive, crossfitted : by method (N, K) what the metric takes, probabilities or decisions
    best_member : (N, K) the same of the best member
    ranked : the cross-fitted mean and the best member ranked within folds, the baselines of "rank_mean"; ranks remove
        differences of scale between the folds' models, which raises the score of all training images together, but not
        that of the test part, where all models are averaged
    """
    metric = METRICS[metric_name]
    sign = metric.sign
    scores = {method: (metric.score(targets, naive[method], task), metric.score(targets, crossfitted[method], task))
              for method in naive}
    drawn = {method: bootstrap_scores(metric_name, targets, crossfitted[method], task, groups, replicates)
             for method in tqdm(naive, desc="drawing patients", unit="method", leave=False, disable=None)}

    def over(plain: np.ndarray, ranked: np.ndarray | None) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Every method's cross-fitted gain over a baseline, and its replicates (R,)."""
        gains, gains_drawn = {}, {}
        for method in naive:
            baseline = ranked if method == "rank_mean" and ranked is not None else plain
            baseline_drawn = bootstrap_scores(metric_name, targets, baseline, task, groups, replicates)
            gains[method] = gain = sign * (scores[method][1] - metric.score(targets, baseline, task))
            stretch = FIT_ERROR_STRETCH if METHODS[method].fit else 1
            gain_drawn = gain + stretch * (sign * (drawn[method] - baseline_drawn) - gain)
            gains_drawn[method] = widen_differences(metric_name, targets, crossfitted[method], baseline, groups, gain,
                                                    gain_drawn)
        return gains, gains_drawn
    ranked_mean, ranked_best = (None, None) if ranked is None else ranked
    gains, gains_drawn = over(crossfitted["mean"], ranked_mean)
    over_best, over_best_drawn = over(best_member, ranked_best)
    others = [method for method in naive if method != "mean"]
    lows = {"mean": 0.0, **dict(zip(others, joint_lower_bounds(
        np.array([gains[method] for method in others]),
        np.array([gains_drawn[method] for method in others])), strict=True))}
    return [Gain(method, *scores[method], gains[method] + sign * (scores[method][0] - scores[method][1]), gains[method],
                 percentile_interval(gains_drawn[method]), lows[method], over_best[method],
                 percentile_interval(over_best_drawn[method])) for method in naive]


def joint_lower_bounds(gains: np.ndarray, drawn: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """(m,) simultaneous lower bounds: all m true gains lie above them in (1 + level) / 2 of cases, 97.5 % for 95 %.

    gains: (m,);  drawn: (m, R) the same in every bootstrap replicate. A bound is the gain minus q standard errors, q
    being the quantile of the largest of the m standardised errors. The gains are correlated, so q is smaller than with
    Bonferroni's correction, whose percentiles (0.4 % for six methods) would depend on the four lowest of 1000
    replicates. NaN if more than a tenth of the replicates have no score.
    Source: Romano & Wolf 2005, Stepwise multiple testing as formalized data snooping, section 3 (its first step,
    studentised), https://doi.org/10.1111/j.1468-0262.2005.00615.x
    """
    defined = ~np.isnan(drawn).any(axis=0)
    if 1 - defined.mean() > MAX_UNDEFINED:
        return np.full(len(gains), np.nan)
    errors = drawn[:, defined] - gains[:, None]
    scale = errors.std(axis=1)
    standardised = np.divide(errors, scale[:, None], out=np.zeros_like(errors), where=scale[:, None] > 0)
    return gains - np.quantile(standardised.max(axis=0), (1 + level) / 2) * scale
