"""Do a network's answers come from where no anatomy is, or follow a hospital: four signals of a shortcut, by label.

    attribution   how much more heat lies in a corner, or on the border, than its area alone gives
    alone         the AUC of images of which only a corner, the border, or both are left
    filled in     what the AUC loses when a corner or the border is painted over from its neighbourhood
    follows       do the scores of images that are alike by label tell a column of the table: site, view, sex

All AUCs compare images of one fold with one another: models of different folds answer on scales of their own. Each
signal comes as a value with its 95 % interval, and its number is the interval's lower end, of the zone where that is
highest: few images give no alarm. THRESHOLDS says what that number may be.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.hardware import pick_device
from data.folds import fold_numbers
from explaining.attribution import log_odds
from explaining.held_out_maps import BlendMember
from results.checkpoints import load_model
from scoring.confidence_intervals import for_tests
from scoring.ranking import placements
from training.batches import ordered_batches

CORNER = 1 / 5       # of the image's side: a corner's
BORDER = 1 / 16      # of the image's side: how wide the border is
CORNERS = ("upper left", "upper right", "lower left", "lower right")
ZONES = (*CORNERS, "border")
FRAME = "all of them"  # every corner and the border
REACH = 1.96         # standard errors: a 95 % interval
LEAST_GROUPS = 10    # with and without a label, below which nothing is said
RADIUS = 3           # pixels that cv2 fills in from
BATCH = 32
# what the numbers may be before they are an alarm, of clean simulated competitions such that 5 % of labels raise any;
# and the share that did at thresholds drawn from others of them: tests/benchmarks/shortcuts.py
THRESHOLDS = {"attribution": 3.0, "alone": 0.60, "filled in": 0.006, "follows": 0.16}
FALSE_ALARMS = 0.072


class Evidence(NamedTuple):
    """One signal of one label in one zone or for one column; NaN where it is not defined."""

    label: str
    signal: str
    where: str
    value: float
    low: float   # 95 %
    high: float
    images: int


# ---- zones


def zone_masks(size: int) -> dict[str, np.ndarray]:
    """Masks (size, size) bool of ZONES; the border is what no corner covers of it."""
    corner, border = max(round(CORNER * size), 1), max(round(BORDER * size), 1)
    near, far = slice(None, corner), slice(-corner, None)
    masks = {}
    for name, rows, columns in zip(CORNERS, (near, near, far, far), (near, far, near, far), strict=True):
        masks[name] = np.zeros((size, size), bool)
        masks[name][rows, columns] = True
    edge = np.ones((size, size), bool)
    edge[border:-border, border:-border] = False
    return masks | {"border": edge & ~np.any(list(masks.values()), axis=0)}


def keep_only(images: Tensor, mask: np.ndarray, average: Tensor) -> Tensor:
    """Images (B, C, S, S) float as they are in a mask (S, S), and the average image (C, S, S) everywhere else.

    What is put there is the same for every image, so that it tells nothing; and no network finds it odd.
    """
    return torch.where(torch.from_numpy(mask).to(images.device), images.float(), average)


def fill_in(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Images (B, S, S) or (B, S, S, 3) uint8 with the mask (S, S) painted over from its neighbourhood.

    Source: Telea 2004, https://doi.org/10.1080/10867651.2004.10487596
    """
    images = images.copy()
    images[:, mask] = 0  # OpenCV's answer otherwise varies by up to 3 grey values with what was there
    return np.stack([cv2.inpaint(image, mask.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA) for image in images])


def zone_excess(heat: np.ndarray) -> np.ndarray:
    """(5,) each zone's share of the heat (S, S) by its share of the area: 1 is what area alone gives. NaN: no heat."""
    masks = np.stack(list(zone_masks(len(heat)).values()))
    if heat.sum() <= 0:
        return np.full(len(masks), np.nan)
    return (heat * masks).sum(axis=(1, 2)) / heat.sum() / masks.mean(axis=(1, 2))


# ---- asking a network


