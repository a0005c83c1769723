"""Augmentation by name: a uint8 image and a seed -> a changed image, a function of the two alone."""

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from random import Random

import cv2
import numpy as np

from common.settings import Choice, read_value

Transform = Callable[[np.ndarray, int], np.ndarray]
"""(image (H, W) or (H, W, 3) uint8, possibly read-only; seed) -> a new array of the same shape and type.

A pure function of the two. Not for two threads at once, since solt and albumentations keep their random state in the
transform; any number of processes can use it.
"""


@dataclass(frozen=True)
class Strengths:
    """How far an image may be changed; one set for all libraries, so that only their speed and their code differ.

    The defaults suit chest images: as far as patients and exposures differ, not further. No flips, because left and
    right mean something in a chest.
    """

    degrees: float = 10.0     # rotation, either way
    shear: float = 5.0        # degrees, either way, along x and y
    scale: float = 0.1        # share, either way, the same for height and width
    shift: float = 1 / 16     # of the image's side, either way: padded by reflection, then cropped
    flip: float = 0.0         # probability of mirroring left and right
    blur: float = 0.1         # probability of a median over about 1/32 of the side, 3 pixels at least
    cutout: float = 0.3       # probability of one black square
    cutout_side: float = 0.15  # of the image's side
    intensity: float = 0.5    # probability of each change of exposure below
    gain: float = 0.15        # contrast: grey values times 1 - gain to 1 + gain
    offset: float = 0.1       # brightness, share of the full range, either way
    gamma: float = 0.2        # exponent 1 - gamma to 1 + gamma


CHEST = Strengths()
STRONG = Strengths(degrees=15, shear=8, scale=0.2, shift=1 / 8, blur=0.2, cutout=0.5, intensity=0.8, gain=0.3,
                   offset=0.2, gamma=0.4)
# 000's (see models/reference_networks.py) without its flip: 224 pixels cut out of 256 are a shift by 16 of 224 at most
TURN_AND_CROP = Strengths(degrees=7, shear=0, scale=0, shift=1 / 14, blur=0, cutout=0, intensity=0)


class Warp:
    """The whole list by OpenCV alone: one resampling for all geometry, one look-up table for all exposure.

    Five to fourteen times faster than the libraries at 64 pixels (tests/benchmarks/augmentation.py), and sharper than
    their separate steps: an image is interpolated once.
    """

    def __init__(self, image_size: int, strengths: Strengths = CHEST):
        self.strengths = strengths
        self.kernel = _median_kernel(image_size)
        self.hole = round(strengths.cutout_side * image_size)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        height, width = image.shape[:2]
        draw, strengths = Random(seed), self.strengths  # its own generator: the global ones stay as they are
        matrix = _draw_affine(draw, strengths, height, width)
        blurred = draw.random() < strengths.blur
        table = _draw_intensity_table(draw, strengths)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR,
                               borderMode=cv2.BORDER_REFLECT_101)
        if blurred:
            image = cv2.medianBlur(image, self.kernel)
        if table is not None:
            image = cv2.LUT(image, table)
        if draw.random() < strengths.cutout:
            top, left = draw.randint(0, height - self.hole), draw.randint(0, width - self.hole)
            image[top : top + self.hole, left : left + self.hole] = 0
        return image


class DropBlock:
    """Black boxes at random places, a tenth of the image on average where none overlap.

    As 002 drew them over the image, because one of its classes alone came with such boxes. Their
    number is Poisson's, the limit of a box starting at every place with the same small probability.
    Source: Ghiasi et al. 2018, https://arxiv.org/abs/1810.12890. What is left is not made brighter, as there.
    """

    def __init__(self, image_size: int, share: float = 0.1, height: float = 20 / 256, width: float = 70 / 256):
        self.height, self.width = (max(1, round(part * image_size)) for part in (height, width))
        self.boxes = share * image_size**2 / (self.height * self.width)  # on average

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        rng, image = np.random.default_rng(seed), image.copy()
        for _ in range(rng.poisson(self.boxes)):
            top, left = rng.integers(0, [image.shape[0] - self.height, image.shape[1] - self.width], endpoint=True)
            image[top : top + self.height, left : left + self.width] = 0
        return image


