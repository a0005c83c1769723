"""One image file to uint8 pixels: upright, grey or colour, fitted into a square; or an error saying what is wrong."""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.dicom import decode_dicom, is_dicom
from data.npz import is_row, read_row

JPEG_FLAGS = {  # reduction: OpenCV's flags for one and for three channels
    1: {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR},
    2: {1: cv2.IMREAD_REDUCED_GRAYSCALE_2, 3: cv2.IMREAD_REDUCED_COLOR_2},
    4: {1: cv2.IMREAD_REDUCED_GRAYSCALE_4, 3: cv2.IMREAD_REDUCED_COLOR_4},
    8: {1: cv2.IMREAD_REDUCED_GRAYSCALE_8, 3: cv2.IMREAD_REDUCED_COLOR_8},
}
# in the compressed data, 0xff is followed by a stuffed zero, a fill byte or a restart; anything else is a marker
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_16 = 16
TIFF_PHOTOMETRIC, MIN_IS_WHITE = 262, 0
EXIF_ORIENTATION = 0x0112
# Pillow's modes without colour; other modes may still hold grey pixels
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# what Pillow's readers raise on damaged bytes: nearly every kind, and its warnings where those are errors
DAMAGE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, MemoryError,
          SyntaxError, Warning, struct.error, zlib.error, Image.DecompressionBombError)


def decode_image(path: str | Path, channels: int, target: int | None = None) -> np.ndarray:
    """The upright picture: uint8 (H, W) for one channel, (H, W, 3) RGB for three.

    A path may name a row of an .npz file's array (npz.py); DICOM is displayed as in dicom.py. 16 bits are
    scaled by their full range (65535 -> 255), transparency is dropped, EXIF's orientation is applied; of several frames
    or pages it is the first. With a `target` in pixels, a JPEG may come at 1/2, 1/4 or 1/8 of its size.
    Numbers of 32 bits, as TIFF has them, state no range. Floats are read as shares of white where all lie in 0 to 1, as
    8 bits where all lie in 0 to 255; integers as 8 bits up to 255, as 16 bits up to 65535. Anything else raises an
    error: to stretch each image by its own extremes would make grey values of different images incomparable.
    Raises ValueError with the path and the reason where the file is missing, empty, cut short, damaged, no image, or of
    numbers whose range is not known. Damage inside a JPEG's compressed data shows only where it breaks a marker: a JPEG
    has no checksum.
    """
    return decode_file(path, channels, target)[0]


