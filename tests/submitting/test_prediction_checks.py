"""The statistics of the pre-upload checks, against other sources."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, spearmanr
from sklearn.metrics import roc_auc_score

from submitting.prediction_checks import (
    against_oof,
    against_other,
    against_own,
    among_models,
    association,
    check_values,
    distribution_distances,
    repeated_share,
    unfilled_rows,
)

COLUMNS = ("a", "b")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_columns_are_associated_as_spearman_has_it(rng):
    values, others = rng.random((50, 3)).round(1), rng.random((50, 2))  # with ties
    for k in range(3):
        for j in range(2):
            assert association(values, others)[k, j] == pytest.approx(spearmanr(values[:, k], others[:, j])[0])


def test_a_hard_column_is_associated_by_its_auc(rng):
    hard, soft = (rng.random((60, 1)) < 0.3).astype(float), rng.random((60, 2)).round(1)
    for j in range(2):
        expected = 2 * roc_auc_score(hard[:, 0], soft[:, j]) - 1
        assert association(hard, soft)[0, j] == pytest.approx(expected)
        assert association(soft, hard)[j, 0] == pytest.approx(expected)


def test_decisions_at_a_threshold_agree_wholly_and_a_constant_column_has_no_say(rng):
    soft = rng.random((40, 1))
    assert association((soft > 0.8).astype(float), soft)[0, 0] == pytest.approx(1)
    assert np.isnan(association(np.zeros((40, 1)), soft)[0, 0])


def test_distances_are_kolmogorov_smirnovs_where_the_spread_is_small_beside_the_gap(rng):
    values, oof = rng.normal(0.5, 0.1, (300, 2)), rng.normal(0.5, 0.1, (200, 1))
    ours = distribution_distances(values, oof)
    assert (ours[:, 0] <= [ks_2samp(values[:, k], oof[:, 0]).statistic for k in range(2)]).all()
    assert distribution_distances(values, oof + 5) == pytest.approx(1)
    two_valued = np.repeat([0.0, 1.0], [70, 30])[:, None]
    assert distribution_distances(two_valued, np.repeat([0.0, 1.0], [40, 60])[:, None])[0, 0] == pytest.approx(0.3)


def test_a_quarter_of_black_images_with_another_prior_is_no_distance(rng):
    values, oof = rng.random((400, 1)), rng.random((400, 1))
    values[:100], oof[:100] = 0.481, 0.462
    assert ks_2samp(values[:, 0], oof[:, 0]).statistic > 0.2
    assert distribution_distances(values, oof)[0, 0] < 0.1


def test_two_rows_say_little_and_that_little_is_right(rng):
    own = np.array([[0.2, 0.7], [0.6, 0.1]])
    assert against_own(COLUMNS, own, own) == ([], [])
    assert "swapped" in against_own(COLUMNS, own[:, ::-1], own)[0][0]
    assert "inverted" in against_own(COLUMNS, 1 - own, own)[0][0]
    assert "at other ids" in against_own(COLUMNS, own[::-1], own)[0][0]
    assert against_other(COLUMNS, own, own, "last") == [] and check_values(COLUMNS, own, None) == ([], [])
    assert against_oof(COLUMNS, own, rng.random((500, 2))) == []
    assert among_models(COLUMNS, rng.random((5, 2, 2)), list("abcde")) == []


def test_constant_and_equal_columns_raise_no_numpy_warnings():
    flat = np.full((30, 2), 0.3)
    assert against_own(COLUMNS, flat, flat) == ([], [])
    assert against_other(COLUMNS, flat, flat + 0.1, "last") == []
    assert len(among_models(COLUMNS, np.full((4, 30, 2), 0.3), list("abcd"))) == 0


def test_ranks_of_few_images_are_not_rounded_numbers(rng):
    ranks = rng.permuted(np.tile((np.arange(100) + 1) / 100, (2, 1)), axis=1).T
    assert check_values(COLUMNS, ranks, None) == ([], [])


def test_a_share_of_equal_rows_is_counted_to_six_decimals():
    assert repeated_share(np.array([[0.1], [0.1 + 1e-8], [0.2], [0.3]])) == 0.25


def test_one_value_may_be_the_samples_by_chance():
    sample, values = np.full((100_000, 1), 0.5), np.linspace(0, 1, 100_000)[:, None]
    values[5] = 0.5
    assert unfilled_rows(values, sample) == []
    assert unfilled_rows(np.tile(values, 2), np.tile(sample, 2)) == [
        "1 of 100000 rows still have the sample's values: were they predicted?"]
