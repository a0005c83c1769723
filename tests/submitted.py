"""Generates small competitions with runs that are drawn at random, not trained, to check submissions against.

Each has tables, folds, oof predictions, test predictions of every fold's model, and two submissions with manifests,
written by the project's own functions.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import sha256, write_csv, write_json
from competition import Competition, Part
from data import folds as folds_module
from data.folds import folds_path
from data.tables import read_train
from experiment import EXPERIMENTS
from results.runs import open_run, probs_frame, write_predictions, write_probs
from results.workspace import Workspace
from submitting.manifest import read_computed, read_images, run_inputs
from submitting.submission import fill_submission, read_template, template_inputs, write_submission
from training.prediction import mean_of_models, round_trip, write_models

FOLDS = 4
MULTILABEL = Competition(name="multilabel", about="drawn", task="multilabel", labels=("mass", "nodule", "hernia"),
                         metric="roc_auc", train=Part(table="train.csv", images="images.txt"),
                         test=Part(table="test.csv", images="images.txt", labelled=False),
                         sample_submission="sample.csv")
COMPETITIONS = {competition.name: competition for competition in (
    MULTILABEL,
    replace(MULTILABEL, name="classes", task="multiclass", metric="roc_auc"),
    replace(MULTILABEL, name="binary", task="binary", labels=("mass",)),
    replace(MULTILABEL, name="hard", metric="f1_macro", submission="labels"),
    replace(MULTILABEL, name="text", metric="f1_macro", submission="text", submission_column="Predicted",
            label_separator=" ", label_map=(("0", "mass"), ("16", "nodule"), ("7", "hernia"))),
)}
RATES = {"multilabel": (0.45, 0.3, 0.12), "classes": (0.55, 0.3, 0.15), "binary": (0.7,), "hard": (0.45, 0.3, 0.12),
         "text": (0.45, 0.3, 0.12)}


@dataclass(frozen=True)
class Sample:
    """A competition, its data folder, which is the home folder too, and its two submissions."""

    competition: Competition
    folder: Path
    path: Path   # of the run "ours"
    rival: Path  # of the run "rival", submitted before


def image_names(count: int, first: int = 0) -> list[str]:
    """Ids like those of real competitions: digits with leading zeros, some with a letter."""
    return [f"x{i:05d}" if i % 3 == 2 else f"{i:06d}" for i in range(first, first + count)]


def draw_truth(competition: Competition, rates: tuple[float, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """(n, K) of 0 and 1; every label has positive and negative rows if there are enough rows."""
    if competition.task == "multiclass":
        truth = np.eye(len(rates))[rng.choice(len(rates), count, p=np.array(rates) / sum(rates))]
        truth[:len(rates)] = np.eye(len(rates))[:count]
        return truth
    truth = (rng.random((count, len(rates))) < rates).astype(float)
    if count > 3:
        truth[:2], truth[2:4] = 1, 0
    return truth


def draw_models(competition: Competition, truth: np.ndarray, appearance: np.ndarray, rates: tuple[float, ...],
                models: int, skill: float, rng: np.random.Generator) -> np.ndarray:
    """(F, n, K) probabilities of a run's models.

    appearance: (n, K) errors that all runs share; a run's models share further ones, and each has some of its own.
    """
    shared = rng.normal(0, 0.7, truth.shape)
    each = rng.normal(0, 0.5, (models, *truth.shape))
    logits = skill * (truth - 0.5) + appearance + shared + each + np.log(np.array(rates) / (1 - np.array(rates)))
    probs = 1 / (1 + np.exp(-logits))
    return probs / probs.sum(axis=-1, keepdims=True) if competition.task == "multiclass" else probs


def make_sample(name: str, folder: Path, images: int = 240, test_images: int = 240, seed: int = 0, skill: float = 2.0,
               rates: tuple[float, ...] | None = None, test_rates: tuple[float, ...] | None = None,
               constant: float = 0.0) -> Sample:
    """Writes a competition and its two runs into a folder that $STARTER_HOME must name.

    test_rates: the prevalence among the test images, by default `rates`;  constant: the share of constant images, which
    get the prior.
    """
    competition, rng = COMPETITIONS[name], np.random.default_rng(seed)
    rates = rates or RATES[name]
    truth = draw_truth(competition, rates, images, rng)
    test_truth = draw_truth(competition, test_rates or rates, test_images, rng)
    ids, test_ids = image_names(images), image_names(test_images, 3000)
    (folder / "images.txt").write_text("every image of these competitions is this file")
    write_csv(folder / "train.csv", pd.DataFrame({"image_id": ids, **dict(zip(competition.labels, truth.T.astype(int),
                                                                              strict=True))}))
    write_csv(folder / "test.csv", pd.DataFrame({"image_id": test_ids}))
    places = {"labels": dict.fromkeys(competition.labels, "0"), "text": {"Predicted": "0"},
              "probs": dict.fromkeys(competition.labels, "0.5")}[competition.submission]
    write_csv(folder / "sample.csv", pd.DataFrame({"image_id": test_ids, **places}))
    _write_folds(competition, folder, images)
    shown = rng.random(images) >= constant, rng.random(test_images) >= constant
    appearances = rng.normal(0, 0.7, truth.shape), rng.normal(0, 0.7, test_truth.shape)
    paths = [_write_run(competition, folder, run, (truth, test_truth), appearances, rates, skill, shown, rng)
             for run in ("rival", "ours")]
    return Sample(competition, folder, paths[1], paths[0])


def _write_folds(competition: Competition, folder: Path, images: int) -> None:
    table, path = read_train(competition, folder)[0], folds_path(competition)
    write_csv(path, pd.DataFrame({"image_id": table["image_id"], "fold": np.arange(images) % FOLDS}))
    write_json(path.with_suffix(".json"), {
        "duplicates": [], "constant": [], "split_groups_allowed": False, "made_by": "given",
        "sha256": sha256(path.read_bytes()), "table_sha256": folds_module._hash_table(competition, table)})


def _write_run(competition: Competition, folder: Path, name: str, truths: tuple[np.ndarray, np.ndarray],
               appearances: tuple[np.ndarray, np.ndarray], rates: tuple[float, ...], skill: float,
               shown: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> Path:
    """truths, appearances, shown: of the training and of the test images;  shown: False for constant images."""
    workspace = Workspace(competition, folder)
    folds, table = workspace.folds, workspace.table
    oof = draw_models(competition, truths[0], appearances[0], rates, 1, skill, rng)[0]
    models = draw_models(competition, truths[1], appearances[1], rates, FOLDS, skill, rng)
    prior = np.array(rates) / (sum(rates) if competition.task == "multiclass" else 1)
    oof[~shown[0]], models[:, ~shown[1]] = prior, prior
    for fold in range(FOLDS):
        run = open_run(competition, name, fold, EXPERIMENTS["cnn_b"], folds.hash)
        rows = (table["fold"] == fold).to_numpy()
        write_probs(run.folder / "oof.csv", probs_frame(competition, table.loc[rows, "image_id"], oof[rows]))
        write_json(run.folder / "result.json", {"weights_sha256": f"{name}{fold}", "prior": prior.tolist()})
    read = workspace.oof(name)
    template = read_template(workspace)
    ids, probs = template.frame["image_id"], round_trip(mean_of_models(models))
    write_models(competition, read, "test", ids, models)
    write_predictions(competition, read, "test", ids, probs, "images", {"pixels": "pixels", "computed": None})
    inputs = template_inputs(competition, template) | {"folds": folds.hash} | run_inputs(
        competition, read, read_images(competition, read, "test"))
    frame, metadata = fill_submission(workspace, template, ids, probs, read.probs)
    return write_submission(competition, name, template, frame, inputs,
                            metadata | {"computed": read_computed(competition, read, "test")})
