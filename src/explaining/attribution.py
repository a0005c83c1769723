"""What in an image speaks for a label, by four methods: Grad-CAM, HiResCAM, occlusion and LIME.

Occlusion and LIME are captum's, on pixels, and so for any network; a bounded batch is sent through it at a time.
Grad-CAM is explaining/saliency.py's: captum's takes the tokens of a transformer for channels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from explaining.saliency import cam_layer, classifier_of, grad_cam
from models import cam_layers

METHODS = (*cam_layers.METHODS, "occlusion", "lime")
BATCH = 32        # images with a part hidden that a network sees at a time
GRID = 8          # an occluding square's side is the image's by this; LIME has about its square of superpixels
SAMPLES = 256     # of LIME
KERNEL = 0.25     # LIME's width, and
RIDGE = 1.0       # its penalty, both as in its authors' own code for images
GREY_STEPS = 10   # a superpixel's side counts as much as a tenth of all grey values: SLIC's m = 10 of L = 0 to 100
FLIP_SIDE, FLIP_STEP = 1 / 5, 1 / 8  # of the image's side: reference system 002's squares, 50 of 256 pixels, and step
LEAST = 1e-3      # of log odds: what hiding a part changes by less is rounding, or nothing that anyone should look at


@dataclass(frozen=True)
class Maps:
    """Heat (B, S, S) float32 in [0, 1], each divided by its own maximum; `empty` (B,): nothing speaks for the label.

    fit: (B,) LIME's cross-validated R² of its linear surrogate, which tells whether it may be believed; else NaN.
    """

    heat: Tensor
    empty: Tensor
    fit: Tensor


def methods_for(model: nn.Module) -> tuple[str, ...]:
    """The methods that can explain a network: Grad-CAM and HiResCAM need a convolution or tokens."""
    return METHODS if cam_layer(model) is not None else METHODS[len(cam_layers.METHODS):]


def explain_images(method: str, model: nn.Module, images: Tensor, label: int, task: str) -> Maps:
    """Maps of one label by one of METHODS. images: (B, C, S, S), 0 to 255, on the model's device.

    Occlusion and LIME explain the label's log odds: they do not flatten out where a probability is near 0 or 1, and
    unlike one logit of several classes mean something by themselves. Only what speaks for the label is hot.
    Raises ValueError where there is no such method, or none for this network.
    """
    if method in cam_layers.METHODS:
        heat, empty = grad_cam(model, images, label, method)
        return Maps(heat, empty, torch.full((len(images),), torch.nan))
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    model.eval()
    maps, fits = [], []
    for image in images.float().split(1):
        signed, fit = (_occlude if method == "occlusion" else _lime)(model, image, label, task)
        maps.append(signed)
        fits.append(fit)
    signed = torch.stack(maps)
    peak = signed.amax(dim=(1, 2))
    empty = peak <= LEAST
    heat = signed.relu() / peak.masked_fill(empty, 1.0)[:, None, None]
    return Maps(heat.masked_fill(empty[:, None, None], 0.0), empty, torch.tensor(fits))


@torch.no_grad()
def log_odds(model: nn.Module, images: Tensor, label: int, task: str) -> Tensor:
    """(B,) log p / (1 - p) of a label's probability, straight from the logits."""
    if task != "multiclass":
        classifier, output = classifier_of(model, label)
        return classifier(images)[:, output].float()
    return against_others(model(images).float(), label)


def against_others(logits: Tensor, label: int) -> Tensor:
    """(B,) log p / (1 - p) of one of several classes, from their logits (B, K)."""
    others = torch.arange(logits.shape[1], device=logits.device) != label
    return logits[:, label] - logits[:, others].logsumexp(dim=1)


def hide_behind(images: Tensor) -> Tensor:
    """(B, C, 1, 1) what stands where a part is hidden: the image's own mean. Black would look like air in a lung."""
    return images.float().mean(dim=(2, 3), keepdim=True)


