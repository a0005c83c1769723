"""Blends: means by hand, searches against brute force and scikit-learn, and what is fitted never sees its own fold."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from scoring.blending import (
    BAGS,
    CLIP,
    METHODS,
    ROUNDS,
    STRENGTH,
    Blend,
    crossfit_blend,
    fit_blend,
    from_json,
    greedy_counts,
    logit_mean_blend,
    mean_blend,
    power_mean_blend,
    quality_of,
    rank_mean_blend,
)
from scoring.metrics import METRICS
from training.loop import predict_logits
from training.tta import VIEWS

FITTED = [name for name, method in METHODS.items() if method.fit]
TASKS = {"multilabel": 3, "binary": 1, "multiclass": 3}


def members(m: int = 3, n: int = 40, k: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n, k))


def labelled(task: str = "multilabel", m: int = 4, n: int = 150, seed: int = 0, nan: float = 0.1):
    """members that know the labels the better the earlier they stand; targets with NaN cells, or rows."""
    rng = np.random.default_rng(seed)
    k = TASKS[task]
    if task == "multiclass":
        targets = np.eye(k)[rng.integers(0, k, n)]
        logits = targets + rng.normal(size=(m, n, k)) * (1 + np.arange(m))[:, None, None]
        probs, unknown = softmax(logits, axis=2), (rng.random((n, 1)) < nan)
    else:
        targets = (rng.random((n, k)) < 0.4).astype(float)
        logits = targets - 0.5 + rng.normal(size=(m, n, k)) * (1 + np.arange(m))[:, None, None]
        probs, unknown = expit(logits), (rng.random((n, k)) < nan)
    return probs, np.where(unknown, np.nan, targets)


# ---- nothing is fitted


def test_the_mean_by_hand():
    assert mean_blend(np.array([[[0.2, 0.4]], [[0.4, 1.0]]])) == pytest.approx(np.array([[0.3, 0.7]]))


def test_ranks_by_hand():
    first = np.array([[0.1], [0.9], [0.5], [0.5]])  # ranks 1, 4, 2.5, 2.5
    second = np.array([[1e-9], [3e-9], [2e-9], [0]])  # ranks 2, 4, 3, 1
    assert rank_mean_blend(np.stack([first, second]))[:, 0] == pytest.approx([1.5 / 4, 4 / 4, 2.75 / 4, 1.75 / 4])


def test_the_power_and_the_geometric_mean_by_hand():
    probs = np.array([[[0.2]], [[0.8]]])
    assert power_mean_blend(probs)[0, 0] == pytest.approx(np.sqrt((0.04 + 0.64) / 2))
    assert logit_mean_blend(np.array([[[0.5]], [[0.8]]]))[0, 0] == pytest.approx(2 / 3)  # odds sqrt(1 * 4) = 2
    classes = np.array([[[0.1, 0.4, 0.5]], [[0.4, 0.4, 0.2]]])
    assert logit_mean_blend(classes, None, "multiclass")[0] == pytest.approx(
        np.sqrt([0.04, 0.16, 0.1]) / np.sqrt([0.04, 0.16, 0.1]).sum())
    squares = np.sqrt(np.array([0.17, 0.32, 0.29]) / 2)
    assert power_mean_blend(classes, None, "multiclass")[0] == pytest.approx(squares / squares.sum())


def test_probabilities_of_0_and_1_have_a_geometric_mean():
    blend = logit_mean_blend(np.array([[[0.0], [1.0], [0.0]], [[0.0], [1.0], [1.0]]]))
    assert np.isfinite(blend).all() and blend[:, 0] == pytest.approx([0, 1, 0.5], abs=1e-5)


def test_ranks_within_folds_ignore_a_folds_scale():
    folds = np.arange(40) % 4
    probs = members()
    rescaled = probs.copy()
    rescaled[1, folds == 2] = 0.01 * rescaled[1, folds == 2] ** 3  # order kept, scale not
    assert rank_mean_blend(rescaled, folds) == pytest.approx(rank_mean_blend(probs, folds))
    assert not np.allclose(rank_mean_blend(rescaled), rank_mean_blend(probs))


def test_a_rank_is_divided_by_the_size_of_its_fold():
    probs = np.array([[[0.1], [0.2], [0.3], [0.9], [0.8]]])
    assert rank_mean_blend(probs, np.array([0, 0, 0, 1, 1]))[:, 0] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1 / 2])


def test_members_can_be_ranked_within_different_folds():
    probs, folds = members(2), np.stack([np.arange(40) % 4, np.arange(40) // 10])
    alone = [rank_mean_blend(probs[[m]], folds[m]) for m in range(2)]
    assert rank_mean_blend(probs, folds) == pytest.approx((alone[0] + alone[1]) / 2)


def test_ranked_multiclass_rows_sum_to_one_and_keep_decisions():
    probs = np.random.default_rng(0).dirichlet([5, 1, 0.2], size=60)[None]
    for folds in (None, np.arange(60) % 3):
        blend = rank_mean_blend(probs, folds, "multiclass")
        assert blend.sum(axis=1) == pytest.approx(1)
        assert (blend.argmax(axis=1) == probs[0].argmax(axis=1)).all()


@pytest.mark.parametrize("method", [method for method in METHODS if method not in FITTED])
def test_means_do_not_depend_on_the_order_of_members(method):
    probs, folds = members().astype(np.float32), np.arange(40) % 4
    for arguments in ((None, "multilabel"), (folds, "multilabel"), (folds, "multiclass")):
        blend = Blend(method).apply(probs, *arguments)
        assert blend.shape == (40, 2) and blend.dtype == np.float64
        assert blend.min() > 0 and blend.max() <= 1
        assert Blend(method).apply(probs[::-1], *arguments) == pytest.approx(blend)


def test_views_are_blended_by_logits_and_folds_by_probabilities():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    batch = (torch.rand(20, 1, 8, 8), None, None)
    views = [torch.sigmoid(predict_logits(model, [batch], (view,))).double().numpy() for view in list(VIEWS)[:3]]
    together = torch.sigmoid(predict_logits(model, [batch], tuple(VIEWS)[:3])).double().numpy()
    np.testing.assert_allclose(logit_mean_blend(np.stack(views)), together, atol=1e-6)
    added_up = (0 + views[0] + views[1] + views[2]) / 3
    np.testing.assert_array_equal(mean_blend(np.stack(views)), added_up)  # to the bit


# ---- fitted


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "brier", "average_precision"])
@pytest.mark.parametrize("task", TASKS)
def test_the_quality_of_a_blend_is_the_metric(task, metric):
    probs, targets = labelled(task)
    sign = 1 if METRICS[metric].greater_is_better else -1
    rounded = probs[0].round(1).clip(0.05, 0.95)  # ties
    expected = sign * METRICS[metric].score(targets, rounded, task)
    assert quality_of(metric, targets, task)(rounded) == pytest.approx(expected)


def test_greedy_selection_equals_brute_force():
    """The path written out over lists of members, with scikit-learn's AUC."""
    for seed in range(3):
        probs, targets = labelled("binary", m=5, n=40, seed=seed, nan=0)

        def auc(chosen, probs=probs, targets=targets):
            return roc_auc_score(targets[:, 0], np.mean([probs[m, :, 0] for m in chosen], axis=0).round(12))
        order = sorted(range(5), key=lambda m: -auc([m]))
        path = [max((order[:n] for n in range(1, 6)), key=auc)]
        for _ in range(6):
            path.append(max(([*path[-1], m] for m in range(5)), key=auc))
        counts = greedy_counts(probs, lambda p, targets=targets: roc_auc_score(targets[:, 0], p[:, 0].round(12)), 6)
        assert counts.tolist() == np.bincount(max(path, key=auc), minlength=5).tolist()


