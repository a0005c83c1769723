"""What input takes of training, from the pixel store and from an image folder:  python tests/benchmarks/input.py

Ten epochs of five folds on 5,000 JPEGs of 400x400 pixels, read by the store, whose building counts, and by what one
writes first: torchvision's ImageFolder, Pillow, Grayscale, Resize, ToTensor, Normalize and a DataLoader, with 0 and
with 2 workers. All give float32 batches (B, 1, size, size), shuffled, not augmented. The store's epochs are all read,
without workers; ImageFolder's time is that of --sample images a fold, scaled to all. They take turns, fold by fold, so
that a noisy machine disturbs them alike; for that the store is built anew for every fold, and the mean counts once. The
clock of a DataLoader starts at its first batch, so the start of its workers does not count. The seconds of all cores
("processor") depend less on what else the machine does.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from common.hardware import count_cores, import_torchvision, tune_process  # noqa: E402

tune_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from pixel_store import make_jpegs, make_table  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from data.pixel_store import PixelSettings, PixelStore, open_store  # noqa: E402
from training.batches import training_batches  # noqa: E402

FOLDS = 5


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def read_store(store: PixelStore, rows: np.ndarray, epochs: int, batch_size: int) -> None:
    """These epochs, the change to normalised float32 included."""
    targets = np.zeros((len(rows), 1), np.float32)
    for epoch in range(epochs):
        for images, _, _ in training_batches(store, rows, targets, batch_size, "none", 0, epoch):
            images.float().sub_(127.5).div_(127.5)


def read_folder(dataset, indices: np.ndarray, workers: int, batch_size: int) -> tuple[float, float]:
    """Seconds an image: by the clock after the first batch has come, and of the processor in all."""
    before = processor_seconds()
    part = torch.utils.data.Subset(dataset, indices.tolist())
    batches = iter(torch.utils.data.DataLoader(part, batch_size, shuffle=True, num_workers=workers))
    next(batches)
    started, images = time.perf_counter(), 0
    for batch, _ in batches:
        images += len(batch)
    seconds = (time.perf_counter() - started) / images
    del batches  # ends the workers
    return seconds, (processor_seconds() - before) / len(part)


def compare(paths: list[str], folder: Path, size: int, args: argparse.Namespace) -> tuple[float, dict[int, float]]:
    """Seconds in all of the store, and of ImageFolder by its number of workers."""
    from torchvision import datasets, transforms

    dataset = datasets.ImageFolder(str(folder), transforms.Compose([
        transforms.Grayscale(), transforms.Resize((size, size)), transforms.ToTensor(),
        transforms.Normalize([0.5], [0.5])]))
    building, reading = np.zeros(2), np.zeros(2)  # seconds by the clock, of the processor
    an_image = {0: [], 2: []}
    fold_of = np.random.default_rng(0).permutation(len(paths)) % FOLDS
    for fold in range(FOLDS):
        rows = np.flatnonzero(fold_of != fold)
        start = np.array([time.perf_counter(), processor_seconds()])
        store = open_store(f"input-{size}-{fold}", make_table(paths), PixelSettings(size, 1))
        built = np.array([time.perf_counter(), processor_seconds()])
        read_store(store, rows, args.epochs, args.batch_size)
        building += (built - start) / FOLDS
        reading += np.array([time.perf_counter(), processor_seconds()]) - built
        for workers, values in an_image.items():
            values.append(read_folder(dataset, rows[:args.sample], workers, args.batch_size))
    shown = args.epochs * (FOLDS - 1) * len(paths)
    seconds = {workers: np.mean(values, axis=0) * shown for workers, values in an_image.items()}

    table = Table("", "images/s", "seconds in all", "against the store", "processor", "against the store",
                  title=f"{size} pixels, batch {args.batch_size}, {count_cores()} cores")
    total = building + reading
    for name, images, value in (("store, building", len(paths), building), ("store, reading", shown, reading),
                                ("store, both", shown, total), ("ImageFolder, 0 workers", shown, seconds[0]),
                                ("ImageFolder, 2 workers", shown, seconds[2])):
        ratios = [f"{ratio:.0f}x" for ratio in value / total] if images == shown and value is not reading else ["", ""]
        table.add_row(name, f"{images / value[0]:,.0f}", f"{value[0]:,.1f}", ratios[0], f"{value[1]:,.1f}", ratios[1])
    Console(width=120).print(table)
    return float(total[0]), {workers: float(value[0]) for workers, value in seconds.items()}


def main(argv: list[str] | None = None) -> dict[int, tuple[float, dict[int, float]]]:
    """Prints a table a size; returns the seconds by size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--sample", type=int, default=1000, help="images a fold that ImageFolder's time is taken of")
    args = parser.parse_args(argv)
    import_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        folders = Path(folder) / "classes"
        folders.mkdir()
        paths = sorted(map(str, make_jpegs(folders / "one", args.images).iterdir()))
        return {size: compare(paths, folders, size, args) for size in args.sizes}


if __name__ == "__main__":
    main()
