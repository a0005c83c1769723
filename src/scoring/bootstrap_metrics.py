"""Every metric under many weightings of the rows at once: what a bootstrap needs, equal to scikit-learn's to 1e-12."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from scoring.metrics import METRICS

ROW_METRICS = ("f1_samples", "subset_accuracy")  # a mean over rows, all labels of a row judged together

# Everywhere in this file, besides what scoring/metrics.py says of targets, values and undefined labels:
#   R  weightings;  row_weights (R, N), not negative; a row of weight 0 is not there
#   sums (R, M): what M columns of numbers come to under each weighting, from which a score is computed


def make_scorer(metric_name: str, targets: np.ndarray, values: np.ndarray, task: str,
                class_weights: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A function from row_weights (R, N) to the metric's scores (R,), NaN where no label is defined.

    class_weights: how much a cell counts by its truth, as under another prevalence: (K, 2) of 0 and of 1 for binary and
    multilabel, (K,) by class for multiclass; None: all alike.
    Raises ValueError where the metric is unknown or not for this task, or judges a row's labels together or by their
    order, and several labels' class weights would have to weigh it.
    """
    if class_weights is not None and task == "multiclass":
        of_rows = (np.nan_to_num(targets) * class_weights).sum(axis=1)
    elif class_weights is not None and targets.shape[1] == 1:
        of_rows = _cell_weights(targets, class_weights)[:, 0]
    elif class_weights is not None and metric_name != "roc_auc":  # which no prevalence moves
        tally = make_tally(metric_name, targets, values, task)
        if metric_name in ROW_METRICS:
            raise ValueError(f"{metric_name} judges whole rows, which no prior of a single label weighs")
        cells = tally.cells * np.tile(_cell_weights(targets, class_weights), tally.cells.shape[1] // targets.shape[1])
        return lambda row_weights: tally.score(row_weights @ cells)
    else:
        of_rows = 1
    if metric_name in RANKED:
        rankings = rank_labels(targets, values)
        return lambda row_weights: mean_of_defined(ranked_scores(metric_name, rankings, row_weights * of_rows))
    tally = make_tally(metric_name, targets, values, task)
    return lambda row_weights: tally.score((row_weights * of_rows) @ tally.cells)


def _cell_weights(targets: np.ndarray, class_weights: np.ndarray) -> np.ndarray:
    """(N, K) what every cell counts: class_weights (K, 2) by its truth, 0 where there is none."""
    return np.where(np.isnan(targets), 0, np.where(targets == 1, class_weights[:, 1], class_weights[:, 0]))


def mean_of_defined(by_label: np.ndarray, label_weights: np.ndarray | float = 1.0) -> np.ndarray:
    """(R,) mean of every row (R, K) over its labels that are not NaN; NaN where all are. label_weights: (R, K)."""
    defined = ~np.isnan(by_label)
    share = defined * label_weights
    return _divide((np.where(defined, by_label, 0) * share).sum(axis=1), share.sum(axis=1))


# ---- scores of the order of the rows


@dataclass(frozen=True)
class Ranking:
    """Where a label's P positives stand among its negatives, ordered by score and cut into S stretches.

    Within a stretch there is no positive, so the negatives' weights are only ever needed summed over stretches.
    """

    stretches: csr_array  # (S, N) 1 where a negative row belongs to a stretch
    positives: np.ndarray  # (P,) rows, ascending by score
    first_equal: np.ndarray  # (P,) the first of the positives with the same score
    below: np.ndarray  # (P,) number of stretches that score below the positive
    below_or_equal: np.ndarray  # (P,)

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the share of (positive, negative) pairs in the right order, a tie counting half; weights (N, R)."""
        cumulative = self._negatives_below(weights)
        twice_won = cumulative[self.below]
        twice_won += cumulative[self.below_or_equal]
        positives = weights[self.positives]
        won = np.einsum("pr,pr->r", positives, twice_won) / 2
        return _divide(won, positives.sum(axis=0) * cumulative[-1])

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the precision at each positive's score, averaged over the positives; NaN without negatives."""
        cumulative, positives = self._negatives_below(weights), weights[self.positives]
        found = np.cumsum(positives[::-1], axis=0)[::-1][self.first_equal]
        precision = _divide(found, found + cumulative[-1] - cumulative[self.below], otherwise=0.0)
        score = _divide(np.einsum("pr,pr->r", positives, precision), positives.sum(axis=0))
        return np.where(cumulative[-1] > 0, score, np.nan)

    def _negatives_below(self, weights: np.ndarray) -> np.ndarray:
        """(S + 1, R) weight of the negatives in the first 0, 1, ... S stretches."""
        cumulative = np.zeros((self.stretches.shape[0] + 1, weights.shape[1]))
        np.cumsum(self.stretches @ weights, axis=0, out=cumulative[1:])
        return cumulative


RANKED = {"roc_auc": Ranking.auc, "average_precision": Ranking.average_precision}


def rank_labels(targets: np.ndarray, probs: np.ndarray) -> list[Ranking]:
    """The ranking of every label's rows, those without NaN."""
    return [_rank(targets[:, k], probs[:, k]) for k in range(targets.shape[1])]


def ranked_scores(metric_name: str, rankings: list[Ranking], row_weights: np.ndarray) -> np.ndarray:
    """(R, K) one of RANKED of every label."""
    # (N, R), so that all weights of a row lie together and are fetched at once
    weights = np.ascontiguousarray(row_weights.T, dtype=np.float64)
    return np.stack([RANKED[metric_name](ranking, weights) for ranking in rankings], axis=1)


def _rank(targets: np.ndarray, probs: np.ndarray) -> Ranking:
    positives, negatives = (np.flatnonzero(targets == side) for side in (1, 0))
    positives, negatives = (rows[probs[rows].argsort(kind="stable")] for rows in (positives, negatives))
    first, last = (probs[negatives].searchsorted(probs[positives], side) for side in ("left", "right"))
    edges, stretch = np.unique(np.concatenate((first, last, [0, len(negatives)])), return_inverse=True)
    ones = np.ones(len(negatives))
    stretches = csr_array(
        (ones, negatives.astype(np.int32), edges.astype(np.int32)), shape=(len(edges) - 1, len(targets))
    )
    below, below_or_equal = stretch[:-2].reshape(2, -1)
    return Ranking(stretches, positives, probs[positives].searchsorted(probs[positives]), below, below_or_equal)


# ---- scores that are functions of sums over rows


@dataclass(frozen=True)
class Counts:
    """A score that depends on sums over the rows only: `score(row_weights @ cells)`."""

    cells: np.ndarray  # (N, M)
    score: Callable[[np.ndarray], np.ndarray]  # sums (R, M) -> (R,)


def make_tally(metric_name: str, targets: np.ndarray, values: np.ndarray, task: str) -> Counts:
    """The tally of any metric that is not in RANKED. Raises ValueError where it is unknown or not for this task."""
    if metric_name not in METRICS or metric_name in RANKED:
        raise ValueError(f"{metric_name!r} is no metric of sums over rows; those are "
                         f"{', '.join(name for name in METRICS if name not in RANKED)}")
    if metric_name == "quadratic_kappa":
        return _kappa_tally(targets, values, task)
    if metric_name in ("brier", "log_loss"):
        return _loss_tally(metric_name, targets, values.astype(np.float64), task)
    if metric_name in ROW_METRICS or (metric_name == "accuracy" and task == "multiclass"):
        return _row_tally(metric_name, targets, values)
    if metric_name == "balanced_accuracy" and task == "multiclass":
        return _recall_tally(targets, values)
    decided, truth, known = values == 1, targets == 1, ~np.isnan(targets)
    kinds = (truth & decided, ~truth & decided, truth & ~decided, ~truth & ~decided)
    return Counts(np.hstack([(kind & known).astype(float) for kind in kinds]), CONFUSED[metric_name])


def _confusion(sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """True positives, false positives, false negatives, true negatives, each (R, K)."""
    return tuple(np.split(sums, 4, axis=1))


def _f1_by_label(sums: np.ndarray) -> np.ndarray:
    hits, false_alarms, misses, passes = _confusion(sums)
    defined = (hits + misses > 0) & (false_alarms + passes > 0)
    return np.where(defined, _divide(2 * hits, 2 * hits + false_alarms + misses), np.nan)


def _f1_micro(sums: np.ndarray) -> np.ndarray:
    return _f1_by_label(np.hstack([count.sum(axis=1, keepdims=True) for count in _confusion(sums)]))[:, 0]


def _f1_weighted(sums: np.ndarray) -> np.ndarray:
    hits, _, misses, _ = _confusion(sums)
    return mean_of_defined(_f1_by_label(sums), hits + misses)


def _accuracy(sums: np.ndarray) -> np.ndarray:
    hits, _, _, passes = _confusion(sums)
    return _divide((hits + passes).sum(axis=1), sums.sum(axis=1))


def _balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    hits, false_alarms, misses, passes = _confusion(sums)
    return mean_of_defined((_divide(hits, hits + misses) + _divide(passes, passes + false_alarms)) / 2)


CONFUSED = {"f1_macro": lambda sums: mean_of_defined(_f1_by_label(sums)), "f1_micro": _f1_micro,
            "f1_weighted": _f1_weighted, "accuracy": _accuracy, "balanced_accuracy": _balanced_accuracy}


def _loss_tally(metric_name: str, targets: np.ndarray, probs: np.ndarray, task: str) -> Counts:
    """The squared or logarithmic loss of every cell, and how many positives and negatives a label has."""
    known, tiny = ~np.isnan(targets), np.finfo(np.float64).eps  # scikit-learn's bound for a logarithm
    if metric_name == "log_loss" and task == "multiclass":
        rows = known.all(axis=1)
        of_class = np.take_along_axis(probs, np.nan_to_num(targets).argmax(axis=1)[:, None], axis=1)[:, 0]
        losses = -np.log(np.clip(of_class / probs.sum(axis=1), tiny, 1 - tiny))
        return Counts(np.stack((np.where(rows, losses, 0), rows), axis=1), _mean_score)
    truth = targets == 1
    losses = (probs - truth) ** 2 if metric_name == "brier" else -np.log(
        np.clip(np.where(truth, probs, 1 - probs), tiny, 1 - tiny))

    def score(sums: np.ndarray) -> np.ndarray:
        loss, positives, negatives = np.split(sums, 3, axis=1)
        defined = (positives > 0) & (negatives > 0)
        return mean_of_defined(np.where(defined, _divide(loss, positives + negatives), np.nan))

    return Counts(np.hstack((np.where(known, losses, 0), truth, known & ~truth)), score)


def _row_tally(metric_name: str, targets: np.ndarray, decisions: np.ndarray) -> Counts:
    """What every complete row scores, and that it is one."""
    rows, scores = ~np.isnan(targets).any(axis=1), row_scores(metric_name, targets == 1, decisions == 1)
    return Counts(np.stack((np.where(rows, scores, 0), rows), axis=1), _mean_score)


def row_scores(metric_name: str, truth: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(N,) what each row adds to one of ROW_METRICS, or to the accuracy of classes; truth and decided: bool (N, K)."""
    if metric_name == "f1_samples":
        return _divide(2.0 * (truth & decided).sum(axis=1), truth.sum(axis=1) + decided.sum(axis=1), otherwise=0.0)
    return (truth == decided).all(axis=1).astype(float)


def _mean_score(sums: np.ndarray) -> np.ndarray:
    return _divide(sums[:, 0], sums[:, 1])


def _recall_tally(targets: np.ndarray, decisions: np.ndarray) -> Counts:
    """Per class: the rows decided rightly, and the rows."""
    truth = (targets == 1) & ~np.isnan(targets).any(axis=1, keepdims=True)

    def score(sums: np.ndarray) -> np.ndarray:
        right, rows = np.split(sums, 2, axis=1)
        return np.where((rows > 0).sum(axis=1) > 1, mean_of_defined(_divide(right, rows)), np.nan)

    return Counts(np.hstack((truth & (decisions == 1), truth)).astype(float), score)


def _kappa_tally(targets: np.ndarray, decisions: np.ndarray, task: str) -> Counts:
    """How often which grade was taken for which: (N, C * C)."""
    if task == "multilabel":
        raise ValueError("quadratic_kappa compares one grade a row; choose another metric for a multilabel competition")
    rows, grades = ~np.isnan(targets).any(axis=1), max(2, targets.shape[1])
    truth, decided = (each[:, 0].astype(int) if each.shape[1] == 1 else each.argmax(axis=1)
                      for each in (np.nan_to_num(targets), decisions))
    cells = np.eye(grades * grades)[truth * grades + decided] * rows[:, None]
    cost = (np.arange(grades)[:, None] - np.arange(grades)) ** 2.0

    def score(sums: np.ndarray) -> np.ndarray:
        seen = sums.reshape(-1, grades, grades)
        of_truth, of_decided = seen.sum(axis=2), seen.sum(axis=1)
        expected = np.einsum("rt,td,rd->r", of_truth, cost, of_decided)
        kappa = 1 - _divide(np.einsum("rtd,td->r", seen, cost) * sums.sum(axis=1), expected)
        return np.where((of_truth > 0).sum(axis=1) > 1, kappa, np.nan)

    return Counts(cells, score)


def _divide(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """above / below, `otherwise` where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below > 0)
