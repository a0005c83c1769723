"""Intervals: whole groups are drawn, known widths come out, and the fast ROC AUC is scikit-learn's."""

import tracemalloc

import numpy as np
import pytest
import sklearn.metrics as sk

from scoring import confidence_intervals
from scoring.confidence_intervals import (
    bootstrap_counts,
    bootstrap_interval,
    bootstrap_scores,
    bounded_interval,
    difference_draws,
    edge_interval,
    informative_cases,
    logit_interval,
    paired_roc_auc_interval,
    percentile_interval,
    roc_auc_interval,
    score_interval,
    small_sample,
    widen_for_tests,
)
from scoring.metrics import score
from scoring.ranking import Ranking, rank_labels, ranked_scores


def example(n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets with NaN cells, scores with many ties, and groups of about three rows."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < [0.5, 0.2, 0.05]).astype(float)
    probs = np.round(0.8 * rng.random((n, 3)) + 0.2 * targets, 1)
    targets[rng.random((n, 3)) < 0.1] = np.nan
    return targets, probs, rng.integers(n // 3, size=n).astype(str)


def test_rows_of_one_group_always_count_alike():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    for counts in bootstrap_counts(groups, replicates=50):
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]


def test_as_many_groups_are_drawn_as_there_are():
    groups = np.array(["a", "a", "b", "c"])
    drawn = np.array([counts[[0, 2, 3]] for counts in bootstrap_counts(groups, replicates=2000)])
    assert (drawn.sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.08)


def test_the_same_seed_draws_the_same_groups():
    groups = np.arange(20)
    first, again, other = (np.array(list(bootstrap_counts(groups, 5, seed))) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_the_interval_of_a_mean_equals_the_textbook_formula():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(lambda w: np.average(values, weights=w), np.arange(400), replicates=2000)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_copies_of_a_row_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=100)
    copies = values.repeat(9)
    once = bootstrap_interval(lambda w: np.average(values, weights=w), np.arange(100))
    grouped = bootstrap_interval(lambda w: np.average(copies, weights=w), np.arange(100).repeat(9))
    as_if_independent = bootstrap_interval(lambda w: np.average(copies, weights=w), np.arange(900))
    assert grouped == pytest.approx(once, abs=1e-12)
    assert np.diff(as_if_independent)[0] == pytest.approx(np.diff(once)[0] / 3, rel=0.1)


def test_a_wider_level_gives_a_wider_interval():
    scores = np.arange(101.0)
    assert percentile_interval(scores, 0.9) == pytest.approx((5, 95))
    assert percentile_interval(scores, 0.5) == pytest.approx((25, 75))


def test_bonferroni_widens_by_the_ratio_of_normal_quantiles():
    low, high = widen_for_tests(np.array([-1.0]), np.array([2.0]), np.array([0.0]), tests=2)
    assert (low[0], high[0]) == pytest.approx((-2.2414 / 1.95996, 2 * 2.2414 / 1.95996), abs=1e-4)  # of tables


def test_bonferroni_never_narrows_an_interval():
    assert widen_for_tests(np.array([0.01]), np.array([0.3]), np.array([-0.01]), tests=14)[0] <= 0.01


def test_an_interval_for_one_test_is_the_interval():
    low, high = widen_for_tests(np.array([-1.0]), np.array([2.0]), np.array([0.5]), tests=1)
    assert (low[0], high[0]) == pytest.approx((-1, 2))


def test_more_than_a_tenth_of_undefined_replicates_gives_no_interval():
    scores = np.arange(100.0)
    scores[:10] = np.nan
    assert percentile_interval(scores) == percentile_interval(scores[10:])
    scores[10] = np.nan
    assert np.isnan(percentile_interval(scores)).all()


@pytest.mark.parametrize("integers", [True, False])
def test_the_fast_auc_equals_scikit_learns_with_ties_and_nan(integers):
    targets, probs, _ = example()
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, size=(7, len(targets))) if integers else rng.random((7, len(targets)))
    aucs = ranked_scores(Ranking.auc, rank_labels(targets, probs), weights)
    for r in range(7):
        for k in range(3):
            rows = ~np.isnan(targets[:, k]) & (weights[r] > 0)
            expected = sk.roc_auc_score(targets[rows, k], probs[rows, k], sample_weight=weights[r, rows])
            assert aucs[r, k] == pytest.approx(expected, abs=1e-12)


def test_a_label_without_one_of_its_classes_has_no_auc():
    targets = np.array([[1, 0, 1, np.nan], [0, 0, 1, np.nan]]).astype(float)
    aucs = ranked_scores(Ranking.auc, rank_labels(targets, np.full((2, 4), 0.5)), np.array([[1, 1], [2, 0]]))
    assert aucs[0, 0] == 0.5
    assert np.isnan(aucs[1]).all() and np.isnan(aucs[0, 1:]).all()


