"""Describes competitions without a plain table of labels: one row per label, class folders, arrays in an npz file."""

import re
from collections import Counter

import pandas as pd

from common.files import split_ending
from competition import MEDMNIST, Part
from describing.findings import Findings, TableInfo, wanted_columns
from describing.from_table import numbers_wanted
from describing.groups import class_texts, decide_pattern, find_group_pattern, shared_fields
from describing.image_paths import ImageIndex, images_pattern, index_images, locate_images
from describing.inventory import Inventory
from describing.label_columns import binary_fields
from describing.parts import PARTS, glob_part, unlisted_test_part

# ---- one row per image and label


def find_long_table(infos: list[TableInfo], index: ImageIndex) -> tuple[TableInfo, list[str]] | None:
    """A table with one row per image and label, whose ids join both names ("ID_1234_epidural"), and the labels."""
    if any(info.location and info.role == "train" for info in infos):
        return None
    for info in sorted(infos, key=lambda info: info.role != "train"):
        if len(info.rows.columns) != 2 or info.role not in ("train", ""):
            continue
        column = info.rows.columns[0]
        parts = info.rows[column].str.rsplit("_", n=1, expand=True)
        if parts.shape[1] != 2 or parts[0].iloc[0] not in index.stems:
            continue
        labels = parts[1].dropna().unique()
        if 1 < len(labels) <= 100 and parts[0].nunique() * len(labels) >= 0.9 * len(info.rows):
            return info, list(labels)
    return None


WIDEN = """
import pandas as pd
for name in ({names}):
    rows = pd.read_csv(f"{folder}/{{name}}.csv").drop_duplicates({column!r})
    rows[[{column!r}, "label"]] = rows[{column!r}].str.rsplit("_", n=1, expand=True)
    wide = rows.pivot(index={column!r}, columns="label", values={value!r})[[{labels}]]
    wide.reset_index().to_csv(f"{folder}/{{name}}_wide.csv", index=False)
""".strip()


def describe_long_table(inventory: Inventory, infos: list[TableInfo], train: TableInfo, labels: list[str],
                        findings: Findings) -> dict:
    """The fields of a competition whose tables have one row per image and label, after conversion by pandas."""
    column, value = train.rows.columns
    sample = next((info for info in infos
                   if info.role == "sample" and list(info.rows.columns) == [column, value]), None)
    index = index_images(inventory)
    locations = {}
    for info in filter(None, (train, sample)):
        ids = info.rows[column].str.rsplit("_", n=1).str[0]
        locations[info.table.path] = locate_images(pd.DataFrame({column: ids}).drop_duplicates(), index,
                                              "train" if info is train else "test")
    stems = [path.removesuffix(".csv") for path in locations]
    code = WIDEN.format(names=", ".join(map(repr, stems)) + ",", folder=inventory.folder.as_posix(), column=column,
                        value=value, labels=", ".join(map(repr, labels)))
    findings.needs_preparation = True
    findings.decide("train", train.table.path,
                    f"one row per image and label: `{column}` joins the image id and one of {', '.join(labels)}")
    findings.decide("task", "multilabel", f"{len(labels)} labels an image, each 0 or 1")
    findings.ask(f"{train.table.path} has one row for every image and label. A description needs one row per image, "
                 f"so the literal names tables with one column per label. Make them once with:\n{code}")
    if sample:
        findings.ask(f"A submission must have one row for every image and label, as {sample.table.path} has. Will "
                     "you convert the file written here (pandas.melt) before uploading it?")
    parts = {"train": (Part(table=f"{stems[0]}_wide.csv", images=locations[train.table.path].images),)}
    found = {}
    if sample and locations[sample.table.path]:
        wide = f"{stems[1]}_wide.csv"
        parts["test"] = Part(table=wide, images=locations[sample.table.path].images, labelled=False)
        found = {"sample_submission": wide,
                 "submission": numbers_wanted(sample.rows[[value]], sample.table.path, findings)}
    findings.ask("No column names the patient. Do the DICOM headers (PatientID)? Without it, images of one patient "
                 "fall into several folds and scores are too high.")
    if "any" in labels:
        findings.ask("`any` is 1 where any other label is 1. Does the metric give it a larger weight?")
    return {"task": "multilabel", "labels": tuple(labels), "id_column": column, **parts, **found}


# ---- class folders


