"""Training: a killed run goes on to the same bits, black images get the prior, what cannot be trained is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from checkpoints import load_checkpoint, load_model, save_checkpoint
from competition import COMPETITIONS
from demo import DemoSettings, make_demo
from experiment import EXPERIMENTS
from files import sha256
from pixels import PixelSettings, open_store
from runs import Run, read_run
from training import constant_loss, predict_probs

SRC = Path(__file__).resolve().parents[1] / "src"
TINY = ["--set", "epochs=3", "batch_size=16", "--name", "tiny"]


@pytest.fixture
def demo(home) -> Path:
    return make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=20))


def weights_hash(home: Path, name: str, fold: int = 0) -> str:
    return sha256((home / "runs" / "demo" / name / f"fold{fold}" / "weights.safetensors").read_bytes())


def test_training_twice_gives_the_same_weights(demo, home):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    first = weights_hash(home, "tiny")
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY[:-1], "again"])
    assert weights_hash(home, "again") == first


def test_another_seed_gives_other_weights(demo, home):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    train.main(["--experiment", "cnn_d", "--fold", "0", "--set", "epochs=3", "batch_size=16", "seed=1",
                "--name", "other"])
    assert weights_hash(home, "tiny") != weights_hash(home, "other")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code may catch it."""


@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_a_run_stopped_after_any_epoch_ends_with_the_same_weights(demo, home, monkeypatch, epochs_done):
    train.main(["--experiment", "cnn_b", "--fold", "0", *TINY])

    def save_then_die(run: Run, state: dict) -> None:
        save_checkpoint(run, state)
        if state["epoch"] == epochs_done:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("training.save_checkpoint", save_then_die)
        with pytest.raises(Killed):
            train.main(["--experiment", "cnn_b", "--fold", "0", *TINY[:-1], "stopped"])
    train.main(["--experiment", "cnn_b", "--fold", "0", *TINY[:-1], "stopped"])
    assert weights_hash(home, "stopped") == weights_hash(home, "tiny")
    oofs = [(home / "runs" / "demo" / name / "fold0" / "oof.csv").read_bytes() for name in ("tiny", "stopped")]
    assert oofs[0] == oofs[1]


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_weights(demo, home):
    command = [sys.executable, str(SRC / "train.py"), "--experiment", "cnn_b", "--fold", "0",
               "--set", "epochs=12", "batch_size=16"]
    environment = {**os.environ, "STARTER_HOME": str(home)}
    subprocess.run([*command, "--name", "whole"], env=environment, check=True, capture_output=True)

    process = subprocess.Popen([*command, "--name", "killed"], env=environment, stdout=subprocess.DEVNULL)
    checkpoint = home / "runs" / "demo" / "killed" / "fold0" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (checkpoint.parent / "result.json").exists(), "it was not killed half-way"

    subprocess.run([*command, "--name", "killed"], env=environment, check=True, capture_output=True)
    assert weights_hash(home, "killed") == weights_hash(home, "whole")


