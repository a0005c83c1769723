"""Training: a killed run goes on to the same bits, black images get the prior, what cannot be trained is refused."""

import json
import os
import shutil
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

import make_folds
import train
from common.files import sha256
from competition import COMPETITIONS
from data.demo import DemoSettings, make_demo
from data.folds import read_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import label_cells
from experiment import EXPERIMENTS, Experiment
from real_data import SRC
from results.checkpoints import load_checkpoint, load_model, save_checkpoint
from results.runs import Run, open_run, read_run
from results.workspace import Workspace
from training import fold
from training.fold import beats_constant_baseline
from training.fold_data import FoldData, choose_training_rows, prepare_fold_data, prior_as_trained, read_given_targets
from training.inference import predict_probs
from training.losses import best_constant, label_weights, make_loss
from training.optimization import SCHEDULES, Schedule
from training.recipe_checks import check_experiment
from training.sampling import expected_counts

TINY = ["--set", "epochs=3", "batch_size=16", "--name", "tiny"]


@pytest.fixture
def demo(home) -> Path:
    return make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=20))


def weights_hash(home: Path, name: str, fold: int = 0) -> str:
    return sha256((home / "runs" / "demo" / name / f"fold{fold}" / "weights.safetensors").read_bytes())


def run_tiny(home: Path, name: str, *settings: str, fold: str = "0") -> dict:
    """Trains one fold with these settings; returns its result."""
    train.main(["--experiment", "cnn_d", "--fold", fold, *TINY[:-2], *settings, "--name", name])
    return read_run(home / "runs" / "demo" / name / f"fold{fold}").result


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


STAGED = ["stages=head:2:1e-2,last2:1:1e-3,all:3:1e-3", "epochs=6", "schedule=plateau:1:0.5", "patience=2",
          "val_fraction=0.2",
          "layer_decay=0.8", "accumulate=2", "optimizer=sgd", "mix=mixup:0.4"]


def test_the_validation_split_is_whole_groups_that_are_not_trained_on(demo, home, table):
    run = open_run(COMPETITIONS["demo"], "split", 0, Experiment(val_fraction=0.2, patience=3), "no folds")
    whole = open_run(COMPETITIONS["demo"], "whole", 0, Experiment(), "no folds")
    fold_data, everything = (prepare_fold_data(each, COMPETITIONS["demo"], table) for each in (run, whole))
    group_of = table.set_index("image_id")["group"]
    validation, trained = (set(group_of[ids]) for ids in (fold_data.val_ids, fold_data.image_ids))
    held_out = set(group_of[table.loc[table["fold"] == 0, "image_id"]])
    assert validation and not validation & trained and not validation & held_out
    assert 0.1 < len(fold_data.val_ids) / len(everything.image_ids) < 0.3
    assert set(fold_data.image_ids) | set(fold_data.val_ids) >= set(everything.image_ids)
    changed = table.copy()
    changed.loc[table["fold"] == 0, list(COMPETITIONS["demo"].labels)] = 1.0
    assert set(prepare_fold_data(run, COMPETITIONS["demo"], changed).val_ids) == set(fold_data.val_ids)


def test_early_stopping_keeps_the_weights_of_the_best_epoch(demo, home, monkeypatch):
    scores, averages = iter([0.6, 0.9, 0.7, 0.8, 0.5]), []

    def score_as_told(training, model):
        averages.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("training.fold._validation_score", score_as_told)
    result = run_tiny(home, "watched", "epochs=9", "val_fraction=0.2", "patience=3")
    assert result["epochs"] == 5 and result["val_images"] > 0
    saved = load_model(read_run(home / "runs" / "demo" / "watched" / "fold0")).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in averages[1].items())
    log = pd.read_csv(home / "runs" / "demo" / "watched" / "fold0" / "log.csv")
    assert log["val_score"].tolist() == [0.6, 0.9, 0.7, 0.8, 0.5]


