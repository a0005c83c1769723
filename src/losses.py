"""Logits and targets to a loss, and logits to probabilities, by task."""

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over the cells that are stated; 0 where none is.

    logits, targets: (B, K), targets in [0, 1] or NaN (left out).
    """
    stated = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none")
    return (losses * stated).sum() / stated.sum().clamp(min=1)


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the rows that are stated; 0 where none is.

    logits, targets: (B, K), a row of targets sums to one or holds a NaN (left out).
    """
    stated = ~targets.isnan().any(dim=1)
    losses = F.cross_entropy(logits.float(), targets.nan_to_num(), reduction="none")
    return (losses * stated).sum() / stated.sum().clamp(min=1)


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (B, K) of classes that exclude each other."""
    return logits.softmax(dim=1)


LOSSES = {"binary": masked_bce, "multilabel": masked_bce, "multiclass": masked_cross_entropy}
PROBS = {"binary": torch.sigmoid, "multilabel": torch.sigmoid, "multiclass": softmax}
