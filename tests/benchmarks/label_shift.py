"""How often the interval of an estimated prevalence holds it, and when the rule for it is recommended.

    python tests/benchmarks/label_shift.py --competitions 40

Draws competitions with one label, 1,200 training images, prevalence 0.7, and 500 test images, with scores N(-1, 1) and
N(1, 1), three ways: the same prevalence in the test part; a quarter of positives there; and a quarter with all scores
moved up by 0.7, which is no label shift. Prints a line for each way: how often the 95 % interval holds the test part's
share of positives, how often the scores do not fit label shift, how often the rule is recommended, and the mean change
of test accuracy where it is and overall.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

import numpy as np
from scipy.special import expit
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from competition import COMPETITIONS  # noqa: E402
from decide import ScoredOof, find_doubts, rehearse  # noqa: E402
from results.runs import Oof  # noqa: E402
from scoring.decision_rules import rule_for_prevalence, rules_for  # noqa: E402
from scoring.label_shift import estimate_prevalence, misfit, prevalence_interval  # noqa: E402

WAYS = {"no shift": (0.7, 0.0), "label shift": (0.25, 0.0), "moved scores": (0.25, 0.7)}


def draw(n: int, prevalence: float, moved: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = (rng.random((n, 1)) < prevalence).astype(float)
    return targets, expit(2 * rng.normal(2 * targets - 1 + moved, 1) + np.log(0.7 / 0.3))


def simulate(seed: int, prevalence: float, moved: float) -> dict[str, float]:
    """The verdict about one competition, and what the rule does to its test accuracy."""
    rng = np.random.default_rng(seed)
    targets, probs = draw(1200, 0.7, 0, rng)
    truth, new = draw(500, prevalence, moved, rng)
    run = ScoredOof(COMPETITIONS["pneumonia2"], Oof("drawn", probs, (), ()), targets, np.arange(1200) % 5,
                    np.arange(1200))
    labels = ("pneumonia",)
    estimate = estimate_prevalence(targets, probs, new, "binary")
    interval = prevalence_interval(targets, probs, new, "binary", run.groups, np.arange(500))
    fits = np.array([misfit(np.hstack([targets == 0, targets == 1]), probs[:, 0], new[:, 0])])
    with contextlib.redirect_stdout(io.StringIO()):
        row = rehearse(run, "accuracy", estimate, find_doubts(targets.mean(axis=0), estimate, interval, fits))
    rules = [next(iter(rules_for("binary", labels, "accuracy").values())),
             rule_for_prevalence("label_shift", "binary", labels, "accuracy", estimate)]
    plain, corrected = ((rule.fit(targets, probs).apply(new) == truth).mean() for rule in rules)
    return {"misfit": fits[0, 0] > fits[0, 1], "interval holds": interval[0, 0] <= truth.mean() <= interval[0, 1],
            "recommended": row["recommended"], "gain where recommended": corrected - plain if row["recommended"]
            else np.nan, "gain": corrected - plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", type=int, default=40, help="of each way; default: 40")
    args = parser.parse_args()
    for way, (prevalence, moved) in WAYS.items():
        rows = [simulate(seed, prevalence, moved) for seed in tqdm(range(args.competitions), desc=way, disable=None)]
        parts = []
        for key in rows[0]:
            values = np.array([row[key] for row in rows], dtype=float)
            values = values[~np.isnan(values)]
            parts.append(f"{key} {values.mean():.3f}" if len(values) else f"{key} -")
        print(f"{way}, {len(rows)} competitions: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
