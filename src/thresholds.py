"""Decision thresholds that are best on given predictions, found exactly; and decisions nobody tuned on themselves."""

from typing import Literal

import numpy as np

from metrics import METRICS, decide

Criterion = Literal["f1", "accuracy", "balanced_accuracy"]
DEFAULT_THRESHOLD = 0.5


def best_threshold(targets: np.ndarray, probs: np.ndarray, metric: Criterion = "f1") -> float:
    """The threshold t for which `probs >= t` scores best on this label; every possible cut is tried.

    targets: (N,) 0, 1 or NaN (left out);  probs: (N,) in [0, 1].
    It lies midway between the two neighbouring scores, so that a small shift of either changes nothing; of equally good
    cuts it is the one nearest to 0.5. A label without positives or without negatives gives 0.5: it has nothing to say.
    It may lie a hair above 1 where deciding "no" everywhere is best and a score is 1.
    Raises ValueError where the metric is unknown.
    """
    known = ~np.isnan(targets)
    targets, probs = targets[known], probs[known].astype(np.float64)
    positives = int((targets == 1).sum())
    negatives = len(targets) - positives
    if positives == 0 or negatives == 0:
        return DEFAULT_THRESHOLD

    scores, place = np.unique(probs, return_inverse=True)  # ascending; equal scores fall on the same side of any cut
    positives_below = np.bincount(place, weights=targets).cumsum()
    below = np.bincount(place).cumsum()
    # cut c says "no" to the c lowest distinct scores
    true_positives = positives - np.concatenate(([0], positives_below))
    false_positives = (len(targets) - np.concatenate(([0], below))) - true_positives
    quality = _quality(metric, true_positives, false_positives, positives, negatives)

    cuts = _cuts(scores)
    best = np.flatnonzero(quality == quality.max())
    return float(cuts[best[np.abs(cuts[best] - DEFAULT_THRESHOLD).argmin()]])


def fit_thresholds(targets: np.ndarray, probs: np.ndarray, metric: Criterion = "f1") -> np.ndarray:
    """(K,) the best threshold of every label, each over its own cells that are not NaN."""
    return np.array([best_threshold(targets[:, k], probs[:, k], metric) for k in range(targets.shape[1])])


def crossfit_decisions(
    targets: np.ndarray, probs: np.ndarray, folds: np.ndarray, task: str, metric: Criterion = "f1"
) -> np.ndarray:
    """(N, K) decisions, each fold's at thresholds fitted on the other folds only; multiclass: the most probable label.

    Scoring these is honest; scoring decisions at thresholds fitted on the same rows is not.
    Raises ValueError where there is one fold only.
    """
    if task == "multiclass":
        return decide(probs, None, task)
    fold_numbers = np.unique(folds)
    if len(fold_numbers) < 2:
        raise ValueError("thresholds are fitted on the other folds, and there is only one fold; predict another fold")
    decisions = np.empty(probs.shape, dtype=np.int8)
    for fold in fold_numbers:
        held_out = folds == fold
        thresholds = fit_thresholds(targets[~held_out], probs[~held_out], metric)
        decisions[held_out] = decide(probs[held_out], thresholds, task)
    return decisions


def criterion(metric_name: str) -> Criterion:
    """What thresholds are fitted for where a competition has this metric: itself where that can be, else F1."""
    return metric_name if metric_name in ("accuracy", "balanced_accuracy") else "f1"


def judged_values(metric_name: str, targets: np.ndarray, probs: np.ndarray, folds: np.ndarray,
                  task: str) -> np.ndarray:
    """(N, K) what a competition's metric judges: the probabilities, or decisions at thresholds of the other folds."""
    if METRICS[metric_name].uses == "probs":
        return probs
    return crossfit_decisions(targets, probs, folds, task, criterion(metric_name))


def _quality(
    metric: Criterion, true_positives: np.ndarray, false_positives: np.ndarray, positives: int, negatives: int
) -> np.ndarray:
    """What orders the cuts as `metric` does. Counts are whole numbers, so equally good cuts come out exactly equal."""
    if metric == "f1":
        return 2 * true_positives / (positives + true_positives + false_positives)
    if metric == "accuracy":
        return true_positives - false_positives
    if metric == "balanced_accuracy":
        return true_positives * negatives - false_positives * positives
    raise ValueError(f"no threshold is fitted for {metric!r}; choose f1, accuracy or balanced_accuracy")


def _cuts(scores: np.ndarray) -> np.ndarray:
    """(M + 1,) cuts for M ascending distinct scores: below all, midway between neighbours, above all."""
    lower = np.concatenate(([0.0], scores))
    upper = np.concatenate((scores, [np.nextafter(1.0, 2.0)]))
    middle = (lower + upper) / 2
    # between two neighbouring floats the middle rounds to one of them, and must not be the lower one
    return np.where(middle > lower, middle, upper)