def _draw_affine(draw: Random, strengths: Strengths, height: int, width: int) -> np.ndarray:
    """A 2x3 matrix about the image's centre: mirror, shear, rotation, scale, then shift."""
    angle = math.radians(draw.uniform(-strengths.degrees, strengths.degrees))
    shear_x = math.tan(math.radians(draw.uniform(-strengths.shear, strengths.shear)))
    shear_y = math.tan(math.radians(draw.uniform(-strengths.shear, strengths.shear)))
    scale = draw.uniform(1 - strengths.scale, 1 + strengths.scale)
    shift_x = draw.uniform(-strengths.shift, strengths.shift) * width
    shift_y = draw.uniform(-strengths.shift, strengths.shift) * height
    mirror = -1.0 if draw.random() < strengths.flip else 1.0
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    a, b = (cos - sin * shear_y) * mirror, cos * shear_x - sin
    c, d = (sin + cos * shear_y) * mirror, sin * shear_x + cos
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[a, b, x - a * x - b * y + shift_x], [c, d, y - c * x - d * y + shift_y]])


def _draw_intensity_table(draw: Random, strengths: Strengths) -> np.ndarray | None:
    """256 grey values for 256, or None where nothing changes: gamma, then contrast, then brightness."""
    gamma, gain, offset = (
        draw.uniform(-limit, limit) if draw.random() < strengths.intensity else 0.0
        for limit in (strengths.gamma, strengths.gain, strengths.offset)
    )
    if gamma == gain == offset == 0:
        return None
    grey = _GREY if gamma == 0 else _GREY ** (1 + gamma)
    return ((grey * (1 + gain) + offset).clip(0, 1) * 255 + 0.5).astype(np.uint8)


_GREY = np.linspace(0, 1, 256)


class Solt:
    """A solt stream as a pure function: seeded a call, and kept from writing into its input, as its CutOut would."""

    def __init__(self, stream: Callable):
        self.stream = stream

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        container = {"image": image.reshape(*image.shape[:2], -1).copy()}  # (H, W, C): its flip wants three axes
        state = random.getstate()  # of Python's global generator, the only one that solt uses
        random.seed(seed)
        try:
            return self.stream(container, return_torch=False).data[0].reshape(image.shape)
        finally:
            random.setstate(state)


def solt(image_size: int, strengths: Strengths = CHEST) -> Transform:
    """Rotate, flip, shear, scale, pad, crop, exposure, blur and cutout of solt."""
    library, transforms = _import_solt()
    size, padded = image_size, image_size + 2 * round(strengths.shift * image_size)
    shear = math.tan(math.radians(strengths.shear))
    gamma = (1 / (1 + strengths.gamma), 1 / (1 - strengths.gamma))  # solt's exponent is one over its gamma
    return Solt(library.Stream([
        transforms.Rotate(angle_range=(-strengths.degrees, strengths.degrees), padding="r", p=1),
        transforms.Flip(axis=1, p=strengths.flip),
        transforms.Shear(range_x=(-shear, shear), range_y=(-shear, shear), padding="r", p=1),
        transforms.Scale(range_x=(1 - strengths.scale, 1 + strengths.scale), same=True, padding="r", p=1),
        transforms.Pad((padded, padded), "r"),
        transforms.Crop((size, size), "r"),
        transforms.GammaCorrection(gamma_range=gamma, p=strengths.intensity),
        transforms.Contrast(contrast_range=(1 - strengths.gain, 1 + strengths.gain), p=strengths.intensity),
        transforms.Brightness((-255 * strengths.offset, 255 * strengths.offset), p=strengths.intensity),
        transforms.Blur(k_size=_median_kernel(size), blur_type="m", p=strengths.blur),
        transforms.CutOut(round(strengths.cutout_side * size), p=strengths.cutout),
    ]))


def solt003(image_size: int) -> Transform:
    """The stream of 003 (models/architectures.py) as it was, for comparison: it blackens half of the pixels.

    Squares of 40, 50 and 10 pixels are cut out of 64, three of five branches at a time: half of all pixels are black on
    average, and six images in ten lose more than 60 %. With turns up to 90 degrees and both flips on top. Squares of
    other sizes of image are in proportion.
    """
    library, transforms = _import_solt()
    squares = [transforms.CutOut(pixels / 64, p=1) for pixels in (40, 50, 10)]
    return Solt(library.Stream([
        transforms.Rotate(angle_range=(-90, 90), p=1, padding="r"),
        transforms.Flip(axis=1, p=0.5),
        transforms.Flip(axis=0, p=0.5),
        transforms.Shear(range_x=0.3, range_y=0.8, p=0.5, padding="r"),
        transforms.Scale(range_x=(0.8, 1.3), range_y=(0.8, 1.3), same=False, p=0.5, padding="r"),
        transforms.Pad((image_size, image_size), "r"),
        transforms.Crop((image_size, image_size), "r"),
        transforms.Blur(k_size=7, blur_type="m"),
        library.SelectiveStream([*squares, library.Stream(), library.Stream()], n=3),
    ], ignore_fast_mode=True))


def _import_solt():
    from common.hardware import import_torchvision

    import_torchvision()  # solt imports torch and torchvision, which takes seconds
    import solt
    import solt.transforms

    return solt, solt.transforms


