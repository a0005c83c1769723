"""Optimizers by name, with weight decay where it belongs and a learning rate that can fall from layer to layer."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from model import weight_layers

MOMENTUM = 0.9


def build_optimizer(model: nn.Module, kind: str, lr: float, weight_decay: float, lr_decay: float = 1.0) -> Optimizer:
    """An optimizer of what learns in the model: "adamw", "adam" (there decay is part of the gradient) or "sgd".

    lr: of the last layer; a layer nearer to the image has `lr_decay` times the rate of the one behind it (Howard &
    Ruder 2018, sec. 3.2, https://arxiv.org/abs/1801.06146). weight_decay: of matrices and kernels.
    """
    groups = weight_groups(model, weight_decay) if lr_decay == 1 else _by_layer(model, lr, weight_decay, lr_decay)
    groups = [group for group in groups if group["params"]]
    if kind == "sgd":
        return SGD(groups, lr, momentum=MOMENTUM, fused=True)
    return (AdamW if kind == "adamw" else Adam)(groups, lr, fused=True)


def weight_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimizer groups: matrices and kernels decay, biases and norms (one dimension or none) do not."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _decay_apart(learning, weight_decay)


def _by_layer(model: nn.Module, lr: float, weight_decay: float, lr_decay: float) -> list[dict]:
    layers = weight_layers(model)
    depth_of = {id(parameter): depth for depth, layer in enumerate(layers) for parameter in layer}
    by_depth = [[] for _ in layers]
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_depth[depth_of.get(id(parameter), 0)].append(parameter)  # position embeddings go with the first layer
    return [{**group, "lr": lr * lr_decay ** (len(layers) - 1 - depth)}
            for depth, parameters in enumerate(by_depth) for group in _decay_apart(parameters, weight_decay)]


def _decay_apart(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [{"params": [each for each in parameters if each.ndim >= 2], "weight_decay": weight_decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0}]
