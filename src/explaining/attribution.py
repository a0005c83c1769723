"""Four attribution methods: Grad-CAM, HiResCAM, occlusion and LIME.

Occlusion and LIME are captum's. They change pixels only, so they explain any network. Grad-CAM is written here because
captum's version reads the tokens of a transformer as channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 32              # images with a hidden part in one forward pass
GRID = 8                # an occluding square has 1/GRID of the image's side; LIME has about GRID² superpixels
LIME_SAMPLES = 256
LIME_KERNEL_WIDTH = 0.25  # as in the LIME authors' code for images
LIME_RIDGE = 1.0          # as in the LIME authors' code for images
SLIC_GREY_WEIGHT = 10   # weight of grey value against place in superpixels: SLIC's m = 10 for L = 0 to 100
MIN_LOG_ODDS = 1e-3     # a map whose largest change of the log odds is smaller counts as empty
ROUNDING = 1e-6         # a class activation below this share of its summands is rounding error of terms that cancel


@dataclass(frozen=True)
class Maps:
    """Heat maps of B images.

    heat: (B, S, S) float32 in [0, 1], each map divided by its own maximum; only evidence for the label is positive.
    empty: (B,) bool, True if no part of the image is evidence for the label; the map is then all zeros.
    fit: (B,) LIME's cross-validated R² of its linear surrogate; None for methods without a surrogate.
    """

    heat: Tensor
    empty: Tensor
    fit: Tensor | None = None


def maps_from_signed(signed: Tensor, fit: Tensor | None = None) -> Maps:
    """Maps from signed changes of the log odds (B, S, S): negative values become 0, each map is divided by its maximum.
    """
    peak = signed.amax(dim=(1, 2))
    empty = peak <= MIN_LOG_ODDS
    heat = signed.relu() / peak.masked_fill(empty, 1.0)[:, None, None]
    return Maps(heat.masked_fill(empty[:, None, None], 0.0), empty, fit)


def classifier_of(model: nn.Module, label: int) -> tuple[nn.Module, int]:
    """The classifier that predicts a label, and the label's index among its logits."""
    return (model.classifiers[label], 0) if hasattr(model, "classifiers") else (model, label)


@torch.no_grad()
def label_log_odds(model: nn.Module, images: Tensor, label: int, task: str) -> Tensor:
    """(B,) log p / (1 - p) of one label's probability, computed from the logits."""
    if task != "multiclass":
        classifier, output = classifier_of(model, label)
        return classifier(images)[:, output].float()
    return _against_others(model(images).float(), label)


def log_odds(logits: Tensor, task: str) -> Tensor:
    """(B, K) log p / (1 - p) of every label's probability, from logits (B, K)."""
    if task != "multiclass":
        return logits
    return torch.stack([_against_others(logits, k) for k in range(logits.shape[1])], dim=1)


def _against_others(logits: Tensor, label: int) -> Tensor:
    others = torch.arange(logits.shape[1], device=logits.device) != label
    return logits[:, label] - logits[:, others].logsumexp(dim=1)


# ---- class activation maps


def cam_layer(model: nn.Module, label: int = 0, kind: str = "coarse") -> nn.Module | None:
    """The layer that a class activation map reads, of a kind of cam_layers.KINDS; None if the network has none."""
    return classifier_of(model, label)[0].cam_layer(kind)


def grad_cam(model: nn.Module, images: Tensor, label: int) -> Maps:
    """Grad-CAM of one label's logit: features weighted by their mean gradient.

    images: (B, C, S, S), values 0 to 255. The gradient is the logit's, because a sigmoid's vanishes where the network
    is certain. The model is left in evaluation mode.
    Raises ValueError if the network has no layer with a map.
    Source: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2.
    """
    activations, gradients = _activations(model, images, label, "coarse")
    return _to_maps(activations * gradients.mean(dim=(2, 3), keepdim=True), images.shape[2:])


def hires_cam(model: nn.Module, images: Tensor, label: int) -> Maps:
    """HiResCAM of one label's logit: features weighted by the gradient in each cell; otherwise as `grad_cam`.

    It stays correct where the cell of a feature matters, as it does if a hidden layer reads the flattened map.
    Source: Draelos & Carin 2020, https://arxiv.org/abs/2011.08891, equation 5.
    """
    activations, gradients = _activations(model, images, label, "fine")
    return _to_maps(activations * gradients, images.shape[2:])


