"""Out-of-distribution test images: images unlike all training images in the features of a frozen network."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from auditing.anomaly_scores import LEAST, fit_distance
from common.files import home
from competition import Competition
from data.pixel_store import PixelSettings, PixelStore, kept_store, open_store
from data.tables import submitted_part
from models.frozen_features import frozen_features, kept_features
from results.workspace import Workspace

SIZE = 64      # pixels: the image size for anomalies and outliers
MOST = 4000    # training images that test images are compared with
FAR = 0.99     # quantile of held-out training images above which an image counts as far
MARGIN = 2     # factor on the expected share of far test images: images of one patient are alike
MAX_P = 1e-3   # p-value of the number of far test images below which there is an alarm
STRAY = 1.2    # a single image this many times as far as any training image is an alarm
MAX_IDS = 5    # in a warning


def anomaly_store(competition: Competition, part: str, table: pd.DataFrame) -> PixelStore:
    """The store of a part's images with 64 pixels; it is built if it does not exist yet."""
    return open_store(f"{competition.name}-{part}", table, PixelSettings(SIZE, competition.channels))


def anomaly_features(store: PixelStore) -> np.ndarray:
    """(N, D) features of all images of a store, computed once and kept: about a second for a hundred images."""
    return frozen_features(_name(store), store.pixels, store.folder.name)


def _name(store: PixelStore) -> str:
    return store.folder.name.rpartition(f"-{SIZE}px-")[0]


@dataclass(frozen=True)
class Outliers:
    """Test images that are farther from the training images than those are from each other."""

    rows: np.ndarray      # positions among the test images, the farthest first
    expected: float       # share of held-out training images that are as far
    is_alarm: bool


def find_outliers(train: np.ndarray, groups: np.ndarray, test: np.ndarray, seed: int = 0) -> Outliers:
    """Finds test images, features (n, D), that are far from the training images, features (N, D).

    Distances are fitted on each half of the training images, whole groups, and measured for the other half and the
    test images. An image is far if its distance exceeds 99 % of the held-out training images. The result is an alarm
    if so many test images are far that the probability is below 1 in 1,000 even with twice the expected share, or if
    one test image is 1.2 times as far as any training image.
    """
    half = _halves(groups, seed)
    by_training, by_test = np.empty(len(train)), np.zeros(len(test))
    for side in (half, ~half):
        distance = fit_distance(train[side], seed)
        held = distance(train[~side])
        by_training[~side] = held / np.median(held)
        by_test += distance(test) / np.median(held) / 2
    threshold = np.quantile(by_training, FAR)
    far = np.flatnonzero(by_test > threshold)
    far = far[np.argsort(-by_test[far], kind="stable")]
    expected = float((by_training > threshold).mean())
    p = binomtest(len(far), len(test), MARGIN * expected, alternative="greater").pvalue if len(test) else 1.0
    stray = far[by_test[far] > STRAY * by_training.max()]
    return Outliers(far if p < MAX_P else stray, expected,
                    bool(p < MAX_P or len(stray)))


def outlier_warnings(workspace: Workspace) -> list[str]:
    """A warning if test images are unlike all training images; an empty list otherwise.

    Uses features that find_anomalies.py has kept, and computes none: without them there is no warning. Constant images
    are left out. Damaged files give a warning too.
    """
    competition = workspace.competition
    if (part := submitted_part(competition)) is None:
        return []
    if not any((home() / "data" / "features").glob(f"{competition.name}-train-*.npy")):  # before anything is read
        return []
    try:
        tables = {"train": workspace.train, part: workspace.part(part)}
        kept = {name: _read_kept(competition, name, table) for name, table in tables.items()}
    except FileNotFoundError:  # a submission can be checked where the images are not
        return []
    except ValueError as error:
        return [f"the images of the {part} part could not be compared with the training images: {error}"]
    if None in kept.values():
        return []
    (train, training), (test, tested) = kept["train"], kept[part]
    if len(train) < 2 * LEAST or training["group"].nunique() < 2:
        return []
    found = find_outliers(train, training["group"].to_numpy(str), test)
    if not found.is_alarm:
        return []
    first = ", ".join(map(repr, tested["image_id"].to_numpy()[found.rows[:MAX_IDS]].tolist()))
    return [f"{len(found.rows)} of {len(test)} images of the {part} part are unlike the training images in a frozen "
            f"network's features (as far are {found.expected:.0%} of held-out training images), the farthest first: "
            f"{first}; check whether they are inverted, turned or of another kind"]


def _read_kept(competition: Competition, part: str, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame] | None:
    """Features (n, D) of a part's images that are not constant, at most 4,000 of train, and their table rows."""
    store = kept_store(f"{competition.name}-{part}", table, PixelSettings(SIZE, competition.channels))
    kept = None if store is None else kept_features(_name(store), store.pixels, store.folder.name)
    if kept is None:
        return None
    rows = store.rows(table["image_id"])
    shown = np.flatnonzero(~store.constant[rows])
    if part == "train":
        shown = np.sort(np.random.default_rng(0).permutation(shown)[:MOST])
    # if all images are used, the features stay on the disk and are read in chunks
    is_all = np.array_equal(rows[shown], np.arange(len(kept)))
    return kept if is_all else kept[rows[shown]], table.iloc[shown]


def _halves(groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: about half of the images, in whole groups."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    reached = np.cumsum(np.bincount(group_of_row, minlength=len(names))[order])
    return np.isin(group_of_row, order[:max(1, np.searchsorted(reached, len(groups) / 2))])
