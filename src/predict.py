"""Predict the test images with all folds of a run:  python src/predict.py --experiment cnn_e

Writes submissions/<competition>-<experiment>.csv, checked against the sample submission, and a manifest beside it.
Also predicts the official validation part and held-out images, if there are any, for the leaderboard.
src/submit.py checks any submission, and makes it again from weights and images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from commandline import (
    add_experiment,
    add_fold,
    load_workspace,
    make_parser,
    pick_folds,
    run_script,
    trained_names,
)
from common.commands import command_line
from common.files import sha256
from common.hardware import pick_device, tune_process
from competition import Competition
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import submitted_part
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import Oof, read_predictions, train_command, write_predictions
from results.workspace import Workspace
from submitting.manifest import describe_device, hash_images, model_name, read_computed, run_inputs
from submitting.prediction_checks import among_models
from submitting.submission import (
    fill_submission,
    is_written,
    read_template,
    submission_path,
    submitted_kind,
    template_inputs,
    write_submission,
)
from training.prediction import mean_of_models, predict_models, round_trip, write_models


def main(argv: list[str] | None = None) -> list[Path]:
    """Writes what is missing; returns the submissions' paths."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    add_fold(parser)
    parser.add_argument("--unreadable", choices=("error", "black"), default="error",
                        help="black: a test image that cannot be read counts as a black one; default: error")
    args = parser.parse_args(argv)
    tune_process()
    workspace = load_workspace(args)
    if not workspace.predicted_parts:
        print(f"competition {workspace.competition.name!r} has no test or official validation part, and "
              "no image is held out; there is nothing to predict")
        return []
    wanted = pick_folds(args.fold, workspace.folds.count)
    names = trained_names(args, all_folds=0 if args.fold else workspace.folds.count)
    paths = [predict_run(workspace, name, wanted, args.unreadable) for name in names]
    return [path for path in paths if path]


def predict_run(workspace: Workspace, name: str, wanted: list[int], unreadable: str = "error") -> Path | None:
    """Predicts all parts with the wanted folds' models, saves the probabilities and writes the submission.

    Returns the submission's path, None if no part is submitted. With some folds only, the submitted part alone is
    predicted, and the file's name has the folds' numbers, so that it does not replace the whole run's.
    """
    competition = workspace.competition
    oof = read_wanted(workspace, name, wanted)
    is_whole, submitted = len(oof.runs) == workspace.folds.count, submitted_part(competition)
    parts = {part: images for part, images in workspace.predicted_parts.items() if is_whole or part == submitted}
    if not parts:
        print(f"{name}: no part of {competition.name!r} is submitted, and the others are predicted by all folds only")
        return None
    settings = pixel_settings(competition, oof.runs[0].experiment)
    stores = {part: open_store(f"{competition.name}-{part}", images, settings,
                               unreadable=unreadable if part == submitted else "error")
              for part, images in parts.items()}
    if submitted is None:
        predict_parts(competition, oof, parts, stores, is_whole, pick_device())
        print(f"{name}: {competition.name!r} has no part that is submitted")
        return None
    submission = name if is_whole else name + "".join(f"-fold{fold}" for fold in wanted)
    template = read_template(workspace)
    image_ids = parts[submitted]["image_id"]
    images = {name: hash_images(stores[submitted], image_ids)}
    inputs = template_inputs(competition, template) | run_inputs(competition, oof, images) | {
        "folds": workspace.folds.hash, "experiment": oof.runs[0].recipe["experiment"]}
    path, device = submission_path(competition, submission), pick_device()
    if not is_whole and submitted_kind(competition) == "decisions":  # fitted on the folds that are trained
        inputs["oof_probs"] = sha256(np.ascontiguousarray(oof.probs).tobytes())
    if is_whole:  # adopted rules apply to the whole run only
        inputs |= adopted_inputs(workspace, oof)
    is_current = is_written(competition, submission, inputs)
    probs = {} if is_current and not is_whole else predict_parts(competition, oof, parts, stores, is_whole, device)
    if is_current:
        print(f"{path} exists already, made from these models and images")
        return path
    rule = rule_for(workspace, oof, submitted_kind(competition)) if is_whole else None
    computed = read_computed(competition, oof, submitted) if is_whole else {name: describe_device(device)}
    frame, metadata = fill_submission(workspace, template, image_ids, probs[submitted], oof.probs, rule)
    return write_submission(competition, submission, template, frame, inputs, metadata | {"computed": computed})


def read_wanted(workspace: Workspace, name: str, wanted: list[int]) -> Oof:
    """The run with the models of the wanted folds and no others. Raises if one is missing, or for a blend."""
    competition = workspace.competition
    oof = workspace.oof(name)
    if missing := tuple(fold for fold in wanted if fold in oof.folds_missing):
        raise FileNotFoundError(f"run {name!r} lacks the folds {list(missing)}; run: "
                                f"{train_command(competition, name, missing)}")
    if oof.members:
        stem = name.removesuffix(f"_{oof.kind}")
        raise ValueError(f"{name} is a blend; its submission is written by: "
                         f"{command_line('blend', competition, experiment=oof.members, name=stem, method=oof.kind)}")
    return replace(oof, runs=tuple(run for run in oof.runs if run.recipe["fold"] in wanted))


def predict_parts(competition: Competition, oof: Oof, parts: dict[str, pd.DataFrame], stores: dict[str, PixelStore],
                  is_whole: bool, device: str) -> dict[str, np.ndarray]:
    """Probabilities (n, K) of every part, the mean over the models; those of a whole run are saved, and read again."""
    ids = {part: images["image_id"] for part, images in parts.items()}
    probs = {part: read_predictions(competition, oof, part, ids[part], stores[part].folder.name) if is_whole else None
             for part in parts}
    todo = {part: ids[part] for part in parts if probs[part] is None}
    for part, by_model in predict_models(competition, oof, todo, stores, device).items():
        probs[part] = mean_of_models(by_model)
        if is_whole:
            probs[part] = round_trip(probs[part])
            write_models(competition, oof, part, ids[part], by_model)
            write_predictions(competition, oof, part, ids[part], probs[part], stores[part].folder.name,
                              {"pixels": hash_images(stores[part], ids[part]), "computed": describe_device(device)})
        print(f"{oof.name}: predicted the {len(ids[part])} images of the {part} part")
        for warning in among_models(competition.labels, by_model, list(map(model_name, oof.runs))):
            print(f"warning: {warning}")
    return probs


if __name__ == "__main__":
    run_script(main)
