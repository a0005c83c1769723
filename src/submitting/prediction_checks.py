"""Finds errors in a submission by comparing its values with the run's own, another submission's and the oof ones.

Functions take arrays and return messages. Arrays (n, K) have one row per test image and one column per label.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

ROUNDING = 1.5e-6     # two values that differ by no more are the same number with six decimals
MIN_IMAGES = 20       # with fewer images, ranks agree or disagree by chance
MAX_DISTANCE = 0.25   # between two distributions or two means, 0 to 1; more gets a warning
SHIFTS = (1, -1, 2, -2, 3, -3)  # rows


def association(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(K, L) rank agreement, -1 to 1, of the columns of values (n, K) with those of others (n, L).

    Spearman's rank correlation; 2 AUC - 1 if one of two columns has two values only, which is 1 if a threshold on the
    other column gives it; NaN for a constant column.
    """
    ranks, other_ranks = rankdata(values, axis=0), rankdata(others, axis=0)
    spread, other_spread = ranks.std(axis=0), other_ranks.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = (ranks - ranks.mean(axis=0)).T @ (other_ranks - other_ranks.mean(axis=0)) / len(values)
        scale = np.outer(spread, other_spread)
        hard, other_hard = _is_hard(values), _is_hard(others)
        # two ranks r1 < r2 of p n and (1 - p) n rows: their spread is sqrt(p (1 - p)) (r2 - r1), and r2 - r1 = n / 2
        scale = np.where(hard[:, None] & ~other_hard, spread[:, None] ** 2, scale)
        scale = np.where(~hard[:, None] & other_hard, other_spread**2, scale)
        return np.where((spread[:, None] > 0) & (other_spread > 0), agreed / scale, np.nan)


def mean_association(values: np.ndarray, others: np.ndarray) -> float:
    """The mean of `association` of corresponding columns; NaN if all are constant."""
    diagonal = np.diag(association(values, others))
    return float(diagonal[~np.isnan(diagonal)].mean()) if (~np.isnan(diagonal)).any() else np.nan


def _is_hard(values: np.ndarray) -> np.ndarray:
    """(K,) bool, True for columns with two values only."""
    low, high = values.min(axis=0), values.max(axis=0)
    return ((values == low) | (values == high)).all(axis=0) & (low < high)


def against_own(columns: tuple[str, ...], values: np.ndarray, own: np.ndarray) -> tuple[list[str], list[str]]:
    """Errors and warnings from a comparison with the run's own predictions of the same images.

    Swapped or inverted columns and rows at other ids are errors. Hard labels are compared by their order, since they
    are decisions on the predictions.
    """
    hard = np.isin(values, (0, 1)).all() and not np.isin(own, (0, 1)).all()
    if not hard and np.abs(values - own).max() <= ROUNDING:
        return [], []
    agreed = association(values, own)
    if errors := _moved_columns(columns, values, own, agreed) + _inverted_columns(columns, values, own, agreed):
        return errors, []
    if message := _moved_rows(values, own):
        return [message], []
    diagonal = np.diag(agreed)
    if hard:
        return [], [f"column {columns[k]!r} does not follow the run's own predictions (agreement {diagonal[k]:.2f}, 1 "
                    "if every positive has a higher probability than every negative)"
                    for k in range(len(columns)) if len(values) >= MIN_IMAGES and diagonal[k] < 0.8]
    differs = np.abs(values - own) > ROUNDING
    return [], [f"{differs.sum()} of {differs.size} values are not what the run predicted, by up to "
                f"{np.abs(values - own).max():.2g}, in {', '.join(np.array(columns)[differs.any(axis=0)])}"]


def _moved_columns(columns: tuple[str, ...], values: np.ndarray, own: np.ndarray, agreed: np.ndarray) -> list[str]:
    errors = []
    for k, column in enumerate(columns):
        same = np.abs(values[:, [k]] - own).max(axis=0) <= ROUNDING
        j = int(same.argmax()) if same.any() else _largest(agreed[k])
        clear = len(values) >= MIN_IMAGES and agreed[k, j] >= 0.98 and not agreed[k, k] > agreed[k, j] - 0.1
        if j != k and (clear or (same[j] and not same[k])):
            errors.append(f"column {column!r} holds what the run predicted for {columns[j]!r}: columns were swapped")
    return errors


def _largest(row: np.ndarray) -> int:
    return int(np.nan_to_num(row, nan=-2).argmax())


def _inverted_columns(columns: tuple[str, ...], values: np.ndarray, own: np.ndarray, agreed: np.ndarray) -> list[str]:
    exactly = (np.abs(1 - values - own).max(axis=0) <= ROUNDING) & (np.abs(values - own).max(axis=0) > ROUNDING)
    return [f"column {columns[k]!r} is inverted: it is high where the run predicted low values (1 - p?)"
            for k in range(len(columns)) if exactly[k] or (len(values) >= MIN_IMAGES and agreed[k, k] <= -0.98)]


