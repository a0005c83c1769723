"""Optimizers by name, with weight decay where it belongs and a learning rate that can fall from layer to layer."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from models.classifier import weight_layers

MOMENTUM = 0.9


def build_optimizer(model: nn.Module, kind: str, lr: float, weight_decay: float, layer_decay: float = 1.0) -> Optimizer:
    """An optimizer of what learns in the model: "adamw", "adam" (there decay is part of the gradient) or "sgd".

    lr: of the last layer; a layer nearer to the image has `layer_decay` times the rate of the one behind it (Howard &
    Ruder 2018, sec. 3.2, https://arxiv.org/abs/1801.06146). weight_decay: of matrices and kernels.
    """
    groups = weight_groups(model, weight_decay) if layer_decay == 1 else _by_layer(model, lr, weight_decay, layer_decay)
    groups = [group for group in groups if group["params"]]
    if kind == "sgd":
        return SGD(groups, lr, momentum=MOMENTUM, fused=True)
    return (AdamWAsItLies if kind == "adamw" else AdamAsItLies)(groups, lr, fused=True)


class _AsItLies:
    """Adam's fused step on views of the kernels that are as they lie in memory, channels last.

    On a CPU that step copies whatever is not contiguous, each time: a twentieth of a training step of cnn_e, a sixth of
    one of VGG-16. Views cost nothing, and Adam goes number by number, so that the same bits come out.
    Should torch no longer call this method, its own step goes on as ever.
    """

    def _init_group(self, group: dict, weights: list[Tensor], *others) -> bool:
        told = super()._init_group(group, weights, *others)
        alike = [each for each in (weights, *others) if isinstance(each, list) and len(each) == len(weights)]
        for place, weight in enumerate(weights):
            if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
                for each in alike:
                    if each[place].ndim == 4:  # the count of steps is a number
                        each[place] = each[place].permute(0, 2, 3, 1)
        return told


class AdamAsItLies(_AsItLies, Adam):
    """torch's Adam, faster where a network is channels last."""


class AdamWAsItLies(_AsItLies, AdamW):
    """torch's AdamW, faster where a network is channels last."""


def weight_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimizer groups: matrices and kernels decay, biases and norms (one dimension or none) do not."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _decay_apart(learning, weight_decay)


def _by_layer(model: nn.Module, lr: float, weight_decay: float, layer_decay: float) -> list[dict]:
    layers = weight_layers(model)
    depth_of = {id(parameter): depth for depth, layer in enumerate(layers) for parameter in layer}
    by_depth = [[] for _ in layers]
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_depth[depth_of.get(id(parameter), 0)].append(parameter)  # position embeddings go with the first layer
    return [{**group, "lr": lr * layer_decay ** (len(layers) - 1 - depth)}
            for depth, parameters in enumerate(by_depth) for group in _decay_apart(parameters, weight_decay)]


def _decay_apart(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [{"params": [each for each in parameters if each.ndim >= 2], "weight_decay": weight_decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0}]
