"""What the pixel store saves in time and takes in memory: python tests/benchmarks/pixel_store.py [--folder DIR]."""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from common.hardware import count_cores  # noqa: E402
from data.pixel_store import PixelSettings, PixelStore, open_store  # noqa: E402

BATCH = 64
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        if arguments.measure:
            measure_memory(*arguments.measure.split(":"))
            return
        source = arguments.folder or make_jpegs(Path(folder) / "images", arguments.images)
        paths = sorted(str(path) for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)[:arguments.images]
        compare_times(paths, arguments.size, arguments.epochs)
    compare_memory()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="real images, instead of generated 400x400 JPEGs")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64, help="pixels, height and width in the store")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a child process's order: "build:FOLDER:N" or "read:..."
    return parser.parse_args()


def make_jpegs(folder: Path, images: int) -> Path:
    """Soft shapes and noise, which compress about as well as radiographs do."""
    folder.mkdir()
    for i in range(images):
        rng = np.random.default_rng(i)
        soft = cv2.resize(rng.integers(0, 256, (12, 12)).astype(np.float32), (400, 400), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:06d}.jpg"), np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8))
    return folder


def make_table(paths: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [f"{i:07d}" for i in range(len(paths))], "path": paths})


# ---- time


def compare_times(paths: list[str], size: int, epochs: int) -> None:
    """All ways take turns epoch by epoch, with as many threads each, so a busy machine slows all of them."""
    table = make_table(paths)
    started = time.perf_counter()
    store = open_store("benchmark", table, PixelSettings(size, 1))
    building = time.perf_counter() - started
    seconds = dict.fromkeys(("store", "OpenCV", "Pillow"), 0.0)
    cv2.setNumThreads(0)
    with ThreadPoolExecutor(count_cores()) as pool:
        for epoch in range(epochs):
            order = np.random.default_rng(epoch).permutation(len(paths))
            seconds["store"] += clock(read_epoch, store, order)
            seconds["OpenCV"] += clock(decode_epoch, pool, decode_with_opencv, paths, order, size)
            seconds["Pillow"] += clock(decode_epoch, pool, decode_with_pillow, paths, order, size)
    show_times(len(paths), size, epochs, building, seconds)


def clock(function: Callable, *arguments) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def batches(order: np.ndarray) -> Iterator[np.ndarray]:
    return (order[first:first + BATCH] for first in range(0, len(order), BATCH))


def read_epoch(store: PixelStore, order: np.ndarray) -> None:
    for part in batches(order):
        store.read(part)


def decode_epoch(pool: ThreadPoolExecutor, decode: Callable, paths: list[str], order: np.ndarray, size: int) -> None:
    for part in batches(order):
        np.stack(list(pool.map(lambda row: decode(paths[row], size), part)))


def decode_with_opencv(path: str, size: int) -> np.ndarray:
    image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def decode_with_pillow(path: str, size: int) -> np.ndarray:
    """What torchvision's ImageFolder and Resize do: RGB, bilinear with antialiasing."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def show_times(images: int, size: int, epochs: int, building: float, seconds: dict[str, float]) -> None:
    total = building + seconds["store"]
    table = Table(title=f"{epochs} epochs of {images:,} images at {size} pixels, batches of {BATCH}, "
                        f"{count_cores()} threads")
    for column in ("way", "images/s", "seconds in all", "against the store"):
        table.add_column(column, justify="left" if column == "way" else "right")
    table.add_row("store: building", f"{images / building:,.0f}", f"{building:.2f}", "")
    table.add_row("store: reading", f"{images * epochs / seconds['store']:,.0f}", f"{seconds['store']:.2f}", "")
    table.add_row("store: both", f"{images * epochs / total:,.0f}", f"{total:.2f}", "1.0")
    for way in ("OpenCV", "Pillow"):
        table.add_row(f"{way}, decoding every epoch", f"{images * epochs / seconds[way]:,.0f}", f"{seconds[way]:.2f}",
                      f"{seconds[way] / total:.1f}")
    Console().print(table)


# ---- memory


def compare_memory() -> None:
    """1,000, 10,000 and 100,000 images, each built and read by a process of its own."""
    table = Table(title="peak memory in MB, 64 pixels; the 100,000 images take 410 MB on disk")
    for column in ("process", "images", "seconds", "in all (VmHWM)", "its own (RssAnon)", "own, above its start"):
        table.add_column(column, justify="left" if column == "process" else "right")
    with tempfile.TemporaryDirectory() as folder:
        make_small_pngs(Path(folder) / "images")
        for images in ("1000", "10000", "100000"):
            for what in ("build", "read"):
                command = [sys.executable, __file__, "--measure", f"{what}:{folder}:{images}"]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                table.add_row(what, f"{int(images):,}", *answer.split())
    Console().print(table)


def make_small_pngs(folder: Path, files: int = 100) -> None:
    """A hundred files stand for all images, since memory and not decoding is measured."""
    folder.mkdir()
    for i in range(files):
        cv2.imwrite(str(folder / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8))


def measure_memory(what: str, folder: str, images: str) -> None:
    """In a process of its own: prints seconds and megabytes."""
    os.environ["STARTER_HOME"] = folder
    files = sorted(str(path) for path in (Path(folder) / "images").iterdir())
    table = make_table([files[i % len(files)] for i in range(int(images))])
    settings, before, started = PixelSettings(64, 1), megabytes("RssAnon"), time.perf_counter()
    with sampled_peak("RssAnon") as peak:
        store = open_store(f"memory-{images}", table, settings)
        if what == "read":
            for epoch in range(3):
                for part in batches(np.random.default_rng(epoch).permutation(len(store))):
                    store.read(part)
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} {megabytes('VmHWM'):.0f} {peak[0]:.0f} {peak[0] - before:.0f}")


def megabytes(field: str) -> float:
    """A figure of this process's account, which Linux keeps in kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


@contextmanager
def sampled_peak(field: str) -> Iterator[list[float]]:
    """A list whose one number is the largest seen, 100 times a second: Linux keeps a peak of the whole only."""
    peak, done = [megabytes(field)], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], megabytes(field))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
