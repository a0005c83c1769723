"""Leakage: what a score gains if duplicates, images of one patient or copies of a row are on both sides of a split."""

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
from scoring.metrics import f1_by_label, roc_auc, roc_auc_by_label

# Everywhere in this file:
#   features   (N, D) numbers, rows in the table's order
#   targets    (N, K) label cells; only 1 and 0 count, -1 and NaN are left out of scores
#   groups     (N,) str, patient joined with duplicates
RIDGE, WIDTH = 0.1, 1.5  # of the classifier, see _fit_predict
MOST_COPIES = 10
MOST_ROWS = 2000  # the classifier's time grows with their third power: seconds here, minutes at 5,000
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
    difference: float  # random - grouped: what the leak adds
    difference_interval: tuple[float, float]  # both on the same drawn groups
    by_label: pd.DataFrame  # label, positives, random, grouped, difference
    by_twin: pd.DataFrame  # see scores_by_twin


def sample_groups(groups: np.ndarray, most: int = MOST_ROWS, seed: int = 0) -> np.ndarray:
    """(n,) rows, ascending: all rows of groups drawn at random, as many as make up at most `most` rows.

    All rows where there are no more than that; at least one group.
    """
    if len(groups) <= most:
        return np.arange(len(groups))
    names, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fits = sizes[order].cumsum() <= most
    fits[0] = True
    return np.flatnonzero(np.isin(group_of_row, order[fits]))


def leakage_gap(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, labels: list[str],
                  twins: dict[str, np.ndarray] | None = None, n_folds: int = 5, seed: int = 0) -> LeakageGap:
    """The same classifier under random folds (`stratified_folds`) and under group folds (`grouped_folds`).

    twins: kind ("exact duplicate", "near duplicate", "same patient") -> (N,) str keys, equal where two rows are twins
    of that kind, "" if a row has none; by default {"same group": groups}. Thousands of rows take a minute: draw some
    with sample_groups.
    Raises ValueError if there are fewer groups than folds.
    """
    targets = _certain(targets)
    random_folds, group_folds = stratified_folds(targets, n_folds, seed), grouped_folds(targets, groups, n_folds, seed)
    probs = [predict_held_out(features, targets, folds) for folds in (random_folds, group_folds)]
    of_labels = [roc_auc_by_label(targets, p) for p in probs]
    by_label = pd.DataFrame({"label": labels, "positives": (targets == 1).sum(axis=0), "random": of_labels[0],
                             "grouped": of_labels[1], "difference": of_labels[0] - of_labels[1]})
    random, grouped = (roc_auc(targets, p, "multilabel") for p in probs)
    return LeakageGap(
        images=len(targets), groups=len(np.unique(groups)), n_folds=n_folds,
        random=random, random_interval=roc_auc_interval(targets, probs[0], groups, seed=seed),
        grouped=grouped, grouped_interval=roc_auc_interval(targets, probs[1], groups, seed=seed),
        difference=random - grouped,
        difference_interval=paired_roc_auc_interval(targets, probs[0], probs[1], groups, seed=seed),
        by_label=by_label,
        by_twin=scores_by_twin(targets, probs[0], probs[1], random_folds, twins or {"same group": groups}))


def _certain(targets: np.ndarray) -> np.ndarray:
    return np.where(np.isin(targets, (0, 1)), targets, np.nan)


def predict_held_out(features: np.ndarray, targets: np.ndarray, folds: np.ndarray,
                     copies: np.ndarray | None = None) -> np.ndarray:
    """(N, K) in [0, 1]: every row as a classifier predicts it that was fitted on the other folds' rows.

    copies (N,): how often a row counts in fitting.
    """
    probs = np.empty(targets.shape)
    for fold in np.unique(folds):
        held_out = folds == fold
        probs[held_out] = _fit_predict(features[~held_out], targets[~held_out], features[held_out],
                                       None if copies is None else copies[~held_out])
    return probs


def _fit_predict(features: np.ndarray, targets: np.ndarray, new_features: np.ndarray,
                 copies: np.ndarray | None = None) -> np.ndarray:
    """(n, K) in [0, 1]; copies (N,): how often a row counts.

    Kernel ridge regression to 0 and 1 with a Gaussian and hardly any ridge: it all but passes through every training
    cell, as a network that was trained for long does, and is fitted to all labels at once, in a fiftieth of the time
    of logistic regression, which pays a leak alike: on 1,000 X-rays of 264 patients, random folds against group folds,
    AUC 0.70 against 0.56; logistic regression 0.70 against 0.55.
    Unknown cells are set to the label's mean. Means and scales are those of the training rows.
    """
    scaler = StandardScaler().fit(features, sample_weight=copies)
    weights = np.ones(len(targets)) if copies is None else copies.astype(np.float64)
    known = ~np.isnan(targets)
    cells = np.maximum((known * weights[:, None]).sum(axis=0), 1e-9)
    means = (np.where(known, targets, 0) * weights[:, None]).sum(axis=0) / cells
    model = KernelRidge(kernel="rbf", alpha=RIDGE, gamma=1 / (2 * features.shape[1] * WIDTH**2))
    model.fit(scaler.transform(features), np.where(known, targets - means, 0), sample_weight=copies)
    return np.clip(model.predict(scaler.transform(new_features)) + means, 0, 1)


