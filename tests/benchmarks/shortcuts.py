"""The shortcut alarm judged where the truth is known:  python tests/benchmarks/shortcuts.py

Every competition is the demo's phantoms with a seed of its own, on which a small network is trained and then probed as
src/shortcuts.py probes runs, on images of other patients. "token": the letter in the corner follows the first label, by
the strength from 0 (not at all) to 1 (always). "site": so many of the images whose hospital is not what the first label
says are left out, so that a machine's grey values tell the label. Thresholds are drawn from one half of the clean
competitions (odd seeds), the false alarms are counted in the other: with all signals and labels of a competition.

Prints tables of thresholds, of false alarms and of AUROCs, the alarm's own, clean against planted, with 95 % intervals,
and draws the ROC curves. Competitions are kept in --folder: a run that was killed goes on where it was.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.special import expit  # noqa: E402
from sklearn.metrics import roc_auc_score, roc_curve  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from alarms import (  # noqa: E402
    THRESHOLDS,
    Evidence,
    judge_answers,
    judge_column,
    judge_maps,
    probe,
    raise_alarms,
    zone_excess,
)
from attribution import explain_images  # noqa: E402
from augmentation import augment_batch  # noqa: E402
from commandline import make_console  # noqa: E402
from delong import auc_covariance  # noqa: E402
from demo import IMAGE_STREAM, PATIENT_STREAM, DemoSettings, plan_images  # noqa: E402
from files import home, read_json, replace_atomically, write_json  # noqa: E402
from model import Classifier  # noqa: E402
from phantoms import LABELS, SITES, draw_phantom  # noqa: E402

SIZE, TRAIN, HELD_OUT, EPOCHS, MAPS = 64, 600, 400, 12, 100
CLEAN = ("token", 0.0)
PLANTED = (("token", 0.25), ("token", 0.5), ("token", 0.75), ("token", 1.0), ("site", 0.5), ("site", 0.8))
PLAIN = {"size": SIZE, "test_images": 2, "black": 0.0, "exact_duplicates": 0.0, "near_duplicates": 0.0,
         "uncertain": 0.0, "blank": 0.0}
FALSE_ALARMS = 0.05  # of clean competitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", type=int, default=12, metavar="N",
                        help="planted ones of each kind and strength; five times as many clean ones; default: 12")
    parser.add_argument("--folder", type=Path, default=home() / "runs" / "benchmarks" / "shortcuts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(*CLEAN, seed) for seed in range(5 * args.competitions)]
    jobs += [(*kind, 1000 + seed) for seed in range(args.competitions) for kind in PLANTED]
    # the kinds by turns, so that a part of them can be looked at
    jobs = sorted(jobs, key=lambda job: (job[2] % 1000) / (5 if job[:2] == CLEAN else 1))
    frames = [pd.DataFrame(play(*job, args.folder)) for job in tqdm(jobs, desc="competitions", disable=None)]
    report(pd.concat(frames, ignore_index=True), args.folder)


def play(kind: str, strength: float, seed: int, folder: Path) -> list[dict]:
    """A row a label and signal of one competition, read again where it was played."""
    path = folder / f"{kind}_{strength:g}_{seed}.json"
    if not path.exists():
        about = {"kind": kind, "strength": strength, "seed": seed}
        write_json(path, {"rows": [about | row for row in measure(*draw(kind, strength, seed), seed)]})
    return read_json(path)["rows"]


def draw(kind: str, strength: float, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The plan of TRAIN + HELD_OUT images, by patient, and their pixels (N, SIZE, SIZE)."""
    settings = DemoSettings(images=3 * (TRAIN + HELD_OUT), seed=seed, **PLAIN,
                            shortcut=strength if kind == "token" else 0.0)
    plan = plan_images(settings)
    plan = plan[plan["part"] == "train"].reset_index(names="number")
    if kind == "site":
        rng = np.random.default_rng([seed, 7])
        plan = plan[(plan["site"] == plan[LABELS[0]]) | (rng.random(len(plan)) >= strength)]
    plan = plan[:TRAIN + HELD_OUT]
    severities = plan[[f"severity_{label}" for label in LABELS]].to_numpy()
    return plan, np.stack([
        draw_phantom(np.random.default_rng([seed, PATIENT_STREAM, image.drawn_for]),
                     np.random.default_rng([seed, IMAGE_STREAM, image.number]), severity, SIZE, SITES[image.site],
                     image.token)[0]
        for image, severity in zip(plan.itertuples(), severities, strict=True)])


def train(pixels: np.ndarray, targets: np.ndarray, seed: int) -> Classifier:
    """A network of three convolutions, trained on images that are warped anew in every epoch."""
    torch.manual_seed(seed)
    widths, layers = (1, 16, 32, 64), []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 5 if before == 1 else 3, 2, 2 if before == 1 else 1, bias=False),
                   nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (SIZE // 8)**2, len(LABELS)))
    model = Classifier(network, 1, (0.5,), (0.25,), cam_layer=layers[-1])
    steps = EPOCHS * -(-len(pixels) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    loss_fn, names = nn.BCEWithLogitsLoss(), [str(row) for row in range(len(pixels))]
    for epoch in range(EPOCHS):
        model.train()
        warped = torch.from_numpy(augment_batch("warp", pixels, names, seed, epoch))[:, None]
        for part in torch.randperm(len(pixels)).split(32):
            optimizer.zero_grad()
            loss_fn(model(warped[part]), targets[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(plan: pd.DataFrame, pixels: np.ndarray, seed: int) -> list[dict]:
    """Trains on the first patients, probes the others."""
    targets = plan[list(LABELS)].to_numpy(np.float32)
    held = ~plan["patient"].isin(plan["patient"][:TRAIN]).to_numpy()
    model = train(pixels[~held], torch.from_numpy(targets[~held]), seed)
    images, targets = torch.from_numpy(pixels[held])[:, None], targets[held].astype(float)
    groups, folds = plan["patient"].to_numpy()[held], np.zeros(held.sum(), int)
    average = images.double().mean(dim=0).float()
    parts = [probe(model, part, average, "multilabel") for part in images.split(64)]
    answers = {variant: np.concatenate([part[variant] for part in parts]) for variant in parts[0]}
    evidence = judge_answers(LABELS, targets, answers, folds, groups)
    evidence += judge_column(LABELS, targets, expit(answers["whole"]), folds, groups, "site",
                             plan["site"].to_numpy(str)[held])
    for k, label in enumerate(LABELS):
        rows = np.flatnonzero(targets[:, k] == 1)
        rows = rows[np.unique(groups[rows], return_index=True)[1]][:MAPS]
        heat = explain_images("gradcam", model, images[rows], k, "multilabel").heat.numpy()
        evidence += judge_maps(label, np.stack([zone_excess(each) for each in heat]))
    whole, _ = auc_covariance(targets, answers["whole"], groups)
    aucs = dict(zip(LABELS, whole.tolist(), strict=True))
    return [{**as_json(each), "auc": aucs[each.label]} for each in evidence]


def as_json(evidence: Evidence) -> dict:
    """As JSON can hold it."""
    return {name: None if value != value else value for name, value in evidence._asdict().items()}


if __name__ == "__main__":
    main()
