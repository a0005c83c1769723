"""MixUp and CutMix: shares, partners, and what uncertain cells teach, against the papers' definitions."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from training.losses import make_loss
from training.mixup import draw_box, make_mix

NAN = math.nan


def mix(images: torch.Tensor, targets: torch.Tensor, name: str, seed: tuple[int, ...]) -> tuple:
    return make_mix(name)(images, targets, seed)


def batch(count: int = 8, size: tuple[int, int] = (12, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is all i, so that a pixel says whose it is; target i is i too."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, *size).contiguous()
    return images, torch.arange(count)[:, None].float()


def test_without_mixing_the_batch_is_what_came():
    images, targets = batch()
    mixed, parts = mix(images, targets, "none", (0, 1, 2))
    assert mixed is images and parts == [(targets, 1.0)]


@pytest.mark.parametrize("mixing", ["mixup:0.4", "cutmix:1"])
def test_what_is_drawn_is_a_function_of_the_seed(mixing):
    images, targets = batch()
    first, again = (mix(images, targets, mixing, (0, 1, 2)) for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    for seed in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 1, 0), (0, 1)):
        other = mix(images, targets, mixing, seed)
        assert other[1][0][1] != first[1][0][1] or not torch.equal(other[0], first[0])
    state = torch.get_rng_state()
    np.random.seed(0)
    torch.testing.assert_close(mix(images, targets, mixing, (0, 1, 2)), first, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mixing", ["mixup:0.4", "cutmix:1"])
def test_everybody_is_somebody_elses_partner_once(mixing):
    images, targets = batch()
    for step in range(200):
        _, ((own, _), (partners, _)) = mix(images, targets, mixing, (0, 0, step))
        assert torch.equal(own, targets) and (partners != own).all()
        assert torch.equal(partners.sort(dim=0).values, targets)


def test_all_images_are_partners_equally_often():
    images, targets = batch(5, (1, 1))
    counts = np.zeros((5, 5))
    for step in range(2000):
        partners = mix(images, targets, "mixup:1", (0, 0, step))[1][1][0][:, 0].long()
        counts[np.arange(5), partners] += 1
    others = counts[~np.eye(5, dtype=bool)]
    assert stats.chisquare(others).pvalue > 0.01


@pytest.mark.parametrize("mixing", ["mixup:0.4", "cutmix:1"])
def test_a_batch_of_one_stays_as_it_is(mixing):
    images, targets = torch.rand(1, 3, 4, 4), torch.tensor([[1.0, NAN]])
    mixed, ((own, share), (partners, rest)) = mix(images, targets, mixing, (0, 0, 0))
    torch.testing.assert_close(mixed, images, atol=0, rtol=0)
    torch.testing.assert_close(partners, own, equal_nan=True)
    assert share + rest == 1


@pytest.mark.parametrize("alpha", [0.2, 1, 4])
def test_mixup_draws_its_share_from_a_beta_distribution(alpha):
    images, targets = batch(2, (1, 1))
    shares = [mix(images, targets, f"mixup:{alpha}", (0, 0, step))[1][0][1] for step in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_is_the_weighted_mean_of_two_images():
    images, targets = torch.randint(0, 256, (8, 1, 5, 5), dtype=torch.uint8), batch()[1]
    mixed, ((_, share), (partners, _)) = mix(images, targets, "mixup:1", (3, 1, 4))
    assert mixed.dtype == torch.float32 and 0.05 < share < 0.95
    expected = share * images.double() + (1 - share) * images[partners[:, 0].long()].double()
    torch.testing.assert_close(mixed.double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed.mean(dim=0), images.float().mean(dim=0))


def test_the_images_that_came_stay_as_they_were():
    images, targets = torch.rand(4, 1, 6, 6), torch.rand(4, 2)
    before = images.clone(), targets.clone()
    for mixing in ("mixup:1", "cutmix:1"):
        mix(images, targets, mixing, (0, 0, 0))
    torch.testing.assert_close((images, targets), before, atol=0, rtol=0)


def test_cutmix_share_is_the_area_outside_the_box():
    images, targets = batch()
    for step in range(100):
        mixed, ((_, share), (partners, _)) = mix(images, targets, "cutmix:1", (0, 0, step))
        own, other = (part[:, :, None, None].expand_as(mixed) for part in (targets, partners))
        cut = mixed != own
        assert torch.equal(mixed[cut], other[cut])
        assert (cut == cut[:1, :1]).all(), "the box differs between images or channels"
        assert share == pytest.approx(1 - cut[0, 0].double().mean().item(), abs=1e-12)
        rows, columns = cut[0, 0].any(dim=1), cut[0, 0].any(dim=0)
        assert torch.equal(cut[0, 0], rows[:, None] & columns), "not a box"
        for side in (rows, columns):
            assert side.int().diff().abs().sum() <= 2, "not one box"


def test_a_box_inside_the_image_has_the_given_area():
    rng, whole, cut = np.random.default_rng(0), 0, 0
    for _ in range(500):
        (top, bottom), (left, right) = draw_box(100, 200, 0.25, rng)
        assert 0 <= top < bottom <= 100 and 0 <= left < right <= 200
        if top > 0 and bottom < 100 and left > 0 and right < 200:
            whole += 1
            assert abs(bottom - top - 50) <= 1 and abs(right - left - 100) <= 1
        else:
            cut += 1
            assert bottom - top <= 51 and right - left <= 101
    assert whole > 50 and cut > 50
    # a side is whole with probability 1/2, and cut evenly down to half its length otherwise: 7/8 of it on average
    areas = [np.prod(np.diff(draw_box(100, 200, 0.25, rng))) / 20000 for _ in range(4000)]
    assert np.mean(areas) == pytest.approx(0.25 * (7 / 8) ** 2, rel=0.01)


def test_boxes_of_area_0_and_1_are_empty_and_full():
    for seed in range(20):
        (top, bottom), (left, right) = draw_box(7, 9, 0.0, np.random.default_rng(seed))
        assert top == bottom and left == right
    assert draw_box(1, 1, 1.0, np.random.default_rng(0)) == ((0, 1), (0, 1))


def test_mixed_losses_of_hard_targets_are_losses_of_mixed_targets():
    images, targets = torch.rand(6, 1, 4, 4), (torch.rand(6, 3) < 0.5).float()
    _, parts = mix(images, targets, "mixup:1", (0, 0, 1))
    loss_fn, logits = make_loss("cross_entropy", "multilabel"), torch.randn(6, 3)
    mixed_targets = sum(share * part for part, share in parts)
    torch.testing.assert_close(sum(share * loss_fn(logits, part) for part, share in parts),
                               loss_fn(logits, mixed_targets))


def test_a_cell_of_one_image_counts_by_that_images_share():
    images, targets = torch.rand(2, 1, 4, 4), torch.tensor([[1.0, NAN], [0.0, 1.0]])
    _, parts = mix(images, targets, "mixup:1", (0, 0, 1))
    (_, share), _ = parts
    logits = torch.zeros(2, 2, requires_grad=True)
    loss_fn = make_loss("cross_entropy", "multilabel")
    (gradient,) = torch.autograd.grad(sum(part_share * loss_fn(logits, part) for part, part_share in parts), logits)
    # of 3 stated cells each, (p - t) / 3 with p = 0.5: label 0 from both images, label 1 from the second alone
    expected = [[0.5 - share, -(1 - share) / 2], [0.5 - (1 - share), -share / 2]]
    np.testing.assert_allclose(gradient.numpy() * 3, expected, atol=1e-6)


@pytest.mark.parametrize("mixing, message", [
    ("mixup:0", "ALPHA must be above 0"), ("cutmix:0", "ALPHA must be above 0"), ("mixup", "there is no 'mixup'"),
    ("mixupp:1", "did you mean 'mixup:ALPHA'?")])
def test_an_unknown_mix_raises(mixing, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_mix(mixing)
