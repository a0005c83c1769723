"""What label cells mean: 1, 0, -1 (uncertain) and NaN (missing) as targets to train on and targets to score on.

The policies for uncertain cells are those of Irvin et al. 2019, https://arxiv.org/abs/1901.07031 (U-Ignore, U-Zeros,
U-Ones, U-SelfTrained), and soft targets drawn from a range, Pham et al. 2021, https://arxiv.org/abs/1911.06475.
Scores use certain cells only, whatever the policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from common.settings import Choice, Value

UNCERTAIN = -1


@dataclass(frozen=True, kw_only=True)
class Policy(Choice):
    """What uncertain or missing cells of a label are in training. An entry of UNCERTAIN_POLICIES or MISSING_POLICIES.

    build: (certain, predicted) -> a target in [0, 1] or NaN (left out) for all such cells, or (m,) for m of them.
    certain: the label's targets of the training rows, 0, 1 or NaN;  predicted: (m,) what another run predicted of those
    cells, None where none is named.
    draw: (u in [0, 1)) -> the target of one cell in one epoch; None: every epoch has what `build` gave.
    for_classes: True: also where classes exclude one another; then `build` is asked for whole rows.
    """

    draw: Callable[..., float] | None = None
    for_classes: bool = False


def _mean(certain: np.ndarray, predicted: np.ndarray | None) -> float:
    stated = certain[np.isin(certain, (0, 1))]
    return stated.mean() if len(stated) else np.nan


IGNORE = Policy(build=lambda certain, predicted: np.nan, for_classes=True)
ZEROS = Policy(build=lambda certain, predicted: 0.0)
UNCERTAIN_POLICIES: dict[str, Policy] = {
    "ignore": IGNORE,
    "zeros": ZEROS,
    "ones": Policy(build=lambda certain, predicted: 1.0),
    # the label's share of positives among the certain cells of the training rows; left out where there is none
    "mean": Policy(build=_mean),
    # a number between the two, drawn for every cell and epoch
    "uniform": Policy(build=lambda certain, predicted, low, high: (low + high) / 2, arguments=("LOW", "HIGH"),
                      draw=lambda u, low, high: low + (high - low) * u,
                      check=lambda low, high: "" if low <= high <= 1 else "must have 0 <= LOW <= HIGH <= 1"),
    # out-of-fold predictions of another run. The model that predicted a row of a training fold was itself trained on
    # the fold held out here, so something of that fold's labels comes back, as in stacking: scores may be a little high
    "self": Policy(build=lambda certain, predicted, run: predicted, arguments=("RUN",), text=True, for_classes=True),
}
MISSING_POLICIES: dict[str, Policy] = {"ignore": IGNORE, "zeros": ZEROS}


def training_targets(cells: np.ndarray, uncertain: Sequence[Value], missing: Sequence[Value], training: np.ndarray,
                     predictions: np.ndarray | None = None, exclusive: bool = False) -> np.ndarray:
    """Targets (N, K) to train on, float32 in [0, 1], NaN where the loss leaves the cell out.

    cells: (N, K) of 1, 0, -1, NaN;  uncertain, missing: (K,) policies of the labels;  training: (N,) bool, rows trained
    on;  predictions: (N, K) of another run, for the policy "self".
    exclusive: True for classes, one a row. A row with an uncertain cell is then left out or predicted as a whole.
    """
    targets = scoring_targets(cells).astype(np.float32)
    for k, (of_uncertain, of_missing) in enumerate(zip(uncertain, missing, strict=True)):
        certain = targets[training, k].copy()
        for policy, chosen in ((of_uncertain, cells[:, k] == UNCERTAIN), (of_missing, np.isnan(cells[:, k]))):
            targets[chosen, k] = policy(certain, None if predictions is None else predictions[chosen, k])
    if exclusive:
        doubtful = (cells == UNCERTAIN).any(axis=1)
        targets[doubtful] = uncertain[0](np.array([]), None if predictions is None else predictions[doubtful])
        with_one_class = np.abs(np.nan_to_num(targets).sum(axis=1) - 1) < 1e-3
        targets[np.isnan(targets).any(axis=1) | ~with_one_class] = np.nan
    return targets


def redraw_targets(targets: np.ndarray, cells: np.ndarray, uncertain: Sequence[Value], image_ids: Sequence[str],
                   labels: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """The targets (N, K) of one epoch: uncertain cells drawn where their policy draws, all others as they are.

    A draw is a function of (seed, epoch, image id, label) alone, so it does not depend on the table's other rows, their
    order, or the batch.
    """
    if not any(policy.choice.draw for policy in uncertain):
        return targets
    targets = targets.copy()
    for k, policy in enumerate(uncertain):
        if policy.choice.draw:
            for row in np.flatnonzero(cells[:, k] == UNCERTAIN):
                u = _uniform(seed, epoch, image_ids[row], labels[k])
                targets[row, k] = policy.choice.draw(u, *policy.arguments)
    return targets


def _uniform(seed: int, epoch: int, image_id: str, label: str) -> float:
    """A number in [0, 1), the same on every machine."""
    digest = blake2b(f"target/{seed}/{epoch}/{image_id}/{label}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def scoring_targets(cells: np.ndarray) -> np.ndarray:
    """Targets (N, K) to score on: 1 and 0 where the cell is certain, NaN where it is uncertain or missing."""
    return np.where(np.isin(cells, (0, 1)), cells, np.nan)


def scored_counts(cells: np.ndarray) -> np.ndarray:
    """(K, 2) int: how many certain cells a label has, and how many of them are positive."""
    return np.stack([np.isin(cells, (0, 1)).sum(axis=0), (cells == 1).sum(axis=0)], axis=1)


def first_of_each_vector(cells: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """True (N,) for one row of each distinct vector of cells, the first by id; -1 and NaN are values like others.

    cells: (N, K);  image_ids: (N,).
    """
    order = np.argsort(np.asarray(image_ids, dtype=str), kind="stable")
    _, first = np.unique(np.nan_to_num(cells[order], nan=-9), axis=0, return_index=True)
    chosen = np.zeros(len(cells), bool)
    chosen[order[first]] = True
    return chosen
