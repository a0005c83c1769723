"""Files: written atomically, read as text, and hashed without ambiguity."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import (
    home,
    json_ready,
    read_csv,
    read_json,
    replace_atomically,
    sha256,
    split_ending,
    write_csv,
    write_json,
    write_text,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("name", "parts"), [
    ("a.png", ("a", ".png")), ("a.b.JPG", ("a.b", ".JPG")), ("IM-0001", ("IM-0001", "")), (".hidden", (".hidden", "")),
    ("1.2.840.113619.5", ("1.2.840.113619.5", "")), ("scan.jp2", ("scan", ".jp2")), ("a.", ("a.", ""))])
def test_a_number_is_not_an_ending(name, parts):
    assert split_ending(name) == parts


def test_home_is_the_environments_folder_or_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("STARTER_HOME", str(tmp_path))
    assert home() == tmp_path
    for nothing in ("", None):
        monkeypatch.delenv("STARTER_HOME") if nothing is None else monkeypatch.setenv("STARTER_HOME", nothing)
        assert home() == Path(__file__).resolve().parents[2]


def test_the_file_appears_after_the_block(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replace_atomically(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent  # the same disk, so that renaming is one step
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_leaves_the_old_file_only(tmp_path, error):
    path = write_text(tmp_path / "file.txt", "old")
    with pytest.raises(error), replace_atomically(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names_in(tmp_path) == ["file.txt"]


def test_a_folder_replaces_a_folder_that_is_not_empty(tmp_path):
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with replace_atomically(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert names_in(tmp_path) == ["folder"] and names_in(path) == ["new"]


def test_a_block_that_raises_leaves_the_old_folder_only(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ValueError), replace_atomically(path) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise ValueError
    assert names_in(tmp_path) == ["folder"] and names_in(path) == ["old"]


def test_a_block_that_writes_nothing_keeps_the_old_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileNotFoundError), replace_atomically(path):
        pass
    assert names_in(path) == ["old"]


def test_a_leftover_of_a_killed_process_is_removed(tmp_path):
    path = tmp_path / "file.txt"
    with replace_atomically(path) as temporary:
        temporary.touch()
    temporary.mkdir()  # a process of the same number died when it wrote a folder of this name
    (temporary / "rest").touch()
    write_text(path, "new")
    assert path.read_text() == "new" and names_in(tmp_path) == ["file.txt"]


def test_json_comes_back_as_it_was(tmp_path):
    content = {"naïve": [1, 0.1, None, True], "nested": {"": "é"}}
    assert read_json(write_json(tmp_path / "a.json", content)) == content


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_broken_json_is_named(tmp_path, raw):
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="a.json is not valid JSON.*delete it and make it again"):
        read_json(path)


def test_csv_has_unix_line_ends_and_no_index(tmp_path):
    path = write_csv(tmp_path / "a.csv", pd.DataFrame({"id": ["a,b", "2"], "p": [1 / 3, 0.5]}), float_format="%.3f")
    assert path.read_bytes() == b'id,p\n"a,b",0.333\n2,0.500\n'


@pytest.mark.parametrize("raw", [
    b"id,x\n001,\nNA,1.0\n",
    b"id,x\r\n001,\r\nNA,1.0\r\n",
    b"\xef\xbb\xbfid,x\n001,\nNA,1.0",
    b'"id","x"\n\n"001",""\nNA,"1.0"\n\n',
], ids=["unix", "windows", "byte order mark, no last line end", "quotes and blank lines"])
def test_csv_cells_are_read_as_text(tmp_path, raw):
    (tmp_path / "a.csv").write_bytes(raw)
    frame = read_csv(tmp_path / "a.csv")
    assert list(frame.columns) == ["id", "x"]
    assert frame.to_numpy().tolist() == [["001", ""], ["NA", "1.0"]]


def test_a_csv_without_rows_has_its_columns(tmp_path):
    (tmp_path / "a.csv").write_text("id,x\n")
    assert list(read_csv(tmp_path / "a.csv").columns) == ["id", "x"] and len(read_csv(tmp_path / "a.csv")) == 0


@pytest.mark.parametrize("raw, message", [
    (b"", "is empty"),
    (b"\n\n", "is empty"),
    (b"id,x,y\n1,0,1\n2,0", "line 3 has 2 cells, but the header has 3; the file is cut off"),
    (b"id,x\n1,0,1\n2,0,1\n", "line 2 has 3 cells, but the header has 2"),
    (b'id,x\n1,"0\n2,1\n', "not a table of comma-separated text"),
    (b"id,x\n1,caf\xe9\n", "not a table of comma-separated text in UTF-8"),
    (b"\x89PNG\r\n\x1a\n\x00\x00", "not a table of comma-separated text"),
    (b"id,x,x\n1,0,1\n", "a column name is repeated in the header 'id', 'x', 'x'"),
], ids=["empty", "blank", "cut off", "more cells than header", "open quote", "latin-1", "picture", "column twice"])
def test_a_damaged_csv_is_named_with_the_place(tmp_path, raw, message):
    (tmp_path / "a.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(tmp_path / "a.csv")
    assert "a.csv" in str(caught.value)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*a.csv"):
        read_csv(tmp_path / "a.csv")


def test_a_hash_tells_where_one_part_ends():
    assert sha256("ab", "c") != sha256("a", "bc") != sha256("abc")
    assert sha256(b"a") == sha256("a")
    assert len(sha256()) == 64


def test_json_ready_turns_tables_and_numpy_values_into_lists_and_numbers():
    @dataclass
    class Found:
        table: pd.DataFrame
        ends: tuple

    found = Found(pd.DataFrame({"a": [np.int64(1)], "b": [np.nan], "c": [pd.NA]}), (np.float32(0.5), -np.inf))
    cleaned = json_ready({"found": found, 3: np.array([[True], [False]]), "text": "as it is"})
    assert cleaned == {"found": {"table": [{"a": 1, "b": None, "c": None}], "ends": [0.5, None]},
                       "3": [[True], [False]], "text": "as it is"}
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned


def test_json_ready_rounds_only_where_asked():
    assert json_ready([1 / 3, 1 / 3 * 10**6, 7]) == [1 / 3, 1 / 3 * 10**6, 7]
    assert json_ready({"a": (1 / 3, np.float64(2 / 3), 7)}, decimals=3) == {"a": [0.333, 0.667, 7]}
