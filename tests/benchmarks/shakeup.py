"""What leaderboards were beside what was forecast, on many simulated competitions:  python tests/benchmarks/shakeup.py

Every competition is the demo's plan with a seed of its own, patients, labels, black images, copies and all, but no
picture is drawn. "posterior" models are the posterior probability with noise on its logit, the same model on training
and test images: the forecast's own assumptions. "fitted" models are fitted to noisy severities, cross-fitted on five
folds of patients, and test images get the mean of the five, as real runs do: the table shows by how much that scores
higher than out of fold. "raised" forecasts take in what `fold_mean_gain` tells of it. Shares in percent should be 95;
with 100 competitions they are good to about 4.4 for one model (two standard errors), better for all of them together.
Training labels are uncertain where a picture is unclear, and not scored: test images are a little harder.
Prints a table of intervals and one of chances.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.special import expit, logit  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402
from tqdm import tqdm  # noqa: E402

from data.demo import DemoSettings, plan_images  # noqa: E402
from data.labels import scoring_targets  # noqa: E402
from data.phantoms import LABELS  # noqa: E402
from scoring.metrics import METRICS, score  # noqa: E402
from scoring.score_forecast import Forecast, fold_mean_gain, forecast  # noqa: E402
from scoring.thresholds import crossfit_values, fit_thresholds  # noqa: E402

FOLDS, SHARE, REPLICATES, JUNK = 5, 0.3, 1000, 150
POSTERIOR = {"noise 1.0": 1.0, "noise 1.1": 1.1, "noise 1.5": 1.5, "noise 3.0": 3.0}
FITTED = {  # junk columns, the estimator
    "logistic": (0, partial(LogisticRegression, C=1.0)),
    "logistic, 150 junk columns": (JUNK, partial(LogisticRegression, C=1.0)),
    "tree of depth 7": (0, partial(DecisionTreeClassifier, max_depth=7, random_state=0)),
    "tree of depth 4": (0, partial(DecisionTreeClassifier, max_depth=4, random_state=0)),
    "5 neighbours": (0, partial(KNeighborsClassifier, 5)),
    "15 neighbours": (0, partial(KNeighborsClassifier, 15)),
    "naive Bayes": (0, GaussianNB),
    "30 trees, 30 junk columns": (30, partial(RandomForestClassifier, 30, max_depth=6, random_state=0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", type=int, default=100, metavar="N", help="of each kind; default: 100")
    parser.add_argument("--metric", nargs="+", default=["roc_auc", "f1_macro"], help="default: roc_auc f1_macro")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: 2")
    arguments = parser.parse_args()
    jobs = [(kind, metric, seed) for kind in ("posterior", "fitted") for metric in arguments.metric
            for seed in range(1, arguments.competitions + 1)]
    with ProcessPoolExecutor(arguments.workers) as pool:
        played = list(tqdm(pool.map(play, jobs), total=len(jobs), desc="competitions", disable=None))
    models, pairs = (pd.concat(frames, ignore_index=True) for frames in zip(*played, strict=True))
    show_intervals(models)
    show_chances(pairs)


def play(job: tuple[str, str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One competition: a row a model with what was forecast and what then was; and a row a pair of models."""
    kind, metric, seed = job
    plan = plan_images(DemoSettings(seed=seed))
    is_train, is_public = (plan["part"] == "train").to_numpy(), (plan["usage"] == "Public").to_numpy()
    targets, groups = scoring_targets(plan[list(LABELS)].to_numpy(float)), plan["patient"].to_numpy()
    folds = np.random.default_rng([seed, 1]).integers(FOLDS, size=groups.max() + 1)[groups[is_train]]
    models = (posterior_models(plan, seed) if kind == "posterior" else
              fitted_models(plan, targets, is_train, folds, seed))
    values = [crossfit_values(metric, targets[is_train], probs[is_train], folds, "multilabel")
              for probs in models.values()]
    seen = forecast(metric, targets[is_train], values, "multilabel", groups[is_train], int((~is_train).sum()), SHARE,
                    REPLICATES, seed)
    forecasts = {kind: seen}
    if metric == "roc_auc":
        gains = np.stack([fold_mean_gain(targets[is_train], probs[is_train], probs[~is_train], groups[is_train],
                                         int((~is_train).sum()), REPLICATES, seed)[1] for probs in models.values()])
        forecasts[f"{kind}, raised"] = seen.raised(gains)
    told = [tell(name, metric, each, models, targets, is_train, is_public) for name, each in forecasts.items()]
    return tuple(pd.concat(frames, ignore_index=True) for frames in zip(*told, strict=True))


