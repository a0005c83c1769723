"""Coverage of the 95 % intervals, and how often equal models are called different:  python tests/benchmarks/coverage.py

Simulated competitions without images: severities of the demo's phantoms, several images a patient, labels drawn from
the posterior probability, which is shifted to make findings rare. A model is the posterior with noise on its logit,
half of it the patient's; the truth is its score on a million images. Two intervals of one bootstrap: of its
percentiles, and the one that is reported, of the score's logit by its standard error. The last column compares two
models with noise of one size, half of it shared: how often the paired bootstrap finds a difference at 5 %.
--competitions sets how many are made of each kind: with 400 two standard errors are 2.2 %. Prints a line as each kind
is done.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.special import expit, logit  # noqa: E402

from data.phantoms import draw_severities, posterior  # noqa: E402
from scoring.confidence_intervals import (  # noqa: E402
    bootstrap_chunks,
    bounded_interval,
    percentile_interval,
    widen_differences,
)
from scoring.metrics import make_scorer  # noqa: E402
from scoring.model_comparison import bootstrap_p  # noqa: E402

NOISE, REPLICATES, POPULATION = 2.0, 1000, 1_000_000
LABELS = {"one label": [1], "three labels": [0, 1, 2]}
KINDS = [(*kind, size) for kind, size in product((("one label", 0.36), ("one label", 0.10), ("one label", 0.02),
                                                  ("three labels", None)), (200, 1000, 4000))]
METRICS = ("roc_auc", "f1_macro", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", type=int, default=400, metavar="N", help="of each kind; default: 400")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: 2")
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.competitions} competitions of each kind, {REPLICATES} replicates; in %")
    for column in ("labels", "prevalence", "images", "metric", "truth", "no score", "percentiles\ncover", "truth below",
                   "above", "reported\ncovers", "below", "above", "A/A differ"):
        table.add_column(column, justify="left" if column in ("labels", "metric") else "right")
    with ProcessPoolExecutor(arguments.workers) as pool:
        for rows in pool.map(partial(measure, arguments.competitions), *zip(*KINDS, strict=True)):
            for row in rows:
                table.add_row(*row)
                print("  ".join(row), flush=True)
    Console(width=170).print(table)


def measure(competitions: int, labels: str, prevalence: float | None, size: int) -> list[tuple[str, ...]]:
    """The lines of the table of one kind of competition, a metric each."""
    shift, columns = find_shift(prevalence), tuple(LABELS[labels])
    seen = {metric: [] for metric in METRICS}
    for number in range(competitions):
        patients, targets, *probs = draw_images(np.random.default_rng([7, number]), size, shift)
        targets, probs = targets[:, columns], [each[:, columns] for each in probs]
        values = {metric: [judge(metric, each, population(metric, shift, columns)[0]) for each in probs]
                  for metric in METRICS}
        scorers = [make_scorer(metric, targets, each, "multilabel") for metric in METRICS for each in values[metric]]
        scores = [scorer(np.ones((1, size)))[0] for scorer in scorers]
        draws = np.concatenate([np.stack([scorer(weights) for scorer in scorers])  # each drawn once for all metrics
                                for weights in bootstrap_chunks(patients, REPLICATES, number)], axis=1)
        for place, metric in enumerate(METRICS):
            ours, theirs = draws[2 * place:2 * place + 2]
            reported = bounded_interval(metric, scores[2 * place], ours, targets, patients)
            difference = scores[2 * place] - scores[2 * place + 1]
            widened = widen_differences(metric, targets, *values[metric], patients, difference, ours - theirs)
            seen[metric].append((*percentile_interval(ours), *reported, bootstrap_p(widened[~np.isnan(widened)])))
    kind = labels, "as it is" if prevalence is None else f"{prevalence:.2f}", f"{size:,}"
    return [(*kind, metric, *_row(np.array(seen[metric]), population(metric, shift, columns)[1])) for metric in METRICS]


def _row(seen: np.ndarray, truth: float) -> list[str]:
    """seen: (C, 5), the ends of both intervals and the p-value of C competitions."""
    scored = seen[~np.isnan(seen[:, 0])]
    cells = [f"{truth:.3f}", f"{100 * (1 - len(scored) / len(seen)):.0f}"]
    for low, high in (scored[:, :2].T, scored[:, 2:4].T):
        below, above = 100 * np.mean(truth < low), 100 * np.mean(truth > high)
        cells += [f"{100 - below - above:.1f}", f"{below:.1f}", f"{above:.1f}"]
    return [*cells, f"{100 * np.mean(scored[:, 4] < 0.05):.1f}"]


def draw_images(rng: np.random.Generator, size: int, shift: float) -> tuple[np.ndarray, ...]:
    """Patients (N,) of N images, labels (N, 3), and the probabilities (N, 3) of two models of equal skill."""
    patients = np.repeat(np.arange(size), np.minimum(rng.geometric(0.45, size), 8))[:size]  # as the demo has them
    clean = posterior(draw_severities(rng, patients), np.zeros(size, bool), label_noise=0.02)
    logits = logit(clean) + shift
    targets = (rng.random(clean.shape) < expit(logits)).astype(float)
    common, *own = (_noise(rng, patients) for _ in range(3))
    return patients, targets, *(expit(logits + NOISE * np.sqrt(0.5) * (common + each)) for each in own)


def _noise(rng: np.random.Generator, patients: np.ndarray) -> np.ndarray:
    of_patient, of_image = rng.normal(size=(patients.max() + 1, 3)), rng.normal(size=(len(patients), 3))
    return np.sqrt(0.5) * (of_patient[patients] + of_image)


def judge(metric: str, probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """What the metric takes; thresholds are those at which as many are called as are positive in the population."""
    return probs if metric == "roc_auc" else (probs >= thresholds).astype(np.int8)


@cache
def find_shift(prevalence: float | None) -> float:
    """What is added to every logit to give the second label this prevalence."""
    if prevalence is None:
        return 0.0
    low, high = -15.0, 5.0
    for _ in range(30):
        middle = (low + high) / 2
        rate = draw_images(np.random.default_rng(1), 100_000, middle)[1][:, 1].mean()
        low, high = (middle, high) if rate < prevalence else (low, middle)
    return middle


@cache
def population(metric: str, shift: float, columns: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """The thresholds (K,) and the true score."""
    _, targets, probs, _ = draw_images(np.random.default_rng(2), POPULATION, shift)
    targets, probs = targets[:, columns], probs[:, columns]
    thresholds = np.array([np.quantile(probs[:, k], 1 - targets[:, k].mean()) for k in range(len(columns))])
    scorer = make_scorer(metric, targets, judge(metric, probs, thresholds), "multilabel")
    return thresholds, float(scorer(np.ones((1, POPULATION)))[0])


if __name__ == "__main__":
    main()