def test_each_stage_trains_its_layers_for_its_epochs(demo, home, monkeypatch):
    learning, real = [], fold.train_one_epoch

    def spy(model, *args):
        learning.append((sorted(name for name, each in model.named_parameters() if each.requires_grad),
                         args[2].param_groups[0]["lr"]))
        return real(model, *args)

    monkeypatch.setattr("training.fold.train_one_epoch", spy)
    run_tiny(home, "staged", "stages=head:2:1e-2,all:1:1e-4", "epochs=3", "schedule=constant", "warmup=0")
    assert learning[0] == learning[1] == (["network.output.bias", "network.output.weight"], 1e-2)
    assert len(learning[2][0]) > 4 and learning[2][1] == 1e-4 and len(learning) == 3


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code may catch it."""


SOFT_AND_BALANCED = ["uncertain=uniform:0.5:0.9,effusion=mean", "sampler=balanced", "augmentation=warp",
                     "loss_weights=balanced"]


@pytest.mark.parametrize("epochs_done, settings", [
    (1, []), (2, []), (3, []), (2, SOFT_AND_BALANCED), (1, STAGED), (2, STAGED), (3, STAGED), (4, STAGED)])
def test_a_run_stopped_after_any_epoch_ends_with_the_same_weights(demo, home, monkeypatch, epochs_done, settings):
    recipe = ["--experiment", "cnn_b", "--fold", "0", *TINY[:-2], *settings, "--name"]
    train.main([*recipe, "tiny"])

    def save_then_die(run: Run, state: dict) -> None:
        save_checkpoint(run, state)
        if state["epoch"] == epochs_done:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("training.fold.save_checkpoint", save_then_die)
        with pytest.raises(Killed):
            train.main([*recipe, "stopped"])
    train.main([*recipe, "stopped"])
    assert weights_hash(home, "stopped") == weights_hash(home, "tiny")
    oofs = [(home / "runs" / "demo" / name / "fold0" / "oof.csv").read_bytes() for name in ("tiny", "stopped")]
    assert oofs[0] == oofs[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers, epochs_done", [(0, 1), (2, 4), (4, 9)])
def test_a_killed_process_resumes_to_the_same_weights(demo, home, workers, epochs_done):
    recipe = ["--experiment", "cnn_b", "--fold", "0", "--set", "epochs=12", "batch_size=16", "augmentation=warp",
              "mix=cutmix:1"]
    train.main([*recipe, "--name", "whole"])

    command = [sys.executable, str(SRC / "train.py"), *recipe, "--workers", str(workers), "--name", "killed"]
    process = subprocess.Popen(command, env={**os.environ, "STARTER_HOME": str(home)}, stdout=subprocess.DEVNULL)
    folder = home / "runs" / "demo" / "killed" / "fold0"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "log.csv").exists() and len((folder / "log.csv").read_text().splitlines()) > epochs_done:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "checkpoint.pt").exists() and not (folder / "result.json").exists(), "it was not killed half-way"

    train.main([*recipe, "--name", "killed"])
    assert weights_hash(home, "killed") == weights_hash(home, "whole")


def test_a_broken_checkpoint_is_named(demo, home):
    folder = home / "runs" / "demo" / "tiny" / "fold0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read.*delete it"):
        train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])


FROZEN = ["network=test_resnet", "stages=head:3:1e-2", "precision=fp32"]


def test_features_computed_once_train_the_head_as_the_backbone_does(demo, home,
                                                                                                 monkeypatch):
    run_tiny(home, "once", *FROZEN)
    assert len(list((home / "data" / "features").glob("*.npy"))) == 1
    monkeypatch.setattr("training.fold.uses_features", lambda experiment: False)
    run_tiny(home, "each_epoch", *FROZEN)
    once, each_epoch = (load_model(read_run(home / "runs" / "demo" / name / "fold0")).state_dict()
                        for name in ("once", "each_epoch"))
    for name, value in each_epoch.items():
        torch.testing.assert_close(once[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("head_fit, network", [("logistic", "test_resnet"), ("svc", "pixels")])
def test_a_fitted_head_is_saved_and_predicts(demo, home, head_fit, network, table):
    result = run_tiny(home, head_fit, f"head_fit={head_fit}", f"network={network}", "epochs=1")
    run = read_run(home / "runs" / "demo" / head_fit / "fold0")
    store = open_store("demo-train", table, PixelSettings(size=64, channels=1))
    images = table.loc[table["fold"] == 0, "image_id"]
    again = predict_probs(load_model(run), store, store.rows(images), "multilabel", run.experiment,
                          np.array(result["prior"]))
    oof = pd.read_csv(run.folder / "oof.csv", dtype={"image_id": str}).set_index("image_id").loc[images]
    np.testing.assert_allclose(again, oof[run.recipe["labels"]], atol=1e-4)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(demo, home, monkeypatch):
    def fill_the_disk(state: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 15296 vs 15184")  # what torch says then

    real, calls = torch.save, []
    monkeypatch.setattr(torch, "save", lambda *args: (fill_the_disk if calls else real)(*args) or calls.append(1))
    with pytest.raises(OSError, match=r"checkpoint.pt could not be written .* MB are free.*last complete checkpoint"):
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


def test_another_recipe_under_the_same_name_raises(demo):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    with pytest.raises(ValueError, match="lr: 0.001 there, 0.002 now"):
        train.main(["--experiment", "cnn_d", "--fold", "0", "--set", "epochs=3", "batch_size=16", "lr=0.002",
                    "--name", "tiny"])


def test_folds_trained_side_by_side_equal_folds_trained_alone(demo, home):
    """Both with one thread, which the tests' environment sets."""
    train.main(["--experiment", "cnn_d", "--fold", "0", "1", *TINY])
    both = [weights_hash(home, "tiny", fold) for fold in (0, 1)]
    experiment = replace(EXPERIMENTS["cnn_d"], epochs=3, batch_size=16)
    jobs = [train.Job(Workspace(COMPETITIONS["demo"], demo), experiment, "alone", fold, "") for fold in (0, 1)]
    for job in jobs:
        train.train_job(job, threads=1, verbose=False)
    assert [weights_hash(home, "alone", fold) for fold in (0, 1)] == both


