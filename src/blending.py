"""Several models' probabilities made into one: the mean, and the mean of ranks."""

import numpy as np
from scipy.stats import rankdata


def mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean of members (M, N, K). `folds` and `task` change nothing here."""
    return np.mean(members, axis=0, dtype=np.float64)


def rank_mean_blend(members: np.ndarray, folds: np.ndarray | None = None, task: str = "multilabel") -> np.ndarray:
    """(N, K) mean over members (M, N, K) of each one's ranks, in (0, 1]; ties share their mean rank.

    A rank is a share of its column: 1 is the highest score. With `folds` (N,) it is taken within the fold, because
    each fold's model has a scale of its own. Ranks say which image comes before which and nothing else: they are no
    probabilities, and a threshold for them must be fitted on them.
    Multiclass: ranks are taken over all K columns together, so that each member still decides for the same class in
    every row, and every row of the mean is divided by its sum.
    """
    members = np.asarray(members)
    parts = [slice(None)] if folds is None else [folds == fold for fold in np.unique(folds)]
    blend = np.empty(members.shape[1:])
    for rows in parts:
        blend[rows] = np.mean([_ranks(member[rows], task) for member in members], axis=0)
    return blend / blend.sum(axis=1, keepdims=True) if task == "multiclass" else blend


def _ranks(probs: np.ndarray, task: str) -> np.ndarray:
    """(n, K) ranks divided by how many were ranked, in (0, 1]."""
    if task == "multiclass":
        return rankdata(probs, axis=None).reshape(probs.shape) / probs.size
    return rankdata(probs, axis=0) / len(probs)


BLENDS = {"mean": mean_blend, "rank_mean": rank_mean_blend}
