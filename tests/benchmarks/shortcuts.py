"""The shortcut alarm judged where the truth is known:  python tests/benchmarks/shortcuts.py

Every competition is the demo's phantoms with a seed of its own, on which a small network is trained and then probed as
find_shortcuts.py probes runs on images of other patients. "token": a letter in the corner follows the first label, by
the strength from 0 (not at all) to 1 (always). "site": so many of the images whose hospital is not what the first label
says are left out, so that a machine's grey values tell the label.

A threshold is the mean of a signal's number among clean labels plus so many standard deviations, as many for every
signal, that 5 % of clean labels raise any alarm. False alarms are counted among the clean competitions of odd seeds
with thresholds drawn from the even ones, and the other way round. Prints a table of these, and one of the alarm's own
AUROC, the first label of planted competitions against that of clean ones, and of how many are found; draws the ROC
curves to roc.png. Competitions are kept in --folder: a run that was killed goes on where it was, a larger one adds to
it.
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
from scipy.optimize import brentq  # noqa: E402
from scipy.special import expit  # noqa: E402
from scipy.stats import beta  # noqa: E402
from sklearn.metrics import roc_auc_score, roc_curve  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.console import make_console  # noqa: E402
from common.figures import save_figure  # noqa: E402
from common.files import home, read_json, write_json  # noqa: E402
from data.demo import IMAGE_STREAM, PATIENT_STREAM, DemoSettings, plan_images  # noqa: E402
from data.phantoms import LABELS, SITES, draw_phantom  # noqa: E402
from explaining.methods import explain_images  # noqa: E402
from explaining.shortcut_signals import (  # noqa: E402
    THRESHOLDS,
    Evidence,
    attribution_evidence,
    column_evidence,
    variant_log_odds,
    zone_evidence,
    zone_excess,
)
from models.classifier import Classifier  # noqa: E402
from scoring.metrics import roc_auc_by_label  # noqa: E402
from training.augmentation import augment_batch  # noqa: E402

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
    model = Classifier(network, 1, (0.5,), (0.25,), cam_layers={"coarse": str(len(layers) - 1)})
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
    parts = [variant_log_odds(model, part, average, "multilabel") for part in images.split(64)]
    answers = {variant: np.concatenate([part[variant] for part in parts]) for variant in parts[0]}
    evidence = zone_evidence(LABELS, targets, answers, folds, groups)
    evidence += column_evidence(LABELS, targets, expit(answers["whole"]), folds, groups, "site",
                             plan["site"].to_numpy(str)[held])
    for k, label in enumerate(LABELS):
        rows = np.flatnonzero(targets[:, k] == 1)
        rows = rows[np.unique(groups[rows], return_index=True)[1]][:MAPS]
        heat = explain_images("gradcam", model, images[rows], k, "multilabel").heat.numpy()
        evidence += attribution_evidence(label, np.stack([zone_excess(each) for each in heat]))
    aucs = dict(zip(LABELS, roc_auc_by_label(targets, answers["whole"]).tolist(), strict=True))
    return [{**as_json(each), "auc": aucs[each.label]} for each in evidence]


def as_json(evidence: Evidence) -> dict:
    """As JSON can hold it."""
    return {name: None if value != value else value for name, value in evidence._asdict().items()}


def report(frame: pd.DataFrame, folder: Path) -> None:
    """Prints what all competitions together say, and draws the ROC curves."""
    frame = frame[frame["signal"].isin(list(THRESHOLDS))].astype({"low": float})
    numbers = frame.pivot_table(index=["kind", "strength", "seed", "label"], columns="signal", values="low",
                                aggfunc="max", dropna=False)[list(THRESHOLDS)].dropna(how="all")
    clean = numbers.xs(CLEAN, level=("kind", "strength"))
    show_thresholds(clean)
    show_found(numbers, clean, folder)


def fit_thresholds(clean: pd.DataFrame) -> tuple[pd.Series, pd.Series, float]:
    """Mean and deviation of every signal's number, and the deviations beyond which FALSE_ALARMS of labels raise any."""
    mean, spread = clean.mean(), clean.std()
    return mean, spread, float(((clean - mean) / spread).max(axis=1).quantile(1 - FALSE_ALARMS))


