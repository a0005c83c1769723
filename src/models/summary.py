"""A network's layers from the image to the logits, with shapes, parameters and FLOPs.

Everything is computed on torch's meta device, so that the largest network needs neither memory nor weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import Network
from models.classifier import Classifier, backbones_of, build_model, count_parameters
from models.reference_networks import Headed

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Stage:
    """A layer or block, with the norms, activations and dropout that follow it and keep the shape."""

    name: str
    description: str         # "Conv2d 3x3, stride 2 · BatchNorm2d · ReLU"
    shape: tuple[int, ...]   # of the output for one image
    parameters: int


@dataclass(frozen=True)
class Summary:
    """A network on one image. `rows` are stages in order; a row of several holds networks that run side by side."""

    channels: int
    image_size: int
    rows: tuple[tuple[Stage, ...], ...]
    parameters: int
    flops: int  # of one image's forward pass, two per multiply-add; norms, activations and pooling are not counted


def summarize(network: str, channels: int, image_size: int, outputs: int, head: str = "linear",
              dropout: float = 0.0) -> Summary:
    """The summary of an experiment's network. Raises ValueError if there is no such network.

    Example: summarize("cnn_e", 1, 64, 3).rows[0][0].shape is (32, 64, 64).
    """
    with torch.device("meta"):
        model = build_model(network, channels, image_size, outputs, dropout, head=head).eval()
        image = torch.empty(1, channels, image_size, image_size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        rows = _rows_of(model, image, backbones_of(network))
    return Summary(channels, image_size, rows, count_parameters(model), counter.get_total_flops())


def _rows_of(model: Classifier, image: Tensor, names: tuple[str, ...]) -> tuple[tuple[Stage, ...], ...]:
    network = model.network
    if not isinstance(network, Headed) or len(network.backbones) == 1:
        return tuple((stage,) for stage in _stages_of(network, model, image))
    features = network.features(model.normalise(image))
    backbones = tuple(Stage(name, "whole last map" if flat else "mean of the last map", tuple(each.shape[1:]),
                            count_parameters(backbone))
                      for name, backbone, flat, each in zip(names, network.backbones, network.flat, features,
                                                            strict=True))
    joined = torch.cat(features, dim=1)
    return (backbones, (Stage("concatenate", "", tuple(joined.shape[1:]), 0),),
            *((stage,) for stage in _stages_of(network.head, network.head, joined)))


def _stages_of(network: nn.Module, model: nn.Module, image: Tensor) -> list[Stage]:
    """The stages of a part of a model, in the order in which they are called."""
    parts, shapes = dict(_parts_of(network)), {}

    def note(name: str, output: Tensor) -> None:  # a hook that returned a value would replace the output
        shapes.setdefault(name, tuple(output.shape[1:]))

    hooks = [part.register_forward_hook(lambda _, __, output, name=name: note(name, output))
             for name, part in parts.items()]
    model(image)
    for hook in hooks:
        hook.remove()
    stages, before = [], tuple(image.shape[1:])
    for name, shape in shapes.items():
        part, parameters = parts[name], count_parameters(parts[name])
        if isinstance(part, nn.Identity) or isinstance(part, nn.Dropout) and part.p == 0:
            continue
        is_pointwise = shape == before and not hasattr(part, "kernel_size") and (
            isinstance(part, NORMS) or not list(part.parameters()))
        if is_pointwise and stages:
            last = stages[-1]
            stages[-1] = replace(last, description=f"{last.description} · {_describe(part)}",
                                 parameters=last.parameters + parameters)
        else:
            stages.append(Stage(name.removeprefix("backbones.0."), _describe(part), shape, parameters))
        before = shape
    return stages


def _parts_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules by name: lists of layers are opened, blocks and stacks of equal blocks are not."""
    for name, child in module.named_children():
        is_list = type(child) in (nn.ModuleList, nn.Sequential, Network) and not _is_stack(child)
        if prefix == "backbones." or (is_list and len(child)):
            yield from _parts_of(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _is_stack(child: nn.Sequential | nn.ModuleList) -> bool:
    kinds = {type(each) for each in child}
    return type(child) is nn.Sequential and len(kinds) == 1 and nn.Sequential not in kinds and any(
        list(each.children()) for each in child)


def _describe(part: nn.Module) -> str:
    """The class of a module with its kernel and stride, or the number of its equal blocks."""
    blocks = list(part.children())
    if type(part) is nn.Sequential and len({type(each) for each in blocks}) == 1:
        return f"{len(blocks)} x {type(blocks[0]).__name__}"
    kernel, stride = (_side(getattr(part, name, 0)) for name in ("kernel_size", "stride"))
    return (type(part).__name__ + (f" {kernel}x{kernel}" if kernel else "")
            + (f", stride {stride}" if stride > 1 and stride != kernel else ""))


def _side(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value
