"""Deciding what a survey of files means as a Competition: every decision with its reason, every doubt as a question."""

import re
from pathlib import Path

from competition import Competition, Part
from describing.from_folders import (
    describe_arrays,
    describe_folders,
    describe_long,
    find_class_folders,
    find_long,
    folder_groups,
)
from describing.from_table import describe_table, find_train
from describing.image_headers import look_at
from describing.inventory import Survey, Table, find_id, images_pattern, index_images, near_name, place_table
from describing.label_columns import Findings, TableInfo, are_numbers, find_labels, wanted_columns

ROLES = (("sample", r"submi"), ("solution", r"solution"), ("test", r"(?<![a-z])test"),
         ("valid", r"(?<![a-z])(?:val|valid|validation|dev)(?![a-z])"), ("train", r"train"))
ORDINAL_NAME = re.compile(r"diagnosis|level|grade|severity|stage|score|isup|kl|birads", re.IGNORECASE)
SIDED = re.compile(r"chest|lung|thora|x-?ray|cxr|pneumo|breast|mammo|chexpert|ranzcr|vinbig|abdom|organ|covid|"
                   r"knee|\bhip\b|cardiomegaly|effusion|hemorrhage|\bct\b|\bmri?\b|brain", re.IGNORECASE)
SIDELESS = re.compile(r"skin|lesion|melanoma|isic|ham10000|\bderm|histo|patholog|leaf|plant|cassava|protein|retin|"
                      r"diabetic|aptos|fundus|blood|cell|tissue|slide|tumou?r|ocean|malaria", re.IGNORECASE)

def describe_survey(survey: Survey, name: str) -> tuple[Competition, Findings]:
    """The description that fits best, and the notes on it.

    Raises ValueError where nothing in the folder says any label.
    """
    notes = Findings()
    for note in survey.notes:
        notes.ask(f"{note}. Is it needed? If so, mend it.")
    index = index_images(survey)
    seen = []
    for table in survey.tables:
        role = _role(table)
        part = "test" if role in ("test", "sample", "solution") else "train"
        seen.append(TableInfo(table, role, place_table(table.rows, index, part)))
    _refuse_deep(survey, seen)
    _refuse_anew(seen)
    for one in seen:
        missing = [text for text in one.place.missing if "/" not in text] if one.place else []
        if near := near_name(survey, missing):
            notes.ask(f"`{one.column}` in {one.table.path} says {near[0]!r}, which is no image's name, but there is "
                      f"{near[1]!r}. Is it that? Then write the names as the files have them, and run this again.")
        if one.place and one.place.images.endswith(".*") and (
                whole := [text for text in one.rows[one.column].unique() if text in index.names]):
            notes.ask(f"`{one.column}` in {one.table.path} is some files' whole name, {whole[0]!r}, and others' "
                      f"without their ending. Reading knows one manner: write every file's whole name, and run again.")
    if long := find_long(seen, index):
        fields = describe_long(survey, seen, *long, notes)
    else:
        sample = _find_sample(seen)
        for one in seen:
            if one.place and one.role not in ("sample", "solution"):
                one.labels = find_labels(one.rows, one.column, wanted_columns(sample))
        train = find_train(seen, sample)
        if train is None:
            _refuse_studies(survey, seen)
        folders = find_class_folders(survey)
        in_parts = folders is not None and "" not in folders[0]
        if folders and (train is None or (in_parts and train.role != "train")):
            fields = describe_folders(survey, *folders, sample, notes)
            if train:
                notes.ask(f"`{train.table.path}` names {train.place.found} of these images too, and is not used. Is "
                          f"it a split or are its labels better than the folders'?")
        elif train:
            fields = describe_table(survey, index, seen, train, sample, notes)
        elif survey.arrays:
            fields = describe_arrays(survey, notes)
        else:
            raise ValueError(_nothing(survey, seen))
    return _finish(survey, name, fields, notes), notes


