"""Comparisons and forecasts of simulated runs: verdicts, files, plots and error messages."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import leaderboard
from common.files import write_json
from competition import Competition, Part
from experiment import Experiment
from reporting.forecast import show_forecast
from reporting.run_comparison import show_comparison
from results.runs import open_run, probs_frame, run_folder, write_predictions, write_probs
from scoring.metrics import METRICS
from workspaces import filled_workspace

MINE = Competition(name="mine", about="made up", task="multilabel", labels=("a", "b"), metric="roc_auc",
                   train=Part(table="train.csv", images="{image_id}.png"), group_column="patient",
                   test=Part(images="test/*.png", labelled=False))
NO_TEST = replace(MINE, test=None)
HASH, FOLDS = "folds", 3


@pytest.fixture
def table(home) -> pd.DataFrame:
    """240 images of 80 patients in three folds."""
    rng = np.random.default_rng(0)
    patients = np.arange(240) // 3
    cells = (rng.random((240, 2)) < 0.4).astype(float)
    cells[rng.random(cells.shape) < 0.05] = np.nan
    return pd.DataFrame({"image_id": [f"i{number:03}" for number in range(240)], "group": patients.astype(str),
                         "fold": patients % FOLDS, "a": cells[:, 0], "b": cells[:, 1], "constant": False})


def fabricate(table: pd.DataFrame, name: str, skill: float, folds: int = FOLDS, seed: int = 0,
              competition: Competition = MINE) -> np.ndarray:
    """A run whose out-of-fold probabilities separate the labels as well as `skill` asks; returns them."""
    rng = np.random.default_rng([seed, round(10 * skill)])
    truth = np.nan_to_num(table[["a", "b"]].to_numpy())
    probs = 1 / (1 + np.exp(-(skill * (truth - 0.5) + rng.normal(size=truth.shape))))
    for fold in range(folds):
        run = open_run(competition, name, fold, Experiment(network="cnn_d", seed=seed), HASH)
        rows = (table["fold"] == fold).to_numpy()
        write_probs(run.folder / "oof.csv", probs_frame(competition, table.loc[rows, "image_id"], probs[rows]))
        write_json(run.folder / "result.json", {"weights_sha256": f"{name}{fold}"})
    return probs


def test_the_better_run_wins_and_noise_has_no_winner(table, capsys):
    fabricate(table, "good", 3), fabricate(table, "bad", 0.5), fabricate(table, "alike", 3, seed=1)
    frame = show_comparison(filled_workspace(MINE, table, HASH), ["good", "bad", "alike"]).set_index("against")
    printed = capsys.readouterr().out
    assert frame.loc["bad", "winner"] == 1 and frame.loc["alike", "winner"] == 0
    assert "good is better" in printed and "no difference beyond noise" in printed and "more patients" in printed
    assert show_comparison(filled_workspace(MINE, table, HASH), ["bad", "good"])["winner"].tolist() == [-1]
    assert "p (Holm)" in printed and "p (Holm)" not in capsys.readouterr().out


def test_comparing_an_unknown_or_incomplete_run_raises(table):
    fabricate(table, "whole", 2), fabricate(table, "part", 2, folds=2, seed=1)
    with pytest.raises(ValueError, match="at least two runs"):
        show_comparison(filled_workspace(MINE, table, HASH), ["whole", "whole"])
    with pytest.raises(ValueError, match=r"no run 'whol'.*part, whole"):
        show_comparison(filled_workspace(MINE, table, HASH), ["whole", "whol"])
    with pytest.raises(ValueError, match=r"'part' lacks the folds \[2\].*--fold 2"):
        show_comparison(filled_workspace(MINE, table, HASH), ["whole", "part"])


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "f1_macro"])
def test_a_forecast_is_printed_written_and_plotted(table, home, capsys, metric):
    mine = replace(NO_TEST, metric=metric)
    for seed, (name, skill) in enumerate((("bad", 0.5), ("good", 3), ("middling", 2))):
        fabricate(table, name, skill, seed=seed)
    frame = show_forecast(filled_workspace(mine, table, HASH, solution=None), [400, 0.25])
    assert frame["run"].tolist() == ["good", "middling", "bad"]
    assert (frame["public_low"] < frame["cv"]).all() and (frame["cv"] < frame["public_high"]).all()
    assert (frame["private_high"] - frame["private_low"] < frame["public_high"] - frame["public_low"]).all()
    assert frame["is_best"].sum() == pytest.approx(1) and frame["is_best"].is_monotonic_decreasing
    printed = capsys.readouterr().out
    assert all(text in printed for text in (METRICS[metric].title, "n 100", "n 300", "Select good and middling"))
    assert (run_folder(mine, "") / "forecast.png").stat().st_size > 10_000
    assert pd.read_csv(run_folder(mine, "") / "forecast.csv")["run"].tolist() == frame["run"].tolist()


def test_known_scores_do_not_change_the_forecast(table, home):
    fabricate(table, "good", 3)
    without = show_forecast(filled_workspace(NO_TEST, table, HASH, solution=None), [100, 0.5])
    rng = np.random.default_rng(1)
    solution = pd.DataFrame({"image_id": [f"t{number}" for number in range(100)], "a": rng.integers(0, 2, 100),
                             "b": rng.integers(0, 2, 100), "usage": ["Public", "Private"] * 50})
    oof = SimpleNamespace(name="good", made_of={f"good/fold{fold}": f"good{fold}" for fold in range(FOLDS)})
    write_predictions(MINE, oof, "test", solution["image_id"], solution[["a", "b"]].to_numpy(float))
    beside = show_forecast(filled_workspace(MINE, table, HASH, solution=solution), [])
    assert without["fold_mean"].isna().all() and beside["fold_mean"].notna().all()
    assert beside[["public_was", "private_was"]].iloc[0].tolist() == [1, 1]
    turned = solution.assign(a=1 - solution["a"], b=1 - solution["b"])
    other = show_forecast(filled_workspace(MINE, table, HASH, solution=turned), [])
    assert other[["public_was", "private_was"]].iloc[0].tolist() == [0, 0]
    pd.testing.assert_frame_equal(beside[without.columns], other[without.columns])


@pytest.mark.parametrize(("numbers", "message"), [
    ([], "give the number of images"), ([1], "2 or more"), ([0.3], "2 or more"), ([100, 3], "needs an image"),
    ([100, 0.3, 1], "takes the number of test images")])
def test_impossible_sizes_raise(table, home, numbers, message):
    fabricate(table, "good", 3)
    with pytest.raises(ValueError, match=message):
        show_forecast(filled_workspace(NO_TEST, table, HASH, solution=None), numbers)


def test_a_forecast_without_a_complete_run_raises(table, home, capsys):
    fabricate(table, "part", 2, folds=2)
    with pytest.raises(ValueError, match="python src/train.py --competition mine"):
        show_forecast(filled_workspace(NO_TEST, table, HASH, solution=None), [100])
    assert "lacks the folds [2]" in capsys.readouterr().out


def test_the_leaderboard_compares_and_forecasts_on_request(table, home, monkeypatch, capsys):
    fabricate(table, "good", 3), fabricate(table, "bad", 0.5)
    monkeypatch.setattr(leaderboard, "load_workspace", lambda args: filled_workspace(NO_TEST, table, HASH))
    assert leaderboard.main(["--compare", "good", "bad"])["winner"].tolist() == [1]
    assert leaderboard.main(["--forecast", "100"])["run"].tolist() == ["good", "bad"]
    assert "n 30" in capsys.readouterr().out
