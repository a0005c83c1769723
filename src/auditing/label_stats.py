"""Statistics of labels: counts, combinations, correlations, rare labels, mean images. Arrays only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.settings import Value
from data.labels import IGNORE, training_targets
from training.sampling import expected_counts, positive_labels

# Everywhere in this file:
#   cells      (N, K) label cells: 1, 0, -1 (uncertain) or NaN (blank)
#   groups     (N,) str, the patient
#   certain    is a cell that is 1 or 0

BLOCK = 1024  # images read at once
FEW_POSITIVES = 100


def count_cells(cells: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """One row a label: `label`, the numbers of its cells `present`, `absent`, `uncertain`, `blank`, and `prevalence`.

    Prevalence is the share of positives among certain cells, in [0, 1]; NaN where there are none.
    """
    counts = {"present": cells == 1, "absent": cells == 0, "uncertain": cells == -1, "blank": np.isnan(cells)}
    frame = pd.DataFrame({"label": labels} | {name: found.sum(axis=0) for name, found in counts.items()})
    return frame.assign(prevalence=_prevalence(frame["present"], frame["absent"]))


def _prevalence(present: pd.Series, absent: pd.Series) -> np.ndarray:
    certain = (present + absent).to_numpy(float)
    return np.divide(present, certain, out=np.full(len(certain), np.nan), where=certain > 0)


def count_findings(cells: np.ndarray) -> np.ndarray:
    """(K + 1,) int: images with no label present, with one, two and so on. Only certain ones count as present."""
    return np.bincount((cells == 1).sum(axis=1), minlength=cells.shape[1] + 1)


def count_combinations(cells: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """Labels present together: `combination` ("A + B", "none"), `images`, `share`; the most frequent first."""
    patterns, counts = np.unique(cells == 1, axis=0, return_counts=True)
    names = [" + ".join(label for label, there in zip(labels, pattern, strict=True) if there) or "none"
             for pattern in patterns]
    frame = pd.DataFrame({"combination": names, "images": counts, "share": counts / max(1, len(cells))})
    return frame.sort_values(["images", "combination"], ascending=[False, True], ignore_index=True)


def top_combinations(combinations: pd.DataFrame, most: int = 9) -> pd.DataFrame:
    """The `most` frequent rows of count_combinations, and one row of all others together, where there are any."""
    top, rest = combinations.iloc[:most], combinations.iloc[most:]
    if rest.empty:
        return top
    other = {"combination": f"{len(rest):,} other", "images": rest["images"].sum(), "share": rest["share"].sum()}
    return pd.concat([top, pd.DataFrame([other])], ignore_index=True)


def phi_matrix(cells: np.ndarray) -> np.ndarray:
    """(K, K) phi coefficients, -1 to 1, each over the images where both labels are certain; NaN where one is constant.

    Phi is Pearson's correlation of two variables that are 0 or 1.
    Source: Yule 1912, https://doi.org/10.2307/2340126
    """
    present, certain = (cells == 1).astype(float), np.isin(cells, (0, 1)).astype(float)
    n, both = certain.T @ certain, present.T @ present
    first, second = present.T @ certain, certain.T @ present  # positives of the row's, of the column's label
    product = first * (n - first) * second * (n - second)
    return np.divide(n * both - first * second, np.sqrt(product), out=np.full(n.shape, np.nan), where=product > 0)


def count_shown(cells: np.ndarray, labels: list[str], task: str, copies: np.ndarray) -> dict[str, pd.DataFrame]:
    """Expected label counts of an epoch under each sampler of an experiment: sampler -> one row a label.

    Each has `label`, `present`, `absent` (images shown on average, repeated ones counted), `prevalence` (of present
    among both) and `images` (the epoch's length); last the images without a positive label, where there can be any.
    cells: (N, K) of the training images;  copies: (K,) for the sampler "label_repeats", which is left out if none is
    above 1. Uncertain and blank cells are left out, as experiments do by default, and so are images without any other
    cell; {} if no image is left.
    """
    ignored = [Value("ignore", "ignore", IGNORE, ())] * len(labels)
    targets = training_targets(cells, ignored, ignored, np.ones(len(cells), bool), exclusive=task == "multiclass")
    targets = targets[~np.isnan(targets).all(axis=1)]
    if not len(targets):
        return {}
    shown, none = {}, f"no {labels[0]}" if len(labels) == 1 else "no label"
    for sampler in ("natural", "square_root", "balanced", *(["label_repeats"] if (copies > 1).any() else [])):
        expected = expected_counts(sampler, targets, task, copies)
        present, absent = (expected @ (targets == kind) for kind in (1, 0))
        frame = pd.DataFrame({"label": labels, "present": present, "absent": absent})
        if task != "multiclass":
            without = expected @ ~positive_labels(targets, task).any(axis=1)
            frame.loc[len(frame)] = [none, without, expected.sum() - without]
        shown[sampler] = frame.assign(prevalence=_prevalence(frame["present"], frame["absent"]), images=expected.sum())
    return shown


def find_nested(cells: np.ndarray, labels: list[str], fewest: int = 20) -> list[tuple[str, str]]:
    """Pairs (A, B) in which every image with A also has B, as far as both are certain, most images first.

    A needs `fewest` positive images, and some image must not have B. If A and B always occur together, only one order
    is returned.
    """
    present, certain = (cells == 1).astype(float), np.isin(cells, (0, 1)).astype(float)
    seen, both = present.T @ certain, present.T @ present
    some_without = ((cells == 0).sum(axis=0) > 0)
    nested = (seen >= fewest) & (both == seen) & some_without[None, :]
    pairs = [(a, b) for a, b in zip(*np.nonzero(nested), strict=True) if a != b and not (nested[b, a] and b < a)]
    return [(labels[a], labels[b]) for a, b in sorted(pairs, key=lambda pair: -seen[pair])]


def find_rare(cells: np.ndarray, groups: np.ndarray, labels: list[str], n_folds: int,
              fewest: int = FEW_POSITIVES) -> pd.DataFrame:
    """Labels with fewer than `fewest` positives, or present or absent in fewer groups than there are folds.

    One row a label: `label`, `positives`, `groups` (with a positive), `groups_without` (with a certain negative),
    `too_rare` (not every fold can have both).
    """
    rows = []
    for k, label in enumerate(labels):
        positives = int((cells[:, k] == 1).sum())
        with_it, without = (len(np.unique(groups[cells[:, k] == kind])) for kind in (1, 0))
        if positives < fewest or min(with_it, without) < n_folds:
            rows.append((label, positives, with_it, without, min(with_it, without) < n_folds))
    return pd.DataFrame(rows, columns=["label", "positives", "groups", "groups_without", "too_rare"])


def images_per_group(groups: np.ndarray) -> pd.DataFrame:
    """`images` (1, 2, ...) and `groups`: how many groups have that many images; only numbers that occur."""
    _, sizes = np.unique(groups, return_counts=True)
    images, counts = np.unique(sizes, return_counts=True)
    return pd.DataFrame({"images": images, "groups": counts})


@dataclass(frozen=True)
class MeanImages:
    """Mean thumbnails of the images with and without each label, float (K, H, W) 0 to 255; NaN where there are none."""

    present: np.ndarray
    absent: np.ndarray
    present_count: np.ndarray  # (K,) int
    absent_count: np.ndarray


def mean_images(thumbnails: np.ndarray, cells: np.ndarray, use: np.ndarray) -> MeanImages:
    """Mean thumbnails with and without each label, read in blocks.

    thumbnails: (N, H, W) uint8, may be memory-mapped;  use: (N,) bool, False for unreadable and constant images.
    """
    sides, labels = thumbnails.shape[1:], cells.shape[1]
    sums = {kind: np.zeros((labels, sides[0] * sides[1])) for kind in (1, 0)}
    counts = {kind: np.zeros(labels, int) for kind in (1, 0)}
    for first in range(0, len(thumbnails), BLOCK):
        rows = slice(first, first + BLOCK)
        images = np.asarray(thumbnails[rows]).reshape(-1, sides[0] * sides[1]).astype(np.float64)
        for kind in (1, 0):
            chosen = (cells[rows] == kind) & use[rows, None]
            sums[kind] += chosen.T.astype(np.float64) @ images
            counts[kind] += chosen.sum(axis=0)
    means = {kind: np.divide(sums[kind], counts[kind][:, None], out=np.full(sums[kind].shape, np.nan),
                             where=counts[kind][:, None] > 0).reshape(labels, *sides) for kind in (1, 0)}
    return MeanImages(means[1], means[0], counts[1], counts[0])


def pool_statistics(means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all pixels of N images from each image's own; images have equal weight.

    means, stds: (N,) or (N, C). Returns two arrays () or (C,); NaN where there is no image.
    """
    if not len(means):
        nothing = np.full(means.shape[1:], np.nan)
        return nothing, nothing
    means, stds = np.asarray(means, np.float64), np.asarray(stds, np.float64)
    mean = means.mean(axis=0)
    return mean, np.sqrt((stds**2 + (means - mean) ** 2).mean(axis=0))


def rates_by_category(cells: np.ndarray, categories: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The categories (C,), the prevalence of each label in each (C, K), NaN without certain cells, and the images (C,).

    categories: (N,) str, "" counts as a category of its own.
    """
    names, number = np.unique(categories, return_inverse=True)
    rates = np.full((len(names), cells.shape[1]), np.nan)
    for c in range(len(names)):
        here = cells[number == c]
        certain = np.isin(here, (0, 1)).sum(axis=0)
        rates[c] = np.divide((here == 1).sum(axis=0), certain, out=rates[c], where=certain > 0)
    return names.tolist(), rates, np.bincount(number, minlength=len(names))
