"""The organisers' files as tables: one row an image with `image_id`, `path`, `group` and one column a label."""

import os
import re
import shlex
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd

from common.files import read_csv, split_ending
from competition import Competition, Part
from data.labels import scoring_targets
from data.npz import open_array

CELLS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": np.nan}
SHORT = {"1.0": "1", "0.0": "0", "-1.0": "-1"}  # as pandas writes a column of labels that has a blank cell somewhere
CORRECT_IT = "correct the description in competition.py"


def read_train(competition: Competition, data_dir: Path,
               check_shared: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training table, and the rows left out of it because their group is in the test or official
    validation part.

    Columns `image_id`, `path` (absolute), `group` and the labels: 1, 0, -1 (uncertain), NaN (blank).
    check_shared: False keeps such rows in the table where shared_groups is "error", for scripts that inspect data and
    train nothing.
    Raises FileNotFoundError or ValueError where a file, a column, an image or a label cell is not as described.
    """
    table = read_part(competition, data_dir, "train")
    if competition.shared_groups == "distinct" or (competition.shared_groups == "error" and not check_shared):
        return table, table.iloc[:0]
    shared = pd.Series(False, index=table.index)
    for part, groups in _kept_apart_groups(competition, data_dir).items():
        here, title = table["group"].isin(groups), part.replace("_", " ")
        if here.any() and competition.shared_groups == "error":
            examples = ", ".join(table.loc[here, "group"].unique()[:5])
            raise ValueError(f"{here.sum()} training images have a group that is in the {title} part too ({examples}); "
                             f"write in competition.py what that means: shared_groups='drop' or 'distinct'")
        shared |= here
    return table[~shared].reset_index(drop=True), table[shared]


def read_part(competition: Competition, data_dir: Path, part: str) -> pd.DataFrame:
    """The table of "train", "test" or "official_validation"; without label columns where the labels are unknown."""
    return _read_part(competition, data_dir, part)[0]


def read_columns(competition: Competition, data_dir: Path, part: str) -> pd.DataFrame:
    """The part's other columns, such as age or view, as text, "" where empty, indexed by `image_id`.

    Without ids and labels, with the group's column. No columns where the part has no table.
    """
    return _read_part(competition, data_dir, part)[1]


def described_parts(competition: Competition) -> list[str]:
    """Those of "train", "test" and "official_validation" that the competition has."""
    return [part for part in ("train", "test", "official_validation") if getattr(competition, part) is not None]


def part_exists(part: Part, data_dir: Path) -> bool:
    """True where a label file of the part, or without one an image, is in the data folder."""
    return any(True for pattern in part.tables or (part.images,) for _ in data_dir.glob(pattern))


def submitted_part(competition: Competition) -> str | None:
    """The part a submission is about: the test part, else the official validation part, else None."""
    return next((part for part in ("test", "official_validation") if getattr(competition, part) is not None), None)


def read_solution(competition: Competition, data_dir: Path) -> pd.DataFrame | None:
    """Labels of the submitted part, where they are known: `image_id`, the labels, `usage`. For reporting only.

    `usage` is Public or Private as in Kaggle's solution files; Test or Official validation where the labels are in
    that part's own files.
    """
    if competition.solution and (path := data_dir / competition.solution).exists():
        rows = _read_csv(competition, path)
        _need_columns(rows, [competition.id_column], path)
        _check_unique(rows[competition.id_column], path)
        table = pd.DataFrame({"image_id": rows[competition.id_column]})
        cells = _label_cells(competition, rows.assign(image_id=table["image_id"]), path)
        if competition.task == "multiclass":
            _check_one_class(table["image_id"], cells, path)
        table[list(competition.labels)] = cells
        table["usage"] = rows["Usage"] if "Usage" in rows else "Test"
        return table[table["usage"] != "Ignored"].reset_index(drop=True)  # Kaggle's word for rows that do not count
    name = submitted_part(competition)
    if name and getattr(competition, name).labelled:
        table = read_part(competition, data_dir, name).drop(columns=["path", "group"])
        return table.assign(usage=name.replace("_", " ").capitalize())
    return None


def read_sample(competition: Competition, data_dir: Path) -> pd.DataFrame | None:
    """The sample submission, every cell as text in the file's order; None where the competition has none."""
    if competition.sample_submission is None:
        return None
    path = data_dir / competition.sample_submission
    sample = _read_csv(competition, path)
    _need_columns(sample, [competition.id_column, *submission_columns(competition)], path)
    _check_unique(sample[competition.id_column], path)
    return sample


def submission_columns(competition: Competition) -> tuple[str, ...]:
    """The columns that a submission fills: one per label, or the one that lists the labels as text."""
    if competition.submission == "text":
        return (competition.submission_column or competition.label_list_column,)
    return label_columns(competition)


def label_columns(competition: Competition) -> tuple[str, ...]:
    """The names that the labels have in the organisers' files."""
    return competition.label_columns or competition.labels


def label_cells(competition: Competition, table: pd.DataFrame) -> np.ndarray:
    """The label cells of a table: (N, K), 1, 0, -1 or NaN, in the order of `competition.labels`."""
    return table[list(competition.labels)].to_numpy(np.float64, copy=True)


def headline_targets(competition: Competition, targets: np.ndarray) -> np.ndarray:
    """A copy of the targets (N, K) with NaN for the labels that the competition's metric does not count."""
    counted = np.isin(competition.labels, competition.scored_labels or competition.labels)
    return np.where(counted, targets, np.nan)


def scored_targets(competition: Competition, table: pd.DataFrame) -> np.ndarray:
    """Targets (N, K) that a table's images are scored on: 1, 0, NaN for uncertain, blank and unscored cells."""
    return headline_targets(competition, scoring_targets(label_cells(competition, table)))


def label_map(competition: Competition) -> dict[str, str]:
    """The label of each text in `label_list_column` or found by `label_pattern`; "" for no label."""
    meaning = dict(competition.label_map) or {label: label for label in competition.labels}
    return meaning | dict.fromkeys(competition.ignored_labels, "")


def parse_texts(competition: Competition, texts: pd.Series, image_ids: pd.Series, where: Path | str) -> np.ndarray:
    """Label cells (N, K), 0 or 1, from texts that list an image's labels, "Effusion|Mass".

    Raises ValueError with the image and the text where a text is unknown.
    """
    meaning = label_map(competition)
    cells = np.zeros((len(texts), len(competition.labels)))
    column = {label: k for k, label in enumerate(competition.labels)}
    known = {}  # most cells repeat a few texts
    for text in texts.unique():
        names = [text.strip()] if text.strip() in meaning else split_labels(text, competition.label_separator)
        if unknown := [name for name in names if name not in meaning]:
            image_id = image_ids[texts == text].iloc[0]
            raise ValueError(f"{where}: image {image_id!r} has the unknown label {unknown[0]!r}; add it to labels, "
                             f"label_map or ignored_labels in competition.py. Known are "
                             f"{', '.join(map(repr, list(meaning)[:20]))}")
        known[text] = [column[meaning[name]] for name in names if meaning[name]]
    for row, text in enumerate(texts):
        cells[row, known[text]] = 1
    return cells


def split_labels(text: str, separator: str) -> list[str]:
    """The labels in a cell that lists several."""
    return text.split() if separator == " " else [name for part in text.split(separator) if (name := part.strip())]


# ---- parts


def _read_part(competition: Competition, data_dir: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table, and the other columns."""
    described = competition.train_parts if name == "train" else [getattr(competition, name)]
    if described[0] is None:
        raise ValueError(f"competition {competition.name!r} has no {name} part")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {data_dir}; give the data's with --data-dir")
    read = [_read_one(competition, part, data_dir, name == "train") for part in described
            if not part.optional or part_exists(part, data_dir)]
    if not read:
        raise FileNotFoundError(f"none of the files of {competition.name!r}'s {name} part is in {data_dir}; give the "
                                f"data's folder with --data-dir")
    tables, others = zip(*read, strict=True)
    table = pd.concat(tables, ignore_index=True)
    _check_unique(table["image_id"], f"{data_dir}: the {name} part")
    other = pd.concat(others) if any(frame.shape[1] for frame in others) else others[0].reindex(table["image_id"])
    return table, other.fillna("")  # a column that only some of the parts have


def _read_one(competition: Competition, part: Part, data_dir: Path,
              is_train: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    if part.arrays:
        rows, where = _read_arrays(competition, part, data_dir)
    elif part.tables:
        rows, where = _read_rows(competition, part, data_dir)
    else:
        rows, where = _list_images(part, data_dir)
    rows = _keep_rows(competition, part, rows, data_dir, where)
    rows["path"] = f"{data_dir.resolve().as_posix()}/" + rows["below"]
    if not part.arrays:
        _check_files_exist(rows, where)
    table = pd.DataFrame({"image_id": rows["image_id"], "path": rows["path"]})
    table["group"] = _groups(competition, rows, where, is_train)
    used = {"image_id", "path", "below", competition.id_column, competition.label_list_column,
            *label_columns(competition)}
    if part.labelled:
        table[list(competition.labels)] = (_label_array if part.arrays else _label_cells)(competition, rows, where)
    table, rows = _merge_repeated(competition, part, table, rows, where)
    if part.labelled and competition.task == "multiclass":
        _check_one_class(table["image_id"], label_cells(competition, table), where)
    other = rows.iloc[:, :0] if part.arrays else rows.drop(columns=[column for column in rows if column in used])
    return table, other.set_axis(pd.Index(table["image_id"], name="image_id"))


def _merge_repeated(competition: Competition, part: Part, table: pd.DataFrame, rows: pd.DataFrame,
                    where: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per image: each label is the highest of its rows in the order 1, uncertain, 0, blank."""
    if part.repeated_rows == "error":
        _check_unique(table["image_id"], where)
        return table, rows
    first = ~table["image_id"].duplicated()
    if first.all():
        return table, rows
    if len(table[["image_id", "group"]].drop_duplicates()) > first.sum():
        by_image = table.groupby("image_id")["group"].nunique()
        raise ValueError(f"{where}: the rows of image {by_image[by_image > 1].index[0]!r} name several groups")
    if part.labelled:
        rank = {1.0: 3, -1.0: 2, 0.0: 1}  # and 0 for a blank cell
        ranks = table[list(competition.labels)].apply(lambda column: column.map(rank).fillna(0))
        best = ranks.groupby(table["image_id"], sort=False).max()
        meaning = {rank: cell for cell, rank in rank.items()} | {0: np.nan}
        table = table.assign(**{label: table["image_id"].map(best[label]).map(meaning)
                                for label in competition.labels})
    return table[first].reset_index(drop=True), rows[first].reset_index(drop=True)


def _find_file(competition: Competition, path: Path) -> Path:
    """A file of the data; a * in its name matches the one file that exists."""
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if len(found) > 1:
        raise ValueError(f"{path} could be {' or '.join(file.name for file in found)}; leave one of them there")
    if not found or not found[0].exists():
        command = shlex.join(["python", "src/make_demo.py", "--data-dir", str(path.parent)])
        todo = f"run: {command}" if competition.name == "demo" else "give the data's folder with --data-dir"
        raise FileNotFoundError(f"there is no {path}; {todo}")
    return found[0]


def _read_csv(competition: Competition, path: Path, part: Part | None = None) -> pd.DataFrame:
    path = _find_file(competition, path)
    return read_csv(path) if part is None else read_csv(path, part.header, part.separator)


def _read_rows(competition: Competition, part: Part, data_dir: Path) -> tuple[pd.DataFrame, Path]:
    path = data_dir / part.tables[0]
    rows = _read_csv(competition, path, part)
    for other in part.tables[1:]:
        rows = _join(competition, rows, _read_csv(competition, data_dir / other, part), path, data_dir / other)
    template = [(text, field) for text, field, _, _ in Formatter().parse(part.images)]
    _need_columns(rows, [competition.id_column, *(column for column, _ in part.row_filter),
                         *(field for _, field in template if field)], path)
    for column, values in part.row_filter:
        if not (kept := rows[column].isin(values)).any():
            there = ", ".join(map(repr, rows[column].unique()[:10]))
            raise ValueError(f"{path} has no row with {column!r} one of {values}; it has {there}: {CORRECT_IT}")
        rows = rows[kept]
    rows = rows.reset_index(drop=True)
    rows["image_id"] = rows[competition.id_column]
    if (blank := rows["image_id"].str.strip() == "").any():
        raise ValueError(f"{path}: {blank.sum()} rows have no {competition.id_column}")
    below = pd.Series("", index=rows.index)
    for text, field in template:
        below = below + text + (rows[field] if field else "")
    if "*" in part.images:
        below = _find_below(part, below, data_dir)
    rows["below"] = below
    return rows, path


def _join(competition: Competition, rows: pd.DataFrame, more: pd.DataFrame, path: Path, other: Path) -> pd.DataFrame:
    """The rows with the columns of a second file with the same ids. Common columns must have equal cells."""
    for frame, where in ((rows, path), (more, other)):
        _need_columns(frame, [competition.id_column], where)
    _check_unique(more[competition.id_column], other)
    more = more.set_index(competition.id_column)
    absent = rows.loc[~rows[competition.id_column].isin(more.index), competition.id_column]
    if len(absent):
        raise ValueError(f"{len(absent)} ids of {path} are not in {other}, the first is {absent.iloc[0]!r}; both must "
                         f"be about the same images")
    more = more.loc[rows[competition.id_column]].set_axis(rows.index)
    for column in more.columns.intersection(rows.columns):
        if (differs := rows[column].replace(SHORT) != more[column].replace(SHORT)).any():
            row = differs.idxmax()
            raise ValueError(f"{path} and {other} disagree about {column!r} of {differs.sum()} images, the first is "
                             f"{rows.loc[row, competition.id_column]!r}: {rows.loc[row, column]!r} and "
                             f"{more.loc[row, column]!r}; find out which is right and correct the other")
    return rows.join(more[more.columns.difference(rows.columns, sort=False)])


def _find_below(part: Part, below: pd.Series, data_dir: Path) -> pd.Series:
    """The paths with each * replaced by the folder or the file extension that it matches."""
    folder, _, name = part.images.rpartition("/")
    if "{" in folder or ("*" in name and not name.endswith(".*")):
        raise ValueError(f"images={part.images!r}: a * may replace a folder that no column names, or at the end as "
                         f".* for a file's ending; {CORRECT_IT}")
    by_stem, found = name.endswith(".*"), {}
    names = below.str.rpartition("/")[2]
    names = names.str.removesuffix(".*") if by_stem else names
    wanted = set(names)
    for place in sorted(data_dir.glob(re.sub(r"[\[?]", r"[\g<0>]", folder))) if folder else [data_dir]:
        beside = f"{place.relative_to(data_dir).as_posix()}/" if folder else ""
        for entry in _names(place):
            key, here = split_ending(entry)[0] if by_stem else entry, beside + entry
            if key in wanted and found.setdefault(key, here) != here:
                raise ValueError(f"{found[key]} and {here} in {data_dir} could both be the image {key!r}; leave one")
    return names.map(found).fillna(below)


def _list_images(part: Part, data_dir: Path) -> tuple[pd.DataFrame, Path]:
    below = sorted(path.relative_to(data_dir).as_posix() for path in data_dir.glob(part.images) if path.is_file())
    if not below:
        raise FileNotFoundError(f"no file matches {data_dir / part.images}; give the data's folder with --data-dir")
    # the id is the whole path, since class folders may hold files of the same name
    return pd.DataFrame({"below": below, "image_id": below}), data_dir / part.images


def _read_arrays(competition: Competition, part: Part, data_dir: Path) -> tuple[pd.DataFrame, Path]:
    path, name = _find_file(competition, data_dir / part.images), part.arrays
    rows = pd.DataFrame({"array": name, "row": np.arange(len(open_array(path, f"{name}_images")))})
    number = rows["row"].astype(str)
    rows["image_id"] = f"{name}-" + number
    rows["below"] = f"{path.relative_to(data_dir).as_posix()}#{name}_images#" + number
    return rows, path


def _keep_rows(competition: Competition, part: Part, rows: pd.DataFrame, data_dir: Path, where: Path) -> pd.DataFrame:
    """The rows in the list of ids, where there is one, without the excluded ids."""
    kept = ~rows["image_id"].isin(part.exclude_ids)
    if part.id_list:
        path = _find_file(competition, data_dir / part.id_list)
        listed = set(filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())))
        if unknown := sorted(listed - set(rows["image_id"])):
            raise ValueError(f"{path}: {len(unknown)} ids are not in {where}, the first is {unknown[0]!r}")
        kept &= rows["image_id"].isin(listed)
    if not kept.any():
        raise ValueError(f"{where} has no row that is kept; {CORRECT_IT}")
    return rows[kept].reset_index(drop=True)


