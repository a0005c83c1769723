"""Which files the ids of a table name, and the pattern of their paths."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from common.files import split_ending
from data.tables import CELLS
from describing.inventory import Inventory

OTHER_PART = {"train": r"(?<![a-z])test", "test": r"train|(?<![a-z])val"}
# copies and drawings of the images
DERIVED_NAME = re.compile(r"thumb|mask|segment|annot|small|resized|overlay|bbox|tfrec")


@dataclass(frozen=True)
class ImageLocation:
    """The column of a table that names images, and where their files are."""

    column: str
    images: str  # as Part.images
    found: int  # different ids that have an image there
    missing: tuple[str, ...]  # those that have none
    copies: tuple[str, ...] = ()  # other patterns that match the same images
    parent_above: str = ""  # folders that the ids start with and that are above the given one


@dataclass
class ImageIndex:
    """The folders of every image name, with and without its extension."""

    names: dict[str, list[str]] = field(default_factory=dict)
    stems: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    prefixes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # up to the last _


def index_images(inventory: Inventory) -> ImageIndex:
    """Every image's name and stem."""
    index = ImageIndex()
    for folder, names in inventory.images.items():
        for name in names:
            stem, suffix = split_ending(name)
            index.names.setdefault(name, []).append(folder)
            index.stems.setdefault(stem, []).append((folder, suffix))
            prefix, score, rest = stem.rpartition("_")
            if prefix and not rest.isdigit():
                index.prefixes.setdefault(prefix, []).append((folder, score + rest + suffix))
    return index


def images_pattern(images: str) -> re.Pattern:
    """Matches the paths that Part.images may mean: a column may be anything, a * anything but a slash."""
    pieces = re.split(r"(\{[^{}]*\}|\*)", images)
    return re.compile("".join("[^/]*" if piece == "*" else ".+" if piece.startswith("{") else re.escape(piece)
                              for piece in pieces))


def find_id(images: str, column: str, path: str) -> str | None:
    """The id in a path that matches Part.images; None where the path does not match."""
    pieces, known = [], False
    for piece in re.split(r"(\{[^{}]*\}|\*)", images):
        if piece == f"{{{column}}}":
            pieces.append("(?P=id)" if known else "(?P<id>.+)")
            known = True
        else:
            pieces.append(images_pattern(piece).pattern)
    found = re.fullmatch("".join(pieces), path) if known else None
    return found["id"] if found else None


def glob_names(names: list[str]) -> str:
    """The glob that finds these files by their endings: "*.png", "*.*" for several, "*" where some have none."""
    suffixes = {split_ending(name)[1] for name in names}
    return "*" + (suffixes.pop() if len(suffixes) == 1 else "" if "" in suffixes else ".*")


def similar_name(inventory: Inventory, ids: Sequence[str]) -> tuple[str, str] | None:
    """An id and the image it seems to mean, where most ids differ from names only in extension, case or zeros."""
    names = {_normalized(name): name for names in inventory.images.values() for name in names} if len(ids) else {}
    near = [(text, names[_normalized(text)]) for text in ids if _normalized(text) in names]
    return near[0] if 2 * len(near) > len(ids) else None


def _normalized(name: str) -> str:
    """A name in small letters without folders, ending and zeros in front; a number as pandas writes floats, too."""
    stem, _ = split_ending(name.strip().rpartition("/")[2].lower())
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"^(\d+)\.0$", r"\1", stem))


def find_non_images(inventory: Inventory, images: str) -> tuple[str, ...]:
    """Files that a glob finds and that are no images, hidden ones too: paths below the folder, sorted."""
    known = {f"{below}/{name}".lstrip("/") for below, names in inventory.images.items() for name in names}
    there = (path.relative_to(inventory.folder).as_posix() for path in inventory.folder.glob(images) if path.is_file())
    return tuple(sorted(set(there) - known))


def locate_images(rows: pd.DataFrame, index: ImageIndex, part: str = "train") -> ImageLocation | None:
    """The column that names the most images, and where their files are; None where no column names images.

    part: "train" or "test"; where both parts have images of these names, those in a folder of that name are taken.
    """
    best = None
    for column in rows.columns:
        values = [value for value in rows[column].unique() if value.strip()]
        if not values or (set(values) <= set(CELLS) and len(values) < len(rows)):  # a label, not an id
            continue
        location = _locate_column(rows, column, values, index, part)
        if location and (best is None or location.found > best.found):
            best = location
    return best if best and (best.found >= 20 or best.found >= 0.1 * (best.found + len(best.missing))) else None


