"""The folds of a competition: folds/<competition>.csv, the one source of the split, and what it was checked against."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from competition import Competition
from files import home, read_csv, read_json, sha256, write_csv, write_json
from folding import check_groups, grouped_folds, join_groups, stratified_folds
from pixels import PixelStore
from tables import label_cells


@dataclass(frozen=True)
class Folds:
    """The folds file as it was checked. `hash`, of folds, labels and images, stands on all computed from them."""

    path: Path
    hash: str
    count: int
    account: dict  # how the file came about, images of equal pixels, black images; folds/<competition>.json


def folds_path(competition: Competition) -> Path:
    """Where the folds of a competition stand: folds/<competition>.csv."""
    return home() / "folds" / f"{competition.name}.csv"


def make_folds(competition: Competition, table: pd.DataFrame, store: PixelStore, n_folds: int, seed: int,
               allow_split_groups: bool = False) -> Folds:
    """Writes folds/<competition>.csv, or checks the one that is there and leaves it as it is.

    Beside it goes folds/<competition>.json: which images have equal pixels and which are black, found in the pixels.
    Raises ValueError where an existing file does not fit the table, or splits a group and that was not allowed.
    """
    path = folds_path(competition)
    rows = store.rows(table["image_id"])
    twins = _twins(table["image_id"], store.hashes[rows], store.constant[rows])
    account = {
        "duplicates": twins,
        "black": sorted(table["image_id"][store.constant[rows]]),
        "split_groups_allowed": allow_split_groups,
    }
    groups = _joined_groups(table, twins)
    if path.exists():
        folds = _fold_column(path, table)
        before = _account_of(path)  # of this very file, or it is one that was given
        same = before.get("sha256") == sha256(path.read_bytes())
        account["made_by"] = before["made_by"] if same else "given"
        account["split_groups_allowed"] = allow_split_groups or (same and before["split_groups_allowed"])
    else:
        cells = label_cells(competition, table)
        has_groups = len(np.unique(groups)) < len(table)
        folds = grouped_folds(cells, groups, n_folds, seed) if has_groups else stratified_folds(cells, n_folds, seed)
        account["made_by"] = {"rule": "grouped" if has_groups else "stratified", "n_folds": n_folds, "seed": seed}
    if not account["split_groups_allowed"]:
        _refuse_split_groups(groups, folds, path)
    if not path.exists():
        write_csv(path, pd.DataFrame({"image_id": table["image_id"], "fold": folds}))
    account |= {"sha256": sha256(path.read_bytes()), "table_sha256": _hash_table(competition, table)}
    write_json(path.with_suffix(".json"), account)
    return read_folds(competition)


def read_folds(competition: Competition) -> Folds:
    """The checked folds file. Raises FileNotFoundError or ValueError with the command that makes or checks it."""
    path = folds_path(competition)
    command = f"run: {_command(competition)}"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; {command}")
    account = _account_of(path)
    if account.get("sha256") != sha256(path.read_bytes()):
        raise ValueError(f"{path} has not been checked against the images since it changed; {command}")
    count = int(read_csv(path)["fold"].astype(int).max()) + 1
    return Folds(path, sha256(account["sha256"], account["table_sha256"]), count, account)


def _command(competition: Competition) -> str:
    where = "" if competition.name == "demo" else " --data-dir DIR"
    return f"python src/make_folds.py --competition {competition.name}{where}"


def add_folds(competition: Competition, table: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """The table with `fold`, `black`, and `group` joined over images of equal pixels.

    Raises ValueError where an image has no fold, a group straddles folds without having been allowed to, or labels or
    images are not those that the folds were checked with.
    """
    table_hash = _hash_table(competition, table)
    table = table.assign(fold=_fold_column(folds.path, table), black=table["image_id"].isin(folds.account["black"]))
    table["group"] = _joined_groups(table, folds.account["duplicates"])
    if not folds.account["split_groups_allowed"]:
        _refuse_split_groups(table["group"].to_numpy(str), table["fold"].to_numpy(), folds.path)
    if folds.account["table_sha256"] != table_hash:
        raise ValueError(f"the labels, groups or images of {competition.name!r} have changed since {folds.path} was "
                         f"checked; run: {_command(competition)}, then train again: "
                         "older runs will be refused")
    return table


def _hash_table(competition: Competition, table: pd.DataFrame) -> str:
    """Of ids, groups, labels and the sizes of the image files, in the order of the ids, not of the table."""
    table = table.sort_values("image_id")
    cells = label_cells(competition, table).astype(np.float32)
    sizes = np.array([Path(path).stat().st_size for path in table["path"]], np.int64)  # other images, other sizes
    return sha256("\n".join(table["image_id"]), "\n".join(table["group"]), cells.tobytes(), sizes.tobytes())


def _account_of(path: Path) -> dict:
    beside = path.with_suffix(".json")
    return read_json(beside) if beside.exists() else {}


def _fold_column(path: Path, table: pd.DataFrame) -> np.ndarray:
    """The fold of each of the table's images, joined by id."""
    frame = read_csv(path)
    again = f"mend the file, or delete it and run make_folds.py again: {path}"
    if list(frame.columns) != ["image_id", "fold"]:
        raise ValueError(f"a folds file has the columns image_id,fold, not {','.join(frame.columns)}; {again}")
    if (repeated := frame["image_id"].duplicated()).any():
        raise ValueError(f"image {frame.loc[repeated, 'image_id'].iloc[0]!r} has more than one fold; {again}")
    wrong = ~frame["fold"].str.fullmatch(r"[0-9]{1,4}")
    if wrong.any():
        image_id, fold = frame.loc[wrong, ["image_id", "fold"]].iloc[0]
        raise ValueError(f"image {image_id!r} has the fold {fold!r}; a fold is a number from 0; {again}")
    by_id = pd.Series(frame["fold"].astype(int).to_numpy(), index=frame["image_id"])
    missing = table["image_id"][~table["image_id"].isin(by_id.index)]
    strange = by_id.index.difference(table["image_id"])
    if len(missing) or len(strange):
        example = missing.iloc[0] if len(missing) else strange[0]
        raise ValueError(f"{len(missing)} images have no fold and {len(strange)} ids have no image, for example "
                         f"{example!r}; {again}")
    folds = by_id.loc[table["image_id"]].to_numpy()
    if absent := sorted(set(range(folds.max() + 1)) - set(folds.tolist())):
        raise ValueError(f"folds are numbered from 0 without a gap, but no image has fold {absent[0]}; {again}")
    if folds.max() < 1:
        raise ValueError(f"all images have fold 0, but cross-validation needs two folds or more; {again}")
    return folds


def _twins(image_ids: pd.Series, hashes: np.ndarray, constant: np.ndarray) -> list[list[str]]:
    """Sets of images with equal pixels. Constant ones are all alike and say nothing about who is in them."""
    frame = pd.DataFrame({"image_id": image_ids.to_numpy(), "hash": hashes})[~constant]
    repeated = frame[frame["hash"].duplicated(keep=False)]
    return sorted(sorted(ids) for _, ids in repeated.groupby("hash")["image_id"])


def _joined_groups(table: pd.DataFrame, twins: list[list[str]]) -> np.ndarray:
    first = {image_id: ids[0] for ids in twins for image_id in ids}
    keys = [first.get(image_id, "") for image_id in table["image_id"]]
    return join_groups(table["group"].to_numpy(str), np.array(keys, dtype=str))


def _refuse_split_groups(groups: np.ndarray, folds: np.ndarray, path: Path) -> None:
    try:
        check_groups(groups, folds)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; such scores are too good. If that is meant, say so with "
                         f"make_folds.py --allow-split-groups") from error
