"""The preview sheet: the very draws of training, shares that are known beforehand, and warnings that are measured."""

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
def test_what_is_cut_out_counts_whatever_it_is_filled_with(shape, share, fill):
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


def test_the_figures_of_many_draws(named):
    half = named(lambda image, seed: cut(0.75 if seed % 2 else 0, 0)(image, seed))
    effect = measure(half, (64, 64), draws=400)
    assert abs(effect.often - 0.5) < 0.1 and effect.destroyed == pytest.approx(0.75 * effect.often)


@pytest.mark.parametrize("image_size", [64, 128])
def test_solt003_destroys_half_of_the_image(image_size):
    effect = measure(replace(EXPERIMENTS["cnn_e_solt003"], image_size=image_size), (image_size, image_size), draws=150)
    assert abs(effect.destroyed - 0.5) < 0.05 and abs(effect.often - 0.6) < 0.1


# ---- left and right


def turn(degrees: float, mirror: bool = False, scale: float = 1.0):
    def change(image: np.ndarray, seed: int) -> np.ndarray:
        centre = (image.shape[1] - 1) / 2
        matrix = cv2.getRotationMatrix2D((centre, centre), degrees, scale)
        image = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        return np.ascontiguousarray(image[:, ::-1]) if mirror else image
    return change


@pytest.mark.parametrize("shape", [(64, 64), (128, 128, 3), (16, 16)])
@pytest.mark.parametrize(("degrees", "turned"), [(0, 0), (40, 0), (-40, 0), (50, 1), (-90, 1), (180, 1)])
def test_turns_beyond_45_degrees_are_measured(named, shape, degrees, turned):
    effect = measure(named(turn(degrees), image_size=shape[0]), shape, draws=5)
    assert (effect.mirrored, effect.turned) == (0, turned)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180])
@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_mirroring_is_measured_however_the_image_is_turned(named, degrees, scale):
    effect = measure(named(turn(degrees, mirror=True, scale=scale)), (64, 64), draws=5)
    assert (effect.mirrored, effect.turned) == (1, 0)


@pytest.mark.parametrize(("name", "mirrors"), [
    ("none", False), ("warp", False), ("warp_strong", False), ("solt", False), ("albumentations", False),
    ("warp_flip", True), ("solt003", True)])
@pytest.mark.parametrize("image_size", [64, 128])
def test_of_the_named_augmentations_those_that_mirror_are_found(name, mirrors, image_size):
    effect = measure(Experiment(augmentation=name, image_size=image_size), (image_size, image_size), draws=150)
    assert 0.3 < effect.mirrored < 0.7 if mirrors else effect.mirrored == 0
    assert 0.2 < effect.turned < 0.6 if name == "solt003" else effect.turned == 0


def test_where_nothing_can_be_measured_that_is_said(home, named, capsys):
    write_chest(home / "set")
    done = preview(CHEST, table_of(home / "set"), "gone", named(cut(1, 0), image_size=32))
    assert np.isnan(done.effect.mirrored) and "could not be measured" in done.warnings[0]
    assert "destroys 100 % of an image on average" in done.warnings[1]


# ---- the sheet


def test_the_draws_are_those_of_training(home, named, monkeypatch):
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


def test_images_are_of_different_groups_with_and_without_labels_and_never_black():
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


def test_few_images_and_none_at_all():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    assert len(choose_images(np.ones((2, 1)), np.array(["a", "b"]), lambda row: images[row])) == 2
    assert len(choose_images(np.full((2, 1), np.nan), np.array(["a", "a"]), lambda row: images[row])) == 1
    assert choose_images(np.ones((2, 1)), np.array(["a", "b"]), lambda row: images[row] * 0) == []


def test_a_set_of_black_images_is_refused(home):
    write_chest(home / "set", images=1)
    with pytest.raises(ValueError, match="every image of chest has one grey value"):
        preview(CHEST, table_of(home / "set"), "lite0", EXPERIMENTS["lite0"])


@pytest.fixture
def chest(home, monkeypatch):
    write_chest(home / "set")
    monkeypatch.setattr(module, "DRAWS", 60)
    monkeypatch.setitem(COMPETITIONS, "chest", CHEST)
    return ["--competition", "chest", "--data-dir", str(home / "set")]


def test_the_script_writes_a_sheet_an_experiment_and_needs_no_folds(home, chest, capsys):
    sheets = main([*chest, "--experiment", "lite0", "cnn_e_solt003"])
    assert [sheet.path for sheet in sheets] == [home / "runs" / "chest" / name / "preview.png"
                                                for name in ("lite0", "cnn_e_solt003")]
    assert all(isinstance(sheet, Preview) and cv2.imread(str(sheet.path)).shape[1] > 1000 for sheet in sheets)
    assert sheets[0].warnings == () and sheets[0].effect.destroyed < 0.05
    assert [words.split(" ")[1] for words in sheets[1].warnings] == ["mirrors", "turns", "destroys"]
    printed = capsys.readouterr().out
    assert printed.count("warning: ") == 3 and "lite0: augmentation 'warp' destroys" in printed
    assert not (home / "folds").exists()


def test_flips_are_no_fault_where_left_and_right_mean_the_same(chest, monkeypatch):
    monkeypatch.setattr(module, "_draw_sheet", lambda *arguments: Figure(figsize=(1, 1)))
    monkeypatch.setitem(COMPETITIONS, "chest", replace(CHEST, laterality=False))
    flipped = ["--experiment", "lite0", "--set", "augmentation=warp_flip", "--name", "flips"]
    assert main([*chest, *flipped])[0].warnings == ()
    monkeypatch.setitem(COMPETITIONS, "chest", CHEST)
    warning, = main([*chest, *flipped])[0].warnings
    assert "'warp_flip' mirrors" in warning and "in chest left and right differ" in warning


def test_settings_are_checked_before_anything_is_read(chest, monkeypatch):
    monkeypatch.setattr(module, "read_train", None)
    for arguments, message in (
            (["--set", "augmentatoin=warp", "--name", "x"], "did you mean"),
            (["--experiment", "lite0", "cnn_e", "--name", "x"], "names one run"),
            (["--experiment", "lite"], "did you mean lite0")):
        with pytest.raises(ValueError, match=message):
            main([*chest, *arguments])


def test_an_unknown_augmentation_is_an_error(chest):
    with pytest.raises(ValueError, match="there is no 'wrap'; did you mean 'warp'"):
        main([*chest, "--experiment", "lite0", "--set", "augmentation=wrap"])


def test_a_preview_of_colour_images_and_preprocessing(home, chest):
    sheet, = main([*chest, "--experiment", "cnn_e_warp", "--set", "colour=rgb", "preprocessing=crop_borders,clahe",
                   "resize_mode=letterbox", "--name", "colour"])
    assert sheet.path.exists() and sheet.warnings == ()


def test_an_augmentation_that_is_none_is_said_to_destroy_nothing(home):
    assert measure(Experiment(), (64, 64), draws=3) == module.Effect(0.0, 0.0, 0.0, 0.0)
    assert augmentation.AUGMENTATIONS["none"](64)(np.ones((2, 2), np.uint8), 0).all()
