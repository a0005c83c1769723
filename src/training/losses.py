"""Logits and targets to a loss, and logits to probabilities, by task.

Where a target is soft, 0.7, a cell is part positive and part negative: its loss is 0.7 of a positive's and 0.3 of a
negative's, and where a loss counts, it counts so in both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.settings import Choice, Value, read_value


@dataclass(frozen=True, kw_only=True)
class Loss(Choice):
    """A loss of logits and targets. An entry of LOSSES.

    build: (logits (B, K), targets (B, K), task, weights) -> a scalar tensor; targets and weights as in `make_loss`.
    tasks: those in which it means something.
    whole_batch: True where it compares a batch's images with one another and is no mean over cells or rows: it is then
    computed on whole batches only, without weights and label smoothing.
    """

    tasks: tuple[str, ...] = ("binary", "multilabel", "multiclass")
    whole_batch: bool = False


def make_loss(loss: str, task: str, weights: Tensor | None = None,
              label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of logits (B, K) and targets (B, K) that returns a scalar, in float32.

    loss: a name in LOSSES with its arguments, "focal:2";  weights: see `label_weights`, on the device of the logits.
    Targets are in [0, 1] or NaN, which is left out; in a multiclass task a row sums to one, and is left out if it holds
    a NaN. Where all targets are NaN, the loss and its gradient are 0.
    label_smoothing: the share of a target that is spread evenly, see `smooth_targets`.
    Raises ValueError where `check_loss` does.
    """
    value = check_loss(loss, task, label_smoothing, weights is not None)

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        if label_smoothing:
            targets = smooth_targets(targets, label_smoothing, task)
        return value(logits, targets, task, weights)

    return loss_fn


def check_loss(loss: str, task: str, label_smoothing: float = 0.0, weighted: bool = False) -> Value:
    """The loss as it is named. Raises ValueError where there is none, or not for the task, smoothing, or weights."""
    value = read_value("loss", loss, LOSSES)
    if task not in value.choice.tasks:
        raise ValueError(f"loss={loss} is for {' and '.join(value.choice.tasks)} tasks, and this one is {task}; set "
                         "loss=cross_entropy or focal:GAMMA")
    if value.choice.whole_batch and label_smoothing:
        raise ValueError(f"label_smoothing={label_smoothing:g} is for losses that are a mean over cells, and {loss} is "
                         "not; set label_smoothing=0")
    if value.choice.whole_batch and weighted:
        raise ValueError(f"loss={loss} gives positives and negatives the same weight, whatever their numbers; set "
                         "loss_weights=none")
    return value


def smooth_targets(targets: Tensor, share: float, task: str) -> Tensor:
    """Targets (B, K) of which a share is spread evenly: over a label's presence and absence, or over all K classes.

    Source: Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567.
    """
    return targets * (1 - share) + share / (targets.shape[1] if task == "multiclass" else 2)


def masked_bce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the cells that are stated; 0 where none is.

    logits, targets: (B, K), targets in [0, 1] or NaN (left out);  weights: (2, K), of a label's negative and positive
    part. The mean is over cells and not over their weights, so an image's weight does not depend on its batch.
    """
    stated, factors = ~targets.isnan(), {}
    if weights is not None:
        factors = {"weight": weights[0].expand_as(targets), "pos_weight": weights[1] / weights[0]}
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none", **factors)
    return _mean(losses, stated)


def masked_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the rows that are stated; 0 where none is.

    logits, targets: (B, K), a row of targets sums to one or holds a NaN (left out);  weights: (K,), of the classes.
    The mean is over rows and not over their weights, so an image's weight does not depend on its batch.
    """
    stated = ~targets.isnan().any(dim=1)
    losses = F.cross_entropy(logits.float(), targets.nan_to_num(), weight=weights, reduction="none")
    return _mean(losses, stated)


