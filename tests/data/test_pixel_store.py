"""The pixel store: every kind of image comes out right, every bad file is named, and nothing is decoded twice."""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import time
import zlib
from dataclasses import asdict, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.files import sha256
from competition import DEMO
from data import decoding, pixel_store
from data.decoding import decode_image, fit_image
from data.image_cache import map_in_order
from data.pixel_store import PixelSettings, PixelStore, image_channels, open_store, pixel_settings, stored_image
from data.preprocessing import PREPROCESSING
from experiment import Experiment
from real_data import DATA, needs

NIH, CHEST = DATA / "nih1000" / "images", DATA / "chest_xray" / "train"
GREY = PixelSettings(size=16, channels=1)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random picture without sharp edges, as radiographs are: uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def encode(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(rows: np.ndarray, bits: int, colour: int, *extra: bytes, pixels_a_byte: int = 1) -> bytes:
    """A PNG by hand, from the bytes of its rows: what is in it is known without any library."""
    height, width = len(rows), rows.shape[1] * pixels_a_byte
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def make_tiff_16(pixels: np.ndarray, photometric: int) -> bytes:
    height, width = pixels.shape
    data = pixels.astype("<u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, photometric),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, len(data))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.fixture
def decode(tmp_path):
    """Decodes bytes as if they stood in a file."""
    def from_bytes(raw: bytes, channels: int = 1, target: int | None = None) -> np.ndarray:
        path = tmp_path / "image"
        path.write_bytes(raw)
        return decode_image(path, channels, target)
    return from_bytes


def make_table(folder: Path, images: int = 40, kind: str = "PNG") -> pd.DataFrame:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.{kind.lower()}" for i in range(images)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(smooth_picture(20 + i % 7, 24, seed=i), kind))
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths]})


def store_folders(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "data" / "pixels").iterdir())


# ---- every kind of image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_8_bit_grey_comes_back_as_written(decode, kind):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(decode(encode(grey, kind)), grey)
    assert np.array_equal(decode(encode(grey, kind), channels=3), np.dstack([grey] * 3))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}),
                                               ("WEBP", {"lossless": True})])
def test_colour_comes_back_as_rgb_and_as_its_luma(decode, kind, options):
    picture = smooth_picture(20, 30)
    luma = picture @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.array_equal(decode(encode(picture, kind, **options), channels=3), picture)
    assert np.abs(decode(encode(picture, kind, **options)) - luma).max() < 1


def test_16_bits_are_scaled_by_their_full_range(decode):
    values = np.array([[0, 128, 129, 257, 1000, 32768, 65407, 65535]], np.uint16)
    expected = [[0, 0, 1, 1, 4, 128, 255, 255]]  # value / 257, rounded, by hand
    for raw in (make_png(values.astype(">u2"), 16, 0), make_tiff_16(values, 1), encode(values, "TIFF"),
                b"P5 8 1 65535\n" + values.astype(">u2").tobytes()):
        assert decode(raw).tolist() == expected
        assert decode(raw, channels=3)[..., 2].tolist() == expected


def test_a_16_bit_tiff_whose_zero_is_white_is_inverted(decode):
    values = np.array([[0, 257, 65535]], np.uint16)
    assert decode(make_tiff_16(values, 0)).tolist() == [[255, 254, 0]]


def test_16_bit_colour_and_transparency(decode):
    values = np.array([[[65535, 257, 0, 9], [514, 0, 65535, 65535]]], ">u2")
    for raw in (make_png(values, 16, 6), make_png(np.ascontiguousarray(values[..., :3]), 16, 2)):
        assert decode(raw, channels=3).tolist() == [[[255, 1, 0], [2, 0, 255]]]
    assert decode(make_png(np.ascontiguousarray(values[..., :2]), 16, 4)).tolist() == [[255, 2]]


def test_palette_images_get_the_colours_of_their_palette(decode):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 10, 10, 255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    for raw in (encode(image, "PNG"), encode(image, "PNG", transparency=1), encode(image, "GIF"), encode(image, "BMP")):
        assert decode(raw, channels=3).tolist() == [[[10, 10, 10], [255, 0, 0], [0, 0, 255]]]
        assert decode(raw).tolist() == [[10, 76, 29]]  # 0.299 and 0.114 of 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_1_bit_images_are_black_and_white(decode, kind):
    bits = np.array([[True, False, True, True], [False, False, True, False]])
    assert np.array_equal(decode(encode(Image.fromarray(bits), kind)), bits * np.uint8(255))


