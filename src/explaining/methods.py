"""Explanation methods by name. This module does not import torch, so that --help and the report can list them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def _grad_cam(model: "nn.Module", images: "Tensor", label: int, task: str) -> "Maps":
    from explaining.attribution import grad_cam

    return grad_cam(model, images, label)


def _hires_cam(model: "nn.Module", images: "Tensor", label: int, task: str) -> "Maps":
    from explaining.attribution import hires_cam

    return hires_cam(model, images, label)


def _occlusion(model: "nn.Module", images: "Tensor", label: int, task: str) -> "Maps":
    from explaining.attribution import occlusion

    return occlusion(model, images, label, task)


def _lime(model: "nn.Module", images: "Tensor", label: int, task: str) -> "Maps":
    from explaining.attribution import lime

    return lime(model, images, label, task)


METHODS: dict[str, Method] = {
    "gradcam": Method("Grad-CAM", _grad_cam, cam_layer="coarse", pointing_images=300),
    "hirescam": Method("HiResCAM", _hires_cam, cam_layer="fine", pointing_images=300),
    "occlusion": Method("Occlusion", _occlusion),
    "lime": Method("LIME", _lime),
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
