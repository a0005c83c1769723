"""Time and memory of the scan and of the search for near duplicates: python tests/benchmarks/duplicates.py [N ...]."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

SIDE, COPIES, SCANNED = 512, 0.01, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--child", help=argparse.SUPPRESS)  # "scan" or "pairs", in a process whose memory is its own
    arguments = parser.parse_args()
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["STARTER_HOME"] = folder
            {"scan": measure_scan, "pairs": measure_pairs}[arguments.child](Path(folder), arguments.images[0])
        return
    table = Table("what", "images", "seconds", "ms an image", "peak MB, mapped files and all", "found")
    for what, count in [("scan", SCANNED), *(("pairs", count) for count in arguments.images)]:
        command = [sys.executable, __file__, str(count), "--child", what]
        seconds, megabytes, found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        name = {"scan": f"scan of PNGs of {SIDE} pixels", "pairs": "near pairs of thumbnails"}[what]
        table.add_row(name, f"{count:,}", seconds, f"{1000 * float(seconds) / count:.2f}", megabytes,
                      found.replace("_", " "))
    Console(width=140).print(table)


def make_picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Soft shapes that many share, and finer ones of its own: hashes as near to each other as those of chests."""
    shared = np.sin(np.linspace(0, 3, side))[:, None] * np.cos(np.linspace(-2, 2, side))[None]
    own = sum(cv2.resize(rng.normal(size=(cells, cells)).astype(np.float32), (side, side)) * weight
              for cells, weight in ((6, 0.35), (14, 0.25), (28, 0.15)))
    return np.clip(128 + 70 * (shared + own), 0, 255).astype(np.uint8)


def measure_scan(folder: Path, count: int) -> None:
    from data.image_scan import scan_images

    rng = np.random.default_rng(0)
    paths = [folder / f"{i:06d}.png" for i in range(count)]
    for path in paths:
        cv2.imwrite(str(path), make_picture(rng, SIDE))
    table = pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths]})
    started = time.perf_counter()
    scan = scan_images("some", table)
    report(started, f"{scan.readable.sum():,}_readable")


def measure_pairs(folder: Path, count: int) -> None:
    """COPIES of the thumbnails are others' copies, recompressed or shifted."""
    from data import duplicates
    from data.image_scan import SIDE as THUMBNAIL
    from data.image_scan import Scan, perceptual_hash

    rng = np.random.default_rng(0)
    thumbnails = np.lib.format.open_memmap(folder / "thumbnails.npy", "w+", np.uint8, (count, THUMBNAIL, THUMBNAIL))
    hashes, planted = np.empty((count, 4), np.uint64), []
    for i in range(count):
        original = i - 1  # which must be no copy itself: copies of one picture would be pairs too
        if i and rng.random() < COPIES and not (planted and planted[-1][1] == str(original)):
            picture = thumbnails[original].copy()
            picture = np.roll(picture, 1, int(rng.integers(2))) if rng.random() < 0.5 else cv2.imdecode(
                cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_GRAYSCALE)
            planted.append((str(original), str(i)))
        else:
            picture = make_picture(rng, THUMBNAIL)
        thumbnails[i], hashes[i] = picture, perceptual_hash(picture)
    thumbnails.flush()
    ids = np.arange(count).astype(str)
    scan = Scan(folder=folder, paths=tuple(ids), ids=ids, reason=np.full(count, ""), phash=hashes, pixel_hash=ids,
                constant=np.zeros(count, bool), mode=np.full(count, "L"),
                **{name: np.full(count, THUMBNAIL) for name in ("height", "width", "file_bytes", "mean", "std")})
    del thumbnails
    started = time.perf_counter()
    pairs = duplicates.near_pairs(scan)
    found = set(map(tuple, pairs[["a", "b"]].to_numpy().tolist()))
    planted = set(planted)
    report(started, f"{len(found & planted):,}/{len(planted):,}_planted,_{len(found - planted):,}_others,"
                    f"_up_to_{pairs.attrs['most_bits']}_bits")


def report(started: float, found: str) -> None:
    """Seconds, peak memory of this process and what was found, for the parent."""
    seconds = time.perf_counter() - started
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(f"{seconds:.1f} {int(status['VmHWM'].split()[0]) / 1024:.0f} {found}")


if __name__ == "__main__":
    main()
