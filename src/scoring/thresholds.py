"""Decision thresholds that are best on given predictions, found exactly; and decisions nobody tuned on themselves."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scoring.bootstrap_metrics import ROW_METRICS, row_scores
from scoring.metrics import METRICS, decide

Criterion = Literal["f1", "accuracy", "balanced_accuracy", "quadratic_kappa"]
DEFAULT_THRESHOLD = 0.5
# what each label's own threshold is fitted for, where a competition has this metric; for those of ROW_METRICS it is
# where the search begins
CRITERIA: dict[str, Criterion] = {
    "f1_macro": "f1",
    "f1_weighted": "f1",
    "f1_samples": "f1",
    "accuracy": "accuracy",
    "subset_accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "quadratic_kappa": "quadratic_kappa",
}
PASSES = 50  # over the labels, at most; the search ends long before


def best_threshold(targets: np.ndarray, probs: np.ndarray, metric: Criterion = "f1",
                   class_weights: np.ndarray | tuple[float, float] = (1, 1)) -> float:
    """The threshold t for which `probs >= t` scores best on this label; every possible cut is tried.

    targets: (N,) 0, 1 or NaN (left out);  probs: (N,) in [0, 1];  class_weights: how much a negative and a positive
    count, for another prevalence than this one.
    It lies midway between the two neighbouring scores, so that a small shift of either changes nothing; of equally good
    cuts it is the one nearest to 0.5. A label without positives or without negatives gives 0.5: it has nothing to say.
    It may lie a hair above 1 where deciding "no" everywhere is best and a score is 1.
    Raises ValueError where the metric is unknown.
    """
    cuts = _cut_label(targets, probs, class_weights)
    if cuts.positives == 0 or cuts.negatives == 0:
        return DEFAULT_THRESHOLD
    return cuts.best(_quality(metric, cuts))


def fit_thresholds(targets: np.ndarray, probs: np.ndarray, metric: str = "f1_macro",
                   class_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) the thresholds that are best for a metric of decisions, each label over its own cells that are not NaN.

    Exact where the metric falls apart into labels (macro and weighted F1, accuracy, balanced accuracy; quadratic kappa
    of one label), and for micro F1. Sample-wise F1 and subset accuracy judge all labels of a row together: their
    thresholds are moved one after the other, each to its best place given the others, beginning with those of F1 or
    accuracy, until none moves. That never ends below where it began, but may end below the best of all.
    class_weights: (K, 2) how much a label's negatives and positives count, for other prevalences than these; the search
    over rows cannot use them, and gives the thresholds it would begin with.
    Raises ValueError where the metric is unknown.
    """
    weights = np.ones((targets.shape[1], 2), int) if class_weights is None else class_weights
    if metric == "f1_micro":
        return _fit_micro(targets, probs, weights)
    if metric not in CRITERIA:
        raise ValueError(f"no threshold is fitted for {metric!r}; choose f1_micro, {', '.join(CRITERIA)}")
    thresholds = np.array([best_threshold(targets[:, k], probs[:, k], CRITERIA[metric], weights[k])
                           for k in range(targets.shape[1])])
    if metric in ROW_METRICS and class_weights is None:
        return _ascend(targets, probs, metric, thresholds)
    return thresholds


def _fit_micro(targets: np.ndarray, probs: np.ndarray, class_weights: np.ndarray) -> np.ndarray:
    """(K,) the thresholds best for micro F1 = 2 TP / (P + TP + FP), whose TP and FP are sums over labels.

    For a trial value a / b of F1, the cuts that maximise b 2 TP - a (TP + FP) are found label by label; their own F1 is
    the next trial value, until it no longer grows. The value then is the best there is. Whole counts stay whole, so
    this is exact.
    Source: Dinkelbach 1967, https://doi.org/10.1287/mnsc.13.7.492
    """
    labels = [_cut_label(targets[:, k], probs[:, k], class_weights[k]) for k in range(targets.shape[1])]
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


