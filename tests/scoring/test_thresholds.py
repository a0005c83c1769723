"""Thresholds: no cut of any data set is better than the one found, and nothing is fitted on what it decides."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.metrics import METRICS, accuracy_cuts, balanced_accuracy_cuts, decide, f1_cuts, make_scorer
from scoring.thresholds import best_threshold, criterion, crossfit_decisions, fit_thresholds

REFERENCES = {
    f1_cuts: lambda targets, decided: sk.f1_score(targets, decided, zero_division=0),
    accuracy_cuts: sk.accuracy_score,
    balanced_accuracy_cuts: sk.balanced_accuracy_score,
}
EDGE_SCORES = [0.0, 5e-324, 0.25, 0.5, np.nextafter(0.5, 1), 0.75, np.nextafter(1.0, 0), 1.0]
ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from(EDGE_SCORES) | st.floats(0, 1)), min_size=2,
                max_size=12)


def brute_force(quality: Callable, targets: np.ndarray, probs: np.ndarray) -> float:
    """The best score of any cut: a score is the lowest that is decided "yes", or none is."""
    return max(REFERENCES[quality](targets, probs >= cut) for cut in [*probs, 2.0])


@pytest.mark.parametrize("quality", REFERENCES)
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(rows=ROWS)
def test_the_threshold_is_the_best_of_all_cuts(quality, rows):
    targets, probs = np.array(rows).T
    found = best_threshold(targets, probs, quality)
    if len(set(targets)) < 2:
        assert found == 0.5
        return
    best = brute_force(quality, targets, probs)
    assert REFERENCES[quality](targets, probs >= found) == pytest.approx(best, abs=1e-12)


def test_the_threshold_is_midway_between_scores():
    assert best_threshold(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.3, 0.9])) == pytest.approx(0.25)


def test_ties_take_the_cut_nearest_to_a_half():
    # two of three are right at the cuts 0.1 (yes everywhere) and 0.5
    targets, probs = np.array([1, 0, 1.0]), np.array([0.2, 0.4, 0.6])
    assert best_threshold(targets, probs, accuracy_cuts) == pytest.approx(0.5)


def test_equal_scores_are_never_separated():
    targets, probs = np.array([1, 0, 1, 0.0]), np.array([0.3, 0.3, 0.3, 0.1])
    assert 0.1 < best_threshold(targets, probs) <= 0.3


def test_a_threshold_above_one_is_possible():
    targets, probs = np.array([0, 0, 0, 1.0]), np.array([1, 1, 1, 0.5])
    assert not (probs >= best_threshold(targets, probs, accuracy_cuts)).any()


@pytest.mark.parametrize("targets", [[0, 0], [1, 1], [np.nan, np.nan]])
def test_a_label_of_one_class_has_the_default_threshold(targets):
    assert best_threshold(np.array(targets, dtype=float), np.array([0.8, 0.9])) == 0.5


def test_nan_cells_are_left_out():
    targets, probs = np.array([0, 1, np.nan, np.nan]), np.array([0.2, 0.4, 0.3, 0.9])
    assert best_threshold(targets, probs) == pytest.approx(0.3)


def test_every_label_gets_its_own_threshold():
    targets = np.array([[0, 0], [1, 0], [1, 1.0]])
    probs = np.array([[0.1, 0.1], [0.3, 0.5], [0.5, 0.9]])
    assert fit_thresholds(targets, probs) == pytest.approx([0.2, 0.7])


def test_thresholds_of_float32_and_float64_agree():
    rng = np.random.default_rng(0)
    targets, probs = (rng.random(500) < 0.2).astype(float), rng.random(500).astype(np.float32)
    found = best_threshold(targets, probs)
    fitted = sk.f1_score(targets, probs >= np.float64(found))
    assert fitted == pytest.approx(brute_force(f1_cuts, targets, probs.astype(float)), abs=1e-12)


def crossfit_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 2)) < 0.2).astype(float)
    return targets, 0.6 * rng.random((300, 2)) + 0.2 * targets, rng.integers(3, size=300)


def test_cross_fitted_decisions_ignore_a_folds_own_targets():
    targets, probs, folds = crossfit_example()
    changed = np.where((folds == 1)[:, None], 1 - targets, targets)
    before, after = (crossfit_decisions(t, probs, folds, "multilabel") for t in (targets, changed))
    assert (before[folds == 1] == after[folds == 1]).all()
    assert (before[folds != 1] != after[folds != 1]).any()


def test_cross_fitted_decisions_use_thresholds_of_the_other_folds():
    targets, probs, folds = crossfit_example()
    decisions = crossfit_decisions(targets, probs, folds, "multilabel", "accuracy")
    for fold in range(3):
        thresholds = fit_thresholds(targets[folds != fold], probs[folds != fold], "accuracy")
        assert (decisions[folds == fold] == (probs[folds == fold] >= thresholds)).all()


def test_multiclass_needs_no_thresholds():
    probs = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    assert crossfit_decisions(np.eye(3)[:2], probs, np.array([0, 0]), "multiclass").tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_single_fold_cannot_be_cross_fitted():
    with pytest.raises(ValueError, match="only one fold"):
        crossfit_decisions(np.ones((2, 1)), np.ones((2, 1)), np.zeros(2, dtype=int), "binary")


# ---- metrics that do not fall apart into labels


def every_choice(targets: np.ndarray, probs: np.ndarray, metric: str) -> float:
    """The best score of all combinations of cuts."""
    cuts = [[*probs[:, k], 2.0] for k in range(probs.shape[1])]
    choices = [(probs >= np.array(each)).astype(int) for each in product(*cuts)]
    ones, task = np.ones((1, len(probs))), "binary" if probs.shape[1] == 1 else "multilabel"
    return max(make_scorer(metric, targets, each, task)(ones)[0] for each in choices)


def few_rows(seed: int, rows: int = 7, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < rng.choice([0.1, 0.4, 0.8], labels)).astype(float)
    return targets, rng.integers(0, 5, (rows, labels)) / 4  # ties, and certain ones


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("metric", ["f1_macro", "f1_weighted", "f1_micro", "balanced_accuracy"])
def test_thresholds_of_all_labels_are_the_best(metric, seed):
    targets, probs = few_rows(seed)
    if metric == "f1_micro":
        targets[seed % 7, seed % 3] = np.nan
    decided = decide(probs, fit_thresholds(targets, probs, metric), "multilabel")
    found = METRICS[metric].score(targets, decided, "multilabel")
    assert found == pytest.approx(every_choice(targets, probs, metric), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", ["f1_samples", "subset_accuracy"])
def test_the_joint_search_nearly_always_finds_the_best(metric):
    reached = []
    for seed in range(12):
        targets, probs = few_rows(seed)
        targets[0, 0] = np.nan if seed % 2 else targets[0, 0]
        start = fit_thresholds(targets, probs, "f1_macro" if metric == "f1_samples" else "accuracy")
        scores = [METRICS[metric].score(targets, decide(probs, thresholds, "multilabel"), "multilabel")
                  for thresholds in (fit_thresholds(targets, probs, metric), start)]
        assert scores[0] >= scores[1] - 1e-12
        reached.append(scores[0] == pytest.approx(every_choice(targets, probs, metric), abs=1e-12))
    assert np.mean(reached) > 0.5


@pytest.mark.parametrize("metric", ["quadratic_kappa", "f1_samples", "subset_accuracy", "f1_micro", "f1_weighted"])
def test_one_label_is_fitted_exactly_for_every_metric(metric):
    for seed in range(10):
        targets, probs = few_rows(seed, labels=1)
        targets[:2] = [[0], [1]]
        decided = decide(probs, fit_thresholds(targets, probs, metric), "binary")
        found = METRICS[metric].score(targets, decided, "binary")
        assert found == pytest.approx(every_choice(targets, probs, metric), abs=1e-12)


def test_micro_f1_never_decides_for_a_label_without_positives():
    targets, probs = few_rows(0)
    targets[:, 1] = 0
    assert not (probs[:, 1] >= fit_thresholds(targets, probs, "f1_micro")[1]).any()
    assert fit_thresholds(np.zeros((3, 2)), probs[:3, :2], "f1_micro").tolist() == [0.5, 0.5]


def test_every_metric_of_decisions_has_thresholds_that_fit_it():
    targets, probs = few_rows(1)
    for metric in METRICS.values():
        assert criterion(metric.name) == (metric.name if metric.uses == "decisions" else "f1_macro")
        assert fit_thresholds(targets, probs, criterion(metric.name)).shape == (3,)


def test_a_metric_of_probabilities_has_no_thresholds():
    with pytest.raises(ValueError, match="roc_auc takes probabilities.*choose one of f1_macro"):
        fit_thresholds(*few_rows(0), "roc_auc")
