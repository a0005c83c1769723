"""MixUp and CutMix: every image of a batch is mixed with another one of it, and their losses in the same shares."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.settings import Choice, read_value

# images and targets of a batch, (seed, epoch, step) -> mixed images, and the batch's targets with their shares
Mix = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, list[tuple[Tensor, float]]]]


def mixup(images: Tensor, others: Tensor, rng: np.random.Generator, alpha: float) -> tuple[Tensor, float]:
    """A weighted mean of each image and its partner; the weight is drawn from Beta(alpha, alpha), once a batch.

    Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
    """
    share = float(rng.beta(alpha, alpha))
    return torch.lerp(others, images, share), share


def cutmix(images: Tensor, others: Tensor, rng: np.random.Generator, alpha: float) -> tuple[Tensor, float]:
    """Each image with a box of its partner in it; see `draw_box`."""
    share = float(rng.beta(alpha, alpha))
    (top, bottom), (left, right) = draw_box(*images.shape[2:], 1 - share, rng)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / math.prod(images.shape[2:])


def _above_0(alpha: float) -> str:
    return "" if alpha > 0 else "ALPHA must be above 0; without mixing it is none"


# build: (images (B, C, H, W) float32, their partners, random generator) -> mixed images, share of the first in [0, 1]
MIXES: dict[str, Choice] = {
    "none": Choice(build=lambda images, others, rng: (images, 1.0)),
    "mixup": Choice(build=mixup, arguments=("ALPHA",), check=_above_0),
    "cutmix": Choice(build=cutmix, arguments=("ALPHA",), check=_above_0),
}


def make_mix(mix: str) -> Mix:
    """A function that mixes a batch: mix is a name in MIXES with its arguments, "mixup:0.2".

    It takes images (B, C, H, W) uint8 or float, targets (B, K) and (seed, epoch, step), of which everything drawn is a
    function, on any device. It returns mixed images, float32 where they were uint8, and a list of (targets, share of
    the loss): losses are mixed, not targets, so a missing cell of one image leaves the other image's loss as it is. For
    "none" both come back unchanged.
    The partners are one random cycle through the batch: no image is its own partner where there are two, and each is a
    partner once, so MixUp keeps a batch's mean.
    Raises ValueError where there is no such entry.
    """
    value = read_value("mix", mix, MIXES)
    if value.name == "none":
        return lambda images, targets, seed: (images, [(targets, 1.0)])

    def mix_batch(images: Tensor, targets: Tensor, seed: tuple[int, ...]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))  # the key: apart from other draws
        order = rng.permutation(len(images))
        partners = np.empty_like(order)
        partners[order] = np.roll(order, 1)
        partners = torch.from_numpy(partners).to(images.device)
        images = images if images.is_floating_point() else images.float()
        mixed, share = value(images, images[partners], rng)
        return mixed, [(targets, share), (targets[partners], 1 - share)]

    return mix_batch


UNMIXED = make_mix("none")


def draw_box(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """(top, bottom), (left, right) of a box in the image's proportions with a share `area` of it, centred anywhere.

    The part outside the image is cut off. Pixels; top and left are the first row and column, bottom and right the first
    ones behind the box.
    Source: Yun et al. 2019, equation 2, https://arxiv.org/abs/1905.04899.
    """
    sides = []
    for size in (height, width):
        centre, half = rng.uniform(0, size), size * math.sqrt(area) / 2
        sides.append((max(round(centre - half), 0), min(round(centre + half), size)))
    return tuple(sides)
