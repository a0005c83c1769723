"""The scores of metrics.py out of counts, for many weightings of the rows at once: for searches and bootstraps."""

from itertools import islice

import numpy as np

from metrics import METRICS
from uncertainty import CHUNK_BYTES, REPLICATES, bootstrap_counts, weighted_roc_auc

# metrics that are a mean over rows; a class a row makes all of them the share of rows decided rightly
ROW_METRICS = ("f1_samples", "subset_accuracy")


def row_scores(metric: str, targets: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(N,) what each row adds to "f1_samples" or "subset_accuracy", of targets and decisions (N, K) of 0 and 1."""
    if metric == "subset_accuracy":
        return (targets == decisions).all(axis=1).astype(np.float64)
    either = targets.sum(axis=1, dtype=np.float64) + decisions.sum(axis=1)
    return np.divide(2 * (targets * decisions).sum(axis=1), either, out=np.zeros(len(targets)), where=either > 0)


def score_counts(metric: str, true_positives: np.ndarray, false_positives: np.ndarray, positives: np.ndarray,
                 negatives: np.ndarray) -> np.ndarray:
    """(...) the metric of binary or multilabel decisions out of counts (..., K), which need not be whole numbers.

    NaN where the metric is undefined. Raises ValueError for a metric that is no function of these counts.
    """
    tp, fp = true_positives, false_positives
    defined = (positives > 0) & (negatives > 0)
    if metric in ("f1_macro", "f1_weighted"):
        f1 = _ratio(2 * tp, positives + tp + fp)
        return _mean(f1, defined, positives if metric == "f1_weighted" else None)
    if metric == "f1_micro":
        tp, fp, positives, negatives = (counts.sum(axis=-1) for counts in (tp, fp, positives, negatives))
        return np.where((positives > 0) & (negatives > 0), _ratio(2 * tp, positives + tp + fp), np.nan)
    if metric == "accuracy":
        return _ratio((tp + negatives - fp).sum(axis=-1), (positives + negatives).sum(axis=-1))
    if metric == "balanced_accuracy":
        return _mean((_ratio(tp, positives) + _ratio(negatives - fp, negatives)) / 2, defined)
    if metric == "quadratic_kappa" and tp.shape[-1] == 1:
        table = np.stack([negatives - fp, fp, positives - tp, tp], axis=-1)
        return score_confusions(metric, table.reshape(*tp.shape[:-1], 2, 2))
    raise ValueError(f"{metric!r} is no function of the labels' counts")


def score_confusions(metric: str, confusions: np.ndarray) -> np.ndarray:
    """(...) the metric of multiclass decisions out of confusion matrices (..., K, K): rows true, columns decided."""
    if metric in ("accuracy", *ROW_METRICS):
        return _ratio(np.trace(confusions, axis1=-2, axis2=-1), confusions.sum(axis=(-2, -1)))
    by_class, by_decision = confusions.sum(axis=-1), confusions.sum(axis=-2)
    right, total = np.diagonal(confusions, axis1=-2, axis2=-1), confusions.sum(axis=(-2, -1))
    two_classes = (by_class > 0).sum(axis=-1) > 1
    if metric == "balanced_accuracy":
        return np.where(two_classes, _mean(_ratio(right, by_class), by_class > 0), np.nan)
    if metric == "quadratic_kappa":
        grades = np.arange(confusions.shape[-1])
        miss = np.square(grades[:, None] - grades)
        expected = (miss * by_class[..., :, None] * by_decision[..., None, :]).sum(axis=(-2, -1))
        return np.where(two_classes, 1 - _ratio((miss * confusions).sum(axis=(-2, -1)) * total, expected), np.nan)
    return score_counts(metric, right, by_decision - right, by_class, total[..., None] - by_class)


def weighted_scores(metric_name: str, targets: np.ndarray, values: np.ndarray, task: str, row_weights: np.ndarray,
                    class_weights: np.ndarray | None = None) -> np.ndarray:
    """(R,) the metric under each of R weightings of the rows, as METRICS[metric_name].score(..., weights) gives it.

    row_weights: (R, N), not negative;  class_weights: how much a cell counts by its truth, (K, 2) of 0 and of 1 for
    binary and multilabel, (K,) by class for multiclass; None: all alike.
    Raises ValueError where class weights are given for a metric that they have no meaning for.
    """
    metric = METRICS[metric_name]
    complete = ~np.isnan(targets).any(axis=1)
    if task == "multiclass" and class_weights is not None:
        row_weights = row_weights * np.where(complete, (np.nan_to_num(targets) * class_weights).sum(axis=1), 0)
    if metric_name == "log_loss" and task == "multiclass":
        probs = values / values.sum(axis=1, keepdims=True)
        losses = -np.log(np.clip(probs, np.finfo(np.float64).eps, 1))[complete, targets[complete].argmax(axis=1)]
        return _ratio(row_weights[:, complete] @ losses, row_weights[:, complete].sum(axis=1))
    if metric.uses == "decisions" and task == "multiclass":
        count = targets.shape[1]
        pairs = targets[complete].argmax(axis=1) * count + values[complete].argmax(axis=1)
        confusions = np.array([np.bincount(pairs, weights, count**2) for weights in row_weights[:, complete]])
        return score_confusions(metric_name, confusions.reshape(-1, count, count))
    if metric_name == "roc_auc":
        aucs = weighted_roc_auc(targets, values, row_weights)
        return _mean(aucs, ~np.isnan(aucs))
    if metric_name == "average_precision":
        return np.array([metric.score(targets, values, task, weights) for weights in row_weights])
    if metric_name in ROW_METRICS:
        if class_weights is not None and targets.shape[1] > 1:
            raise ValueError(f"{metric_name} judges whole rows, which no prior of a single label weighs")
        if class_weights is not None:
            row_weights = row_weights * np.where(targets[:, 0] == 1, *class_weights[0, ::-1])
        scores = row_scores(metric_name, targets[complete], values[complete])
        return _ratio(row_weights[:, complete] @ scores, row_weights[:, complete].sum(axis=1))
    of_negatives, of_positives = (1, 1) if class_weights is None or task == "multiclass" else class_weights.T
    positives = row_weights @ (targets == 1) * of_positives
    negatives = row_weights @ (targets == 0) * of_negatives
    if metric_name in ("log_loss", "brier"):
        losses = _cell_losses(metric_name, targets, values)
        total = (row_weights @ np.where(targets == 1, losses, 0) * of_positives
                 + row_weights @ np.where(targets == 0, losses, 0) * of_negatives)
        return _mean(_ratio(total, positives + negatives), (positives > 0) & (negatives > 0))
    true_positives = row_weights @ ((targets == 1) & (values == 1)) * of_positives
    false_positives = row_weights @ ((targets == 0) & (values == 1)) * of_negatives
    return score_counts(metric_name, true_positives, false_positives, positives, negatives)


def bootstrap_scores(metric_name: str, targets: np.ndarray, values: dict[str, np.ndarray], task: str,
                     groups: np.ndarray, class_weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """(REPLICATES,) the metric of several sets of values (N, K), all on the same drawn groups."""
    counts, at_once = bootstrap_counts(groups), max(1, CHUNK_BYTES // (8 * len(groups)))
    scores = {name: [] for name in values}
    for _ in range(0, REPLICATES, at_once):
        weights = np.stack(list(islice(counts, at_once))).astype(np.float64)
        for name, each in values.items():
            scores[name].append(weighted_scores(metric_name, targets, each, task, weights, class_weights))
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def _cell_losses(metric_name: str, targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    of_truth = np.where(targets == 1, probs, 1 - probs)
    if metric_name == "brier":
        return np.square(1 - of_truth)
    return -np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _mean(values: np.ndarray, defined: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over the last axis of what is defined, NaN where nothing is."""
    weights = defined if weights is None else np.where(defined, weights, 0)
    return _ratio((np.where(defined, values, 0) * weights).sum(axis=-1), weights.sum(axis=-1))
