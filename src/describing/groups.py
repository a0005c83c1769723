"""Which images are of one patient: a column, or a pattern in the paths."""

import re

import pandas as pd

from competition import Part
from data.metadata import column_words
from describing.findings import Findings, TableInfo
from describing.inventory import Inventory
from describing.label_columns import GROUP_NAMES, LABEL_NAME, VIEW_NAME, is_other

GROUP_PATTERNS = (r"(patient\d+)", r"(person\d+|IM-\d+)", r"(person\d+)", r"(IM-\d+)", r"/(\d+)_(?:left|right)\b",
                  r"/([^/]+?)[_-](?:left|right|L|R|OD|OS)\b", r"(subject[_-]?\d+)", r"(case[_-]?\d+)",
                  r"(TCGA-\w\w-\w{4})", r"/([^/]*\d[^/]*?)[_-]\d{1,4}\.\w+$")


def find_groups(inventory: Inventory, infos: list[TableInfo], train: TableInfo, fields: dict,
                findings: Findings) -> dict:
    """The fields group_column or group_pattern, and shared_groups where train and test share groups; may be empty."""
    others = [fields[part] for part in ("test", "official_validation") if fields.get(part) and fields[part].tables]

    def groups(part: Part, found: dict) -> set[str]:
        rows = _rows_of(inventory, infos, train, part)
        if pattern := found.get("group_pattern"):
            return set(_below(rows, part.images).str.extract(pattern, expand=False).dropna())
        return set(rows[found["group_column"]].str.strip()) if found["group_column"] in rows else set()

    if column := _group_column(train.rows, train, fields, findings):
        found = {"group_column": column}
    else:
        paths = [_below(_rows_of(inventory, infos, train, part), part.images) for part in (*fields["train"], *others)]
        pattern = find_group_pattern(paths[0], paths[1:], class_texts(fields))
        if pattern is None:
            findings.ask("No column or path identifies the patient (or lesion, slide, plant). Does anything else? "
                         "Without it every image is its own group, and scores are too high if a patient has several "
                         "images.")
            return {}
        found = {"group_pattern": pattern}
        decide_pattern(paths[0], pattern, findings)
    mine, theirs = (set().union(*(groups(part, found) for part in parts)) for parts in (fields["train"], others))
    return found | shared_fields(mine, theirs, "group_pattern" in found, findings)


def class_texts(fields: dict) -> tuple[str, ...]:
    """The labels, and the texts that mean them."""
    return *fields["labels"], *(text for text, _ in fields.get("label_map") or ())


def decide_pattern(below: pd.Series, pattern: str, findings: Findings) -> None:
    """Records that a pattern finds the patient in these paths, and asks whether it is right."""
    groups = below.str.extract(pattern, expand=False)
    findings.decide("group_pattern", pattern, f"{groups.nunique()} groups of {below.nunique()} images; "
                                           f"{groups.iloc[0]!r} out of {below.iloc[0]!r}")
    findings.ask(f"Is {groups.iloc[0]!r} in {below.iloc[0]!r} the patient? Images of one patient stay in one fold.")


def _rows_of(inventory: Inventory, infos: list[TableInfo], train: TableInfo, part: Part) -> pd.DataFrame:
    """The rows of the part's first table that the part keeps."""
    rows = train.rows if train.table.path in part.tables else next(
        info.rows for info in infos if info.table.path in part.tables)
    for name, values in part.row_filter:
        rows = rows[rows[name].isin(values)]
    return rows[rows[train.column].isin(inventory.lists[part.id_list])] if part.id_list else rows


def _below(rows: pd.DataFrame, images: str) -> pd.Series:
    """The paths as the description makes them."""
    below = pd.Series("", index=rows.index)
    for k, text in enumerate(re.split(r"\{([^{}]+)\}", images)):
        below = below + (rows[text] if k % 2 else text)
    return below


