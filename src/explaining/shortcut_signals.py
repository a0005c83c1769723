"""Signals that a network uses a shortcut: evidence outside the anatomy, or scores that follow a hospital.

Four signals per label:

    attribution   the heat in a corner, or on the border, divided by what its area alone gives
    alone         the AUC of images of which only a corner, the border, or both are left
    filled in     how much AUC is lost when a corner or the border is inpainted
    follows       how well the scores tell a column of the table (site, view, sex) among images of equal label

All AUCs compare images of one fold with each other, because the models of different folds have scales of their own.
A signal is a value with its 95 % interval; its lower end, in the zone where that is highest, is compared with
THRESHOLDS, so few images give no alarm. No alarm does not mean no shortcut.
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
from scoring.confidence_intervals import widen_for_tests
from scoring.ranking import placements
from training.batches import ordered_batches

CORNER = 1 / 5       # of the image's side: a corner's
BORDER = 1 / 16      # of the image's side: how wide the border is
CORNERS = ("upper left", "upper right", "lower left", "lower right")
ZONES = (*CORNERS, "border")
FRAME = "all of them"  # every corner and the border
Z_95 = 1.96          # standard errors of a 95 % interval
MIN_GROUPS = 10      # with and without a label; the signal is undefined with fewer
INPAINT_RADIUS = 3   # pixels
BATCH = 32
# Lower ends above these raise an alarm: chosen so that 5 % of the labels of clean simulated competitions raise any.
# FALSE_ALARMS is the share on other simulated competitions: tests/benchmarks/shortcuts.py
THRESHOLDS = {"attribution": 3.0, "alone": 0.60, "filled in": 0.006, "follows": 0.16}
FALSE_ALARMS = 0.072


class Evidence(NamedTuple):
    """One signal of one label in one zone or for one column; NaN if it is undefined."""

    label: str
    signal: str
    where: str
    value: float
    low: float   # 95 %
    high: float
    images: int


# ---- zones


def zone_masks(size: int) -> dict[str, np.ndarray]:
    """Masks (size, size) bool by zone; the border excludes the corners."""
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
    """Images (B, C, S, S) float inside a mask (S, S), the average image (C, S, S) outside.

    The average is equal for all images, so it carries no information, and it resembles the images trained on.
    """
    return torch.where(torch.from_numpy(mask).to(images.device), images.float(), average)


def fill_in(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Images (B, S, S) or (B, S, S, 3) uint8 with the mask (S, S) inpainted.

    Source: Telea 2004, https://doi.org/10.1080/10867651.2004.10487596
    """
    images = images.copy()
    images[:, mask] = 0  # otherwise OpenCV's result depends on these pixels, by up to 3 grey values
    return np.stack([cv2.inpaint(image, mask.astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA) for image in images])


def zone_excess(heat: np.ndarray) -> np.ndarray:
    """(5,) each zone's share of the heat (S, S) divided by its share of the area; NaN for an empty map."""
    masks = np.stack(list(zone_masks(len(heat)).values()))
    if heat.sum() <= 0:
        return np.full(len(masks), np.nan)
    return (heat * masks).sum(axis=(1, 2)) / heat.sum() / masks.mean(axis=(1, 2))


# ---- log odds of changed images


