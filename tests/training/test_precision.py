"""Number formats of training steps: which layer computes in which, and the choice by device and network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.classifier import build_model
from training import precision
from training.precision import DepthwiseInFp32, autocast, choose_precision

FP32, BF16 = torch.float32, torch.bfloat16


def depthwise_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1))


def output_dtypes(network: nn.Module, name: str) -> list[torch.dtype]:
    seen = []
    handles = [stage.register_forward_hook(lambda _, __, output: seen.append(output.dtype)) for stage in network]
    with autocast("cpu", name):
        network(torch.rand(2, 3, 8, 8))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name, expected", [
    ("fp32", [FP32, FP32, FP32]), ("bf16", [BF16, BF16, BF16]), ("bf16_depthwise_fp32", [BF16, FP32, BF16])])
def test_each_convolution_computes_in_the_format_it_should(name, expected):
    network = depthwise_network()
    assert output_dtypes(network, name) == expected
    assert output_dtypes(network, "fp32") == [FP32] * 3  # nothing of it is left afterwards


def test_a_depthwise_convolution_in_mixed_formats_is_torchs_own_in_fp32_with_its_gradients():
    torch.manual_seed(0)
    convolution, images = nn.Conv2d(8, 8, 3, groups=8), torch.randn(2, 8, 7, 7)
    results = []
    for name in ("bf16_depthwise_fp32", "fp32"):
        images.grad = None
        images.requires_grad_()
        convolution.zero_grad()
        with autocast("cpu", name):
            output = convolution(images)
        output.square().sum().backward()
        results.append([output.detach(), images.grad, convolution.weight.grad, convolution.bias.grad])
    for bf16_depthwise_fp32, fp32 in zip(*results, strict=True):
        assert torch.equal(bf16_depthwise_fp32, fp32)


def test_groups_are_seen_however_the_convolution_is_called():
    images, kernels = torch.rand(1, 4, 5, 5).bfloat16(), torch.rand(4, 1, 3, 3)
    with torch.autocast("cpu", BF16), DepthwiseInFp32():
        assert F.conv2d(images, kernels, None, 1, 0, 1, 4).dtype == FP32
        assert F.conv2d(images, weight=kernels, groups=4).dtype == FP32
        assert F.conv2d(images, torch.rand(4, 4, 3, 3)).dtype == BF16


def test_the_gradients_of_a_network_in_mixed_formats_point_where_those_in_fp32_do():
    network, images, gradients = depthwise_network(), torch.rand(8, 3, 9, 9), []
    for name in ("bf16_depthwise_fp32", "fp32"):
        network.zero_grad()
        with autocast("cpu", name):
            loss = network(images).float().square().mean()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert all(gradient.dtype == FP32 for gradient in gradients)
    assert F.cosine_similarity(*gradients, dim=0) > 0.9999
    assert not torch.equal(*gradients)  # or the others would not have computed in bf16


def test_a_copy_of_a_network_that_trained_in_mixed_formats_is_the_network():
    network, images = depthwise_network(), torch.rand(2, 3, 8, 8)
    with autocast("cpu", "bf16_depthwise_fp32"):
        twin = copy.deepcopy(network)
        network(images)
    assert torch.equal(twin(images), network(images))


DEMO_CHOICES = {"cnn_b": "bf16", "cnn_e": "bf16", "lstm": "bf16", "mlp_a": "fp32", "tf_efficientnet_lite0": "fp32",
                "cnn_d": "fp32"}  # as measured on a processor with bf16


@pytest.mark.parametrize("network, expected", DEMO_CHOICES.items())
def test_a_processor_gets_the_format_that_was_measured(monkeypatch, network, expected):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert choose_precision(network, build_model(network, 1, 64, 3), 64, "cpu") == expected


def test_small_images_train_in_fp32_on_a_processor_and_in_bf16_on_a_gpu(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    model = build_model("test_resnet", 1, 32, 3)
    assert [choose_precision("test_resnet", model, size, "cpu") for size in (32, 63, 64)] == ["fp32", "fp32", "bf16"]
    assert choose_precision("test_resnet", model, 32, "cuda") == "bf16"


def test_depthwise_networks_train_in_bf16_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    choices = [choose_precision("any", depthwise_network(), 224, device) for device in ("cpu", "cuda")]
    assert choices == ["fp32", "bf16"]


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_hardware_without_bf16_trains_in_fp32(monkeypatch, device):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert choose_precision("cnn_e", build_model("cnn_e", 1, 64, 3), 64, device) == "fp32"
