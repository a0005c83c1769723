"""Dropout from a few random bits: nn.Dropout's zeros and scale, another stream of random numbers."""

import pytest
import torch
from torch import nn

from models.layers import BitDropout

SHAPES = [(64, 33, 15, 15), (7, 1025), (3,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_so_many_values_are_zeroed_and_the_others_scaled_to_match(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(64, 32, 16, 16, dtype=dtype)
    y = BitDropout(p)(x)
    assert y.dtype == dtype
    share = (y == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y[y != 0].unique().item() == pytest.approx(1 / (1 - p), rel=4e-3 if dtype == torch.bfloat16 else 2e-5)


def test_values_are_zeroed_one_by_one_and_not_in_rows():
    torch.manual_seed(0)
    zeroed = (BitDropout(0.3)(torch.ones(400, 400)) == 0).double()
    for axis in (0, 1):  # sums of 400 independent values: standard deviation sqrt(400 p (1 - p)) = 9.2
        assert zeroed.sum(axis).std().item() == pytest.approx(9.17, rel=0.15)
    for step in (1, 2, 3, 4):  # four values share a 64-bit number
        flat = zeroed.flatten()
        assert abs(torch.corrcoef(torch.stack([flat[:-step], flat[step:]]))[0, 1].item()) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_pass_where_values_do(shape):
    torch.manual_seed(0)
    x = (torch.rand(shape) + 1).requires_grad_()
    y = BitDropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(y, x.detach() * x.grad)


def test_the_mask_has_the_layout_of_the_images():
    torch.manual_seed(0)
    x = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    y = BitDropout(0.5)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    flat = BitDropout(0.5)(torch.ones(2, 4, 5, 3))
    assert torch.equal(y.permute(0, 2, 3, 1), flat)


def test_the_same_seed_zeroes_the_same_values():
    x, results = torch.ones(1000), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(BitDropout(0.5)(x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_nothing_is_drawn_where_nothing_is_to_be_chosen(p):
    x, state = torch.randn(5, 5), torch.get_rng_state()
    assert torch.equal(BitDropout(p).eval()(x), x)
    if p != 0.5:
        assert torch.equal(BitDropout(p)(x), nn.Dropout(p)(x))
    assert torch.equal(torch.get_rng_state(), state) or p != 0.5
