"""Training one fold, from the table to weights and out-of-fold predictions."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from common.commands import command_line
from common.files import write_csv, write_json
from common.hardware import pick_device
from common.settings import read_value
from competition import Competition
from data.folds import fold_numbers
from data.labels import scored_counts, scoring_targets
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import headline_targets, label_cells
from experiment import Experiment
from models.architectures import Network
from models.classifier import Classifier, backbones_of, count_parameters
from models.frozen_features import FeatureStore, open_features
from models.heads import FeatureClassifier, head_name, put_head, uses_features
from models.pretrained import weights_fingerprint
from models.reference_networks import Headed
from results.checkpoints import build_network, load_checkpoint, save_checkpoint, save_weights, start_from_run
from results.runs import Run, open_snapshot, probs_frame, write_probs
from scoring.metrics import METRICS, score
from training.batches import ordered_batches, training_batches
from training.distributed import first_alone, from_first, rank, world
from training.fitted_heads import Examples, fit_head
from training.fold_data import FoldData, fold_prior, prepare_fold_data
from training.inference import PREDICT_BATCH, predict_probs
from training.loop import LossNotFinite, predict_logits, train_one_epoch
from training.losses import best_constant_loss, best_possible_loss, make_loss
from training.mixup import Mix, make_mix
from training.optimization import EMA, SCHEDULES, EarlyStopping, build_optimizer, set_trainable
from training.precision import choose_precision
from training.sampling import draw_epoch, epoch_length

LOG_COLUMNS = ["epoch", "stage", "loss", "val_score", "seconds"]  # of log.csv, a row an epoch


@dataclass(frozen=True)
class Training:
    """Everything that the training of one fold needs, and the checkpoint with its progress."""

    run: Run
    competition: Competition
    table: pd.DataFrame
    store: PixelStore | FeatureStore
    fold_data: FoldData
    rows: np.ndarray                # (n,) the store's rows of the training images
    network: torch.nn.Module        # what is saved and predicts images
    model: torch.nn.Module          # what is trained of it: all, or its head on features
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    mix: Mix
    prior: np.ndarray               # (K,) what is predicted for images of one grey value
    checkpoint: dict
    workers: int
    verbose: bool


def train_fold(run: Run, competition: Competition, table: pd.DataFrame, threads: int, verbose: bool = False,
               workers: int = 0) -> dict:
    """Trains on every fold but the run's and predicts that one; returns the content of result.json.

    It resumes from the last checkpoint where there is one, and then ends with the same weights, bit for bit, as without
    the interruption: each epoch draws from (seed, epoch) alone, and the number of threads and the precision stay those
    of the first start.
    table: the training table with the columns `fold`, `group` and `constant`.  threads: of torch, at the first start.
    verbose: True prints a line an epoch.  workers: processes that read and augment ahead, 0 for none; they do not
    change the weights.
    """
    experiment = run.experiment
    store = _open_images(competition, table, experiment)
    fold_data = prepare_fold_data(run, competition, table)

    checkpoint = _open_checkpoint(run, threads, fold_data.teacher_weights)
    torch.set_num_threads(checkpoint["threads"])
    torch.manual_seed(experiment.seed)
    device = pick_device()
    network = build_network(run)
    for epoch in experiment.snapshots if rank() == 0 else ():  # raises an error where the folder holds another run
        open_snapshot(run, epoch)
    for stage in experiment.plan:  # raises an error where the network lacks the layers
        set_trainable(network, stage.what)
    network.requires_grad_(True)
    _note_start(checkpoint, load_start(run, competition, network), run)
    if network.left_out and verbose:
        print(f"note: weights={experiment.weights}: {', '.join(network.left_out)} left out; the head starts at zero")
    network = network.to(device, memory_format=torch.channels_last)
    rows = store.rows(fold_data.image_ids)
    if uses_features(experiment):
        with first_alone():  # computes them
            store, model = open_frozen(run, store, network)
        checkpoint["precision"] = "fp32"
    else:
        model = network
        automatic = experiment.precision == "auto"
        checkpoint["precision"] = checkpoint["precision"] or (
            choose_precision(experiment.network, model, experiment.image_size, device) if automatic
            else experiment.precision)
    if checkpoint["epoch"]:
        model.load_state_dict(checkpoint["model"])
    weights = None if fold_data.weights is None else fold_data.weights.to(device)
    loss_fn = make_loss(experiment.loss, competition.task, weights, experiment.label_smoothing)
    prior = fold_prior(competition, table, run, fold_data)
    training = Training(run, competition, table, store, fold_data, rows, network, model, loss_fn,
                        make_mix(experiment.mix), prior, checkpoint, workers, verbose)
    if experiment.head_fit != "gradient":
        return finish_fold(fit_at_once(training) if rank() == 0 else training)
    for number in range(checkpoint["stage"], len(experiment.plan)):
        train_stage(training, number)
    return finish_fold(training)


def open_frozen(run: Run, store: PixelStore, network: Classifier) -> tuple[FeatureStore, FeatureClassifier]:
    """A frozen backbone's features of all images, and the network's own head, which learns on them.

    They are computed once for all folds of all runs with this backbone, these weights and these pixels.
    """
    features = open_features(f"{run.recipe['competition']}-train", network, store, run.experiment.network)
    dropout = 0.0 if isinstance(network.network, (Network, Headed)) else run.experiment.dropout  # those have their own
    return features, FeatureClassifier(network.get_submodule(head_name(network)), dropout)


def fit_at_once(training: Training) -> Training:
    """Fits a head to the features and puts it in the place of the network's."""
    experiment, fold_data, start = training.run.experiment, training.fold_data, time.perf_counter()
    examples = Examples(training.store.read(training.rows), fold_data.targets, fold_data.groups, fold_data.expected,
                        fold_data.weights)
    head = fit_head(experiment.head_fit, examples, training.competition.task, experiment.seed)
    put_head(training.network, head_name(training.network), head.to(pick_device()))
    training.checkpoint["epoch"] = 1
    training.checkpoint["seconds"] += time.perf_counter() - start
    return replace(training, model=FeatureClassifier(head, 0.0))


