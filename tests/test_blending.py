"""Blends: hand-computed ranks, each fold on its own scale, and one signature for all."""

import numpy as np
import pytest

from blending import BLENDS, mean_blend, rank_mean_blend


def members(m: int = 3, n: int = 40, k: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n, k))


def test_the_mean_by_hand():
    assert mean_blend(np.array([[[0.2, 0.4]], [[0.4, 1.0]]])) == pytest.approx(np.array([[0.3, 0.7]]))


def test_ranks_by_hand():
    first = np.array([[0.1], [0.9], [0.5], [0.5]])  # ranks 1, 4, 2.5, 2.5
    second = np.array([[1e-9], [3e-9], [2e-9], [0]])  # ranks 2, 4, 3, 1
    assert rank_mean_blend(np.stack([first, second]))[:, 0] == pytest.approx([1.5 / 4, 4 / 4, 2.75 / 4, 1.75 / 4])


def test_a_folds_scale_does_not_matter():
    folds = np.arange(40) % 4
    probs = members()
    rescaled = probs.copy()
    rescaled[1, folds == 2] = 0.01 * rescaled[1, folds == 2] ** 3  # order kept, scale not
    assert rank_mean_blend(rescaled, folds) == pytest.approx(rank_mean_blend(probs, folds))
    assert not np.allclose(rank_mean_blend(rescaled), rank_mean_blend(probs))


def test_a_rank_within_a_fold_is_a_share_of_that_fold():
    probs = np.array([[[0.1], [0.2], [0.3], [0.9], [0.8]]])
    assert rank_mean_blend(probs, np.array([0, 0, 0, 1, 1]))[:, 0] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1 / 2])


def test_multiclass_rows_sum_to_one_and_one_member_keeps_its_decisions():
    probs = np.random.default_rng(0).dirichlet([5, 1, 0.2], size=60)[None]
    for folds in (None, np.arange(60) % 3):
        blend = rank_mean_blend(probs, folds, "multiclass")
        assert blend.sum(axis=1) == pytest.approx(1)
        assert (blend.argmax(axis=1) == probs[0].argmax(axis=1)).all()


@pytest.mark.parametrize("name", BLENDS)
def test_every_blend_is_a_table_of_values_from_0_to_1_whatever_the_order_of_members(name):
    probs, folds = members().astype(np.float32), np.arange(40) % 4
    for arguments in ((None, "multilabel"), (folds, "multilabel"), (folds, "multiclass")):
        blend = BLENDS[name](probs, *arguments)
        assert blend.shape == (40, 2) and blend.dtype == np.float64
        assert blend.min() > 0 and blend.max() <= 1
        assert BLENDS[name](probs[::-1], *arguments) == pytest.approx(blend)
