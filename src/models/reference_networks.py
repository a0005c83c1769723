"""Networks of reference systems 000, 001, 002 and 004 that timm lacks: images (B, C, S, S) to logits (B, outputs).

000: CheXpert, including a network of six backbones. 001: VGG-16, ResNet-50 and DenseNet-121 with a hidden layer on
CheXpert-small. 002: a small CNN, DarkNet-19, VGG-19 and Xception for normal, pneumonia and tuberculosis. 004: ResNets
on a Kaggle pneumonia set. Layers and sizes are the references'; their recipes are in experiment.py. Numbers of
parameters are given for the channels and outputs of the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from common.settings import Choice, read_value
from models.architectures import KERAS_BATCH_NORM, Network, require_size


@dataclass(frozen=True)
class Layout:
    """Which timm networks run in parallel, without their classifiers, and how their last maps become features."""

    backbones: tuple[str, ...]
    flat: tuple[str, ...] = ()  # these give the whole last map, the others its mean
    front: bool = False         # True: a convolution to three channels precedes them


class Headed(nn.Module):
    """Parallel timm networks whose concatenated features go to one head: images (B, C, S, S) to logits (B, K)."""

    def __init__(self, backbones: list[nn.Module], flat: list[bool], head: Network, front: nn.Module | None = None):
        super().__init__()
        self.front = front or nn.Identity()
        self.backbones = nn.ModuleList(backbones)
        self.flat = tuple(flat)
        self.head = head

    @property
    def num_prefix_tokens(self) -> int:
        """The number of tokens without a place in the image, in the first backbone, which Grad-CAM reads."""
        return getattr(self.backbones[0], "num_prefix_tokens", 0)

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, D) of each backbone."""
        images, read = self.front(images), []
        for backbone, flat in zip(self.backbones, self.flat, strict=True):
            last = backbone.forward_features(images)
            read.append(last.flatten(1) if flat else backbone.forward_head(last, pre_logits=True))
        return read

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cat(self.features(images), dim=1))


def _check_width(width: float) -> str:
    return "" if width >= 1 and width == int(width) else "WIDTH must be a whole number of at least 1"


# build: (D features, width...) -> (layers by name, width of their output). A head is these layers, dropout, and the
# last layer.
HEADS: dict[str, Choice] = {
    "linear": Choice(build=lambda features: ({}, features)),
    "hidden": Choice(build=lambda features, width: ({"hidden": nn.Linear(features, int(width)), "relu": nn.ReLU()},
                                                    int(width)), arguments=("WIDTH",), check=_check_width),
    "two_linear": Choice(build=lambda features, width: ({"linear": nn.Linear(features, int(width))}, int(width)),
                         arguments=("WIDTH",), check=_check_width),
}


def make_head(head: str, features: int, outputs: int, dropout: float) -> Network:
    """Layers from D features to logits. head: a name in HEADS with its width, "hidden:512"."""
    before, width = read_value("head", head, HEADS)(features)
    return Network({**before, "dropout": nn.Dropout(dropout), "output": nn.Linear(width, outputs)})


def make_front(channels: int) -> nn.Conv2d:
    """A 3x3 convolution to three channels that starts as the identity, or as copies of a grey channel.

    The reference does not give its initial weights; random ones would give noise to pretrained filters.
    """
    front = nn.Conv2d(channels, 3, 3, padding=1)
    nn.init.zeros_(front.bias)
    nn.init.zeros_(front.weight)
    with torch.no_grad():
        front.weight[:, :, 1, 1] = torch.eye(3) if channels == 3 else 1 / channels
    return front


