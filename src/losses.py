"""Logits and targets to a loss, and logits to probabilities, by task."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the cells that are stated; 0 where none is.

    logits, targets: (B, K), targets in [0, 1] or NaN (left out);  weights: (2, K), of a label's negative and positive
    part. The mean is over cells and not over their weights, so an image counts alike whatever batch it stands in.
    """
    stated, factors = ~targets.isnan(), {}
    if weights is not None:
        factors = {"weight": weights[0].expand_as(targets), "pos_weight": weights[1] / weights[0]}
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none", **factors)
    return (losses * stated).sum() / stated.sum().clamp(min=1)


def masked_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the rows that are stated; 0 where none is.

    logits, targets: (B, K), a row of targets sums to one or holds a NaN (left out);  weights: (K,), of the classes.
    The mean is over rows and not over their weights, so an image counts alike whatever batch it stands in.
    """
    stated = ~targets.isnan().any(dim=1)
    losses = F.cross_entropy(logits.float(), targets.nan_to_num(), weight=weights, reduction="none")
    return (losses * stated).sum() / stated.sum().clamp(min=1)


def label_weights(kind: str, targets: np.ndarray, task: str) -> Tensor | None:
    """Weights for the loss: None, (K,) of classes, or (2, K) of a label's negatives and positives.

    targets: (N, K) of the training rows, NaN where nothing is stated; a soft target is part positive, part negative.
    "balanced": N / (K n) for a class of n among N rows, N / (2 n) for the n positives or negatives among N stated
    cells: scikit-learn's class_weight="balanced" (King & Zeng 2001). Their mean over the training rows is 1.
    "pos_weight": negatives / positives on the positive part, 1 on the negative.
    A class that does not occur, or a label all of whose cells are alike, has the weight 1.
    Raises ValueError for "pos_weight" of classes, which have no negatives of their own.
    """
    if kind == "none":
        return None
    if task == "multiclass":
        if kind != "balanced":
            raise ValueError(f"loss_weights={kind} is for labels that can be present or not; for classes there is "
                             "balanced")
        counts = np.nansum(targets, axis=0, dtype=np.float64)
        weights = np.divide(counts.sum(), len(counts) * counts, out=np.ones(len(counts)), where=counts > 0)
    else:
        positives = np.nansum(targets, axis=0, dtype=np.float64)
        counts = np.stack([(~np.isnan(targets)).sum(axis=0) - positives, positives])
        over = counts.sum(axis=0) / 2 if kind == "balanced" else counts[0]
        weights = np.divide(over, counts, out=np.ones(counts.shape), where=(counts > 0).all(axis=0))
    return torch.from_numpy(weights.astype(np.float32))


def best_probs(targets: np.ndarray, task: str, weights: Tensor | None = None) -> np.ndarray:
    """(N, K) the probabilities with the least loss, each row by itself: the targets, moved as the weights say.

    targets and weights as for the losses; NaN stays NaN.
    """
    if weights is None:
        return targets
    if task == "multiclass":
        parts = targets * weights.numpy()
        return parts / parts.sum(axis=1, keepdims=True)
    negatives, positives = weights.numpy()
    return targets * positives / (targets * positives + (1 - targets) * negatives)


def best_constant(targets: np.ndarray, task: str, weights: Tensor | None = None,
                  counts: np.ndarray | None = None) -> np.ndarray:
    """(K,) the probabilities with the least loss among those that never look at an image; 0.5 where nothing is stated.

    targets and weights as for the losses; counts: (N,) how often each row is seen. For targets of 0 and 1 that are
    seen once without weights, it is the share of positives.
    """
    counts = np.ones(len(targets)) if counts is None else counts
    stated = ~np.isnan(targets)
    if task == "multiclass":
        stated &= stated.all(axis=1, keepdims=True)
    seen = counts @ stated
    means = np.divide(counts @ np.where(stated, targets, 0), seen, out=np.full(len(seen), np.nan), where=seen > 0)
    return np.nan_to_num(best_probs(means[None], task, weights)[0], nan=1 / len(means) if task == "multiclass" else 0.5)


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (B, K) of classes that exclude each other."""
    return logits.softmax(dim=1)


LOSSES = {"binary": masked_bce, "multilabel": masked_bce, "multiclass": masked_cross_entropy}
PROBS = {"binary": torch.sigmoid, "multilabel": torch.sigmoid, "multiclass": softmax}
