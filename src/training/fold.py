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

from common.files import read_json, sha256, write_csv, write_json
from common.hardware import pick_device
from common.settings import for_labels, read_value
from competition import Competition
from data.folds import fold_numbers
from data.labels import scored_counts, scoring_targets
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.preprocessing import PREPROCESSING
from data.tables import headline_targets, label_cells
from experiment import Experiment
from models.architectures import Network
from models.classifier import Classifier, backbones_of, check_network, count_parameters
from models.frozen_features import FeatureStore, open_features
from models.heads import FeatureClassifier, head_name, put_head, uses_features
from models.pretrained import find_weights, is_file, weights_fingerprint
from models.reference_networks import Headed
from results.checkpoints import build_network, load_checkpoint, save_checkpoint, save_weights, start_from_run
from results.runs import Run, open_snapshot, probs_frame, run_folder, write_probs
from scoring.metrics import METRICS, score
from training.augmentation import AUGMENTATIONS
from training.batches import ordered_batches, training_batches
from training.device_input import DevicePixels, load_device_pixels
from training.distributed import first_alone, from_first, rank, world
from training.early_stopping import EarlyStopping
from training.ema import EMA
from training.fitted_heads import Examples, check_solver, fit_head
from training.fold_data import FoldData, fold_prior, prepare_fold_data, teachers
from training.freezing import set_trainable
from training.loop import LossNotFinite, predict_logits, train_one_epoch
from training.losses import PROBS, best_constant_loss, best_possible_loss, check_loss, make_loss
from training.mixup import check_mixing
from training.optimizers import build_optimizer
from training.precision import Step, choose_precision
from training.sampling import draw_epoch, epoch_length
from training.schedule import lr_factor
from training.tta import VIEWS

PREDICT_BATCH = 64
LOG_COLUMNS = ["epoch", "stage", "loss", "inner_score", "seconds"]  # of log.csv, a row an epoch
MIRRORING = ("warp_flip", "solt003", "hflip", "vflip", "rotate90")  # augmentations and views that mirror or turn


@dataclass(frozen=True)
class Training:
    """All that the training of one fold needs, and the checkpoint that says how far it is."""

    run: Run
    competition: Competition
    table: pd.DataFrame
    store: PixelStore | FeatureStore
    lessons: FoldData
    rows: np.ndarray                # (n,) the store's, of the lessons' images
    pixels: DevicePixels | None     # those images in a GPU's memory, where they fit
    network: torch.nn.Module        # what is saved and predicts images
    model: torch.nn.Module          # what is trained of it: all, or its head on features
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    prior: np.ndarray               # (K,) what is predicted for black images
    checkpoint: dict
    workers: int
    talk: bool


def train_fold(run: Run, competition: Competition, table: pd.DataFrame, threads: int, talk: bool = False,
               workers: int = 0) -> dict:
    """Trains on every fold but the run's and predicts that one; returns what result.json says.

    table: with `fold`, `group` and `constant`. Goes on from the last checkpoint where there is one, and then ends with the
    same weights, bit for bit, as without the interruption: each epoch draws from (seed, epoch) alone, and the number of
    threads and the precision stay those of the first start. talk: print a line an epoch. workers: processes that read
    and augment ahead, 0 for none; they change nothing in what is trained.
    """
    experiment = run.experiment
    store = _open_images(competition, table, experiment)
    lessons = prepare_fold_data(run, competition, table)

    checkpoint = _open_checkpoint(run, threads, lessons.teacher_weights)
    torch.set_num_threads(checkpoint["threads"])
    torch.manual_seed(experiment.seed)
    device = pick_device()
    network = build_network(run)
    for epoch in experiment.snapshots if rank() == 0 else ():  # where something else stands is said now
        open_snapshot(run, epoch)
    for stage in experiment.plan:  # what this network has not is refused now, not when its stage comes
        set_trainable(network, stage.what)
    network.requires_grad_(True)
    _note_start(checkpoint, load_start(run, competition, network), run)
    if network.left_out and talk:
        print(f"note: weights={experiment.weights}: {', '.join(network.left_out)} left out; the head starts at zero")
    network = network.to(device, memory_format=torch.channels_last)
    rows, pixels = store.rows(lessons.image_ids), None
    if uses_features(experiment):
        with first_alone():  # who computes them
            store, model = open_frozen(run, store, network)
        checkpoint["precision"] = "fp32"
    else:
        model = network
        checkpoint["precision"] = checkpoint["precision"] or pick_precision(run, model, device, threads)
        pixels = _load_pixels(checkpoint, store, rows, experiment.augmentation, device)
    if checkpoint["epoch"]:
        model.load_state_dict(checkpoint["model"])
    weights = None if lessons.weights is None else lessons.weights.to(device)
    loss_fn = make_loss(experiment.loss, competition.task, weights, experiment.label_smoothing)
    prior = fold_prior(competition, table, run, lessons)
    training = Training(run, competition, table, store, lessons, rows, pixels, network, model, loss_fn, prior,
                        checkpoint, workers, talk)
    if experiment.head_fit != "gradient":
        return finish_fold(solve(training) if rank() == 0 else training)
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


