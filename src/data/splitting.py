"""Splits images into folds: joins groups, keeps them whole, balances labels over the folds, and checks the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.metadata import to_numbers

# Everywhere in this file targets are (N, K) label cells: 1, 0, -1 (uncertain) or NaN (blank).
MAX_ROUNDS = 100  # of assigning all groups; more rounds gained nothing on real tables
MAX_ASSIGNMENTS = 200_000  # of one group to one fold, in all rounds together: one or two seconds
TOLERANCE, TOLERATED_IMAGES = 0.02, 2  # see FoldReport.uneven
LABEL_WEIGHT = 64  # one label weighs as much as so many strata: fewer, and small tables lose even sizes to strata
BINS = 5  # of a column of numbers, each with as many rows
RARE_STRATUM = 0.01  # share of rows below which a text is put together with the other rare ones
HOLDOUT_SHARES = (0.01, 0.9)


def join_groups(patients: np.ndarray, duplicates: np.ndarray) -> np.ndarray:
    """Groups (N,) str: rows with the same patient or the same duplicate key, directly or through other rows.

    patients: (N,), never empty; where no patient is known, the row's own image_id.  duplicates: (N,) keys; "" joins
    nothing. A group has the name of its alphabetically first patient, whatever the order of rows.
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
    """The fold (N,) of every row, from 0, with each label's positive, uncertain and blank cells spread evenly.

    Knows no groups. The result depends on the seed and the order of rows.
    Raises ValueError where there are fewer rows than folds.
    Source: Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10
    """
    _check_count(len(targets), n_folds, "images")
    indicators = _indicators(targets)
    if indicators.shape[1] == 1:  # the stratifier takes two columns or more
        indicators = np.hstack([indicators, 1 - indicators])
    folds = np.empty(len(targets), dtype=np.int64)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros((len(targets), 1)), indicators)):
        folds[held_out] = fold
    return folds