def find_class_folders(inventory: Inventory) -> tuple[dict[str, list[str]], list[str], int] | None:
    """({part: its folders}, classes, depth of the class), or None. Without parts the one part is called ""."""
    folders = [folder for folder in inventory.images if folder and not re.search(r"mask|segment", folder.lower())]
    by_prefix = {}
    for folder in folders:
        names = folder.split("/")
        part = next((k for k, name in enumerate(names) if name.lower() in PARTS), None)
        key = tuple(names[:part]) if part is not None else None
        by_prefix.setdefault(key, []).append(names)
    with_parts = {key: found for key, found in by_prefix.items() if key is not None}
    if with_parts:  # a set that was packed twice has its copy one folder deeper
        prefix = min(with_parts, key=len)
        chosen = with_parts[prefix]
        first = len(prefix) + 1
    else:
        chosen, first, prefix = by_prefix.get(None, []), 0, ()
    depths = Counter(len(names) for names in chosen)
    if not depths:
        return None
    depth = depths.most_common(1)[0][0]
    chosen = [names for names in chosen if len(names) == depth]
    for level in range(depth - 1, first - 1, -1):
        classes = sorted({names[level] for names in chosen})
        numbered = {re.sub(r"\d+", "", name) for name in classes}  # images_001 and images_002 are no classes
        if len(numbered) == 1 and re.search(r"[a-z]", name := numbered.pop().lower()) and not re.search(
                r"class|grade|level|stage|score|label", name):
            continue
        above, here = ({tuple(names[first:end]) for names in chosen} for end in (level, level + 1))
        if len(here) == len(classes) >= 4 * len(above) > 4:
            continue  # each is in one folder above, and there are many: patients in class folders
        if 2 <= len(classes) <= 50 and len(classes) * 2 <= inventory.count:
            parts = {}
            for names in chosen:
                part = names[len(prefix)] if with_parts else ""
                parts.setdefault(part, []).append("/".join(names))
            if with_parts and len(parts) > 1 and not all(
                    {names.split("/")[level] for names in found} <= set(classes) for found in parts.values()):
                return None
            return parts, classes, level
    return None


def _flat_test(inventory: Inventory, sample: TableInfo | None, classes: tuple[str, ...], findings: Findings) -> dict:
    """The fields of a test part that is in no class folder, and of its submission."""
    if sample is None or sample.location is None:
        test = unlisted_test_part(inventory, "", findings)
        return {"test": test} if test else {}
    path, wanted = sample.table.path, wanted_columns(sample)
    findings.decide("test", path, f"names {sample.location.found} images at {sample.location.images}")
    fields = {"test": Part(**sample.files(), images=sample.location.images, labelled=False), "id_column": sample.column}
    if set(wanted) == set(classes):
        return fields | {"sample_submission": path, "submission": numbers_wanted(sample.rows[wanted], path, findings)}
    if len(wanted) == 1 and sample.rows[wanted[0]].isin(classes).all():
        findings.decide("submission", "text", f"`{wanted[0]}` in {path} holds class names")
        return fields | {"sample_submission": path, "submission": "text", "submission_column": wanted[0]}
    if len(wanted) == 1 and len(classes) == 2:
        findings.ask(f"Is `{wanted[0]}` in {path} the probability of the finding?")
        return fields | {"sample_submission": path, "label_columns": (wanted[0],),
                         "submission": numbers_wanted(sample.rows[wanted], path, findings)}
    findings.ask(f"{path} asks for `{', '.join(wanted)}`, which is no class folder. What is it?")
    return fields


def describe_folders(inventory: Inventory, parts: dict[str, list[str]], classes: list[str], level: int,
                     sample: TableInfo | None, findings: Findings) -> dict:
    """The fields of a competition with class folders; parts, classes and level as find_class_folders returns them."""
    def read(part: str) -> Part:
        names = parts[part][0].split("/")
        alike = [len({folder.split("/")[k] for folder in parts[part]}) == 1 for k in range(len(names))]
        fixed = [name if alike[k] and k != level else "*" for k, name in enumerate(names)]
        images = [name for folder in parts[part] for name in inventory.images[folder]]
        return glob_part(inventory, "/".join(fixed), images, findings)

    kinds = {"train": [], "valid": [], "test": []}
    for part in parts:
        kinds[PARTS.get(part.lower(), "train")].append(part)
    trains = [read(part) for part in kinds["train"]]
    for part in kinds["valid"]:
        trains.append(read(part))
        findings.ask_kept_apart(f"The folder {part}/")
    fields = {"train": tuple(trains)}
    for part in kinds["test"]:
        fields["test"] = read(part)
        findings.decide("test", fields["test"].images,
                        "a folder of that name with class folders in it, so its labels are known")
    if "test" not in fields:
        fields |= _flat_test(inventory, sample, tuple(classes), findings)
    above = {folder.split("/")[level - 1] for folders in parts.values() for folder in folders} if level else set()
    if len(above) > 1 and not above <= set(parts):
        findings.ask(f"The folders {', '.join(sorted(above)[:5])} hold the folders {', '.join(classes[:5])}, which "
                     "are taken for the classes. Is that right, or are the upper folders the classes?")
    below = {folder.split("/")[level + 1] for folders in parts.values() for folder in folders
             if folder.count("/") > level}
    if 2 <= len(below) <= 50:
        findings.ask(f"The class folders {', '.join(classes[:5])} hold the folders {', '.join(sorted(below)[:5])}, "
                     "which are not taken for classes. Is that right?")
    choice = "|".join(map(re.escape, sorted(classes, key=len, reverse=True)))
    fields["label_pattern"] = f"/({choice})/" if level else f"^({choice})/"
    if len(classes) == 2:
        fields |= binary_fields("the folder", classes, tuple(classes), findings)
    else:
        findings.decide("labels", ", ".join(classes), "folders of these names hold the images")
        findings.decide("task", "multiclass", f"{len(classes)} class folders; an image is in exactly one")
        fields |= {"task": "multiclass", "labels": tuple(classes)}
    return fields


