"""The folds of a competition: folds/<competition>.csv, the one source of the split, and what it was checked against.

The file has the columns image_id and fold, and fold_1, fold_2, ... where there are further splits of the same images. A
fold is a number from 0; -1, in all columns, means held out: never trained on, predicted and reported only.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.commands import command_line
from common.files import home, read_csv, read_json, sha256, write_csv, write_json
from competition import Competition
from data.duplicates import duplicate_keys, equal_pixel_sets, near_pairs, near_sets
from data.image_scan import scan_images
from data.npz import file_of, is_row
from data.pixel_store import PixelStore
from data.splitting import (
    check_groups,
    grouped_folds,
    holdout_mask,
    join_groups,
    make_strata,
    split_seed,
    stratified_folds,
)
from data.tables import label_cells

HELD_OUT = -1


@dataclass(frozen=True)
class Folds:
    """The checked folds file. Everything computed from it records its `hash` of folds, labels and image sizes."""

    path: Path
    hash: str
    count: int  # folds of a split, the same in all
    metadata: dict  # how the file was made, equal and constant images; folds/<competition>.json
    splits: int = 1
    held_out: int = 0  # images


def folds_path(competition: Competition) -> Path:
    """The path of a competition's folds file: folds/<competition>.csv."""
    return home() / "folds" / f"{competition.name}.csv"


def make_folds(competition: Competition, table: pd.DataFrame, store: PixelStore, n_folds: int | None = None,
               seed: int | None = None, allow_split_groups: bool = False, *, repeats: int | None = None,
               holdout: float | None = None, stratify: pd.DataFrame | None = None,
               near: list[list[str]] | None = None) -> Folds:
    """Writes folds/<competition>.csv, or checks the one that is there and leaves it as it is.

    Beside it goes folds/<competition>.json: which images have equal pixels and which are constant.
    Each None means what the file has, and for a new one 5 folds, seed 0, no repeats and no holdout. repeats: further
    splits, drawn with `split_seed(seed, 1)` and so on;  holdout: the share of images held out altogether;  stratify:
    columns of text, indexed by image_id, that are to be even too;  near: sets of ids that show the same picture.
    Raises ValueError where an existing file does not fit the table, is not what is asked for, or splits a group and
    that was not allowed.
    """
    path = folds_path(competition)
    rows = store.rows(table["image_id"])
    before = _read_metadata(path)
    if not path.exists() or before.get("sha256") != sha256(path.read_bytes()):
        before = {}  # of another file, so what is there was given
    near = before.get("near_duplicates") if near is None else near
    metadata = {
        "duplicates": equal_pixel_sets(table["image_id"].to_numpy(), store.hashes[rows], ~store.constant[rows]),
        "constant": sorted(table["image_id"][store.constant[rows]]),
        "split_groups_allowed": allow_split_groups or before.get("split_groups_allowed", False),
        **({} if near is None else {"near_duplicates": near}),
    }
    groups = _joined_groups(table, metadata["duplicates"], near or [])
    requested = {"folds": n_folds, "seed": seed, "repeats": repeats, "holdout": holdout,
              "stratify": None if stratify is None else list(stratify.columns)}
    if path.exists():
        folds, metadata["made_by"] = _fold_columns(path, table), before.get("made_by", "given")
        _check_requested(path, folds, metadata["made_by"], requested)
    else:
        folds, metadata["made_by"] = _make_splits(label_cells(competition, table), groups,
                                                 len(np.unique(groups)) < len(table), _strata_of(stratify, table),
                                                 requested)
    if not metadata["split_groups_allowed"]:
        _check_split_groups(groups, folds, path)
    if not path.exists():
        write_csv(path, pd.DataFrame({"image_id": table["image_id"],
                                      **{split_column(split): folds[:, split] for split in range(folds.shape[1])}}))
    metadata |= {"sha256": sha256(path.read_bytes()), "table_sha256": _hash_table(competition, table)}
    write_json(path.with_suffix(".json"), metadata)
    return read_folds(competition)


def read_folds(competition: Competition) -> Folds:
    """The checked folds file. Raises FileNotFoundError or ValueError with the command that makes or checks it."""
    path = folds_path(competition)
    command = f"run: {_command(competition)}"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; {command}")
    metadata = _read_metadata(path)
    if metadata.get("sha256") != sha256(path.read_bytes()):
        raise ValueError(f"{path} has not been checked against the images since it changed; {command}")
    frame = read_csv(path)
    first = frame["fold"].astype(int)
    near = metadata.get("near_duplicates")
    whole_hash = sha256(metadata["sha256"], metadata["table_sha256"], *([json.dumps(near)] if near else []))
    return Folds(path, whole_hash, int(first.max()) + 1, metadata, frame.shape[1] - 1, int((first == HELD_OUT).sum()))


