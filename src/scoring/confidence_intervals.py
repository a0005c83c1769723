"""Confidence intervals of scores and of differences, by a bootstrap that draws whole groups."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from scoring.metrics import METRICS, make_scorer

REPLICATES = 1000
LEVEL = 0.95
MAX_UNDEFINED = 0.1  # share of replicates without a score beyond which there is no interval
LEAST_CASES = 3  # fewer count as three: Student's quantiles for one or two ignore that a score has bounds
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


def bootstrap_scores(
    metric_name: str, targets: np.ndarray, values: np.ndarray, task: str, groups: np.ndarray,
    replicates: int = REPLICATES, seed: int = 0,
) -> np.ndarray:
    """(replicates,) the metric of values (N, K) in every replicate; NaN where no label is defined there.

    values: what the metric takes, probabilities or decisions. The same seed and groups draw the same rows, so the
    scores of two models can be subtracted.
    Raises ValueError where the metric is unknown or not for this task.
    """
    scorer = make_scorer(metric_name, targets, values, task)
    return np.concatenate([scorer(weights) for weights in bootstrap_chunks(groups, replicates, seed)])


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


def score_interval(
    metric_name: str, targets: np.ndarray, values: np.ndarray, task: str, groups: np.ndarray,
    replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0,
) -> tuple[float, float]:
    """The interval of any metric of values (N, K): `bounded_interval` of one from 0 to 1, else the percentile one.

    (nan, nan) where more than 10 % of the replicates have no score.
    """
    scorer = make_scorer(metric_name, targets, values, task)
    draws = np.concatenate([scorer(weights) for weights in bootstrap_chunks(groups, replicates, seed)])
    score = scorer(np.ones((1, len(targets))))[0]
    if not METRICS[metric_name].bounded:
        return percentile_interval(draws, level)
    return bounded_interval(metric_name, score, draws, targets, groups, level)


def bounded_interval(metric_name: str, score: float, draws: np.ndarray, targets: np.ndarray, groups: np.ndarray,
                     level: float = LEVEL) -> tuple[float, float]:
    """The interval of a score from 0 to 1 by its replicates `draws` (R,): `logit_interval`, `edge_interval` of 0 and 1.

    targets: (N, K), what it is a score of. The interval of a mean of zeros, or of ones, over labels is that of theirs.
    (nan, nan) for a single group, and where more than 10 % of the replicates are NaN.
    """
    if np.isnan(draws).mean() > MAX_UNDEFINED:
        return float("nan"), float("nan")
    if score in (0, 1):
        ends = [edge_interval(score, cases, level) for cases in _cases(metric_name, targets, groups)]
        low, high = np.mean(ends, axis=0)
        return float(low), float(high)
    if len(np.unique(groups)) == 1:
        return float("nan"), float("nan")
    cases = informative_cases(metric_name, targets, groups)
    if METRICS[metric_name].averages == "rows" and (spread := np.nanvar(draws)) > 0:
        # a share of so many independent rows would vary as much: no more is known than from their rarer outcome
        cases = min(cases, score * (1 - score) / spread * min(score, 1 - score))
    return logit_interval(score, draws, cases, level)


def edge_interval(score: float, cases: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a score of 0 or 1, whose replicates are all equal: that of a share of 0 or all of `cases`.

    Source: Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404
    """
    reach = 1 - ((1 - level) / 2) ** (1 / cases)
    return (0.0, reach) if score == 0 else (1 - reach, 1.0)


def informative_cases(metric_name: str, targets: np.ndarray, groups: np.ndarray) -> float:
    """From how many independent cases the spread of a score of targets (N, K) is known; NaN where no label has any.

    The groups of a label's rarer class. Of a mean over labels it is so many as make the sum of their variances as
    unsure as it is, a variance being about inverse to the label's cases: the rarest labels say most.
    Source: Satterthwaite 1946, https://doi.org/10.2307/3002019
    """
    cases = np.maximum(_cases(metric_name, targets, groups), LEAST_CASES).astype(float)
    if not len(cases):
        return float("nan")
    variances = 1 / cases
    return float(1 + variances.sum() ** 2 / (variances**2 / (cases - 1)).sum())


def _cases(metric_name: str, targets: np.ndarray, groups: np.ndarray) -> list[int]:
    """The number of groups that a score of targets (N, K) rests on; of a mean over labels, by label."""
    number = np.unique(groups, return_inverse=True)[1]  # once: there may be many rows, and names are slow to compare

    def count(rows: np.ndarray) -> int:
        return int(np.count_nonzero(np.bincount(number[rows])))
    if METRICS[metric_name].averages == "rows":
        return [count(~np.isnan(targets).all(axis=1))]
    if METRICS[metric_name].averages == "positives":
        return [max(1, count((targets == 1).any(axis=1)))]
    classes = [[count(column == value) for value in (0, 1) if (column == value).any()] for column in targets.T]
    return [min(counts) for counts in classes if counts]  # the rarer class limits the precision


