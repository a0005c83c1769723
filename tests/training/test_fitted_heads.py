"""Heads that are fitted at once: scikit-learn's numbers, inner folds of whole groups, and runs that come back whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from experiment import Experiment
from models import svm_head
from models.heads import head_name
from models.svm_head import SupportVectors
from training import fitted_heads
from training.fitted_heads import Examples, check_head_fit, fit_head, fit_logistic, fit_machines, inner_folds
from training.loop import predict_logits
from training.losses import label_weights
from untrained import save_and_load, with_fitted_head

N, D = 120, 12


def examples(task: str = "multilabel", holes: bool = False) -> Examples:
    """Three labels that depend on the features, which are of very different means and sizes; 40 groups."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(N, D))
    logits = plain[:, :3] * 1.5 + rng.logistic(size=(N, 3)) - 0.5
    features = (plain * rng.uniform(0.1, 3, D) + rng.uniform(-2, 5, D)).astype(np.float32)
    features[:, -1] = 0  # as one that a ReLU never lets through
    targets = (np.eye(3)[logits.argmax(axis=1)] if task == "multiclass" else logits > 0).astype(np.float32)
    if holes:
        targets[rng.random((N, 3)) < 0.2] = np.nan
    return Examples(features, targets, rng.integers(0, 40, N).astype(str), np.ones(N), None)


def logits_of(head: torch.nn.Module, features: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return head(torch.from_numpy(features)).numpy()


def new_features() -> np.ndarray:
    return examples().features[::-1] + np.float32(0.3)


# ---- inner folds


def test_inner_folds_never_share_a_group_and_each_has_rows():
    given = examples()
    parts = inner_folds(given.targets, given.groups, 0)
    assert sorted(set(parts)) == [0, 1, 2, 3, 4]
    assert all(len(set(parts[given.groups == group])) == 1 for group in set(given.groups))
    assert np.array_equal(parts, inner_folds(given.targets, given.groups, 0))


def test_one_group_cannot_be_parted():
    with pytest.raises(ValueError, match="all training images are of one group"):
        inner_folds(examples().targets, np.full(N, "p"), 0)


# ---- logistic regression


def regression(strength: float, **options) -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000, **options))


def test_logistic_regression_has_the_least_log_loss_on_inner_folds(monkeypatch):
    monkeypatch.setattr(fitted_heads, "LOGISTIC_STRENGTHS", (1e-3, 1e-2, 0.1, 1.0, 10.0))
    given = examples(holes=True)
    parts = inner_folds(given.targets, given.groups, 0)
    rows, losses = [np.flatnonzero(~np.isnan(given.targets[:, k])) for k in range(3)], []
    for strength in fitted_heads.LOGISTIC_STRENGTHS:
        probs = [cross_val_predict(regression(strength), given.features[known], given.targets[known, k],
                                   cv=PredefinedSplit(parts[known]), method="predict_proba")
                 for k, known in enumerate(rows)]
        losses.append(np.mean([log_loss(given.targets[known, k], prob)
                               for k, (known, prob) in enumerate(zip(rows, probs, strict=True))]))
    assert 0 < np.argmin(losses) < len(losses) - 1
    best, scaler = fitted_heads.LOGISTIC_STRENGTHS[np.argmin(losses)], StandardScaler().fit(given.features)
    expected = [LogisticRegression(C=best, max_iter=1000)
                .fit(scaler.transform(given.features[known]), given.targets[known, k])
                .decision_function(scaler.transform(new_features())) for k, known in enumerate(rows)]
    np.testing.assert_allclose(logits_of(fit_logistic(given, "multilabel", parts), new_features()),
                               np.column_stack(expected), atol=1e-4)


