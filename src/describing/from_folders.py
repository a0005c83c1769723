"""Competitions without a plain table of labels: a row a label, class folders, arrays in an npz file."""

import re
from collections import Counter

import pandas as pd

from common.files import split_ending
from competition import MEDMNIST, Part
from describing.from_table import unlisted_test_part, numbers_wanted
from describing.inventory import ImageIndex, Inventory, images_pattern, index_images, locate_images
from describing.label_columns import (
    PARTS,
    Findings,
    TableInfo,
    binary_fields,
    class_texts,
    decide_pattern,
    find_group_pattern,
    glob_part,
    shared_fields,
    wanted_columns,
)

# ---- a row a label


def find_long_table(infos: list[TableInfo], index: ImageIndex) -> tuple[TableInfo, list[str]] | None:
    """A table whose ids are an image's and a label's name, "ID_1234_epidural", and the labels."""
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


def describe_long_table(inventory: Inventory, infos: list[TableInfo], train: TableInfo, labels: list[str], findings: Findings) -> dict:
    """The nearest description: of tables that a few lines of pandas make."""
    column, value = train.rows.columns
    sample = next((info for info in infos if info.role == "sample" and list(info.rows.columns) == [column, value]), None)
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
    findings.decide("train", train.table.path, f"a row a label: `{column}` is the image and one of {', '.join(labels)}")
    findings.decide("task", "multilabel", f"{len(labels)} labels an image, any of them 0 or 1")
    findings.ask(f"{train.table.path} has a row for every image and label. That cannot be described; the literal is about "
              f"tables with a column a label. Make them once with:\n{code}")
    if sample:
        findings.ask(f"A submission must have a row for every image and label again, as {sample.table.path} has. Turn "
                  f"what is written here back (pandas' melt) before it goes up?")
    parts = {"train": Part(table=f"{stems[0]}_wide.csv", images=locations[train.table.path].images)}
    found = {}
    if sample and locations[sample.table.path]:
        wide = f"{stems[1]}_wide.csv"
        parts["test"] = Part(table=wide, images=locations[sample.table.path].images, labelled=False)
        found = {"sample_submission": wide,
                 "submission": numbers_wanted(sample.rows[[value]], sample.table.path, findings)}
    findings.ask("Nothing says which images are of one patient. Do the DICOM headers (PatientID)? Without it "
              "cross-validation is too good.")
    if "any" in labels:
        findings.ask("`any` is 1 where any other label is. Does the metric weigh it more?")
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
            continue  # each stands in one folder above, and many do: patients in their classes
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
    """Test images that no class folder holds, and the submission about them."""
    if sample is None or sample.location is None:
        test = unlisted_test_part(inventory, "", findings)
        return {"test": test} if test else {}
    path, wanted = sample.table.path, wanted_columns(sample)
    findings.decide("test", path, f"names {sample.location.found} images at {sample.location.images}")
    fields = {"test": Part(**sample.files(), images=sample.location.images, labelled=False), "id_column": sample.column}
    if set(wanted) == set(classes):
        return fields | {"sample_submission": path, "submission": numbers_wanted(sample.rows[wanted], path, findings)}
    if len(wanted) == 1 and sample.rows[wanted[0]].isin(classes).all():
        findings.decide("submission", "text", f"`{wanted[0]}` in {path} says a class's name")
        return fields | {"sample_submission": path, "submission": "text", "submission_column": wanted[0]}
    if len(wanted) == 1 and len(classes) == 2:
        findings.ask(f"Is `{wanted[0]}` in {path} the probability of the finding?")
        return fields | {"sample_submission": path, "label_columns": (wanted[0],),
                         "submission": numbers_wanted(sample.rows[wanted], path, findings)}
    findings.ask(f"{path} asks for `{', '.join(wanted)}`, which the folders' names do not explain. What is it?")
    return fields


