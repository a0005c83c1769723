"""decide.py: cross-fitted figures, what is adopted is used everywhere, and nothing else changes by looking."""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import blend
import decide
import leaderboard
from common.files import home as home_folder
from common.files import read_json
from competition import Competition, Part
from results.adopted_rules import rule_for
from results.runs import Oof, decisions_path, read_oof
from results.workspace import Workspace
from scoring import label_shift
from scoring.decision_rules import DecisionRule
from scoring.metrics import METRICS
from scoring.thresholds import crossfit_decisions, fit_thresholds
from submitting.submission import read_submission, submission_path
from two_runs import fabricate_two_runs
from workspaces import filled_workspace

LABELS = ("a", "b", "c")
MINE = Competition(name="mine", about="drawn here", task="multilabel", labels=LABELS, metric="f1_macro",
                   train=Part(table="train.csv", images="images/{image_id}.png"), submission="labels",
                   test=Part(table="test.csv", images="images/{image_id}.png"), group_column="patient")
TASKS = {"hard": MINE, "soft": replace(MINE, metric="log_loss", submission="probs"),
         "classes": replace(MINE, task="multiclass", metric="f1_macro"),
         "binary": replace(MINE, task="binary", labels=("a",), metric="roc_auc", submission="probs")}


def rule_of(competition: Competition, oof: Oof, gives: str) -> DecisionRule:
    """The rule of a run as a new process finds it."""
    return rule_for(Workspace(competition, home_folder() / "data" / "mine"), oof, gives)


def decide_mine(*words: str) -> dict:
    return decide.main(["--competition", "mine", "--experiment", "one", *words]).get("one")


@pytest.fixture
def mine(home, monkeypatch, request):
    """The competition, its table and folds, and the predictions of the first of two runs."""
    monkeypatch.setattr(label_shift, "REPLICATES", 20)
    competition = TASKS[getattr(request, "param", "hard")]
    return competition, *fabricate_two_runs(home, monkeypatch, competition)


def test_scores_are_those_of_cross_fitted_thresholds(mine):
    competition, table, _, oof = mine
    said = decide_mine()
    targets, row = table[list(LABELS)].to_numpy(float), said["rules"]["f1_macro"]["thresholds"]
    crossfitted = crossfit_decisions(targets, oof.probs, table["fold"].to_numpy(), "multilabel")
    naive = oof.probs >= fit_thresholds(targets, oof.probs)
    score = METRICS["f1_macro"].score
    assert row["crossfit"] == pytest.approx(score(targets, crossfitted, "multilabel"))
    assert row["naive"] == pytest.approx(score(targets, naive.astype(int), "multilabel"))
    assert row["optimism"] == pytest.approx(row["naive"] - row["crossfit"])
    assert row["thresholds"] == dict(zip(LABELS, fit_thresholds(targets, oof.probs), strict=True))
    half = said["rules"]["f1_macro"]["half"]
    assert half["gain"] < 0 and half["gain_low"] <= half["gain"] <= half["gain_high"]
    assert read_json(decisions_path(competition, "one")) == said
    assert decisions_path(competition, "one").with_name("reliability.png").stat().st_size > 1000
    assert said["images"] == 120 and said["positives"]["a"] == targets[:, 0].sum()


@pytest.mark.parametrize("mine", TASKS, indirect=True)
def test_comparing_rules_adopts_nothing(mine, capsys):
    competition, _, _, oof = mine
    where = ["--competition", "mine"]
    before = leaderboard.main(where)
    said = decide_mine("--label-shift")
    pd.testing.assert_frame_equal(leaderboard.main(where), before)
    assert said["adopted"] == {} and set(said["label_shift"]["prevalence"]) == set(competition.labels)
    for kind in ("probs", "decisions"):
        assert rule_of(competition, oof, kind).name in ("as_is", "thresholds", "argmax")
    assert "estimated from its scores" in capsys.readouterr().out


