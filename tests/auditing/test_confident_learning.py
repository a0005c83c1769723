"""Labels that are probably wrong: planted ones are found, cells that say nothing are left alone, a sheet is drawn."""

import numpy as np
import pandas as pd
import pytest
from cleanlab.filter import find_label_issues

import find_label_errors
from auditing.confident_learning import judge_cells, measure_against, rank_suspects
from common.files import read_json, write_json
from competition import COMPETITIONS
from data.demo import DemoSettings, make_demo
from data.folds import make_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from untrained import write_untrained

RNG = np.random.default_rng(3)


def noisy_labels(count: int = 600, flipped: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given labels, probabilities that follow the true ones, and which are flipped: (n, 2) each."""
    truth = RNG.random((count, 2)) < (0.5, 0.2)
    probs = np.clip(np.where(truth, 0.85, 0.15) + 0.1 * RNG.normal(size=truth.shape), 0.01, 0.99)
    planted = RNG.random(truth.shape) < flipped
    return (truth ^ planted).astype(float), probs, planted


def test_planted_errors_are_found_above_chance_and_ranked_first():
    targets, probs, planted = noisy_labels()
    quality, wrong = judge_cells(targets, probs, "multilabel")
    found = measure_against(planted, quality, wrong, ("a", "b"))
    assert (found["recall"] > 0.6).all() and (found["precision"] > 0.6).all() and (found["by_chance"] < 0.1).all()
    suspects = rank_suspects(targets, probs, quality, wrong, "multilabel")
    assert suspects["quality"].is_monotonic_increasing and (suspects["suggested"] == 1 - suspects["given"]).all()
    first = suspects.head(20)
    assert planted[first["row"], first["label"]].all()


def test_suspects_equal_cleanlabs_for_each_label():
    targets, probs, _ = noisy_labels()
    _, wrong = judge_cells(targets, probs, "multilabel")
    for k in range(2):
        expected = find_label_issues(targets[:, k].astype(int), np.column_stack([1 - probs[:, k], probs[:, k]]),
                                     n_jobs=1)
        assert np.array_equal(wrong[:, k], expected)


def test_the_true_class_of_a_swapped_one_is_suggested():
    truth = RNG.integers(0, 3, 300)
    probs = np.eye(3)[truth] * 0.7 + 0.1
    given = truth.copy()
    given[:10] = (truth[:10] + 1) % 3
    targets = np.eye(3)[given]
    suspects = rank_suspects(targets, probs, *judge_cells(targets, probs, "multiclass"), "multiclass")
    assert set(suspects["row"]) == set(range(10))
    assert (suspects["suggested"] == truth[suspects["row"]]).all()
    assert (suspects["given"] == given[suspects["row"]]).all()
    assert suspects["prob"].to_numpy() == pytest.approx(0.1)


def test_missing_cells_and_constant_labels_have_no_suspects():
    targets, probs, _ = noisy_labels()
    targets[::3, 0], probs[1::3] = np.nan, np.nan
    targets[:, 1] = 0
    quality, wrong = judge_cells(targets, probs, "multilabel")
    assert np.array_equal(np.isnan(quality[:, 0]), np.isnan(targets[:, 0]) | np.isnan(probs[:, 0]))
    assert np.isnan(quality[:, 1]).all() and not wrong[:, 1].any() and not wrong[np.isnan(quality)].any()
    for count in (1, 2):
        few = judge_cells(np.eye(2)[:count], np.full((count, 2), 0.5), "multilabel")
        assert few[0].shape == (count, 2)
    nothing = rank_suspects(targets, probs, quality, np.zeros_like(wrong), "multilabel")
    assert len(nothing) == 0 and "quality" in nothing


def test_recall_and_precision_are_counted():
    planted = np.array([[True], [True], [False], [False], [False]])
    wrong = np.array([[True], [False], [True], [False], [False]])
    quality = np.array([[0.1], [0.9], [0.2], [0.5], [np.nan]])
    row = measure_against(planted, quality, wrong, ("a",)).iloc[0]
    assert (row["labels"], row["wrong"], row["suspected"], row["hits"]) == (4, 2, 2, 1)
    assert (row["recall"], row["by_chance"], row["precision"], row["base_rate"]) == (0.5,) * 4


def test_the_script_writes_a_table_and_a_figure(home, capsys):
    competition = COMPETITIONS["demo"]
    make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=2, size=32, label_noise=0.1), workers=1)
    table, _ = read_train(competition, home / "data" / "demo")
    make_folds(competition, table, open_store("demo-train", table, PixelSettings(32, 1)), n_folds=2, seed=0)
    with pytest.raises(FileNotFoundError, match="has no finished fold"):
        find_label_errors.main(["--experiment", "cnn_b"])
    write_untrained(competition, "cnn_b")
    frame = find_label_errors.main(["--experiment", "cnn_b"])["cnn_b"]
    folder = home / "runs" / "demo" / "cnn_b"
    kept = pd.read_csv(folder / "label_errors.csv")
    assert len(frame) and kept["image_id"].tolist() == frame["image_id"].tolist()
    assert (folder / "label_errors.png").exists() and "known label errors" in capsys.readouterr().out
    black = set(table.loc[table.get("constant", pd.Series(False, table.index)), "image_id"])
    assert not black & set(frame["image_id"])


@pytest.fixture
def two_folds(home):
    """The demo with noisy labels and a run of two folds that beat a constant prediction."""
    competition = COMPETITIONS["demo"]
    make_demo(home / "data" / "demo", DemoSettings(images=60, test_images=2, size=32, label_noise=0.1), workers=1)
    table, _ = read_train(competition, home / "data" / "demo")
    make_folds(competition, table, open_store("demo-train", table, PixelSettings(32, 1)), n_folds=2, seed=0)
    write_untrained(competition, "cnn_b")
    return home / "runs" / "demo" / "cnn_b"


def set_learned(folder, fold: int, learned: bool) -> None:
    path = folder / f"fold{fold}" / "result.json"
    write_json(path, read_json(path) | {"learned": learned})


def test_a_run_that_did_not_learn_lists_no_label_errors(two_folds, capsys):
    for fold in (0, 1):
        set_learned(two_folds, fold, True)
    assert len(find_label_errors.main(["--experiment", "cnn_b"])["cnn_b"]) and (two_folds / "label_errors.png").exists()
    for fold in (0, 1):
        set_learned(two_folds, fold, False)
    capsys.readouterr()
    assert find_label_errors.main(["--experiment", "cnn_b"])["cnn_b"].empty
    text = capsys.readouterr().out
    assert "no fold beats a constant prediction" in text and "probably wrong" not in text
    assert pd.read_csv(two_folds / "label_errors.csv").empty and not (two_folds / "label_errors.png").exists()


def test_images_of_a_fold_that_did_not_learn_are_not_checked(two_folds, capsys):
    set_learned(two_folds, 0, True)
    set_learned(two_folds, 1, False)
    frame = find_label_errors.main(["--experiment", "cnn_b"])["cnn_b"]
    folds = pd.read_csv(two_folds.parents[2] / "folds" / "demo.csv").set_index("image_id")["fold"]
    assert len(frame) and set(folds[frame["image_id"]]) == {0}
    assert "not every fold beats a constant prediction" in capsys.readouterr().out
