"""Paired comparison of two models on the same images: the difference, its interval, and the data needed to find it."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from scoring.confidence_intervals import LEVEL, difference_draws, percentile_interval
from scoring.metrics import METRICS

REPLICATES = 4000  # so many that a p-value of 0.05 has an error of 0.007
POWER = 0.8
# the true difference, in standard errors, that is found at 5 % with this power: 2.80
DETECTABLE = norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)


@dataclass(frozen=True)
class Comparison:
    """A metric of two models on the same rows. Differences are the first's score minus the second's."""

    metric_name: str
    score: float
    baseline: float
    low: float            # of the 95 % interval of the difference
    high: float
    error: float          # standard error of the difference
    p: float              # two-sided, of no difference; it, the error and the interval by a bootstrap over groups
    groups: int

    @property
    def difference(self) -> float:
        return self.score - self.baseline

    @property
    def winner(self) -> int:
        """1 if the first is better and the interval excludes 0, -1 if the second is, else 0."""
        if np.isnan(self.low) or self.low <= 0 <= self.high:
            return 0
        return METRICS[self.metric_name].sign * int(np.sign(self.difference))

    @property
    def smallest_difference(self) -> float:
        """The true difference that is detected on such data with 80 % power at a level of 5 %."""
        return DETECTABLE * self.error

    @property
    def groups_needed(self) -> float:
        """The number of groups needed to detect a true difference of this size with 80 % power; inf for 0."""
        return self.groups * (self.smallest_difference / abs(self.difference)) ** 2 if self.difference else np.inf


def compare(metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray, task: str,
            groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Comparison:
    """The comparison of two models' values (N, K), probabilities or decisions as the metric takes them.

    targets: (N, K) 0, 1 or NaN;  groups: (N,), drawn whole. Raises ValueError if the metric does not fit the task.
    """
    differences = difference_draws(metric_name, targets, values, baseline, task, groups, replicates, seed)
    low, high = percentile_interval(differences)
    defined = differences[~np.isnan(differences)]
    scores = [METRICS[metric_name].score(targets, each, task) for each in (values, baseline)]
    return Comparison(
        metric_name, *scores, low, high,
        error=float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
        p=float("nan") if np.isnan(low) else bootstrap_p(defined),
        groups=len(np.unique(groups)))


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value: below 0.05 if the 95 % percentile interval of the replicates (R,) excludes 0.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 4.4 (the +1) and 5.3
    """
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (1 + int(beyond)) / (len(differences) + 1))


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number: at 0.05, the chance of any false positive among them is at most 5 %.

    NaN stays NaN and does not count.
    Source: Holm 1979, https://www.jstor.org/stable/4615733
    """
    known = [index for index in np.argsort(p_values) if not np.isnan(p_values[index])]
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for place, index in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
