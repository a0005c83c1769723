"""Label cells as targets, and losses that leave out what nobody stated: against hand computation and torch's own."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labels import scoring_targets, training_targets
from losses import LOSSES, PROBS, masked_bce, masked_cross_entropy

NAN = math.nan
CELLS = np.array([[1, 0, -1, NAN]])


@pytest.mark.parametrize("uncertain, blank, expected", [
    ("ignore", "ignore", [1, 0, NAN, NAN]),
    ("zeros", "ignore", [1, 0, 0, NAN]),
    ("ones", "ignore", [1, 0, 1, NAN]),
    ("ignore", "zeros", [1, 0, NAN, 0]),
    ("ones", "zeros", [1, 0, 1, 0]),
])
def test_a_policy_says_what_uncertain_and_blank_cells_teach(uncertain, blank, expected):
    targets = training_targets(CELLS, uncertain, blank)
    np.testing.assert_array_equal(targets, np.array([expected], np.float32))
    assert targets.dtype == np.float32


def test_no_policy_changes_what_is_scored():
    np.testing.assert_array_equal(scoring_targets(CELLS), [[1, 0, NAN, NAN]])


def test_the_cells_themselves_stay_as_they_are():
    cells = CELLS.copy()
    training_targets(cells, "ones", "zeros"), scoring_targets(cells)
    np.testing.assert_array_equal(cells, CELLS)


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


@pytest.mark.parametrize("task", LOSSES)
def test_confident_wrong_logits_of_half_precision_give_a_finite_loss(task):
    logits = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = LOSSES[task](logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.dtype == torch.float32 and 100 < loss < 1000 and logits.grad.isfinite().all()


def test_every_task_has_a_loss_and_its_probabilities():
    assert set(LOSSES) == set(PROBS) == {"binary", "multiclass", "multilabel"}
    logits = torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(PROBS["multilabel"](logits), torch.tensor([[0.5, 0.75]]))
    torch.testing.assert_close(PROBS["multiclass"](logits), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(PROBS["binary"](logits), torch.tensor([[0.5, 0.75]]))


@pytest.mark.parametrize("task", LOSSES)
def test_a_loss_is_least_where_the_probabilities_are_the_targets(task):
    logits = torch.zeros(1, 3, requires_grad=True)
    targets = torch.tensor([[0.7, 0.2, 0.1]])
    for _ in range(300):
        (gradient,) = torch.autograd.grad(LOSSES[task](logits, targets), logits)
        logits = (logits - 5 * gradient).detach().requires_grad_()
    torch.testing.assert_close(PROBS[task](logits), targets, atol=1e-3, rtol=0)
