"""Organisers' files as tables: what stands there is read as it stands, and what is wrong is named with the way out."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from competition import COMPETITIONS, Competition, Part
from data.tables import label_cells, read_part, read_sample, read_solution, read_train
from real_data import DATA, needs

COLUMNS = Competition(
    name="columns", about="one column a label", task="multilabel", labels=("a", "b"), metric="roc_auc",
    train=Part(table="train.csv", images="train/{image_id}.png"), group_column="patient",
)
JOINED = replace(COLUMNS, name="joined", group_column=None, label_list_column="findings", ignored_labels=("none",))
FOLDERS = Competition(
    name="folders", about="one folder a class", task="multiclass", labels=("ill", "well"), metric="accuracy",
    train=Part(images="train/*/*.png"), label_pattern=r"/(ILL|WELL)/",
    label_map=(("ILL", "ill"), ("WELL", "well")),
)
GOOD = "image_id,patient,a,b\n001,p1,1,0\n002,p1,0,-1\nNA,p2,1.0,\n"


def write(folder: Path, text: str | bytes, *images: str, table: str = "train.csv") -> Path:
    """A data folder with a table and empty files for its images; returns the folder."""
    (folder / table).write_bytes(text.encode() if isinstance(text, str) else text)
    return touch(folder, *images)


def touch(folder: Path, *images: str) -> Path:
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    return folder


THREE = ("train/001.png", "train/002.png", "train/NA.png")


# ---- sound files are read as they stand


@pytest.mark.parametrize("raw", [
    GOOD.encode(),
    GOOD.replace("\n", "\r\n").encode(),
    b"\xef\xbb\xbf" + GOOD.encode(),
    GOOD.rstrip("\n").encode(),
    GOOD.replace("p1,0,-1", "p1 , 0 ,-1.0").encode(),
    b"b,extra,patient,image_id,a\n0,x,p1,001,1\n-1,y,p1,002,0\n,z,p2,NA,1\n",
], ids=["plain", "windows line ends", "byte order mark", "no last line end", "blanks and decimals", "other columns"])
def test_table_may_have_any_line_ends_and_encoding_mark(tmp_path, raw):
    table, left_out = read_train(COLUMNS, write(tmp_path, raw, *THREE))
    assert list(table.columns) == ["image_id", "path", "group", "a", "b"] and len(left_out) == 0
    assert table["image_id"].tolist() == ["001", "002", "NA"]
    assert table["group"].tolist() == ["p1", "p1", "p2"]
    assert table["path"].tolist() == [str(tmp_path / image) for image in THREE]
    np.testing.assert_array_equal(label_cells(COLUMNS, table), [[1, 0], [0, -1], [1, np.nan]])


def test_label_cells_are_a_copy_in_label_order(tmp_path):
    table, _ = read_train(COLUMNS, write(tmp_path, GOOD, *THREE))
    cells = label_cells(replace(COLUMNS, labels=("b", "a")), table[["b", "a"]])
    np.testing.assert_array_equal(cells, [[0, 1], [-1, 0], [np.nan, 1]])
    cells[:] = 9
    assert table["a"].tolist() == [1, 0, 1]


def test_label_columns_may_have_other_names_in_the_file(tmp_path):
    competition = replace(COLUMNS, labels=("effusion", "mass"), label_columns=("b", "a"))
    table, _ = read_train(competition, write(tmp_path, GOOD, *THREE))
    assert table["mass"].tolist() == [1, 0, 1] and table["effusion"].tolist()[:2] == [0, -1]


def test_a_path_may_be_built_of_several_columns(tmp_path):
    competition = replace(COLUMNS, train=Part(table="train.csv", images="{patient}/view {image_id}.png"))
    table, _ = read_train(competition, write(tmp_path, GOOD, "p1/view 001.png", "p1/view 002.png", "p2/view NA.png"))
    assert table["path"].iloc[2] == str(tmp_path / "p2" / "view NA.png")


def test_a_relative_data_folder_gives_absolute_paths(tmp_path, monkeypatch):
    write(tmp_path, GOOD, *THREE)
    monkeypatch.chdir(tmp_path)
    assert read_train(COLUMNS, Path())[0]["path"].iloc[0] == str(tmp_path / THREE[0])


def test_joined_labels_are_separated(tmp_path):
    data = write(tmp_path, "image_id,findings\n1,a|b\n2,none\n3, b \n4,\n", *(f"train/{i}.png" for i in range(1, 5)))
    np.testing.assert_array_equal(label_cells(JOINED, read_train(JOINED, data)[0]), [[1, 1], [0, 0], [0, 1], [0, 0]])


def test_one_column_may_name_the_class(tmp_path):
    data = write(tmp_path, "image_id,findings\n1,b\n2,a\n", "train/1.png", "train/2.png")
    table, _ = read_train(replace(JOINED, task="multiclass"), data)
    np.testing.assert_array_equal(label_cells(JOINED, table), [[0, 1], [1, 0]])


def test_class_folders_may_hold_files_of_the_same_name(tmp_path):
    table, _ = read_train(FOLDERS, touch(tmp_path, "train/WELL/1.png", "train/ILL/1.png", "train/ILL/2.png"))
    assert table["image_id"].tolist() == ["train/ILL/1.png", "train/ILL/2.png", "train/WELL/1.png"]
    assert table["group"].tolist() == table["image_id"].tolist()
    np.testing.assert_array_equal(label_cells(FOLDERS, table), [[1, 0], [1, 0], [0, 1]])


def test_patterns_ignore_the_data_folders_name(tmp_path):
    data = touch(tmp_path / "WELL" / "person9", "train/ILL/person1_1.png", "train/WELL/person2_1.png")
    table, _ = read_train(replace(FOLDERS, group_pattern=r"(person\d+)"), data)
    assert table["group"].tolist() == ["person1", "person2"] and table["ill"].tolist() == [1, 0]


def test_a_pattern_may_say_that_no_label_is_there(tmp_path):
    binary = replace(FOLDERS, task="binary", labels=("ill",), label_map=(("ILL", "ill"), ("WELL", "")))
    table, _ = read_train(binary, touch(tmp_path, "train/ILL/1.png", "train/WELL/1.png"))
    assert table["ill"].tolist() == [1, 0]


def test_rows_are_kept_by_the_text_in_a_column(tmp_path):
    data = write(tmp_path, "image_id,split,a,b\n1,train,1,0\n2,test,0,1\n3,valid,0,0\n", "train/1.png", "train/3.png")
    part = Part(table="train.csv", images="train/{image_id}.png", row_filter=(("split", ("train", "valid")),))
    table, _ = read_train(replace(COLUMNS, group_column=None, train=part), data)
    assert table["image_id"].tolist() == ["1", "3"] and table.index.tolist() == [0, 1]


# ---- what is wrong is named


@pytest.mark.parametrize("text, error, message", [
    ("image_id,patient,a\n001,p1,1\n", ValueError, "train.csv has no column 'b'; it has 'image_id', 'patient', 'a'"),
    ("id,patient,a,b\n001,p1,1,0\n", ValueError, "has no column 'image_id'; it has 'id'"),
    ("image_id,a,b\n001,1,0\n", ValueError, "has no column 'patient'"),
    ("image_id,patient,a,b\n", ValueError, "train.csv has no row"),
    ("", ValueError, "train.csv is empty"),
    (GOOD[:-7], ValueError, "line 4 has 2 cells, but the header has 4; the file is cut off"),
    (GOOD.replace("NA,", "001,"), ValueError, "1 ids are repeated, for example 001"),
    (GOOD.replace("NA,", ","), ValueError, "1 rows have no image_id"),
    (GOOD.replace("002,p1", "002, "), ValueError, "1 of 3 rows have no 'patient', the first is image '002'; a"),
    (GOOD.replace("p1,0,-1", "p1,yes,-1"), ValueError, "column 'a' holds 'yes' for the image '002'; a label cell is"),
    (GOOD.replace("p1,0,-1", "p1,0,0.7"), ValueError, "column 'b' holds '0.7' for the image '002'"),
    (GOOD.replace("p1,0,-1", "p1,0,nan"), ValueError, "column 'b' holds 'nan' for the image '002'"),
    (GOOD.replace("002", "2"), FileNotFoundError, "1 of the 3 images in"),
], ids=["column", "id column", "group column", "no rows", "empty", "cut off", "duplicate id", "blank id",
        "blank patient", "word", "fraction", "nan", "no file"])
def test_wrong_table_is_named_with_the_reason(tmp_path, text, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        read_train(COLUMNS, write(tmp_path, text, *THREE))
    assert "train.csv" in str(caught.value)


def test_missing_image_is_named_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"'002', looked for at {tmp_path / 'train' / '002.png'}: "
                                                          "fetch them, or name them in `exclude_ids`")):
        read_train(COLUMNS, write(tmp_path, GOOD, THREE[0], THREE[2]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="3 of the 3 images.* correct .*, where `images` is the place"):
        read_train(COLUMNS, write(tmp_path / "empty", GOOD))


def test_a_folder_is_no_image(tmp_path):
    data = write(tmp_path, GOOD, *THREE[1:])
    (tmp_path / THREE[0]).mkdir()
    with pytest.raises(FileNotFoundError, match="1 of the 3 images"):
        read_train(COLUMNS, data)


def test_a_missing_table_or_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*train\.csv; give the data's folder with --data-dir"):
        read_train(COLUMNS, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.csv; run: python src/make_demo\.py --data-dir"):
        read_train(COMPETITIONS["demo"], tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere; give the data's with --data-dir"):
        read_train(COLUMNS, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*train/\*/\*\.png; give the data's folder"):
        read_train(FOLDERS, tmp_path)


def test_a_filter_that_leaves_nothing_is_named(tmp_path):
    part = replace(COLUMNS.train, row_filter=(("patient", ("p9",)),))
    with pytest.raises(ValueError, match=r"train\.csv has no row with 'patient' one of \('p9',\); it has 'p1', 'p2'"):
        read_train(replace(COLUMNS, train=part), write(tmp_path, GOOD, *THREE))
    with pytest.raises(ValueError, match="has no column 'split'"):
        read_train(replace(COLUMNS, train=replace(part, row_filter=(("split", ("train",)),))), tmp_path)


def test_an_unknown_label_is_named_with_its_image(tmp_path):
    data = write(tmp_path, "image_id,findings\n1,a\n7,b|Efusion\n", "train/1.png", "train/7.png")
    with pytest.raises(ValueError, match="image '7' has the unknown label 'Efusion'; add it to labels"):
        read_train(JOINED, data)


@pytest.mark.parametrize("text, where", [
    ("image_id,patient,a,b\n1,p,1,0\n2,p,1,1\n", COLUMNS),
    ("image_id,patient,a,b\n1,p,1,0\n2,p,0,0\n", COLUMNS),
    ("image_id,findings\n1,a\n2,a|b\n", JOINED),
    ("image_id,findings\n1,a\n2,none\n", JOINED),
], ids=["two", "none", "two joined", "none joined"])
def test_an_image_of_two_classes_or_none_is_named(tmp_path, text, where):
    data = write(tmp_path, text, "train/1.png", "train/2.png")
    with pytest.raises(ValueError, match=r"train\.csv: 1 images do not have exactly one class, the first is '2'"):
        read_train(replace(where, task="multiclass"), data)


def test_a_path_without_a_label_or_group_is_named(tmp_path):
    data = touch(tmp_path, "train/ILL/a1.png", "train/OTHER/b2.png")
    with pytest.raises(ValueError, match="finds nothing in 1 paths, the first is 'train/OTHER/b2.png'"):
        read_train(FOLDERS, data)
    with pytest.raises(ValueError, match="finds nothing in 1 paths, the first is 'train/ILL/a1.png'"):
        read_train(replace(FOLDERS, group_pattern=r"(b\d)"), data)
    with pytest.raises(ValueError, match=r"the paths name the labels \['OTHER'\], which label_map does not"):
        read_train(replace(FOLDERS, label_pattern=r"train/(\w+)/"), data)


# ---- train and test


def with_test(shared_groups: str) -> Competition:
    return replace(COLUMNS, shared_groups=shared_groups,
                   test=Part(table="test.csv", images="test/{image_id}.png", labelled=False))


@pytest.fixture
def shared(tmp_path) -> Path:
    """Patient p2 is in both parts."""
    write(tmp_path, GOOD, *THREE)
    return write(tmp_path, "image_id,patient\n9,p2\n", "test/9.png", table="test.csv")


def test_patient_in_train_and_test_needs_shared_groups(shared):
    with pytest.raises(ValueError, match=r"1 training images have a group that is in the test part too \(p2\); write "
                                         r"in competition.py what that means: shared_groups='drop' or 'distinct'"):
        read_train(with_test("error"), shared)


def test_shared_patients_can_be_dropped_from_train(shared):
    table, left_out = read_train(with_test("drop"), shared)
    assert table["image_id"].tolist() == ["001", "002"] and left_out["image_id"].tolist() == ["NA"]
    assert table.index.tolist() == [0, 1]


def test_patients_of_two_parts_can_be_distinct(shared):
    table, left_out = read_train(with_test("distinct"), shared)
    assert len(table) == 3 and len(left_out) == 0


def test_a_shared_patient_is_seen_through_blanks(shared):
    write(shared, "image_id,patient\n9, p2 \n", table="test.csv")
    with pytest.raises(ValueError, match="in the test part too"):
        read_train(with_test("error"), shared)


def test_shared_patient_is_found_in_test_image_names(shared):
    write(shared, "image_id,patient\np2,p2\n", "test/p2.png", table="test.csv")
    with pytest.raises(ValueError, match="in the test part too"):
        read_train(with_test("error"), shared)


def test_a_test_table_without_patients_is_no_obstacle(shared):
    write(shared, "image_id\n001\n", "test/001.png", table="test.csv")  # ids may begin anew
    table, _ = read_train(with_test("error"), shared)
    test = read_part(with_test("error"), shared, "test")
    assert len(table) == 3 and list(test.columns) == ["image_id", "path", "group"]


def test_missing_test_part_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="competition 'columns' has no test part"):
        read_part(COLUMNS, tmp_path, "test")


# ---- samples and solutions


def test_a_sample_is_kept_as_it_is_with_all_its_columns(tmp_path):
    competition = replace(COLUMNS, sample_submission="sample.csv")
    sample = read_sample(competition, write(tmp_path, "a,image_id,note,b\n0,007,x,0.0\n", table="sample.csv"))
    assert sample.to_numpy().tolist() == [["0", "007", "x", "0.0"]]
    assert read_sample(COLUMNS, tmp_path) is None


@pytest.mark.parametrize("text, message", [
    ("image_id,a\n1,0\n", "sample.csv has no column 'b'"),
    ("id,a,b\n1,0,0\n", "sample.csv has no column 'image_id'"),
    ("image_id,a,b\n1,0,0\n1,0,0\n", "sample.csv: 1 ids are repeated"),
])
def test_sample_that_contradicts_the_description_is_an_error(tmp_path, text, message):
    write(tmp_path, text, table="sample.csv")
    with pytest.raises(ValueError, match=message):
        read_sample(replace(COLUMNS, sample_submission="sample.csv"), tmp_path)


def test_ignored_rows_of_a_solution_are_dropped(tmp_path):
    competition = replace(COLUMNS, solution="solution.csv")
    write(tmp_path, "image_id,a,b,Usage\n1,1,0,Public\n2,0,-1,Private\n3,0,0,Ignored\n", table="solution.csv")
    solution = read_solution(competition, tmp_path)
    assert solution[["image_id", "usage"]].to_numpy().tolist() == [["1", "Public"], ["2", "Private"]]
    np.testing.assert_array_equal(label_cells(competition, solution), [[1, 0], [0, -1]])


def test_solution_with_repeated_id_raises(tmp_path):
    write(tmp_path, "image_id,a,b\n1,1,0\n1,0,0\n", table="solution.csv")
    with pytest.raises(ValueError, match="1 ids are repeated"):
        read_solution(replace(COLUMNS, solution="solution.csv"), tmp_path)


def test_a_labelled_test_part_is_its_own_solution(tmp_path):
    touch(tmp_path, "train/ILL/1.png", "test/ILL/1.png", "test/WELL/2.png")
    solution = read_solution(replace(FOLDERS, test=Part(images="test/*/*.png")), tmp_path)
    assert solution.columns.tolist() == ["image_id", "ill", "well", "usage"]
    assert solution["ill"].tolist() == [1, 0] and set(solution["usage"]) == {"Test"}


def test_unknown_test_labels_give_no_solution(shared):
    assert read_solution(with_test("drop"), shared) is None
    assert read_solution(replace(COLUMNS, solution="solution.csv"), shared) is None


# ---- sizes


def test_two_rows_are_a_table(tmp_path):
    assert len(read_train(COLUMNS, write(tmp_path, "".join(GOOD.splitlines(True)[:3]), *THREE[:2]))[0]) == 2


def test_two_hundred_thousand_rows_are_read(tmp_path, monkeypatch):
    count = 200_000
    frame = pd.DataFrame({"image_id": np.arange(count), "patient": np.arange(count) // 4, "a": 1, "b": ""})
    frame.to_csv(tmp_path / "train.csv", index=False)
    monkeypatch.setattr("data.tables._check_files_exist", lambda rows, path: None)  # so that no files need to be made
    table, _ = read_train(COLUMNS, tmp_path)
    assert len(table) == count and table["group"].nunique() == count // 4 and table["b"].isna().all()


# ---- the real sets: counts as their description has them


@needs("nih1000")
def test_nih_sample_has_264_patients():
    competition = replace(COMPETITIONS["nih14"], test=None, train=replace(COMPETITIONS["nih14"].train, row_filter=()))
    table, _ = read_train(competition, DATA / "nih1000")
    assert (len(table), table["group"].nunique(), table["group"].value_counts().max()) == (1000, 264, 66)
    positives = dict(zip(competition.labels, label_cells(competition, table).sum(axis=0), strict=True))
    assert positives == {
        "Effusion": 170, "Infiltration": 162, "Atelectasis": 95, "Cardiomegaly": 83, "Consolidation": 42,
        "Pneumothorax": 40, "Nodule": 39, "Emphysema": 37, "Mass": 35, "Fibrosis": 32, "Edema": 31,
        "Pleural_Thickening": 29, "Pneumonia": 11, "Hernia": 9}
    assert (label_cells(competition, table).sum(axis=1) == 0).sum() == 499


@needs("nih1000")
@pytest.mark.parametrize("name", ["nih3", "nih14"])
def test_nih_train_shares_no_patient_with_test(name):
    table, left_out = read_train(COMPETITIONS[name], DATA / "nih1000")
    test = read_part(COMPETITIONS[name], DATA / "nih1000", "test")
    assert len(table) + len(left_out) == 800 and len(test) == 200
    assert not set(table["group"]) & set(test["group"])
    assert set(left_out["group"]) <= set(test["group"])
    raw = pd.read_csv(DATA / "nih1000" / "sample_labels.csv")
    shared = set(raw.loc[raw["split"] == "test", "Patient ID"])
    assert len(left_out) == (raw["split"].ne("test") & raw["Patient ID"].isin(shared)).sum() > 0


@needs("chest_xray")
@pytest.mark.parametrize("name, train, test", [
    ("pneumonia2", {"pneumonia": 3875}, {"pneumonia": 390}),
    ("pneumonia3", {"normal": 1341, "bacteria": 2530, "virus": 1345}, {"normal": 234, "bacteria": 242, "virus": 148}),
])
def test_pneumonia_has_the_published_counts(name, train, test):
    competition, data = COMPETITIONS[name], DATA / "chest_xray"
    for part, count, groups, positives in (("train", 5216, 1635, train), ("test", 624, 202, test)):
        table = read_part(competition, data, part)
        assert (len(table), table["image_id"].nunique()) == (count, count)
        assert table[list(competition.labels)].sum().to_dict() == positives
        persons = table["group"][table["group"].str.startswith("person")].nunique()
        assert persons == groups, "persons with pneumonia"
    assert len(read_train(competition, data)[0]) == 5216
    assert len(read_solution(competition, data)) == 624
