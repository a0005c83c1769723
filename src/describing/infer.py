"""Infers a Competition from an inventory of files: each decision with its reason, each uncertainty as a question."""

import re
from pathlib import Path

from competition import Competition, Part
from describing.findings import Findings, TableInfo, wanted_columns
from describing.from_folders import (
    describe_arrays,
    describe_folders,
    describe_long_table,
    find_class_folders,
    find_long_table,
    folder_groups,
)
from describing.from_table import describe_table, find_train
from describing.image_headers import read_headers
from describing.image_paths import ImageIndex, find_id, images_pattern, index_images, locate_images, similar_name
from describing.inventory import Inventory, Table
from describing.label_columns import are_numbers, find_labels

ROLES = (("sample", r"submi"), ("solution", r"solution"), ("test", r"(?<![a-z])test"),
         ("valid", r"(?<![a-z])(?:val|valid|validation|dev)(?![a-z])"), ("train", r"train"))
ORDINAL_NAME = re.compile(r"diagnosis|level|grade|severity|stage|score|isup|kl|birads", re.IGNORECASE)
SIDED = re.compile(r"chest|lung|thora|x-?ray|cxr|pneumo|breast|mammo|chexpert|ranzcr|vinbig|abdom|organ|covid|"
                   r"knee|\bhip\b|cardiomegaly|effusion|hemorrhage|\bct\b|\bmri?\b|brain", re.IGNORECASE)
SIDELESS = re.compile(r"skin|lesion|melanoma|isic|ham10000|\bderm|histo|patholog|leaf|plant|cassava|protein|retin|"
                      r"diabetic|aptos|fundus|blood|cell|tissue|slide|tumou?r|ocean|malaria", re.IGNORECASE)


def infer_competition(inventory: Inventory, name: str) -> tuple[Competition, Findings]:
    """The description that fits best, and the decisions and questions behind it.

    Raises ValueError where no labels are found, or the layout cannot be described.
    """
    findings = Findings()
    for problem in inventory.problems:
        findings.ask(f"{problem}. Is it needed? If so, correct it.")
    index = index_images(inventory)
    infos = [TableInfo(table, role := _role(table), locate_images(
        table.rows, index, part="test" if role in ("test", "sample", "solution") else "train"))
        for table in inventory.tables]
    _check_depth(inventory, infos)
    _check_repeated_ids(infos)
    _ask_names(inventory, index, infos, findings)
    fields = _infer_fields(inventory, index, infos, findings)
    return _complete(inventory, name, fields, findings), findings


def _ask_names(inventory: Inventory, index: ImageIndex, infos: list[TableInfo], findings: Findings) -> None:
    """Asks about ids that are almost, or only sometimes, a file's whole name."""
    for info in infos:
        missing = [text for text in info.location.missing if "/" not in text] if info.location else []
        if near := similar_name(inventory, missing):
            findings.ask(f"`{info.column}` in {info.table.path} holds {near[0]!r}, which is no file name, but there is "
                         f"a file {near[1]!r}. Is it meant? Then write the names as the files have them and run this "
                         "again.")
        if info.location and info.location.images.endswith(".*") and (
                whole := [text for text in info.rows[info.column].unique() if text in index.names]):
            findings.ask(f"`{info.column}` in {info.table.path} holds the whole file name of some images, "
                         f"{whole[0]!r}, and the name without extension of others. Write the whole name everywhere "
                         "and run this again.")


def _infer_fields(inventory: Inventory, index: ImageIndex, infos: list[TableInfo], findings: Findings) -> dict:
    """The fields of the layout that fits: a row per label, class folders, a table, or arrays."""
    if long := find_long_table(infos, index):
        return describe_long_table(inventory, infos, *long, findings)
    sample = _find_sample(infos)
    for info in infos:
        if info.location and info.role not in ("sample", "solution"):
            info.labels = find_labels(info.rows, info.column, wanted_columns(sample))
    train = find_train(infos, sample)
    if train is None:
        _check_study_folders(inventory, infos)
    folders = find_class_folders(inventory)
    in_parts = folders is not None and "" not in folders[0]
    if folders and (train is None or (in_parts and train.role != "train")):
        fields = describe_folders(inventory, *folders, sample, findings)
        if train:
            findings.ask(f"`{train.table.path}` also names {train.location.found} of these images and is not used. Is "
                         "it a split, or are its labels better than the folders'?")
        return fields
    if train:
        return describe_table(inventory, index, infos, train, sample, findings)
    if inventory.arrays:
        return describe_arrays(inventory, findings)
    raise ValueError(_explain_no_labels(inventory, infos))


