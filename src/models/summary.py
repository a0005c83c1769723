"""What a network is made of: stages from the image to the logits, with shapes and parameters, and its arithmetic.

Everything is found by sending an image without numbers through a network without numbers, so that the largest network
takes neither memory nor weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import Network
from models.classifier import Classifier, backbones_of, build_model, count_parameters
from models.layers import PooledReLU
from models.reference_networks import Headed

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Stage:
    """A layer or a block, with what follows it without changing the shape: norms, activations, dropout."""

    name: str
    kind: str                # convolution, pool, linear, recurrent, block, other
    what: str                # "3x3, stride 2 · BatchNorm2d · ReLU"
    shape: tuple[int, ...]   # of what it hands on for one image
    parameters: int


@dataclass(frozen=True)
class Anatomy:
    """A network on one image of a size: `stages` in order; where several stand side by side, a row has them all."""

    channels: int
    image_size: int
    outputs: int
    rows: tuple[tuple[Stage, ...], ...]
    parameters: int
    flops: int               # of one image's forward pass, two a multiplication with its addition; norms, activations
    #                          and pools are not counted


def summarize(network: str, channels: int, image_size: int, outputs: int, head: str = "linear",
               dropout: float = 0.0) -> Anatomy:
    """The anatomy of a network of an experiment. Raises ValueError where there is no such network."""
    with torch.device("meta"):
        model = build_model(network, channels, image_size, outputs, dropout, head=head).eval()
        image = torch.empty(1, channels, image_size, image_size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        rows = _rows_of(model, image, backbones_of(network))
    return Anatomy(channels, image_size, outputs, rows, count_parameters(model), counter.get_total_flops())


def _rows_of(model: Classifier, image: Tensor, names: tuple[str, ...]) -> tuple[tuple[Stage, ...], ...]:
    network = model.network
    if not isinstance(network, Headed) or len(network.backbones) == 1:
        return tuple((stage,) for stage in _stages_of(network, model, image))
    features = network.features(model.normalise(image))
    beside = tuple(Stage(name, "block", "the whole last map" if flat else "mean of the last map", tuple(read.shape[1:]),
                         count_parameters(backbone))
                   for name, backbone, flat, read in zip(names, network.backbones, network.flat, features,
                                                         strict=True))
    joined = torch.cat(features, dim=1)
    concatenated = Stage("concatenate", "other", "one after the other", tuple(joined.shape[1:]), 0)
    return (beside, (concatenated,), *((stage,) for stage in _stages_of(network.head, network.head, joined)))


def _stages_of(network: nn.Module, model: nn.Module, image: Tensor) -> list[Stage]:
    """The stages of a part in the order in which `model` calls them on the image."""
    parts, shapes = dict(_parts_of(network)), {}

    def note(name: str, output: Tensor) -> None:  # a hook that returned something would change the output
        shapes.setdefault(name, tuple(output.shape[1:]))

    hooks = [part.register_forward_hook(lambda _, __, output, name=name: note(name, output))
             for name, part in parts.items()]
    model(image)
    for hook in hooks:
        hook.remove()
    stages, before = [], tuple(image.shape[1:])
    for name, shape in shapes.items():
        part = parts[name]
        kind, what = _describe(part)
        adds = kind == "other" and shape == before and (isinstance(part, NORMS) or not list(part.parameters()))
        if isinstance(part, nn.Identity) or (adds and isinstance(part, nn.Dropout) and part.p == 0):
            continue
        if adds and stages:
            last = stages[-1]
            stages[-1] = replace(last, what=f"{last.what} · {what}",
                                 parameters=last.parameters + count_parameters(part))
        else:
            stages.append(Stage(name.removeprefix("backbones.0."), kind, what, shape, count_parameters(part)))
        before = shape
    return stages


def _parts_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Children by name; a plain list of blocks or layers is opened, a block and a stage of equal blocks are not."""
    for name, child in module.named_children():
        opened = type(child) in (nn.ModuleList, nn.Sequential, Network) and not _equal_blocks(child)
        if prefix == "backbones." or (opened and len(child)):
            yield from _parts_of(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _equal_blocks(child: nn.Sequential | nn.ModuleList) -> bool:
    kinds = {type(each) for each in child}
    return type(child) is nn.Sequential and len(kinds) == 1 and nn.Sequential not in kinds and any(
        list(each.children()) for each in child)


def _describe(part: nn.Module) -> tuple[str, str]:
    """Its kind, and what it does in a few words."""
    if isinstance(part, nn.Conv2d):
        stride = f", stride {part.stride[0]}" if part.stride[0] > 1 else ""
        return "convolution", f"convolution {part.kernel_size[0]}x{part.kernel_size[1]}{stride}"
    if isinstance(part, nn.MaxPool2d):
        rectified = " · ReLU" if isinstance(part, PooledReLU) else ""
        stride = f", stride {part.stride}" if part.stride != part.kernel_size else ""
        return "pool", f"maximum of {part.kernel_size}x{part.kernel_size}{stride}{rectified}"
    if isinstance(part, nn.AvgPool2d):
        return "pool", f"mean of {part.kernel_size}x{part.kernel_size}"
    if isinstance(part, nn.AdaptiveMaxPool2d):
        return "pool", "maximum of all"
    if isinstance(part, nn.AdaptiveAvgPool2d) or type(part).__name__ == "SelectAdaptivePool2d":
        return "pool", "mean of all"
    if isinstance(part, nn.Linear):
        return "linear", f"linear, {part.in_features:,} in"
    if isinstance(part, nn.LSTM):
        return "recurrent", f"{part.num_layers} LSTM layers, {part.hidden_size} cells each"
    if isinstance(part, nn.Dropout):
        return "other", f"dropout {part.p:g}"
    blocks = list(part.children())
    if blocks and not isinstance(part, NORMS):
        same = len({type(each) for each in blocks}) == 1
        return "block", f"{len(blocks)} x {type(blocks[0]).__name__}" if same else type(part).__name__
    return "other", type(part).__name__
