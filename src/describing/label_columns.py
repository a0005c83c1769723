"""Which columns of a table hold labels, and the fields that describe them."""

import re
from collections import Counter

import pandas as pd

from data.metadata import column_words
from data.tables import CELLS, split_labels
from describing.findings import Findings, LabelColumns, distinct_texts
from describing.inventory import Inventory

LABEL_NAME = re.compile(r"^(labels?|targets?|class(es)?|class[ _]?names?|class_?ids?|diagnos[ie]s|dx|level|grade|"
                        r"category|(image )?findings?( labels?)?|y|outcome|pathology|disease|subtype|cancer|malignant|"
                        r"isup_grade|tumou?r)$", re.IGNORECASE)
GROUP_NAMES = ("patient", "pid", "subject", "person", "participant", "individual", "case", "lesion", "study", "slide",
               "exam", "plant", "specimen")
VIEW_NAME = re.compile(r"view|projection|frontal", re.IGNORECASE)
OTHER_NAME = re.compile(
    r"\b(age|sex|gender|view|position|projection|width|height|site|anatom\w*|locali[sz]ation|location|laterality|side|"
    r"date|time|machine|manufacturer|device|hospital|source|dx type|implant|density|split|fold|usage|rad|reader|box|"
    r"bbox|[xyw]|[xy] ?(min|max)|follow|ap|pa|race|ethnicity|weight|size|rows|columns|tma|path|url|file\w*|unnamed|"
    r"difficult|quality|confidence|frame)\b")
NO_FINDING_NAME = re.compile(r"^(no[ _-]?findings?|none|nothing)$", re.IGNORECASE)
ABSENCE_NAME = re.compile(r"^(normal|healthy|benign|negative|neg|no|false|absent|control|n|uninfected|no[ _].*|non.*)$",
                     re.IGNORECASE)


def find_labels(rows: pd.DataFrame, id_column: str, wanted: list[str] = ()) -> LabelColumns | None:
    """The columns that hold the labels of a table of text cells; None where no column looks like labels.

    wanted: the columns of the sample submission, which are taken where the table has them.
    """
    if wanted and all(column in rows for column in wanted):
        return LabelColumns("columns", tuple(wanted)) if len(wanted) > 1 else _read_single(rows, wanted[0])
    candidates = [column for column in rows.columns if column != id_column and not is_other(column)]
    binary = [column for column in candidates if rows[column].str.strip().isin(CELLS).all()
              and not (rows[column] == "").all()]
    candidates = [column for column in candidates if column in binary or not is_group_name(column)]
    named = [column for column in candidates if LABEL_NAME.match(column) and 1 < len(distinct_texts(rows[column]))]
    named.sort(key=lambda column: are_numbers(distinct_texts(rows[column])))  # words before their numbers
    one_hot = [column for column in binary if column not in named]
    if len(one_hot) > 1 and not (named and len(one_hot) < 3):
        return LabelColumns("columns", tuple(one_hot))
    for column in [*named, *binary, *candidates]:
        if found := _read_single(rows, column):
            return found
    return None


def is_other(column: str) -> bool:
    """True for names of columns that hold no labels: age, sex, view, sizes, boxes, dates."""
    return bool(OTHER_NAME.search(" ".join(column_words(column)))) or not column.strip()


def is_group_name(column: str) -> bool:
    """True for names of columns that identify patients, studies or other groups of images."""
    words = column_words(column)
    return any(word in GROUP_NAMES for word in words) or "uid" in words


def are_numbers(texts: list[str]) -> bool:
    """True where all texts are numbers."""
    return all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in texts if text)


def _read_single(rows: pd.DataFrame, column: str) -> LabelColumns | None:
    """A column of one class per cell, or of lists separated by | ; , or blanks; None where it is neither."""
    texts = [text for text in distinct_texts(rows[column]) if text]
    for separator in ("|", ";", ",", " "):
        several = [text for text in texts if len(split_labels(text, separator)) > 1]
        if not several:
            continue
        names = {name for text in several for name in split_labels(text, separator)}
        alone = {text for text in texts if len(split_labels(text, separator)) == 1}
        plain = separator in "|;" or all(map(str.isdigit, names))  # no class name contains such a separator
        if len(names) <= 200 and (plain or len(names & alone) * 2 >= len(names)):
            return LabelColumns("joined", (column,), separator)
    decimals = are_numbers(texts) and any("." in text and not text.endswith(".0") for text in texts)
    if 2 <= len(texts) <= min(200, max(2, len(rows) / 2)) and not decimals:
        return LabelColumns("single", (column,))
    return None


