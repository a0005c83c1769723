"""Label shift: the estimated prevalence, and the test of its assumption."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import ks_2samp

from scoring.label_shift import em_prevalence, estimate_prevalence, misfit, prevalence_interval, reweigh


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


def test_the_interval_contains_the_true_prevalence():
    (targets, probs), (truth, new) = binary(2000, 0.7, 0), binary(800, 0.4, 1)
    low, high = prevalence_interval(targets, probs, new, "binary", np.arange(2000), np.arange(800), replicates=40)[0]
    assert low < estimate_prevalence(targets, probs, new, "binary")[0] < high and low < truth.mean() < high
    assert high - low < 0.15


def test_prevalences_of_three_classes_are_estimated():
    (targets, probs), (truth, new) = three_classes(2000, [1 / 3] * 3, 0), three_classes(2000, [0.1, 0.3, 0.6], 1)
    found = estimate_prevalence(targets, probs, new, "multiclass")
    assert found == pytest.approx(truth.mean(axis=0), abs=0.04) and found.sum() == pytest.approx(1)


def test_em_maximises_the_likelihood():
    _, new = binary(500, 0.4, 1)
    found = em_prevalence(new, np.array([0.7]), "binary")[0]
    best = minimize_scalar(lambda q: -np.log(new * q / 0.7 + (1 - new) * (1 - q) / 0.3).sum(), bounds=(0, 1),
                           method="bounded", options={"xatol": 1e-8}).x
    assert found == pytest.approx(best, abs=1e-4)
    _, new = three_classes(500, [0.1, 0.3, 0.6], 1)
    best = minimize(lambda z: -np.log(new @ (3 * np.exp(z) / np.exp(z).sum())).sum(), np.zeros(3)).x
    assert em_prevalence(new, np.full(3, 1 / 3), "multiclass") == pytest.approx(np.exp(best) / np.exp(best).sum(),
                                                                                abs=1e-3)


def test_reweighed_probabilities_are_the_posteriors():
    _, probs = binary(50, 0.7, 0)
    scores = (np.log(probs / (1 - probs)) - np.log(0.7 / 0.3)) / 2
    assert reweigh(probs, np.array([0.7]), np.array([0.2]), "binary") == pytest.approx(
        expit(2 * scores + np.log(0.2 / 0.8)))
    assert reweigh(np.array([[0.2, 0.8]]), np.array([0.5, 0.5]), np.array([0.8, 0.2]), "multiclass") == pytest.approx(
        np.array([[0.5, 0.5]]))


def test_misfit_exceeds_its_limit_for_moved_scores_only():
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


def test_misfit_of_one_class_is_the_kolmogorov_smirnov_distance():
    rng = np.random.default_rng(0)
    old, new = rng.random(300), rng.random(80) ** 1.5
    distance, limit = misfit(np.ones((300, 1), bool), old, new)
    assert distance == pytest.approx(ks_2samp(old, new).statistic)
    assert ks_2samp(old, new, method="asymp").pvalue < 0.05 < distance / limit
    assert misfit(np.ones((300, 1), bool), old, new, tests=14)[1] > limit


@pytest.mark.parametrize("new", [np.zeros((6, 1)), np.ones((6, 1)), np.full((6, 1), 0.5)])
def test_constant_scores_give_a_prevalence_between_0_and_1(new):
    targets, probs = np.array([[0, 1, 1, 0, 1, np.nan]]).T, np.array([[0, 1, 1, 0.5, 0.5, 1]]).T
    assert 0 < estimate_prevalence(targets, probs, new, "binary")[0] < 1


def test_a_label_without_known_cells_has_no_estimate():
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 2)) < 0.3).astype(float)
    probs = 0.3 + 0.3 * targets + 0.2 * rng.random((300, 2))
    targets[:, 1] = np.nan
    estimate = estimate_prevalence(targets, probs, probs, "multilabel")
    assert np.isnan(estimate).tolist() == [False, True]
