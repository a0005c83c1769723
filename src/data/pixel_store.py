"""The pixel store: every image decoded and resized once, in one memory-mapped uint8 array."""

import json
import os
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from common.files import check_room, home, read_json, sha256, write_csv, write_json
from common.hardware import count_cores
from competition import Competition, check_choices
from data.decoding import decode_file, decode_image, fit_image
from data.image_cache import FORMAT, build_folder, check_images, hash_files, remove_outdated, write_images
from data.preprocessing import PREPROCESSING, apply_steps, check_steps
from experiment import Experiment

MAX_FILLED = 0.1  # share of a store's images that may be unreadable and counted as black: more is no accident


@dataclass(frozen=True)
class PixelSettings:
    """What is done to an image before it is stored. Every field goes into the store's key."""

    size: int                    # pixels, height and width
    channels: int                # 1: grey, 3: RGB
    resize_mode: Literal["squash", "letterbox"] = "squash"  # letterbox keeps the aspect ratio, with black beside it
    steps: tuple[str, ...] = ()  # keys of PREPROCESSING, in this order before the fitting and in this order after it

    def __post_init__(self):
        object.__setattr__(self, "steps", tuple(self.steps))  # JSON has lists
        check_choices(self)
        check_steps(self.steps)
        if self.size < 1:
            raise ValueError(f"an image size of {self.size} pixels; it must be 1 or more")
        if self.channels not in (1, 3):
            raise ValueError(f"{self.channels} channels; images are stored with 1 (grey) or 3 (RGB)")


def image_channels(competition: Competition, experiment: Experiment) -> int:
    """Channels that an experiment's images have, stored and in the network: 1 (grey) or 3 (RGB)."""
    return {"competition": competition.channels, "grey": 1, "rgb": 3}[experiment.colour]


def pixel_settings(competition: Competition, experiment: Experiment) -> PixelSettings:
    """How an experiment wants a competition's images stored."""
    return PixelSettings(experiment.image_size, image_channels(competition, experiment), experiment.resize_mode,
                         experiment.preprocessing)