def solve(training: Training) -> Training:
    """Puts a head in the network's place for one that is fitted to the features at once."""
    experiment, lessons, start = training.run.experiment, training.lessons, time.perf_counter()
    examples = Examples(training.store.read(training.rows), lessons.targets, lessons.groups, lessons.expected,
                        lessons.weights)
    head = fit_head(experiment.head_fit, examples, training.competition.task, experiment.seed)
    put_head(training.network, head_name(training.network), head.to(pick_device()))
    training.checkpoint["epoch"] = 1
    training.checkpoint["seconds"] += time.perf_counter() - start
    return replace(training, model=FeatureClassifier(head, 0.0))


def pick_precision(run: Run, model: torch.nn.Module, device: str, threads: int) -> str:
    """The number format of the run's training steps: the recipe's, or what is fastest here."""
    experiment = run.experiment
    if experiment.precision != "auto":
        return experiment.precision
    step = Step(experiment.network, run.recipe["channels"], experiment.image_size,
                experiment.batch_size // experiment.accumulate, len(run.recipe["labels"]))
    return choose_precision(model, step, device, threads)


def prepare_run(run: Run, competition: Competition, table: pd.DataFrame, threads: int) -> None:
    """Does what all folds of a run share: the features of a frozen backbone, or the trial of number formats.

    So that no fold disturbs the trial, and folds side by side do not compute the same features.
    """
    experiment, device = run.experiment, pick_device()
    if uses_features(experiment):
        if not experiment.weights.startswith("run:"):  # else every fold has a backbone of its own
            torch.manual_seed(experiment.seed)  # as train_fold draws it, or these are another network's features
            network = build_network(run).to(device, memory_format=torch.channels_last)
            open_frozen(run, _open_images(competition, table, experiment), network)
    elif experiment.precision == "auto":
        model = build_network(run, weights="none").to(device, memory_format=torch.channels_last)
        pick_precision(run, model, device, threads)


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
    """What a fold starts from, in its checkpoint, and the same in one that is taken up again."""
    if checkpoint.setdefault("started_from", started_from) != started_from:
        raise ValueError(f"weights={run.experiment.weights} have changed since {run.folder} started from them; delete "
                         f"{run.folder} to train this fold from the start")


def _load_pixels(checkpoint: dict, store: PixelStore, rows: np.ndarray, augmentation: str,
                 device: str) -> DevicePixels | None:
    """The images in the GPU's memory where they fit; a fold that is taken up again has them where it had them.

    What a GPU augments differs by a grey level here and there from what the processor does.
    """
    before = checkpoint.get("images_on_device")
    pixels = None if before is False else load_device_pixels(store, rows, augmentation, device)
    if before and pixels is None:
        raise RuntimeError("this fold was begun with its images in the GPU's memory, and they no longer fit there; "
                           "free that memory and run the command again, or delete the fold's folder to train it anew")
    checkpoint["images_on_device"] = pixels is not None
    return pixels


def train_stage(training: Training, number: int) -> None:
    """Trains the stage of that number of the recipe's plan, or the rest of it; the model then has what it ended with.

    That is the moving average of the weights: of the last epoch, or with `patience` of the best by the inner split.
    """
    experiment, checkpoint, model = training.run.experiment, training.checkpoint, training.model
    stage = experiment.plan[number]
    on_features = model is not training.network
    set_trainable(model, "all" if on_features else stage.what)
    ema = EMA(model, experiment.ema_decay)
    optimizer = build_optimizer(model, experiment.optimizer, stage.lr, experiment.weight_decay,
                                1.0 if on_features else experiment.layer_decay)
    watch = EarlyStopping(METRICS[training.competition.metric].greater_is_better)
    steps_an_epoch = -(-epoch_length(training.lessons.expected) // experiment.batch_size)
    kind, numbers = read_value(experiment.schedule)
    scheduler = LambdaLR(optimizer, lambda step: watch.factor * lr_factor(
        kind, step, stage.epochs * steps_an_epoch, steps_an_epoch, experiment.warmup, numbers))
    parts = {"ema": ema, "optimizer": optimizer, "scheduler": scheduler, "watch": watch}
    if checkpoint["stage_epoch"]:
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])

    while checkpoint["stage_epoch"] < stage.epochs and not watch.is_over(experiment.patience):
        start = time.perf_counter()
        loss = _train_epoch(training, optimizer, scheduler, ema)
        inner_score = math.nan
        if experiment.val_fraction:
            inner_score = from_first(_score_inner(training, ema.model) if rank() == 0 else None)
            if watch.see(inner_score) and experiment.patience:  # nobody else asks for them
                checkpoint["best"] = copy.deepcopy(ema.model.state_dict())
            if kind == "plateau":
                watch.lower(int(numbers[0]), numbers[1])
        checkpoint["seconds"] += time.perf_counter() - start
        checkpoint["epoch"] += 1
        checkpoint["stage_epoch"] += 1
        checkpoint["log"].append((checkpoint["epoch"], stage.what, round(loss, 6), round(inner_score, 6),
                                  round(checkpoint["seconds"], 2)))
        checkpoint |= {"model": model.state_dict(), **{name: part.state_dict() for name, part in parts.items()}}
        if checkpoint["epoch"] in experiment.snapshots and rank() == 0:  # first: a kill after the checkpoint skips it
            snapshot = open_snapshot(training.run, checkpoint["epoch"])
            _finish(replace(training, run=snapshot, network=ema.model, model=ema.model))
        _save_epoch(training)

    model.load_state_dict(checkpoint["best"] if experiment.patience else ema.model.state_dict())
    checkpoint |= {"stage": number + 1, "stage_epoch": 0, "best": {}, "model": model.state_dict()}