def _explain_no_labels(inventory: Inventory, infos: list[TableInfo]) -> str:
    tables = ", ".join(f"{info.table.path} ({', '.join(map(repr, info.rows.columns[:8]))}"
                       f"{'' if len(info.rows) else ', no row'})" for info in infos) or "none"
    names = _explain_names(inventory, infos) + "".join(f"{problem}. " for problem in inventory.problems)
    return (f"there are no labels in {inventory.folder}: no table names the images and has a label column, and there "
            f"are no class folders. {names}Image folders: "
            f"{', '.join(map(repr, list(inventory.images)[:8])) or 'none'}; "
            f"tables: {tables}. Is this folder too deep, or is an archive still packed?")


def _explain_names(inventory: Inventory, infos: list[TableInfo]) -> str:
    """Which column would name the images if its cells were written differently; "" where none would."""
    for info in (info for info in infos if info.location is None):
        for column in info.rows.columns:
            texts = info.rows[column].unique()
            if len(texts) > 2 and (near := similar_name(inventory, texts)):
                return (f"`{column}` in {info.table.path} holds {near[0]!r} where the file is called {near[1]!r}: "
                        f"write names as the files have them, with or without the extension, and run this again. ")
    return ""


def _role(table: Table) -> str:
    name = table.path.rpartition("/")[2].lower()
    if "Usage" in table.rows and table.rows["Usage"].isin(("Public", "Private", "Ignored")).all():
        return "solution"
    return next((role for role, pattern in ROLES if re.search(pattern, name)), "")


def _check_study_folders(inventory: Inventory, infos: list[TableInfo]) -> None:
    """Raises ValueError where a training table names folders of several images."""
    folders = {name for folder in inventory.images for name in folder.split("/")}
    for info in infos:
        for column in info.rows.columns:
            names = info.rows[column]
            if info.role == "train" and names.nunique() == len(names) > 1 and names.isin(folders).mean() > 0.5:
                raise ValueError(f"`{column}` in {info.table.path} names folders of images, not images. A description "
                                 f"needs one label per image, not per folder (a study): write a table with one row per "
                                 f"image that has its path below {inventory.folder}, the folder's label, and the "
                                 f"folder's name (as the group), and run this again")


def _check_repeated_ids(infos: list[TableInfo]) -> None:
    """Raises ValueError where ids repeat in every folder and another column names the folders."""
    for info in infos:
        repeats = info.location and info.location.copies and info.rows[info.column].duplicated().any()
        if info.role == "sample" or not repeats:
            continue
        folders = {images.split("/")[-2] for images in (info.location.images, *info.location.copies) if "/" in images}
        for column in info.rows.columns.drop(info.column):
            if len(folders) > 1 and folders <= set(info.rows[column]):
                raise ValueError(f"the ids in `{info.column}` of {info.table.path} repeat in every folder that "
                                 f"`{column}` names, so they identify no image. Write a column of both, such as "
                                 f'rows["image"] = rows[{column!r}] + "/" + rows[{info.column!r}], in place of '
                                 f"`{info.column}`, and run this again")


def _check_depth(inventory: Inventory, infos: list[TableInfo]) -> None:
    for info in infos:
        if info.location and info.location.parent_above:
            above = inventory.folder.resolve()
            for _ in Path(info.location.parent_above).parts:
                above = above.parent
            raise ValueError(f"the paths in {info.table.path} start with {info.location.parent_above}/, so this "
                             f"folder is too deep; describe the folder above it: {above}")


def _find_sample(infos: list[TableInfo]) -> TableInfo | None:
    samples = [info for info in infos if info.role == "sample"]
    return min(samples, key=lambda info: (info.location is None, len(info.table.path)), default=None)


# ---- fields that do not depend on the layout


