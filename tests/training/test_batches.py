"""DataLoader workers: none outlives the training process, and each keeps to one thread."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from real_data import SRC
from training.batches import training_batches

WORK = """
import sys, time
import numpy as np
from torch.utils.data._utils import worker
from training.batches import training_batches

class LateWatch(worker.ManagerWatchdog):  # as on a machine that is busy while the workers start
    def __init__(self):
        time.sleep(3)
        super().__init__()

if sys.argv[1] == "starting":
    worker.ManagerWatchdog = LateWatch

class Store:
    ids = np.array([str(number) for number in range(1000)])
    def read(self, rows):
        return np.zeros((len(rows), 64, 64), np.uint8)

batches = iter(training_batches(Store(), np.arange(1000), np.zeros((1000, 1), np.float32), 1, "warp", 0, 0, workers=2))
if sys.argv[1] == "working":
    next(batches)
print(*(worker.pid for worker in batches._workers), flush=True)
time.sleep(600)
"""


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, and nobody has asked for its result yet


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's list of processes")
@pytest.mark.parametrize("they_are", ["starting", "working"])
def test_workers_end_when_the_training_process_is_killed(tmp_path, they_are):
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen([sys.executable, "-c", WORK, they_are], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as training:
        workers = [int(word) for word in training.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_alive, workers))
        training.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30  # they look after their parent every second
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(map(is_alive, workers))


class ThreadsForPixels:
    """Stands for a pixel store that writes into its images how many threads OpenCV and torch have there."""

    ids = np.array(["0", "1"])

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 1, 2), (cv2.getNumThreads(), torch.get_num_threads()), np.uint8)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_a_worker_keeps_to_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        batches = training_batches(ThreadsForPixels(), np.arange(2), np.zeros((2, 1), np.float32), 1, "none", 0, 0, 2)
        threads = torch.cat([images.flatten(1) for images, _, _ in batches])
    finally:
        torch.set_num_threads(before)
    assert (threads == 1).all()