def fit_image(image: np.ndarray, size: int, resize_mode: str = "squash") -> np.ndarray:
    """The image in a square (size, size[, 3]): squashed, or as a "letterbox" that keeps the aspect ratio.

    In a letterbox the longer side takes the whole square, and the image is in the middle with black beside it (a
    single extra pixel is added below or to the right).
    """
    height, width = image.shape[:2]
    if resize_mode == "squash" or height == width:
        return _resize(image, size, size)
    scale = size / max(height, width)
    image = _resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    square = np.zeros((size, size, *image.shape[2:]), np.uint8)
    top, left = (size - image.shape[0]) // 2, (size - image.shape[1]) // 2
    square[top:top + image.shape[0], left:left + image.shape[1]] = image
    return square


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each direction for itself: the mean of the covered area where it shrinks, linear where it grows.

    Cubic would overshoot at edges, and OpenCV's own area mode falls back to sampling when one of the two directions
    grows.
    """
    smaller = min(image.shape[1], width), min(image.shape[0], height)
    for shape, mode in ((smaller, cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        if image.shape[1::-1] != shape:
            image = cv2.resize(image, shape, interpolation=mode)
    return image


def decode_file(path: str | Path, channels: int, target: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """The upright picture, and the height and width it has at full scale."""
    try:
        if is_row(path):
            pixels = _rgb_in_channels(read_row(path), channels)
            return pixels, pixels.shape[:2]
        raw = Path(path).read_bytes()
        if not raw:
            raise ValueError("the file is empty")
        if raw.startswith(b"\xff\xd8"):
            return _decode_jpeg(raw, channels, target)
        if raw.startswith(PNG_SIGNATURE):
            pixels = _decode_png(raw, channels)
        elif is_dicom(raw, path):
            pixels = _rgb_in_channels(decode_dicom(raw), channels)
        else:
            pixels = _decode_with_pillow(raw, channels)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except (ValueError, cv2.error) as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    return pixels, pixels.shape[:2]


@dataclass
class _JpegHeader:
    height: int = 0
    width: int = 0
    exif: bytes = b""
    whole: bool = False  # every marker up to the end of the image is there


def _decode_jpeg(raw: bytes, channels: int, target: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    header = _read_jpeg_header(raw)
    pixels = None
    if header.whole:  # otherwise OpenCV before its version 5 fills up what is missing without an error
        reduction = _reduction(min(header.height, header.width), target)
        pixels = _decode_with_opencv(raw, JPEG_FLAGS[reduction][channels])
    if pixels is None:
        pixels = _decode_with_pillow(raw, channels)  # which reads more kinds, or raises the reason
        return pixels, pixels.shape[:2]
    orientation = _read_orientation(header.exif)
    shape = (header.height, header.width) if orientation < 5 else (header.width, header.height)
    return _turn_upright(_in_channels(pixels, channels), orientation), shape


def _reduction(side: int, target: int | None) -> int:
    """The largest of 1, 2, 4, 8 by which a JPEG's smaller side may shrink while it is decoded.

    What is left must be the target itself or at least 1.5 times it. Just above the target two area means follow each
    other, and their blur grows with the reduction: on 224-pixel X-rays the mean difference from a full decode was 0.1
    grey levels at 1.0 and 2.0 times the target, 1.6 at 1.1 times and 1.3 at 1.5 times, all for a quarter of the size.
    """
    def allowed(reduction: int) -> bool:
        return side == reduction * target or side >= 1.5 * reduction * target

    return next((reduction for reduction in (8, 4, 2) if target and allowed(reduction)), 1)


def _read_jpeg_header(raw: bytes) -> _JpegHeader:
    """Walks over all segments and scans. Raises ValueError where compressed data holds what only damage puts there."""
    header, position = _JpegHeader(), 2
    while found := JPEG_MARKER.search(raw, position):
        kind, position = raw[found.end() - 1], found.end()
        if kind == 0xD9:
            header.whole = header.height > 0
            break
        if kind < 0xC0 or kind == 0xD8:
            raise ValueError(f"damaged: byte {found.start():,} is the marker {kind:#x}, which cannot be inside a JPEG")
        body = raw[position:position + 8]  # its first two bytes are its length
        if kind in JPEG_FRAMES and len(body) == 8:
            header.height, header.width = struct.unpack_from(">HH", body, 3)
        length = int.from_bytes(body[:2], "big")
        if kind == 0xE1 and body.endswith(b"Exif\0\0") and not header.exif:
            header.exif = raw[position + 8:position + length]
        position += length
        if position > len(raw):
            raise ValueError(f"cut short: {position - len(raw):,} bytes of a JPEG segment are missing")
    return header


def _decode_png(raw: bytes, channels: int) -> np.ndarray:
    header, exif, parts, position = b"", b"", [PNG_SIGNATURE], len(PNG_SIGNATURE)
    view = memoryview(raw)
    while True:
        if len(raw) < position + 12:
            raise ValueError("cut short: it ends before PNG's end mark")
        length, kind = struct.unpack_from(">I4s", raw, position)
        end = position + 12 + length
        if len(raw) < end:
            raise ValueError(f"cut short: {end - len(raw):,} bytes of a PNG chunk are missing")
        if zlib.crc32(view[position + 4:end - 4]) != int.from_bytes(view[end - 4:end], "big"):
            raise ValueError(f"damaged: a PNG checksum is wrong, between bytes {position:,} and {end:,}")
        if kind == b"IHDR":
            header = raw[position + 8:end - 4]
        if kind == b"eXIf":
            exif = raw[position + 8:end - 4]
        # the other chunks make no pixels, but some make libpng print warnings
        if kind in (b"IHDR", b"IDAT", b"IEND") or (kind == b"PLTE" and header[9:10] == b"\x03"):
            parts.append(view[position:end])
        if kind == b"IEND":
            break
        position = end
    return _turn_upright(_in_channels(_decode_png_pixels(b"".join(parts), header), channels), _read_orientation(exif))


def _decode_png_pixels(raw: bytes, header: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) BGR. Pillow is not asked where OpenCV fails: it makes rows that are not there black."""
    if len(header) != 13:
        raise ValueError("damaged: it has no PNG header")
    _, _, bits, colour = struct.unpack_from(">IIBB", header)
    flag = cv2.IMREAD_COLOR if colour & 2 else cv2.IMREAD_GRAYSCALE  # of PNG's types 2, 3 and 6 are coloured
    pixels = _decode_with_opencv(raw, flag | cv2.IMREAD_ANYDEPTH if bits == PNG_DEPTH_16 else flag)
    if pixels is None:
        raise ValueError("damaged: its pixels cannot be decompressed")
    return _scale_16_bits(pixels) if bits == PNG_DEPTH_16 else pixels