def test_black_images_get_the_prior_of_the_training_folds(demo, home):
    train.main(["--experiment", "cnn_d", "--fold", "0", *TINY])
    run = read_run(home / "runs" / "demo" / "tiny" / "fold0")
    oof = pd.read_csv(run.folder / "oof.csv", dtype={"image_id": str}).set_index("image_id")
    folds = pd.read_csv(home / "folds" / "demo.csv", dtype={"image_id": str}).set_index("image_id")["fold"]
    labels = pd.read_csv(demo / "train.csv", dtype={"image_id": str}).set_index("image_id")[run.recipe["labels"]]
    training = labels[(folds != 0).loc[labels.index]]
    prior = [(training[label] == 1).sum() / training[label].isin((0, 1)).sum() for label in labels]
    black = json.loads((home / "folds" / "demo.json").read_text())["constant"]
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


# ---- label policies, samplers, loss weights: in the training folds only

EVERYTHING = ("uncertain=uniform:0.5:0.9,effusion=mean", "constant_images=one_per_label_vector", "missing_labels=zeros")


@pytest.fixture
def table(demo, home) -> pd.DataFrame:
    """The tiny demo's folded table."""
    make_folds.main([])
    return Workspace(COMPETITIONS["demo"], demo).table


@pytest.mark.parametrize("settings", [
    ["sampler=natural"], ["sampler=square_root"], ["sampler=balanced", *EVERYTHING],
    ["sampler=label_repeats", "label_repeats=effusion=3,cardiomegaly=5", *EVERYTHING]])
def test_training_shows_no_image_of_the_held_out_fold(demo, home, table, monkeypatch, settings):
    shown, real = [], fold.train_one_epoch

    def spy(model, loader, *args):
        shown.append(np.concatenate([rows.numpy() for _, _, rows in loader]))
        return real(model, loader, *args)

    monkeypatch.setattr("training.fold.train_one_epoch", spy)
    result = run_tiny(home, "spied", *settings)
    assert len(shown) == 3 and all(len(rows) == result["epoch_length"] for rows in shown)
    ids = table["image_id"].to_numpy()  # the store's rows are in the table's order
    held_out = set(ids[table["fold"] == 0])
    assert held_out and not held_out & set(ids[np.concatenate(shown)])
    assert len(set(ids[np.concatenate(shown)])) <= result["trained_on"]


@pytest.mark.parametrize("experiment", [
    Experiment(uncertain=("mean",)), Experiment(uncertain=("uniform:0.5:0.9",), sampler="balanced"),
    Experiment(sampler="square_root", loss_weights="balanced"),
    Experiment(loss_weights="pos_weight", missing_labels=("zeros",)),
    Experiment(constant_images="one_per_label_vector", sampler="label_repeats", label_repeats=("effusion=3",))])