def cnn_002(channels: int, image_size: int, outputs: int) -> Network:
    """Four convolutions with ReLU and batch norm, then one map per class: 101,103 parameters.

    Keras also counts 480 moving statistics: 101,583. The last convolution of the reference had three filters, one per
    class; here it has one per output, and at least three.
    """
    require_size("cnn_002", image_size, least=16)
    maps = max(3, outputs)
    return Network({                                            # 256 pixels:
        "conv1": nn.Conv2d(channels, 16, 3, padding=1),         # 16 x 256 x 256
        "relu1": nn.ReLU(),
        "norm1": nn.BatchNorm2d(16, **KERAS_BATCH_NORM),
        "pool1": nn.MaxPool2d(2),                               # 16 x 128 x 128
        "conv2": nn.Conv2d(16, 32, 3, padding=1),               # 32 x 128 x 128
        "relu2": nn.ReLU(),
        "norm2": nn.BatchNorm2d(32, **KERAS_BATCH_NORM),
        "pool2": nn.MaxPool2d(2),                               # 32 x 64 x 64
        "conv3": nn.Conv2d(32, 64, 3, padding=1),               # 64 x 64 x 64
        "relu3": nn.ReLU(),
        "norm3": nn.BatchNorm2d(64, **KERAS_BATCH_NORM),
        "pool3": nn.MaxPool2d(2),                               # 64 x 32 x 32
        "conv4": nn.Conv2d(64, 128, 3, padding=1),              # 128 x 32 x 32
        "relu4": nn.ReLU(),
        "norm4": nn.BatchNorm2d(128, **KERAS_BATCH_NORM),
        "pool4": nn.MaxPool2d(2),                               # 128 x 16 x 16
        "conv5": nn.Conv2d(128, maps, 3, padding=1),            # 3 x 16 x 16
        "relu5": nn.ReLU(),
        "mean": nn.AdaptiveAvgPool2d(1),                        # 3 x 1 x 1
        "flatten": nn.Flatten(),                                # 3
        "output": nn.Linear(maps, outputs),
    })


# (channels, kernel) of each convolution; 2x2 max pooling between groups
DARKNET_GROUPS = (
    ((32, 3),),
    ((64, 3),),
    ((128, 3), (64, 1), (128, 3)),
    ((256, 3), (128, 1), (256, 3)),
    ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    ((1024, 3), (512, 1), (1024, 3), (256, 1), (512, 3)),
)


def darknet19_002(channels: int, image_size: int, outputs: int) -> Network:
    """Nineteen convolutions with leaky ReLU and batch norm: 16,022,159 parameters.

    Keras also counts the moving statistics: 16,035,023. One map per output precedes the last layer, as in `cnn_002`.
    """
    require_size("darknet19_002", image_size, least=32)
    stages, number, before = {}, count(1), channels
    for group, convolutions in enumerate(DARKNET_GROUPS):
        if group > 0:
            stages[f"pool{group}"] = nn.MaxPool2d(2)
        for width, kernel in convolutions:
            n = next(number)
            stages |= {f"conv{n}": nn.Conv2d(before, width, kernel, padding=kernel // 2),
                       f"leaky{n}": nn.LeakyReLU(0.1),
                       f"norm{n}": nn.BatchNorm2d(width, **KERAS_BATCH_NORM)}
            before = width
    maps = max(3, outputs)
    return Network({**stages, "linear": nn.Conv2d(before, maps, 1), "mean": nn.AdaptiveAvgPool2d(1),
                    "flatten": nn.Flatten(), "output": nn.Linear(maps, outputs)})


FROM_SCRATCH: dict[str, Callable[[int, int, int], Network]] = {  # (channels, image size, outputs) -> network
    "cnn_002": cnn_002,
    "darknet19_002": darknet19_002,
}

SIX = ("densenet121", "densenet169", "densenet201", "mnasnet_100", "vgg19_bn", "vgg19")
LAYOUTS: dict[str, Layout] = {
    # 56,064 features at 224 pixels, 89 % of them the maps of the two VGGs: 81,478,262 parameters with 14 outputs
    "combined_000": Layout(SIX, flat=("vgg19_bn", "vgg19")),
    # the same with means of all maps, 6,912 features
    "combined_pooled_000": Layout(SIX),
    # 32,768 features at 256 pixels
    "vgg19_002": Layout(("vgg19",), flat=("vgg19",)),
    "resnet18_front_004": Layout(("resnet18",), front=True),
}
