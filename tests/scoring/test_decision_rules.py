"""Policies: nobody is decided about by parameters of its own fold, and each rule is the rule it says it is."""

import numpy as np
import pytest

from competition import COMPETITIONS
from scoring.decision_rules import RIVALS, fit_class_weights, fit_rivals_threshold, rules_for
from scoring.metrics import METRICS, decide

LABELS = ("no_findings", "pneumonia", "tuberculosis")


def classes(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) of a rare third class that is nearly never the most probable one."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.5, 0.4, 0.1])
    probs = rng.dirichlet([4, 3, 1], n) + np.eye(3)[truth] * [0.3, 0.3, 0.15]
    return np.eye(3)[truth], probs / probs.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("task, metric", [("multiclass", "f1_macro"), ("multiclass", "log_loss"),
                                          ("multilabel", "f1_samples"), ("multilabel", "log_loss")])
def test_cross_fitted_rules_ignore_a_folds_own_targets(task, metric):
    targets, probs = classes()
    folds = np.arange(len(targets)) % 3
    changed = np.where((folds == 1)[:, None], np.roll(targets, 1, axis=1), targets)
    for name, policy in rules_for(task, LABELS, metric).items():
        before, after = (policy.crossfit(each, probs, folds) for each in (targets, changed))
        assert (before[folds == 1] == after[folds == 1]).all(), name
        if policy.is_fitted:
            with pytest.raises(ValueError, match="only one fold"):
                policy.crossfit(targets, probs, np.zeros(len(targets), int))
            assert policy.fit(targets, probs).parameters


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.uses == "decisions"])
def test_class_weights_are_never_worse_than_argmax(metric):
    for seed in range(3):
        targets, probs = classes(seed=seed)
        targets[5] = np.nan
        weights = fit_class_weights(targets, probs, metric)
        scores = [METRICS[metric].score(targets, decide(probs * each, None, "multiclass"), "multiclass")
                  for each in (weights, np.ones(3))]
        assert scores[0] >= scores[1] and weights[0] == 1
    assert scores[0] > scores[1] or metric not in ("f1_macro", "balanced_accuracy")


def test_class_weights_are_one_without_alternatives():
    targets, _ = classes(30)
    assert fit_class_weights(targets, np.full((30, 3), 1 / 3), "accuracy").tolist() != []
    assert fit_class_weights(np.full((4, 3), np.nan), np.full((4, 3), 1 / 3), "f1_macro").tolist() == [1, 1, 1]
    perfect = np.eye(3)[[0, 1, 2, 0]]
    assert fit_class_weights(perfect, perfect, "f1_macro").tolist() == [1, 1, 1]


def test_the_rivals_threshold_by_hand():
    # rows of pneumonia do not count. yes from .8: P 1, R 1/3; from .6: P 1, R 2/3; from .5: 2/3, 2/3; from .3: 3/4, 1
    targets = np.eye(3)[[2, 2, 0, 2, 1, 0]]
    probs = np.zeros((6, 3))
    probs[:, 2] = [0.8, 0.6, 0.5, 0.3, 0.9, 0.1]
    assert fit_rivals_threshold(targets, probs, positive=2, negative=0) == pytest.approx(0.3)
    probs[3, 2] = 0.05  # from .05: P 3/5, R 1; .6 is nearer now, at a distance of 1/3
    assert fit_rivals_threshold(targets, probs, positive=2, negative=0) == pytest.approx(0.6)
    assert fit_rivals_threshold(np.eye(3)[[1, 0, 0]], probs[:3], positive=2, negative=0) == 0.5


def test_the_rivals_rule_equals_the_reference_system():
    targets, probs = classes()
    fitted = rules_for("multiclass", LABELS, "f1_macro")["rivals"].fit(targets, probs)
    threshold = fit_rivals_threshold(targets, probs, positive=2, negative=0)
    for row, decided in zip(probs, fitted.apply(probs), strict=True):
        expected = 1 if row.argmax() == 1 else 2 if row[2] >= threshold else 0
        assert decided.tolist() == np.eye(3)[expected].tolist()
    assert "tuberculosis" in fitted.describe(0)


def test_the_rivals_rule_exists_for_known_labels_only():
    assert "rivals" not in rules_for("multiclass", ("a", "b", "c"), "f1_macro")
    known = {frozenset(competition.labels) for competition in COMPETITIONS.values()}
    assert set(RIVALS) <= known


def test_the_first_rule_is_the_default():
    first = {(task, metric): next(iter(rules_for(task, LABELS, metric)))
             for task in ("multilabel", "multiclass") for metric in ("roc_auc", "f1_macro")}
    assert first == {("multilabel", "roc_auc"): "as_is", ("multilabel", "f1_macro"): "thresholds",
                     ("multiclass", "roc_auc"): "as_is", ("multiclass", "f1_macro"): "argmax"}


def test_rules_accept_degenerate_rows():
    """Certain and equal probabilities, labels without positives, without any certain cell."""
    targets = np.array([[0, 1, np.nan], [0, 1, np.nan], [0, 0, np.nan], [0, 1, np.nan]])
    for probs in (np.zeros((4, 3)), np.ones((4, 3)), np.full((4, 3), 0.5), np.eye(4)[:, :3]):
        for metric in ("f1_macro", "f1_micro", "f1_weighted", "f1_samples", "accuracy", "subset_accuracy",
                       "balanced_accuracy", "log_loss"):
            for policy in rules_for("multilabel", LABELS, metric).values():
                values = policy.fit(targets, probs).apply(probs)
                assert np.isfinite(values).all() and values.shape == (4, 3)
