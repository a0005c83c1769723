"""Paired comparison of two models: verdicts, p-values, and the formulas by hand."""

import numpy as np
import pytest

from scoring.model_comparison import DETECTABLE, Comparison, bootstrap_p, compare, holm


def example(rows: int = 400, skill: tuple[float, float] = (1.5, 1.5), seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 2)) < 0.4).astype(float)
    models = [1 / (1 + np.exp(-(each * (targets - 0.5) + rng.normal(size=targets.shape)))) for each in skill]
    return targets, *models, rng.integers(rows // 2, size=rows)


def test_the_better_model_wins_in_either_order():
    targets, good, bad, groups = example(skill=(3, 0.5))
    one, other = (compare("roc_auc", targets, *pair, "multilabel", groups, 400) for pair in ((good, bad), (bad, good)))
    assert (one.winner, other.winner) == (1, -1)
    assert one.low > 0 > other.high and one.difference == -other.difference
    assert one.p < 0.01


def test_a_smaller_loss_is_the_better_one():
    targets, good, bad, groups = example(skill=(3, 0.5))
    verdict = compare("log_loss", targets, good, bad, "multilabel", groups, 400)
    assert verdict.winner == 1 and verdict.difference < 0


def test_equal_predictions_have_no_winner():
    targets, probs, _, groups = example()
    verdict = compare("brier", targets, probs, probs, "multilabel", groups, 100)
    assert (verdict.winner, verdict.p) == (0, 1)
    assert verdict.groups_needed == np.inf


def test_two_models_of_equal_quality_have_no_winner():
    targets, probs, other, groups = example()
    verdict = compare("f1_macro", targets, probs > 0.5, other > 0.5, "multilabel", groups, 400)
    assert verdict.winner == 0 and verdict.p > 0.05


def test_the_groups_needed_follow_from_the_standard_error():
    verdict = Comparison("roc_auc", 0.81, 0.80, -0.01, 0.03, 0.01, 0.3, groups=100)
    assert DETECTABLE == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert verdict.smallest_difference == pytest.approx(0.028016, abs=1e-5)
    assert verdict.groups_needed == pytest.approx(100 * 2.8016**2, rel=1e-3)


def test_the_p_value_agrees_with_the_interval():
    draws = np.arange(1.0, 2000)
    assert bootstrap_p(draws - 40) < 0.05 < bootstrap_p(draws - 60)
    assert bootstrap_p(draws) == bootstrap_p(-draws) == 2 / 2000
    assert bootstrap_p(np.zeros(99)) == 1


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert np.isnan(holm([np.nan, 0.01])[0])


def test_degenerate_data_have_no_winner():
    targets, probs, other, _ = example(2)
    for rows in (np.array([[1.0, 0], [0, 1]]), np.ones((2, 2)), np.full((2, 2), np.nan)):
        for groups in (np.zeros(2), np.arange(2)):
            for name in ("roc_auc", "f1_macro", "log_loss"):
                values = (probs, other) if name != "f1_macro" else (probs > 0.5, other > 0.5)
                assert compare(name, rows, *values, "multilabel", groups, 50).winner in (0, 1, -1)
    assert compare("roc_auc", targets * np.nan, probs, other, "multilabel", np.arange(2), 50).winner == 0
