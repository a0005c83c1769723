"""Leakage: what a score gains if related images are on both sides of a split, and what the parts of a split share."""

import math
import re
from dataclasses import dataclass
from itertools import permutations
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import StandardScaler

from data.splitting import grouped_folds, stratified_folds
from scoring.confidence_intervals import paired_roc_auc_interval, roc_auc_interval
from scoring.metrics import f1_by_label, roc_auc

# Everywhere in this file:
#   features   (N, D) numbers, rows in the table's order
#   targets    (N, K) label cells; only 1 and 0 count, -1 and NaN are left out of scores
#   groups     (N,) str, patient joined with duplicates
RIDGE, WIDTH = 0.1, 1.5  # of the classifier, see _fit_predict
MAX_REPEATS = 10
MAX_ROWS = 2000  # the classifier's time grows with their third power: seconds here, minutes at 5,000
PART_WORDS = {"train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing", "holdout"}
PART_NAMES = re.compile(r"split|part|fold|subset|usage|(^|_)set($|_)", re.IGNORECASE)


@dataclass(frozen=True)
class LeakageGap:
    """Macro ROC AUC of one classifier under random image-level folds and under folds that keep groups whole."""

    images: int  # used
    groups: int
    n_folds: int
    random: float
    random_interval: tuple[float, float]  # 95 %, bootstrap over groups
    grouped: float
    grouped_interval: tuple[float, float]
    difference: float  # random - grouped
    difference_interval: tuple[float, float]  # paired: both on the same drawn groups
    by_relation: pd.DataFrame  # see scores_by_relation


def sample_groups(groups: np.ndarray, most: int = MAX_ROWS, seed: int = 0) -> np.ndarray:
    """(n,) rows, ascending, of groups drawn at random: at most `most` rows, but at least one group."""
    if len(groups) <= most:
        return np.arange(len(groups))
    names, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fits = sizes[order].cumsum() <= most
    fits[0] = True
    return np.flatnonzero(np.isin(group_of_row, order[fits]))


def leakage_gap(features: np.ndarray, targets: np.ndarray, groups: np.ndarray,
                related: dict[str, np.ndarray] | None = None, n_folds: int = 5, seed: int = 0) -> LeakageGap:
    """Scores the same classifier under random folds (`stratified_folds`) and under group folds (`grouped_folds`).

    related: relation ("exact duplicate", "same patient") -> (N,) str keys, equal for related images, "" for an image
    without any; by default {"same group": groups}. Thousands of rows take a minute: draw some with sample_groups.
    Raises ValueError if there are fewer groups than folds.
    """
    targets = _certain(targets)
    random_folds, group_folds = stratified_folds(targets, n_folds, seed), grouped_folds(targets, groups, n_folds, seed)
    probs = [predict_held_out(features, targets, folds) for folds in (random_folds, group_folds)]
    random, grouped = (roc_auc(targets, p, "multilabel") for p in probs)
    return LeakageGap(
        images=len(targets), groups=len(np.unique(groups)), n_folds=n_folds,
        random=random, random_interval=roc_auc_interval(targets, probs[0], groups, seed=seed),
        grouped=grouped, grouped_interval=roc_auc_interval(targets, probs[1], groups, seed=seed),
        difference=random - grouped,
        difference_interval=paired_roc_auc_interval(targets, probs[0], probs[1], groups, seed=seed),
        by_relation=scores_by_relation(targets, *probs, random_folds, related or {"same group": groups}))


def _certain(targets: np.ndarray) -> np.ndarray:
    return np.where(np.isin(targets, (0, 1)), targets, np.nan)


def predict_held_out(features: np.ndarray, targets: np.ndarray, folds: np.ndarray,
                     repeats: np.ndarray | None = None) -> np.ndarray:
    """(N, K) in [0, 1]: out-of-fold predictions. repeats: (N,), the weight of each row in fitting."""
    probs, repeats = np.empty(targets.shape), np.ones(len(targets), int) if repeats is None else repeats
    for fold in np.unique(folds):
        held_out = folds == fold
        probs[held_out] = _fit_predict(features[~held_out], targets[~held_out], features[held_out],
                                       repeats[~held_out])
    return probs