def test_fast_replicates_equal_scikit_learns():
    targets, probs, groups = example()
    slow = [score("roc_auc", targets, probs, "multilabel", weights=each) for each in bootstrap_counts(groups, 40)]
    assert bootstrap_scores("roc_auc", targets, probs, "multilabel", groups, 40) == pytest.approx(slow, abs=1e-12)


def test_the_logit_interval_by_hand():
    draws = np.array([0.7, 0.9] * 50)  # of standard deviation 0.1
    low, high = logit_interval(0.8, draws, cases=11)
    reach = 2.228139 * 0.1 * np.sqrt(11 / 10) / (0.8 * 0.2)  # Student's 97.5 % point of 10 degrees of freedom
    assert np.log(high / (1 - high)) - np.log(4) == pytest.approx(reach, rel=1e-6)
    assert np.log(4) - np.log(low / (1 - low)) == pytest.approx(reach, rel=1e-6)
    assert np.isnan(logit_interval(0.8, np.where(np.arange(100) < 11, np.nan, draws), cases=11)).all()


def test_a_score_of_one_patient_has_no_interval():
    targets, probs, _ = example()
    assert np.isnan(score_interval("roc_auc", targets, probs, "multilabel", np.zeros(len(targets)), 20)).all()


def test_informative_cases_are_those_of_the_rarer_class():
    one, groups = np.repeat([0.0, 1.0], [80, 20])[:, None], np.arange(100)
    assert informative_cases("roc_auc", one, groups) == pytest.approx(20)
    assert informative_cases("roc_auc", 1 - one, groups) == pytest.approx(20)
    assert informative_cases("roc_auc", one, groups // 2) == pytest.approx(10)
    assert informative_cases("roc_auc", np.hstack((one, one)), groups) == pytest.approx(39)  # 19 + 19 + 1
    with_rare = np.hstack((one, (groups < 4)[:, None].astype(float)))  # 20 and 4 positives
    degrees = (1 / 20 + 1 / 4) ** 2 / (1 / 20**2 / 19 + 1 / 4**2 / 3)
    assert informative_cases("roc_auc", with_rare, groups) == pytest.approx(degrees + 1)
    assert informative_cases("accuracy", with_rare, groups) == pytest.approx(100)
    assert informative_cases("roc_auc", np.eye(100)[:, :1], groups) == pytest.approx(3)
    assert np.isnan(informative_cases("roc_auc", np.full((5, 2), np.nan), np.arange(5)))


def test_few_cases_widen_the_interval_by_students_quantile():
    assert small_sample(20) == pytest.approx(2.093024 / 1.959964 * np.sqrt(20 / 19), rel=1e-6)
    assert small_sample(1) == small_sample(3) == pytest.approx(4.302653 / 1.959964 * np.sqrt(3 / 2), rel=1e-6)
    assert small_sample(100_000) == pytest.approx(1, abs=1e-4)


def test_a_difference_counts_only_patients_on_which_models_differ():
    targets = np.repeat([0.0, 1.0], [50, 50])[:, None]
    values = targets.astype(np.int8)
    other = values.copy()
    other[48:52] = 1 - other[48:52]
    ours, theirs = (bootstrap_scores("accuracy", targets, each, "binary", np.arange(100), 400)
                    for each in (values, other))
    widened = difference_draws("accuracy", targets, values, other, "binary", np.arange(100), 400)
    assert widened == pytest.approx(0.04 + small_sample(4) * (ours - theirs - 0.04))
    in_pairs = difference_draws("accuracy", targets, values, other, "binary", np.arange(100) // 2, 400)
    assert in_pairs.std() > widened.std()


def test_few_errors_widen_the_interval_of_an_accuracy():
    targets = np.repeat([0.0, 1.0], [50, 950])[:, None]
    decisions = np.where(np.arange(1000) < 20, 1 - targets[:, 0], targets[:, 0]).astype(np.int8)[:, None]
    draws = bootstrap_scores("accuracy", targets, decisions, "binary", np.arange(1000), 4000)
    seen = bounded_interval("accuracy", 0.98, draws, targets, np.arange(1000))
    assert seen == pytest.approx(logit_interval(0.98, draws, cases=20), abs=2e-4)


def test_with_many_rows_logit_and_percentile_intervals_agree():
    targets, probs, groups = example(3000)
    draws = bootstrap_scores("roc_auc", targets, probs, "multilabel", groups, 500)
    assert score_interval("roc_auc", targets, probs, "multilabel", groups, 500) == pytest.approx(
        percentile_interval(draws), abs=0.003)
    few, high, _ = example(30)
    assert score_interval("roc_auc", few[:, :1], few[:, :1] + high[:, :1] * 1.3, "binary", np.arange(30))[1] <= 1


def test_a_perfect_auc_has_a_clopper_pearson_interval():
    low, high = edge_interval(1.0, cases=20)
    assert (low, high) == (pytest.approx(0.8316, abs=1e-4), 1)  # of tables: 20 of 20
    assert edge_interval(0.0, cases=20) == pytest.approx((1 - high, 1 - low))
    targets = np.repeat([0.0, 1.0], [80, 20])[:, None]
    assert score_interval("roc_auc", targets, targets, "binary", np.arange(100), 50) == pytest.approx((low, high))
    assert score_interval("f1_macro", targets, 0 * targets, "binary", np.arange(100), 50)[0] == 0
    in_pairs = score_interval("roc_auc", targets, targets, "binary", np.arange(100) // 2, 50)
    assert in_pairs == (pytest.approx(0.6915, abs=1e-4), 1)  # 10 of 10


def test_perfect_scores_average_the_intervals_of_their_labels():
    targets = np.repeat([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], [80, 15, 5], axis=0)
    low, _ = score_interval("accuracy", targets, targets.astype(np.int8), "multilabel", np.arange(100), 50)
    assert low == pytest.approx(0.9638, abs=1e-4)  # 100 of 100
    low, _ = score_interval("roc_auc", targets, targets, "multilabel", np.arange(100), 50)
    assert low == pytest.approx((0.8316 + 0.4782) / 2, abs=1e-4)  # 20 of 20, and 5 of 5


def test_a_loss_has_the_percentile_interval():
    targets, probs, groups = example()
    draws = bootstrap_scores("log_loss", targets, probs, "multilabel", groups, 50)
    assert score_interval("log_loss", targets, probs, "multilabel", groups, 50) == percentile_interval(draws)


def test_the_chunk_size_does_not_change_scores(monkeypatch):
    targets, probs, groups = example()
    at_once = bootstrap_scores("roc_auc", targets, probs, "multilabel", groups, 20)
    monkeypatch.setattr(confidence_intervals, "CHUNK_BYTES", 8 * len(targets) * 3)
    in_chunks = bootstrap_scores("roc_auc", targets, probs, "multilabel", groups, 20)
    assert np.array_equal(in_chunks, at_once, equal_nan=True)


def test_a_macro_auc_without_any_defined_label_has_no_interval():
    targets, probs, groups = example()
    assert np.isnan(roc_auc_interval(np.zeros_like(targets), probs, groups, 20)).all()


@pytest.mark.parametrize("metric_name", ["accuracy", "f1_samples", "f1_micro", "brier"])
def test_no_interval_without_any_scored_cell(metric_name):
    nothing, values = np.full((20, 2), np.nan), np.zeros((20, 2), np.int8)
    assert np.isnan(score_interval(metric_name, nothing, values, "multilabel", np.arange(20), 20)).all()
    assert np.isnan(difference_draws(metric_name, nothing, values, 1 - values, "multilabel", np.arange(20), 20)).all()


def test_equal_predictions_have_a_difference_of_zero():
    targets, probs, groups = example()
    assert paired_roc_auc_interval(targets, probs, probs, groups, 50) == (0, 0)


def test_the_paired_interval_equals_a_plain_bootstrap():
    targets, probs, groups = example()
    better = np.where(np.isnan(targets), probs, 0.5 * probs + 0.5 * targets)

    def difference(weights: np.ndarray) -> float:
        ours, theirs = (score("roc_auc", targets, each, "multilabel", weights=weights) for each in (better, probs))
        return ours - theirs

    seen, slow = difference(np.ones(len(targets))), np.array(bootstrap_interval(difference, groups, 40))
    wider = seen + small_sample(informative_cases("roc_auc", targets, groups)) * (slow - seen)
    assert paired_roc_auc_interval(targets, better, probs, groups, 40) == pytest.approx(wider, abs=1e-12)
    assert wider[0] > 0


def test_pairing_narrows_the_interval_of_a_difference():
    targets, probs, groups = example(600)
    nearly = probs + np.random.default_rng(5).normal(scale=0.01, size=probs.shape)
    width = np.diff(roc_auc_interval(targets, probs, groups, 200))
    assert np.diff(paired_roc_auc_interval(targets, nearly, probs, groups, 200)) < width / 3


def test_memory_does_not_grow_with_replicates():
    rng = np.random.default_rng(0)
    targets = (rng.random((112_120, 2)) < [0.5, 0.02]).astype(float)
    probs, groups = rng.random(targets.shape), rng.integers(30_805, size=len(targets))
    tracemalloc.start()
    bootstrap_scores("roc_auc", targets, probs, "multilabel", groups, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
