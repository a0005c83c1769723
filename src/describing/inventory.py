"""What lies in a folder that somebody downloaded: tables, lists, images, npz files; and which ids have images."""

import csv
import gzip
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import split_ending
from data.dicom import is_dicom
from data.tables import CELLS

IMAGE_ENDINGS = {"png", "jpg", "jpeg", "jpe", "jfif", "gif", "bmp", "webp", "tif", "tiff", "pgm", "ppm", "pnm", "jp2",
                 "dcm", "dicom"}
TABLE_ENDINGS = {"csv", "tsv", "txt", "csv.gz"}
ROWS_AT_MOST, CELLS_AT_MOST, COLUMNS_AT_MOST = 250_000, 5_000_000, 300
OPENED_AT_MOST, FOLDERS_AT_MOST = 20, 200  # files of unknown kind, of each of so many folders
OTHER_PART = {"train": r"(?<![a-z])test", "test": r"train|(?<![a-z])val"}
CODE_FILE_NAME = r"class|label|categor|map|mean|code|index|name|grade"  # words of a file's name that holds such
DERIVED_NAME = re.compile(r"thumb|mask|segment|annot|small|resized|overlay|bbox|tfrec")  # copies and drawings of the images


@dataclass(frozen=True)
class Table:
    """A table of text cells, below the folder; only its first rows where it is long."""

    path: str
    rows: pd.DataFrame
    header: tuple[str, ...] = ()  # names made up for the columns, where the file has none
    separator: str = ","
    whole: bool = True
    flaw: str = ""  # why reading it later would fail, in words


@dataclass(frozen=True)
class Inventory:
    """Everything found below a folder."""

    folder: Path
    images: dict[str, list[str]]  # folder below, "" for itself -> the names of its images, sorted
    tables: tuple[Table, ...]
    lists: dict[str, list[str]]  # text files of one word a line
    arrays: dict[str, dict[str, np.ndarray | tuple[int, ...]]]  # npz file -> labels, and the shapes of the images
    code_names: dict[str, dict[str, str]]  # JSON file that maps numbers or codes to words
    others: dict[str, int]  # ending -> how many files of a kind that nothing here reads
    problems: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(map(len, self.images.values()))


@dataclass(frozen=True)
class ImageLocation:
    """The column of a table that names images, and where these stand."""

    column: str
    images: str  # as Part.images
    found: int  # different ids that have an image there
    missing: tuple[str, ...]  # those that have none
    copies: tuple[str, ...] = ()  # other places that hold the same images
    parent_above: str = ""  # what the ids begin with where the folder given is too deep


@dataclass
class ImageIndex:
    """Where the images of a name, or of a name without its ending, stand."""

    names: dict[str, list[str]] = field(default_factory=dict)
    stems: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    prefixes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # up to the last _


