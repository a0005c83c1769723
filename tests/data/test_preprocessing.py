"""Preprocessing against OpenCV, kernels and tables by hand, and borders of known geometry."""


import cv2
import numpy as np
import pytest

from data.decoding import decode_image
from data.preprocessing import PREPROCESSING, CropBorders, apply_steps, check_steps
from real_data import DATA, needs

NIH = DATA / "nih1000" / "images"
CROP = PREPROCESSING["crop_borders"]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    """Nothing of it is near black or white, and no two neighbouring pixels are alike."""
    return noise(height, width) // 2 + 60


def framed(height: int, width: int, top: int, left: int, inside: np.ndarray, border: int = 0) -> np.ndarray:
    image = np.full((height, width), border, np.uint8)
    image[top:top + inside.shape[0], left:left + inside.shape[1]] = inside
    return image


# ---- grey values


def test_clahe_is_opencvs_with_clip_limit_2():
    image = cv2.GaussianBlur(noise(64, 64), (9, 9), 0)
    expected = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(image)
    assert np.array_equal(PREPROCESSING["clahe"](image), expected) and not np.array_equal(expected, image)


def test_blur_has_the_binomial_weights_of_five_by_five():
    image = noise(20, 30)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    padded = np.pad(image.astype(float), 2, mode="reflect")
    expected = sum(kernel[i, j] * padded[i:i + 20, j:j + 30] for i in range(5) for j in range(5))
    assert np.abs(PREPROCESSING["blur"](image) - expected).max() <= 1


def test_equalising_spreads_the_cumulated_counts_over_the_range():
    image = np.array([[10, 10, 10, 20], [20, 30, 40, 40]], np.uint8)
    # cumulated 3, 5, 6, 8; (count - 3) / (8 - 3) * 255 by hand
    assert PREPROCESSING["equalize"](image).tolist() == [[0, 0, 0, 102], [102, 153, 255, 255]]


@pytest.mark.parametrize("name", PREPROCESSING)
def test_a_grey_image_in_three_channels_comes_out_as_in_one(name):
    image = framed(60, 50, 10, 8, picture(30, 35))
    assert np.array_equal(PREPROCESSING[name](np.dstack([image] * 3)), np.dstack([PREPROCESSING[name](image)] * 3))


@pytest.mark.parametrize("name", ["clahe", "equalize"])
def test_of_a_coloured_image_the_lightness_changes_and_the_hue_stays(name):
    lightness = np.tile(np.arange(80, 144, dtype=np.uint8), (64, 1))
    image = cv2.cvtColor(np.dstack([lightness, np.full_like(lightness, 140), np.full_like(lightness, 120)]),
                         cv2.COLOR_LAB2RGB)
    before, after = (cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(int) for rgb in (image, PREPROCESSING[name](image)))
    inside = (after[..., 0] > 60) & (after[..., 0] < 200)  # beyond it no display has this colour
    assert np.abs(after - before)[inside][:, 1:].max() <= 3
    assert np.abs(after - before)[..., 0].max() > 10


