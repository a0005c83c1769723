"""A competition whose labels stand in a table: its parts, its submission, and what else lies beside."""

import re

import pandas as pd

from competition import Part
from data.tables import CELLS, SHORT
from describing.inventory import ImageIndex, Inventory, Table
from describing.label_columns import (
    LABEL_NAME,
    PARTS,
    VIEW_NAME,
    Findings,
    TableInfo,
    distinct_texts,
    find_groups,
    glob_part,
    is_other,
    label_fields,
    split_labels,
    wanted_columns,
)

YES_NO = ({"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"positive", "negative"}, {"pos", "neg"},
          {"present", "absent"})
READER_NAME = re.compile(r"^(rad|reader|annotator|rater|doctor|expert)", re.IGNORECASE)


def find_train(infos: list[TableInfo], sample: TableInfo | None) -> TableInfo | None:
    """The table whose labels are trained on: has what a submission asks for, is called so, names most images."""
    wanted = wanted_columns(sample)

    def score(info: TableInfo) -> tuple:
        name = info.table.path.lower()
        return (8 * all(column in info.rows for column in wanted) * bool(wanted) + 4 * (info.role == "train")
                + 2 * bool(re.search(r"label|truth|ground|metadata|data_entry|class", name))
                - 6 * bool(re.search(r"bbox|box|annot|segment|mask|detail", name)) - 2 * info.role.startswith("val"),
                info.location.found)

    usable = [info for info in infos if info.labels and info.role not in ("sample", "solution", "test")]
    return max(usable, key=score, default=None)


def describe_table(inventory: Inventory, index: ImageIndex, infos: list[TableInfo], train: TableInfo, sample: TableInfo | None,
                   findings: Findings) -> dict:
    """The fields of a competition whose labels stand in a table."""
    rows, ids = train.rows, train.rows[train.column]
    findings.decide("train", train.table.path, f"names {train.location.found} images and has label columns")
    findings.decide("id_column", train.column, f"its cells name images: {train.location.images}")
    if train.table.flaw:
        findings.ask(f"{train.table.path}: {train.table.flaw}; reading will refuse it. Can you fetch it again or mend it?")
    if not train.table.whole:
        findings.ask(f"Only the first {len(rows)} rows of {train.table.path} were looked at. Are the others alike?")
    if train.table.header:
        findings.ask(f"{train.table.path} has no header; its columns were called {', '.join(train.table.header)}. Is that "
                  f"what they are?")
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
        findings.ask(f"{len(missing)} ids of {train.table.path} have no image, the first is {missing[0]!r}. "
                  + ("Are they lost? They are left out (exclude_ids)." if few else
                     "Is the download complete? Reading will refuse them."))
    if train.labels.kind == "single" and fields["task"] != "multilabel" and "label_list_column" in fields:
        column = train.labels.columns[0]
        if blank := int((rows[column].str.strip() == "").sum()):
            files["row_filter"] = ((column, tuple(text for text in rows[column].unique() if text.strip())),)
            findings.ask(f"{blank} rows have no `{column}`. Why? They are left out (row_filter).")
    files = _join_tables(infos, train, files, findings)
    fields |= _find_parts(inventory, infos, train, sample, files, findings)
    _ask_unnamed(inventory, train, fields, findings)
    fields |= _find_submission(sample, infos, train, fields, findings)
    fields |= find_groups(inventory, infos, train, fields, findings)
    _ask_columns(train, findings)
    _ask_others(infos, sample, fields, findings)
    return fields


def _ask_unnamed(inventory: Inventory, train: TableInfo, fields: dict, findings: Findings) -> None:
    """Images beside those of the training part that no row is about."""
    folder, _, suffix = train.location.images.rpartition("/")
    test = fields.get("test")
    if "{" in folder or "_" in suffix.rpartition("}")[2] or (test and test.images.rpartition("/")[0] == folder):
        return
    pattern = re.compile(re.escape(folder).replace(r"\*", "[^/]*"))
    there = sum(len(names) for below, names in inventory.images.items() if pattern.fullmatch(below))
    if there > train.location.found and train.table.whole and isinstance(fields["train"], Part):
        findings.ask(f"{there - train.location.found} of the {there} images in {folder or 'the folder'} stand in no row of "
                  f"{train.table.path}. Are they to be left alone?")


def _ask_place(train: TableInfo, findings: Findings) -> None:
    if train.location.copies:
        findings.ask(f"The same images also stand at {', '.join(train.location.copies)}. Are those copies, other sizes or "
                  f"masks? {train.location.images} is taken.")
    images = train.location.images
    if "*" in images.rpartition("/")[0]:
        findings.decide("images", images, "the images are spread over several folders")
    if images.endswith(".*"):
        findings.decide("images", images, "the files have several endings")


def _ask_suffixes(index: ImageIndex, rows: pd.DataFrame, train: TableInfo, findings: Findings) -> None:
    suffixes = sorted({suffix for _, suffix in index.prefixes.get(rows[train.column].iloc[0], ())})
    if len(suffixes) > 1:
        findings.ask(f"Every id has {len(suffixes)} files ({', '.join(suffixes)}). A description reads one file an image: "
                  f"{train.location.images} is taken. Would files put together beforehand, as colours of one image, be "
                  f"better?")


def _ask_repeated(rows: pd.DataFrame, ids: pd.Series, train: TableInfo, findings: Findings) -> None:
    reader = next((column for column in rows if READER_NAME.match(column) and rows[column].nunique() > 1), None)
    findings.decide("repeated_rows", "any", f"{ids.duplicated().sum()} rows are about images that stand there before")
    findings.ask(f"Images have up to {ids.value_counts().iloc[0]} rows in {train.table.path}. Does an image have what any "
              f"of its rows says? It is taken so"
              + (f", though `{reader}` names {rows[reader].nunique()} readers who may disagree." if reader else "."))


def _join_tables(infos: list[TableInfo], train: TableInfo, files: dict, findings: Findings) -> dict:
    """Joins tables about exactly the same ids that agree with this one."""
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
            findings.decide("table", info.table.path, f"is about the same ids, and adds "
                                                  f"{', '.join(second.columns.difference(first.columns, sort=False))}")
            merged = train.rows.merge(other[[train.column, *other.columns.difference(train.rows.columns, sort=False)]],
                                      on=train.column)
            train.table = Table(train.table.path, merged, train.table.header, train.table.separator)
        else:
            findings.ask(f"{info.table.path} is about the same ids but disagrees with {train.table.path}. Which is right?")
    return files | {"table": tuple(tables) if len(tables) > 1 else tables[0]}


# ---- parts


def _find_parts(inventory: Inventory, infos: list[TableInfo], train: TableInfo, sample: TableInfo | None, files: dict,
                findings: Findings) -> dict:
    """The fields train, test and official_validation."""
    if split := _find_split(train.rows):
        return _split_parts(train.rows, split, files, findings)
    if listed := _listed_parts(inventory, train, files, findings):
        return listed
    parts, trains = {}, [Part(**files)]
    columns = set(train.labels.columns)
    for info in infos:
        if info.role == "valid" and info.location and info is not train and columns <= set(info.rows) and (
                info.column == train.column):
            part = Part(**info.files(), images=info.location.images,
                        repeated_rows="any" if info.rows[info.column].duplicated().any() else "error")
            if _is_read_otherwise(train, info, train.labels.columns):
                parts["official_validation"] = part
                findings.decide("official_validation", info.table.path,
                             "a validation part without the training part's uncertain or blank cells, so read by other "
                             "people")
                findings.ask(f"{info.table.path} looks better read than {train.table.path}. Keep it apart, predicted and "
                          f"reported only, or put it with the training part?")
            else:
                trains.append(part)
                findings.decide("train", info.table.path, "an official validation part, put with the training part")
                findings.ask(f"{info.table.path} is put with the training part, since folds validate. Or keep it apart as "
                          f"`official_validation`?")
    parts["train"] = trains[0] if len(trains) == 1 else tuple(trains)
    if test := _find_test(inventory, infos, train, sample, findings):
        parts["test"] = test
    return parts


def _is_read_otherwise(train: TableInfo, valid: TableInfo, columns: tuple[str, ...]) -> bool:
    def hedged(rows: pd.DataFrame) -> bool:
        return rows[list(columns)].isin(("", "-1", "-1.0")).to_numpy().any()

    return train.labels.kind == "columns" and hedged(train.rows) and not hedged(valid.rows)


def _find_split(rows: pd.DataFrame) -> str | None:
    """A column that says train, valid and test."""
    for column in rows.columns:
        values = {text.strip().lower() for text in rows[column].unique()}
        if 1 < len(values) <= 4 and values <= set(PARTS) and {"train", "training"} & values:
            return column
    return None


def _split_parts(rows: pd.DataFrame, column: str, files: dict, findings: Findings) -> dict:
    of = {text: PARTS[text.strip().lower()] for text in rows[column].unique()}
    train = tuple(text for text in of if of[text] != "test")
    test = tuple(text for text in of if of[text] == "test")
    findings.decide("train, test", f"`{column}` in {train}, {test}", f"the column `{column}` says the part")
    if "valid" in of.values():
        findings.ask(f"Is the validation part of `{column}` to be put with the training part, as it is here, since folds "
                  f"validate; or kept apart as `official_validation`?")
    where = files.get("row_filter", ())
    parts = {"train": Part(**files | {"row_filter": (*where, (column, train))})}
    if test:
        parts["test"] = Part(**files | {"row_filter": (*where, (column, test))})
    return parts


def _listed_parts(inventory: Inventory, train: TableInfo, files: dict, findings: Findings) -> dict:
    """Parts out of text files of ids."""
    ids, lists = set(train.rows[train.column]), {}
    for path, words in inventory.lists.items():
        if words and sum(word in ids for word in words) >= 0.9 * len(words):
            name = path.rpartition("/")[2].lower()
            part = "test" if re.search(r"(?<![a-z])test", name) else (
                "train" if "train" in name else "valid" if re.search(r"(?<![a-z])val", name) else "")
            if part:
                lists.setdefault(part, path)
                if unknown := len(words) - sum(word in ids for word in words):
                    findings.ask(f"{unknown} ids of {path} are not in {train.table.path}; reading will refuse that. "
                              f"Which is right?")
    if "train" not in lists:
        return {}
    for part, path in lists.items():
        findings.decide("train" if part == "valid" else part, path, "a list of ids")
    trains = tuple(Part(**files, id_list=lists[part]) for part in ("train", "valid") if part in lists)
    if len(trains) > 1:
        findings.ask(f"{lists['valid']} is put with the training part, since folds validate. Or keep it apart as "
                  f"`official_validation`?")
    parts = {"train": trains if len(trains) > 1 else trains[0]}
    if "test" in lists:
        parts["test"] = Part(**files, id_list=lists["test"])
    return parts


def _find_test(inventory: Inventory, infos: list[TableInfo], train: TableInfo, sample: TableInfo | None,
               findings: Findings) -> Part | None:
    column, training = train.column, set(train.rows[train.column])
    tables = [info for info in infos if info.role == "test"] + ([sample] if sample else [])
    for info in tables:
        if info.location is None or info.column != column:
            continue
        if info.location.missing:
            findings.ask(f"{len(info.location.missing)} of {len(set(info.rows[column]))} ids of {info.table.path} have no "
                      f"image, the first is {info.location.missing[0]!r}. Is the download complete?")
        labelled = info.role == "test" and set(train.labels.columns) <= set(info.rows) and _have_labels(train, info)
        findings.decide("test", info.table.path, f"names {info.location.found} images at {info.location.images}; "
                     + ("its labels are known" if labelled else "its labels are not known"))
        if labelled:
            findings.ask(f"{info.table.path} has labels. Are they the truth, and not placeholders?")
        if shared := len(training & set(info.rows[column])):
            findings.ask(f"{shared} ids of {info.table.path} are training ids too. Are they other images?")
        repeated = "any" if info.rows[column].duplicated().any() else "error"
        return Part(**info.files(), images=info.location.images, labelled=labelled, repeated_rows=repeated)
    for info in tables:
        findings.ask(f"{info.table.path} does not name images by `{column}` "
                  f"({', '.join(map(repr, info.rows.columns[:6]))}). How are its rows about images?")
    return unlisted_test_part(inventory, train.location.images.rpartition("/")[0], findings)


def _have_labels(train: TableInfo, test: TableInfo) -> bool:
    """True where the cells are no placeholders: they differ, and are of the training part's kind."""
    cells = test.rows[list(train.labels.columns)]
    kinds = {text for column in train.labels.columns for text in train.rows[column].unique()}
    return bool((cells.nunique() > 1).any() and cells.isin(kinds).mean(axis=None) > 0.5)


def unlisted_test_part(inventory: Inventory, train_folder: str, findings: Findings) -> Part | None:
    """Test images that no table names, in a folder that is not the training part's."""
    for folder, names in inventory.images.items():
        if re.search(r"(?<![a-z])test", folder.lower()) and folder != train_folder:
            part = glob_part(inventory, folder, names, findings, labelled=False)
            findings.decide("test", part.images, "a folder of that name; no table names its images")
            findings.ask(f"No table names the images in {folder}/. Is it the test part? Its ids are the paths, as "
                      f"described here.")
            return part
    return None


def _find_submission(sample: TableInfo | None, infos: list[TableInfo], train: TableInfo, fields: dict,
                     findings: Findings) -> dict:
    found = {}
    for info in infos:
        columns = {fields.get("label_list_column")} if fields.get("label_list_column") else set(fields["labels"])
        if info.role == "solution" and train.column in info.rows and columns <= set(info.rows):
            found["solution"] = info.table.path
            findings.decide("solution", info.table.path, "has ids, labels and perhaps Usage; only reported")
    if sample is None:
        findings.ask("There is no sample submission. What must be handed in, if anything?")
        return found
    path, wanted = sample.table.path, [column for column in sample.rows if column != train.column]
    if train.column not in sample.rows:
        findings.ask(f"{path} asks for `{sample.rows.columns[0]}` and not for `{train.column}`. What is a row of it "
                  f"about? That cannot be described; predictions must be turned into it by hand.")
        return found
    cells = sample.rows[wanted]
    joined, labels = fields.get("label_list_column"), fields["labels"]
    if joined is None and set(labels) <= set(wanted) or (set(labels) == set(wanted)):
        found |= {"sample_submission": path, "submission": numbers_wanted(cells[list(labels)], path, findings)}
    elif len(wanted) == 1 and joined and _says_labels(cells[wanted[0]], fields):
        findings.decide("submission", "text", f"`{wanted[0]}` in {path} says labels as `{joined}` does")
        found |= {"sample_submission": path, "submission": "text"}
        found |= {} if wanted[0] == joined else {"submission_column": wanted[0]}
    elif len(wanted) == 1 and len(labels) == 1 and cells[wanted[0]].str.fullmatch(r"[01](\.\d+)?").all():
        found |= {"sample_submission": path, "label_columns": (wanted[0],),
                  "submission": numbers_wanted(cells, path, findings)}
        if joined is None:
            texts = distinct_texts(train.rows[labels[0]])
            found |= {"label_list_column": labels[0],
                      "label_map": tuple((text, labels[0] if CELLS.get(text) == 1 else "") for text in texts)}
            findings.ask(f"{path} calls `{labels[0]}` `{wanted[0]}`. Is it the same?")
    else:
        example = sample.rows[wanted[0]].iloc[0] if wanted and len(sample.rows) else ""
        findings.ask(f"{path} asks for `{', '.join(wanted)}` ({example!r}): boxes, several rows or something else that is "
                  f"no label of an image? That cannot be described; predictions must be turned into it by hand.")
    return found


def _says_labels(cells: pd.Series, fields: dict) -> bool:
    known = {text for text, _ in fields.get("label_map") or ()} or set(fields["labels"])
    known |= set(fields.get("ignored_labels", ()))
    separator = fields.get("label_separator", "|")
    return all(text in known or all(name in known for name in split_labels(text, separator))
               for text in cells.str.strip().unique())


def numbers_wanted(cells: pd.DataFrame, path: str, findings: Findings) -> str:
    """probs or labels, by the cells of a sample submission."""
    texts = set(cells.to_numpy().ravel())
    if any(re.search(r"\.\d*[1-9]", text) for text in texts):
        findings.decide("submission", "probs", f"the cells of {path} are no whole numbers")
        return "probs"
    if len(texts) > 1:
        findings.decide("submission", "labels", f"the cells of {path} are 0 and 1")
        findings.ask(f"The cells of {path} are 0 and 1. Are hard labels wanted, or probabilities?")
        return "labels"
    findings.decide("submission", "probs", "the usual; the sample's cells are all the same")
    findings.ask(f"All cells of {path} are {' '.join(texts) or 'absent'}. Are probabilities wanted (submission='probs', "
              f"as written), or hard labels (submission='labels')? The metric decides.")
    return "probs"


# ---- questions about columns and files


def _ask_columns(train: TableInfo, findings: Findings) -> None:
    rows = train.rows
    for column in rows.columns:
        values = [text for text in distinct_texts(rows[column]) if text]
        if VIEW_NAME.search(column) and 2 <= len(values) <= 12:
            counts = rows[column].str.strip().value_counts()
            findings.ask(f"`{column}` holds {', '.join(f'{value} ({counts[value]})' for value in values)}. Train on all "
                      f"of them, as written, or on one kind: row_filter=(({column!r}, ({counts.index[0]!r},)),)?")
    labels = rows[list(train.labels.columns)]
    for column in rows.columns.drop([train.column, *labels.columns]):
        texts = [text for text in distinct_texts(rows[column]) if text]
        if len(texts) == 2 and {text.lower() for text in texts} in YES_NO:
            findings.ask(f"`{column}` holds {' and '.join(texts)}. Is it a label too? It is left out: write 1 and 0 in "
                      f"their place, and it is one column of labels more.")
        if len(labels.columns) == 1 and LABEL_NAME.match(column) and not is_other(column):
            findings.ask(f"`{column}` looks like a label as well ({', '.join(distinct_texts(rows[column])[:5])}). Is "
                      f"`{labels.columns[0]}` the one to predict?")


def _ask_others(infos: list[TableInfo], sample: TableInfo | None, fields: dict, findings: Findings) -> None:
    used = {name for part in ("test", "official_validation") if fields.get(part) for name in fields[part].tables}
    trains = fields["train"] if isinstance(fields["train"], tuple) else (fields["train"],)
    used |= {name for part in trains for name in part.tables} | {fields.get("solution")}
    for info in infos:
        if info.table.path in used or info is sample:
            continue
        if info.location:
            repeats = info.rows[info.column].duplicated().any()
            findings.ask(f"{info.table.path} ({', '.join(info.rows.columns[:6])}) is about {info.location.found} of the images "
                      f"too" + (", several rows an image" if repeats else "") + ", and is not used. Is it needed?")