def read_inventory(folder: Path) -> Inventory:
    """Lists the folder once and reads its tables, not its images.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds nothing that can be described.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds the downloaded files")
    images, unknown, found, lists, arrays, code_names, problems = {}, {}, [], {}, {}, {}, []
    tables = []
    for below, name in tqdm(_walk(folder), desc="files", unit="", disable=None):
        ending = _ending(name)
        path = f"{below}/{name}" if below else name
        if ending in IMAGE_ENDINGS:
            images.setdefault(below, []).append(name)
        elif ending in TABLE_ENDINGS:
            found.append(path)
        elif ending == "npz":
            arrays[path] = _read_arrays(folder / path, problems)
        elif ending == "json" and (names_of_codes := _read_code_names(folder / path)):
            code_names[path] = names_of_codes
        else:
            unknown.setdefault(below, []).append(name)
    others = Counter(_ending(name) for names in unknown.values() for name in names)
    for below, name in _find_unnamed_dicoms(folder, unknown, problems):
        images.setdefault(below, []).append(name)
        others[_ending(name)] -= 1
    others = +others
    for braced in [below for below in images if re.search(r"[{}*]", below)]:
        problems.append(f"The {len(images.pop(braced))} images in {braced}/ are left alone: {{, }} and * stand for "
                     f"something else in a description, so the folder must be renamed")
    known = {name for names in images.values() for name in names}
    for path in sorted(found):
        read = _read_table(folder, path, known, problems)
        if isinstance(read, Table):
            tables.append(read)
        elif read:
            lists[path] = read
    if not images and not arrays:
        there = ", ".join(f"{count} {f'.{ending}' if ending else 'files without an ending'}"
                          for ending, count in others.most_common(5)) or "nothing else"
        raise ValueError(f"{folder} holds no image and no npz file (looked for {', '.join(sorted(IMAGE_ENDINGS))}, and "
                         f"for DICOM of any name; there are {len(found)} tables and {there}); unpack the archives that "
                         f"were downloaded, or give another folder. {'. '.join(problems)}".rstrip(". "))
    return Inventory(folder, {below: sorted(names) for below, names in sorted(images.items())}, tuple(tables), lists,
                  arrays, code_names, dict(others), tuple(problems))


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """(folder below, name) of every file that is not hidden. Links to folders are followed, circles are not."""
    visited = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(here).relative_to(folder).as_posix()
        yield from (("" if below == "." else below, name) for name in names if not name.startswith("."))


def _ending(name: str) -> str:
    """The ending in small letters without its dot; "csv.gz" is one."""
    parts = name.lower().split(".")
    return ".".join(parts[-2:]) if parts[-1] == "gz" else split_ending(name)[1][1:].lower()


def _find_unnamed_dicoms(folder: Path, unknown: dict[str, list[str]], problems: list[str]) -> list[tuple[str, str]]:
    """(folder below, name) of the files that are DICOM by their mark and not by their name.

    Files of one ending in one folder are judged by twenty of them. Where there are many folders (one a patient), those
    below one folder further up are judged together: a few thousand files are opened, and not 200,000.
    """
    depth = max((depth for depth in range(max((below.count("/") for below in unknown), default=0) + 2)
                 if len({tuple(below.split("/")[:depth]) for below in unknown}) <= FOLDERS_AT_MOST), default=0)
    alike, found = {}, []
    for below, names in sorted(unknown.items()):
        folders = below.split("/")
        for name in sorted(names):
            stem, suffix = split_ending(name)
            if stem.upper() != "DICOMDIR":  # the index of a disk: has the mark, and no picture
                key = (*folders[:depth], len(folders), suffix.lower(), bool(re.search(r"\d", stem)))
                alike.setdefault(key, []).append((below, name))
    for files in alike.values():
        opened = files[::max(1, len(files) // OPENED_AT_MOST)][:OPENED_AT_MOST]
        marked = [file for file in opened if _is_dicom_file(folder.joinpath(*file))]
        if len(opened) == len(files):
            found += marked
        elif 2 * len(marked) > len(opened):
            found += files
        if marked and len(marked) < len(opened) < len(files):
            other = "/".join(next(file for file in opened if file not in marked)).lstrip("/")
            problems.append(f"Of {len(opened)} files like {other} {len(marked)} are DICOM, and {other} is not; all "
                         f"{len(files)} are {'taken for images' if 2 * len(marked) > len(opened) else 'left alone'}")
    return found


def _is_dicom_file(path: Path) -> bool:
    """True for DICOM; False where a file cannot be opened, as a link that leads nowhere cannot."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


# ---- tables


def _read_table(folder: Path, path: str, known: set[str], problems: list[str]) -> Table | list[str] | None:
    """A table; or the words of a list; or None and a note."""
    try:
        with (gzip.open if path.endswith(".gz") else open)(folder / path, "rt", newline="",
                                                         encoding="utf-8-sig") as file:
            first = [line for _, line in zip(range(50), file, strict=False) if line.strip()]
            if not first:
                problems.append(f"{path} is empty")
                return None
            file.seek(0)
            words = [line.split() for line in first]
            commas = {separator: {len(cells) for cells in csv.reader(first, delimiter=separator)}
                      for separator in (",", "\t", ";")}
            if path.endswith(".txt") and all(len(line) == 1 for line in words) and commas[","] == {1}:
                return [word for line in file if (word := line.strip())]
            separator = next((separator for separator, widths in commas.items() if min(widths) > 1), None)
            if separator is None and path.endswith(".txt"):
                if len({len(line) for line in words}) > 1:
                    return None  # prose
                separator = " "
            return _parse(path, file, separator or ",", known, problems)
    except UnicodeDecodeError as error:
        problems.append(f"{path} cannot be read as a table: it is not in UTF-8 ({error.reason}); save it so")
    except (csv.Error, EOFError, OSError, ValueError) as error:
        problems.append(f"{path} cannot be read as a table ({error})")
        return None


