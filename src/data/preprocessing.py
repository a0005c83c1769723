"""Preprocessing by name: a uint8 image -> a uint8 image, done once before pixels are stored."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from common.settings import check_form


@dataclass(frozen=True)
class Clahe:
    """Contrast-limited adaptive histogram equalisation of the fitted image; of a coloured one its lightness (Lab).

    Source: Zuiderveld 1994, in Graphics Gems IV; the settings are those that `cxr_npt` was entered with, at 256 pixels.
    """

    before_fitting: ClassVar[bool] = False
    clip_limit: float = 2.0  # times the height of an even histogram
    tiles: int = 8           # a side

    def __call__(self, image: np.ndarray) -> np.ndarray:
        # made anew, because it keeps state and threads would share it
        return _on_lightness(cv2.createCLAHE(self.clip_limit, (self.tiles, self.tiles)).apply, image)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur of the fitted image; by default 5x5 with the weights 1 4 6 4 1, which OpenCV takes for it."""

    before_fitting: ClassVar[bool] = False
    kernel: int = 5     # pixels, odd
    sigma: float = 0.0  # pixels; 0: OpenCV derives it from the kernel

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (self.kernel, self.kernel), self.sigma)


@dataclass(frozen=True)
class Equalize:
    """Histogram equalisation of the fitted image; of a coloured one its lightness (Lab)."""

    before_fitting: ClassVar[bool] = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _on_lightness(cv2.equalizeHist, image)


@dataclass(frozen=True)
class CropBorders:
    """Cuts off borders of one colour along the sides, black, white or grey, before fitting.

    A side has a border where nearly all of its outermost line has one grey value. The border is what of that value
    hangs together with the side. What is left falls into pieces: the largest is the image, and so are other pieces of
    some size; small ones, a letter in the border or specks of noise, are cut off with it. An image of one colour, and
    one of which next to nothing would be left, stays as it is.
    """

    before_fitting: ClassVar[bool] = True
    tolerance: int = 15       # grey levels, either way: film is not quite black, and JPEG adds its noise
    constant: float = 0.9     # share of the outermost line
    piece: float = 0.01       # a piece counts from this share of the whole image,
    relative: float = 0.1     # or from this share of the largest piece
    least: float = 0.125      # of each side must be left
    searched: int = 512       # pixels, longer side of the copy in which the border is searched

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = min(1, self.searched / max(height, width))
        small = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            grey = cv2.resize(grey, small, interpolation=cv2.INTER_AREA)
        found = self._find(grey)
        if found is None:
            return image
        left, top, right, bottom = found
        # rounded outwards: a thin rim of border may stay, nothing of the image goes
        columns = slice(left * width // small[0], -(-right * width // small[0]))
        rows = slice(top * height // small[1], -(-bottom * height // small[1]))
        cropped = image[rows, columns]
        if cropped.shape[0] < self.least * height or cropped.shape[1] < self.least * width:
            return image
        return np.ascontiguousarray(cropped)

    def _find(self, grey: np.ndarray) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of what is not border; None where there is nothing to cut off."""
        border = np.zeros(grey.shape, bool)
        for side in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
            near = np.abs(grey - np.median(grey[side])) <= self.tolerance
            if near[side].mean() >= self.constant:
                _, pieces = cv2.connectedComponents(near.astype(np.uint8), connectivity=4)
                border |= near & np.isin(pieces, np.unique(pieces[side][near[side]]))
        if not border.any() or border.all():
            return None
        _, _, stats, _ = cv2.connectedComponentsWithStats((~border).astype(np.uint8), connectivity=8)
        stats = stats[1:]  # without the border itself
        areas = stats[:, cv2.CC_STAT_AREA]
        kept = stats[areas >= min(self.piece * grey.size, self.relative * areas.max())]
        left, top = kept[:, cv2.CC_STAT_LEFT], kept[:, cv2.CC_STAT_TOP]
        right, bottom = left + kept[:, cv2.CC_STAT_WIDTH], top + kept[:, cv2.CC_STAT_HEIGHT]
        return int(left.min()), int(top.min()), int(right.max()), int(bottom.max())


# Steps that an experiment's `preprocessing` can name. A step is called with an image and returns it changed; its class
# attribute `before_fitting` says whether it sees the image before or after it is fitted into the square. Its repr is
# part of the pixel store's key, so it must show all settings, as that of a dataclass does.
PREPROCESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "clahe": Clahe(),
    "blur": Blur(),
    "equalize": Equalize(),
    "crop_borders": CropBorders(),
}


def apply_steps(image: np.ndarray, steps: tuple[str, ...], before_fitting: bool) -> np.ndarray:
    """The image (H, W) or (H, W, 3) RGB, uint8, after those of the steps that belong before or after the fitting."""
    for name in steps:
        if PREPROCESSING[name].before_fitting == before_fitting:
            image = PREPROCESSING[name](image)
    return image


def check_steps(steps: tuple[str, ...]) -> None:
    """Raises ValueError, with the nearest name, where PREPROCESSING has no such step, or a step is named twice."""
    for name in steps:
        check_form("preprocessing", name, {each: re.escape(each) for each in PREPROCESSING})
        if steps.count(name) > 1:
            raise ValueError(f"preprocessing={','.join(steps)}: {name!r} is named twice")


def _on_lightness(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """A grey image changed; of a coloured one the lightness. A grey image in three channels comes out as in one."""
    if image.ndim == 2:
        return change(image)
    if (image[..., :1] == image[..., 1:]).all():
        return np.repeat(change(np.ascontiguousarray(image[..., 0]))[..., None], 3, axis=2)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = change(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
