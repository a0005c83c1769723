"""Folders of arrays computed from image files: named after the files' state, built once, by several threads."""

import json
import os
import re
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import sha256
from data.npz import file_of

FORMAT = 1  # part of every key: raise it when decoding or resizing changes the pixels
CHUNK_BYTES = 4 << 20  # pixels that a thread hands over at once, of 32 images at most
LEFTOVER_SECONDS = 3600  # a half-built folder that nobody has written to for so long belongs to a killed process


def check_images(name: str, table: pd.DataFrame) -> None:
    """Raises ValueError where `name` cannot be part of a folder's name, the table is empty, or an id is repeated."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"the name {name!r} cannot be part of a folder's name: use letters, digits, '-', '_' and '.'")
    if len(table) == 0:
        raise ValueError(f"the table {name!r} is empty: there is no image to read")
    repeated = table["image_id"][table["image_id"].duplicated()].unique()
    if len(repeated):
        raise ValueError(f"{len(repeated)} image ids are repeated in the table {name!r}: "
                         f"{', '.join(map(repr, repeated[:5]))}; every image needs an id of its own")


def hash_files(ids: list[str], paths: list[str]) -> str:
    """Ten hexadecimal digits of every image's id, file name, size and time of change.

    A missing file counts as one without a size, so that the build reports it with all others that cannot be read. A
    row of an array counts by its row and the whole array's file.
    """
    parts = [f"format {FORMAT}, {len(ids)} images"]
    images = tqdm(ids, "checking the files", unit="image", disable=None, delay=1)
    for image_id, path in zip(images, map(Path, paths), strict=True):
        try:
            status = file_of(path).stat()
            parts.append(json.dumps([image_id, path.name, status.st_size, status.st_mtime_ns]))
        except OSError:
            parts.append(json.dumps([image_id, path.name]))
    return sha256(*parts)[:10]


@contextmanager
def build_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` when the block ends, and removed when it raises.

    Its name is unique, since another process may be building the same folder. Where that one was faster its folder
    stays: it has the same key and may be in use.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_outdated(folder: Path, stem: str) -> None:
    """Removes folders whose name is `stem` and another key than `folder`: they were made from other files.

    A process that has one of them mapped keeps it until it ends. On Windows such files cannot be removed: they stay.
    """
    for other in folder.parent.glob(f"{stem}*"):
        if other != folder and re.fullmatch(r"[0-9a-f]{10}", other.name.removeprefix(stem)):
            shutil.rmtree(other, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Removes half-built folders of processes that were killed."""
    for part in parent.glob(".*.part"):
        try:
            written = max(path.stat().st_mtime for path in [part, *part.glob("*")])
        except FileNotFoundError:  # its process is alive, and moved it into place just now
            continue
        if time.time() - written > LEFTOVER_SECONDS:
            shutil.rmtree(part, ignore_errors=True)


def write_images(path: Path, title: str, paths: list[str], shape: tuple[int, ...], fields: dict[str, object],
                 read: Callable[[str], tuple[dict, np.ndarray]],
                 workers: int) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Writes an image of each path into one .npy file; returns the fields as arrays (N, ...), and what is unreadable.

    read: path -> values of the fields, or some of them and a `reason` why it cannot be read, and uint8 pixels of
    `shape`;  fields: name -> numpy's type;  unreadable: {row: reason}.
    Written as a file and not through a mapping, and with few chunks in flight, so memory grows by the fields only.
    """
    index, unreadable = {name: np.zeros(len(paths), kind) for name, kind in fields.items()}, {}
    step = int(np.clip(CHUNK_BYTES // np.prod(shape), 1, 32))
    jobs = ((paths[first:first + step],) for first in range(0, len(paths), step))
    with (single_threaded_opencv(), path.open("wb") as file,
          tqdm(total=len(paths), desc=title, unit="image", disable=None) as bar):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        row = 0
        for results in map_in_order(lambda chunk: [read(each) for each in chunk], jobs, workers):
            for values, image in results:
                if reason := values.pop("reason", ""):
                    unreadable[row] = reason
                for name, value in values.items():
                    index[name][row] = value
                file.write(np.ascontiguousarray(image).data)
                row += 1
            bar.update(len(results))
        file.flush()
        os.fsync(file.fileno())  # or a power cut after the renaming could leave a whole file of zeros
    return index, unreadable


def map_in_order(function: Callable, jobs: Iterable[tuple], workers: int) -> Iterator:
    """The results in the order of the jobs, computed in threads, at most two per worker waiting at any time."""
    pool, waiting = ThreadPoolExecutor(workers), deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, *job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Switches OpenCV's own threads off inside the block: images are decoded in parallel, and both would compete."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
