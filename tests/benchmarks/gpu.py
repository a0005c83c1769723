"""How fast a GPU trains, how long it waits, how much of its peak that is:  python tests/benchmarks/gpu.py

For every network two epochs in turn, medians over --rounds: images from the pixel store that --workers processes warp
on the host, and batches that are already on the device. The difference is the time the device waits for input. The peak
is a large matrix product in the number format of the training steps; a training step counts as three forward passes.
Then `train.py` trains all folds of --experiment on the demo.
--device cpu runs the same code on a processor, to check that it runs: its figures say nothing about a GPU.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

SRC = Path(__file__).resolve().parents[2] / "src"
sys.path.insert(0, str(SRC))

from common.hardware import device_name, pick_device, tune_process  # noqa: E402

tune_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from models.architectures import NETWORKS  # noqa: E402
from models.classifier import build_model  # noqa: E402
from training.batches import training_batches  # noqa: E402
from training.loop import train_one_epoch  # noqa: E402
from training.losses import masked_bce  # noqa: E402
from training.optimization import EMA, build_optimizer  # noqa: E402
from training.precision import choose_precision  # noqa: E402

CASES = ("cnn_e:64", "tf_efficientnet_lite0:64", "tf_efficientnet_lite0:128", "tf_efficientnet_lite0:224",
         "densenet121:224")
OUTPUTS = 3


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Prints the tables; returns images a second of the two ways, by case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NETWORK:PIXELS", help=f"default: {CASES}")
    parser.add_argument("--images", type=int, default=8192, help="an epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and warp on the host")
    parser.add_argument("--matmul", type=int, default=8192, help="rows of the square matrices that give the peak")
    parser.add_argument("--experiment", default="cnn_e", help="whose folds are trained on the demo; none: leave it out")
    parser.add_argument("--demo-images", type=int, default=3000)
    args = parser.parse_args(argv)
    if args.device == "cuda" and pick_device() != "cuda":
        print("There is no GPU that torch can use here, so nothing was measured. --device cpu runs the same code on a "
              "processor, to see that it runs.")
        return {}
    if args.device == "cpu":
        print("A DRY RUN ON A PROCESSOR: these figures say nothing about a GPU.")
    print(f"{device_name(args.device)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        found = measure_cases(args)
        if args.experiment != "none":
            train_folds(args)
    return found


def measure_cases(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    table = Table("network:pixels", "format", "images/s, from the store", "waits", "images/s, batches ready",
                  "GFLOP an image", "TFLOP/s", "of the peak", "peak MB",
                  title=f"{args.images} images an epoch, batch {args.batch_size}, {args.rounds} rounds, "
                        f"{args.workers} workers")
    found, peaks = {}, {}
    for case in args.cases:
        network, _, size = case.partition(":")
        precision, flops, seconds, megabytes = measure(network, int(size), args)
        speeds = {way: args.images / value for way, value in seconds.items()}
        waits = {way: 1 - seconds["ready"] / value for way, value in seconds.items()}
        done = flops * speeds["ready"]
        kind = "fp32" if precision == "fp32" else "bf16"
        peaks[kind] = peaks.get(kind) or measure_peak(args.device, kind, args.matmul)
        table.add_row(case, precision, f"{speeds['store']:,.0f}", f"{waits['store']:.1%}",
                      f"{speeds['ready']:,.0f}", f"{flops / 1e9:.2f}", f"{done / 1e12:.2f}",
                      f"{done / peaks[kind]:.1%}", f"{megabytes:,.0f}" if args.device == "cuda" else "")
        found[case] = speeds
    Console(width=180).print(table)
    print("peak, by a matrix product: " + ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in
                                                    peaks.items()))
    return found


def measure(network: str, size: int, args: argparse.Namespace) -> tuple[str, float, dict[str, float], float]:
    """The format chosen, operations of a training step an image, seconds of an epoch by way, most megabytes."""
    channels, device = 1 if network in NETWORKS else 3, args.device
    rng = np.random.default_rng(0)
    shape = (args.images, size, size) if channels == 1 else (args.images, size, size, channels)
    pixels = rng.integers(0, 256, shape, np.uint8)
    store = SimpleNamespace(pixels=pixels, read=Rows(pixels), ids=np.arange(args.images).astype(str))
    rows, targets = np.arange(args.images), rng.integers(0, 2, (args.images, OUTPUTS)).astype(np.float32)

    torch.manual_seed(0)
    model = build_model(network, channels, size, OUTPUTS).to(device, memory_format=torch.channels_last)
    precision = choose_precision(network, model, size, device)
    optimizer, ema = build_optimizer(model, "adamw", 1e-4, weight_decay=1e-2), EMA(model, 0.99)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)

    def ready_batches(epoch: int) -> list:
        batches = training_batches(store, rows, targets, args.batch_size, "none", 0, epoch)
        return [(images.to(device), labels.to(device), numbers) for images, labels, numbers in batches]

    ways = {
        "store": lambda epoch: training_batches(store, rows, targets, args.batch_size, "warp", 0, epoch, args.workers),
        "ready": ready_batches,
    }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = {way: [] for way in ways}
    for epoch in range(args.rounds + 1):
        for way, make_batches in ways.items():
            batches = make_batches(epoch)
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            train_one_epoch(model, batches, masked_bce, optimizer, scheduler, ema, precision=precision)  # synchronises
            if epoch:  # the first warms up
                seconds[way].append(time.perf_counter() - start)
    flops = 3 * count_flops(model, ready_batches(0)[0][0][:2]) / 2
    megabytes = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    return precision, flops, {way: statistics.median(values) for way, values in seconds.items()}, megabytes


class Rows:
    """Reads rows of an array, as a pixel store does; workers can be sent it."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


def count_flops(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Operations of one forward pass, a multiplication and an addition counted as two."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(images)
    return counter.get_total_flops()


def measure_peak(device: str, precision: str, rows: int) -> float:
    """Operations a second of a product of two square matrices, the best of ten."""
    matrix = torch.rand(rows, rows, device=device, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * rows**3 / best


def train_folds(args: argparse.Namespace) -> None:
    """Times train.py on the demo, from its start to its end, start-up, pixel store and predictions included."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {})
    subprocess.run([sys.executable, SRC / "make_demo.py", "--images", str(args.demo_images)], check=True,
                   env=environment, stdout=subprocess.DEVNULL)
    start = time.perf_counter()
    subprocess.run([sys.executable, SRC / "train.py", "--experiment", args.experiment], check=True, env=environment)
    print(f"all folds of {args.experiment} on {args.demo_images} images: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
