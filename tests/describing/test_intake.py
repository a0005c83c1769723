"""The layouts that data comes in: several files, lists, parts, folders in folders, rows a finding, arrays in an npz."""

import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import audit
import make_folds
import train
from competition import COMPETITIONS, MEDMNIST, Competition, Part
from data.tables import (
    described_parts,
    headline_targets,
    label_cells,
    read_columns,
    read_part,
    read_solution,
    read_train,
    submitted_part,
)
from real_data import DATA, needs

COLUMNS = Competition(name="columns", about="one column a label", task="multilabel", labels=("a", "b"),
                      metric="roc_auc", train=Part(table="train.csv", images="train/{image_id}.png"))


def write(folder: Path, **files: str) -> Path:
    """Tables by the stem of their name; the images that stand in none of them are named by `images`."""
    for name, text in files.items():
        if name == "images":
            for image in text.split():
                (folder / image).parent.mkdir(parents=True, exist_ok=True)
                (folder / image).touch()
        else:
            (folder / f"{name}.csv").write_text(text)
    return folder


def cells(competition: Competition, table: pd.DataFrame) -> dict[str, list[float]]:
    return dict(zip(table["image_id"], label_cells(competition, table).tolist(), strict=True))


# ---- what is wrong stops every script at the door


PATIENTS = replace(COLUMNS, train=Part(table=("train.csv", "more.csv"), images="train/{image_id}.png"),
                   group_column="patient")


@pytest.mark.parametrize("script", [audit, make_folds, train], ids=lambda script: script.__name__)
@pytest.mark.parametrize("table, more, said", [
    ("name,patient,a,b\n1,p1,1,0\n2,p2,0,1\n", "", "train.csv has no column 'image_id'; it has 'name', 'patient', 'a'"),
    ("image_id,patient,a,b\n1,p1,yes,no\n2,p2,no,yes\n", "", "train.csv: column 'a' holds 'yes' for the image '1'"),
    ("image_id,patient,a,b\n1,p1,1,0\n3,p2,0,1\n", "3,7", "train.csv have no file; the first is '3', looked for at"),
    ("image_id,patient,a,b\n1,p1,1,0\n2, ,0,1\n", "", "1 of 2 rows have no 'patient', the first is image '2'"),
    ("image_id,patient,a,b\n1,p1,1,0\n2,p2,0,1\n", "3,7", "1 ids of"),
    ("image_id,patient,a,b,age\n1,p1,1,0,8\n2,p2,0,1,8\n", "", "disagree about 'age' of 1 images, the first is '2'"),
], ids=["no id column", "words", "no file", "blank patient", "other ids", "disagree"])
def test_wrong_table_is_an_error_and_writes_nothing(home, monkeypatch, script, table, more, said):
    monkeypatch.setitem(COMPETITIONS, "columns", PATIENTS)
    data = write(home, train=table, more=f"image_id,age\n1,8\n{more or '2,7'}\n", images="train/1.png train/2.png")
    before = sorted(home.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(said)):
        script.main(["--competition", "columns", "--data-dir", str(data)])
    assert sorted(home.rglob("*")) == before


# ---- several files


LABELS, FACTS = "image_id,a,b\n1,1,0\n2,0,1\n", "image_id,age,a\n2,40,0\n3,9,1\n1,50,1\n"
TWO = replace(COLUMNS, train=Part(table=("train.csv", "facts.csv"), images="train/{image_id}.png"), group_column="age")


def test_second_label_file_is_joined_by_id(tmp_path):
    table, _ = read_train(TWO, write(tmp_path, train=LABELS, facts=FACTS, images="train/1.png train/2.png"))
    assert table["group"].tolist() == ["50", "40"] and cells(TWO, table) == {"1": [1, 0], "2": [0, 1]}


