"""The metrics of competitions, one entry each in METRICS, which everything that scores or decides reads.

To add a metric, write one entry: a function of (targets, values, task, weights), or counts per row from which it
follows (see scoring/counts.py). A metric without counts works everywhere too, but slower: the bootstrap calls its
function once a replicate.
"""

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scoring.counts import (
    Counts,
    count_correct,
    count_correct_rows,
    count_grades,
    count_labels,
    count_log_losses,
    count_recalls,
    count_row_f1,
    count_squared_errors,
    f1_of,
    label_counts,
    macro_f1_of,
    mean_of_defined,
    micro_f1_of,
    weighted_f1_of,
)
from scoring.ranking import Ranking, rank_labels, ranked_scores

# Everywhere in this file:
#   targets    (N, K) 0, 1, or NaN where a cell is not scored; multiclass rows are one-hot, or NaN throughout
#   probs      (N, K) in [0, 1];  decisions (N, K) 0 or 1
#   weights    (N,) how often a row counts (a bootstrap's counts); None: once. A row of weight 0 is left out
#   undefined  is a label whose scored cells are of one class, or none: NaN by label, left out of a mean over labels

TASKS = ("binary", "multiclass", "multilabel")


def undefined_labels(targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) bool: the labels that cannot be scored, because their scored cells lack positives or negatives."""
    scored = _scored(targets, weights)
    return ~((scored & (targets == 1)).any(axis=0) & (scored & (targets == 0)).any(axis=0))


def roc_auc_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) area under the ROC curve, in [0, 1], ties counted half; NaN where a label is undefined.

    Source: Hanley & McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747
    """
    from sklearn.metrics import roc_auc_score

    return _by_label(roc_auc_score, targets, probs, weights)


def average_precision_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) precision averaged over the steps of recall, in [0, 1]; NaN where a label is undefined.

    A predictor without skill scores the label's prevalence, not 0.5.
    """
    from sklearn.metrics import average_precision_score

    return _by_label(average_precision_score, targets, probs, weights)


def brier_by_label(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) mean squared difference of probability and truth, in [0, 1], 0 is best; NaN where a label is undefined.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    from sklearn.metrics import brier_score_loss

    return _by_label(brier_score_loss, targets, probs, weights)


def f1_by_label(targets: np.ndarray, decisions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) harmonic mean of precision and recall, 0 where nothing is found; NaN where a label is undefined.

    Examples
    --------
    >>> f1_by_label(np.array([[1.0], [1], [0]]), np.array([[1], [0], [0]])).round(3).tolist()
    [0.667]
    """
    return f1_of(_sum(label_counts(targets, decisions), weights))[0]


