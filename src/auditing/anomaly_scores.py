"""Anomaly scores: which images are normal, density and distance of features, and how well scores detect anomalies.

Scores are in units of held-out normal images: 0 is their median, 1 the threshold that 95 % of them do not exceed. So
scores of models fitted on different images can be compared, and images that are not normal never set a threshold.
"""

from collections.abc import Callable

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
HELD_OUT = 0.25      # share of the normal images that set the threshold
LEAST = 20           # normal images to fit on, and as many for the threshold: of 19 the largest is the 95 % quantile
MOST_DENSITY = 2000  # images in a kernel density: each scored image is compared with all of them
MOST_DISTANCE = 10_000
BANDWIDTHS = np.geomspace(0.2, 3.0, 10)  # in standard deviations of the codes
INNER_FOLDS = 3
CHUNK = 4096         # images whose features are in memory at once


def normal_mask(competition: Competition, table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """(N,) 0 for normal images, 1 for others, NaN where the labels leave it open; and the rule in words.

    If a label means normal (normal, no finding, healthy, benign), images with this label and no other are normal.
    Otherwise images without any label are normal, if no cell is uncertain or blank.
    Raises ValueError if the task is multiclass and no class means normal.
    """
    targets = scoring_targets(label_cells(competition, table))
    names = [_letters(label) for label in competition.labels]
    of_normal = [k for k, name in enumerate(names) if name in NORMAL_NAMES]
    if not of_normal and competition.task == "multiclass":
        raise ValueError(f"competition {competition.name!r}: none of its classes means normal "
                         f"({', '.join(competition.labels)}), so anomalies cannot be searched; a class of normal "
                         f"images must be called one of {', '.join(NORMAL_NAMES)}")
    others = np.delete(targets, of_normal, axis=1)
    found = (others == 1).any(axis=1)
    if of_normal:
        k = of_normal[0]
        is_normal = (targets[:, k] == 1) & ~found
        is_anomaly = (targets[:, k] != 1) & found if competition.task != "binary" else targets[:, k] == 0
        rule = f"normal: labelled {competition.labels[k]!r}"
    else:
        is_normal, is_anomaly = (others == 0).all(axis=1), found
        rule = f"normal: without {competition.labels[0]!r}" if len(competition.labels) == 1 else (
            f"normal: none of the {len(competition.labels)} labels, no cell uncertain or blank")
    ignored = [text for text in competition.ignored_labels if _letters(text) not in NORMAL_NAMES]
    if ignored and not of_normal:
        rule += f"; they may have {len(ignored)} findings that this competition ignores"
    return np.where(is_normal, 0.0, np.where(is_anomaly, 1.0, np.nan)), rule


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text.lower()))


def hold_out(groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: a quarter of the normal images, whole groups, at least 20 images.

    Raises ValueError if fewer than 20 images are left on either side.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    reached = np.cumsum(np.bincount(group_of_row, minlength=len(names))[order])
    wanted = max(LEAST, HELD_OUT * len(groups))
    held = np.isin(group_of_row, order[:1 + np.searchsorted(reached, wanted)])
    if held.sum() < LEAST or (~held).sum() < LEAST:
        raise ValueError(f"{len(groups)} normal images of {len(names)} groups are too few: {LEAST} are needed to learn "
                         f"from and {LEAST} of other groups to set a threshold")
    return held


def fit_scale(held_out: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that maps raw scores so that 0 is the median of held-out normal images (n,) and 1 their threshold.

    The threshold is the ceil(0.95 (n + 1))-th smallest score, n of 19 or more: a further normal image exceeds it with
    a probability of at most 5 %.
    """
    median = np.median(held_out)
    threshold = np.sort(held_out)[int(np.ceil(SPECIFICITY * (len(held_out) + 1))) - 1]
    spread = threshold - median if threshold > median else 1.0  # all scores are equal
    return lambda raw: (raw - median) / spread


def fit_density(codes: np.ndarray, groups: np.ndarray, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function from codes (m, D) to the negative log density (m,), and the bandwidth of its Gaussian kernels.

    Codes are standardized first. The bandwidth maximizes the likelihood in three folds over groups. At most 2,000
    images are used, drawn with the seed.
    """
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.neighbors import KernelDensity
    from sklearn.preprocessing import StandardScaler

    rows = _draw(len(codes), MOST_DENSITY, seed)
    scaler = StandardScaler().fit(codes[rows])
    folds = GroupKFold(min(INNER_FOLDS, len(np.unique(groups[rows]))))
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=folds)
    search.fit(scaler.transform(codes[rows]), groups=groups[rows])
    density = search.best_estimator_
    return (lambda other: -density.score_samples(scaler.transform(other))), float(density.bandwidth)


def fit_distance(features: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features (m, D) to their Mahalanobis distance (m,) from these features (n, D).

    Square roots are taken first: pooled features are mostly near 0 and seldom far above it, and roots make the
    distribution of distances less skewed. The covariance is shrunk, because there may be fewer images than features.
    At most 10,000 images are used, drawn with the seed.
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


def detection(is_anomaly: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, float | int]:
    """How well scores (n,) separate anomalies (1) from normal images (0); NaN in either is left out.

    `roc_auc`, `average_precision`, and `sensitivity` and `specificity` at the threshold 1, which comes from held-out
    normal images. Each has _low and _high, a 95 % bootstrap interval over groups; NaN if one kind of image is missing.
    """
    known = ~np.isnan(is_anomaly) & ~np.isnan(scores)
    order = np.argsort(-scores[known], kind="stable")  # sorted once, so that no replicate has to
    truth, scores, groups = is_anomaly[known][order], scores[known][order], groups[known][order]
    found = {"images": len(truth), "anomalies": int(truth.sum())}
    both = 0 < truth.sum() < len(truth)
    targets, values = truth[:, None], scores[:, None]
    for name in ("roc_auc", "average_precision"):
        found |= _with_interval(name, *(METRICS[name].score(targets, values, "binary"), *score_interval(
            name, targets, values, "binary", groups)) if both else (np.nan,) * 3)
    shares: dict[str, Callable[[np.ndarray], float]] = {
        "sensitivity": lambda weights: _share(scores > 1, weights * truth),
        "specificity": lambda weights: _share(scores <= 1, weights * (1 - truth)),
    }
    for name, share in shares.items():
        value = share(np.ones(len(truth)))
        found |= _with_interval(name, value, *((np.nan, np.nan) if np.isnan(value) else
                                               bootstrap_interval(share, groups)))
    return found


def _with_interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _share(chosen: np.ndarray, weights: np.ndarray) -> float:
    """The share of the weights on the chosen rows; NaN if all weights are 0."""
    total = weights.sum()
    return float(weights[chosen].sum() / total) if total else float("nan")