def attach_folds(competition: Competition, table: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """The training table with `fold`, `fold_1`, ... (-1: held out), `constant`, and `group` joined over equal pixels.

    Where near duplicates were looked for, groups are joined over those too.
    Raises ValueError where an image has no fold, a group is in two folds without having been allowed to, or labels or
    images are not those that the folds were checked with.
    """
    table_hash, numbers = _hash_table(competition, table), _fold_columns(folds.path, table)
    table = table.assign(**{split_column(split): numbers[:, split] for split in range(numbers.shape[1])},
                         constant=table["image_id"].isin(folds.metadata["constant"]))
    table["group"] = _joined_groups(table, folds.metadata["duplicates"], folds.metadata.get("near_duplicates", []))
    if not folds.metadata["split_groups_allowed"]:
        _check_split_groups(table["group"].to_numpy(str), numbers, folds.path)
    if folds.metadata["table_sha256"] != table_hash:
        raise ValueError(f"the labels, groups or images of {competition.name!r} have changed since {folds.path} was "
                         f"checked; run: {_command(competition)}, then train again: older runs become invalid")
    return table


def split_column(split: int) -> str:
    """The column of a split: fold, fold_1, fold_2, ..."""
    return f"fold_{split}" if split else "fold"


def fold_numbers(table: pd.DataFrame, split: int) -> np.ndarray:
    """The fold (N,) of every row of a table from `attach_folds`, in the split of an experiment.

    Raises ValueError where the folds file has no such split.
    """
    if split_column(split) not in table:
        splits = sum(split_column(number) in table for number in range(split))
        raise ValueError(f"split={split}: the folds file has the splits 0 to {splits - 1} only. Further ones are drawn "
                         "when it is made: delete it and run make_folds.py for this competition with --repeats "
                         f"{split}; runs on the old file become invalid")
    return table[split_column(split)].to_numpy()


def find_near_sets(competition: Competition, table: pd.DataFrame) -> list[list[str]]:
    """Sets of images of a training table that show the same picture without equal pixels; looks at every image."""
    return near_sets(near_pairs(scan_images(f"{competition.name}-train", table)))


# ---- making


def _strata_of(stratify: pd.DataFrame | None, table: pd.DataFrame) -> list[np.ndarray]:
    strata = []
    for column in [] if stratify is None else stratify.columns:
        codes, names = make_strata(stratify.loc[table["image_id"], column])
        if len(names) < 2:
            raise ValueError(f"the column {column!r} is {names[0]!r} for every image: there is nothing to stratify "
                             "by; leave it out")
        strata.append(codes)
    return strata


def _make_splits(cells: np.ndarray, groups: np.ndarray, has_groups: bool, strata: list[np.ndarray],
                 requested: dict) -> tuple[np.ndarray, dict]:
    """The fold (N, S) of every image in every split, and how the folds were made."""
    rule = "grouped" if has_groups or strata else "stratified"
    defaults = {"folds": 5, "seed": 0, "repeats": 0, "holdout": 0, "stratify": []}
    n_folds, first_seed, repeats, holdout, columns = (
        default if requested[name] is None else requested[name] for name, default in defaults.items())
    if repeats < 0:
        raise ValueError(f"{repeats} repeats; ask for 0 or more")
    kept = np.ones(len(cells), bool)
    if holdout:
        kept = ~holdout_mask(cells, groups, holdout, n_folds, first_seed, strata)
    folds = np.full((len(cells), 1 + repeats), HELD_OUT)
    for split in range(1 + repeats):
        seed = split_seed(first_seed, split)
        if rule == "grouped":
            assigned = grouped_folds(cells[kept], groups[kept], n_folds, seed, [codes[kept] for codes in strata])
        else:
            assigned = stratified_folds(cells[kept], n_folds, seed)
        folds[kept, split] = assigned
    return folds, {"rule": rule, "n_folds": n_folds, "seed": first_seed, "repeats": repeats, "holdout": holdout,
                   "stratify": columns}


def _check_requested(path: Path, folds: np.ndarray, made_by: dict | str, requested: dict) -> None:
    """Raises ValueError where the file lacks something that was asked for: it would be ignored silently."""
    drawn = made_by if isinstance(made_by, dict) else {}
    share = round(float((folds[:, 0] == HELD_OUT).mean()), 2)
    has = {"folds": int(folds.max()) + 1, "seed": drawn.get("seed"), "repeats": folds.shape[1] - 1,
           "holdout": drawn.get("holdout", 0) if drawn else share, "stratify": drawn.get("stratify", [])}
    for name, value in requested.items():
        if value is not None and value != has[name]:
            wanted, there = (" ".join(each) if isinstance(each, list) else each for each in (value, has[name]))
            there = there if there not in (None, "") else "unknown" if not drawn else "none"
            raise ValueError(f"--{name} {wanted}, but {path} has {name} {there}. A folds file is made once and not "
                             f"changed: leave --{name} out, or delete it and run make_folds.py again; runs on the old "
                             "folds become invalid")


# ---- checking


def _command(competition: Competition) -> str:
    return command_line("make_folds", competition)


def _hash_table(competition: Competition, table: pd.DataFrame) -> str:
    """A hash of ids, groups, labels and image file sizes, independent of the table's order."""
    table = table.sort_values("image_id")
    cells = label_cells(competition, table).astype(np.float32)
    files = [str(file_of(path)) if is_row(path) else path for path in table["path"].tolist()]
    size_of = {file: os.stat(file).st_size for file in set(files)}  # noqa: PTH116 - a Path for each of 200,000 is slow
    sizes = np.array([size_of[file] for file in files], np.int64)  # other images, other sizes
    return sha256("\n".join(table["image_id"]), "\n".join(table["group"]), cells.tobytes(), sizes.tobytes())


def _read_metadata(path: Path) -> dict:
    beside = path.with_suffix(".json")
    return read_json(beside) if beside.exists() else {}


def _fold_columns(path: Path, table: pd.DataFrame) -> np.ndarray:
    """The fold (N, S) of each of the table's images in every split, joined by id; -1 where it is held out."""
    frame = read_csv(path)
    fix = f"correct the file, or delete it and run make_folds.py again: {path}"
    columns = list(frame.columns)[1:]
    if list(frame.columns) != ["image_id", *(split_column(split) for split in range(max(1, len(columns))))]:
        raise ValueError(f"a folds file has the columns image_id,fold and, for further splits, fold_1,fold_2 and so on "
                         f"without a gap, not {','.join(frame.columns)}; {fix}")
    if (repeated := frame["image_id"].duplicated()).any():
        raise ValueError(f"image {frame.loc[repeated, 'image_id'].iloc[0]!r} has more than one fold; {fix}")
    for column in columns:
        if wrong := [fold for fold in frame[column].unique() if not re.fullmatch(r"-1|[0-9]{1,4}", fold)]:
            image_id, fold = frame.loc[frame[column] == wrong[0], ["image_id", column]].iloc[0]
            raise ValueError(f"image {image_id!r} has the {column} {fold!r}; a fold is a number from 0, or -1 for what "
                             f"is held out; {fix}")
    by_id = frame.set_index("image_id").astype(int)
    missing = table["image_id"][~table["image_id"].isin(by_id.index)]
    unknown = by_id.index.difference(table["image_id"])
    if len(missing) or len(unknown):
        example = missing.iloc[0] if len(missing) else unknown[0]
        raise ValueError(f"{len(missing)} images have no fold and {len(unknown)} ids have no image, for example "
                         f"{example!r}; {fix}")
    _check_numbers(by_id, fix)
    return by_id.loc[table["image_id"]].to_numpy()


def _check_numbers(by_id: pd.DataFrame, fix: str) -> None:
    held_out = by_id == HELD_OUT
    if (half := held_out.any(axis=1) & ~held_out.all(axis=1)).any():
        raise ValueError(f"image {half.idxmax()!r} is held out (-1) in some splits and not in others; what is held out "
                         f"is so in all; {fix}")
    if held_out.all(axis=None):
        raise ValueError(f"all images are held out (-1), and none is left to train on; {fix}")
    for column in by_id:
        there = sorted(set(by_id[column]) - {HELD_OUT})
        if absent := sorted(set(range(there[-1] + 1)) - set(there)):
            raise ValueError(f"folds are numbered from 0 without a gap, but no image has {column} {absent[0]}; {fix}")
        if there == [0]:
            raise ValueError(f"all images have {column} 0, but cross-validation needs two folds or more; {fix}")
    if len(counts := set(by_id.max())) > 1:
        raise ValueError(f"all splits must have as many folds, but one has {min(counts) + 1} and one "
                         f"{max(counts) + 1}; {fix}")


def _joined_groups(table: pd.DataFrame, *kinds: list[list[str]]) -> np.ndarray:
    """The groups (N,) of the table, joined over all sets of every kind."""
    sets = [ids for of_kind in kinds for ids in of_kind]
    return join_groups(table["group"].to_numpy(str), duplicate_keys(table["image_id"], sets))


def _check_split_groups(groups: np.ndarray, folds: np.ndarray, path: Path) -> None:
    for split in range(folds.shape[1]):
        try:
            check_groups(groups, folds[:, split])
        except ValueError as error:
            where = f"{path}, column {split_column(split)}" if split else path
            held_out = " (held out, -1, is a fold here)" if (folds == HELD_OUT).any() else ""
            raise ValueError(f"{where}: {error}{held_out}; such scores are too high. Correct the file, or delete "
                             "it and run make_folds.py again; if this is intended, use --allow-split-groups"
                             ) from error
