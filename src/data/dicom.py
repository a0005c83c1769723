"""Decodes one DICOM file to uint8 pixels as a viewer would display them: rescaled, windowed, air is black."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom")
PERCENTILES = (0.5, 99.5)  # shown as black and white where the file names no window
COUNTED = 500_000  # pixels are enough for a percentile; of more, every so many count
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# what pydicom and its decoders raise on damaged bytes: nearly every kind
DAMAGE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, MemoryError,
          RuntimeError, struct.error)
DECODERS = {  # packages that decode what the others cannot, by transfer syntax
    "1.2.840.10008.1.2.4.51": "pylibjpeg pylibjpeg-libjpeg",   # JPEG of 12 bits; not in requirements.txt: it is GPL
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}
READING = threading.Lock()  # catching warnings changes what the whole process does with them: one thread at a time


def is_dicom(raw: bytes, path: str | Path = "") -> bool:
    """True where the bytes have DICOM's mark; or the name its suffix, since files without the mark occur."""
    return raw[128:132] == b"DICM" or str(path).lower().endswith(SUFFIXES)


def is_dicom_file(path: str | Path) -> bool:
    """True where a file has DICOM's mark; False where it cannot be opened, as a link that leads nowhere cannot."""
    try:
        with Path(path).open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


@dataclass(frozen=True)
class _Display:
    """A file's attributes that determine how grey values are displayed."""

    inverted: bool                       # MONOCHROME1: the lowest value is white
    bits: int                            # stored
    padding: tuple[int, int] | None      # first and last of the values that only fill up the frame
    slope: float
    intercept: float
    lut: tuple[np.ndarray, int] | None   # displayed values, and the stored value of the first of them
    window: tuple[float, float, str] | None  # centre, width, function


def decode_dicom(raw: bytes) -> np.ndarray:
    """The picture in a DICOM file's bytes: uint8 (H, W), or (H, W, 3) RGB where it is coloured.

    Grey values go through the modality LUT or rescale, then through the VOI LUT, else the window (the first of
    several; LINEAR, LINEAR_EXACT, SIGMOID). Without either, up to 8 bits keep their full range, and more are stretched
    from the image's 0.5th to its 99.5th percentile; so they are where a window leaves one grey value. MONOCHROME1 is
    inverted, padding is black and counts in no percentile. Of several frames it is the first.
    Raises ValueError with the reason where there are no pixels, they are damaged or cut short, have more than 16 bits
    and no window, or are compressed in a way that no installed package decodes, which it then names.
    Source: DICOM PS3.3, C.7.6.3, C.11.1 and C.11.2.
    """
    from pydicom.pixels import apply_modality_lut

    with READING, warnings.catch_warnings(record=True):  # unusual files are frequent and cause warnings
        warnings.resetwarnings()
        dataset = _read(raw)
        stored = _decode_first_frame(dataset)
        with _explained("the attributes of its pixels are damaged"):
            if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
                return _colours(dataset, stored)
            has_lut = bool(dataset.get("ModalityLUTSequence"))
            values, display = apply_modality_lut(stored, dataset) if has_lut else stored, _read_display(dataset)
    return _show(stored, values, display)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _read(raw: bytes) -> "Dataset":
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        dataset = dcmread(io.BytesIO(raw), force=True)
        if not any(name in dataset for name in PIXELS):
            raise ValueError("a DICOM file without pixels" if len(dataset) else "no DICOM file, or it is cut short")
        _set_transfer_syntax(dataset)
        return dataset
    except (InvalidDicomError, BytesLengthException, *DAMAGE) as error:
        if "DICOM file" in str(error):
            raise ValueError(str(error)) from error
        raise ValueError(f"a damaged DICOM file ({str(error) or type(error).__name__})") from error


def _set_transfer_syntax(dataset: "Dataset") -> None:
    """Sets the transfer syntax of files without a file header: uncompressed, with the byte order found in reading."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax if is_little else ExplicitVRBigEndian


def _decode_first_frame(dataset: "Dataset") -> np.ndarray:
    """(H, W) numbers as stored, or (H, W, 3) RGB."""
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    needed = f"pip install {DECODERS.get(str(syntax), 'python-gdcm')}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"its transfer syntax {syntax.name!r} ({syntax}) cannot be decoded; convert the file to "
                         f"another one, or to PNG") from error
    if not decoder.is_available:
        raise ValueError(f"its transfer syntax {syntax.name!r} ({syntax}) needs a package that is not installed: "
                         f"{needed}")
    try:
        return pixel_array(dataset, index=0)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = f"; if other programs can show it: {needed}" if syntax.is_compressed else ""
        raise ValueError(f"its pixels ({syntax.name}) are damaged, cut short or not decodable here: {reason}"
                         f"{hint}") from error


def _colours(dataset: "Dataset", stored: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB; pydicom has turned YBR into RGB already."""
    from pydicom.pixels import apply_color_lut

    if stored.ndim == 2:
        stored = apply_color_lut(stored, dataset)[..., :3]
        bits = 8 * stored.itemsize
    else:
        bits = int(dataset.BitsStored)
    return _scale(stored, 0, 2 ** bits - 1)