def folder_groups(inventory: Inventory, fields: dict, findings: Findings) -> dict:
    """The fields group_pattern and shared_groups from file names; asks about finer classes in the names."""
    def paths(part: Part) -> list[str]:
        pattern = images_pattern(part.images)
        return [path for folder, names in inventory.images.items() for name in names
                if pattern.fullmatch(path := f"{folder}/{name}")]

    train = pd.Series([path for part in fields["train"] for path in paths(part)])
    test = pd.Series(paths(fields["test"]) if "test" in fields else [], dtype=str)
    _ask_finer(train, fields["label_pattern"], findings)
    pattern = find_group_pattern(train, [test] if len(test) else [], class_texts(fields))
    if pattern is None:
        findings.ask("No pattern in the file names identifies the patient. Does anything else? Without it every "
                     "image is its own group, and scores are too high if a patient has several images.")
        return {}
    decide_pattern(train, pattern, findings)
    mine, theirs = (set(paths.str.extract(pattern, expand=False)) for paths in (train, test))
    return {"group_pattern": pattern} | shared_fields(mine, theirs, True, findings)


def _ask_finer(paths: pd.Series, pattern: str, findings: Findings) -> None:
    classes = paths.str.extract(pattern, expand=False)
    for name in classes.dropna().unique():
        stems = paths[classes == name].str.rpartition("/")[2].map(lambda name: split_ending(name)[0])
        words = Counter(word for stem in stems for word in set(re.findall(r"[A-Za-z]{4,}", stem)))
        finer = {word: count for word, count in words.items() if 0.1 * len(stems) <= count <= 0.9 * len(stems)}
        if 2 <= len(finer) <= 6 and 0.9 * len(stems) <= sum(finer.values()) <= len(stems):
            findings.ask(f"The file names of {name} contain "
                         f"{' or '.join(f'{word} ({count})' for word, count in finer.items())}. Are these finer "
                         "classes to predict?")


# ---- arrays


def describe_arrays(inventory: Inventory, findings: Findings) -> dict:
    """The fields of a competition in an npz file. Raises ValueError where none has images and labels."""
    usable = {path: found for path, found in inventory.arrays.items() if {"train_images", "train_labels"} <= set(found)}
    if not usable:
        raise ValueError(f"{', '.join(inventory.arrays)}: no arrays train_images and train_labels; there are "
                         f"{', '.join(key for found in inventory.arrays.values() for key in found)}")
    path, found = min(usable.items(), key=lambda item: item[1]["train_images"][1])
    if len(usable) > 1:
        findings.ask(f"There are several npz files: {', '.join(usable)}. {path} is described. Is it the right one?")
    labels, shape = found["train_labels"], found["train_images"]
    width = labels.shape[1] if labels.ndim > 1 else 1
    set_name = re.sub(r"(_\d+)?\.npz$", "", path.rpartition("/")[2])
    if set_name in MEDMNIST:
        task, channels, sided, names = MEDMNIST[set_name]
        findings.decide("labels", ", ".join(names), f"{set_name} is a set of MedMNIST; --competition {set_name} has it")
        fields = {"task": task, "channels": channels, "labels": names, "laterality": sided}
    else:
        highest = int(labels.max())
        names = tuple(map(str, range(width if width > 1 else highest + 1)))
        task = "multilabel" if width > 1 else "multiclass" if highest > 1 else "binary"
        fields = {"task": task, "labels": names[-1:] if task == "binary" else names,
                  "channels": 3 if shape[-1] == 3 and len(shape) == 4 else 1}
        findings.decide("labels", ", ".join(fields["labels"]), f"train_labels is {labels.shape}, 0 to {highest}")
        findings.ask("The labels are numbers. What do they mean?")
    findings.decide("task", fields["task"], f"train_labels is {labels.shape}, 0 to {int(labels.max())}")
    findings.decide("channels", fields["channels"], f"train_images is {shape}")
    fields["train"] = tuple(Part(images=path, arrays=name) for name in ("train", "val") if f"{name}_images" in found)
    if "test_images" in found:
        fields["test"] = Part(images=path, arrays="test", labelled="test_labels" in found)
    findings.ask("An npz file does not identify patients. Does anything else?")
    return fields
