"""Scans every image without failing: whether it can be read, its size, brightness, hashes and a thumbnail."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from common.files import home, sha256
from common.hardware import count_cores
from data.decoding import DAMAGE, GREY_MODES, decode_file, fit_image
from data.dicom import is_dicom_file
from data.image_cache import build_folder, check_images, hash_files, remove_outdated, write_images

FORMAT = 1  # part of every key: raise it when something else comes to be measured
SIDE = 64  # pixels, height and width of a thumbnail
HASH_SIDE = 16  # of the perceptual hash: 256 bits
# what is kept of an image beside its thumbnail: the type it has on disk
FIELDS = {"height": np.int32, "width": np.int32, "mode": "U12", "file_bytes": np.int64, "mean": np.float32,
          "std": np.float32, "constant": bool, "pixel_hash": "S32", "phash": (np.uint64, 4)}


@dataclass(frozen=True)
class Scan:
    """Measurements of N images, all arrays in the table's order; zero or empty for images that cannot be read."""

    folder: Path
    paths: tuple[str, ...]  # (N,) as the table has them now
    ids: np.ndarray  # (N,) str
    reason: np.ndarray  # (N,) str, "" = readable, else what is wrong
    height: np.ndarray  # (N,) int32, pixels of the upright image; 0 = unknown
    width: np.ndarray  # (N,) int32
    mode: np.ndarray  # (N,) str, Pillow's word (L, RGB, I;16), or DICOM, npz; "" = unknown
    file_bytes: np.ndarray  # (N,) int64; of an image within an npz file: of its pixels
    mean: np.ndarray  # (N,) float32 of the grey image, 0 to 255
    std: np.ndarray  # (N,) float32
    constant: np.ndarray  # (N,) bool: one colour throughout
    pixel_hash: np.ndarray  # (N,) str, equal where all upright pixels are; colour counts, how it was stored does not
    phash: np.ndarray  # (N, 4) uint64, 256 bits, near where pictures look alike

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool."""
        return self.reason == ""

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """(N, 64, 64) uint8, mapped and read-only: the grey image squashed; black where there is none."""
        return np.load(self.folder / "thumbnails.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.ids)


def scan_images(name: str, table: pd.DataFrame, workers: int | None = None) -> Scan:
    """Scans all images of a table (`image_id`, `path`); an image that cannot be read has a reason and raises no error.

    Kept in data/scans/<name>-<key>/, where the key depends on every image's id, file name, size and time of change, so
    that a second scan only reads the result. workers: threads, by default one per core.
    Raises ValueError where the table is empty or an id is repeated.
    """
    check_images(name, table)
    ids, paths = table["image_id"].tolist(), table["path"].tolist()
    folder = home() / "data" / "scans" / f"{name}-{sha256(hash_files(ids, paths), str(FORMAT))[:10]}"
    if not folder.is_dir():
        _build_scan(folder, name, ids, paths, workers or count_cores())
        remove_outdated(folder, f"{name}-")
    return _open_scan(folder, paths)


def _open_scan(folder: Path, paths: list[str]) -> Scan:
    try:
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            arrays = {field: index[field] for field in FIELDS}
            ids, reasons = index["ids"], dict(zip(index["unreadable"].tolist(), index["reasons"].tolist(),
                                                  strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"the scan {folder} is damaged ({error}); delete the folder, and it is made again") from error
    reason = np.array([reasons.get(row, "") for row in range(len(ids))], dtype=str)
    arrays["pixel_hash"] = arrays["pixel_hash"].astype(str)
    return Scan(folder=folder, paths=tuple(paths), ids=ids, reason=reason, **arrays)


def _build_scan(folder: Path, name: str, ids: list[str], paths: list[str], workers: int) -> None:
    with build_folder(folder) as temporary:
        index, unreadable = write_images(temporary / "thumbnails.npy", f"{name}, scanning every image", paths,
                                         (SIDE, SIDE), FIELDS, _scan_image, workers)
        np.savez(temporary / "index.npz", ids=np.array(ids, dtype=str), reasons=np.array([*unreadable.values()], str),
                 unreadable=np.array([*unreadable], np.int64), **index)


def _scan_image(path: str) -> tuple[dict, np.ndarray]:
    """The fields of one image, or its `reason`, and its thumbnail."""
    fields, nothing = {"file_bytes": _file_bytes(path), "mode": _find_mode(path)}, np.zeros((SIDE, SIDE), np.uint8)
    try:
        image, _ = decode_file(path, 1 if fields["mode"] in GREY_MODES else 3, None)
    except ValueError as error:
        return fields | {"reason": str(error).removeprefix(f"{path}: ")}, nothing
    image = _drop_equal_channels(image)
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if fields["mode"] == "npz":
        fields["file_bytes"] = image.nbytes
    mean, std = cv2.meanStdDev(grey)
    thumbnail = fit_image(grey, SIDE)
    fields |= {"height": grey.shape[0], "width": grey.shape[1], "mean": mean.item(), "std": std.item(),
               "constant": bool((image == image[0, 0]).all()), "pixel_hash": hash_pixels(image),
               "phash": perceptual_hash(thumbnail)}
    return fields, thumbnail


def _file_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _find_mode(path: str) -> str:
    """From the file's head alone, without decoding."""
    if ".npz#" in str(path):
        return "npz"
    try:
        with Image.open(path) as image:
            return image.mode
    except UnidentifiedImageError:
        return "DICOM" if is_dicom_file(path) else ""
    except DAMAGE:
        return ""


def _drop_equal_channels(image: np.ndarray) -> np.ndarray:
    """(H, W) where the three channels are equal, so that a grey image is the same however it was stored."""
    if image.ndim == 3 and all(np.array_equal(image[..., 0], image[..., c]) for c in (1, 2)):
        return np.ascontiguousarray(image[..., 0])
    return image


def hash_pixels(image: np.ndarray) -> str:
    """32 hexadecimal digits of the pixels and the shape of a uint8 image."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def perceptual_hash(thumbnail: np.ndarray) -> np.ndarray:
    """(4,) uint64, imagehash's pHash of 256 bits: the signs of the 16x16 slowest cosine waves about their median.

    thumbnail: (64, 64) uint8. imagehash shrinks every picture to this size first, so it costs the same for all.
    Source: Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions
    """
    bits = imagehash.phash(Image.fromarray(thumbnail), hash_size=HASH_SIDE).hash
    return np.packbits(bits).view(np.uint64)