def prepare_run(run: Run, competition: Competition, table: pd.DataFrame) -> None:
    """Computes what all folds of a run share, the features of a frozen backbone, before folds train side by side."""
    experiment = run.experiment
    if uses_features(experiment) and not experiment.weights.startswith("run:"):  # else each fold has its own backbone
        torch.manual_seed(experiment.seed)  # as train_fold draws it, or these are another network's features
        network = build_network(run).to(pick_device(), memory_format=torch.channels_last)
        open_frozen(run, _open_images(competition, table, experiment), network)


def load_start(run: Run, competition: Competition, model: torch.nn.Module) -> dict[str, str]:
    """Loads the weights of another run where the recipe starts from them; hashes of what training starts from."""
    experiment = run.experiment
    if experiment.weights == "imagenet":
        return {f"imagenet {backbone}": weights_fingerprint(backbone, "imagenet")["imagenet"]
                for backbone in backbones_of(experiment.network)}
    if not experiment.weights.startswith("run:"):
        return weights_fingerprint(experiment.network, experiment.weights)
    return start_from_run(model, competition, experiment.weights.removeprefix("run:"), run.recipe["fold"], experiment,
                          run.recipe["folds_sha256"])


def _note_start(checkpoint: dict, started_from: dict[str, str], run: Run) -> None:
    """Notes in the checkpoint which weights training started from. Raises ValueError where they have changed since."""
    if checkpoint.setdefault("started_from", started_from) != started_from:
        raise ValueError(f"weights={run.experiment.weights} have changed since {run.folder} started from them; delete "
                         f"{run.folder} to train this fold from the start")


