"""The organisers' files as tables: one row an image with `image_id`, `path`, `group` and one column a label."""

import os
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd

from competition import Competition, Part
from files import read_csv

CELLS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": np.nan}


def read_train(competition: Competition, data_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training table, and the rows left out of it because their group also stands in the test part.

    Columns `image_id`, `path` (absolute), `group` and the labels: 1, 0, -1 (uncertain), NaN (blank).
    Raises FileNotFoundError or ValueError where a file, a column, an image or a label cell is not as described.
    """
    table = read_part(competition, data_dir, "train")
    if competition.test is None or competition.shared_groups == "distinct":
        return table, table.iloc[:0]
    shared = table["group"].isin(_test_groups(competition, data_dir))
    if shared.any() and competition.shared_groups == "error":
        examples = ", ".join(table.loc[shared, "group"].unique()[:5])
        raise ValueError(f"{shared.sum()} training images have a group that is in the test part too ({examples}); say "
                         f"in competition.py what that means: shared_groups='drop' or 'distinct'")
    return table[~shared].reset_index(drop=True), table[shared]


def read_part(competition: Competition, data_dir: Path, part: str) -> pd.DataFrame:
    """The table of "train" or "test" as the files have it; without label columns where the labels are unknown."""
    description = competition.train if part == "train" else competition.test
    if description is None:
        raise ValueError(f"competition {competition.name!r} has no {part} part")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {data_dir}; give the data's with --data-dir")
    if description.table is None:
        rows, where = _list_images(description, data_dir)
    else:
        rows, where = _read_rows(competition, description, data_dir)
    table = pd.DataFrame({"image_id": rows["image_id"], "path": rows["path"]})
    table["group"] = _groups(competition, rows, data_dir, where, part)
    if description.labelled:
        table[list(competition.labels)] = _label_cells(competition, rows, where)
    return table


def read_solution(competition: Competition, data_dir: Path) -> pd.DataFrame | None:
    """Labels of the test part, where they are known: `image_id`, the labels, `usage`. For reporting only.

    `usage` is Public or Private as Kaggle's solution files say, or Test where the test part carries its labels itself.
    """
    if competition.solution and (path := data_dir / competition.solution).exists():
        rows = _read_csv(competition, path)
        _need_columns(rows, [competition.id_column, *label_columns(competition)], path)
        _refuse_duplicates(rows[competition.id_column], path)
        table = pd.DataFrame({"image_id": rows[competition.id_column]})
        table[list(competition.labels)] = _cells_of_columns(competition, rows, path)
        table["usage"] = rows["Usage"] if "Usage" in rows else "Test"
        return table[table["usage"] != "Ignored"].reset_index(drop=True)  # Kaggle's word for rows that do not count
    if competition.test and competition.test.labelled:
        return read_part(competition, data_dir, "test").drop(columns=["path", "group"]).assign(usage="Test")
    return None


def read_sample(competition: Competition, data_dir: Path) -> pd.DataFrame | None:
    """The sample submission, every cell as text in the file's order; None where the competition has none."""
    if competition.sample_submission is None:
        return None
    path = data_dir / competition.sample_submission
    sample = _read_csv(competition, path)
    _need_columns(sample, [competition.id_column, *label_columns(competition)], path)
    _refuse_duplicates(sample[competition.id_column], path)
    return sample


def label_columns(competition: Competition) -> tuple[str, ...]:
    """The names that the labels have in the organisers' files."""
    return competition.label_columns or competition.labels


def label_cells(competition: Competition, table: pd.DataFrame) -> np.ndarray:
    """The label cells of a table: (N, K), 1, 0, -1 or NaN, in the order of `competition.labels`."""
    return table[list(competition.labels)].to_numpy(np.float64, copy=True)


def _read_csv(competition: Competition, path: Path) -> pd.DataFrame:
    if not path.exists():
        is_demo = competition.name == "demo"
        raise FileNotFoundError(f"there is no {path}; " + ("make it with: python src/make_demo.py" if is_demo else
                                                           "give the data's folder with --data-dir"))
    return read_csv(path)


def _read_rows(competition: Competition, part: Part, data_dir: Path) -> tuple[pd.DataFrame, Path]:
    path = data_dir / part.table
    rows = _read_csv(competition, path)
    template = [(text, field) for text, field, _, _ in Formatter().parse(part.images)]
    _need_columns(rows, [competition.id_column, *(column for column, _ in part.where),
                         *(field for _, field in template if field)], path)
    for column, values in part.where:
        rows = rows[rows[column].isin(values)]
    if rows.empty:
        raise ValueError(f"{path} has no row" + (f" with {dict(part.where)}" if part.where else ""))
    rows = rows.reset_index(drop=True)
    rows["image_id"] = rows[competition.id_column]
    if (blank := rows["image_id"] == "").any():
        raise ValueError(f"{path}: {blank.sum()} rows have no {competition.id_column}")
    _refuse_duplicates(rows["image_id"], path)
    below = pd.Series("", index=rows.index)
    for text, field in template:
        below = below + text + (rows[field] if field else "")
    rows["below"] = below
    rows["path"] = f"{data_dir.resolve()}{os.sep}" + below
    _refuse_missing(rows, path)
    return rows, path


def _list_images(part: Part, data_dir: Path) -> tuple[pd.DataFrame, Path]:
    below = sorted(path.relative_to(data_dir).as_posix() for path in data_dir.glob(part.images) if path.is_file())
    if not below:
        raise FileNotFoundError(f"no file matches {data_dir / part.images}; give the data's folder with --data-dir")
    rows = pd.DataFrame({"below": below})
    rows["image_id"] = rows["below"]  # the whole path, since class folders may hold files of the same name
    rows["path"] = f"{data_dir.resolve()}{os.sep}" + rows["below"]
    return rows, data_dir / part.images


def _need_columns(rows: pd.DataFrame, columns: list[str], path: Path) -> None:
    missing = [column for column in columns if column not in rows]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(map(repr, missing))}; it has "
                         f"{', '.join(map(repr, rows.columns))}: mend the description in competition.py")


