"""The training, validation and test parts: tables, lists of ids, columns and folders that name them."""

import re

import pandas as pd

from competition import Part
from describing.findings import Findings, TableInfo
from describing.image_paths import find_non_images, glob_names
from describing.inventory import Inventory

PARTS = {"train": "train", "training": "train", "trainset": "train", "val": "valid", "valid": "valid",
         "validation": "valid", "dev": "valid", "test": "test", "testing": "test", "testset": "test"}


def glob_part(inventory: Inventory, folder: str, names: list[str], findings: Findings, labelled: bool = True) -> Part:
    """The part that consists of the files in a folder: a glob for these file names."""
    images = f"{folder}/{glob_names(names)}".lstrip("/")
    if special := re.search(r"[\[\]?]", folder):
        findings.ask(f"{folder} has {special[0]} in its name, which has a special meaning in a pattern. Can you "
                     "rename it?")
    others_found = find_non_images(inventory, images)
    if len(others_found) > 20:
        findings.ask(f"{len(others_found)} files that are no images match {images}; the first is {others_found[0]}. "
                     "Reading takes them for images. Can you move them elsewhere?")
        others_found = ()
    elif others_found:
        findings.decide("exclude_ids", ", ".join(others_found), f"no images, although {images} matches them")
    return Part(images=images, exclude_ids=others_found, labelled=labelled)


def find_parts(inventory: Inventory, infos: list[TableInfo], train: TableInfo, sample: TableInfo | None, files: dict,
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
            if _is_read_otherwise(train, info):
                parts["official_validation"] = part
                findings.decide("official_validation", info.table.path,
                                "a validation part without uncertain or blank cells, unlike the training part, so "
                                "other people labelled it")
                findings.ask(f"{info.table.path} seems to be labelled more carefully than {train.table.path}. Should "
                             "it stay apart, predicted and reported only, or be added to the training part?")
            else:
                trains.append(part)
                findings.decide("train", info.table.path, "an official validation part, added to the training part")
                findings.ask_kept_apart(info.table.path)
    parts["train"] = tuple(trains)
    if test := _find_test(inventory, infos, train, sample, findings):
        parts["test"] = test
    return parts


def _is_read_otherwise(train: TableInfo, valid: TableInfo) -> bool:
    """True where only the training part has uncertain or blank label cells."""
    hedged, certain = (info.rows[list(train.labels.columns)].isin(("", "-1", "-1.0")).any(axis=None)
                       for info in (train, valid))
    return train.labels.kind == "columns" and hedged and not certain


def _find_split(rows: pd.DataFrame) -> str | None:
    """A column of part names: train, valid, test; None where there is none."""
    for column in rows.columns:
        values = {text.strip().lower() for text in rows[column].unique()}
        if 1 < len(values) <= 4 and values <= set(PARTS) and {"train", "training"} & values:
            return column
    return None


def _split_parts(rows: pd.DataFrame, column: str, files: dict, findings: Findings) -> dict:
    of = {text: PARTS[text.strip().lower()] for text in rows[column].unique()}
    train = tuple(text for text in of if of[text] != "test")
    test = tuple(text for text in of if of[text] == "test")
    findings.decide("train, test", f"`{column}` in {train}, {test}", f"the column `{column}` names the part")
    if "valid" in of.values():
        findings.ask_kept_apart(f"The validation part of `{column}`")
    where = files.get("row_filter", ())
    parts = {"train": (Part(**files | {"row_filter": (*where, (column, train))}),)}
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
                    findings.ask(f"{unknown} ids of {path} are not in {train.table.path}; reading raises an error on "
                                 "them. Which file is right?")
    if "train" not in lists:
        return {}
    for part, path in lists.items():
        findings.decide("train" if part == "valid" else part, path, "a list of ids")
    trains = tuple(Part(**files, id_list=lists[part]) for part in ("train", "valid") if part in lists)
    if len(trains) > 1:
        findings.ask_kept_apart(lists["valid"])
    parts = {"train": trains}
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
            findings.ask(f"{len(info.location.missing)} of {len(set(info.rows[column]))} ids of {info.table.path} "
                         f"have no image; the first is {info.location.missing[0]!r}. Is the download complete?")
        labelled = info.role == "test" and set(train.labels.columns) <= set(info.rows) and _have_labels(train, info)
        findings.decide("test", info.table.path, f"names {info.location.found} images at {info.location.images}; "
                     + ("its labels are known" if labelled else "its labels are not known"))
        if labelled:
            findings.ask(f"{info.table.path} has labels. Are they true labels, not placeholders?")
        if shared := len(training & set(info.rows[column])):
            findings.ask(f"{shared} ids of {info.table.path} are also training ids. Are they different images?")
        repeated = "any" if info.rows[column].duplicated().any() else "error"
        return Part(**info.files(), images=info.location.images, labelled=labelled, repeated_rows=repeated)
    for info in tables:
        findings.ask(f"{info.table.path} does not name images by `{column}` (it has "
                     f"{', '.join(map(repr, info.rows.columns[:6]))}). How do its rows refer to images?")
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
            findings.ask(f"No table names the images in {folder}/. Is it the test part? Its image ids are the paths.")
            return part
    return None