def test_what_is_taught_does_not_depend_on_the_labels_held_out(demo, home, table, experiment):
    run = open_run(COMPETITIONS["demo"], "spied", 0, experiment, "no folds")
    held_out, changed = table["fold"] == 0, table.copy()
    changed.loc[held_out, list(COMPETITIONS["demo"].labels)] = 1.0
    fold_data, again = (prepare_fold_data(run, COMPETITIONS["demo"], each) for each in (table, changed))
    assert not set(fold_data.image_ids) & set(table.loc[held_out, "image_id"])
    for name in ("image_ids", "cells", "targets", "expected"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fold_data, name))
    assert fold_data.weights is again.weights or torch.equal(fold_data.weights, again.weights)


def test_one_black_image_of_each_label_vector_is_trained_on(demo, table):
    competition = COMPETITIONS["demo"]
    table.loc[table.index[:40], "constant"] = True
    cells, black = label_cells(competition, table), table["constant"].to_numpy()
    used, _ = choose_training_rows(competition, table, Experiment(constant_images="one_per_label_vector"), 0)
    chosen = table[used & black]
    vectors = [tuple(np.nan_to_num(row, nan=9)) for row in cells]
    outside = [i for i in np.argsort(table["image_id"], kind="stable") if black[i] and table["fold"].iloc[i] != 0
               and np.isin(cells[i], (0, 1)).any()]
    first = {}
    for i in outside:
        first.setdefault(vectors[i], table["image_id"].iloc[i])
    assert set(chosen["image_id"]) == set(first.values()) and 2 <= len(first) < len(outside)
    for black_rule, count in (("drop", 0), ("keep", len(outside))):
        used, _ = choose_training_rows(competition, table, Experiment(constant_images=black_rule), 0)
        assert (used & black).sum() == count


def test_the_network_predicts_constant_images_only_where_kept(demo, home, table):
    for name, rule, by_prior in (("one", "one_per_label_vector", True), ("keep", "keep", False)):
        result = run_tiny(home, name, f"constant_images={rule}")
        oof = pd.read_csv(home / "runs" / "demo" / name / "fold0" / "oof.csv", dtype={"image_id": str})
        black = oof["image_id"].isin(table.loc[table["constant"], "image_id"])
        assert black.any()
        alike = np.isclose(oof.loc[black, list(COMPETITIONS["demo"].labels)], result["prior"], atol=1e-6).all()
        assert alike == by_prior


def test_the_schedule_follows_the_length_of_an_epoch(demo, home, monkeypatch):
    seen, real = [], SCHEDULES["cosine"].build
    monkeypatch.setitem(SCHEDULES, "cosine", Schedule(build=lambda step, steps, *others: seen.append(steps) or real(
        step, steps, *others)))
    result = run_tiny(home, "longer", "sampler=label_repeats", "label_repeats=effusion=4,consolidation=3")
    assert result["epoch_length"] > result["trained_on"] > 16
    assert set(seen) == {3 * -(-result["epoch_length"] // 16)}


def test_what_is_scored_is_counted_in_the_result(demo, home, table):
    scored = run_tiny(home, "tiny")["scored"]
    held_out = table[table["fold"] == 0]
    for label in COMPETITIONS["demo"].labels:
        cells = held_out[label]
        assert scored[label] == {"certain": cells.isin((0, 1)).sum(), "positive": (cells == 1).sum()}


@pytest.mark.parametrize("settings", [["uncertain=ones,effusion=mean", "missing_labels=effusion=zeros",
                                       "sampler=square_root"],
                                      ["uncertain=uniform:0.2:0.3", "loss_weights=pos_weight"],
                                      ["sampler=balanced", "loss_weights=balanced", "constant_images=keep"]])
def test_one_network_a_label_learns_under_every_policy(demo, home, settings):
    assert np.isfinite(run_tiny(home, "many", "per_task=true", *settings)["loss"])


# ---- taught by a first run


@pytest.fixture
def taught(home) -> pd.DataFrame:
    """The folded table of a demo with many uncertain labels, two folds and a finished run called first."""
    folder = make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=20, uncertain=0.2))
    make_folds.main(["--folds", "2"])
    for number in ("0", "1"):  # one by one, since processes take long to start
        run_tiny(home, "first", fold=number)
    return Workspace(COMPETITIONS["demo"], folder).table


def train_again(home: Path, name: str, fold: int) -> None:
    """Stands for it: the run's fold now says that it has other weights."""
    path = home / "runs" / "demo" / name / f"fold{fold}" / "result.json"
    path.write_text(path.read_text().replace(weights_hash(home, name, fold), "0" * 64))