def decide(probs: np.ndarray, thresholds: np.ndarray | float | None, task: str) -> np.ndarray:
    """(N, K) int8 of 0 and 1: `probs >= thresholds` (one number or (K,)); for multiclass the most probable label.

    Multiclass takes no thresholds (None); of equally probable labels it decides for the first.
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
    """(n, K) probabilities that do not depend on the image: every row is `label_prevalence`."""
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
    from sklearn.metrics import log_loss as sklearn_log_loss

    probs = probs.astype(np.float64)
    if task != "multiclass":
        return _mean(_by_label(sklearn_log_loss, targets, probs, weights))
    rows = _scored(targets, weights).all(axis=1)
    if not rows.any():
        return float("nan")
    classes, probs = targets[rows].argmax(axis=1), probs[rows] / probs[rows].sum(axis=1, keepdims=True)
    return float(sklearn_log_loss(classes, probs, labels=np.arange(probs.shape[1]),
                                  sample_weight=None if weights is None else weights[rows]))


# ---- what orders the cuts of one label as a metric does: from true and false positives (M + 1,) of every cut, and the
# label's positives and negatives. Counts are whole numbers, so equally good cuts come out exactly equal


def f1_cuts(found: np.ndarray, false: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    """F1 of one label at every cut."""
    return 2 * found / (positives + found + false)


def accuracy_cuts(found: np.ndarray, false: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    """The accuracy of one label at every cut, but for a constant and a factor."""
    return found - false


def balanced_accuracy_cuts(found: np.ndarray, false: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    """The balanced accuracy of one label at every cut, but for a constant and a factor."""
    return found * negatives - false * positives


def kappa_cuts(found: np.ndarray, false: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    """Half of Cohen's kappa of one label at every cut."""
    decided = found + false
    by_chance = decided * negatives + positives * (positives + negatives - decided)
    return (found * negatives - false * positives) / by_chance


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: what it takes, how it is computed, and all that intervals, thresholds and tables need of it.

    At least one of `function` and `counts` is needed. `score` calls the function where there is one, else it sums the
    counts; both must agree.
    """

    name: str
    title: str  # for a table's head
    uses: Literal["probs", "decisions"]
    greater_is_better: bool
    function: Callable[..., float] | None = None  # (targets, values, task, weights or None) -> score, NaN if undefined
    counts: Callable[[np.ndarray, np.ndarray, str], Counts] | None = None  # (targets, values, task)
    ranking: Callable[[Ranking, np.ndarray], np.ndarray] | None = None  # the score of one label by the order of rows
    tasks: tuple[str, ...] = TASKS
    bounded: bool = True  # between 0 and 1: its interval is computed on the logit
    averages: Literal["labels", "positives", "rows"] = "labels"  # what it is a mean over, so what its error depends on
    order_only: bool = False  # depends on the order of the probabilities of a label only, as ROC AUC does
    # of decisions: what orders the cuts of one label, and how thresholds of all labels follow. "label": each label's
    # best is the best; "micro_f1": one fraction over all labels; "joint": moved in turn, because labels interact
    cut_quality: Callable[..., np.ndarray] | None = None
    threshold_search: Literal["label", "micro_f1", "joint"] = "joint"

    def __post_init__(self):
        if self.function is None and self.counts is None:
            raise ValueError(f"metric {self.name!r} needs a function, or counts")
        if self.threshold_search == "label" and self.cut_quality is None:
            raise ValueError(f"metric {self.name!r}: threshold_search 'label' needs cut_quality")

    @property
    def sign(self) -> int:
        """1 where greater is better, else -1."""
        return 1 if self.greater_is_better else -1

    def check_task(self, task: str) -> None:
        """Raises ValueError where the metric does not fit the task."""
        if task not in self.tasks:
            fitting = ", ".join(other.name for other in METRICS.values() if task in other.tasks)
            raise ValueError(f"the metric {self.name} is for {' and '.join(self.tasks)} tasks, not for {task}; choose "
                             f"one of {fitting}")

    def score(self, targets: np.ndarray, values: np.ndarray, task: str, weights: np.ndarray | None = None) -> float:
        """The metric of values (N, K), probabilities or decisions as `uses` says; NaN where it is undefined.

        Raises ValueError where the metric does not fit the task.
        """
        self.check_task(task)
        if self.function is not None:
            return float(self.function(targets, values, task, weights))
        counts = self.counts(targets, values, task)
        return float(counts.score(_sum(counts.cells, weights))[0])


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="roc_auc", title="ROC AUC", uses="probs", greater_is_better=True,
               function=roc_auc, ranking=Ranking.auc, order_only=True),
        Metric(name="average_precision", title="average precision", uses="probs", greater_is_better=True,
               function=average_precision, ranking=Ranking.average_precision, order_only=True),
        Metric(name="brier", title="Brier score", uses="probs", greater_is_better=False,
               function=brier, counts=count_squared_errors, averages="rows"),
        Metric(name="log_loss", title="log loss", uses="probs", greater_is_better=False,
               function=log_loss, counts=count_log_losses, bounded=False, averages="rows"),
        # F1 is 0 where nothing is found, and each label's is over its own scored cells
        Metric(name="f1_macro", title="macro F1", uses="decisions", greater_is_better=True,
               counts=count_labels(macro_f1_of), cut_quality=f1_cuts, threshold_search="label"),
        # over all scored cells together, those of labels of one class too
        Metric(name="f1_micro", title="micro F1", uses="decisions", greater_is_better=True,
               counts=count_labels(micro_f1_of), averages="positives", threshold_search="micro_f1"),
        Metric(name="f1_weighted", title="weighted F1", uses="decisions", greater_is_better=True,
               counts=count_labels(weighted_f1_of), averages="positives", cut_quality=f1_cuts,
               threshold_search="label"),
        # over rows; one with no true and no decided label scores 0, as in scikit-learn with zero_division=0
        Metric(name="f1_samples", title="sample-wise F1", uses="decisions", greater_is_better=True,
               counts=count_row_f1, averages="rows", cut_quality=f1_cuts),
        # of rows for binary and multiclass, of scored cells for multilabel, where "no" is nearly always correct
        Metric(name="accuracy", title="accuracy", uses="decisions", greater_is_better=True,
               counts=count_correct, averages="rows", cut_quality=accuracy_cuts, threshold_search="label"),
        Metric(name="subset_accuracy", title="subset accuracy", uses="decisions", greater_is_better=True,
               counts=count_correct_rows, averages="rows", cut_quality=accuracy_cuts),
        # mean recall: over the classes that occur for multiclass, else over "yes" and "no", then over labels
        Metric(name="balanced_accuracy", title="balanced accuracy", uses="decisions", greater_is_better=True,
               counts=count_recalls, cut_quality=balanced_accuracy_cuts, threshold_search="label"),
        # labels are ordered grades; an error by two grades costs four times as much as one by one grade.
        # Source: Cohen 1968, https://doi.org/10.1037/h0026256
        Metric(name="quadratic_kappa", title="quadratic kappa", uses="decisions", greater_is_better=True,
               counts=count_grades, tasks=("binary", "multiclass"), bounded=False, averages="rows",
               cut_quality=kappa_cuts, threshold_search="label"),
    )
}


def check_name(kind: str, name: str, choices: Collection[str]) -> None:
    """Raises ValueError if `name` is none of the choices; the message suggests the nearest ones."""
    if name not in choices:
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"no {kind} {name!r}; {hint}choose one of {', '.join(choices)}")


def check_metric(name: str, task: str | None = None) -> Metric:
    """The metric of this name. Raises ValueError where there is none, or where it does not fit the task."""
    check_name("metric", name, METRICS)
    if task is not None:
        METRICS[name].check_task(task)
    return METRICS[name]


def score(
    metric_name: str,
    targets: np.ndarray,
    probs: np.ndarray,
    task: str,
    thresholds: np.ndarray | float | None = None,
    weights: np.ndarray | None = None,
) -> float:
    """The metric of these probabilities; where it needs decisions they are made at `thresholds`, or 0.5.

    NaN where it is undefined. Raises ValueError where the metric is unknown or does not fit the task.
    """
    metric = check_metric(metric_name, task)
    if metric.uses == "probs":
        return metric.score(targets, probs, task, weights)
    if thresholds is None and task != "multiclass":
        thresholds = 0.5
    return metric.score(targets, decide(probs, thresholds, task), task, weights)


def make_scorer(metric_name: str, targets: np.ndarray, values: np.ndarray,
                task: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from row_weights (R, N), not negative, to the metric's scores (R,); NaN where undefined.

    Raises ValueError if the metric is unknown or does not fit the task.
    """
    metric = check_metric(metric_name, task)
    if metric.ranking is not None:
        rankings = rank_labels(targets, values)
        return lambda row_weights: mean_of_defined(ranked_scores(metric.ranking, rankings, row_weights))
    if metric.counts is None:
        return lambda row_weights: np.array([metric.score(targets, values, task, each) for each in row_weights])
    counts = metric.counts(targets, values, task)
    return lambda row_weights: counts.score(row_weights @ counts.cells)


def confusion_scorer(metric_name: str, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from confusion matrices (R, K * K), the true class first, to a metric of multiclass decisions (R,).

    To try many decisions on the same rows this is faster than scoring the rows: there are only K * K kinds of row, and
    a confusion matrix is how often each of them counts.
    """
    one_hot = np.eye(classes)
    return make_scorer(metric_name, one_hot.repeat(classes, axis=0), np.tile(one_hot, (classes, 1)).astype(np.int8),
                       "multiclass")


def _sum(cells: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(1, C) the sums of cells (N, C) over the rows."""
    return cells.sum(axis=0, keepdims=True) if weights is None else weights[None] @ cells


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


def _mean(by_label: np.ndarray) -> float:
    """The mean of the defined labels, NaN where there is none (numpy's nanmean would warn)."""
    defined = by_label[~np.isnan(by_label)]
    return float(defined.mean()) if len(defined) else float("nan")
