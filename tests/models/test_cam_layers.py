"""The layers for Grad-CAM and HiResCAM: measured ones by name, of every family with the shape that was promised."""

import pytest
import torch
from torch import nn

from common.hardware import import_torchvision
from explaining.attribution import _as_maps
from models.architectures import NETWORKS
from models.cam_layers import CELLS, KINDS, find_cam_layers, map_sides
from models.classifier import build_model

CHOSEN = {  # coarse, fine
    ("cnn_a", 64): ("pool", "pool"),
    ("cnn_b", 64): ("conv3", "norm2"),
    ("cnn_c", 64): ("pool3", "pool3"),
    ("cnn_d", 64): ("conv2", "conv2"),
    ("cnn_e", 64): ("relu7", "conv6"),
    ("darknet19_002", 64): ("norm13", "norm8"),  # its last maps have 2x2 cells
    ("tf_efficientnet_lite0", 64): ("blocks.4", "blocks.2"),
    ("tf_efficientnet_lite0", 128): ("blocks.4", "blocks.4"),
    ("resnet18", 224): ("layer4", "layer4"),
    ("vit_tiny_patch16_224", 64): ("blocks.11.norm1",) * 2,
    ("cait_xxs24_224", 64): ("blocks_token_only.0.norm1",) * 2,  # the class token joins behind the last block
    ("xcit_nano_12_p8_224", 64): ("cls_attn_blocks.0.norm1",) * 2,
    ("swin_tiny_patch4_window7_224", 64): ("layers.2", "layers.1"),
    ("resnet18_front_004", 64): ("backbones.0.layer3", "backbones.0.layer2"),
    ("densenet121", 64): ("features.denseblock3", "features.denseblock2"),
    ("cnn_002", 256): ("relu5", "relu5"),
}


@pytest.fixture(autouse=True)
def torchvision():
    import_torchvision()


def on_meta(network: str, size: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(network, 1, size, 3).eval()


@pytest.mark.parametrize("network, size", CHOSEN)
def test_the_layers_are_those_that_point_best_and_give_square_maps(network, size):
    with torch.device("meta"):
        model, image = build_model(network, 1, size, 3).eval(), torch.empty(1, 1, size, size)
    assert tuple(model.cam_layers[kind] for kind in KINDS) == CHOSEN[network, size]
    seen = []
    for kind in KINDS:
        model.cam_layer(kind).register_forward_hook(lambda _, __, output: seen.append(output))
    model(image)
    prefix = getattr(model.network, "num_prefix_tokens", 0)
    sides = sorted(_as_maps(output, prefix).shape[3] for output in seen)
    assert sides[0] >= min(CELLS, size // 16)
    assert sides[1] >= CELLS or network in ("vit_tiny_patch16_224", "cait_xxs24_224")  # 4x4 patches, and no more


@pytest.mark.parametrize("network", ["lstm", "mlp_a", "pixels"])
def test_where_nothing_gives_a_map_there_is_no_layer(network):
    model = build_model(network, 1, 16, 3)
    assert model.cam_layers == {} and model.cam_layer() is None


@pytest.mark.parametrize("network, size", [("cnn_b", 64), ("cnn_e", 70), ("cnn_002", 96), ("resnet18", 64),
                                           ("tf_efficientnet_lite0", 128), ("xcit_nano_12_p8_224", 64)])
def test_every_map_has_the_side_that_is_said(network, size):
    model, sides = build_model(network, 1, size, 3).eval(), {}
    expected = map_sides(model.network, 1, size)
    for name in expected:
        model.network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: sides.update({name: _as_maps(output, 1).shape[3]}))
    model(torch.zeros(1, 1, size, size))
    assert sides == expected and len(expected) >= 1


@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "cait_xxs24_224", "xcit_nano_12_p16_224"])
def test_the_patches_of_a_transformers_layer_reach_the_logit(network):
    torch.manual_seed(0)
    model, seen = build_model(network, 1, 64, 1), []
    nn.init.normal_(model.network.head.weight)
    model.eval().cam_layer().register_forward_hook(lambda _, __, output: seen.append(output))
    gradient, = torch.autograd.grad(model(torch.rand(1, 1, 64, 64) * 255).sum(), seen)
    assert gradient[0, -16:].abs().amax(dim=1).min() > 0


def test_looking_for_layers_changes_nothing():
    network = NETWORKS["cnn_b"](1, 64, 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    dice = torch.get_rng_state()
    find_cam_layers(network, 1, 64)
    assert network.training and all(stage.training and not stage._forward_hooks for stage in network)
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_small_images_use_the_largest_map():
    assert find_cam_layers(NETWORKS["cnn_b"](1, 17, 3), 1, 17) == {"coarse": "conv3", "fine": "pool1"}
