"""Training one fold, from the table to weights and out-of-fold predictions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from augmentation import AUGMENTATIONS
from checkpoints import build_from_recipe, load_checkpoint, save_checkpoint, save_weights
from competition import Competition
from ema import EMA
from engine import predict_logits, train_one_epoch
from experiment import Experiment
from files import read_json, write_csv, write_json
from folds import fold_numbers
from hardware import pick_device
from labels import first_of_each_vector, redraw_targets, scored_counts, scoring_targets, training_targets
from loader import ordered_batches, training_batches
from losses import PROBS, best_constant, best_constant_loss, best_possible_loss, label_weights, make_loss
from metrics import prevalence, score
from model import check_network, count_parameters, resolve_precision, weight_groups
from pixels import PixelStore, open_store, pixel_settings
from preprocessing import PREPROCESSING
from runs import Run, probs_frame, read_oof, run_folder, train_command, write_probs
from sampling import draw_epoch, epoch_length, expected_counts
from schedule import warmup_cosine
from settings import for_labels
from tables import headline_targets, label_cells
from tta import VIEWS

PREDICT_BATCH = 64
MIRRORING = ("warp_flip", "solt003", "hflip", "vflip", "rotate90")  # augmentations and views that mirror or turn


@dataclass(frozen=True)
class Lessons:
    """What a network is taught while one fold is held out: the n chosen images in the table's order."""

    image_ids: np.ndarray           # (n,) str
    cells: np.ndarray               # (n, K) as they stand in the table
    targets: np.ndarray             # (n, K) float32, NaN where nothing is taught; the mean of what epochs draw
    expected: np.ndarray            # (n,) how often an epoch shows each
    weights: torch.Tensor | None    # for the loss
    taught_by: dict[str, str]       # hashes of the weights whose predictions are targets, by run and fold

    def draw_targets(self, competition: Competition, experiment: Experiment, epoch: int) -> np.ndarray:
        """(n, K) the targets of one epoch."""
        uncertain = for_labels("uncertain", experiment.uncertain, competition.labels, "ignore")
        return redraw_targets(self.targets, self.cells, uncertain, self.image_ids, competition.labels, experiment.seed,
                              epoch)