def _fit_predict(features: np.ndarray, targets: np.ndarray, new_features: np.ndarray,
                 repeats: np.ndarray) -> np.ndarray:
    """(n, K) in [0, 1]; repeats (N,): the weight of each row, for the scaling too.

    Kernel ridge regression to 0 and 1 with a Gaussian kernel and a small penalty: it nearly interpolates the training
    labels, as a network does that was trained for long. It fits all labels at once in a fiftieth of the time of
    logistic regression, with the same gap: on 1,000 X-rays of 264 patients, random folds against group folds, AUC 0.70
    against 0.56; logistic regression 0.70 against 0.55. Unknown cells are set to the label's mean.
    """
    scaler, known = StandardScaler().fit(features, sample_weight=repeats), ~np.isnan(targets)
    cells = np.maximum((known * repeats[:, None]).sum(axis=0), 1e-9)
    means = (np.where(known, targets, 0) * repeats[:, None]).sum(axis=0) / cells
    model = KernelRidge(kernel="rbf", alpha=RIDGE, gamma=1 / (2 * features.shape[1] * WIDTH**2))
    model.fit(scaler.transform(features), np.where(known, targets - means, 0), sample_weight=repeats)
    return np.clip(model.predict(scaler.transform(new_features)) + means, 0, 1)


def has_related_in_training(keys: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) bool: True if another row with the same key is in another fold; the key "" has no related rows."""
    rows = pd.DataFrame({"key": keys, "fold": folds})
    return ((rows.groupby("key")["fold"].transform("nunique") > 1) & (rows["key"] != "")).to_numpy()


def scores_by_relation(targets: np.ndarray, random_probs: np.ndarray, grouped_probs: np.ndarray, folds: np.ndarray,
                       related: dict[str, np.ndarray]) -> pd.DataFrame:
    """Macro AUC of the images that have a related image in the random folds' training part, and of the others.

    One row for each relation and `in_training` (True, False): images, random (under the random folds), grouped (the
    same images under group folds), difference; NaN if no label has both classes among these images.
    """
    rows = []
    for relation, keys in related.items():
        found = has_related_in_training(keys, folds)
        for in_training, chosen in ((True, found), (False, ~found)):
            random, grouped = (roc_auc(targets[chosen], probs[chosen], "multilabel") if chosen.any() else math.nan
                               for probs in (random_probs, grouped_probs))
            rows.append((relation, in_training, int(chosen.sum()), random, grouped, random - grouped))
    return pd.DataFrame(rows, columns=["relation", "in_training", "images", "random", "grouped", "difference"])


# ---- oversampling before the split


def balancing_repeats(positives: np.ndarray) -> np.ndarray:
    """(K,) int, 1 to 10: how often to repeat each label's images so that it is about as frequent as the commonest."""
    return np.clip(np.rint(positives.max() / np.maximum(positives, 1)), 1, MAX_REPEATS).astype(int)


