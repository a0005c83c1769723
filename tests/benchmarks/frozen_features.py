"""Features once and heads on them, or the frozen backbone each epoch:  python tests/benchmarks/frozen_features.py

Ten epochs of five folds of `lite0_frozen`, without dropout, at 64, 128 and 224 pixels, on the demo's images or those of
--competition in --data-dir. The left side is done as a whole: features, all heads, all held-out predictions. The right
side would take hours, so it is measured on a few steps and a few batches of prediction, before, between and after what
the left side does, and scaled to as many images: the table says on how many. Its backbone keeps no activations, as the
fastest loop of that kind. Pixels come from the pixel store on both sides. Scores are those of one fold of few images,
for which both sides are done as a whole.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from common.hardware import count_cores, tune_process  # noqa: E402

tune_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim import AdamW  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402

from common.files import home  # noqa: E402
from competition import COMPETITIONS, Competition  # noqa: E402
from data.demo import DemoSettings, make_demo  # noqa: E402
from data.labels import scoring_targets  # noqa: E402
from data.pixel_store import PixelStore, open_store, pixel_settings  # noqa: E402
from data.splitting import grouped_folds  # noqa: E402
from data.tables import label_cells, read_train  # noqa: E402
from experiment import EXPERIMENTS, Experiment  # noqa: E402
from models.classifier import Classifier, build_model  # noqa: E402
from models.frozen_features import open_features  # noqa: E402
from models.heads import FeatureClassifier, head_name  # noqa: E402
from scoring.metrics import roc_auc  # noqa: E402
from training.batches import ordered_batches, training_batches  # noqa: E402
from training.loop import predict_logits, train_one_epoch  # noqa: E402
from training.losses import CROSS_ENTROPY, PROBS  # noqa: E402
from training.optimization import EMA, warmup_cosine, weight_groups  # noqa: E402

PREDICT_BATCH = 64
FOLDS = 5


class FrozenBackbone(nn.Module):
    """The whole network, run for every batch; its head alone learns."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.head = model.get_submodule(head_name(model)).requires_grad_(True)

    def train(self, mode: bool = True) -> nn.Module:
        self.model.eval()  # batch norm keeps its statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def clip_units(self) -> list[nn.Module]:
        return [self.head]


def fit(part: nn.Module, store, rows: np.ndarray, targets: np.ndarray, experiment: Experiment, task: str,
        steps: int | None = None) -> float:
    """Trains the head for the recipe's epochs, or for so many steps of the first; returns the seconds it took."""
    head = part.head
    ema, optimizer = EMA(head, experiment.ema_decay), AdamW(weight_groups(head, experiment.weight_decay),
                                                             experiment.plan[0].lr, fused=True)
    total = experiment.epochs * -(-len(rows) // experiment.batch_size)
    scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, total, 1, experiment.warmup))
    start = time.perf_counter()
    for epoch in range(experiment.epochs if steps is None else 1):
        batches = training_batches(store, rows, targets[rows], experiment.batch_size, "none", 0, epoch)
        if steps is not None:
            batches = [batch for batch, _ in zip(batches, range(steps), strict=False)]
        train_one_epoch(part, batches, partial(CROSS_ENTROPY[task]), optimizer, scheduler, HeadAverage(ema, head))
    head.load_state_dict(ema.model.state_dict())
    return time.perf_counter() - start


class HeadAverage:
    """The moving average of the head, whatever part it is trained in: copying a frozen backbone would cost the loop."""

    def __init__(self, ema: EMA, head: nn.Module):
        self.ema, self.head = ema, head

    def update(self, _: nn.Module) -> None:
        self.ema.update(self.head)


def predict(part: nn.Module, store, rows: np.ndarray) -> Tensor:
    return predict_logits(part, ordered_batches(store, rows, PREDICT_BATCH), ("identity",))


def compare_scores(fresh: Callable[[], Classifier], store: PixelStore, features, targets: np.ndarray,
                   folds: np.ndarray, experiment: Experiment, task: str, images: int) -> tuple[float, float]:
    """AUCs of fold 0 after training on some images of the others: on features, and behind the running backbone."""
    chosen = np.flatnonzero(folds != 0)[:images]
    held_out = np.flatnonzero(folds == 0)[:images]
    scores = []
    for part, source in ((on_features(fresh()), features), (FrozenBackbone(fresh()), store)):
        fit(part, source, chosen, targets, experiment, task)
        scores.append(roc_auc(targets[held_out], PROBS[task](predict(part, source, held_out)).numpy(), task))
    return scores[0], scores[1]


