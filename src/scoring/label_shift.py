"""Label shift: the prevalence of each label among images without labels, estimated from their scores.

The assumption is that prevalences differ, while the scores of positives and of negatives are distributed as in
training. `misfit` tests it.
"""

import numpy as np
from tqdm import tqdm

from scoring.calibration import apply_platt, apply_temperatures, fit_platt, fit_temperatures
from scoring.confidence_intervals import bootstrap_counts, percentile_interval

REPLICATES = 200
STEPS = 2000
TOLERANCE = 1e-7
MIN_PREVALENCE = 1e-4  # with an estimate of 0 or 1 no threshold would depend on the scores


def em_prevalence(probs: np.ndarray, prior: np.ndarray, task: str, row_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) the prevalence under which calibrated probabilities (n, K) are most likely; labels are independent.

    prior: (K,) the prevalence that the probabilities were calibrated for; for multiclass it sums to one. Expectation:
    the probabilities for the current estimate; maximisation: their mean.
    Source: Saerens, Latinne & Decaestecker 2002, https://doi.org/10.1162/089976602753284446 (equations 2.8, 2.9)
    """
    weights = np.ones(len(probs)) if row_weights is None else row_weights
    estimate = prior = np.clip(prior, MIN_PREVALENCE, 1 - MIN_PREVALENCE)
    for _ in range(STEPS):
        update = np.average(reweigh(probs, prior, estimate, task), axis=0, weights=weights)
        update = np.clip(update, MIN_PREVALENCE, 1 - MIN_PREVALENCE)
        moved, estimate = np.abs(update - estimate).max(), update
        if moved < TOLERANCE:
            break
    return estimate


def reweigh(probs: np.ndarray, prior: np.ndarray, prevalence: np.ndarray, task: str) -> np.ndarray:
    """(n, K) probabilities for the prevalence `prior` (K,), changed to `prevalence` (K,) by Bayes' rule."""
    for_yes = probs * (prevalence / prior)
    if task == "multiclass":
        return for_yes / for_yes.sum(axis=1, keepdims=True)
    for_no = (1 - probs) * ((1 - prevalence) / (1 - prior))
    return for_yes / (for_yes + for_no)


def estimate_prevalence(targets: np.ndarray, probs: np.ndarray, new_probs: np.ndarray, task: str,
                        row_weights: np.ndarray | None = None, new_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) the prevalence among rows without labels, by expectation maximisation; NaN where no cell has a label.

    Probabilities are calibrated first: with Platt scaling, for multiclass with one temperature.

    Parameters
    ----------
    targets, probs : (N, K) labels, 0, 1 or NaN, and their out-of-fold probabilities
    new_probs : (n, K) of the rows without labels
    row_weights, new_weights : (N,) and (n,) how often a row counts; None: once
    """
    both = np.concatenate((probs, new_probs))
    if task == "multiclass":
        calibrated = apply_temperatures(both, fit_temperatures(targets, probs, task), task)
    else:
        calibrated = apply_platt(both, fit_platt(targets, probs, row_weights))
    known, weights = ~np.isnan(targets), np.ones(len(targets)) if row_weights is None else row_weights
    prior = (weights @ np.where(known, calibrated[:len(probs)], 0)) / np.maximum(weights @ known, 1e-12)
    estimate = em_prevalence(calibrated[len(probs):], prior, task, new_weights)
    return np.where(known.any(axis=0), estimate, np.nan)


def prevalence_interval(targets: np.ndarray, probs: np.ndarray, new_probs: np.ndarray, task: str, groups: np.ndarray,
                        new_groups: np.ndarray, replicates: int | None = None) -> np.ndarray:
    """(K, 2) the 95 % interval of `estimate_prevalence`; groups (N,) and new_groups (n,) are both drawn whole."""
    replicates = replicates or REPLICATES
    draws = zip(bootstrap_counts(groups, replicates), bootstrap_counts(new_groups, replicates, seed=1), strict=True)
    estimates = np.array([
        estimate_prevalence(targets, probs, new_probs, task, old, new)
        for old, new in tqdm(draws, desc="prevalence", total=replicates, leave=False, disable=None)])
    return np.array([percentile_interval(estimates[:, k]) for k in range(estimates.shape[1])])


def misfit(classes: np.ndarray, probs: np.ndarray, new_probs: np.ndarray, tests: int = 1) -> tuple[float, float]:
    """Distance of a label's new scores (n,) from the best mixture of the classes' known scores (N,).

    Parameters
    ----------
    classes : (N, C) bool, the rows of each class: negatives and positives, or all classes of a multiclass task
    probs, new_probs : (N,) and (n,) scores of the label
    tests : the number of labels tested; the limit is Bonferroni's for so many

    Returns
    -------
    The largest distance of the two distribution functions, with the mixture fitted by least squares, and its limit: in
    95 of 100 cases of label shift no label exceeds it (the Kolmogorov-Smirnov distribution for two samples of
    independent rows; conservative if scores are tied). Both are NaN if a class has no row.
    Source: Smirnov 1939, as in scipy.stats.ks_2samp
    """
    from scipy.optimize import nnls
    from scipy.stats import kstwobign

    rows_of = classes.sum(axis=0)
    if not rows_of.all():
        return float("nan"), float("nan")
    grid = np.unique(np.concatenate((probs[classes.any(axis=1)], new_probs)))
    of_classes = np.column_stack([_distribution(probs[rows], grid) for rows in classes.T])
    new = _distribution(new_probs, grid)
    heavy = 1e3 * np.sqrt(len(grid))  # the shares sum to one
    shares = nnls(np.vstack([of_classes, np.full(classes.shape[1], heavy)]), np.append(new, heavy))[0]
    shares /= shares.sum()
    spread = 1 / len(new_probs) + (shares**2 / rows_of).sum()
    return float(np.abs(of_classes @ shares - new).max()), float(kstwobign.isf(0.05 / tests) * np.sqrt(spread))


def _distribution(scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The share of scores up to each point of the grid."""
    return np.searchsorted(np.sort(scores), grid, "right") / len(scores)
