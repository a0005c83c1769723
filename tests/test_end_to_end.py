"""The whole pipeline on the demo and on real data: folds, training, prediction, blend, leaderboard, heat maps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import blend
import explain
import leaderboard
import make_demo
import make_folds
import predict
import train
from competition import COMPETITIONS
from real_data import require
from results.checkpoints import load_model
from results.runs import read_run

LABELS = list(COMPETITIONS["demo"].labels)
QUICK = ["--set", "epochs=2", "batch_size=32"]


def train_quickly(experiment: str, name: str, *where: str, settings: tuple[str, ...] = ()) -> None:
    train.main([*where, "--experiment", experiment, *QUICK, *settings, "--name", name])


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A small demo with two networks trained on all folds."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STARTER_HOME", str(home))
        make_demo.main(["--images", "120", "--set", "test_images=40"])
        make_folds.main(["--folds", "3"])
        train_quickly("cnn_b", "cnn")
        train_quickly("mlp_a", "mlp")
    return home


@pytest.fixture
def trained(trained_once, home):
    """The same, for each test to do with as it likes."""
    shutil.copytree(trained_once, home, dirs_exist_ok=True)
    return home


def test_from_images_to_a_checked_submission(trained, capsys):
    paths = predict.main(["--experiment", "cnn", "mlp"])
    scores = blend.main(["--experiment", "cnn", "mlp"])
    board = leaderboard.main([])
    sheets = explain.main(["--experiment", "cnn", "mlp"])

    sample = pd.read_csv(trained / "data" / "demo" / "sample_submission.csv", dtype=str)
    for path in [*paths, *(trained / "submissions" / f"demo-{name}.csv" for name in scores)]:
        submission = pd.read_csv(path, dtype=str)
        assert list(submission.columns) == list(sample.columns)
        assert list(submission["image_id"]) == list(sample["image_id"])
        assert submission[LABELS].astype(float).stack().between(0, 1).all()
        assert json.loads(path.with_suffix(".json").read_text())["inputs"]["folds"]
    assert {"cnn", "mlp", "blend_mean", "blend_rank_mean"} <= set(board["run"])
    assert board.set_index("run").loc["blend_mean", "cv"] == pytest.approx(scores["blend_mean"])
    assert board["public"].notna().sum() >= 6 and board["private"].notna().sum() >= 6
    assert sheets and all(Path(sheet).stat().st_size > 10_000 for sheet in sheets)
    assert "mlp" in capsys.readouterr().out  # listed as without a convolution


def test_every_image_is_predicted_by_its_held_out_model(trained):
    folds = pd.read_csv(trained / "folds" / "demo.csv", dtype={"image_id": str})
    for fold in range(3):
        oof = pd.read_csv(trained / "runs" / "demo" / "cnn" / f"fold{fold}" / "oof.csv", dtype={"image_id": str})
        assert set(oof["image_id"]) == set(folds.loc[folds["fold"] == fold, "image_id"])


def test_a_recipe_without_defaults_runs_from_training_to_submission(trained):
    """Labels from another run, one network for each label, and no default for sampling, loss, colour and shape."""
    train_quickly("mlp_a", "own", settings=(
        "uncertain=self:cnn,effusion=uniform:0.5:0.9", "missing_labels=zeros,effusion=ignore",
        "constant_images=one_per_label_vector", "sampler=label_repeats", "label_repeats=cardiomegaly=3,effusion=2",
        "loss_weights=pos_weight", "per_task=true", "colour=rgb", "resize_mode=letterbox", "preprocessing=clahe",
        "augmentation=warp"))
    run = read_run(trained / "runs" / "demo" / "own" / "fold2")
    assert run.recipe["channels"] == 3 and load_model(run).classifiers[0].mean.shape == (3, 1, 1)
    teachers = {f"cnn/fold{fold}": read_run(trained / "runs" / "demo" / "cnn" / f"fold{fold}") for fold in range(3)}
    assert run.result["teacher_weights"] == {name: each.result["weights_sha256"] for name, each in teachers.items()}
    submission = pd.read_csv(predict.main(["--experiment", "own"])[0])
    assert submission[LABELS].stack().between(0, 1).all()
    assert leaderboard.main([]).set_index("run")["cv"].notna().loc[["own", "cnn"]].all()


def test_a_missing_fold_raises_with_the_command(trained):
    (trained / "runs" / "demo" / "cnn" / "fold1" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the folds \[1\].*train.py.*--fold 1"):
        predict.main(["--experiment", "cnn"])
    with pytest.raises(ValueError, match="lacks the folds"):
        blend.main(["--experiment", "cnn", "mlp"])
    assert not (trained / "submissions").exists()


def test_a_run_with_missing_folds_is_listed_and_not_ranked(trained):
    (trained / "runs" / "demo" / "cnn" / "fold1" / "result.json").unlink()
    board = leaderboard.main([]).set_index("run")
    assert board.loc["cnn", "status"] == "lacks folds 1"
    assert pd.isna(board.loc["cnn", "rank"]) and pd.isna(board.loc["cnn", "cv"])
    assert board.loc["mlp", "rank"] == 1


def test_an_incomplete_run_predicts_only_with_explicit_folds(trained):
    whole = pd.read_csv(predict.main(["--experiment", "cnn"])[0])
    part = pd.read_csv(predict.main(["--experiment", "cnn", "--fold", "0"])[0])
    assert not np.allclose(whole[LABELS], part[LABELS])


def test_a_second_prediction_is_skipped(trained, capsys):
    path = predict.main(["--experiment", "cnn"])[0]
    before = path.stat().st_mtime_ns
    predict.main(["--experiment", "cnn"])
    assert path.stat().st_mtime_ns == before
    assert "exists already" in capsys.readouterr().out


def test_a_competition_without_folds_raises_with_the_command(home, monkeypatch):
    data = make_demo.main(["--images", "20", "--set", "test_images=4"])
    monkeypatch.setitem(COMPETITIONS, "mine", replace(COMPETITIONS["demo"], name="mine"))
    with pytest.raises(FileNotFoundError, match=r"python src/make_folds.py --competition mine --data-dir"):
        train.main(["--competition", "mine", "--data-dir", str(data), "--experiment", "mlp_a"])


def test_a_missing_data_folder_raises_with_the_flag(home):
    with pytest.raises(FileNotFoundError, match="--data-dir"):
        train.main(["--competition", "nih3", "--experiment", "mlp_a"])


def test_a_changed_folds_file_raises_until_it_is_checked(trained):
    path = trained / "folds" / "demo.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(ValueError, match="make_folds.py"):
        leaderboard.main([])


def test_the_ceiling_is_above_every_run(trained):
    board = leaderboard.main([]).set_index("run")
    assert (board.loc["ceiling: the posterior", "cv"] > board["cv"].drop("ceiling: the posterior").dropna()).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder", "images", "test_images"), [
    ("nih3", "nih1000", 723, 200), ("nih14", "nih1000", 723, 200),
    ("pneumonia2", "chest_xray", 5216, 624), ("pneumonia3", "chest_xray", 5216, 624)])
def test_real_images_from_folds_to_submission(home, capsys, name, folder, images, test_images):
    where = ["--competition", name, "--data-dir", str(require(folder))]
    make_folds.main([*where, "--folds", "2"])
    train_quickly("mlp_a", "mlp", *where)
    submission = pd.read_csv(predict.main([*where, "--experiment", "mlp"])[0])
    assert len(submission) == test_images
    board = leaderboard.main(where).set_index("run")
    assert board.loc["mlp", "images"] == images
    assert board.loc["mlp", "roc_auc"] > 0.5
