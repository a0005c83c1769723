"""The script that measures a GPU says so where there is none, and its dry run goes through all of it."""

import importlib.util
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def script(home):
    """tests/benchmarks/gpu.py as a module."""
    path = Path(__file__).parent / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_nothing_is_measured_and_that_is_said(script, capsys):
    assert script.main([]) == {}
    assert "no GPU" in capsys.readouterr().out


def test_the_dry_run_measures_every_way_and_says_what_it_is(script, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command[1].name))
    found = script.main(["--device", "cpu", "--cases", "cnn_b:32", "--images", "8", "--batch-size", "4", "--rounds",
                         "1", "--matmul", "32"])
    assert set(found["cnn_b:32"]) == {"store", "ready"} and min(found["cnn_b:32"].values()) > 0
    assert started == ["make_demo.py", "train.py"]
    printed = capsys.readouterr().out
    assert "DRY RUN" in printed and "all folds of cnn_e" in printed


def test_operations_are_counted_as_two_a_multiplication(script):
    import torch

    layer = torch.nn.Conv2d(3, 5, 3, bias=False)  # 5 x 3 x 3 x 3 products a place, 6 x 6 places, 2 images
    assert script.count_flops(layer, torch.rand(2, 3, 8, 8)) == 2 * 5 * 27 * 36 * 2
