"""How sure a score is: bootstrap intervals that draw whole groups, and an exact fast one for ROC AUC."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy.sparse import csr_array

REPLICATES = 1000
LEVEL = 0.95
MAX_UNDEFINED = 0.1  # share of replicates without a score beyond which there is no interval
CHUNK_BYTES = 12 * 2**20  # of weights at a time; what is computed from them is a few times as much


def bootstrap_counts(groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields `replicates` times (N,) int32: how often each row counts when whole groups are drawn with replacement.

    As many groups are drawn as there are. Rows of one group always count alike: images of one patient are no
    independent evidence.
    Source: Field & Welsh 2007 (the cluster bootstrap), https://doi.org/10.1111/j.1467-9868.2007.00593.x
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        drawn = rng.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names)).astype(np.int32)[group_of_row]


def bootstrap_interval(
    score: Callable[[np.ndarray], float],
    groups: np.ndarray,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper end of the percentile interval of `score(weights)`, weights (N,) saying how often a row counts.

    (nan, nan) where more than 10 % of the replicates have no score.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13
    """
    return percentile_interval(np.array([score(w) for w in bootstrap_counts(groups, replicates, seed)]), level)


def paired_interval(
    score: Callable[[np.ndarray], float],
    baseline_score: Callable[[np.ndarray], float],
    groups: np.ndarray,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of `score - baseline_score`, both on the same drawn rows: what the rows share cancels out.

    An interval that holds 0 means: no difference beyond noise.
    """
    return bootstrap_interval(lambda w: score(w) - baseline_score(w), groups, replicates, level, seed)


def roc_auc_interval(
    targets: np.ndarray,
    probs: np.ndarray,
    groups: np.ndarray,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the macro ROC AUC: in each replicate the mean over the labels that have both classes there.

    The same numbers as `bootstrap_interval` with scikit-learn's AUC, some hundred times faster.
    """
    return percentile_interval(_mean_of_defined(bootstrap_roc_auc(targets, probs, groups, replicates, seed)), level)


def paired_roc_auc_interval(
    targets: np.ndarray,
    probs: np.ndarray,
    baseline_probs: np.ndarray,
    groups: np.ndarray,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the macro ROC AUC of `probs` minus that of `baseline_probs`, both on the same drawn rows."""
    ours, theirs = (bootstrap_roc_auc(targets, p, groups, replicates, seed) for p in (probs, baseline_probs))
    return percentile_interval(_mean_of_defined(ours) - _mean_of_defined(theirs), level)


def bootstrap_roc_auc(
    targets: np.ndarray, probs: np.ndarray, groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """(replicates, K) ROC AUC of every label in every replicate; NaN where a label has only one class there."""
    rankings = _rank_labels(targets, probs)
    counts = bootstrap_counts(groups, replicates, seed)
    replicates_at_once = max(1, CHUNK_BYTES // (8 * max(1, len(targets))))
    aucs = []
    while chunk := list(islice(counts, replicates_at_once)):
        aucs.append(_auc_of_rankings(rankings, np.stack(chunk)))
    return np.concatenate(aucs)


def weighted_roc_auc(targets: np.ndarray, probs: np.ndarray, row_weights: np.ndarray) -> np.ndarray:
    """(R, K) ROC AUC of every label under each of R weightings; NaN where one of the two classes has no weight.

    targets: (N, K) 0, 1 or NaN (left out);  probs: (N, K);  row_weights: (R, N), not negative.
    Each column is sorted once for all R; equal to scikit-learn's roc_auc_score(sample_weight=) to 1e-12.
    """
    return _auc_of_rankings(_rank_labels(targets, probs), row_weights)


def percentile_interval(scores: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the replicates' scores (R,); those that are NaN are skipped.

    (nan, nan) where more than 10 % are NaN: the rest would no longer be a fair sample.
    """
    undefined = np.isnan(scores)
    if undefined.mean() > MAX_UNDEFINED:
        return float("nan"), float("nan")
    low, high = np.quantile(scores[~undefined], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class _Ranking:
    """Where a label's P positives stand among its negatives, ordered by score and cut into S stretches.

    Within a stretch there is no positive, so the negatives' weights are only ever needed summed over stretches.
    """

    stretches: csr_array  # (S, N) 1 where a negative row belongs to a stretch
    positives: np.ndarray  # (P,) rows
    below: np.ndarray  # (P,) number of stretches that score below the positive
    below_or_equal: np.ndarray  # (P,)

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the share of (positive, negative) pairs in the right order, a tie counting half; weights (N, R)."""
        cumulative = np.zeros((self.stretches.shape[0] + 1, weights.shape[1]))
        np.cumsum(self.stretches @ weights, axis=0, out=cumulative[1:])
        twice_won = cumulative[self.below]
        twice_won += cumulative[self.below_or_equal]
        positives = weights[self.positives]
        pairs = positives.sum(axis=0) * cumulative[-1]
        won = np.einsum("pr,pr->r", positives, twice_won) / 2
        return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _rank_labels(targets: np.ndarray, probs: np.ndarray) -> list[_Ranking]:
    return [_rank(targets[:, k], probs[:, k]) for k in range(targets.shape[1])]


def _rank(targets: np.ndarray, probs: np.ndarray) -> _Ranking:
    positives, negatives = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)
    negatives = negatives[probs[negatives].argsort(kind="stable")]
    first, last = (probs[negatives].searchsorted(probs[positives], side) for side in ("left", "right"))
    edges, stretch = np.unique(np.concatenate((first, last, [0, len(negatives)])), return_inverse=True)
    ones = np.ones(len(negatives))
    stretches = csr_array(
        (ones, negatives.astype(np.int32), edges.astype(np.int32)), shape=(len(edges) - 1, len(targets))
    )
    below, below_or_equal = stretch[:-2].reshape(2, -1)
    return _Ranking(stretches, positives, below, below_or_equal)


def _auc_of_rankings(rankings: list[_Ranking], row_weights: np.ndarray) -> np.ndarray:
    # (N, R), so that all weights of a row lie together and are fetched at once
    weights = np.ascontiguousarray(row_weights.T, dtype=np.float64)
    return np.stack([ranking.auc(weights) for ranking in rankings], axis=1)


def _mean_of_defined(aucs: np.ndarray) -> np.ndarray:
    """(R,) mean of every row over its labels that are not NaN; NaN where all are."""
    defined = ~np.isnan(aucs)
    count = defined.sum(axis=1)
    total = np.where(defined, aucs, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(aucs), np.nan), where=count > 0)