def _ascend(targets: np.ndarray, probs: np.ndarray, metric: str, thresholds: np.ndarray) -> np.ndarray:
    """(K,) thresholds moved one at a time to where the mean of `row_scores` is best, until none can be moved."""
    rows = ~np.isnan(targets).any(axis=1)
    targets, probs, thresholds = targets[rows] == 1, probs[rows].astype(np.float64), thresholds.copy()
    for _ in range(PASSES):
        before = thresholds.copy()
        for k in range(len(thresholds)):
            yes = probs >= thresholds
            is_yes, no = yes[:, k].copy(), yes.copy()
            yes[:, k], no[:, k] = True, False
            gains = row_scores(metric, targets, yes) - row_scores(metric, targets, no)
            scores, place = np.unique(probs[:, k], return_inverse=True)
            quality = gains.sum() - np.concatenate(([0], np.bincount(place, gains).cumsum()))
            if quality.max() > gains[is_yes].sum() + 1e-9:  # sums of the same numbers in another order differ by less
                thresholds[k] = _nearest_to_half(_cuts(scores), quality >= quality.max() - 1e-9)
        if (thresholds == before).all():
            break
    return thresholds


def crossfit_decisions(
    targets: np.ndarray, probs: np.ndarray, folds: np.ndarray, task: str, metric: str = "f1_macro"
) -> np.ndarray:
    """(N, K) decisions, each fold's at thresholds fitted on the other folds only; multiclass: the most probable label.

    Scoring these is honest; scoring decisions at thresholds fitted on the same rows is not.
    Raises ValueError where there is one fold only.
    """
    if task == "multiclass":
        return decide(probs, None, task)
    decisions = np.empty(probs.shape, dtype=np.int8)
    for held_out in held_out_rows(folds):
        thresholds = fit_thresholds(targets[~held_out], probs[~held_out], metric)
        decisions[held_out] = decide(probs[held_out], thresholds, task)
    return decisions


def held_out_rows(folds: np.ndarray) -> list[np.ndarray]:
    """(N,) bool for every fold: its rows. Raises ValueError where there are no other folds to fit on."""
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError("what is tuned is fitted on the other folds, and there is only one fold; predict another fold")
    return [folds == number for number in numbers]


def criterion(metric_name: str) -> str:
    """The metric that decisions are made for in a competition: its own where that judges decisions, else macro F1."""
    return metric_name if METRICS[metric_name].uses == "decisions" else "f1_macro"


def judged_values(metric_name: str, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray,
                  task: str) -> np.ndarray:
    """(N, K) what a competition's metric judges: the probabilities, or decisions at thresholds of the other folds."""
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


def _cut_label(targets: np.ndarray, probs: np.ndarray, class_weights: np.ndarray | tuple[float, float]) -> _LabelCuts:
    known = ~np.isnan(targets)
    targets, probs = targets[known] == 1, probs[known].astype(np.float64)
    scores, place = np.unique(probs, return_inverse=True)  # ascending; equal scores fall on the same side of any cut
    of_negatives, of_positives = class_weights
    negatives, positives = (
        np.concatenate(([0], np.bincount(place[of_class], minlength=len(scores)).cumsum())) * weight
        for of_class, weight in ((~targets, of_negatives), (targets, of_positives)))
    # cut c says "no" to the c lowest distinct scores
    return _LabelCuts(_cuts(scores), positives[-1] - positives, negatives[-1] - negatives, positives[-1], negatives[-1])


def _quality(metric: Criterion, cuts: _LabelCuts) -> np.ndarray:
    """What orders the cuts as `metric` does. Counts are whole numbers, so equally good cuts come out exactly equal."""
    found, false, positives, negatives = (cuts.true_positives, cuts.false_positives, cuts.positives, cuts.negatives)
    if metric == "f1":
        return 2 * found / (positives + found + false)
    if metric == "accuracy":
        return found - false
    if metric == "balanced_accuracy":
        return found * negatives - false * positives
    if metric == "quadratic_kappa":  # Cohen's kappa in counts; the numerator is the same as above
        decided = found + false
        by_chance = decided * negatives + positives * (positives + negatives - decided)
        return (found * negatives - false * positives) / by_chance
    raise ValueError(f"no threshold is fitted for {metric!r}; choose f1, accuracy, balanced_accuracy or "
                     f"quadratic_kappa")


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
