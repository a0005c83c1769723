"""Forecast of leaderboard scores from out-of-fold predictions: public and private score, their gap, the best run.

The model: a run has one true score t. Its out-of-fold score is s = t + e, where e depends on the training groups, and
its score on a test set is u = t + d, where d depends on the test groups. So u = s - e + d: the two errors come from
different patients, and their variances add. Bootstrap replicates estimate both: replicate r draws training groups,
which gives s_r - s for e, and a test set of its size, which gives u_r - s for d.

    predicted u = s - (s_r - s) + (u_r - s) = s + u_r - s_r

The public and the private score have the same e, so their gap does not contain it. The same groups are drawn for all
runs, so the difference of two runs does not contain their common error. In simulated competitions that follow this
model the 95 % intervals contained 92 to 95 % of public scores, 94 to 95 % of private scores and 93 % of gaps
(tests/benchmarks/shakeup.py).

The forecast assumes that test images are like training images. A test image is predicted by the mean of all folds'
models, an out-of-fold one by a single model, so test scores are higher than forecast: in these simulations AUC by
nothing for a logistic regression, by 0.02 and 0.05 for decision trees of depth 4 and 7, and of eight kinds of models
the intervals contained 82 % of private scores. `fold_mean_gain` estimates the difference for the AUC; with it
(`Forecast.raised`) they contained 95 % of private and 96 % of public scores. Gaps do not depend on it: 97.5 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from scoring.confidence_intervals import (
    CHUNK_BYTES,
    LEVEL,
    bootstrap_chunks,
    bootstrap_counts,
    informative_cases,
    small_sample,
)
from scoring.counts import mean_of_defined
from scoring.metrics import METRICS, make_scorer, roc_auc_by_label

REPLICATES = 2000
GAIN_ERROR = 0.5  # standard deviation of the true gain of a mean of models, as a share of its estimate
PUBLIC_SHARE = 0.3  # of the test images, if it is not known


@dataclass(frozen=True)
class Forecast:
    """Draws of the future scores of M runs. NaN if a draw has no score, because a class has too few images."""

    metric_name: str
    scores: np.ndarray    # (M,) out-of-fold
    public: np.ndarray    # (M, R)
    private: np.ndarray   # (M, R), of the same draws
    oof_draws: np.ndarray   # (M, R) bootstrap replicates of the out-of-fold scores
    public_draws: np.ndarray  # (M, R) and of the public scores, without the uncertainty of the out-of-fold scores
    images: tuple[int, int]  # public and private

    def raised(self, gains: np.ndarray) -> "Forecast":
        """The forecast if the test part is predicted by the mean of all folds' models; gains: (M, R) `fold_mean_gain`.

        The error of the gain is the same for all runs in a draw, so runs with equal gains compare as before.
        """
        off = np.random.default_rng(0).normal(1, GAIN_ERROR, gains.shape[1])
        public, private = (np.clip(draws + off * gains, 0, 1) for draws in (self.public, self.private))
        return replace(self, public=public, private=private)

    @property
    def sign(self) -> int:
        return METRICS[self.metric_name].sign

    def interval(self, draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
        """The middle `level` of draws (R,), without those that have no score; NaN if none has one."""
        defined = draws[~np.isnan(draws)]
        if not len(defined):
            return float("nan"), float("nan")
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def chance(self, a: int, b: int) -> float:
        """The probability that run a scores better than run b on the private part; a tie counts half."""
        ahead = self.sign * (self.private[a] - self.private[b])
        ahead = ahead[~np.isnan(ahead)]
        return float(((ahead > 0) + 0.5 * (ahead == 0)).mean()) if len(ahead) else float("nan")

    def chances_of_first(self) -> np.ndarray:
        """(M,) the probability that each run is the best on the private part; ties are shared; NaN without draws."""
        private = self.sign * self.private[:, ~np.isnan(self.private).any(axis=0)]
        if not private.size:
            return np.full(len(private), np.nan)
        best = private == private.max(axis=0)
        return (best / best.sum(axis=0)).mean(axis=1)

    def choose_two(self) -> tuple[int, int, float]:
        """The two runs with the highest expected better private score, and what the second adds to the best alone.

        The better of two submissions counts, so the second should be good where the first is not.
        """
        private = self.sign * self.private[:, ~np.isnan(self.private).any(axis=0)]
        pairs = {(a, b): np.maximum(private[a], private[b]).mean() for a, b in combinations(range(len(private)), 2)}
        a, b = max(pairs, key=pairs.get)
        if self.sign * self.scores[b] > self.sign * self.scores[a]:
            a, b = b, a
        return a, b, float(pairs[min(a, b), max(a, b)] - private.mean(axis=1).max())

    def optimism(self) -> float:
        """The estimated optimism of the best run's out-of-fold score, which comes from choosing the best run by it."""
        draws = self.sign * self.oof_draws[:, ~np.isnan(self.oof_draws).any(axis=0)]
        if not draws.size:
            return float("nan")
        best = draws.argmax(axis=0)
        return float((draws[best, np.arange(draws.shape[1])] - self.sign * self.scores[best]).mean())

    def public_weight(self, a: int, b: int | None = None) -> float:
        """The weight of the public beside the out-of-fold score, in [0, 1]; with b, of the difference a - b.

        Both estimate the same number, so each is weighted by the inverse of its variance.
        """
        both = self.oof_draws, self.public_draws
        of_oof, of_public = (np.nanvar(draws[a] if b is None else draws[a] - draws[b]) for draws in both)
        return float(of_oof / (of_oof + of_public)) if of_oof + of_public > 0 else float("nan")


