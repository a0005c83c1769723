"""Time and memory of the whole audit, demos of 64 pixels: python tests/benchmarks/audit.py [N ...].

The image scan and the audit run in separate processes, so that time and peak memory of each are known.
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

SCAN = ("import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from competition import DEMO; "
        "from data.image_scan import scan_images; from data.tables import read_train; "
        "scan_images('demo-train', read_train(DEMO, Path(sys.argv[2]))[0])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="keep the demos in this folder; default: they are deleted")
    arguments = parser.parse_args()
    table = Table("training images", "scan, s", "CPU s", "peak MB", "audit, s", "CPU s", "peak MB",
                  "hash distance", "equal", "nearly equal", "others",
                  title=f"audit.py on demos of 64 pixels, {count_cores()} threads")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as temporary:
            table.add_row(f"{count:,}", *measure((arguments.folder or Path(temporary)) / str(count), Path(temporary),
                                                 count))
    Console(width=140).print(table)


def measure(folder: Path, home: Path, count: int) -> list[str]:
    """The cells of a row: seconds, peak memory, and the share of planted duplicates that the audit found."""
    data = make_demo(folder / "data" / "demo", DemoSettings(images=count, test_images=1000))
    scan = run_process([sys.executable, "-c", SCAN, str(SRC), str(data)], home)
    audit = run_process([sys.executable, str(SRC / "audit.py"), "--data-dir", str(data)], home)
    summary = json.loads((home / "runs" / "demo" / "audit" / "audit.json").read_text(encoding="utf-8"))
    exact, near = summary["truth"]["exact duplicates"], summary["truth"]["near duplicates"]
    return [*scan, *audit, f"{summary['duplicates']['hash_distance_searched']} bits",
            *(f"{kind['right']:,}/{kind['planted']:,}" for kind in (exact, near)),
            f"{exact['found'] - exact['right'] + near['found'] - near['right']:,}"]


def run_process(command: list[str], home: Path) -> tuple[str, str, str]:
    """Seconds, CPU seconds, and peak memory in MB, including mapped files, of a process."""
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
