"""Metrics: scikit-learn on clean columns, hand computation, and the promises about NaN cells and one-class labels."""

import numpy as np
import pytest
import sklearn.metrics as sk

from scoring.metrics import (
    METRICS,
    Metric,
    average_precision_by_label,
    brier_by_label,
    constant_probs,
    decide,
    f1_by_label,
    prevalence,
    roc_auc_by_label,
    score,
    undefined_labels,
)

LABELS = {"binary": 1, "multiclass": 4, "multilabel": 3}
CASES = [(name, task) for name, metric in METRICS.items() for task in LABELS if task in metric.tasks]


def example(task: str, n: int = 200, seed: int = 0, with_nan: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Targets and middling probabilities, scores rounded so that ties occur."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        targets = np.eye(LABELS[task])[rng.integers(LABELS[task], size=n)]
        probs = np.round(rng.random(targets.shape) + 0.4 * targets + 0.05, 2)
        probs /= probs.sum(axis=1, keepdims=True)
        blank = np.broadcast_to(rng.random((n, 1)) < 0.1, targets.shape)
    else:
        targets = (rng.random((n, LABELS[task])) < 0.3).astype(float)
        probs = np.round(0.7 * rng.random(targets.shape) + 0.3 * targets, 2)
        blank = rng.random(targets.shape) < 0.1
    return np.where(blank & with_nan, np.nan, targets), probs


BY_LABEL = [
    (roc_auc_by_label, sk.roc_auc_score, False),
    (average_precision_by_label, sk.average_precision_score, False),
    (brier_by_label, sk.brier_score_loss, False),
    (f1_by_label, sk.f1_score, True),
]


@pytest.mark.parametrize(("by_label", "reference", "takes_decisions"), BY_LABEL)
def test_each_label_scores_like_scikit_learn_on_its_cells(by_label, reference, takes_decisions):
    targets, values = example("multilabel")
    if takes_decisions:
        values = (values > 0.5).astype(int)
    scores = by_label(targets, values)
    for k in range(3):
        rows = ~np.isnan(targets[:, k])
        assert scores[k] == pytest.approx(reference(targets[rows, k], values[rows, k]), abs=1e-12)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples"])
def test_f1_without_nan_equals_scikit_learns(average):
    targets, probs = example("multilabel", with_nan=False)
    expected = sk.f1_score(targets.astype(int), (probs >= 0.5).astype(int), average=average, zero_division=0)
    assert score(f"f1_{average}", targets, probs, "multilabel") == pytest.approx(expected, abs=1e-12)


def test_multiclass_scores_equal_scikit_learns():
    targets, probs = example("multiclass", with_nan=False)
    truth, decided = targets.argmax(axis=1), probs.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(truth, decided),
        "subset_accuracy": sk.accuracy_score(truth, decided),
        "f1_micro": sk.accuracy_score(truth, decided),
        "f1_macro": sk.f1_score(truth, decided, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, decided),
        "quadratic_kappa": sk.cohen_kappa_score(truth, decided, weights="quadratic"),
        "log_loss": sk.log_loss(truth, probs),
        "roc_auc": sk.roc_auc_score(truth, probs, multi_class="ovr"),
    }
    for name, value in expected.items():
        assert score(name, targets, probs, "multiclass") == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(("name", "task"), CASES)
