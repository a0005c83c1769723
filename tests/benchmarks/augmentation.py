"""Augmented images a second on one core, ours against the libraries:  python tests/benchmarks/augmentation.py

albumentations and solt do the same list as our warp: rotation, shear, scale, shift, exposure, median, black square. "as
it is": the library's own pipeline, called as its documentation says; "seeded": through our wrapper, which makes it a
function of the image and a seed. All take turns, round by round, so that a noisy machine disturbs them alike; seconds
are those of the processor, since all run in one thread; the ratios are medians over the rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from training.augmentation import Warp, albumentations, solt  # noqa: E402


def make_images(count: int, size: int, channels: int) -> list[np.ndarray]:
    """Soft shapes and noise: (size, size) or (size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        soft = cv2.resize(rng.integers(0, 256, (12, 12)).astype(np.float32), (size, size))
        grey = np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
        images.append(grey if channels == 1 else np.stack([grey] * 3, axis=2))
    return images


def make_ways(size: int) -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    """Every way to augment, as a function of image and seed; those as they are leave the seed alone."""
    album, stream, warp = albumentations(size), solt(size), Warp(size)
    compose, own = album.compose, stream.stream
    return {
        "albumentations, as it is": lambda image, seed: compose(image=image)["image"],
        "albumentations, seeded": album,
        "solt, as it is": lambda image, seed: own({"image": np.atleast_3d(image)}, return_torch=False).data[0],
        "solt, seeded": stream,
        "warp": warp,
    }


def run_round(augment: Callable, images: list[np.ndarray], first_seed: int) -> float:
    start = time.process_time()
    for number, image in enumerate(images):
        augment(image, first_seed + number)
    return time.process_time() - start


def main(argv: list[str] | None = None) -> dict[tuple[int, int, str], float]:
    """Prints the table; returns images a second by (size, channels, way)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--images", type=int, default=200, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

    rates = {}
    table = Table("", "images/s", "warp is so much faster", title="augmentation on one core")
    for size in args.sizes:
        for channels in (1, 3):
            images, ways = make_images(args.images, size, channels), make_ways(size)
            seconds = {name: [] for name in ways}
            for number in range(args.rounds + 1):
                for name, augment in ways.items():
                    measured = run_round(augment, [image.copy() for image in images], number * args.images)
                    if number:  # the first round warms up
                        seconds[name].append(measured)
            table.add_section()
            table.add_row(f"{size} pixels, {'grey' if channels == 1 else 'RGB'}")
            for name, values in seconds.items():
                ratio = statistics.median(a / b for a, b in zip(values, seconds["warp"], strict=True))
                rates[size, channels, name] = args.images / statistics.median(values)
                table.add_row(f"  {name}", f"{rates[size, channels, name]:,.0f}", f"{ratio:.1f}x")
    Console().print(table)
    return rates


if __name__ == "__main__":
    main()
