"""Heat maps of held-out images, each by the models of a run or blend that did not train on its group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.hardware import pick_device
from competition import Competition
from data.folds import fold_numbers
from data.pixel_store import PixelStore, open_store, pixel_settings
from explaining.methods import METHODS, explain_images, methods_for
from results.runs import Oof, Run, train_command
from results.workspace import Workspace

if TYPE_CHECKING:
    from torch import nn

BATCH = 32  # images


@dataclass(frozen=True)
class BlendMember:
    """A run, alone or in a blend: its folds, and the images as its networks read them."""

    name: str
    runs: tuple[Run, ...]
    store: PixelStore


def read_trained(workspace: Workspace, name: str) -> Oof:
    """A run or blend; folds that are not trained are printed. Raises FileNotFoundError if no fold is finished."""
    oof = workspace.oof(name)
    command = train_command(workspace.competition, name, oof.folds_missing)
    if not oof.runs:
        raise FileNotFoundError(f"run {name!r} has no finished fold; run: {command}")
    if oof.folds_missing:
        print(f"{name}: folds {', '.join(map(str, oof.folds_missing))} are not trained; their images are left out. To "
              f"train them: {command}")
    return oof


def open_members(competition: Competition, oof: Oof, table: pd.DataFrame, part: str = "train") -> list[BlendMember]:
    """A blend's members, or the run alone, each with its pixel store of a part."""
    by_name: dict[str, list[Run]] = {}
    for run in oof.runs:
        by_name.setdefault(run.folder.parent.name, []).append(run)
    return [BlendMember(name, tuple(runs), open_store(f"{competition.name}-{part}", table,
                                                 pixel_settings(competition, runs[0].experiment)))
            for name, runs in by_name.items()]


def largest_store(members: list[BlendMember]) -> PixelStore:
    """The store with the largest images; a blend's maps have their size."""
    return max((member.store for member in members), key=lambda store: store.settings.size)


def explained_by(members: list[BlendMember], method: str) -> tuple[list[BlendMember], list[str]]:
    """The members that a method can explain, and the names of those that it cannot."""
    from results.checkpoints import load_model

    able = [member for member in members if method in methods_for(load_model(member.runs[0]))]
    return able, [member.name for member in members if member not in able]


def layer_name(member: BlendMember, method: str) -> str:
    """The name of the layer that a class activation map reads; "" for methods that read none."""
    from explaining.attribution import classifier_of
    from results.checkpoints import load_model

    return classifier_of(load_model(member.runs[0]), 0)[0].cam_layers.get(METHODS[method].cam_layer, "")


def held_out_maps(members: list[BlendMember], table: pd.DataFrame, wanted: set[tuple[int, int]],
                  method: str) -> Iterator[tuple[int, int, np.ndarray, bool]]:
    """Yields label, row, heat map (S, S) and whether it is empty, for all (label, row) wanted; the mean of members.

    The maps of a single member are not kept, because there may be many.
    """
    total = len(wanted) * len(members)
    with tqdm(total=total, desc=f"maps by {method}", unit="map", leave=False, disable=None) as bar:
        if len(members) == 1:
            yield from _maps_of(members[0], table, wanted, method, bar)
            return
        size, sums = largest_store(members).settings.size, {}
        for member in members:
            for k, row, heat, _ in _maps_of(member, table, wanted, method, bar):
                sums[k, row] = sums.get((k, row), 0) + fit_heat(heat, size)
        for (k, row), heat in sums.items():
            yield k, row, *relative(heat)


def _maps_of(member: BlendMember, table: pd.DataFrame, wanted: set[tuple[int, int]], method: str,
             bar: tqdm) -> Iterator[tuple[int, int, np.ndarray, bool]]:
    from results.checkpoints import load_model

    device, places = pick_device(), member.store.rows(table["image_id"])
    folds = fold_numbers(table, member.runs[0].experiment.split)
    for run in member.runs:
        rows = [row for _, row in wanted if folds[row] == run.recipe["fold"]]
        model = load_model(run, device) if rows else None
        for k in sorted({k for k, _ in wanted}) if rows else ():
            mine = np.array(sorted(row for label, row in wanted if label == k and row in {*rows}), int)
            for row, heat, is_empty in maps_of_rows(model, member, places, mine, k, method, bar):
                yield k, row, heat, is_empty


def maps_of_rows(model: "nn.Module", member: BlendMember, places: np.ndarray, rows: np.ndarray, k: int, method: str,
                 bar: tqdm | None = None) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Yields row, heat (S, S) and whether it is empty, by one model. places: (N,) the table's rows in the store."""
    from training.batches import ordered_batches

    device, task = next(model.parameters()).device, member.runs[0].recipe["task"]
    step = BATCH if METHODS[method].cam_layer else 1  # the others make their own batches of one image
    for images, _, stored in ordered_batches(member.store, places[rows], step) if len(rows) else ():
        maps = explain_images(method, model, images.to(device), k, task)
        done, rows = rows[:len(stored)], rows[len(stored):]
        yield from zip(done.tolist(), maps.heat.cpu().numpy(), maps.empty.tolist(), strict=True)
        if bar is not None:
            bar.update(len(done))


def fit_heat(heat: np.ndarray, size: int) -> np.ndarray:
    """Heat (S, S) as (size, size)."""
    return heat if len(heat) == size else cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR)


def relative(heat: np.ndarray) -> tuple[np.ndarray, bool]:
    """Heat (S, S) divided by its own maximum, and whether it is empty."""
    peak = heat.max()
    return (heat, True) if peak <= 0 else (heat / peak, False)
