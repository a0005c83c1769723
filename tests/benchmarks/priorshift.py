"""How often the intervals of an estimated prevalence hold it, and when deciding for it is recommended.

    python tests/benchmarks/priorshift.py --competitions 40

Draws competitions with one label, 1,200 training images, prevalence 0.7, and 500 test images, with scores N(-1, 1) and
N(1, 1), three ways: the same prevalence in the test part; a quarter of positives there; and a quarter with all scores
moved up by 0.7, which is no label shift. Prints a line for each way: how often the 95 % intervals by EM and by BBSE
hold the test part's share of positives, how often the scores are said not to fit, how often each correction is
recommended, and the mean change of test accuracy where it is.
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
from decide import Known, rehearse  # noqa: E402
from results.adopted_rules import SHIFTS  # noqa: E402
from results.runs import Oof  # noqa: E402
from scoring.decision_rules import make_policies  # noqa: E402
from scoring.label_shift import estimate_prevalence, misfit, prevalence_interval, shift_policy  # noqa: E402

WAYS = {"no shift": (0.7, 0.0), "label shift": (0.25, 0.0), "moved scores": (0.25, 0.7)}


def draw(n: int, prevalence: float, moved: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = (rng.random((n, 1)) < prevalence).astype(float)
    return targets, expit(2 * rng.normal(2 * targets - 1 + moved, 1) + np.log(0.7 / 0.3))


def simulate(seed: int, prevalence: float, moved: float) -> dict[str, float]:
    """What is said of one competition, and what came of it."""
    rng = np.random.default_rng(seed)
    targets, probs = draw(1200, 0.7, 0, rng)
    truth, new = draw(500, prevalence, moved, rng)
    known = Known(COMPETITIONS["pneumonia2"], Oof("drawn", probs, (), ()), targets, np.arange(1200) % 5,
                  np.arange(1200))
    default = next(iter(make_policies("binary", ("pneumonia",), "accuracy").values()))
    plain = default.fit(targets, probs).apply(new)
    arguments = (targets, probs, default.crossfit(targets, probs, known.folds), new, plain, "binary")
    estimates = {method: (estimate_prevalence(method, *arguments), prevalence_interval(
        method, *arguments, known.groups, np.arange(500))) for method in SHIFTS.values()}
    distance, limit = misfit(np.hstack([targets == 0, targets == 1]), probs[:, 0], new[:, 0])
    said = {"misfit": distance > limit}
    with contextlib.redirect_stdout(io.StringIO()):
        rows = rehearse(known, "accuracy", estimates, targets.mean(axis=0), distance <= limit)
    for name, method in SHIFTS.items():
        low, high = estimates[method][1][0]
        corrected = shift_policy(name, "binary", "accuracy", estimates[method][0]).fit(targets, probs).apply(new)
        gain = (corrected == truth).mean() - (plain == truth).mean()
        said |= {f"{method} holds": low <= truth.mean() <= high, f"{method} recommended": rows[name]["recommended"],
                 f"{method} gain": gain if rows[name]["recommended"] else np.nan, f"{method} gain of all": gain}
    return said


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