def _read_display(dataset: "Dataset") -> _Display:
    slope, intercept = (_first_number(_attribute(dataset, "PixelValueTransformationSequence", name))
                        for name in ("RescaleSlope", "RescaleIntercept"))
    if dataset.get("ModalityLUTSequence"):
        slope, intercept = 1, 0
    first = _first_number(dataset.get("PixelPaddingValue"))
    last = _first_number(dataset.get("PixelPaddingRangeLimit"))
    return _Display(
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
        bits=int(dataset.get("BitsStored") or dataset.BitsAllocated),
        padding=None if first is None else (int(first), int(first if last is None else last)),
        slope=slope or 1.0,
        intercept=intercept or 0.0,
        lut=_read_voi_lut(dataset.VOILUTSequence[0]) if dataset.get("VOILUTSequence") else None,
        window=_read_window(dataset),
    )


def _read_window(dataset: "Dataset") -> tuple[float, float, str] | None:
    centre, width, function = (_attribute(dataset, "FrameVOILUTSequence", name)
                               for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"))
    centre, width = _first_number(centre), _first_number(width)
    if centre is None or width is None or width <= 0:
        return None
    return centre, width, str(function or "LINEAR").upper()


def _read_voi_lut(item: "Dataset") -> tuple[np.ndarray, int]:
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data).astype(np.uint16)
    bits = min(bits, int(table.max()).bit_length()) or 1  # some writers state 16 bits for entries of 12
    return _scale(table[:entries or 65536], 0, 2 ** bits - 1), first


def _attribute(dataset: "Dataset", macro: str, name: str) -> object:
    """An attribute of the file; of an enhanced multi-frame file, the first frame's."""
    if dataset.get(name) is not None:
        return dataset.get(name)
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in (dataset.get(groups) or [])[:1]:
            for item in (frame.get(macro) or [])[:1]:
                if item.get(name) is not None:
                    return item.get(name)
    return None


def _first_number(value: object) -> float | None:
    """The first of several numbers; None where there is none that is finite."""
    if value is not None and not isinstance(value, (str, bytes, int, float)):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _show(stored: np.ndarray, values: np.ndarray, display: _Display) -> np.ndarray:
    """(H, W) uint8 out of the numbers as stored, and as the modality LUT has them where there is one."""
    values = values.astype(np.float32) * np.float32(display.slope) + np.float32(display.intercept)
    padding = _find_padding(stored, display.padding)
    shown = _apply_voi(values, display)
    if shown is None or (shown.min() == shown.max() and values.min() < values.max()):
        shown = _show_without_window(stored, values, padding, display.bits)
    if display.inverted:
        shown = 255 - shown
    if padding is not None:
        shown[padding] = 0
    return shown


def _find_padding(stored: np.ndarray, limits: tuple[int, int] | None) -> np.ndarray | None:
    """(H, W) bool, True for pixels that only fill up the frame; None where no pixel does, or all do."""
    if limits is None or stored.dtype.kind == "f":
        return None
    # some writers state a signed value as if it were unsigned, or the other way about
    low, high = sorted(int(np.array(limit).astype(stored.dtype)) for limit in limits)
    padding = (stored >= low) & (stored <= high)
    return None if padding.all() or not padding.any() else padding


def _apply_voi(values: np.ndarray, display: _Display) -> np.ndarray | None:
    """(H, W) uint8, as the file's LUT or window shows the values; None where it has neither.

    Source: DICOM PS3.3, C.11.2.1.1 (LUT) and C.11.2.1.2 (window).
    """
    if display.lut is not None:
        table, first = display.lut
        if first > 32767 and values.min() < 0:  # signed, but written as unsigned
            first -= 65536
        return table[np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)]
    if display.window is None:
        return None
    centre, width, function = display.window
    if function == "SIGMOID":
        return _scale(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80))), 0, 1)
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-3)  # between the middles of the first and the last step
    return _scale(values, centre - width / 2, centre + width / 2)


def _show_without_window(stored: np.ndarray, values: np.ndarray, padding: np.ndarray | None,
                         bits: int) -> np.ndarray:
    if stored.dtype.kind == "f" or bits > 16:
        raise ValueError(f"its pixels are {stored.dtype.name} without a window, so their range of grey is not known")
    if bits <= 8 and stored.dtype.kind == "u":
        return _scale(stored, 0, 2 ** bits - 1)
    counted = values.ravel() if padding is None else values[~padding]
    low, high = np.percentile(counted[::max(1, counted.size // COUNTED)], PERCENTILES)
    if low == high:
        low, high = counted.min(), counted.max()
    return _scale(values, low, max(high, low + 1e-3))


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: `low` and below are 0, `high` and above 255, rounded in between."""
    shares = (values.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    return (np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)
