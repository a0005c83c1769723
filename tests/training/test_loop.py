"""The training loop: parts add up to the batch, mixing teaches both images, a loss that is not finite is found."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from models.classifier import build_model
from training.loop import LossNotFinite, train_one_epoch
from training.losses import make_loss
from training.mixup import make_mix
from training.optimization import EMA

NAN = float("nan")
TARGETS = torch.tensor([[1, 0, NAN], [0, NAN, NAN], [1, 1, 0], [0, 0, 1], [1, NAN, 1]])
IMAGES = torch.randint(0, 256, (5, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(5)


def train_once(batches: list, accumulate: int = 1, **options) -> tuple[float, dict]:
    torch.manual_seed(0)
    model = build_model("mlp_a", 1, 64, 3)
    optimizer = SGD(model.parameters(), 0.1)
    loss = train_one_epoch(model, batches, make_loss("cross_entropy", "multilabel"), optimizer,
                           LambdaLR(optimizer, lambda step: 1.0), EMA(model, 0.0), max_grad_norm=100.0,
                           accumulate=accumulate, **options)
    return loss, model.state_dict()


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_losses_of_parts_add_up_to_the_batchs_loss(accumulate):
    whole, weights = train_once([(IMAGES, TARGETS, ROWS)] * 2)
    parts, others = train_once([(IMAGES, TARGETS, ROWS)] * 2, accumulate)
    assert parts == pytest.approx(whole, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-4)


def test_a_batch_with_fewer_images_than_parts_is_an_error():
    with pytest.raises(ValueError, match="a batch of 5 images cannot go through the network in 6 parts"):
        train_once([(IMAGES, TARGETS, ROWS)], accumulate=6)


def test_a_mixed_batch_is_drawn_from_seed_epoch_and_step():
    one, weights = train_once([(IMAGES, TARGETS, ROWS)] * 2, mix=make_mix("mixup:1"), seed=(0, 3))
    again, others = train_once([(IMAGES, TARGETS, ROWS)] * 2, mix=make_mix("mixup:1"), seed=(0, 3))
    assert one == again and all(torch.equal(others[name], value) for name, value in weights.items())
    assert one != train_once([(IMAGES, TARGETS, ROWS)] * 2, mix=make_mix("mixup:1"), seed=(0, 4))[0]


def test_a_loss_that_is_not_finite_names_step_and_images():
    bad = IMAGES.float()
    bad[2, 0, 0, 0] = NAN
    with pytest.raises(LossNotFinite, match="loss of step 2 is not finite") as caught:
        train_once([(IMAGES, TARGETS, ROWS), (bad, TARGETS, ROWS + 5), (IMAGES, TARGETS, ROWS + 10)])
    assert caught.value.rows.tolist() == [5, 6, 7, 8, 9]