def test_greedy_selection_is_bagged_over_halves_of_the_members():
    probs, targets = labelled(m=6)
    calls = []

    def select(bag):
        calls.append(len(bag))
        counts = greedy_counts(probs[bag], quality_of("roc_auc", targets, "multilabel"), ROUNDS)
        return counts / counts.sum()
    rng, expected = np.random.default_rng(0), np.zeros(6)
    for _ in range(BAGS):
        bag = np.sort(rng.permutation(6)[:3])
        expected[bag] += select(bag) / BAGS
    assert calls == [3] * BAGS
    assert fit_blend("greedy", probs, targets, "multilabel", "roc_auc").weights == pytest.approx(expected)


@pytest.mark.parametrize("task", TASKS)
def test_weights_minimise_log_loss_over_a_fine_grid(task):
    probs, targets = labelled(task, m=3)

    def loss(weights):
        blend = np.tensordot(weights, probs, axes=1)
        if task == "multiclass":
            return -np.nanmean(np.log((blend * targets).sum(axis=1)))
        return np.nanmean(-targets * np.log(blend) - (1 - targets) * np.log(1 - blend), axis=0).mean()
    weights = fit_blend("weights", probs, targets, task, "log_loss").weights
    grid = [np.array([a, b, 50 - a - b]) / 50 for a, b in itertools.product(range(51), repeat=2) if a + b <= 50]
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    best = min(grid, key=loss)
    assert loss(weights) <= loss(best) and np.abs(weights - best).max() <= 0.021


