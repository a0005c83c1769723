"""Which training images an epoch shows, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.settings import Choice, read_value


@dataclass(frozen=True, kw_only=True)
class Sampler(Choice):
    """How often an epoch shows each training image. An entry of SAMPLERS.

    build: (positive (N, K) bool, repeats (K,)) -> (N,) counts, 0 or more; see `expected_counts`.
    repeats: True where it needs the experiment's `label_repeats`.
    """

    repeats: bool = False


def expected_counts(sampler: str, targets: np.ndarray, task: str, repeats: Sequence[int] = ()) -> np.ndarray:
    """(N,) how often an epoch shows each image, on average; the sum is the epoch's length. Float, 0 or more.

    sampler: a name in SAMPLERS;  targets: (N, K) of the training rows, NaN where missing; a soft target counts as the
    value it is nearer to;  repeats: (K,) of the sampler "label_repeats".
    After sampling, probabilities are those of the sampled mixture: ranks keep their meaning, frequencies do not.
    """
    return read_value("sampler", sampler, SAMPLERS)(positive_labels(targets, task), np.asarray(repeats, np.float64))


def balanced_weights(positive: np.ndarray) -> np.ndarray:
    """(N,) 1 / (images of its class). In a binary or multilabel task the images of a label's positives are a class.

    So are those without a positive; an image in several classes has the weight of the rarest.
    Source: repeat factor sampling, Gupta et al. 2019, https://arxiv.org/abs/1908.03195.
    """
    classes = np.column_stack([positive, ~positive.any(axis=1)])
    return (classes / np.maximum(classes.sum(axis=0), 1)).max(axis=1)


def _scaled(weights: np.ndarray) -> np.ndarray:
    return weights * (len(weights) / weights.sum())


SAMPLERS: dict[str, Sampler] = {
    "natural": Sampler(build=lambda positive, repeats: np.ones(len(positive))),  # every image once
    # as many images as there are, in proportion to sqrt(weight), half-way between natural and balanced
    "square_root": Sampler(build=lambda positive, repeats: _scaled(np.sqrt(balanced_weights(positive)))),
    # in proportion to the weight: every class of a multiclass or binary task equally often
    "balanced": Sampler(build=lambda positive, repeats: _scaled(balanced_weights(positive))),
    # the sum of `label_repeats` over an image's positive labels; once where that is 0
    "label_repeats": Sampler(build=lambda positive, repeats: np.maximum(positive @ repeats, 1), repeats=True),
}


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
    whole count is kept exactly, and an epoch varies less than one of independent draws. Images are
    shuffled first, so that neighbours in the table are not drawn together.
    Source: Kitagawa 1996, https://doi.org/10.2307/1390750.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    order = rng.permutation(len(expected))
    sums = np.cumsum(expected[order])
    sums[-1] = epoch_length(expected)  # rounding errors of the sum must not cost an image
    start = rng.integers(2**24) / 2**24  # so few digits that adding it to a whole number does not round
    ends = np.floor(sums + start).astype(np.int64)
    drawn = np.repeat(order, np.diff(ends, prepend=0))
    drawn.sort()
    return drawn[np.random.default_rng([seed, epoch]).permutation(len(drawn))]


def occurrences(drawn: np.ndarray) -> np.ndarray:
    """(M,) int, how often each of these positions occurred before: 0 the first time, 1 the second."""
    order = np.argsort(drawn, kind="stable")
    first = np.searchsorted(drawn[order], drawn[order])
    counts = np.empty(len(drawn), np.int64)
    counts[order] = np.arange(len(drawn)) - first
    return counts
