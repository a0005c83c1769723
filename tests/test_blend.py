"""The blend script: what it tries, recommends, writes and refuses."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

import blend
import predict
from blend import blend_runs, pick_best, predict_blends, recommendation
from common.files import read_json, write_json
from competition import Competition, Part
from experiment import EXPERIMENTS
from results.runs import (
    list_runs,
    open_run,
    probs_frame,
    read_oof,
    read_predictions,
    run_folder,
    write_blend,
    write_predictions,
    write_probs,
)
from scoring.blend_gain import Gain, measure_gains
from scoring.blending import METHODS
from scoring.metrics import METRICS
from workspaces import filled_workspace

N, HASH = 240, "f" * 64
COMPETITION = Competition(name="small", about="nothing drawn", task="multilabel", labels=("a", "b"), metric="roc_auc",
                          train=Part(table="train.csv", images="{image_id}.png"),
                          experiments=("first", "second", "noise"))
EXPECTED = {"first": [2, 0], "second": [0, 2], "seed1": [2, 0], "noise": [0, 0], "more": [0, 0]}  # of two signals


@pytest.fixture
def table(home):
    """240 images of 120 patients in 4 folds; runs that know a signal, another, the first again, nothing, nothing."""
    return play(COMPETITION)


def play(competition: Competition) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    k, signals = len(competition.labels), rng.normal(size=(2, N, len(competition.labels)))
    if competition.task == "multiclass":
        cells = np.eye(k)[(signals.sum(axis=0) + rng.gumbel(size=(N, k))).argmax(axis=1)]
    else:
        cells = (rng.random((N, k)) < expit(2 * signals.sum(axis=0))).astype(float)
        cells[rng.random(cells.shape) < 0.05] = -1
    group = np.arange(N) // 2
    table = pd.DataFrame({"image_id": [f"i{row:03}" for row in range(N)], "group": group.astype(str), "fold": group % 4,
                          "fold_1": group // 2 % 4, **dict(zip(competition.labels, cells.T, strict=True))})
    for seed, (name, knows) in enumerate(EXPECTED.items()):
        logits = np.tensordot(knows, signals, axes=1) + rng.normal(size=(N, k)) * (0.3 if any(knows) else 2)
        probs = softmax(logits, axis=1) if competition.task == "multiclass" else expit(logits)
        for fold in range(4):
            rows = table["fold"] == fold
            run = open_run(competition, name, fold, replace(EXPERIMENTS["smoke"], seed=seed), HASH)
            write_probs(run.folder / "oof.csv", probs_frame(competition, table.loc[rows, "image_id"], probs[rows]))
            write_json(run.folder / "result.json", {"weights_sha256": f"{name} {fold}"})
    return table


def blended(table, *members, name="blend", methods=(), competition=COMPETITION):
    workspace = filled_workspace(competition, table, HASH)
    return blend_runs(workspace, list(members), name, methods)


def test_the_credibly_best_method_is_written_and_recommended(table, capsys):
    scores = blended(table, "first", "second", "noise", "more")
    said = capsys.readouterr().out
    assert set(scores) > {"blend_mean", "blend_rank_mean"} and len(scores) == 3
    better = (set(scores) - {"blend_mean", "blend_rank_mean"}).pop()
    assert f"Recommended: {better}, which gains +" in said and scores[better] > scores["blend_mean"] + 0.02
    assert set(list_runs(COMPETITION)) == {*EXPECTED, *scores}
    assert "cross-fitted gain" in said and "optimism" in said and "joint low of 6" in said


def test_a_fitted_blend_has_cross_fitted_predictions(table):
    scores = blended(table, "first", "second", "noise", methods=["greedy", "weights", "stacking"])
    for method in ("greedy", "weights", "stacking"):
        said, oof = read_json(run_folder(COMPETITION, f"blend_{method}") / "blend.json"), read_oof(
            COMPETITION, f"blend_{method}", table, HASH)
        targets = table[["a", "b"]].where(table[["a", "b"]] >= 0).to_numpy()
        assert METRICS["roc_auc"].score(targets, oof.probs, "multilabel") == pytest.approx(scores[oof.name])
        assert said["oof"] == "every fold blended by a fit on the other folds" and said["fit_on"] == "all folds"
        members = np.stack([read_oof(COMPETITION, name, table, HASH).probs for name in ("first", "second", "noise")])
        assert not np.allclose(oof.fit.apply(members), oof.probs)  # those are naive
    assert set(read_json(run_folder(COMPETITION, "blend_greedy") / "blend.json")["fit"]["weights"]) == {
        "first", "second", "noise"}


def test_without_a_credible_gain_the_plain_mean_is_recommended(table, capsys):
    scores = blended(table, "noise", "more")
    assert set(scores) == {"blend_mean", "blend_rank_mean"}
    assert "Recommended: blend_mean. No other method gains credibly over it." in capsys.readouterr().out


def test_a_mean_worse_than_its_best_member_is_reported(table, capsys):
    blended(table, "first", "noise", "more")
    assert "The plain mean is 0." in (said := capsys.readouterr().out) and "worse than its best member" in said


def test_a_member_better_within_noise_is_reported():
    gain = Gain("mean", 0.8, 0.8, 0.0, 0.0, (0.0, 0.0), 0.0, over_best=-0.003, over_best_interval=(-0.01, 0.005))
    assert recommendation("blend", [gain], None, "lite0") == (
        "Recommended: blend_mean. No other method gains credibly over it. lite0 alone scores 0.0030 more than "
        "the plain mean, within noise.")
    assert "alone" not in recommendation("blend", [replace(gain, over_best=0.003)], None, "lite0")


def test_a_recommended_blend_is_compared_with_its_best_member():
    mean = Gain("mean", 0.8, 0.8, 0.0, 0.0, (0.0, 0.0), 0.0, over_best=-0.003, over_best_interval=(-0.01, 0.005))
    better = replace(mean, method="stacking", gain=0.012, joint_low=0.001, over_best=0.004,
                     over_best_interval=(-0.006, 0.015))
    said = recommendation("blend", [mean, better], better, "lite0")
    assert said.endswith(" Against lite0 alone it scores +0.0040 (-0.0060 to +0.0150), within noise.")
    worse = replace(better, over_best=-0.018, over_best_interval=(-0.03, -0.006))
    assert recommendation("blend", [mean, worse], worse, "lite0").endswith(
        " Against lite0 alone it scores -0.0180 (-0.0300 to -0.0060), so submit lite0 instead.")
    beyond = recommendation("blend", [mean, better], replace(better, over_best_interval=(0.001, 0.015)), "lite0")
    assert "Against lite0" not in beyond


def test_runs_that_differ_in_seed_are_blended(table):
    blended(table, "first", "seed1")
    probs = [read_oof(COMPETITION, name, table, HASH).probs for name in ("first", "seed1", "blend_mean")]
    np.testing.assert_allclose(probs[2], (probs[0] + probs[1]) / 2, rtol=1e-8)


def test_other_images_are_blended_by_the_fit_on_all_folds(table):
    ids, rng = pd.Series(["x", "y", "z"]), np.random.default_rng(0)
    names, probs = ["first", "second", "noise"], rng.random((3, 3, 2)).astype(np.float32)
    for name, of_images in zip(names, probs, strict=True):
        write_predictions(COMPETITION, read_oof(COMPETITION, name, table, HASH), "holdout", ids, of_images)
    blended(table, *names, methods=METHODS)
    oofs = [read_oof(COMPETITION, name, table, HASH) for name in names]
    blends = [read_oof(COMPETITION, f"blend_{method}", table, HASH) for method in METHODS]
    predict_blends(filled_workspace(COMPETITION, table, HASH), oofs, blends, "holdout", ids)
    for each in blends:
        read = read_predictions(COMPETITION, each, "holdout", ids)
        np.testing.assert_allclose(read, each.fit.apply(probs), rtol=1e-6)
    weights = read_json(run_folder(COMPETITION, "blend_weights") / "blend.json")["fit"]["weights"]
    by_hand = sum(weights[name] * of_images for name, of_images in zip(names, probs, strict=True))
    of_weights = next(each for each in blends if each.kind == "weights")
    np.testing.assert_allclose(read_predictions(COMPETITION, of_weights, "holdout", ids), by_hand, rtol=1e-6)
    refitted = replace(blends[-2], fit=replace(blends[-2].fit, weights=np.full(3, 1 / 3)))
    assert read_predictions(COMPETITION, refitted, "holdout", ids) is None  # those of other weights


@pytest.mark.parametrize("edit, message", [
    (lambda said: said["fit"]["weights"].update(first=0.9), "is not what its predictions were blended with"),
    (lambda said: said["fit"].update(weights={"first": 0.5, "second": 0.5}), "is not what its predictions were"),
    (lambda said: said["fit"]["weights"].pop("first"), "needed for first, second; found second"),
    (lambda said: said.pop("fit"), "is not what its predictions were blended with"),
    (lambda said: said.update(kind="median"), "no blending method 'median'"),
    (lambda said: said.pop("members"), "has no entry 'members'"),
    (lambda said: said.update(fit=[1]), "is not what its predictions were blended with"),
])
def test_an_edited_record_raises(table, edit, message):
    blended(table, "first", "second", methods=["weights"])
    path = run_folder(COMPETITION, "blend_weights") / "blend.json"
    said = read_json(path)
    edit(said)
    write_json(path, said)
    with pytest.raises(ValueError, match=message) as caught:
        read_oof(COMPETITION, "blend_weights", table, HASH)
    assert str(path.parent) in str(caught.value) and "delete that folder and blend the runs anew" in str(caught.value)


def test_a_record_from_before_blends_were_fitted_is_read(table):
    blended(table, "first", "second")
    path = run_folder(COMPETITION, "blend_mean") / "blend.json"
    assert set(read_json(path)) == {"kind", "members", "folds_sha256", "made_of", "oof_sha256"}
    old = replace(read_oof(COMPETITION, "blend_mean", table, HASH), fit=None)
    write_blend(COMPETITION, old, table["image_id"], HASH)
    assert read_oof(COMPETITION, "blend_mean", table, HASH).made_of == old.made_of


def test_invalid_members_raise_before_anything_is_written(table, home):
    blended(table, "first", "second", methods=["weights"])
    with pytest.raises(ValueError, match="'blend_weights' is a blend that was fitted .* instead: first second"):
        blended(table, "first", "blend_weights", name="other")
    with pytest.raises(ValueError, match="'blend_mean' cannot be a member of itself"):
        blended(table, "first", "blend_mean")
    (run_folder(COMPETITION, "noise") / "fold2" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"'noise' lacks the folds \[2\]"):
        blended(table, "first", "noise", name="other")
    assert not [path for path in (home / "runs" / "small").iterdir() if path.name.startswith("other")]


def test_predicting_a_blend_names_the_blend_command(table):
    blended(table, "first", "second", name="two", methods=["weights"])
    with pytest.raises(ValueError, match=r"blend\.py .*--experiment first second --name two --method weights"):
        predict.read_wanted(filled_workspace(COMPETITION, table, HASH), "two_weights", [0, 1, 2, 3])


def test_the_choice_of_two_members_is_cross_fitted(table, capsys):
    assert set(pick_best(filled_workspace(COMPETITION, table, HASH))) == {"first", "second"}
    assert re.search(r"are the two best of 3: their mean scores 0\.\d{4}, or 0\.\d{4} with the two chosen "
                     "on the other folds", capsys.readouterr().out)


@pytest.mark.parametrize("task, labels, metric", [("binary", ("a",), "f1_macro"), ("binary", ("a",), "log_loss"),
                                                  ("multiclass", ("a", "b", "c"), "accuracy"),
                                                  ("multiclass", ("a", "b", "c"), "roc_auc")])
def test_every_task_is_blended_by_its_metric(home, monkeypatch, task, labels, metric):
    monkeypatch.setattr(blend, "measure_gains", partial(measure_gains, replicates=10))
    competition = replace(COMPETITION, task=task, labels=labels, metric=metric)
    table = play(competition)
    scores = blended(table, "first", "second", "noise", methods=METHODS, competition=competition)
    assert set(scores) == {f"blend_{method}" for method in METHODS} and np.isfinite(list(scores.values())).all()
    probs = read_oof(competition, "blend_stacking", table, HASH).probs
    assert task == "binary" or probs.sum(axis=1) == pytest.approx(1)


def test_equal_members_and_a_constant_one_gain_nothing(table, capsys):
    for fold in range(4):
        for name, change in (("more", lambda frame: frame.assign(a=0.25, b=0.25)), ("seed1", lambda frame: frame)):
            path = run_folder(COMPETITION, name) / f"fold{fold}" / "oof.csv"
            frame = pd.read_csv(run_folder(COMPETITION, "first") / f"fold{fold}" / "oof.csv", dtype={"image_id": str})
            write_probs(path, change(frame))
    scores = blended(table, "first", "seed1", "more", methods=METHODS)
    assert scores["blend_mean"] == scores["blend_greedy"] == pytest.approx(scores["blend_weights"], abs=1e-3)
    assert "Recommended: blend_mean" in capsys.readouterr().out


def test_without_a_label_that_can_be_scored_the_mean_is_recommended(table, capsys):
    scores = blended(table.assign(a=0.0, b=-1.0), "first", "second", methods=METHODS)
    assert np.isnan(list(scores.values())).all() and len(scores) == len(METHODS)
    assert "Recommended: blend_mean. No other method gains credibly over it.\n" in capsys.readouterr().out


def test_an_unknown_method_is_an_error(home, capsys):
    with pytest.raises(SystemExit):
        blend.main(["--method", "median"])
    assert "invalid choice: 'median'" in capsys.readouterr().err