def cross_entropy(logits: Tensor, targets: Tensor, task: str, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of labels or cross-entropy of classes, by the task."""
    return CROSS_ENTROPY[task](logits, targets, weights)


def focal(logits: Tensor, targets: Tensor, task: str, weights: Tensor | None, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p the probability of what is true: what is known already counts less.

    Without the paper's alpha, for which there are weights. Mean over cells or, of classes, rows.
    Source: Lin et al. 2017, equation 4, https://arxiv.org/abs/1708.02002.
    """
    if task != "multiclass":
        return asymmetric(logits, targets, task, weights, gamma, gamma, 0.0)
    logs = logits.float().log_softmax(dim=1)
    losses = -targets.nan_to_num() * _power(-logs.expm1(), gamma) * logs
    if weights is not None:
        losses = losses * weights
    return _mean(losses.sum(dim=1), ~targets.isnan().any(dim=1))


def asymmetric(logits: Tensor, targets: Tensor, task: str, weights: Tensor | None, negative: float, positive: float,
               clip: float) -> Tensor:
    """Focal loss of labels with one exponent for negatives and one for positives; easy negatives do not count at all.

    A negative's p is first lowered by `clip`, at most to 0. Mean over cells.
    Source: Ridnik et al. 2021, equations 4 to 7, https://arxiv.org/abs/2009.14119.
    """
    logits, stated, targets = logits.float(), ~targets.isnan(), targets.nan_to_num()
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)  # of p and 1 - p, exact however large a logit is
    log_clip = torch.full_like(log_q, math.log(clip) if clip else -math.inf)
    shifted = torch.logaddexp(log_q, log_clip).clamp(max=0)  # log(1 - max(p - clip, 0))
    losses_of_1 = -targets * (positive * log_q).exp() * log_p
    losses_of_0 = -(1 - targets) * _power(-shifted.expm1(), negative) * shifted
    if weights is not None:
        losses_of_0, losses_of_1 = losses_of_0 * weights[0], losses_of_1 * weights[1]
    return _mean(losses_of_0 + losses_of_1, stated)


def auc_margin(logits: Tensor, targets: Tensor, task: str, weights: None, margin: float) -> Tensor:
    """AUC margin loss: a label's positives should score by `margin` more than its negatives, each with little variance.

    With the scores h in [0, 1], a and b their means over positives and negatives, a label's loss is
    var(h | 1) + var(h | 0) + max(0, margin - a + b)^2, and the loss is the mean over labels that have both in the
    batch, so batches must not be small. The paper's min-max objective, divided by its constant p (1 - p), is this:
    over a and b it is least at the means, and 2 alpha (margin - a + b) - alpha^2 over alpha >= 0 is greatest at
    alpha = max(0, margin - a + b). So a batch can do without the paper's auxiliary variables and their optimizer.
    Each class of a multiclass task is ranked against all others. With equal scores, a label's loss is margin^2.
    Source: Yuan et al. 2021, https://arxiv.org/abs/2012.03173.
    """
    scores = PROBS[task](logits.float())
    stated, targets = _stated(targets, task), targets.nan_to_num()

    def moments(parts: Tensor) -> tuple[Tensor, Tensor]:
        mean = _divide((parts * scores).sum(dim=0), parts.sum(dim=0))
        return mean, _divide((parts * (scores - mean) ** 2).sum(dim=0), parts.sum(dim=0))

    positives, negatives = targets * stated, (1 - targets) * stated
    (a, spread_of_1), (b, spread_of_0) = moments(positives), moments(negatives)
    losses = spread_of_1 + spread_of_0 + (margin - a + b).relu() ** 2
    return _mean(losses, (positives.sum(dim=0) > 0) & (negatives.sum(dim=0) > 0))


def soft_f1(logits: Tensor, targets: Tensor, task: str, weights: None = None) -> Tensor:
    """1 - the mean of the F1 of classes, with probabilities in place of decisions: 2 sum(p t) / (sum(p) + sum(t)).

    A label is the two classes present and absent: otherwise a batch without a positive would have no gradient, and the
    best constant would be to call everything positive. Classes that do not occur in the batch are left out.
    The best constant is the share of positives; its loss is 1 / 2 for labels and 1 - 1 / K for classes that all occur.
    """
    logits, stated, targets = logits.float(), _stated(targets, task), targets.nan_to_num()
    probs = PROBS[task](logits)
    if task != "multiclass":
        probs, targets = torch.cat([probs, (-logits).sigmoid()], dim=1), torch.cat([targets, 1 - targets], dim=1)
        stated = stated.repeat(1, 2)
    probs, targets = probs * stated, targets * stated
    f1 = _divide(2 * (probs * targets).sum(dim=0), probs.sum(dim=0) + targets.sum(dim=0))
    return _mean(1 - f1, targets.sum(dim=0) > 0)


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def _stated(targets: Tensor, task: str) -> Tensor:
    """(B, K) bool; in a multiclass task the same for all cells of a row."""
    stated = ~targets.isnan()
    return stated.all(dim=1, keepdim=True).expand_as(stated) if task == "multiclass" else stated