def label_fields(inventory: Inventory, rows: pd.DataFrame, ids: pd.Series, labels: LabelColumns,
                 findings: Findings) -> dict:
    """The fields of a Competition that describe its labels: task, labels, and how the cells are read."""
    if labels.kind == "columns":
        return _column_fields(rows, labels, findings)
    column = labels.columns[0]
    if labels.kind == "joined":
        return _joined_fields(rows, column, labels.separator, findings)
    texts = [text for text in distinct_texts(rows[column]) if text]
    if set(texts) <= set(CELLS) and {"0", "0.0"} & set(texts):
        findings.decide("labels", column, "its cells are 0 and 1")
        findings.decide("task", "binary", f"one column of 0 and 1; 1 means that `{column}` is present")
        _ask_uncertain(rows, (column,), findings)
        return {"task": "binary", "labels": (column,)}
    varied = pd.Series(rows[column].to_numpy(), index=ids).groupby(level=0).nunique().gt(1).any()
    return _class_fields(inventory, column, texts, bool(varied), findings)


def _column_fields(rows: pd.DataFrame, labels: LabelColumns, findings: Findings) -> dict:
    cells = rows[list(labels.columns)].apply(lambda column: column.str.strip())
    for column in labels.columns:
        if unknown := sorted(set(cells[column]) - set(CELLS)):
            findings.ask(f"`{column}` holds {', '.join(map(repr, unknown[:5]))} besides 0 and 1. What do they mean? "
                         "Reading raises an error on them: write -1 for uncertain, and leave unknown cells blank.")
    numbers = cells.apply(lambda column: column.map(CELLS))
    one_each = bool(((numbers == 1).sum(axis=1) == 1).all()) and not (numbers == -1).any(axis=None)
    findings.decide("labels", ", ".join(labels.columns), "one column per label, of 0 and 1")
    findings.decide("task", "multiclass" if one_each else "multilabel",
                 "every row has exactly one 1" if one_each else "rows have none or several")
    for column in labels.columns:
        if not (numbers[column] == 1).any():
            findings.ask(f"No training image has `{column}`. Is it kept because a submission needs the column?")
    _ask_uncertain(rows, labels.columns, findings)
    return {"task": "multiclass" if one_each else "multilabel", "labels": labels.columns}


def _ask_uncertain(rows: pd.DataFrame, columns: tuple[str, ...], findings: Findings) -> None:
    cells = rows[list(columns)].apply(lambda column: column.str.strip())
    if uncertain := int(cells.isin(("-1", "-1.0")).to_numpy().sum()):
        findings.ask(f"{uncertain} label cells are -1. Does it mean uncertain? They are read so: neither trained on "
                     "nor scored, unless an experiment sets `uncertain`.")
    if blank := int((cells == "").to_numpy().sum()):
        findings.ask(f"{blank} label cells are blank. Are they unknown or absent? They are read as unknown; an "
                     "experiment's `missing_labels` can treat them as absent in training.")


