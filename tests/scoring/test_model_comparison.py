"""Two models compared: what is noise is called noise, what is not is not, and the sums behind it come out by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from scoring.metrics import accuracy
from scoring.model_comparison import FINDABLE, Comparison, bootstrap_p, compare, holm, split_variance, swapped_p


def example(rows: int = 400, skill: tuple[float, float] = (1.5, 1.5), seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 2)) < 0.4).astype(float)
    models = [1 / (1 + np.exp(-(each * (targets - 0.5) + rng.normal(size=targets.shape)))) for each in skill]
    return targets, *models, rng.integers(rows // 2, size=rows)


def test_a_better_model_is_found_whichever_is_named_first():
    targets, good, bad, groups = example(skill=(3, 0.5))
    one, other = (compare("roc_auc", targets, *pair, "multilabel", groups, 400) for pair in ((good, bad), (bad, good)))
    assert (one.winner, other.winner) == (1, -1)
    assert one.low > 0 > other.high and one.difference == -other.difference
    assert max(one.p, one.p_delong) < 0.01
    assert np.isnan(one.p_swapped)


def test_a_smaller_loss_is_the_better_one():
    targets, good, bad, groups = example(skill=(3, 0.5))
    verdict = compare("log_loss", targets, good, bad, "multilabel", groups, 400)
    assert verdict.winner == 1 and verdict.difference < 0 and verdict.p_swapped < 0.01
    assert np.isnan(verdict.p_delong)


def test_equal_predictions_are_no_difference():
    targets, probs, _, groups = example()
    verdict = compare("brier", targets, probs, probs, "multilabel", groups, 100)
    assert (verdict.winner, verdict.p, verdict.p_swapped) == (0, 1, 1)
    assert verdict.groups_needed == np.inf


def test_noise_is_called_noise():
    targets, probs, other, groups = example()
    verdict = compare("f1_macro", targets, probs > 0.5, other > 0.5, "multilabel", groups, 400)
    assert verdict.winner == 0 and min(verdict.p, verdict.p_swapped) > 0.05


def test_what_would_have_to_be_seen_follows_from_the_standard_error():
    verdict = Comparison("roc_auc", 0.81, 0.80, -0.01, 0.03, 0.01, 0.3, np.nan, 0.3, groups=100)
    assert FINDABLE == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert verdict.smallest_difference == pytest.approx(0.028016, abs=1e-5)
    assert verdict.groups_needed == pytest.approx(100 * 2.8016**2, rel=1e-3)


def test_swapping_is_the_sign_test_where_only_one_of_two_is_right():
    # of 20 rows that the two decide differently, the first is right on 15: an exact binomial test
    targets = np.ones((60, 1))
    ours, theirs = (np.ones((60, 1)) for _ in range(2))
    targets[40:] = 0
    theirs[:15], ours[15:20] = 0, 0
    p = swapped_p("accuracy", targets, ours, theirs, "binary", np.arange(60), replicates=20000)
    assert accuracy(targets, ours, "binary") > accuracy(targets, theirs, "binary")
    assert p == pytest.approx(binomtest(15, 20).pvalue, abs=0.006)


def test_a_group_is_swapped_as_a_whole():
    targets, probs, other, _ = example(60, skill=(2.5, 1))
    once = swapped_p("accuracy", targets, probs > 0.5, other > 0.5, "multilabel", np.arange(60), 4000)
    copies = [each.repeat(5, axis=0) for each in (targets, probs > 0.5, other > 0.5)]
    assert swapped_p("accuracy", *copies, "multilabel", np.arange(60).repeat(5), 4000) == pytest.approx(once, abs=0.02)
    assert swapped_p("accuracy", *copies, "multilabel", np.arange(300), 4000) < once


def test_the_p_value_is_below_a_twentieth_just_where_the_interval_leaves_out_zero():
    draws = np.arange(1.0, 2000)
    assert bootstrap_p(draws - 40) < 0.05 < bootstrap_p(draws - 60)
    assert bootstrap_p(draws) == bootstrap_p(-draws) == 2 / 2000
    assert bootstrap_p(np.zeros(99)) == 1


def test_several_p_values_are_corrected_as_holm_did():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert np.isnan(holm([np.nan, 0.01])[0])


def test_two_rows_one_group_and_one_class_give_no_verdict_and_no_error():
    targets, probs, other, _ = example(2)
    for rows in (np.array([[1.0, 0], [0, 1]]), np.ones((2, 2)), np.full((2, 2), np.nan)):
        for groups in (np.zeros(2), np.arange(2)):
            for name in ("roc_auc", "f1_macro", "log_loss"):
                values = (probs, other) if name != "f1_macro" else (probs > 0.5, other > 0.5)
                assert compare(name, rows, *values, "multilabel", groups, 50).winner in (0, 1, -1)
    assert compare("roc_auc", targets * np.nan, probs, other, "multilabel", np.arange(2), 50).winner == 0


def test_a_score_spreads_by_sample_folds_and_seeds():
    targets, probs, _, groups = example(1000)
    spread = split_variance("roc_auc", targets, probs, "multilabel", groups, groups % 5, [0.80, 0.82])
    assert spread.seeds == pytest.approx(0.0141, abs=1e-4) and spread.seed_count == 2
    assert spread.folds_by_sample == pytest.approx(np.sqrt(5) * spread.sample, rel=0.2)
    assert spread.training**2 == pytest.approx(max(0, spread.folds**2 - spread.folds_by_sample**2))


def test_folds_whose_models_differ_spread_beyond_their_patients():
    targets, probs, _, groups = example(2000, skill=(3, 3))
    folds = groups % 5
    probs[folds == 0] = np.random.default_rng(1).random(probs[folds == 0].shape)
    spread = split_variance("roc_auc", targets, probs, "multilabel", groups, folds, [0.8])
    assert spread.training > 3 * spread.folds_by_sample
    assert np.isnan(spread.seeds)