def _make_finder(values: list[str], index: ImageIndex) -> Callable[[str], list[tuple[str, str]]]:
    """A function from an id to the (folder, rest of the file name) of each of its images."""
    def by_path(value: str) -> list[tuple[str, str]]:
        parent, _, name = value.rpartition("/")
        return [(folder, suffix) for folder, suffix in by_name(name)
                if f"/{folder}".endswith(f"/{parent}") or f"/{parent}".endswith(f"/{folder}")]

    def by_name(value: str) -> list[tuple[str, str]]:
        whole = [(folder, "") for folder in index.names.get(value, ())]
        return list(dict.fromkeys([*whole, *index.stems.get(value, [])]))

    def by_prefix(value: str) -> list[tuple[str, str]]:
        return index.prefixes.get(value, [])

    if "/" in values[0]:
        return by_path
    return by_name if any(map(by_name, values)) else by_prefix


def _locate_column(rows: pd.DataFrame, column: str, values: list[str], index: ImageIndex,
                   part: str) -> ImageLocation | None:
    find = _make_finder(values, index)
    locations, where, missing = Counter(), {}, []
    for value in values:
        found = find(value)
        if not found:
            missing.append(value)
            continue
        where[value] = found
        if "/" in value:
            parent = value.rpartition("/")[0]
            found = [_split_parent(folder, parent, suffix) for folder, suffix in found]
        locations.update(set(found))
    if not where:
        return None
    if any("/" in value for value in list(where)[:1]):
        (before, suffix), _ = locations.most_common(1)[0]
        if before.startswith("<"):
            return ImageLocation(column, "", len(where), tuple(missing), parent_above=before[1:])
        return ImageLocation(column, f"{before}/{{{column}}}{suffix}".lstrip("/"), len(where), tuple(missing))
    images, copies = _template(rows, column, locations, where, part)
    return ImageLocation(column, images, len(where), tuple(missing), copies) if images else None


def _split_parent(folder: str, parent: str, suffix: str) -> tuple[str, str]:
    """The folders in front of an id that is a path, marked by < where the id has more of them than the folder."""
    if f"/{folder}".endswith(f"/{parent}"):
        return folder[:len(folder) - len(parent)].rstrip("/"), suffix
    return "<" + parent[:len(parent) - len(folder)].rstrip("/"), suffix


def _template(rows: pd.DataFrame, column: str, locations: Counter, where: dict,
              part: str) -> tuple[str, tuple[str, ...]]:
    """Part.images for ids with images at `locations`, {(folder, suffix): count}, and patterns of complete copies."""
    ours = {location: count for location, count in locations.items()
            if not re.search(OTHER_PART[part], location[0].lower())}
    locations = Counter(ours or locations)  # the other part's folders may repeat the ids
    def written(folder: str, suffix: str) -> str:
        return f"{folder}/{{{column}}}{suffix}".lstrip("/")

    enough = 0.9 * len(where)
    whole = sorted((location for location, count in locations.items() if count >= enough), key=_sort_key)
    if whole:
        return written(*whole[0]), tuple(written(*location) for location in whole[1:])
    suffixes = {suffix for _, suffix in locations}
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    if len(folders := {folder for folder, _ in locations}) == 1:
        return written(folders.pop(), suffix), ()
    if named := _folder_column(rows, column, where):
        return written(named, suffix), ()
    kinds = {len(folder.split("/")) for folder in folders}
    chosen = max(kinds, key=lambda depth: sum(count for (folder, _), count in locations.items()
                                              if len(folder.split("/")) == depth))
    parts = zip(*(folder.split("/") for folder in sorted(folders) if len(folder.split("/")) == chosen), strict=True)
    return written("/".join(map(_common_pattern, parts)), suffix), ()


def _folder_column(rows: pd.DataFrame, column: str, where: dict) -> str:
    """The folder with another column's name in it, "train/{patient_id}", where its values are folders' names."""
    sample = rows[rows[column].isin(where)].drop_duplicates(column)
    sample = sample.iloc[::max(1, len(sample) // 30)]
    for other in rows.columns.drop(column):
        parents = set()
        for value, name in zip(sample[column], sample[other], strict=True):
            parents.add(next((folder.rpartition("/")[0] for folder, _ in where[value]
                              if folder.rpartition("/")[2] == name), None))
        if len(parents) == 1 and None not in parents:
            return f"{parents.pop()}/{{{other}}}".lstrip("/")
    return ""


def _common_pattern(names: tuple[str, ...]) -> str:
    """images_001 and images_002 as images_*; names that begin alike have a * from where they differ."""
    if len(set(names)) == 1:
        return names[0]
    return re.sub(r"\d+$", "", os.path.commonprefix(names)) + "*"


def _sort_key(location: tuple[str, str]) -> tuple:
    """Pictures before DICOM (its windows are a choice of their own), originals before copies and masks."""
    folder, suffix = location
    kind = suffix.lower().rpartition(".")[2]  # none: the ids have the ending already, or it is DICOM
    rank = {"": 2, "dcm": 2, "dicom": 2, "tif": 1, "tiff": 1, "bmp": 1}.get(kind, 0)
    derived = bool(DERIVED_NAME.search(f"{folder}{suffix}".lower()))
    return derived, rank, "green" not in suffix, folder.count("/"), folder, suffix
