"""The official validation part and the holdout are predicted, blended and reported, but not used for selection."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import blend
import leaderboard
import make_folds
import predict
import submit
from common.files import read_json, write_json
from competition import COMPETITIONS, Competition, Part
from data.folds import fold_numbers
from experiment import EXPERIMENTS, Experiment
from results.checkpoints import build_network, save_weights
from results.runs import open_run, probs_frame, run_folder, write_probs
from results.workspace import Workspace

LABELS = ("a", "b", "c")
MINE = Competition(name="mine", about="drawn here", task="multilabel", labels=LABELS, scored_labels=("a", "c"),
                   metric="roc_auc", train=Part(table="train.csv", images="images/{image_id}.png"),
                   official_validation=Part(table="valid.csv", images="images/{image_id}.png"), group_column="patient",
                   experiments=("small",))
SMALL = Experiment(network="cnn_d", image_size=64)
WHERE = ["--competition", "mine"]


@pytest.fixture
def mine(home, monkeypatch):
    """80 images of 40 patients to train on, 20 in the expert part; columns age and site."""
    rng = np.random.default_rng(0)
    data = home / "data" / "mine"
    (data / "images").mkdir(parents=True)
    table = pd.DataFrame({"image_id": [f"i{number:03}" for number in range(100)],
                          "patient": [f"p{number // 2:02}" for number in range(100)],
                          **{label: rng.integers(0, 2, 100) for label in LABELS},
                          "age": rng.integers(1, 90, 100), "site": rng.choice(["x", "y"], 100), "empty": ""})
    for image_id in table["image_id"]:
        cv2.imwrite(str(data / "images" / f"{image_id}.png"), rng.integers(0, 256, (8, 8), dtype=np.uint8))
    table.iloc[:80].to_csv(data / "train.csv", index=False)
    table.iloc[80:].to_csv(data / "valid.csv", index=False)
    monkeypatch.setitem(COMPETITIONS, "mine", MINE)
    monkeypatch.setitem(EXPERIMENTS, "small", SMALL)
    return data


def fabricate(data, name: str, split: int = 0, competition: Competition = MINE) -> None:
    """A run with random weights and random out-of-fold predictions, as training leaves it."""
    workspace = Workspace(competition, data)
    table, folds = workspace.table, workspace.folds
    rng, numbers = np.random.default_rng(split), fold_numbers(table, split)
    for fold in range(folds.count):
        run = open_run(competition, name, fold, replace(SMALL, split=split), folds.hash)
        torch.manual_seed(fold + 10 * split)
        model = build_network(run)
        for weights in model.parameters():  # some start at zero, and then all images look alike
            weights.data += 0.1 * torch.randn_like(weights)
        weights_hash = save_weights(run, model)
        ids = table.loc[numbers == fold, "image_id"]
        write_probs(run.folder / "oof.csv", probs_frame(competition, ids, rng.random((len(ids), 3))))
        write_json(run.folder / "result.json", {"prior": [0.5] * 3, "weights_sha256": weights_hash, "seconds": 1,
                                                "parameters": 1, "learned": True})


def read_part_probs(name: str, part: str) -> pd.DataFrame:
    return pd.read_csv(run_folder(MINE, name) / f"{part}.csv").set_index("image_id")


def test_official_validation_and_holdout_are_predicted_and_reported(mine, capsys):
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25"])
    fabricate(mine, "small")
    paths = predict.main([*WHERE, "--experiment", "small"])
    assert len(pd.read_csv(paths[0])) == 20 and read_part_probs("small", "holdout").shape == (20, 3)
    row = leaderboard.main(WHERE).set_index("run").loc["small"]
    folds = pd.read_csv(make_folds.folds_path(MINE)).set_index("image_id")["fold"]
    for part, table in (("official_validation", "valid.csv"), ("holdout", "train.csv")):
        probs = read_part_probs("small", part)
        truth = pd.read_csv(mine / table).set_index("image_id").loc[probs.index]
        scores = [roc_auc_score(truth[label], probs[label]) for label in MINE.scored_labels]
        assert row[part] == pytest.approx(np.mean(scores)) and row[f"{part}_images"] == len(probs)
        assert row[f"{part}_low"] <= row[part] <= row[f"{part}_high"]
        assert row[f"{part}_auc_b"] == pytest.approx(roc_auc_score(truth["b"], probs["b"]))
    assert set(read_part_probs("small", "holdout").index) == set(folds.index[folds == -1])
    printed = capsys.readouterr().out
    assert "official_validation: 20 images" in printed and "holdout: 20 images" in printed
    assert "2 of 3 labels are scored: a, c" in printed
    before = paths[0].stat().st_mtime_ns
    assert predict.main([*WHERE, "--experiment", "small"]) == paths and paths[0].stat().st_mtime_ns == before
    assert "predicted" not in capsys.readouterr().out.replace("were predicted", "")


def test_cross_validation_uses_scored_labels_and_no_holdout(mine):
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25"])
    fabricate(mine, "small")
    workspace = Workspace(MINE, mine)
    table = workspace.table
    probs = workspace.oof("small").probs
    row = leaderboard.main(WHERE).set_index("run").loc["small"]
    by_label = [roc_auc_score(table[label], probs[:, k]) for k, label in enumerate(LABELS)]
    assert len(table) == 60 and row["images"] == 60
    assert row["cv"] == pytest.approx((by_label[0] + by_label[2]) / 2) and row["auc_b"] == pytest.approx(by_label[1])


def test_every_part_is_blended_from_runs_on_two_splits(mine):
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25", "--repeats", "1"])
    fabricate(mine, "small"), fabricate(mine, "small1", split=1)
    assert blend.main([*WHERE, "--experiment", "small", "small1"])  # before anything is predicted
    predict.main([*WHERE, "--experiment", "small", "small1"])
    scores = blend.main([*WHERE, "--experiment", "small", "small1"])
    for part in ("official_validation", "holdout"):
        members = [read_part_probs(name, part) for name in ("small", "small1")]
        pd.testing.assert_frame_equal(read_part_probs("blend_mean", part), (members[0] + members[1]) / 2)
    board = leaderboard.main(WHERE).set_index("run")
    assert board.loc["blend_mean", "splits"] == "0 1" and board.loc["small1", "splits"] == "1"
    assert board.loc["blend_mean", "cv"] == pytest.approx(scores["blend_mean"])
    assert board.loc[["blend_mean", "blend_rank_mean"], ["official_validation", "holdout"]].notna().all(axis=None)
    workspace = Workspace(MINE, mine)
    table = workspace.table
    members = [workspace.oof(name) for name in ("small", "small1")]
    ranks = workspace.oof("blend_rank_mean").probs
    for row in (0, 17, 59):  # a rank is a share of those that the same model predicted
        shares = []
        for oof in members:
            own = fold_numbers(table, oof.split)
            same = oof.probs[own == own[row], 0]
            shares.append((same <= oof.probs[row, 0]).mean())
        assert ranks[row, 0] == pytest.approx(np.mean(shares))


def test_outdated_predictions_are_not_reported(mine):
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25"])
    fabricate(mine, "small")
    predict.main([*WHERE, "--experiment", "small"])
    path = run_folder(MINE, "small") / "fold1" / "result.json"
    write_json(path, {**read_json(path), "weights_sha256": "retrained"})
    assert leaderboard.main(WHERE).set_index("run").loc["small", ["official_validation", "holdout"]].isna().all()


def test_the_holdout_is_predicted_without_a_submitted_part(mine, monkeypatch, capsys):
    monkeypatch.setitem(COMPETITIONS, "mine", replace(MINE, official_validation=None))
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25"])
    fabricate(mine, "small", competition=COMPETITIONS["mine"])
    assert predict.main([*WHERE, "--experiment", "small", "--fold", "0"]) == []
    assert not (run_folder(MINE, "small") / "holdout.csv").exists()
    assert predict.main([*WHERE, "--experiment", "small"]) == [] and len(read_part_probs("small", "holdout")) == 20
    assert "has no part that is submitted" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no part that is submitted"):
        submit.main([*WHERE, "--check", "some.csv"])


def test_predicting_without_any_part_prints_a_message(mine, monkeypatch, capsys):
    monkeypatch.setitem(COMPETITIONS, "mine", replace(MINE, official_validation=None))
    make_folds.main([*WHERE, "--folds", "2"])
    assert predict.main([*WHERE, "--experiment", "small"]) == []
    assert "there is nothing to predict" in capsys.readouterr().out


def test_an_incomplete_run_predicts_only_the_submitted_part(mine):
    make_folds.main([*WHERE, "--folds", "2", "--holdout", "0.25"])
    fabricate(mine, "small")
    path, = predict.main([*WHERE, "--experiment", "small", "--fold", "1"])
    assert path.name == "mine-small-fold1.csv" and not list(run_folder(MINE, "small").glob("*.csv"))


def test_stratification_by_other_columns_is_reported(mine, capsys):
    make_folds.main([*WHERE, "--folds", "2", "--stratify", "age", "site"])
    printed = capsys.readouterr().out
    assert "columns that were stratified by" in printed and "site" in printed
    make_folds.main(WHERE)
    assert "columns that were stratified by" in capsys.readouterr().out


@pytest.mark.parametrize("columns, message", [
    (["agee"], "no column 'agee'; the columns beside ids and labels are patient, age, .*did you mean 'age'"),
    (["empty"], "the column 'empty' is 'blank' for every image"),
    (["a"], "no column 'a'"),
])
def test_an_unusable_stratification_column_raises(mine, columns, message):
    with pytest.raises(ValueError, match=message):
        make_folds.main([*WHERE, "--stratify", *columns])
    assert not make_folds.folds_path(MINE).exists()


def test_flags_that_disagree_with_the_folds_file_raise(mine):
    make_folds.main([*WHERE, "--folds", "3"])
    make_folds.main([*WHERE, "--folds", "3", "--repeats", "0", "--seed", "0"])
    with pytest.raises(ValueError, match="--folds 4, but .*mine.csv has folds 3"):
        make_folds.main([*WHERE, "--folds", "4"])
    with pytest.raises(ValueError, match="--holdout 0.2, but .*mine.csv has holdout 0"):
        make_folds.main([*WHERE, "--holdout", "0.2"])
