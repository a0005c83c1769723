"""Frozen features: those of prediction, kept once, and heads that train on them as behind the running backbone."""

import copy
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from data.pixel_store import PixelSettings, PixelStore, open_store
from experiment import EXPERIMENTS, Experiment
from models.classifier import Classifier, build_model
from models.frozen_features import open_features
from models.heads import FeatureClassifier, head_name, put_head, take_head, uses_features
from training.batches import ordered_batches, training_batches
from training.loop import predict_logits, train_one_epoch
from training.losses import masked_bce
from training.optimization import EMA, weight_groups

NETWORK = "test_efficientnet"  # timm's smallest with batch norm


@pytest.fixture
def store(home) -> PixelStore:
    rng = np.random.default_rng(0)
    paths = [str(home / f"{number}.png") for number in range(40)]
    for path in paths:
        cv2.imwrite(path, cv2.resize(rng.integers(0, 256, (5, 5), np.uint8), (32, 32)))
    return open_store("some", pd.DataFrame({"image_id": [Path(path).stem for path in paths], "path": paths}),
                      PixelSettings(32, 1))


def small_model(seed: int = 0) -> Classifier:
    """With batch statistics of its own, as after training: at their start they would hide that they are not used."""
    torch.manual_seed(seed)
    model = build_model(NETWORK, 1, 32, 3, dropout=0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


class FrozenBackbone(nn.Module):
    """The whole network, run for every batch, of which the head alone learns."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.head = model.get_submodule(head_name(model)).requires_grad_(True)

    def train(self, mode: bool = True) -> nn.Module:
        self.model.eval()
        self.model.network.training = mode  # of which timm's dropout before the head takes notice
        return self

    def forward(self, images):
        return self.model(images)

    def clip_units(self) -> list[nn.Module]:
        return [self.head]


def train(part: nn.Module, store, epochs: int = 3) -> nn.Module:
    """The head after some epochs, of which everything drawn is a function of the epoch."""
    targets = np.random.default_rng(1).integers(0, 2, (40, 3)).astype(np.float32)
    targets[::7, 1] = np.nan
    optimizer, ema = AdamW(weight_groups(part, 1e-2), 1e-2), EMA(part, 0.9)
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        loader = training_batches(store, np.arange(40), targets, 16, "none", 0, epoch)
        train_one_epoch(part, loader, partial(masked_bce), optimizer, LambdaLR(optimizer, lambda _: 1.0), ema)
    return ema.model.head


def test_training_on_features_equals_training_with_the_frozen_backbone(store):
    whole, model = FrozenBackbone(small_model()), small_model()
    before = copy.deepcopy(whole.model.state_dict())
    behind = train(whole, store)
    features = open_features("some", model, store, NETWORK)
    place = head_name(model)
    on_features = train(FeatureClassifier(model.get_submodule(place), 0.2), features)

    assert behind.weight.abs().max() > 0.01
    torch.testing.assert_close(on_features.state_dict(), behind.state_dict(), atol=1e-5, rtol=1e-3)
    moved = [name for name, value in whole.model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == [f"{place}.weight", f"{place}.bias"]

    put_head(model, place, on_features)
    from_images = predict_logits(model, ordered_batches(store, np.arange(40), 16), ("identity",))
    from_features = predict_logits(FeatureClassifier(on_features, 0.2), ordered_batches(features, np.arange(40), 16),
                                   ("identity",))
    torch.testing.assert_close(from_features, from_images, atol=1e-5, rtol=1e-4)


def test_features_are_what_timm_hands_to_its_last_layer(store):
    model = small_model()
    features = open_features("some", model, store, NETWORK)
    images = torch.from_numpy(store.read(np.arange(40)))[:, None]
    with torch.inference_mode():
        network = model.eval().network
        expected = network.forward_head(network.forward_features(model.normalise(images)), pre_logits=True)
    np.testing.assert_allclose(features.read(np.arange(40)), expected.numpy(), atol=1e-5, rtol=1e-4)
    assert features.read([3, 0]).shape == (2, expected.shape[1])


def test_features_are_recomputed_only_for_other_weights(store, home):
    model = small_model()
    head = model.get_submodule(head_name(model))
    first = open_features("some", model, store, NETWORK)
    stamp = first.path.stat().st_mtime_ns
    assert model.get_submodule(head_name(model)) is head and model.training

    nn.init.ones_(head.weight)
    again = open_features("some", model, store, NETWORK)
    assert again.path == first.path and again.path.stat().st_mtime_ns == stamp
    other = open_features("some", small_model(1), store, NETWORK)
    assert other.path != first.path and not np.allclose(other.features, first.features)
    model.mean += 1  # the normalisation counts too
    assert open_features("some", model, store, NETWORK).path not in (first.path, other.path)


def test_a_feature_store_replaces_a_pixel_store(store):
    features = open_features("some", small_model(), store, NETWORK)
    assert len(features) == 40 and np.array_equal(features.ids, store.ids)
    assert np.array_equal(features.constant, store.constant)
    assert features.rows(["7", "3"]).tolist() == store.rows(["7", "3"]).tolist()
    handed_over = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(handed_over.read([5, 1]), features.read([5, 1]))
    features.path.write_bytes(b"x")
    with pytest.raises(ValueError, match="delete it, and it is computed again"):
        open_features("some", small_model(), store, NETWORK)


def test_pixels_are_their_own_features(store):
    features = open_features("some", build_model("pixels", 1, 32, 2), store, "pixels")
    images = store.read([2, 9]).reshape(2, -1)
    np.testing.assert_allclose(features.read([2, 9]), (images / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("network", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext",
                                     "mobilenetv3_small_050", "cnn_e", "mlp_a", "pixels"])
def test_taking_the_head_out_and_back_keeps_the_logits(network):
    torch.manual_seed(0)
    size = 160 if network == "test_vit" else 64
    model, images = build_model(network, 1, size, 3).eval(), torch.randint(0, 256, (2, 1, size, size))
    head = model.get_submodule(head_name(model))
    nn.init.normal_(head.weight)
    with torch.inference_mode():
        before, place = model(images), head_name(model)
        assert take_head(model) is head
        vectors = model(images)
        assert vectors.ndim == 2 and len(vectors) == 2
        torch.testing.assert_close(head(vectors), before)
        torch.testing.assert_close(put_head(model, place, head)(images), before)


@pytest.mark.parametrize("model", [lambda: build_model("deit_tiny_distilled_patch16_224", 1, 224, 3),
                                   lambda: build_model("cnn_b", 1, 64, 3, per_task=True)])
def test_a_network_with_two_heads_is_an_error(model):
    with pytest.raises(ValueError, match="no single head .* train it as a whole"):
        head_name(model())


def test_features_are_used_only_for_frozen_unaugmented_recipes():
    frozen = Experiment(stages=("head:10:1e-3",))
    assert uses_features(frozen) and uses_features(Experiment(head_fit="svc"))
    assert not uses_features(Experiment())
    for change in ({"stages": ("head:4:1e-3", "all:6:1e-4")}, {"augmentation": "warp"}, {"mix": "mixup:0.2"},
                   {"per_task": True}):
        assert not uses_features(Experiment(**{"stages": ("head:10:1e-3",), **change}))
    used = {name for name, experiment in EXPERIMENTS.items() if uses_features(experiment)}
    assert {"lite0_frozen", "logistic_lite0", "svc_lite0", "svc_pixels"} <= used
