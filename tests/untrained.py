"""Runs that nobody trained: a recipe, out-of-fold predictions and, where wanted, a network as it was drawn.

And networks with a head that was fitted at once.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from common.files import home, sha256, write_json
from competition import Competition, Part
from data.folds import Folds, attach_folds, read_folds
from data.tables import read_train
from experiment import EXPERIMENTS, Experiment
from models.classifier import Classifier
from models.heads import head_name, put_head
from results.checkpoints import build_network, load_model, save_weights
from results.runs import Oof, Run, open_run, probs_frame, read_oof, read_run, write_probs
from training.fitted_heads import Examples, fit_head


def write_untrained(competition: Competition, name: str, seed: int = 0, experiment: str = "cnn_b",
                    with_network: bool = False) -> tuple[Oof, pd.DataFrame, Folds]:
    """Every fold of a run of chance; returns it as it is read, the table and the folds."""
    rng, folds = np.random.default_rng(seed), read_folds(competition)
    table = attach_folds(competition, read_train(competition, home() / "data" / competition.name)[0], folds)
    for fold in range(folds.count):
        run = open_run(competition, name, fold, EXPERIMENTS[experiment], folds.hash)
        ids = table.loc[table["fold"] == fold, "image_id"]
        write_probs(run.folder / "oof.csv", probs_frame(competition, ids, rng.random((len(ids), 3))))
        digest = _save_network(run, seed + fold) if with_network else sha256(f"{name} {fold}")
        write_json(run.folder / "result.json", {"weights_sha256": digest, "prior": [0.25, 0.5, 0.125], "seconds": 1,
                                                "parameters": 1, "learned": True})
    return read_oof(competition, name, table, folds.hash), table, folds


def _save_network(run: Run, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(run)
        with torch.no_grad():
            for weights in network.parameters():  # the head starts at zero and would answer alike to every image
                weights += 0.1 * torch.randn_like(weights)
        return save_weights(run, network)


def with_fitted_head(head_fit: str, task: str, examples: Examples) -> tuple[Run, Classifier, torch.Tensor]:
    """A run, its network with a head fitted at once to the pixels of random images, and these, (N, 1, 8, 8) uint8.

    examples: N rows, whose features those pixels take the place of.
    """
    competition = Competition(name="some", about="no images", task=task, labels=("a", "b", "c"), metric="roc_auc",
                              train=Part(table="train.csv", images="{image_id}.png"))
    run = open_run(competition, head_fit, 0, Experiment(network="pixels", image_size=8, head_fit=head_fit), "no folds")
    images = torch.randint(0, 256, (len(examples.targets), 1, 8, 8), generator=torch.Generator().manual_seed(0),
                           dtype=torch.uint8)
    model = build_network(run)
    features = model.normalise(images).flatten(1).numpy()
    put_head(model, head_name(model), fit_head(head_fit, replace(examples, features=features), task, 0))
    return run, model, images


def save_and_load(run: Run, model: Classifier) -> Classifier:
    """The run's network as it comes back from the disk."""
    save_weights(run, model)
    write_json(run.folder / "result.json", {})
    return load_model(read_run(run.folder))
