"""Our training step against the plain fp32 loop, and the input's share of it:  python tests/benchmarks/training_step.py

Every figure is the median of interleaved rounds in one process, and of processor time, all threads together, so that
a busy machine disturbs little and all sides alike. The plain loop is what one writes first: torch's own layers in the
same order, float32, torch's default memory layout. The bare step is ours without clipped gradients and averaged
weights.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from common.hardware import count_cores, tune_process  # noqa: E402

tune_process()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import nn  # noqa: E402

from data.pixel_store import PixelSettings, open_store  # noqa: E402
from models.classifier import build_model  # noqa: E402
from models.layers import BitDropout, PooledReLU, UnfoldConv2d  # noqa: E402
from training.batches import training_batches  # noqa: E402
from training.losses import masked_bce  # noqa: E402
from training.optimization import EMA, build_optimizer  # noqa: E402
from training.precision import autocast, choose_precision  # noqa: E402


def plain_version(network: str, size: int) -> nn.Module:
    """The network with torch's own layers: ReLU before pooling, nn.Conv2d and nn.Dropout throughout."""
    model = build_model(network, 1, size, 3).network
    for name, module in list(model.named_children()):
        if isinstance(module, PooledReLU):
            pool = nn.MaxPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
            setattr(model, name, nn.Sequential(nn.ReLU(), pool))
        elif isinstance(module, UnfoldConv2d):
            plain = nn.Conv2d(module.in_channels, module.out_channels, module.kernel_size, module.stride,
                              module.padding)
            plain.load_state_dict(module.state_dict())
            setattr(model, name, plain)
        elif isinstance(module, BitDropout):
            setattr(model, name, nn.Dropout(module.p))
    return model


def plain_round(model: nn.Module, optimizer, batches: list) -> float:
    start = time.process_time()
    for images, targets in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(model((images.float() / 255 - 0.5) / 0.25), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


def our_round(model: nn.Module, ema: EMA, optimizer, batches: list, precision: str, bare: bool = False) -> float:
    start = time.process_time()
    for images, targets in batches:
        with autocast("cpu", precision):
            loss = masked_bce(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not bare:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not bare:
            ema.update(model)
    return time.process_time() - start


def input_round(store, images: int, batch_size: int, augmentation: str, epoch: int) -> float:
    targets = np.zeros((images, 3), np.float32)
    start = time.process_time()
    for _ in training_batches(store, np.arange(images), targets, batch_size, augmentation, 0, epoch):
        pass
    return time.process_time() - start


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="cnn_e")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=count_cores())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    steps, images = 4, 4 * args.batch_size
    batches = [(torch.from_numpy(rng.integers(0, 256, (args.batch_size, 1, args.size, args.size), np.uint8)),
                torch.from_numpy(rng.integers(0, 2, (args.batch_size, 3)).astype(np.float32))) for _ in range(steps)]

    plain = plain_version(args.network, args.size)
    plain_optimizer = torch.optim.AdamW(plain.parameters(), 1e-4)
    ours = build_model(args.network, 1, args.size, 3).to(memory_format=torch.channels_last)
    ema, optimizer = EMA(ours, 0.99), build_optimizer(ours, "adamw", 1e-4, weight_decay=1e-2)

    with tempfile.TemporaryDirectory() as folder:
        store = _random_store(Path(folder), images, args.size, rng)
        precision = choose_precision(args.network, ours, args.size, "cpu")
        seconds = {name: [] for name in ("plain", "ours", "bare", "reading", "reading and warp",
                                         "reading and albumentations")}
        for epoch in range(args.rounds + 1):
            measured = {
                "plain": plain_round(plain, plain_optimizer, batches),
                "ours": our_round(ours, ema, optimizer, batches, precision),
                "bare": our_round(ours, ema, optimizer, batches, precision, bare=True),
                "reading": input_round(store, images, args.batch_size, "none", epoch),
                "reading and warp": input_round(store, images, args.batch_size, "warp", epoch),
                "reading and albumentations": input_round(store, images, args.batch_size, "albumentations", epoch),
            }
            if epoch:  # the first round warms up
                for name, value in measured.items():
                    seconds[name].append(value)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table("", "images/s of processor time", "against the plain loop", "share of our step",
                  title=f"{args.network}, {args.size} px, batch {args.batch_size}, {args.threads} threads, "
                        f"ours in {precision}")
    for name, value in median.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds[name], strict=True))
        share = statistics.median(b / a for a, b in zip(seconds["ours"], seconds[name], strict=True))
        is_step = name in ("plain", "ours", "bare")
        table.add_row(name, f"{images / value:,.0f}", f"{ratio:.2f}x" if is_step else "",
                      "" if is_step else f"{100 * share:.1f} %")
    Console().print(table)
    return {name: images / value for name, value in median.items()}


def _random_store(folder: Path, images: int, size: int, rng: np.random.Generator):
    import os

    import cv2

    os.environ["STARTER_HOME"] = str(folder)
    paths = []
    for i in range(images):
        paths.append(str(folder / f"{i}.png"))
        cv2.imwrite(paths[-1], rng.integers(0, 256, (size, size), np.uint8))
    table = pd.DataFrame({"image_id": [str(i) for i in range(images)], "path": paths})
    return open_store("benchmark", table, PixelSettings(size, 1))


if __name__ == "__main__":
    main()
