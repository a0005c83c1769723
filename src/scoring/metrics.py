"""Scores of (N, K) probabilities and decisions: scikit-learn's metrics, leaving out NaN cells and one-class labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import sklearn.metrics as sk

# Everywhere in this file:
#   targets    (N, K) 0, 1, or NaN where a cell is not to be scored; multiclass rows are one-hot, or NaN throughout
#   probs      (N, K) in [0, 1];  decisions (N, K) 0 or 1
#   weights    (N,) how often a row counts (a bootstrap's counts); None: once. A row of weight 0 is not there
#   undefined  is a label whose scored cells are of one class, or none: NaN by label, left out of a mean over labels


def undefined_labels(targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) bool: the labels that cannot be scored, because their scored cells lack positives or negatives."""
    scored = _scored(targets, weights)
    return ~((scored & (targets == 1)).any(axis=0) & (scored & (targets == 0)).any(axis=0))


def roc_auc_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) area under the ROC curve, in [0, 1], ties counted half; NaN where a label is undefined.

    Source: Hanley & McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747
    """
    return _by_label(sk.roc_auc_score, targets, probs, weights)


def average_precision_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) precision averaged over the steps of recall, in [0, 1]; NaN where a label is undefined.

    A predictor without skill scores the label's prevalence, not 0.5.
    """
    return _by_label(sk.average_precision_score, targets, probs, weights)


def brier_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) mean squared distance of probability and truth, in [0, 1], 0 is best; NaN where a label is undefined.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return _by_label(sk.brier_score_loss, targets, probs, weights)


def f1_by_label(targets: np.ndarray, decisions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) harmonic mean of precision and recall, 0 where nothing is found; NaN where undefined."""
    return _by_label(_f1, targets, decisions, weights)


def decide(probs: np.ndarray, thresholds: np.ndarray | float | None, task: str) -> np.ndarray:
    """(N, K) int8 of 0 and 1: `probs >= thresholds` (one number or (K,)); for multiclass the most probable label.

    Multiclass takes no thresholds (None); of equally probable labels the first is decided for.
    Raises ValueError where thresholds are given for multiclass, or not given for the other tasks.
    """
    if task == "multiclass":
        if thresholds is not None:
            raise ValueError("multiclass decides for the most probable label; leave thresholds None")
        return np.eye(probs.shape[1], dtype=np.int8)[probs.argmax(axis=1)]
    if thresholds is None:
        raise ValueError(f"{task} decisions need thresholds: one number, or one a label")
    return (probs >= np.asarray(thresholds, dtype=np.float64)).astype(np.int8)


def prevalence(targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) share of positives among a label's scored cells, in [0, 1]; NaN where a label has no scored cell."""
    scored = _scored(targets, weights) * (1.0 if weights is None else weights[:, None])
    cells = scored.sum(axis=0)
    positives = (scored * (targets == 1)).sum(axis=0)
    return np.divide(positives, cells, out=np.full(len(cells), np.nan), where=cells > 0)


def constant_probs(label_prevalence: np.ndarray, n: int) -> np.ndarray:
    """(n, K) probabilities of a predictor that never looks: every row is `label_prevalence` (zeros: all negative)."""
    return np.tile(np.asarray(label_prevalence, dtype=np.float64), (n, 1))