def test_2_and_4_bit_grey_is_spread_over_the_range(decode):
    row = np.array([[0b00011011]], np.uint8)
    assert decode(make_png(row, 2, 0, pixels_a_byte=4)).tolist() == [[0, 85, 170, 255]]
    assert decode(make_png(row, 4, 0, pixels_a_byte=2)).tolist() == [[17, 187]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_dropped_and_not_blended(decode, kind):
    picture = smooth_picture(12, 10)
    alpha = np.random.default_rng(1).integers(0, 256, (12, 10, 1), dtype=np.uint8)
    assert np.array_equal(decode(encode(np.dstack([picture, alpha]), kind), channels=3), picture)
    grey_alpha = Image.fromarray(np.dstack([picture[..., 0], alpha]))
    assert grey_alpha.mode == "LA"
    assert np.array_equal(decode(encode(grey_alpha, kind)), picture[..., 0])


def test_cmyk_jpegs_are_not_inverted(decode):
    for ink, colour in (((0, 0, 0, 0), [255, 255, 255]), ((0, 255, 255, 0), [255, 0, 0]), ((0, 0, 0, 155), [100] * 3)):
        raw = encode(Image.new("CMYK", (64, 64), ink), "JPEG", quality=95)
        for target in (None, 16):
            assert np.abs(decode(raw, 3, target) - np.array(colour)).max() <= 4
            assert np.abs(decode(raw, 1, target) - np.array(colour) @ [0.299, 0.587, 0.114]).max() <= 4
    picture = smooth_picture(60, 80)
    raw = encode(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(raw, 3) - picture.astype(int)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_decodes_as_pillow_has_it(decode, mode, options):
    image = Image.fromarray(smooth_picture(50, 70)).convert(mode)
    raw = encode(image, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"), int)
    assert np.abs(decode(raw, channels=3) - expected).max() <= 2


TURNED = {  # EXIF's orientation: how such a file holds the upright picture
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotated_images_come_out_upright(decode, kind, orientation):
    upright = Image.fromarray(smooth_picture(320, 240))
    held = upright if TURNED[orientation] is None else upright.transpose(TURNED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encode(held, kind, exif=exif)
    for channels, expected in ((1, upright.convert("L")), (3, upright)):
        assert np.abs(decode(raw, channels) - np.asarray(expected, int)).mean() < 3
    half = np.asarray(upright.resize((64, 64), Image.Resampling.BOX), int)
    assert np.abs(fit_image(decode(raw, 3, target=64), 64) - half).mean() < 3


def test_a_blanked_exif_block_states_no_orientation(decode):
    picture = smooth_picture(32, 48)
    for blank in (b"Exif\0\0" + b"\0" * 40, b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"):
        assert decode(encode(picture, "JPEG", exif=blank)).shape == (32, 48)


def test_of_several_frames_it_is_the_first(decode):
    first, second = Image.new("L", (9, 8), 10), Image.new("L", (9, 8), 200)
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        raw = encode(first, kind, save_all=True, append_images=[second], **options)
        assert len(raw) > len(encode(first, kind, **options)) and decode(raw).max() <= 11


# ---- reduced decoding and resizing


@pytest.mark.parametrize(("side", "target", "reduction"), [
    (400, None, 1), (400, 400, 1), (400, 64, 4), (400, 200, 2), (400, 190, 1), (400, 133, 2), (400, 134, 1),
    (1024, 320, 2), (1024, 128, 8), (1024, 120, 4), (64, 64, 1), (40, 64, 1)])
def test_reduction_leaves_the_target_or_half_as_much_again(side, target, reduction):
    assert decoding._reduction(side, target) == reduction


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(512, 640), (401, 333), (300, 1200)])
def test_a_reduced_jpeg_is_as_good_as_a_full_one(decode, channels, shape):
    noisy = smooth_picture(*shape) + np.random.default_rng(0).normal(0, 6, (*shape, 3))
    raw = encode(np.clip(noisy, 0, 255).astype(np.uint8), "JPEG", quality=90)
    reduced, full = decode(raw, channels, target=64), decode(raw, channels)
    assert reduced.shape[0] < full.shape[0] == shape[0] and min(reduced.shape[:2]) >= 64
    assert np.abs(fit_image(reduced, 64) - fit_image(full, 64).astype(int)).mean() < 1.5


def test_shrinking_takes_the_mean_of_the_covered_area():
    image = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    means = image.reshape(16, 4, 16, 6).mean(axis=(1, 3))
    assert np.abs(fit_image(image, 16) - means).max() <= 0.51


def test_enlarging_does_not_overshoot():
    image = np.array([[50, 50, 200, 200]] * 4, np.uint8)
    enlarged = fit_image(image, 32).astype(int)
    assert enlarged.shape == (32, 32) and enlarged.min() == 50 and enlarged.max() == 200
    assert (np.diff(enlarged, axis=1) >= 0).all()


def test_one_direction_shrinks_by_area_while_the_other_grows():
    stripes = np.tile(np.array([0, 0, 0, 240], np.uint8), (4, 32))  # 4 rows, 128 columns: sampling would give 0 or 240
    assert np.unique(fit_image(stripes, 32)).tolist() == [60]
    assert np.unique(fit_image(np.ascontiguousarray(stripes.T), 32)).tolist() == [60]


def test_an_image_of_the_right_size_is_left_alone():
    image = smooth_picture(16, 16)
    assert np.array_equal(fit_image(image, 16), image)
    assert fit_image(image[:1, :1], 16).shape == (16, 16, 3)


# ---- files that cannot be read


@pytest.mark.parametrize(("raw", "reason"), [
    (b"", "empty"), (b"not an image at all" * 20, "no image"), (b"\xff\xd8\xff\xe0\x00\x10JFIF", "missing"),
    (b"\x89PNG\r\n\x1a\n", "cut short"), (b"\x00" * 500, "no image"),
    (encode(np.full((4, 4), 300, np.float32), "TIFF"), "32-bit floats"),
    (encode(np.full((4, 4), -1, np.int32), "TIFF"), "32-bit integers")])
def test_non_image_is_an_error_with_the_reason(tmp_path, raw, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"bad.png: .*{reason}"):
        decode_image(path, 1)


def test_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone.png: No such file"):
        decode_image(tmp_path / "gone.png", 1)
    with pytest.raises(ValueError, match="directory"):
        decode_image(tmp_path, 1)


CUT = {
    "png": ("PNG", {}), "jpeg": ("JPEG", {}), "progressive": ("JPEG", {"progressive": True}), "bmp": ("BMP", {}),
    "restarts": ("JPEG", {"restart_marker_blocks": 2}), "gif": ("GIF", {}), "webp": ("WEBP", {}), "tiff": ("TIFF", {}),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_truncated_file_is_an_error_or_has_the_same_pixels(decode, capfd, name, mode):
    kind, options = CUT[name]
    raw = encode(Image.fromarray(smooth_picture(60, 80)).convert(mode), kind, **options)
    whole = decode(raw, 3)
    for end in {*range(0, len(raw), 1 + len(raw) // 60), *range(len(raw) - 20, len(raw))}:
        try:
            assert np.array_equal(decode(raw[:end], 3), whole), f"cut at byte {end} of {len(raw)}"
        except ValueError:
            continue
        assert end > len(raw) - 3, f"nobody noticed that it ends at byte {end} of {len(raw)}"
    assert capfd.readouterr().err == ""


def test_a_jpeg_cut_behind_its_embedded_thumbnail_is_an_error(decode):
    thumbnail = encode(smooth_picture(8, 8), "JPEG")
    raw = encode(smooth_picture(60, 80), "JPEG", comment=thumbnail)
    end = raw.index(thumbnail) + len(thumbnail)
    assert raw[:end].endswith(b"\xff\xd9")
    with pytest.raises(ValueError):
        decode(raw[:end])


def test_a_jpeg_may_have_something_behind_its_end(decode):
    raw = encode(smooth_picture(60, 80), "JPEG")
    assert np.array_equal(decode(raw + b"\0" * 100 + b"\xff\x3a"), decode(raw))


def test_every_flipped_byte_of_a_png_is_noticed(decode, capfd):
    raw = encode(smooth_picture(30, 40), "PNG")
    for position in range(0, len(raw), 7):
        with pytest.raises(ValueError):
            decode(raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1:])
    assert capfd.readouterr().err == ""


def test_foreign_bytes_inside_a_jpeg_are_noticed(decode):
    raw = encode(smooth_picture(200, 200) ^ 3, "JPEG", quality=95)
    start = len(raw) // 2
    assert b"\xff\xda" in raw[:start]
    noise = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    for foreign in (noise, b"\xff\x3a\0\4", b"\xff\xd8\0\4"):
        damaged = raw[:start] + foreign + raw[start + len(foreign):]
        with pytest.raises(ValueError, match="damaged"):
            decode(damaged)


def test_png_with_too_few_rows_is_an_error(decode):
    rows = np.arange(40, dtype=np.uint8).reshape(8, 5)
    short = make_png(rows, 8, 0).replace(png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 8, 8, 0, 0, 0, 0)),
                                         png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 9, 8, 0, 0, 0, 0)))
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decode(short)


def test_png_metadata_chunks_change_and_print_nothing(decode, capfd):
    rows = np.arange(40, dtype=np.uint8).reshape(8, 5)
    extra = [png_chunk(b"gAMA", struct.pack(">I", 20000)), png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"wrong")),
             png_chunk(b"PLTE", b"abc"), png_chunk(b"tRNS", b"\0\2"), png_chunk(b"tEXt", b"who\0me")]
    assert np.array_equal(decode(make_png(rows, 8, 0, *extra)), rows)
    assert capfd.readouterr().err == ""


