"""A fold killed at any moment and taken up again, with several numbers of workers: do the weights come out the same?

    python tests/benchmarks/kill_and_resume.py --kills 4

Trains one fold of a small demo once without interruption; then, for every number of workers, kills (SIGKILL) the same
training at moments spread over its length and takes it up until it is done. Prints where it was each time and the hash
of the weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SRC = Path(__file__).resolve().parents[2] / "src"


def train(home: Path, recipe: list[str], name: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, str(SRC / "train.py"), *recipe, "--workers", str(workers), "--name", name]
    return subprocess.Popen(command, env={**os.environ, "STARTER_HOME": str(home), "OMP_NUM_THREADS": "1"},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def epochs_done(folder: Path) -> int:
    log = folder / "log.csv"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def weights_of(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["weights_sha256"]


def kill_and_take_up(home: Path, recipe: list[str], name: str, workers: int, moments: list[float]) -> list[int]:
    """Kills so many seconds after the next epoch is done, for each moment; returns how many epochs were done then."""
    folder, seen = home / "runs" / "demo" / name / "fold0", []
    for moment in moments:
        process, before = train(home, recipe, name, workers), epochs_done(folder)
        deadline = time.monotonic() + 120
        while epochs_done(folder) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moment)
        process.kill()
        process.wait()
        seen.append(epochs_done(folder))
    assert train(home, recipe, name, workers).wait() == 0
    return seen


def main(argv: list[str] | None = None) -> bool:
    """True where all weights are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=4, help="of each training")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    args = parser.parse_args(argv)
    recipe = ["--experiment", "cnn_b", "--fold", "0", "--set", "epochs=40", "batch_size=16", "augmentation=warp",
              "mix=cutmix:1", "sampler=balanced"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {**os.environ, "STARTER_HOME": folder}
        subprocess.run([sys.executable, str(SRC / "make_demo.py"), "--set", "images=200", "test_images=20"],
                       env=environment, check=True, stdout=subprocess.DEVNULL)
        assert train(home, recipe, "whole", 0).wait() == 0
        whole = weights_of(home / "runs" / "demo" / "whole" / "fold0")
        table = Table("workers", "killed after epochs", "SHA-256 of the weights", "the same",
                      title=f"never killed: {whole[:16]}")
        same = []
        for workers in args.workers:
            name = f"killed{workers}"
            seen = kill_and_take_up(home, recipe, name, workers, [0.07 * number for number in range(args.kills)])
            found = weights_of(home / "runs" / "demo" / name / "fold0")
            same.append(found == whole)
            table.add_row(str(workers), ", ".join(map(str, seen)), found[:16], "yes" if same[-1] else "NO")
    Console().print(table)
    return all(same)


if __name__ == "__main__":
    sys.exit(not main())