def train_fold(run: Run, competition: Competition, table: pd.DataFrame, threads: int, talk: bool = False) -> dict:
    """Trains on every fold but the run's and predicts that one; returns what result.json says.

    table: with `fold` and `black`. Goes on from the last checkpoint where there is one, and then ends with the same
    weights, bit for bit, as without the interruption: each epoch draws from (seed, epoch) alone, and the number of
    threads and the precision stay those of the first start. talk: print a line an epoch.
    """
    experiment, fold = run.experiment, run.recipe["fold"]
    store = _open_images(competition, table, experiment)
    lessons = prepare_lessons(run, competition, table)
    rows = store.rows(lessons.image_ids)

    checkpoint = _open_checkpoint(run, threads, lessons.taught_by)
    torch.set_num_threads(checkpoint["threads"])
    torch.manual_seed(experiment.seed)
    device = pick_device()
    model = build_from_recipe(run.recipe).to(device, memory_format=torch.channels_last)
    checkpoint["precision"] = checkpoint["precision"] or resolve_precision(model, experiment.precision, device)
    ema = EMA(model, experiment.ema_decay)
    optimizer = AdamW(weight_groups(model, experiment.weight_decay), experiment.lr, fused=True)
    steps = experiment.epochs * -(-epoch_length(lessons.expected) // experiment.batch_size)
    scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, experiment.warmup))
    weights = None if lessons.weights is None else lessons.weights.to(device)
    loss_fn = make_loss(experiment.loss, competition.task, weights, experiment.label_smoothing)
    if checkpoint["epoch"]:
        for part, name in ((model, "model"), (ema, "ema"), (optimizer, "optimizer"), (scheduler, "scheduler")):
            part.load_state_dict(checkpoint[name])

    for epoch in range(checkpoint["epoch"], experiment.epochs):
        start = time.perf_counter()
        torch.manual_seed(epoch_seed(experiment.seed, epoch))  # dropout
        targets = lessons.draw_targets(competition, experiment, epoch)
        loader = training_batches(store, rows, targets, experiment.batch_size, experiment.augmentation,
                                  experiment.seed, epoch, expected=lessons.expected)
        loss = train_one_epoch(model, loader, loss_fn, optimizer, scheduler, ema, experiment.max_grad_norm,
                               checkpoint["precision"], f"epoch {epoch + 1}" if talk else None)
        checkpoint["seconds"] += time.perf_counter() - start
        checkpoint["log"].append((epoch + 1, round(loss, 6), round(checkpoint["seconds"], 2)))
        checkpoint |= {"epoch": epoch + 1, "model": model.state_dict(), "ema": ema.state_dict(),
                       "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        save_checkpoint(run, checkpoint)
        write_csv(run.folder / "log.csv", pd.DataFrame(checkpoint["log"], columns=["epoch", "loss", "seconds"]))
        if talk:
            print(f"fold {fold}  epoch {epoch + 1:3d}/{experiment.epochs}  loss {loss:.4f}  "
                  f"{checkpoint['seconds']:6.1f} s")

    return finish_fold(run, competition, table, store, ema.model, checkpoint, lessons)


def _open_images(competition: Competition, table: pd.DataFrame, experiment: Experiment) -> PixelStore:
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    if (changed := store.constant[store.rows(table["image_id"])] != table["black"].to_numpy()).any():
        raise ValueError(f"image {table['image_id'][changed].iloc[0]!r} has changed since the folds were checked; run: "
                         f"python src/make_folds.py --competition {competition.name}")
    return store


def _open_checkpoint(run: Run, threads: int, taught_by: dict[str, str]) -> dict:
    """The last checkpoint, or what training starts with."""
    checkpoint = load_checkpoint(run) or {"epoch": 0, "seconds": 0.0, "log": [], "threads": threads, "precision": "",
                                          "taught_by": taught_by}
    if checkpoint.get("taught_by", {}) != taught_by:
        raise ValueError(f"the run whose predictions {run.folder} is taught with has been trained anew since; delete "
                         f"{run.folder} to train this fold from the start")
    return checkpoint


def prepare_lessons(run: Run, competition: Competition, table: pd.DataFrame) -> Lessons:
    """What the run's fold is trained with; everything is counted in the other folds only.

    Raises ValueError or FileNotFoundError where there is nothing to train on, or a run that gives targets is not whole.
    """
    experiment, task = run.experiment, competition.task
    predictions, taught_by = read_given_targets(run, competition, table)
    used, targets = choose_training_rows(competition, table, experiment, run.recipe["fold"], predictions)
    targets = targets[used]
    copies = [int(number) for number in for_labels("copies", experiment.copies, competition.labels, "0")]
    return Lessons(table.loc[used, "image_id"].to_numpy(str), label_cells(competition, table)[used], targets,
                   expected_counts(experiment.sampler, targets, task, copies),
                   label_weights(experiment.loss_weights, targets, task), taught_by)


def read_given_targets(run: Run, competition: Competition,
                       table: pd.DataFrame) -> tuple[np.ndarray | None, dict[str, str]]:
    """Out-of-fold predictions (N, K) of the runs that "self:RUN" names, and the hashes of the weights they come from.

    None and nothing where the recipe names none. Raises ValueError where such a run is this one, lacks a fold, was
    trained on another split, or has been trained anew since another fold of this run was taught with it.
    """
    policies = for_labels("uncertain", run.experiment.uncertain, competition.labels, "ignore")
    if not (teachers := _teachers(policies)):
        return None, {}
    predictions, taught_by = np.full((len(table), len(policies)), np.nan), {}
    for teacher in teachers:
        oof = read_oof(competition, teacher, table, run.recipe["folds_sha256"])
        where = f"uncertain=self:{teacher}"
        if run.folder.parent in (run_folder(competition, teacher), *(each.folder.parent for each in oof.runs)):
            raise ValueError(f"{where}: a run cannot be taught with its own predictions; name one that was trained "
                             "with another policy")
        if oof.folds_missing:
            raise ValueError(f"{where}: that run lacks the folds {list(oof.folds_missing)}; run: "
                             f"{train_command(competition, oof)}")
        if other := {each.experiment.split for each in oof.runs} - {run.experiment.split}:
            raise ValueError(f"{where}: that run was trained on split {min(other)}, this one is on split "
                             f"{run.experiment.split}; name a run of the same split")
        columns = [policy == f"self:{teacher}" for policy in policies]
        predictions[:, columns] = oof.probs[:, columns]
        taught_by |= oof.made_of
    for path in sorted(run.folder.parent.glob("fold*/result.json")):
        if read_json(path).get("taught_by", {}) != taught_by:
            raise ValueError(f"{path.parent} was taught with other models than {', '.join(teachers)} has now; "
                             f"delete {run.folder.parent} and train it again")
    return predictions, taught_by


def _teachers(policies: tuple[str, ...]) -> list[str]:
    """The runs that "self:RUN" names."""
    return sorted({policy.partition(":")[2] for policy in policies if policy.startswith("self:")})


def choose_training_rows(competition: Competition, table: pd.DataFrame, experiment: Experiment, fold: int,
                         predictions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool, which of the table's images are trained on where `fold` is held out; and all targets (N, K).

    predictions: (N, K) for cells whose policy is "self:RUN".
    """
    labels, cells = competition.labels, label_cells(competition, table)
    outside = fold_numbers(table, experiment.split) != fold
    targets = training_targets(cells, for_labels("uncertain", experiment.uncertain, labels, "ignore"),
                               for_labels("blank", experiment.blank, labels, "ignore"), outside, predictions,
                               competition.task == "multiclass")
    used = outside & ~np.isnan(targets).all(axis=1)  # without a stated label an image teaches nothing
    black = table["black"].to_numpy()
    if experiment.black == "one_per_label_vector":
        some = np.flatnonzero(used & black)
        black = black.copy()
        black[some[first_of_each_vector(cells[some], table["image_id"].iloc[some])]] = False
    if experiment.black != "keep":
        used &= ~black
    if not used.any():
        raise ValueError(f"no image outside fold {fold} has a label to train on")
    return used, targets


def finish_fold(run: Run, competition: Competition, table: pd.DataFrame, store: PixelStore, model: torch.nn.Module,
                checkpoint: dict, lessons: Lessons) -> dict:
    """Predicts the held-out fold and writes weights, oof.csv and, last, result.json; returns what that says."""
    cells, held_out = label_cells(competition, table), fold_numbers(table, run.experiment.split) == run.recipe["fold"]
    targets, images = scoring_targets(cells), table.loc[held_out, "image_id"]
    prior = np.nan_to_num(prevalence(targets[~held_out]), nan=0.5)
    if run.experiment.sampler != "natural" or lessons.weights is not None:
        prior = prior_as_trained(prior, lessons, competition.task)
    loss_fn = make_loss(run.experiment.loss, competition.task, lessons.weights, run.experiment.label_smoothing)
    learned = has_learned(model, store, store.rows(lessons.image_ids), lessons, competition.task, run.experiment.seed,
                          loss_fn)
    probs = predict_probs(model, store, store.rows(images), competition.task, run.experiment, prior)
    weights_hash = save_weights(run, model)
    write_probs(run.folder / "oof.csv", probs_frame(competition, images, probs))
    result = {
        "score": score(competition.metric, headline_targets(competition, targets[held_out]), probs, competition.task),
        "images": len(images),
        "scored": {label: {"certain": int(certain), "positive": int(positive)} for label, (certain, positive)
                   in zip(competition.labels, scored_counts(cells[held_out]), strict=True)},
        "trained_on": len(lessons.targets),
        "epoch_length": epoch_length(lessons.expected),
        "learned": learned,
        "parameters": count_parameters(model),
        "seconds": round(checkpoint["seconds"], 2),
        "prior": prior.round(6).tolist(),
        "loss": checkpoint["log"][-1][1],
        "weights_sha256": weights_hash,
        **({"taught_by": lessons.taught_by} if lessons.taught_by else {}),
        "environment": {"device": pick_device(), "threads": checkpoint["threads"], "precision": checkpoint["precision"],
                        "torch": torch.__version__},
    }
    write_json(run.folder / "result.json", result)  # its being there says that the fold is done
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def prior_as_trained(prior: np.ndarray, lessons: Lessons, task: str) -> np.ndarray:
    """(K,) the prior as a network says it to which sampler and loss weights showed other frequencies than there are.

    Left as it is, the prior of black images would stand too low or too high among such a network's probabilities. The
    odds are changed as they were for the best constant prediction.
    """
    plain, seen = (np.clip(best_constant(lessons.targets, task, weights, counts), 1e-6, 1 - 1e-6)
                   for weights, counts in ((None, None), (lessons.weights, lessons.expected)))
    if task == "multiclass":
        parts = prior * seen / plain
        return parts / parts.sum()
    parts = prior * seen / plain
    return parts / (parts + (1 - prior) * (1 - seen) / (1 - plain))


def has_learned(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, lessons: Lessons, task: str, seed: int,
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
    check_network(experiment.network, experiment.weights)
    notes = _check_labels(experiment, competition)
    mirrors = [name for name in (experiment.augmentation, *experiment.tta) if name in MIRRORING]
    if competition.laterality and mirrors:
        notes.append(f"{', '.join(mirrors)} mirrors images, and in {competition.name} left and right differ")
    return notes


def _check_labels(experiment: Experiment, competition: Competition) -> list[str]:
    """The same for label policies, sampler and loss weights."""
    uncertain = for_labels("uncertain", experiment.uncertain, competition.labels, "ignore")
    for_labels("blank", experiment.blank, competition.labels, "ignore")
    for_labels("copies", experiment.copies, competition.labels, "0")
    for teacher in _teachers(uncertain):
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


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for torch's generator that is a function of (seed, epoch)."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def predict_probs(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, task: str, experiment: Experiment,
                  prior: np.ndarray, talk: bool = False) -> np.ndarray:
    """Probabilities (n, K) of the store's rows, the mean of logits over the experiment's views.

    Images of one grey value show nothing: they get the training folds' prior unless the experiment keeps them.
    """
    loader = ordered_batches(store, rows, PREDICT_BATCH)
    logits = predict_logits(model, loader, experiment.tta, "predicting" if talk else None)
    probs = PROBS[task](logits).double().numpy()
    if experiment.black != "keep":
        probs[store.constant[rows]] = prior
    return probs