# ---- the store


def test_the_store_holds_every_image_decoded_and_fitted(home):
    table = make_table(home / "images")
    for settings in (GREY, PixelSettings(size=16, channels=3)):
        store = open_store("set-train", table, settings)
        expected = [fit_image(decode_image(path, settings.channels), 16) for path in table["path"]]
        assert isinstance(store, PixelStore) and store.settings == settings and len(store) == 40
        assert np.array_equal(store.pixels, np.stack(expected))
        assert store.ids.tolist() == table["image_id"].tolist()
        assert store.shapes.tolist() == [[20 + i % 7, 24] for i in range(40)]


def test_read_gives_a_writable_copy_in_the_order_asked_for(home):
    store = open_store("set-train", make_table(home / "images"), GREY)
    rows = np.array([7, 0, 39, 7])
    images = store.read(rows)
    assert np.array_equal(images, np.asarray(store.pixels)[rows]) and images.dtype == np.uint8
    images[:] = 0
    assert store.read(rows).any()
    with pytest.raises(ValueError):
        store.pixels[0] = 0
    assert store.read([]).shape == (0, 16, 16)
    for outside in ([40], [-1]):
        with pytest.raises(IndexError, match="store of 40 images"):
            store.read(outside)


def test_rows_are_joined_by_id_and_strangers_are_named(home):
    table = make_table(home / "images")
    store = open_store("set-train", table, GREY)
    assert store.rows(table["image_id"][::-1]).tolist() == list(range(39, -1, -1))
    assert store.rows(["003", "003"]).tolist() == [3, 3]
    with pytest.raises(ValueError, match="1 of 2 images are not in the store .*'nobody'"):
        store.rows(["003", "nobody"])