def shared_fields(train: set[str], test: set[str], by_pattern: bool, findings: Findings) -> dict:
    """The field shared_groups where groups of the test part are in the training part too, else no field.

    by_pattern: the groups come from paths, where the numbering may restart in the test part.
    """
    if not (shared := train & test):
        return {}
    restarts = by_pattern and len(shared) > 0.5 * len(test)
    findings.decide("shared_groups", "distinct" if restarts else "drop",
                    f"{len(shared)} of the {len(test)} groups of the test part are in the training part too"
                    + (": so many that the numbering seems to restart" if restarts else ""))
    findings.ask(f"{len(shared)} groups are in train and test, for example {sorted(shared)[0]!r}. Are they the same "
                 "patients ('drop' leaves them out of train), or does the numbering restart ('distinct')?")
    return {"shared_groups": "distinct" if restarts else "drop"}


def _group_column(rows: pd.DataFrame, train: TableInfo, fields: dict, findings: Findings) -> str | None:
    """The column that identifies patients, by its name; asks about columns whose cells repeat as patient ids do."""
    used = {*fields["labels"], fields.get("label_list_column"), *train.labels.columns}
    images = rows[train.column].nunique()
    firsts = rows.drop_duplicates(train.column)
    named = [column for word in GROUP_NAMES for column in rows.columns
             if word in column_words(column)]
    for column in dict.fromkeys(named):
        values = firsts[column].str.strip()
        if column in used or VIEW_NAME.search(column) or is_other(column):
            continue
        if column == train.column or values.nunique() == images:
            findings.ask(f"`{column}` is different for every image. Does every patient have one image, or does "
                         "something else identify patients?")
            continue
        if blank := int((values == "").sum()):
            findings.ask(f"`{column}` looks like the group but is blank for {blank} of {images} images, and reading "
                         "raises an error on blank groups. Should the blanks be filled, for example with the "
                         f"image's own id, and group_column={column!r} be set? As written, every image is its own "
                         f"group, which leaks if a {column} has several images.")
            continue
        findings.decide("group_column", column,
                        f"its name; {values.nunique()} values for {images} images, at most "
                        f"{values.value_counts().iloc[0]} of one")
        findings.ask(f"Is `{column}` the patient, or whatever else must stay in one fold?")
        return column
    for column in rows.columns.drop([train.column, *(used & set(rows))]):
        values = firsts[column].str.strip()
        if (not is_other(column) and not LABEL_NAME.match(column)
                and max(5, images / 20) < values.nunique() < 0.9 * images
                and not any("." in text for text in values.head(50)) and (values != "").all()):
            findings.ask(f"The cells of `{column}` repeat as patient ids do: {values.nunique()} values for {images} "
                         f"images. Is it the patient? Then set group_column={column!r}.")
    return None


def find_group_pattern(below: pd.Series, others: list[pd.Series] = (), classes: tuple[str, ...] = ()) -> str | None:
    """A regular expression that finds the patient in all these paths, several images of some; None without one.

    Where file names such as IM-0001 repeat in every folder, the folder is the patient; of several levels of folders, it
    is the uppermost whose names are not those of the `classes`.
    """
    count, names = below.nunique(), below.str.rpartition("/")[2].nunique()

    def fits(pattern: str, paths: pd.Series) -> bool:
        found = paths.str.extract(pattern, expand=False)
        if found.isna().any() or any(other.str.extract(pattern, expand=False).isna().any() for other in others):
            return False
        return max(3, count / 100) <= found.nunique() < count and not set(found) <= set(classes)

    if names <= 0.7 * count:
        folders = below.str.rpartition("/")[0] + "/"
        levels = [rf"^(?:[^/]+/){{{depth}}}([^/]+)/" for depth in range(int(below.str.count("/").min()))]
        if pattern := next((pattern for pattern in (*GROUP_PATTERNS, *levels) if fits(pattern, folders)), None):
            return pattern
    return next((pattern for pattern in GROUP_PATTERNS if fits(pattern, below)), None)
