"""Confident learning: which labels are probably wrong, according to models that were not trained on them."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

COLUMNS = ("row", "label", "given", "suggested", "prob", "quality")


def judge_cells(targets: np.ndarray, probs: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Quality (N, K) of each given label, and whether it is probably wrong, (N, K) bool.

    targets: (N, K) 1, 0 or NaN;  probs: (N, K) out-of-fold. Quality is in [0, 1]; low is bad: (1 + margin) / 2, where
    the margin is the given class's probability minus that of the best other class. It is NaN, and the label is not
    reported as wrong, if the label or the prediction is missing or all images have the same label. In a multiclass
    task each row has one quality, in the column of the given class. Confident learning compares a probability with
    the mean probability of the images with that label, so it does not need calibrated probabilities.
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
    """Quality (n,), and whether the label is probably wrong (n,), of given classes (n,) and predictions (n, C)."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    there, given = np.unique(classes, return_inverse=True)
    if len(there) < 2:  # no other class that could be right
        return np.full(len(classes), np.nan), np.zeros(len(classes), bool)
    probs = np.clip(probs[:, there].astype(np.float64), 1e-9, None)
    probs /= probs.sum(axis=1, keepdims=True)
    quality = get_label_quality_scores(given, probs, method="normalized_margin")
    return quality, find_label_issues(given, probs, filter_by="prune_by_noise_rate", n_jobs=1, min_examples_per_class=0)


def rank_suspects(targets: np.ndarray, probs: np.ndarray, quality: np.ndarray, wrong: np.ndarray,
                  task: str) -> pd.DataFrame:
    """The labels that are probably wrong, the worst first: one row each with COLUMNS.

    row, label: positions in the table and among the labels;  given, suggested: 0 or 1, in a multiclass task positions
    of classes;  prob: the predicted probability of the given label.
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
    """Compares the suspected labels with the known errors: one row a label, and a last row "all".

    planted, quality, wrong: (N, K). recall: share of the errors that are suspected, with a 95 % interval (Wilson);
    by_chance: recall of as many suspects drawn at random;  precision: share of the suspects that are errors;
    base_rate: share of all labels that are errors;  average_precision: of the ranking by quality.
    """
    rows = []
    for name, k in (*((label, [k]) for k, label in enumerate(labels)), ("all", list(range(len(labels))))):
        known = ~np.isnan(quality[:, k])
        truth, score, found = planted[:, k][known], quality[:, k][known], wrong[:, k][known]
        count, hits = int(truth.sum()), int((truth & found).sum())
        recall = binomtest(hits, count).proportion_ci(0.95, method="wilson") if count else None
        rows.append({
            "label": name, "labels": len(truth), "wrong": count, "suspected": int(found.sum()), "hits": hits,
            "recall": hits / count if count else np.nan, "low": recall.low if recall else np.nan,
            "high": recall.high if recall else np.nan, "by_chance": found.mean() if len(found) else np.nan,
            "precision": hits / found.sum() if found.any() else np.nan,
            "base_rate": truth.mean() if len(truth) else np.nan,
            "average_precision": average_precision_score(truth, 1 - score) if count else np.nan})
    return pd.DataFrame(rows)
