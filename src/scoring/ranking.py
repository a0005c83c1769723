"""ROC AUC and average precision under many weightings of the rows at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scoring.counts import divide

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Ranking:
    """The places of a label's P positives among its negatives, which are sorted by score and cut into S segments.

    No positive lies inside a segment, so the negatives' weights are only needed as sums over segments.
    """

    segments: "csr_array"  # (S, N) 1 where a negative row belongs to a segment
    positives: np.ndarray  # (P,) rows, ascending by score
    first_equal: np.ndarray  # (P,) the first of the positives with the same score
    below: np.ndarray  # (P,) number of segments that score below the positive
    below_or_equal: np.ndarray  # (P,)

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the share of (positive, negative) pairs in the right order, a tie counting half; weights (N, R)."""
        cumulative = self._negatives_below(weights)
        twice_won = cumulative[self.below]
        twice_won += cumulative[self.below_or_equal]
        positives = weights[self.positives]
        won = np.einsum("pr,pr->r", positives, twice_won) / 2
        return divide(won, positives.sum(axis=0) * cumulative[-1])

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the precision at each positive's score, averaged over the positives; NaN without negatives."""
        cumulative, positives = self._negatives_below(weights), weights[self.positives]
        found = np.cumsum(positives[::-1], axis=0)[::-1][self.first_equal]
        precision = divide(found, found + cumulative[-1] - cumulative[self.below], otherwise=0.0)
        score = divide(np.einsum("pr,pr->r", positives, precision), positives.sum(axis=0))
        return np.where(cumulative[-1] > 0, score, np.nan)

    def _negatives_below(self, weights: np.ndarray) -> np.ndarray:
        """(S + 1, R) weight of the negatives in the first 0, 1, ... S segments."""
        cumulative = np.zeros((self.segments.shape[0] + 1, weights.shape[1]))
        np.cumsum(self.segments @ weights, axis=0, out=cumulative[1:])
        return cumulative


def rank_labels(targets: np.ndarray, probs: np.ndarray) -> list[Ranking]:
    """The ranking of every label's rows; NaN cells are left out. targets, probs: (N, K)."""
    return [_rank(targets[:, k], probs[:, k]) for k in range(targets.shape[1])]


def ranked_scores(statistic: Callable[[Ranking, np.ndarray], np.ndarray], rankings: list[Ranking],
                  row_weights: np.ndarray) -> np.ndarray:
    """(R, K) scores of every label under row_weights (R, N); statistic: `Ranking.auc`, `Ranking.average_precision`."""
    # (N, R), so that all weights of a row lie together and are fetched at once
    weights = np.ascontiguousarray(row_weights.T, dtype=np.float64)
    return np.stack([statistic(ranking, weights) for ranking in rankings], axis=1)


def _rank(targets: np.ndarray, probs: np.ndarray) -> Ranking:
    from scipy.sparse import csr_array  # takes half a second, which --help need not wait for

    positives, negatives = (np.flatnonzero(targets == side) for side in (1, 0))
    positives, negatives = (rows[probs[rows].argsort(kind="stable")] for rows in (positives, negatives))
    first, last = (probs[negatives].searchsorted(probs[positives], side) for side in ("left", "right"))
    edges, segment = np.unique(np.concatenate((first, last, [0, len(negatives)])), return_inverse=True)
    ones = np.ones(len(negatives))
    segments = csr_array(
        (ones, negatives.astype(np.int32), edges.astype(np.int32)), shape=(len(edges) - 1, len(targets))
    )
    below, below_or_equal = segment[:-2].reshape(2, -1)
    return Ranking(segments, positives, probs[positives].searchsorted(probs[positives]), below, below_or_equal)


def placements(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of negatives below each positive, and of positives above each negative, a tie counting half.

    positives (P,) and negatives (Q,) are scores; the shares (P,) and (Q,) both have the AUC as their mean.
    Source: Sun & Xu 2014, https://doi.org/10.1109/LSP.2014.2337313 (by midranks)
    """
    from scipy.stats import rankdata  # as above

    ranks = rankdata(np.concatenate((positives, negatives)))
    won = (ranks[:len(positives)] - rankdata(positives)) / len(negatives)
    return won, 1 - (ranks[len(positives):] - rankdata(negatives)) / len(positives)
