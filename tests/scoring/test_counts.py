"""Counts: scores under many weightings of the rows, confusion matrices, and scikit-learn's scores of the same."""

import numpy as np
import pytest
import sklearn.metrics as sk

from scoring.counts import confusion_matrices
from scoring.metrics import METRICS, Metric, confusion_scorer, decide, make_scorer

TASKS = ("binary", "multilabel", "multiclass")
KINDS = [(task, name) for task in TASKS for name, metric in METRICS.items() if task in metric.tasks]


def example(task: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets with NaN cells, one of four labels rare, and probabilities with ties, zeros and ones."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        targets = np.eye(4)[rng.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])]
        targets[rng.random(rows) < 0.1] = np.nan
        probs = rng.dirichlet(np.ones(4), rows)
        probs[0] = (0, 1, 0, 0)
        return targets, probs
    shape = rows, 1 if task == "binary" else 4
    targets = (rng.random(shape) < [0.3, 0.5, 0.3, 0.05][:shape[1]]).astype(float)
    targets[rng.random(shape) < 0.1] = np.nan
    return targets, np.round(rng.random(shape), 1)


def values_of(metric: Metric, probs: np.ndarray, task: str) -> np.ndarray:
    return probs if metric.uses == "probs" else decide(probs, None if task == "multiclass" else 0.5, task)


@pytest.mark.parametrize(("task", "name"), KINDS)
@pytest.mark.parametrize("rows", [40, 5])
def test_many_weightings_score_like_single_ones(task, name, rows):
    targets, probs = example(task, rows, seed=1)
    metric = METRICS[name]
    values = values_of(metric, probs, task)
    rng = np.random.default_rng(0)
    weights = np.concatenate((rng.integers(0, 4, (6, rows)), rng.random((4, rows)), rng.random((6, rows)) < 0.1))
    expected = [metric.score(targets, values, task, each) for each in weights.astype(float)]
    assert make_scorer(name, targets, values, task)(weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def scikit_learn(name: str, task: str, targets: np.ndarray, decided: np.ndarray, weights: np.ndarray) -> float:
    """A metric of decisions by scikit-learn alone, on rows without NaN and with both classes of every label."""
    if task == "multiclass":
        truth, classes = targets.argmax(axis=1), decided.argmax(axis=1)
        functions = {"balanced_accuracy": sk.balanced_accuracy_score, "accuracy": sk.accuracy_score,
                     "subset_accuracy": sk.accuracy_score,
                     "quadratic_kappa": lambda *args, **weights: sk.cohen_kappa_score(*args, weights="quadratic",
                                                                                       **weights)}
        if name in functions:
            return functions[name](truth, classes, sample_weight=weights)
    by_column = {"balanced_accuracy": sk.balanced_accuracy_score, "accuracy": sk.accuracy_score}
    if name in by_column:
        return np.mean([by_column[name](targets[:, k], decided[:, k], sample_weight=weights)
                        for k in range(targets.shape[1])])
    if name == "subset_accuracy":
        return np.average((targets == decided).all(axis=1), weights=weights)
    if name == "quadratic_kappa":
        return sk.cohen_kappa_score(targets[:, 0], decided[:, 0], weights="quadratic", sample_weight=weights)
    if targets.shape[1] == 1:  # two equal columns, because scikit-learn takes one column for two classes
        targets, decided = np.tile(targets, (1, 2)), np.tile(decided, (1, 2))
    return sk.f1_score(targets.astype(int), decided, average=name.removeprefix("f1_"), sample_weight=weights,
                       zero_division=0)


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, name in KINDS if METRICS[name].uses == "decisions"])
def test_scores_of_decisions_equal_scikit_learns(task, name):
    for seed in range(4):
        targets, probs = example(task, 120, seed)
        rows = ~np.isnan(targets).any(axis=1)
        targets, decided = targets[rows], values_of(METRICS[name], probs, task)[rows]
        for weights in (None, np.random.default_rng(seed).random(len(targets)) + 0.1):
            expected = scikit_learn(name, task, targets, decided,
                                    np.ones(len(targets)) if weights is None else weights)
            assert METRICS[name].score(targets, decided, task, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_confusion_matrices_equal_scikit_learns(task):
    targets, probs = example(task, 60, seed=3)
    decided = decide(probs, None if task == "multiclass" else 0.5, task)
    found = confusion_matrices(targets, decided, task)
    if task == "multiclass":
        rows = ~np.isnan(targets).any(axis=1)
        expected = [sk.confusion_matrix(targets[rows].argmax(axis=1), decided[rows].argmax(axis=1), labels=range(4))]
    else:
        known = ~np.isnan(targets)
        expected = [sk.confusion_matrix(targets[known[:, k], k], decided[known[:, k], k], labels=[0, 1])
                    for k in range(targets.shape[1])]
    assert found.tolist() == np.array(expected).tolist()


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.uses == "decisions"])
def test_a_confusion_matrix_scores_like_its_rows(name):
    targets, probs = example("multiclass", 80, seed=5)
    decided = decide(probs, None, "multiclass")
    counts = confusion_matrices(targets, decided, "multiclass").reshape(1, -1)
    expected = METRICS[name].score(targets, decided, "multiclass")
    assert confusion_scorer(name, 4)(counts)[0] == pytest.approx(expected, abs=1e-12)


def test_scores_without_scored_cells_are_nan():
    empty = np.full((5, 2), np.nan)
    for name in ("f1_macro", "f1_micro", "f1_samples", "accuracy", "balanced_accuracy", "log_loss", "roc_auc"):
        assert np.isnan(make_scorer(name, empty, np.zeros((5, 2)), "multilabel")(np.ones((2, 5)))).all()


def test_unknown_metrics_and_wrong_tasks_raise():
    targets, probs = example("multilabel", 20, seed=0)
    with pytest.raises(ValueError, match="no metric 'no_such'"):
        make_scorer("no_such", targets, probs, "multilabel")
    with pytest.raises(ValueError, match="not for multilabel; choose one of roc_auc"):
        make_scorer("quadratic_kappa", targets, probs > 0.5, "multilabel")