def probe_held_out(member: BlendMember, table: pd.DataFrame, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What `probe` gives of the table's rows (n,), each by the model that never saw its group; NaN without one."""
    places, device = member.store.rows(table["image_id"])[rows], pick_device()
    folds, task = fold_numbers(table, member.runs[0].experiment.split)[rows], member.runs[0].recipe["task"]
    average, answers = average_image(member, places), {}
    with tqdm(total=len(rows), desc=f"probing {member.name}", unit="image", leave=False, disable=None) as bar:
        for run in member.runs:
            mine = np.flatnonzero(folds == run.recipe["fold"])
            model = load_model(run, device) if len(mine) else None
            for images, _, stored in ordered_batches(member.store, places[mine], BATCH) if len(mine) else ():
                done, mine = mine[:len(stored)], mine[len(stored):]
                for variant, values in probe(model, images.to(device), average.to(device), task).items():
                    answers.setdefault(variant, np.full((len(rows), values.shape[1]), np.nan))[done] = values
                bar.update(len(done))
    return answers


def average_image(member: BlendMember, places: np.ndarray) -> Tensor:
    """(C, S, S) float: the mean of the store's rows."""
    total = sum(images.sum(dim=0, dtype=torch.float64) for images, _, _ in ordered_batches(member.store, places, 256))
    return (total / len(places)).float()


@torch.no_grad()
def probe(model: nn.Module, images: Tensor, average: Tensor, task: str) -> dict[str, np.ndarray]:
    """Log odds (B, K) of "whole" images, of ("alone", zone) and FRAME, and of ("filled in", zone). images: uint8."""
    model.eval()
    return {variant: log_odds(model(changed.float()).float(), task).double().cpu().numpy()
            for variant, changed in _variants(images, average)}


def _variants(images: Tensor, average: Tensor) -> Iterator[tuple[str | tuple[str, str], Tensor]]:
    masks = zone_masks(images.shape[-1])
    yield "whole", images
    for zone, mask in (masks | {FRAME: np.any(list(masks.values()), axis=0)}).items():
        yield ("alone", zone), keep_only(images, mask, average)
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    for zone, mask in masks.items():
        filled = torch.from_numpy(fill_in(pixels, mask)).to(images.device)
        yield ("filled in", zone), filled[:, None] if filled.ndim == 3 else filled.permute(0, 3, 1, 2)


# ---- the signals


def judge_answers(labels: tuple[str, ...], targets: np.ndarray, answers: dict, folds: np.ndarray,
                  groups: np.ndarray) -> list[Evidence]:
    """The signals "alone" and "filled in" of every label and zone. targets: (n, K) 1, 0, NaN;  folds, groups: (n,)."""
    evidence = []
    for k, label in enumerate(labels):
        rows = np.flatnonzero(np.isin(targets[:, k], (0, 1)) & ~np.isnan(answers["whole"][:, k]))
        if not _enough(targets[rows, k], groups[rows]):
            evidence += [Evidence(label, *variant, np.nan, np.nan, np.nan, len(rows))
                         for variant in answers if variant != "whole"]
            continue
        scores = np.stack([values[rows, k] for values in answers.values()], axis=1)
        aucs, covariance = stratified_auc(targets[rows, k] == 1, scores, folds[rows], groups[rows])
        for number, variant in enumerate(answers):
            if variant == "whole":
                continue
            weights = np.zeros(len(answers))
            weights[number] = 1 if variant[0] == "alone" else -1
            weights[0] = variant[0] == "filled in"  # "whole" comes first
            error = np.sqrt(max(weights @ covariance @ weights, 0))
            evidence.append(_evidence(label, *variant, weights @ aucs, error, len(rows)))
    return evidence


def judge_maps(label: str, excess: np.ndarray) -> list[Evidence]:
    """The signal "attribution" of one label by what `zone_excess` gave of n images of different groups, (n, 5)."""
    excess = excess[~np.isnan(excess).any(axis=1)]
    if len(excess) < LEAST_GROUPS:
        return [Evidence(label, "attribution", zone, np.nan, np.nan, np.nan, len(excess)) for zone in ZONES]
    errors = excess.std(axis=0, ddof=1) / np.sqrt(len(excess))
    return [_evidence(label, "attribution", zone, mean, error, len(excess))
            for zone, mean, error in zip(ZONES, excess.mean(axis=0), errors, strict=True)]


def judge_column(labels: tuple[str, ...], targets: np.ndarray, probs: np.ndarray, folds: np.ndarray,
                 groups: np.ndarray, column: str, values: np.ndarray) -> list[Evidence]:
    """The signal "follows" of every label, and the gaps "AUC gap" and "calibration gap", of one column (n,) of text.

    follows: how far the AUC of telling a value by the score, among images with the label and among those without, is
    from 0.5;  AUC gap: of the values where the AUC is highest and lowest;  calibration gap: the same of the mean
    probability minus the share that has the label. Values, and labels, of fewer than LEAST_GROUPS groups are left out.
    """
    evidence = []
    for k, label in enumerate(labels):
        rows = np.flatnonzero(np.isin(targets[:, k], (0, 1)) & ~np.isnan(probs[:, k]) & (values != ""))
        has, score, value, group = targets[rows, k] == 1, probs[rows, k], values[rows], groups[rows]
        usual = [each for each in np.unique(value) if _enough(has, group) and _enough(value == each, group)]
        told, strata = [], folds[rows] * 2 + has
        for each in usual:
            auc, covariance = stratified_auc(value == each, score[:, None], strata, group)
            side = "higher" if auc[0] >= 0.5 else "lower"
            told.append((abs(auc[0] - 0.5), np.sqrt(covariance[0, 0]), f"{side} for {column} {each}"))
        told.sort(key=lambda each: each[2])  # of two values that say the same, the one that is higher
        best = max(told, key=lambda each: np.nan_to_num(each[0] - REACH * each[1], nan=-1).round(9), default=None)
        evidence.append(_evidence(label, "follows", best[2], *best[:2], len(rows)) if best else
                        Evidence(label, "follows", column, np.nan, np.nan, np.nan, len(rows)))
        aucs, errors = [], []
        for each in usual:
            inside = value == each
            if _enough(has[inside], group[inside]):
                auc, covariance = stratified_auc(has[inside], score[inside, None], folds[rows][inside], group[inside])
                aucs.append((auc[0], covariance[0, 0], each))
            above = np.bincount(np.unique(group[inside], return_inverse=True)[1], score[inside] - has[inside])
            mean = (score[inside] - has[inside]).mean()
            counts = np.bincount(np.unique(group[inside], return_inverse=True)[1])
            errors.append((mean, ((above - mean * counts) ** 2).sum() / counts.sum() ** 2, each))
        evidence += [_gap(label, "AUC gap", column, aucs, len(rows)),
                     _gap(label, "calibration gap", column, errors, len(rows))]
    return evidence


def _gap(label: str, signal: str, column: str, parts: list[tuple[float, float, str]], images: int) -> Evidence:
    """The largest minus the smallest of (value, variance, name); its interval is wider the more pairs there are."""
    parts = [part for part in parts if not np.isnan(part[0])]
    if len(parts) < 2:
        return Evidence(label, signal, column, np.nan, np.nan, np.nan, images)
    least, most = min(parts), max(parts)
    gap, reach = most[0] - least[0], REACH * np.sqrt(most[1] + least[1])
    low, high = for_tests(gap - reach, gap + reach, gap, len(parts) * (len(parts) - 1) // 2)
    return Evidence(label, signal, f"{column}: {most[2]} above {least[2]}", float(gap), float(low), float(high), images)


def _evidence(label: str, signal: str, where: str, value: float, error: float, images: int) -> Evidence:
    return Evidence(label, signal, where, float(value), float(value - REACH * error), float(value + REACH * error),
                    images)


def _enough(has: np.ndarray, groups: np.ndarray) -> bool:
    return min(len(np.unique(groups[has == side])) for side in (1, 0)) >= LEAST_GROUPS


def stratified_auc(is_positive: np.ndarray, scores: np.ndarray, strata: np.ndarray,
                   groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share (C,) of pairs within a stratum that C scores (N, C) put in order, a tie half; its covariance (C, C).

    is_positive, strata, groups: (N,). Rows of one group are no independent evidence, in different strata neither. NaN
    where no stratum has both kinds.
    Source: the linearised AUC of DeLong et al. 1988, https://doi.org/10.2307/2531595, its terms summed by group as in
    Obuchowski 1997, https://doi.org/10.2307/2533958, and over strata by their number of pairs.
    """
    number = np.unique(groups, return_inverse=True)[1]
    count, columns = number.max() + 1, scores.shape[1]
    won, influence, pairs = np.zeros(columns), np.zeros((count, columns)), 0
    for stratum in np.unique(strata):
        sides = [np.flatnonzero((strata == stratum) & (is_positive == side)) for side in (True, False)]
        here = len(sides[0]) * len(sides[1])
        pairs += here
        for c in range(columns) if here else ():
            won_by = placements(*(scores[rows, c] for rows in sides))
            auc = won_by[0].mean()
            won[c] += here * auc
            for rows, share in zip(sides, won_by, strict=True):
                influence[:, c] += np.bincount(number[rows], here * (share - auc) / len(rows), minlength=count)
    if not pairs:
        return np.full(columns, np.nan), np.full((columns, columns), np.nan)
    influence /= pairs
    return won / pairs, influence.T @ influence * (count / max(1, count - 1))


# ---- the alarm


def mark_alarms(evidence: list[Evidence]) -> pd.DataFrame:
    """A row a piece of evidence: columns of Evidence, `threshold`, NaN of what is no signal, and `alarm`."""
    frame = pd.DataFrame(evidence, columns=Evidence._fields)
    threshold = frame["signal"].map(THRESHOLDS)
    return frame.assign(threshold=threshold, alarm=frame["low"] > threshold)


def raise_alarms(marked: pd.DataFrame) -> pd.DataFrame:
    """A row a label and signal of THRESHOLDS: of what `mark_alarms` gave that whose lower end is highest.

    Without anything defined the value is NaN, and no alarm.
    """
    frame = marked[marked["signal"].isin(list(THRESHOLDS))]
    order = frame.assign(known=frame["low"].fillna(-np.inf)).sort_values("known", ascending=False, kind="stable")
    return order.drop_duplicates(["label", "signal"]).drop(columns="known").sort_index().reset_index(drop=True)