def train_stage(training: Training, number: int) -> None:
    """Trains stage `number` of the recipe's plan, or the rest of it; the model then has the weights it ended with.

    They are the moving average after the last epoch, or with `patience` after the best one by the validation score.
    """
    experiment, checkpoint, model = training.run.experiment, training.checkpoint, training.model
    stage = experiment.plan[number]
    on_features = model is not training.network
    set_trainable(model, "all" if on_features else stage.what)
    ema = EMA(model, experiment.ema_decay)
    optimizer = build_optimizer(model, experiment.optimizer, stage.lr, experiment.weight_decay,
                                1.0 if on_features else experiment.layer_decay)
    stopping = EarlyStopping(METRICS[training.competition.metric].greater_is_better)
    steps_an_epoch = -(-epoch_length(training.fold_data.expected) // experiment.batch_size)
    schedule = read_value("schedule", experiment.schedule, SCHEDULES)
    scheduler = LambdaLR(optimizer, lambda step: stopping.factor * schedule(
        step, stage.epochs * steps_an_epoch, steps_an_epoch, experiment.warmup))
    parts = {"ema": ema, "optimizer": optimizer, "scheduler": scheduler, "early_stopping": stopping}
    if checkpoint["stage_epoch"]:
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])

    while checkpoint["stage_epoch"] < stage.epochs and not stopping.should_stop(experiment.patience):
        start = time.perf_counter()
        loss = _train_epoch(training, optimizer, scheduler, ema)
        val_score = math.nan
        if experiment.val_fraction:
            val_score = from_first(_validation_score(training, ema.model) if rank() == 0 else None)
            if stopping.update(val_score) and experiment.patience:
                checkpoint["best"] = copy.deepcopy(ema.model.state_dict())
            if schedule.choice.on_plateau:
                stopping.reduce_lr(int(schedule.arguments[0]), schedule.arguments[1])
        checkpoint["seconds"] += time.perf_counter() - start
        checkpoint["epoch"] += 1
        checkpoint["stage_epoch"] += 1
        checkpoint["log"].append((checkpoint["epoch"], stage.what, round(loss, 6), round(val_score, 6),
                                  round(checkpoint["seconds"], 2)))
        checkpoint |= {"model": model.state_dict(), **{name: part.state_dict() for name, part in parts.items()}}
        if checkpoint["epoch"] in experiment.snapshots and rank() == 0:  # before the checkpoint: resuming skips it
            snapshot = open_snapshot(training.run, checkpoint["epoch"])
            _finish(replace(training, run=snapshot, network=ema.model, model=ema.model))
        _save_epoch(training)

    model.load_state_dict(checkpoint["best"] if experiment.patience else ema.model.state_dict())
    checkpoint |= {"stage": number + 1, "stage_epoch": 0, "best": {}, "model": model.state_dict()}


def _train_epoch(training: Training, optimizer: torch.optim.Optimizer, scheduler: LambdaLR, ema: EMA) -> float:
    experiment, fold_data, epoch = training.run.experiment, training.fold_data, training.checkpoint["epoch"]
    torch.manual_seed(epoch_seed(experiment.seed, epoch, rank()))  # dropout
    targets = fold_data.draw_targets(training.competition.labels, experiment.seed, epoch)
    loader = training_batches(training.store, training.rows, targets, experiment.batch_size, experiment.augmentation,
                              experiment.seed, epoch, training.workers, fold_data.expected)
    try:
        return train_one_epoch(training.model, loader, training.loss_fn, optimizer, scheduler, ema,
                               experiment.max_grad_norm, training.checkpoint["precision"], training.mix,
                               (experiment.seed, epoch), experiment.accumulate,
                               f"epoch {epoch + 1}" if training.verbose else None)
    except LossNotFinite as error:
        ids = training.store.ids[error.rows.numpy()]
        raise FloatingPointError(
            f"{training.run.folder}: the loss of epoch {epoch + 1}, step {error.step + 1} is not finite; its images: "
            f"{', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}. Lower lr or max_grad_norm, "
            "set precision=fp32, or look at these images and their targets"
        ) from error


def _validation_score(training: Training, model: torch.nn.Module) -> float:
    """The competition's score on the validation split, images of the training folds that are not trained on."""
    competition, fold_data = training.competition, training.fold_data
    probs = predict_probs(model, training.store, training.store.rows(fold_data.val_ids), competition.task,
                          training.run.experiment, training.prior)
    return score(competition.metric, headline_targets(competition, fold_data.val_targets), probs, competition.task)


def _save_epoch(training: Training) -> None:
    if rank() > 0:
        return
    run, checkpoint = training.run, training.checkpoint
    save_checkpoint(run, checkpoint)
    write_csv(run.folder / "log.csv", pd.DataFrame(checkpoint["log"], columns=LOG_COLUMNS))
    if training.verbose:
        epoch, what, loss, val_score, seconds = checkpoint["log"][-1]
        print(f"fold {run.recipe['fold']}  epoch {epoch:3d}/{run.experiment.epochs}"
              f"{f'  {what:6}' if run.experiment.stages else ''}  loss {loss:.4f}"
              f"{f'  validation {val_score:.4f}' if run.experiment.val_fraction else ''}  {seconds:6.1f} s")


def _open_images(competition: Competition, table: pd.DataFrame, experiment: Experiment) -> PixelStore:
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    if (changed := store.constant[store.rows(table["image_id"])] != table["constant"].to_numpy()).any():
        raise ValueError(f"image {table['image_id'][changed].iloc[0]!r} has changed since the folds were checked; run: "
                         f"{command_line('make_folds', competition)}")
    return store


