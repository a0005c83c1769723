"""Seconds for 10,000 bootstrap replicates of each metric, at once and one by one:  python tests/benchmarks/bootstrap.py

25,000 images of 7,000 patients and 14 labels, made up, with prevalences as ChestX-ray14 has them or, in the second
table, all of one half, which is the slowest for an AUC. One thread, and processor time, so that other load does not
matter. "One by one" calls the metric on each replicate's weights: a few replicates, timed before and after, scaled to
as many. The last column is the largest difference between the scores.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.special import expit  # noqa: E402

from scoring.confidence_intervals import bootstrap_counts, bootstrap_scores  # noqa: E402
from scoring.metrics import METRICS  # noqa: E402

ROWS, PATIENTS, SAMPLE = 25_000, 7_000, 2
NIH_RATES = (0.103, 0.025, 0.042, 0.021, 0.119, 0.022, 0.015, 0.002, 0.177, 0.052, 0.056, 0.030, 0.013, 0.047)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=10_000, help="default: 10000")
    arguments = parser.parse_args()
    for title, rates in (("prevalences of ChestX-ray14", NIH_RATES), ("prevalence one half", (0.5,) * 14)):
        compare(title, np.array(rates), arguments.replicates)


def compare(title: str, rates: np.ndarray, replicates: int) -> None:
    """One table of the metrics that fit multilabel."""
    rng = np.random.default_rng(0)
    targets = (rng.random((ROWS, len(rates))) < rates).astype(float)
    probs, groups = expit(rng.normal(1.5 * targets - 2)), rng.integers(PATIENTS, size=ROWS)
    table = Table("metric", "seconds", "one by one, scaled", "times", "largest difference",
                  title=f"{replicates:,} replicates of {ROWS:,} images and {len(rates)} labels, {title}")
    for name, metric in METRICS.items():
        if "multilabel" not in metric.tasks:
            continue
        values = probs if metric.uses == "probs" else (probs >= 0.3).astype(np.int8)
        weights = list(bootstrap_counts(groups, SAMPLE))
        slow, theirs = time_each(metric, targets, values, weights)
        start = time.process_time()
        ours = bootstrap_scores(name, targets, values, "multilabel", groups, replicates)
        seconds = time.process_time() - start
        slow = (slow + time_each(metric, targets, values, weights)[0]) / 2 * replicates
        table.add_row(name, f"{seconds:.1f}", f"{slow:,.0f}", f"{slow / seconds:,.0f}",
                      f"{np.abs(ours[:SAMPLE] - theirs).max():.0e}")
    Console(width=110).print(table)


def time_each(metric, targets: np.ndarray, values: np.ndarray, weights: list[np.ndarray]) -> tuple[float, list[float]]:
    """Seconds a replicate, and the scores."""
    start = time.process_time()
    scores = [metric.score(targets, values, "multilabel", each) for each in weights]
    return (time.process_time() - start) / len(weights), scores


if __name__ == "__main__":
    main()
