"""A run's network on disk: the trained weights, and the checkpoint from which training continues."""

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from common.files import replace_atomically, sha256
from competition import Competition
from data.pixel_store import image_channels
from experiment import Experiment
from models.classifier import Classifier, PerTask, build_model, head_names
from models.heads import fit_head_to
from models.pretrained import is_under, load_fitting
from results.runs import Run, read_run, run_folder, train_command


def build_network(run: Run, weights: str | None = None) -> nn.Module:
    """The run's network before training. weights: replaces the recipe's; "none" for random values."""
    experiment = run.experiment
    return build_model(experiment.network, run.recipe["channels"], experiment.image_size, len(run.recipe["labels"]),
                       experiment.dropout, weights or experiment.weights, experiment.per_task, experiment.head)


def load_model(run: Run, device: str = "cpu") -> nn.Module:
    """The run's trained network in evaluation mode, from the run's folder alone.

    Raises FileNotFoundError if the fold is not finished, ValueError if the weights are damaged or of another network.
    """
    if not run.is_done:
        raise FileNotFoundError(f"{run.folder} is not finished; run: {run.recipe['command']}")
    model = build_network(run, weights="none")
    path, saved = run.folder / "weights.safetensors", _read_weights(run)
    if run.experiment.head_fit != "gradient":
        fit_head_to(model, saved, run.recipe["task"] == "multiclass")
    expected = model.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError(f"{path} does not fit the network that {run.folder / 'recipe.json'} names")
    model.load_state_dict(saved)
    return model.to(device).eval()


def _read_weights(run: Run) -> dict[str, torch.Tensor]:
    path = run.folder / "weights.safetensors"
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete {run.folder} and retrain that fold") from error


def start_from_run(model: Classifier | PerTask, competition: Competition, name: str, fold: int, experiment: Experiment,
                   folds_hash: str) -> dict[str, str]:
    """Loads the weights of the same fold of another run; returns their hash by run and fold.

    Both runs hold out the same images, so no image that this one is scored on was ever trained on. The mean and std of
    the images are loaded too. A head of another shape or for other labels keeps the values of `model`;
    `model.left_out` then names its tensors.
    Raises FileNotFoundError if that fold is not finished, ValueError if it is the same run, or has other folds,
    another split, other images or another network.
    """
    where, folder = f"weights=run:{name}", run_folder(competition, name) / f"fold{fold}"
    if not (folder / "recipe.json").exists():
        blend = (folder.parent / "blend.json").exists()
        raise FileNotFoundError(f"{where}: " + ("that is a blend and has no weights; name one of its runs" if blend else
                                f"there is no {folder}; first run: {train_command(competition, name)}"))
    run = read_run(folder)
    if run.experiment.weights == where.partition("=")[2]:
        raise ValueError(f"{where}: a run cannot start from itself; give this one a --name of its own")
    if run.recipe["folds_sha256"] != folds_hash:
        raise ValueError(f"{where}: {folder} was trained on another folds file than folds/{competition.name}.csv; "
                         f"delete {folder.parent} and retrain it")
    there, now = run.experiment, experiment
    pairs = [(what, getattr(there, what), getattr(now, what)) for what in ("split", "network", "head", "per_task")]
    for what, its, ours in (*pairs, ("channels", run.recipe["channels"], image_channels(competition, now))):
        if its != ours:
            raise ValueError(f"{where}: that run has {what} {its}, this one {ours}; name a run with the same {what}")
    if not run.is_done:
        raise FileNotFoundError(f"{where}: {folder} is not finished; run: {run.recipe['command']}")
    path, trained = folder / "weights.safetensors", run.result["weights_sha256"]
    saved = _read_weights(run)
    if sha256(path.read_bytes()) != trained:
        raise ValueError(f"{path} is not what {folder / 'result.json'} says was trained; delete {folder} and "
                         "retrain that fold")
    heads = head_names(model)
    if (run.recipe["task"], run.recipe["labels"]) != (competition.task, list(competition.labels)):
        saved = {key: value for key, value in saved.items() if not is_under(key, heads)}
    model.left_out = load_fitting(model, saved, heads, path)
    return {f"{name}/{folder.name}": trained}


def save_weights(run: Run, model: nn.Module) -> str:
    """Writes the run's weights.safetensors atomically; returns the file's hash."""
    path = run.folder / "weights.safetensors"
    with _explain_failure(path), replace_atomically(path) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, temporary)
    return sha256(path.read_bytes())


def save_checkpoint(run: Run, state: dict) -> None:
    """Writes the run's checkpoint.pt atomically. Raises OSError on failure and keeps the previous checkpoint."""
    path = run.folder / "checkpoint.pt"
    with _explain_failure(path), replace_atomically(path) as temporary:
        torch.save(state, temporary)


@contextmanager
def _explain_failure(path: Path) -> Iterator[None]:
    """Replaces torch's "unexpected pos" and similar errors by an OSError that names the file and the free space."""
    try:
        yield
    except (RuntimeError, SafetensorError, OSError) as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(f"{path} could not be written ({free:.0f} MB are free there); make room and repeat the "
                      "command: it continues from the last complete checkpoint") from error


def load_checkpoint(run: Run) -> dict | None:
    """The last checkpoint, or None. Raises ValueError if the file cannot be read."""
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read; delete it to train this fold from the start") from error