def _open_checkpoint(run: Run, threads: int, teacher_weights: dict[str, str]) -> dict:
    """The last checkpoint, or what training starts with."""
    checkpoint = load_checkpoint(run) or {"epoch": 0, "stage": 0, "stage_epoch": 0, "seconds": 0.0, "log": [],
                                          "best": {}, "threads": threads, "precision": "",
                                          "teacher_weights": teacher_weights, "processes": world()}
    if checkpoint["teacher_weights"] != teacher_weights:
        raise ValueError(f"the run whose predictions are targets of {run.folder} has been trained anew; delete "
                         f"{run.folder} to train this fold from the start")
    if checkpoint["processes"] != world():
        raise ValueError(f"{run.folder} was begun by {checkpoint['processes']} processes, now there are {world()}, "
                         f"which would end with other weights; start as many, or delete {run.folder}")
    return checkpoint


def finish_fold(training: Training) -> dict:
    """Predicts the held-out fold and writes weights, oof.csv and, last, result.json; returns its content."""
    result = _finish(training) if rank() == 0 else None  # the others wait while the first predicts
    return from_first(result)


def _finish(training: Training) -> dict:
    run, table, competition, fold_data, checkpoint = (
        training.run, training.table, training.competition, training.fold_data, training.checkpoint)
    store, model, task = training.store, training.model, competition.task
    held_out = fold_numbers(table, run.experiment.split) == run.recipe["fold"]
    cells, images = label_cells(competition, table)[held_out], table.loc[held_out, "image_id"]
    loss_fn = make_loss(run.experiment.loss, task, fold_data.weights, run.experiment.label_smoothing)  # on the CPU
    learned = beats_constant_baseline(model, store, training.rows, fold_data, task, run.experiment.seed, loss_fn)
    probs = predict_probs(model, store, store.rows(images), task, run.experiment, training.prior)
    weights_hash = save_weights(run, training.network)
    write_probs(run.folder / "oof.csv", probs_frame(competition, images, probs))
    result = {
        "score": score(competition.metric, headline_targets(competition, scoring_targets(cells)), probs, task),
        "images": len(images),
        "scored": {label: {"certain": int(certain), "positive": int(positive)} for label, (certain, positive)
                   in zip(competition.labels, scored_counts(cells), strict=True)},
        "trained_on": len(fold_data.targets),
        **({"val_images": len(fold_data.val_ids)} if len(fold_data.val_ids) else {}),
        "epoch_length": epoch_length(fold_data.expected),
        "epochs": checkpoint["epoch"],
        "learned": learned,
        "parameters": count_parameters(training.network),
        "seconds": round(checkpoint["seconds"], 2),
        "prior": training.prior.round(6).tolist(),
        **({"loss": checkpoint["log"][-1][LOG_COLUMNS.index("loss")]} if checkpoint["log"] else {}),
        "weights_sha256": weights_hash,
        **({"started_from": checkpoint["started_from"]} if checkpoint["started_from"] else {}),
        **({"teacher_weights": fold_data.teacher_weights} if fold_data.teacher_weights else {}),
        "environment": {"device": pick_device(), "threads": checkpoint["threads"], "processes": world(),
                        "precision": checkpoint["precision"], "torch": torch.__version__},
    }
    write_json(run.folder / "result.json", result)  # marks the fold as done
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def beats_constant_baseline(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, fold_data: FoldData, task: str,
                            seed: int, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """True where the network's loss on up to 1,024 training images is below that of the best constant prediction.

    It must be below by 2 % of the range, from the best constant's loss down to the least loss that soft targets or
    smoothed labels allow. All three are of the loss that was trained with, as sampled, on the CPU.
    """
    some = draw_epoch(fold_data.expected, seed, 0)[:1024]
    targets = torch.from_numpy(fold_data.targets[some])
    logits = predict_logits(model, ordered_batches(store, rows[some], PREDICT_BATCH), ("identity",))
    blind, least = best_constant_loss(loss_fn, targets, task), best_possible_loss(loss_fn, targets, task)
    return loss_fn(logits, targets).item() - least < 0.98 * (blind - least)


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """A seed for torch's generator that is a function of (seed, epoch), and of the process where several train."""
    return int(np.random.SeedSequence([seed, epoch, *([process] if process else [])]).generate_state(1)[0])
