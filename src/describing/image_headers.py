"""Reads the headers of some images and the pixels of a few."""

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.decoding import DAMAGE, GREY_MODES, decode_image
from data.dicom import is_dicom

DECODED_AT_MOST, PIXELS_AT_MOST = 8, 25_000_000


@dataclass(frozen=True)
class ImageHeaders:
    """Sizes, modes and colour of some images."""

    sizes: tuple[tuple[int, int], ...]  # (height, width)
    modes: dict[str, int]  # Pillow's words, or DICOM
    coloured: bool | None  # whether the three channels differ; None where no image could be checked
    failed: dict[Path, str]  # image -> why it cannot be read


def read_headers(paths: list[Path]) -> ImageHeaders:
    """Reads the headers, decodes the images without a readable one, and decodes eight more, possibly coloured first."""
    sizes, modes, verdicts, failed, unreadable, small = [], Counter(), [], {}, [], {True: [], False: []}
    with warnings.catch_warnings(record=True):  # unusual headers cause warnings; what matters raises an error
        warnings.resetwarnings()
        for path in paths:
            try:
                mode, grey, size = _read_header(path)
            except Image.DecompressionBombError as error:
                modes["very large"] += 1
                if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):  # OpenCV decodes these
                    failed[path] = str(error)
                continue
            except DAMAGE:
                unreadable.append(path)  # decoding finds the reason
                continue
            modes[mode] += 1
            sizes.append(size)
            verdicts += [False] if grey else []
            if size[0] * size[1] <= PIXELS_AT_MOST:
                small[grey].append(path)
    for path in [*unreadable, *[*small[False], *small[True]][:DECODED_AT_MOST]]:
        try:
            pixels = decode_image(path, 3, 256).astype(np.int16)
        except ValueError as error:
            failed[path] = str(error).removeprefix(f"{path}: ")
            continue
        verdicts.append(bool((np.ptp(pixels, axis=2) > 12).mean() > 0.01))  # JPEG adds a few levels of colour to grey
    return ImageHeaders(tuple(sizes), dict(modes), any(verdicts) if verdicts else None, failed)


def _read_header(path: Path) -> tuple[str, bool, tuple[int, int]]:
    """Mode, whether it is grey for certain, and (height, width)."""
    with path.open("rb") as file:
        if is_dicom(file.read(132), path):
            return "DICOM", *_read_dicom_header(path)
    with Image.open(path) as image:
        return image.mode, image.mode in GREY_MODES, image.size[::-1]


def _read_dicom_header(path: Path) -> tuple[bool, tuple[int, int]]:
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, force=True,
                     specific_tags=["PhotometricInterpretation", "Rows", "Columns"])
    size = int(header.Rows), int(header.Columns)  # a report, a plan or contours have none
    return header.get("PhotometricInterpretation", "").startswith("MONOCHROME"), size