def show_thresholds(clean: pd.DataFrame) -> None:
    """Prints thresholds, and the share of clean labels that raise an alarm at thresholds of other competitions."""
    odd = clean.index.get_level_values("seed") % 2 == 1
    raised = []
    for half in (odd, ~odd):
        mean, spread, reach = fit_thresholds(clean[half])
        raised.append(clean[~half] > mean + reach * spread)
    raised = pd.concat(raised)
    mean, spread, reach = fit_thresholds(clean)
    any_label = raised.any(axis=1)
    table = Table("signal", "mean", "deviation", "threshold", "false alarms of labels", *LABELS,
                  title=f"{len(clean) // len(LABELS)} clean competitions, numbers of {len(clean)} labels; "
                        f"thresholds {reach:.2f} deviations above the mean")
    for name in (*THRESHOLDS, "any"):
        hits = any_label if name == "any" else raised[name]
        values = ("", "", "") if name == "any" else (f"{each:.4f}" for each in (
            mean[name], spread[name], mean[name] + reach * spread[name]))
        by_label = hits.groupby("label").mean()
        table.add_row(name, *values, share(hits), *(f"{by_label[label]:.1%}" for label in LABELS))
    make_console().print(table)
    print(f"competitions with any alarm: {share(any_label.groupby('seed').any())}")


def show_found(numbers: pd.DataFrame, clean: pd.DataFrame, folder: Path) -> None:
    """Prints and draws how planted shortcuts of the first label are told from clean ones."""
    mean, spread, reach = fit_thresholds(clean)
    scores = ((numbers - mean) / spread).fillna(-np.inf)
    scores["together"] = scores.max(axis=1)
    scores = scores.xs(LABELS[0], level="label")
    negatives = scores.xs(CLEAN, level=("kind", "strength"))
    table = Table("planted", "strength", *(f"AUROC: {name}" for name in scores), "found (any alarm)",
                  title=f"planted shortcuts against {len(negatives)} clean competitions, 95 % intervals")
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    for panel, kind in zip(panels, PLANTED, strict=True):
        positives = scores.xs(kind, level=("kind", "strength"))
        cells, targets = [], np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
        for name in scores:
            values = np.clip(np.r_[positives[name], negatives[name]], -1e9, 1e9)
            auc = roc_auc_score(targets, values)
            low, high = auc_interval(auc, len(positives), len(negatives))
            cells.append(f"{auc:.2f} ({low:.2f} to {high:.2f})")
            panel.plot(*roc_curve(targets, values)[:2], label=f"{name} {auc:.2f}", lw=3 if name == "together" else 1.5,
                       color="black" if name == "together" else None, zorder=1 if name == "together" else 2)
        panel.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
        panel.axvline(FALSE_ALARMS, color="0.7", lw=1, ls=":", zorder=0)
        panel.set_title(f"{kind[0]}, strength {kind[1]:g}, {len(positives)} planted", fontsize=10)
        panel.legend(fontsize=8, loc="lower right", title="AUROC", title_fontsize=8)
        table.add_row(kind[0], f"{kind[1]:g}", *cells, share(positives["together"] > reach))
    for panel in panels[3:]:
        panel.set_xlabel("false alarms, share of clean")
    for panel in panels[::3]:
        panel.set_ylabel("found, share of planted")
    figure.suptitle(f"The shortcut alarm on simulated competitions, {len(negatives)} clean")
    make_console().print(table)
    print(f"look at {save_figure(figure, folder / 'roc.png')}")


def share(hits: pd.Series) -> str:
    """A share with its exact 95 % interval (Clopper and Pearson 1934), rows taken for independent."""
    found, count = int(hits.sum()), len(hits)
    low, high = beta.ppf([0.025, 0.975], [found, found + 1], [count - found + 1, count - found])
    return f"{found} of {count}: {found / count:.1%} ({np.nan_to_num(low):.1%} to {np.nan_to_num(high, nan=1):.1%})"


def auc_interval(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """The 95 % interval of an AUC, which also at 0 and 1 is none of one point.

    Source: Newcombe 2006, https://doi.org/10.1002/sim.2324, method 5
    """
    count = (positives + negatives) / 2 - 1

    def error(truth: float) -> float:
        inflation = 1 + count * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        return 1.96 * np.sqrt(truth * (1 - truth) * inflation / (positives * negatives))

    tiny = 1e-9  # at 0 and 1 the AUC itself solves the equation too
    low = 0.0 if auc == 0 else brentq(lambda truth: auc - truth - error(truth), 0, auc - tiny)
    high = 1.0 if auc == 1 else brentq(lambda truth: truth - auc - error(truth), auc + tiny, 1)
    return low, high


if __name__ == "__main__":
    main()
