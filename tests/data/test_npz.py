"""Images inside .npz files: the row asked for, unpacked once in bounded memory, and every bad file named."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data import npz as npz_module
from data.decoding import decode_image
from data.npz import file_of, is_row, open_array, read_row

GREY = np.random.default_rng(0).integers(0, 256, (20, 28, 30), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 28, 30, 3), dtype=np.uint8)


@pytest.fixture
def npz(home) -> Path:
    path = home / "set_64.npz"
    np.savez_compressed(path, train_images=GREY, val_images=COLOUR, test_images=GREY[..., None],
                        train_labels=np.arange(20)[:, None])
    return path


def test_only_a_path_into_an_npz_file_names_a_row():
    assert is_row("a/b.npz#train_images#17") and is_row(Path("a b/c#d.NPZ#k#0"))
    for path in ("a/b.npz", "a/b.png", "scan#3#4.png", "b.npz#train_images", "b.npz#train_images#x", "b.npz##3"):
        assert not is_row(path) and file_of(path) == Path(path)
    assert file_of("a/b.npz#train_images#17") == Path("a/b.npz")
    with pytest.raises(ValueError, match="names no row"):
        read_row("a.png")


def test_an_array_is_mapped_and_its_rows_are_read(npz):
    assert isinstance(open_array(npz, "train_images"), np.memmap)
    for key, images in (("train_images", GREY), ("val_images", COLOUR), ("test_images", GREY[..., None])):
        assert np.array_equal(open_array(npz, key), images)
        assert np.array_equal(read_row(f"{npz}#{key}#7"), images[7].squeeze())
    assert np.array_equal(read_row(f"{npz}#val_images#19"), COLOUR[19])


def test_rows_decode_as_grey_and_as_colour(npz):
    assert np.array_equal(decode_image(f"{npz}#train_images#3", 1), GREY[3])
    assert np.array_equal(decode_image(f"{npz}#train_images#3", 3), np.dstack([GREY[3]] * 3))
    assert np.array_equal(decode_image(f"{npz}#val_images#3", 3), COLOUR[3])
    assert np.abs(decode_image(f"{npz}#val_images#3", 1) - COLOUR[3] @ [0.299, 0.587, 0.114]).max() < 1


def test_an_array_is_unpacked_once_until_the_file_changes(npz, home, monkeypatch):
    open_array(npz, "train_images")
    folder = home / "data" / "arrays"
    first, = folder.iterdir()
    assert first.name.startswith("set_64-train_images-")
    with monkeypatch.context() as patch:
        patch.setattr(npz_module, "_extract", None)
        assert np.array_equal(read_row(f"{npz}#train_images#3"), GREY[3])
    np.savez(npz, train_images=COLOUR[:5])
    assert np.array_equal(read_row(f"{npz}#train_images#3"), COLOUR[3])
    second, = folder.iterdir()
    assert second != first


def test_same_file_name_in_two_folders_is_no_conflict(home):
    paths = [home / folder / "x.npz" for folder in "ab"]
    for path, images in zip(paths, (GREY, 255 - GREY), strict=True):
        path.parent.mkdir()
        np.savez(path, train_images=images)
    one, other = (open_array(path, "train_images") for path in paths)
    assert np.array_equal(one, GREY) and np.array_equal(other, 255 - GREY)
    assert len(list((home / "data" / "arrays").iterdir())) == 2


def test_missing_key_row_or_file_is_named(npz):
    with pytest.raises(ValueError, match="set_64.npz: has no array 'images'; it has 'train_images', 'val_images'"):
        open_array(npz, "images")
    with pytest.raises(ValueError, match="there is no row 20; train_images has the rows 0 to 19"):
        read_row(f"{npz}#train_images#20")
    with pytest.raises(FileNotFoundError, match="gone.npz"):
        open_array(npz.with_name("gone.npz"), "train_images")
    with pytest.raises(ValueError, match="gone.npz#train_images#1: No such file"):
        decode_image(npz.with_name("gone.npz#train_images#1"), 1)


@pytest.mark.parametrize(("array", "reason"), [
    (GREY.astype(np.float32), "type float32; images are uint8"), (GREY.astype(np.uint16), "type uint16"),
    (np.array([[[None]]]), "Python objects"), (GREY[0], r"has the shape \(28, 30\)"),
    (np.zeros((2, 28, 28, 28), np.uint8), r"has the shape \(2, 28, 28, 28\)"),
    (np.zeros((0, 28, 28), np.uint8), "there is no image in it"), (GREY.T, "Fortran order")])
def test_array_without_images_is_an_error(home, array, reason):
    path = home / "x.npz"
    np.savez(path, images=array)
    with pytest.raises(ValueError, match=f"x.npz: the array 'images' .*{reason}"):
        open_array(path, "images")
    assert not (home / "data" / "arrays").exists()


def test_damaged_npz_file_is_an_error(npz, home):
    raw = npz.read_bytes()
    offset = raw.index(b"train_images.npy") + 2000
    flipped = raw[:offset] + bytes([raw[offset] ^ 0xFF]) + raw[offset + 1:]
    for bad in (b"", b"no archive", *(raw[:len(raw) * part // 10] for part in range(1, 10)), raw[:-1], flipped):
        npz.write_bytes(bad)
        with pytest.raises(ValueError, match="set_64.npz: is damaged, cut short or no .npz file .*; fetch"):
            open_array(npz, "train_images")
    assert list((home / "data").rglob("*.npy*")) == []


def test_damaged_npz_member_is_an_error(home):
    path = home / "x.npz"
    np.save(home / "whole.npy", GREY)
    for raw, reason in ((b"text", "is no array of numpy"), ((home / "whole.npy").read_bytes()[:-9], "bytes where")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", raw)
        with pytest.raises(ValueError, match=f"x.npz: the array 'images' .*{reason}"):
            open_array(path, "images")


def test_missing_room_is_an_error(npz, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match="0.00 GB are free; make room"):
        open_array(npz, "train_images")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_unpacking_holds_a_few_megabytes_whatever_the_size(home):
    import tracemalloc

    path = home / "large.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (800, 256, 256)})
        for _ in range(100):
            file.write(bytes(8 * 256 * 256))
    tracemalloc.start()
    assert open_array(path, "images").shape == (800, 256, 256)  # 52 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6