def oversampling_before_split(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, labels: list[str],
                              n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """F1 at 0.5 if images of rare labels are repeated before the split, and if they are repeated after it.

    In a task of one label its absence ("no LABEL") counts as a class too, so the rarer of the two is repeated. An image
    with several labels is repeated as often as the rarest. Decisions of all folds are pooled. One row a label, and last
    the mean over the labels ("mean"):
      label, positives, repeats
      f1_before   repeated, shuffled, split by row: repeats of one image are on both sides
      seen        share of the positives in these held-out folds whose image is in training too
      f1_after    groups split first, images repeated in training only, tested on the images as they are
      f1_without  groups split, nothing repeated
    Raises ValueError if there are fewer groups than folds.
    """
    targets = _certain(targets)
    if targets.shape[1] == 1:
        targets, labels = np.column_stack([targets, 1 - targets]), [labels[0], f"no {labels[0]}"]
    positives = (targets == 1).sum(axis=0)
    by_label = balancing_repeats(positives)
    repeats = np.where(targets == 1, by_label, 1).max(axis=1)
    before, seen = _f1_of_repeated(features, targets, repeats, n_folds, seed)
    folds = grouped_folds(targets, groups, n_folds, seed)
    after, without = (f1_by_label(targets, (predict_held_out(features, targets, folds, weights) >= 0.5).astype(np.int8))
                      for weights in (repeats, None))
    table = pd.DataFrame({"label": labels, "positives": positives, "repeats": by_label, "f1_before": before,
                          "seen": seen, "f1_after": after, "f1_without": without})
    means = {"label": "mean", "positives": int(positives.sum()), "repeats": pd.NA} | dict(table.iloc[:, 3:].mean())
    return pd.concat([table, pd.DataFrame([means])], ignore_index=True)


def _f1_of_repeated(features: np.ndarray, targets: np.ndarray, repeats: np.ndarray, n_folds: int,
                    seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) F1 at 0.5 over all repeats, shuffled and split by row, and (K,) share of their positives seen in training.

    Rows are weighted instead of repeated, which gives the same ridge regression.
    """
    shuffled = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(targets)), repeats))
    rows, decisions, counts, seen = [], [], [], []
    for part in np.array_split(shuffled, n_folds):
        test = np.bincount(part, minlength=len(targets))
        fitted, tested = np.flatnonzero(repeats - test), np.flatnonzero(test)
        probs = _fit_predict(features[fitted], targets[fitted], features[tested], (repeats - test)[fitted])
        rows.append(tested)
        decisions.append((probs >= 0.5).astype(np.int8))
        counts.append(test[tested])
        seen.append((repeats > test)[tested])
    truth, counts = targets[np.concatenate(rows)], np.concatenate(counts)
    positive = (truth == 1) * counts[:, None]
    share = (positive * np.concatenate(seen)[:, None]).sum(axis=0) / np.maximum(positive.sum(axis=0), 1)
    return f1_by_label(truth, np.concatenate(decisions), counts), share


# ---- a published split


def split_overlaps(table: pd.DataFrame, parts: pd.Series) -> pd.DataFrame:
    """Counts what the parts of a split share. `table` has one row for each image and part.

    table: `image_id`, and where known `pixel_hash` and `group`, "" if an image has none;  parts: the part of each row.
    One row for each ordered pair of parts: part, other, images (of part), same_id, same_pixels, same_group (images of
    part whose id, pixels or group are also in the other part), groups (shared). pd.NA if the table has no such column.
    Raises ValueError if there are fewer than two parts.
    """
    names = sorted(parts.unique())
    if len(names) < 2:
        raise ValueError(f"a split has two parts or more, not {', '.join(map(repr, names)) or 'none'}")
    rows = []
    for part, other in permutations(names, 2):
        of_part, of_other = table[(parts == part).to_numpy()], table[(parts == other).to_numpy()]
        shared = {column: of_part[column].isin(of_other[column]) & (of_part[column] != "")
                  for column in ("image_id", "pixel_hash", "group") if column in table}
        counts = [int(shared[column].sum()) if column in shared else pd.NA
                  for column in ("image_id", "pixel_hash", "group")]
        groups = of_part.loc[shared["group"], "group"].nunique() if "group" in table else pd.NA
        rows.append((part, other, len(of_part), *counts, groups))
    return pd.DataFrame(rows, columns=["part", "other", "images", "same_id", "same_pixels", "same_group", "groups"])


def match_split(split: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Joins a published split, a CSV read as text, to the table; returns the arguments of split_overlaps.

    table: `image_id`, `path`, and where known `group` and `pixel_hash`. The column of images is the one whose cells
    name most images: by id, by the end of the path, or by the file's name without its ending. The column of parts has
    words like train and test, or is called split, part, fold, subset, usage or set.
    Rows whose image is missing from the table or ambiguous keep their own text as id, and "" elsewhere;
    `attrs["unmatched"]` of the first result is their number.
    Raises ValueError, with the names of the columns, if one of the two columns is not found.
    """
    known = _names_of_images(table)
    matched = {column: split[column].str.replace("\\", "/").map(known) for column in split}
    best = max(matched, key=lambda column: matched[column].notna().sum(), default=None)
    if best is None or matched[best].isna().all():
        raise ValueError(f"no column of the split names images of the table; there are {', '.join(split.columns)}, and "
                         f"an image is called {table['image_id'].iloc[0]!r}")
    rows = matched[best]
    columns = [column for column in ("image_id", "group", "pixel_hash") if column in table]
    joined = table[columns].reindex(rows).reset_index(drop=True)
    joined["image_id"] = joined["image_id"].fillna(split[best].reset_index(drop=True))
    joined = joined.fillna("")
    joined.attrs["unmatched"] = int(rows.isna().sum())
    part_column = _find_parts(split.drop(columns=best))
    return joined, pd.Series(split[part_column].to_numpy(), name=part_column)


def _names_of_images(table: pd.DataFrame) -> dict[str, int]:
    """Names that mean one image only -> its row: its id, the ends of its path, its file's name without ending."""
    names, ambiguous = {}, set()
    for row, path in enumerate(map(PurePosixPath, table["path"].str.replace("\\", "/"))):
        ends = {"/".join(path.parts[-count:]) for count in range(1, min(4, len(path.parts)) + 1)}
        for name in ends | {path.stem, str(path)}:
            if names.setdefault(name, row) != row:
                ambiguous.add(name)
    names = {name: row for name, row in names.items() if name not in ambiguous}
    return names | {image_id: row for row, image_id in enumerate(table["image_id"])}


def _find_parts(split: pd.DataFrame) -> str:
    by_value = [column for column in split if set(split[column].str.lower()) <= PART_WORDS]
    by_name = [column for column in split if PART_NAMES.search(column) and 2 <= split[column].nunique() <= 50]
    if not by_value + by_name:
        raise ValueError("the split has no column of parts: one with words like train and test, or called split, part, "
                         "fold, subset, usage or set; besides the images' names there are "
                         f"{', '.join(split.columns) or 'none'}")
    return (by_value + by_name)[0]