def _train_epoch(training: Training, optimizer: torch.optim.Optimizer, scheduler: LambdaLR, ema: EMA) -> float:
    experiment, lessons, epoch = training.run.experiment, training.lessons, training.checkpoint["epoch"]
    torch.manual_seed(epoch_seed(experiment.seed, epoch, rank()))  # dropout
    targets = lessons.draw_targets(training.competition, experiment, epoch)
    loader = training_batches(training.store, training.rows, targets, experiment.batch_size, experiment.augmentation,
                              experiment.seed, epoch, training.workers, lessons.expected, training.pixels)
    try:
        return train_one_epoch(training.model, loader, training.loss_fn, optimizer, scheduler, ema,
                               experiment.max_grad_norm, training.checkpoint["precision"], experiment.mix,
                               (experiment.seed, epoch), experiment.accumulate,
                               f"epoch {epoch + 1}" if training.talk else None)
    except LossNotFinite as error:
        ids = training.store.ids[error.rows.numpy()]
        raise FloatingPointError(
            f"{training.run.folder}: the loss of epoch {epoch + 1}, step {error.step + 1} is not finite; its images: "
            f"{', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}. Lower lr or max_grad_norm, "
            "set precision=fp32, or look at these images and their targets"
        ) from error


def _score_inner(training: Training, model: torch.nn.Module) -> float:
    """The competition's score on the images set apart inside the training folds."""
    competition, lessons = training.competition, training.lessons
    probs = predict_probs(model, training.store, training.store.rows(lessons.inner_ids), competition.task,
                          training.run.experiment, training.prior)
    return score(competition.metric, headline_targets(competition, lessons.inner_targets), probs, competition.task)


def _save_epoch(training: Training) -> None:
    if rank() > 0:
        return
    run, checkpoint = training.run, training.checkpoint
    save_checkpoint(run, checkpoint)
    write_csv(run.folder / "log.csv", pd.DataFrame(checkpoint["log"], columns=LOG_COLUMNS))
    if training.talk:
        epoch, what, loss, inner_score, seconds = checkpoint["log"][-1]
        print(f"fold {run.recipe['fold']}  epoch {epoch:3d}/{run.experiment.epochs}"
              f"{f'  {what:6}' if run.experiment.stages else ''}  loss {loss:.4f}"
              f"{f'  inner {inner_score:.4f}' if run.experiment.val_fraction else ''}  {seconds:6.1f} s")