def test_contradicting_label_files_are_an_error(tmp_path):
    data = write(tmp_path, train=LABELS, facts=FACTS.replace("2,40,0", "2,40,1"), images="train/1.png train/2.png")
    with pytest.raises(ValueError, match=r"train\.csv and .*facts\.csv disagree about 'a' of 1 images, the first is "
                                         r"'2': '0' and '1'"):
        read_train(TWO, data)


def test_cells_1_and_1_0_agree(tmp_path):
    data = write(tmp_path, train=LABELS, facts=FACTS.replace("2,40,0", "2,40,0.0"), images="train/1.png train/2.png")
    assert read_train(TWO, data)[0]["a"].tolist() == [1, 0]


@pytest.mark.parametrize("facts, said", [
    ("image_id,age\n1,50\n", "1 ids of"), ("image,age\n1,50\n2,40\n", "facts.csv has no column 'image_id'"),
    ("image_id,age\n1,50\n1,51\n2,4\n", "1 ids are repeated"),
])
def test_second_label_file_needs_the_same_ids(tmp_path, facts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_train(TWO, write(tmp_path, train=LABELS, facts=facts, images="train/1.png train/2.png"))


def test_gzipped_table_is_found_by_pattern(tmp_path):
    (tmp_path / "Labels_v7.csv.gz").write_bytes(gzip.compress(LABELS.encode()))
    competition = replace(COLUMNS, train=Part(table="Labels*.csv*", images="train/{image_id}.png"))
    table, _ = read_train(competition, write(tmp_path, images="train/1.png train/2.png"))
    assert cells(competition, table) == {"1": [1, 0], "2": [0, 1]}
    (tmp_path / "Labels_v8.csv").write_text(LABELS)
    with pytest.raises(ValueError, match=r"could be Labels_v7\.csv\.gz or Labels_v8\.csv; leave one"):
        read_train(competition, tmp_path)


def test_a_packed_table_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(LABELS.encode() * 100)[:40])
    competition = replace(COLUMNS, train=Part(table="train.csv.gz", images="train/{image_id}.png"))
    with pytest.raises(ValueError, match=r"train\.csv\.gz is not a table"):
        read_train(competition, tmp_path)


# ---- lists


LISTED = Competition(
    name="listed", about="a list without header", task="multiclass", labels=("normal", "covid"), metric="accuracy",
    train=Part(table="train.txt", header=("patient", "file", "class", "source"), separator=" ", images="train/{file}"),
    id_column="file", label_list_column="class", label_map=(("normal", "normal"), ("COVID-19", "covid")),
    group_column="patient",
)


def test_table_without_header_gets_the_given_columns(tmp_path):
    (tmp_path / "train.txt").write_text("p1 1.png normal cohen\np2   2.png COVID-19 rsna\n")
    table, _ = read_train(LISTED, write(tmp_path, images="train/1.png train/2.png"))
    assert table["group"].tolist() == ["p1", "p2"] and table["covid"].tolist() == [0, 1]
    assert read_columns(LISTED, tmp_path, "train")["source"].to_dict() == {"1.png": "cohen", "2.png": "rsna"}


def test_id_list_and_exclude_ids_select_images(tmp_path):
    part = replace(COLUMNS.train, id_list="list.txt", exclude_ids=("2", "not there either"))
    write(tmp_path, train="image_id,a,b\n1,1,0\n2,0,1\n3,0,0\n", images="train/1.png").joinpath("list.txt").write_text(
        "1\r\n2\r\n\r\n")
    table, _ = read_train(replace(COLUMNS, train=part), tmp_path)
    assert table["image_id"].tolist() == ["1"]
    (tmp_path / "list.txt").write_text("1\n9\n")
    with pytest.raises(ValueError, match=r"list\.txt: 1 ids are not in .*train\.csv, the first is '9'"):
        read_train(replace(COLUMNS, train=part), tmp_path)
    (tmp_path / "list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*list\.txt"):
        read_train(replace(COLUMNS, train=part), tmp_path)


# ---- parts


