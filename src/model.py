"""Images as they are stored to logits: any network of ours or of timm, with the normalisation its weights expect."""

import difflib

import torch
from torch import Tensor, nn

from architectures import NETWORKS
from hardware import has_bf16, import_torchvision
from weights import adapt_channels, create_pretrained, find_weights, is_file, load_fitting, read_network_state

# X-rays after /255 lie around these, near enough for networks trained from scratch
SCRATCH_MEAN, SCRATCH_STD = (0.5,), (0.25,)
LEAST_CAM_SIDE = 7  # cells: what networks made for 224 pixels end in


class Classifier(nn.Module):
    """uint8 or float images (B, C, S, S), 0 to 255, to raw logits (B, K).

    The normalisation is part of the model, so training, prediction and explanation cannot differ in it. mean, std: for
    images in [0, 1], a number a channel; a grey image stands for three equal channels and gets the mean of three.
    """

    def __init__(self, network: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...],
                 cam_layer: nn.Module | None):
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):  # part of the saved weights, so always (C, 1, 1)
            of_grey = torch.full((channels,), sum(values) / len(values))
            values = torch.tensor(values) if len(values) == channels else of_grey
            self.register_buffer(name, 255 * values.reshape(-1, 1, 1))
        self.cam_name = next((name for name, module in self.named_modules() if module is cam_layer), None)
        self.left_out: list[str] = []  # tensors of a file's head that did not fit and were not loaded

    @property
    def cam_layer(self) -> nn.Module | None:
        """The layer whose output Grad-CAM weighs; None where the network has no convolution or tokens."""
        return None if self.cam_name is None else self.get_submodule(self.cam_name)

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
                per_task: bool = False) -> Classifier | PerTask:
    """The model of an experiment: `network` is a key of NETWORKS or any timm name; weights none, imagenet or a file.

    The normalisation is what the weights were trained with: a run of ours writes it into its file, and any other file
    of a timm network's weights is taken to need what timm knows for that network's published ones. The last layer
    starts at zero, or as a file has it for as many outputs; else `left_out` names what of the file was not loaded.
    "run:NAME" is as "none" here: see checkpoints.start_from_run.
    Raises ValueError where there is no such network or a file does not fit, FileNotFoundError where there is none.
    """
    if per_task:
        return PerTask([build_model(network, channels, image_size, 1, dropout, weights) for _ in range(outputs)])
    check_network(network, weights)
    if network in NETWORKS:
        built = NETWORKS[network](channels, image_size, outputs)
        _zero(list(built.modules())[-1])
        return _load_ours(built, channels, weights)
    return _build_timm(network, channels, image_size, outputs, dropout, weights)


def _load_ours(built: nn.Module, channels: int, weights: str) -> Classifier:
    if (path := find_weights("", weights)) is None:
        return Classifier(built, channels, SCRATCH_MEAN, SCRATCH_STD, built.cam_layer)
    state, normalisation = read_network_state(path)
    mean, std = normalisation or (SCRATCH_MEAN, SCRATCH_STD)
    model = Classifier(built, channels, mean, std, built.cam_layer)
    heads = [name.removeprefix("network.") for name in head_names(model)]
    model.left_out = load_fitting(built, adapt_channels(state, built), heads, path)
    return model


def check_network(network: str, weights: str) -> None:
    """Raises ValueError where there is no such network, FileNotFoundError where its weights cannot be found."""
    if network in NETWORKS:
        if weights == "imagenet":
            raise ValueError(f"network {network!r} is ours and has no {weights} weights; set weights=none, a file or "
                             "run:NAME")
        find_weights(network, weights)
        return
    import_torchvision()
    import timm

    if not timm.is_model(network):
        near = difflib.get_close_matches(network, [*NETWORKS, *timm.list_models()], n=3)
        raise ValueError(f"no network {network!r}; ours are {', '.join(NETWORKS)}, and any name timm knows"
                         + (f"; near are {', '.join(near)}" if near else ""))
    find_weights(network, weights)


