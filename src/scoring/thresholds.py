"""Decision thresholds that are best on given predictions, and decisions at thresholds fitted on other folds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoring.metrics import METRICS, Metric, check_metric, decide, f1_cuts

DEFAULT_THRESHOLD = 0.5
PASSES = 50  # over the labels, at most; the search ends long before
PLAIN_CUTS = 50  # cuts of a label that are tried for a metric without counts, which scores all rows for each


def best_threshold(targets: np.ndarray, probs: np.ndarray, quality: Callable[..., np.ndarray] = f1_cuts) -> float:
    """The threshold t for which `probs >= t` scores best on one label; every possible cut is tried.

    It is midway between the two neighbouring scores, so that a small change of either changes no decision. Of equally
    good cuts the one nearest to 0.5 is taken. It can be slightly above 1, if deciding "no" everywhere is best and a
    score is 1.

    Parameters
    ----------
    targets : (N,) 0, 1 or NaN (left out)
    probs : (N,) in [0, 1]
    quality : a metric's `cut_quality`, which orders the cuts

    Returns
    -------
    The threshold; 0.5 for a label without positives or without negatives.

    Examples
    --------
    >>> best_threshold(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.3, 0.9]))
    0.25
    """
    cuts = _cut_label(targets, probs)
    if cuts.positives == 0 or cuts.negatives == 0:
        return DEFAULT_THRESHOLD
    return cuts.best(quality(cuts.true_positives, cuts.false_positives, cuts.positives, cuts.negatives))


def fit_thresholds(targets: np.ndarray, probs: np.ndarray, metric: str = "f1_macro") -> np.ndarray:
    """(K,) the thresholds that are best for a metric of decisions, each label over its own cells that are not NaN.

    The search is exact if the labels are independent (the entry's threshold_search is "label") and for micro F1. Other
    metrics depend on all labels together: their thresholds start at each label's own best (at 0.5 if the entry has no
    cut_quality) and are moved one at a time, each to its best place given the others, until none moves. The result is
    never below its start, but can be below the global best. For a metric without counts at most PLAIN_CUTS cuts per
    label are tried.

    Parameters
    ----------
    targets, probs : (N, K)
    metric : the name of a metric of decisions

    Raises
    ------
    ValueError : if the metric is unknown, or takes probabilities
    """
    entry = check_metric(metric)
    if entry.uses != "decisions":
        raise ValueError(f"{metric} takes probabilities, which need no threshold; choose one of "
                         f"{', '.join(other.name for other in METRICS.values() if other.uses == 'decisions')}")
    if entry.threshold_search == "micro_f1":
        return _fit_micro(targets, probs)
    thresholds = np.full(targets.shape[1], DEFAULT_THRESHOLD)
    if entry.cut_quality is not None:
        thresholds = np.array([best_threshold(targets[:, k], probs[:, k], entry.cut_quality)
                               for k in range(targets.shape[1])])
    return _ascend(targets, probs, entry, thresholds) if entry.threshold_search == "joint" else thresholds


def _fit_micro(targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(K,) the thresholds best for micro F1 = 2 TP / (P + TP + FP), whose TP and FP are sums over labels.

    For a trial value a / b of F1, the cuts that maximise b 2 TP - a (TP + FP) are found label by label; their own F1 is
    the next trial value, until it no longer grows. That is the maximum. All counts are integers, so this is exact.
    Source: Dinkelbach 1967, https://doi.org/10.1287/mnsc.13.7.492
    """
    labels = [_cut_label(*label) for label in zip(targets.T, probs.T, strict=True)]
    positives = sum(label.positives for label in labels)
    thresholds = np.full(len(labels), DEFAULT_THRESHOLD)
    if positives == 0 or sum(label.negatives for label in labels) == 0:
        return thresholds
    above, below = 0, 1
    while True:
        qualities = [below * 2 * label.true_positives - above * (label.true_positives + label.false_positives)
                     for label in labels]
        places = [int(quality.argmax()) for quality in qualities]
        found = sum(label.true_positives[place] for label, place in zip(labels, places, strict=True))
        decided = found + sum(label.false_positives[place] for label, place in zip(labels, places, strict=True))
        if 2 * found * below <= above * (positives + decided):
            break
        above, below = 2 * found, positives + decided
    for k, (label, quality) in enumerate(zip(labels, qualities, strict=True)):
        if label.positives + label.negatives:
            thresholds[k] = label.best(quality)
    return thresholds


def _ascend(targets: np.ndarray, probs: np.ndarray, metric: Metric, thresholds: np.ndarray) -> np.ndarray:
    """(K,) thresholds moved one at a time to where the metric is best, until none moves."""
    probs, thresholds = probs.astype(np.float64), thresholds.copy()
    for _ in range(PASSES):
        before = thresholds.copy()
        for k in range(len(thresholds)):
            rows, score_cuts = _vary_label(targets, probs, metric, thresholds, k)
            if not rows.any():
                continue
            cuts = _cuts(np.unique(probs[rows, k]))
            if metric.counts is None and len(cuts) > PLAIN_CUTS:
                cuts = cuts[np.linspace(0, len(cuts) - 1, PLAIN_CUTS).round().astype(int)]
            scores = metric.sign * score_cuts(np.append(cuts, thresholds[k]))  # the last one: as it is now
            *quality, now = np.where(np.isnan(scores), -np.inf, scores)
            # sums of the same numbers in another order differ by less
            if max(quality) > now + 1e-9:
                thresholds[k] = _nearest_to_half(cuts, np.array(quality) >= max(quality) - 1e-9)
        if (thresholds == before).all():
            break
    return thresholds