def grouped_folds(targets: np.ndarray, groups: np.ndarray, n_folds: int, seed: int,
                  strata: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The fold (N,) of every row, from 0, with whole groups and folds as even as possible in size and in every label.

    targets: (N, K) label cells;  groups: (N,);  strata: columns (N,) of integers from 0, each value of which should be
    equally frequent in every fold. Labels have priority: one label weighs as much as LABEL_WEIGHT strata.
    Groups are assigned one by one, those with the largest shares of labels first, each to the fold that has least of
    what the group holds. The seed perturbs the order, and the most even of several rounds is returned. The result
    depends on the seed and on which rows share a group, not on the order of rows. No fold is empty.
    Raises ValueError where there are fewer groups than folds.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    _check_count(len(names), n_folds, "groups")
    return _best_assignment(targets, group_of_row, np.ones(n_folds, dtype=np.int64), seed, strata)


def holdout_mask(targets: np.ndarray, groups: np.ndarray, share: float, n_folds: int, seed: int,
                 strata: Sequence[np.ndarray] = ()) -> np.ndarray:
    """True (N,) for the rows held out of all folds: whole groups, with `share` of the rows and of every label's cells.

    share: rounded to the nearest fraction with a denominator of at most 100. Groups are assigned as in `grouped_folds`.
    Raises ValueError where the share is not in HOLDOUT_SHARES, or fewer than `n_folds` groups or none is on a side.
    """
    if not HOLDOUT_SHARES[0] <= share <= HOLDOUT_SHARES[1]:
        raise ValueError(f"a holdout of {share:g} of the images; it must be between {HOLDOUT_SHARES[0]} and "
                         f"{HOLDOUT_SHARES[1]}")
    parts = Fraction(share).limit_denominator(100)
    shares = np.array([parts.denominator - parts.numerator, parts.numerator], dtype=np.int64)
    names, group_of_row = np.unique(groups, return_inverse=True)
    held_out = _best_assignment(targets, group_of_row, shares, seed, strata) == 1
    kept = len(np.unique(group_of_row[~held_out]))
    if kept < n_folds or not held_out.any():
        raise ValueError(f"{len(names)} groups cannot fill {n_folds} folds and a holdout of {share:g}; ask for fewer "
                         "folds, another holdout or none")
    return held_out


def split_seed(seed: int, split: int) -> int:
    """The seed of a further split: `seed` itself for split 0, else 32 bits of numpy's SeedSequence([seed, split])."""
    return seed if split == 0 else int(np.random.SeedSequence([seed, split]).generate_state(1)[0])


def _best_assignment(targets: np.ndarray, group_of_row: np.ndarray, shares: np.ndarray, seed: int,
                     strata: Sequence[np.ndarray]) -> np.ndarray:
    """The part (N,) of every row, for parts with these shares: the most even of several rounds."""
    of_strata = [np.eye(codes.max() + 1, dtype=np.int64)[codes] for codes in strata]
    indicators = np.hstack([_indicators(targets), np.ones((len(targets), 1), dtype=np.int64), *of_strata])
    counts = np.zeros((group_of_row.max() + 1, indicators.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of_row, indicators)
    divisors = np.ones(counts.shape[1], dtype=np.int64)
    divisors[len(divisors) - sum(codes.shape[1] for codes in of_strata):] = LABEL_WEIGHT

    rng = np.random.default_rng(seed)
    rounds = min(MAX_ROUNDS, max(1, MAX_ASSIGNMENTS // len(counts)))
    folds, _ = min((_assign_groups(counts, shares, divisors, rng) for _ in range(rounds)), key=lambda result: result[1])
    return folds[group_of_row]


def _assign_groups(counts: np.ndarray, shares: np.ndarray, divisors: np.ndarray,
                   rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One round for groups with counts (G, C): the fold of every group (G,), and how uneven the folds are.

    shares: (F,) integers, the share of everything that each fold should have;  divisors: (C,) integers that divide the
    weight of a column.
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    # Unevenness is the sum over folds and columns of (count / total)^2 / share, least where all have their shares.
    # In whole numbers, so that a tie is a tie on every machine; below 2^50 a column, so that no sum overflows.
    weight = np.maximum(2**50 // totals**2 // divisors, 1)
    assigned = np.zeros((len(shares), counts.shape[1]), dtype=np.int64)
    folds = np.empty(len(counts), dtype=np.int64)
    largest_first = -(counts / totals / divisors).sum(axis=1) * rng.uniform(0.5, 1.5, len(counts))
    grown = counts * weight
    own = (grown * counts).sum(axis=1)
    for group in largest_first.argsort(kind="stable"):
        fold = ((2 * (assigned @ grown[group]) + own[group]) // shares).argmin()  # where unevenness grows least
        assigned[fold] += counts[group]
        folds[group] = fold
    return folds, int(((assigned**2 * weight).sum(axis=1) // shares).sum())


def make_strata(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """A column of a table as strata: integers (N,) from 0, and the name of each.

    Numbers and DICOM ages (at least 95 % of the filled cells, more than 10 different ones) are cut into five bins with
    equally many rows; otherwise every text is a stratum. Blank cells, texts among numbers, and all texts rarer than 1 %
    are one stratum each.
    """
    text = pd.Series(list(values), dtype=str).str.strip()
    numbers, blank = to_numbers(text).to_numpy(np.float64), (text == "").to_numpy()
    is_number = np.isfinite(numbers)
    if is_number.sum() >= 0.95 * (~blank).sum() and len(np.unique(numbers[is_number])) > 10:
        edges = np.unique(np.quantile(numbers[is_number], np.linspace(0, 1, BINS + 1)))
        place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        bins = np.array([f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:], strict=False)])
        called = np.where(is_number, bins[np.where(is_number, place, 0)], "other")
        order = [*bins.tolist(), "other", "blank"]
    else:
        counts = text.value_counts()
        rare = text.isin(counts.index[counts < RARE_STRATUM * len(text)]).to_numpy()
        called = np.where(rare, "other", text.to_numpy(str))
        order = [*sorted(set(called[~blank & ~rare].tolist())), "other", "blank"]
    called = np.where(blank, "blank", called)
    names = [name for name in dict.fromkeys(order) if (called == name).any()]
    return pd.Index(names).get_indexer(called), names


def check_groups(groups: np.ndarray, folds: np.ndarray) -> None:
    """Raises ValueError with their number and the first names where groups are in more than one fold."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    a_fold = np.empty(len(names), dtype=np.asarray(folds).dtype)
    a_fold[group_of_row] = folds
    split = np.unique(group_of_row[a_fold[group_of_row] != folds])
    if len(split):
        shown = ", ".join(str(name) for name in names[split[:5]]) + (", ..." if len(split) > 5 else "")
        raise ValueError(f"{len(split)} of {len(names)} groups have images in more than one fold: {shown}")


@dataclass(frozen=True)
class FoldReport:
    """The contents of each of F folds, for K labels, and how even the folds are."""

    images: np.ndarray  # (F,)
    groups: np.ndarray  # (F,)
    positives: np.ndarray  # (F, K)
    # (K,) the largest relative deviation, over folds, of the prevalence from that of all; NaN without positives
    prevalence_deviation: np.ndarray
    # (K,) the least possible relative deviation of a fold's positives from 1 / F of all, given the number of positives
    unavoidable: np.ndarray  # and the group with most of them
    too_rare: np.ndarray  # (K,) bool: fewer groups with a positive than folds, so some fold has none
    # some fold's positives differ from its certain cells times the overall prevalence by more than 2 % of that, by two
    # images or more, and by more than is unavoidable:
    uneven: np.ndarray  # (K,) bool


def fold_report(targets: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> FoldReport:
    """Images, groups and positives of every fold, and how far each label is from an even spread.

    targets: (N, K) label cells;  groups: (N,);  folds: (N,) integers from 0.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    n_folds = int(folds.max()) + 1
    positive = (targets == 1).astype(np.int64)
    by_fold = np.zeros((n_folds, targets.shape[1]), dtype=np.int64)
    np.add.at(by_fold, folds, positive)
    certain = np.zeros_like(by_fold)
    np.add.at(certain, folds, np.isin(targets, (0, 1)).astype(np.int64))
    by_group = np.zeros((len(names), targets.shape[1]), dtype=np.int64)
    np.add.at(by_group, group_of_row, positive)
    group_in_fold = np.unique(np.stack([folds, group_of_row]), axis=1)[0]

    total = np.where(by_fold.sum(axis=0) > 0, by_fold.sum(axis=0), np.nan)
    in_fold = np.divide(by_fold, certain, out=np.zeros(by_fold.shape), where=certain > 0)  # no cell, no prevalence
    even = total / n_folds
    expected = certain * (by_fold.sum(axis=0) / certain.sum(axis=0).clip(1))
    forced = [by_group.max(axis=0) / even - 1, np.ceil(even) / even - 1, 1 - np.floor(even) / even]
    unavoidable = np.max(forced, axis=0)
    # the small numbers: what is off by just so much in decimals is not off by more, and two images are two
    allowed = np.maximum(np.nan_to_num(np.maximum(unavoidable, TOLERANCE)) * expected + 1e-6, TOLERATED_IMAGES - 1e-6)
    return FoldReport(
        images=np.bincount(folds, minlength=n_folds),
        groups=np.bincount(group_in_fold, minlength=n_folds),
        positives=by_fold,
        prevalence_deviation=np.abs(in_fold / (total / certain.sum(axis=0).clip(1)) - 1).max(axis=0),
        unavoidable=unavoidable,
        too_rare=(by_group > 0).sum(axis=0) < n_folds,
        uneven=(np.abs(by_fold - expected) > allowed).any(axis=0),
    )


def _check_count(count: int, n_folds: int, what: str) -> None:
    if n_folds < 2:
        raise ValueError(f"{n_folds} folds cannot be held out in turn; ask for 2 or more")
    if count < n_folds:
        raise ValueError(f"{count} {what} cannot fill {n_folds} folds; ask for at most {count}")


def _indicators(targets: np.ndarray) -> np.ndarray:
    """0 or 1 (N, C): positive cells of every label, then uncertain and blank cells of the labels that have some."""
    uncertain, blank = targets == -1, np.isnan(targets)
    columns = [targets == 1, uncertain[:, uncertain.any(axis=0)], blank[:, blank.any(axis=0)]]
    return np.hstack(columns).astype(np.int64)