class Albumentations:
    """An albumentations Compose as a pure function: seeded a call.

    Without the seed, version 2.0.8 gives every worker of a DataLoader the same random numbers.
    """

    def __init__(self, compose: Callable):
        self.compose = compose

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        # one generator for all transforms: `set_random_seed` would make a new one for each, at twice the time
        self.compose.set_random_state(np.random.default_rng(seed), Random(seed))
        return self.compose(image=image)["image"]


def albumentations(image_size: int, strengths: Strengths = CHEST) -> Transform:
    """Flip, affine (rotate, shear, scale), pad, crop, exposure, blur and cutout of albumentations."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network for newer versions when imported
    import albumentations as library

    size, padded = image_size, image_size + 2 * round(strengths.shift * image_size)
    kernel, hole, reflect = _median_kernel(size), round(strengths.cutout_side * size), cv2.BORDER_REFLECT_101
    shear, gamma = (-strengths.shear, strengths.shear), 100 * strengths.gamma
    return Albumentations(library.Compose([
        library.HorizontalFlip(p=strengths.flip),
        library.Affine(
            rotate=(-strengths.degrees, strengths.degrees),
            shear={"x": shear, "y": shear},
            scale=(1 - strengths.scale, 1 + strengths.scale),
            keep_ratio=True,
            border_mode=reflect,
            p=1,
        ),
        library.PadIfNeeded(padded, padded, border_mode=reflect, p=1),
        library.RandomCrop(size, size, p=1),
        library.RandomGamma((100 - gamma, 100 + gamma), p=strengths.intensity),
        library.RandomBrightnessContrast(0, strengths.gain, p=strengths.intensity),
        library.RandomBrightnessContrast(strengths.offset, 0, p=strengths.intensity),
        library.MedianBlur((kernel, kernel), p=strengths.blur),
        library.CoarseDropout((1, 1), (hole, hole), (hole, hole), fill=0, p=strengths.cutout),
    ]))


def _median_kernel(image_size: int) -> int:
    return max(3, image_size // 32 | 1)  # odd


@dataclass(frozen=True, kw_only=True)
class Augmentation(Choice):
    """An augmentation. An entry of AUGMENTATIONS.

    build: (image size, pixels) -> a Transform.
    mirrors: True where left and right of an image may be exchanged or turned to top and bottom.
    """

    mirrors: bool = False


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(build=lambda image_size: lambda image, seed: image.copy()),
    "warp": Augmentation(build=Warp),
    # where left and right look the same
    "warp_flip": Augmentation(build=lambda image_size: Warp(image_size, replace(CHEST, flip=0.5)), mirrors=True),
    # where test images come from other machines
    "warp_strong": Augmentation(build=lambda image_size: Warp(image_size, STRONG)),
    "rotate7_crop": Augmentation(build=lambda image_size: Warp(image_size, TURN_AND_CROP)),
    "dropblock": Augmentation(build=DropBlock),
    "solt": Augmentation(build=solt),
    "solt003": Augmentation(build=solt003, mirrors=True),
    "albumentations": Augmentation(build=albumentations),
}


@cache
def make_augmentation(name: str, image_size: int) -> Transform:
    """The augmentation of that name for images of `image_size` pixels, made once a process.

    What it returns is checked: an image of another type or shape raises ValueError that names the augmentation.
    Raises ValueError where AUGMENTATIONS has no such name.
    """
    augment = read_value("augmentation", name, AUGMENTATIONS)(image_size)

    def checked(image: np.ndarray, seed: int) -> np.ndarray:
        changed = augment(image, seed)
        if changed.dtype != np.uint8 or changed.shape != image.shape:
            raise ValueError(f"augmentation={name} made {changed.dtype} {changed.shape} of an image that is uint8 "
                             f"{image.shape}; it must keep type and shape. Images are normalised in the network, so "
                             "leave out A.Normalize and the like, and resize with image_size=")
        return changed

    return checked


def augmentation_seed(seed: int, epoch: int, key: str) -> int:
    """A number in [0, 2**64) for one image in one epoch of one run, the same on every machine. key: the image's id."""
    return int.from_bytes(blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest(), "little")


def augment_batch(name: str, images: np.ndarray, keys: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """New images (n, H, W) or (n, H, W, 3) uint8, each changed by a seed of its own, in any batch the same.

    keys: (n,) from which, with seed and epoch, the seeds are made: ids of the images.
    """
    augment = make_augmentation(name, images.shape[1])
    augmented = np.empty(images.shape, np.uint8)
    for i, key in enumerate(keys):
        augmented[i] = augment(images[i], augmentation_seed(seed, epoch, key))
    return augmented
