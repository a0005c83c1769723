"""Gains of blends: nothing where there is nothing, what there is where there is something, and how sure."""

import numpy as np
import pytest
from scipy.special import expit

from scoring.blend_gain import joint_lower_bounds, measure_gains
from scoring.blending import METHODS, crossfit_blend, fit_blend, rank_mean_blend
from scoring.metrics import METRICS, roc_auc

FITTED = [name for name, method in METHODS.items() if method.fit]


def gains_of(members: np.ndarray, targets: np.ndarray, metric: str = "roc_auc", methods=METHODS, replicates: int = 150):
    folds, groups = np.arange(len(targets)) // 2 % 5, (np.arange(len(targets)) // 2).astype(str)
    naive = {method: fit_blend(method, members, targets, "multilabel", metric).apply(members, folds)
             for method in methods}
    crossfitted = {method: crossfit_blend(method, members, targets, folds, "multilabel", metric) for method in methods}
    return measure_gains(metric, "multilabel", targets, groups, naive, crossfitted, members[0], replicates=replicates)


def test_members_without_signal_gain_only_naively():
    """12 data sets of 300 images whose labels have nothing to do with 4 members' predictions."""
    rng, sets = np.random.default_rng(0), []
    for _ in range(12):
        targets = (rng.random((300, 2)) < 0.3).astype(float)
        sets.append(gains_of(expit(rng.normal(size=(4, 300, 2))), targets, methods=("mean", *FITTED)))
    for place in range(1, 1 + len(FITTED)):
        gains = [each[place] for each in sets]
        crossfitted = np.array([gain.gain for gain in gains])
        assert all(gain.naive_gain > 0 for gain in gains)
        naive = np.mean([gain.naive_gain for gain in gains])
        assert abs(crossfitted.mean()) < 2.5 * crossfitted.std() / np.sqrt(len(sets)) < naive
        assert sum(gain.interval[0] <= 0 <= gain.interval[1] for gain in gains) >= 10
        assert sum(gain.is_credible for gain in gains) <= 1


def test_complementary_members_gain_when_cross_fitted():
    """Two know one half each of what makes the label, four nothing: equal weights waste what the two know."""
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(2, 600, 2))
    targets = (rng.random((600, 2)) < expit(2 * signals.sum(axis=0))).astype(float)
    members = expit(np.concatenate([2 * signals, 2 * rng.normal(size=(4, 600, 2))]))
    gains = {gain.method: gain for gain in gains_of(members, targets)}
    best_possible = roc_auc(targets, expit(signals.sum(axis=0)), "multilabel")
    for method in FITTED:
        assert gains[method].is_credible and gains[method].interval[0] > 0.01
        assert gains["mean"].crossfitted < gains[method].crossfitted < best_possible + 0.005
        assert gains[method].over_best_interval[0] > 0
    assert gains["weights"].crossfitted > best_possible - 0.01
    assert gains["mean"].gain == gains["mean"].joint_low == 0 and gains["mean"].interval == (0, 0)


@pytest.mark.parametrize("metric", ["brier", "log_loss"])
def test_a_lower_loss_is_a_positive_gain(metric):
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 2)) < 0.5).astype(float)
    members = expit(np.stack([3 * targets - 1.5 + rng.normal(size=targets.shape), rng.normal(size=targets.shape) * 2]))
    mean, weights = gains_of(members, targets, metric, ("mean", "weights"), 50)
    score = METRICS[metric].score
    assert weights.gain == pytest.approx(mean.crossfitted - weights.crossfitted) and weights.gain > 0
    assert mean.over_best == pytest.approx(score(targets, members[0], "multilabel") - mean.crossfitted)
    assert mean.over_best < 0
    assert weights.interval[0] < weights.gain < weights.interval[1]
    assert weights.optimism == pytest.approx(weights.naive_gain - weights.gain)


def test_ranks_within_folds_do_not_gain_over_a_ranked_baseline():
    """One model whose folds have scales of their own, twice: ranks score higher, and have blended nothing."""
    rng, folds = np.random.default_rng(0), np.arange(200) % 5
    targets = (rng.random((200, 2)) < 0.4).astype(float)
    probs = expit(targets + rng.normal(size=(200, 2)) + 4 * (folds[:, None] - 2))
    blends = {"mean": probs, "rank_mean": rank_mean_blend(probs[None], folds)}
    _, rank_mean = measure_gains("roc_auc", "multilabel", targets, np.arange(200).astype(str), blends, blends, probs,
                                 (blends["rank_mean"],) * 2, 50)
    assert rank_mean.crossfitted > roc_auc(targets, probs, "multilabel") + 0.1
    assert rank_mean.gain == rank_mean.over_best == 0 and not rank_mean.is_credible


def test_joint_lower_bounds_are_simultaneous():
    """Six gains of nothing but noise: independent, or all the same, which is as if one had been tried."""
    rng = np.random.default_rng(0)
    for shared, expected in ((0.0, 2.64), (1.0, 1.96)):  # 97.5 % of the greatest of six, and of one, standard normals
        scale = np.arange(1, 7)[:, None]
        drawn = scale * (np.sqrt(shared) * rng.normal(size=20_000) + np.sqrt(1 - shared) * rng.normal(size=(6, 20_000)))
        assert joint_lower_bounds(np.zeros(6), drawn) == pytest.approx(-expected * scale[:, 0], rel=0.03)
    assert joint_lower_bounds(np.array([0.0]), np.zeros((1, 100))) == 0  # the same predictions as the mean's
    assert np.isnan(joint_lower_bounds(np.zeros(1), np.where(np.arange(100) < 20, np.nan, 0.0)[None])).all()
