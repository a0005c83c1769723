"""Augmentation as a pure function of image and seed, here and in workers, and no stronger than it promises."""

import hashlib
import math
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest

from data.phantoms import SITES, draw_phantom
from real_data import require
from training.augmentation import (
    AUGMENTATIONS,
    CHEST,
    STRONG,
    Augmentation,
    Solt,
    Strengths,
    Warp,
    albumentations,
    augment_batch,
    augmentation_seed,
    make_augmentation,
    solt,
)
from training.batches import training_batches

LIBRARIES = {"warp": Warp, "solt": solt, "albumentations": albumentations}  # each makes one of (image size, strengths)
CHANGING = [name for name in AUGMENTATIONS if name != "none"]
STILL = Strengths(degrees=0, shear=0, scale=0, shift=0, blur=0, cutout=0, intensity=0, gain=0, offset=0, gamma=0)


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def phantom(number: int) -> np.ndarray:
    return draw_phantom(np.random.default_rng([1, number]), np.random.default_rng([2, number]), np.full(3, 0.5), 64,
                        SITES[0], token=False)[0]


# ---- a pure function of image and seed


@pytest.mark.parametrize("shape", [(64, 64), (96, 96, 3)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_other_calls_in_between_change_nothing(name, shape):
    image, augment = random_image(*shape), make_augmentation(name, shape[0])
    first = [augment(image, seed) for seed in range(4)]
    for other in AUGMENTATIONS:
        make_augmentation(other, 48)(random_image(48, 48), 3)
    augment(random_image(*shape)[::-1].copy(), 2)
    for seed, expected in enumerate(first):
        np.testing.assert_array_equal(augment(image, seed), expected)


def global_dice() -> tuple:
    numpys = np.random.get_state()
    return random.getstate(), numpys[1].tolist(), numpys[2:], torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_global_random_numbers_are_neither_used_nor_drawn(name):
    image, augment = random_image(64, 64), make_augmentation(name, 64)
    seen = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        before = global_dice()
        seen.append([augment(image, seed).tobytes() for seed in range(20)])
        assert global_dice() == before
    assert seen[0] == seen[1]


def test_the_global_random_state_is_restored_after_an_error():
    before = random.getstate()
    with pytest.raises(Exception):  # noqa: B017 - whatever solt says of an image without pixels
        make_augmentation("solt", 64)(np.empty((0, 0), np.uint8), 0)
    assert random.getstate() == before


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_result_can_be_written_to_without_changing_the_image(name):
    image = random_image(64, 64)
    before = image.copy()
    for seed in range(20):
        augmented = make_augmentation(name, 64)(image, seed)
        assert augmented.flags.writeable
        augmented[:] = 7
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_seed_of_64_bits_is_taken_whole(name, seed):
    augment, image = make_augmentation(name, 64), random_image(64, 64)
    neighbours = [seed, seed ^ 1, seed ^ 2**40]
    assert len({augment(image, each).tobytes() for each in neighbours}) == (1 if name == "none" else 3)


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_three_equal_channels_change_as_one(name, size):
    grey, augment = random_image(size, size), make_augmentation(name, size)
    for seed in range(20):
        colour = augment(np.stack([grey] * 3, axis=2), seed)
        np.testing.assert_array_equal(colour[..., 0], colour[..., 1])
        np.testing.assert_array_equal(colour[..., 0], colour[..., 2])
        assert np.abs(colour[..., 0].astype(int) - augment(grey, seed)).max() <= 1


def test_a_solt_stream_does_not_change_its_input():
    stream = type(solt(64).stream)  # made once before the import, which needs torchvision put right
    from solt.transforms import CutOut

    image = random_image(64, 64)
    image.setflags(write=False)
    cut = Solt(stream([CutOut(10, p=1)]))(image, 0)  # nothing before it makes an array of its own
    np.testing.assert_array_equal(image, random_image(64, 64))
    assert (cut != image).any()


def test_none_changes_nothing():
    image = random_image(64, 64, 3)
    np.testing.assert_array_equal(make_augmentation("none", 64)(image, 5), image)


def test_an_unknown_augmentation_raises_with_the_known_names():
    with pytest.raises(ValueError, match="there is no 'wrap'; did you mean 'warp'"):
        make_augmentation("wrap", 64)


def test_an_augmentation_is_made_once_a_process():
    assert make_augmentation("warp", 64) is make_augmentation("warp", 64)
    assert make_augmentation("warp", 64) is not make_augmentation("warp", 96)


# ---- seeds


def test_a_seed_is_the_same_on_every_machine():
    digest = hashlib.blake2b(b"7/3/patient_12", digest_size=8).digest()  # as `printf 7/3/patient_12 | b2sum -l 64`
    assert digest.hex() == "f9ce973d7a000eb4"
    assert augmentation_seed(7, 3, "patient_12") == 0xB40E007A3D97CEF9


def test_every_run_epoch_and_image_has_a_seed_of_its_own():
    seeds = {augmentation_seed(seed, epoch, image_id)
             for seed in (0, 1, 11) for epoch in (0, 1, 11) for image_id in ("1", "11", "1/1", "a", "ä", "")}
    assert len(seeds) == 3 * 3 * 6
    assert all(0 <= seed < 2**64 for seed in seeds) and max(seeds) > 2**60


# ---- batches and workers

IDS = np.array([f"image {number}" for number in range(12)])


class OneImageManyTimes:
    """Stands for a pixel store whose images are all alike, so that only their seeds differ."""

    ids = IDS

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.repeat(random_image(64, 64)[None], len(rows), axis=0)


def one_epoch(name: str, workers: int, epoch: int) -> dict[tuple[int, str], bytes]:
    rows = np.arange(12)
    batches = training_batches(OneImageManyTimes(), rows, np.zeros((12, 1), np.float32), 4, name, 5, epoch, workers)
    return {(epoch, IDS[row]): image.numpy().tobytes()
            for images, _, part in batches for image, row in zip(images, part.tolist(), strict=True)}


def test_an_image_that_an_epoch_repeats_is_augmented_differently_each_time():
    rows, expected = np.arange(12), np.full(12, 3.0)
    batches = training_batches(OneImageManyTimes(), rows, np.zeros((12, 1), np.float32), 4, "warp", 5, 0,
                               expected=expected)
    seen = [(row, image.numpy().tobytes()) for images, _, part in batches
            for image, row in zip(images, part.tolist(), strict=True)]
    assert len(seen) == len(set(seen)) == 36


# fewer cores than workers, or a fork beside another library's threads, are nothing to this test
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_workers_do_not_matter_and_no_image_is_augmented_twice_alike(name):
    alone = one_epoch(name, 0, 0) | one_epoch(name, 0, 1)
    assert len(alone) == 24
    assert len(set(alone.values())) == (1 if name == "none" else 24)  # albumentations would repeat in every worker
    assert one_epoch(name, 2, 0) | one_epoch(name, 1, 1) == alone


@pytest.mark.parametrize("shape", [(6, 64, 64), (6, 96, 96, 3)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_does_not_depend_on_the_batch(name, shape):
    images = random_image(*shape)
    images.setflags(write=False)
    together = augment_batch(name, images, IDS[:6], 5, 2)
    assert together.shape == shape and together.dtype == np.uint8
    np.testing.assert_array_equal(augment_batch(name, images[::-1], IDS[:6][::-1], 5, 2)[::-1], together)
    alone = make_augmentation(name, shape[1])(images[4], augmentation_seed(5, 2, "image 4"))
    np.testing.assert_array_equal(together[4], alone)


# ---- geometry: read off a picture of columns and one of rows, whose grey values tell where a pixel came from


def geometry(augment: Augmentation, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of the image about its centre: matrix (2, 2) and shift (2,), x before y, pixels."""
    columns = np.tile(np.arange(size, dtype=np.uint8) * (255 // size), (size, 1))
    middle = slice(size // 4, size - size // 4)  # away from what the edge reflects
    came_from = np.stack([augment(picture.copy(), seed)[middle, middle].ravel() / (255 // size)
                          for picture in (columns, columns.T)])
    y, x = np.mgrid[middle, middle].reshape(2, -1)
    centre = (size - 1) / 2
    places = np.stack([x - centre, y - centre, np.ones(x.size)], axis=1)
    back = np.linalg.lstsq(places, came_from.T - centre, rcond=None)[0].T  # (2, 3): result to source
    matrix = np.linalg.inv(back[:, :2])
    return matrix, -matrix @ back[:, 2]


def geometries(library: str, strengths: Strengths, size: int = 64, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    augment = LIBRARIES[library](size, strengths)
    matrices, shifts = zip(*(geometry(augment, seed, size) for seed in range(count)), strict=True)
    return np.array(matrices), np.array(shifts)


def reaches(values: np.ndarray, limit: float, error: float) -> bool:
    """True where the values fill the range from -limit to limit and do not leave it."""
    return bool(values.min() < -0.7 * limit and values.max() > 0.7 * limit and np.abs(values).max() <= limit + error)


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_moves_where_all_strengths_are_zero(library):
    image = random_image(64, 64)
    for seed in range(10):
        np.testing.assert_array_equal(LIBRARIES[library](64, STILL)(image, seed), image)


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("library", LIBRARIES)
def test_shifts_reach_their_limit_in_both_directions(library, size):
    matrices, shifts = geometries(library, replace(STILL, shift=CHEST.shift), size)
    np.testing.assert_allclose(matrices, np.broadcast_to(np.eye(2), matrices.shape), atol=0.01)
    assert reaches(shifts[:, 0], size / 16, 0.1) and reaches(shifts[:, 1], size / 16, 0.1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_turns_reach_their_limit_and_only_turn(library):
    matrices, shifts = geometries(library, replace(STILL, degrees=CHEST.degrees))
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert reaches(angles, 10, 0.1)
    products = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(2), products.shape), atol=0.01)
    assert np.abs(shifts).max() < 0.25


@pytest.mark.parametrize("library", LIBRARIES)
def test_scales_reach_their_limit_and_keep_squares_square(library):
    matrices, shifts = geometries(library, replace(STILL, scale=CHEST.scale))
    assert reaches(matrices[:, 0, 0] - 1, 0.1, 0.01)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], atol=0.02)  # a library may round to whole pixels
    assert np.abs(matrices[:, [0, 1], [1, 0]]).max() < 0.01 and np.abs(shifts).max() < 0.25


@pytest.mark.parametrize("library", LIBRARIES)
def test_shears_reach_their_limit_along_both_axes(library):
    matrices, shifts = geometries(library, replace(STILL, shear=CHEST.shear))
    limit = math.tan(math.radians(5))
    assert reaches(matrices[:, 0, 1], limit, 0.005) and reaches(matrices[:, 1, 0], limit, 0.005)
    assert np.abs(matrices[:, [0, 1], [0, 1]] - 1).max() < 0.02 and np.abs(shifts).max() < 0.25


# p of a Kolmogorov-Smirnov test below which two samples are no longer of one distribution; the seeds are fixed
UNLIKELY = 0.001


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_movement_is_as_likely_as_another(library):
    """Even distributions between the limits, the same in all libraries: none is drawn towards the middle."""
    def drawn(size: int = 64, **strengths) -> tuple[np.ndarray, np.ndarray]:
        return geometries(library, replace(STILL, **strengths), size, count=400)

    turns, _ = drawn(degrees=10)
    scales, _ = drawn(112, scale=0.1)  # large, because solt rounds the scaled size to whole pixels
    shears, _ = drawn(shear=5)
    _, shifts = drawn(112, shift=1 / 8)
    values = {
        "turn": np.degrees(np.arctan2(turns[:, 1, 0], turns[:, 0, 0])) / 10,
        "scale": (scales[:, 0, 0] - 1) / 0.1,
        "shear along x": shears[:, 0, 1] / math.tan(math.radians(5)),
        "shear along y": shears[:, 1, 0] / math.tan(math.radians(5)),
    }
    # the libraries shift by whole pixels, and solt never crops at the last place there is
    low, high = {"warp": (-14, 14), "albumentations": (-14.5, 14.5), "solt": (-13.5, 14.5)}[library]
    for axis, shift in zip("xy", shifts.T, strict=True):
        values[f"shift along {axis}"] = 2 * (shift - low) / (high - low) - 1
    likely = {name: kstest(value, "uniform", args=(-1, 2)).pvalue for name, value in values.items()}
    assert min(likely.values()) > UNLIKELY, likely


@pytest.mark.parametrize("library", LIBRARIES)
def test_contrast_and_brightness_are_drawn_evenly(library):
    """Gamma is not compared: solt draws the exponent's inverse evenly."""
    gains = grey_tables(library, replace(STILL, intensity=1, gain=0.15), 400)[:, 200] / 200 - 1
    offsets = grey_tables(library, replace(STILL, intensity=1, offset=0.1), 400)[:, 128] - 128
    for values, limit in ((gains, 0.15), (offsets, 25.5)):
        assert kstest(values, "uniform", args=(-limit, 2 * limit)).pvalue > UNLIKELY


@pytest.mark.parametrize("library", ["solt", "albumentations"])
def test_all_movements_together_are_distributed_as_the_warps(library):
    """Where the corners of the image come to lie, from every movement at once."""
    corner = np.array([31.5, 31.5])
    moved = [matrices @ corner + shifts - corner for matrices, shifts
             in (geometries(name, replace(CHEST, blur=0, cutout=0, intensity=0), count=400)
                 for name in ("warp", library))]
    for axis in (0, 1):
        assert ks_2samp(moved[0][:, axis], moved[1][:, axis]).pvalue > UNLIKELY


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("strengths", [CHEST, STRONG])
def test_corners_move_no_further_than_all_limits_together(library, strengths):
    matrices, shifts = geometries(library, replace(strengths, blur=0, cutout=0, intensity=0), count=100)
    corner = np.array([31.5, 31.5])
    moved = np.linalg.norm(matrices @ corner + shifts - corner, axis=1)
    reach = np.linalg.norm(corner)
    turn, shear = 2 * math.sin(math.radians(strengths.degrees / 2)), math.tan(math.radians(strengths.shear))
    furthest = reach * ((1 + turn) * (1 + shear) * (1 + strengths.scale) - 1) + math.hypot(1, 1) * strengths.shift * 64
    assert 0.15 * furthest < moved.mean() < 0.5 * furthest and moved.max() < furthest
    assert np.abs(shifts.mean(axis=0)).max() < 1.5  # no direction is preferred


@pytest.mark.parametrize("name", CHANGING)
def test_left_and_right_are_exchanged_only_where_the_name_says_so(name):
    image = np.full((64, 64), 60, np.uint8)
    image[:, 32:] = 200  # the right is bright
    augment = make_augmentation(name, 64)
    halves = np.array([[augmented[:, :32].mean(), augmented[:, 32:].mean()]
                       for augmented in (augment(image, seed) for seed in range(200))])
    mirrored = (halves[:, 0] > halves[:, 1]).mean()
    assert 0.35 < mirrored < 0.65 if name in ("warp_flip", "solt003") else mirrored == 0


@pytest.mark.parametrize("name", [name for name in CHANGING if name != "solt003"])
def test_nothing_is_turned_upside_down(name):
    image = np.full((64, 64), 60, np.uint8)
    image[32:] = 200
    for seed in range(200):
        augmented = make_augmentation(name, 64)(image, seed)
        assert augmented[:32].mean() < augmented[32:].mean()


def test_a_flip_is_exact():
    image, flip = random_image(64, 64), Warp(64, replace(STILL, flip=1.0))
    np.testing.assert_array_equal(flip(image, 0), image[:, ::-1])
    for library in (solt, albumentations):
        np.testing.assert_array_equal(library(64, replace(STILL, flip=1.0))(image, 0), image[:, ::-1])


# ---- exposure

GREYS = np.tile(np.arange(256, dtype=np.uint8), 16).reshape(64, 64)


def grey_tables(library: str, strengths: Strengths, count: int = 60) -> np.ndarray:
    """(count, 256): what becomes of every grey value."""
    augment = LIBRARIES[library](64, strengths)
    augmented = np.array([augment(GREYS, seed) for seed in range(count)]).reshape(count, 16, 256)
    assert (augmented == augmented[:, :1]).all()  # one table for the whole image
    return augmented[:, 0].astype(int)


@pytest.mark.parametrize("strengths", [CHEST, STRONG])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_brighter_pixel_stays_the_brighter_one(library, strengths):
    exposure = replace(strengths, degrees=0, shear=0, scale=0, shift=0, blur=0, cutout=0)
    tables = grey_tables(library, exposure)
    assert (np.diff(tables, axis=1) >= 0).all()
    assert (tables.max(axis=1) - tables.min(axis=1) > 100).all()
    unchanged = (tables == np.arange(256)).all(axis=1).mean()
    assert unchanged == pytest.approx((1 - strengths.intensity) ** 3, abs=0.13)


@pytest.mark.parametrize("library", LIBRARIES)
def test_contrast_reaches_its_limit_about_black(library):
    tables = grey_tables(library, replace(STILL, intensity=1, gain=CHEST.gain))
    assert (tables[:, 0] == 0).all()
    assert reaches(tables[:, 200] / 200 - 1, 0.15, 0.005)
    np.testing.assert_allclose(tables[:, 100], tables[:, 200] / 2, atol=1.1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_brightness_reaches_its_limit(library):
    tables = grey_tables(library, replace(STILL, intensity=1, offset=CHEST.offset))
    assert reaches(tables[:, 128] - 128, 25.5, 1)
    assert (tables[:, 64] - 64 == tables[:, 128] - 128).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_gamma_reaches_its_limit_and_keeps_black_and_white(library):
    tables = grey_tables(library, replace(STILL, intensity=1, gamma=CHEST.gamma))
    assert (tables[:, 0] == 0).all() and (tables[:, 255] == 255).all()
    exponents = np.log(tables[:, 128] / 255) / math.log(128 / 255)
    assert reaches(exponents - 1, 0.2, 0.01)
    np.testing.assert_allclose(tables[:, 64], 255 * (64 / 255) ** exponents, atol=2)


# ---- blur and squares


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_image_in_ten_is_blurred_by_a_median(library):
    image = np.full((64, 64), 90, np.uint8)
    image[30, 30] = 255  # a speck, which a mean would spread and a median removes
    image[:, 50:] = 140  # an edge, which a median keeps
    blur = LIBRARIES[library](64, replace(STILL, blur=CHEST.blur))
    augmented = [blur(image, seed) for seed in range(300)]
    cleaned = np.where(image == 255, 90, image)
    assert all(np.array_equal(each, image) or np.array_equal(each, cleaned) for each in augmented)
    assert np.mean([each[30, 30] == 90 for each in augmented]) == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("size, side", [(64, 10), (96, 14)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_three_images_in_ten_lose_one_black_square(library, size, side):
    white = np.full((size, size), 255, np.uint8)
    sometimes, always = (LIBRARIES[library](size, replace(STILL, cutout=share)) for share in (CHEST.cutout, 1.0))
    assert np.mean([(sometimes(white, seed) == 0).any() for seed in range(300)]) == pytest.approx(0.3, abs=0.09)
    starts = []
    for hole in (always(white, seed) == 0 for seed in range(300)):
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert len(rows) == len(columns) == side and hole.sum() == side**2
        starts.append((rows[0], columns[0]))
    starts = np.array(starts)  # anywhere in the image, and always inside it
    assert (starts.min(axis=0) < 0.15 * size).all() and (starts.max(axis=0) > 0.7 * size).all()


@pytest.mark.parametrize("size", [64, 96])
def test_the_references_own_stream_blackens_half_of_the_pixels(size):
    """Its square of 50 of 64 pixels, 61 % by itself, is among the three of five branches in six images of ten."""
    augment, white = make_augmentation("solt003", size), np.full((size, size), 255, np.uint8)
    black = np.array([(augment(white, seed) == 0).mean() for seed in range(300)])
    assert black.mean() == pytest.approx(0.50, abs=0.04)
    assert (black > 0.6).mean() == pytest.approx(0.6, abs=0.09)
    assert (black > 0.3).mean() == pytest.approx(0.9, abs=0.05)


# ---- the three libraries do the same


@pytest.fixture(params=["phantoms", "x-rays"])
def pictures(request) -> list[np.ndarray]:
    if request.param == "phantoms":
        return [phantom(number) for number in range(6)]
    xrays = require("nih1000") / "images"
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(xrays.glob("*.png"))[:6]]


def mean_change(name: str, pictures: list[np.ndarray]) -> float:
    augment = make_augmentation(name, 64)
    return float(np.mean([np.abs(augment(picture, 100 * number + seed).astype(int) - picture).mean()
                          for number, picture in enumerate(pictures) for seed in range(40)]))


def test_the_libraries_change_a_picture_equally_much(pictures):
    changes = [mean_change(name, pictures) for name in LIBRARIES]
    assert max(changes) < 1.2 * min(changes), changes


def test_augmentations_rank_by_strength(pictures):
    chest, strong, reference = (mean_change(name, pictures) for name in ("warp", "warp_strong", "solt003"))
    assert 5 < chest < 0.8 * strong < 0.8 * reference