def roc_auc(targets: np.ndarray, probs: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over the defined labels of the area under the ROC curve (multiclass: each class against the rest)."""
    return _mean(roc_auc_by_label(targets, probs, weights))


def average_precision(targets: np.ndarray, probs: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over the defined labels of the average precision."""
    return _mean(average_precision_by_label(targets, probs, weights))


def brier(targets: np.ndarray, probs: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over the defined labels of the Brier score; for multiclass 1/K of the sum over classes some tools print."""
    return _mean(brier_by_label(targets, probs, weights))


def log_loss(targets: np.ndarray, probs: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean negative log-likelihood in nats, 0 is best: over rows for multiclass, else the mean over the defined labels.

    Multiclass rows are first divided by their sum, so that rounding in a file does not matter.
    """
    probs = probs.astype(np.float64)
    if task != "multiclass":
        return _mean(_by_label(sk.log_loss, targets, probs, weights))
    rows, row_weights = _complete_rows(targets, weights)
    if not rows.any():
        return float("nan")
    classes, probs = targets[rows].argmax(axis=1), probs[rows] / probs[rows].sum(axis=1, keepdims=True)
    return float(sk.log_loss(classes, probs, labels=np.arange(probs.shape[1]), sample_weight=row_weights))


def f1_macro(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over the defined labels of F1, each over its own scored cells. For one binary label: its F1."""
    return _mean(f1_by_label(targets, decisions, weights))


def f1_weighted(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over the defined labels of F1, a label counting by its number of positives."""
    by_label = f1_by_label(targets, decisions, weights)
    defined = ~np.isnan(by_label)
    if not defined.any():
        return float("nan")
    positives = ((targets == 1) * (1.0 if weights is None else weights[:, None])).sum(axis=0)
    return float(np.average(by_label[defined], weights=positives[defined]))


def f1_micro(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """F1 over all scored cells thrown together, one-class labels too; NaN where they are of one class altogether."""
    truth, decided, cell_weights = _cells(targets, decisions, weights)
    if len(np.unique(truth)) < 2:
        return float("nan")
    return float(_f1(truth, decided, sample_weight=cell_weights))


def f1_samples(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Mean over rows of the F1 between a row's true and decided labels; rows with a NaN cell are left out.

    A row with no true and no decided label scores 0, as in scikit-learn with zero_division=0.
    """
    rows, row_weights = _complete_rows(targets, weights)
    if not rows.any():
        return float("nan")
    # scikit-learn refuses one column here; the same column twice has the same F1 in every row
    twice = 2 if targets.shape[1] == 1 else 1
    truth, decided = (np.tile(a[rows].astype(np.int8), (1, twice)) for a in (targets, decisions))
    return float(sk.f1_score(truth, decided, average="samples", sample_weight=row_weights, zero_division=0))


def accuracy(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Share decided rightly, in [0, 1]: of rows for binary and multiclass, of scored *cells* for multilabel.

    Deciding "no" everywhere is right in most multilabel cells: read it beside that floor.
    """
    if task == "multiclass":
        return subset_accuracy(targets, decisions, task, weights)
    truth, decided, cell_weights = _cells(targets, decisions, weights)
    return float(sk.accuracy_score(truth, decided, sample_weight=cell_weights)) if len(truth) else float("nan")


def subset_accuracy(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Share of rows with every label right, in [0, 1]; rows with a NaN cell are left out."""
    rows, row_weights = _complete_rows(targets, weights)
    if not rows.any():
        return float("nan")
    truth, decided = targets[rows].astype(np.int8), decisions[rows].astype(np.int8)
    return float(sk.accuracy_score(truth, decided, sample_weight=row_weights))


def balanced_accuracy(
    targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None
) -> float:
    """Mean recall, in [0, 1]: over the classes that occur for multiclass, else over "yes" and "no", then labels.

    NaN where only one class occurs.
    """
    if task != "multiclass":
        return _mean(_by_label(sk.balanced_accuracy_score, targets, decisions, weights))
    truth, decided, row_weights = _classes(targets, decisions, weights)
    occurring = np.unique(truth)
    if len(occurring) < 2:
        return float("nan")
    return float(sk.recall_score(truth, decided, labels=occurring, average="macro", sample_weight=row_weights))


def quadratic_kappa(targets: np.ndarray, decisions: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
    """Agreement beyond chance, at most 1, where a miss by two grades counts four times; the labels are ordered grades.

    NaN where only one grade occurs. Raises ValueError for multilabel.
    Source: Cohen 1968, https://doi.org/10.1037/h0026256
    """
    if task == "multilabel":
        raise ValueError("quadratic_kappa compares one grade a row; choose another metric for a multilabel competition")
    truth, decided, row_weights = _classes(targets, decisions, weights)
    if len(np.unique(truth)) < 2:
        return float("nan")
    grades = np.arange(max(2, targets.shape[1]))
    return float(sk.cohen_kappa_score(truth, decided, labels=grades, weights="quadratic", sample_weight=row_weights))


def score(
    metric_name: str,
    targets: np.ndarray,
    probs: np.ndarray,
    task: str,
    thresholds: np.ndarray | float | None = None,
    weights: np.ndarray | None = None,
) -> float:
    """The metric of these probabilities; where it needs decisions they are made at `thresholds`, or 0.5.

    NaN where no label is defined. Raises ValueError where the metric is unknown.
    """
    if metric_name not in METRICS:
        raise ValueError(f"no metric {metric_name!r}; choose one of {', '.join(METRICS)}")
    metric = METRICS[metric_name]
    if metric.uses == "probs":
        return metric.score(targets, probs, task, weights)
    if thresholds is None and task != "multiclass":
        thresholds = 0.5
    return metric.score(targets, decide(probs, thresholds, task), task, weights)


def _scored(targets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(N, K) bool: the cells that count."""
    scored = ~np.isnan(targets)
    return scored if weights is None else scored & (weights > 0)[:, None]


def _by_label(
    label_score: Callable[..., float], targets: np.ndarray, values: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """(K,) `label_score` of every column over its own scored cells; never called on a column of one class."""
    scores = np.full(targets.shape[1], np.nan)
    scored = _scored(targets, weights)
    for k in np.flatnonzero(~undefined_labels(targets, weights)):
        rows = scored[:, k]
        row_weights = None if weights is None else weights[rows]
        scores[k] = label_score(targets[rows, k].astype(np.int8), values[rows, k], sample_weight=row_weights)
    return scores


def _cells(
    targets: np.ndarray, decisions: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Truth, decision and weight of every scored cell, each one-dimensional."""
    scored = _scored(targets, weights)
    cell_weights = None if weights is None else np.broadcast_to(weights[:, None], scored.shape)[scored]
    return targets[scored].astype(np.int8), decisions[scored].astype(np.int8), cell_weights


def _complete_rows(targets: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(N,) bool: the rows whose cells are all scored; and the weights of those rows."""
    rows = _scored(targets, weights).all(axis=1)
    return rows, None if weights is None else weights[rows]


def _classes(
    targets: np.ndarray, decisions: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """True class, decided class and weight of every complete row; one binary column is the classes 0 and 1."""
    rows, row_weights = _complete_rows(targets, weights)
    if targets.shape[1] == 1:
        return targets[rows, 0].astype(np.int8), decisions[rows, 0].astype(np.int8), row_weights
    return targets[rows].argmax(axis=1), decisions[rows].argmax(axis=1), row_weights


def _f1(truth: np.ndarray, decided: np.ndarray, sample_weight: np.ndarray | None) -> float:
    return sk.f1_score(truth, decided, sample_weight=sample_weight, zero_division=0)


def _mean(by_label: np.ndarray) -> float:
    """The mean of the defined labels, NaN where there is none (numpy's nanmean would warn)."""
    defined = by_label[~np.isnan(by_label)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class Metric:
    """A score a competition can be judged by; `score(targets, values, task, weights=None)` takes what `uses` names."""

    name: str
    score: Callable[..., float]
    uses: Literal["probs", "decisions"]
    greater_is_better: bool
    title: str  # for a table's head


METRICS = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", roc_auc, "probs", True, "ROC AUC"),
        Metric("average_precision", average_precision, "probs", True, "average precision"),
        Metric("brier", brier, "probs", False, "Brier score"),
        Metric("log_loss", log_loss, "probs", False, "log loss"),
        Metric("f1_macro", f1_macro, "decisions", True, "macro F1"),
        Metric("f1_micro", f1_micro, "decisions", True, "micro F1"),
        Metric("f1_weighted", f1_weighted, "decisions", True, "weighted F1"),
        Metric("f1_samples", f1_samples, "decisions", True, "sample-wise F1"),
        Metric("accuracy", accuracy, "decisions", True, "accuracy"),
        Metric("subset_accuracy", subset_accuracy, "decisions", True, "subset accuracy"),
        Metric("balanced_accuracy", balanced_accuracy, "decisions", True, "balanced accuracy"),
        Metric("quadratic_kappa", quadratic_kappa, "decisions", True, "quadratic kappa"),
    )
}
