"""One tolerant look: nothing stops it, everything bad has a reason, a second look reads what the first one found."""

from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data import image_scan as scan_module
from data.image_scan import hash_pixels, perceptual_hash, scan_images


def picture(seed: int, height: int = 90, width: int = 120, channels: int = 1) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1).squeeze()


def table_of(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [path.name for path in paths], "path": [str(path) for path in paths]})


@pytest.fixture
def folder(home) -> Path:
    folder = home / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def mixed(folder) -> pd.DataFrame:
    """Good and bad files of all kinds."""
    grey = picture(0)
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(folder / "grey_as_rgb.png")
    Image.fromarray(picture(1, channels=3)).save(folder / "colour.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.new("L", (40, 30), 7).save(folder / "black.png")
    Image.fromarray(np.tile(np.uint8([10, 200, 30]), (30, 40, 1))).save(folder / "one_colour.png")
    Image.fromarray(grey).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "a_folder.png").mkdir()
    (folder / "stub.dcm").write_bytes(bytes(128) + b"DICM" + b"nothing")
    names = ["grey.png", "grey_as_rgb.png", "colour.png", "deep.png", "black.png", "one_colour.png", "whole.jpg",
             "cut.jpg", "empty.png", "text.png", "a_folder.png", "stub.dcm", "missing.png"]
    return table_of([folder / name for name in names])


def test_bad_images_have_a_reason_and_stop_nothing(mixed):
    scan = scan_images("mixed", mixed)
    reasons = dict(zip(scan.ids, scan.reason, strict=True))
    bad = {name for name, reason in reasons.items() if reason}
    assert bad == {"cut.jpg", "empty.png", "text.png", "a_folder.png", "stub.dcm", "missing.png"}
    assert "empty" in reasons["empty.png"] and "No such file" in reasons["missing.png"]
    assert (scan.readable == (scan.reason == "")).all()
    assert (scan.thumbnails[~scan.readable] == 0).all()


def test_measurements_match_the_images(mixed):
    scan = scan_images("mixed", mixed)
    row = {name: i for i, name in enumerate(scan.ids)}
    grey = picture(0)
    here = row["grey.png"]
    assert (scan.height[here], scan.width[here], scan.mode[here]) == (90, 120, "L")
    assert scan.file_bytes[here] == Path(mixed["path"][here]).stat().st_size
    assert scan.mean[here] == pytest.approx(grey.mean(), abs=1e-3)
    assert scan.std[here] == pytest.approx(grey.std(), abs=1e-3)
    assert scan.mode[row["colour.png"]] == "RGB" and scan.mode[row["deep.png"]].startswith("I")
    assert scan.mode[row["stub.dcm"]] == "DICOM"
    assert scan.ids[scan.constant].tolist() == ["black.png", "one_colour.png"]
    expected = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(scan.thumbnails[here].astype(int) - expected).max() <= 1


def test_hash_of_grey_image_does_not_depend_on_storage(mixed):
    scan = scan_images("mixed", mixed)
    hashes = dict(zip(scan.ids, scan.pixel_hash, strict=True))
    assert hashes["grey.png"] == hashes["grey_as_rgb.png"] == hashes["deep.png"] == hash_pixels(picture(0))
    assert len({hashes[name] for name in ("grey.png", "colour.png", "whole.jpg", "black.png")}) == 4


def test_equal_bytes_of_another_shape_have_another_hash():
    assert hash_pixels(np.zeros((4, 6), np.uint8)) != hash_pixels(np.zeros((6, 4), np.uint8))


def test_the_perceptual_hash_has_imagehashs_distances():
    a, b = picture(3, 64, 64), picture(4, 64, 64)
    theirs = imagehash.phash(Image.fromarray(a), hash_size=16) - imagehash.phash(Image.fromarray(b), hash_size=16)
    assert np.bitwise_count(perceptual_hash(a) ^ perceptual_hash(b)).sum() == theirs > 50


def test_hash_is_that_of_the_upright_image(folder):
    grey = picture(5)
    Image.fromarray(grey).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey[::-1, ::-1]).save(folder / "b.png", exif=exif)
    scan = scan_images("turned", table_of([folder / "a.png", folder / "b.png"]))
    assert scan.pixel_hash[0] == scan.pixel_hash[1]


def test_second_scan_decodes_nothing_until_a_file_changes(mixed, monkeypatch, home):
    first = scan_images("mixed", mixed)
    monkeypatch.setattr(scan_module, "_scan_image", lambda path: pytest.fail("decoded again"))
    again = scan_images("mixed", mixed)
    for name in ("ids", "reason", "height", "mode", "mean", "pixel_hash", "phash", "constant", "thumbnails"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    monkeypatch.undo()
    monkeypatch.setenv("STARTER_HOME", str(home))
    Image.fromarray(picture(9)).save(mixed["path"][0])
    changed = scan_images("mixed", mixed)
    assert changed.pixel_hash[0] != first.pixel_hash[0]
    assert [path.name for path in (home / "data" / "scans").iterdir()] == [changed.folder.name]


def test_order_does_not_depend_on_the_number_of_threads(folder, home):
    paths = [folder / f"{i:03d}.png" for i in range(100)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(i, 20 + i, 30)).save(path)
    table = table_of(paths).sample(frac=1, random_state=0)
    one, four = (scan_images(name, table, workers) for name, workers in (("one", 1), ("four", 4)))
    assert one.ids.tolist() == table["image_id"].tolist()
    assert [20 + int(name[:3]) for name in one.ids] == one.height.tolist()
    assert np.array_equal(one.phash, four.phash) and np.array_equal(one.thumbnails, four.thumbnails)


def test_nothing_half_written_stays_when_it_is_interrupted(mixed, monkeypatch, home):
    def stop(path):
        raise KeyboardInterrupt
    monkeypatch.setattr(scan_module, "_scan_image", stop)
    with pytest.raises(KeyboardInterrupt):
        scan_images("mixed", mixed)
    assert list((home / "data" / "scans").iterdir()) == []


def test_damaged_scan_names_the_folder_to_delete(mixed):
    folder = scan_images("mixed", mixed).folder
    (folder / "index.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match="delete the folder"):
        scan_images("mixed", mixed)


def test_empty_table_and_repeated_ids_are_errors(home):
    with pytest.raises(ValueError, match="empty"):
        scan_images("none", pd.DataFrame({"image_id": [], "path": []}))
    with pytest.raises(ValueError, match="'a'"):
        scan_images("twice", pd.DataFrame({"image_id": ["a", "a"], "path": ["x", "y"]}))
