"""Mixing every image of a batch with another one of it, and their losses in the same shares: MixUp and CutMix."""

import math

import numpy as np
import torch
from torch import Tensor

from common.settings import check_value, read_value


def check_mixing(mixing: str) -> None:
    """Raises ValueError where a mixing is none."""
    check_value("mix", mixing)
    _, numbers = read_value(mixing)
    if numbers and not numbers[0] > 0:
        raise ValueError(f"mix={mixing}: ALPHA must be above 0; without mixing it is none")


def mix(images: Tensor, targets: Tensor, mixing: str,
        seed: tuple[int, ...]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """Mixed images, and the targets they have in part, with their shares.

    images: (B, C, H, W) uint8 come back as float32, floats as they are;  targets: (B, K);
    mixing: "mixup:ALPHA", "cutmix:ALPHA", or "none", which gives back what came;  seed: (seed, epoch, step), of which
    everything drawn is a function, on any device.
    The loss is the sum of share * loss_fn(logits, targets) over the parts: losses are mixed, not targets, so a cell
    that is stated for one of two images only teaches by that one's share, and any loss sees plain targets.
    The partners are one random cycle through the batch: nobody is its own where there are two, and everybody is one
    once, so a batch's mean stays what it was under MixUp.
    Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, with one share a batch; CutMix, see `draw_box`.
    Raises ValueError where `check_mixing` does.
    """
    kind, numbers = read_value(mixing)
    if kind == "none":
        return images, [(targets, 1.0)]
    check_mixing(mixing)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))  # the key: apart from other draws
    order = rng.permutation(len(images))
    partners = np.empty_like(order)
    partners[order] = np.roll(order, 1)
    partners = torch.from_numpy(partners).to(images.device)
    share = float(rng.beta(numbers[0], numbers[0]))
    images = images if images.is_floating_point() else images.float()
    if kind == "mixup":
        mixed = torch.lerp(images[partners], images, share)
    else:
        (top, bottom), (left, right) = draw_box(*images.shape[2:], 1 - share, rng)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / math.prod(images.shape[2:])
    return mixed, [(targets, share), (targets[partners], 1 - share)]


def draw_box(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """(top, bottom), (left, right) of a box in the image's form with a share `area` of it, its centre anywhere.

    What stands out at the border is cut off. The numbers count as those of slices do.
    Source: Yun et al. 2019, equation 2, https://arxiv.org/abs/1905.04899.
    """
    sides = []
    for size in (height, width):
        centre, half = rng.uniform(0, size), size * math.sqrt(area) / 2
        sides.append((max(round(centre - half), 0), min(round(centre + half), size)))
    return tuple(sides)
