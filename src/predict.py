"""Predict the test images with all folds of a run:  python src/predict.py --experiment cnn_e

Writes submissions/<competition>-<experiment>.csv, checked against the sample submission, and a manifest beside it.
Any submission can be checked with:  python src/predict.py --check FILE
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from commandline import (
    add_experiment,
    add_fold,
    load_competition,
    load_folded_table,
    make_parser,
    pick_folds,
    run_names,
)
from competition import Competition
from folds import Folds
from hardware import pick_device, tune_process
from pixels import PixelSettings, open_store
from runs import read_oof, read_test, train_command, write_test
from submission import (
    check_submission,
    is_written,
    read_submission,
    read_template,
    submission_path,
    submit_probs,
    template_inputs,
)
from tables import read_part


def main(argv: list[str] | None = None) -> list[Path]:
    """Writes what is missing; returns the submissions' paths."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    add_fold(parser)
    parser.add_argument("--check", type=Path, metavar="FILE", help="only check this submission")
    args = parser.parse_args(argv)
    tune_process()
    competition, data_dir = load_competition(args)
    if args.check:
        return [check_file(competition, data_dir, args.check)]
    if competition.test is None:
        print(f"competition {competition.name!r} has no test part; there is nothing to predict")
        return []
    table, folds = load_folded_table(competition, data_dir)
    return [predict_run(competition, data_dir, name, table, folds, pick_folds(args.fold, folds.count))
            for name in run_names(args)]


def check_file(competition: Competition, data_dir: Path, path: Path) -> Path:
    """Prints what is wrong with a submission. Raises ValueError where it must not go up."""
    errors, warnings = check_submission(competition, read_template(competition, data_dir), read_submission(path))
    for warning in warnings:
        print(f"warning: {warning}")
    if errors:
        raise ValueError(f"{path} must not go up:\n  " + "\n  ".join(errors))
    print(f"{path} is as {competition.sample_submission or 'the test images'} asks for")
    return path


def predict_run(competition: Competition, data_dir: Path, name: str, table: pd.DataFrame, folds: Folds,
                wanted: list[int]) -> Path:
    """Predicts the test images with the wanted folds' models, saves the probabilities and writes the submission."""
    from checkpoints import load_model
    from training import predict_probs

    oof = read_oof(competition, name, table, folds.hash)
    if missing := tuple(fold for fold in wanted if fold in oof.folds_missing):
        raise FileNotFoundError(f"run {name!r} lacks the folds {list(missing)}; run: "
                                f"{train_command(competition, replace(oof, folds_missing=missing))}")
    if oof.members:
        raise ValueError(f"{name} is a blend; its submission is written by: python src/blend.py "
                         f"--experiment {' '.join(oof.members)}")
    runs = [run for run in oof.runs if run.recipe["fold"] in wanted]
    is_part = len(runs) < folds.count
    # never in the whole run's place
    submission = name + "".join(f"-fold{fold}" for fold in wanted) if is_part else name
    test = read_part(competition, data_dir, "test")
    settings = PixelSettings(runs[0].experiment.image_size, competition.channels)
    store = open_store(f"{competition.name}-test", test, settings)
    template = read_template(competition, data_dir)
    inputs = template_inputs(competition, template) | {
        "test_images": store.folder.name,
        "folds": folds.hash,
        "weights": replace(oof, runs=tuple(runs)).made_of,
        "experiment": runs[0].recipe["experiment"],
    }
    if is_written(competition, submission, inputs) and (
            is_part or read_test(competition, oof, test["image_id"]) is not None):
        print(f"{submission_path(competition, submission)} is there already, made from these very models and images")
        return submission_path(competition, submission)

    device, rows = pick_device(), store.rows(test["image_id"])
    probs = np.mean([predict_probs(load_model(run, device), store, rows, competition.task, run.experiment,
                                   np.array(run.result["prior"]), talk=True) for run in runs], axis=0)
    if not is_part:
        write_test(competition, oof, test["image_id"], probs)
    return submit_probs(competition, template, submission, test["image_id"], probs, oof.probs, table, inputs)


if __name__ == "__main__":
    main()
