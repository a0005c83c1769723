"""What blends gain where nothing can be gained, and where something can: python tests/benchmarks/null_blend.py [N].

Draws N data sets of each kind: "noise", members that know nothing of the labels; "equal", members that know the same
and err alike, so that no weights beat equal ones; "unequal", two that know different things, the first twice as much,
among four that know nothing. Prints for every method the mean naive and cross-fitted gain in AUC over the plain mean,
how often the 95 % interval of the cross-fitted gain holds 0 and the true gain (that of the fit on all rows, measured on
20,000 further rows), and in how many sets a gain was called credible, for any method. Patients have two images, and
whole patients fall into folds by chance, or with --even so that a label is as frequent in each.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.special import expit  # noqa: E402
from tqdm import tqdm  # noqa: E402

from scoring.blend_gain import Gain, measure_gains  # noqa: E402
from scoring.blending import METHODS, crossfit_blend, fit_blend  # noqa: E402
from scoring.metrics import roc_auc  # noqa: E402

MEMBERS, LABELS, FOLDS, FURTHER = 6, 2, 5, 20_000
KNOWN = {  # how much of each of the two signals that make a label a member's logit has
    "noise": np.zeros((MEMBERS, 2)),
    "equal": np.full((MEMBERS, 2), 0.5),
    "unequal": np.array([[2.0, 0], [0, 1.0], *[[0, 0]] * (MEMBERS - 2)]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="?", type=int, default=200, help="of each kind; default: 200")
    parser.add_argument("--rows", type=int, default=600, help="images of a data set; default: 600")
    parser.add_argument("--even", action="store_true", help="each label as frequent in every fold")
    arguments = parser.parse_args()
    for kind in KNOWN:
        results = [measure(kind, arguments.rows, seed, arguments.even)
                   for seed in tqdm(range(arguments.sets), desc=kind, unit="set", leave=False, disable=None)]
        show(kind, results, arguments)


def draw(kind: str, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """members (M, N, K), targets (N, K), a twentieth of them NaN, groups (N,) of two rows that share half the noise."""
    groups = np.arange(rows) // 2
    shape = (groups.max() + 1, LABELS)

    def in_pairs(*more: int) -> np.ndarray:
        own, shared = rng.normal(size=(*more, rows, LABELS)), rng.normal(size=(*more, *shape))[..., groups, :]
        return (own + shared) / np.sqrt(2)
    signals = in_pairs(2)
    targets = (rng.random((rows, LABELS)) < expit(signals.sum(axis=0) - 1)).astype(float)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    return expit(np.einsum("ms,snk->mnk", KNOWN[kind], signals) + in_pairs(MEMBERS) - 1), targets, groups


def measure(kind: str, rows: int, seed: int, even: bool) -> tuple[list[Gain], dict[str, float]]:
    """The gains on one data set, and those of the fits on all its rows on further rows."""
    rng = np.random.default_rng(seed)
    members, targets, groups = draw(kind, rows, rng)
    further, further_targets, _ = draw(kind, FURTHER, rng)
    folds = rng.permutation(groups.max() + 1)[groups] % FOLDS
    if even:  # patients ordered by their labels, dealt one a fold
        keys = np.nan_to_num(targets).reshape(-1, 2, LABELS).sum(axis=1) @ [10, 1] + rng.random(groups.max() + 1)
        folds = keys.argsort().argsort()[groups] % FOLDS
    fits = {method: fit_blend(method, members, targets, "multilabel", "roc_auc") for method in METHODS}
    naive = {method: fit.apply(members, folds) for method, fit in fits.items()}
    crossfitted = {method: crossfit_blend(method, members, targets, folds, "multilabel", "roc_auc")
                   for method in METHODS}
    best = members[np.argmax([roc_auc(targets, member, "multilabel") for member in members])]
    on_further = {method: roc_auc(further_targets, fit.apply(further), "multilabel") for method, fit in fits.items()}
    true = {method: reached - on_further["mean"] for method, reached in on_further.items()}
    gains = measure_gains("roc_auc", "multilabel", targets, groups.astype(str), naive, crossfitted, best,
                          replicates=500)
    return gains, true


def show(kind: str, results: list[tuple[list[Gain], dict[str, float]]], arguments: argparse.Namespace) -> None:
    table = Table("method", "naive gain", "cross-fitted gain", "± (standard error)", "true gain",
                  "intervals that hold 0",
                  "that hold the true gain", "called credible",
                  title=f"{kind}: {arguments.sets} sets of {arguments.rows} images, {MEMBERS} members")
    for place, method in enumerate(METHODS):
        if method == "mean":
            continue
        gains, true = [each[place] for each, _ in results], np.array([true[method] for _, true in results])
        lows, highs = np.array([gain.interval for gain in gains]).T
        crossfitted = np.array([gain.gain for gain in gains])
        table.add_row(method, f"{np.mean([gain.naive_gain for gain in gains]):+.4f}", f"{crossfitted.mean():+.4f}",
                      f"{crossfitted.std() / np.sqrt(len(crossfitted)):.4f}", f"{true.mean():+.4f}",
                      f"{np.mean((lows <= 0) & (highs >= 0)):.3f}", f"{np.mean((lows <= true) & (true <= highs)):.3f}",
                      f"{np.mean([gain.is_credible for gain in gains]):.3f}")
    any_credible = np.mean([any(gain.is_credible for gain in gains) for gains, _ in results])
    table.add_row("any of them", *[""] * 6, f"{any_credible:.3f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
