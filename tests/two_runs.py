"""A small competition on disk, 120 images of 60 patients to train on and 60 to test, with two runs on three folds."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import make_folds
from common.files import write_json
from competition import COMPETITIONS, Competition
from data.folds import Folds
from experiment import EXPERIMENTS
from results.runs import Oof, open_run, probs_frame, read_oof, write_predictions, write_probs
from results.workspace import Workspace


def fabricate_two_runs(home: Path, monkeypatch: pytest.MonkeyPatch,
                       competition: Competition) -> tuple[pd.DataFrame, Folds, Oof]:
    """Registers the competition and writes its files and the runs "one" and "two", whose scores are far below 0.5.

    Returns the training table with folds, the folds, and the out-of-fold predictions of "one".
    """
    rng, data, count = np.random.default_rng(0), home / "data" / competition.name, len(competition.labels)
    (data / "images").mkdir(parents=True)
    truth = (rng.random((180, count)) < 0.3).astype(int)
    if competition.task == "multiclass":
        truth = np.eye(count, dtype=int)[rng.choice(count, 180, p=[0.6, 0.3, 0.1])]
    table = pd.DataFrame({"image_id": [f"i{number:03}" for number in range(180)],
                          "patient": [f"p{number // 2:02}" for number in range(180)]})
    table[list(competition.labels)] = truth
    for image_id in table["image_id"]:
        cv2.imwrite(str(data / "images" / f"{image_id}.png"), rng.integers(0, 256, (8, 8), dtype=np.uint8))
    table.iloc[:120].to_csv(data / "train.csv", index=False)
    table.iloc[120:].to_csv(data / "test.csv", index=False)
    monkeypatch.setitem(COMPETITIONS, competition.name, competition)
    make_folds.main(["--competition", competition.name, "--folds", "3"])
    workspace = Workspace(competition, data)
    folded, folds = workspace.table, workspace.folds
    for name, noise in (("one", 0.25), ("two", 0.35)):
        probs = np.clip(0.2 * truth + noise * rng.random((180, count)), 0, 1)
        if competition.task == "multiclass":
            probs /= probs.sum(axis=1, keepdims=True)
        by_id = pd.DataFrame(probs, index=table["image_id"])
        for fold in range(3):
            run = open_run(competition, name, fold, EXPERIMENTS["smoke"], folds.hash)
            ids = folded.loc[folded["fold"] == fold, "image_id"]
            write_probs(run.folder / "oof.csv", probs_frame(competition, ids, by_id.loc[ids].to_numpy()))
            write_json(run.folder / "result.json", {"weights_sha256": f"{name} {fold}", "seconds": 1, "parameters": 1,
                                                    "learned": True, "prior": [0.5] * count})
        oof = read_oof(competition, name, folded, folds.hash)
        write_predictions(competition, oof, "test", table["image_id"][120:], by_id.iloc[120:].to_numpy())
    return folded, folds, read_oof(competition, "one", folded, folds.hash)
