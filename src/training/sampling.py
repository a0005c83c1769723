"""Which training images an epoch shows, and how often: natural, square root, balanced, copies."""

from collections.abc import Sequence

import numpy as np


def expected_counts(sampler: str, targets: np.ndarray, task: str, copies: Sequence[int] = (),
                    keep_all: bool = True) -> np.ndarray:
    """(N,) how often an epoch shows each image, on average; the sum is the epoch's length. Float, 0 or more.

    targets: (N, K) of the training rows, NaN where nothing is stated. A soft target counts as what it is nearer to.
    "natural": every image once.
    "balanced": as many images as there are, in proportion to the weight 1 / (images of its class). In a binary or
    multilabel task the images of a label's positives are a class, and so are those without a positive; an image in
    several classes has the weight of the rarest. So every class of a multiclass or binary task is shown equally often;
    labels that occur together cannot all be.
    "square_root": in proportion to the square root of that weight, half-way between the two.
    "label_repeats": an image as often as the sum of `label_repeats` (K,) over its positive labels says; once where that is 0, or
    not at all without `keep_all`, which loses every image without a finding.
    After sampling, probabilities are those of the sampled mixture: ranks mean what they did, frequencies do not.
    Source of the weight by the rarest label and of the square root: repeat factor sampling, Gupta et al. 2019,
    https://arxiv.org/abs/1908.03195.
    """
    if sampler == "natural":
        return np.ones(len(targets))
    positive = positive_labels(targets, task)
    if sampler == "label_repeats":
        counts = positive @ np.asarray(copies, np.float64)
        return np.maximum(counts, 1) if keep_all else counts
    classes = np.column_stack([positive, ~positive.any(axis=1)])
    weights = (classes / np.maximum(classes.sum(axis=0), 1)).max(axis=1)
    if sampler == "square_root":
        weights = np.sqrt(weights)
    elif sampler != "balanced":
        raise ValueError(f"no sampler {sampler!r}; there are natural, square_root, balanced, copies")
    return weights * (len(targets) / weights.sum())


def positive_labels(targets: np.ndarray, task: str) -> np.ndarray:
    """(N, K) bool: targets of 0.5 or more; of classes, the likeliest one of a row."""
    stated = np.nan_to_num(targets)
    if task == "multiclass":
        return np.eye(stated.shape[1], dtype=bool)[stated.argmax(axis=1)]
    return stated >= 0.5


def epoch_length(expected: np.ndarray) -> int:
    """How many images, repeated ones counted, an epoch has."""
    return round(expected.sum())


def draw_epoch(expected: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """(M,) int, the positions that an epoch shows in their order; M is `epoch_length`. A function of (seed, epoch).

    Systematic resampling: every image appears as often as its expected count says, rounded down or up at random, so a
    whole count is kept exactly, and an epoch varies less than one of independent draws. Images are dealt in a random
    order first, so that neighbours in the table are not drawn together.
    Source: Kitagawa 1996, https://doi.org/10.2307/1390750.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    dealt = rng.permutation(len(expected))
    sums = np.cumsum(expected[dealt])
    sums[-1] = epoch_length(expected)  # rounding errors of the sum must not cost an image
    start = rng.integers(2**24) / 2**24  # so few digits that adding it to a whole number does not round
    ends = np.floor(sums + start).astype(np.int64)
    drawn = np.repeat(dealt, np.diff(ends, prepend=0))
    drawn.sort()
    return drawn[np.random.default_rng([seed, epoch]).permutation(len(drawn))]


def occurrences(drawn: np.ndarray) -> np.ndarray:
    """(M,) int, how often each of these positions stood there before: 0 the first time, 1 the second."""
    order = np.argsort(drawn, kind="stable")
    first = np.searchsorted(drawn[order], drawn[order])
    counts = np.empty(len(drawn), np.int64)
    counts[order] = np.arange(len(drawn)) - first
    return counts