PARTS = replace(COLUMNS, train=(COLUMNS.train, Part(table="valid.csv", images="valid/{image_id}.png", optional=True)),
                official_validation=Part(table="expert.csv", images="expert/{image_id}.png"), group_column="patient")
HEAD = "image_id,patient,a,b\n"


def write_parts(folder: Path) -> Path:
    return write(folder, train=HEAD + "1,p1,1,0\n2,p2,0,1\n", valid=HEAD + "3,p1,0,0\n", expert=HEAD + "4,p4,1,1\n",
                 images="train/1.png train/2.png valid/3.png expert/4.png")


def test_official_validation_part_is_kept_apart_from_training_parts(tmp_path):
    table, left_out = read_train(PARTS, write_parts(tmp_path))
    assert table["image_id"].tolist() == ["1", "2", "3"] and len(left_out) == 0
    assert read_part(PARTS, tmp_path, "official_validation")["image_id"].tolist() == ["4"]
    assert described_parts(PARTS) == ["train", "official_validation"] and submitted_part(PARTS) == "official_validation"
    assert read_solution(PARTS, tmp_path)[["image_id", "usage"]].to_numpy().tolist() == [["4", "Official validation"]]


def test_only_optional_parts_may_be_missing(tmp_path):
    (write_parts(tmp_path) / "valid.csv").unlink()
    assert read_train(PARTS, tmp_path)[0]["image_id"].tolist() == ["1", "2"]
    (tmp_path / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*train\.csv"):
        read_train(PARTS, tmp_path)


def test_id_in_two_training_parts_is_an_error(tmp_path):
    (write_parts(tmp_path) / "valid.csv").write_text(HEAD + "1,p1,0,0\n")
    write(tmp_path, images="valid/1.png")
    with pytest.raises(ValueError, match="the train part: 1 ids are repeated, for example 1"):
        read_train(PARTS, tmp_path)


def test_patients_of_official_validation_may_not_be_trained_on(tmp_path):
    (write_parts(tmp_path) / "expert.csv").write_text(HEAD + "4,p1,1,1\n")
    with pytest.raises(ValueError, match="2 training images have a group that is in the official validation part too"):
        read_train(PARTS, tmp_path)
    table, left_out = read_train(replace(PARTS, shared_groups="drop"), tmp_path)
    assert table["image_id"].tolist() == ["2"] and left_out["image_id"].tolist() == ["1", "3"]


def test_only_the_scored_labels_count_in_the_headline():
    targets = np.array([[1.0, 0.0], [0.0, np.nan]])
    only_b = headline_targets(replace(COLUMNS, scored_labels=("b",)), targets)
    np.testing.assert_array_equal(only_b, [[np.nan, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(headline_targets(COLUMNS, targets), targets)


# ---- where images stand


@pytest.mark.parametrize("pattern, images", [
    ("images_*/images/{image_id}.png", "images_001/images/1.png images_002/images/2.png"),
    ("train/{image_id}.*", "train/1.jpg train/2.jpeg"),
    ("part_*/{image_id}.*", "part_1/1.jpg part_2/2.PNG"),
    ("train[1]/{image_id}.*", "train[1]/1.jpg train[1]/2.png"),  # a bracket is a bracket
])
def test_star_matches_a_folder_or_an_ending(tmp_path, pattern, images):
    competition = replace(COLUMNS, train=Part(table="train.csv", images=pattern))
    table, _ = read_train(competition, write(tmp_path, train=LABELS, images=images))
    assert table["path"].tolist() == [str(tmp_path / image) for image in images.split()]


def test_number_after_a_dot_is_no_ending(tmp_path):
    competition = replace(COLUMNS, train=Part(table="train.csv", images="train/{image_id}.*"))
    images = ["train/1.2.840.1", "train/1.2.840.10.dcm"]
    labels = LABELS.replace("\n1,", "\n1.2.840.1,").replace("\n2,", "\n1.2.840.10,")
    data = write(tmp_path, train=labels, images=" ".join([*images, "train/LICENSE", "train/3.png", "train/3.jpg"]))
    assert read_train(competition, data)[0]["path"].tolist() == [str(tmp_path / image) for image in images]


def test_image_in_two_folders_is_an_error(tmp_path):
    competition = replace(COLUMNS, train=Part(table="train.csv", images="part_*/{image_id}.png"))
    data = write(tmp_path, train=LABELS, images="part_1/1.png part_2/1.png part_2/2.png")
    with pytest.raises(ValueError, match=r"part_1/1\.png and part_2/1\.png in .* could both be the image '1\.png'"):
        read_train(competition, data)


def test_an_image_in_none_of_the_folders_is_named(tmp_path):
    competition = replace(COLUMNS, train=Part(table="train.csv", images="part_*/{image_id}.png"))
    with pytest.raises(FileNotFoundError, match="1 of the 2 images in .* have no file; the first is '2'"):
        read_train(competition, write(tmp_path, train=LABELS, images="part_1/1.png"))


# ---- rows


FINDINGS = replace(COLUMNS, label_list_column="class", ignored_labels=("No finding",),
                   train=replace(COLUMNS.train, repeated_rows="any"))


def test_repeated_rows_are_combined_by_any(tmp_path):
    data = write(tmp_path, train="image_id,class,x\n1,a,5\n2,No finding,\n1,b,6\n1,a,7\n",
                 images="train/1.png train/2.png")
    table, _ = read_train(FINDINGS, data)
    assert cells(FINDINGS, table) == {"1": [1, 1], "2": [0, 0]}
    assert read_columns(FINDINGS, data, "train")["x"].to_dict() == {"1": "5", "2": ""}  # of the first row
    with pytest.raises(ValueError, match="1 ids are repeated"):
        read_train(replace(FINDINGS, train=COLUMNS.train), data)


def test_present_outweighs_uncertain_outweighs_absent_outweighs_blank(tmp_path):
    competition = replace(COLUMNS, train=FINDINGS.train)
    text = "image_id,a,b\n1,0,-1\n1,1,0\n1,-1,\n2,,\n2,0,\n"
    table, _ = read_train(competition, write(tmp_path, train=text, images="train/1.png train/2.png"))
    np.testing.assert_array_equal(label_cells(competition, table), [[1, -1], [0, np.nan]])


def test_image_with_two_patients_is_an_error(tmp_path):
    competition = replace(FINDINGS, group_column="patient")
    data = write(tmp_path, train="image_id,class,patient\n1,a,p1\n1,b,p2\n", images="train/1.png")
    with pytest.raises(ValueError, match="the rows of image '1' name several groups"):
        read_train(competition, data)


def test_codes_and_words_in_one_column_mean_labels(tmp_path):
    graded = replace(COLUMNS, task="multiclass", labels=("none", "mild"), label_list_column="grade",
                     label_map=(("0", "none"), ("1", "mild")))
    table, _ = read_train(graded, write(tmp_path, train="image_id,grade\n1,1\n2,0\n",
                                        images="train/1.png train/2.png"))
    assert table["mild"].tolist() == [1, 0]
    binary = replace(graded, task="binary", labels=("ill",), label_map=(("1", "ill"), ("0", "")))
    assert read_train(binary, tmp_path)[0]["ill"].tolist() == [1, 0]


def test_label_columns_of_words_say_how_to_describe_them(tmp_path):
    data = write(tmp_path, train="image_id,a,b\n1,yes,no\n", images="train/1.png")
    with pytest.raises(ValueError, match="column 'a' holds 'yes' for the image '1'; .* label_list_column and "
                                         "label_map .*of several columns write 1 and 0"):
        read_train(COLUMNS, data)


# ---- arrays


def write_npz(folder: Path, name: str = "set.npz", **changed: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 5), ("val", 3), ("test", 4)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None].astype(np.uint8)
    np.savez_compressed(folder / name, **arrays | changed)
    return folder


ARRAYS = Competition(
    name="arrays", about="an npz", task="multiclass", labels=("x", "y", "z"), metric="accuracy",
    train=(Part(images="set*.npz", arrays="train"), Part(images="set*.npz", arrays="val")),
    test=Part(images="set*.npz", arrays="test"))


def test_the_arrays_of_an_npz_are_images_and_labels(home, tmp_path):
    table, _ = read_train(ARRAYS, write_npz(tmp_path))
    assert table["image_id"].tolist() == [*(f"train-{i}" for i in range(5)), *(f"val-{i}" for i in range(3))]
    assert table["path"].iloc[6] == f"{tmp_path}/set.npz#val_images#1"
    np.testing.assert_array_equal(label_cells(ARRAYS, table).argmax(axis=1), [0, 1, 2, 0, 1, 0, 1, 2])
    assert read_columns(ARRAYS, tmp_path, "train").shape == (8, 0)
    assert read_solution(ARRAYS, tmp_path)["usage"].unique().tolist() == ["Test"]


@pytest.mark.parametrize("changed, said", [
    ({"train_labels": np.zeros((4, 1), np.uint8)}, "train_labels is (4, 1) for 5 images and 3 labels"),
    ({"train_labels": np.full((5, 1), 3, np.uint8)}, "train_labels holds 3, but must be 0 to 2"),
    ({"train_labels": np.zeros((5, 14), np.uint8)}, "train_labels is (5, 14) for 5 images and 3 labels"),
])
def test_arrays_that_do_not_fit_the_description_are_named(home, tmp_path, changed, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_train(ARRAYS, write_npz(tmp_path, **changed))


def test_one_size_of_the_arrays_must_be_chosen(home, tmp_path):
    write_npz(write_npz(tmp_path), "set_64.npz")
    with pytest.raises(ValueError, match=r"could be set\.npz or set_64\.npz; leave one of them there"):
        read_train(ARRAYS, tmp_path)


# ---- ready-made descriptions


def test_the_medmnist_descriptions_are_those_of_the_package():
    from medmnist.info import INFO as info

    assert {name for name in info if not name.endswith("3d")} == set(MEDMNIST)
    for name, said in info.items():
        if name.endswith("3d"):
            continue
        competition = COMPETITIONS[name]
        task = {"multi-class": "multiclass", "ordinal-regression": "multiclass", "binary-class": "binary",
                "multi-label, binary-class": "multilabel"}[said["task"]]
        assert (competition.task, competition.channels) == (task, said["n_channels"])
        theirs = [said["label"][str(k)].lower() for k in range(len(said["label"]))]
        theirs = theirs[1:] if task == "binary" else theirs
        for ours, label in zip(competition.labels, theirs, strict=True):
            assert ours in label


@needs("nih_labels")
def test_the_whole_label_table_of_the_nih_is_read(tmp_path):
    full = COMPETITIONS["nih14_full"]
    table = (DATA / "nih_labels" / "Data_Entry_2017_v2020.csv.gz").resolve()
    (tmp_path / table.name).symlink_to(table)
    ids = [line.partition(",")[0] for line in gzip.open(table, "rt")][1:]
    for number in range(1, 13):
        (tmp_path / f"images_{number:03d}" / "images").mkdir(parents=True)
    for row, image_id in enumerate(ids[:3000]):
        (tmp_path / f"images_{row % 12 + 1:03d}" / "images" / image_id).touch()
    (tmp_path / "train_val_list.txt").write_text("\n".join(ids[:2500]))
    (tmp_path / "test_list.txt").write_text("\n".join(ids[2600:3000]))
    train, _ = read_train(replace(full, shared_groups="drop"), tmp_path)
    assert len(train) + len(_) == 2500 and len(read_part(full, tmp_path, "test")) == 400
    assert len(ids) == 112_120
    with pytest.raises(FileNotFoundError, match="112120 of the 112120|109120 of the 112120"):
        read_train(replace(full, train=replace(full.train, id_list=None)), tmp_path)
