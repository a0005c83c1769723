"""What a network is trained on while one fold is held out: images of the other folds, targets, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from common.files import read_json
from common.settings import Value, for_labels, read_for_labels
from competition import Competition
from data.folds import fold_numbers
from data.labels import (
    MISSING_POLICIES,
    UNCERTAIN_POLICIES,
    first_of_each_vector,
    redraw_targets,
    scoring_targets,
    training_targets,
)
from data.splitting import holdout_mask
from data.tables import label_cells
from experiment import REPEATS, Experiment
from results.runs import Run, read_oof, run_folder, train_command
from scoring.metrics import prevalence, undefined_labels
from training.losses import best_constant, label_weights
from training.sampling import expected_counts


@dataclass(frozen=True)
class FoldData:
    """What a network is trained on while one fold is held out: the n chosen images in the table's order."""

    image_ids: np.ndarray           # (n,) str
    groups: np.ndarray              # (n,) str
    cells: np.ndarray               # (n, K) as in the table
    targets: np.ndarray             # (n, K) float32, NaN where the loss leaves a cell out; the mean of what epochs draw
    expected: np.ndarray            # (n,) how often an epoch shows each
    weights: torch.Tensor | None    # for the loss
    teacher_weights: dict[str, str]       # hashes of the weights whose predictions are targets, by run and fold
    val_ids: np.ndarray           # (m,) str, of the validation split, which is scored after every epoch
    val_targets: np.ndarray       # (m, K) as they are scored, see labels.scoring_targets
    uncertain: tuple[Value, ...] = ()  # (K,) policies for uncertain cells

    def draw_targets(self, labels: Sequence[str], seed: int, epoch: int) -> np.ndarray:
        """(n, K) the targets of one epoch."""
        return redraw_targets(self.targets, self.cells, self.uncertain, self.image_ids, labels, seed, epoch)


def prepare_fold_data(run: Run, competition: Competition, table: pd.DataFrame) -> FoldData:
    """What the run's fold is trained with; everything is counted in the other folds only.

    Raises ValueError or FileNotFoundError where there is nothing to train on, or a run that gives targets is not whole.
    """
    experiment, task, fold = run.experiment, competition.task, run.recipe["fold"]
    predictions, teacher_weights = read_given_targets(run, competition, table)
    cells, ids, groups = label_cells(competition, table), *(table[name].to_numpy(str) for name in ("image_id", "group"))
    used, targets = choose_training_rows(competition, table, experiment, fold, predictions)
    validation = choose_validation_rows(cells, groups, experiment, fold_numbers(table, experiment.split) != fold)
    used &= ~validation
    targets = targets[used]
    repeats = [int(number) for number in
               for_labels("label_repeats", experiment.label_repeats, competition.labels, REPEATS, "0")]
    return FoldData(ids[used], groups[used], cells[used], targets,
                   expected_counts(experiment.sampler, targets, task, repeats),
                   label_weights(experiment.loss_weights, targets, task), teacher_weights, ids[validation],
                   scoring_targets(cells[validation]), read_uncertain(experiment, competition.labels))


def read_uncertain(experiment: Experiment, labels: Sequence[str]) -> tuple[Value, ...]:
    """(K,) the policies for uncertain cells, in the labels' order. Raises ValueError where an entry is wrong."""
    return read_for_labels("uncertain", experiment.uncertain, labels, UNCERTAIN_POLICIES)


def choose_validation_rows(cells: np.ndarray, groups: np.ndarray, experiment: Experiment,
                           outside: np.ndarray) -> np.ndarray:
    """(N,) bool, rows of the validation split: whole groups of the training folds.

    cells: (N, K);  groups: (N,);  outside: (N,) bool, the rows of the training folds. No row is True without the
    experiment's `val_fraction`; the choice depends on its seed. Raises ValueError where there are too few groups.
    """
    validation = np.zeros(len(outside), bool)
    if experiment.val_fraction:
        targets = scoring_targets(cells[outside])
        advice = "set a larger val_fraction, or patience=0 and another schedule"
        try:
            validation[outside] = holdout_mask(targets, groups[outside], experiment.val_fraction, 1, experiment.seed)
        except ValueError as error:
            raise ValueError(f"val_fraction={experiment.val_fraction:g}: the training folds have too few groups to "
                             f"hold any out; {advice}") from error
        if undefined_labels(scoring_targets(cells[validation])).all():
            raise ValueError(f"val_fraction={experiment.val_fraction:g}: the {validation.sum()} validation images "
                             f"cannot be scored, since no label has positives and negatives among them; {advice}")
    return validation