def test_row_weights_equal_repetitions(name, task):
    targets, probs = example(task)
    counts = np.random.default_rng(1).integers(0, 4, size=len(targets))
    repeated = score(name, targets.repeat(counts, axis=0), probs.repeat(counts, axis=0), task)
    assert score(name, targets, probs, task, weights=counts) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_predictions_of_nan_cells_have_no_effect(name, task):
    targets, probs = example(task)
    other = np.where(np.isnan(targets), np.roll(probs, 1, axis=1) if task == "multiclass" else 1 - probs, probs)
    assert score(name, targets, other, task) == score(name, targets, probs, task)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_truth_scores_better_than_noise(name, task):
    targets, probs = example(task)
    targets = targets[~np.isnan(targets).any(axis=1)]
    if name == "f1_samples":  # a row without any label scores 0 even when that was decided
        targets = targets[targets.any(axis=1)]
    best = score(name, targets, targets, task)
    assert best == pytest.approx(1.0 if METRICS[name].greater_is_better else 0.0, abs=1e-9)
    noise = np.random.default_rng(2).dirichlet(np.ones(max(2, targets.shape[1])), size=len(targets))
    worse = score(name, targets, noise[:, : targets.shape[1]], task)
    assert worse < best - 0.1 if METRICS[name].greater_is_better else worse > best + 0.1


@pytest.mark.parametrize(("name", "task"), CASES)
def test_nothing_to_score_is_nan_without_a_warning(name, task):
    targets, probs = example(task)
    assert np.isnan(score(name, np.full_like(targets, np.nan), probs, task))
    assert np.isnan(score(name, targets, probs, task, weights=np.zeros(len(targets))))


def test_a_label_of_one_class_is_left_out_of_the_mean():
    targets, probs = example("multilabel", with_nan=False)
    targets[:, 1] = 0
    targets[:, 2] = np.where(np.arange(len(targets)) < 50, np.nan, 1)
    assert undefined_labels(targets).tolist() == [False, True, True]
    for by_label in (roc_auc_by_label, average_precision_by_label, brier_by_label):
        assert np.isnan(by_label(targets, probs)).tolist() == [False, True, True]
    alone = sk.roc_auc_score(targets[:, 0], probs[:, 0])
    assert score("roc_auc", targets, probs, "multilabel") == pytest.approx(alone, abs=1e-12)
    f1_alone = score("f1_macro", targets[:, :1], probs[:, :1], "binary")
    assert score("f1_macro", targets, probs, "multilabel") == f1_alone
    assert score("f1_weighted", targets, probs, "multilabel") == f1_alone


@pytest.mark.parametrize("name", [n for n in METRICS if n not in ("accuracy", "subset_accuracy", "log_loss")])
def test_rows_of_one_class_have_no_score(name):
    targets = np.zeros((6, 1))
    if name == "f1_samples":
        assert score(name, targets, targets, "binary") == 0
    else:
        assert np.isnan(score(name, targets, targets, "binary"))


def test_a_label_whose_positives_have_weight_zero_is_undefined():
    targets = np.array([[1.0], [0.0], [0.0]])
    assert not undefined_labels(targets)[0]
    assert undefined_labels(targets, np.array([0, 1, 2]))[0]


def test_roc_auc_by_hand():
    # pairs (positive, negative): .9>.4, .9>.6, .4=.4, .4<.6: 2.5 of 4 are won
    targets, probs = np.array([[1.0], [1], [0], [0]]), np.array([[0.9], [0.4], [0.4], [0.6]])
    assert score("roc_auc", targets, probs, "binary") == 0.625


def test_accuracies_by_hand():
    targets = np.array([[1, 0, 1], [0, 0, np.nan], [1, 1, 0], [0, 0, 0.0]])
    probs = np.array([[0.9, 0.1, 0.8], [0.6, 0.2, 0.9], [0.7, 0.5, 0.1], [0.1, 0.7, 0.2]])
    # 9 of 11 scored cells are right; of the 3 complete rows the first and third are wholly right
    assert score("accuracy", targets, probs, "multilabel") == pytest.approx(9 / 11)
    assert score("subset_accuracy", targets, probs, "multilabel") == pytest.approx(2 / 3)
    # row F1: 1, left out, 1, 0 (something decided, nothing true)
    assert score("f1_samples", targets, probs, "multilabel") == pytest.approx(2 / 3)


def test_quadratic_kappa_by_hand():
    # squared distances: 0 + 1 + 0 + 4 in the four rows, 8 + 4 + 8 + 8 in all sixteen true and decided pairs
    targets, probs = np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 2, 2, 0]]
    assert score("quadratic_kappa", targets, probs, "multiclass") == pytest.approx(1 - (5 / 4) / (28 / 16))