def test_many_threads_and_one_build_the_same_store(home, monkeypatch):
    table = make_table(home / "images", images=150)
    files = []
    for workers in (1, 4):
        monkeypatch.setenv("STARTER_HOME", str(home / f"{workers} workers"))
        folder = open_store("set-train", table, GREY, workers=workers).folder
        files.append([(folder / "pixels.npy").read_bytes(), *np.load(folder / "index.npz").values()])
    assert all(np.array_equal(one, many) for one, many in zip(*files, strict=True))


def test_only_a_changed_file_is_decoded(home, monkeypatch):
    table = make_table(home / "images")
    calls = []
    decode_file = pixel_store.decode_file
    monkeypatch.setattr(pixel_store, "decode_file", lambda *arguments: calls.append(1) or decode_file(*arguments))
    first = open_store("set-train", table, GREY)
    assert open_store("set-train", table, GREY).folder == first.folder and len(calls) == 40

    Path(table["path"][3]).write_bytes(encode(np.full((9, 9), 77, np.uint8), "PNG"))
    changed = open_store("set-train", table, GREY)
    assert len(calls) == 80 and (changed.pixels[3] == 77).all()
    assert store_folders(home) == [changed.folder.name], "the stale store is still there"

    os.utime(table["path"][5], ns=(1, 1))
    assert open_store("set-train", table, GREY).folder != changed.folder
    assert open_store("set-train", table[::-1], GREY).ids[0] == "039"


