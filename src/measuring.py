"""How good are maps of heat, beside chance and a guess that looks at no image?

Inside the finding, deletion and insertion, and whether they change when the weights are drawn anew.
"""

import copy
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from tqdm import tqdm

from attribution import BATCH, explain_images, log_odds, methods_for
from checkpoints import load_model
from folds import fold_numbers
from hardware import pick_device
from loader import ordered_batches
from localisation import hottest_pixel
from runmaps import Member

GUESSES = ("chance", "centre of lungs")  # maps that look at no image
STEPS = 16          # of the deletion and insertion curves
BLUR = 1 / 8        # of the image's side: the standard deviation of what stands where a pixel is not shown
DRAWS = 2000        # of the bootstrap
LUNGS = ((0.45, 0.3), (0.45, 0.7))  # row and column of the middles of two lungs in most chest films, of the side
SPREAD = 0.15       # of the side: the standard deviation around them
MEASURES = ("inside", "share_inside", "deletion", "insertion", "randomised")


def measure_maps(members: list[Member], table: pd.DataFrame, rows: dict[int, list[int]],
                 masks: dict[int, dict[int, np.ndarray]]) -> pd.DataFrame:
    """A row an image, label and method, of held-out images, each by the model that never saw its group.

    rows: label to the table's rows;  masks: label to row to the finding (S, S), missing where it is not known.
    inside: the hottest pixel is in the finding;  share_inside: the share of heat there, both NaN without a mask, and an
    empty map has neither;  area: the finding's share of the image;  deletion, insertion: see `curves`;  randomised: the
    rank correlation with the map of the same network with weights drawn anew.
    """
    member, = members
    places, device, measured = member.store.rows(table["image_id"]), pick_device(), []
    folds = fold_numbers(table, member.runs[0].experiment.split)
    wanted = [(k, row) for k in rows for row in rows[k]]
    with tqdm(total=len(wanted), desc=f"measuring {member.name}", unit="image", leave=False, disable=None) as bar:
        for run in member.runs:
            mine = [(k, row) for k, row in wanted if folds[row] == run.recipe["fold"]]
            if not mine:
                continue
            model = load_model(run, device)
            drawn = draw_weights_anew(model)
            for k, row in mine:
                image = next(iter(ordered_batches(member.store, places[[row]], 1)))[0].to(device)
                about = {"image_id": table["image_id"].iloc[row], "label": k}
                for method, heat, other in _all_maps(model, drawn, image, k, run.recipe["task"], about["image_id"]):
                    measured.append(about | {"method": method} | _measure(
                        model, image, k, run.recipe["task"], heat, other, masks.get(k, {}).get(row)))
                bar.update()
    return pd.DataFrame(measured)


def _all_maps(model: nn.Module, drawn: nn.Module, image: Tensor, k: int, task: str,
              image_id: str) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Method, heat (S, S) and the heat of the network drawn anew; None of a guess."""
    for method in methods_for(model):
        yield method, *(explain_images(method, each, image, k, task).heat[0].cpu().numpy() for each in (model, drawn))
    size = image.shape[-1]
    yield GUESSES[0], random_heat(size, seed=zlib.crc32(f"{image_id} {k}".encode())), None
    yield GUESSES[1], lung_heat(size), None


def _measure(model: nn.Module, image: Tensor, k: int, task: str, heat: np.ndarray, other: np.ndarray | None,
             mask: np.ndarray | None) -> dict[str, float]:
    deletion, insertion = curves(model, image, k, task, heat)
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
    """The share of the heat (S, S) that lies in the finding; 0 of an empty map."""
    return float(heat[mask].sum() / heat.sum()) if heat.sum() > 0 else 0.0


def random_heat(size: int, seed: int) -> np.ndarray:
    """(size, size) smooth noise in [0, 1]: 8 x 8 random cells, as coarse as most maps."""
    cells = np.random.default_rng(seed).random((8, 8), dtype=np.float32)
    return np.clip(cv2.resize(cells, (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)


def lung_heat(size: int) -> np.ndarray:
    """(size, size) in [0, 1]: hot in the middle of both lungs, the same for every image."""
    row, column = (np.indices((size, size)) + 0.5) / size
    bumps = [np.exp(-((row - top) ** 2 + (column - left) ** 2) / (2 * SPREAD**2)) for top, left in LUNGS]
    return np.maximum(*bumps).astype(np.float32)


def curves(model: nn.Module, image: Tensor, k: int, task: str, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1 + STEPS,) probabilities of the label as the hottest pixels are taken away first, and as they come first.

    A pixel that is not shown is that of the image blurred. A map that found what matters has a small mean of the first
    and a large one of the second. Equal heat is ordered by chance, always the same.
    Source: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, section 3.3; blurred in both, so that neither is
    judged by images with holes.
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
    answers = torch.cat([log_odds(model, part, k, task) for part in shown.split(BATCH)])
    deletion, insertion = answers.sigmoid().double().cpu().numpy().reshape(2, -1)
    return deletion, insertion


def blur(image: Tensor) -> Tensor:
    """(1, C, S, S) float, blurred until no finding is left."""
    planes = [cv2.GaussianBlur(plane, (0, 0), BLUR * image.shape[-1], borderType=cv2.BORDER_REPLICATE)
              for plane in image[0].float().cpu().numpy()]
    return torch.from_numpy(np.stack(planes))[None].to(image.device)


def draw_weights_anew(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a network whose layers all have new random weights.

    A map that stays as it was shows the image, not what the network has learned.
    Source: Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, section 3: all layers at once, the cascade's end.
    """
    drawn = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in drawn.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return drawn.eval()


def rank_correlation(heat: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of two maps (S, S). NaN where one is the same everywhere: an empty map is no verdict, good or bad."""
    if np.ptp(heat) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(heat.ravel(), other.ravel()).statistic)


def summarise(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a method: images, empty maps, and of every measure the mean and its 95 % interval by bootstrap."""
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
    """The mean and the ends of its 95 % interval, by bootstrap; NaN where there is nothing. values: (N,)."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    return (values.mean(), *np.quantile(values[drawn].mean(axis=1), (0.025, 0.975)))