def _open_images(competition: Competition, table: pd.DataFrame, experiment: Experiment) -> PixelStore:
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    if (changed := store.constant[store.rows(table["image_id"])] != table["constant"].to_numpy()).any():
        raise ValueError(f"image {table['image_id'][changed].iloc[0]!r} has changed since the folds were checked; run: "
                         f"python src/make_folds.py --competition {competition.name}")
    return store


def _open_checkpoint(run: Run, threads: int, teacher_weights: dict[str, str]) -> dict:
    """The last checkpoint, or what training starts with."""
    checkpoint = load_checkpoint(run) or {"epoch": 0, "stage": 0, "stage_epoch": 0, "seconds": 0.0, "log": [],
                                          "best": {}, "threads": threads, "precision": "", "teacher_weights": teacher_weights,
                                          "processes": world()}
    if checkpoint["teacher_weights"] != teacher_weights:
        raise ValueError(f"the run whose predictions {run.folder} is taught with has been trained anew since; delete "
                         f"{run.folder} to train this fold from the start")
    if checkpoint["processes"] != world():
        raise ValueError(f"{run.folder} was begun by {checkpoint['processes']} processes, now there are {world()}, "
                         f"which would end with other weights; start as many, or delete {run.folder}")
    return checkpoint


def finish_fold(training: Training) -> dict:
    """Predicts the held-out fold and writes weights, oof.csv and, last, result.json; returns what that says."""
    result = _finish(training) if rank() == 0 else None  # others wait for the first to predict
    return from_first(result)


