"""Peak memory of training by the number of images in the store:  python tests/benchmarks/training_memory.py

Each row is a process of its own that trains `cnn_e` for as many steps on a store of random images, which is written
directly and not built. "own" is memory that only this process has (RssAnon), "in all" counts mapped files too; what
the system keeps of the store's file in its cache belongs to no process and is not counted. What grows with the
images are their ids, targets and places: the last column says by how many bytes an image, from the row above.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from common.hardware import tune_process  # noqa: E402

tune_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from pixel_store import megabytes, sampled_peak  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from data.pixel_store import PixelStore  # noqa: E402
from models.classifier import build_model  # noqa: E402
from training.batches import training_batches  # noqa: E402
from training.losses import masked_bce  # noqa: E402
from training.optimization import EMA, weight_groups  # noqa: E402

SIZE, LABELS, BATCH = 64, 14, 64


def write_store(folder: Path, images: int) -> None:
    """Ids as long as CheXpert's, which are paths of about 55 characters."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "pixels.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                                    "shape": (images, SIZE, SIZE)})
        for first in range(0, images, 1000):
            file.write(rng.bytes(min(1000, images - first) * SIZE * SIZE))
    ids = np.array([f"CheXpert-v1.0/train/patient{i:06d}/study1/view1_frontal.jpg" for i in range(images)])
    np.savez(folder / "index.npz", ids=ids, hashes=np.zeros(images, "S32"), constant=np.zeros(images, bool),
             shapes=np.full((images, 2), 400, np.int32))
    account = {"settings": {"size": SIZE, "channels": 1}, "images": images}
    (folder / "store.json").write_text(json.dumps(account))


def measure(folder: Path, steps: int, augmentation: str) -> None:
    """In a process of its own: prints megabytes, own and in all, at the peak."""
    torch.set_num_threads(1)
    model = build_model("cnn_e", 1, SIZE, LABELS).to(memory_format=torch.channels_last).train()
    ema, optimizer = EMA(model, 0.99), torch.optim.AdamW(weight_groups(model, 1e-2), 1e-4, fused=True)
    with sampled_peak("RssAnon") as peak:
        store = PixelStore(folder)
        rows = store.rows(store.ids)
        targets = np.random.default_rng(0).integers(0, 2, (len(store), LABELS)).astype(np.float32)
        batches = training_batches(store, rows, targets, BATCH, augmentation, 0, 0)
        for images, part, _ in islice(batches, steps):
            loss = masked_bce(model(images), part)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ema.update(model)
    print(peak[0], megabytes("VmHWM"))


def main(argv: list[str] | None = None) -> dict[int, tuple[float, float]]:
    """Prints the table; returns megabytes, own and in all, by the number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--augmentation", default="warp")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # a child process's store
    args = parser.parse_args(argv)
    if args.measure:
        measure(args.measure, args.steps, args.augmentation)
        return {}

    peaks = {}
    table = Table("images", "pixels on disk, MB", "own, MB", "in all, MB", "more, bytes an image",
                  title=f"peak memory of {args.steps} steps of cnn_e, {SIZE} px, batch {BATCH}, {LABELS} labels")
    with tempfile.TemporaryDirectory() as folder:
        for images in args.images:
            store = Path(folder) / str(images)
            write_store(store, images)
            command = [sys.executable, __file__, "--measure", str(store), "--steps", str(args.steps),
                       "--augmentation", args.augmentation]
            own, in_all = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
            more = ""
            if peaks:
                before, (own_before, _) = list(peaks.items())[-1]
                more = f"{(own - own_before) * 2**20 / (images - before):,.0f}"
            peaks[images] = own, in_all
            table.add_row(f"{images:,}", f"{images * SIZE * SIZE / 1e6:,.0f}", f"{own:,.0f}", f"{in_all:,.0f}", more)
    Console().print(table)
    return peaks


if __name__ == "__main__":
    main()
