"""The number format of training steps: the context that computes in it, and the choice by device and network."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
    Measured: training steps on an AMD EPYC with AVX512-BF16, torch 2.13. By the time of fp32 over that of bf16:
    cnn_a 2.2, cnn_b 1.5, cnn_e 1.9, lstm 1.5, resnet18 1.6 and densenet121 1.3 at 128 pixels; cnn_d 1.1 to 1.3,
    mlp_a 1.0, tf_efficientnet_lite0 0.5.
    """
    if not has_bf16(device) or network in FP32_NETWORKS[device]:
        return "fp32"
    slow = device == "cpu" and (image_size < LEAST_BF16_SIZE or any(
        isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules()))
    return "fp32" if slow else "bf16"


class DepthwiseInFp32(TorchFunctionMode):
    """Inside bf16 autocast: convolutions with groups compute in float32, whichever layer calls them.

    Processors' bf16 kernels for depthwise convolutions run at half the speed of the fp32 ones, while the convolutions
    between them gain from bf16. The network itself is not changed, so its copies and its saved weights are as ever.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
        if func is not F.conv2d or groups == 1:
            return func(*args, **kwargs)
        images, *others = (value.float() if isinstance(value, Tensor) else value for value in args)
        with torch.autocast(images.device.type, enabled=False):
            return func(images, *others, **kwargs)


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """The context in which a training step computes: precision is "fp32", "bf16" or "bf16_depthwise_fp32"."""
    if precision == "fp32":
        yield
        return
    depthwise_fp32 = precision == "bf16_depthwise_fp32"
    with torch.autocast(device, torch.bfloat16), DepthwiseInFp32() if depthwise_fp32 else nullcontext():
        yield
