"""Views for test-time augmentation: images (B, C, H, W) -> the same images changed; their logits are averaged."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from common.settings import Choice


@dataclass(frozen=True, kw_only=True)
class View(Choice):
    """A view for test-time augmentation. An entry of VIEWS.

    build: (images (B, C, H, W) uint8 or float) -> as many images of the same type, shape and range.
    mirrors: True where left and right of an image are exchanged or turned to top and bottom.
    """

    mirrors: bool = False


def identity(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def hflip(images: Tensor) -> Tensor:
    """Left and right exchanged: only where they mean the same, which in a chest they do not."""
    return images.flip(3)


def vflip(images: Tensor) -> Tensor:
    """Top and bottom exchanged: for microscopy and skin."""
    return images.flip(2)


def rotate90(images: Tensor) -> Tensor:
    """A quarter turn to the left: for microscopy and skin."""
    return images.rot90(1, (2, 3))


def zoom_in(images: Tensor) -> Tensor:
    """The central nine tenths, enlarged to the images' size."""
    height, width = images.shape[2:]
    top, left = round(0.05 * height), round(0.05 * width)
    return _resize(images[:, :, top:height - top, left:width - left], (height, width))


def zoom_out(images: Tensor) -> Tensor:
    """The whole image at nine tenths of its size, its edge repeated around it."""
    height, width = images.shape[2:]
    top, left = round(0.05 * height), round(0.05 * width)
    small = _resize(images, (height - 2 * top, width - 2 * left))
    return F.pad(small.float(), (left, left, top, top), mode="replicate").to(images.dtype)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return (resized if images.is_floating_point() else resized.round().clamp(0, 255)).to(images.dtype)


VIEWS: dict[str, View] = {
    "identity": View(build=identity),
    "hflip": View(build=hflip, mirrors=True),
    "vflip": View(build=vflip, mirrors=True),
    "rotate90": View(build=rotate90, mirrors=True),
    "zoom_in": View(build=zoom_in),
    "zoom_out": View(build=zoom_out),
}