def on_features(model: Classifier) -> FeatureClassifier:
    return FeatureClassifier(model.get_submodule(head_name(model)), 0.0)


def measure(competition: Competition, data_dir: Path, size: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of both sides, their ratio, and the two scores."""
    experiment = replace(EXPERIMENTS["lite0_frozen"], image_size=size, epochs=10, stages=("head:10:1e-2",))
    table, _ = read_train(competition, data_dir)
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    cells, task = label_cells(competition, table), competition.task
    targets = scoring_targets(cells).astype(np.float32)
    folds = grouped_folds(cells, table["group"].to_numpy(str), FOLDS, 0)

    def fresh() -> Classifier:
        return build_model(experiment.network, competition.channels, size, len(competition.labels),
                           weights="imagenet").to(memory_format=torch.channels_last)

    seconds = {"step": [], "predict": []}  # an image

    def sample_right_side() -> None:
        part, rows = FrozenBackbone(fresh()), np.arange(len(store))
        took = fit(part, store, rows, targets, experiment, task, args.steps)
        seconds["step"].append(took / (args.steps * experiment.batch_size))
        start = time.perf_counter()
        predict(part, store, rows[:PREDICT_BATCH * args.steps])
        seconds["predict"].append((time.perf_counter() - start) / min(len(rows), PREDICT_BATCH * args.steps))

    sample_right_side()
    seconds["step"].clear(), seconds["predict"].clear()  # the first one warms up
    sample_right_side()
    model, parts = fresh(), [on_features(fresh()) for _ in range(FOLDS)]  # building is not counted on either side
    start = time.perf_counter()
    features = open_features("benchmark", model, store, experiment.network)
    computing = time.perf_counter() - start
    sample_right_side()
    start = time.perf_counter()
    for fold, part in enumerate(parts):
        fit(part, features, np.flatnonzero(folds != fold), targets, experiment, task)
        predict(part, features, np.flatnonzero(folds == fold))
    heads = time.perf_counter() - start
    sample_right_side()
    shown = experiment.epochs * (FOLDS - 1) * len(store)
    each_epoch = shown * statistics.median(seconds["step"]) + len(store) * statistics.median(seconds["predict"])
    with_features, with_backbone = compare_scores(fresh, store, features, targets, folds, experiment, task, args.scored)
    return {"images": len(store), "features": computing, "heads": heads, "each epoch": each_epoch,
            "ratio": each_epoch / (computing + heads), "auc on features": with_features,
            "auc behind the backbone": with_backbone}


def main(argv: list[str] | None = None) -> dict[int, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="demo", choices=COMPETITIONS)
    parser.add_argument("--data-dir", type=Path, help="its files; of the demo they are drawn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--steps", type=int, default=3, help="the right side is measured on so many steps, three times")
    parser.add_argument("--scored", type=int, default=200, help="images of a side whose scores are compared")
    parser.add_argument("--threads", type=int, default=count_cores())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    competition = COMPETITIONS[args.competition]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        data_dir = args.data_dir or make_demo(home() / "data" / "demo", DemoSettings())
        found = {size: measure(competition, data_dir, size, args) for size in args.sizes}
    first = found[args.sizes[0]]
    table = Table("pixels", "features", "+ all heads", "backbone each epoch", "ratio", "AUC on features",
                  "AUC behind the backbone",
                  title=f"tf_efficientnet_lite0, {first['images']} images, ten epochs, five folds, {args.threads} "
                        f"threads; the backbone each epoch scaled from {3 * args.steps} steps of 128 images")
    for size, row in found.items():
        table.add_row(str(size), f"{row['features']:.1f} s", f"{row['heads']:.1f} s", f"{row['each epoch']:.0f} s",
                      f"{row['ratio']:.1f}x", f"{row['auc on features']:.4f}", f"{row['auc behind the backbone']:.4f}")
    Console().print(table)
    return found


if __name__ == "__main__":
    main()
