"""How unlike the normal images an image is: which are normal, distances and densities, and how well they detect.

A score is in units of held-out normal images: 0 is their median, 1 the threshold that 95 % of them stay below. So
scores of models that were fitted on different images can be put together, and no image that is not normal has a say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular

from competition import Competition
from data.labels import scoring_targets
from data.tables import label_cells
from scoring.confidence_intervals import bootstrap_interval, score_interval
from scoring.metrics import METRICS

NORMAL_NAMES = ("normal", "nofinding", "nofindings", "healthy", "benign")  # of labels, letters only
SPECIFICITY = 0.95
HELD_OUT = 0.25      # share of the normal images that thresholds are found on
LEAST = 20           # normal images to fit on, and as many to find a threshold: of 19 the largest is the 95 % quantile
MOST_DENSITY = 2000  # images that a kernel density is made of: every image scored is compared with each
MOST_DISTANCE = 10_000
BANDWIDTHS = np.geomspace(0.2, 3.0, 10)  # in standard deviations of the codes
INNER_FOLDS = 3
CHUNK = 4096         # images whose features are in memory at once


def normal_mask(competition: Competition, table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """(N,) 0 normal, 1 not, NaN where the labels do not say; and how that was told, for the screen.

    Where a label means normal (normal, no finding, healthy, benign) it says so, and any other label that an image is
    not; else an image is normal that has none of the labels, each cell certain.
    Raises ValueError for classes none of which means normal.
    """
    targets = scoring_targets(label_cells(competition, table))
    names = ["".join(filter(str.isalpha, label.lower())) for label in competition.labels]
    of_normal = [k for k, name in enumerate(names) if name in NORMAL_NAMES]
    if not of_normal and competition.task == "multiclass":
        raise ValueError(f"competition {competition.name!r}: none of its classes means normal "
                         f"({', '.join(competition.labels)}), so there is nothing that others could be unlike; a "
                         f"class that does is called one of {', '.join(NORMAL_NAMES)}")
    others = np.delete(targets, of_normal, axis=1)
    found = (others == 1).any(axis=1)
    if of_normal:
        k = of_normal[0]
        is_normal = (targets[:, k] == 1) & ~found
        is_odd = (targets[:, k] != 1) & found if competition.task != "binary" else targets[:, k] == 0
        said = f"normal: labelled {competition.labels[k]!r}"
    else:
        is_normal, is_odd = (others == 0).all(axis=1), found
        said = f"normal: without {competition.labels[0]!r}" if len(competition.labels) == 1 else (
            f"normal: none of the {len(competition.labels)} labels, every cell certain")
    ignored = [text for text, name in ((text, "".join(filter(str.isalpha, text.lower())))
                                       for text in competition.ignored_labels) if name not in NORMAL_NAMES]
    if ignored and not of_normal:
        said += f"; {len(ignored)} findings that this competition ignores may be in them"
    return np.where(is_normal, 0.0, np.where(is_odd, 1.0, np.nan)), said


def hold_out(groups: np.ndarray, seed: int, what: str = "normal images") -> np.ndarray:
    """(n,) bool: a quarter of the images, in whole groups, and 20 or more.

    Raises ValueError where fewer than 20 are left on either side.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    reached = np.cumsum(np.bincount(group_of_row, minlength=len(names))[order])
    wanted = max(LEAST, HELD_OUT * len(groups))
    held = np.isin(group_of_row, order[:1 + np.searchsorted(reached, wanted)])
    if held.sum() < LEAST or (~held).sum() < LEAST:
        raise ValueError(f"{len(groups)} {what} of {len(names)} groups are too few: {LEAST} are needed to learn from "
                         f"and {LEAST} of other groups to find a threshold on")
    return held


@dataclass(frozen=True)
class Scale:
    """What 0 and 1 of a score are: the median of held-out normal images, and their threshold."""

    middle: float
    reach: float  # from there to the threshold

    @classmethod
    def of_held_out(cls, raw: np.ndarray) -> "Scale":
        """From the raw scores (n,) of held-out normal images, 19 or more.

        The threshold is the ceil(0.95 (n + 1))-th smallest: a further image of their kind stays at or below it with a
        probability of at least 95 %, whatever the scores' distribution.
        Source: Vovk et al. 2005, Algorithmic Learning in a Random World; Lei et al. 2018, https://arxiv.org/abs/1604.04173
        """
        place = int(np.ceil(SPECIFICITY * (len(raw) + 1)))
        middle = float(np.median(raw))
        reach = float(np.sort(raw)[place - 1]) - middle
        return cls(middle, reach if reach > 0 else 1.0)  # all alike: there is no spread to measure with

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Scores in units of held-out normal images."""
        return (raw - self.middle) / self.reach


@dataclass(frozen=True)
class Standard:
    """Columns made alike: mean 0 and deviation 1 over the images that were learned from; constant ones stay 0."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Standard":
        """From (n, D)."""
        deviation = values.std(axis=0, dtype=np.float64)
        return cls(values.mean(axis=0, dtype=np.float64), np.where(deviation > 0, deviation, np.inf))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(m, D) float64."""
        return (values - self.mean) / self.deviation


def fit_density(codes: np.ndarray, groups: np.ndarray, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function from codes (m, D) to minus the log density (m,), and the bandwidth of its Gaussian kernels.

    The bandwidth is the one under which left-out images of other groups are likeliest, in three folds. Made of 2,000
    images at most, drawn by seed.
    """
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.neighbors import KernelDensity

    rows = _draw(len(codes), MOST_DENSITY, seed)
    standard = Standard.of(codes[rows])
    folds = GroupKFold(min(INNER_FOLDS, len(np.unique(groups[rows]))))
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=folds)
    search.fit(standard.apply(codes[rows]), groups=groups[rows])
    density = search.best_estimator_
    return (lambda other: -density.score_samples(standard.apply(other))), float(density.bandwidth)


