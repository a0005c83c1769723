"""Time and memory of the whole audit, demos of 64 pixels: python tests/benchmarks/audit.py [N ...].

The first look at every image and the audit after it are processes of their own, so each has a time and a peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"
sys.path.insert(0, str(SRC))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from common.hardware import count_cores  # noqa: E402
from data.demo import DemoSettings, make_demo  # noqa: E402

LOOK = ("import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from competition import DEMO; "
        "from data.image_scan import scan_images; from data.tables import read_train; "
        "scan_images('demo-train', read_train(DEMO, Path(sys.argv[2]))[0])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where the demos are kept for another time; default: nowhere")
    arguments = parser.parse_args()
    table = Table("training images", "first look, s", "processor s", "peak MB", "audit, s", "processor s", "peak MB",
                  "pairs up to", "equal", "nearly equal", "others",
                  title=f"audit.py on demos of 64 pixels, {count_cores()} threads")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as temporary:
            table.add_row(f"{count:,}", *measure((arguments.folder or Path(temporary)) / str(count), Path(temporary),
                                                 count))
    Console(width=140).print(table)


def measure(folder: Path, home: Path, count: int) -> list[str]:
    """The cells of a row: seconds, peaks, and how much of what was planted the audit found."""
    data = make_demo(folder / "data" / "demo", DemoSettings(images=count, test_images=1000))
    look = run_alone([sys.executable, "-c", LOOK, str(SRC), str(data)], home)
    audit = run_alone([sys.executable, str(SRC / "audit.py"), "--data-dir", str(data)], home)
    said = json.loads((home / "runs" / "demo" / "audit" / "audit.json").read_text(encoding="utf-8"))
    exact, near = said["truth"]["exact duplicates"], said["truth"]["near duplicates"]
    return [*look, *audit, f"{said['duplicates']['hash_distance_searched']} bits",
            *(f"{kind['right']:,}/{kind['planted']:,}" for kind in (exact, near)),
            f"{exact['found'] - exact['right'] + near['found'] - near['right']:,}"]


def run_alone(command: list[str], home: Path) -> tuple[str, str, str]:
    """Seconds, seconds of processor time, and peak memory in MB, mapped files and all, of a process.

    Where others use the processors too, the second hardly changes.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"STARTER_HOME": str(home)}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return (f"{time.perf_counter() - started:.1f}", f"{usage.ru_utime + usage.ru_stime:.1f}",
            f"{usage.ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    main()
