"""What label cells mean: 1, 0, -1 (uncertain) and NaN (blank) as targets to train on and targets to score on."""

import numpy as np

UNCERTAIN = -1


def training_targets(cells: np.ndarray, uncertain: str, blank: str) -> np.ndarray:
    """Targets (N, K) to train on, float32, NaN where the loss leaves the cell out.

    cells: (N, K) of 1, 0, -1, NaN;  uncertain: "ignore", "zeros" or "ones";  blank: "ignore" or "zeros".
    """
    values = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
    targets = np.where(np.isnan(cells), values[blank], cells)
    return np.where(cells == UNCERTAIN, values[uncertain], targets).astype(np.float32)


def scoring_targets(cells: np.ndarray) -> np.ndarray:
    """Targets (N, K) to score on: 1 and 0 where the cell is certain, NaN where it is uncertain or blank."""
    return np.where(np.isin(cells, (0, 1)), cells, np.nan)