def _complete(inventory: Inventory, name: str, fields: dict, findings: Findings) -> Competition:
    if "label_pattern" in fields:
        fields |= folder_groups(inventory, fields, findings)
    if "channels" not in fields:
        fields |= _find_channels(inventory, fields, findings)
    fields["metric"] = _guess_metric(fields, findings)
    if "laterality" not in fields:
        fields["laterality"] = _guess_laterality(inventory, name, fields, findings)
    about = "Say here whose images these are, where the labels come from, the licence, and where to get the files."
    train = fields.pop("train")
    return Competition(name=name, about=about, train=train if len(train) > 1 else train[0], **fields)


def _find_channels(inventory: Inventory, fields: dict, findings: Findings) -> dict:
    train = fields["train"][0]
    pattern = images_pattern(train.images)
    paths = [f"{below}/{name}".lstrip("/") for below, names in inventory.images.items()
             for name in names[::max(1, len(names) // 50)]]
    chosen = [path for path in paths if pattern.fullmatch(path)] or paths
    opened = [inventory.folder / path for path in chosen[::max(1, len(chosen) // 50)][:50]]
    look = read_headers(opened)
    kinds = ", ".join(f"{count} {mode}" for mode, count in sorted(look.modes.items()))
    if look.failed:
        _ask_failed(inventory, train, fields.get("id_column", "image_id"), look.failed, len(opened), findings)
    channels = 3 if look.coloured else 1
    sizes = sorted({f"{height}x{width}" for height, width in look.sizes})
    why = {True: "their channels differ", False: "they are grey, or their channels are equal",
           None: "no image could be checked; grey is the default"}[look.coloured]
    findings.decide("channels", channels, f"{kinds or 'no image'} of {', '.join(sizes[:3])}"
                 f"{' and others' if len(sizes) > 3 else ''}: {why}")
    if look.coloured is None:
        findings.ask("Are the images grey or in colour? Grey is assumed.")
    return {"channels": channels}


def _ask_failed(inventory: Inventory, train: Part, id_column: str, failed: dict[Path, str], looked: int,
                findings: Findings) -> None:
    """Asks about the images that could not be read, with the reasons and what to do."""
    shown = [(path.relative_to(inventory.folder).as_posix(), reason) for path, reason in list(failed.items())[:3]]
    ids = tuple((find_id(train.images, id_column, path) if train.tables else path) or path for path, _ in shown)
    findings.ask(f"{len(failed)} of the {looked} images opened cannot be read: "
                 f"{'; '.join(f'{path}: {reason}' for path, reason in shown)}. Is the download complete? To leave "
                 f"out images that are lost, and files that are no images, set exclude_ids={ids!r} in the Part. "
                 "audit.py opens every image.")


def _guess_metric(fields: dict, findings: Findings) -> str:
    task, labels = fields["task"], fields["labels"]
    column = fields.get("label_list_column") or ""
    texts = [text for text, _ in fields.get("label_map") or ()] or list(labels)
    if task == "multiclass" and are_numbers(texts) and ORDINAL_NAME.search(column) and len(texts) > 2:
        metric, why = "quadratic_kappa", f"the classes of `{column}` look ordered"
    elif task == "multilabel" and fields.get("submission") in ("text", "labels"):
        metric, why = "f1_macro", "a submission holds hard labels"
    elif task == "multiclass" and fields.get("submission") != "probs":
        metric, why = "accuracy", "a submission holds one class per image"
    else:
        metric, why = "roc_auc", "the usual metric for probabilities"
    findings.decide("metric", metric, f"a guess: {why}")
    findings.ask(f"Which metric do the organisers use? No file names it; {metric} is a guess ({why}).")
    return metric


def _guess_laterality(inventory: Inventory, name: str, fields: dict, findings: Findings) -> bool:
    words = " ".join([name, inventory.folder.name, *fields["labels"], *(table.path for table in inventory.tables),
                      *list(inventory.images)[:20], *(column for table in inventory.tables[:5] for column in
                                                   table.rows.columns[:40])]).replace("_", " ")
    sided, sideless = SIDED.search(words), SIDELESS.search(words)
    if sideless and not sided:
        findings.decide("laterality", False, f"{sideless[0]!r} is in the names, and left and right are alike there")
        findings.ask("May an image be mirrored without changing its meaning? As written, it may "
                     "(laterality=False).")
        return False
    findings.decide("laterality", True, f"{sided[0]!r} is in the names" if sided else "the safe default")
    if not sided:
        findings.ask("Do left and right differ, as in a chest? As written, they do (laterality=True): no flips "
                     "in training.")
    return True
