"""Predictions of a run's models for the images of a part, model by model: computed, kept and read."""

import numpy as np
import pandas as pd

from common.files import replace_atomically, sha256
from competition import Competition
from data.pixel_store import PixelStore
from results.runs import PROBS_FORMAT, Oof, Run, run_folder


def predict_models(competition: Competition, oof: Oof, images: dict[str, pd.Series], stores: dict[str, PixelStore],
                   device: str) -> dict[str, np.ndarray]:
    """Probabilities (F, n, K) of the ids of every part by each of the run's F models, in the order of oof.runs.

    Raises ValueError where a file of weights is not the one that was trained.
    """
    from results.checkpoints import load_model
    from training.inference import predict_probs

    probs = {part: [] for part in images}
    for run in oof.runs if images else ():
        check_weights(run)
        model, prior = load_model(run, device), np.array(run.result["prior"])
        for part, image_ids in images.items():
            probs[part].append(predict_probs(model, stores[part], stores[part].rows(image_ids), competition.task,
                                             run.experiment, prior, verbose=True))
    return {part: np.stack(each) for part, each in probs.items()}


def mean_of_models(probs: np.ndarray) -> np.ndarray:
    """(n, K) the mean of (F, n, K), added up model by model, so that the same models give the same bits."""
    return sum(probs) / len(probs)


def round_trip(probs: np.ndarray) -> np.ndarray:
    """(n, K) the probabilities as they come back from the file that a run's predictions are kept in.

    A file written from new predictions is then the same as one written from predictions that were read.
    """
    kept = [float(PROBS_FORMAT % value) for value in probs.ravel()]
    return np.array(kept, np.float64).reshape(probs.shape)


def check_weights(run: Run) -> None:
    """Raises ValueError where the weights on disk are not those that result.json says were trained."""
    path = run.folder / "weights.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; copy it back, or delete {run.folder} and train that fold again")
    if sha256(path.read_bytes()) != run.result["weights_sha256"]:
        raise ValueError(f"{path} is not what {run.folder / 'result.json'} says was trained; delete {run.folder} and "
                         "train that fold again")


def write_models(competition: Competition, oof: Oof, part: str, image_ids: pd.Series, probs: np.ndarray) -> None:
    """Keeps what each model predicted, (F, n, K), as <part>_models.npz of float32 in the run's folder."""
    with replace_atomically(run_folder(competition, oof.name) / f"{part}_models.npz") as temporary:
        with temporary.open("wb") as file:
            np.savez(file, ids=np.array(image_ids.tolist(), dtype=str), probs=probs.astype(np.float32),
                     weights=np.array(list(oof.made_of.values()), dtype=str))


def read_models(competition: Competition, oof: Oof, part: str, image_ids: pd.Series) -> np.ndarray | None:
    """(F, n, K) float32 what each model predicted of these ids; None where that was not kept, or by other models."""
    path = run_folder(competition, oof.name) / f"{part}_models.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        rows = pd.Index(kept["ids"].tolist(), dtype=object).get_indexer(pd.Index(image_ids.tolist(), dtype=object))
        if kept["weights"].tolist() != list(oof.made_of.values()) or (rows < 0).any():
            return None
        return kept["probs"][:, rows]
