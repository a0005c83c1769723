"""Probes: labels, and membership of the test part, predicted from file and table columns without the image.

A high score means that a network may learn the scanner, the ward or the export instead of the finding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data.image_scan import Scan
from data.metadata import ParsedColumns
from data.splitting import grouped_folds
from scoring.confidence_intervals import roc_auc_interval

# Everywhere in this file features are {family: (N, f) float}, NaN if unknown. A family is used as a whole: the columns
# of one categorical variable, the bins of one histogram.

FOLDS = 5
MIN_GROUPS = 10  # with and without the label; below it an interval is meaningless
BINS = 8  # of the grey value histogram
EDGE = 4  # of 64 thumbnail pixels: the width of the border, half the side of a corner
BLOCK = 1024  # thumbnails read at once


@dataclass(frozen=True)
class Probe:
    """How well a label is predicted without the image; all scores are NaN if there are too few groups."""

    name: str  # the label, or "test"
    images: int  # with a known answer
    positives: int
    groups: int  # with a positive
    auc: float  # of all families together; cross-validated over groups, scores ranked within each fold
    low: float  # 95 %, bootstrap over groups
    high: float
    families: dict[str, float]  # the AUC of each alone, the highest first

    @property
    def is_above_chance(self) -> bool:
        """True if the whole interval is above 0.5."""
        return self.low > 0.5

    @property
    def best(self) -> str:
        """The family with the highest AUC, "" if there is none."""
        return next(iter(self.families), "")


def column_features(parsed: ParsedColumns) -> dict[str, np.ndarray]:
    """One family a table column: numbers unchanged, categories one-hot encoded."""
    families = {column: parsed.numeric[column].to_numpy(float)[:, None] for column in parsed.numeric}
    for column in parsed.categorical:
        families[column] = pd.get_dummies(parsed.categorical[column]).to_numpy(float)
    return families


def file_features(scan: Scan) -> dict[str, np.ndarray]:
    """File size, height, width, aspect ratio, pixel mode, and mean (brightness) and deviation (contrast) of pixels."""
    height, width = scan.height.astype(float), scan.width.astype(float)
    aspect = np.divide(width, height, out=np.full(len(scan), np.nan), where=height > 0)
    modes = pd.get_dummies(pd.Series(scan.mode)).to_numpy(float)
    numbers = {"file size": scan.file_bytes, "height": height, "width": width, "aspect": aspect,
               "brightness": scan.mean, "contrast": scan.std}
    return {name: np.asarray(values, float)[:, None] for name, values in numbers.items()} | {"mode": modes}


def order_features(image_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The position of an image in the table, the length of its id and the last number in it."""
    numbers = pd.Series(image_ids, dtype=str).str.extract(r"(\d{1,15})\D*$", expand=False).astype(float)
    lengths = np.array([len(image_id) for image_id in image_ids], float)
    return {"row order": np.arange(len(image_ids), dtype=float)[:, None], "id length": lengths[:, None],
            "number in the id": numbers.to_numpy()[:, None]}


