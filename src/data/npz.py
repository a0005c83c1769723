"""Images that are rows of an array inside an .npz file: "DIR/x.npz#train_images#17" is row 17 of train_images."""

import os
import re
import shutil
import threading
import zipfile
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.files import check_room, home, replace_atomically, sha256

ROW_PATH = re.compile(r"(.+\.npz)#([^#]+)#([0-9]+)", re.DOTALL | re.IGNORECASE)
COPY_BYTES = 4 << 20
EXTRACTING = threading.Lock()  # threads share one process id, which is what keeps temporary files apart


def is_row(path: str | Path) -> bool:
    """True where a path names a row of an array and not a file of its own."""
    return ROW_PATH.fullmatch(str(path)) is not None


def file_of(path: str | Path) -> Path:
    """The file that holds an image: the path itself, or the .npz file of a path like "DIR/x.npz#train_images#17"."""
    found = ROW_PATH.fullmatch(str(path))
    return Path(found[1]) if found else Path(path)


def open_array(npz_path: str | Path, key: str) -> np.ndarray:
    """An array of images inside an .npz file, mapped and read-only: uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3) RGB.

    It is unpacked once, a few megabytes at a time, to data/arrays/<stem>-<key>-<hash>.npy; another path, size or time
    of change of the .npz file makes another one, which takes the old one's place.
    Raises FileNotFoundError where there is no such file, ValueError where it is damaged, has no such array or holds no
    images of 8 bits there, OSError where the disk has no room.
    """
    npz_path = Path(npz_path)
    status = npz_path.stat()
    return np.load(_extracted(npz_path, key, status.st_size, status.st_mtime_ns), mmap_mode="r", allow_pickle=False)


def read_row(path: str | Path) -> np.ndarray:
    """The image that a path like "DIR/x.npz#train_images#17" names: uint8 (H, W) or (H, W, 3) RGB.

    Read as a file and not through a mapping, whose pages would count as this process's memory.
    Raises what `open_array` raises, and ValueError where the array has no such row.
    """
    found = ROW_PATH.fullmatch(str(path))
    if found is None:
        raise ValueError(f"{path}: names no row of an array; such a path looks like DIR/x.npz#train_images#17")
    npz_path, key, row = Path(found[1]), found[2], int(found[3])
    status = npz_path.stat()
    array, shape, start = _layout(home(), npz_path, key, status.st_size, status.st_mtime_ns)
    if row >= shape[0]:
        raise ValueError(f"{path}: there is no row {row}; {key} has the rows 0 to {shape[0] - 1}")
    size = int(np.prod(shape[1:]))
    pixels = np.fromfile(array, np.uint8, size, offset=start + row * size)
    if len(pixels) < size:
        raise ValueError(f"{path}: {array} ends before this row; delete that file, and it is unpacked again")
    return pixels.reshape(shape[1:3] if shape[3:] in ((), (1,)) else shape[1:])


@lru_cache(maxsize=64)
def _layout(folder: Path, npz_path: Path, key: str, size: int, changed: int) -> tuple[Path, tuple[int, ...], int]:
    """An unpacked array's path, shape, and offset of its first row in bytes; looked up once for all rows."""
    array = _extracted(npz_path, key, size, changed)
    mapped = np.load(array, mmap_mode="r", allow_pickle=False)
    return array, mapped.shape, mapped.offset


def _extracted(npz_path: Path, key: str, size: int, changed: int) -> Path:
    """The unpacked array's path; unpacks it where that has not been done."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{npz_path.stem}-{key}")
    stem += f"-{sha256(str(npz_path.resolve()), key)[:6]}"
    path = home() / "data" / "arrays" / f"{stem}{sha256(f'{size} {changed}')[:10]}.npy"
    with EXTRACTING:
        if not path.exists():
            _extract(npz_path, key, path)
            for other in path.parent.glob(f"{stem}*.npy"):  # unpacked from an earlier state of the file
                if other != path and re.fullmatch(r"[0-9a-f]{10}", other.stem.removeprefix(stem)):
                    with suppress(OSError):  # mapped by a process on Windows, or gone already
                        other.unlink()
    return path


def _extract(npz_path: Path, key: str, path: Path) -> None:
    try:
        with zipfile.ZipFile(npz_path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                raise ValueError(f"{npz_path}: has no array {key!r}; it has {', '.join(map(repr, names[:20]))}")
            member = archive.infolist()[names.index(key)]
            expected = _check_header(archive, member, f"{npz_path}: the array {key!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            check_room(path.parent, member.file_size, f"unpacking {key!r}")
            with replace_atomically(path) as temporary, archive.open(member) as packed, temporary.open("wb") as file:
                shutil.copyfileobj(packed, file, COPY_BYTES)  # checks the sum at the end
                file.flush()
                os.fsync(file.fileno())
                if file.tell() != expected:
                    raise ValueError(f"{npz_path}: the array {key!r} has {file.tell():,} bytes where its header asks "
                                     f"for {expected:,}; fetch the file again")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{npz_path}: is damaged, cut short or no .npz file ({error}); "
                         "fetch the file again") from error


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and type of an .npy file; ValueError where it is none."""
    is_first = np.lib.format.read_magic(file) == (1, 0)
    return (np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0)(file)


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> int:
    """The bytes that the member must have. Raises ValueError where it holds no images of 8 bits."""
    with archive.open(member) as file:
        try:
            shape, by_columns, dtype = read_header(file)
        except ValueError as error:
            raise ValueError(f"{what} is no array of numpy ({error})") from error
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are not read because unpacking them can run any program; "
                         f"save it as an array of uint8")
    if dtype != np.uint8:
        raise ValueError(f"{what} holds numbers of the type {dtype}; images are uint8")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
        raise ValueError(f"{what} has the shape {shape}; images are (N, H, W) or (N, H, W, 3)")
    if 0 in shape:
        raise ValueError(f"{what} has the shape {shape}: there is no image in it")
    if by_columns:
        raise ValueError(f"{what} is in Fortran order; save it again with np.ascontiguousarray")
    return start + int(np.prod(shape, dtype=np.int64))
