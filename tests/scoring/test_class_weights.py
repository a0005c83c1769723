"""Class weights: a cell of a label counts as many times as its weight says."""

import numpy as np
import pytest

from scoring.metrics import METRICS, make_scorer

TASKS = {"binary": 1, "multilabel": 3, "multiclass": 4}


def rows_of(task: str, uses: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    count, n = TASKS[task], 60
    probs = rng.dirichlet(np.ones(count), n) if task == "multiclass" else rng.random((n, count))
    targets = (rng.random((n, count)) < 0.3).astype(float)
    if task == "multiclass":
        targets = np.eye(count)[rng.integers(count - 1, size=n)]  # the last class never occurs
        targets[3] = np.nan
    else:
        targets[rng.random((n, count)) < 0.1] = np.nan
        targets[:, 1:2] = np.where(np.isnan(targets[:, 1:2]), np.nan, 0)  # a label without positives
    if uses == "probs":
        return targets, probs
    return targets, np.eye(count)[probs.argmax(axis=1)] if task == "multiclass" else (probs > 0.5).astype(float)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_weighted", "accuracy", "balanced_accuracy", "log_loss",
                                  "brier"])
def test_a_class_weight_counts_a_cell_as_often_as_it_says(name, task):
    """Weights of whole numbers are rows written down so many times, one label at a time."""
    targets, values = rows_of(task, METRICS[name].uses)
    if task == "multiclass":
        class_weights = np.array([3, 1, 2, 1])
        times = np.where(np.isnan(targets).any(axis=1), 1, (np.nan_to_num(targets) * class_weights).sum(axis=1))
    else:
        targets, values, class_weights = targets[:, :1], values[:, :1], np.array([[2, 3]])
        times = np.where(targets[:, 0] == 1, 3, 2)
    rows = np.repeat(np.arange(len(targets)), times.astype(int))
    expected = METRICS[name].score(targets[rows], values[rows], task)
    found = make_scorer(name, targets, values, task, class_weights)(np.ones((1, len(targets))))
    assert found == pytest.approx([expected], abs=1e-12)


def test_nothing_to_score_is_nan_not_an_error():
    empty = np.full((5, 2), np.nan)
    for name in ("f1_macro", "f1_micro", "f1_samples", "accuracy", "balanced_accuracy", "log_loss", "roc_auc"):
        assert np.isnan(make_scorer(name, empty, np.zeros((5, 2)), "multilabel")(np.ones((2, 5)))).all()