def _refuse_duplicates(ids: pd.Series, path: Path) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(f"{path}: {len(repeated)} ids stand there more than once, for example "
                         f"{', '.join(repeated[:5])}; every image must have one row")


def _refuse_missing(rows: pd.DataFrame, path: Path) -> None:
    """Every image must be there. Folders are listed once, since asking for 200,000 files one by one is slow."""
    folders = rows["path"].map(os.path.dirname)
    present = {entry.path for folder in folders.unique() if Path(folder).is_dir()
               for entry in os.scandir(folder) if entry.is_file()}
    missing = rows.loc[~rows["path"].isin(present), ["image_id", "path"]]
    if len(missing):
        raise FileNotFoundError(f"{len(missing)} of the {len(rows)} images in {path} have no file; the first is "
                                f"{missing['image_id'].iloc[0]!r}, looked for at {missing['path'].iloc[0]}")


def _groups(competition: Competition, rows: pd.DataFrame, data_dir: Path, where: Path, part: str) -> pd.Series:
    if competition.group_pattern:
        return _find(competition.group_pattern, rows["below"], where)
    if competition.group_column and (part == "train" or competition.group_column in rows):
        _need_columns(rows, [competition.group_column], where)
        groups = rows[competition.group_column]
        if (blank := groups.str.strip() == "").any():
            raise ValueError(f"{where}: {blank.sum()} rows have no {competition.group_column!r}, the first is image "
                             f"{rows.loc[blank, 'image_id'].iloc[0]!r}; a blank patient cannot be kept in one fold")
        return groups.str.strip()  # or "7 " would be another patient than "7", in another fold
    return rows["image_id"]


def _test_groups(competition: Competition, data_dir: Path) -> set[str]:
    """The groups of the test part, where they are known."""
    column, test = competition.group_column, competition.test
    if competition.group_pattern is None and (
            column is None or test.table is None or column not in _read_csv(competition, data_dir / test.table)):
        return set()
    return set(read_part(competition, data_dir, "test")["group"])


def _find(pattern: str, below: pd.Series, where: Path) -> pd.Series:
    found = below.str.extract(pattern, expand=False)
    if found.isna().any():
        raise ValueError(f"{where}: the pattern {pattern!r} finds nothing in {found.isna().sum()} paths, the first is "
                         f"{below[found.isna()].iloc[0]!r}; mend the description in competition.py")
    return found


def _label_cells(competition: Competition, rows: pd.DataFrame, where: Path) -> np.ndarray:
    """(N, K) label cells from columns, from one joined column or out of the path."""
    if competition.label_pattern:
        texts = _find(competition.label_pattern, rows["below"], where)
        meaning = dict(competition.pattern_labels) or {label: label for label in competition.labels}
        if strangers := set(texts) - set(meaning):
            raise ValueError(f"{where}: the paths name the labels {sorted(strangers)}, which pattern_labels does not "
                             f"explain; mend the description in competition.py")
        return _one_hot(competition, rows, [{meaning[text]} - {""} for text in texts], where)
    if competition.joined_column:
        _need_columns(rows, [competition.joined_column], where)
        cells = rows[competition.joined_column]
        names = [set(filter(None, map(str.strip, cell.split(competition.joined_by)))) for cell in cells]
        known = {*competition.labels, *competition.ignored_labels}
        for image_id, found in zip(rows["image_id"], names, strict=True):
            if not found <= known:
                raise ValueError(f"{where}: image {image_id!r} has the unknown label {sorted(found - known)[0]!r} in "
                                 f"{competition.joined_column!r}; add it to labels or ignored_labels in competition.py")
        return _one_hot(competition, rows, names, where)
    return _cells_of_columns(competition, rows, where)


def _one_hot(competition: Competition, rows: pd.DataFrame, names: list[set[str]], where: Path) -> np.ndarray:
    cells = np.array([[label in found for label in competition.labels] for found in names], np.float64)
    if competition.task == "multiclass":
        _refuse_not_one_class(rows["image_id"], cells, where)
    return cells


def _refuse_not_one_class(image_ids: pd.Series, cells: np.ndarray, where: Path) -> None:
    if (wrong := (cells == 1).sum(axis=1) != 1).any():
        raise ValueError(f"{where}: {wrong.sum()} images do not have exactly one class, the first is "
                         f"{image_ids[wrong].iloc[0]!r}; mend the rows, or say task='multilabel' in competition.py")


def _cells_of_columns(competition: Competition, rows: pd.DataFrame, where: Path) -> np.ndarray:
    columns = list(label_columns(competition))
    _need_columns(rows, columns, where)
    cells = np.empty((len(rows), len(columns)))
    for k, column in enumerate(columns):
        texts = rows[column].str.strip()
        strange = ~texts.isin(CELLS)
        if strange.any():
            raise ValueError(f"{where}: column {column!r} holds {texts[strange].iloc[0]!r} for the image "
                             f"{rows.loc[strange, competition.id_column].iloc[0]!r}; a label cell is 1, 0, -1 "
                             f"(uncertain) or empty")
        cells[:, k] = texts.map(CELLS).to_numpy(np.float64)
    if competition.task == "multiclass":
        _refuse_not_one_class(rows[competition.id_column], cells, where)
    return cells