def has_twin_in_training(keys: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) bool: another row with the same key is in another fold; rows with the key "" have no twin."""
    rows = pd.DataFrame({"key": keys, "fold": folds})
    return ((rows.groupby("key")["fold"].transform("nunique") > 1) & (rows["key"] != "")).to_numpy()


def scores_by_twin(targets: np.ndarray, random_probs: np.ndarray, grouped_probs: np.ndarray, folds: np.ndarray,
                   twins: dict[str, np.ndarray]) -> pd.DataFrame:
    """Macro AUC of the rows that have a twin in training under the random folds, and of those that have none.

    One row a kind and side: kind, twin ("with", "without"), images, random (under the random folds), grouped (the
    same rows under folds where no row has one), difference. NaN where no label has both classes among the rows.
    """
    rows = []
    for kind, keys in twins.items():
        twin = has_twin_in_training(keys, folds)
        for side, chosen in (("with", twin), ("without", ~twin)):
            random, grouped = (roc_auc(targets[chosen], probs[chosen], "multilabel") if chosen.any() else math.nan
                               for probs in (random_probs, grouped_probs))
            rows.append((kind, side, int(chosen.sum()), random, grouped, random - grouped))
    return pd.DataFrame(rows, columns=["kind", "twin", "images", "random", "grouped", "difference"])


# ---- up-sampling before the split


def copies_of_rare(positives: np.ndarray) -> np.ndarray:
    """(K,) int, how often rows of each label are put in so that it comes near the commonest; at most MOST_COPIES."""
    return np.clip(np.rint(positives.max() / np.maximum(positives, 1)), 1, MOST_COPIES).astype(int)


def upsampling_mistake(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, labels: list[str],
                       n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """What copying rare labels' rows before the split does to F1 at 0.5, beside the same done right.

    A single label's absence ("no LABEL") is a class like the label itself, so that the rarer of the two is copied.
    Each fifth of the rows is the test part once, the decisions are put together. One row a label, and last the mean of
    those that are defined ("mean"):
      label, positives, copies     how often rows with the label were put in, so that it comes near the commonest; a
                                   row with several labels as often as the rarest of them
      false_f1                     rows copied, shuffled, split by row: copies of one row on both sides
      seen                         share of the false test part's positives whose very row stands in training too
      true_f1                      groups split first, rows copied in training only, tested on the rows as they are
      copied_test_f1               as true_f1, but tested on copied rows: what the higher prevalence alone adds
      plain_f1                     groups split, nothing copied
    Raises ValueError where there are fewer groups than folds.
    """
    targets = _certain(targets)
    if targets.shape[1] == 1:
        targets, labels = np.column_stack([targets, 1 - targets]), [labels[0], f"no {labels[0]}"]
    positives = (targets == 1).sum(axis=0)
    copies = copies_of_rare(positives)
    times = np.where(targets == 1, copies, 1).max(axis=1)
    false_f1, seen = _f1_of_copies(features, targets, times, n_folds, seed)
    folds = grouped_folds(targets, groups, n_folds, seed)
    decisions = (predict_held_out(features, targets, folds, times) >= 0.5).astype(np.int8)
    plain = (predict_held_out(features, targets, folds) >= 0.5).astype(np.int8)
    true_f1, copied_f1 = f1_by_label(targets, decisions), f1_by_label(targets, decisions, times)
    plain_f1 = f1_by_label(targets, plain)
    table = pd.DataFrame({"label": labels, "positives": positives, "copies": copies, "false_f1": false_f1,
                          "seen": seen, "true_f1": true_f1, "copied_test_f1": copied_f1, "plain_f1": plain_f1})
    return pd.concat([table, _mean_row(table)], ignore_index=True)


def _mean_row(table: pd.DataFrame) -> pd.DataFrame:
    scores = ["false_f1", "seen", "true_f1", "copied_test_f1", "plain_f1"]
    means = table[scores].mean()  # NaN is left out
    return pd.DataFrame([{"label": "mean", "positives": int(table["positives"].sum()), "copies": pd.NA} | dict(means)])


def _f1_of_copies(features: np.ndarray, targets: np.ndarray, times: np.ndarray, n_folds: int,
                  seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) F1 at 0.5 over all copies, shuffled and split by row, and (K,) share of their positives seen in training.

    A row that stands there n times and one that counts n times give the same ridge regression.
    """
    shuffled = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(targets)), times))
    rows, decisions, counts, seen = [], [], [], []
    for part in np.array_split(shuffled, n_folds):
        test = np.bincount(part, minlength=len(targets))
        fitted, tested = np.flatnonzero(times - test), np.flatnonzero(test)
        probs = _fit_predict(features[fitted], targets[fitted], features[tested], (times - test)[fitted])
        rows.append(tested)
        decisions.append((probs >= 0.5).astype(np.int8))
        counts.append(test[tested])
        seen.append((times > test)[tested])
    truth, counts = targets[np.concatenate(rows)], np.concatenate(counts)
    positive = (truth == 1) * counts[:, None]
    share = (positive * np.concatenate(seen)[:, None]).sum(axis=0) / np.maximum(positive.sum(axis=0), 1)
    return f1_by_label(truth, np.concatenate(decisions), counts), share


