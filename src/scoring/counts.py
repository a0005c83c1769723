"""Scores as functions of sums over the rows: counts per row, and the score of their sums.

The same counts serve a metric itself, its bootstrap, the search for thresholds and class weights, and confusion
matrices. Everywhere in this file:
  targets  (N, K) 0, 1, or NaN where a cell is not scored; multiclass rows are one-hot, or NaN throughout
  values   (N, K) probabilities, or decisions of 0 and 1
  sums     (R, C) the counts summed over the rows under each of R weightings of the rows
A label is undefined where its scored cells are of one class, or there are none: NaN, left out of a mean over labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Numbers per row whose weighted sums determine a score: `score(row_weights @ cells)`, row_weights (R, N)."""

    cells: np.ndarray  # (N, C)
    score: Callable[[np.ndarray], np.ndarray]  # sums (R, C) -> (R,), NaN where the score is undefined


def label_counts(targets: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(N, 4 K) of 0 and 1: true positives, false positives, false negatives and true negatives of every label."""
    decided, truth, known = decisions == 1, targets == 1, ~np.isnan(targets)
    kinds = (truth & decided, ~truth & decided, truth & ~decided, ~truth & ~decided)
    return np.hstack([(kind & known).astype(float) for kind in kinds])


def class_pairs(targets: np.ndarray, decisions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) bool of complete rows, and the true and the decided class of all rows; one column is the classes 0 and 1."""
    truth, decided = (each[:, 0].astype(int) if each.shape[1] == 1 else each.argmax(axis=1)
                      for each in (np.nan_to_num(targets), decisions))
    return ~np.isnan(targets).any(axis=1), truth, decided


def confusion_matrices(targets: np.ndarray, decisions: np.ndarray, task: str) -> np.ndarray:
    """Counts of decisions, rows the truth, columns the decision: (1, K, K) for multiclass, else (K, 2, 2).

    Examples
    --------
    >>> confusion_matrices(np.array([[1.0], [0], [0]]), np.array([[1], [1], [0]]), "binary").tolist()
    [[[1, 1], [0, 1]]]
    """
    if task == "multiclass":
        classes = targets.shape[1]
        rows, truth, decided = class_pairs(targets, decisions)
        pairs = truth[rows] * classes + decided[rows]
        return np.bincount(pairs, minlength=classes**2).reshape(1, classes, classes)
    hits, false_alarms, misses, passes = np.split(label_counts(targets, decisions).sum(axis=0).astype(int), 4)
    return np.stack([passes, false_alarms, misses, hits], axis=1).reshape(-1, 2, 2)


def mean_of_defined(by_label: np.ndarray, label_weights: np.ndarray | float = 1.0) -> np.ndarray:
    """(R,) mean of every row (R, K) over its labels that are not NaN; NaN where all are. label_weights: (R, K)."""
    defined = ~np.isnan(by_label)
    share = defined * label_weights
    return divide((np.where(defined, by_label, 0) * share).sum(axis=1), share.sum(axis=1))


def divide(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """above / below, `otherwise` where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below > 0)


# ---- scores of (R, 4 K) sums of label_counts


def f1_of(sums: np.ndarray) -> np.ndarray:
    """(R, K) F1 of every label, 0 where nothing is found; NaN where undefined."""
    hits, false_alarms, misses, passes = np.split(sums, 4, axis=1)
    defined = (hits + misses > 0) & (false_alarms + passes > 0)
    return np.where(defined, divide(2 * hits, 2 * hits + false_alarms + misses), np.nan)


def macro_f1_of(sums: np.ndarray) -> np.ndarray:
    """(R,) mean F1 over the defined labels."""
    return mean_of_defined(f1_of(sums))


def micro_f1_of(sums: np.ndarray) -> np.ndarray:
    """(R,) F1 over all scored cells of all labels together."""
    return f1_of(np.hstack([count.sum(axis=1, keepdims=True) for count in np.split(sums, 4, axis=1)]))[:, 0]


def weighted_f1_of(sums: np.ndarray) -> np.ndarray:
    """(R,) mean F1 over the defined labels, weighted by their positives."""
    hits, _, misses, _ = np.split(sums, 4, axis=1)
    return mean_of_defined(f1_of(sums), hits + misses)


def accuracy_of(sums: np.ndarray) -> np.ndarray:
    """(R,) share of scored cells decided correctly."""
    hits, _, _, passes = np.split(sums, 4, axis=1)
    return divide((hits + passes).sum(axis=1), sums.sum(axis=1))


def balanced_accuracy_of(sums: np.ndarray) -> np.ndarray:
    """(R,) mean of sensitivity and specificity, averaged over the defined labels."""
    hits, false_alarms, misses, passes = np.split(sums, 4, axis=1)
    return mean_of_defined((divide(hits, hits + misses) + divide(passes, passes + false_alarms)) / 2)


def count_labels(score: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Counts]:
    """The counts of a metric whose score is a function of (R, 4 K) sums of `label_counts`."""
    return lambda targets, decisions, task: Counts(label_counts(targets, decisions), score)


# ---- counts of other shapes


def count_row_f1(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """The F1 between true and decided labels of every complete row, 0 where both are empty."""
    truth, decided = targets == 1, decisions == 1
    scores = divide(2.0 * (truth & decided).sum(axis=1), truth.sum(axis=1) + decided.sum(axis=1), otherwise=0.0)
    return _mean_over_rows(targets, scores)


def count_correct_rows(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """Whether every label of a complete row is decided correctly."""
    return _mean_over_rows(targets, ((targets == 1) == (decisions == 1)).all(axis=1).astype(float))


def count_correct(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """Correct rows for multiclass, else correct cells."""
    if task == "multiclass":
        return count_correct_rows(targets, decisions, task)
    return Counts(label_counts(targets, decisions), accuracy_of)


def count_recalls(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """For multiclass the correct rows and the rows of every class, else the four counts of every label."""
    if task != "multiclass":
        return Counts(label_counts(targets, decisions), balanced_accuracy_of)
    truth = (targets == 1) & ~np.isnan(targets).any(axis=1, keepdims=True)

    def score(sums: np.ndarray) -> np.ndarray:
        correct, rows = np.split(sums, 2, axis=1)
        return np.where((rows > 0).sum(axis=1) > 1, mean_of_defined(divide(correct, rows)), np.nan)

    return Counts(np.hstack((truth & (decisions == 1), truth)).astype(float), score)


def count_grades(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """The pair of true and decided grade of every complete row, (N, G * G); the score is quadratic kappa."""
    rows, truth, decided = class_pairs(targets, decisions)
    grades = max(2, targets.shape[1])
    cells = np.eye(grades * grades)[truth * grades + decided] * rows[:, None]
    cost = (np.arange(grades)[:, None] - np.arange(grades)) ** 2.0

    def score(sums: np.ndarray) -> np.ndarray:
        seen = sums.reshape(-1, grades, grades)
        of_truth, of_decided = seen.sum(axis=2), seen.sum(axis=1)
        expected = np.einsum("rt,td,rd->r", of_truth, cost, of_decided)
        kappa = 1 - divide(np.einsum("rtd,td->r", seen, cost) * sums.sum(axis=1), expected)
        return np.where((of_truth > 0).sum(axis=1) > 1, kappa, np.nan)

    return Counts(cells, score)


def count_squared_errors(targets: np.ndarray, probs: np.ndarray, task: str) -> Counts:
    """The squared error of every cell, and which cells are positive and negative."""
    return _mean_over_labels(targets, (probs.astype(np.float64) - (targets == 1)) ** 2)


def count_log_losses(targets: np.ndarray, probs: np.ndarray, task: str) -> Counts:
    """The logarithmic loss of every complete row for multiclass, else of every cell with the cell's class."""
    probs, tiny = probs.astype(np.float64), np.finfo(np.float64).eps  # scikit-learn's bound for a logarithm
    if task != "multiclass":
        return _mean_over_labels(targets, -np.log(np.clip(np.where(targets == 1, probs, 1 - probs), tiny, 1 - tiny)))
    of_class = np.take_along_axis(probs, np.nan_to_num(targets).argmax(axis=1)[:, None], axis=1)[:, 0]
    return _mean_over_rows(targets, -np.log(np.clip(of_class / probs.sum(axis=1), tiny, 1 - tiny)))


def _mean_over_rows(targets: np.ndarray, scores: np.ndarray) -> Counts:
    """The mean of (N,) scores over the complete rows."""
    rows = ~np.isnan(targets).any(axis=1)
    return Counts(np.stack((np.where(rows, scores, 0), rows), axis=1), lambda sums: divide(sums[:, 0], sums[:, 1]))


def _mean_over_labels(targets: np.ndarray, losses: np.ndarray) -> Counts:
    """The mean of (N, K) losses over the scored cells of every defined label, then over labels."""
    known, truth = ~np.isnan(targets), targets == 1

    def score(sums: np.ndarray) -> np.ndarray:
        loss, positives, negatives = np.split(sums, 3, axis=1)
        defined = (positives > 0) & (negatives > 0)
        return mean_of_defined(np.where(defined, divide(loss, positives + negatives), np.nan))

    return Counts(np.hstack((np.where(known, losses, 0), truth, known & ~truth)), score)
