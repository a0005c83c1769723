"""What a way of blending gains over the plain mean: naive, cross-fitted, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from scoring.blending import FITTED
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
    """A method's scores and gains; a gain is positive where the method is better, whichever way the metric runs."""

    method: str
    naive: float  # fitted on all rows, scored on all rows
    crossfitted: float  # fitted on the other folds, scored on the held-out one
    naive_gain: float  # over the mean
    gain: float  # of the cross-fitted score over the mean
    interval: tuple[float, float]  # of the cross-fitted gain alone
    joint_low: float  # a lower end that holds for the gains of all methods at once; the mean's own is 0
    over_best: float  # cross-fitted score over the best member
    over_best_interval: tuple[float, float]

    @property
    def optimism(self) -> float:
        """What scoring a fit on its own rows makes of it."""
        return self.naive_gain - self.gain

    @property
    def is_credible(self) -> bool:
        """True where the cross-fitted gain is above 0, though so many methods were tried."""
        return self.joint_low > 0


def measure_gains(metric_name: str, task: str, targets: np.ndarray, groups: np.ndarray, naive: Mapping[str, np.ndarray],
                  crossfitted: Mapping[str, np.ndarray], best_member: np.ndarray,
                  ranked: tuple[np.ndarray, np.ndarray] | None = None, replicates: int = REPLICATES) -> list[Gain]:
    """One Gain a method, in the order of `naive`, which has the method "mean" as all are compared with it.

    naive, crossfitted: method -> (N, K) what the metric takes, probabilities or decisions; best_member: the same of the
    best member; ranked: the cross-fitted mean and the best member ranked within folds, with which "rank_mean" is
    compared where they are given: ranks even out that each fold's model has a scale of its own, which lifts the score
    of all images together but no image of the test part, where there are no folds.
    groups: (N,), drawn whole, the same for all methods. The fits are not drawn anew. Instead the errors of fitted
    methods are stretched by FIT_ERROR_STRETCH: of two folds each is scored by a fit on the other, so that what they
    have in common by chance counts twice, and where there is nothing to gain the variance is twice what drawing images
    alone shows. (A sum over pairs (i, j) that is drawn over i with the fits on j held fixed.) Where much is gained the
    intervals come out too wide. tests/benchmarks/null_blend.py measures both.
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
            stretch = FIT_ERROR_STRETCH if method in FITTED else 1
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
    """(m,) lower ends that lie below all m true gains at once in (1 + level) / 2 of cases, 97.5 % for the usual 95 %.

    gains: (m,);  drawn: (m, R) the same in every bootstrap replicate. Each gain less so many of its standard errors as
    the greatest of the m standardised errors exceeds in 2.5 % of the replicates. The methods' gains go up and down
    together, so that is fewer than Bonferroni asks for; and his percentiles, 0.4 % for six methods, would rest on the
    four lowest of 1000 replicates. NaN where a tenth of the replicates have no score.
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
