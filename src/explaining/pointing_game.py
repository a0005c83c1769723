"""The pointing game: how often the hottest pixel of a heat map lies inside the annotated finding."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest


def hottest_pixel(heat: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest value of a map (S, S); of several, the one nearest to their middle.

    Maps enlarged from few cells have plateaus at the border, of which argmax would return the upper left corner.
    """
    places = np.argwhere(heat >= heat.max() - 1e-6)
    nearest = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
    return int(places[nearest, 0]), int(places[nearest, 1])


def pointing_game(labels: tuple[str, ...], masks: list[dict[int, np.ndarray]],
                  hottest: dict[tuple[int, int], tuple | None], folds: np.ndarray) -> pd.DataFrame:
    """How often the hottest pixel lies inside the finding: a row per label that has masks, and one for all labels.

    masks: for each label a dictionary of row to mask (S, S) bool;  hottest: (label, row) to a pixel, None if the map is
    empty, which counts as a miss;  folds: (N,). Columns: `inside` with its 95 % interval, `low` and `high`;  `chance`,
    the finding's mean share of the image;  `best_guess`, the hit rate of one pixel for all images, the one that the
    masks of the other folds cover most often.
    Source: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, section 4.2.
    """
    plays = []
    for k, label in enumerate(labels):
        rows = [row for row in masks[k] if (k, row) in hottest]
        sums = {fold: sum((masks[k][row] for row in masks[k] if folds[row] != fold), np.zeros(1))
                for fold in {*folds[rows]}}
        for row in rows:
            mask, pixel, others = masks[k][row], hottest[k, row], sums[folds[row]]
            plays.append({
                "label": label,
                "empty": pixel is None,
                "inside": pixel is not None and mask[pixel],
                "chance": mask.mean(),
                "best_guess": mask[hottest_pixel(others)] if np.any(others) else np.nan,
            })
    if not plays:
        return pd.DataFrame()
    frame = pd.DataFrame(plays)
    return pd.DataFrame([_summary(label, frame[frame["label"] == label]) for label in frame["label"].unique()]
                        + [_summary("all", frame)])


def _summary(label: str, plays: pd.DataFrame) -> dict:
    interval = binomtest(int(plays["inside"].sum()), len(plays)).proportion_ci(0.95, method="wilson")
    means = {name: plays[name].astype(float).mean() for name in ("inside", "chance", "best_guess")}
    return {"label": label, "images": len(plays), "empty": int(plays["empty"].sum()),
            "low": interval.low, "high": interval.high, **means}