def fit_distance(features: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features (m, D) to the Mahalanobis distance (m,) of their roots from the roots of these, (n, D).

    Pooled features are mostly near 0 and seldom far above it; their square roots are spread more evenly, so that the
    distances of images of the same kind have no long tail. The covariance is shrunk, since features are often more than
    images; of 10,000 images at most, drawn by seed.
    Source: Ledoit & Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4; distances on frozen features as in Lee et
    al. 2018, https://arxiv.org/abs/1807.03888, with one class
    """
    from sklearn.covariance import LedoitWolf

    shrunk = LedoitWolf(store_precision=False).fit(_root(features[_draw(len(features), MOST_DISTANCE, seed)]))
    # a triangular solution: scikit-learn's own mahalanobis inverts by eigenvalues, which takes ten times as long
    factor = np.linalg.cholesky(shrunk.covariance_ + 1e-12 * np.eye(features.shape[1]))

    def distance(other: np.ndarray) -> np.ndarray:
        parts = (_root(other[first:first + CHUNK]) - shrunk.location_ for first in range(0, len(other), CHUNK))
        return np.concatenate([np.linalg.norm(solve_triangular(factor, part.T, lower=True), axis=0) for part in parts]
                              or [np.empty(0)])

    return distance


def _root(values: np.ndarray) -> np.ndarray:
    """Square roots in float64, those of negative numbers negative."""
    values = np.asarray(values, np.float64)
    return np.sign(values) * np.sqrt(np.abs(values))


def _draw(count: int, most: int, seed: int) -> np.ndarray:
    """All rows, or `most` of them at random, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def sensitivity_at(odd: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None,
                   specificity: float = SPECIFICITY) -> float:
    """The largest share of odd images above a threshold that leaves this share of the normal ones at or below it.

    odd: (n,) 1 or 0;  scores: (n,);  weights: (n,) how often a row counts. NaN where one of the two kinds is missing.
    """
    weights = np.ones(len(odd)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    found, alarms = np.cumsum((weights * odd)[order]), np.cumsum((weights * (1 - odd))[order])
    if not len(odd) or found[-1] == 0 or alarms[-1] == 0:
        return float("nan")
    is_last = np.append(np.diff(scores[order]) != 0, True)  # a threshold cannot part equal scores
    allowed = is_last & (alarms <= (1 - specificity) * alarms[-1] + 1e-9)
    return float(found[allowed].max(initial=0) / found[-1])


def detection(odd: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, float | int]:
    """How well scores (n,) tell odd images (1) from normal ones (0), NaN left out; intervals draw whole groups.

    `roc_auc`, `average_precision`, `sensitivity_at_95`: at the threshold that these very images give; `sensitivity` and
    `specificity`: above and at or below 1, the threshold from held-out normal images. Each with _low and _high, NaN
    where one of the two kinds is missing.
    """
    known = ~np.isnan(odd) & ~np.isnan(scores)
    order = np.argsort(-scores[known], kind="stable")  # sorted once, so that no replicate has to
    odd, scores, groups = odd[known][order], scores[known][order], groups[known][order]
    figures = {"images": len(odd), "odd": int(odd.sum())}
    both = 0 < odd.sum() < len(odd)
    for name in ("roc_auc", "average_precision"):
        values = score_pair(name, odd, scores, groups) if both else (np.nan,) * 3
        figures |= _with_interval(name, *values)
    shares: dict[str, Callable[[np.ndarray], float]] = {
        "sensitivity_at_95": lambda weights: sensitivity_at(odd, scores, weights),
        "sensitivity": lambda weights: _share(scores > 1, weights * odd),
        "specificity": lambda weights: _share(scores <= 1, weights * (1 - odd)),
    }
    for name, share in shares.items():
        value = share(np.ones(len(odd)))
        interval = (np.nan, np.nan) if np.isnan(value) else bootstrap_interval(share, groups)
        figures |= _with_interval(name, value, *interval)
    return figures


def score_pair(name: str, odd: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """A metric of one column of scores, and its interval over groups."""
    targets, values = odd[:, None], scores[:, None]
    return METRICS[name].score(targets, values, "binary"), *score_interval(name, targets, values, "binary", groups)


def _with_interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _share(chosen: np.ndarray, weights: np.ndarray) -> float:
    """The weights' share on chosen rows, NaN where nothing has weight."""
    total = weights.sum()
    return float(weights[chosen].sum() / total) if total else float("nan")