def test_uncertain_cells_are_taught_by_models_that_did_not_see_them(taught, home, monkeypatch):
    fold_data, real = [], fold.prepare_fold_data
    monkeypatch.setattr("training.fold.prepare_fold_data", lambda *args: fold_data.append(real(*args)) or fold_data[-1])
    result = run_tiny(home, "second", "uncertain=effusion=self:first,ones")
    cells, ids = fold_data[0].cells, fold_data[0].image_ids
    folder = home / "runs" / "demo" / "first"
    oof = pd.read_csv(folder / "fold1" / "oof.csv", dtype={"image_id": str}).set_index("image_id")  # trained on fold 0
    doubtful = cells[:, 0] == -1
    assert doubtful.sum() > 3
    np.testing.assert_allclose(fold_data[0].targets[doubtful, 0], oof.loc[ids[doubtful], "effusion"], atol=1e-6)
    assert (fold_data[0].targets[cells[:, 1] == -1, 1] == 1).all()
    assert result["teacher_weights"] == {f"first/fold{fold}": weights_hash(home, "first", fold) for fold in (0, 1)}
    assert "teacher_weights" not in read_run(folder / "fold0").result


def test_a_teacher_is_another_finished_run_of_the_same_split(taught, home):
    competition = COMPETITIONS["demo"]
    own, other = (open_run(competition, name, 0, Experiment(uncertain=("self:first",), split=split),
                           read_folds(competition).hash) for name, split in (("first0", 0), ("other", 1)))
    with pytest.raises(ValueError, match="its own predictions cannot be a run's targets"):
        read_given_targets(replace(own, folder=home / "runs" / "demo" / "first" / "fold0"), competition, taught)
    with pytest.raises(ValueError, match="trained on split 0, this one is on split 1"):
        read_given_targets(other, competition, taught)
    with pytest.raises(FileNotFoundError, match="self:nobody: no finished run has this name; first run: .*"
                                                "--experiment nobody"):
        run_tiny(home, "third", "uncertain=self:nobody")
    assert not (home / "runs" / "demo" / "third").exists()
    path = home / "runs" / "demo" / "first" / "fold0" / "recipe.json"
    recipe = json.loads(path.read_text())
    shutil.rmtree(home / "runs" / "demo" / "first" / "fold1")
    with pytest.raises(ValueError, match=r"lacks the folds \[1\]; run: .*--name first --fold 1"):
        run_tiny(home, "third", "uncertain=self:first")
    path.write_text(json.dumps(recipe | {"folds_sha256": "other"}))
    with pytest.raises(ValueError, match="trained on another folds file"):
        run_tiny(home, "third", "uncertain=self:first")


def test_all_folds_are_taught_by_the_same_models(taught, home):
    run_tiny(home, "second", "uncertain=self:first")
    train_again(home, "first", 1)
    with pytest.raises(ValueError, match="used predictions of other models than first has now; delete"):
        run_tiny(home, "second", "uncertain=self:first", fold="1")


def test_a_run_is_not_gone_on_with_under_another_teacher(taught, home, monkeypatch):
    def save_then_die(run: Run, state: dict) -> None:
        save_checkpoint(run, state)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("training.fold.save_checkpoint", save_then_die)
        with pytest.raises(Killed):
            run_tiny(home, "second", "uncertain=self:first")
    train_again(home, "first", 1)
    with pytest.raises(ValueError, match="has been trained anew; delete"):
        run_tiny(home, "second", "uncertain=self:first")


# ---- recipes that mean nothing


@pytest.mark.parametrize("settings, message", [
    (["uncertain=effusionn=ones"], "uncertain names the label 'effusionn', which does not exist; did you mean 'effusi"),
    (["missing_labels=effusoin=zeros"], "missing_labels names the label 'effusoin'"),
    (["sampler=label_repeats", "label_repeats=Effusion=2"], "label_repeats names the label 'Effusion'"),
    (["preprocessing=clahee"], "preprocessing: there is no 'clahee'"),
])
def test_an_unknown_name_raises_before_training(demo, home, settings, message):
    with pytest.raises(ValueError, match=message):
        run_tiny(home, "wrong", *settings)
    assert not (home / "runs").exists()


