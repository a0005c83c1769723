"""The arithmetic of splitting: groups joined, dealt whole to folds that are even in every label, and checked."""

from dataclasses import dataclass

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Everywhere in this file targets are (N, K) label cells: 1, 0, -1 (uncertain) or NaN (blank).
MAX_ROUNDS = 100  # of dealing all groups; more gained nothing on real tables
DEALS = 200_000  # of one group to one fold, in all rounds together: a second or two


def join_groups(patients: np.ndarray, duplicates: np.ndarray) -> np.ndarray:
    """(N,) str: rows that share a patient or a duplicate key, or are linked through others that do, share a group.

    A group is called by the smallest of its patients' names, whatever the order of rows. The duplicate key "" joins
    nothing. Every row must have a patient (where none is known: its own image_id).
    """
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    keys, key = np.unique(np.asarray(duplicates, dtype=str), return_inverse=True)
    linked = keys[key] != ""
    # patients and keys are the nodes of one graph, a row is an edge between its patient and its key
    nodes = len(names) + len(keys)
    edges = coo_array((np.ones(linked.sum()), (patient[linked], len(names) + key[linked])), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    # names are ascending, so the first patient of a component is the smallest
    _, first, group = np.unique(component[: len(names)], return_index=True, return_inverse=True)
    return names[first[group]][patient]


def stratified_folds(targets: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """(N,) fold of every row, 0-based, each label's positive, uncertain and blank cells spread evenly; no groups.

    A function of seed and the order of rows. Raises ValueError where there are fewer rows than folds.
    Source: Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10
    """
    _check_count(len(targets), n_folds, "images")
    marks = _marks(targets)
    if marks.shape[1] == 1:  # the stratifier takes two columns or more
        marks = np.hstack([marks, 1 - marks])
    folds = np.empty(len(targets), dtype=np.int64)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros((len(targets), 1)), marks)):
        folds[held_out] = fold
    return folds


def grouped_folds(targets: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """(N,) fold of every row, 0-based: whole groups, folds alike in size and in every label's marks as far as can be.

    Groups are dealt one after the other, those with the largest shares of labels first, each to the fold that so far
    has least of what the group brings. The order is shaken by `seed`, and the most even of several rounds is taken.
    A function of seed and of which rows are in which group, not of the order of rows. No fold is empty.
    Raises ValueError where there are fewer groups than folds.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    _check_count(len(names), n_folds, "groups")
    marks = np.hstack([_marks(targets), np.ones((len(targets), 1), dtype=np.int64)])
    counts = np.zeros((len(names), marks.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of_row, marks)

    rng = np.random.default_rng(seed)
    rounds = min(MAX_ROUNDS, max(1, DEALS // len(names)))
    folds, _ = min((_deal(counts, n_folds, rng) for _ in range(rounds)), key=lambda dealt: dealt[1])
    return folds[group_of_row]


def _deal(counts: np.ndarray, n_folds: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One round for groups with counts (G, C): the fold of every group (G,), and how uneven the folds became."""
    totals = np.maximum(counts.sum(axis=0), 1)
    # Unevenness is the sum over folds and columns of (count / total)^2, which is least where all folds are alike.
    # In whole numbers, so that a tie is a tie on every machine; below 2^50 a column, so that no sum overflows.
    worth = np.maximum(2**50 // totals**2, 1)
    dealt = np.zeros((n_folds, counts.shape[1]), dtype=np.int64)
    folds = np.empty(len(counts), dtype=np.int64)
    largest_first = -(counts / totals).sum(axis=1) * rng.uniform(0.5, 1.5, len(counts))
    for group in largest_first.argsort(kind="stable"):
        fold = (dealt @ (counts[group] * worth)).argmin()  # the fold where unevenness grows least
        dealt[fold] += counts[group]
        folds[group] = fold
    return folds, int((dealt**2 * worth).sum())


def check_groups(groups: np.ndarray, folds: np.ndarray) -> None:
    """Raises ValueError, naming the first of them and their number, where groups straddle folds."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    a_fold = np.empty(len(names), dtype=np.asarray(folds).dtype)
    a_fold[group_of_row] = folds
    split = np.unique(group_of_row[a_fold[group_of_row] != folds])
    if len(split):
        shown = ", ".join(str(name) for name in names[split[:5]]) + (", ..." if len(split) > 5 else "")
        raise ValueError(f"{len(split)} of {len(names)} groups have images in more than one fold: {shown}")


@dataclass(frozen=True)
class FoldReport:
    """What stands in each of F folds, and how even they are."""

    images: np.ndarray  # (F,)
    groups: np.ndarray  # (F,)
    positives: np.ndarray  # (F, K)
    deviation: np.ndarray  # (K,) of a label's share in a fold from 1 / F, relative, the largest; NaN without positives
    unavoidable: np.ndarray  # (K,) the deviation that the group with most of the label's positives forces by itself
    too_rare: np.ndarray  # (K,) bool: fewer groups with a positive than folds, so some fold has none

    @property
    def largest_deviation(self) -> float:
        """Of the labels that are not too rare; NaN where there is none."""
        return float(self.deviation[~self.too_rare].max()) if not self.too_rare.all() else float("nan")


def fold_report(targets: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> FoldReport:
    """Images, groups and positives of every fold, 0 to the largest, and how far each label is from an even spread."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    n_folds = int(folds.max()) + 1
    positive = (targets == 1).astype(np.int64)
    by_fold = np.zeros((n_folds, targets.shape[1]), dtype=np.int64)
    np.add.at(by_fold, folds, positive)
    by_group = np.zeros((len(names), targets.shape[1]), dtype=np.int64)
    np.add.at(by_group, group_of_row, positive)
    group_in_fold = np.unique(np.stack([folds, group_of_row]), axis=1)[0]

    total = np.where(by_fold.sum(axis=0) > 0, by_fold.sum(axis=0), np.nan)
    return FoldReport(
        images=np.bincount(folds, minlength=n_folds),
        groups=np.bincount(group_in_fold, minlength=n_folds),
        positives=by_fold,
        deviation=np.abs(by_fold / total * n_folds - 1).max(axis=0),
        unavoidable=np.maximum(by_group.max(axis=0) / total * n_folds - 1, 0),
        too_rare=(by_group > 0).sum(axis=0) < n_folds,
    )


def _check_count(count: int, n_folds: int, what: str) -> None:
    if n_folds < 2:
        raise ValueError(f"{n_folds} folds cannot be held out in turn; ask for 2 or more")
    if count < n_folds:
        raise ValueError(f"{count} {what} cannot fill {n_folds} folds; ask for at most {count}")


def _marks(targets: np.ndarray) -> np.ndarray:
    """(N, C) of 0 and 1: which cells are positive, then, for labels that have such, which are uncertain and blank."""
    uncertain, blank = targets == -1, np.isnan(targets)
    columns = [targets == 1, uncertain[:, uncertain.any(axis=0)], blank[:, blank.any(axis=0)]]
    return np.hstack(columns).astype(np.int64)
