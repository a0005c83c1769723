"""Thresholds: no cut of any data set is better than the one found, and nothing is fitted on what it decides."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from thresholds import best_threshold, crossfit_decisions, fit_thresholds

REFERENCES = {
    "f1": lambda targets, decided: sk.f1_score(targets, decided, zero_division=0),
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
}
EDGE_SCORES = [0.0, 5e-324, 0.25, 0.5, np.nextafter(0.5, 1), 0.75, np.nextafter(1.0, 0), 1.0]
ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from(EDGE_SCORES) | st.floats(0, 1)), min_size=2,
                max_size=12)


def brute_force(metric: str, targets: np.ndarray, probs: np.ndarray) -> float:
    """The best score of any cut: a score is the lowest that is decided "yes", or none is."""
    return max(REFERENCES[metric](targets, probs >= cut) for cut in [*probs, 2.0])


@pytest.mark.parametrize("metric", REFERENCES)
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(rows=ROWS)
def test_no_other_cut_is_better(metric, rows):
    targets, probs = np.array(rows).T
    if len(set(targets)) < 2:
        assert best_threshold(targets, probs, metric) == 0.5
        return
    found = best_threshold(targets, probs, metric)
    assert REFERENCES[metric](targets, probs >= found) == pytest.approx(brute_force(metric, targets, probs), abs=1e-12)


def test_the_threshold_lies_midway_between_its_neighbours():
    assert best_threshold(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.3, 0.9])) == pytest.approx(0.25)


def test_of_equally_good_cuts_the_one_nearest_to_a_half_is_taken():
    # two of three are right at the cuts 0.1 (yes everywhere) and 0.5
    targets, probs = np.array([1, 0, 1.0]), np.array([0.2, 0.4, 0.6])
    assert best_threshold(targets, probs, "accuracy") == pytest.approx(0.5)


def test_equal_scores_are_never_separated():
    targets, probs = np.array([1, 0, 1, 0.0]), np.array([0.3, 0.3, 0.3, 0.1])
    assert 0.1 < best_threshold(targets, probs) <= 0.3


def test_deciding_no_everywhere_is_possible_at_a_score_of_one():
    targets, probs = np.array([0, 0, 0, 1.0]), np.array([1, 1, 1, 0.5])
    assert not (probs >= best_threshold(targets, probs, "accuracy")).any()


@pytest.mark.parametrize("targets", [[0, 0], [1, 1], [np.nan, np.nan]])
def test_a_label_with_one_class_says_nothing(targets):
    assert best_threshold(np.array(targets, dtype=float), np.array([0.8, 0.9])) == 0.5


def test_nan_cells_are_left_out():
    targets, probs = np.array([0, 1, np.nan, np.nan]), np.array([0.2, 0.4, 0.3, 0.9])
    assert best_threshold(targets, probs) == pytest.approx(0.3)


def test_every_label_gets_its_own_threshold():
    targets = np.array([[0, 0], [1, 0], [1, 1.0]])
    probs = np.array([[0.1, 0.1], [0.3, 0.5], [0.5, 0.9]])
    assert fit_thresholds(targets, probs) == pytest.approx([0.2, 0.7])


def test_float32_probabilities_are_decided_as_they_were_fitted():
    rng = np.random.default_rng(0)
    targets, probs = (rng.random(500) < 0.2).astype(float), rng.random(500).astype(np.float32)
    found = best_threshold(targets, probs)
    fitted = sk.f1_score(targets, probs >= np.float64(found))
    assert fitted == pytest.approx(brute_force("f1", targets, probs.astype(float)), abs=1e-12)


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="'recall'.*choose f1"):
        best_threshold(np.array([0, 1.0]), np.array([0.2, 0.4]), "recall")


def crossfit_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 2)) < 0.2).astype(float)
    return targets, 0.6 * rng.random((300, 2)) + 0.2 * targets, rng.integers(3, size=300)


def test_a_folds_decisions_do_not_depend_on_its_own_targets():
    targets, probs, folds = crossfit_example()
    changed = np.where((folds == 1)[:, None], 1 - targets, targets)
    before, after = (crossfit_decisions(t, probs, folds, "multilabel") for t in (targets, changed))
    assert (before[folds == 1] == after[folds == 1]).all()
    assert (before[folds != 1] != after[folds != 1]).any()


def test_a_folds_decisions_are_made_at_the_thresholds_of_the_others():
    targets, probs, folds = crossfit_example()
    decisions = crossfit_decisions(targets, probs, folds, "multilabel", "accuracy")
    for fold in range(3):
        thresholds = fit_thresholds(targets[folds != fold], probs[folds != fold], "accuracy")
        assert (decisions[folds == fold] == (probs[folds == fold] >= thresholds)).all()


def test_multiclass_needs_no_thresholds():
    probs = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    assert crossfit_decisions(np.eye(3)[:2], probs, np.array([0, 0]), "multiclass").tolist() == [[0, 1, 0], [1, 0, 0]]


def test_one_fold_has_no_others_to_fit_on():
    with pytest.raises(ValueError, match="only one fold"):
        crossfit_decisions(np.ones((2, 1)), np.ones((2, 1)), np.zeros(2, dtype=int), "binary")