@pytest.mark.parametrize("experiment, message", [
    (Experiment(uncertain=("ones",)), "where classes exclude one another"),
    (Experiment(uncertain=("normal=self:first",)), "where classes exclude one another"),
    (Experiment(loss_weights="pos_weight"), "for classes there is balanced"),
])
def test_what_means_nothing_for_classes_is_refused(home, experiment, message):
    (home / "runs" / "pneumonia3" / "first" / "fold0").mkdir(parents=True)
    (home / "runs" / "pneumonia3" / "first" / "fold0" / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        check_experiment(experiment, COMPETITIONS["pneumonia3"])
    sound = Experiment(uncertain=("self:first",), loss_weights="balanced")
    assert check_experiment(sound, COMPETITIONS["pneumonia3"]) == []


def test_a_recipe_that_makes_up_for_rare_labels_twice_is_doubtful():
    notes = check_experiment(Experiment(sampler="balanced", loss_weights="balanced"), COMPETITIONS["demo"])
    assert len(notes) == 1 and "together they do so twice" in notes[0]


def test_a_loss_that_is_not_finite_stops_the_run(demo):
    message = r"wild/fold0: the loss of epoch 1, step \d is not finite; its images: \w+, .* more. Lower lr"
    with pytest.raises(FloatingPointError, match=message):
        train.main(["--experiment", "cnn_d", "--fold", "0", "--set", "epochs=3", "lr=1e30", "max_grad_norm=1e30",
                    "--name", "wild"])


def fold_data_of(targets: np.ndarray, sampler: str = "natural", loss_weights: str = "none",
               task: str = "multilabel") -> FoldData:
    count = len(targets)
    names = np.arange(count).astype(str)
    return FoldData(names, names, targets, targets.astype(np.float32),
                   expected_counts(sampler, targets, task), label_weights(loss_weights, targets, task), {},
                   np.array([], str), targets[:0])


@pytest.mark.parametrize("sampler, loss_weights", [
    ("natural", "none"), ("natural", "balanced"), ("natural", "pos_weight"), ("balanced", "none"),
    ("square_root", "none"), ("balanced", "pos_weight")])
@pytest.mark.parametrize("soft", [False, True])
def test_learned_means_a_lower_loss_than_the_best_constant(monkeypatch, sampler, loss_weights,
                                                                                soft):
    rng = np.random.default_rng(0)
    positive = rng.random((2000, 1)) < 0.1
    targets = np.where(positive, 0.75, 0.25) if soft else positive.astype(float)
    fold_data = fold_data_of(targets, sampler, loss_weights)
    best = best_constant(fold_data.targets, "multilabel", fold_data.weights, fold_data.expected)[0]
    monkeypatch.setattr("training.fold.ordered_batches", lambda store, rows, size: rows)
    for logits, learned in ((np.log(best / (1 - best)) + 0 * positive, False),  # the best constant itself
                            (np.log(best / (1 - best)) + np.where(positive, 0.5, -0.5), True),
                            (np.log(best / (1 - best)) + np.where(positive, -0.5, 0.5), False)):
        monkeypatch.setattr("training.fold.predict_logits", lambda model, rows, views, logits=logits: torch.from_numpy(
            logits[rows]))
        loss_fn = make_loss("cross_entropy", "multilabel", fold_data.weights)
        assert beats_constant_baseline(None, None, np.arange(2000), fold_data, "multilabel", 0, loss_fn) == learned


@pytest.mark.parametrize("loss, smoothing", [
    ("cross_entropy", 0.2), ("focal:2", 0), ("focal:2", 0.2), ("asymmetric:4:1:0.05", 0), ("auc_margin:1", 0),
    ("soft_f1", 0)])
def test_learned_is_judged_by_the_loss_of_training(monkeypatch, loss, smoothing):
    positive = np.arange(1000)[:, None] % 10 == 0
    fold_data, loss_fn = fold_data_of(positive.astype(float)), make_loss(loss, "binary", None, smoothing)
    monkeypatch.setattr("training.fold.ordered_batches", lambda store, rows, size: rows)

    def learned(logits: np.ndarray) -> bool:
        monkeypatch.setattr("training.fold.predict_logits", lambda model, rows, views: torch.from_numpy(logits[rows]))
        return beats_constant_baseline(None, None, np.arange(1000), fold_data, "binary", 0, loss_fn)

    for constant in (-9, -2.2, -1, 0, 9):
        assert not learned(np.full((1000, 1), float(constant)))
    assert learned(np.where(positive, 1.0, -1.0))
    assert not learned(np.where(positive, -1.0, 1.0))


def test_sampler_and_weights_shift_the_prior_of_constant_images():
    targets = (np.arange(100) < 20).astype(float)[:, None]
    for sampler, weights in (("balanced", "none"), ("natural", "balanced"), ("natural", "pos_weight")):
        np.testing.assert_allclose(prior_as_trained(np.array([0.2]), fold_data_of(targets, sampler, weights), "binary"),
                                   0.5)
        other = prior_as_trained(np.array([0.1]), fold_data_of(targets, sampler, weights), "binary")
        np.testing.assert_allclose(other / (1 - other), 4 * (0.1 / 0.9))  # the odds change as 20 : 80 to 50 : 50
    np.testing.assert_allclose(prior_as_trained(np.array([0.2]), fold_data_of(targets), "binary"), 0.2)
    classes = np.eye(3)[np.repeat([0, 1, 2], (50, 30, 20))]
    fold_data = fold_data_of(classes, "balanced", task="multiclass")
    prior = prior_as_trained(np.array([0.5, 0.3, 0.2]), fold_data, "multiclass")
    np.testing.assert_allclose(prior, 1 / 3)


def test_a_network_learns_sixteen_images(home):
    """Fewer than a hundred steps on images that differ in brightness: a loop that learns nothing fails here."""
    from models.classifier import build_model
    from training.batches import ordered_batches, training_batches
    from training.loop import predict_logits, train_one_epoch
    from training.losses import masked_bce
    from training.optimization import EMA, weight_groups

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


def test_a_file_with_another_folds_weights_raises(demo, home):
    train.main(["--experiment", "cnn_d", "--fold", "1", *TINY])
    path = home / "runs" / "demo" / "tiny" / "fold1" / "weights.safetensors"
    copied = home / "data" / "copied.safetensors"
    shutil.copy(path, copied)
    for file in (path.relative_to(home), copied.relative_to(home)):
        with pytest.raises(ValueError, match="seen images that other folds hold out; set weights=run:tiny"):
            run_tiny(home, "leaking", f"weights={file}")
    assert not (home / "runs" / "demo" / "leaking").exists()


def test_a_stage_without_such_layers_raises_before_training(demo, home):
    with pytest.raises(ValueError, match="stages=last9: this network's backbone has 3 layers with weights"):
        run_tiny(home, "staged", "stages=head:1:1e-3,last9:2:1e-3", "epochs=3")
    assert not (home / "runs" / "demo" / "staged" / "fold0" / "log.csv").exists()


def test_one_process_does_not_resume_a_fold_of_several(demo, home, monkeypatch):
    real = save_checkpoint

    def save_then_die(run: Run, state: dict) -> None:
        real(run, {**state, "processes": 2})
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("training.fold.save_checkpoint", save_then_die)
        with pytest.raises(Killed):
            run_tiny(home, "parallel")
    with pytest.raises(ValueError, match="begun by 2 processes, now there are 1"):
        run_tiny(home, "parallel")


def test_predictions_that_are_not_finite_raise_before_writing(demo, home, monkeypatch):
    real = fold.train_one_epoch

    def spoil_the_average(model, loader, loss_fn, optimizer, scheduler, ema, *others):
        loss = real(model, loader, loss_fn, optimizer, scheduler, ema, *others)
        next(ema.model.parameters()).data.fill_(float("nan"))  # as the last step of an epoch can
        return loss

    monkeypatch.setattr("training.fold.train_one_epoch", spoil_the_average)
    with pytest.raises(FloatingPointError, match="the network's logits are not finite"):
        run_tiny(home, "spoilt")
    assert not (home / "runs" / "demo" / "spoilt" / "fold0" / "weights.safetensors").exists()


@pytest.mark.parametrize("settings, message", [
    (["val_fraction=0.01", "patience=2"], "validation images cannot be scored|too few groups"),
    (["loss=auc_margin:1", "accumulate=2"], "compares the images of a whole batch"),
    (["loss=asymmetric:4:1:1"], "CLIP is subtracted"),
    (["mix=mixup:0"], "ALPHA must be above 0"),
    (["head_fit=svc", "augmentation=warp"], "set augmentation=none, or head_fit=gradient"),
])
def test_an_invalid_recipe_raises_before_training(demo, home, settings, message):
    with pytest.raises(ValueError, match=message):
        run_tiny(home, "odd", *settings)
    assert not (home / "runs" / "demo" / "odd" / "fold0" / "log.csv").exists()
