"""Occlusion and LIME against brute force, networks whose answer is known, every family of network, and empty maps."""

import numpy as np
import pytest
import torch
from torch import nn

from common.hardware import import_torchvision
from explaining.attribution import (
    BATCH,
    Surrogate,
    label_log_odds,
    mean_baseline,
    occlude,
    superpixels,
)
from explaining.methods import METHODS, explain_images, methods_for
from models.classifier import Classifier, build_model

SIZE = 32


@pytest.fixture(autouse=True)
def torchvision():
    import_torchvision()


class Weighed(nn.Module):
    """A logit that is linear in the pixels: the sum of those in a square, and its negative."""

    def __init__(self):
        super().__init__()
        weights = torch.zeros(SIZE, SIZE)
        weights[20:28, 4:12] = 0.5
        self.layer = nn.Linear(SIZE * SIZE, 2, bias=False)
        self.layer.weight.data = torch.stack([weights.ravel(), -weights.ravel()])
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return self.layer(images.flatten(1))


def weighed() -> Classifier:
    return Classifier(Weighed(), 1, (0.5,), (0.25,), {})


def noise(size: int = SIZE, count: int = 2, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def square() -> torch.Tensor:
    image = torch.full((1, 1, SIZE, SIZE), 50, dtype=torch.uint8)
    image[:, :, 20:28, 4:12] = 200
    return image


def build(network: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(network, 1, size, 3).eval()
    nn.init.normal_([module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight, std=1.0)
    return model


def test_occlusion_is_what_hiding_one_square_after_the_other_gives():
    model, image, side = build("cnn_b", SIZE), noise(count=1).float(), SIZE // 8
    whole = label_log_odds(model, image, 1, "multilabel")
    sums, counts = torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE)
    for top in range(0, SIZE - side + 1, side // 2):
        for left in range(0, SIZE - side + 1, side // 2):
            hidden, place = image.clone(), (slice(top, top + side), slice(left, left + side))
            hidden[0, 0][place] = image.mean()
            sums[place] += (whole - label_log_odds(model, hidden, 1, "multilabel")).item()
            counts[place] += 1
    torch.testing.assert_close(occlude(model, image, 1, "multilabel"), sums / counts, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_only_evidence_for_the_label_is_hot(method):
    inside = np.zeros((SIZE, SIZE), bool)
    inside[20:28, 4:12] = True
    for_it, against_it = (explain_images(method, weighed(), square(), label, "multilabel").heat[0].numpy()
                          for label in (0, 1))
    assert inside[np.unravel_index(for_it.argmax(), for_it.shape)]
    assert for_it[inside].sum() > 0.6 * for_it.sum() and for_it.max() == 1
    assert against_it[inside].sum() < 0.2 * max(against_it.sum(), 1)


def test_lime_fits_a_linear_network_and_not_noise():
    assert explain_images("lime", weighed(), square(), 0, "multilabel").fit[0] > 0.99
    rng, surrogate = np.random.default_rng(0), Surrogate()
    drawn = torch.utils.data.TensorDataset(torch.from_numpy(rng.integers(0, 2, (256, 64))),
                                           torch.from_numpy(rng.normal(size=256)), torch.ones(256))
    surrogate.fit(torch.utils.data.DataLoader(drawn))
    assert surrogate.r2 < 0.05


def test_lime_weights_equal_single_occlusions_of_a_linear_network():
    """Against least squares by hand: hiding a superpixel of a linear network takes away its share of the logit."""
    image, model = square().float(), weighed()
    parts = superpixels(image[0, 0].numpy())
    hidden = [torch.where(torch.from_numpy(parts == part), mean_baseline(image), image)
              for part in range(parts.max() + 1)]
    alone = [label_log_odds(model, each, 0, "multilabel") for each in hidden]
    shares = label_log_odds(model, image, 0, "multilabel") - torch.cat(alone)
    heat = explain_images("lime", model, square(), 0, "multilabel").heat[0].numpy()
    found = np.array([heat[parts == part].mean() for part in range(parts.max() + 1)])
    np.testing.assert_allclose(found, shares.relu() / shares.max(), atol=0.06)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["cnn_b", "tf_efficientnet_lite0", "vit_tiny_patch16_224",
                                     "xcit_nano_12_p16_224", "swin_tiny_patch4_window7_224", "lstm", "mlp_a"])
def test_every_family_of_networks_is_explained(network, method, monkeypatch):
    monkeypatch.setattr("explaining.attribution.LIME_SAMPLES", 24)
    monkeypatch.setattr("explaining.attribution.GRID", 4)
    model = build(network, 32)
    if method not in methods_for(model):
        assert network in ("lstm", "mlp_a") and method in ("gradcam", "hirescam")
        return
    maps = explain_images(method, model, noise(), 1, "multilabel")
    assert maps.heat.shape == (2, 32, 32) and maps.heat.dtype == torch.float32
    assert maps.heat[~maps.empty].amax(dim=(1, 2)).eq(1).all() and maps.heat.ge(0).all()
    assert maps.heat[maps.empty].eq(0).all()


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_black_images_and_untrained_networks_give_empty_maps(method):
    black = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8)
    untrained = build_model("cnn_b", 1, SIZE, 3)  # its head starts at zero
    for model, images in ((weighed(), black), (untrained, square())):
        maps = explain_images(method, model, images, 0, "multilabel")
        assert maps.empty.all() and maps.heat.eq(0).all()


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_never_more_than_a_batch_is_in_memory(method):
    model = weighed()
    explain_images(method, model, noise(), 0, "multilabel")
    assert max(model.network.seen) <= BATCH
    assert sum(model.network.seen) > 200  # so many were hidden


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_maps_are_deterministic_and_keep_the_random_state(method):
    model, before = build("mlp_a", SIZE), torch.random.get_rng_state()
    first = explain_images(method, model, noise(), 0, "multilabel").heat
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    torch.testing.assert_close(explain_images(method, model, noise(), 0, "multilabel").heat, first, rtol=0, atol=0)


def test_log_odds_are_those_of_the_probability():
    model, images = build("cnn_b", SIZE), noise()
    probs = model(images).softmax(dim=1)
    torch.testing.assert_close(label_log_odds(model, images, 2, "multiclass"), (probs / (1 - probs)).log()[:, 2],
                               rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(label_log_odds(model, images, 2, "multilabel"), model(images)[:, 2])


def test_colour_images_are_hidden_in_all_channels_at_once():
    torch.manual_seed(0)
    model = build_model("mlp_a", 3, SIZE, 2)
    nn.init.normal_([module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight, std=1.0)
    for method in ("occlusion", "lime"):
        assert explain_images(method, model, noise(channels=3), 0, "multilabel").heat.shape == (2, SIZE, SIZE)


def test_superpixels_follow_edges():
    grey = np.full((64, 64), 20.0)
    grey[:, 29:] = 230
    parts = superpixels(grey)
    assert 50 <= parts.max() + 1 <= 64
    assert not set(parts[:, :29].ravel()) & set(parts[:, 29:].ravel())


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"no method 'magic'; there are gradcam, hirescam, occlusion, lime"):
        explain_images("magic", weighed(), square(), 0, "multilabel")