def _nothing(survey: Survey, seen: list[TableInfo]) -> str:
    tables = ", ".join(f"{one.table.path} ({', '.join(map(repr, one.rows.columns[:8]))}"
                       f"{'' if len(one.rows) else ', no row'})" for one in seen) or "none"
    names = _explain_names(survey, seen) + "".join(f"{note}. " for note in survey.notes)
    return (f"nothing in {survey.folder} says any image's label: no table names the images and has a label column, and "
            f"there are no class folders. {names}Image folders: "
            f"{', '.join(map(repr, list(survey.images)[:8])) or 'none'}; "
            f"tables: {tables}. Is the folder given too deep, or is an archive still packed?")


def _explain_names(survey: Survey, seen: list[TableInfo]) -> str:
    """Says which column would name the images if its cells were written otherwise; "" where none would."""
    for one in (one for one in seen if one.place is None):
        for column in one.rows.columns:
            texts = one.rows[column].unique()
            if len(texts) > 2 and (near := near_name(survey, texts)):
                return (f"`{column}` in {one.table.path} says {near[0]!r} where the file is called {near[1]!r}: write "
                        f"names as the files have them, with or without the ending, and run this again. ")
    return ""


def _role(table: Table) -> str:
    name = table.path.rpartition("/")[2].lower()
    if "Usage" in table.rows and table.rows["Usage"].isin(("Public", "Private", "Ignored")).all():
        return "solution"
    return next((role for role, pattern in ROLES if re.search(pattern, name)), "")


def _refuse_studies(survey: Survey, seen: list[TableInfo]) -> None:
    """A training table that is about folders of several images."""
    folders = {name for folder in survey.images for name in folder.split("/")}
    for one in seen:
        for column in one.rows.columns:
            names = one.rows[column]
            if one.role == "train" and names.nunique() == len(names) > 1 and names.isin(folders).mean() > 0.5:
                raise ValueError(f"`{column}` in {one.table.path} names folders of images and not images. A label a "
                                 f"folder (a study of several images) cannot be described: write a table with a row an "
                                 f"image, its path below {survey.folder} and the folder's label and name (as the "
                                 f"group), and run this again")


def _refuse_anew(seen: list[TableInfo]) -> None:
    """Ids that begin anew in every folder, and a column that names the folders."""
    for one in seen:
        if one.role == "sample" or not (one.place and one.place.also and one.rows[one.column].duplicated().any()):
            continue
        folders = {images.split("/")[-2] for images in (one.place.images, *one.place.also) if "/" in images}
        for column in one.rows.columns.drop(one.column):
            if len(folders) > 1 and folders <= set(one.rows[column]):
                raise ValueError(f"`{one.column}` in {one.table.path} begins anew in every folder that `{column}` "
                                 f"names, so it is no image's id by itself. Write a column of both, such as "
                                 f'rows["image"] = rows[{column!r}] + "/" + rows[{one.column!r}], in place of '
                                 f"`{one.column}`, and run this again")


def _refuse_deep(survey: Survey, seen: list[TableInfo]) -> None:
    for one in seen:
        if one.place and one.place.below_parent:
            above = survey.folder.resolve()
            for _ in Path(one.place.below_parent).parts:
                above = above.parent
            raise ValueError(f"the paths in {one.table.path} begin with {one.place.below_parent}/, so the folder is "
                             f"too deep; describe the one above it: {above}")


def _find_sample(seen: list[TableInfo]) -> TableInfo | None:
    samples = [one for one in seen if one.role == "sample"]
    return min(samples, key=lambda one: (one.place is None, len(one.table.path)), default=None)


# ---- the rest


def _finish(survey: Survey, name: str, fields: dict, notes: Findings) -> Competition:
    if "label_pattern" in fields:
        fields |= folder_groups(survey, fields, notes)
    if "channels" not in fields:
        fields |= _find_channels(survey, fields, notes)
    fields["metric"] = _guess_metric(fields, notes)
    if "laterality" not in fields:
        fields["laterality"] = _guess_laterality(survey, name, fields, notes)
    about = "Say here whose images these are, where the labels come from, the licence, and where to get the files."
    return Competition(name=name, about=about, **fields)