def _moved_rows(values: np.ndarray, own: np.ndarray) -> str | None:
    if len(values) >= MIN_IMAGES and not mean_association(values, own) > 0.9:
        for shift in SHIFTS:
            if mean_association(np.roll(values, -shift, axis=0), own) >= 0.98:
                return f"the values are {abs(shift)} row{'s' * (abs(shift) > 1)} too {'low' if shift > 0 else 'high'}"
    if len(values) > 1 and np.abs(np.sort(values, axis=0) - np.sort(own, axis=0)).max() <= ROUNDING:
        return "the values are the run's own, but at other ids: rows were reordered without their ids"
    return None


def against_other(columns: tuple[str, ...], values: np.ndarray, other: np.ndarray, name: str) -> list[str]:
    """Warnings from a comparison with another submission's values, which may be by a different network."""
    if len(values) < MIN_IMAGES:
        return []
    if np.array_equal(values, other):
        return [f"this is the same as {name}: every value"]
    agreed, noise = association(values, other), 4 / np.sqrt(len(values))
    rows, places = linear_sum_assignment(-np.nan_to_num(agreed))
    gain = agreed[rows, places] - np.diag(agreed)
    clear = max(0.2, noise)
    moved = [k for k in rows if places[k] != k and gain[k] > clear and agreed[k, places[k]] > clear]
    if moved:
        return [f"column {columns[k]!r} agrees with {columns[places[k]]!r} of {name} ({agreed[k, places[k]]:.2f}) more "
                f"than with the same column ({agreed[k, k]:.2f}): were columns swapped?" for k in moved]
    diagonal = np.diag(agreed)
    if inverted := [k for k in rows if diagonal[k] < -clear]:
        return [f"column {columns[k]!r} is inverted compared with {name} ({diagonal[k]:.2f}): 1 - p?"
                for k in inverted]
    if (mean := mean_association(values, other)) < max(0.15, noise):
        for shift in SHIFTS:
            rolled = mean_association(np.roll(values, -shift, axis=0), other)
            if rolled > mean + clear:
                return [f"moved by {abs(shift)} row{'s' * (abs(shift) > 1)} the values agree with {name} "
                        f"({rolled:.2f}), unmoved they do not ({mean:.2f}): were rows shifted?"]
    soft = ~(_is_hard(values) | _is_hard(other))
    return [f"column {columns[k]!r} does not agree with that of {name} (rank correlation {diagonal[k]:.2f})"
            for k in rows if soft[k] and noise < 0.3 and diagonal[k] < 0.15]


def against_oof(columns: tuple[str, ...], values: np.ndarray, oof: np.ndarray, is_own: bool = True) -> list[str]:
    """Warnings from a comparison of the columns' distributions with those of the out-of-fold predictions (N, K).

    The mean of several models is less extreme than one model's predictions, and the test images may be of a somewhat
    different population: distances below 0.25, or that chance exceeds once in 10,000 times, give no warning.
    is_own: the oof predictions are of the models that made the file. Those of another network may be distributed
    differently: then only swapped or inverted columns give a warning, with a stricter limit. It finds 1,578 of 2,310
    swapped files of the demo's networks by another network's oof predictions, and warns of 8 of 462 valid ones.
    Source: Kolmogorov-Smirnov's critical value, sqrt(-ln(1e-4 / 2) / 2 (n + N) / (n N)).
    """
    chance = 2.225 * np.sqrt(1 / len(values) + 1 / len(oof))
    floor = max(MAX_DISTANCE, chance)
    distances = distribution_distances(values, oof)
    rows, places = linear_sum_assignment(distances)
    own = np.diag(distances)
    inverted = np.diag(distribution_distances(1 - values, oof))
    factor = 0.5 if is_own else 0.35
    warnings = []
    for k in np.flatnonzero(own > floor):
        message = f"column {columns[k]!r} is distributed unlike the held-out predictions (distance {own[k]:.2f} of 1)"
        if places[k] != k and distances[k, places[k]] < factor * own[k]:
            message += f", but like those of {columns[places[k]]!r}: were columns swapped?"
        elif inverted[k] < factor * own[k]:
            message += ", but like them if inverted: 1 - p?"
        elif not is_own:
            continue
        warnings.append(message)
    return warnings


def distribution_distances(values: np.ndarray, oof: np.ndarray) -> np.ndarray:
    """(K, L) distances, 0 to 1, between the distributions of the columns of values (n, K) and of oof (N, L).

    Kolmogorov-Smirnov's distance, reduced by shifts of up to a fifth of the oof's standard deviation, as in Lévy's
    metric: constant images get a fold's prior, which varies by fold, and a quarter of all images may be constant.
    """
    distances = np.empty((values.shape[1], oof.shape[1]))
    ours, theirs = np.sort(values, axis=0), np.sort(oof, axis=0)
    for j, slack in enumerate(oof.std(axis=0) / 5):
        for k in range(len(distances)):
            distances[k, j] = max(_excess(ours[:, k], theirs[:, j], slack), _excess(theirs[:, j], ours[:, k], slack))
    return distances


