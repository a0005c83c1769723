"""The folds file: made once, a user's own honoured as it is, checked against the pixels, and refused where it leaks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from competition import Competition, Part
from files import read_json
from folds import add_folds, folds_path, make_folds, read_folds
from pixels import PixelSettings, PixelStore, open_store

LABELS = ("a", "b")
SMALL = Competition(name="small", about="drawn here", task="multilabel", labels=LABELS, metric="roc_auc",
                    train=Part(table="train.csv", images="{image_id}.png"))
BLACK = ("i04", "i17", "i30")  # of three different patients
TWINS = ("i01", "i26")  # of two patients
COMMAND = r"run: python src/make_folds\.py --competition small"
MADE_BY = {"rule": "grouped", "n_folds": 3, "seed": 0}


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


def test_folds_that_were_made_split_no_patient_and_no_equal_images(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    folded = add_folds(SMALL, table, folds)
    assert folds.count == 3 and set(folded["fold"]) == {0, 1, 2} and folds.account["made_by"] == MADE_BY
    assert (folded.groupby("group")["fold"].nunique() == 1).all()
    assert (table.assign(fold=folded["fold"]).groupby("group")["fold"].nunique() == 1).all()
    assert folded.loc[folded["image_id"].isin(TWINS), "fold"].nunique() == 1


def test_images_of_equal_pixels_join_their_patients_and_black_ones_do_not(table, store):
    folded = add_folds(SMALL, table, make_folds(SMALL, table, store, 3, seed=0))
    group = folded.set_index("image_id")["group"]
    assert group["i00"] == group["i01"] == group["i26"] == group["i27"] == "p00"
    assert len({group[name] for name in BLACK}) == 3
    assert folded["group"].nunique() == 19
    assert folded.loc[folded["black"], "image_id"].tolist() == list(BLACK)


def test_the_account_says_what_was_found_in_the_pixels(table, store):
    account = make_folds(SMALL, table, store, 3, seed=0).account
    assert account["duplicates"] == [list(TWINS)] and account["black"] == list(BLACK)
    assert read_json(folds_path(SMALL).with_suffix(".json")) == account


def test_the_file_has_an_image_and_its_fold_a_line(table, store):
    make_folds(SMALL, table, store, 3, seed=0)
    lines = folds_path(SMALL).read_text().splitlines()
    assert lines[0] == "image_id,fold" and len(lines) == 41 and re.fullmatch("i00,[012]", lines[1])


def test_images_without_groups_are_stratified(table, store):
    other = [name for name in table["image_id"] if name != TWINS[1]]
    table = table[table["image_id"].isin(other)].reset_index(drop=True)
    table["group"] = table["image_id"]
    folds = make_folds(SMALL, table, store, 3, seed=0)
    assert folds.account["made_by"] == {"rule": "stratified", "n_folds": 3, "seed": 0}
    assert sorted(add_folds(SMALL, table, folds)["fold"].value_counts()) == [13, 13, 13]


def test_equal_images_alone_are_reason_enough_for_groups(table, store):
    table["group"] = table["image_id"]
    folds = make_folds(SMALL, table, store, 3, seed=0)
    assert folds.account["made_by"]["rule"] == "grouped"
    assert add_folds(SMALL, table, folds).set_index("image_id")["fold"].loc[list(TWINS)].nunique() == 1


def test_making_folds_again_changes_nothing(table, store):
    first = make_folds(SMALL, table, store, 3, seed=0)
    raw = first.path.read_bytes(), first.path.with_suffix(".json").read_bytes()
    again = make_folds(SMALL, table, store, 5, seed=7)
    assert (first.path.read_bytes(), first.path.with_suffix(".json").read_bytes()) == raw
    assert again == first == read_folds(SMALL)


def test_folds_are_joined_by_id_whatever_the_order_of_the_table(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    turned = add_folds(SMALL, table[::-1].reset_index(drop=True), folds)
    pd.testing.assert_frame_equal(turned[::-1].reset_index(drop=True), add_folds(SMALL, table, folds))


def test_ids_keep_their_leading_zeros(table, store, folder, home):
    table["image_id"] = [f"{number:03}" for number in range(40)]
    store = open_store("zeros", table, PixelSettings(16, 1))
    folded = add_folds(SMALL, table, make_folds(SMALL, table, store, 3, seed=0))
    assert folded["image_id"].iloc[7] == "007" and folds_path(SMALL).read_text().splitlines()[8].startswith("007,")


# ---- a user's own


@pytest.mark.parametrize("line_end, shuffled", [("\n", False), ("\r\n", False), ("\n", True)],
                         ids=["plain", "windows line ends", "other order"])
def test_a_users_file_is_honoured_byte_for_byte(table, store, line_end, shuffled):
    wanted = sound_folds(table)
    raw = own_file(table, wanted, line_end, shuffled)
    folds = make_folds(SMALL, table, store, 5, seed=3)
    assert folds_path(SMALL).read_bytes() == raw
    assert (folds.count, folds.account["made_by"]) == (3, "given")
    assert add_folds(SMALL, table, folds)["fold"].tolist() == wanted.tolist()
    assert read_folds(SMALL) == folds


def test_a_byte_order_mark_is_no_obstacle(table, store):
    raw = b"\xef\xbb\xbf" + own_file(table, sound_folds(table))
    folds_path(SMALL).write_bytes(raw)
    assert read_folds_after_check(table, store).count == 3 and folds_path(SMALL).read_bytes() == raw


def read_folds_after_check(table: pd.DataFrame, store: PixelStore):
    make_folds(SMALL, table, store, 3, seed=0)
    return read_folds(SMALL)


def test_a_file_in_the_place_of_one_that_was_made_counts_as_given(table, store):
    make_folds(SMALL, table, store, 3, seed=0)
    own_file(table, (sound_folds(table) + 1) % 3)
    assert make_folds(SMALL, table, store, 3, seed=0).account["made_by"] == "given"


def test_a_file_that_splits_a_patient_is_refused_unless_that_is_said_to_be_meant(table, store):
    wanted = sound_folds(table)
    wanted[1] = 1
    raw = own_file(table, wanted)
    message = r"small\.csv: 1 of 19 groups have images in more than one fold: p00; .* --allow-split-groups"
    with pytest.raises(ValueError, match=message):
        make_folds(SMALL, table, store, 3, seed=0)
    assert not folds_path(SMALL).with_suffix(".json").exists()

    folds = make_folds(SMALL, table, store, 3, seed=0, allow_split_groups=True)
    assert folds_path(SMALL).read_bytes() == raw and add_folds(SMALL, table, folds)["fold"].tolist() == wanted.tolist()
    assert read_folds(SMALL).account["split_groups_allowed"] is True
    make_folds(SMALL, table, store, 3, seed=0)  # said once for this very file; a changed one is refused again
    wanted[2] = (wanted[2] + 1) % 3
    own_file(table, wanted)
    with pytest.raises(ValueError, match="more than one fold"):
        make_folds(SMALL, table, store, 3, seed=0)


def test_a_file_that_splits_equal_images_of_two_patients_is_refused(table, store):
    folds = table["group"].str[1:].astype(int).to_numpy() % 3
    assert folds[1] != folds[26]
    own_file(table, folds)
    with pytest.raises(ValueError, match="1 of 19 groups have images in more than one fold: p00;"):
        make_folds(SMALL, table, store, 3, seed=0)


def test_black_images_in_all_folds_are_no_reason_to_refuse(table, store):
    wanted = sound_folds(table)
    assert len(set(wanted[table["image_id"].isin(BLACK)])) > 1
    own_file(table, wanted)
    make_folds(SMALL, table, store, 3, seed=0)


@pytest.mark.parametrize("edit, message", [
    (lambda text: text.replace("i05,2\n", ""), "1 images have no fold and 0 ids have no image, for example 'i05'"),
    (lambda text: text + "i99,0\n", "0 images have no fold and 1 ids have no image, for example 'i99'"),
    (lambda text: text + "i05,0\n", "image 'i05' has more than one fold"),
    (lambda text: text.replace("i05,2", "i05,"), "image 'i05' has the fold ''; a fold is a number from 0"),
    (lambda text: text.replace("i05,2", "i05,two"), "image 'i05' has the fold 'two'"),
    (lambda text: text.replace("i05,2", "i05,-1"), "image 'i05' has the fold '-1'"),
    (lambda text: text.replace("i05,2", "i05,2.0"), "image 'i05' has the fold '2.0'"),
    (lambda text: text.replace("i05,2", "i05,99999999999999999999"), "image 'i05' has the fold '99999999999999999999'"),
    (lambda text: text.replace(",1\n", ",3\n"), "numbered from 0 without a gap, but no image has fold 1"),
    (lambda text: text.replace(",0\n", ",3\n"), "numbered from 0 without a gap, but no image has fold 0"),
    (lambda text: re.sub(r",\d\n", ",0\n", text), "all images have fold 0, but cross-validation needs two folds"),
    (lambda text: text.replace("fold\n", "kfold\n"), "has the columns image_id,fold, not image_id,kfold"),
    (lambda text: "image_id,fold\n", "40 images have no fold"),
    (lambda text: "", "small.csv is empty"),
    (lambda text: text[:-3], "line 41 has 1 cells, but the header has 2; the file is cut off"),
], ids=["missing id", "strange id", "id twice", "blank", "word", "negative", "decimal", "huge", "gap", "from 1",
        "one fold", "column", "no rows", "empty", "cut off"])
def test_a_wrong_file_is_named_and_left_as_it_is(table, store, edit, message):
    text = edit(own_file(table, sound_folds(table)).decode())
    folds_path(SMALL).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make_folds(SMALL, table, store, 3, seed=0)
    assert "small.csv" in str(caught.value) and folds_path(SMALL).read_text() == text
    assert not folds_path(SMALL).with_suffix(".json").exists()


# ---- read


def test_missing_folds_are_named_with_the_command(home):
    with pytest.raises(FileNotFoundError, match=rf"there is no .*small\.csv; {COMMAND}"):
        read_folds(SMALL)


@pytest.mark.parametrize("change", ["edited", "never checked", "account of another file"])
def test_folds_that_were_not_checked_since_they_changed_are_refused_with_the_command(table, store, change):
    own_file(table, sound_folds(table))
    if change != "never checked":
        make_folds(SMALL, table, store, 3, seed=0)
    if change == "edited":
        folds_path(SMALL).write_text(folds_path(SMALL).read_text().replace("i00,0", "i00,1"))
    if change == "account of another file":
        account = folds_path(SMALL).with_suffix(".json")
        account.write_text(json.dumps({**read_json(account), "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=rf"small\.csv has not been checked .* since it changed; {COMMAND}"):
        read_folds(SMALL)


def test_a_table_that_grew_is_refused(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    grown = pd.concat([table, table.iloc[:1].assign(image_id="i40")], ignore_index=True)
    with pytest.raises(ValueError, match="1 images have no fold and 0 ids have no image, for example 'i40'"):
        add_folds(SMALL, grown, folds)


def test_patients_that_came_to_be_one_are_refused(table, store):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    folded = add_folds(SMALL, table, folds)
    other = table["group"] == folded.loc[folded["fold"] != folded["fold"].iloc[0], "group"].iloc[0]
    with pytest.raises(ValueError, match="1 of 18 groups have images in more than one fold"):
        add_folds(SMALL, table.assign(group=table["group"].mask(other, "p00")), folds)


def test_more_folds_than_groups_are_refused_and_nothing_is_written(table, store):
    with pytest.raises(ValueError, match="19 groups cannot fill 20 folds"):
        make_folds(SMALL, table, store, 20, seed=0)
    assert not folds_path(SMALL).exists()


def test_two_images_make_two_folds(table, home):
    table = table.iloc[[0, 2]].reset_index(drop=True)
    store = open_store("two", table, PixelSettings(16, 1))
    one_label = replace(SMALL, labels=("a",))
    folds = make_folds(one_label, table, store, 2, seed=0)
    assert sorted(add_folds(one_label, table, folds)["fold"]) == [0, 1]


def test_changed_labels_are_refused_until_the_folds_are_checked_again(table, store, home):
    folds = make_folds(SMALL, table, store, 3, seed=0)
    changed = table.assign(a=1 - table["a"].fillna(0).clip(lower=0))
    with pytest.raises(ValueError, match="images of 'small' have changed.*make_folds.py --competition small"):
        add_folds(SMALL, changed, folds)
    again = make_folds(SMALL, changed, store, 3, seed=0)
    assert again.hash != folds.hash and again.path.read_bytes() == folds.path.read_bytes()
    add_folds(SMALL, changed, again)
