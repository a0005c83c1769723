"""Label cells as targets, and losses that leave out what nobody stated: against hand computation and libraries."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn
from torch.nn import functional as F

from common.settings import Value, read_value
from data.labels import (
    UNCERTAIN_POLICIES,
    first_of_each_vector,
    redraw_targets,
    scored_counts,
    scoring_targets,
    training_targets,
)
from training.losses import (
    CROSS_ENTROPY,
    PROBS,
    best_constant,
    best_probs,
    label_weights,
    masked_bce,
    masked_cross_entropy,
)

NAN = math.nan


def policies(texts: list[str]) -> list[Value]:
    return [read_value("uncertain", text, UNCERTAIN_POLICIES) for text in texts]


def make_targets(cells: np.ndarray, uncertain: list[str], missing: list[str], *rest, **options) -> np.ndarray:
    return training_targets(cells, policies(uncertain), policies(missing), *rest, **options)


def redraw(targets: np.ndarray, cells: np.ndarray, uncertain: list[str], *rest) -> np.ndarray:
    return redraw_targets(targets, cells, policies(uncertain), *rest)


CELLS = np.array([[1, 0, -1, NAN]])
ALL = np.ones(1, bool)


@pytest.mark.parametrize("uncertain, blank, expected", [
    ("ignore", "ignore", [1, 0, NAN, NAN]),
    ("zeros", "ignore", [1, 0, 0, NAN]),
    ("ones", "ignore", [1, 0, 1, NAN]),
    ("ignore", "zeros", [1, 0, NAN, 0]),
    ("ones", "zeros", [1, 0, 1, 0]),
])
def test_a_policy_says_what_uncertain_and_blank_cells_teach(uncertain, blank, expected):
    targets = make_targets(CELLS, [uncertain] * 4, [blank] * 4, ALL)
    np.testing.assert_array_equal(targets, np.array([expected], np.float32))
    assert targets.dtype == np.float32


def test_no_policy_changes_what_is_scored():
    np.testing.assert_array_equal(scoring_targets(CELLS), [[1, 0, NAN, NAN]])


def test_the_cells_themselves_stay_as_they_are():
    cells = CELLS.copy()
    targets = make_targets(cells, ["ones"] * 4, ["zeros"] * 4, ALL)
    redraw(targets, cells, ["uniform:0:1"] * 4, ["a"], "wxyz", 0, 0), scoring_targets(cells)
    np.testing.assert_array_equal(cells, CELLS)
    np.testing.assert_array_equal(targets, [[1, 0, 1, 0]])


def test_every_label_has_its_own_policy():
    cells = np.array([[-1, -1, -1, -1, NAN, NAN], [1, 1, 1, 1, 0, 0]])
    names = ["ignore", "zeros", "ones", "uniform:0.5:0.7", "ones", "ones"]
    targets = make_targets(cells, names, ["ignore"] * 5 + ["zeros"], np.ones(2, bool))
    np.testing.assert_allclose(targets[0], [NAN, 0, 1, 0.6, NAN, 0], rtol=1e-6)


def test_mean_targets_use_certain_cells_of_training_rows_alone():
    cells = np.array([[1, 1], [0, 0], [0, -1], [-1, NAN], [1, 1], [1, 1]])
    training = np.array([True, True, True, True, False, False])
    targets = make_targets(cells, ["mean", "mean"], ["ignore", "ignore"], training)
    np.testing.assert_allclose(targets[:4], [[1, 1], [0, 0], [0, 1 / 2], [1 / 3, NAN]], rtol=1e-6)
    changed = cells.copy()
    changed[4:] = 0
    np.testing.assert_array_equal(make_targets(changed, ["mean"] * 2, ["ignore"] * 2, training)[:4], targets[:4])


def test_a_label_without_certain_cells_has_no_targets():
    targets = make_targets(np.array([[-1.0], [-1.0]]), ["mean"], ["ignore"], np.ones(2, bool))
    assert np.isnan(targets).all()


def test_a_first_run_teaches_uncertain_cells_alone():
    cells = np.array([[1, -1], [-1, NAN], [0, -1]])
    predictions = np.array([[0.2, 0.3], [0.4, 0.5], [0.6, 0.7]])
    targets = make_targets(cells, ["self:first", "ones"], ["ignore"] * 2, np.ones(3, bool), predictions)
    np.testing.assert_allclose(targets, [[1, 1], [0.4, NAN], [0, 1]], rtol=1e-6)


def test_uncertain_rows_of_classes_are_ignored_or_predicted_whole():
    cells = np.array([[1, -1, 0], [0, 1, 0], [1, NAN, NAN], [NAN, NAN, NAN]])
    predictions = np.tile([0.2, 0.3, 0.5], (4, 1))
    rest = [[0, 1, 0], [1, 0, 0], [NAN, NAN, NAN]]
    for policy, first in (("ignore", [NAN] * 3), ("self:first", [0.2, 0.3, 0.5])):
        targets = make_targets(cells, [policy] * 3, ["zeros"] * 3, np.ones(4, bool), predictions, exclusive=True)
        np.testing.assert_allclose(targets, [first, *rest], rtol=1e-6)


# ---- soft targets, drawn for every epoch

DOUBTFUL = np.array([[-1, -1], [1, -1], [0, NAN], [-1, 0]])
RANGE = ["uniform:0.55:0.85", "uniform:0.1:0.2"]


def drawn(epoch: int, seed: int = 0, rows: list[int] | slice = slice(None), ids: str = "abcd") -> np.ndarray:
    cells = DOUBTFUL[rows]
    targets = make_targets(cells, RANGE, ["ignore"] * 2, np.ones(len(cells), bool))
    return redraw(targets, cells, RANGE, np.array(list(ids))[rows], ("x", "y"), seed, epoch)


def test_drawn_targets_lie_in_their_labels_range_and_certain_cells_stay():
    targets = drawn(0)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets[~np.isin(DOUBTFUL, -1)], DOUBTFUL[~np.isin(DOUBTFUL, -1)])
    assert ((0.55 <= targets[[0, 3], 0]) & (targets[[0, 3], 0] < 0.85)).all()
    assert ((0.1 <= targets[[0, 1], 1]) & (targets[[0, 1], 1] < 0.2)).all()


def test_drawn_targets_depend_on_epoch_seed_image_and_label_alone():
    first = drawn(0)
    np.testing.assert_array_equal(drawn(0), first)
    for other in (drawn(1), drawn(0, seed=1), drawn(0, ids="efgh")):
        assert (other[DOUBTFUL == -1] != first[DOUBTFUL == -1]).all()
    np.testing.assert_array_equal(drawn(0, rows=[3, 0]), first[[3, 0]])  # another table, another order
    shares = [(first[0, 0] - 0.55) / 0.3, (first[0, 1] - 0.1) / 0.1]
    assert abs(shares[0] - shares[1]) > 1e-3, "two labels of one image get the same number"


def test_drawn_targets_are_spread_evenly_over_their_range():
    cells = np.full((5000, 1), -1.0)
    ids = [str(i) for i in range(5000)]
    values = redraw(np.zeros((5000, 1), np.float32), cells, ["uniform:0.55:0.85"], ids, ("x",), 0, 0)
    counts, _ = np.histogram(values, bins=10, range=(0.55, 0.85))
    assert counts.sum() == 5000
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001


def test_without_a_range_nothing_is_drawn():
    targets = np.zeros((4, 2), np.float32)
    assert redraw(targets, DOUBTFUL, ["ones", "mean"], list("abcd"), ("x", "y"), 0, 0) is targets


# ---- counts


def test_what_is_scored_is_counted_by_label():
    cells = np.array([[1, 0, -1], [0, NAN, -1], [1, 0, NAN], [-1, 1, NAN]])
    np.testing.assert_array_equal(scored_counts(cells), [[3, 2], [3, 1], [0, 0]])


def test_of_each_label_vector_the_first_by_id_is_chosen():
    cells = np.array([[1, NAN], [1, 0], [1, NAN], [1, -1], [1, 0], [1, -1]])
    chosen = first_of_each_vector(cells, ["f", "e", "d", "c", "b", "a"])
    assert [i for i, yes in zip("fedcba", chosen, strict=True) if yes] == ["d", "b", "a"]
    assert first_of_each_vector(cells[:0], []).shape == (0,)


# ---- losses



def test_binary_cross_entropy_is_the_mean_over_stated_cells():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 5.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, NAN]])
    by_hand = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1))) / 3
    assert masked_bce(logits, targets).item() == pytest.approx(by_hand, rel=1e-6)


def test_cross_entropy_is_the_mean_over_stated_rows():
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [9.0, 9.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [NAN, 1.0, 0.0]])
    by_hand = (math.log(3) + math.log(math.e + math.e**2 + math.e**3) - 2) / 2
    assert masked_cross_entropy(logits, targets).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(0)).mul(4).requires_grad_()


def test_where_every_cell_is_stated_the_losses_are_torchs_own(logits):
    many = (torch.rand(16, 5, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    torch.testing.assert_close(masked_bce(logits, many), F.binary_cross_entropy_with_logits(logits, many))
    classes = torch.arange(16) % 5
    one_hot = F.one_hot(classes).float()
    torch.testing.assert_close(masked_cross_entropy(logits, one_hot), F.cross_entropy(logits, classes))


@pytest.mark.parametrize("loss", [masked_bce, masked_cross_entropy])
def test_an_unstated_row_teaches_nothing(logits, loss):
    targets = F.one_hot(torch.arange(16) % 5).float()
    targets[4:] = NAN
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    (alone,) = torch.autograd.grad(loss(logits[:4], targets[:4]), logits)
    torch.testing.assert_close(gradient, alone)
    assert (gradient[4:] == 0).all() and (gradient[:4] != 0).any()


def test_an_unstated_cell_teaches_nothing_and_hides_no_other(logits):
    targets = torch.zeros(16, 5)
    targets[2, 3] = NAN
    (gradient,) = torch.autograd.grad(masked_bce(logits, targets), logits)
    assert gradient[2, 3] == 0 and gradient.ne(0).sum() == 16 * 5 - 1


@pytest.mark.parametrize("loss", [masked_bce, masked_cross_entropy])
def test_a_batch_without_a_stated_cell_has_loss_and_gradient_0(logits, loss):
    value = loss(logits, torch.full((16, 5), NAN))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("task", CROSS_ENTROPY)
def test_confident_wrong_logits_of_half_precision_give_a_finite_loss(task):
    logits = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = CROSS_ENTROPY[task](logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.dtype == torch.float32 and 100 < loss < 1000 and logits.grad.isfinite().all()


def test_every_task_has_a_loss_and_its_probabilities():
    assert set(CROSS_ENTROPY) == set(PROBS) == {"binary", "multiclass", "multilabel"}
    logits = torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(PROBS["multilabel"](logits), torch.tensor([[0.5, 0.75]]))
    torch.testing.assert_close(PROBS["multiclass"](logits), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(PROBS["binary"](logits), torch.tensor([[0.5, 0.75]]))


@pytest.mark.parametrize("task", CROSS_ENTROPY)
def test_a_loss_is_least_where_the_probabilities_are_the_targets(task):
    logits = torch.zeros(1, 3, requires_grad=True)
    targets = torch.tensor([[0.7, 0.2, 0.1]])
    for _ in range(300):
        (gradient,) = torch.autograd.grad(CROSS_ENTROPY[task](logits, targets), logits)
        logits = (logits - 5 * gradient).detach().requires_grad_()
    torch.testing.assert_close(PROBS[task](logits), targets, atol=1e-3, rtol=0)


# ---- loss weights


def test_balanced_class_weights_are_scikit_learns():
    counts = (7480, 3412, 1483)
    classes = np.repeat([0, 1, 2], counts)
    weights = label_weights("balanced", np.eye(3, dtype=np.float32)[classes], "multiclass").numpy()
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=classes), rtol=1e-6)
    np.testing.assert_allclose(weights, [0.5514705882, 1.2089683470, 2.7815239380], rtol=1e-6)  # as 002 printed them
    assert (weights[classes].mean()) == pytest.approx(1, rel=1e-5)


def test_label_weights_are_scikit_learns_balanced_weights():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < (0.1, 0.5, 0.8)).astype(np.float32)
    targets[rng.random((200, 3)) < 0.2] = NAN
    weights = label_weights("balanced", targets, "multilabel").numpy()
    for k in range(3):
        stated = targets[~np.isnan(targets[:, k]), k]
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=stated)
        np.testing.assert_allclose(weights[:, k], expected, rtol=1e-5)
        pos_weight = label_weights("pos_weight", targets, "multilabel")[:, k]  # the ratio of the same two, and 1
        np.testing.assert_allclose(pos_weight, [1, expected[1] / expected[0]], rtol=1e-5)
    np.testing.assert_array_equal(label_weights("balanced", targets[:, :1], "binary").numpy(), weights[:, :1])


def test_a_weighted_loss_weighs_cells_as_scikit_learn_does():
    rng = np.random.default_rng(1)
    targets = (rng.random((64, 1)) < 0.2).astype(np.float32)
    logits = torch.from_numpy(rng.normal(size=(64, 1)))
    loss = masked_bce(logits, torch.from_numpy(targets), label_weights("balanced", targets, "binary"))
    plain = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets), reduction="none").numpy()[:, 0]
    by_hand = (compute_sample_weight("balanced", targets[:, 0]) * plain).mean()  # of cells, not of weights
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_pos_weight_is_torchs_with_negatives_over_positives(logits):
    targets = (torch.rand(16, 5, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    positives = targets.sum(dim=0)
    assert (positives > 0).all()
    theirs = nn.BCEWithLogitsLoss(pos_weight=(16 - positives) / positives)
    weights = label_weights("pos_weight", targets.numpy(), "multilabel")
    torch.testing.assert_close(masked_bce(logits, targets, weights), theirs(logits, targets))


def test_class_weights_are_torchs_but_for_the_division_by_images(logits):
    classes, weights = torch.arange(16) % 5, torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    theirs = F.cross_entropy(logits, classes, weights, reduction="sum") / 16
    torch.testing.assert_close(masked_cross_entropy(logits, F.one_hot(classes).float(), weights), theirs)


@pytest.mark.parametrize("kind", ["balanced", "pos_weight"])
def test_a_label_whose_cells_are_all_alike_has_the_weight_1(kind):
    targets = np.array([[0, 1, NAN, 1], [0, 1, NAN, 0], [0, 1, NAN, 0]], np.float32)
    weights = label_weights(kind, targets, "multilabel").numpy()
    np.testing.assert_array_equal(weights[:, :3], 1)
    assert weights[1, 3] > 1


def test_a_class_that_does_not_occur_has_the_weight_1():
    one_hot = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [NAN, NAN, NAN]], np.float32)
    np.testing.assert_allclose(label_weights("balanced", one_hot, "multiclass"), [3 / 6, 3 / 3, 1])


def test_soft_targets_count_in_part():
    weights = label_weights("pos_weight", np.array([[0.5], [0.25], [0.25], [0.0]], np.float32), "binary")
    np.testing.assert_allclose(weights, [[1], [3]])


def test_no_weights_and_weights_of_1_are_the_same_loss(logits):
    assert label_weights("none", np.ones((3, 2)), "multilabel") is None
    targets = F.one_hot(torch.arange(16) % 5).float()
    targets[3] = NAN
    for task, ones in (("multilabel", torch.ones(2, 5)), ("multiclass", torch.ones(5))):
        torch.testing.assert_close(CROSS_ENTROPY[task](logits, targets, ones), CROSS_ENTROPY[task](logits, targets))


def test_pos_weight_of_classes_raises():
    with pytest.raises(ValueError, match="for classes there is balanced"):
        label_weights("pos_weight", np.eye(3), "multiclass")


@pytest.mark.parametrize("task, kind", [
    ("multilabel", "none"), ("multilabel", "balanced"), ("multilabel", "pos_weight"), ("binary", "balanced"),
    ("multiclass", "none"), ("multiclass", "balanced")])
def test_no_constant_has_a_lower_loss_than_the_best_one(task, kind):
    rng = np.random.default_rng(0)
    targets = rng.dirichlet((2, 5, 1), 40) if task == "multiclass" else rng.beta(1, 4, (40, 3))
    targets = targets.astype(np.float32)
    targets[:5] = NAN
    weights = label_weights(kind, targets, task)

    def loss_of(probs: np.ndarray) -> float:
        probs = np.broadcast_to(np.nan_to_num(probs, nan=0.5), targets.shape).astype(np.float64)
        logits = np.log(probs) if task == "multiclass" else np.log(probs / (1 - probs))
        return CROSS_ENTROPY[task](torch.from_numpy(logits), torch.from_numpy(targets), weights).item()

    constant, row_by_row = best_constant(targets, task, weights), best_probs(targets, task, weights)
    assert loss_of(row_by_row) < loss_of(constant)
    for best in (constant[None], row_by_row):
        for k in range(3):
            for factor in (0.95, 1.05):
                other = best.copy()
                other[:, k] *= factor
                other = other / other.sum(axis=1, keepdims=True) if task == "multiclass" else other
                assert loss_of(np.minimum(other, 1 - 1e-9)) > loss_of(best)


def test_the_best_constant_weights_images_by_their_counts():
    targets = np.array([[1.0, 0.0], [0.0, NAN]])
    np.testing.assert_allclose(best_constant(targets, "multilabel", counts=np.array([3.0, 1.0])), [0.75, 0])
    np.testing.assert_allclose(best_constant(np.eye(2), "multiclass", counts=np.array([3.0, 1.0])), [0.75, 0.25])
    assert best_constant(np.full((2, 1), NAN), "binary") == 0.5