def _finish(training: Training) -> dict:
    run, table, competition, lessons, checkpoint = (
        training.run, training.table, training.competition, training.lessons, training.checkpoint)
    store, model, task = training.store, training.model, competition.task
    held_out = fold_numbers(table, run.experiment.split) == run.recipe["fold"]
    cells, images = label_cells(competition, table)[held_out], table.loc[held_out, "image_id"]
    loss_fn = make_loss(run.experiment.loss, task, lessons.weights, run.experiment.label_smoothing)  # on the CPU
    learned = beats_constant_baseline(model, store, training.rows, lessons, task, run.experiment.seed, loss_fn)
    probs = predict_probs(model, store, store.rows(images), task, run.experiment, training.prior)
    weights_hash = save_weights(run, training.network)
    write_probs(run.folder / "oof.csv", probs_frame(competition, images, probs))
    result = {
        "score": score(competition.metric, headline_targets(competition, scoring_targets(cells)), probs, task),
        "images": len(images),
        "scored": {label: {"certain": int(certain), "positive": int(positive)} for label, (certain, positive)
                   in zip(competition.labels, scored_counts(cells), strict=True)},
        "trained_on": len(lessons.targets),
        **({"inner": len(lessons.inner_ids)} if len(lessons.inner_ids) else {}),
        "epoch_length": epoch_length(lessons.expected),
        "epochs": checkpoint["epoch"],
        "learned": learned,
        "parameters": count_parameters(training.network),
        "seconds": round(checkpoint["seconds"], 2),
        "prior": training.prior.round(6).tolist(),
        **({"loss": checkpoint["log"][-1][LOG_COLUMNS.index("loss")]} if checkpoint["log"] else {}),
        "weights_sha256": weights_hash,
        **({"started_from": checkpoint["started_from"]} if checkpoint["started_from"] else {}),
        **({"teacher_weights": lessons.teacher_weights} if lessons.teacher_weights else {}),
        "environment": {"device": pick_device(), "threads": checkpoint["threads"], "processes": world(),
                        "precision": checkpoint["precision"], "torch": torch.__version__},
    }
    write_json(run.folder / "result.json", result)  # its being there says that the fold is done
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def beats_constant_baseline(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, lessons: FoldData, task: str, seed: int,
                loss_fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """False where the network's loss on images it was trained on is no better than that of the best constant.

    Better by 2 % of all there is to gain, which is what lies between the best constant's loss and what soft targets or
    smoothed labels leave at the least. All three are of the loss that was trained with, on the CPU, as sampled.
    """
    some = draw_epoch(lessons.expected, seed, 0)[:1024]  # so many say enough
    targets = torch.from_numpy(lessons.targets[some])
    logits = predict_logits(model, ordered_batches(store, rows[some], PREDICT_BATCH), ("identity",))
    blind, least = best_constant_loss(loss_fn, targets, task), best_possible_loss(loss_fn, targets, task)
    return loss_fn(logits, targets).item() - least < 0.98 * (blind - least)


def check_experiment(experiment: Experiment, competition: Competition) -> list[str]:
    """What is doubtful about a recipe on a competition, in sentences.

    Raises ValueError or FileNotFoundError where a name in it means nothing here, before anything is trained.
    """
    for field, known in (("augmentation", AUGMENTATIONS), ("tta", VIEWS), ("preprocessing", PREPROCESSING)):
        value = getattr(experiment, field)
        if strange := set(value if isinstance(value, tuple) else (value,)) - set(known):
            raise ValueError(f"{field}={min(strange)}: there is no such name; there are {', '.join(known)}")
    if experiment.per_task and competition.task == "multiclass":
        raise ValueError("per_task trains one network a label, but classes exclude one another; set per_task=false")
    check_network(experiment.network, experiment.weights, experiment.head)
    _refuse_weights_of_other_folds(experiment, competition)
    check_loss(experiment.loss, competition.task, experiment.label_smoothing, experiment.loss_weights != "none")
    if experiment.loss.startswith(("auc_margin", "soft_f1")) and experiment.accumulate * world() > 1:
        raise ValueError(f"loss={experiment.loss} compares the images of a whole batch, which {experiment.accumulate} "
                         f"parts and {world()} processes take apart; set accumulate=1, and train with one process")
    check_mixing(experiment.mix)
    if experiment.snapshots and uses_features(experiment):
        raise ValueError("snapshots are of whole networks, and here heads learn on frozen features; set snapshots=")
    check_solver(experiment)
    notes = _check_labels(experiment, competition)
    mirrors = [name for name in (experiment.augmentation, *experiment.tta) if name in MIRRORING]
    if competition.laterality and mirrors:
        notes.append(f"{', '.join(mirrors)} mirrors images, and in {competition.name} left and right differ")
    return notes


def _refuse_weights_of_other_folds(experiment: Experiment, competition: Competition) -> None:
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
    """The same for label policies, sampler and loss weights."""
    uncertain = for_labels("uncertain", experiment.uncertain, competition.labels, "ignore")
    for_labels("missing_labels", experiment.missing_labels, competition.labels, "ignore")
    for_labels("label_repeats", experiment.label_repeats, competition.labels, "0")
    for teacher in teachers(uncertain):
        folder = run_folder(competition, teacher)
        if not any(folder.glob("fold*/result.json")) and not (folder / "blend.json").exists():
            raise FileNotFoundError(f"uncertain=self:{teacher}: there is no such run that is finished; first run: "
                                    f"python src/train.py --competition {competition.name} --experiment {teacher}")
    if competition.task == "multiclass":
        if len(set(uncertain)) > 1 or not uncertain[0].startswith(("ignore", "self:")):
            raise ValueError(f"uncertain={','.join(experiment.uncertain)}: where classes exclude one another, a row "
                             "with an uncertain one is ignored or predicted as a whole; set ignore or self:RUN")
        if experiment.loss_weights == "pos_weight":
            raise ValueError("loss_weights=pos_weight is for labels that can be present or not; for classes there is "
                             "balanced")
    if experiment.sampler != "natural" and experiment.loss_weights != "none":
        return [f"sampler={experiment.sampler} and loss_weights={experiment.loss_weights} both make up for rare "
                "labels; together they do it twice"]
    return []


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """A seed for torch's generator that is a function of (seed, epoch), and of the process where several train."""
    return int(np.random.SeedSequence([seed, epoch, *([process] if process else [])]).generate_state(1)[0])


def predict_probs(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, task: str, experiment: Experiment,
                  prior: np.ndarray, talk: bool = False) -> np.ndarray:
    """Probabilities (n, K) of the store's rows, the mean of logits over the experiment's views.

    Images of one grey value show nothing: they get the training folds' prior unless the experiment keeps them.
    """
    loader = ordered_batches(store, rows, PREDICT_BATCH)
    logits = predict_logits(model, loader, experiment.tta, "predicting" if talk else None)
    if not logits.isfinite().all():
        raise FloatingPointError("the network's answers are not finite: training drove its weights there. Lower lr or "
                                 "max_grad_norm, or set precision=fp32, and train under another --name")
    probs = PROBS[task](logits).double().numpy()
    if experiment.constant_images != "keep":
        probs[store.constant[rows]] = prior
    return probs

