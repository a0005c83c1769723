"""Images as they are stored to logits: any network of ours or of timm, with the normalisation its weights expect."""

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

OURS = ChainMap(FROM_SCRATCH, NETWORKS)  # networks that are written here, without a part of timm's
# X-rays after /255 lie around these, near enough for networks trained from scratch
SCRATCH_MEAN, SCRATCH_STD = (0.5,), (0.25,)


class Classifier(nn.Module):
    """uint8 or float images (B, C, S, S), 0 to 255, to raw logits (B, K).

    The normalisation is part of the model, so training, prediction and explanation cannot differ in it. mean, std: for
    images in [0, 1], a number a channel; a grey image stands for three equal channels and gets the mean of three.
    """

    def __init__(self, network: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...],
                 cam_layers: dict[str, str]):
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):  # part of the saved weights, so always (C, 1, 1)
            of_grey = torch.full((channels,), sum(values) / len(values))
            values = torch.tensor(values) if len(values) == channels else of_grey
            self.register_buffer(name, 255 * values.reshape(-1, 1, 1))
        self.cam_layers = cam_layers  # names, since a second reference would stand in the state_dict a second time
        self.left_out: list[str] = []  # tensors of a file's head that did not fit and were not loaded

    def cam_layer(self, kind: str = "coarse") -> nn.Module | None:
        """The layer that a class activation map reads, of a kind of cam_layers.KINDS; None if no layer has a map."""
        return self.network.get_submodule(self.cam_layers[kind]) if self.cam_layers else None

    def normalise(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images).contiguous(memory_format=torch.channels_last))

    def clip_units(self) -> list[nn.Module]:
        """The parts whose gradients are clipped each by itself."""
        return [self]


class PerTask(nn.Module):
    """One classifier a label, trained side by side and sharing nothing: logits (B, K)."""

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
    """An experiment's model: `network` is a key of OURS or LAYOUTS or any timm name; weights none, imagenet or a file.

    The normalisation is what the weights were trained with: a run of ours writes it into its file, and any other file
    of a timm network's weights is taken to need what timm knows for that network's published ones. The last layer
    starts at zero, or as a file has it for as many outputs; else `left_out` names what of the file was not loaded.
    "run:NAME" is as "none" here: see checkpoints.start_from_run.
    Raises ValueError where there is no such network or a file does not fit, FileNotFoundError where there is none.
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
    """Raises ValueError where there is no such network, FileNotFoundError where its weights cannot be found."""
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
    """The networks of timm in a network, () where it is all ours."""
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
    """The model with what stands in a file of its own tensors; as it is where `weights` names none."""
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
    if left_out or not is_file(weights) and weights != "none":  # ImageNet's thousand classes are nobody's labels
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
    """A network of timm, its first layer adapted to the channels, and what of the weights' file was left out."""
    import timm

    options["in_chans"] = channels
    if getattr(timm.get_pretrained_cfg(network), "fixed_input_size", False):  # position embeddings made for one size
        options["img_size"] = image_size
    if (path := find_weights(network, weights)) is None:
        return timm.create_model(network, **options), []
    return create_pretrained(network, path, options)


def _create_backbone(network: str, channels: int, image_size: int, weights: str) -> nn.Module:
    """A network of timm without its classifier.

    The two layers of 4,096 that timm's VGGs have before theirs go too; 120 million parameters are not drawn in vain.
    """
    from timm.models.vgg import VGG

    narrow = {"mlp_ratio": 1 / 4096} if network.startswith("vgg") and weights == "none" else {}
    built, _ = _create_timm(network, channels, image_size, weights, num_classes=0, **narrow)
    if isinstance(built, VGG):
        built.pre_logits, built.head_hidden_size = nn.Identity(), built.num_features
    return built


def _normalisation(built: nn.Module, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that the weights expect of images in [0, 1]."""
    if weights == "none" or weights.startswith("run:"):  # a run brings its own along
        return SCRATCH_MEAN, SCRATCH_STD
    return tuple(built.pretrained_cfg["mean"]), tuple(built.pretrained_cfg["std"])


def head_modules(model: Classifier | PerTask) -> list[nn.Module]:
    """What stands behind the backbone: a head of ours, timm's classifier, or the last layer of the networks from 003.

    Of every classifier where there is one a label.
    """
    if isinstance(model, PerTask):
        return [head for classifier in model.classifiers for head in head_modules(classifier)]
    if isinstance(model.network, Headed):
        return [model.network.head]
    if isinstance(model.network, Network):
        return [list(model.network.modules())[-1]]
    heads = model.network.get_classifier()  # of distilled networks two
    return list(heads) if isinstance(heads, tuple) else [heads]


def head_names(model: Classifier | PerTask) -> list[str]:
    """The names of those in the whole model."""
    heads = head_modules(model)
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def weight_layers(model: Classifier | PerTask) -> list[list[nn.Parameter]]:
    """All parameters, a list a layer with a matrix or kernel, from the image to the head.

    A layer's bias is with it, and so is the norm that follows. Networks side by side, of labels or of one `Headed`, are
    counted from their ends: what is equally far from the head is one layer.
    """
    if isinstance(model, PerTask):
        return _abreast([weight_layers(classifier) for classifier in model.classifiers])
    if isinstance(model.network, Headed):
        return [*_layers_of(model.network.front), *_abreast([_layers_of(each) for each in model.network.backbones]),
                *_layers_of(model.network.head)]
    return _layers_of(model.network)


def _layers_of(network: nn.Module) -> list[list[nn.Parameter]]:
    layers, early = [], []  # early: class tokens, position embeddings and norms that stand before the first matrix
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


def _abreast(sides: list[list[list[nn.Parameter]]]) -> list[list[nn.Parameter]]:
    """The layers of several networks as those of one, aligned at their ends."""
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
    """Starts the last layer at zero, so that the first predictions are even.

    Drawn at random it is so large that the first loss is 1 to 6 where 0.7 is chance, and the first epochs go into
    shrinking it; behind pretrained features it tears them about meanwhile.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training can change."""
    return sum(parameter.numel() for parameter in model.parameters())
