"""What label cells mean: 1, 0, -1 (uncertain) and NaN (blank) as targets to train on and targets to score on.

The policies for uncertain cells are those of Irvin et al. 2019, https://arxiv.org/abs/1901.07031 (U-Ignore, U-Zeros,
U-Ones, U-SelfTrained), and soft targets drawn from a range, Pham et al. 2021, https://arxiv.org/abs/1911.06475.
Scores use certain cells only, whatever the policy.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

UNCERTAIN = -1


def training_targets(cells: np.ndarray, uncertain: Sequence[str], blank: Sequence[str], training: np.ndarray,
                     predictions: np.ndarray | None = None, exclusive: bool = False) -> np.ndarray:
    """Targets (N, K) to train on, float32 in [0, 1], NaN where the loss leaves the cell out.

    cells: (N, K) of 1, 0, -1, NaN;  training: (N,) bool, the rows that are trained on;  blank: (K,) of "ignore" or
    "zeros";  uncertain: (K,) policies:
    "ignore", "zeros", "ones";
    "uniform:LOW:HIGH": half-way between them here, drawn anew for every epoch by `redraw_targets`;
    "mean": the label's share of positives among the certain cells of the training rows, left out where there is none;
    "self:RUN": predictions (N, K) of models that did not see the row. They are out-of-fold, but the model that
    predicted a row of a training fold was itself trained on the fold held out here, so something of that fold's labels
    comes back through the targets of uncertain cells, as it does in stacking; a score may be a little too good by that.
    exclusive: of classes, one a row. A row with an uncertain cell is left out whole or, with "self", predicted whole.
    """
    targets = scoring_targets(cells).astype(np.float32)
    for k, (of_uncertain, of_blank) in enumerate(zip(uncertain, blank, strict=True)):
        doubtful = cells[:, k] == UNCERTAIN
        given = None if predictions is None else predictions[doubtful, k]
        targets[doubtful, k] = _uncertain_values(of_uncertain, targets[training, k], given)
        if of_blank == "zeros":
            targets[np.isnan(cells[:, k]), k] = 0
    if exclusive:
        doubtful = (cells == UNCERTAIN).any(axis=1)
        targets[doubtful] = predictions[doubtful] if uncertain[0].startswith("self:") else np.nan
        with_one_class = np.abs(np.nan_to_num(targets).sum(axis=1) - 1) < 1e-3
        targets[np.isnan(targets).any(axis=1) | ~with_one_class] = np.nan
    return targets


def _uncertain_values(policy: str, certain: np.ndarray, given: np.ndarray | None) -> float | np.ndarray:
    kind = policy.partition(":")[0]
    if kind == "mean":
        stated = certain[np.isin(certain, (0, 1))]
        return stated.mean() if len(stated) else np.nan
    if kind == "self":
        return given
    if kind == "uniform":
        return sum(uniform_range(policy)) / 2
    return {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[policy]


def uniform_range(policy: str) -> tuple[float, float]:
    """(low, high) of "uniform:LOW:HIGH"."""
    _, low, high = policy.split(":")
    return float(low), float(high)


def redraw_targets(targets: np.ndarray, cells: np.ndarray, uncertain: Sequence[str], image_ids: Sequence[str],
                   labels: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """The targets (N, K) of one epoch: uncertain cells under "uniform:LOW:HIGH" drawn anew, all others as they are.

    A draw is a function of (seed, epoch, image id, label) alone, not of what else is in the table, its order, or the
    batch.
    """
    if not any(policy.startswith("uniform:") for policy in uncertain):
        return targets
    targets = targets.copy()
    for k, policy in enumerate(uncertain):
        if policy.startswith("uniform:"):
            low, high = uniform_range(policy)
            for row in np.flatnonzero(cells[:, k] == UNCERTAIN):
                targets[row, k] = low + (high - low) * _uniform(seed, epoch, image_ids[row], labels[k])
    return targets


def _uniform(seed: int, epoch: int, image_id: str, label: str) -> float:
    """A number in [0, 1), the same on every machine."""
    digest = blake2b(f"target/{seed}/{epoch}/{image_id}/{label}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def scoring_targets(cells: np.ndarray) -> np.ndarray:
    """Targets (N, K) to score on: 1 and 0 where the cell is certain, NaN where it is uncertain or blank."""
    return np.where(np.isin(cells, (0, 1)), cells, np.nan)


def scored_counts(cells: np.ndarray) -> np.ndarray:
    """(K, 2) int: how many certain cells a label has, and how many of them are positive."""
    return np.stack([np.isin(cells, (0, 1)).sum(axis=0), (cells == 1).sum(axis=0)], axis=1)


def first_of_each_vector(cells: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """(N,) bool, True for one row of each distinct vector of cells, the first by id; -1 and NaN are values like others.

    cells: (N, K);  image_ids: (N,).
    """
    order = np.argsort(np.asarray(image_ids, dtype=str), kind="stable")
    _, first = np.unique(np.nan_to_num(cells[order], nan=-9), axis=0, return_index=True)
    chosen = np.zeros(len(cells), bool)
    chosen[order[first]] = True
    return chosen