def test_a_wrong_task_names_the_fitting_metrics():
    with pytest.raises(ValueError, match="quadratic_kappa is for binary and multiclass tasks, not for multilabel; "
                                         "choose one of roc_auc"):
        score("quadratic_kappa", *example("multilabel"), "multilabel")


def test_an_entry_needs_a_function_or_counts():
    with pytest.raises(ValueError, match="'mine' needs a function, or counts"):
        Metric(name="mine", title="mine", uses="probs", greater_is_better=True)
    with pytest.raises(ValueError, match="needs cut_quality"):
        Metric(name="mine", title="mine", uses="probs", greater_is_better=True, function=sk.roc_auc_score,
               threshold_search="label")


def test_multiclass_scores_ignore_a_class_that_never_occurs():
    targets, probs = example("multiclass", with_nan=False)
    probs, targets = probs[targets[:, 3] == 0], targets[targets[:, 3] == 0]
    assert (probs.argmax(axis=1) == 3).any()  # decided for, though never true
    recalls = [(probs.argmax(axis=1) == k)[targets[:, k] == 1].mean() for k in range(3)]
    assert score("balanced_accuracy", targets, probs, "multiclass") == pytest.approx(np.mean(recalls))
    for name in METRICS:
        assert np.isfinite(score(name, targets, probs, "multiclass")), name


def test_rounded_float32_rows_have_a_log_loss():
    targets, probs = example("multiclass", with_nan=False)
    rounded = np.round(probs, 3).astype(np.float32)
    expected = score("log_loss", targets, probs, "multiclass")
    assert score("log_loss", targets, rounded, "multiclass") == pytest.approx(expected, abs=1e-3)


def test_a_probability_equal_to_the_threshold_is_positive():
    probs = np.array([[0.2, 0.5], [0.3, 0.7]])
    assert decide(probs, 0.5, "multilabel").tolist() == [[0, 1], [0, 1]]
    assert decide(probs, np.array([0.3, 0.6]), "multilabel").tolist() == [[0, 0], [1, 1]]


def test_multiclass_decides_for_one_class_per_row():
    assert decide(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), None, "multiclass").tolist() == [[0, 1, 0], [1, 0, 0]]


def test_thresholds_raise_for_multiclass_only():
    with pytest.raises(ValueError, match="leave thresholds None"):
        decide(np.ones((1, 2)), 0.5, "multiclass")
    with pytest.raises(ValueError, match="need thresholds"):
        decide(np.ones((1, 2)), None, "multilabel")


def test_score_decides_at_the_given_thresholds():
    targets, probs = np.array([[1.0], [1], [0]]), np.array([[0.3], [0.4], [0.1]])
    assert score("f1_macro", targets, probs, "binary") == 0
    assert score("f1_macro", targets, probs, "binary", thresholds=np.array([0.2])) == 1


def test_constant_predictions_score_their_floors():
    targets, _ = example("multilabel")
    rates = prevalence(targets)
    assert rates == pytest.approx(np.nanmean(targets, axis=0))
    floor = constant_probs(rates, len(targets))
    assert floor.shape == targets.shape
    assert roc_auc_by_label(targets, floor) == pytest.approx(0.5)
    assert average_precision_by_label(targets, floor) == pytest.approx(rates)
    assert brier_by_label(targets, floor) == pytest.approx(rates * (1 - rates))


def test_prevalence_of_a_blank_label_is_nan_without_a_warning():
    assert np.isnan(prevalence(np.array([[np.nan], [np.nan]]))).all()


def test_an_unknown_metric_suggests_the_nearest_ones():
    with pytest.raises(ValueError, match="no metric 'auc'; did you mean roc_auc.*choose one of roc_auc, average_pre"):
        score("auc", *example("binary"), "binary")