def histogram_features(scan: Scan) -> dict[str, np.ndarray]:
    """Shares of the thumbnail's pixels in 8 ranges of grey values."""
    histogram = np.empty((len(scan), BINS))
    for rows, images in _blocks(scan):
        for i in range(BINS):
            histogram[rows, i] = (images // (256 // BINS) == i).mean(axis=(1, 2))
    return {"grey value histogram": histogram}


def border_features(scan: Scan) -> dict[str, np.ndarray]:
    """Features of the thumbnail's border and corners, where letters and collimators are.

    border (N, 6): the mean of each side, 4 pixels wide, and the shares of black and white pixels;  corners (N, 8): mean
    and maximum of each corner, 8 pixels wide.
    """
    border, corners = np.empty((len(scan), 6)), np.empty((len(scan), 8))
    for rows, images in _blocks(scan):
        sides = [images[:, :EDGE], images[:, -EDGE:], images[:, :, :EDGE], images[:, :, -EDGE:]]
        flat = np.concatenate([side.reshape(len(images), -1) for side in sides], axis=1)
        border[rows] = np.stack([*(side.mean(axis=(1, 2)) for side in sides), (flat < 3).mean(axis=1),
                                 (flat > 252).mean(axis=1)], axis=1)
        near, far = slice(None, 2 * EDGE), slice(-2 * EDGE, None)
        squares = [images[:, down, right] for down in (near, far) for right in (near, far)]
        corners[rows] = np.stack([square.mean(axis=(1, 2)) for square in squares]
                                 + [square.max(axis=(1, 2)) for square in squares], axis=1)
    return {"border": border, "corners": corners}


def _blocks(scan: Scan) -> Iterator[tuple[slice, np.ndarray]]:
    for first in range(0, len(scan), BLOCK):
        rows = slice(first, first + BLOCK)
        yield rows, np.asarray(scan.thumbnails[rows])


# ---- probing


def probe_labels(features: dict[str, np.ndarray], cells: np.ndarray, groups: np.ndarray, labels: list[str],
                 seed: int = 0) -> list[Probe]:
    """Predicts each label from the features alone, out of fold, with folds of whole groups.

    cells: (N, K) of 1, 0, -1, NaN, of which only 1 and 0 count. The same folds serve all labels.
    """
    features = {family: values for family, values in features.items() if _varies(values)}
    n_folds = min(FOLDS, len(np.unique(groups)))
    folds = grouped_folds(cells, groups, n_folds, seed) if n_folds > 1 else np.zeros(len(groups), int)
    bar = tqdm(labels, "predicting labels without the image", unit="label", leave=False, disable=None)
    with threadpool_limits(1):  # the fits are too short for threads to help
        return [_probe(label, features, cells[:, k], groups, folds, seed) for k, label in enumerate(bar)]


def probe_parts(train: dict[str, np.ndarray], test: dict[str, np.ndarray], train_groups: np.ndarray,
                test_groups: np.ndarray, seed: int = 0) -> Probe:
    """Distinguishes test from training images by the families that both have; equal groups share a fold."""
    features = {family: np.concatenate([train[family], test[family]]) for family in train
                if family in test and train[family].shape[1] == test[family].shape[1]}
    target = np.concatenate([np.zeros(len(train_groups)), np.ones(len(test_groups))])
    groups = np.concatenate([train_groups, test_groups])
    return probe_labels(features, target[:, None], groups, ["test"], seed)[0]


def _varies(values: np.ndarray) -> bool:
    filled = values[~np.isnan(values).any(axis=1)]
    return bool(len(filled)) and (len(filled) < len(values) or bool((filled != filled[0]).any()))


def _probe(name: str, features: dict[str, np.ndarray], target: np.ndarray, groups: np.ndarray, folds: np.ndarray,
           seed: int) -> Probe:
    known = np.isin(target, (0, 1))
    target, groups, folds = target[known], groups[known], folds[known]
    counts = [len(np.unique(groups[target == kind])) for kind in (1, 0)]
    found = {"name": name, "images": len(target), "positives": int((target == 1).sum()), "groups": counts[0]}
    if min(counts) < MIN_GROUPS or not features:
        return Probe(**found, auc=np.nan, low=np.nan, high=np.nan, families={})
    leaf = int(np.clip(len(target) // 20, 2, 20))
    forest = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, min_samples_leaf=leaf,
                                            early_stopping=False, random_state=seed)
    together = np.concatenate([values[known] for values in features.values()], axis=1)
    scores = _held_out_ranks(forest, together, target, folds)
    low, high = roc_auc_interval(target[:, None], scores[:, None], groups, seed=seed)
    tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=max(5, len(target) // 100), random_state=seed)
    alone = {family: _auc(target, _held_out_ranks(tree, values[known], target, folds))
             for family, values in features.items()}
    families = dict(sorted(alone.items(), key=lambda item: -item[1]))
    return Probe(**found, auc=_auc(target, scores), low=low, high=high, families=families)


def _held_out_ranks(classifier: HistGradientBoostingClassifier | DecisionTreeClassifier, values: np.ndarray,
                    target: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) scores of models that did not see the row's fold, as ranks from 0 to 1 within the fold.

    Pooled without ranking, a fold with many positives would be scored low, since the other folds have few of them.
    """
    scores = np.full(len(target), 0.5)
    for fold in np.unique(folds):
        held_out = folds == fold
        if len(np.unique(target[~held_out])) == 2:
            probs = classifier.fit(values[~held_out], target[~held_out]).predict_proba(values[held_out])[:, 1]
            scores[held_out] = pd.Series(probs).rank(pct=True).to_numpy() - 0.5 / held_out.sum()
    return scores


def _auc(target: np.ndarray, scores: np.ndarray) -> float:
    """ROC AUC by the Mann-Whitney statistic; ties count half."""
    positive = target == 1
    ranks = pd.Series(scores).rank().to_numpy()[positive].sum()
    n, m = positive.sum(), (~positive).sum()
    return float((ranks - n * (n + 1) / 2) / (n * m))
