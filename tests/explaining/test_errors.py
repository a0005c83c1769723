"""The list of wrong decisions, worked out by hand."""

import numpy as np
import pandas as pd

from competition import Competition, Part
from explaining.errors import list_errors

IDS, FOLDS = pd.Series(["a", "b", "c", "d"]), np.array([0, 1, 0, 1])


def competition(task: str, *labels: str) -> Competition:
    return Competition(name="c", about="", task=task, labels=labels, metric="roc_auc",
                       train=Part(table="t.csv", images="{image_id}.png"))


def test_wrong_labels_are_listed_worst_first():
    targets = np.array([[1, 0], [0, 1], [np.nan, 1], [0, 0]])
    probs = np.array([[0.2, 0.9], [0.1, 0.4], [0.9, 0.8], [0.6, np.nan]])
    errors = list_errors(competition("multilabel", "mass", "edema"), IDS, targets, probs, (probs >= 0.5).astype(int),
                         FOLDS)
    assert errors.to_numpy().tolist() == [
        ["a", 0, "edema", 0, 1, 0.9], ["a", 0, "mass", 1, 0, 0.2], ["b", 1, "edema", 1, 0, 0.4],
        ["d", 1, "mass", 0, 1, 0.6]]
    assert list(errors) == ["image_id", "fold", "label", "truth", "predicted", "prob"]


def test_wrong_classes_are_named():
    targets = np.eye(3)[[0, 1, 2, 0]]
    targets[3] = np.nan
    probs = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    errors = list_errors(competition("multiclass", "x", "y", "z"), IDS, targets, probs, np.eye(3)[probs.argmax(axis=1)],
                         FOLDS)
    assert errors.to_dict("records") == [
        {"image_id": "c", "fold": 0, "truth": "z", "predicted": "y", "prob_of_truth": 0.1, "prob_of_predicted": 0.8},
        {"image_id": "b", "fold": 1, "truth": "y", "predicted": "x", "prob_of_truth": 0.3, "prob_of_predicted": 0.6}]


def test_without_errors_the_list_is_empty():
    assert list_errors(competition("binary", "m"), IDS, np.ones((4, 1)), np.ones((4, 1)), np.ones((4, 1)), FOLDS).empty
