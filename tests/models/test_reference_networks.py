"""Networks of 000, 001, 002 and 004 against their published counts; heads, layers, and what they start as."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import reference_networks
from models.classifier import build_model, check_network, count_parameters, head_modules, weight_layers
from models.reference_networks import SIX, make_front, make_head
from training.augmentation import make_augmentation


def on_meta(*args, **options) -> nn.Module:
    """Shapes without numbers."""
    with torch.device("meta"):
        return build_model(*args, **options).eval()


def moving_statistics(model: nn.Module) -> int:
    """What Keras counts as parameters that are not trained."""
    return sum(value.numel() for name, value in model.named_buffers() if "running" in name)


# ---- counts: the references' tables


@pytest.mark.parametrize("network, channels, size, outputs, head, trained", [
    ("densenet121", 3, 224, 14, "two_linear:500", 7_473_370),   # 000
    ("tf_efficientnet_b5", 3, 456, 14, "linear", 28_369_470),
    ("combined_000", 3, 224, 14, "linear", 81_478_262),
    ("densenet121", 3, 224, 14, "hidden:1024", 8_017_806),      # 001, all trained
    ("vgg16", 3, 224, 14, "hidden:1024", 15_254_350),
    # Keras has biases in convolutions that batch norm follows, 26,560 of them, and so 25,647,118
    ("resnet50", 3, 224, 14, "hidden:1024", 25_647_118 - 26_560),
    # 002; Keras counts moving statistics, and of VGG-19 the three means that it takes from the colours: 24,219,206
    ("cnn_002", 1, 256, 3, "linear", 101_583 - 480),
    ("darknet19_002", 1, 256, 3, "linear", 16_035_023 - 12_864),
    ("vgg19_002", 3, 256, 3, "hidden:128", 24_219_203),
    # its 20,806,952 as Keras trains them, and 2,048 x 256 + 256 + 256 x 3 + 3
    ("legacy_xception", 3, 299, 3, "hidden:256", 20_806_952 + 525_315),
])
def test_a_network_has_as_many_parameters_as_the_references(network, channels, size, outputs, head, trained):
    model = on_meta(network, channels, size, outputs, head=head)
    assert count_parameters(model) == trained
    assert model(torch.empty(2, channels, size, size, device="meta")).shape == (2, outputs)


@pytest.mark.parametrize("network, statistics", [("cnn_002", 480), ("darknet19_002", 12_864)])
def test_with_moving_statistics_a_network_has_as_many_as_keras_counts(network, statistics):
    assert moving_statistics(on_meta(network, 1, 256, 3)) == statistics


def test_frozen_the_densenet_of_001_trains_its_head_alone():
    assert sum(map(count_parameters, head_modules(on_meta("densenet121", 3, 224, 14, head="hidden:1024")))) == 1_063_950


def test_six_backbones_have_the_counts_and_order_of_000():
    model = on_meta("combined_000", 3, 224, 14).network
    assert [count_parameters(each) for each in model.backbones] == [
        6_953_856, 12_484_480, 18_092_928, 3_102_312, 20_035_392, 20_024_384]
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert [each.shape[1] for each in model.features(images)] == [1024, 1664, 1920, 1280, 25_088, 25_088]
    pooled = on_meta("combined_pooled_000", 3, 224, 14).network
    assert [each.shape[1] for each in pooled.features(images)] == [1024, 1664, 1920, 1280, 512, 512]


# ---- 002's layers


def test_batch_norm_stands_behind_the_relu_in_002():
    names = [name for name, _ in on_meta("cnn_002", 1, 256, 3).network.named_children()]
    assert names[:5] == ["conv1", "relu1", "norm1", "pool1", "conv2"]
    darknet = on_meta("darknet19_002", 1, 256, 3).network
    assert [name for name, _ in darknet.named_children()][:4] == ["conv1", "leaky1", "norm1", "pool1"]
    widths = [module.out_channels for module in darknet if isinstance(module, nn.Conv2d)]
    assert widths == [32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 256, 512, 1024, 512, 1024, 256, 512, 3]


@pytest.mark.parametrize("network, least", [("cnn_002", 16), ("darknet19_002", 32)])
def test_too_small_an_image_is_refused(network, least):
    with pytest.raises(ValueError, match=f"{network} needs images of at least {least} pixels"):
        on_meta(network, 1, least - 1, 3)
    images = torch.empty(1, 1, least, least, device="meta")
    assert on_meta(network, 1, least, 5)(images).shape == (1, 5)


# ---- heads


@pytest.mark.parametrize("head, kinds", [
    ("linear", [nn.Dropout, nn.Linear]),
    ("hidden:7", [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]),
    ("two_linear:7", [nn.Linear, nn.Dropout, nn.Linear]),
])
def test_a_head_has_its_layers_and_the_dropout_before_the_last(head, kinds):
    built = make_head(head, 5, 3, 0.9)
    assert [type(module) for module in built] == kinds
    assert built.dropout.p == 0.9 and built(torch.randn(2, 5)).shape == (2, 3)


@pytest.mark.parametrize("network, size, width", [
    ("resnet18", 64, 512), ("mobilenetv3_small_100", 64, 1024), ("vit_tiny_patch16_224", 64, 192),
    ("deit_tiny_distilled_patch16_224", 64, 192), ("convnext_atto", 64, 320),
    ("swin_tiny_patch4_window7_224", 224, 768),
])
def test_a_head_stands_behind_any_family_of_timm(network, size, width):
    model = on_meta(network, 1, size, 3, head="hidden:16")
    assert model.network.head.hidden.in_features == width
    assert model(torch.empty(2, 1, size, size, device="meta")).shape == (2, 3)
    assert model.cam_layer() is not None
    assert on_meta(network, 1, size, 1, head="hidden:16", per_task=True)(
        torch.empty(2, 1, size, size, device="meta")).shape == (2, 1)


def test_heads_start_with_he_weights_and_a_zero_output():
    torch.manual_seed(0)
    model = build_model("mobilenetv3_small_100", 1, 32, 3, head="hidden:256").network
    assert not model.head.output.weight.any() and not model.head.output.bias.any()
    assert model.head.hidden.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)


@torch.no_grad()
def test_a_vggs_features_are_the_means_of_its_last_map():
    torch.manual_seed(0)
    model = build_model("vgg11", 1, 64, 2, head="hidden:8").eval()
    backbone, images = model.network.backbones[0], torch.randn(2, 1, 64, 64)
    assert torch.equal(model.network.features(images)[0], backbone.features(images).mean(dim=(2, 3)))
    assert not any("pre_logits" in name for name in model.state_dict())


@torch.no_grad()
def test_flat_features_are_the_whole_last_map(monkeypatch):
    monkeypatch.setitem(reference_networks.LAYOUTS, "flat",
                        reference_networks.Layout(("resnet10t", "vgg11"), flat=("vgg11",)))
    torch.manual_seed(0)
    network, images = build_model("flat", 1, 64, 2).eval().network, torch.randn(2, 1, 64, 64)
    means, whole = network.features(images)
    assert torch.equal(whole, network.backbones[1].features(images).flatten(1)) and whole.shape == (2, 2048)
    nn.init.normal_(network.head.output.weight)
    torch.testing.assert_close(network(images), F.linear(torch.cat([means, whole], dim=1), network.head.output.weight))


def test_a_network_of_ours_takes_no_other_head():
    with pytest.raises(ValueError, match="'cnn_002' has a head of its own; head=hidden:8 is for timm's"):
        build_model("cnn_002", 1, 64, 3, head="hidden:8")


def test_missing_weights_of_backbones_are_all_named(home):
    with pytest.raises(FileNotFoundError, match=re.escape(f"'combined_000' lacks the weights of {', '.join(SIX)}. Of")):
        check_network("combined_000", "imagenet")
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for 'vgg16'"):
        build_model("vgg16", 3, 64, 2, weights="imagenet", head="hidden:8")


@torch.no_grad()
def test_pretrained_features_are_the_same_behind_another_head(home):
    images = torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain, headed = (build_model("tf_efficientnet_lite0", 1, 64, 2, weights="imagenet", head=head).eval()
                     for head in ("linear", "hidden:8"))
    assert torch.equal(plain.mean, headed.mean) and torch.equal(plain.std, headed.std)
    seen = plain.normalise(images)
    expected = plain.network.forward_head(plain.network.forward_features(seen), pre_logits=True)
    torch.testing.assert_close(headed.network.features(headed.normalise(images))[0], expected)


# ---- the convolution in front


@pytest.mark.parametrize("channels", [1, 3])
def test_the_convolution_in_front_starts_as_a_copy(channels):
    images = torch.randn(2, channels, 8, 8)
    torch.testing.assert_close(make_front(channels)(images), images.expand(-1, 3, -1, -1))


def test_the_front_is_the_layer_nearest_to_the_image():
    model = on_meta("resnet18_front_004", 1, 64, 3)
    assert [tuple(each.shape) for each in weight_layers(model)[0]] == [(3, 1, 3, 3), (3,)]


# ---- layers


def test_vgg19_trains_as_many_parameters_as_in_002():
    model = on_meta("vgg19_002", 3, 256, 3, head="hidden:128")
    head = sum(map(count_parameters, head_modules(model)))
    backbone = weight_layers(model)[:-2]
    assert head == 4_194_819 and len(backbone) == 16
    assert head + sum(each.numel() for layer in backbone[-8:] for each in layer) == 21_893_635


def test_a_layer_has_its_bias_and_the_norm_that_follows():
    layers = weight_layers(on_meta("cnn_b", 1, 64, 3))
    assert [[tuple(each.shape) for each in layer] for layer in layers[1:4]] == [
        [(50, 25, 5, 5), (50,), (50,), (50,)], [(70, 50, 3, 3), (70,), (70,), (70,)], [(100, 280), (100,)]]


def test_layers_of_parallel_networks_are_aligned_at_the_head(monkeypatch):
    monkeypatch.setitem(reference_networks.LAYOUTS, "pair", reference_networks.Layout(("vgg11", "vgg13")))
    layers = weight_layers(on_meta("pair", 1, 64, 3))
    assert len(layers) == 10 + 1  # vgg13 has ten, vgg11 eight
    assert [len(layer) for layer in layers] == [2, 2, *[4] * 8, 2]
    per_task = weight_layers(on_meta("cnn_d", 1, 64, 3, per_task=True))
    assert [len(layer) for layer in per_task] == [6, 6, 6, 6]


# ---- augmentations of 000 and 002


def test_dropblock_blackens_a_tenth_with_boxes_of_20_by_70():
    augment, white = make_augmentation("dropblock", 256), np.full((256, 256), 255, np.uint8)
    drawn = np.stack([augment(white, seed) for seed in range(300)])
    assert set(np.unique(drawn)) == {0, 255}
    assert 0.08 < (drawn == 0).mean() < 0.1  # 1 - exp(-0.1) = 0.095 where boxes may overlap
    single = next(image for image in drawn if (image == 0).sum() == 20 * 70)
    rows, columns = np.nonzero(single == 0)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 70)


def test_the_augmentation_of_000_rotates_by_at_most_seven_degrees():
    augment, ramp = make_augmentation("rotate7_crop", 129), np.tile(np.arange(60, 189), (129, 1))
    angles = []
    for seed in range(200):
        image = augment(ramp.astype(np.uint8), seed).astype(float)[34:95, 34:95]
        down, across = (gradient.mean() for gradient in np.gradient(image))
        angles.append(np.degrees(np.arctan2(down, across)))
    assert 6 < np.abs(angles).max() < 7.3
    flat = np.full((129, 129), 130, np.uint8)
    assert all((augment(flat, seed) == 130).all() for seed in range(20))
