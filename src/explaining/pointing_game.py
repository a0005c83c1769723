"""Do maps of heat lie where the findings are: the pointing game."""

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest

NEARLY = 1 / 16          # of the image's side: a miss by no more than this is nearly a hit


def hottest_pixel(heat: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest value of a map (S, S); of several, the one nearest to their middle.

    Maps grown from few cells have plateaus at the border, whose first pixel would always be the one up and left.
    """
    places = np.argwhere(heat >= heat.max() - 1e-6)
    nearest = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
    return int(places[nearest, 0]), int(places[nearest, 1])


def distance_to_mask(mask: np.ndarray) -> np.ndarray:
    """Pixels from every place (S, S) to the nearest of the finding, 0 inside. Raises ValueError for an empty mask."""
    if not mask.any():
        raise ValueError("the mask is empty; the pointing game needs a finding that is drawn")
    return distance_transform_edt(~mask.astype(bool))


def pointing_game(labels: tuple[str, ...], masks: list[dict[int, np.ndarray]],
                  hottest: dict[tuple[int, int], tuple | None], folds: np.ndarray) -> pd.DataFrame:
    """How often the hottest pixel falls inside the finding: one row a label that has masks, and one over all.

    masks: a dictionary a label, row to mask (S, S);  hottest: (label, row) to a pixel, None where the map is empty,
    which counts as a miss. `nearly` allows a miss by NEARLY of the side. `chance` is the finding's mean share of the
    image, `nearly_chance` the same for `nearly`; `best_guess` is the hit rate of one pixel for all images: the most
    often covered one in the masks of the other folds.
    Source: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, section 4.2.
    """
    plays = []
    for k, label in enumerate(labels):
        rows = [row for row in masks[k] if (k, row) in hottest]
        sums = {fold: sum((masks[k][row] for row in masks[k] if folds[row] != fold), np.zeros(1))
                for fold in {*folds[rows]}}
        for row in rows:
            distance = distance_to_mask(masks[k][row])
            reach, pixel = NEARLY * len(distance), hottest[k, row]
            plays.append({
                "label": label,
                "empty": pixel is None,
                "inside": pixel is not None and distance[pixel] == 0,
                "nearly": pixel is not None and distance[pixel] <= reach,
                "chance": (distance == 0).mean(),
                "nearly_chance": (distance <= reach).mean(),
                "best_guess": distance[hottest_pixel(sums[folds[row]])] == 0 if np.any(sums[folds[row]]) else np.nan,
            })
    if not plays:
        return pd.DataFrame()
    frame = pd.DataFrame(plays)
    return pd.DataFrame([_summary(label, frame[frame["label"] == label]) for label in frame["label"].unique()]
                        + [_summary("all", frame)])


def _summary(label: str, plays: pd.DataFrame) -> dict:
    interval = binomtest(int(plays["inside"].sum()), len(plays)).proportion_ci(0.95, method="wilson")
    means = {name: plays[name].astype(float).mean()
             for name in ("inside", "nearly", "chance", "nearly_chance", "best_guess")}
    return {"label": label, "images": len(plays), "empty": int(plays["empty"].sum()),
            "low": interval.low, "high": interval.high, **means}
