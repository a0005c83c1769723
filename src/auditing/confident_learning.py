"""Which labels are probably wrong, by confident learning on predictions of models that did not see them."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

COLUMNS = ("row", "label", "given", "suggested", "prob", "quality")


def judge_cells(targets: np.ndarray, probs: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """How well each given label fits its prediction, and whether it is probably wrong: (N, K) float and bool.

    targets: (N, K) 1, 0 or NaN;  probs: (N, K) out-of-fold. Quality in [0, 1], the lower the worse: half of 1 + the
    margin by which the given class's probability is above that of the best other one. A cell is NaN and False where
    nothing is given or predicted, or all images have the same. Of classes the numbers are those of the row, in the
    column of the given class. Confident learning compares a probability with the mean that the class has where it is
    given, so probabilities that are too low or too high as a whole do no harm.
    Source: Northcutt, Jiang & Chuang 2021, https://arxiv.org/abs/1911.00068; the counts and pruning are cleanlab's.
    """
    quality, wrong = np.full(targets.shape, np.nan), np.zeros(targets.shape, bool)
    if task == "multiclass":
        known = ~np.isnan(targets).any(axis=1) & ~np.isnan(probs).any(axis=1)
        rows, classes = np.flatnonzero(known), targets[known].argmax(axis=1)
        quality[rows, classes], wrong[rows, classes] = _judge(classes, probs[known])
        return quality, wrong
    for k in range(targets.shape[1]):
        known = ~np.isnan(targets[:, k]) & ~np.isnan(probs[:, k])
        present = probs[known, k]
        quality[known, k], wrong[known, k] = _judge(targets[known, k].astype(int),
                                                    np.column_stack([1 - present, present]))
    return quality, wrong


def _judge(classes: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quality (n,) and whether it is probably wrong (n,) of given classes (n,) of which probs (n, C) are predicted."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    there, given = np.unique(classes, return_inverse=True)
    if len(there) < 2:  # nothing to be mistaken for
        return np.full(len(classes), np.nan), np.zeros(len(classes), bool)
    probs = np.clip(probs[:, there].astype(np.float64), 1e-9, None)
    probs /= probs.sum(axis=1, keepdims=True)
    quality = get_label_quality_scores(given, probs, method="normalized_margin")
    return quality, find_label_issues(given, probs, filter_by="prune_by_noise_rate", n_jobs=1, min_examples_per_class=0)


def rank_suspects(targets: np.ndarray, probs: np.ndarray, quality: np.ndarray, wrong: np.ndarray,
                  task: str) -> pd.DataFrame:
    """The cells that are probably wrong, the worst first: one row each with COLUMNS.

    row and label: places in the table and among the labels;  given, suggested: 0 or 1, of classes their places;  prob:
    the probability predicted for what is given.
    """
    rows, labels = np.nonzero(wrong)
    if task == "multiclass":
        others = probs[rows].copy()
        others[np.arange(len(rows)), labels] = -1
        given, suggested, prob = labels, others.argmax(axis=1), probs[rows, labels]
    else:
        given = targets[rows, labels].astype(int)
        suggested, prob = 1 - given, np.where(given == 1, probs[rows, labels], 1 - probs[rows, labels])
    frame = pd.DataFrame(dict(zip(COLUMNS, (rows, labels, given, suggested, prob, quality[rows, labels]), strict=True)))
    return frame.sort_values("quality", kind="stable").reset_index(drop=True)


def measure_against(planted: np.ndarray, quality: np.ndarray, wrong: np.ndarray,
                    labels: tuple[str, ...]) -> pd.DataFrame:
    """What the suspicion is worth where it is known which labels are wrong: a row a label, and one over all.

    planted, quality, wrong: (N, K). recall: share of the wrong labels that are suspected, with a 95 % interval
    (Wilson), by_chance what as many suspects drawn at random would find;  precision: share of the suspects that are
    wrong, base_rate that of all labels;  first: precision of as many of the worst as there are wrong ones;
    average_precision: of the ranking.
    """
    rows = []
    for name, k in (*((label, [k]) for k, label in enumerate(labels)), ("all", list(range(len(labels))))):
        known = ~np.isnan(quality[:, k])
        truth, score, found = planted[:, k][known], quality[:, k][known], wrong[:, k][known]
        count, hits = int(truth.sum()), int((truth & found).sum())
        recall = binomtest(hits, count).proportion_ci(0.95, method="wilson") if count else None
        worst = np.argsort(score, kind="stable")[:count]
        rows.append({
            "label": name, "labels": len(truth), "wrong": count, "suspected": int(found.sum()), "hits": hits,
            "recall": hits / count if count else np.nan, "low": recall.low if recall else np.nan,
            "high": recall.high if recall else np.nan, "by_chance": found.mean() if len(found) else np.nan,
            "precision": hits / found.sum() if found.any() else np.nan,
            "base_rate": truth.mean() if len(truth) else np.nan, "first": truth[worst].mean() if count else np.nan,
            "average_precision": average_precision_score(truth, 1 - score) if count else np.nan})
    return pd.DataFrame(rows)