def occlude(model: nn.Module, image: Tensor, label: int, task: str) -> Tensor:
    """(S, S) how much less the log odds are, in the mean of all squares that hide a pixel. image: (1, C, S, S) float.

    Source: Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2; half a square's side apart.
    """
    from captum.attr import Occlusion

    channels, size = image.shape[1:3]
    side = max(size // GRID, 1)
    changes = Occlusion(lambda hidden: log_odds(model, hidden, label, task)).attribute(
        image, sliding_window_shapes=(channels, side, side), strides=(channels, max(side // 2, 1), max(side // 2, 1)),
        baselines=hide_behind(image).expand_as(image), perturbations_per_eval=BATCH)
    return changes[0, 0].detach()


def _occlude(model: nn.Module, image: Tensor, label: int, task: str) -> tuple[Tensor, float]:
    return occlude(model, image, label, task), np.nan


def _lime(model: nn.Module, image: Tensor, label: int, task: str) -> tuple[Tensor, float]:
    """(S, S) a linear surrogate's weight of every pixel's superpixel, and its cross-validated R².

    Source: Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938, section 3.4, with the kernel of the authors' code.
    """
    from captum.attr import Lime

    surrogate = Surrogate()
    parts = torch.from_numpy(superpixels(image[0].mean(dim=0).cpu().numpy())).to(image.device)
    lime = Lime(lambda hidden: log_odds(model, hidden, label, task), surrogate, similarity_func=_nearness)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = lime.attribute(image, feature_mask=parts.expand(image.shape), n_samples=SAMPLES,
                                 baselines=hide_behind(image).expand_as(image), perturbations_per_eval=BATCH)
    return weights[0, 0].detach(), surrogate.fit_held_out


class Surrogate:
    """The linear model that captum's LIME fits: ridge regression that also tells how well it foretells what is hidden.

    The R² of the rows it was fitted on would be near a quarter of pure noise: 64 weights of 256 rows.
    """

    def fit(self, drawn: torch.utils.data.DataLoader) -> None:
        """drawn: its data set has what is shown (n, F), the log odds (n,) and how near that is to the image (n,)."""
        from sklearn.linear_model import Ridge
        from sklearn.metrics import r2_score
        from sklearn.model_selection import KFold, cross_val_predict

        shown, answers, nearness = (values.cpu().double().numpy() for values in drawn.dataset.tensors)
        answers, nearness = answers.ravel(), nearness.ravel()
        ridge = Ridge(alpha=RIDGE)
        foretold = cross_val_predict(ridge, shown, answers, cv=KFold(5), params={"sample_weight": nearness})
        self.fit_held_out = float(r2_score(answers, foretold, sample_weight=nearness))
        self.weights = ridge.fit(shown, answers, sample_weight=nearness).coef_

    def representation(self) -> Tensor:
        """(1, F) the weights."""
        return torch.from_numpy(self.weights).float()[None]


def _nearness(image: Tensor, hidden: Tensor, shown: Tensor, **said: object) -> Tensor:
    """How near an image with parts hidden is to the whole one: by the cosine of what is shown with all ones."""
    distance = 1 - shown.float().mean().sqrt()  # of ones and zeros the cosine is the root of the share of ones
    return torch.exp(-distance**2 / KERNEL**2).sqrt()


def superpixels(grey: np.ndarray) -> np.ndarray:
    """(S, S) numbers from 0 of about GRID² parts of like place and grey value. grey: (S, S), 0 to 255.

    k-means from a grid on place and grey value: Achanta et al. 2012, SLIC, equation 3 of the technical report, without
    its limit to near centres.
    """
    from sklearn.cluster import KMeans

    size = len(grey)
    row, column = np.indices(grey.shape) * (GRID / size)
    points = np.stack([row, column, grey * (GREY_STEPS / 255)], axis=-1).reshape(-1, 3)
    count = min(GRID, size)
    middles = ((np.arange(count) + 0.5) * size / count).astype(int)
    start = points.reshape(size, size, 3)[np.ix_(middles, middles)].reshape(-1, 3)
    parts = KMeans(len(start), init=start, n_init=1, max_iter=10).fit_predict(points)
    return np.unique(parts, return_inverse=True)[1].reshape(grey.shape)


def flip_squares(size: int) -> list[tuple[slice, slice]]:
    """The 64 squares that reference system 002 hides, one after the other; the last of a row end at the border."""
    starts = [round(number * FLIP_STEP * size) for number in range(round(1 / FLIP_STEP))]
    side = max(round(FLIP_SIDE * size), 1)
    return [(slice(top, top + side), slice(left, left + side)) for top in starts for left in starts]


@torch.no_grad()
def probs_without(model: nn.Module, image: Tensor, task: str) -> np.ndarray:
    """(1 + 64, K) the probabilities of an image (1, C, S, S), and of it with each of flip_squares black."""
    from training.losses import PROBS

    model.eval()
    squares = flip_squares(image.shape[-1])
    probs = [PROBS[task](model(image.float()))]
    for first in range(0, len(squares), BATCH):
        hidden = image.float().repeat(len(squares[first:first + BATCH]), 1, 1, 1)
        for number, (rows, columns) in enumerate(squares[first:first + BATCH]):
            hidden[number, :, rows, columns] = 0
        probs.append(PROBS[task](model(hidden)))
    return torch.cat(probs).double().cpu().numpy()


def flip_map(probs: np.ndarray, decisions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What hiding squares does to one label: how far its probability falls, (S, S), and where a decision flips.

    probs, decisions: (1 + 64,) of the whole image and without each square. Where squares overlap, the mean of what
    they do, and True where any of them flips the decision. Reference system 002 asked instead whether the decision is
    wrong without the square: then an image that is decided wrongly is marked all over.
    """
    falls, counts, flips = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size), bool)
    for square, prob, decision in zip(flip_squares(size), probs[1:], decisions[1:], strict=True):
        falls[square] += probs[0] - prob
        counts[square] += 1
        flips[square] |= decision != decisions[0]
    return falls / np.maximum(counts, 1), flips
