"""Where a network looks: Grad-CAM and HiResCAM of a logit, for convolutions and for tokens."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDING = 1e-6  # share of what is added up; a sum below it is what rounding left of terms that cancel


def cam_layer(model: nn.Module, label: int = 0, method: str = "gradcam") -> nn.Module | None:
    """The layer that a method looks at; None where the network has no convolution and no tokens."""
    return classifier_of(model, label)[0].cam_layer(method)


def grad_cam(model: nn.Module, images: Tensor, label: int, method: str = "gradcam") -> tuple[Tensor, Tensor]:
    """Heat maps of one label's logit, float32 (B, S, S) in [0, 1], and which of them are empty, bool (B,).

    method: "gradcam" weighs a feature by its mean gradient; "hirescam" by the gradient in each cell, which is right
    too where it matters in which cell a feature is, as it does to a hidden layer behind a flattened map.

    images: (B, C, S, S) as the model takes them. Every map is divided by its own maximum. An empty one is zeros:
    nothing in the image speaks for the label. The model is left in evaluation mode.
    Raises ValueError where the network has no layer to look at.
    Sources: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2; Draelos & Carin 2020,
    https://arxiv.org/abs/2011.08891, equation 5. The gradient is that of the logit: that of a probability vanishes
    where the network is sure.
    """
    classifier, output = classifier_of(model, label)
    layer = classifier.cam_layer(method)
    if layer is None:
        raise ValueError(f"{type(classifier.network).__name__} has no convolution or tokens to look at; "
                         f"Grad-CAM needs one")
    classifier.eval()
    activations, gradients = (_as_maps(values, getattr(classifier.network, "num_prefix_tokens", 0))
                              for values in _look_inside(classifier, layer, images, output))  # (B, F, h, w) each
    weights = gradients.mean(dim=(2, 3), keepdim=True) if method == "gradcam" else gradients
    weighted = weights * activations
    heat = weighted.sum(dim=1, keepdim=True).relu()                                           # (B, 1, h, w)
    empty = heat.amax(dim=(1, 2, 3)) <= ROUNDING * weighted.abs().sum(dim=1).amax(dim=(1, 2))
    heat = F.interpolate(heat, size=images.shape[2:], mode="bilinear")[:, 0]                  # (B, S, S)
    peak = heat.amax(dim=(1, 2)).masked_fill(empty, 1.0)
    return (heat / peak[:, None, None]).masked_fill(empty[:, None, None], 0.0), empty


def classifier_of(model: nn.Module, label: int) -> tuple[nn.Module, int]:
    """The classifier that answers for a label, and the label's place among its logits."""
    return (model.classifiers[label], 0) if hasattr(model, "classifiers") else (model, label)


@torch.enable_grad()
def _look_inside(classifier: nn.Module, layer: nn.Module, images: Tensor, output: int) -> tuple[Tensor, Tensor]:
    """What the layer gives for the images, and the gradient of the logit with respect to it."""
    seen = []

    def keep(module: nn.Module, inputs: tuple, values: Tensor) -> Tensor:
        if not isinstance(values, Tensor):
            raise ValueError(f"Grad-CAM needs a layer that gives one tensor; "
                             f"{type(module).__name__} gives {type(values).__name__}")
        seen.append(values.detach().requires_grad_())  # the graph starts here: what lies before needs no gradient
        return seen[-1].clone()                        # so that a ReLU in place behind it leaves what was seen as it is

    handle = layer.register_forward_hook(keep)
    try:
        logits = classifier(images)
    finally:
        handle.remove()
    return seen[-1].detach().float(), torch.autograd.grad(logits[:, output].sum(), seen[-1])[0].float()


def _as_maps(values: Tensor, prefix_tokens: int) -> Tensor:
    """A layer's values as maps (B, F, h, h): convolutions give so, Swin (B, h, h, F), ViT tokens (B, prefix + h², F).

    Raises ValueError where the shape is none of these.
    """
    if values.ndim == 3:
        for prefix in (prefix_tokens, 0):  # CaiT adds its class token only after the last such layer
            side = math.isqrt(values.shape[1] - prefix)
            if side**2 == values.shape[1] - prefix:
                return values[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    elif values.ndim == 4 and values.shape[2] == values.shape[3]:
        return values
    elif values.ndim == 4 and values.shape[1] == values.shape[2]:
        return values.permute(0, 3, 1, 2)
    raise ValueError(f"a layer's output of shape {tuple(values.shape)} is neither a square map "
                     f"nor {prefix_tokens} tokens and those of a square map")