def tell(kind: str, metric: str, seen: Forecast, models: dict[str, np.ndarray], targets: np.ndarray,
         is_train: np.ndarray, is_public: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one forecast."""
    rows = []
    for m, (name, probs) in enumerate(models.items()):
        thresholds = None if METRICS[metric].uses == "probs" else fit_thresholds(targets[is_train], probs[is_train])
        public, private, test = (score(metric, targets[part], probs[part], "multilabel", thresholds)
                                 for part in (is_public, ~is_train & ~is_public, ~is_train))
        row = {"kind": kind, "metric": metric, "model": name, "oof": seen.scores[m], "test": test, "private": private}
        for part, draws, was in (("public", seen.public[m], public), ("private", seen.private[m], private),
                                 ("gap", seen.private[m] - seen.public[m], private - public)):
            low, high = seen.interval(draws)
            row |= {f"{part}_holds": low <= was <= high, f"{part}_width": high - low}
        rows.append(row)
    pairs = [{"kind": kind, "metric": metric, "first_is_best": a == seen.scores.argmax(), "chance": seen.chance(a, b),
              "won": float(np.sign(rows[a]["private"] - rows[b]["private"]) / 2 + 0.5)}
             for a, b in (sorted(pair, key=lambda m: -seen.scores[m]) for pair in combinations(range(len(rows)), 2))]
    return pd.DataFrame(rows), pd.DataFrame(pairs)


def posterior_models(plan: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """(N, K) probabilities of every model: the posterior with noise, half of its variance the models' in common."""
    rng = np.random.default_rng([seed, 2])
    logits = logit(plan[[f"posterior_{label}" for label in LABELS]].to_numpy(float))
    common = rng.normal(size=logits.shape)
    return {name: expit(logits + noise * np.sqrt(0.5) * (common + rng.normal(size=logits.shape)))
            for name, noise in POSTERIOR.items()}


def fitted_models(plan: pd.DataFrame, targets: np.ndarray, is_train: np.ndarray, folds: np.ndarray,
                  seed: int) -> dict[str, np.ndarray]:
    """(N, K) probabilities of every model: out of fold for training images, the mean of all folds' for test images."""
    rng = np.random.default_rng([seed, 3])
    severities = plan[[f"severity_{label}" for label in LABELS]].to_numpy(float)
    severities = np.where(plan["black"].to_numpy(bool)[:, None], 0, severities + rng.normal(0, 0.25, severities.shape))
    columns = np.hstack((severities, rng.normal(size=(len(plan), JUNK))))
    models = {}
    for name, (junk, estimator) in FITTED.items():
        seen, probs = columns[:, :len(LABELS) + junk], np.zeros(targets.shape)
        for fold in range(FOLDS):
            held_out = np.flatnonzero(is_train)[folds == fold]
            for k in range(len(LABELS)):
                rows = np.setdiff1d(np.flatnonzero(is_train & ~np.isnan(targets[:, k])), held_out)
                model = estimator().fit(seen[rows], targets[rows, k])
                probs[held_out, k] = model.predict_proba(seen[held_out])[:, 1]
                probs[~is_train, k] += model.predict_proba(seen[~is_train])[:, 1] / FOLDS
        models[name] = probs
    return models


def show_intervals(models: pd.DataFrame) -> None:
    """How often the 95 % intervals held what then was, and by how much the test score was above the oof score."""
    table = Table(title="forecast intervals of 95 %: how often they hold what then was, in %, and their width")
    for column in ("models", "metric", "model", "oof", "test - oof", "public", "width", "private", "width", "gap",
                   "width"):
        table.add_column(column, justify="left" if column in ("models", "metric", "model") else "right")
    for (kind, metric), of_kind in models.groupby(["kind", "metric"], sort=False):
        every = [*of_kind.groupby("model", sort=False), ("all of them", of_kind)]
        for name, rows in every:
            above = rows["test"] - rows["oof"]
            error = above.std() / np.sqrt(len(rows))
            cells = [cell for part in ("public", "private", "gap")
                     for cell in (f"{100 * rows[f'{part}_holds'].mean():.1f}", f"{rows[f'{part}_width'].mean():.3f}")]
            table.add_row(kind, metric, name, f"{rows['oof'].mean():.4f}", f"{above.mean():+.4f} ± {error:.4f}", *cells,
                          end_section=name == "all of them")
    Console(width=150).print(table)


def show_chances(pairs: pd.DataFrame) -> None:
    """The forecast chance that the run ahead by oof score stays ahead on private, beside how often it did."""
    table = Table("models", "metric", "forecast chance", "pairs", "mean of them", "stayed ahead",
                  title="P(A beats B on private), A ahead out of fold, in %")
    for (kind, metric), of_kind in pairs.groupby(["kind", "metric"], sort=False):
        bins = pd.cut(of_kind["chance"], [0, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0])
        for interval, rows in of_kind.groupby(bins, observed=True):
            table.add_row(kind, metric, f"{100 * max(0.5, interval.left):.0f} to {100 * interval.right:.0f}",
                          str(len(rows)), f"{100 * rows['chance'].mean():.1f}", f"{100 * rows['won'].mean():.1f}")
        best = of_kind[of_kind["first_is_best"]]
        table.add_row(kind, metric, "A best of all", str(len(best)), f"{100 * best['chance'].mean():.1f}",
                      f"{100 * best['won'].mean():.1f}", end_section=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