def _build_timm(network: str, channels: int, image_size: int, outputs: int, dropout: float, weights: str) -> Classifier:
    import timm

    options = {"num_classes": outputs, "in_chans": channels, "drop_rate": dropout}
    if getattr(timm.get_pretrained_cfg(network), "fixed_input_size", False):  # position embeddings made for one size
        options["img_size"] = image_size
    if (path := find_weights(network, weights)) is None:
        built = timm.create_model(network, **options)
        if weights != "none":  # run:NAME
            _zero_timm_head(built)
        return Classifier(built, channels, SCRATCH_MEAN, SCRATCH_STD, timm_cam_layer(built, image_size))
    built, left_out = create_pretrained(network, path, options)
    if left_out or weights == "imagenet":  # ImageNet's thousand classes are nobody's labels
        _zero_timm_head(built)
    normalisation = built.pretrained_cfg
    model = Classifier(built, channels, normalisation["mean"], normalisation["std"], timm_cam_layer(built, image_size))
    model.left_out = left_out if is_file(weights) else []
    return model


def head_modules(network: nn.Module) -> list[nn.Module]:
    """The layers that give a network's logits: one, or two of a distilled network."""
    if not hasattr(network, "get_classifier"):  # ours end in their head
        return [list(network.modules())[-1]]
    heads = network.get_classifier()
    return list(heads) if isinstance(heads, tuple) else [heads]


def head_names(model: Classifier | PerTask) -> list[str]:
    """The names of those layers in the whole model."""
    classifiers = model.classifiers if isinstance(model, PerTask) else [model]
    heads = [head for classifier in classifiers for head in head_modules(classifier.network)]
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def _zero_timm_head(built: nn.Module) -> None:
    for head in head_modules(built):
        for module in head.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                _zero(module)


def _zero(head: nn.Linear | nn.Conv2d) -> None:
    """Starts the last layer at zero, so that the first predictions are even.

    Drawn at random it is so large that the first loss is 1 to 6 where 0.7 is chance, and the first epochs go into
    shrinking it; behind pretrained features it tears them about meanwhile.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def timm_cam_layer(built: nn.Module, image_size: int) -> nn.Module | None:
    """The layer for Grad-CAM by family: tokens of the last block for ViTs, else the last map with room to point.

    That is the deepest stage of LEAST_CAM_SIDE cells a side, or of as many as the network has: at 64 pixels most
    networks end in 2x2 cells, which can say no more than "top left".
    """
    if hasattr(built, "blocks") and hasattr(built, "cls_token"):
        # ViT: the last block after this norm only reads tokens
        return built.blocks[-1].norm1
    modules, info = dict(built.named_modules()), getattr(built, "feature_info", None) or []
    stages = info if isinstance(info, list) else info.info  # from the first to the last
    sides = {stage["module"]: image_size // stage["reduction"] for stage in stages if stage["module"] in modules}
    if not sides:
        return None
    least = min(LEAST_CAM_SIDE, max(sides.values()))
    return modules[[name for name, side in sides.items() if side >= least][-1]]


def resolve_precision(model: nn.Module, precision: str, device: str) -> str:
    """"bf16" or "fp32" for training steps.

    "auto" is bf16 where the device multiplies it faster, but fp32 on a processor for networks with depthwise
    convolutions, whose bf16 kernels there run at half the speed of the fp32 ones.
    """
    if precision != "auto":
        return precision
    depthwise = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())
    return "bf16" if has_bf16(device) and not (device == "cpu" and depthwise) else "fp32"


def weight_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimizer groups: matrices and kernels decay, biases and norms (one dimension or none) do not."""
    decayed = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def count_parameters(model: nn.Module) -> int:
    """Numbers that training can change."""
    return sum(parameter.numel() for parameter in model.parameters())