def held_out_log_odds(member: BlendMember, table: pd.DataFrame, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`variant_log_odds` of the table's rows (n,), each by the model that did not train on its group; NaN without one.
    """
    places, device = member.store.rows(table["image_id"])[rows], pick_device()
    folds, task = fold_numbers(table, member.runs[0].experiment.split)[rows], member.runs[0].recipe["task"]
    average, answers = average_image(member, places), {}
    with tqdm(total=len(rows), desc=f"shortcuts of {member.name}", unit="image", leave=False, disable=None) as bar:
        for run in member.runs:
            mine = np.flatnonzero(folds == run.recipe["fold"])
            model = load_model(run, device) if len(mine) else None
            for images, _, stored in ordered_batches(member.store, places[mine], BATCH) if len(mine) else ():
                done, mine = mine[:len(stored)], mine[len(stored):]
                for variant, values in variant_log_odds(model, images.to(device), average.to(device), task).items():
                    answers.setdefault(variant, np.full((len(rows), values.shape[1]), np.nan))[done] = values
                bar.update(len(done))
    return answers


def average_image(member: BlendMember, places: np.ndarray) -> Tensor:
    """(C, S, S) float, the mean of the store's rows `places`."""
    total = sum(images.sum(dim=0, dtype=torch.float64) for images, _, _ in ordered_batches(member.store, places, 256))
    return (total / len(places)).float()


@torch.no_grad()
def variant_log_odds(model: nn.Module, images: Tensor, average: Tensor, task: str) -> dict[str, np.ndarray]:
    """Log odds (B, K) by variant: "whole", ("alone", zone or FRAME) and ("filled in", zone). images: uint8."""
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


def zone_evidence(labels: tuple[str, ...], targets: np.ndarray, answers: dict, folds: np.ndarray,
                  groups: np.ndarray) -> list[Evidence]:
    """The signals "alone" and "filled in" of every label and zone.

    targets: (n, K), 1, 0 or NaN;  answers: the log odds of `held_out_log_odds`;  folds, groups: (n,).
    """
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


def attribution_evidence(label: str, excess: np.ndarray) -> list[Evidence]:
    """The signal "attribution" of one label. excess: (n, 5), `zone_excess` of n images of different groups."""
    excess = excess[~np.isnan(excess).any(axis=1)]
    if len(excess) < MIN_GROUPS:
        return [Evidence(label, "attribution", zone, np.nan, np.nan, np.nan, len(excess)) for zone in ZONES]
    errors = excess.std(axis=0, ddof=1) / np.sqrt(len(excess))
    return [_evidence(label, "attribution", zone, mean, error, len(excess))
            for zone, mean, error in zip(ZONES, excess.mean(axis=0), errors, strict=True)]


def column_evidence(labels: tuple[str, ...], targets: np.ndarray, probs: np.ndarray, folds: np.ndarray,
                 groups: np.ndarray, column: str, values: np.ndarray) -> list[Evidence]:
    """The signal "follows" of every label, and the gaps "AUC gap" and "calibration gap", for one column (n,) of text.

    follows: the distance from 0.5 of the AUC with which the score tells a value of the column, among images of equal
    label;  AUC gap: the difference between the values with the highest and the lowest AUC;  calibration gap: the same
    for the mean probability minus the prevalence. Values and labels with fewer than MIN_GROUPS groups are left out.
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
        told.sort(key=lambda each: each[2])  # of two equal values the one named "higher"
        best = max(told, key=lambda each: np.nan_to_num(each[0] - Z_95 * each[1], nan=-1).round(9), default=None)
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
    """The largest minus the smallest of (value, variance, name), its interval corrected for the number of pairs."""
    parts = [part for part in parts if not np.isnan(part[0])]
    if len(parts) < 2:
        return Evidence(label, signal, column, np.nan, np.nan, np.nan, images)
    least, most = min(parts), max(parts)
    gap, reach = most[0] - least[0], Z_95 * np.sqrt(most[1] + least[1])
    low, high = widen_for_tests(gap - reach, gap + reach, gap, len(parts) * (len(parts) - 1) // 2)
    return Evidence(label, signal, f"{column}: {most[2]} above {least[2]}", float(gap), float(low), float(high), images)


def _evidence(label: str, signal: str, where: str, value: float, error: float, images: int) -> Evidence:
    return Evidence(label, signal, where, float(value), float(value - Z_95 * error), float(value + Z_95 * error),
                    images)


def _enough(has: np.ndarray, groups: np.ndarray) -> bool:
    return min(len(np.unique(groups[has == side])) for side in (1, 0)) >= MIN_GROUPS


def stratified_auc(is_positive: np.ndarray, scores: np.ndarray, strata: np.ndarray,
                   groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs (C,) of C scores over pairs within a stratum, and their covariance (C, C), clustered by group.

    is_positive, strata, groups: (N,);  scores: (N, C). NaN if no stratum has both kinds.
    Sources: the linearised AUC of DeLong et al. 1988, https://doi.org/10.2307/2531595; its terms are summed by group as
    in Obuchowski 1997, https://doi.org/10.2307/2533958, and over strata weighted by their number of pairs.
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


# ---- alarms


def mark_alarms(evidence: list[Evidence]) -> pd.DataFrame:
    """A row per Evidence, with `threshold`, NaN for the gaps, and `alarm`, True if `low` is above it."""
    frame = pd.DataFrame(evidence, columns=Evidence._fields)
    threshold = frame["signal"].map(THRESHOLDS)
    return frame.assign(threshold=threshold, alarm=frame["low"] > threshold)


def strongest_signals(marked: pd.DataFrame) -> pd.DataFrame:
    """A row per label and signal of THRESHOLDS: the one of `mark_alarms` with the highest lower end.

    The value is NaN, without an alarm, if the signal is undefined everywhere.
    """
    frame = marked[marked["signal"].isin(list(THRESHOLDS))]
    order = frame.assign(known=frame["low"].fillna(-np.inf)).sort_values("known", ascending=False, kind="stable")
    return order.drop_duplicates(["label", "signal"]).drop(columns="known").sort_index().reset_index(drop=True)
