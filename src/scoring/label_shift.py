"""How common each label is among images without labels, by their scores; and decisions for that prevalence.

Everything here rests on one assumption, label shift: other shares of the labels, but positives that score as positives
do in training, and negatives as negatives. `misfit` says how far the scores are from what that allows.
"""

import numpy as np
from scipy.optimize import nnls
from scipy.stats import kstwobign
from tqdm import tqdm

from scoring.calibration import apply_platt, apply_temperatures, fit_platt, fit_temperatures
from scoring.confidence_intervals import bootstrap_counts, percentile_interval
from scoring.decision_rules import FittedRule, Policy, threshold_rule
from scoring.metrics import METRICS, decide
from scoring.thresholds import fit_thresholds

REPLICATES = 200
STEPS = 2000
NEAR = 1e-7
FEWEST = 1e-4  # a prevalence estimated as 0 or 1 would leave nothing to decide


def em_prevalence(probs: np.ndarray, prior: np.ndarray, task: str, row_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) the prevalence under which calibrated probabilities (n, K) are most likely; each label of its own.

    prior: (K,) the prevalence that the probabilities were calibrated for, the mean they have there. Multiclass: sums to
    one. Expectation: the probabilities as they would be for the prevalence so far; maximisation: their mean.
    Source: Saerens, Latinne & Decaestecker 2002, https://doi.org/10.1162/089976602753284446 (equations 2.8, 2.9)
    """
    weights = np.ones(len(probs)) if row_weights is None else row_weights
    estimate = prior = np.clip(prior, FEWEST, 1 - FEWEST)
    for _ in range(STEPS):
        update = np.clip(np.average(reweigh(probs, prior, estimate, task), axis=0, weights=weights), FEWEST, 1 - FEWEST)
        moved, estimate = np.abs(update - estimate).max(), update
        if moved < NEAR:
            break
    return estimate


def reweigh(probs: np.ndarray, prior: np.ndarray, prevalence: np.ndarray, task: str) -> np.ndarray:
    """(n, K) what probabilities for the prevalence `prior` (K,) become where it is `prevalence` (K,): Bayes' rule."""
    for_yes = probs * (prevalence / prior)
    if task == "multiclass":
        return for_yes / for_yes.sum(axis=1, keepdims=True)
    for_no = (1 - probs) * ((1 - prevalence) / (1 - prior))
    return for_yes / (for_yes + for_no)


def bbse_prevalence(targets: np.ndarray, decisions: np.ndarray, new_decisions: np.ndarray, task: str,
                    row_weights: np.ndarray | None = None, new_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) the prevalence that explains how often each label is decided for among new rows; each label of its own.

    targets, decisions: (N, K) rows with known labels (NaN left out) and decisions that were not fitted on them;
    new_decisions: (n, K). Solves C q = m, C the share of decisions by true class, m their share among the new rows; cut
    to what a prevalence can be. NaN where a class has no row, or is decided for as if by chance.
    Source: Lipton, Wang & Smola 2018, https://arxiv.org/abs/1802.03916
    """
    weights = np.ones(len(targets)) if row_weights is None else row_weights
    decided = np.average(new_decisions, axis=0, weights=new_weights)
    if task == "multiclass":
        rows = ~np.isnan(targets).any(axis=1)
        counts = targets[rows].T @ (decisions[rows] * weights[rows, None])
        if (counts.sum(axis=1) == 0).any() or np.linalg.cond(rates := counts / counts.sum(axis=1, keepdims=True)) > 1e6:
            return np.full(targets.shape[1], np.nan)
        prevalence = np.clip(np.linalg.solve(rates.T, decided), FEWEST, None)
        return prevalence / prevalence.sum()
    found, false = (_share(decisions, targets == value, weights) for value in (1, 0))
    skill = np.where(found - false > 1e-6, found - false, np.nan)
    return np.clip((decided - false) / skill, FEWEST, 1 - FEWEST)


def _share(decisions: np.ndarray, cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(K,) the weighted share of these cells that is decided for; NaN where there are none."""
    total = weights @ cells
    return np.divide(weights @ (cells & (decisions == 1)), total, out=np.full(len(total), np.nan), where=total > 0)


def calibrate(targets: np.ndarray, probs: np.ndarray, task: str, row_weights: np.ndarray | None = None) -> FittedRule:
    """Probabilities that EM can use: by Platt's line, which has an offset, or for multiclass one temperature."""
    if task == "multiclass":
        temperatures = fit_temperatures(targets, probs, task)
        return FittedRule(lambda p: apply_temperatures(p, temperatures, task))
    lines = fit_platt(targets, probs, row_weights)
    return FittedRule(lambda p: apply_platt(p, lines))


