"""Checks of a recipe before anything is trained: names, fields that contradict each other, the competition's task."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin, get_type_hints

from common.files import read_json, sha256
from common.settings import Choice, by_label, for_labels, patterns, read_for_labels, read_value
from competition import Competition
from data.labels import MISSING_POLICIES, UNCERTAIN_POLICIES
from data.preprocessing import PREPROCESSING, check_steps
from experiment import REPEATS, STAGES, WEIGHTS, Experiment
from models.classifier import check_network
from models.heads import uses_features
from models.pretrained import find_weights, is_file
from models.reference_networks import HEADS
from results.runs import run_folder, train_command
from training.augmentation import AUGMENTATIONS
from training.distributed import world
from training.fitted_heads import HEAD_FITS, check_head_fit
from training.fold_data import read_uncertain, teachers
from training.losses import LOSSES, check_loss
from training.mixup import MIXES
from training.optimization import OPTIMIZERS, SCHEDULES
from training.sampling import SAMPLERS
from training.tta import VIEWS

REGISTRIES: dict[str, Mapping[str, Choice]] = {  # by field of an Experiment
    "head": HEADS, "head_fit": HEAD_FITS, "augmentation": AUGMENTATIONS, "mix": MIXES, "loss": LOSSES,
    "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "sampler": SAMPLERS, "tta": VIEWS,
}
LABEL_REGISTRIES: dict[str, Mapping[str, Choice]] = {  # of fields with an entry for all labels or for one, Label=VALUE
    "uncertain": UNCERTAIN_POLICIES, "missing_labels": MISSING_POLICIES,
}


@dataclass(frozen=True)
class Field:
    """A field of an Experiment as `train.py --fields` lists it."""

    name: str
    default: str
    meaning: str              # its comment in experiment.py
    values: tuple[str, ...]   # how values are written; () where any number or text of the default's type is


def describe_fields() -> list[Field]:
    """The fields of an Experiment in their order, with the values that registries and types allow."""
    comments = dict(re.findall(r"^    (\w+): .* = .*?  # (.*)$", inspect.getsource(Experiment), re.MULTILINE))
    hints, others = get_type_hints(Experiment), {"weights": WEIGHTS, "stages": STAGES, "preprocessing": PREPROCESSING}
    described = []
    for field in fields(Experiment):
        default, values = field.default, tuple(others.get(field.name, ()))
        if registry := (REGISTRIES | LABEL_REGISTRIES).get(field.name):
            values = tuple(patterns(registry))
        elif get_origin(hints[field.name]) is Literal:
            values = get_args(hints[field.name])
        elif isinstance(default, bool):
            values = ("true", "false")
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        described.append(Field(field.name, text.lower() if isinstance(default, bool) else text,
                               comments[field.name], values))
    return described


def check_values(experiment: Experiment) -> None:
    """Raises ValueError where a field names no entry of its registry, with the nearest one, or fields contradict."""
    for field, registry in REGISTRIES.items():
        value = getattr(experiment, field)
        for text in value if isinstance(value, tuple) else (value,):
            read_value(field, text, registry)
    for field, registry in LABEL_REGISTRIES.items():
        for text in by_label(field, getattr(experiment, field), patterns(registry)).values():
            read_value(field, text, registry)
    check_steps(experiment.preprocessing)
    repeats = by_label("label_repeats", experiment.label_repeats, REPEATS)
    if "" in repeats:
        raise ValueError(f"label_repeats: {repeats['']!r} names no label; an entry is Label=NUMBER")
    if read_value("sampler", experiment.sampler, SAMPLERS).choice.repeats != bool(repeats):
        raise ValueError(f"sampler={experiment.sampler} with label_repeats="
                         f"{','.join(experiment.label_repeats) or '(none)'}: set sampler=label_repeats and at least "
                         "one Label=NUMBER, or neither")
    on_plateau = read_value("schedule", experiment.schedule, SCHEDULES).choice.on_plateau
    if (experiment.patience > 0 or on_plateau) != (experiment.val_fraction > 0):
        raise ValueError(f"patience={experiment.patience} and schedule={experiment.schedule} with val_fraction="
                         f"{experiment.val_fraction:g}: patience and schedule=plateau use the score on a part of the "
                         "training folds, val_fraction=0.1; nothing else does")
    check_head_fit(experiment)


def check_experiment(experiment: Experiment, competition: Competition) -> list[str]:
    """What is doubtful about a recipe on a competition, in sentences.

    Raises ValueError or FileNotFoundError where it cannot be trained there.
    """
    check_values(experiment)
    if experiment.per_task and competition.task == "multiclass":
        raise ValueError("per_task trains one network a label, but classes exclude one another; set per_task=false")
    check_network(experiment.network, experiment.weights, experiment.head)
    _check_weights_of_other_folds(experiment, competition)
    loss = check_loss(experiment.loss, competition.task, experiment.label_smoothing, experiment.loss_weights != "none")
    if loss.choice.whole_batch and experiment.accumulate * world() > 1:
        raise ValueError(f"loss={experiment.loss} compares the images of a whole batch, which {experiment.accumulate} "
                         f"parts and {world()} processes divide; set accumulate=1, and train with one process")
    if experiment.snapshots and uses_features(experiment):
        raise ValueError("snapshots are of whole networks, and here heads learn on frozen features; set snapshots=")
    notes = _check_labels(experiment, competition)
    augmentation = read_value("augmentation", experiment.augmentation, AUGMENTATIONS)
    mirrors = [augmentation.text] if augmentation.choice.mirrors else []
    mirrors += [view for view in experiment.tta if read_value("tta", view, VIEWS).choice.mirrors]
    if competition.laterality and mirrors:
        notes.append(f"{', '.join(mirrors)} mirrors images, and in {competition.name} left and right differ")
    return notes


def _check_weights_of_other_folds(experiment: Experiment, competition: Competition) -> None:
    """A file of this competition's runs may have been trained on what another fold holds out."""
    if not is_file(experiment.weights):
        return
    path, runs = find_weights(experiment.network, experiment.weights).resolve(), run_folder(competition, "").resolve()
    if path.is_relative_to(runs):
        raise ValueError(f"weights={experiment.weights}: a run of this competition has seen images that other folds "
                         f"hold out; set weights=run:{path.relative_to(runs).parts[0]}, which takes the same fold's")
    content = sha256(path.read_bytes())
    for result in runs.glob("*/fold*/result.json"):
        if read_json(result)["weights_sha256"] == content:
            raise ValueError(f"weights={experiment.weights} is a copy of what {result.parent} learned, which has seen "
                             f"images that other folds hold out; set weights=run:{result.parent.parent.name}")