def _decode_with_opencv(raw: bytes, flag: int) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(raw, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_with_pillow(raw: bytes, channels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(raw)) as image:
            kind, white_is_zero = image.format, getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == MIN_IS_WHITE
            if kind != "TIFF":
                image = ImageOps.exif_transpose(image)
            image.load()  # fails where the file is cut short; turns a TIFF by itself
    except UnidentifiedImageError as error:
        raise ValueError("no image, or none of a kind that can be read here") from error
    except DAMAGE as error:
        raise ValueError(f"damaged or cut short ({str(error) or type(error).__name__})") from error
    return _in_channels(_to_uint8(image, kind, white_is_zero), channels)


def _to_uint8(image: Image.Image, kind: str | None, white_is_zero: bool) -> np.ndarray:
    """(H, W) for grey kinds, (H, W, 3) BGR for coloured ones."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        grey = _scale_16_bits(np.asarray(image).astype(np.uint16))
        return 255 - grey if white_is_zero else grey  # Pillow inverts 1 and 8 bits by itself, but not 16
    if image.mode in ("I", "F"):
        grey = _scale_32_bits(np.asarray(image))
        return 255 - grey if white_is_zero else grey
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _scale_16_bits(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535)  # rounds; 65535 is 257 times 255, so no half occurs


def _scale_32_bits(pixels: np.ndarray) -> np.ndarray:
    is_float = pixels.dtype.kind == "f"
    low, high = (float(pixels.min()), float(pixels.max())) if np.isfinite(pixels).all() else (np.nan, np.nan)
    if low >= 0 and (high <= 255 or (high <= 65535 and not is_float)):
        white = 1 if is_float and high <= 1 else 255 if high <= 255 else 65535
        return (pixels.astype(np.float64) * (255 / white) + 0.5).astype(np.uint8)
    numbers, ranges = ("floats", "0 to 1 or to 255") if is_float else ("integers", "0 to 255 or to 65535")
    raise ValueError(f"its pixels are 32-bit {numbers} from {low:g} to {high:g}, whose range of grey is not known, as "
                     f"{ranges} is; make all images of the set 8 or 16 bits, on one scale")


def _rgb_in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey (H, W) or RGB (H, W, 3) as (H, W) or RGB (H, W, 3)."""
    if pixels.ndim == 3 and channels == 3:
        return pixels
    return _in_channels(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1]), channels)


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey (H, W) or OpenCV's BGR (H, W, 3) as (H, W) or RGB (H, W, 3)."""
    if pixels.ndim == 2:
        return pixels if channels == 1 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB)


def _read_orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where none is stated, as in a block that an anonymiser has blanked."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        start, = struct.unpack_from(order + "I", exif, 4)
        entries, = struct.unpack_from(order + "H", exif, start)
        for i in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * i)
            if tag == EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # an entry that points behind the block's end
        pass
    return 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Source: EXIF 2.32, tag 0x0112: 5 to 8 are 1 to 4 with rows and columns exchanged."""
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    rows, columns = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return np.ascontiguousarray(turned[::rows, ::columns])
