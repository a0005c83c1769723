"""Lists what a downloaded folder contains: images, tables, lists of ids, npz files, names of codes."""

import csv
import gzip
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import split_ending
from data.dicom import is_dicom_file
from data.npz import read_header

IMAGE_ENDINGS = {"png", "jpg", "jpeg", "jpe", "jfif", "gif", "bmp", "webp", "tif", "tiff", "pgm", "ppm", "pnm", "jp2",
                 "dcm", "dicom"}
TABLE_ENDINGS = {"csv", "tsv", "txt", "csv.gz"}
ROWS_AT_MOST, CELLS_AT_MOST, COLUMNS_AT_MOST = 250_000, 5_000_000, 300
OPENED_AT_MOST, FOLDERS_AT_MOST = 20, 200  # files of unknown kind, of each of so many folders
CODE_FILE_NAME = r"class|label|categor|map|mean|code|index|name|grade"  # words in the name of a file that maps codes


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
    """Everything found in a folder and below."""

    folder: Path
    images: dict[str, list[str]]  # folder below, "" for itself -> the names of its images, sorted
    tables: tuple[Table, ...]
    lists: dict[str, list[str]]  # text files of one word a line
    arrays: dict[str, dict[str, np.ndarray | tuple[int, ...]]]  # npz file -> labels, and the shapes of the images
    code_names: dict[str, dict[str, str]]  # JSON file that maps numbers or codes to words
    others: dict[str, int]  # ending -> number of files that nothing here reads
    problems: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(map(len, self.images.values()))


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
        problems.append(f"The {len(images.pop(braced))} images in {braced}/ are ignored, because {{, }} and * have "
                        "a special meaning in a description: rename the folder")
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
        marked = [file for file in opened if is_dicom_file(folder.joinpath(*file))]
        if len(opened) == len(files):
            found += marked
        elif 2 * len(marked) > len(opened):
            found += files
        if marked and len(marked) < len(opened) < len(files):
            other = "/".join(next(file for file in opened if file not in marked)).lstrip("/")
            problems.append(f"Of {len(opened)} files like {other} {len(marked)} are DICOM, and {other} is not; all "
                         f"{len(files)} are {'taken for images' if 2 * len(marked) > len(opened) else 'ignored'}")
    return found


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
        problems.append(f"{path} cannot be read as a table: it is not UTF-8 ({error.reason}); save it in UTF-8")
    except (csv.Error, EOFError, OSError, ValueError) as error:
        problems.append(f"{path} cannot be read as a table ({error})")
        return None


def _parse(path: str, file: Iterator[str], separator: str, known: set[str], problems: list[str]) -> Table | None:
    lines = (line.split() for line in file) if separator == " " else csv.reader(file, delimiter=separator)
    header = next(line for line in lines if line)
    if len(header) > COLUMNS_AT_MOST:
        problems.append(f"{path} has {len(header)} columns, taken for pixels or features and ignored")
        return None
    limit = min(ROWS_AT_MOST, CELLS_AT_MOST // len(header))
    bare = any(cell.rpartition("/")[2] in known for cell in header)
    rows, wrong, whole = [header] if bare else [], 0, True
    for line in lines:
        if len(rows) >= limit:
            whole = False
            break
        if len(line) == len(header):
            rows.append(line)
        else:
            wrong += bool(line)
    flaw = f"{wrong} rows are longer or shorter than the first" if wrong else (
        "its header names a column twice" if len(set(header)) < len(header) and not bare else "")
    names = [f"column{k + 1}" for k in range(len(header))] if bare else [
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
        if frame[column].iloc[0].rpartition("/")[2] in known:
            kind = "file"
        else:
            kind = "class" if few else "patient" if 2 < distinct[column] < count else ""
        if kind and kind not in names:
            names[k] = kind
    return names


def _read_code_names(path: Path) -> dict[str, str]:
    """A JSON file that maps codes to words, {"0": "healthy"}, or words to codes; nothing where it is another."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= 1_000_000 else {}
    except ValueError:  # no JSON, or no UTF-8
        return {}
    if not isinstance(content, dict) or len(content) < 2:
        return {}
    if all(isinstance(word, str) for word in content.values()):
        return content
    # words to codes only where the file's name allows it: settings are words with numbers too
    words = {str(code): word for word, code in content.items() if type(code) is int and re.search("[a-zA-Z]", word)}
    return words if re.search(CODE_FILE_NAME, path.stem.lower()) and len(words) == len(content) else {}


def _read_arrays(path: Path, problems: list[str]) -> dict[str, np.ndarray | tuple[int, ...]]:
    """The label arrays of an npz file, and the shapes of the others."""
    content = {}
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                with archive.open(f"{key}.npy") as file:
                    shape = read_header(file)[0]
                content[key] = arrays[key] if key.endswith("_labels") else shape
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
        problems.append(f"{path.name} cannot be read as an npz file ({error})")
    return content




