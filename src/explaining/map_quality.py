"""The quality of heat maps: pointing into the finding, deletion, insertion, and change with random weights.

The baseline is smooth noise ("chance").
"""

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from common.hardware import pick_device
from data.folds import fold_numbers
from explaining.attribution import BATCH, label_log_odds
from explaining.held_out_maps import BlendMember, fit_heat, largest_store, relative
from explaining.methods import METHODS, explain_images, methods_for
from explaining.pointing_game import hottest_pixel
from results.checkpoints import load_model
from training.batches import ordered_batches

CHANCE = "chance"   # the name of the baseline among the methods
STEPS = 16          # of the deletion and insertion curves
BLUR = 1 / 8        # of the image's side: standard deviation of the blur that replaces hidden pixels
DRAWS = 2000        # of the bootstrap
RANDOMISED = 8      # images per label whose maps are compared with those of random weights
NORM_IMAGES = 64    # for the batch norm statistics of a network with random weights
MEASURES = ("inside", "share_inside", "deletion", "insertion", "randomised")


@dataclass(frozen=True)
class ExplainedImage:
    """A model, a copy of it with random weights, and an image (1, C, S, S) as it reads it."""

    model: nn.Module
    drawn: nn.Module
    image: Tensor


def measure_maps(members: list[BlendMember], table: pd.DataFrame, rows: dict[int, list[int]],
                 masks: dict[int, dict[int, np.ndarray]]) -> pd.DataFrame:
    """A row per image, label and method, of held-out images, each by the models that did not train on its group.

    rows: label to the table's rows;  masks: label to row to the finding (S, S) in the size of the largest store,
    missing if it is not known. For a blend the mean of its members' maps is measured on the mean of their
    probabilities; members that a method cannot explain are left out of its maps.
    Columns: inside, whether the hottest pixel is in the finding, and share_inside, the share of heat there (NaN without
    a mask, 0 for an empty map);  area, the finding's share of the image;  deletion, insertion, the means of `curves`;
    randomised, the rank correlation with the map of the network with random weights, for the first RANDOMISED images of
    a label.
    """
    size, task = largest_store(members).settings.size, members[0].runs[0].recipe["task"]
    places = [member.store.rows(table["image_id"]) for member in members]
    folds = np.stack([fold_numbers(table, member.runs[0].experiment.split) for member in members], axis=1)
    wanted, measured = [(k, row) for k in rows for row in rows[k]], []
    with tqdm(total=len(wanted), desc="measuring maps", unit="image", leave=False, disable=None) as bar:
        for held_out in np.unique(folds[[row for _, row in wanted]], axis=0):  # by each member, on its own split
            models = [_models_of(*each) for each in zip(members, places, held_out, strict=True)]
            for k, row in ((k, row) for k, row in wanted if (folds[row] == held_out).all()):
                inputs = [ExplainedImage(*pair, _read(member, where[row])) for pair, member, where in
                         zip(models, members, places, strict=True)]
                about = {"image_id": table["image_id"].iloc[row], "label": k}
                is_compared = row in rows[k][:RANDOMISED]
                for method, heat, other in _all_maps(inputs, k, task, size, about["image_id"], is_compared):
                    measured.append(about | {"method": method} | _measure(inputs, k, task, heat, other,
                                                                          masks.get(k, {}).get(row)))
                bar.update()
    return pd.DataFrame(measured)


def _models_of(member: BlendMember, places: np.ndarray, fold: int) -> tuple[nn.Module, nn.Module]:
    """The model that held a fold out, and a copy with random weights. places: (N,) the images in the store."""
    run, = (run for run in member.runs if run.recipe["fold"] == fold)
    model = load_model(run, pick_device())
    some = np.random.default_rng(0).permutation(places)[:NORM_IMAGES]
    return model, randomise_weights(model, _read(member, *some))


def _read(member: BlendMember, *places: int) -> Tensor:
    """(n, C, S, S) images of the member's store."""
    return next(iter(ordered_batches(member.store, np.array(places), len(places))))[0].to(pick_device())