def describe_folders(inventory: Inventory, parts: dict[str, list[str]], classes: list[str], level: int,
                     sample: TableInfo | None, findings: Findings) -> dict:
    """The fields of a competition whose classes are folders; the arguments are what find_class_folders gives."""
    def read(part: str) -> Part:
        names = parts[part][0].split("/")
        alike = [len({folder.split("/")[k] for folder in parts[part]}) == 1 for k in range(len(names))]
        fixed = [name if alike[k] and k != level else "*" for k, name in enumerate(names)]
        images = [name for folder in parts[part] for name in inventory.images[folder]]
        return glob_part(inventory, "/".join(fixed), images, findings)

    kinds = {PARTS.get(part.lower(), "train"): [] for part in parts}
    for part in parts:
        kinds[PARTS.get(part.lower(), "train")].append(part)
    trains = [read(part) for part in kinds.get("train", [])]
    for part in kinds.get("valid", []):
        trains.append(read(part))
        findings.ask(f"The folder {part}/ is put with the training part, since folds validate. Or keep it apart as "
                  f"`official_validation`?")
    fields = {"train": tuple(trains) if len(trains) > 1 else trains[0]}
    for part in kinds.get("test", []):
        fields["test"] = read(part)
        findings.decide("test", fields["test"].images,
                     "a folder of that name, with the class folders in it: its labels are known")
    if "test" not in fields:
        fields |= _flat_test(inventory, sample, tuple(classes), findings)
    above = {folder.split("/")[level - 1] for folders in parts.values() for folder in folders} if level else set()
    if len(above) > 1 and not above <= set(parts):
        findings.ask(f"The folders {', '.join(sorted(above)[:5])} hold the folders {', '.join(classes[:5])}, which are "
                  f"taken for the classes. Are they, or is it the folders above?")
    below = {folder.split("/")[level + 1] for folders in parts.values() for folder in folders
             if folder.count("/") > level}
    if 2 <= len(below) <= 50:
        findings.ask(f"The class folders {', '.join(classes[:5])} hold folders, {', '.join(sorted(below)[:5])}, which are "
                  f"not taken for the classes. Is that right, or are they?")
    choice = "|".join(map(re.escape, sorted(classes, key=len, reverse=True)))
    fields["label_pattern"] = f"/({choice})/" if level else f"^({choice})/"
    if len(classes) == 2:
        fields |= binary_fields("the folder", classes, tuple(classes), findings)
    else:
        findings.decide("labels", ", ".join(classes), "folders of these names hold the images")
        findings.decide("task", "multiclass", f"{len(classes)} folders, an image is in one")
        fields |= {"task": "multiclass", "labels": tuple(classes)}
    return fields


def folder_groups(inventory: Inventory, fields: dict, findings: Findings) -> dict:
    """The patient out of file names, and finer classes that they may tell."""
    def paths(part: Part) -> list[str]:
        pattern = images_pattern(part.images)
        return [path for folder, names in inventory.images.items() for name in names
                if pattern.fullmatch(path := f"{folder}/{name}")]

    trains = fields["train"] if isinstance(fields["train"], tuple) else (fields["train"],)
    train = pd.Series([path for part in trains for path in paths(part)])
    test = pd.Series(paths(fields["test"]) if "test" in fields else [], dtype=str)
    _ask_finer(train, fields["label_pattern"], findings)
    pattern = find_group_pattern(train, [test] if len(test) else [], class_texts(fields))
    if pattern is None:
        findings.ask("Nothing in the file names says which images are of one patient. Does anything? Without it every "
                  "image is its own group, and cross-validation is too good if there are several of one.")
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
            findings.ask(f"The names of {name} hold {' or '.join(f'{word} ({count})' for word, count in finer.items())}. "
                      f"Are those finer classes to predict?")


# ---- arrays


def describe_arrays(inventory: Inventory, findings: Findings) -> dict:
    """The fields of a competition in an npz file. Raises ValueError where none has images and labels."""
    usable = {path: found for path, found in inventory.arrays.items() if {"train_images", "train_labels"} <= set(found)}
    if not usable:
        raise ValueError(f"{', '.join(inventory.arrays)}: no arrays train_images and train_labels; there are "
                         f"{', '.join(key for found in inventory.arrays.values() for key in found)}")
    path, found = min(usable.items(), key=lambda item: item[1]["train_images"][1])
    if len(usable) > 1:
        findings.ask(f"There are {', '.join(usable)}. {path} is described. Is that the one?")
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
        findings.ask("The labels are numbers; what do they mean?")
    findings.decide("task", fields["task"], f"train_labels is {labels.shape}, 0 to {int(labels.max())}")
    findings.decide("channels", fields["channels"], f"train_images is {shape}")
    parts = [Part(images=path, arrays=name) for name in ("train", "val") if f"{name}_images" in found]
    fields["train"] = tuple(parts) if len(parts) > 1 else parts[0]
    if "test_images" in found:
        fields["test"] = Part(images=path, arrays="test", labelled="test_labels" in found)
    findings.ask("An npz file does not say which images are of one patient. Does anything?")
    return fields
