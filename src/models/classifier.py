"""Any network of this project or of timm, with the normalisation that its weights expect: uint8 images to logits."""

import difflib
from collections import ChainMap

import torch
from torch import Tensor, nn

from common.hardware import import_torchvision
from models.architectures import NETWORKS, Network
from models.cam_layers import find_cam_layers
from models.pretrained import (
    adapt_channels,
    create_pretrained,
    find_imagenet_weights,
    find_weights,
    is_file,
    load_fitting,
    read_network_state,
)
from models.reference_networks import FROM_SCRATCH, LAYOUTS, Headed, Layout, make_front, make_head

OURS = ChainMap(FROM_SCRATCH, NETWORKS)  # networks of this project, without a part of timm's
# roughly the mean and deviation of X-rays after /255; enough for networks trained from scratch
SCRATCH_MEAN, SCRATCH_STD = (0.5,), (0.25,)


class Classifier(nn.Module):
    """uint8 or float images (B, C, S, S), 0 to 255, to raw logits (B, K).

    The normalisation is part of the model, so that training, prediction and explanation cannot differ in it. mean, std:
    for images in [0, 1], one number per channel; for grey images the numbers of three channels are averaged.
    """

    def __init__(self, network: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...],
                 cam_layers: dict[str, str]):
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):  # part of the saved weights, so always (C, 1, 1)
            of_grey = torch.full((channels,), sum(values) / len(values))
            values = torch.tensor(values) if len(values) == channels else of_grey
            self.register_buffer(name, 255 * values.reshape(-1, 1, 1))
        self.cam_layers = cam_layers  # names, because a second reference to a module would be in the state_dict too
        self.left_out: list[str] = []  # tensors of a file's head that did not fit and were not loaded

    def cam_layer(self, kind: str = "coarse") -> nn.Module | None:
        """The layer that a class activation map reads, of a kind of cam_layers.KINDS; None if no layer has a map."""
        return self.network.get_submodule(self.cam_layers[kind]) if self.cam_layers else None

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S), 0 to 255, as the network expects them."""
        return (images.float() - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images).contiguous(memory_format=torch.channels_last))

    def clip_units(self) -> list[nn.Module]:
        """The modules whose gradients are clipped separately."""
        return [self]


class PerTask(nn.Module):
    """One classifier per label, without shared weights: images (B, C, S, S) to logits (B, K)."""

    def __init__(self, classifiers: list[Classifier]):
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)
        self.left_out = classifiers[0].left_out  # the same in all

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([classifier(images) for classifier in self.classifiers], dim=1)

    def clip_units(self) -> list[nn.Module]:
        return list(self.classifiers)


def build_model(network: str, channels: int, image_size: int, outputs: int, dropout: float = 0.0, weights: str = "none",
                per_task: bool = False, head: str = "linear") -> Classifier | PerTask:
    """The model of an experiment.

    network: a key of OURS or LAYOUTS, or any timm name;  outputs: K;  dropout: before the last layer;  weights: "none",
    "imagenet" or a file ("run:NAME" is treated as "none", see checkpoints.start_from_run);  per_task: one network per
    label;  head: for timm networks, a name in reference_networks.HEADS.
    The normalisation is that of the weights: the files of runs contain it, and for any other file of a timm network it
    is that of timm's published weights. The last layer starts at zero, or as in the file if that has as many outputs;
    otherwise `left_out` names the tensors of the file that were not loaded.
    Raises ValueError if there is no such network or a file does not fit, FileNotFoundError if weights are not found.

    >>> build_model("cnn_e", channels=1, image_size=64, outputs=3)(torch.zeros(2, 1, 64, 64)).shape
    torch.Size([2, 3])
    """
    if per_task:
        return PerTask([build_model(network, channels, image_size, 1, dropout, weights, head=head)
                        for _ in range(outputs)])
    check_network(network, weights, head)
    if network in OURS:
        built = OURS[network](channels, image_size, outputs)
        _zero(list(built.modules())[-1])
        layers = find_cam_layers(built, channels, image_size)
        return _load_ours(Classifier(built, channels, SCRATCH_MEAN, SCRATCH_STD, layers), channels, weights)
    if network in LAYOUTS or head != "linear":
        return _build_headed(LAYOUTS.get(network, Layout((network,))), channels, image_size, outputs, dropout, weights,
                             head)
    return _build_timm(network, channels, image_size, outputs, dropout, weights)


def check_network(network: str, weights: str, head: str = "linear") -> None:
    """Raises ValueError if there is no such network, FileNotFoundError if its weights cannot be found."""
    if network in OURS:
        if weights == "imagenet":
            raise ValueError(f"network {network!r} is ours and has no {weights} weights; set weights=none, a file or "
                             "run:NAME")
        if head != "linear":
            raise ValueError(f"network {network!r} has a head of its own; head={head} is for timm's. Set head=linear")
        find_weights(network, weights)
        return
    import_torchvision()
    import timm

    if network not in LAYOUTS and not timm.is_model(network):
        near = difflib.get_close_matches(network, [*OURS, *LAYOUTS, *timm.list_models()], n=3)
        raise ValueError(f"no network {network!r}; ours are {', '.join([*OURS, *LAYOUTS])}, and any name timm knows"
                         + (f"; near are {', '.join(near)}" if near else ""))
    if weights == "imagenet":
        _check_imagenet_weights(network)
    else:
        find_weights(network, weights)


def backbones_of(network: str) -> tuple[str, ...]:
    """The names of the timm networks in a network; () for a network of this project."""
    return () if network in OURS else LAYOUTS.get(network, Layout((network,))).backbones


def _check_imagenet_weights(network: str) -> None:
    missing = {}
    for backbone in backbones_of(network):
        try:
            find_imagenet_weights(backbone)
        except FileNotFoundError as error:
            missing[backbone] = error
    if missing:
        first = next(iter(missing.values()))
        if network in LAYOUTS:
            raise FileNotFoundError(f"network {network!r} lacks the weights of {', '.join(missing)}. Of the first of "
                                    f"them: {first}") from first
        raise first


def _load_ours(model: Classifier, channels: int, weights: str) -> Classifier:
    """The model with the tensors of a file; unchanged if `weights` is not a file."""
    if not is_file(weights):
        return model
    path = find_weights("", weights)
    state, normalisation = read_network_state(path)
    mean, std = normalisation or (SCRATCH_MEAN, SCRATCH_STD)
    loaded = Classifier(model.network, channels, mean, std, model.cam_layers)
    heads = [name.removeprefix("network.") for name in head_names(loaded)]
    loaded.left_out = load_fitting(loaded.network, adapt_channels(state, loaded.network), heads, path)
    return loaded


def _build_timm(network: str, channels: int, image_size: int, outputs: int, dropout: float, weights: str) -> Classifier:
    built, left_out = _create_timm(network, channels, image_size, weights, num_classes=outputs, drop_rate=dropout)
    if left_out or not is_file(weights) and weights != "none":  # ImageNet's classes are not the labels
        _zero_timm_head(built)
    layers = find_cam_layers(built, channels, image_size)
    model = Classifier(built, channels, *_normalisation(built, weights), layers)
    model.left_out = left_out if is_file(weights) else []
    return model


def _build_headed(layout: Layout, channels: int, image_size: int, outputs: int, dropout: float, weights: str,
                  head: str) -> Classifier:
    front, seen = (make_front(channels), 3) if layout.front else (None, channels)
    whole = is_file(weights) and _is_of_headed(weights)  # a run's file has all backbones and the head
    backbones = [_create_backbone(name, seen, image_size, "none" if whole else weights) for name in layout.backbones]
    flat = [name in layout.flat for name in layout.backbones]
    features = sum(backbone.num_features * (image_size // 32) ** 2 if is_flat else backbone.head_hidden_size
                   for backbone, is_flat in zip(backbones, flat, strict=True))
    built = Headed(backbones, flat, make_head(head, features, outputs, dropout), front)
    _zero(built.head.output)
    normalisations = {_normalisation(backbone, weights) for backbone in backbones}
    if len(normalisations) > 1:
        raise ValueError(f"{', '.join(layout.backbones)} expect images normalised differently: {normalisations}")
    layers = {kind: f"backbones.0.{layer}" for kind, layer in
              find_cam_layers(backbones[0], seen, image_size).items()}
    model = Classifier(built, channels, *normalisations.pop(), layers)
    return _load_ours(model, channels, weights) if whole else model


def _is_of_headed(weights: str) -> bool:
    return any(name.startswith("backbones.") for name in read_network_state(find_weights("", weights))[0])


def _create_timm(network: str, channels: int, image_size: int, weights: str, **options) -> tuple[nn.Module, list[str]]:
    """A timm network, its first layer adapted to the channels, and the tensors of the file that were not loaded."""
    import timm

    options["in_chans"] = channels
    if getattr(timm.get_pretrained_cfg(network), "fixed_input_size", False):  # position embeddings made for one size
        options["img_size"] = image_size
    if (path := find_weights(network, weights)) is None:
        return timm.create_model(network, **options), []
    return create_pretrained(network, path, options)


def _create_backbone(network: str, channels: int, image_size: int, weights: str) -> nn.Module:
    """A timm network without its classifier.

    A VGG is also without the two layers of 4,096 before it, so that their 120 million parameters are not initialised.
    """
    from timm.models.vgg import VGG

    narrow = {"mlp_ratio": 1 / 4096} if network.startswith("vgg") and weights == "none" else {}
    built, _ = _create_timm(network, channels, image_size, weights, num_classes=0, **narrow)
    if isinstance(built, VGG):
        built.pre_logits, built.head_hidden_size = nn.Identity(), built.num_features
    return built


def _normalisation(built: nn.Module, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation, of images in [0, 1], that the weights expect."""
    if weights == "none" or weights.startswith("run:"):  # a run's weights include their own
        return SCRATCH_MEAN, SCRATCH_STD
    return tuple(built.pretrained_cfg["mean"]), tuple(built.pretrained_cfg["std"])