def test_balanced_weights_are_scikit_learns(monkeypatch):
    monkeypatch.setattr(fitted_heads, "LOGISTIC_STRENGTHS", (0.1,))
    given = examples()
    weights = label_weights("balanced", given.targets, "multilabel")
    head = fit_head("logistic", replace(given, weights=weights), "multilabel", 0)
    expected = [regression(0.1, class_weight="balanced").fit(given.features, given.targets[:, k])
                .decision_function(new_features()) for k in range(3)]
    np.testing.assert_allclose(logits_of(head, new_features()), np.column_stack(expected), atol=1e-4)


def test_logistic_regression_of_classes_is_multinomial(monkeypatch):
    monkeypatch.setattr(fitted_heads, "LOGISTIC_STRENGTHS", (0.1,))
    given = examples("multiclass")
    head = fit_logistic(given, "multiclass", inner_folds(given.targets, given.groups, 0))
    expected = regression(0.1).fit(given.features, given.targets.argmax(axis=1)).predict_proba(new_features())
    found = torch.from_numpy(logits_of(head, new_features())).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_soft_target_is_part_positive_part_negative(monkeypatch):
    monkeypatch.setattr(fitted_heads, "LOGISTIC_STRENGTHS", (0.1,))
    given = examples()
    soft = np.where(np.arange(N) % 3 == 0, 0.25, given.targets[:, 0]).astype(np.float32)
    head = fit_logistic(replace(given, targets=soft[:, None]), "binary", inner_folds(given.targets, given.groups, 0))
    scaler = StandardScaler().fit(given.features)
    model = LogisticRegression(C=0.1, max_iter=1000)
    model.fit(scaler.transform(np.repeat(given.features, 2, axis=0)), np.tile([0, 1], N),
              sample_weight=np.column_stack([1 - soft, soft]).ravel())
    np.testing.assert_allclose(logits_of(head, new_features())[:, 0],
                               model.decision_function(scaler.transform(new_features())), atol=1e-4)


def test_a_class_or_label_that_is_not_there_gets_small_probabilities():
    given = examples("multiclass")
    kept = given.targets[:, 2] == 0
    two = Examples(given.features[kept], given.targets[kept], given.groups[kept], given.counts[kept], None)
    for head_fit in ("logistic", "svc"):
        probs = torch.from_numpy(logits_of(fit_head(head_fit, two, "multiclass", 0), two.features)).softmax(dim=1)
        assert probs[:, 2].max() < 0.1 and (probs.argmax(dim=1).numpy() == two.targets.argmax(axis=1)).mean() > 0.7
        nobody = replace(given, targets=np.zeros((N, 2), np.float32))
        assert expit(logits_of(fit_head(head_fit, nobody, "multilabel", 0), given.features)).max() < 2 / N


# ---- support vector machines


@pytest.fixture
def one_strength(monkeypatch) -> float:
    monkeypatch.setattr(fitted_heads, "SVC_STRENGTHS", (1.0,))
    return 1.0


def test_a_machine_decides_as_scikit_learns_svc_does(one_strength):
    given = examples()
    head = fit_head("svc", given, "multilabel", 0)
    with torch.inference_mode():
        found = head.decide(torch.from_numpy(new_features())).numpy()
    for k in range(3):
        machine = SVC(C=1.0, class_weight="balanced").fit(given.features, given.targets[:, k])
        np.testing.assert_allclose(found[:, k], machine.decision_function(new_features()), atol=1e-4)


def test_the_sigmoid_is_fitted_to_values_of_held_out_groups(one_strength):
    given = examples()
    parts = inner_folds(given.targets, given.groups, 0)
    found = expit(logits_of(fit_machines(given, "multilabel", parts), new_features()))
    gamma = 1 / (D * given.features.var(dtype=np.float64))
    for k in range(3):
        expected = CalibratedClassifierCV(SVC(C=1.0, gamma=gamma, class_weight="balanced"), method="sigmoid",
                                          cv=PredefinedSplit(parts), ensemble=False)
        expected.fit(given.features, given.targets[:, k])
        np.testing.assert_allclose(found[:, k], expected.predict_proba(new_features())[:, 1], atol=1e-3)


