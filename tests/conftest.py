"""Puts src/ on the path and keeps the suite quiet, offline and on one thread."""

import os
import sys
from pathlib import Path

os.environ.update(NO_ALBUMENTATIONS_UPDATE="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE",
                  MPLBACKEND="Agg", CUDA_VISIBLE_DEVICES="")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import pytest  # noqa: E402


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home folder: what a test makes never meets the user's own runs."""
    monkeypatch.setenv("STARTER_HOME", str(tmp_path))
    return tmp_path
