"""Explanation methods by name. This module does not import torch, so that --help and the report can list them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor, nn

    from explaining.attribution import Maps


@dataclass(frozen=True)
class Method:
    """An explanation method.

    explain: a function (model, images (B, C, S, S) with values 0 to 255, label index, task) -> attribution.Maps. It may
        be called with several images at a time only where `cam_layer` is set.
    cam_layer: which layer of the network it reads, "coarse" or "fine" (models/cam_layers.py); "" if it needs none, and
        can therefore explain any network.
    pointing_images: the pointing game uses at most so many images of a label; slow methods use fewer.
    """

    title: str
    explain: "Callable[[nn.Module, Tensor, int, str], Maps]"
    cam_layer: str = ""
    pointing_images: int = 50


def _attribution() -> "ModuleType":
    from explaining import attribution  # here, because it imports torch

    return attribution


METHODS: dict[str, Method] = {
    "gradcam": Method("Grad-CAM", lambda model, images, label, task: _attribution().grad_cam(model, images, label),
                      cam_layer="coarse", pointing_images=300),
    "hirescam": Method("HiResCAM", lambda model, images, label, task: _attribution().hires_cam(model, images, label),
                       cam_layer="fine", pointing_images=300),
    "occlusion": Method("Occlusion", lambda *args: _attribution().occlusion(*args)),
    "lime": Method("LIME", lambda *args: _attribution().lime(*args)),
}


def methods_for(model: "nn.Module") -> tuple[str, ...]:
    """The names of the methods that can explain a network: those of class activation maps need a suitable layer."""
    from explaining.attribution import cam_layer

    return tuple(name for name, method in METHODS.items()
                 if not method.cam_layer or cam_layer(model, kind=method.cam_layer) is not None)


def explain_images(method: str, model: "nn.Module", images: "Tensor", label: int, task: str) -> "Maps":
    """Heat maps of one label.

    images: (B, C, S, S), values 0 to 255, on the model's device.
    Raises ValueError if there is no such method, or if the network has no layer that the method can read.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    return METHODS[method].explain(model, images, label, task)