def _all_maps(inputs: list[ExplainedImage], k: int, task: str, size: int, image_id: str,
              is_compared: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Method, heat (size, size), and the heat with random weights, None for chance and if it is not asked for."""
    for method in METHODS:
        if able := [each for each in inputs if method in methods_for(each.model)]:
            pairs, drawn = ([(getattr(each, which), each.image) for each in able] for which in ("model", "drawn"))
            yield method, _mean_heat(method, pairs, k, task, size), (
                _mean_heat(method, drawn, k, task, size) if is_compared else None)
    yield CHANCE, random_heat(size, seed=zlib.crc32(f"{image_id} {k}".encode())), None


def _mean_heat(method: str, pairs: list[tuple[nn.Module, Tensor]], k: int, task: str, size: int) -> np.ndarray:
    heats = [explain_images(method, model, image, k, task).heat[0].cpu().numpy() for model, image in pairs]
    return relative(np.mean([fit_heat(heat, size) for heat in heats], axis=0))[0]


def _measure(inputs: list[ExplainedImage], k: int, task: str, heat: np.ndarray, other: np.ndarray | None,
             mask: np.ndarray | None) -> dict[str, float]:
    drawn = [curves(each.model, each.image, k, task, fit_heat(heat, each.image.shape[-1])) for each in inputs]
    deletion, insertion = np.mean(drawn, axis=0)
    is_empty, known = heat.max() <= 0, mask is not None
    return {
        "empty": is_empty,
        "inside": float(not is_empty and mask[hottest_pixel(heat)]) if known else np.nan,
        "share_inside": share_inside(heat, mask) if known else np.nan,
        "area": mask.mean() if known else np.nan,
        "deletion": deletion.mean(),
        "insertion": insertion.mean(),
        "randomised": np.nan if other is None else rank_correlation(heat, other),
    }


def share_inside(heat: np.ndarray, mask: np.ndarray) -> float:
    """The share of the heat (S, S) that lies in the finding; 0 for an empty map."""
    return float(heat[mask].sum() / heat.sum()) if heat.sum() > 0 else 0.0


def random_heat(size: int, seed: int) -> np.ndarray:
    """(size, size) smooth noise in [0, 1]: 8 x 8 random cells, as coarse as most maps."""
    cells = np.random.default_rng(seed).random((8, 8), dtype=np.float32)
    return np.clip(cv2.resize(cells, (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)


def curves(model: nn.Module, image: Tensor, k: int, task: str, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deletion and insertion curves, (1 + STEPS,) each: the label's probability while pixels are hidden or shown.

    The hottest pixels come first. Hidden pixels are those of the blurred image. A good map has a small mean deletion
    and a large mean insertion. Pixels of equal heat are ordered at random, with a fixed seed.
    Source: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, section 3.3, but with a blurred image in both curves,
    so that neither is measured on images with holes.
    """
    size = heat.shape[0]
    ties = np.random.default_rng(0).permutation(heat.size)
    order = ties[np.argsort(-heat.ravel()[ties], kind="stable")]
    rank = np.empty(heat.size, int)
    rank[order] = np.arange(heat.size)
    limits = np.round(np.linspace(0, heat.size, STEPS + 1)).astype(int)
    hot = torch.from_numpy(np.stack([rank < limit for limit in limits]).reshape(-1, 1, size, size)).to(image.device)
    whole, blurred = image.float(), blur(image)
    shown = torch.cat([torch.where(hot, blurred, whole), torch.where(hot, whole, blurred)])
    answers = torch.cat([label_log_odds(model, part, k, task) for part in shown.split(BATCH)])
    deletion, insertion = answers.sigmoid().double().cpu().numpy().reshape(2, -1)
    return deletion, insertion


def blur(image: Tensor) -> Tensor:
    """(1, C, S, S) float, blurred so strongly that no finding is visible."""
    planes = [cv2.GaussianBlur(plane, (0, 0), BLUR * image.shape[-1], borderType=cv2.BORDER_REPLICATE)
              for plane in image[0].float().cpu().numpy()]
    return torch.from_numpy(np.stack(planes))[None].to(image.device)


def randomise_weights(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """A copy of a network with random weights in all layers. images: some (B, C, S, S), as the model reads them.

    A map that stays the same shows the image, not what the network has learned. Weights are drawn as in He et al. 2015
    and batch norm statistics are computed from the images: with torch's defaults the signal of a deep network vanishes,
    its outputs are equal for all images and its maps are empty.
    Source: Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, section 3, with all layers randomised at once.
    """
    drawn = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in drawn.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        norms = [module for module in drawn.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.momentum = None  # the statistics are of these images alone
            norm.train()
        drawn(images)
    return drawn.eval()


def rank_correlation(heat: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps (S, S); NaN if one is constant, as empty maps are."""
    if np.ptp(heat) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(heat.ravel(), other.ravel()).statistic)


def summarise(measured: pd.DataFrame) -> pd.DataFrame:
    """A row per method: images, empty maps, and every measure's mean with its 95 % bootstrap interval."""
    summary = []
    for method, part in measured.groupby("method", sort=False):
        row = {"method": method, "images": len(part), "empty": int(part["empty"].sum()), "area": part["area"].mean(),
               "randomised_images": int(part["randomised"].notna().sum())}
        for name in MEASURES:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), mean_interval(part[name].to_numpy(float)),
                            strict=True))
        summary.append(row)
    return pd.DataFrame(summary)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval, without NaN values; NaN if none is left. values: (N,)."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    return (values.mean(), *np.quantile(values[drawn].mean(axis=1), (0.025, 0.975)))