def head_modules(model: Classifier | PerTask) -> list[nn.Module]:
    """The modules after the backbone: the head of a `Headed`, timm's classifier, or the last layer of a `Network`.

    With one network per label, those of all of them.
    """
    if isinstance(model, PerTask):
        return [head for classifier in model.classifiers for head in head_modules(classifier)]
    if isinstance(model.network, Headed):
        return [model.network.head]
    if isinstance(model.network, Network):
        return [list(model.network.modules())[-1]]
    heads = model.network.get_classifier()  # distilled networks have two
    return list(heads) if isinstance(heads, tuple) else [heads]


def head_names(model: Classifier | PerTask) -> list[str]:
    """The names of `head_modules` in the model."""
    heads = head_modules(model)
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def weight_layers(model: Classifier | PerTask) -> list[list[nn.Parameter]]:
    """All parameters, as one list per layer that has a matrix or kernel, from the image to the head.

    A layer includes its bias and the norm that follows. Parallel networks, of labels or of one `Headed`, are aligned at
    their ends: layers at the same distance from the head are one layer.
    """
    if isinstance(model, PerTask):
        return _join_layers([weight_layers(classifier) for classifier in model.classifiers])
    if isinstance(model.network, Headed):
        return [*_layers_of(model.network.front), *_join_layers([_layers_of(each) for each in model.network.backbones]),
                *_layers_of(model.network.head)]
    return _layers_of(model.network)


