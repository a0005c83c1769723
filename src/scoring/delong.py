"""How sure an AUC is by a formula, without drawing anything: DeLong's, and Obuchowski's where rows come in groups.

A check on the bootstrap. Both are for many rows: near an AUC of 1, or with a handful of positives, neither holds.
"""

import numpy as np
from scipy.stats import norm, rankdata


def auc_covariance(targets: np.ndarray, scores: np.ndarray,
                   groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AUCs (C,) of C columns of scores, and the covariance (C, C) of their estimates.

    targets: (N, C) 0, 1 or NaN, the column's own: the same label for several models, or several labels of one;
    scores: (N, C);  groups: (N,) rows of one group are no independent evidence; None: every row is.
    NaN for a column, and its covariances, where it has fewer than two groups with positives or with negatives.
    Source: DeLong et al. 1988, https://doi.org/10.2307/2531595 (without groups, of one label), by the midranks of Sun &
    Xu 2014, https://doi.org/10.1109/LSP.2014.2337313; Obuchowski 1997, https://doi.org/10.2307/2533958 (with groups)
    """
    number = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count, columns = number.max() + 1, targets.shape[1]
    aucs = np.full(columns, np.nan)
    # what the positives and the negatives of every group are above the AUC, and the factors for small numbers of groups
    sums, factors = np.full((2, count, columns), np.nan), np.full((2, columns), np.nan)
    for c in range(columns):
        sides = [np.flatnonzero(targets[:, c] == side) for side in (1, 0)]
        in_groups = np.array([len(np.unique(number[rows])) for rows in sides])
        if in_groups.min() < 2:
            continue
        won = placements(*(scores[rows, c] for rows in sides))
        aucs[c] = won[0].mean()
        for side, rows in enumerate(sides):
            sums[side, :, c] = np.bincount(number[rows], won[side] - aucs[c], minlength=count) / len(rows)
        factors[:, c] = np.sqrt(in_groups / (in_groups - 1))
    (positives, negatives), mixed = sums * factors[:, None], count / max(1, count - 1) * sums[0].T @ sums[1]
    return aucs, positives.T @ positives + negatives.T @ negatives + mixed + mixed.T


def macro_auc_difference(targets: np.ndarray, probs: np.ndarray, baseline: np.ndarray,
                         groups: np.ndarray | None = None) -> tuple[float, float, float]:
    """Macro AUC of `probs` minus that of `baseline`, its standard error, and the two-sided p-value of no difference.

    All (N, K). The mean is over the labels that `auc_covariance` has a variance of; NaN where there is none. p is 1
    where the two rank all rows alike, so that there is no error either.
    """
    aucs, covariance = auc_covariance(np.hstack((targets, targets)), np.hstack((probs, baseline)), groups)
    usable = ~np.isnan(aucs)
    if not usable.any():
        return float("nan"), float("nan"), float("nan")
    sign = np.where(np.arange(len(aucs)) < targets.shape[1], 1, -1)[usable]
    contrast = 2 * sign / len(sign)
    difference = float(contrast @ aucs[usable])
    error = float(np.sqrt(max(0.0, contrast @ covariance[np.ix_(usable, usable)] @ contrast)))
    if error < 1e-12:  # what rounding leaves of 0
        return difference, 0.0, 1.0 if abs(difference) < 1e-12 else 0.0
    return difference, error, float(2 * norm.sf(abs(difference) / error))


def placements(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of negatives that each positive outscores, and of positives that outscore each negative; a tie: half.

    (P,) and (Q,) in [0, 1]; both have the AUC as their mean.
    """
    ranks = rankdata(np.concatenate((positives, negatives)))
    won = (ranks[:len(positives)] - rankdata(positives)) / len(negatives)
    return won, 1 - (ranks[len(positives):] - rankdata(negatives)) / len(positives)
