"""Nearest neighbours as a head: scikit-learn's votes, k and distance chosen on other groups, runs that come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from experiment import Experiment
from explaining.methods import methods_for
from models.classifier import build_model
from models.heads import head_name, put_head
from models.knn_head import KNNHead
from training import fitted_heads
from training.fitted_heads import Examples, check_head_fit, fit_head, fit_nearest
from training.loop import predict_logits
from training.losses import label_weights
from untrained import save_and_load, with_fitted_head

N, D = 90, 6


def examples(task: str = "multilabel", holes: bool = False) -> Examples:
    rng = np.random.default_rng(1)
    features = (rng.normal(size=(N, D)) * rng.uniform(0.2, 3, D) + 2).astype(np.float32)
    logits = features[:, :3] + rng.normal(size=(N, 3))
    targets = (np.eye(3)[logits.argmax(axis=1)] if task == "multiclass" else logits > 2).astype(np.float32)
    if holes:
        targets[rng.random((N, 3)) < 0.3] = np.nan
    return Examples(features, targets, rng.integers(0, 30, N).astype(str), np.ones(N), None)


def head_of(given: Examples, space: str, k: int, task: str = "multilabel") -> KNNHead:
    return KNNHead.of_cases(torch.from_numpy(given.features), fitted_heads._votes(given, task), space, k,
                                 task == "multiclass")


def smoothed(votes: np.ndarray, k: int, share: np.ndarray) -> np.ndarray:
    """k votes and one more of the average case."""
    return (votes * k + share) / (k + 1)


def new_features() -> np.ndarray:
    return examples().features[::-1] * np.float32(0.9) + np.float32(0.1)


@pytest.mark.parametrize("space", ["euclidean", "standardised", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_the_votes_are_scikit_learns_over_the_cells_that_are_stated(space, k):
    given = examples(holes=True)
    found = torch.sigmoid(head_of(given, space, k)(torch.from_numpy(new_features()))).numpy()
    scale = given.features.std(axis=0) if space == "standardised" else 1
    for label in range(3):
        known = ~np.isnan(given.targets[:, label])
        truth, asked = given.targets[known, label], min(k, known.sum())
        model = KNeighborsClassifier(asked, metric="cosine" if space == "cosine" else "euclidean")
        model.fit(given.features[known] / scale, truth)
        votes = model.predict_proba(new_features() / scale)[:, 1]
        share = (truth.sum() + 1) / (len(truth) + 2)
        np.testing.assert_allclose(found[:, label], smoothed(votes, asked, share), atol=1e-5)


def test_classes_share_the_votes():
    given = examples("multiclass")
    found = head_of(given, "euclidean", 5, "multiclass")(torch.from_numpy(new_features())).softmax(dim=1).numpy()
    truth = given.targets.argmax(axis=1)
    votes = KNeighborsClassifier(5).fit(given.features, truth).predict_proba(new_features())
    np.testing.assert_allclose(found, smoothed(votes, 5, (given.targets.sum(axis=0) + 1) / (N + 3)), atol=1e-5)


def test_k_and_distance_minimise_log_loss_by_inner_grouped_folds():
    given = examples()
    parts = fitted_heads.inner_folds(given.targets, given.groups, 0)
    losses = {}
    for space in ("euclidean", "standardised", "cosine"):
        for k in fitted_heads.NEIGHBOURS:
            probs = np.empty((N, 3))
            for part in np.unique(parts):
                inside = parts != part
                scale = given.features[inside].std(axis=0) if space == "standardised" else 1
                for label in range(3):
                    truth, asked = given.targets[inside, label], min(k, inside.sum())
                    model = KNeighborsClassifier(asked, metric="cosine" if space == "cosine" else "euclidean")
                    votes = model.fit(given.features[inside] / scale, truth).predict_proba(
                        given.features[~inside] / scale)[:, 1]
                    probs[~inside, label] = smoothed(votes, asked, (truth.sum() + 1) / (len(truth) + 2))
            losses[space, k] = np.mean([log_loss(given.targets[:, label], probs[:, label]) for label in range(3)])
    head = fit_nearest(given, "multilabel", parts)
    space, k = min(losses, key=losses.get)
    assert int(head.k) == k and 1 < k < 101
    assert torch.equal(head.cases, head_of(given, space, k).cases)


def test_weights_and_counts_are_weights_of_votes():
    given = examples()
    twice = replace(given, counts=np.where(np.arange(N) % 2, 2.0, 0.0))
    every_other = Examples(*(each[1::2] for each in (given.features, given.targets, given.groups)),
                           np.full(N // 2, 2.0), None)
    there = torch.from_numpy(new_features())
    torch.testing.assert_close(head_of(twice, "euclidean", 3)(there), head_of(every_other, "euclidean", 3)(there))
    weights = label_weights("balanced", given.targets, "multilabel")
    votes = fitted_heads._votes(replace(given, weights=weights), "multilabel").numpy()
    for label in range(3):
        present = given.targets[:, label] == 1
        assert votes[present, label, 1].sum() == pytest.approx(votes[~present, label, 0].sum(), rel=1e-5)


def test_unknown_or_absent_labels_have_low_finite_logits():
    given = examples()
    given.targets[:, 0], given.targets[:, 1] = np.nan, 0
    for k in (1, 41):
        logits = head_of(given, "cosine", k)(torch.from_numpy(new_features())).numpy()
        assert np.isfinite(logits).all() and np.allclose(logits[:, 0], 0) and (logits[:, 1] < -4).all()
    alone = Examples(given.features[:2], np.array([[1.0], [1.0]], np.float32), np.array(["a", "b"]), np.ones(2), None)
    assert np.isfinite(fit_head("knn", alone, "binary", 0)(torch.from_numpy(new_features())).numpy()).all()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_run_of_neighbours_comes_back_from_disk(home, task, monkeypatch):
    monkeypatch.setattr(fitted_heads, "NEIGHBOURS", (3,))
    run, model, images = with_fitted_head("knn", task, examples(task))
    before = predict_logits(model, [(images, None, None)], ("identity",))
    after = predict_logits(save_and_load(run, model), [(images, None, None)], ("identity",))
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert before.std(dim=0).max() > 0


def test_a_recipe_of_neighbours_cannot_augment():
    with pytest.raises(ValueError, match="set augmentation=none, or head_fit=gradient"):
        check_head_fit(Experiment(head_fit="knn", augmentation="warp"))


def test_no_gradient_leads_from_the_nearest_cases_to_a_layer():
    model = build_model("resnet18", 1, 32, 3, weights="none")
    assert model.cam_layer() is not None
    put_head(model, head_name(model), KNNHead(4, 512, 3, 2, exclusive=False))
    assert model.cam_layer() is None
    assert methods_for(model) == ("occlusion", "lime")