def _layers_of(network: nn.Module) -> list[list[nn.Parameter]]:
    layers, early = [], []  # early: class tokens, position embeddings and norms before the first matrix
    for module in network.modules():
        own = dict(module.named_parameters(recurse=False))
        if any(name.startswith("weight") and parameter.ndim >= 2 for name, parameter in own.items()):
            layers.append([*early, *own.values()])
            early = []
        elif layers:
            layers[-1] += own.values()
        else:
            early += own.values()
    return layers


def _join_layers(sides: list[list[list[nn.Parameter]]]) -> list[list[nn.Parameter]]:
    """The layers of parallel networks joined, aligned at their ends."""
    longest = max(map(len, sides))
    padded = [[[]] * (longest - len(side)) + side for side in sides]
    return [[parameter for layer in row for parameter in layer] for row in zip(*padded, strict=True)]


def _zero_timm_head(built: nn.Module) -> None:
    heads = built.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        for module in head.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and len(module.weight) == built.num_classes:  # the last one
                _zero(module)


def _zero(head: nn.Linear | nn.Conv2d) -> None:
    """Sets the last layer to zero, so that all first probabilities are equal.

    With random weights the first loss is 1 to 6, where chance is 0.7; the first epochs only shrink them, and their
    gradients damage pretrained features.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def count_parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
