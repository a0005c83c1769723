"""What columns, names and cells give away: labels, patients, parts; and the notes that are taken on it."""

import re
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from competition import Part
from data.tables import CELLS
from describing.inventory import ImageLocation, Inventory, Table, find_non_images, glob_names

PARTS = {"train": "train", "training": "train", "trainset": "train", "val": "valid", "valid": "valid",
         "validation": "valid", "dev": "valid", "test": "test", "testing": "test", "testset": "test"}
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
GROUP_PATTERNS = (r"(patient\d+)", r"(person\d+|IM-\d+)", r"(person\d+)", r"(IM-\d+)", r"/(\d+)_(?:left|right)\b",
                  r"/([^/]+?)[_-](?:left|right|L|R|OD|OS)\b", r"(subject[_-]?\d+)", r"(case[_-]?\d+)",
                  r"(TCGA-\w\w-\w{4})", r"/([^/]*\d[^/]*?)[_-]\d{1,4}\.\w+$")


@dataclass
class Findings:
    """What was decided and why, and what a person must answer."""

    decisions: list[tuple[str, str, str]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    needs_preparation: bool = False  # True: the files that the description is about must be made first

    def decide(self, what: str, value: object, why: str) -> None:
        """Writes down a decision."""
        self.decisions.append((what, str(value), why))

    def ask(self, question: str) -> None:
        """Writes down a doubt, once."""
        if question not in self.questions:
            self.questions.append(question)


@dataclass(frozen=True)
class LabelColumns:
    """What says the labels of a table."""

    kind: str  # columns, single (one text a cell) or joined (several)
    columns: tuple[str, ...]
    separator: str = "|"


@dataclass
class TableInfo:
    """A table, the column that names its images, and its part in the competition."""

    table: Table
    role: str
    location: ImageLocation | None
    labels: LabelColumns | None = None

    @property
    def rows(self) -> pd.DataFrame:
        """The table's rows."""
        return self.table.rows

    @property
    def column(self) -> str:
        """The column that names images."""
        return self.location.column

    def files(self) -> dict:
        """The fields of a Part that say how this table is read."""
        return {"table": self.table.path, "header": self.table.header, "separator": self.table.separator}


def glob_part(inventory: Inventory, folder: str, names: list[str], findings: Findings, labelled: bool = True) -> Part:
    """The part whose images, called so, list themselves in a folder (a glob)."""
    images = f"{folder}/{glob_names(names)}".lstrip("/")
    if special := re.search(r"[\[\]?]", folder):
        findings.ask(f"{folder} has {special[0]} in its name, which means something else in a pattern. Can you rename it?")
    others_found = find_non_images(inventory, images)
    if len(others_found) > 20:
        findings.ask(f"{len(others_found)} files that are no images lie among {images}, the first is {others_found[0]}. Reading takes "
                  f"them for images: can you move them elsewhere?")
        others_found = ()
    elif others_found:
        findings.decide("exclude_ids", ", ".join(others_found), f"no images, though {images} finds them")
    return Part(images=images, exclude_ids=others_found, labelled=labelled)


def distinct_texts(column: pd.Series) -> list[str]:
    """The different texts of a column, without blanks around them, sorted."""
    return sorted({text.strip() for text in column.unique()})


def wanted_columns(sample: TableInfo | None) -> list[str]:
    """The columns that a submission must fill."""
    if sample is None:
        return []
    named = sample.column if sample.location else sample.rows.columns[0]
    return [column for column in sample.rows.columns if column != named]


# ---- labels


def find_labels(rows: pd.DataFrame, id_column: str, wanted: list[str] = ()) -> LabelColumns | None:
    """What says the labels in a table of text cells; `wanted`: the columns of the sample submission.

    None where no column looks like labels.
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
    """True for columns of facts that are no labels: age, sex, view, sizes, boxes, dates."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return bool(OTHER_NAME.search(re.sub(r"[^a-z]+", " ", words.lower()))) or not column.strip()


def is_group_name(column: str) -> bool:
    """True for names of patients, studies and what else has several images."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    return any(word in GROUP_NAMES for word in words) or "uid" in words


def are_numbers(texts: list[str]) -> bool:
    """True where all texts are numbers."""
    return all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in texts if text)


def _read_single(rows: pd.DataFrame, column: str) -> LabelColumns | None:
    """A column of classes, or of labels joined by | ; , or blanks; None where it is neither."""
    texts = [text for text in distinct_texts(rows[column]) if text]
    if len(texts) < 1:
        return None
    for separator in ("|", ";", ",", " "):
        several = [text for text in texts if len(split_labels(text, separator)) > 1]
        if not several:
            continue
        names = {name for text in several for name in split_labels(text, separator)}
        alone = {text for text in texts if len(split_labels(text, separator)) == 1}
        plain = separator in "|;" or all(map(str.isdigit, names))  # no class has such a name
        if len(names) <= 200 and (plain or len(names & alone) * 2 >= len(names)):
            return LabelColumns("joined", (column,), separator)
    decimals = are_numbers(texts) and any("." in text and not text.endswith(".0") for text in texts)
    if 2 <= len(texts) <= min(200, max(2, len(rows) / 2)) and not decimals:
        return LabelColumns("single", (column,))
    return None


def split_labels(text: str, separator: str) -> list[str]:
    """The labels that a cell joins."""
    return text.split() if separator == " " else [name for part in text.split(separator) if (name := part.strip())]


def label_fields(inventory: Inventory, rows: pd.DataFrame, ids: pd.Series, labels: LabelColumns,
                 findings: Findings) -> dict:
    """task, labels and how they are read."""
    if labels.kind == "columns":
        return _column_fields(rows, labels, findings)
    column = labels.columns[0]
    if labels.kind == "joined":
        return _joined_fields(rows, column, labels.separator, findings)
    texts = [text for text in distinct_texts(rows[column]) if text]
    if set(texts) <= set(CELLS) and {"0", "0.0"} & set(texts):
        findings.decide("labels", column, "its cells are 0 and 1")
        findings.decide("task", "binary", f"one column of 0 and 1; 1 is taken for `{column}` being present")
        _ask_uncertain(rows, (column,), findings)
        return {"task": "binary", "labels": (column,)}
    varied = pd.Series(rows[column].to_numpy(), index=ids).groupby(level=0).nunique().gt(1).any()
    return _class_fields(inventory, column, texts, bool(varied), findings)


def _column_fields(rows: pd.DataFrame, labels: LabelColumns, findings: Findings) -> dict:
    cells = rows[list(labels.columns)].apply(lambda column: column.str.strip())
    for column in labels.columns:
        if strange := sorted(set(cells[column]) - set(CELLS)):
            findings.ask(f"`{column}` holds {', '.join(map(repr, strange[:5]))} beside 0 and 1. What does that mean? "
                      f"Reading refuses it: write -1 for uncertain, leave blank what is not stated.")
    numbers = cells.apply(lambda column: column.map(CELLS))
    one_each = bool(((numbers == 1).sum(axis=1) == 1).all()) and not (numbers == -1).any(axis=None)
    findings.decide("labels", ", ".join(labels.columns), "a column each, of 0 and 1")
    findings.decide("task", "multiclass" if one_each else "multilabel",
                 "every row has exactly one 1" if one_each else "rows have none or several")
    for column in labels.columns:
        if not (numbers[column] == 1).any():
            findings.ask(f"No training image has `{column}`. Keep it because a submission needs the column?")
    _ask_uncertain(rows, labels.columns, findings)
    return {"task": "multiclass" if one_each else "multilabel", "labels": labels.columns}


def _ask_uncertain(rows: pd.DataFrame, columns: tuple[str, ...], findings: Findings) -> None:
    cells = rows[list(columns)].apply(lambda column: column.str.strip())
    if uncertain := int(cells.isin(("-1", "-1.0")).to_numpy().sum()):
        findings.ask(f"{uncertain} label cells are -1. Does it mean uncertain? It is read so: neither trained on nor "
                  f"scored, unless an experiment's `uncertain` says otherwise.")
    if blank := int((cells == "").to_numpy().sum()):
        findings.ask(f"{blank} label cells are blank. Not stated, or absent? They are read as not stated; an experiment's "
                  f"`missing_labels` may call them absent in training.")


def _joined_fields(rows: pd.DataFrame, column: str, separator: str, findings: Findings) -> dict:
    counts = Counter(name for text, count in rows[column].str.strip().value_counts().items()
                     for name in split_labels(text, separator) * int(count))
    names = sorted(counts, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
    together = {name for text in rows[column].unique() for name in split_labels(text, separator)
                if len(split_labels(text, separator)) > 1}
    ignored = tuple(name for name in names if NO_FINDING_NAME.match(name) and name not in together)
    labels = tuple(name for name in names if name not in ignored)
    shown = {" ": "blanks", ",": "commas"}.get(separator, separator)
    findings.decide("labels", ", ".join(labels), f"`{column}` joins them by {shown}")
    findings.decide("task", "multilabel", "some rows name several")
    if ignored:
        findings.ask(f"`{ignored[0]}` never stands beside another label. Is it the absence of all, and not predicted? It "
                  f"is taken so (ignored_labels).")
    for name in labels:
        if ABSENCE_NAME.match(name) and name not in together:
            findings.ask(f"`{name}` never stands beside another label. Is it a label to predict, as it is written here, "
                      f"or the absence of all (then it belongs into ignored_labels)?")
    if all(name.isdigit() for name in labels):
        gap = [str(k) for k in range(int(labels[-1])) if str(k) not in labels]
        findings.ask("The labels are numbers; what do they mean?" + (
            f" {', '.join(gap)} never occur: are they labels too?" if gap else ""))
    return {"task": "multilabel", "labels": labels, "label_list_column": column, "label_separator": separator,
            "ignored_labels": ignored}


def _class_fields(inventory: Inventory, column: str, texts: list[str], varied: bool, findings: Findings) -> dict:
    """A column of words or numbers, one a row; `varied`: an image has rows of several."""
    numbers = are_numbers(texts)
    texts = sorted(texts, key=float) if numbers else texts
    names_of_codes = next((found for found in inventory.code_names.values() if set(texts) <= set(found)), {})
    names = tuple(names_of_codes.get(text, text) for text in texts)
    pairs = tuple(zip(texts, names, strict=True)) if names_of_codes and len(set(names)) == len(names) else ()
    if pairs:
        path = next(path for path, found in inventory.code_names.items() if found is names_of_codes)
        findings.decide("label_map", ", ".join(f"{text}: {word}" for text, word in pairs), f"`{path}` says so")
    names = names if pairs else tuple(texts)
    if varied:
        ignored = tuple(name for name in names if NO_FINDING_NAME.match(name))
        labels = tuple(name for name in names if name not in ignored)
        findings.decide("labels", ", ".join(labels), f"`{column}` says one a row")
        findings.decide("task", "multilabel", "some images have rows of several labels")
        if ignored:
            findings.ask(f"`{ignored[0]}` in `{column}` is taken for the absence of all labels (ignored_labels). Is that "
                      f"right?")
        return {"task": "multilabel", "labels": labels, "label_list_column": column, "label_map": pairs,
                "ignored_labels": ignored}
    if len(names) == 2:
        return binary_fields(f"`{column}`", texts, names, findings) | {"label_list_column": column}
    findings.decide("labels", ", ".join(names), f"`{column}` says one a row")
    findings.decide("task", "multiclass", f"{len(names)} different texts, one an image")
    if numbers and len(texts) > 20:
        findings.ask(f"`{column}` holds {len(texts)} different numbers. Is it a measurement? That cannot be described; "
                  f"they are taken for classes.")
    if numbers and not pairs:
        findings.ask(f"The classes in `{column}` are numbers. What do they mean? Give them names with label_map.")
        if missing := [str(k) for k in range(int(float(texts[-1]))) if str(k) not in texts]:
            findings.ask(f"Class {', '.join(missing)} never occurs in `{column}`. Is it a class too?")
    return {"task": "multiclass", "labels": names, "label_list_column": column, "label_map": pairs}


def binary_fields(where: str, texts: list[str], names: tuple[str, ...], findings: Findings) -> dict:
    """The fields of two classes, of which one is taken for the absence of the other; `where`: what says them."""
    healthy = [k for k in (0, 1) if ABSENCE_NAME.match(names[k])]
    k = 1 - healthy[0] if len(healthy) == 1 else 1
    findings.decide("labels", names[k], f"{where} says {names[0]!r} or {names[1]!r}")
    findings.decide("task", "binary", f"two classes; {names[k]!r} is taken for present, {names[1 - k]!r} for absent")
    findings.ask(f"Is {names[k]!r} the finding, and {names[1 - k]!r} its absence?")
    return {"task": "binary", "labels": (names[k],), "label_map": ((texts[1 - k], ""), (texts[k], names[k]))}


# ---- groups


def find_groups(inventory: Inventory, infos: list[TableInfo], train: TableInfo, fields: dict, findings: Findings) -> dict:
    """The fields that say whose images they are: column or pattern, and whether train and test share any."""
    others = [fields[part] for part in ("test", "official_validation") if fields.get(part) and fields[part].tables]
    trains = fields["train"] if isinstance(fields["train"], tuple) else (fields["train"],)

    def groups(part: Part, found: dict) -> set[str]:
        rows = _rows_of(inventory, infos, train, part)
        if pattern := found.get("group_pattern"):
            return set(_below(rows, part.images).str.extract(pattern, expand=False).dropna())
        return set(rows[found["group_column"]].str.strip()) if found["group_column"] in rows else set()

    if column := _group_column(train.rows, train, fields, findings):
        found = {"group_column": column}
    else:
        paths = [_below(_rows_of(inventory, infos, train, part), part.images) for part in (*trains, *others)]
        pattern = find_group_pattern(paths[0], paths[1:], class_texts(fields))
        if pattern is None:
            findings.ask("Nothing says which images are of one patient (or lesion, slide, plant). Does anything? Without "
                      "it every image is its own group, and cross-validation is too good if there are several of one.")
            return {}
        found = {"group_pattern": pattern}
        decide_pattern(paths[0], pattern, findings)
    mine, theirs = (set().union(*(groups(part, found) for part in parts)) for parts in (trains, others))
    return found | shared_fields(mine, theirs, "group_pattern" in found, findings)


def class_texts(fields: dict) -> tuple[str, ...]:
    """The labels, and the texts that mean them."""
    return *fields["labels"], *(text for text, _ in fields.get("label_map") or ())


def decide_pattern(below: pd.Series, pattern: str, findings: Findings) -> None:
    """Writes down that a pattern finds the patient in these paths, and asks whether it is one."""
    groups = below.str.extract(pattern, expand=False)
    findings.decide("group_pattern", pattern, f"{groups.nunique()} groups of {below.nunique()} images; "
                                           f"{groups.iloc[0]!r} out of {below.iloc[0]!r}")
    findings.ask(f"Is {groups.iloc[0]!r} in {below.iloc[0]!r} the patient? Images of one are kept in one fold.")


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
    """What it means that groups of the test part stand in the training part, where they do."""
    if not (shared := train & test):
        return {}
    anew = by_pattern and len(shared) > 0.5 * len(test)
    findings.decide("shared_groups", "distinct" if anew else "drop",
                 f"{len(shared)} of the {len(test)} groups of the test part stand in the training part too"
                 + (": so many that the numbers seem to start anew" if anew else ""))
    findings.ask(f"{len(shared)} groups are in train and test, for example {sorted(shared)[0]!r}. The same patients "
              f"('drop' leaves them out of train), or do the numbers start anew ('distinct')?")
    return {"shared_groups": "distinct" if anew else "drop"}


def _group_column(rows: pd.DataFrame, train: TableInfo, fields: dict, findings: Findings) -> str | None:
    """The patient's column, by its name and by how its cells repeat."""
    used = {*fields["labels"], fields.get("label_list_column"), *train.labels.columns}
    images = rows[train.column].nunique()
    firsts = rows.drop_duplicates(train.column)
    named = [column for word in GROUP_NAMES for column in rows.columns
             if word in re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())]
    for column in dict.fromkeys(named):
        values = firsts[column].str.strip()
        if column in used or VIEW_NAME.search(column) or is_other(column):
            continue
        if column == train.column or values.nunique() == images:
            findings.ask(f"`{column}` is different for every image. Is one image a patient, or does something else say "
                      f"who is who?")
            continue
        if blank := int((values == "").sum()):
            findings.ask(f"`{column}` looks like the group but is blank for {blank} of {images} images, which reading "
                      f"refuses. Fill the blanks (with the image's own id, say) and write group_column={column!r}? As "
                      f"written, every image is its own group: a leak if a {column} has several images.")
            continue
        findings.decide("group_column", column, f"called so; {values.nunique()} values for {images} images, at most "
                                             f"{values.value_counts().iloc[0]} of one")
        findings.ask(f"Is `{column}` the patient, or what else must not be in two folds?")
        return column
    for column in rows.columns.drop([train.column, *(used & set(rows))]):
        values = firsts[column].str.strip()
        if (not is_other(column) and not LABEL_NAME.match(column)
                and max(5, images / 20) < values.nunique() < 0.9 * images
                and not any("." in text for text in values.head(50)) and (values != "").all()):
            findings.ask(f"The cells of `{column}` repeat as a patient's would: {values.nunique()} values for {images} "
                      f"images. Is it the patient? Then write group_column={column!r}.")
    return None


def find_group_pattern(below: pd.Series, others: list[pd.Series] = (), classes: tuple[str, ...] = ()) -> str | None:
    """A regular expression that finds the patient in all these paths, several images of some; None without one.

    Where names begin anew in every folder, IM-0001 say, the folder is the patient and not the name; of several it is
    the one on top whose names are not those of the `classes`.
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