def _find_channels(survey: Survey, fields: dict, notes: Findings) -> dict:
    train = fields["train"] if isinstance(fields["train"], Part) else fields["train"][0]
    pattern = images_pattern(train.images)
    paths = [f"{below}/{name}".lstrip("/") for below, names in survey.images.items()
             for name in names[::max(1, len(names) // 50)]]
    chosen = [path for path in paths if pattern.fullmatch(path)] or paths
    opened = [survey.folder / path for path in chosen[::max(1, len(chosen) // 50)][:50]]
    look = look_at(opened)
    kinds = ", ".join(f"{count} {mode}" for mode, count in sorted(look.modes.items()))
    if look.failed:
        _ask_failed(survey, train, fields.get("id_column", "image_id"), look.failed, len(opened), notes)
    channels = 3 if look.coloured else 1
    sizes = sorted({f"{height}x{width}" for height, width in look.sizes})
    why = {True: "their channels differ", False: "they are grey, or their channels are equal",
           None: "nothing could be told; grey is the default"}[look.coloured]
    notes.decide("channels", channels, f"{kinds or 'no image'} of {', '.join(sizes[:3])}"
                 f"{' and others' if len(sizes) > 3 else ''}: {why}")
    if look.coloured is None:
        notes.ask("Are the images grey or in colour? Grey is assumed.")
    return {"channels": channels}


def _ask_failed(survey: Survey, train: Part, id_column: str, failed: dict[Path, str], looked: int,
                notes: Findings) -> None:
    """Names what cannot be read among the images that were looked at, why, and what to do."""
    shown = [(path.relative_to(survey.folder).as_posix(), reason) for path, reason in list(failed.items())[:3]]
    ids = tuple((find_id(train.images, id_column, path) if train.tables else path) or path for path, _ in shown)
    notes.ask(f"{len(failed)} of the {looked} images looked at cannot be read: "
              f"{'; '.join(f'{path}: {reason}' for path, reason in shown)}. Is the download complete? What is lost, or "
              f"no image, is left out where its Part has exclude_ids={ids!r}. audit.py opens them all.")


def _guess_metric(fields: dict, notes: Findings) -> str:
    task, labels = fields["task"], fields["labels"]
    column = fields.get("label_list_column") or ""
    texts = [text for text, _ in fields.get("label_map") or ()] or list(labels)
    if task == "multiclass" and are_numbers(texts) and ORDINAL_NAME.search(column) and len(texts) > 2:
        metric, why = "quadratic_kappa", f"the classes of `{column}` look ordered"
    elif task == "multilabel" and fields.get("submission") in ("text", "labels"):
        metric, why = "f1_macro", "hard labels are to be handed in"
    elif task == "multiclass" and fields.get("submission") != "probs":
        metric, why = "accuracy", "one class an image is to be told"
    else:
        metric, why = "roc_auc", "the usual one for probabilities"
    notes.decide("metric", metric, f"a guess: {why}")
    notes.ask(f"Which metric do the organisers use? No file says it; {metric} is a guess ({why}).")
    return metric


def _guess_laterality(survey: Survey, name: str, fields: dict, notes: Findings) -> bool:
    words = " ".join([name, survey.folder.name, *fields["labels"], *(table.path for table in survey.tables),
                      *list(survey.images)[:20], *(column for table in survey.tables[:5] for column in
                                                   table.rows.columns[:40])]).replace("_", " ")
    sided, sideless = SIDED.search(words), SIDELESS.search(words)
    if sideless and not sided:
        notes.decide("laterality", False, f"{sideless[0]!r} stands in the names: left and right are alike there")
        notes.ask("May an image be mirrored without changing what it means? It is taken so (laterality=False).")
        return False
    notes.decide("laterality", True, f"{sided[0]!r} stands in the names" if sided else "the safe choice")
    if not sided:
        notes.ask("Do left and right differ, as in a chest? It is taken so (laterality=True): no flips in training.")
    return True
