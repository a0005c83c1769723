"""What was submitted and what it scored: submissions/<competition>-ledger.csv, a line an event, only ever added to."""

import csv
import io
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from common.files import home
from competition import Competition

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

STATES = ("sent", "pending", "scored", "failed")  # sent: handed over, whether it arrived is not known yet
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]+")  # would end the line, or are no text in UTF-8
FAR = 2**40  # bytes: Windows locks a stretch of a file, here one that nobody reads


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: the state of a submission at a moment. A later line with the same `id` says what came of it."""

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
    ref: str = ""              # the number that the service gave it; "local": scored here
    message: str = ""
    submission: str = ""       # the file's name
    manifest_sha256: str = ""
    sha256: str = ""           # of the file as files.sha256 and the manifest have it; last, because its known length
    #                            tells a whole line from one cut off

    def __post_init__(self):
        if self.state not in STATES:
            raise ValueError(f"the state of a submission is one of {', '.join(STATES)}, not {self.state!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in hexadecimal digits")


COLUMNS = tuple(each.name for each in fields(Entry))
NUMBERS = ("cv", "low", "high", "public", "private")


def ledger_path(competition: Competition) -> Path:
    """Where a competition's ledger stands: submissions/<competition>-ledger.csv."""
    return home() / "submissions" / f"{competition.name}-ledger.csv"


def append_entry(competition: Competition, entry: Entry) -> Path:
    """Adds one line, whole or not at all; returns the ledger's path.

    Safe beside other writers: they wait for one another. A line that a killed writer left half done is first moved to
    <ledger>.broken, and said. Raises OSError where the disk is full; no line that was there is then lost.
    """
    path = ledger_path(competition)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    try:
        with _locked(descriptor):
            _mend(descriptor, path)
            size = os.fstat(descriptor).st_size
            raw = _line(entry) if size else _as_line(COLUMNS) + _line(entry)
            _write_whole(descriptor, raw, path)
    finally:
        os.close(descriptor)
    return path


def read_ledger(competition: Competition) -> list[Entry]:
    """The newest line of every submission, in the order in which they were first sent; [] where there is no ledger.

    A half line at the end, of a writer that was killed, is passed over and said. Raises ValueError where any other
    line is not one of ours.
    """
    path = ledger_path(competition)
    if not path.exists():
        return []
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        with _locked(descriptor):
            raw = _read_all(descriptor)
    finally:
        os.close(descriptor)
    whole, rest = _split(raw)
    if rest:
        print(f"warning: {path} ends in half a line, {_shown(rest)}, left by a process that was killed; it is not "
              "counted, and the next submission moves it out of the way")
    newest = {}
    for number, row in enumerate(_rows(path, whole), start=1):
        if number == 1 and tuple(row) != COLUMNS:
            raise ValueError(f"{path} has the columns {', '.join(row)}, but a ledger has {', '.join(COLUMNS)}; move it "
                             "away, and a new one is begun")
        if number > 1 and row:
            entry = _parse(path, number, row)
            newest[entry.id] = entry
    return list(newest.values())


def _rows(path: Path, raw: bytes) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of comma-separated text in UTF-8 ({error}); did another program write "
                         "it? Mend it by hand, or move it away, and a new one is begun") from error


def one_line(text: str) -> str:
    """The text with every line break and control character made a blank: what stands in the ledger is one line."""
    return CONTROL.sub(" ", text).strip()


def _line(entry: Entry) -> bytes:
    return _as_line([_cell(getattr(entry, name)) for name in COLUMNS])


def _cell(value: str | float | None) -> str:
    if value is None or value != value:  # NaN
        return ""
    return one_line(value) if isinstance(value, str) else f"{value:.9g}"


def _as_line(cells: list[str] | tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8")


def _parse(path: Path, number: int, row: list[str]) -> Entry:
    try:
        if len(row) != len(COLUMNS):
            raise ValueError(f"it has {len(row)} cells, not {len(COLUMNS)}")
        cells = dict(zip(COLUMNS, row, strict=True))
        return Entry(**cells | {name: float(cells[name]) if cells[name] else None for name in NUMBERS})
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is not a ledger's line ({error}); mend it by hand, or move the file "
                         "away, and a new one is begun") from error


def _write_whole(descriptor: int, raw: bytes, path: Path) -> None:
    """Adds all of it in one call, so that nobody reads half of it, or nothing."""
    size, reason = os.fstat(descriptor).st_size, None
    try:
        written = os.write(descriptor, raw)
        os.fsync(descriptor)
    except OSError as error:
        written, reason = 0, error
    if written < len(raw):
        os.ftruncate(descriptor, size)
        raise OSError(f"{path}: the disk took {written} of {len(raw)} bytes ({reason or 'it is full'}); make room and "
                      "run the command again. The ledger is as it was") from reason


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and what follows them. A last line that lacks nothing but its end counts as whole."""
    whole, _, rest = raw.rpartition(b"\n")
    whole = raw[:len(raw) - len(rest)]
    if rest in (b"", b"\r"):
        return whole, b""
    try:
        cells = next(csv.reader([rest.decode("utf-8")], strict=True))
    except (UnicodeDecodeError, csv.Error):
        return whole, rest
    is_done = tuple(cells) == COLUMNS or (len(cells) == len(COLUMNS) and re.fullmatch("[0-9a-f]{64}", cells[-1]))
    return (raw, b"") if is_done else (whole, rest)


def _mend(descriptor: int, path: Path) -> None:
    """Leaves the ledger ending at the end of a line. Called under the lock."""
    if (size := os.fstat(descriptor).st_size) == 0:
        return
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    if os.read(descriptor, 1) == b"\n":
        return
    whole, rest = _split(_read_all(descriptor))
    if rest:
        broken = path.with_name(path.name + ".broken")
        with broken.open("ab") as file:  # kept first: nothing is lost if this process is killed here
            file.write(rest + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(descriptor, len(whole))
        print(f"warning: {path} ended in half a line, left by a process that was killed; moved to {broken}: "
              f"{_shown(rest)}")
    else:
        os.write(descriptor, b"\n")


def _shown(raw: bytes) -> str:
    return repr(raw.decode("utf-8", errors="replace")[:60])


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Waits until no other process has the file; the system lets it go when this one ends, in whatever way."""
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return
    os.lseek(descriptor, FAR, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    try:
        yield
    finally:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
