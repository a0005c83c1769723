"""The demo on disk: the same bytes for the same settings, Kaggle's layout, troubles where the truth says they are."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import make_demo as script
from data import demo as demo_module
from data.demo import DemoSettings, make_demo, plan_images, read_truth
from data.phantoms import LABELS

SMALL = DemoSettings(images=150, test_images=50, exact_duplicates=0.05, near_duplicates=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_demo(tmp_path_factory.mktemp("made") / "demo", SMALL)


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def picture(folder: Path, part: str, image_id: str) -> np.ndarray:
    return cv2.imread(str(folder / part / f"{image_id}.png"), cv2.IMREAD_UNCHANGED)


def test_bytes_do_not_depend_on_the_number_of_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "SERIAL", 1)
    monkeypatch.setattr(demo_module, "CHUNK", 16)
    assert fingerprint(make_demo(tmp_path / "demo", SMALL, workers=2)) == fingerprint(folder)


def test_another_seed_gives_other_pictures(folder, tmp_path):
    other = make_demo(tmp_path / "demo", replace(SMALL, seed=1))
    assert fingerprint(other)["train.csv"] != fingerprint(folder)["train.csv"]


def test_the_layout_is_kaggles(folder):
    train = pd.read_csv(folder / "train.csv", dtype=str, keep_default_na=False)
    assert list(train.columns) == ["image_id", "patient_id", *LABELS]
    assert len(train) == 150 and train["image_id"].is_unique
    assert set(train[list(LABELS)].to_numpy().ravel()) == {"0", "1", "-1", ""}
    sample = pd.read_csv(folder / "sample_submission.csv", dtype=str)
    solution = pd.read_csv(folder / "solution.csv", dtype=str)
    assert list(sample["image_id"]) == list(solution["image_id"]) != sorted(sample["image_id"])
    assert set(solution["Usage"]) == {"Public", "Private"}
    assert set(solution[list(LABELS)].to_numpy().ravel()) == {"0", "1"}
    assert {path.stem for path in (folder / "train").iterdir()} == set(train["image_id"])
    assert {path.stem for path in (folder / "test").iterdir()} == set(sample["image_id"])


def test_no_patient_is_in_both_parts(folder):
    truth = read_truth(folder)
    parts = truth.groupby("part")["patient_id"].agg(set)
    assert not parts["train"] & parts["test"]


def test_black_images_are_black_and_have_labels_of_both_kinds(folder):
    truth = read_truth(folder)
    for row in truth.itertuples():
        assert (picture(folder, row.part, row.image_id).max() == 0) == bool(row.black)
    black = truth[truth["black"] == 1]
    assert 0.04 < len(black) / len(truth) < 0.18
    assert black["effusion"].isin([0, 1]).any() and black.loc[black["effusion"].isin([0, 1]), "effusion"].nunique() == 2


def test_duplicates_match_the_truth_file(folder):
    truth = read_truth(folder)
    exact, near = truth[truth["duplicate_of"] != ""], truth[truth["near_duplicate_of"] != ""]
    assert len(exact) == len(near) == 8
    for row in exact.itertuples():
        assert np.array_equal(picture(folder, "train", row.image_id), picture(folder, "train", row.duplicate_of))
    for row in near.itertuples():
        copy, original = picture(folder, "train", row.image_id), picture(folder, "train", row.near_duplicate_of)
        assert not np.array_equal(copy, original)
        shifted = [np.roll(original, shift, axis) for axis in (0, 1) for shift in (-2, -1, 0, 1, 2)]
        assert max(np.corrcoef(copy.ravel(), other.ravel())[0, 1] for other in shifted) > 0.93
    hashes = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "train").iterdir()}
    groups = pd.Series(hashes)[truth.loc[(truth["part"] == "train") & (truth["black"] == 0), "image_id"]]
    assert groups.duplicated(keep="first").sum() == len(exact)  # and there are no others


def test_masks_are_written_where_something_is_drawn(folder):
    truth = read_truth(folder).set_index("image_id")
    for label in LABELS:
        masks = list((folder / "truth" / "masks" / label).iterdir())
        assert masks
        for path in masks:
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}
            assert truth.loc[path.stem, f"severity_{label}"] > 0 and not truth.loc[path.stem, "black"]


def test_uncertain_cells_are_mostly_the_unclear_ones():
    plan = plan_images(DemoSettings(images=20_000, test_images=2))
    train = plan[plan["part"] == "train"]
    probs = train[[f"posterior_{label}" for label in LABELS]].to_numpy()
    cells = train[list(LABELS)].to_numpy()
    assert abs((cells == -1).mean() - 0.03) < 0.005
    assert abs(np.isnan(cells).mean() - 0.02) < 0.003
    unclear = np.abs(probs - 0.5) < 0.3
    assert (cells[unclear] == -1).mean() > 3 * (cells[~unclear] == -1).mean()


def test_flipped_labels_are_few_and_in_the_truth_file():
    plan = plan_images(DemoSettings(images=20_000, test_images=2, uncertain=0, blank=0))
    for label in LABELS:
        differs = plan[label] != plan[f"clean_{label}"]
        assert (differs == plan[f"flipped_{label}"].astype(bool)).all()
        assert abs(differs.mean() - 0.02) < 0.004


@pytest.mark.parametrize(("strength", "agreement"), [(0.0, (0.4, 0.65)), (1.0, (1.0, 1.0))])
def test_the_token_follows_the_label_as_strictly_as_asked(strength, agreement):
    plan = plan_images(DemoSettings(images=4_000, test_images=500, shortcut=strength, uncertain=0, blank=0,
                                    exact_duplicates=0, near_duplicates=0))
    seen = plan[~plan["black"].astype(bool)]
    assert agreement[0] <= (seen["token"] == seen["effusion"]).mean() <= agreement[1]


def test_ids_say_nothing_about_part_patient_or_label(folder):
    truth = read_truth(folder)
    number = truth["image_id"].str[4:].astype(int)
    assert abs(np.corrcoef(number, truth["part"] == "train")[0, 1]) < 0.25
    assert abs(np.corrcoef(number, truth["severity_effusion"])[0, 1]) < 0.25


def test_a_second_call_leaves_the_folder_as_it_is(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make_demo(folder, SMALL)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_in_the_same_folder_are_an_error(folder):
    with pytest.raises(ValueError, match="holds something else.*--data-dir"):
        make_demo(folder, replace(SMALL, images=151))


def test_a_run_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_module, "_write_tables", fail)
    with pytest.raises(OSError, match="No space left"):
        make_demo(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"images": 1}, {"size": 8}, {"black": 1.5}])
def test_impossible_settings_are_an_error(wrong):
    with pytest.raises(ValueError, match="share|at least"):
        DemoSettings(**wrong)


def test_script_accepts_every_setting(home, capsys):
    words = ["--images", "30", "--size", "32", "--seed", "3", "--shortcut", "0.5",
             "--set", "test_images=10", "black=0.2"]
    made = script.main(words)
    assert demo_module.is_made(made, DemoSettings(images=30, size=32, seed=3, shortcut=0.5, test_images=10, black=0.2))
    assert picture(made, "train", next((made / "train").iterdir()).stem).shape == (32, 32)
    script.main(words)
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="did you mean 'shortcut'"):
        script.main(["--set", "shorcut=0.2"])


def test_a_smallest_demo_of_two_images_is_drawn(tmp_path):
    made = make_demo(tmp_path / "demo", DemoSettings(images=2, test_images=2))
    assert len(list((made / "train").iterdir())) == 2