def test_shapes_are_those_of_the_upright_picture_at_full_scale(home):
    table = make_table(home / "images", images=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    for row, kind in enumerate(("JPEG", "PNG")):
        Path(table["path"][row]).write_bytes(encode(smooth_picture(300, 400), kind, exif=exif))
    assert open_store("set-train", table, GREY).shapes.tolist() == [[400, 300]] * 2


def test_moving_the_data_does_not_build_again(home, monkeypatch):
    table = make_table(home / "images")
    first = open_store("set-train", table, GREY)
    (home / "images").rename(home / "moved")
    monkeypatch.setattr(pixel_store, "decode_file", None)
    moved = table.assign(path=[path.replace("images", "moved") for path in table["path"]])
    assert open_store("set-train", moved, GREY).folder == first.folder


def test_every_setting_is_in_the_key(home):
    table = make_table(home / "images", images=3)
    others = {"size": 8, "channels": 3, "resize_mode": "letterbox", "steps": ("clahe",)}
    assert {field.name for field in fields(PixelSettings)} == others.keys(), "a new setting needs a value here"
    folders = [open_store("set-train", table, settings).folder
               for settings in (GREY, *(replace(GREY, **{name: value}) for name, value in others.items()))]
    assert len(set(folders)) == 1 + len(others) and all(folder.is_dir() for folder in folders)
    assert folders[0].name.startswith("set-train-16px-")
    assert asdict(PixelStore(folders[1]).settings) == asdict(GREY) | {"size": 8}


def test_every_number_of_a_step_is_in_the_key(home, monkeypatch):
    table, settings = make_table(home / "images", images=3), replace(GREY, steps=("clahe",))
    before = open_store("set-train", table, settings).folder
    monkeypatch.setitem(PREPROCESSING, "clahe", replace(PREPROCESSING["clahe"], clip_limit=3.0))
    assert open_store("set-train", table, settings).folder != before and before.is_dir()


def test_steps_are_applied_in_their_order_and_written_down(home):
    table = make_table(home / "images")
    one, other = (open_store("set-train", table, replace(GREY, steps=steps))
                  for steps in (("clahe", "blur"), ("blur", "clahe")))
    plain = open_store("set-train", table, GREY)
    clahe = cv2.createCLAHE(2.0, (8, 8))
    for i in range(40):
        image = np.array(plain.pixels[i])
        assert np.array_equal(one.pixels[i], cv2.GaussianBlur(clahe.apply(image), (5, 5), 0))
        assert np.array_equal(other.pixels[i], clahe.apply(cv2.GaussianBlur(image, (5, 5), 0)))
    account = json.loads((one.folder / "store.json").read_text())
    assert account["steps"] == ["Clahe(clip_limit=2.0, tiles=8)", "Blur(kernel=5, sigma=0.0)"]
    assert PixelStore(one.folder).settings == replace(GREY, steps=("clahe", "blur"))


def test_borders_are_cropped_before_fitting(home):
    table = make_table(home / "images", images=2)
    picture = np.zeros((800, 800, 3), np.uint8)
    picture[300:420, 200:320] = inside = smooth_picture(120, 120) // 2 + 100
    for row in range(2):  # decoded for 16 pixels, a JPEG would come at an eighth: 15 pixels of the inside
        Path(table["path"][row]).write_bytes(encode(picture, "JPEG", quality=95))
    store = open_store("set-train", table, replace(GREY, steps=("crop_borders",)))
    difference = np.abs(store.pixels[0] - fit_image(cv2.cvtColor(inside, cv2.COLOR_RGB2GRAY), 16).astype(int))
    assert difference[:15, :15].max() <= 3  # the last row and column may hold a rim of the border
    assert store.shapes.tolist() == [[800, 800]] * 2


def test_one_image_comes_as_the_store_has_it(home):
    table = make_table(home / "images", images=8, kind="JPEG")
    letterbox = PixelSettings(size=16, channels=3, resize_mode="letterbox", steps=("equalize", "crop_borders"))
    for settings in (GREY, letterbox):
        store = open_store("set-train", table, settings)
        for image, path in zip(store.pixels, table["path"], strict=True):
            assert np.array_equal(stored_image(path, settings), image)


def test_store_without_steps_keeps_its_key(home):
    table = make_table(home / "images")
    folder = open_store("set-train", table, GREY).folder
    key = sha256(json.dumps({"channels": 1, "size": 16}))[:6]  # as it was made then
    assert folder.name.startswith(f"set-train-16px-{key}")
    account = json.loads((folder / "store.json").read_text())
    account = {name: value for name, value in account.items() if name != "steps"}
    account["settings"] = {"size": 16, "channels": 1}
    (folder / "store.json").write_text(json.dumps(account))
    assert open_store("set-train", table, GREY).settings == GREY


def test_experiment_determines_pixel_settings():
    grey, coloured = replace(DEMO, channels=1), replace(DEMO, channels=3)
    plain = Experiment(image_size=96)
    assert pixel_settings(grey, plain) == PixelSettings(96, 1)
    assert pixel_settings(coloured, plain) == PixelSettings(96, 3)
    assert pixel_settings(grey, replace(plain, colour="rgb")).channels == 3
    assert pixel_settings(coloured, replace(plain, colour="grey")).channels == 1
    changed = replace(plain, resize_mode="letterbox", preprocessing=("crop_borders", "clahe"))
    assert pixel_settings(grey, changed) == PixelSettings(96, 1, "letterbox", ("crop_borders", "clahe"))
    assert image_channels(grey, replace(plain, colour="rgb")) == 3


def test_changed_npz_file_makes_another_store(home):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    path = home / "x.npz"
    table = pd.DataFrame({"image_id": [f"train-{i}" for i in range(5)],
                          "path": [f"{path}#train_images#{i}" for i in range(5)]})
    np.savez(path, train_images=images)
    first = open_store("set-train", table, GREY)
    assert np.array_equal(first.pixels, images) and open_store("set-train", table, GREY).folder == first.folder
    np.savez_compressed(path, train_images=255 - images)
    assert np.array_equal(open_store("set-train", table, GREY).pixels, 255 - images)
    moved = table.assign(path=table["path"].str.replace("#4", "#5"))
    with pytest.raises(ValueError, match="train-4: there is no row 5; train_images has the rows 0 to 4"):
        open_store("set-train", moved, GREY)


def test_all_unreadable_files_are_named_and_nothing_is_left(home):
    table = make_table(home / "images", images=100)
    good = Path(table["path"][0]).read_bytes()
    bad = {5: b"", 40: good[:60], 41: b"no image", 99: None}
    for row, raw in bad.items():
        path = Path(table["path"][row])
        path.unlink() if raw is None else path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        open_store("set-train", table, GREY)
    message = str(error.value)
    assert "4 of the 100 images of set-train cannot be read" in message and "name them in `exclude_ids`" in message
    for row, reason in {5: "the file is empty", 40: "cut short", 41: "no image", 99: "No such file"}.items():
        assert f"  {table['image_id'][row]}: {reason}" in message and table["path"][row] in message
    assert store_folders(home) == ["set-train-unreadable.csv"]
    listed = pd.read_csv(home / "data" / "pixels" / "set-train-unreadable.csv", dtype=str)
    assert listed["image_id"].tolist() == [table["image_id"][row] for row in bad]
    assert listed.columns.tolist() == ["image_id", "path", "reason"]

    store = open_store("set-train", table.drop(index=list(bad)), GREY)
    assert len(store) == 96 and store_folders(home) == [store.folder.name]


def test_of_many_unreadable_files_twenty_are_shown(home):
    table = pd.DataFrame({"image_id": [f"i{n}" for n in range(50)], "path": "/nowhere/a.png"})
    with pytest.raises(ValueError, match="50 of the 50 images") as error:
        open_store("set-train", table, GREY)
    assert str(error.value).count("No such file") == 20 and "and 30 more" in str(error.value)
    assert len(pd.read_csv(home / "data" / "pixels" / "set-train-unreadable.csv")) == 50


def test_one_bright_dot_is_not_constant(home):
    folder = home / "images"
    table = make_table(folder, images=4)
    dot = np.zeros((512, 512), np.uint8)
    black = encode(dot, "JPEG")
    dot[300, 301] = 20
    dotted = encode(dot, "JPEG", quality=100)
    assert not decode_bytes(folder, dotted, target=16).any() and decode_bytes(folder, dotted).any()
    for row, raw in ((1, black), (2, dotted), (3, encode(np.full((5, 5), 200, np.uint8), "PNG"))):
        Path(table["path"][row]).write_bytes(raw)
    assert open_store("set-train", table, GREY).constant.tolist() == [False, True, False, True]


def decode_bytes(folder: Path, raw: bytes, target: int | None = None) -> np.ndarray:
    path = folder / "bytes"
    path.write_bytes(raw)
    return decode_image(path, 1, target)


def test_hashes_depend_on_pixels_and_size(home):
    table = make_table(home / "images", images=6)
    raw = Path(table["path"][0]).read_bytes()
    Path(table["path"][2]).write_bytes(raw)
    Path(table["path"][3]).write_bytes(encode(Image.open(io.BytesIO(raw)), "BMP"))  # the same pixels, another file
    Path(table["path"][4]).write_bytes(encode(np.zeros((10, 10), np.uint8), "PNG"))
    Path(table["path"][5]).write_bytes(encode(np.zeros((10, 12), np.uint8), "PNG"))
    hashes = open_store("set-train", table, GREY).hashes
    assert hashes[0] == hashes[2] == hashes[3] and len(set(hashes)) == 4
    assert hashes.dtype.kind == "U" and len(hashes[0]) == 32


def test_wrong_tables_names_and_settings_are_errors(home):
    table = make_table(home / "images", images=3)
    with pytest.raises(ValueError, match="1 image ids are repeated .*'000'"):
        open_store("set-train", pd.concat([table, table[:1]]), GREY)
    with pytest.raises(ValueError, match="empty"):
        open_store("set-train", table[:0], GREY)
    with pytest.raises(ValueError, match="'../up'"):
        open_store("../up", table, GREY)
    for wrong in ({"size": 0}, {"channels": 4}, {"resize_mode": "pad"}, {"steps": ("sharpen",)},
                  {"steps": ("blur", "blur")}):
        with pytest.raises(ValueError, match="pixels|channels|resize_mode|there is no 'sharpen'|twice"):
            replace(GREY, **wrong)


def test_a_store_is_pickled_as_its_folder(home):
    store = open_store("set-train", make_table(home / "images"), GREY)
    store.rows(["003"])
    raw = pickle.dumps(store)
    assert len(raw) < 1000
    assert np.array_equal(pickle.loads(raw).read([4, 2]), store.read([4, 2]))


def test_damaged_store_names_the_folder_to_delete(home):
    table = make_table(home / "images")
    folder = open_store("set-train", table, GREY).folder
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged .*delete the folder"):
        open_store("set-train", table, GREY)


def test_missing_room_is_an_error_before_decoding(home, monkeypatch):
    table = make_table(home / "images", images=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3 * 16 * 16 - 1}))
    monkeypatch.setattr(pixel_store, "decode_file", None)
    with pytest.raises(OSError, match="needs 0.00 GB.*make room"):
        open_store("set-train", table, GREY)
    assert store_folders(home) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_full_disk_leaves_nothing(home):
    import resource

    table = make_table(home / "images", images=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            open_store("set-train", table, PixelSettings(size=128, channels=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store_folders(home) == []


def test_an_interrupted_build_leaves_nothing(home, monkeypatch):
    table = make_table(home / "images")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixel_store, "decode_file", interrupt)
    threads = cv2.getNumThreads()
    with pytest.raises(KeyboardInterrupt):
        open_store("set-train", table, GREY)
    assert store_folders(home) == [] and cv2.getNumThreads() == threads


def test_leftovers_of_killed_builds_are_removed_after_an_hour(home):
    table = make_table(home / "images")
    old, young = (home / "data" / "pixels" / f".set-train-16px-{name}.part" for name in ("old", "young"))
    for part in (old, young):
        part.mkdir(parents=True)
        (part / "pixels.npy").write_bytes(b"half")
    for path in (old / "pixels.npy", old):
        os.utime(path, (time.time() - 7200,) * 2)
    open_store("set-train", table, GREY)
    assert not old.exists() and young.exists()


def test_concurrent_builds_keep_the_first_store(home, monkeypatch):
    table = make_table(home / "images")
    write_json = pixel_store.write_json
    first = []

    def let_another_be_faster(*arguments):
        write_json(*arguments)
        monkeypatch.setattr(pixel_store, "write_json", write_json)
        first.append(open_store("set-train", table, GREY))
        first.append((first[0].folder / "pixels.npy").stat().st_ino)

    monkeypatch.setattr(pixel_store, "write_json", let_another_be_faster)
    store = open_store("set-train", table, GREY)
    assert (store.folder / "pixels.npy").stat().st_ino == first[1]
    assert store_folders(home) == [store.folder.name]


def test_few_chunks_are_in_flight_at_any_time():
    begun = []
    numbers = ((begun.append(i) or i,) for i in range(100))
    for done, result in enumerate(map_in_order(lambda i: i, numbers, 3)):
        assert result == done
        assert len(begun) - done <= 7


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped memory")
def test_reading_adds_nothing_to_the_memory_of_the_process(home):
    store = open_store("set-train", make_table(home / "images", images=200), PixelSettings(size=128, channels=1))
    path = store.folder / "pixels.npy"
    before = resident_kilobytes(path)
    for first in range(0, 200, 8):
        assert store.read(range(first, first + 8)).any()
    assert resident_kilobytes(path) == before
    assert np.array_equal(store.read(range(200)), store.pixels) and resident_kilobytes(path) > before + 3000


def test_reading_works_without_preadv(home, monkeypatch):
    store = open_store("set-train", make_table(home / "images"), PixelSettings(size=16, channels=3))
    images = store.read([5, 3])
    monkeypatch.delattr(os, "preadv", raising=False)
    assert np.array_equal(store.read([5, 3]), images)


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs positioned reads")
def test_truncation_of_an_open_store_is_an_error(home):
    store = open_store("set-train", make_table(home / "images"), GREY)
    os.truncate(store.folder / "pixels.npy", 5000)
    assert len(store.read([0])) == 1
    with pytest.raises(OSError, match="ends before image 39"):
        store.read([0, 39])


def resident_kilobytes(path: Path) -> int:
    """How much of a mapped file counts as this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(lines[i + k].split()[1]) for i, line in enumerate(lines) if line.endswith(str(path))
               for k in range(1, 8) if lines[i + k].startswith("Rss:"))


# ---- real images


@needs("nih1000")
def test_transparent_nih_images_are_their_grey():
    transparent = [path for path in sorted(NIH.iterdir()) if path.read_bytes()[25] == 6]  # PNG's colour type RGBA
    assert len(transparent) == 21
    for path in transparent:
        grey = np.asarray(Image.open(path).getchannel("R"))
        assert np.array_equal(decode_image(path, 1), grey)
        assert np.array_equal(decode_image(path, 3), np.dstack([grey] * 3))


@needs("chest_xray")
def test_real_radiographs_decode_as_with_pillow():
    for path in sorted(CHEST.glob("*/*"))[::250]:
        full = decode_image(path, 1)
        assert np.abs(full - np.asarray(Image.open(path).convert("L"), int)).max() <= 1
        for size in (28, 56, 64, 112):
            reduced = decode_image(path, 1, target=size)
            assert len(reduced) < len(full)
            assert np.abs(fit_image(reduced, size) - fit_image(full, size).astype(int)).mean() < 1.5
