"""Number formats of training steps: the context that computes in one, and the choice by device and network."""

import pytest
import torch
from torch import nn

from models.classifier import build_model
from training import precision
from training.precision import autocast, choose_precision

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


@pytest.mark.parametrize("name, expected", [("fp32", FP32), ("bf16", BF16)])
def test_convolutions_compute_in_the_format(name, expected):
    network = depthwise_network()
    assert output_dtypes(network, name) == [expected] * 3
    assert output_dtypes(network, "fp32") == [FP32] * 3  # the context ends


DEMO_CHOICES = {"cnn_b": "bf16", "cnn_e": "bf16", "lstm": "bf16", "mlp_a": "fp32", "tf_efficientnet_lite0": "fp32",
                "cnn_d": "fp32"}  # as measured on a processor with bf16


@pytest.mark.parametrize("network, expected", DEMO_CHOICES.items())
def test_a_processor_gets_the_format_that_was_measured(monkeypatch, network, expected):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert choose_precision(network, build_model(network, 1, 64, 3), 64, "cpu") == expected


def test_small_images_train_in_fp32_on_processors_alone(monkeypatch):
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
