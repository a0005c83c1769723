"""Kinds of file and of fitting that tests/test_pixels.py does not have: TIFF of 32 bits, letterboxes, odd names."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data.decoding import decode_image, fit_image


@pytest.fixture
def decode(tmp_path):
    """Decodes an image saved by Pillow."""
    def saved(picture: np.ndarray | Image.Image, kind: str, channels: int = 1, **options) -> np.ndarray:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(tmp_path / "image", kind, **options)
        return decode_image(tmp_path / "image", channels)
    return saved


# ---- kinds


@pytest.mark.parametrize(("values", "expected"), [
    ([0, 0.25, 0.5, 1], [0, 64, 128, 255]),      # shares of white
    ([0, 1, 127.5, 254.4], [0, 1, 128, 254]),    # 8 bits
    ([0, 0, 0, 0], [0] * 4)])
def test_floats_are_shares_of_white_or_8_bits(decode, values, expected):
    assert decode(np.array([values], np.float32), "TIFF").tolist() == [expected]
    assert decode(np.array([values], np.float32), "TIFF", 3, compression="tiff_lzw")[..., 2].tolist() == [expected]


def test_floats_as_opencv_writes_them(tmp_path):
    (tmp_path / "a.tif").write_bytes(cv2.imencode(".tiff", np.array([[0, 0.5, 1]], np.float32))[1].tobytes())
    assert decode_image(tmp_path / "a.tif", 1).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(("values", "expected"), [
    ([0, 1, 200, 255], [0, 1, 200, 255]), ([0, 257, 300, 65535], [0, 1, 1, 255]), ([0, 0, 0, 256], [0, 0, 0, 1])])
def test_integers_of_32_bits_are_8_or_16_bits(decode, values, expected):
    assert decode(np.array([values], np.int32), "TIFF").tolist() == [expected]
    assert decode(np.array([values], np.int32), "TIFF", 3)[..., 1].tolist() == [expected]


@pytest.mark.parametrize("values", [[-1, 5], [0, 65536], [0.0, 255.1], [-0.1, 1.0], [0.0, np.nan], [0.0, np.inf],
                                    [-1000.0, 2000.0]])
def test_unknown_range_is_an_error(decode, values):
    image = np.array([values], np.int32 if isinstance(values[0], int) else np.float32)
    with pytest.raises(ValueError, match="32-bit (integers|floats) from .* whose range of grey is not known.*8 or 16"):
        decode(image, "TIFF")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_of_8_and_16_bits_in_any_lossless_compression(decode, compression):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(decode(grey, "TIFF", compression=compression), grey)
    assert np.array_equal(decode(grey.astype(np.uint16) * 257, "TIFF", compression=compression), grey)


def test_palettes_of_tiff_bmp_and_gif_give_their_colours(decode):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 10, 10, 255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    for kind in ("TIFF", "BMP", "GIF"):
        assert decode(image, kind, 3).tolist() == [[[10, 10, 10], [255, 0, 0], [0, 0, 255]]]


def test_16_bit_colour_tiff_is_scaled_by_its_full_range(tmp_path):
    values = np.array([[[65535, 257, 0], [514, 0, 65535]]], np.uint16)
    (tmp_path / "a.tif").write_bytes(cv2.imencode(".tiff", values[..., ::-1])[1].tobytes())
    assert decode_image(tmp_path / "a.tif", 3).tolist() == [[[255, 1, 0], [2, 0, 255]]]


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_in_grey_and_colour(decode, lossless):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 32))
    difference = np.abs(decode(picture, "WEBP", 3, lossless=lossless).astype(int) - picture)
    assert difference.mean() < (0.01 if lossless else 8)
    assert decode(picture, "WEBP", 1, lossless=lossless).shape == (32, 40)


def test_file_kind_follows_content_not_name(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("a.dcm", "b.jpeg", "c.npz", "d#e#3"):
        Image.fromarray(grey).save(tmp_path / name, "PNG")
        assert np.array_equal(decode_image(tmp_path / name, 1), grey)


# ---- letterbox


@pytest.mark.parametrize(("height", "width", "top", "left", "rows", "columns"), [
    (40, 20, 0, 8, 32, 16), (20, 40, 8, 0, 16, 32), (8, 4, 0, 8, 32, 16), (64, 63, 0, 0, 32, 32),
    (32, 31, 0, 0, 32, 31), (1, 100, 15, 0, 1, 32)])
def test_letterbox_centres_the_image_on_black(height, width, top, left, rows, columns):
    for channels in ((), (3,)):
        square = fit_image(np.full((height, width, *channels), 200, np.uint8), 32, "letterbox")
        expected = np.zeros((32, 32, *channels), np.uint8)
        expected[top:top + rows, left:left + columns] = 200
        assert np.array_equal(square, expected)


def test_letterbox_keeps_the_aspect_ratio():
    image = cv2.circle(np.zeros((120, 240), np.uint8), (120, 60), 40, 255, -1)
    for fit, ratio in (("letterbox", 1), ("squash", 2)):
        rows, columns = np.nonzero(fit_image(image, 120, fit) > 127)
        assert abs(np.ptp(rows) / np.ptp(columns) - ratio) < 0.06


def test_a_square_image_fits_alike_in_both_ways():
    image = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    assert np.array_equal(fit_image(image, 32, "letterbox"), fit_image(image, 32))