def forecast(metric_name: str, targets: np.ndarray, values: list[np.ndarray], task: str, groups: np.ndarray,
             images: int, public_share: float = PUBLIC_SHARE, replicates: int = REPLICATES, seed: int = 0) -> Forecast:
    """The forecast for a test set of `images` images, of which `public_share` are public, drawn image by image.

    values: for each of M runs (N, K) out-of-fold probabilities or decisions, as the metric takes them. Test groups are
    as large as training groups. Raises ValueError if a part would have no image, or the metric is unknown.
    """
    public = round(public_share * images)
    if not 0 < public < images:
        raise ValueError(f"{images} test images with a public share of {public_share:g} are {public} public and "
                         f"{images - public} private ones; each part needs an image")
    scorers = [make_scorer(metric_name, targets, each, task) for each in values]
    draws = zip(bootstrap_counts(groups, replicates, seed), draw_test_sets(groups, images, public, replicates, seed),
                strict=True)
    at_once, scores = max(1, CHUNK_BYTES // (3 * 8 * len(targets))), []
    bar = tqdm(total=replicates, desc="forecast", unit="draw", leave=False, disable=None)
    while chunk := list(islice(draws, at_once)):
        weights = np.concatenate([np.stack((oof, *parts)) for oof, parts in chunk])
        scores.append(np.stack([scorer(weights) for scorer in scorers]).reshape(len(values), len(chunk), 3))
        bar.update(len(chunk))
    bar.close()
    oof_draws, public_draws, private_draws = np.moveaxis(np.concatenate(scores, axis=1), 2, 0)
    oof = np.array([METRICS[metric_name].score(targets, each, task) for each in values])
    lowest, highest = (0, 1) if METRICS[metric_name].bounded else (-np.inf, np.inf)
    # the spread of both errors is estimated from the same images, so few cases make it uncertain
    wider = small_sample(informative_cases(metric_name, targets, groups))
    predicted = (np.clip(oof[:, None] + wider * (draws - oof_draws), lowest, highest)
                 for draws in (public_draws, private_draws))
    return Forecast(metric_name, oof, *predicted, oof_draws, public_draws, (public, images - public))


def draw_test_sets(groups: np.ndarray, images: int, public: int, replicates: int,
                   seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, `replicates` times, the counts (N,) of each row in the public and in the private part of a test set.

    Whole groups are drawn until there are enough images; then `public` of these are public, regardless of their group.
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order, starts = np.argsort(number, kind="stable"), np.cumsum(sizes) - sizes
    rng = np.random.default_rng([seed, 1])  # not the stream of bootstrap_counts: other patients
    for _ in range(replicates):
        drawn = rng.integers(len(sizes), size=images)  # as many as could be needed, were every group one image
        lengths = sizes[drawn]
        ends = np.cumsum(lengths)
        last = int(np.searchsorted(ends, images)) + 1
        drawn, lengths, ends = drawn[:last], lengths[:last], ends[:last]
        rows = order[np.repeat(starts[drawn] - (ends - lengths), lengths) + np.arange(ends[-1])][:images]
        rows = rng.permutation(rows)
        yield tuple(np.bincount(part, minlength=len(groups)) for part in (rows[:public], rows[public:]))


def fold_mean_gain(targets: np.ndarray, oof_probs: np.ndarray, test_probs: np.ndarray, groups: np.ndarray,
                   images: int, replicates: int = REPLICATES, seed: int = 0) -> tuple[float, np.ndarray]:
    """The gain in macro AUC of the mean of all folds' models over a single one, and draws of it (R,).

    The mean has the same distance between positives and negatives as a single model, but varies less within each class.
    The variance within classes is the total variance minus the one between, which the out-of-fold predictions show. For
    two normal distributions AUC = Phi(distance / sqrt(2 x within)), so the AUC becomes
    Phi(Phi^-1(AUC) x sqrt(within of one / within of the mean)). The draws correct for test sets easy by chance:
    these vary more, so that the gain looks too small. They subtract the gain that the draws of `forecast` show without
    any averaging. NaN if no label has an AUC.
    Source of the AUC of normal scores: Hanley 1988, Medical Decision Making 8(3)

    Parameters
    ----------
    targets, oof_probs : (N, K) labels and predictions of a single model for each row
    test_probs : (n, K) predictions of the mean of all models; their labels are not needed
    images : the size of the test set
    """
    known, truth = ~np.isnan(targets), targets == 1
    sides = [np.where(side, 1.0, 0.0) for side in (truth, known & ~truth)]
    cells = np.hstack([side * oof_probs**power for side in sides for power in range(3)])
    own, test = (np.hstack([probs**power for power in range(3)]) for probs in (oof_probs, test_probs))
    oof_sums = _sums(cells, groups, replicates, seed)
    drawn = ((public + private) @ own for public, private in draw_test_sets(groups, images, 1, replicates, seed))
    test_sums = np.stack([test.sum(axis=0), *drawn])
    gains = _gain(roc_auc_by_label(targets, oof_probs), *np.split(oof_sums, 6, axis=1), *np.split(test_sums, 3, axis=1))
    return float(gains[0]), gains[0] - gains[1:]


def _sums(cells: np.ndarray, groups: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """(1 + replicates, M) sums of the columns, first over the rows, then in every replicate."""
    drawn = (weights @ cells for weights in bootstrap_chunks(groups, replicates, seed))
    return np.concatenate([cells.sum(axis=0, keepdims=True), *drawn])


def _gain(aucs: np.ndarray, positives: np.ndarray, sum_p: np.ndarray, squares_p: np.ndarray, negatives: np.ndarray,
          sum_n: np.ndarray, squares_n: np.ndarray, test: np.ndarray, sum_t: np.ndarray,
          squares_t: np.ndarray) -> np.ndarray:
    """(R,) the mean over labels of the gain; all but aucs are (R, K) counts, sums and sums of squares."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a label of one class is NaN, and left out below
        count = positives + negatives
        within = (squares_p - sum_p**2 / positives + squares_n - sum_n**2 / negatives) / count
        whole = (squares_p + squares_n) / count - ((sum_p + sum_n) / count) ** 2
        of_mean = squares_t / test - (sum_t / test) ** 2 - (whole - within)
        # a test set that happens to vary little must not make a ranking perfect
        gains = norm.cdf(norm.ppf(aucs) * np.sqrt(within / np.maximum(of_mean, within / 4))) - aucs
    return mean_of_defined(np.where(np.isfinite(gains), gains, np.nan))