def test_weights_for_auc_come_near_the_best_of_a_grid():
    for seed in range(3):
        probs, targets = labelled(m=3, seed=seed)
        auc = quality_of("roc_auc", targets, "multilabel")
        grid = [np.array([a, b, 50 - a - b]) / 50 for a, b in itertools.product(range(51), repeat=2) if a + b <= 50]
        best = max(auc(np.tensordot(weights, probs, axes=1)) for weights in grid)
        by_log_loss = fit_blend("weights", probs, targets, "multilabel", "log_loss").apply(probs)
        reached = auc(fit_blend("weights", probs, targets, "multilabel", "roc_auc").apply(probs))
        assert auc(by_log_loss) <= reached and reached > best - 0.003


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
def test_a_metric_of_decisions_is_fitted_by_log_loss(metric):
    probs, targets = labelled()
    for method in ("greedy", "weights"):
        assert fit_blend(method, probs, targets, "multilabel", metric).weights.tolist() == fit_blend(
            method, probs, targets, "multilabel", "log_loss").weights.tolist()


def test_stacking_equals_scikit_learns_logistic_regression():
    probs, targets = labelled()
    inputs = np.concatenate([logit(member) for member in probs], axis=1)
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    blend = fit_blend("stacking", probs, targets, "multilabel", "roc_auc").apply(probs)
    for k in range(3):
        known = ~np.isnan(targets[:, k])
        model = LogisticRegression(C=STRENGTH, tol=1e-10, max_iter=1000).fit(inputs[known], targets[known, k])
        np.testing.assert_allclose(blend[:, k], model.predict_proba(inputs)[:, 1], atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_stacking_of_classes_is_multinomial(classes):
    probs, targets = labelled("multiclass")
    probs, targets = probs[:, :, :classes] / probs[:, :, :classes].sum(axis=2, keepdims=True), targets[:, :classes]
    targets[targets.sum(axis=1) == 0] = np.nan
    inputs = np.concatenate([np.log(member.clip(CLIP, 1 - CLIP)) for member in probs], axis=1)
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    rows = ~np.isnan(targets[:, 0])
    model = LogisticRegression(C=STRENGTH, tol=1e-10, max_iter=1000).fit(inputs[rows], targets[rows].argmax(axis=1))
    blend = fit_blend("stacking", probs, targets, "multiclass", "accuracy").apply(probs, None, "multiclass")
    np.testing.assert_allclose(blend, model.predict_proba(inputs), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_a_blend_survives_json_bit_for_bit(task, method):
    probs, targets = labelled(task)
    names, labels = ["a", "b", "c", "d"], list("xyz")[:TASKS[task]]
    fit = fit_blend(method, probs, targets, task, "log_loss")
    again = from_json(method, json.loads(json.dumps(fit.to_json(names, labels))), names, labels)
    blend = again.apply(probs, None, task)
    np.testing.assert_array_equal(blend, fit.apply(probs, None, task))
    assert blend.shape == probs[0].shape and 0 <= blend.min() and blend.max() <= 1 + 1e-12
    if task == "multiclass":
        assert blend.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("method, record, message", [
    ("median", {}, "no blending method 'median'; did you mean"),
    ("weights", {"weights": {"a": 0.4}}, "needed for a, b; found a"),
    ("stacking", {"coefficients": {"x": {"a": {"x": 1}, "b": {"y": 1}}}}, "needed for x; found y"),
])
def test_parameters_with_other_names_raise(method, record, message):
    with pytest.raises(ValueError, match=message):
        from_json(method, record, ["a", "b"], ["x"])


@pytest.mark.parametrize("method", METHODS)
def test_equal_images_get_equal_blends(method):
    """Black images have one probability; a last bit that tells them apart would rank them by chance."""
    probs, targets = labelled(m=7, n=301)
    probs[:, 5::3] = probs[:, [5]]
    blend = fit_blend(method, probs, targets, "multilabel", "log_loss").apply(probs)
    assert (blend[5::3] == blend[5]).all()


# ---- on the other folds


@pytest.mark.parametrize("method", FITTED)
def test_a_cross_fitted_blend_ignores_its_folds_own_labels(method):
    """But for the level of the stacking, one number a label, which ranks nothing."""
    probs, targets = labelled()
    folds = np.arange(150) // 2 % 5
    other = targets.copy()
    other[folds == 2] = 1 - other[folds == 2]
    before, after = (crossfit_blend(method, probs, each, folds, "multilabel", "log_loss") for each in (targets, other))
    shift = logit(after[folds == 2]) - logit(before[folds == 2])
    assert np.ptp(shift, axis=0) == pytest.approx(0, abs=1e-9)
    assert method == "stacking" or shift == pytest.approx(0)
    assert not np.allclose(logit(after[folds != 2]) - logit(before[folds != 2]), shift[0])


def test_each_fold_is_blended_by_the_fit_on_the_others():
    probs, targets = labelled()
    folds = np.arange(150) // 2 % 5
    for method in ("greedy", "weights"):
        crossfit = crossfit_blend(method, probs, targets, folds, "multilabel", "log_loss")
        fit = fit_blend(method, probs[:, folds != 3], targets[folds != 3], "multilabel", "log_loss")
        assert crossfit[folds == 3] == pytest.approx(fit.apply(probs[:, folds == 3]))


def test_a_fold_with_more_positives_is_not_ranked_below_the_others():
    """Members that know nothing: an intercept fitted on the other folds alone would say the opposite of the truth."""
    rng, scores = np.random.default_rng(0), []
    for _ in range(30):
        targets = (rng.random((200, 1)) < 0.3).astype(float)
        probs, folds = rng.random((3, 200, 1)), np.arange(200) % 5
        scores.append(roc_auc_score(targets[:, 0], crossfit_blend(
            "stacking", probs, targets, folds, "binary", "roc_auc")[:, 0]))
    assert np.mean(scores) == pytest.approx(0.5, abs=3 * np.std(scores) / np.sqrt(30))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("odd", ["one", "equal", "constant", "no positives in a fold", "no positives outside it",
                                 "nothing known"])
def test_degenerate_members_and_labels_are_blended(odd, task, method):
    probs, targets = labelled(task, n=100)
    folds = np.arange(100) % 4
    if odd == "one":
        probs = probs[:1]
    elif odd == "equal":
        probs = np.stack([probs[0], probs[0]])
    elif odd == "constant":
        probs[1] = 1 / 3
    elif odd == "nothing known":
        targets[:] = np.nan
    else:
        rows = (folds == 0) == (odd == "no positives in a fold")
        if task == "multiclass":
            targets[rows & (targets[:, 0] == 1)] = [0, 1, 0]
        else:
            targets[rows, 0] = np.where(np.isnan(targets[rows, 0]), np.nan, 0)
    blend = crossfit_blend(method, probs, targets, folds, task, "roc_auc")
    assert np.isfinite(blend).all() and blend.min() >= 0 and blend.max() <= 1
    if task == "multiclass":
        assert blend.sum(axis=1) == pytest.approx(1)
    if odd == "equal" and method in ("mean", "greedy", "weights", "logit_mean"):
        assert blend == pytest.approx(probs[0], abs=1e-5)
