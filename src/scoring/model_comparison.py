"""Two models on the same images: which is better, whether that is more than noise, and what would have to be seen."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from scoring.bootstrap_metrics import RANKED, make_tally
from scoring.confidence_intervals import CHUNK_BYTES, LEVEL, bootstrap_scores, difference_draws, percentile_interval
from scoring.delong import macro_auc_difference
from scoring.metrics import METRICS

REPLICATES = 4000  # of a comparison: enough for a p-value of 0.05 to be good to 0.007
POWER = 0.8
# how many standard errors a true difference must have to be found, at 5 %, in four of five repetitions: 2.80
FINDABLE = norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)


@dataclass(frozen=True)
class Comparison:
    """A metric of two models on the same rows. Differences are the first's score minus the second's."""

    metric_name: str
    score: float
    baseline: float
    low: float            # of the 95 % interval of the difference
    high: float
    error: float          # standard error of the difference, both by the bootstrap over groups
    p: float              # two-sided, of no difference, by the same bootstrap
    p_swapped: float      # by swapping the models' predictions group by group; NaN for scores of order
    p_delong: float       # by DeLong's or Obuchowski's formula; NaN for all but ROC AUC
    groups: int

    @property
    def difference(self) -> float:
        return self.score - self.baseline

    @property
    def winner(self) -> int:
        """1 where the first is better beyond noise, -1 where the second is, 0 where there is no telling."""
        if np.isnan(self.low) or self.low <= 0 <= self.high:
            return 0
        return 1 if (self.difference > 0) == METRICS[self.metric_name].greater_is_better else -1

    @property
    def smallest_difference(self) -> float:
        """The true difference that data like these show in 80 % of all repetitions, at 5 %."""
        return FINDABLE * self.error

    @property
    def groups_needed(self) -> float:
        """So many groups in all would show, with 80 % power, a true difference as large as the one seen; inf for 0."""
        return self.groups * (self.smallest_difference / abs(self.difference)) ** 2 if self.difference else np.inf


def compare(metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray, task: str,
            groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Comparison:
    """The comparison of two models' values (N, K), probabilities or decisions as the metric takes them.

    Raises ValueError where the metric is unknown or not for this task.
    """
    differences = difference_draws(metric_name, targets, values, baseline, task, groups, replicates, seed)
    low, high = percentile_interval(differences)
    defined = differences[~np.isnan(differences)]
    scores = [METRICS[metric_name].score(targets, each, task) for each in (values, baseline)]
    return Comparison(
        metric_name, *scores, low, high,
        error=float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
        p=float("nan") if np.isnan(low) else bootstrap_p(defined),
        p_swapped=swapped_p(metric_name, targets, values, baseline, task, groups, replicates, seed),
        p_delong=macro_auc_difference(targets, values, baseline, groups)[2] if metric_name == "roc_auc" else np.nan,
        groups=len(np.unique(groups)))


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value: below 0.05 where the 95 % percentile interval of the replicates (R,) leaves out 0.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 4.4 (the +1) and 5.3
    """
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (1 + int(beyond)) / (len(differences) + 1))


def swapped_p(metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray, task: str,
              groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> float:
    """Two-sided p-value: how often a difference this large comes when each group's two predictions are swapped at will.

    Were the models equal, it would not matter which one's predictions a group has. NaN for scores of order (ROC AUC):
    two models' probabilities need not be on one scale, and mixed they would not be a ranking.
    Source: the paired permutation test, Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses
    """
    if metric_name in RANKED:
        return float("nan")
    tallies = [make_tally(metric_name, targets, each, task) for each in (values, baseline)]
    number = np.unique(groups, return_inverse=True)[1]
    count, width = number.max() + 1, tallies[0].cells.shape[1]
    moved = np.zeros((count, width))
    np.add.at(moved, number, tallies[1].cells - tallies[0].cells)
    ours, theirs = (tally.cells.sum(axis=0, keepdims=True) for tally in tallies)
    seen, rng, as_large = tallies[0].score(ours)[0] - tallies[0].score(theirs)[0], np.random.default_rng(seed), 0
    if np.isnan(seen):
        return float("nan")
    at_once = max(1, CHUNK_BYTES // (8 * count))
    for first in range(0, replicates, at_once):
        swaps = rng.integers(2, size=(min(at_once, replicates - first), count)).astype(float) @ moved
        drawn = tallies[0].score(ours + swaps) - tallies[0].score(theirs - swaps)
        as_large += int((np.abs(drawn) >= abs(seen) - 1e-12).sum())  # rounding must not make equal ones smaller
    return (1 + as_large) / (replicates + 1)


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for being several: with these, one false alarm in all of them comes 5 % of the time.

    Source: Holm 1979, https://www.jstor.org/stable/4615733
    """
    known = [index for index in np.argsort(p_values) if not np.isnan(p_values[index])]
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for place, index in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


@dataclass(frozen=True)
class Spread:
    """Where a score's uncertainty comes from, as standard deviations of the score; NaN where it cannot be known."""

    sample: float         # which groups are scored: the bootstrap
    folds: float          # between the scores of single folds
    folds_by_sample: float  # what of that comes from each fold's being few groups
    seeds: float          # between runs that differ in the seed only, scored on the same rows
    seed_count: int

    @property
    def training(self) -> float:
        """What the folds' scores differ by beyond sampling, their models having learned from other images; rough."""
        return float(np.sqrt(max(0.0, self.folds**2 - self.folds_by_sample**2)))


def split_variance(metric_name: str, targets: np.ndarray, values: np.ndarray, task: str, groups: np.ndarray,
                   folds: np.ndarray, seed_scores: list[float], seed: int = 0) -> Spread:
    """The spread of a run's score. folds: (N,) numbers;  seed_scores: of the run and its twins with other seeds."""
    scores, errors = [], []
    for fold in np.unique(folds):
        rows = folds == fold
        scores.append(METRICS[metric_name].score(targets[rows], values[rows], task))
        errors.append(_error(metric_name, targets[rows], values[rows], task, groups[rows], seed))
    known = ~np.isnan(scores) & ~np.isnan(errors)
    return Spread(
        sample=_error(metric_name, targets, values, task, groups, seed),
        folds=float(np.std(np.array(scores)[known], ddof=1)) if known.sum() > 1 else float("nan"),
        folds_by_sample=float(np.sqrt(np.mean(np.array(errors)[known] ** 2))) if known.sum() > 1 else float("nan"),
        seeds=float(np.std(seed_scores, ddof=1)) if len(seed_scores) > 1 else float("nan"),
        seed_count=len(seed_scores))


def _error(metric_name: str, targets: np.ndarray, values: np.ndarray, task: str, groups: np.ndarray,
           seed: int) -> float:
    scores = bootstrap_scores(metric_name, targets, values, task, groups, seed=seed)
    return float(np.nanstd(scores)) if not np.isnan(scores).all() else float("nan")