class PixelStore:
    """A finished store: `pixels` (N, H, W) or (N, H, W, 3), mapped and read-only, and arrays (N,) that describe them.

    Pickled as its folder's name, so handing it to another process costs nothing.
    Raises ValueError where a file in the folder is missing or not what store.json says.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            summary = read_json(self.folder / "store.json")
            self.settings = PixelSettings(**summary["settings"])
            self.pixels = np.load(self.folder / "pixels.npy", mmap_mode="r")
            if self.pixels.shape != (summary["images"], *_image_shape(self.settings)) or self.pixels.dtype != np.uint8:
                raise ValueError(f"pixels.npy is {self.pixels.dtype} {self.pixels.shape}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the pixel store {self.folder} is damaged ({error}); delete the folder, and it is built "
                             "again") from error

    def __len__(self) -> int:
        return len(self.pixels)

    def __reduce__(self):
        return PixelStore, (self.folder,)

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) str, the image ids in the order of the table the store was built from."""
        return self._read_index("ids")

    @cached_property
    def hashes(self) -> np.ndarray:
        """(N,) str, equal where the stored pixels and the file's height and width are equal."""
        return self._read_index("hashes").astype(str)

    @cached_property
    def constant(self) -> np.ndarray:
        """(N,) bool, True where the whole image has one grey value."""
        return self._read_index("constant")

    @cached_property
    def shapes(self) -> np.ndarray:
        """(N, 2) int, height and width of the upright image before it was resized."""
        return self._read_index("shapes")

    def rows(self, image_ids: Iterable[str]) -> np.ndarray:
        """Rows (n,) of these images in the store. Raises ValueError with the ids that are not in it."""
        # tolist: numpy's own strings take three times the memory of Python's
        image_ids = pd.Index(image_ids.tolist() if hasattr(image_ids, "tolist") else list(image_ids), dtype=object)
        rows = self._rows_by_id.get_indexer(image_ids)
        if (rows < 0).any():
            missing = image_ids[rows < 0]
            raise ValueError(f"{len(missing)} of {len(image_ids)} images are not in the store {self.folder.name}: "
                             f"{', '.join(map(repr, missing[:5]))}; was it built from another table?")
        return rows

    def read(self, rows: Iterable[int]) -> np.ndarray:
        """A fresh, writable copy of these rows: uint8 (n, H, W) or (n, H, W, 3), in the order asked for."""
        rows = np.asarray(rows, np.int64)
        if rows.size and not (0 <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store of {len(self)} images")
        images = np.empty((len(rows), *self.pixels.shape[1:]), np.uint8)
        order = np.argsort(rows, kind="stable")  # in the order of the file: a cold disk is read in one sweep
        for i, row in zip(order.tolist(), rows[order].tolist(), strict=True):
            self._copy_row(row, images[i])
        return images

    def _copy_row(self, row: int, image: np.ndarray) -> None:
        """Reads the file and not the mapping.

        Mapped pages count as this process's memory until they are given back, and giving them back in time made random
        reading three times slower than this; and a broken disk is an error here, where a mapping kills the process.
        """
        if not hasattr(os, "preadv"):  # Windows
            image[...] = self.pixels[row]
        elif os.preadv(self._descriptor, (image,), self.pixels.offset + row * image.nbytes) != image.nbytes:
            raise OSError(f"{self.folder / 'pixels.npy'} ends before image {row}; delete the folder to build it again")

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.folder / "pixels.npy", os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    @cached_property
    def _rows_by_id(self) -> pd.Index:
        return pd.Index(self.ids.tolist(), dtype=object)

    def _read_index(self, name: str) -> np.ndarray:
        with np.load(self.folder / "index.npz", allow_pickle=False) as index:
            return index[name]


def open_store(name: str, table: pd.DataFrame, settings: PixelSettings, workers: int | None = None,
               unreadable: Literal["error", "black"] = "error") -> PixelStore:
    """The store of all images of a table (`image_id`, `path`), in its order; built where there is none yet.

    Its folder is data/pixels/<name>-<size>px-<key>/. The key depends on the settings and on every image's id, file
    name, size and time of change: moving the data folder keeps the store, changing a file or the table builds another.
    workers: decoding threads, by default one per core;  unreadable: "black" replaces images that cannot be read by
    black ones, in a separate store, as long as they are at most one in ten.
    Raises ValueError where an id is repeated or an image cannot be read (all of them are named), OSError where the
    disk has no room.
    """
    check_images(name, table)
    fill_unreadable = unreadable == "black"
    folder = _store_folder(f"{name}-filled" if fill_unreadable else name, table, settings)
    if not folder.is_dir():
        _build_store(folder, name, table, settings, workers or count_cores(), fill_unreadable)
        remove_outdated(folder, folder.name[:-10])
    return PixelStore(folder)


def kept_store(name: str, table: pd.DataFrame, settings: PixelSettings) -> PixelStore | None:
    """The store that `open_store` would open, None where it would have to build it first."""
    folder = _store_folder(name, table, settings)
    return PixelStore(folder) if folder.is_dir() else None


def _store_folder(name: str, table: pd.DataFrame, settings: PixelSettings) -> Path:
    return home() / "data" / "pixels" / (f"{name}-{settings.size}px-{_hash_settings(settings)}"
                                         f"{hash_files(table['image_id'].tolist(), table['path'].tolist())}")


def _hash_settings(settings: PixelSettings) -> str:
    """A step counts with all its settings. What came later and is not used is left out: older stores keep their key."""
    parts = {"size": settings.size, "channels": settings.channels}
    if settings.resize_mode != "squash":
        parts["resize_mode"] = settings.resize_mode
    if settings.steps:
        parts["steps"] = _describe_steps(settings)
    return sha256(json.dumps(parts, sort_keys=True))[:6]


def _describe_steps(settings: PixelSettings) -> list[str]:
    return [repr(PREPROCESSING[name]) for name in settings.steps]


# ---- building it


def _build_store(folder: Path, name: str, table: pd.DataFrame, settings: PixelSettings, workers: int,
                 fill_unreadable: bool) -> None:
    shape = _image_shape(settings)
    with build_folder(folder) as temporary:
        check_room(folder.parent, len(table) * int(np.prod(shape)), "the pixel store")
        fields = {"hashes": "S32", "constant": bool, "shapes": (np.int32, 2)}
        index, unreadable = write_images(temporary / "pixels.npy", f"{name}, {settings.size} px",
                                         table["path"].tolist(), shape, fields, partial(_read_image, settings), workers)
        _report_unreadable(folder.parent / f"{name}-unreadable.csv", name, table, unreadable, fill_unreadable)
        np.savez(temporary / "index.npz", ids=table["image_id"].to_numpy(str), **index)
        write_json(temporary / "store.json", {
            "about": "Decoded images. This folder may be deleted at any time: it is built when it is needed.",
            "settings": asdict(settings), "steps": _describe_steps(settings), "images": len(table), "format": FORMAT})


def _read_image(settings: PixelSettings, path: str) -> tuple[dict, np.ndarray]:
    """The fields of one image, or its `reason`, and its pixels as they are stored."""
    try:
        image, shape = decode_file(path, settings.channels, _decoding_target(settings))
        pixels, constant = _prepare(image, settings), _is_constant(image)
        if constant and image.shape[:2] != shape:  # a single bright dot may have vanished in a reduced decode
            constant = _is_constant(decode_image(path, settings.channels))
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return {"reason": reason, "constant": True}, np.zeros(_image_shape(settings), np.uint8)
    hashed = sha256(pixels.tobytes(), f"{shape[0]}x{shape[1]}")[:32]
    return {"hashes": hashed, "constant": constant, "shapes": shape}, pixels


def stored_image(path: str | Path, settings: PixelSettings) -> np.ndarray:
    """One image as a store of these settings holds it: uint8 (size, size) or (size, size, 3) RGB.

    Raises ValueError with the path and the reason where it cannot be read.
    """
    return _prepare(decode_image(path, settings.channels, _decoding_target(settings)), settings)


def _prepare(image: np.ndarray, settings: PixelSettings) -> np.ndarray:
    image = apply_steps(image, settings.steps, before_fitting=True)
    image = fit_image(image, settings.size, settings.resize_mode)
    return apply_steps(image, settings.steps, before_fitting=False)


def _decoding_target(settings: PixelSettings) -> int | None:
    """What is left after a step before the fitting may be small: it needs the whole picture."""
    return None if any(PREPROCESSING[name].before_fitting for name in settings.steps) else settings.size


def _is_constant(image: np.ndarray) -> bool:
    return bool(image.min() == image.max())


def _image_shape(settings: PixelSettings) -> tuple[int, ...]:
    return (settings.size, settings.size) + (() if settings.channels == 1 else (settings.channels,))


def _report_unreadable(path: Path, name: str, table: pd.DataFrame, unreadable: dict[int, str],
                       fill_unreadable: bool) -> None:
    if not unreadable:
        path.unlink(missing_ok=True)  # of an earlier attempt
        return
    listed = table.iloc[[*unreadable]][["image_id", "path"]].assign(reason=[*unreadable.values()])
    write_csv(path, listed)
    rows = listed.to_numpy().tolist()
    shown = "\n".join(f"  {image_id}: {reason} ({where})" for image_id, where, reason in rows[:20])
    more = f"\n  and {len(rows) - 20:,} more" if len(rows) > 20 else ""
    if fill_unreadable and len(rows) <= MAX_FILLED * len(table):
        print(f"warning: {len(rows):,} of the {len(table):,} images of {name} cannot be read and count as black:\n"
              f"{shown}{more}")
        return
    raise ValueError(f"{len(rows):,} of the {len(table):,} images of {name} cannot be read:\n{shown}{more}\n"
                     f"The whole list is in {path}. Fetch these files again, or name "
                     "them in `exclude_ids` in competition.py.")