# ---- checks


def _need_columns(rows: pd.DataFrame, columns: list[str], path: Path) -> None:
    missing = [column for column in dict.fromkeys(columns) if column not in rows]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(map(repr, missing))}; it has "
                         f"{', '.join(map(repr, rows.columns))}: {CORRECT_IT}")


def _check_unique(ids: pd.Series, path: Path | str) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(f"{path}: {len(repeated)} ids are repeated, for example "
                         f"{', '.join(repeated[:5])}; every image must have one row, unless the description says "
                         f"repeated_rows='any'")


def _check_files_exist(rows: pd.DataFrame, path: Path) -> None:
    """Raises FileNotFoundError where image files are missing. Each folder is listed once: 200,000 checks are slow."""
    folders = rows["path"].str.rpartition("/")[0].unique()
    present = {f"{folder}/{name}" for folder in folders for name in _names(folder)}
    missing = rows.loc[~rows["path"].isin(present), ["image_id", "path"]]
    if len(missing):
        todo = (f"{CORRECT_IT}, where `images` is the place and the ending" if len(missing) == len(rows) else
                "fetch them, or name them in `exclude_ids` in competition.py if they are lost")
        raise FileNotFoundError(f"{len(missing)} of the {len(rows)} images in {path} have no file; the first is "
                                f"{missing['image_id'].iloc[0]!r}, looked for at {missing['path'].iloc[0]}: {todo}")


