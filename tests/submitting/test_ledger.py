"""The ledger: no line is lost, with other writers or a failed write."""

import csv
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from competition import COMPETITIONS
from real_data import SRC
from submitting.ledger import COLUMNS, Entry, append_entry, ledger_path, one_line, read_ledger

DEMO = COMPETITIONS["demo"]
HASH = "0123456789abcdef" * 4


def entry(**changes) -> Entry:
    return Entry(**{"id": changes.get("run", "cnn_b"), "state": "sent", "run": "cnn_b", "metric": "roc_auc",
                    "sha256": HASH, **changes})


def test_an_entry_comes_back_as_it_was(home):
    sent = entry(cv=0.8125, low=0.79, high=0.83, message='Ünïcode, "quoted", 中文 🫁', submission="demo-cnn_b.csv",
                 ref="7")
    append_entry(DEMO, sent)
    assert read_ledger(DEMO) == [sent]


def test_the_newest_line_counts_and_earlier_ones_stay(home):
    first, other = entry(), entry(run="mlp_a")
    append_entry(DEMO, first)
    before = ledger_path(DEMO).read_bytes()
    append_entry(DEMO, other)
    append_entry(DEMO, replace(first, state="scored", public=0.75))
    assert [(each.run, each.state, each.public) for each in read_ledger(DEMO)] == [
        ("cnn_b", "scored", 0.75), ("mlp_a", "sent", None)]
    assert ledger_path(DEMO).read_bytes().startswith(before)


def test_no_ledger_is_an_empty_one(home):
    assert read_ledger(DEMO) == [] and not ledger_path(DEMO).exists()


def test_a_message_with_line_breaks_stays_on_one_line(home):
    append_entry(DEMO, entry(message='a\r\nb\x00c\u2028d\udc80e\n"f",=g'))
    assert read_ledger(DEMO)[0].message == one_line('a\r\nb\x00c\u2028d\udc80e\n"f",=g') == 'a b c d e "f",=g'
    assert ledger_path(DEMO).read_bytes().count(b"\n") == 2


WRITER = """
import sys
from competition import COMPETITIONS
from submitting.ledger import Entry, append_entry
for i in range(200):
    name = f"{sys.argv[1]}-{i}"
    append_entry(COMPETITIONS["demo"], Entry(id=name, state="sent", run=name, metric="roc_auc",
                                             message="x" * (i * 7 % 300), sha256="0" * 64))
"""


def test_two_processes_that_append_200_lines_each_lose_none(home):
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=environment) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    with ledger_path(DEMO).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    assert len(rows) == 401 and {len(row) for row in rows} == {len(COLUMNS)}
    runs = [each.run for each in read_ledger(DEMO)]
    for name in "ab":  # each writer's lines in its own order
        assert [run for run in runs if run.startswith(name)] == [f"{name}-{i}" for i in range(200)]


def test_a_failed_write_leaves_the_ledger_as_it_was(home, monkeypatch):
    append_entry(DEMO, entry())
    before = ledger_path(DEMO).read_bytes()

    def write_half(path, raw):
        with path.open("wb") as file:
            file.write(raw[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        append_entry(DEMO, entry())
    assert ledger_path(DEMO).read_bytes() == before and len(read_ledger(DEMO)) == 1
    assert [path.name for path in ledger_path(DEMO).parent.glob("*.part")] == []


def test_a_last_line_without_an_end_is_completed(home):
    append_entry(DEMO, entry())
    ledger_path(DEMO).write_bytes(ledger_path(DEMO).read_bytes()[:-1])
    append_entry(DEMO, entry(run="next"))
    assert [each.run for each in read_ledger(DEMO)] == ["cnn_b", "next"]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("sent", "lost", "line 2 is wrong .*the state of a submission is one of"),
    ("0.8", "o.8", "line 2 .*could not convert"),
    ("roc_auc,", "roc_auc,,", "line 2 has 16 cells, but the header has 15"),
    ("state", "stat", "has the columns id, date, stat, "),
    (HASH, HASH[:-1], "line 2 .*is not a SHA-256"),
])
def test_a_line_changed_by_hand_is_named(home, old, new, message):
    append_entry(DEMO, entry(cv=0.8))
    append_entry(DEMO, entry())
    path = ledger_path(DEMO)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_ledger(DEMO)


def test_a_ledger_saved_with_windows_line_ends_is_read(home):
    append_entry(DEMO, entry())
    path = ledger_path(DEMO)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    append_entry(DEMO, entry(run="next"))
    assert [each.run for each in read_ledger(DEMO)] == ["cnn_b", "next"]


@pytest.mark.parametrize("raw", [b'"abc"d,x\n', b"\xff\xfe,x\n"])
def test_a_damaged_table_is_an_error(home, raw):
    append_entry(DEMO, entry())
    with ledger_path(DEMO).open("ab") as file:
        file.write(raw)
    with pytest.raises(ValueError, match="is not a table of comma-separated text in UTF-8"):
        read_ledger(DEMO)
