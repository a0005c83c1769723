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


def zoom_in(images: Tensor) -> Tensor:
    """The central nine tenths, enlarged to the images' size."""
    height, width = images.shape[2:]
    top, left = round(0.05 * height), round(0.05 * width)
    return _resize(images[:, :, top:height - top, left:width - left], (height, width))


def zoom_out(images: Tensor) -> Tensor:
    """The whole image at nine tenths of its size, with its edge repeated around it."""
    height, width = images.shape[2:]
    top, left = round(0.05 * height), round(0.05 * width)
    small = _resize(images, (height - 2 * top, width - 2 * left))
    return F.pad(small.float(), (left, left, top, top), mode="replicate").to(images.dtype)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return (resized if images.is_floating_point() else resized.round().clamp(0, 255)).to(images.dtype)


VIEWS: dict[str, View] = {
    "identity": View(build=lambda images: images),
    "hflip": View(build=lambda images: images.flip(3), mirrors=True),  # where left and right look the same
    "vflip": View(build=lambda images: images.flip(2), mirrors=True),  # microscopy and skin
    "rotate90": View(build=lambda images: images.rot90(1, (2, 3)), mirrors=True),  # a quarter turn to the left
    "zoom_in": View(build=zoom_in),
    "zoom_out": View(build=zoom_out),
}
