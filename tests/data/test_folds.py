"""The folds file: made once, a user's own honoured as it is, checked against the pixels, and refused where it leaks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from common.files import read_json, sha256
from competition import Competition, Part
from data.folds import (
    attach_folds,
    find_near_sets,
    fold_numbers,
    folds_path,
    make_folds,
    read_folds,
)
from data.pixel_store import PixelSettings, PixelStore, open_store

LABELS = ("a", "b")
SMALL = Competition(name="small", about="drawn here", task="multilabel", labels=LABELS, metric="roc_auc",
                    train=Part(table="train.csv", images="{image_id}.png"))
BLACK = ("i04", "i17", "i30")  # of three different patients
TWINS = ("i01", "i26")  # of two patients
COMMAND = r"run: python src/make_folds\.py --competition small"
MADE_BY = {"rule": "grouped", "n_folds": 3, "seed": 0, "repeats": 0, "holdout": 0, "stratify": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """40 images of 16x16 noise: three black, two with equal pixels in different files."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(40):
        image = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        cv2.imwrite(str(folder / f"i{number:02}.png"), image * (f"i{number:02}" not in BLACK))
    pixels = cv2.imread(str(folder / f"{TWINS[0]}.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(folder / f"{TWINS[1]}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert (folder / f"{TWINS[0]}.png").read_bytes() != (folder / f"{TWINS[1]}.png").read_bytes()
    return folder


@pytest.fixture
def table(folder) -> pd.DataFrame:
    """Images i00, i01, ... two by two of patients p00, p01, ..."""
    ids = [f"i{number:02}" for number in range(40)]
    cells = np.random.default_rng(1).integers(0, 2, (40, 2)).astype(float)
    return pd.DataFrame({"image_id": ids, "path": [str(folder / f"{name}.png") for name in ids],
                         "group": [f"p{number // 2:02}" for number in range(40)], "a": cells[:, 0], "b": cells[:, 1]})


@pytest.fixture
def store(home, table) -> PixelStore:
    return open_store("small-train", table, PixelSettings(16, 1))


def own_file(table: pd.DataFrame, folds: np.ndarray | list, line_end: str = "\n", shuffled: bool = False) -> bytes:
    """A user's folds file as bytes, written to its place."""
    rows = [f"{name},{fold}" for name, fold in zip(table["image_id"], folds, strict=True)]
    raw = line_end.join(["image_id,fold", *(rows[::-1] if shuffled else rows), ""]).encode()
    folds_path(SMALL).parent.mkdir(parents=True, exist_ok=True)
    folds_path(SMALL).write_bytes(raw)
    return raw


def sound_folds(table: pd.DataFrame) -> np.ndarray:
    """Three folds that split no patient and no twins."""
    folds = table["group"].str[1:].astype(int).to_numpy() % 3
    folds[table["group"].isin(table.loc[table["image_id"].isin(TWINS), "group"])] = 0
    return folds


# ---- made


def test_made_folds_split_no_patient_and_no_copies(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    folded = attach_folds(SMALL, table, folds)
    assert folds.count == 3 and set(folded["fold"]) == {0, 1, 2} and folds.metadata["made_by"] == MADE_BY
    assert (folded.groupby("group")["fold"].nunique() == 1).all()
    assert (table.assign(fold=folded["fold"]).groupby("group")["fold"].nunique() == 1).all()
    assert folded.loc[folded["image_id"].isin(TWINS), "fold"].nunique() == 1


def test_copies_join_patients_and_black_images_do_not(table, store):
    folded = attach_folds(SMALL, table, make_folds(SMALL, table, store, 3, seed=0))
    group = folded.set_index("image_id")["group"]
    assert group["i00"] == group["i01"] == group["i26"] == group["i27"] == "p00"
    assert len({group[name] for name in BLACK}) == 3
    assert folded["group"].nunique() == 19
    assert folded.loc[folded["constant"], "image_id"].tolist() == list(BLACK)


def test_metadata_lists_copies_and_constant_images(table, store):
    metadata = make_folds(SMALL, table, store, 3, seed=0).metadata
    assert metadata["duplicates"] == [list(TWINS)] and metadata["constant"] == list(BLACK)
    assert read_json(folds_path(SMALL).with_suffix(".json")) == metadata


def test_the_file_has_an_image_and_its_fold_a_line(table, store):
    make_folds(SMALL, table, store, 3, seed=0)
    lines = folds_path(SMALL).read_text().splitlines()
    assert lines[0] == "image_id,fold" and len(lines) == 41 and re.fullmatch("i00,[012]", lines[1])


def test_images_without_groups_are_stratified(table, store):
    other = [name for name in table["image_id"] if name != TWINS[1]]
    table = table[table["image_id"].isin(other)].reset_index(drop=True)
    table["group"] = table["image_id"]
    folds = make_folds(SMALL, table, store, 3, seed=0)
    assert folds.metadata["made_by"] == {**MADE_BY, "rule": "stratified"}
    assert sorted(attach_folds(SMALL, table, folds)["fold"].value_counts()) == [13, 13, 13]


def test_equal_images_alone_are_reason_enough_for_groups(table, store):
    table["group"] = table["image_id"]
    folds = make_folds(SMALL, table, store, 3, seed=0)
    assert folds.metadata["made_by"]["rule"] == "grouped"
    assert attach_folds(SMALL, table, folds).set_index("image_id")["fold"].loc[list(TWINS)].nunique() == 1


def test_making_folds_again_changes_nothing(table, store):
    first = make_folds(SMALL, table, store, 3, seed=0)
    raw = first.path.read_bytes(), first.path.with_suffix(".json").read_bytes()
    again = make_folds(SMALL, table, store)
    assert again == make_folds(SMALL, table, store, 3, 0, repeats=0, holdout=0)
    assert (first.path.read_bytes(), first.path.with_suffix(".json").read_bytes()) == raw
    assert again == first == read_folds(SMALL)


def test_folds_are_joined_by_id(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    turned = attach_folds(SMALL, table[::-1].reset_index(drop=True), folds)
    pd.testing.assert_frame_equal(turned[::-1].reset_index(drop=True), attach_folds(SMALL, table, folds))


def test_ids_keep_their_leading_zeros(table, store, folder, home):
    table["image_id"] = [f"{number:03}" for number in range(40)]
    store = open_store("zeros", table, PixelSettings(16, 1))
    folded = attach_folds(SMALL, table, make_folds(SMALL, table, store, 3, seed=0))
    assert folded["image_id"].iloc[7] == "007" and folds_path(SMALL).read_text().splitlines()[8].startswith("007,")


# ---- a user's own


@pytest.mark.parametrize("line_end, shuffled", [("\n", False), ("\r\n", False), ("\n", True)],
                         ids=["plain", "windows line ends", "other order"])
def test_a_users_file_is_not_rewritten(table, store, line_end, shuffled):
    wanted = sound_folds(table)
    raw = own_file(table, wanted, line_end, shuffled)
    folds = make_folds(SMALL, table, store)
    assert folds_path(SMALL).read_bytes() == raw
    assert (folds.count, folds.metadata["made_by"]) == (3, "given")
    assert attach_folds(SMALL, table, folds)["fold"].tolist() == wanted.tolist()
    assert read_folds(SMALL) == folds


def test_a_byte_order_mark_is_no_obstacle(table, store):
    raw = b"\xef\xbb\xbf" + own_file(table, sound_folds(table))
    folds_path(SMALL).write_bytes(raw)
    assert read_folds_after_check(table, store).count == 3 and folds_path(SMALL).read_bytes() == raw


def read_folds_after_check(table: pd.DataFrame, store: PixelStore):
    make_folds(SMALL, table, store)
    return read_folds(SMALL)


def test_replaced_file_counts_as_given(table, store):
    make_folds(SMALL, table, store, 3, seed=0)
    own_file(table, (sound_folds(table) + 1) % 3)
    assert make_folds(SMALL, table, store).metadata["made_by"] == "given"


def test_split_patient_is_an_error_unless_allowed(table, store):
    wanted = sound_folds(table)
    wanted[1] = 1
    raw = own_file(table, wanted)
    message = r"small\.csv: 1 of 19 groups have images in more than one fold: p00; .* --allow-split-groups"
    with pytest.raises(ValueError, match=message):
        make_folds(SMALL, table, store)
    assert not folds_path(SMALL).with_suffix(".json").exists()

    folds = make_folds(SMALL, table, store, allow_split_groups=True)
    assert folds_path(SMALL).read_bytes() == raw
    assert attach_folds(SMALL, table, folds)["fold"].tolist() == wanted.tolist()
    assert read_folds(SMALL).metadata["split_groups_allowed"] is True
    make_folds(SMALL, table, store)  # said once for this very file; a changed one is refused again
    wanted[2] = (wanted[2] + 1) % 3
    own_file(table, wanted)
    with pytest.raises(ValueError, match="more than one fold"):
        make_folds(SMALL, table, store)


def test_split_copies_are_an_error(table, store):
    folds = table["group"].str[1:].astype(int).to_numpy() % 3
    assert folds[1] != folds[26]
    own_file(table, folds)
    with pytest.raises(ValueError, match="1 of 19 groups have images in more than one fold: p00;"):
        make_folds(SMALL, table, store)


def test_black_images_may_be_in_all_folds(table, store):
    wanted = sound_folds(table)
    assert len(set(wanted[table["image_id"].isin(BLACK)])) > 1
    own_file(table, wanted)
    make_folds(SMALL, table, store)


@pytest.mark.parametrize("edit, message", [
    (lambda text: text.replace("i05,2\n", ""), "1 images have no fold and 0 ids have no image, for example 'i05'"),
    (lambda text: text + "i99,0\n", "0 images have no fold and 1 ids have no image, for example 'i99'"),
    (lambda text: text + "i05,0\n", "image 'i05' has more than one fold"),
    (lambda text: text.replace("i05,2", "i05,"), "image 'i05' has the fold ''; a fold is a number from 0, or -1"),
    (lambda text: text.replace("i05,2", "i05,two"), "image 'i05' has the fold 'two'"),
    (lambda text: text.replace("i05,2", "i05,-2"), "image 'i05' has the fold '-2'"),
    (lambda text: text.replace("i05,2", "i05,-1"), "1 of 19 groups have images in more than one fold: p02 (held out"),
    (lambda text: re.sub(r",\d\n", ",-1\n", text), "all images are held out (-1), and none is left to train on"),
    (lambda text: text.replace("i05,2", "i05,2.0"), "image 'i05' has the fold '2.0'"),
    (lambda text: text.replace("i05,2", "i05,99999999999999999999"), "image 'i05' has the fold '99999999999999999999'"),
    (lambda text: text.replace(",1\n", ",3\n"), "numbered from 0 without a gap, but no image has fold 1"),
    (lambda text: text.replace(",0\n", ",3\n"), "numbered from 0 without a gap, but no image has fold 0"),
    (lambda text: re.sub(r",\d\n", ",0\n", text), "all images have fold 0, but cross-validation needs two folds"),
    (lambda text: text.replace("fold\n", "kfold\n"), "has the columns image_id,fold and, for further splits"),
    (lambda text: "image_id,fold\n", "40 images have no fold"),
    (lambda text: "", "small.csv is empty"),
    (lambda text: text[:-3], "line 41 has 1 cells, but the header has 2; the file is cut off"),
], ids=["missing id", "strange id", "id twice", "blank", "word", "negative", "half held out", "all held out",
        "decimal", "huge", "gap", "from 1",
        "one fold", "column", "no rows", "empty", "cut off"])
def test_wrong_file_is_named_and_unchanged(table, store, edit, message):
    text = edit(own_file(table, sound_folds(table)).decode())
    folds_path(SMALL).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make_folds(SMALL, table, store)
    assert "small.csv" in str(caught.value) and folds_path(SMALL).read_text() == text
    assert not folds_path(SMALL).with_suffix(".json").exists()


# ---- read


def test_missing_folds_are_named_with_the_command(home):
    with pytest.raises(FileNotFoundError, match=rf"there is no .*small\.csv; {COMMAND}"):
        read_folds(SMALL)


@pytest.mark.parametrize("change", ["edited", "never checked", "account of another file"])
def test_changed_folds_file_must_be_checked(table, store, change):
    own_file(table, sound_folds(table))
    if change != "never checked":
        make_folds(SMALL, table, store)
    if change == "edited":
        folds_path(SMALL).write_text(folds_path(SMALL).read_text().replace("i00,0", "i00,1"))
    if change == "account of another file":
        metadata = folds_path(SMALL).with_suffix(".json")
        metadata.write_text(json.dumps({**read_json(metadata), "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=rf"small\.csv has not been checked .* since it changed; {COMMAND}"):
        read_folds(SMALL)


def test_added_image_is_an_error(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    grown = pd.concat([table, table.iloc[:1].assign(image_id="i40")], ignore_index=True)
    with pytest.raises(ValueError, match="1 images have no fold and 0 ids have no image, for example 'i40'"):
        attach_folds(SMALL, grown, folds)


def test_merged_patients_are_an_error(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    folded = attach_folds(SMALL, table, folds)
    other = table["group"] == folded.loc[folded["fold"] != folded["fold"].iloc[0], "group"].iloc[0]
    with pytest.raises(ValueError, match="1 of 18 groups have images in more than one fold"):
        attach_folds(SMALL, table.assign(group=table["group"].mask(other, "p00")), folds)


def test_more_folds_than_groups_is_an_error(table, store):
    with pytest.raises(ValueError, match="19 groups cannot fill 20 folds"):
        make_folds(SMALL, table, store, 20, seed=0)
    assert not folds_path(SMALL).exists()


def test_two_images_make_two_folds(table, home):
    table = table.iloc[[0, 2]].reset_index(drop=True)
    store = open_store("two", table, PixelSettings(16, 1))
    one_label = replace(SMALL, labels=("a",))
    folds = make_folds(one_label, table, store, 2, seed=0)
    assert sorted(attach_folds(one_label, table, folds)["fold"]) == [0, 1]


def test_changed_labels_need_another_check_of_the_folds(table, store, home):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    changed = table.assign(a=1 - table["a"].fillna(0).clip(lower=0))
    with pytest.raises(ValueError, match="images of 'small' have changed.*make_folds.py --competition small"):
        attach_folds(SMALL, changed, folds)
    again = make_folds(SMALL, changed, store, 3, seed=0)
    assert again.hash != folds.hash and again.path.read_bytes() == folds.path.read_bytes()
    attach_folds(SMALL, changed, again)


# ---- repeats and holdout


def test_further_splits_do_not_change_the_first(table, store):
    make_folds(SMALL, table, store, 3, seed=0)
    alone = pd.read_csv(folds_path(SMALL))
    folds_path(SMALL).unlink()
    folds = make_folds(SMALL, table, store, 3, seed=0, repeats=2)
    folded = attach_folds(SMALL, table, folds)
    assert folds.splits == 3 and folded["fold"].tolist() == alone["fold"].tolist()
    numbers = [fold_numbers(folded, split) for split in range(3)]
    for split, column in enumerate(numbers):
        assert set(column) == {0, 1, 2}
        assert (folded.assign(n=column).groupby("group")["n"].nunique() == 1).all()
        for other in numbers[:split]:
            assert (column != other).any()
    with pytest.raises(ValueError, match=r"split=3: the folds file has the splits 0 to 2 only.*make_folds\.py"):
        fold_numbers(folded, 3)


def test_holdout_groups_are_in_no_fold(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0, repeats=1, holdout=0.25)
    whole = attach_folds(SMALL, table, folds)
    folded, held = whole[whole["fold"] != -1], whole[whole["fold"] == -1]
    assert folds.held_out == len(held) == 10 and len(folded) == 30
    assert not set(folded["group"]) & set(held["group"]) and not set(folded["image_id"]) & set(held["image_id"])
    assert set(folded["fold"]) == set(folded["fold_1"]) == {0, 1, 2}
    assert (pd.read_csv(folds.path).set_index("image_id").loc[held["image_id"]] == -1).all(axis=None)


def test_hash_depends_on_splits_and_holdout(table, store):
    hashes = set()
    for wanted in ({}, {"repeats": 1}, {"holdout": 0.2}, {"holdout": 0.3}, {"near": [["i02", "i30"]]}):
        folds_path(SMALL).unlink(missing_ok=True)
        hashes.add(make_folds(SMALL, table, store, 3, seed=0, **wanted).hash)
    assert len(hashes) == 5


def test_hash_is_that_of_file_and_table(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    assert folds.hash == sha256(folds.metadata["sha256"], folds.metadata["table_sha256"])


def test_changed_groups_are_noticed(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    renamed = table.assign(group="x" + table["group"])
    with pytest.raises(ValueError, match="labels, groups or images of 'small' have changed"):
        attach_folds(SMALL, renamed, folds)


def test_hash_changes_with_near_duplicates(table, store):
    before = make_folds(SMALL, table, store, 3, seed=0)
    folds = make_folds(SMALL, table, store, near=[["i02", "i05"]], allow_split_groups=True)
    assert folds.path.read_bytes() == before.path.read_bytes() and folds.hash != before.hash


@pytest.mark.parametrize("wanted, message", [
    ({"n_folds": 4}, "--folds 4, but .*small.csv has folds 3"),
    ({"seed": 1}, "--seed 1, but .*small.csv has seed 0"),
    ({"repeats": 0}, "--repeats 0, but .*small.csv has repeats 1"),
    ({"holdout": 0.1}, "--holdout 0.1, but .*small.csv has holdout 0.2"),
    ({"stratify": pd.DataFrame({"age": []})}, "--stratify age, but .*small.csv has stratify none"),
])
def test_request_that_the_file_contradicts_is_an_error(table, store, wanted, message):
    raw = make_folds(SMALL, table, store, 3, seed=0, repeats=1, holdout=0.2).path.read_bytes()
    with pytest.raises(ValueError, match=message + ".*delete it and run make_folds.py again"):
        make_folds(SMALL, table, store, **wanted)
    assert folds_path(SMALL).read_bytes() == raw


def test_a_users_file_may_have_a_holdout_and_further_splits(table, store):
    wanted = sound_folds(table)
    held = (wanted == 0) & ~table["image_id"].isin(TWINS) & (table["group"] > "p15")
    wanted[held] = -1
    other = np.where(wanted < 0, -1, (wanted + 1) % 3)
    folds_path(SMALL).parent.mkdir(parents=True)
    pd.DataFrame({"image_id": table["image_id"], "fold": wanted, "fold_1": other}).to_csv(folds_path(SMALL),
                                                                                         index=False)
    folds = make_folds(SMALL, table, store)
    assert (folds.splits, folds.held_out, folds.metadata["made_by"]) == (2, held.sum(), "given")
    assert attach_folds(SMALL, table, folds)["fold_1"].tolist() == other.tolist()


@pytest.mark.parametrize("edit, message", [
    (lambda frame: frame.assign(fold_1=frame["fold_1"].mask(frame["image_id"] == "i05", -1)),
     r"image 'i05' is held out \(-1\) in some splits and not in others"),
    (lambda frame: frame.assign(fold_1=frame["fold_1"].mask(frame["image_id"] == "i05", 0)),
     r"small.csv, column fold_1: 1 of 19 groups have images in more than one fold: p02"),
    (lambda frame: frame.assign(fold_1=(frame["fold_1"] > 0).astype(int)), "one has 2 and one 3"),
    (lambda frame: frame.assign(fold_1=0), "all images have fold_1 0"),
    (lambda frame: frame.assign(fold_1=""), "image 'i00' has the fold_1 ''"),
    (lambda frame: frame.rename(columns={"fold_1": "fold_2"}), "without a gap, not image_id,fold,fold_2"),
    (lambda frame: frame[["image_id", "fold_1", "fold"]], "not image_id,fold_1,fold"),
], ids=["half held out", "split group", "fewer folds", "one fold", "blank", "gap", "order"])
def test_a_wrong_further_split_is_named(table, store, edit, message):
    folds_path(SMALL).parent.mkdir(parents=True)
    frame = pd.DataFrame({"image_id": table["image_id"], "fold": sound_folds(table), "fold_1": sound_folds(table)})
    edit(frame).to_csv(folds_path(SMALL), index=False)
    with pytest.raises(ValueError, match=message):
        make_folds(SMALL, table, store)


def test_holdout_with_too_few_groups_is_an_error(table, home):
    table = table.iloc[[0, 2]].reset_index(drop=True)
    store = open_store("two", table, PixelSettings(16, 1))
    with pytest.raises(ValueError, match="2 groups cannot fill 2 folds and a holdout of 0.5"):
        make_folds(replace(SMALL, labels=("a",)), table, store, 2, seed=0, holdout=0.5)
    with pytest.raises(ValueError, match="a holdout of 1.5 of the images; it must be between"):
        make_folds(replace(SMALL, labels=("a",)), table, store, 2, seed=0, holdout=1.5)
    assert not folds_path(SMALL).exists()


# ---- near duplicates and other columns


def test_near_duplicates_join_groups_and_stay_joined(table, store):
    near = [["i02", "i38"], ["i10", "i20", "i30"]]
    folds = make_folds(SMALL, table, store, 3, seed=0, near=near)
    folded = attach_folds(SMALL, table, folds).set_index("image_id")
    assert folded.loc["i03", "group"] == folded.loc["i39", "group"] == "p01"
    assert folded.loc[["i10", "i20", "i30"], "fold"].nunique() == 1
    assert read_json(folds.path.with_suffix(".json"))["near_duplicates"] == near
    again = make_folds(SMALL, table, store)
    assert again == folds


def test_split_near_duplicates_are_an_error(table, store):
    own_file(table, sound_folds(table))
    with pytest.raises(ValueError, match="1 of 18 groups have images in more than one fold: p01.*delete it and run"):
        make_folds(SMALL, table, store, near=[["i02", "i05"]])


def test_recompressed_copy_is_in_the_fold_of_its_original(home, tmp_path):
    rng, rows = np.random.default_rng(0), []
    for number in range(12):
        soft = cv2.resize(rng.integers(0, 256, (12, 12)).astype(np.float32), (160, 160), interpolation=cv2.INTER_CUBIC)
        image = np.clip(soft + rng.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), image)
        rows.append((f"{number:02}", str(tmp_path / f"{number:02}.png")))
    cv2.imwrite(str(tmp_path / "copy.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    table = pd.DataFrame([*rows, ("copy", str(tmp_path / "copy.jpg"))], columns=["image_id", "path"])
    table = table.assign(group=table["image_id"], a=[0.0, 1.0] * 6 + [1.0], b=0.0)
    near = find_near_sets(SMALL, table)
    assert near == [["11", "copy"]]
    folds = make_folds(SMALL, table, open_store("small-train", table, PixelSettings(16, 1)), 2, seed=0, near=near)
    assert attach_folds(SMALL, table, folds).set_index("image_id").loc[["11", "copy"], "fold"].nunique() == 1


def test_other_columns_are_as_even_as_the_labels(table, store):
    columns = pd.DataFrame({"site": ["A", "B"] * 20, "age": [str(age) for age in range(20, 60)]},
                           index=pd.Index(table["image_id"]))
    folds = make_folds(SMALL, table.assign(group=table["image_id"]), store, 2, seed=0, stratify=columns)
    folded = attach_folds(SMALL, table.assign(group=table["image_id"]), folds)
    assert folds.metadata["made_by"] == {**MADE_BY, "n_folds": 2, "stratify": ["site", "age"]}
    sites = columns.loc[folded["image_id"], "site"].to_numpy()
    assert abs(folded.loc[sites == "A", "fold"].mean() - 0.5) <= 0.1
    assert abs(folded.loc[columns.loc[folded["image_id"], "age"].to_numpy() < "40", "fold"].mean() - 0.5) <= 0.1


def test_a_column_with_one_value_is_nothing_to_stratify_by(table, store):
    columns = pd.DataFrame({"site": [" "] * 40}, index=pd.Index(table["image_id"]))
    with pytest.raises(ValueError, match="the column 'site' is 'blank' for every image: there is nothing"):
        make_folds(SMALL, table, store, 2, seed=0, stratify=columns)
    assert not folds_path(SMALL).exists()


def test_hash_of_npz_rows_uses_the_file_size(home, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images)
    ids = [str(number) for number in range(8)]
    table = pd.DataFrame({"image_id": ids, "path": [f"{tmp_path}/x.npz#train_images#{number}" for number in ids],
                          "group": ids, "a": [0.0, 1.0] * 4, "b": 0.0})
    folds = make_folds(SMALL, table, open_store("small-train", table, PixelSettings(16, 1)), 2, seed=0)
    attach_folds(SMALL, table, folds)
    np.savez(tmp_path / "x.npz", train_images=images, more=images)
    with pytest.raises(ValueError, match="images of 'small' have changed"):
        attach_folds(SMALL, table, folds)