def _vary_label(targets: np.ndarray, probs: np.ndarray, metric: Metric, thresholds: np.ndarray,
                k: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(N,) bool of the rows that label k's decisions matter for, and a function from its cuts (C,) to scores (C,).

    The other labels are decided at their thresholds.
    """
    task, known = "binary" if probs.shape[1] == 1 else "multilabel", ~np.isnan(targets[:, k])
    decisions = decide(probs, thresholds, task)

    def decide_label(value: np.ndarray | int) -> np.ndarray:
        changed = decisions.copy()
        changed[:, k] = value
        return changed
    if metric.counts is None:
        return known, lambda cuts: np.array([
            metric.score(targets, decide_label(probs[:, k] >= cut), task) for cut in cuts])
    counts = metric.counts(targets, decide_label(1), task)
    gains = counts.cells - metric.counts(targets, decide_label(0), task).cells
    order = np.argsort(probs[:, k], kind="stable")
    # what "yes" adds for the c lowest rows: a cut takes it away from the sums of "yes" everywhere
    lowest = np.concatenate((np.zeros((1, gains.shape[1])), gains[order].cumsum(axis=0)))
    total, ascending = counts.cells.sum(axis=0), probs[order, k]
    return known & counts.cells.any(axis=1), lambda cuts: counts.score(total - lowest[ascending.searchsorted(cuts)])


def crossfit_decisions(
    targets: np.ndarray, probs: np.ndarray, folds: np.ndarray, task: str, metric: str = "f1_macro"
) -> np.ndarray:
    """(N, K) decisions, each fold's at thresholds fitted on the other folds only; multiclass: the most probable label.

    Their score is unbiased, whereas thresholds that are scored on the rows they were fitted on score too high.
    Raises ValueError if there is only one fold.
    """
    if task == "multiclass":
        return decide(probs, None, task)
    decisions = np.empty(probs.shape, dtype=np.int8)
    for held_out in held_out_rows(folds):
        thresholds = fit_thresholds(targets[~held_out], probs[~held_out], metric)
        decisions[held_out] = decide(probs[held_out], thresholds, task)
    return decisions


def held_out_rows(folds: np.ndarray) -> list[np.ndarray]:
    """For every fold (N,) bool of its rows. Raises ValueError if there is only one fold."""
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError("what is tuned is fitted on the other folds, and there is only one fold; predict another fold")
    return [folds == number for number in numbers]


def criterion(metric_name: str) -> str:
    """The metric that decisions are fitted for in a competition: its own if that takes decisions, else macro F1."""
    return metric_name if METRICS[metric_name].uses == "decisions" else "f1_macro"


def crossfit_values(metric_name: str, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray,
                  task: str) -> np.ndarray:
    """(N, K) the values that a metric takes: the probabilities, or decisions at thresholds of the other folds."""
    if METRICS[metric_name].uses == "probs":
        return probs
    return crossfit_decisions(targets, probs, folds, task, criterion(metric_name))


@dataclass(frozen=True)
class _LabelCuts:
    """Every possible cut of a label's M distinct scores, from "yes" everywhere to "no" everywhere, and its counts."""

    thresholds: np.ndarray  # (M + 1,)
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: float
    negatives: float

    def best(self, quality: np.ndarray) -> float:
        """The threshold of the highest quality; of several, the one nearest to 0.5."""
        return _nearest_to_half(self.thresholds, quality == quality.max())


def _cut_label(targets: np.ndarray, probs: np.ndarray) -> _LabelCuts:
    known = ~np.isnan(targets)
    targets, probs = targets[known] == 1, probs[known].astype(np.float64)
    scores, place = np.unique(probs, return_inverse=True)  # ascending; equal scores fall on the same side of any cut
    negatives, positives = (np.concatenate(([0], np.bincount(place[of_class], minlength=len(scores)).cumsum()))
                            for of_class in (~targets, targets))
    # cut c says "no" to the c lowest distinct scores
    return _LabelCuts(_cuts(scores), positives[-1] - positives, negatives[-1] - negatives, positives[-1], negatives[-1])


def _nearest_to_half(cuts: np.ndarray, allowed: np.ndarray) -> float:
    best = cuts[allowed]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _cuts(scores: np.ndarray) -> np.ndarray:
    """(M + 1,) cuts for M ascending distinct scores: below all, midway between neighbours, above all."""
    lower = np.concatenate(([0.0], scores))
    upper = np.concatenate((scores, [np.nextafter(1.0, 2.0)]))
    middle = (lower + upper) / 2
    # between two neighbouring floats the middle rounds to one of them, and must not be the lower one
    return np.where(middle > lower, middle, upper)
