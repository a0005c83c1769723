"""Which part of a network learns: the rest keeps its weights and its batch statistics, and drops nothing."""

import re

from torch import nn

from models.architectures import Network
from models.classifier import head_modules, weight_layers


def set_trainable(model: nn.Module, what: str) -> None:
    """Lets a part of the network learn and freezes the rest.

    what: "all"; "head", what stands behind the backbone; "last8", the head and the backbone's last 8 layers with
    weights. Raises ValueError where the network has fewer layers than that, or no head of its own.
    """
    everything = what == "all"
    model.requires_grad_(everything)
    if everything:
        return
    heads = head_modules(model)
    if not heads:
        raise ValueError(f"stages={what}: this network has no head that could learn by itself; use all")
    for head in heads:
        head.requires_grad_(True)
    if match := re.fullmatch(r"last(\d+)", what):
        count = int(match[1])
        in_heads = {id(parameter) for head in heads for parameter in head.parameters()}
        layers = [layer for layer in weight_layers(model) if not any(id(each) in in_heads for each in layer)]
        if not 0 < count <= len(layers):
            raise ValueError(f"stages={what}: this network's backbone has {len(layers)} layers with weights")
        for layer in layers[-count:]:
            for parameter in layer:
                parameter.requires_grad_(True)


def rest_frozen(model: nn.Module) -> None:
    """Puts parts without any weight that learns in evaluation mode; to be called after every model.train().

    Or a frozen backbone's batch norm would go on following the batches, and its dropout go on dropping.
    """
    frozen = False  # whether the last layer with weights was
    for child in model.children():
        if weights := list(child.parameters()):
            frozen = not any(parameter.requires_grad for parameter in weights)
        if frozen and (weights or isinstance(model, Network)):  # ours are rows of layers, so a dropout's place is known
            child.eval()
        else:
            rest_frozen(child)
