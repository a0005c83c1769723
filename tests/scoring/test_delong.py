"""DeLong's variance by hand and by brute force, and Obuchowski's where rows come in groups."""

import numpy as np
import pytest

from scoring.confidence_intervals import bootstrap_scores
from scoring.delong import auc_covariance, macro_auc_difference


def example(rows: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 2)) < 0.4).astype(float)
    targets[::9, 1] = np.nan
    return targets, *(np.round(rng.normal(targets == 1, 1.0), 1) for _ in range(2)), rng.integers(rows // 3, size=rows)


def by_definition(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The covariance (C, C) of AUCs from placement values, one pair of rows at a time (DeLong 1988, eq. 3 to 6)."""
    positives, negatives = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)
    won = np.array([[[(scores[p, c] > scores[n, c]) + 0.5 * (scores[p, c] == scores[n, c]) for n in negatives]
                     for p in positives] for c in range(scores.shape[1])])
    of_positives, of_negatives = won.mean(axis=2), won.mean(axis=1)
    return np.cov(of_positives) / len(positives) + np.cov(of_negatives) / len(negatives)


def test_the_variance_of_five_rows_is_the_one_by_hand():
    # positives 3 and 1, negatives 2, 0 and 0: the placements are 1 and 2/3; 1/2, 1 and 1; the AUC is 5/6
    aucs, covariance = auc_covariance(np.array([[1.0], [1], [0], [0], [0]]), np.array([[3.0], [1], [2], [0], [0]]))
    assert aucs[0] == pytest.approx(5 / 6)
    assert covariance[0, 0] == pytest.approx((1 / 18) / 2 + (1 / 12) / 3)


def test_midranks_give_what_pairs_of_rows_give():
    targets, probs, other, _ = example()
    covariance = auc_covariance(targets[:, [0, 0]], np.stack((probs[:, 0], other[:, 0]), axis=1))[1]
    both = np.stack((probs[:, 0], other[:, 0]), axis=1)
    assert covariance == pytest.approx(by_definition(targets[:, 0], both), abs=1e-12)


def test_groups_of_one_row_are_no_groups():
    targets, probs, _, _ = example()
    alone, grouped = (auc_covariance(targets, probs, groups) for groups in (None, np.arange(len(targets)).astype(str)))
    assert alone[1] == pytest.approx(grouped[1], abs=1e-15)


def test_copies_in_a_group_add_no_certainty():
    targets, probs, _, _ = example()
    once = auc_covariance(targets, probs)[1]
    copies = auc_covariance(targets.repeat(4, axis=0), probs.repeat(4, axis=0), np.arange(60).repeat(4))[1]
    as_if_independent = auc_covariance(targets.repeat(4, axis=0), probs.repeat(4, axis=0))[1]
    assert copies == pytest.approx(once, rel=1e-9)
    assert as_if_independent[0, 0] == pytest.approx(once[0, 0] / 4, rel=0.05)


def test_obuchowskis_variance_is_her_formula():
    targets, probs, _, groups = example()
    target, score = targets[:, 0], probs[:, 0]
    positives, negatives = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    won = (score[positives, None] > score[negatives]) + 0.5 * (score[positives, None] == score[negatives])
    x, y, names = won.mean(axis=1), won.mean(axis=0), np.unique(groups)
    of_x = np.array([(x[groups[positives] == name] - won.mean()).sum() for name in names]) / len(positives)
    of_y = np.array([(y[groups[negatives] == name] - won.mean()).sum() for name in names]) / len(negatives)
    with_x, with_y = (len(np.unique(groups[rows])) for rows in (positives, negatives))
    expected = (with_x / (with_x - 1) * (of_x**2).sum() + with_y / (with_y - 1) * (of_y**2).sum()
                + 2 * len(names) / (len(names) - 1) * (of_x * of_y).sum())
    assert auc_covariance(targets[:, :1], probs[:, :1], groups)[1][0, 0] == pytest.approx(expected, rel=1e-9)


def test_the_macro_difference_and_its_error_agree_with_the_bootstrap():
    targets, probs, other, groups = example(rows=900, seed=3)
    difference, error, p = macro_auc_difference(targets, probs, other, groups)
    draws = [bootstrap_scores("roc_auc", targets, each, "multilabel", groups, 600) for each in (probs, other)]
    assert error == pytest.approx(np.std(draws[0] - draws[1]), rel=0.12)
    assert 0 < p < 1 and macro_auc_difference(targets, other, probs, groups)[0] == pytest.approx(-difference)


def test_equal_rankings_differ_by_nothing_and_a_label_of_one_class_is_left_out():
    targets, probs, _, _ = example()
    assert macro_auc_difference(targets, probs, probs) == (0, 0, 1)
    targets[:, 1] = 0
    assert np.isnan(auc_covariance(targets, probs)[0]).tolist() == [False, True]
    assert macro_auc_difference(targets, probs, -probs)[0] == pytest.approx(
        macro_auc_difference(targets[:, :1], probs[:, :1], -probs[:, :1])[0])
    assert np.isnan(macro_auc_difference(np.zeros((4, 2)), probs[:4], probs[:4])).all()