# ---- a split that somebody published


def split_overlaps(table: pd.DataFrame, parts: pd.Series) -> pd.DataFrame:
    """What the parts of a split share. `table` has one row an image AND part: an image in two parts stands twice.

    table: `image_id`, and where known `pixel_hash` and `group`, "" where an image has none;  parts: the part's name,
    row by row. One row for each ordered pair of parts: part, other, images (of part), same_id, same_pixels, same_group
    (how many of part's images have that id, those pixels, that group in the other part too), groups (how many groups
    the two share). Missing (pd.NA) where the table has no such column.
    Raises ValueError where there are fewer than two parts.
    """
    names = sorted(parts.unique())
    if len(names) < 2:
        raise ValueError(f"a split has two parts or more, not {', '.join(map(repr, names)) or 'none'}")
    rows = []
    for part, other in permutations(names, 2):
        of_part, of_other = table[(parts == part).to_numpy()], table[(parts == other).to_numpy()]
        shared = {column: _shared(of_part, of_other, column) for column in ("image_id", "pixel_hash", "group")}
        groups = of_part.loc[shared["group"], "group"].nunique() if "group" in table else pd.NA
        counts = [pd.NA if mask is None else int(mask.sum()) for mask in shared.values()]
        rows.append((part, other, len(of_part), *counts, groups))
    return pd.DataFrame(rows, columns=["part", "other", "images", "same_id", "same_pixels", "same_group", "groups"])


def _shared(of_part: pd.DataFrame, of_other: pd.DataFrame, column: str) -> pd.Series | None:
    if column not in of_part:
        return None
    return of_part[column].isin(of_other[column]) & (of_part[column] != "")


def match_split(split: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """A published split, the CSV as text, joined to the table; returns what split_overlaps takes.

    table: `image_id`, `path`, and what else is known, `group` and `pixel_hash`. The column of ids or file names is the
    one whose cells name most images: by id, by the end of the path, or by the file's name without its ending. The
    column of parts holds words like train and test, or is called split, part, fold, subset, usage or set.
    Rows whose image is not in the table, or which could be several, keep their own text as id, and "" elsewhere;
    `attrs["unmatched"]` of the first says how many these are.
    Raises ValueError, with the columns that there are, where one of the two is not found.
    """
    known = _names_of_images(table)
    matched = {column: split[column].str.replace("\\", "/").map(known) for column in split}
    found = {column: int(rows.notna().sum()) for column, rows in matched.items()}
    best = max(found, key=found.get, default=None)
    if best is None or not found[best]:
        raise ValueError(f"no column of the split names images of the table; there are {', '.join(split.columns)}, and "
                         f"an image is called {table['image_id'].iloc[0]!r}")
    part_column = _find_parts(split.drop(columns=best))
    rows = matched[best]
    here = rows.notna().to_numpy()
    joined = pd.DataFrame({"image_id": split[best].to_numpy()})
    for column in ("image_id", "group", "pixel_hash"):
        if column in table:
            values = np.where(here, "", joined["image_id"]) if column == "image_id" else np.full(len(split), "")
            values = values.astype(object)
            values[here] = table[column].to_numpy()[rows[here].astype(int)]
            joined[column] = values
    joined.attrs["unmatched"] = int((~here).sum())
    return joined, pd.Series(split[part_column].to_numpy(), name=part_column)


def _names_of_images(table: pd.DataFrame) -> dict[str, int]:
    """All names that mean one image alone -> its row: its id, the ends of its path, its file's name without ending."""
    names, several = {}, set()
    for row, path in enumerate(map(PurePosixPath, table["path"].str.replace("\\", "/"))):
        ends = {"/".join(path.parts[-count:]) for count in range(1, min(4, len(path.parts)) + 1)}
        for name in ends | {path.stem, str(path)}:
            if names.setdefault(name, row) != row:
                several.add(name)
    names = {name: row for name, row in names.items() if name not in several}
    return names | {image_id: row for row, image_id in enumerate(table["image_id"])}


def _find_parts(split: pd.DataFrame) -> str:
    by_value = [column for column in split if set(split[column].str.lower()) <= PART_WORDS]
    by_name = [column for column in split if PART_NAMES.search(column) and 2 <= split[column].nunique() <= 50]
    if not by_value + by_name:
        raise ValueError("the split has no column that says the part (train, test), or is called split, part, fold, "
                         f"subset, usage or set; beside the images' names there are "
                         f"{', '.join(split.columns) or 'none'}")
    return (by_value + by_name)[0]
