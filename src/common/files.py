"""The home folder, and files that are written atomically, read as text and hashed."""

import csv
import errno
import gzip
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def home() -> Path:
    """The folder that holds data/, folds/, runs/ and submissions/: $STARTER_HOME, or the repository's root."""
    return Path(os.environ.get("STARTER_HOME") or Path(__file__).resolve().parents[2])


def split_ending(name: str) -> tuple[str, str]:
    """A name without its ending, and the ending with its dot; numbers do not count: "1.2.840.113" has no ending."""
    stem, dot, ending = name.rpartition(".")
    return (stem, dot + ending) if stem and re.fullmatch(r"[A-Za-z]\w*", ending) else (name, "")


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (for a file or a folder), renamed to `path` after the block.

    If the block raises, the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # the process id keeps two writers apart
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir() and temporary.exists():
            shutil.rmtree(path)  # a folder cannot be renamed over one that is not empty
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Writes a text file atomically; returns its path."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def json_ready(value: Any, decimals: int | None = None) -> Any:
    """A copy of nested dicts, sequences, tables, dataclasses and numpy values in types that JSON has.

    Tables become lists of rows; None replaces a number that is not finite.  decimals: of rounded floats; None: no
    rounding.
    """
    if is_dataclass(value):
        return json_ready(vars(value), decimals)
    if isinstance(value, pd.DataFrame):
        return [json_ready(row, decimals) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): json_ready(item, decimals) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_ready(item, decimals) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if decimals is None or not isinstance(value, float) else round(value, decimals)


def write_json(path: Path, content: dict) -> Path:
    """Writes an object as JSON; returns the path."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises ValueError if the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and make it again") from error


def write_csv(path: Path, frame: pd.DataFrame, float_format: str | None = None) -> Path:
    """Writes a table without its index, lines ending in \\n everywhere; returns the path."""
    with replace_atomically(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")
    return path


def read_csv(path: Path, header: Sequence[str] = (), separator: str = ",") -> pd.DataFrame:
    """The table in a CSV file, every cell as text, an empty one as "": id 001 stays 001, and nothing is guessed.

    header: the names of the columns if the file has no header;  separator: " " means any number of blanks. A file
    with the ending .gz is unpacked.
    Raises FileNotFoundError if there is no such file, and ValueError if it is empty or not text, a column name is
    repeated, or a row is longer or shorter than the header, as the last row of a truncated file is.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    rows, header = [], list(header)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8-sig") as file:
            lines = (line.split() for line in file) if separator == " " else (
                csv.reader(file, strict=True, delimiter=separator))
            for number, row in enumerate(lines, start=1):
                if not row:
                    continue
                if not header:
                    header = row
                    continue
                if len(row) != len(header):
                    number = getattr(lines, "line_num", number)  # a quoted cell may span several lines
                    raise ValueError(f"{path}: line {number} has {len(row)} cells, but the header has "
                                     f"{len(header)}; the file is cut off or damaged: download or make it again")
                rows.append(row)
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a table of comma-separated text in UTF-8 ({error})") from error
    if not header:
        raise ValueError(f"{path} is empty; download or make it again")
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column name is repeated in the header {', '.join(map(repr, header))}")
    return pd.DataFrame(rows, columns=header, dtype=str)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises OSError where the disk of a folder that exists has fewer than `needed` bytes free for `what`."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(errno.ENOSPC, f"{what} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free; make room, "
                      "or set STARTER_HOME to a folder on another disk", str(folder))


def sha256(*parts: bytes | str) -> str:
    """The hash of all parts, each with its length, so that moving a byte from one part to the next changes it."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
