"""Several processes that train one fold together: one process's weights up to rounding, and no half-dead run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train
from data.demo import DemoSettings, make_demo
from real_data import SRC
from results.runs import read_run

# with batch norm, whose statistics must be of the whole batch, and without dropout, which every process draws anew
RECIPE = ["--experiment", "cnn_b", "--fold", "0", "--set", "network=test_resnet", "epochs=2", "batch_size=16",
          "precision=fp32", "augmentation=warp", "mix=mixup:0.4"]


def torchrun(home: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(SRC / "train.py"), *arguments]
    environment = {**os.environ, "STARTER_HOME": str(home), "PYTHONWARNINGS": "default"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def home(home) -> Path:
    make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=20))
    return home


@pytest.mark.slow
def test_two_processes_train_what_one_trains(home):
    train.main([*RECIPE, "--name", "one"])
    process = torchrun(home, *RECIPE, "--name", "two")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("trained 1 folds") == 1, "both processes talk"
    one, two = (home / "runs" / "demo" / name / "fold0" for name in ("one", "two"))
    assert read_run(two).result["environment"]["processes"] == 2
    assert read_run(two).result["loss"] == pytest.approx(read_run(one).result["loss"], abs=1e-4)
    assert read_run(two).result["score"] == pytest.approx(read_run(one).result["score"], abs=0.02)
    weights, others = load_file(one / "weights.safetensors"), load_file(two / "weights.safetensors")
    farthest = max((weights[name].float() - others[name].float()).abs().max().item() for name in weights)
    assert farthest < 1e-3


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_an_error(home):
    process = torchrun(home, *RECIPE[:5], "epochs=5000", *RECIPE[6:], "--name", "dead")
    log = home / "runs" / "demo" / "dead" / "fold0" / "log.csv"
    deadline = time.monotonic() + 90
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log.exists(), process.communicate()[0] if process.poll() is not None else "no epoch in 90 s"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "SIGKILL" in output
    assert not (log.parent / "result.json").exists()