def test_leaderboard_and_submission_use_the_adopted_rule(mine):
    competition, *_ = mine
    where = ["--competition", "mine"]
    blend.main([*where, "--experiment", "one", "two"])
    path, run = submission_path(competition, "blend_mean"), [*where, "--experiment", "blend_mean"]
    written, scored = path.read_bytes(), leaderboard.main(where).set_index("run")
    said = decide.main([*run, "--adopt", "half"])["blend_mean"]
    assert said["adopted"] == {"decisions": {"rule": "half", "metric": "f1_macro"}}
    now = leaderboard.main(where).set_index("run")
    assert now.loc["blend_mean", "cv"] == now.loc["blend_mean", "f1_at_half"] != scored.loc["blend_mean", "cv"]
    assert now.loc["one", "cv"] == scored.loc["one", "cv"]
    blend.main([*where, "--experiment", "one", "two"])
    assert path.read_bytes() != written
    assert not read_submission(path)[list(LABELS)].astype(float).to_numpy().any()  # nothing scores above a half
    assert read_json(path.with_suffix(".json"))["decision_rule"]["name"] == "half"
    assert decide.main(run)["blend_mean"]["adopted"] == said["adopted"]  # looking again keeps it
    assert decide.main([*run, "--adopt", "default"])["blend_mean"]["adopted"] == {}
    blend.main([*where, "--experiment", "one", "two"])
    assert path.read_bytes() == written


@pytest.mark.parametrize("mine", ["soft"], indirect=True)
def test_leaderboard_and_submission_use_the_adopted_calibration(mine):
    competition, *_ = mine
    where = ["--competition", "mine"]
    blend.main([*where, "--experiment", "one", "two"])
    before = leaderboard.main(where).set_index("run").loc["blend_mean"]
    said = decide.main([*where, "--experiment", "blend_mean", "--adopt", "platt"])["blend_mean"]
    row = leaderboard.main(where).set_index("run").loc["blend_mean"]
    assert row["cv"] == pytest.approx(said["rules"]["log_loss"]["platt"]["crossfit"]) and row["cv"] < before["cv"]
    blend.main([*where, "--experiment", "one", "two"])
    values = read_submission(submission_path(competition, "blend_mean"))[list(LABELS)].astype(float)
    assert values.to_numpy().max() > 0.6  # no score is


def test_rules_adopted_for_other_predictions_raise(mine, capsys):
    competition, table, folds, oof = mine
    decide_mine("--adopt", "half")
    path = oof.runs[0].folder / "oof.csv"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    changed = read_oof(competition, "one", table, folds.hash)
    with pytest.raises(ValueError, match="other predictions than one has now; run: python src/decide.py"):
        rule_of(competition, changed, "decisions")
    board = leaderboard.main(["--competition", "mine"]).set_index("run")
    assert "not counted" in board.loc["one", "status"] and board.loc["two", "status"] == "whole"
    assert decide_mine()["adopted"] == {}
    assert "no longer adopted" in capsys.readouterr().out
    assert rule_of(competition, changed, "decisions").name == "thresholds"


def test_an_unknown_rule_changes_no_file(mine):
    competition, *_ = mine
    decide_mine("--adopt", "half")
    before = decisions_path(competition, "one").read_bytes()
    with pytest.raises(ValueError, match="'platt'; choose one of default, half, thresholds"):
        decide_mine("--adopt", "platt")
    assert decisions_path(competition, "one").read_bytes() == before
    (decisions_path(competition, "one").with_name("test.json")).unlink()
    with pytest.raises(FileNotFoundError, match="has not predicted the test images; run: python src/predict.py"):
        decide_mine("--label-shift")


def test_a_run_that_lacks_a_fold_raises(mine):
    *_, oof = mine
    (oof.runs[1].folder / "result.json").unlink()
    with pytest.raises(ValueError, match=r"lacks the folds \[1\]; run: "):
        decide_mine()


def test_ranks_and_tables_without_truth_raise(mine):
    competition, table, _, oof = mine
    known = decide.ScoredOof(filled_workspace(competition, table), replace(oof, kind="rank_mean"))
    with pytest.raises(ValueError, match="ranks, whose distribution does not depend"):
        decide.show_label_shift(known)
    blank = replace(known, workspace=filled_workspace(competition, table, targets=np.full((120, 3), np.nan)))
    with pytest.raises(ValueError, match="no rule can be fitted"):
        decide.decide_run(blank, argparse.Namespace(metric=None, label_shift=False, adopt=None))
