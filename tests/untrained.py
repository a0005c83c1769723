"""Runs that nobody trained: a recipe, out-of-fold predictions and, where wanted, a network as it was drawn."""

import numpy as np
import pandas as pd

from competition import Competition
from experiment import EXPERIMENTS
from files import home, sha256, write_json
from folds import Folds, add_folds, read_folds
from runs import Oof, Run, open_run, probs_frame, read_oof, write_probs
from tables import read_train


def write_untrained(competition: Competition, name: str, seed: int = 0, experiment: str = "cnn_b",
                    with_network: bool = False) -> tuple[Oof, pd.DataFrame, Folds]:
    """Every fold of a run of chance; returns it as it is read, the table and the folds."""
    rng, folds = np.random.default_rng(seed), read_folds(competition)
    table = add_folds(competition, read_train(competition, home() / "data" / competition.name)[0], folds)
    for fold in range(folds.count):
        run = open_run(competition, name, fold, EXPERIMENTS[experiment], folds.hash)
        ids = table.loc[table["fold"] == fold, "image_id"]
        write_probs(run.folder / "oof.csv", probs_frame(competition, ids, rng.random((len(ids), 3))))
        digest = _save_network(run, seed + fold) if with_network else sha256(f"{name} {fold}")
        write_json(run.folder / "result.json", {"weights_sha256": digest, "prior": [0.25, 0.5, 0.125], "seconds": 1,
                                                "parameters": 1, "learned": True})
    return read_oof(competition, name, table, folds.hash), table, folds


def _save_network(run: Run, seed: int) -> str:
    import torch

    from checkpoints import build_from_recipe, save_weights

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_from_recipe(run.recipe)
        with torch.no_grad():
            for weights in network.parameters():  # the head starts at zero and would answer alike to every image
                weights += 0.1 * torch.randn_like(weights)
        return save_weights(run, network)