def _check_labels(experiment: Experiment, competition: Competition) -> list[str]:
    """As `check_experiment`, for label policies, sampler and loss weights."""
    uncertain = read_uncertain(experiment, competition.labels)
    read_for_labels("missing_labels", experiment.missing_labels, competition.labels, MISSING_POLICIES)
    for_labels("label_repeats", experiment.label_repeats, competition.labels, REPEATS, "0")
    for teacher in teachers(uncertain):
        folder = run_folder(competition, teacher)
        if not any(folder.glob("fold*/result.json")) and not (folder / "blend.json").exists():
            raise FileNotFoundError(f"uncertain=self:{teacher}: no finished run has this name; first run: "
                                    f"{train_command(competition, teacher)}")
    if competition.task == "multiclass":
        if len({policy.text for policy in uncertain}) > 1 or not uncertain[0].choice.for_classes:
            raise ValueError(f"uncertain={','.join(experiment.uncertain)}: where classes exclude one another, a row "
                             "with an uncertain one is ignored or predicted as a whole; set ignore or self:RUN")
        if experiment.loss_weights == "pos_weight":
            raise ValueError("loss_weights=pos_weight is for labels that can be present or not; for classes there is "
                             "balanced")
    if experiment.sampler != "natural" and experiment.loss_weights != "none":
        return [f"sampler={experiment.sampler} and loss_weights={experiment.loss_weights} both compensate for rare "
                "labels; together they do so twice"]
    return []
