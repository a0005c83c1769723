"""Training one fold, from the table to weights and out-of-fold predictions."""

import time

import numpy as np
import pandas as pd
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from augmentation import AUGMENTATIONS
from checkpoints import build_from_recipe, load_checkpoint, save_checkpoint, save_weights
from competition import Competition
from ema import EMA
from engine import predict_logits, train_one_epoch
from experiment import Experiment
from files import write_csv, write_json
from hardware import pick_device
from labels import scoring_targets, training_targets
from loader import ordered_batches, training_batches
from losses import LOSSES, PROBS
from metrics import prevalence, score
from model import check_network, count_parameters, resolve_precision, weight_groups
from pixels import PixelSettings, PixelStore, open_store
from runs import Run, probs_frame, write_probs
from schedule import warmup_cosine
from tables import label_cells
from tta import VIEWS

PREDICT_BATCH = 64
MIRRORING = ("warp_flip", "solt003", "hflip", "vflip", "rotate90")  # augmentations and views that mirror or turn


def train_fold(run: Run, competition: Competition, table: pd.DataFrame, threads: int, talk: bool = False) -> dict:
    """Trains on every fold but the run's and predicts that one; returns what result.json says.

    table: with `fold` and `black`. Goes on from the last checkpoint where there is one, and then ends with the same
    weights, bit for bit, as without the interruption: each epoch draws from (seed, epoch) alone, and the number of
    threads and the precision stay those of the first start. talk: print a line an epoch.
    """
    experiment, fold = run.experiment, run.recipe["fold"]
    store = open_store(f"{competition.name}-train", table, PixelSettings(experiment.image_size, competition.channels))
    rows = store.rows(table["image_id"])
    if (changed := store.constant[rows] != table["black"].to_numpy()).any():
        raise ValueError(f"image {table['image_id'][changed].iloc[0]!r} has changed since the folds were checked; run: "
                         f"python src/make_folds.py --competition {competition.name}")
    used, targets = choose_training_rows(competition, table, experiment, fold)
    rows, targets = rows[used], targets[used]

    checkpoint = load_checkpoint(run) or {"epoch": 0, "seconds": 0.0, "log": [], "threads": threads, "precision": ""}
    torch.set_num_threads(checkpoint["threads"])
    torch.manual_seed(experiment.seed)
    device = pick_device()
    model = build_from_recipe(run.recipe).to(device, memory_format=torch.channels_last)
    checkpoint["precision"] = checkpoint["precision"] or resolve_precision(model, experiment.precision, device)
    ema = EMA(model, experiment.ema_decay)
    optimizer = AdamW(weight_groups(model, experiment.weight_decay), experiment.lr, fused=True)
    steps = experiment.epochs * -(-len(rows) // experiment.batch_size)
    scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, experiment.warmup))
    if checkpoint["epoch"]:
        for part, name in ((model, "model"), (ema, "ema"), (optimizer, "optimizer"), (scheduler, "scheduler")):
            part.load_state_dict(checkpoint[name])

    for epoch in range(checkpoint["epoch"], experiment.epochs):
        start = time.perf_counter()
        torch.manual_seed(epoch_seed(experiment.seed, epoch))  # dropout
        loader = training_batches(store, rows, targets, experiment.batch_size, experiment.augmentation,
                                  experiment.seed, epoch)
        loss = train_one_epoch(model, loader, LOSSES[competition.task], optimizer, scheduler, ema,
                               experiment.max_grad_norm, checkpoint["precision"],
                               f"epoch {epoch + 1}" if talk else None)
        checkpoint["seconds"] += time.perf_counter() - start
        checkpoint["log"].append((epoch + 1, round(loss, 6), round(checkpoint["seconds"], 2)))
        checkpoint |= {"epoch": epoch + 1, "model": model.state_dict(), "ema": ema.state_dict(),
                       "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        save_checkpoint(run, checkpoint)
        write_csv(run.folder / "log.csv", pd.DataFrame(checkpoint["log"], columns=["epoch", "loss", "seconds"]))
        if talk:
            print(f"fold {fold}  epoch {epoch + 1:3d}/{experiment.epochs}  loss {loss:.4f}  "
                  f"{checkpoint['seconds']:6.1f} s")

    learned = has_learned(ema.model, store, rows, targets, competition.task)
    facts = {"trained_on": len(rows), "learned": learned}
    return finish_fold(run, competition, table, store, ema.model, checkpoint, facts)


def choose_training_rows(competition: Competition, table: pd.DataFrame, experiment: Experiment,
                         fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool, which of the table's images are trained on where `fold` is held out; and all targets (N, K)."""
    targets = training_targets(label_cells(competition, table), experiment.uncertain, experiment.blank)
    # without a stated label an image teaches nothing
    used = (table["fold"] != fold).to_numpy() & ~np.isnan(targets).all(axis=1)
    if experiment.black == "drop":
        used &= ~table["black"].to_numpy()
    if not used.any():
        raise ValueError(f"no image outside fold {fold} has a label to train on")
    return used, targets


def finish_fold(run: Run, competition: Competition, table: pd.DataFrame, store: PixelStore, model: torch.nn.Module,
                checkpoint: dict, facts: dict) -> dict:
    """Predicts the held-out fold and writes weights, oof.csv and, last, result.json; returns what that says."""
    held_out = (table["fold"] == run.recipe["fold"]).to_numpy()
    targets, images = scoring_targets(label_cells(competition, table)), table.loc[held_out, "image_id"]
    prior = np.nan_to_num(prevalence(targets[~held_out]), nan=0.5)
    probs = predict_probs(model, store, store.rows(images), competition.task, run.experiment, prior)
    weights_hash = save_weights(run, model)
    write_probs(run.folder / "oof.csv", probs_frame(competition, images, probs))
    result = {
        "score": score(competition.metric, targets[held_out], probs, competition.task),
        "images": len(images),
        **facts,
        "parameters": count_parameters(model),
        "seconds": round(checkpoint["seconds"], 2),
        "prior": prior.round(6).tolist(),
        "loss": checkpoint["log"][-1][1],
        "weights_sha256": weights_hash,
        "environment": {"device": pick_device(), "threads": checkpoint["threads"], "precision": checkpoint["precision"],
                        "torch": torch.__version__},
    }
    write_json(run.folder / "result.json", result)  # its being there says that the fold is done
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def has_learned(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, targets: np.ndarray, task: str) -> bool:
    """False where the network's loss on images it was trained on is no better than predicting the prevalence."""
    some = slice(None, None, max(1, len(rows) // 512))  # 512 to 1,023 images say enough
    logits = predict_logits(model, ordered_batches(store, rows[some], PREDICT_BATCH), ("identity",))
    return LOSSES[task](logits, torch.from_numpy(targets[some])).item() < 0.98 * constant_loss(targets[some], task)


def constant_loss(targets: np.ndarray, task: str) -> float:
    """The training loss of the best predictor that never looks at an image: a network above it has not learned."""
    rates = torch.from_numpy(np.clip(np.nan_to_num(prevalence(targets), nan=0.5), 1e-6, 1 - 1e-6))
    logits = rates.log() if task == "multiclass" else torch.logit(rates)
    return LOSSES[task](logits.expand(len(targets), -1), torch.from_numpy(targets)).item()


def check_experiment(experiment: Experiment, competition: Competition) -> list[str]:
    """What is doubtful about a recipe on a competition, in sentences.

    Raises ValueError or FileNotFoundError where a name in it means nothing here, before anything is trained.
    """
    for field, known in (("augmentation", AUGMENTATIONS), ("tta", VIEWS)):
        value = getattr(experiment, field)
        if strange := set(value if isinstance(value, tuple) else (value,)) - set(known):
            raise ValueError(f"{field}={min(strange)}: there is no such name; there are {', '.join(known)}")
    if experiment.per_task and competition.task == "multiclass":
        raise ValueError("per_task trains one network a label, but classes exclude one another; set per_task=false")
    check_network(experiment.network, experiment.weights)
    mirrors = [name for name in (experiment.augmentation, *experiment.tta) if name in MIRRORING]
    if competition.laterality and mirrors:
        return [f"{', '.join(mirrors)} mirrors images, and in {competition.name} left and right differ"]
    return []


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for torch's generator that is a function of (seed, epoch)."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def predict_probs(model: torch.nn.Module, store: PixelStore, rows: np.ndarray, task: str, experiment: Experiment,
                  prior: np.ndarray, talk: bool = False) -> np.ndarray:
    """Probabilities (n, K) of the store's rows, the mean of logits over the experiment's views.

    Images of one grey value show nothing: they get the training folds' prior where the experiment drops them.
    """
    loader = ordered_batches(store, rows, PREDICT_BATCH)
    logits = predict_logits(model, loader, experiment.tta, "predicting" if talk else None)
    probs = PROBS[task](logits).double().numpy()
    if experiment.black == "drop":
        probs[store.constant[rows]] = prior
    return probs