def test_class_machines_share_the_probability(one_strength):
    given = examples("multiclass")
    parts = inner_folds(given.targets, given.groups, 0)
    found = torch.from_numpy(logits_of(fit_machines(given, "multiclass", parts), new_features())).softmax(dim=1).numpy()
    gamma = 1 / (D * given.features.var(dtype=np.float64))
    expected = CalibratedClassifierCV(OneVsRestClassifier(SVC(C=1.0, gamma=gamma, class_weight="balanced")),
                                      method="sigmoid", cv=PredefinedSplit(parts), ensemble=False)
    expected.fit(given.features, given.targets.argmax(axis=1))
    np.testing.assert_allclose(found, expected.predict_proba(new_features()), atol=1e-3)


def test_cells_that_nobody_stated_are_left_out_of_a_machine(one_strength):
    given = examples(holes=True)
    head = fit_head("svc", given, "multilabel", 0)
    known, gamma = ~np.isnan(given.targets[:, 1]), 1 / (D * given.features.var(dtype=np.float64))
    machine = SVC(C=1.0, gamma=gamma, class_weight="balanced").fit(given.features[known], given.targets[known, 1])
    with torch.inference_mode():
        found = head.decide(torch.from_numpy(new_features())).numpy()[:, 1]
    np.testing.assert_allclose(found, machine.decision_function(new_features()), atol=1e-4)


def test_without_room_for_the_kernel_the_machines_are_the_same(monkeypatch):
    whole = logits_of(fit_head("svc", examples(holes=True), "multilabel", 0), new_features())
    monkeypatch.setattr(fitted_heads, "KERNEL_ROWS", 10)
    monkeypatch.setattr(svm_head, "VECTORS_AT_ONCE", 7)
    in_pieces = logits_of(fit_head("svc", examples(holes=True), "multilabel", 0), new_features())
    np.testing.assert_allclose(in_pieces, whole, atol=5e-3)


def test_a_label_of_one_group_alone_is_not_believed_in():
    """Nothing that was fitted without the group knows the label: no value says how far a machine can be trusted."""
    given = examples()
    alone = (given.groups == given.groups[0]).astype(np.float32)
    head = fit_head("svc", replace(given, targets=alone[:, None]), "binary", 0)
    assert np.ptp(logits_of(head, new_features())) == 0
    assert expit(logits_of(head, new_features())[0, 0]) == pytest.approx((alone.sum() + 1) / (N + 2), abs=1e-5)


# ---- runs


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_support_vector_machines_predict_the_same_after_loading(home, task):
    run, model, images = with_fitted_head("svc", task, examples(task))
    place, features = head_name(model), model.normalise(images).flatten(1).numpy()
    before = predict_logits(model, [(images, None, None)], ("identity",))

    loaded = save_and_load(run, model)
    assert isinstance(loaded.get_submodule(place), SupportVectors)
    torch.testing.assert_close(predict_logits(loaded, [(images, None, None)], ("identity",)), before, atol=0, rtol=0)
    assert before.std(dim=0).max() > 0
    torch.testing.assert_close(before, torch.from_numpy(logits_of(model.get_submodule(place), features)))


@pytest.mark.parametrize("changes, message", [
    ({"augmentation": "warp"}, "set augmentation=none, or head_fit=gradient"),
    ({"per_task": True}, "set per_task=False"),
    ({"loss": "focal:2"}, "set loss=cross_entropy"),
    ({"loss_weights": "balanced"}, "set loss_weights=none"),
])
def test_a_recipe_of_impossible_fields_raises(changes, message):
    check_head_fit(Experiment(head_fit="svc"))
    check_head_fit(Experiment(head_fit="logistic", loss_weights="balanced"))
    check_head_fit(Experiment(**changes))
    with pytest.raises(ValueError, match=message):
        check_head_fit(Experiment(head_fit="svc", **changes))