def _parse(path: str, file: Iterator[str], separator: str, known: set[str], problems: list[str]) -> Table | None:
    lines = (line.split() for line in file) if separator == " " else csv.reader(file, delimiter=separator)
    header = next(line for line in lines if line)
    if len(header) > COLUMNS_AT_MOST:
        problems.append(f"{path} has {len(header)} columns, taken for pixels or features and left alone")
        return None
    rows, wrong = [], 0
    limit = min(ROWS_AT_MOST, CELLS_AT_MOST // len(header))
    bare = any(cell in known or cell.rpartition("/")[2] in known for cell in header)
    whole = True
    for line in ([header] if bare else []):
        rows.append(line)
    for line in lines:
        if len(rows) >= limit:
            whole = False
            break
        if len(line) == len(header):
            rows.append(line)
        else:
            wrong += bool(line)
    flaw = f"{wrong} rows are longer or shorter than the first" if wrong else (
        "a column stands twice in its header" if len(set(header)) < len(header) and not bare else "")
    width = len(header)
    names = [f"column{k + 1}" for k in range(width)] if bare else [
        name if name not in header[:k] else f"{name}.{k}" for k, name in enumerate(header)]
    frame = pd.DataFrame(rows, columns=names, dtype=str)
    if bare:
        frame.columns = _name_columns(frame, known)
    return Table(path, frame, tuple(frame.columns) if bare else (), separator, whole, flaw)


def _name_columns(frame: pd.DataFrame, known: set[str]) -> list[str]:
    """Names for the columns of a file that has none: file, class, patient, or column and its number."""
    names, count = list(frame.columns), len(frame)
    distinct = frame.nunique()
    for k, column in enumerate(frame.columns):
        few = 2 <= distinct[column] <= min(30, count / 3)
        if frame[column].iloc[0] in known or frame[column].iloc[0].rpartition("/")[2] in known:
            kind = "file"
        else:
            kind = "class" if few else "patient" if 2 < distinct[column] < count else ""
        if kind and kind not in names:
            names[k] = kind
    return names


def _read_code_names(path: Path) -> dict[str, str]:
    """A JSON file that maps codes to words, {"0": "healthy"}, or words to codes; nothing where it is another."""
    if path.stat().st_size > 1_000_000:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    flat = isinstance(content, dict) and len(content) > 1 and all(isinstance(word, str) for word in content.values())
    if flat:
        return content
    # the other way round only where the file's name says so: settings are words with numbers too
    numbered = (isinstance(content, dict) and len(content) > 1 and re.search(CODE_FILE_NAME, path.stem.lower())
                and all(type(code) is int and re.search("[a-zA-Z]", word) for word, code in content.items()))
    words = {str(code): word for word, code in content.items()} if numbered else {}
    return words if numbered and len(words) == len(content) else {}


def _read_arrays(path: Path, problems: list[str]) -> dict[str, np.ndarray | tuple[int, ...]]:
    """The label arrays of an npz file, and the shapes of the others."""
    content = {}
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                with archive.open(f"{key}.npy") as file:
                    version = np.lib.format.read_magic(file)
                    read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                            else np.lib.format.read_array_header_2_0)
                    shape = read(file)[0]
                content[key] = arrays[key] if key.endswith("_labels") else shape
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
        problems.append(f"{path.name} cannot be read as an npz file ({error})")
    return content


# ---- images


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
    """The id in a path that Part.images made of a table's column; None where it made none of it."""
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
    """An id and the image that it seems to mean, where most ids differ from names in ending, case or zeros only."""
    names = {_normalized(name): name for names in inventory.images.values() for name in names} if len(ids) else {}
    near = [(text, names[_normalized(text)]) for text in ids if _normalized(text) in names]
    return near[0] if 2 * len(near) > len(ids) else None


def _normalized(name: str) -> str:
    """A name in small letters without folders, ending and zeros in front; a number as pandas writes floats, too."""
    stem, _ = split_ending(name.strip().rpartition("/")[2].lower())
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"^(\d+)\.0$", r"\1", stem))


def find_non_images(inventory: Inventory, images: str) -> tuple[str, ...]:
    """What a glob finds besides images, hidden files too: paths below the folder, sorted."""
    known = {f"{below}/{name}".lstrip("/") for below, names in inventory.images.items() for name in names}
    there = (path.relative_to(inventory.folder).as_posix() for path in inventory.folder.glob(images) if path.is_file())
    return tuple(sorted(set(there) - known))


def locate_images(rows: pd.DataFrame, index: ImageIndex, part: str = "train") -> ImageLocation | None:
    """The column that names the most images, and where they stand; None where no column does.

    part: "train" or "test"; where both have images of these names, those in a folder called so are taken.
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
    """A function of an id that gives the (folder, tail of the name) of each of its images."""
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


def _locate_column(rows: pd.DataFrame, column: str, values: list[str], index: ImageIndex, part: str) -> ImageLocation | None:
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
    """What stands before an id that is a path; marked by < where the id has more in front than the folder."""
    if f"/{folder}".endswith(f"/{parent}"):
        return folder[:len(folder) - len(parent)].rstrip("/"), suffix
    return "<" + parent[:len(parent) - len(folder)].rstrip("/"), suffix


def _template(rows: pd.DataFrame, column: str, locations: Counter, where: dict,
              part: str) -> tuple[str, tuple[str, ...]]:
    """Part.images for ids whose images stand in `places`, {(folder, tail): how many}, and other whole copies."""
    ours = {location: count for location, count in locations.items() if not re.search(OTHER_PART[part], location[0].lower())}
    locations = Counter(ours or locations)  # ids may begin anew in the other part's folders
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
    return bool(DERIVED_NAME.search(f"{folder}{suffix}".lower())), rank, "green" not in suffix, folder.count("/"), folder, suffix
