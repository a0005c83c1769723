"""The preview sheet: the images of training, shares that are known beforehand, and warnings."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

import preview as module
from competition import COMPETITIONS, Competition, Part
from experiment import EXPERIMENTS, Experiment
from preview import Preview, choose_images, destroyed_share, main, measure, preview
from training import augmentation
from training.augmentation import AUGMENTATIONS, Augmentation, augment_batch, make_augmentation

CHEST = Competition(name="chest", about="Made for a test.", task="multilabel", labels=("a", "b"), metric="roc_auc",
                    train=Part(table="train.csv", images="train/{image_id}.png"), group_column="patient")


@pytest.fixture
def named(monkeypatch):
    """Puts an augmentation of the test's own among the names; returns an experiment that uses it."""
    def put(change, **fields) -> Experiment:
        monkeypatch.setitem(AUGMENTATIONS, "own", Augmentation(build=lambda image_size: change))
        make_augmentation.cache_clear()
        return Experiment(augmentation="own", **fields)
    yield put
    make_augmentation.cache_clear()


def write_chest(folder, images: int = 30) -> None:
    """Images of 15 patients; every fifth is black. Labels: the first third a, the second b, the rest nothing."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    rows = []
    for i in range(images):
        picture = np.zeros((40, 40), np.uint8) if i % 5 == 0 else rng.integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "train" / f"i{i}.png")
        rows.append((f"i{i}", f"p{i % 15}", int(i < images // 3), int(images // 3 <= i < 2 * images // 3)))
    pd.DataFrame(rows, columns=["image_id", "patient", "a", "b"]).to_csv(folder / "train.csv", index=False)


def table_of(folder) -> pd.DataFrame:
    frame = pd.read_csv(folder / "train.csv").rename(columns={"patient": "group"})
    return frame.assign(path=[str(folder / "train" / f"{image_id}.png") for image_id in frame["image_id"]])


# ---- what is destroyed


def cut(share: float, fill: int):
    def change(image: np.ndarray, seed: int) -> np.ndarray:
        image = image.copy()
        image[:round(share * len(image))] = fill
        return image
    return change


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 3)])
@pytest.mark.parametrize(("share", "fill"), [(0, 0), (0.25, 0), (0.75, 0), (0.5, 114), (1, 255)])
def test_cut_out_pixels_count_as_destroyed_for_any_fill(shape, share, fill):
    assert destroyed_share(cut(share, fill), shape, seed=0) == share


@pytest.mark.parametrize("change", [
    lambda image, seed: image.copy(), lambda image, seed: 255 - image, lambda image, seed: image // 2 + 60,
    lambda image, seed: np.pad(image, 10, mode="reflect")[3:43, 12:52], lambda image, seed: cv2.blur(image, (5, 5))])
def test_mirrors_exposure_and_blur_destroy_nothing(change):
    assert destroyed_share(change, (40, 40), seed=0) == 0


def test_black_beside_a_shifted_image_counts():
    def shift(image: np.ndarray, seed: int) -> np.ndarray:
        return cv2.warpAffine(image, np.float64([[1, 0, 10], [0, 1, 0]]), (40, 40))
    assert destroyed_share(shift, (40, 40), seed=0) == 0.25


def test_measured_shares_are_those_of_the_draws(named):
    half = named(lambda image, seed: cut(0.75 if seed % 2 else 0, 0)(image, seed))
    effect = measure(half, (64, 64), draws=400)
    assert abs(effect.often - 0.5) < 0.1 and effect.destroyed == pytest.approx(0.75 * effect.often)


@pytest.mark.parametrize("image_size", [64, 128])
def test_solt003_destroys_half_of_the_image(image_size):
    effect = measure(replace(EXPERIMENTS["cnn_e_solt003"], image_size=image_size), (image_size, image_size), draws=150)
    assert abs(effect.destroyed - 0.5) < 0.05 and abs(effect.often - 0.6) < 0.1


# ---- the sheet


def test_the_sheet_shows_the_images_of_training(home, named, monkeypatch):
    write_chest(home / "set")
    experiment = replace(EXPERIMENTS["cnn_e_warp"], image_size=32, seed=3)
    shown, settings = [], module.pixel_settings(CHEST, experiment)
    monkeypatch.setattr(module, "_show", lambda figure, image, text, left, bottom: shown.append((image, text)))
    table = table_of(home / "set")
    preview(CHEST, table, "warp", experiment)
    assert len(shown) == 6 * 9
    stored = [image for image, text in shown if text == "stored"]
    black = {f"i{i}" for i in range(0, 30, 5)}
    chosen = [image_id for image_id, path in zip(table["image_id"], table["path"], strict=True) if image_id not in black
              and any(np.array_equal(module.stored_image(path, settings), image) for image in stored)]
    assert len(chosen) == 6
    for image_id in chosen:
        image = module.stored_image(home / "set" / "train" / f"{image_id}.png", settings)
        row = next(i for i, (other, _) in enumerate(shown) if np.array_equal(other, image))
        for epoch in range(8):  # as the loader asks for them
            drawn = augment_batch("warp", image[None], [image_id], experiment.seed, epoch)[0]
            assert np.array_equal(shown[row + 1 + epoch][0], drawn)
            assert shown[row + 1 + epoch][1].startswith(f"epoch {epoch + 1}: ")


def test_chosen_images_are_of_different_groups_and_never_constant():
    cells = np.zeros((60, 3))
    cells[::4, 0], cells[1::4, 1], cells[2::40, 2] = 1, 1, 1
    cells[5, 1] = -1
    groups = np.array([f"g{i // 2}" for i in range(60)])
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    images[::3] = 0
    chosen = choose_images(cells, groups, lambda row: images[row])
    rows = [row for row, _ in chosen]
    assert len({groups[row] for row in rows}) == 6 and all(row % 3 for row in rows)
    assert [int((cells[row] == 1).any()) for row in rows] == [1, 0, 1, 0, 1, 0]
    assert set(np.argmax(cells[rows[::2]], axis=1)) == {0, 1, 2}
    assert rows == [row for row, _ in choose_images(cells, groups, lambda row: images[row])]


def test_few_images_are_all_chosen():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    assert len(choose_images(np.ones((2, 1)), np.array(["a", "b"]), lambda row: images[row])) == 2
    assert len(choose_images(np.full((2, 1), np.nan), np.array(["a", "a"]), lambda row: images[row])) == 1
    assert choose_images(np.ones((2, 1)), np.array(["a", "b"]), lambda row: images[row] * 0) == []


def test_a_set_of_constant_images_raises(home):
    write_chest(home / "set", images=1)
    with pytest.raises(ValueError, match="every image of chest has one grey value"):
        preview(CHEST, table_of(home / "set"), "lite0", EXPERIMENTS["lite0"])


@pytest.fixture
def chest(home, monkeypatch):
    write_chest(home / "set")
    monkeypatch.setattr(module, "DRAWS", 60)
    monkeypatch.setitem(COMPETITIONS, "chest", CHEST)
    return ["--competition", "chest", "--data-dir", str(home / "set")]


def test_the_script_writes_a_sheet_for_each_experiment(home, chest, capsys):
    sheets = main([*chest, "--experiment", "lite0", "cnn_e_solt003"])
    assert [sheet.path for sheet in sheets] == [home / "runs" / "chest" / name / "preview.png"
                                                for name in ("lite0", "cnn_e_solt003")]
    assert all(isinstance(sheet, Preview) and cv2.imread(str(sheet.path)).shape[1] > 1000 for sheet in sheets)
    assert sheets[0].warnings == () and sheets[0].effect.destroyed < 0.05
    assert [words.split(" ")[1] for words in sheets[1].warnings] == ["mirrors", "destroys"]
    printed = capsys.readouterr().out
    assert printed.count("warning: ") == 2 and "lite0: augmentation 'warp' destroys" in printed
    assert not (home / "folds").exists()


def test_flips_warn_only_where_left_and_right_differ(chest, monkeypatch):
    monkeypatch.setattr(module, "_draw_sheet", lambda *arguments: Figure(figsize=(1, 1)))
    monkeypatch.setitem(COMPETITIONS, "chest", replace(CHEST, laterality=False))
    flipped = ["--experiment", "lite0", "--set", "augmentation=warp_flip", "--name", "flips"]
    assert main([*chest, *flipped])[0].warnings == ()
    monkeypatch.setitem(COMPETITIONS, "chest", CHEST)
    warning, = main([*chest, *flipped])[0].warnings
    assert "'warp_flip' mirrors" in warning and "in chest left and right differ" in warning


def test_settings_are_checked_before_the_table_is_read(chest, monkeypatch):
    monkeypatch.setattr(module, "load_workspace", None)
    for arguments, message in (
            (["--set", "augmentatoin=warp", "--name", "x"], "did you mean"),
            (["--experiment", "lite0", "cnn_e", "--name", "x"], "names one run"),
            (["--experiment", "lite"], "did you mean lite0")):
        with pytest.raises(ValueError, match=message):
            main([*chest, *arguments])


def test_an_unknown_augmentation_is_an_error(chest):
    with pytest.raises(ValueError, match="there is no 'wrap'; did you mean 'warp'"):
        main([*chest, "--experiment", "lite0", "--set", "augmentation=wrap"])


def test_colour_and_preprocessing_are_previewed(home, chest):
    sheet, = main([*chest, "--experiment", "cnn_e_warp", "--set", "colour=rgb", "preprocessing=crop_borders,clahe",
                   "resize_mode=letterbox", "--name", "colour"])
    assert sheet.path.exists() and sheet.warnings == ()


def test_no_augmentation_destroys_nothing(home):
    assert measure(Experiment(), (64, 64), draws=3) == module.Effect(0.0, 0.0)
    assert augmentation.AUGMENTATIONS["none"](64)(np.ones((2, 2), np.uint8), 0).all()
