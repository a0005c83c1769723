"""ROC and precision-recall curves of every label, with bands from drawing whole groups."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from scoring.confidence_intervals import LEVEL, MAX_UNDEFINED, REPLICATES, bootstrap_chunks, bounded_interval
from scoring.metrics import METRICS, average_precision_by_label, roc_auc_by_label
from scoring.ranking import rank_labels, ranked_scores

GRID = np.linspace(0, 1, 101)  # of false positive rate, or recall, at which bands are drawn
BANDS = 300  # replicates of a band: its ends are the 7th of either side
CUTS = 500   # at most so many cuts are followed in a replicate, at equal shares of the images and of the positives


@dataclass(frozen=True)
class Curve:
    """One label's curve (n,), its band at GRID, the area under it and that area's interval; NaN where undefined or not
    asked for.

    The curve is scikit-learn's. The band is pointwise: at each place it holds the middle 95 % of the replicates there,
    which is not the same as holding 95 % of whole curves.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: float
    area_low: float
    area_high: float


def roc_curves(targets: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> list[Curve]:
    """Every label's true positive rate over the false positive rate, and its ROC AUC.

    targets (N, K) 0, 1 or NaN (left out);  probs (N, K);  groups (N,), drawn whole; None: no band and no interval.
    Source of the band, vertical averaging: Fawcett 2006, https://doi.org/10.1016/j.patrec.2005.10.010 (section 7)
    """
    return _curves("roc_auc", targets, probs, groups)


def precision_recall_curves(targets: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> list[Curve]:
    """Every label's precision over recall, in steps as the average precision counts them, and that average."""
    return _curves("average_precision", targets, probs, groups)


def f1_at(cuts: np.ndarray, targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(C,) F1 of one label when it is said to be there from each of `cuts` (C,) on; NaN where it is never there.

    targets: (N,) 0, 1 or NaN (left out);  probs: (N,).
    """
    known = ~np.isnan(targets)
    positives = (targets == 1).sum()
    found, decided = (len(scores) - np.sort(scores).searchsorted(cuts)
                      for scores in (probs[targets == 1], probs[known]))
    return 2 * found / (positives + decided) if positives else np.full(len(cuts), np.nan)


def _curves(kind: str, targets: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> list[Curve]:
    areas = (roc_auc_by_label if kind == "roc_auc" else average_precision_by_label)(targets, probs)
    drawn = None
    if groups is not None:
        rankings = rank_labels(targets, probs)
        drawn = np.concatenate([ranked_scores(METRICS[kind].ranking, rankings, weights)
                                for weights in bootstrap_chunks(groups, REPLICATES)])
    found, nothing = [], np.full(len(GRID), np.nan)
    for k, area in enumerate(areas):
        if np.isnan(area):
            found.append(Curve(GRID, nothing, nothing, nothing, *[float("nan")] * 3))
            continue
        known = ~np.isnan(targets[:, k])
        truth, scores = targets[known, k], probs[known, k]
        if kind == "roc_auc":
            x, y, _ = roc_curve(truth, scores, drop_intermediate=True)
        else:
            precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
            x, y = _as_steps(recall[::-1], precision[::-1])
        low, high, ends = nothing, nothing, (float("nan"), float("nan"))
        if drawn is not None:
            low, high = _band(kind, truth, scores, groups[known])
            ends = bounded_interval(kind, area, drawn[:, k], targets[:, [k]], groups)
        found.append(Curve(x, y, low, high, float(area), *ends))
    return found


def _as_steps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of steps on which y[i] holds from x[i - 1] to x[i]; what finds nothing has no width."""
    x, y = x[x > 0], y[x > 0]
    return np.repeat(np.concatenate([[0], x]), 2)[1:-1], np.repeat(y, 2)


def _band(kind: str, truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end at GRID; NaN where too few replicates have both classes."""
    at_grid = np.concatenate([_replicate(kind, truth, scores, weights) for weights in
                              bootstrap_chunks(groups, BANDS)])
    undefined = np.isnan(at_grid[:, 0])
    if undefined.mean() > MAX_UNDEFINED:
        return np.full(len(GRID), np.nan), np.full(len(GRID), np.nan)
    low, high = np.quantile(at_grid[~undefined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _replicate(kind: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, G) the curves at GRID under weights (R, N); NaN where a class is missing."""
    shares = np.linspace(0, 1, CUTS // 2 + 1)  # of the positives too, or a rare label has all of them in a few cuts
    edges = np.unique([np.quantile(some, shares, method="inverted_cdf") for some in (scores, scores[truth == 1])])
    place = len(edges) - np.searchsorted(edges, scores, side="right")  # 0: the highest; equal ones stay together
    found, false = (np.stack([np.bincount(place[rows], row[rows], minlength=len(edges)) for row in weights]).cumsum(1)
                    for rows in (truth == 1, truth == 0))
    values = np.full((len(weights), len(GRID)), np.nan)
    for row, (hits, alarms) in enumerate(zip(found, false, strict=True)):
        if not hits[-1] or not alarms[-1]:
            continue
        if kind == "roc_auc":
            values[row] = np.interp(GRID, np.concatenate([[0], alarms]) / alarms[-1],
                                    np.concatenate([[0], hits]) / hits[-1])
        else:
            reached = hits > 0
            precision, recall = hits[reached] / (hits + alarms)[reached], hits[reached] / hits[-1]
            # the first cut that finds so many: recall 0 asks for the first that finds any
            values[row] = precision[np.minimum(np.searchsorted(recall, GRID - 1e-12), len(recall) - 1)]
    return values