def _to_maps(weighted: Tensor, size: tuple[int, int]) -> Maps:
    heat = weighted.sum(dim=1, keepdim=True).relu()                      # (B, 1, h, w)
    empty = heat.amax(dim=(1, 2, 3)) <= ROUNDING * weighted.abs().sum(dim=1).amax(dim=(1, 2))
    heat = F.interpolate(heat, size=size, mode="bilinear")[:, 0]         # (B, S, S)
    peak = heat.amax(dim=(1, 2)).masked_fill(empty, 1.0)
    return Maps((heat / peak[:, None, None]).masked_fill(empty[:, None, None], 0.0), empty)


def _activations(model: nn.Module, images: Tensor, label: int, kind: str) -> tuple[Tensor, Tensor]:
    """The layer's output and the gradient of the label's logit with respect to it, (B, F, h, w) each."""
    classifier, output = classifier_of(model, label)
    layer = classifier.cam_layer(kind)
    if layer is None:
        raise ValueError(f"{type(classifier.network).__name__} has no convolution or tokens; Grad-CAM and HiResCAM "
                         "need one of them. Use --method occlusion or lime")
    prefix_tokens = getattr(classifier.network, "num_prefix_tokens", 0)
    values, gradients = _run_with_gradient(classifier.eval(), layer, images, output)
    return _as_maps(values, prefix_tokens), _as_maps(gradients, prefix_tokens)


@torch.enable_grad()
def _run_with_gradient(classifier: nn.Module, layer: nn.Module, images: Tensor, output: int) -> tuple[Tensor, Tensor]:
    kept = []

    def keep(module: nn.Module, inputs: tuple, values: Tensor) -> Tensor:
        if not isinstance(values, Tensor):
            raise ValueError(f"Grad-CAM needs a layer whose output is one tensor; the output of "
                             f"{type(module).__name__} is a {type(values).__name__}")
        kept.append(values.detach().requires_grad_())  # the graph starts here: earlier layers need no gradient
        return kept[-1].clone()                        # a later in-place ReLU must not change the kept output

    handle = layer.register_forward_hook(keep)
    try:
        logits = classifier(images)
    finally:
        handle.remove()
    return kept[-1].detach().float(), torch.autograd.grad(logits[:, output].sum(), kept[-1])[0].float()


def _as_maps(values: Tensor, prefix_tokens: int) -> Tensor:
    """(B, F, h, h) from a layer's output: convolutions (B, F, h, h), Swin (B, h, h, F), ViT (B, prefix + h², F).

    Raises ValueError for any other shape.
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
                     f"nor {prefix_tokens} prefix tokens and the tokens of a square map")


# ---- occlusion and LIME


def occlusion(model: nn.Module, images: Tensor, label: int, task: str) -> Maps:
    """Occlusion maps of one label's log odds, image by image.

    The log odds do not saturate as probabilities do, and unlike one logit of several classes they mean something alone.
    images: (B, C, S, S), values 0 to 255.
    """
    model.eval()
    return maps_from_signed(torch.stack([occlude(model, image, label, task) for image in images.float().split(1)]))


def lime(model: nn.Module, images: Tensor, label: int, task: str) -> Maps:
    """LIME maps of one label's log odds, image by image, with the surrogate's R² as `fit`.

    images: (B, C, S, S), values 0 to 255. The random state is fixed inside and restored afterwards.
    Source: Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938, section 3.4, with the kernel of the authors' code.
    """
    model.eval()
    weights, fits = zip(*(_lime(model, image, label, task) for image in images.float().split(1)), strict=True)
    return maps_from_signed(torch.stack(weights), torch.tensor(fits))


def mean_baseline(images: Tensor) -> Tensor:
    """(B, C, 1, 1) the value of hidden pixels: the image's own mean. Black would look like air in a lung."""
    return images.float().mean(dim=(2, 3), keepdim=True)


