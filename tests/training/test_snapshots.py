"""Snapshots: what a run knew after an epoch is a run of its own, and keeping it changes nothing."""

from pathlib import Path

import numpy as np
import pytest

import blend
import train
from common.files import sha256
from competition import COMPETITIONS
from data.demo import DemoSettings, make_demo
from experiment import Experiment
from results.checkpoints import load_model
from results.runs import read_run, run_folder
from results.workspace import Workspace
from training import fold
from training.recipe_checks import check_experiment

DEMO = COMPETITIONS["demo"]
STEADY = ["batch_size=16", "schedule=constant", "warmup=0"]  # an epoch is the same, however many come after it


@pytest.fixture
def demo(home) -> Path:
    return make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=20))


def run_tiny(name: str, *settings: str) -> None:
    train.main(["--experiment", "cnn_d", "--fold", "0", "--set", *STEADY, *settings, "--name", name])


def weights_hash(name: str) -> str:
    return sha256((run_folder(DEMO, name) / "fold0" / "weights.safetensors").read_bytes())


def test_a_snapshot_equals_a_run_that_ended_there(demo):
    run_tiny("long", "epochs=3", "snapshots=1,2")
    run_tiny("short", "epochs=2")
    assert weights_hash("long_epoch2") == weights_hash("short")
    assert weights_hash("long_epoch1") != weights_hash("short")
    oof = [(run_folder(DEMO, name) / "fold0" / "oof.csv").read_bytes() for name in ("long_epoch2", "short")]
    assert oof[0] == oof[1]
    assert read_run(run_folder(DEMO, "long_epoch2") / "fold0").result["epochs"] == 2


def test_keeping_snapshots_changes_nothing_in_the_run(demo):
    run_tiny("kept", "epochs=3", "snapshots=1")
    run_tiny("plain", "epochs=3")
    assert weights_hash("kept") == weights_hash("plain")


@pytest.mark.parametrize("when", ["_finish", "_save_epoch"])
def test_a_kill_around_a_snapshot_loses_nothing(demo, monkeypatch, when):
    run_tiny("whole", "epochs=3", "snapshots=2")
    real, calls = getattr(fold, when), []

    def killed(state):
        calls.append(state)
        if when == "_finish" or len(calls) == 2:
            raise KeyboardInterrupt
        real(state)

    with monkeypatch.context() as patched:
        patched.setattr(fold, when, killed)
        with pytest.raises(KeyboardInterrupt):
            run_tiny("killed", "epochs=3", "snapshots=2")
    run_tiny("killed", "epochs=3", "snapshots=2")
    assert weights_hash("killed_epoch2") == weights_hash("whole_epoch2")
    assert weights_hash("killed") == weights_hash("whole")


def test_the_same_command_restores_a_deleted_snapshot(demo):
    run_tiny("run", "epochs=2", "snapshots=1")
    kept = weights_hash("run_epoch1")
    (run_folder(DEMO, "run_epoch1") / "fold0" / "result.json").unlink()
    run_tiny("run", "epochs=2", "snapshots=1")
    assert weights_hash("run_epoch1") == kept


def test_snapshots_are_runs_to_load_and_to_blend(demo):
    train.main(["--experiment", "mlp_b", "--set", "epochs=2", "snapshots=1", "--name", "run"])
    workspace = Workspace(DEMO, demo)
    oofs = [workspace.oof(name) for name in ("run", "run_epoch1")]
    assert all(oof.is_whole for oof in oofs)
    assert load_model(oofs[1].runs[0]) is not None
    blend.main(["--experiment", "run", "run_epoch1", "--name", "both"])
    mean = workspace.oof("both_mean").probs
    np.testing.assert_allclose(mean, np.mean([oof.probs for oof in oofs], axis=0), atol=1e-6)


def test_another_run_in_a_snapshots_folder_raises_before_training(demo, monkeypatch):
    run_tiny("run_epoch1", "epochs=1")
    monkeypatch.setattr(fold, "_train_epoch", None)
    with pytest.raises(ValueError, match="run_epoch1.fold0 holds something other than epoch 1 of run as it is trained"):
        run_tiny("run", "epochs=2", "snapshots=1")


@pytest.mark.parametrize(("fields", "message"), [
    ({"snapshots": (2, 1)}, "snapshots=2,1: must be different epochs in ascending order, from 1 to 9"),
    ({"snapshots": (10,)}, "the last epoch, 10, is the run itself"),
    ({"snapshots": (1,), "patience": 2, "val_fraction": 0.1}, "snapshots=1 with patience=2"),
])
def test_snapshots_that_may_not_be_reached_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**fields)


def test_snapshots_of_heads_on_frozen_features_raise():
    frozen = Experiment(network="tf_efficientnet_lite0", stages=("head:10:1e-3",), snapshots=(5,))
    with pytest.raises(ValueError, match="snapshots are of whole networks"):
        check_experiment(frozen, DEMO)
