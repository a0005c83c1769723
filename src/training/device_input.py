"""Input on a GPU: the training images in its memory, and augmentation.py's warp over whole batches there."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.pixel_store import PixelStore
from training.augmentation import Change, Warp, make_augmentation

SHARE = 0.5  # of the device's free memory that images may take; the rest is the network's
CHUNK = 256  # images carried over at once


class DevicePixels:
    """Rows of a pixel store in a device's memory: `images` uint8 (n, H, W) or (n, H, W, 3), `rows` int64 (n,)."""

    def __init__(self, store: PixelStore, rows: np.ndarray, device: str):
        self.rows = np.asarray(rows, np.int64)
        self.images = torch.empty((len(self.rows), *store.pixels.shape[1:]), dtype=torch.uint8, device=device)
        for first in range(0, len(self.rows), CHUNK):  # so that the host never holds them all
            part = slice(first, first + CHUNK)
            self.images[part] = torch.from_numpy(store.read(self.rows[part])).to(device)

    def take(self, positions: np.ndarray) -> Tensor:
        """Images uint8 (B, C, H, W) at these positions among `rows`."""
        images = self.images[torch.from_numpy(positions).to(self.images.device)]
        return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def load_device_pixels(store: PixelStore, rows: np.ndarray, augmentation: str, device: str) -> DevicePixels | None:
    """These rows in the GPU's memory; None where there is no GPU, they do not fit, or the augmentation is another's."""
    if torch.device(device).type != "cuda" or not runs_on_device(augmentation, store.settings.size):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if len(rows) * store.pixels[0].nbytes > SHARE * free:
        return None
    return DevicePixels(store, rows, device)


def runs_on_device(augmentation: str, image_size: int) -> bool:
    """True of "none" and of every Warp of training/augmentation.py."""
    return augmentation == "none" or isinstance(make_augmentation(augmentation, image_size), Warp)


def warp_batch(images: Tensor, warp: Warp, seeds: Sequence[int]) -> Tensor:
    """New images uint8 (B, C, H, W), each as `warp` changes it by its seed on a CPU, but for rounding.

    The host draws, so that the dice are the same; what it sends is about 300 bytes an image. On the processor, of
    images of noise fewer than one pixel in a thousand differed from OpenCV 5's, by 2 at most; OpenCV 4 rounds places
    to 1/32 pixel and differs by more, where grey values change fast.
    """
    height, width = images.shape[-2:]
    changes = [warp.draw(seed, height, width) for seed in seeds]
    images = _resample(images, changes)
    for image, change in zip(images, changes, strict=True):  # few are, and each takes memory kernel * kernel times
        if change.blurred:
            image.copy_(_median(image[None], warp.kernel)[0])
    tables = np.stack([_UNCHANGED if change.table is None else change.table for change in changes])
    images = torch.from_numpy(tables).to(images.device).gather(1, images.flatten(1).long()).view_as(images)
    return images.masked_fill(_holes(changes, warp.hole, images), 0)


_UNCHANGED = np.arange(256, dtype=np.uint8)


def _resample(images: Tensor, changes: list[Change]) -> Tensor:
    """Bilinear, what lies outside mirrored about the edge pixel's centre, as OpenCV's BORDER_REFLECT_101."""
    height, width = images.shape[-2:]
    back = torch.from_numpy(_invert(np.stack([change.matrix for change in changes]))).to(images.device)
    back = back[..., None, None]  # (B, 2, 3, 1, 1)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    places = back[:, :, 0] * x + back[:, :, 1] * y + back[:, :, 2]  # (B, 2, H, W); no matmul, which may round to TF32
    span = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=images.device)
    grid = places.movedim(1, -1) * (2 / span) - 1  # -1 and 1 are the centres of the first and the last pixel
    moved = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return moved.round().to(torch.uint8)


def _invert(matrices: np.ndarray) -> np.ndarray:
    """(B, 2, 3) float32: from a pixel's new place to where it came from."""
    turned = np.linalg.inv(matrices[:, :, :2])
    return np.concatenate([turned, -turned @ matrices[:, :, 2:]], axis=2).astype(np.float32)


def _median(images: Tensor, kernel: int) -> Tensor:
    """Of (B, C, H, W) uint8, over squares of an odd side; the edge is repeated."""
    side = kernel // 2
    padded = functional.pad(images.float(), (side, side, side, side), mode="replicate").to(torch.uint8)
    return padded.unfold(2, kernel, 1).unfold(3, kernel, 1).flatten(4).median(dim=-1).values


def _holes(changes: list[Change], side: int, images: Tensor) -> Tensor:
    """(B, 1, H, W) bool, True in the black squares."""
    height, width = images.shape[-2:]
    corners = torch.tensor([(height, width) if change.hole is None else change.hole for change in changes],
                           device=images.device)
    top, left = corners[:, :, None, None, None].unbind(dim=1)  # (B, 1, 1, 1)
    y, x = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    return (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