def estimate_prevalence(method: str, targets: np.ndarray, probs: np.ndarray, crossfitted: np.ndarray,
                        new_probs: np.ndarray, new_decisions: np.ndarray, task: str,
                        row_weights: np.ndarray | None = None, new_weights: np.ndarray | None = None) -> np.ndarray:
    """(K,) by "em" or "bbse", of rows with known labels (targets, probs, crossfitted decisions) and new ones.

    NaN where no label is known.
    """
    if method == "bbse":
        return bbse_prevalence(targets, crossfitted, new_decisions, task, row_weights, new_weights)
    calibrated = calibrate(targets, probs, task, row_weights).apply
    weights = np.ones(len(targets)) if row_weights is None else row_weights
    known = ~np.isnan(targets)
    prior = (weights @ np.where(known, calibrated(probs), 0)) / np.maximum(weights @ known, 1e-12)
    estimate = em_prevalence(calibrated(new_probs), prior, task, new_weights)
    return np.where(known.any(axis=0), estimate, np.nan)


def prevalence_interval(method: str, targets: np.ndarray, probs: np.ndarray, crossfitted: np.ndarray,
                        new_probs: np.ndarray, new_decisions: np.ndarray, task: str, groups: np.ndarray,
                        new_groups: np.ndarray, replicates: int | None = None) -> np.ndarray:
    """(K, 2) the 95 % interval of `estimate_prevalence`, groups of known and of new rows both drawn, 200 times."""
    replicates = replicates or REPLICATES
    draws = zip(bootstrap_counts(groups, replicates), bootstrap_counts(new_groups, replicates, seed=1), strict=True)
    estimates = np.array([
        estimate_prevalence(method, targets, probs, crossfitted, new_probs, new_decisions, task, old, new)
        for old, new in tqdm(draws, desc=f"interval of {method}", total=replicates, leave=False, disable=None)])
    return np.array([percentile_interval(estimates[:, k]) for k in range(estimates.shape[1])])


def misfit(classes: np.ndarray, probs: np.ndarray, new_probs: np.ndarray, tests: int = 1) -> tuple[float, float]:
    """How far a label's new scores (n,) are from any mixture of the classes' known scores (N,).

    classes: (N, C) bool, the rows of each class: negatives and positives, or all classes of a multiclass task;  tests:
    of how many labels this is one.
    Returns the largest distance of the two distribution functions, for the mixture that fits best by least squares, and
    the limit that in 95 of 100 cases under label shift no label passes, by Kolmogorov's and Smirnov's law for two
    samples of independent rows. It is on the safe side where scores are tied. NaN where a class has no row.
    Source: Smirnov 1939, as in scipy.stats.ks_2samp
    """
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


def class_weights(targets: np.ndarray, prevalence: np.ndarray, task: str) -> np.ndarray:
    """How much rows of each class count for a label to be as common as `prevalence` (K,): (K, 2), or (K,) multiclass.

    (K, 2) is of negatives and positives. 1 where a label has one class only, or its prevalence is NaN.
    """
    if task == "multiclass":
        shares = np.nanmean(targets, axis=0)
        return np.divide(prevalence, shares, out=np.ones(len(shares)), where=(shares > 0) & ~np.isnan(prevalence))
    cells = (~np.isnan(targets)).sum(axis=0)
    share = np.divide((targets == 1).sum(axis=0), cells, out=np.full(len(cells), np.nan), where=cells > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([(1 - prevalence) / (1 - share), prevalence / share], axis=1)
    weights[~np.isfinite(weights).all(axis=1)] = 1
    return weights


def shift_policy(name: str, task: str, metric: str, prevalence: np.ndarray) -> Policy:
    """Decisions, or probabilities, for the prevalence (K,); a label whose prevalence is NaN is left as it is.

    Thresholds are fitted on rows that count as often as the prevalence says. Multiclass: the largest of calibrated
    probability times prevalence over training prevalence. Probabilities are calibrated and reweighed by Bayes' rule.
    """
    def fit(targets: np.ndarray, probs: np.ndarray) -> FittedRule:
        if METRICS[metric].uses == "decisions" and task != "multiclass":
            return threshold_rule(fit_thresholds(targets, probs, metric, class_weights(targets, prevalence, task)))
        calibrated = calibrate(targets, probs, task).apply
        known = ~np.isnan(targets)
        rows = known | ~known.any(axis=0)  # a label that nobody knows is left as it is
        prior = np.where(rows, calibrated(probs), 0).sum(axis=0) / np.maximum(rows.sum(axis=0), 1)
        wanted = np.where(np.isnan(prevalence), prior, prevalence)
        if METRICS[metric].uses == "decisions":
            ratios = wanted / prior
            return FittedRule(lambda p: decide(calibrated(p) * ratios, None, task), {"weights": ratios.tolist()})
        return FittedRule(lambda p: reweigh(calibrated(p), prior, wanted, task), {"prevalence": wanted.tolist()})

    return Policy(name, METRICS[metric].uses, fit, metric)
