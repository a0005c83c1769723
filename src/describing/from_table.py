"""Describes a competition whose labels are in a table: labels, parts, groups, submission."""

import re

import pandas as pd

from data.tables import CELLS, SHORT, split_labels
from describing.findings import Findings, TableInfo, distinct_texts, wanted_columns
from describing.groups import find_groups
from describing.image_paths import ImageIndex
from describing.inventory import Inventory, Table
from describing.label_columns import LABEL_NAME, VIEW_NAME, is_other, label_fields
from describing.parts import find_parts

YES_NO = ({"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"positive", "negative"}, {"pos", "neg"},
          {"present", "absent"})
READER_NAME = re.compile(r"^(rad|reader|annotator|rater|doctor|expert)", re.IGNORECASE)


def find_train(infos: list[TableInfo], sample: TableInfo | None) -> TableInfo | None:
    """The table whose labels are trained on; None where no table names images and has labels.

    Preferred is a table with the columns of the submission, with "train" in its name, that names many images.
    """
    wanted = wanted_columns(sample)

    def score(info: TableInfo) -> tuple:
        name = info.table.path.lower()
        return (8 * all(column in info.rows for column in wanted) * bool(wanted) + 4 * (info.role == "train")
                + 2 * bool(re.search(r"label|truth|ground|metadata|data_entry|class", name))
                - 6 * bool(re.search(r"bbox|box|annot|segment|mask|detail", name)) - 2 * info.role.startswith("val"),
                info.location.found)

    usable = [info for info in infos if info.labels and info.role not in ("sample", "solution", "test")]
    return max(usable, key=score, default=None)


def describe_table(inventory: Inventory, index: ImageIndex, infos: list[TableInfo], train: TableInfo,
                   sample: TableInfo | None, findings: Findings) -> dict:
    """The fields of a competition whose labels are in the table `train`."""
    rows, ids = train.rows, train.rows[train.column]
    findings.decide("train", train.table.path, f"names {train.location.found} images and has label columns")
    findings.decide("id_column", train.column, f"its cells name images: {train.location.images}")
    if train.table.flaw:
        findings.ask(f"{train.table.path}: {train.table.flaw}. Reading raises an error on it. Can you download it "
                     "again or correct it?")
    if not train.table.whole:
        findings.ask(f"Only the first {len(rows)} rows of {train.table.path} were read. Do the other rows look the "
                     "same?")
    if train.table.header:
        findings.ask(f"{train.table.path} has no header. Its columns were named {', '.join(train.table.header)}. Are "
                     "these names right?")
    _ask_place(train, findings)
    if "_" in train.location.images.rpartition("}")[2]:
        _ask_suffixes(index, rows, train, findings)
    fields = {"id_column": train.column, **label_fields(inventory, rows, ids, train.labels, findings)}
    files = train.files() | {"images": train.location.images}
    if ids.duplicated().any():
        files["repeated_rows"] = "any"
        _ask_repeated(rows, ids, train, findings)
    if missing := train.location.missing:
        few = len(missing) <= 20 and len(missing) <= 0.05 * train.location.found
        files["exclude_ids"] = missing if few else ()
        findings.ask(f"{len(missing)} ids of {train.table.path} have no image; the first is {missing[0]!r}. "
                     + ("Are they lost? They are left out (exclude_ids)." if few else
                        "Is the download complete? Reading raises an error on them."))
    if train.labels.kind == "single" and fields["task"] != "multilabel" and "label_list_column" in fields:
        column = train.labels.columns[0]
        if blank := int((rows[column].str.strip() == "").sum()):
            files["row_filter"] = ((column, tuple(text for text in rows[column].unique() if text.strip())),)
            findings.ask(f"{blank} rows have no `{column}`; they are left out (row_filter). Is that right?")
    files = _join_tables(infos, train, files, findings)
    fields |= find_parts(inventory, infos, train, sample, files, findings)
    _ask_unnamed(inventory, train, fields, findings)
    fields |= _find_submission(sample, infos, train, fields, findings)
    fields |= find_groups(inventory, infos, train, fields, findings)
    _ask_columns(train, findings)
    _ask_others(infos, sample, fields, findings)
    return fields


def _ask_unnamed(inventory: Inventory, train: TableInfo, fields: dict, findings: Findings) -> None:
    """Asks about images in the training part's folder that no row names."""
    folder, _, suffix = train.location.images.rpartition("/")
    test = fields.get("test")
    if "{" in folder or "_" in suffix.rpartition("}")[2] or (test and test.images.rpartition("/")[0] == folder):
        return
    pattern = re.compile(re.escape(folder).replace(r"\*", "[^/]*"))
    there = sum(len(names) for below, names in inventory.images.items() if pattern.fullmatch(below))
    if there > train.location.found and train.table.whole and len(fields["train"]) == 1:
        findings.ask(f"{there - train.location.found} of the {there} images in {folder or 'the folder'} are in no "
                     f"row of {train.table.path}. Should they stay unused?")


def _ask_place(train: TableInfo, findings: Findings) -> None:
    if train.location.copies:
        findings.ask(f"The same images are also at {', '.join(train.location.copies)}. Are these copies, other sizes "
                     f"or masks? {train.location.images} is used.")
    images = train.location.images
    if "*" in images.rpartition("/")[0]:
        findings.decide("images", images, "the images are in several folders")
    if images.endswith(".*"):
        findings.decide("images", images, "the files have several extensions")


def _ask_suffixes(index: ImageIndex, rows: pd.DataFrame, train: TableInfo, findings: Findings) -> None:
    suffixes = sorted({suffix for _, suffix in index.prefixes.get(rows[train.column].iloc[0], ())})
    if len(suffixes) > 1:
        findings.ask(f"Every id has {len(suffixes)} files ({', '.join(suffixes)}). A description reads one file per "
                     f"image: {train.location.images} is used. Should the files be combined beforehand, for example "
                     "as colour channels of one image?")


def _ask_repeated(rows: pd.DataFrame, ids: pd.Series, train: TableInfo, findings: Findings) -> None:
    reader = next((column for column in rows if READER_NAME.match(column) and rows[column].nunique() > 1), None)
    findings.decide("repeated_rows", "any", f"{ids.duplicated().sum()} rows repeat the id of an earlier row")
    readers = f", although `{reader}` names {rows[reader].nunique()} readers who may disagree" if reader else ""
    findings.ask(f"{train.table.path} has up to {ids.value_counts().iloc[0]} rows per image. Should an image get every "
                 f"label that any of its rows has? As written, it does{readers}.")


def _join_tables(infos: list[TableInfo], train: TableInfo, files: dict, findings: Findings) -> dict:
    """The Part's fields with other tables joined that have exactly the same ids and no contradicting cells."""
    ids = set(train.rows[train.column])
    tables = [files["table"]]
    for info in infos:
        other = info.rows
        if (info is train or info.role in ("sample", "solution", "test") or train.column not in other
                or info.table.header != train.table.header or info.table.separator != train.table.separator
                or info.table.flaw or other[train.column].duplicated().any()
                or set(other[train.column]) != ids):
            continue
        first = train.rows.drop_duplicates(train.column).set_index(train.column)
        second = other.set_index(train.column).loc[first.index]
        both = first.columns.intersection(second.columns)
        if (first[both].replace(SHORT) == second[both].replace(SHORT)).all(axis=None):
            tables.append(info.table.path)
            findings.decide("table", info.table.path,
                            "has the same ids and adds "
                            f"{', '.join(second.columns.difference(first.columns, sort=False))}")
            merged = train.rows.merge(other[[train.column, *other.columns.difference(train.rows.columns, sort=False)]],
                                      on=train.column)
            train.table = Table(train.table.path, merged, train.table.header, train.table.separator)
        else:
            findings.ask(f"{info.table.path} has the same ids as {train.table.path} but different values. Which is "
                         "right?")
    return files | {"table": tuple(tables) if len(tables) > 1 else tables[0]}


def _find_submission(sample: TableInfo | None, infos: list[TableInfo], train: TableInfo, fields: dict,
                     findings: Findings) -> dict:
    found = {}
    for info in infos:
        columns = {fields.get("label_list_column")} if fields.get("label_list_column") else set(fields["labels"])
        if info.role == "solution" and train.column in info.rows and columns <= set(info.rows):
            found["solution"] = info.table.path
            findings.decide("solution", info.table.path, "has ids, labels and perhaps Usage; used for reporting only")
    if sample is None:
        findings.ask("There is no sample submission. What must be submitted, if anything?")
        return found
    path, wanted = sample.table.path, [column for column in sample.rows if column != train.column]
    if train.column not in sample.rows:
        findings.ask(f"{path} has the ids `{sample.rows.columns[0]}`, not `{train.column}`. What is one of its rows "
                     "about? A description cannot express it; predictions must be converted by hand.")
        return found
    cells = sample.rows[wanted]
    joined, labels = fields.get("label_list_column"), fields["labels"]
    if joined is None and set(labels) <= set(wanted) or (set(labels) == set(wanted)):
        found |= {"sample_submission": path, "submission": numbers_wanted(cells[list(labels)], path, findings)}
    elif len(wanted) == 1 and joined and _holds_labels(cells[wanted[0]], fields):
        findings.decide("submission", "text", f"`{wanted[0]}` in {path} holds labels in the format of `{joined}`")
        found |= {"sample_submission": path, "submission": "text"}
        found |= {} if wanted[0] == joined else {"submission_column": wanted[0]}
    elif len(wanted) == 1 and len(labels) == 1 and cells[wanted[0]].str.fullmatch(r"[01](\.\d+)?").all():
        found |= {"sample_submission": path, "label_columns": (wanted[0],),
                  "submission": numbers_wanted(cells, path, findings)}
        if joined is None:
            texts = distinct_texts(train.rows[labels[0]])
            found |= {"label_list_column": labels[0],
                      "label_map": tuple((text, labels[0] if CELLS.get(text) == 1 else "") for text in texts)}
            findings.ask(f"{path} has a column `{wanted[0]}` where the labels have `{labels[0]}`. Is it the same?")
    else:
        example = sample.rows[wanted[0]].iloc[0] if wanted and len(sample.rows) else ""
        findings.ask(f"{path} asks for `{', '.join(wanted)}` ({example!r}), which is no label of an image; boxes or "
                     "several rows, perhaps. A description cannot express it; predictions must be converted by "
                     "hand. What is it?")
    return found


def _holds_labels(cells: pd.Series, fields: dict) -> bool:
    known = {text for text, _ in fields.get("label_map") or ()} or set(fields["labels"])
    known |= set(fields.get("ignored_labels", ()))
    separator = fields.get("label_separator", "|")
    return all(text in known or all(name in known for name in split_labels(text, separator))
               for text in cells.str.strip().unique())


def numbers_wanted(cells: pd.DataFrame, path: str, findings: Findings) -> str:
    """The field `submission`, "probs" or "labels", by the cells of a sample submission."""
    texts = set(cells.to_numpy().ravel())
    if any(re.search(r"\.\d*[1-9]", text) for text in texts):
        findings.decide("submission", "probs", f"the cells of {path} are fractions")
        return "probs"
    if len(texts) > 1:
        findings.decide("submission", "labels", f"the cells of {path} are 0 and 1")
        findings.ask(f"The cells of {path} are 0 and 1. Should a submission hold hard labels or probabilities?")
        return "labels"
    findings.decide("submission", "probs", "the default, because all cells of the sample are equal")
    findings.ask(f"All cells of {path} are {' '.join(texts) or 'absent'}. Should a submission hold probabilities "
                 "(submission='probs', as written) or hard labels (submission='labels')? The metric decides.")
    return "probs"


# ---- questions about columns and files


def _ask_columns(train: TableInfo, findings: Findings) -> None:
    rows = train.rows
    for column in rows.columns:
        values = [text for text in distinct_texts(rows[column]) if text]
        if VIEW_NAME.search(column) and 2 <= len(values) <= 12:
            counts = rows[column].str.strip().value_counts()
            findings.ask(f"`{column}` holds {', '.join(f'{value} ({counts[value]})' for value in values)}. Should "
                         f"training use all of them, as written, or one kind: row_filter=(({column!r}, "
                         f"({counts.index[0]!r},)),)?")
    labels = rows[list(train.labels.columns)]
    for column in rows.columns.drop([train.column, *labels.columns]):
        texts = [text for text in distinct_texts(rows[column]) if text]
        if len(texts) == 2 and {text.lower() for text in texts} in YES_NO:
            findings.ask(f"`{column}` holds {' and '.join(texts)}. Is it a label too? It is left out. To add it, "
                         "write 1 and 0 in the file.")
        if len(labels.columns) == 1 and LABEL_NAME.match(column) and not is_other(column):
            findings.ask(f"`{column}` looks like a label as well ({', '.join(distinct_texts(rows[column])[:5])}). Is "
                      f"`{labels.columns[0]}` the one to predict?")


def _ask_others(infos: list[TableInfo], sample: TableInfo | None, fields: dict, findings: Findings) -> None:
    used = {name for part in ("test", "official_validation") if fields.get(part) for name in fields[part].tables}
    used |= {name for part in fields["train"] for name in part.tables} | {fields.get("solution")}
    for info in infos:
        if info.table.path in used or info is sample:
            continue
        if info.location:
            several = ", several per image" if info.rows[info.column].duplicated().any() else ""
            findings.ask(f"{info.table.path} ({', '.join(info.rows.columns[:6])}) also has rows for "
                         f"{info.location.found} of the images{several}, and is not used. Is it needed?")
