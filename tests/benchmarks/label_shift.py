"""How often the interval of an estimated prevalence contains it, and how often the test of its assumption rejects.

    python tests/benchmarks/label_shift.py --competitions 40

Draws competitions with one label, 1,200 training images, prevalence 0.7, and 500 test images, with scores N(-1, 1) and
N(1, 1), in three ways: the same prevalence in the test part; a quarter of positives there; and a quarter with all
scores moved up by 0.7, which is not a label shift. Prints one line for each way.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.special import expit
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scoring.label_shift import misfit, prevalence_interval  # noqa: E402

WAYS = {"no shift": (0.7, 0.0), "label shift": (0.25, 0.0), "moved scores": (0.25, 0.7)}


def draw(n: int, prevalence: float, moved: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = (rng.random((n, 1)) < prevalence).astype(float)
    return targets, expit(2 * rng.normal(2 * targets - 1 + moved, 1) + np.log(0.7 / 0.3))


def simulate(seed: int, prevalence: float, moved: float) -> tuple[bool, bool]:
    """Whether the interval contains the prevalence in the test part, and whether the scores exceed the limit."""
    rng = np.random.default_rng(seed)
    targets, probs = draw(1200, 0.7, 0, rng)
    truth, new = draw(500, prevalence, moved, rng)
    low, high = prevalence_interval(targets, probs, new, "binary", np.arange(1200), np.arange(500))[0]
    distance, limit = misfit(np.hstack([targets == 0, targets == 1]), probs[:, 0], new[:, 0])
    return low <= truth.mean() <= high, distance > limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", type=int, default=40, help="of each way; default: 40")
    args = parser.parse_args()
    for way, (prevalence, moved) in WAYS.items():
        contains, rejects = np.mean([simulate(seed, prevalence, moved)
                                     for seed in tqdm(range(args.competitions), desc=way, disable=None)], axis=0)
        print(f"{way}, {args.competitions} competitions: interval contains the prevalence {contains:.3f}, misfit above "
              f"its limit {rejects:.3f}", flush=True)


if __name__ == "__main__":
    main()