def logit_interval(score: float, draws: np.ndarray, cases: float, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the logit of a score in (0, 1), by the deviation of its bootstrap replicates `draws` (R,).

    cases: see `informative_cases`. Of percentiles the interval would be too narrow where positives are few, and the
    number of all groups tells nothing of that: of 400 simulated AUCs with 20 positives each the percentiles held the
    truth in 91 %, this in 95 % (tests/benchmarks/coverage.py). With hundreds of positives they are the same.
    (nan, nan) where more than 10 % of the replicates are NaN.
    Source: DiCiccio & Efron 1996, https://doi.org/10.1214/ss/1032280214 (percentiles, t, transformations)
    """
    undefined = np.isnan(draws)
    if undefined.mean() > MAX_UNDEFINED or np.isnan(cases):
        return float("nan"), float("nan")
    reach = norm.ppf((1 + level) / 2) * small_sample(cases, level) * draws[~undefined].std() / (score * (1 - score))
    low, high = expit(logit(score) + np.array([-reach, reach]))
    return float(low), float(high)


def small_sample(cases: float, level: float = LEVEL) -> float:
    """How much wider an interval is than normal errors of the bootstrap's deviation make it, at least 1; 1 for many.

    The bootstrap's variance of so many cases is too small by (cases - 1) / cases, and Student knows how unsure it is.
    Source: Student 1908, https://doi.org/10.1093/biomet/6.1.1
    """
    cases = max(cases, LEAST_CASES)
    return float(student.ppf((1 + level) / 2, cases - 1) / norm.ppf((1 + level) / 2) * np.sqrt(cases / (cases - 1)))


def widen_differences(metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray,
                      groups: np.ndarray, difference: float, draws: np.ndarray) -> np.ndarray:
    """Replicates `draws` (R,) of a difference of two models' scores, as far around it as few cases make them.

    Only groups that the two models' values (N, K) tell apart count, of which decisions may leave few.
    """
    apart = (values != baseline).any(axis=1)
    cases = min(informative_cases(metric_name, targets, groups), len(np.unique(groups[apart])))
    return draws if np.isnan(cases) else difference + small_sample(cases) * (draws - difference)


def difference_interval(
    metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray, task: str, groups: np.ndarray,
    replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of the metric of `values` minus that of `baseline`, both on the same drawn rows.

    An interval that holds 0 means: no difference beyond noise.
    """
    return percentile_interval(
        difference_draws(metric_name, targets, values, baseline, task, groups, replicates, seed), level)


def difference_draws(
    metric_name: str, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray, task: str, groups: np.ndarray,
    replicates: int = REPLICATES, seed: int = 0,
) -> np.ndarray:
    """(replicates,) draws of the metric of `values` minus that of `baseline`, widened where cases are few."""
    ours, theirs = (bootstrap_scores(metric_name, targets, each, task, groups, replicates, seed)
                    for each in (values, baseline))
    score, other = (METRICS[metric_name].score(targets, each, task) for each in (values, baseline))
    return widen_differences(metric_name, targets, values, baseline, groups, score - other, ours - theirs)


def roc_auc_interval(
    targets: np.ndarray, probs: np.ndarray, groups: np.ndarray, replicates: int = REPLICATES, level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the macro ROC AUC: in each replicate the mean over the labels that have both classes there."""
    return score_interval("roc_auc", targets, probs, "multilabel", groups, replicates, level, seed)


def paired_roc_auc_interval(
    targets: np.ndarray, probs: np.ndarray, baseline_probs: np.ndarray, groups: np.ndarray,
    replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0,
) -> tuple[float, float]:
    """The interval of the macro ROC AUC of `probs` minus that of `baseline_probs`, both on the same drawn rows."""
    return difference_interval("roc_auc", targets, probs, baseline_probs, "multilabel", groups, replicates, level, seed)


def bootstrap_chunks(groups: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Iterator[np.ndarray]:
    """What `bootstrap_counts` yields, as many at a time as fit CHUNK_BYTES: (R, N) each."""
    counts = bootstrap_counts(groups, replicates, seed)
    replicates_at_once = max(1, CHUNK_BYTES // (8 * max(1, len(groups))))
    while chunk := list(islice(counts, replicates_at_once)):
        yield np.stack(chunk)


def percentile_interval(scores: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the replicates' scores (R,); those that are NaN are skipped.

    (nan, nan) where more than 10 % are NaN: the rest would no longer be a fair sample.
    """
    undefined = np.isnan(scores)
    if undefined.mean() > MAX_UNDEFINED:
        return float("nan"), float("nan")
    low, high = np.quantile(scores[~undefined], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def widen_for_tests(low: np.ndarray, high: np.ndarray, estimate: np.ndarray,
                    tests: int) -> tuple[np.ndarray, np.ndarray]:
    """Intervals as wide as when so many tests are looked at, that all hold with 95 % chance together at least.

    Both sides are stretched as a normal distribution's would be: a few hundred draws do not know tails that far out.
    Source: Bonferroni's inequality.
    """
    wider = norm.ppf((1 - LEVEL) / 2 / tests) / norm.ppf((1 - LEVEL) / 2)
    below, above = np.maximum(estimate - low, 0), np.maximum(high - estimate, 0)  # it may lie outside of percentiles
    return np.minimum(low, estimate - wider * below), np.maximum(high, estimate + wider * above)