def _names(folder: str | Path) -> list[str]:
    """The names of the files in a folder, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _check_one_class(image_ids: pd.Series, cells: np.ndarray, where: Path) -> None:
    if (wrong := (cells == 1).sum(axis=1) != 1).any():
        raise ValueError(f"{where}: {wrong.sum()} images do not have exactly one class, the first is "
                         f"{image_ids[wrong].iloc[0]!r}; correct the rows, or use task='multilabel' in competition.py")


# ---- groups and labels


def _groups(competition: Competition, rows: pd.DataFrame, where: Path, is_train: bool) -> pd.Series:
    if competition.group_pattern:
        return _find(competition.group_pattern, rows["below"], where)
    if competition.group_column and (is_train or competition.group_column in rows):
        _need_columns(rows, [competition.group_column], where)
        groups = rows[competition.group_column]
        if (blank := groups.str.strip() == "").any():
            raise ValueError(f"{where}: {blank.sum()} of {len(rows)} rows have no {competition.group_column!r}, the "
                             f"first is image {rows.loc[blank, 'image_id'].iloc[0]!r}; a blank patient cannot be kept "
                             f"in one fold: fill the cells, or name another group_column in competition.py")
        return groups.str.strip()  # or "7 " would be another patient than "7", in another fold
    return rows["image_id"]


def _kept_apart_groups(competition: Competition, data_dir: Path) -> dict[str, set[str]]:
    """The groups of the test and official validation parts, where they are known."""
    groups = {}
    for name in described_parts(competition)[1:]:
        part, column = getattr(competition, name), competition.group_column
        if part.optional and not part_exists(part, data_dir):
            continue
        if competition.group_pattern is None and (
                column is None or not part.tables
                or column not in _read_csv(competition, data_dir / part.tables[0], part)):
            continue
        groups[name] = set(read_part(competition, data_dir, name)["group"])
    return groups


def _find(pattern: str, below: pd.Series, where: Path) -> pd.Series:
    found = below.str.extract(pattern, expand=False)
    if found.isna().any():
        raise ValueError(f"{where}: the pattern {pattern!r} finds nothing in {found.isna().sum()} paths, the first is "
                         f"{below[found.isna()].iloc[0]!r}; {CORRECT_IT}")
    return found


def _label_cells(competition: Competition, rows: pd.DataFrame, where: Path) -> np.ndarray:
    """Label cells (N, K) from one column per label, from one column that lists labels, or from the path."""
    if competition.label_pattern:
        texts = _find(competition.label_pattern, rows["below"], where)
        if unknown := set(texts) - set(label_map(competition)):
            raise ValueError(f"{where}: the paths name the labels {sorted(unknown)}, which label_map does not "
                             f"explain; {CORRECT_IT}")
        return parse_texts(competition, texts, rows["image_id"], where)
    if competition.label_list_column:
        _need_columns(rows, [competition.label_list_column], where)
        return parse_texts(competition, rows[competition.label_list_column], rows["image_id"], where)
    return _cells_of_columns(competition, rows, where)


def _label_array(competition: Competition, rows: pd.DataFrame, where: Path) -> np.ndarray:
    """(n, K) label cells from an npz file's array of labels: (N, K) of 0 and 1, or (N, 1) of a class's number."""
    key = f"{rows['array'].iloc[0]}_labels"
    with np.load(where, allow_pickle=False) as archive:
        if key not in archive:
            raise ValueError(f"{where} has no array {key!r}; it has {', '.join(archive)}: {CORRECT_IT}")
        labels = archive[key]
    classes = len(competition.labels)
    count = len(open_array(where, key.replace("_labels", "_images")))
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.shape != (count, 1 if competition.task == "multiclass" else classes):
        raise ValueError(f"{where}: {key} is {labels.shape} for {count} images and {classes} labels; {CORRECT_IT}")
    highest = classes - 1 if competition.task == "multiclass" else 1
    if (wrong := (labels < 0) | (labels > highest)).any():
        raise ValueError(f"{where}: {key} holds {labels[wrong][0]}, but must be 0 to {highest}; {CORRECT_IT}")
    cells = np.eye(classes)[labels[:, 0].astype(int)] if competition.task == "multiclass" else labels.astype(np.float64)
    return cells[rows["row"]]


def _cells_of_columns(competition: Competition, rows: pd.DataFrame, where: Path) -> np.ndarray:
    columns = list(label_columns(competition))
    _need_columns(rows, columns, where)
    cells = np.empty((len(rows), len(columns)))
    for k, column in enumerate(columns):
        texts = rows[column].str.strip()
        unknown = ~texts.isin(CELLS)
        if unknown.any():
            raise ValueError(f"{where}: column {column!r} holds {texts[unknown].iloc[0]!r} for the image "
                             f"{rows.loc[unknown, 'image_id'].iloc[0]!r}; a label cell is 1, 0, -1 (uncertain) or "
                             f"empty. Where one column of words or codes holds the labels, describe it with "
                             f"label_list_column and label_map in competition.py; of several columns write 1 and 0 in "
                             f"their place")
        cells[:, k] = texts.map(CELLS).to_numpy(np.float64)
    return cells
