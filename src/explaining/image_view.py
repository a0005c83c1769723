"""A figure of one image explained by every method and every fold or member of a run or blend."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from common.hardware import pick_device
from competition import Competition
from data.folds import fold_numbers
from explaining.heatmap_sheet import Panel, draw_grid
from explaining.held_out_maps import BlendMember, fit_heat, largest_store, relative
from explaining.methods import METHODS, explain_images, methods_for
from results.checkpoints import load_model
from results.runs import Run
from scoring.decision_rules import FittedRule
from training.batches import ordered_batches
from training.losses import PROBS

MOST_LABELS = 3  # the positive ones first, then the most probable
CAPTION = ("Evidence for the label, by method and model. Heat is divided by the map's maximum. Outlined in the image: "
           "the annotated finding.\nR²: LIME's cross-validated fit.")


@dataclass(frozen=True)
class Column:
    """A column of the figure: the mean of the maps of some models."""

    title: str
    models: tuple[tuple[BlendMember, Run], ...]


def make_columns(members: list[BlendMember], table: pd.DataFrame, row: int, is_training: bool) -> list[Column]:
    """A column per fold of a run; of a blend one per member, for a training image only by folds that held it out."""
    columns = []
    for member in members:
        fold = fold_numbers(table, member.runs[0].experiment.split)[row] if is_training else None
        if len(members) > 1:
            unseen = tuple((member, run) for run in member.runs if fold in (None, run.recipe["fold"]))
            columns += [Column(member.name, unseen)] if unseen else []
            continue
        for run in member.runs:
            how = "" if fold is None else "held out" if run.recipe["fold"] == fold else "trained on it"
            columns.append(Column(f"fold {run.recipe['fold']}  {how}", ((member, run),)))
    return columns


def view_image(competition: Competition, name: str, members: list[BlendMember], table: pd.DataFrame, row: int,
               cells: np.ndarray | None, fitted: FittedRule, masks: dict[int, np.ndarray]) -> Figure:
    """The figure of one row of a table.

    cells: (K,) its training labels, None if it has none;  fitted: the decision rule;  masks: label to (S, S) bool in
    the size of the largest store, where the finding is annotated.
    """
    device, image_id = pick_device(), table["image_id"].iloc[row]
    columns = make_columns(members, table, row, cells is not None)
    inputs = [[(load_model(run, device), run.recipe["task"], _image_of(member, image_id).to(device))
              for member, run in column.models] for column in columns]
    probs = np.stack([np.mean([_probs(*each) for each in column], axis=0) for column in inputs])   # (columns, K)
    probs = np.concatenate([probs, probs.mean(axis=0, keepdims=True)])
    labels = pick_labels(cells, probs[-1])
    store = largest_store(members)
    shown, size = store.read(store.rows([image_id]))[0], store.settings.size
    titles, rows = [*(column.title for column in columns), "mean of all"], []
    with tqdm(total=len(labels) * len(METHODS), desc=f"maps of {image_id}", unit="row", leave=False,
              disable=None) as bar:
        for k in labels:
            head = f"{competition.labels[k]}: {truth_text(cells, k)}   ({fitted.describe(k)})"
            for method in METHODS:
                heats, texts = _maps_by(inputs, method, k, size)
                texts = [f"p {prob:.3f}{text}" for prob, text in zip(probs[:, k], texts, strict=True)]
                panels = [None if heat is None else Panel(text, shown, *relative(heat), None)
                          for heat, text in zip(heats, texts, strict=True)]
                rows.append((head, METHODS[method].title, panels))
                bar.update()
    return draw_grid(f"{competition.name} / {name} / {image_id}", CAPTION, titles, shown,
                     [masks.get(k) for k in labels], rows)


def pick_labels(cells: np.ndarray | None, probs: np.ndarray) -> list[int]:
    """The first MOST_LABELS labels: positive ones, then the most probable. probs: (K,)."""
    stated = np.zeros(len(probs), bool) if cells is None else cells == 1
    return np.lexsort((-probs, ~stated))[:MOST_LABELS].tolist()


def truth_text(cells: np.ndarray | None, k: int) -> str:
    """The label's cell as text. cells: (K,), 1, 0, -1 (uncertain) or NaN (empty); None without labels."""
    if cells is None:
        return "truth unknown"
    return {1: "present", 0: "absent", -1: "uncertain"}.get(cells[k], "empty")


def _image_of(member: BlendMember, image_id: str) -> torch.Tensor:
    """(1, C, S, S) the image as the member's networks read it."""
    return next(iter(ordered_batches(member.store, member.store.rows([image_id]), 1)))[0]


@torch.no_grad()
def _probs(model: torch.nn.Module, task: str, image: torch.Tensor) -> np.ndarray:
    """(K,) the probabilities of one image."""
    return PROBS[task](model.eval()(image.float()))[0].double().cpu().numpy()


def _maps_by(inputs: list[list], method: str, k: int, size: int) -> tuple[list[np.ndarray | None], list[str]]:
    """A label's heat (S, S) by column and last the mean of all, None if the method explains no model; and their texts.
    """
    heats, texts = [], []
    for column in inputs:
        maps = [explain_images(method, model, image, k, task)
                for model, task, image in column if method in methods_for(model)]
        heats.append(np.mean([fit_heat(each.heat[0].cpu().numpy(), size) for each in maps], axis=0) if maps else None)
        fits = [each.fit.item() for each in maps if each.fit is not None]
        texts.append(f",  R² {np.mean(fits):.2f}" if fits else "")
    there = [heat for heat in heats if heat is not None]
    return [*heats, np.mean(there, axis=0) if there else None], [*texts, ""]
