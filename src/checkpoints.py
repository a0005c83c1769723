"""A run's network on disk: the trained weights, and the checkpoint from which training goes on."""

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from experiment import from_recipe
from files import replace_atomically, sha256
from heads import fit_head_to
from model import build_model
from runs import Run


def build_from_recipe(recipe: dict, weights: str | None = None) -> nn.Module:
    """The run's network; `weights` overrides where training starts from ("none": any values, to be loaded over)."""
    experiment = from_recipe(recipe["experiment"])
    return build_model(experiment.network, recipe["channels"], experiment.image_size, len(recipe["labels"]),
                       experiment.dropout, weights or experiment.weights, experiment.per_task)


def load_model(run: Run, device: str = "cpu") -> nn.Module:
    """The run's trained network in evaluation mode. Needs nothing but the run's folder."""
    if not run.is_done:
        raise FileNotFoundError(f"{run.folder} is not finished; run: {run.recipe['command']}")
    model = build_from_recipe(run.recipe, weights="none")
    path = run.folder / "weights.safetensors"
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete {run.folder} and train that fold again") from error
    if run.experiment.solver == "svc":
        fit_head_to(model, saved, run.recipe["task"] == "multiclass")
    expected = model.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError(f"{path} does not fit the network that {run.folder / 'recipe.json'} names")
    model.load_state_dict(saved)
    return model.to(device).eval()


def save_weights(run: Run, model: nn.Module) -> str:
    """Writes the run's weights.safetensors as a whole; returns the file's hash."""
    path = run.folder / "weights.safetensors"
    with _explain_failure(path), replace_atomically(path) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, temporary)
    return sha256(path.read_bytes())


def save_checkpoint(run: Run, state: dict) -> None:
    """Writes the run's checkpoint.pt as a whole. Raises OSError where that fails; the last one is then still there."""
    path = run.folder / "checkpoint.pt"
    with _explain_failure(path), replace_atomically(path) as temporary:
        torch.save(state, temporary)


@contextmanager
def _explain_failure(path: Path) -> Iterator[None]:
    """Says what torch's "unexpected pos" and its like mean: the file could not be written."""
    try:
        yield
    except (RuntimeError, SafetensorError, OSError) as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(f"{path} could not be written ({free:.0f} MB are free there); make room and run the command "
                      "again: it goes on from the last whole checkpoint") from error


def load_checkpoint(run: Run) -> dict | None:
    """The last checkpoint, or None. Raises ValueError where the file cannot be read."""
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read; delete it to train this fold from the start") from error
