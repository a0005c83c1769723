"""Calibration: the least log loss there is, nothing made certain, and errors as they are by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from scoring.calibration import (
    apply_platt,
    apply_temperatures,
    calibration_errors,
    draw_reliability,
    fit_platt,
    fit_temperatures,
    logits_of,
    reliability,
)


def scores(n: int = 400, slope: float = 2.5, offset: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1) targets drawn from true probabilities, and probabilities whose logits are off by a line."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (n, 1))
    return (rng.random((n, 1)) < expit(logits)).astype(float), expit(logits * slope + offset)


def test_platt_scaling_is_a_logistic_regression_on_smoothed_targets():
    targets, probs = scores()
    positives, negatives = (targets == 1).sum(), (targets == 0).sum()
    share = np.where(targets == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2)).ravel()
    logits = np.log(probs / (1 - probs))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logits, (2, 1)), np.repeat([1, 0], len(logits)), sample_weight=np.concatenate((share, 1 - share)))
    assert fit_platt(targets, probs)[0] == pytest.approx([reference.coef_[0, 0], reference.intercept_[0]], abs=1e-4)


def test_platt_scaling_inverts_a_linear_change_of_logits():
    targets, probs = scores(20_000)
    slope, offset = fit_platt(targets, probs)[0]
    assert slope == pytest.approx(1 / 2.5, rel=0.05) and offset == pytest.approx(-0.8 / 2.5, abs=0.06)


def test_row_weights_equal_repeated_rows():
    targets, probs = scores(60)
    times = np.random.default_rng(1).integers(0, 3, 60)
    repeated = np.repeat(np.arange(60), times)
    assert fit_platt(targets, probs, times) == pytest.approx(fit_platt(targets[repeated], probs[repeated]), abs=1e-4)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_temperature_minimises_log_loss(task):
    targets, probs = scores(slope=2.5, offset=0)
    if task == "multiclass":
        rng = np.random.default_rng(3)
        logits = rng.normal(0, 2, (300, 3))
        targets = np.array([rng.multinomial(1, row) for row in softmax(logits, axis=1)], dtype=float)
        probs = softmax(2 * logits, axis=1)

    def loss(temperature: float) -> float:
        values = apply_temperatures(probs, np.array([temperature]), task)
        return log_loss(targets.argmax(axis=1), values) if task == "multiclass" else log_loss(targets, values)

    found = fit_temperatures(targets, probs, task)[0]
    grid = np.geomspace(0.1, 10, 60)
    assert loss(found) <= min(map(loss, grid)) + 1e-9
    assert 1.5 < found < 3.5


def test_labels_are_calibrated_independently():
    targets, probs = scores()
    both = np.column_stack([targets, 1 - targets]), np.column_stack([probs, probs**2])
    both[0][::7, 1] = np.nan
    known = ~np.isnan(both[0][:, 1])
    alone = fit_platt(both[0][known, 1:], both[1][known, 1:])
    assert fit_platt(*both) == pytest.approx(np.concatenate((fit_platt(targets, probs), alone)), abs=1e-6)


@pytest.mark.parametrize("targets", [[0, 0, 0], [1, 1, 1], [np.nan, np.nan, np.nan], [np.nan, 1, np.nan]])
def test_a_label_of_one_class_is_not_calibrated(targets):
    targets, probs = np.array(targets)[:, None], np.array([[0.2], [0.5], [0.9]])
    assert apply_platt(probs, fit_platt(targets, probs)) == pytest.approx(probs)
    assert apply_temperatures(probs, fit_temperatures(targets, probs, "binary"), "binary") == pytest.approx(probs)


def test_calibrated_extreme_scores_are_finite_and_keep_their_order():
    targets = np.array([0, 0, 1, 1, 0, 1.0])[:, None]
    for probs in ([0, 0, 1, 1, 0, 1.0], [0.5] * 6, [0, 0.5, 0.5, 1, 1, 0.0]):
        probs = np.array(probs)[:, None]
        for values in (apply_platt(probs, fit_platt(targets, probs)),
                       apply_temperatures(probs, fit_temperatures(targets, probs, "binary"), "binary")):
            assert ((values >= 0) & (values <= 1)).all()
            assert (np.diff(values[probs.ravel().argsort(kind="stable"), 0]) >= -1e-12).all()
    assert np.isfinite(logits_of(np.array([[0.0, 1.0]]), "multiclass")).all()


def test_platt_scaling_never_reverses_the_order():
    targets, probs = scores()
    assert np.ptp(apply_platt(probs, fit_platt(1 - targets, probs))) < 1e-9


def test_the_calibration_error_by_hand():
    targets, probs = np.array([0, 1, 1, 1.0, np.nan]), np.array([0.1, 0.3, 0.6, 0.8, 0.99])
    predicted, observed, cells = reliability(targets, probs, bins=2)
    assert predicted == pytest.approx([0.2, 0.7]) and observed.tolist() == [0.5, 1] and cells.tolist() == [2, 2]
    assert calibration_errors(targets[:, None], probs[:, None], bins=2) == pytest.approx([0.3])


def test_equal_probabilities_share_a_bin():
    _, observed, cells = reliability(np.array([1, 0] * 20, dtype=float), np.full(40, 0.5))
    assert observed.tolist() == [0.5] and cells.tolist() == [40]


def test_a_label_without_cells_has_no_calibration_error():
    targets, probs = scores(50)
    targets, probs = np.column_stack([targets, np.full(50, np.nan)]), np.column_stack([probs, probs])
    assert np.isnan(calibration_errors(targets, probs)).tolist() == [False, True]
    assert len(draw_reliability(targets, {"as_is": probs}, ("a", "b"), "two labels").axes) == 2