@pytest.mark.parametrize("name", PREPROCESSING)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 40), (16, 16, 3), (5, 7, 3)])
def test_small_and_constant_images_pass_and_the_input_is_left_alone(name, shape):
    for image in (noise(*shape), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        before = image.copy()
        image.setflags(write=False)
        changed = PREPROCESSING[name](image)
        assert changed.dtype == np.uint8 and changed.size and changed.ndim == len(shape)
        assert np.array_equal(image, before)


# ---- borders


@pytest.mark.parametrize("border", [0, 9, 255])
@pytest.mark.parametrize(("top", "left", "height", "width"), [(20, 30, 100, 80), (0, 0, 100, 80), (0, 30, 140, 80),
                                                              (60, 0, 80, 200)])
def test_a_border_goes_to_the_pixel(border, top, left, height, width):
    inside = picture(height, width)
    assert np.array_equal(CROP(framed(140, 200, top, left, inside, border)), inside)


def test_colours_are_cut_where_their_grey_is():
    inside = np.dstack([picture(50, 60), picture(50, 60)[::-1], picture(50, 60)])
    image = np.zeros((90, 100, 3), np.uint8)
    image[20:70, 30:90] = inside
    assert np.array_equal(CROP(image), inside)


def test_sides_may_have_borders_of_different_colours():
    image = framed(100, 120, 0, 30, picture(100, 60))
    image[:, 90:] = 250
    assert np.array_equal(CROP(image), image[:, 30:90])


@pytest.mark.parametrize("quality", [95, 50, 20])
def test_noise_of_film_and_of_jpeg_does_not_keep_a_border(quality):
    rng = np.random.default_rng(0)
    image = framed(400, 500, 80, 100, cv2.GaussianBlur(noise(240, 300), (15, 15), 0) // 2 + 100).astype(float)
    image = np.clip(image + rng.normal(4, 2, image.shape), 0, 255).astype(np.uint8)
    image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)
    height, width = CROP(image).shape
    assert 240 <= height <= 256 and 300 <= width <= 316  # a block of JPEG more on each side at most


def test_letters_and_specks_in_the_border_are_cut_off():
    image = framed(400, 500, 80, 100, picture(240, 300))
    clean = CROP(image)
    cv2.putText(image, "R", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.5, 255, 4)
    cv2.putText(image, "AP 12:30", (300, 390), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 220, 2)
    rng = np.random.default_rng(0)
    image[rng.integers(0, 70, 30), rng.integers(0, 500, 30)] = 255
    assert np.array_equal(CROP(image), clean) and clean.shape == (240, 300)


def test_a_neck_that_reaches_the_edge_is_kept_whole():
    image = framed(300, 300, 100, 50, picture(200, 200))
    image[:100, 140:165] = picture(100, 25)  # a twelfth of the outermost line
    assert np.array_equal(CROP(image), image[:, 50:250])


def test_dark_regions_inside_and_large_pieces_stay():
    inside = picture(200, 200)
    inside[50:150, 60:140] = 0
    assert np.array_equal(CROP(framed(260, 280, 30, 40, inside)), inside)
    two = framed(200, 400, 50, 30, picture(100, 100))
    two[60:140, 300:340] = picture(80, 40)
    assert np.array_equal(CROP(two), two[50:150, 30:340])


def test_an_image_without_a_border_stays_as_it_is():
    gradient = np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1)).T
    for image in (picture(200, 300), np.ascontiguousarray(noise(50, 60) // 8)):
        assert CROP(image) is image
    assert CROP(gradient).shape[0] >= 260 and CROP(gradient).shape[1] == 200  # its ends are constant lines


def test_what_would_leave_next_to_nothing_is_not_believed():
    image = np.zeros((400, 400), np.uint8)
    assert CROP(image) is image
    image[250, 300] = 255  # a dead pixel
    assert CROP(image) is image
    image[150:200, 100:150] = 255
    assert CROP(image).shape == (50, 50)


def test_a_large_image_loses_its_border_alone():
    inside = picture(1400, 1000)
    image = framed(2000, 3000, 301, 703, inside)
    cropped = CROP(image)
    assert 1400 <= cropped.shape[0] <= 1412 and 1000 <= cropped.shape[1] <= 1012
    mask = CROP(np.where(image > 0, np.uint8(255), np.uint8(0)))
    assert (mask == 255).sum() == inside.size


@needs("nih1000")
def test_crop_borders_cuts_only_the_frame_of_real_radiographs():
    paths = sorted(NIH.iterdir())[::50]
    shrunk = 0
    for path in paths:
        image = decode_image(path, 1)
        own = CROP(image)  # some have black borders of their own
        shrunk += own.size < 0.75 * image.size
        again = CROP(framed(image.shape[0] + 30, image.shape[1] + 20, 10, 15, image))
        assert again.shape[0] <= image.shape[0] and again.size >= 0.9 * own.size
    assert shrunk <= len(paths) // 10


# ---- steps


def test_steps_run_in_order_before_and_after_fitting():
    image = framed(60, 60, 10, 10, picture(40, 40))
    steps = ("clahe", "crop_borders", "blur")
    assert apply_steps(image, steps, before_fitting=True).shape == (40, 40)
    after = PREPROCESSING["blur"](PREPROCESSING["clahe"](image))
    assert np.array_equal(apply_steps(image, steps, before_fitting=False), after)


def test_every_setting_of_a_step_is_in_its_description():
    assert repr(CropBorders(tolerance=3)) != repr(CROP)
    assert repr(PREPROCESSING["clahe"]) == "Clahe(clip_limit=2.0, tiles=8)"


def test_unknown_and_repeated_steps_raise():
    check_steps(("clahe", "blur"))
    with pytest.raises(ValueError, match="there is no 'claha'; did you mean 'clahe'"):
        check_steps(("claha",))
    with pytest.raises(ValueError, match="'blur' is named twice"):
        check_steps(("blur", "clahe", "blur"))
