"""Label shift: the prevalence is estimated where only it differs, and the misfit tells where more does."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import ks_2samp

from scoring.decision_rules import rule_for_prevalence, rules_for
from scoring.label_shift import (
    class_weights,
    em_prevalence,
    estimate_prevalence,
    misfit,
    prevalence_interval,
    reweigh,
)
from scoring.metrics import METRICS, make_scorer


def binary(n: int, prevalence: float, seed: int, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1) targets and exact posterior probabilities, for a prevalence of 0.7, of scores N(+-1, 1)."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 1)) < prevalence).astype(float)
    scores = rng.normal(2 * targets - 1 + moved, 1)
    return targets, expit(2 * scores + np.log(0.7 / 0.3))


def three_classes(n: int, prevalence: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) targets and exact posterior probabilities, for equal shares, of scores N(2 class, 1)."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=prevalence)
    likelihoods = np.exp(-np.square(rng.normal(2 * truth, 1)[:, None] - [0, 2, 4]) / 2)
    return np.eye(3)[truth], likelihoods / likelihoods.sum(axis=1, keepdims=True)


def test_another_prevalence_is_found_and_lies_in_its_interval():
    (targets, probs), (truth, new) = binary(2000, 0.7, 0), binary(800, 0.4, 1)
    low, high = prevalence_interval(targets, probs, new, "binary", np.arange(2000), np.arange(800), replicates=40)[0]
    assert low < estimate_prevalence(targets, probs, new, "binary")[0] < high and low < truth.mean() < high
    assert high - low < 0.15


def test_the_shares_of_three_classes_are_found():
    (targets, probs), (truth, new) = three_classes(2000, [1 / 3] * 3, 0), three_classes(2000, [0.1, 0.3, 0.6], 1)
    found = estimate_prevalence(targets, probs, new, "multiclass")
    assert found == pytest.approx(truth.mean(axis=0), abs=0.04) and found.sum() == pytest.approx(1)


def test_em_ends_where_the_scores_are_most_likely():
    _, new = binary(500, 0.4, 1)
    found = em_prevalence(new, np.array([0.7]), "binary")[0]
    best = minimize_scalar(lambda q: -np.log(new * q / 0.7 + (1 - new) * (1 - q) / 0.3).sum(), bounds=(0, 1),
                           method="bounded", options={"xatol": 1e-8}).x
    assert found == pytest.approx(best, abs=1e-4)
    _, new = three_classes(500, [0.1, 0.3, 0.6], 1)
    best = minimize(lambda z: -np.log(new @ (3 * np.exp(z) / np.exp(z).sum())).sum(), np.zeros(3)).x
    assert em_prevalence(new, np.full(3, 1 / 3), "multiclass") == pytest.approx(np.exp(best) / np.exp(best).sum(),
                                                                                abs=1e-3)


def test_probabilities_for_another_prevalence_are_the_posteriors_there():
    _, probs = binary(50, 0.7, 0)
    scores = (np.log(probs / (1 - probs)) - np.log(0.7 / 0.3)) / 2
    assert reweigh(probs, np.array([0.7]), np.array([0.2]), "binary") == pytest.approx(
        expit(2 * scores + np.log(0.2 / 0.8)))
    assert reweigh(np.array([[0.2, 0.8]]), np.array([0.5, 0.5]), np.array([0.8, 0.2]), "multiclass") == pytest.approx(
        np.array([[0.5, 0.5]]))


def test_weighed_rows_have_the_prevalence_asked_for():
    targets, _ = binary(400, 0.7, 0)
    targets[:9] = np.nan
    of_negatives, of_positives = class_weights(targets, np.array([0.25]), "binary")[0]
    positives, negatives = (targets == 1).sum() * of_positives, (targets == 0).sum() * of_negatives
    assert positives / (positives + negatives) == pytest.approx(0.25)
    assert positives + negatives == pytest.approx((~np.isnan(targets)).sum())
    assert class_weights(np.ones((3, 1)), np.array([0.5]), "binary").tolist() == [[1, 1]]
    assert class_weights(targets, np.array([np.nan]), "binary").tolist() == [[1, 1]]


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "log_loss", "brier"])
def test_under_label_shift_the_rule_for_it_is_better_than_the_default(metric):
    (targets, probs), (truth, new) = binary(4000, 0.7, 0), binary(4000, 0.15, 1)
    rules = [next(iter(rules_for("binary", ("a",), metric).values())),
             rule_for_prevalence("label_shift", "binary", ("a",), metric, np.array([0.15]))]
    plain, corrected = (METRICS[metric].score(truth, rule.fit(targets, probs).apply(new), "binary")
                        for rule in rules)
    assert corrected < plain if metric in ("log_loss", "brier") else corrected > plain


def test_the_rehearsal_tells_the_score_there():
    """Cross-fitted rows weighed to a prevalence score as rows that have it."""
    (targets, probs), (truth, new) = binary(6000, 0.7, 0), binary(6000, 0.3, 1)
    decided, new_decided = (probs >= 0.5).astype(int), (new >= 0.5).astype(int)
    weights = class_weights(targets, truth.mean(axis=0), "binary")
    for metric in ("accuracy", "f1_macro"):
        rehearsed = make_scorer(metric, targets, decided, "binary", weights)(np.ones((1, 6000)))[0]
        assert rehearsed == pytest.approx(METRICS[metric].score(truth, new_decided, "binary"), abs=0.015)


def test_three_classes_are_decided_by_probability_times_the_ratio_of_shares():
    (targets, probs), (truth, new) = three_classes(3000, [1 / 3] * 3, 0), three_classes(3000, [0.05, 0.15, 0.8], 1)
    rule = rule_for_prevalence("label_shift", "multiclass", tuple("abc"), "accuracy", np.array([0.05, 0.15, 0.8]))
    fitted = rule.fit(targets, probs)
    assert fitted.parameters["weights"] == pytest.approx([0.15, 0.45, 2.4], rel=0.1)
    assert (fitted.apply(new) * truth).sum() > (np.eye(3)[new.argmax(axis=1)] * truth).sum()


def test_the_misfit_is_quiet_about_label_shift_and_loud_about_moved_scores():
    targets, probs = binary(3000, 0.7, 0)
    classes = np.hstack([targets == 0, targets == 1])
    for seed, share in enumerate((0.1, 0.5, 0.95), 1):
        distance, limit = misfit(classes, probs[:, 0], binary(600, share, seed)[1][:, 0])
        assert distance <= limit < 0.1
    distance, limit = misfit(classes, probs[:, 0], binary(600, 0.5, 5, moved=0.8)[1][:, 0])
    assert distance > limit
    targets, probs = three_classes(3000, [1 / 3] * 3, 0)
    _, new = three_classes(600, [0.05, 0.15, 0.8], 1)
    for k in range(3):
        distance, limit = misfit(targets == 1, probs[:, k], new[:, k])
        assert distance <= limit
    assert np.isnan(misfit(np.ones((5, 2), bool) & [True, False], np.full(5, 0.5), np.full(5, 0.5))).all()


def test_the_misfits_distance_is_that_of_two_samples_where_there_is_one_class():
    rng = np.random.default_rng(0)
    old, new = rng.random(300), rng.random(80) ** 1.5
    distance, limit = misfit(np.ones((300, 1), bool), old, new)
    assert distance == pytest.approx(ks_2samp(old, new).statistic)
    assert ks_2samp(old, new, method="asymp").pvalue < 0.05 < distance / limit
    assert misfit(np.ones((300, 1), bool), old, new, tests=14)[1] > limit


@pytest.mark.parametrize("new", [np.zeros((6, 1)), np.ones((6, 1)), np.full((6, 1), 0.5)])
def test_scores_that_say_nothing_give_a_prevalence_all_the_same(new):
    targets, probs = np.array([[0, 1, 1, 0, 1, np.nan]]).T, np.array([[0, 1, 1, 0.5, 0.5, 1]]).T
    assert 0 < estimate_prevalence(targets, probs, new, "binary")[0] < 1


def test_a_label_that_nobody_knows_has_no_estimate_and_is_left_as_it_is():
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 2)) < 0.3).astype(float)
    probs = 0.3 + 0.3 * targets + 0.2 * rng.random((300, 2))
    targets[:, 1] = np.nan
    estimate = estimate_prevalence(targets, probs, probs, "multilabel")
    assert np.isnan(estimate).tolist() == [False, True]
    rule = rule_for_prevalence("label_shift", "multilabel", ("a", "b"), "brier", estimate)
    changed = rule.fit(targets, probs).apply(probs)
    assert np.isfinite(changed).all() and changed[:, 1] == pytest.approx(probs[:, 1])