def occlude(model: nn.Module, image: Tensor, label: int, task: str) -> Tensor:
    """(S, S) how far the log odds fall, as the mean over all squares that hide a pixel. image: (1, C, S, S) float.

    The squares are half a side apart.
    Source: Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2.
    """
    from captum.attr import Occlusion

    channels, size = image.shape[1:3]
    side = max(size // GRID, 1)
    changes = Occlusion(_log_odds_of(model, label, task)).attribute(
        image, sliding_window_shapes=(channels, side, side), strides=(channels, max(side // 2, 1), max(side // 2, 1)),
        baselines=mean_baseline(image).expand_as(image), perturbations_per_eval=BATCH)
    return changes[0, 0].detach()


def _log_odds_of(model: nn.Module, label: int, task: str) -> Callable[[Tensor], Tensor]:
    return lambda hidden: label_log_odds(model, hidden, label, task)


def _lime(model: nn.Module, image: Tensor, label: int, task: str) -> tuple[Tensor, float]:
    """(S, S) the surrogate's weight of every pixel's superpixel, and its cross-validated R²."""
    from captum.attr import Lime

    surrogate = Surrogate()
    parts = torch.from_numpy(superpixels(image[0].mean(dim=0).cpu().numpy())).to(image.device)
    explainer = Lime(_log_odds_of(model, label, task), surrogate, similarity_func=_similarity)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = explainer.attribute(image, feature_mask=parts.expand(image.shape), n_samples=LIME_SAMPLES,
                                      baselines=mean_baseline(image).expand_as(image), perturbations_per_eval=BATCH)
    return weights[0, 0].detach(), surrogate.r2


class Surrogate:
    """Ridge regression for captum's LIME that also computes its cross-validated R².

    The R² on the rows that it was fitted on would be about a quarter for pure noise: 64 weights, 256 rows.
    """

    def fit(self, samples: torch.utils.data.DataLoader) -> None:
        """samples: its data set holds the visible superpixels (n, F), the log odds (n,) and the sample weights (n,)."""
        from sklearn.linear_model import Ridge
        from sklearn.metrics import r2_score
        from sklearn.model_selection import KFold, cross_val_predict

        visible, outputs, weights = (values.cpu().double().numpy() for values in samples.dataset.tensors)
        outputs, weights = outputs.ravel(), weights.ravel()
        ridge = Ridge(alpha=LIME_RIDGE)
        predicted = cross_val_predict(ridge, visible, outputs, cv=KFold(5), params={"sample_weight": weights})
        self.r2 = float(r2_score(outputs, predicted, sample_weight=weights))
        self.weights = ridge.fit(visible, outputs, sample_weight=weights).coef_

    def representation(self) -> Tensor:
        """(1, F) the weights."""
        return torch.from_numpy(self.weights).float()[None]


def _similarity(image: Tensor, hidden: Tensor, visible: Tensor, **_: object) -> Tensor:
    """LIME's sample weight: a Gaussian of the cosine distance between the visible superpixels and all of them."""
    distance = 1 - visible.float().mean().sqrt()  # for zeros and ones the cosine is the root of the share of ones
    return torch.exp(-distance**2 / LIME_KERNEL_WIDTH**2).sqrt()


def superpixels(grey: np.ndarray) -> np.ndarray:
    """(S, S) superpixel numbers from 0, about GRID² of them. grey: (S, S), 0 to 255.

    k-means over place and grey value, started from a grid: SLIC without its limit to near centres.
    Source: Achanta et al. 2012, SLIC, equation 3 of the technical report.
    """
    from sklearn.cluster import KMeans

    size = len(grey)
    row, column = np.indices(grey.shape) * (GRID / size)
    points = np.stack([row, column, grey * (SLIC_GREY_WEIGHT / 255)], axis=-1).reshape(-1, 3)
    count = min(GRID, size)
    centres = ((np.arange(count) + 0.5) * size / count).astype(int)
    start = points.reshape(size, size, 3)[np.ix_(centres, centres)].reshape(-1, 3)
    parts = KMeans(len(start), init=start, n_init=1, max_iter=10).fit_predict(points)
    return np.unique(parts, return_inverse=True)[1].reshape(grey.shape)