def read_given_targets(run: Run, competition: Competition,
                       table: pd.DataFrame) -> tuple[np.ndarray | None, dict[str, str]]:
    """Out-of-fold predictions (N, K) of the runs that "self:RUN" names, and the hashes of the weights they come from.

    None and nothing where the recipe names none. Raises ValueError where such a run is this one, lacks a fold, was
    trained on another split, or was trained again since another fold of this run used it.
    """
    policies = read_uncertain(run.experiment, competition.labels)
    if not (named := teachers(policies)):
        return None, {}
    predictions, teacher_weights = np.full((len(table), len(policies)), np.nan), {}
    for teacher in named:
        oof = read_oof(competition, teacher, table, run.recipe["folds_sha256"])
        where = f"uncertain=self:{teacher}"
        if run.folder.parent in (run_folder(competition, teacher), *(each.folder.parent for each in oof.runs)):
            raise ValueError(f"{where}: its own predictions cannot be a run's targets; name one that was trained "
                             "with another policy")
        if oof.folds_missing:
            raise ValueError(f"{where}: that run lacks the folds {list(oof.folds_missing)}; run: "
                             f"{train_command(competition, oof.name, oof.folds_missing)}")
        if other := {each.experiment.split for each in oof.runs} - {run.experiment.split}:
            raise ValueError(f"{where}: that run was trained on split {min(other)}, this one is on split "
                             f"{run.experiment.split}; name a run of the same split")
        columns = [policy.text == f"self:{teacher}" for policy in policies]
        predictions[:, columns] = oof.probs[:, columns]
        teacher_weights |= oof.made_of
    for path in sorted(run.folder.parent.glob("fold*/result.json")):
        if read_json(path).get("teacher_weights", {}) != teacher_weights:
            raise ValueError(f"{path.parent} used predictions of other models than {', '.join(named)} has now; "
                             f"delete {run.folder.parent} and train it again")
    return predictions, teacher_weights


def teachers(policies: Sequence[Value]) -> list[str]:
    """The runs that "self:RUN" names."""
    return sorted({policy.arguments[0] for policy in policies if policy.name == "self"})


def choose_training_rows(competition: Competition, table: pd.DataFrame, experiment: Experiment, fold: int,
                         predictions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool, which of the table's images are trained on where `fold` is held out; and all targets (N, K).

    predictions: (N, K) for cells whose policy is "self:RUN".
    """
    labels, cells = competition.labels, label_cells(competition, table)
    outside = fold_numbers(table, experiment.split) != fold
    missing = read_for_labels("missing_labels", experiment.missing_labels, labels, MISSING_POLICIES)
    targets = training_targets(cells, read_uncertain(experiment, labels), missing, outside, predictions,
                               competition.task == "multiclass")
    used = outside & ~np.isnan(targets).all(axis=1)  # an image without a label has no loss
    constant = table["constant"].to_numpy()
    if experiment.constant_images == "one_per_label_vector":
        some = np.flatnonzero(used & constant)
        constant = constant.copy()
        constant[some[first_of_each_vector(cells[some], table["image_id"].iloc[some])]] = False
    if experiment.constant_images != "keep":
        used &= ~constant
    if not used.any():
        raise ValueError(f"no image outside fold {fold} has a label to train on")
    return used, targets


def fold_prior(competition: Competition, table: pd.DataFrame, run: Run, fold_data: FoldData) -> np.ndarray:
    """(K,) the prediction for images of one grey value: the training folds' prevalence, see `prior_as_trained`."""
    targets = scoring_targets(label_cells(competition, table))
    prior = np.nan_to_num(prevalence(targets[fold_numbers(table, run.experiment.split) != run.recipe["fold"]]), nan=0.5)
    if run.experiment.sampler != "natural" or fold_data.weights is not None:
        prior = prior_as_trained(prior, fold_data, competition.task)
    return prior


def prior_as_trained(prior: np.ndarray, fold_data: FoldData, task: str) -> np.ndarray:
    """(K,) the prior, shifted as sampler and loss weights shift the network's probabilities.

    Without the shift, the prior of images of one grey value would be too low or too high among those probabilities. The
    odds change as those of the best constant prediction do.
    """
    plain, seen = (np.clip(best_constant(fold_data.targets, task, weights, counts), 1e-6, 1 - 1e-6)
                   for weights, counts in ((None, None), (fold_data.weights, fold_data.expected)))
    if task == "multiclass":
        parts = prior * seen / plain
        return parts / parts.sum()
    parts = prior * seen / plain
    return parts / (parts + (1 - prior) * (1 - seen) / (1 - plain))
