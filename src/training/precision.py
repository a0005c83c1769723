"""The number format of training steps: the context that computes in it, and the choice by device and network."""

from contextlib import AbstractContextManager

import torch
from torch import nn

from common.hardware import has_bf16

# Steps of these take less than 1.3 times as long in fp32 as in bf16: the gain is not worth the rounding.
FP32_NETWORKS = {"cpu": ("cnn_d", "mlp_a", "mlp_b", "pixels"), "cuda": ("mlp_a", "mlp_b", "pixels")}
LEAST_BF16_SIZE = 64  # pixels; on a processor, smaller images train more slowly in bf16 (resnet18 at 32: 0.4 of fp32)


def choose_precision(network: str, model: nn.Module, image_size: int, device: str) -> str:
    """The number format of a network's training steps on a device: "fp32" or "bf16".

    network: its name in an experiment;  model: the network;  image_size: pixels a side;  device: "cpu", "cuda", "mps".
    It depends on nothing else, so that the same recipe gets the same weights on the same kind of machine: fp32 where
    the device has no fast bf16, for small networks, and on a processor for depthwise convolutions, which bf16 halves
    the speed of, and for small images.

    The choice for processors rests on two measurements of the time of a step in fp32 over that in bf16, on different
    processors with AVX512-BF16. Networks of ours, torch 2.13: cnn_a 2.2, cnn_b 1.5, cnn_e 1.9, lstm 1.5, cnn_d 1.1 to
    1.3, mlp_a 1.0. timm's at 128 pixels, torch 2.15: resnet18 1.5, densenet121 1.3, tf_efficientnet_lite0 0.6. Other
    networks, mlp_b and pixels among them, and all networks on GPUs are not measured.
    """
    if not has_bf16(device) or network in FP32_NETWORKS[device]:
        return "fp32"
    slow = device == "cpu" and (image_size < LEAST_BF16_SIZE or any(
        isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules()))
    return "fp32" if slow else "bf16"


def autocast(device: str, precision: str) -> AbstractContextManager:
    """The context in which a training step computes: precision is "fp32" or "bf16"."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