def _excess(lower: np.ndarray, other: np.ndarray, slack: float) -> float:
    """The largest difference of the share of `lower` up to a point to that of `other` up to the point plus `slack`."""
    shares = np.searchsorted(lower, lower, side="right") / len(lower)
    return float((shares - np.searchsorted(other, lower + slack, side="right") / len(other)).max())


def check_values(columns: tuple[str, ...], values: np.ndarray, oof: np.ndarray | None) -> tuple[list[str], list[str]]:
    """Errors and warnings about probabilities alone: hard, rounded, equal or repeated ones."""
    errors, warnings, count = [], [], len(values)
    if count >= MIN_IMAGES and np.isin(values, (0, 1)).all():
        message = "all values are 0 or 1, but the competition takes probabilities: the order of the images is lost"
        (errors if oof is not None and not np.isin(oof, (0, 1)).all() else warnings).append(message)
        return errors, warnings
    for k, column in enumerate(columns):
        if decimals := _decimals(values[:, k]):
            warnings.append(f"column {column!r} has {decimals} decimal{'s' * (decimals > 1)}: rounding makes "
                            "different images equal")
        if equal := [columns[j] for j in range(k) if count >= 3 and np.array_equal(values[:, j], values[:, k])]:
            warnings.append(f"column {column!r} is the same as {equal[0]!r} in every row")
    expected = 0.4 if oof is None else repeated_share(oof)
    if count >= MIN_IMAGES and (share := repeated_share(values)) > expected + 0.1 + 4 * np.sqrt(0.09 / count):
        warnings.append(f"{share:.0%} of the rows repeat an earlier row in every column" + (
            "" if oof is None else f", of the held-out predictions {expected:.0%}") + ": were images predicted twice?")
    return errors, warnings


def _decimals(values: np.ndarray) -> int:
    """The number of decimals, 1 to 3, if all values have so few and many are equal because of it; otherwise 0.

    The most frequent value is left out: constant images all get the same one.
    """
    found, counts = np.unique(values, return_counts=True)
    rest = values[values != found[counts.argmax()]]
    if len(rest) < MIN_IMAGES or len(found) - 1 > 0.8 * len(rest):
        return 0
    soft = rest[(rest > 0) & (rest < 1)]
    return next((d for d in (1, 2, 3) if len(soft) > len(rest) / 2 and np.allclose(soft, soft.round(d), atol=1e-9,
                                                                                 rtol=0)), 0)


def repeated_share(values: np.ndarray) -> float:
    """The share of rows (n, K) that are equal to an earlier one to six decimals."""
    return 1 - len(np.unique(values.round(6), axis=0)) / len(values)


def unfilled_rows(values: np.ndarray, sample: np.ndarray) -> list[str]:
    """Warnings: rows (n, K) that equal the sample submission's, if those are not 0 or 1."""
    is_placeholder = np.isfinite(sample).all(axis=1) & ~np.isin(sample, (0, 1)).all(axis=1)
    left = is_placeholder & (values == sample).all(axis=1)
    expected = 1e-4 * len(values) if values.shape[1] == 1 else 0  # one value may be 0.5 by chance
    if left.sum() <= expected:
        return []
    return [f"{left.sum()} of {len(values)} rows still have the sample's values: were they predicted?"]


def among_models(columns: tuple[str, ...], probs: np.ndarray, names: list[str]) -> list[str]:
    """Warnings about models of a run, probs (F, n, K), that order the images unlike the others or at another level.

    The models of 11 networks of the demo agree with the mean of the others at rank correlations of 0.83 to 0.96.
    """
    if len(probs) < 3 or probs.shape[1] < MIN_IMAGES:
        return []
    agreed = np.nan_to_num([mean_association(model, np.delete(probs, f, axis=0).mean(axis=0))
                            for f, model in enumerate(probs)])
    levels = probs.mean(axis=1)  # (F, K)
    warnings = []
    for f, name in enumerate(names):
        others = np.median(np.delete(agreed, f))
        apart = np.abs(levels[f] - np.median(levels, axis=0))
        if agreed[f] < others / 2:
            warnings.append(f"{name} orders the images unlike the others: rank correlation with their mean "
                            f"{agreed[f]:.2f}, of the others {others:.2f}; look at its log, or train that fold again")
        elif apart.max() > MAX_DISTANCE:
            warnings.append(f"{name} predicts {columns[apart.argmax()]!r} at another level: mean "
                            f"{levels[f, apart.argmax()]:.2f}, of the others "
                            f"{np.median(levels, axis=0)[apart.argmax()]:.2f}")
    return warnings
