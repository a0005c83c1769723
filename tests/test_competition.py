"""A description that contradicts itself raises when it is made, not when its data is read."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest

from competition import COMPETITIONS, Competition, Part

FROM_PATHS = {"train": Part(images="train/*/*.png"), "label_pattern": r"/(ill|well)/"}


def describe(**changes) -> Competition:
    fields = {"name": "small", "about": "two labels", "task": "multilabel", "labels": ("a", "b"), "metric": "roc_auc",
              "train": Part(table="train.csv", images="train/{image_id}.png")}
    return Competition(**{**fields, **changes})


def test_consistent_description_is_accepted():
    assert describe().labels == ("a", "b")


@pytest.mark.parametrize("changes, message", [
    ({"task": "binary"}, "a binary task has one label, not 2"),
    ({"task": "multiclass", "labels": ("a",)}, "two labels or more"),
    ({"labels": ()}, "there are no labels"),
    ({"labels": ("a", "a")}, "a label is repeated"),
    ({"label_columns": ("A",)}, "1 label_columns for 2 labels"),
    ({"train": Part(images="train/*.png")}, "a training part without a table needs label_pattern"),
    ({**FROM_PATHS, "group_column": "patient"}, "without a table there is no group_column; give group_pattern"),
    ({"test": Part(images="test/*.png")}, "without a table and label_pattern needs labelled=False"),
    ({**FROM_PATHS, "label_pattern": "(ill)|(well)"}, r"'(ill)|(well)' needs exactly one group in brackets"),
    ({"group_pattern": "person[0-9]+"}, "needs exactly one group in brackets"),
    ({**FROM_PATHS, "label_map": (("ill", "a"), ("well", "b"), ("odd", "c"))},
     "label_map names ['c'], not among the labels"),
    ({**FROM_PATHS, "label_map": (("ill", "a"),)}, "no text of label_map means 'b'"),
    ({"scored_labels": ("a",), "task": "multiclass"}, "so all of them are scored"),
    ({"scored_labels": ("a", "c")}, "scored_labels names ['c'], not in labels"),
    ({"labels": ("mass", "nodule"), "scored_labels": ("masss",)}, "not in labels; did you mean 'mass'?"),
    ({"kaggle": "My Competition"}, "kaggle='My Competition' is not a name"),
    ({"submission": "text"}, "submission='text' needs submission_column or label_list_column"),
    ({"task": "multi"}, "task must be one of 'binary', 'multiclass', 'multilabel', not 'multi'"),
    ({"shared_groups": "keep"}, "shared_groups must be one of 'error', 'drop', 'distinct', not 'keep'"),
    ({"submission": "hard"}, "submission must be one of 'probs', 'labels', 'text', not 'hard'"),
    ({"task": "multi-label"}, "not 'multi-label'; did you mean 'multilabel'?"),
    ({"channels": 4}, "channels must be one of 1, 3, not 4"),
])
def test_contradiction_raises(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        describe(**changes)


def test_unknown_or_missing_field_raises():
    with pytest.raises(TypeError, match="metrics"):
        describe(metrics="roc_auc")
    with pytest.raises(TypeError, match="images"):
        Part(table="train.csv")


def test_description_is_immutable():
    with pytest.raises(FrozenInstanceError):
        describe().metric = "brier"
    assert replace(describe(), metric="brier").metric == "brier"


@pytest.mark.parametrize("name", COMPETITIONS)
def test_about_states_source_and_terms(name):
    assert len(COMPETITIONS[name].about) > 40
    assert name == "demo" or re.search(r"https?://|Not published", COMPETITIONS[name].about)