def _joined_fields(rows: pd.DataFrame, column: str, separator: str, findings: Findings) -> dict:
    counts = Counter(name for text, count in rows[column].str.strip().value_counts().items()
                     for name in split_labels(text, separator) * int(count))
    names = sorted(counts, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
    together = {name for text in rows[column].unique() for name in split_labels(text, separator)
                if len(split_labels(text, separator)) > 1}
    ignored = tuple(name for name in names if NO_FINDING_NAME.match(name) and name not in together)
    labels = tuple(name for name in names if name not in ignored)
    shown = {" ": "blanks", ",": "commas"}.get(separator, separator)
    findings.decide("labels", ", ".join(labels), f"`{column}` lists them, separated by {shown}")
    findings.decide("task", "multilabel", "some rows have several labels")
    if ignored:
        findings.ask(f"`{ignored[0]}` never occurs with another label. Does it mean that no label is present? It is "
                     "not predicted (ignored_labels).")
    for name in labels:
        if ABSENCE_NAME.match(name) and name not in together:
            findings.ask(f"`{name}` never occurs with another label. Is it a label to predict, as written, or does "
                         "it mean that no label is present (then move it to ignored_labels)?")
    if all(name.isdigit() for name in labels):
        gap = [str(k) for k in range(int(labels[-1])) if str(k) not in labels]
        findings.ask("The labels are numbers. What do they mean?" + (
            f" {', '.join(gap)} never occur: are they labels too?" if gap else ""))
    return {"task": "multilabel", "labels": labels, "label_list_column": column, "label_separator": separator,
            "ignored_labels": ignored}


def _class_fields(inventory: Inventory, column: str, texts: list[str], varied: bool, findings: Findings) -> dict:
    """The fields for a column of one word or number per row; varied: some image has rows with different ones."""
    numbers = are_numbers(texts)
    texts = sorted(texts, key=float) if numbers else texts
    names_of_codes = next((found for found in inventory.code_names.values() if set(texts) <= set(found)), {})
    names = tuple(names_of_codes.get(text, text) for text in texts)
    pairs = tuple(zip(texts, names, strict=True)) if names_of_codes and len(set(names)) == len(names) else ()
    if pairs:
        path = next(path for path, found in inventory.code_names.items() if found is names_of_codes)
        findings.decide("label_map", ", ".join(f"{text}: {word}" for text, word in pairs),
                        f"`{path}` defines these names")
    names = names if pairs else tuple(texts)
    if varied:
        ignored = tuple(name for name in names if NO_FINDING_NAME.match(name))
        labels = tuple(name for name in names if name not in ignored)
        findings.decide("labels", ", ".join(labels), f"`{column}` has one per row")
        findings.decide("task", "multilabel", "some images have rows of several labels")
        if ignored:
            findings.ask(f"`{ignored[0]}` in `{column}` is taken to mean that no label is present (ignored_labels). "
                         "Is that right?")
        return {"task": "multilabel", "labels": labels, "label_list_column": column, "label_map": pairs,
                "ignored_labels": ignored}
    if len(names) == 2:
        return binary_fields(f"`{column}`", texts, names, findings) | {"label_list_column": column}
    findings.decide("labels", ", ".join(names), f"`{column}` has one per row")
    findings.decide("task", "multiclass", f"{len(names)} different texts, one per image")
    if numbers and len(texts) > 20:
        findings.ask(f"`{column}` holds {len(texts)} different numbers. Is it a measurement? A description cannot "
                     "express one; they are taken for classes.")
    if numbers and not pairs:
        findings.ask(f"The classes in `{column}` are numbers. What do they mean? Name them with label_map.")
        if missing := [str(k) for k in range(int(float(texts[-1]))) if str(k) not in texts]:
            findings.ask(f"Class {', '.join(missing)} never occurs in `{column}`. Is it a class too?")
    return {"task": "multiclass", "labels": names, "label_list_column": column, "label_map": pairs}


def binary_fields(where: str, texts: list[str], names: tuple[str, ...], findings: Findings) -> dict:
    """The fields for two classes, one taken as absence of the other; where: the column or folder that holds them."""
    healthy = [k for k in (0, 1) if ABSENCE_NAME.match(names[k])]
    k = 1 - healthy[0] if len(healthy) == 1 else 1
    findings.decide("labels", names[k], f"{where} is {names[0]!r} or {names[1]!r}")
    findings.decide("task", "binary", f"two classes; {names[k]!r} is taken for present, {names[1 - k]!r} for absent")
    findings.ask(f"Is {names[k]!r} the finding, and {names[1 - k]!r} its absence?")
    return {"task": "binary", "labels": (names[k],), "label_map": ((texts[1 - k], ""), (texts[k], names[k]))}