def _divide(sums: Tensor, by: Tensor) -> Tensor:
    """0 / 0 is 0, and so is its gradient."""
    return sums / torch.where(by > 0, by, 1)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base in [0, 1]; 0 to a power below 1 would have an infinite gradient."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent


def best_constant_loss(loss_fn: Callable[[Tensor, Tensor], Tensor], targets: Tensor, task: str) -> float:
    """The least loss of a predictor that never looks at an image: a network above it has not learned.

    loss_fn: as `make_loss` gives it;  targets: (N, K), on the CPU as the weights in loss_fn.
    All losses here are convex in the probabilities of a constant, so that a search downhill finds the least.
    """
    return lowest_loss(loss_fn, targets, _logits(torch.from_numpy(best_constant(targets.numpy(), task))[None], task))


def best_possible_loss(loss_fn: Callable[[Tensor, Tensor], Tensor], targets: Tensor, task: str) -> float:
    """The least loss of all: what soft targets, smoothed labels or a wide margin leave. As `best_constant_loss`."""
    return lowest_loss(loss_fn, targets, _logits(targets.nan_to_num(), task))


def lowest_loss(loss_fn: Callable[[Tensor, Tensor], Tensor], targets: Tensor, start: Tensor) -> float:
    """The least value of loss_fn(logits, targets) over logits of the shape of `start`, (1, K) or (N, K).

    By Rprop: its steps do not depend on how large a gradient is, so a rare label's logit comes as far as another's.
    Source: Riedmiller & Braun 1993, https://doi.org/10.1109/ICNN.1993.298623.
    """
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Rprop([logits], lr=0.3)
    lowest = math.inf
    for _ in range(60):
        loss = loss_fn(logits.expand_as(targets), targets)
        (logits.grad,) = torch.autograd.grad(loss, logits)
        optimizer.step()
        lowest = min(lowest, loss.item())
    return lowest


def _logits(probs: Tensor, task: str) -> Tensor:
    probs = probs.clip(1e-6, 1 - 1e-6)
    return probs.log() if task == "multiclass" else torch.logit(probs)


def label_weights(kind: str, targets: np.ndarray, task: str) -> Tensor | None:
    """Weights for the loss: None, (K,) of classes, or (2, K) of a label's negatives and positives.

    targets: (N, K) of the training rows, NaN where nothing is stated; a soft target is part positive, part negative.
    "balanced": N / (K n) for a class of n among N rows, N / (2 n) for the n positives or negatives among N stated
    cells: scikit-learn's class_weight="balanced" (King & Zeng 2001). Their mean over the training rows is 1.
    "pos_weight": negatives / positives on the positive part, 1 on the negative.
    A class that does not occur, or a label whose cells are all equal, has the weight 1.
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


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(build=cross_entropy),
    "focal": Loss(build=focal, arguments=("GAMMA",)),
    "asymmetric": Loss(build=asymmetric, arguments=("NEGATIVE", "POSITIVE", "CLIP"), tasks=("binary", "multilabel"),
                       check=lambda negative, positive, clip: "" if clip < 1 else
                       "CLIP is subtracted from probabilities and must be below 1"),
    "auc_margin": Loss(build=auc_margin, arguments=("MARGIN",), whole_batch=True,
                       check=lambda margin: "" if margin > 0 else "MARGIN must be above 0"),
    "soft_f1": Loss(build=soft_f1, whole_batch=True),
}
CROSS_ENTROPY = {"binary": masked_bce, "multilabel": masked_bce, "multiclass": masked_cross_entropy}
PROBS = {"binary": torch.sigmoid, "multilabel": torch.sigmoid, "multiclass": softmax}