def test_a_broken_checkpoint_is_named(demo, home):
    folder = home / "runs" / "demo" / "tiny" / "fold0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read.*delete it"):
        train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(demo, home, monkeypatch):
    def fill_the_disk(state: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 15296 vs 15184")  # what torch says then

    real, calls = torch.save, []
    monkeypatch.setattr(torch, "save", lambda *args: (fill_the_disk if calls else real)(*args) or calls.append(1))
    with pytest.raises(OSError, match=r"checkpoint.pt could not be written .* MB are free.*last whole checkpoint"):
        train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    monkeypatch.undo()
    monkeypatch.setenv("STARTER_HOME", str(home))
    folder = home / "runs" / "demo" / "tiny" / "fold0"
    assert load_checkpoint(read_run(folder))["epoch"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "log.csv", "recipe.json"]


def test_a_finished_fold_is_not_trained_again(demo, home, capsys):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    weights = home / "runs" / "demo" / "tiny" / "fold0" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    assert weights.stat().st_mtime_ns == before
    assert "1 of 1 folds are trained already" in capsys.readouterr().out


def test_another_recipe_under_the_same_name_is_refused(demo):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    with pytest.raises(ValueError, match="lr: 0.001 there, 0.002 now"):
        train.main(["--experiment", "cnn_d", "--fold", "0", "--set", "epochs=3", "batch_size=16", "lr=0.002",
                    "--name", "tiny"])


def test_folds_trained_side_by_side_equal_folds_trained_alone(demo, home):
    """Both with one thread, which the tests' environment sets."""
    train.main(["--experiment", "cnn_d", "--fold", "0", "1", *TINY])
    both = [weights_hash(home, "tiny", fold) for fold in (0, 1)]
    experiment = replace(EXPERIMENTS["cnn_d"], epochs=3, batch_size=16)
    jobs = [train.Job(COMPETITIONS["demo"], experiment, "alone", fold, demo, "") for fold in (0, 1)]
    for job in jobs:
        train.train_job(job, threads=1, talk=False)
    assert [weights_hash(home, "alone", fold) for fold in (0, 1)] == both


def test_black_images_get_the_prior_of_the_training_folds(demo, home):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    run = read_run(home / "runs" / "demo" / "tiny" / "fold0")
    oof = pd.read_csv(run.folder / "oof.csv", dtype={"image_id": str}).set_index("image_id")
    folds = pd.read_csv(home / "folds" / "demo.csv", dtype={"image_id": str}).set_index("image_id")["fold"]
    labels = pd.read_csv(demo / "train.csv", dtype={"image_id": str}).set_index("image_id")[run.recipe["labels"]]
    training = labels[(folds != 0).loc[labels.index]]
    prior = [(training[label] == 1).sum() / training[label].isin((0, 1)).sum() for label in labels]
    black = json.loads((home / "folds" / "demo.json").read_text())["black"]
    held_out = [image_id for image_id in black if folds[image_id] == 0]
    assert held_out, "the tiny demo has no black image in fold 0"
    np.testing.assert_allclose(oof.loc[held_out].to_numpy(), np.tile(prior, (len(held_out), 1)), atol=1e-6)


def test_the_saved_network_gives_the_saved_predictions(demo, home):
    train.main(["--experiment", "cnn_b", "--fold", "0", *TINY])
    run = read_run(home / "runs" / "demo" / "tiny" / "fold0")
    oof = pd.read_csv(run.folder / "oof.csv", dtype={"image_id": str})
    paths = [str(demo / "train" / f"{image_id}.png") for image_id in oof["image_id"]]
    table = pd.DataFrame({"image_id": oof["image_id"], "path": paths})
    store = open_store("again", table, PixelSettings(size=64, channels=1))
    probs = predict_probs(load_model(run), store, np.arange(len(table)), "multilabel", run.experiment,
                          np.array(run.result["prior"]))
    np.testing.assert_allclose(probs, oof[run.recipe["labels"]].to_numpy(), atol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(demo):
    with pytest.raises(FloatingPointError, match="not finite"):
        train.main(["--experiment", "cnn_d", "--fold", "0", "--set", "epochs=3", "lr=1e30", "max_grad_norm=1e30",
                    "--name", "wild"])


def test_constant_loss_is_the_entropy_of_the_prevalence():
    targets = np.array([[1.0], [0.0], [0.0], [0.0]], np.float32)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert constant_loss(targets, "binary") == pytest.approx(entropy, rel=1e-6)
    one_hot = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    assert constant_loss(one_hot, "multiclass") == pytest.approx(np.log(3), rel=1e-6)


def test_a_network_learns_sixteen_images(home):
    """Fewer than a hundred steps on images that differ in brightness: a loop that learns nothing fails here."""
    from ema import EMA
    from engine import predict_logits, train_one_epoch
    from loader import ordered_batches, training_batches
    from losses import masked_bce
    from model import build_model, weight_groups

    rng = np.random.default_rng(0)
    targets = np.tile([[1.0], [0.0]], (8, 1)).astype(np.float32)
    from PIL import Image

    paths = []
    for i, (target,) in enumerate(targets):
        path = home / f"{i}.png"
        Image.fromarray((rng.integers(0, 60, (64, 64)) + (120 if target else 20)).astype(np.uint8)).save(path)
        paths.append(str(path))
    table = pd.DataFrame({"image_id": [str(i) for i in range(16)], "path": paths})
    store = open_store("sixteen", table, PixelSettings(size=64, channels=1))
    torch.manual_seed(0)
    model = build_model("cnn_b", 1, 64, 1)
    ema, optimizer = EMA(model, 0.9), torch.optim.AdamW(weight_groups(model, 0.0), 3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for epoch in range(40):
        loader = training_batches(store, np.arange(16), targets, 8, "none", 0, epoch)
        loss = train_one_epoch(model, loader, masked_bce, optimizer, scheduler, ema)
    assert loss < 0.1
    logits = predict_logits(ema.model, ordered_batches(store, np.arange(16), 5), ("identity",))
    assert ((logits.numpy() > 0) == (targets > 0)).all()
