"""The ledger of submissions and their scores: submissions/<competition>-ledger.csv, one line per event."""

import csv
import io
import re
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

from filelock import FileLock

from common.files import home, read_csv, replace_atomically
from competition import Competition

STATES = ("sent", "pending", "scored", "failed")  # sent: uploaded, without an answer that confirms it
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]+")  # ends a line, or cannot be encoded in UTF-8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: the state of a submission at a date. A later line with the same `id` replaces it."""

    id: str                    # of the submission
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))  # UTC
    state: str                 # one of STATES
    run: str
    metric: str
    cv: float | None = None    # on the out-of-fold predictions
    low: float | None = None   # its 95 % interval
    high: float | None = None
    public: float | None = None
    private: float | None = None
    ref: str = ""              # the service's number for it; "local": scored here
    message: str = ""
    submission: str = ""       # the file's name
    manifest_sha256: str = ""
    sha256: str = ""           # of the file, as in the manifest

    def __post_init__(self):
        if self.state not in STATES:
            raise ValueError(f"the state of a submission is one of {', '.join(STATES)}, not {self.state!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in hexadecimal digits")


COLUMNS = tuple(each.name for each in fields(Entry))
NUMBERS = ("cv", "low", "high", "public", "private")


def ledger_path(competition: Competition) -> Path:
    """The path of a competition's ledger: submissions/<competition>-ledger.csv."""
    return home() / "submissions" / f"{competition.name}-ledger.csv"


def append_entry(competition: Competition, entry: Entry) -> Path:
    """Adds one line and changes no other; returns the ledger's path.

    A lock makes writers wait, and the file is replaced atomically. Raises OSError if the disk is full; the ledger is
    then unchanged.
    """
    path = ledger_path(competition)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        lines = path.read_bytes() if path.exists() else _line(COLUMNS)
        if not lines.endswith(b"\n"):  # an editor may have removed it
            lines += b"\n"
        with replace_atomically(path) as temporary:
            temporary.write_bytes(lines + _line([_cell(getattr(entry, name)) for name in COLUMNS]))
    return path


def read_ledger(competition: Competition) -> list[Entry]:
    """The newest line of every submission, in the order of their first lines; [] if there is no ledger.

    Raises ValueError with the line that is not valid.
    """
    path = ledger_path(competition)
    if not path.exists():
        return []
    table = read_csv(path)
    if tuple(table) != COLUMNS:
        raise ValueError(f"{path} has the columns {', '.join(table)}, but a ledger has {', '.join(COLUMNS)}; move it "
                         "away to start a new one")
    newest = {}
    for number, cells in enumerate(table.to_dict("records"), start=2):
        try:
            entry = Entry(**cells | {name: float(cells[name]) if cells[name] else None for name in NUMBERS})
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is wrong ({error}); correct it, or move the file away to start a "
                             "new one") from error
        newest[entry.id] = entry
    return list(newest.values())


def one_line(text: str) -> str:
    """The text with every run of line breaks and control characters replaced by one blank."""
    return CONTROL.sub(" ", text).strip()


def _cell(value: str | float | None) -> str:
    if value is None or value != value:  # NaN
        return ""
    return one_line(value) if isinstance(value, str) else f"{value:.9g}"


def _line(cells: list[str] | tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8")
