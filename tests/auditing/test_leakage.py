"""Leakage is measured where it exists, is zero elsewhere, and images that parts of a split share are counted."""

import numpy as np
import pandas as pd
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import StandardScaler

from auditing import leakage
from auditing.leakage import (
    has_related_in_training,
    leakage_gap,
    match_split,
    oversampling_before_split,
    predict_held_out,
    sample_groups,
    scores_by_relation,
    split_overlaps,
)
from common.files import read_csv
from models.frozen_features import frozen_features
from real_data import DATA, needs

LABELS = ["common", "rare"]


def patients(n_groups: int = 100, per_group: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that identify the patient and are independent of labels; a patient's images have the same labels."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i:03d}" for i in range(n_groups)], per_group)
    features = np.repeat(rng.normal(size=(n_groups, 12)), per_group, axis=0) + 0.1 * rng.normal(
        size=(n_groups * per_group, 12))
    labels = np.repeat(rng.random((n_groups, 2)) < (0.5, 0.1), per_group, axis=0)
    return features.astype(np.float32), labels.astype(float), groups


def test_patient_features_score_high_in_random_folds_only():
    gap = leakage_gap(*patients(), n_folds=4)
    assert gap.random > 0.9 and gap.grouped < 0.65
    assert gap.difference == pytest.approx(gap.random - gap.grouped)
    assert gap.difference_interval[0] > 0.2
    assert gap.grouped_interval[0] <= gap.grouped <= gap.grouped_interval[1]
    assert (gap.images, gap.groups, gap.n_folds) == (400, 100, 4)


def test_there_is_no_gap_with_one_image_per_patient():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8))
    targets = (features[:, :2] + rng.normal(size=(300, 2)) > 0).astype(float)
    gap = leakage_gap(features, targets, np.arange(300).astype(str))
    assert abs(gap.difference) < 0.03
    assert gap.difference_interval[0] < 0 < gap.difference_interval[1]


def test_uncertain_cells_are_used_neither_in_training_nor_in_scores():
    features, targets, groups = patients(40)
    holes, wrong = targets.copy(), targets.copy()
    holes[::5, 0], wrong[::5, 0] = np.nan, -1
    one, other = (leakage_gap(features, cells, groups) for cells in (holes, wrong))
    assert (one.random, one.grouped) == (other.random, other.grouped)
    assert one.random != leakage_gap(features, targets, groups).random


def test_held_out_predictions_equal_scikit_learns_kernel_ridge():
    features, targets, groups = patients(25)
    folds = np.arange(100) % 2
    scaler = StandardScaler().fit(features[folds == 0])
    gamma = 1 / (2 * 12 * leakage.WIDTH**2)
    means = targets[folds == 0].mean(axis=0)
    model = KernelRidge(kernel="rbf", alpha=leakage.RIDGE, gamma=gamma).fit(
        scaler.transform(features[folds == 0]), targets[folds == 0] - means)
    expected = np.clip(model.predict(scaler.transform(features[folds == 1])) + means, 0, 1)
    assert predict_held_out(features, targets, folds)[folds == 1] == pytest.approx(expected, abs=1e-4)


def test_weighted_rows_equal_repeated_rows():
    features, targets, _ = patients(30)
    features = features.astype(np.float64)
    times = 1 + np.arange(120) % 3
    repeated = np.repeat(np.arange(120), times)
    weighted = leakage._fit_predict(features, targets, features + 0.3, times)
    repeated = leakage._fit_predict(features[repeated], targets[repeated], features + 0.3, np.ones(len(repeated)))
    assert weighted == pytest.approx(repeated, abs=1e-6)


def test_related_images_count_only_in_other_folds():
    keys, folds = np.array(["a", "a", "b", "b", "", "", "c"]), np.array([0, 1, 2, 2, 0, 1, 0])
    assert has_related_in_training(keys, folds).tolist() == [True, True, False, False, False, False, False]


def test_images_with_and_without_related_ones_are_scored_apart():
    targets = np.array([[1.0], [0], [1], [0], [1], [0]])
    random_probs = np.array([[0.9], [0.1], [0.2], [0.6], [0.1], [0.5]])
    grouped_probs = np.array([[0.1], [0.9], [0.2], [0.6], [0.9], [0.5]])
    keys, folds = np.array(["a", "a", "", "", "", ""]), np.array([0, 1, 0, 1, 0, 1])
    table = scores_by_relation(targets, random_probs, grouped_probs, folds, {"copy": keys, "none": np.full(6, "")})
    assert table.iloc[0].tolist() == ["copy", True, 2, 1.0, 0.0, 1.0]
    assert table.iloc[1].tolist() == ["copy", False, 4, 0.0, 0.5, -0.5]
    assert table["images"].tolist() == [2, 4, 0, 6] and np.isnan(table["random"][2])


def test_oversampling_before_the_split_raises_f1_without_any_signal():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(500, 20)), np.arange(500).astype(str)
    targets = (rng.random((500, 2)) < (0.5, 0.03)).astype(float)  # nothing to learn
    table = oversampling_before_split(features, targets, groups, LABELS).set_index("label")
    assert table.loc["rare", "repeats"] == 10 and table.loc["common", "repeats"] == 1
    assert table.loc["rare", "seen"] > 0.95
    assert table.loc["rare", "f1_before"] > 0.85
    assert table.loc["rare", "f1_after"] < 0.2
    assert table.loc["mean", "f1_before"] == pytest.approx(table["f1_before"].iloc[:2].mean())


def test_the_rarer_side_of_a_binary_task_is_repeated():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(400, 20)), np.arange(400).astype(str)
    rare = (np.arange(400) % 8 == 0).astype(float)[:, None]
    table = oversampling_before_split(features, rare, groups, ["ill"]).set_index("label")
    assert table.index.tolist() == ["ill", "no ill", "mean"]
    assert table["repeats"].iloc[:2].tolist() == [7, 1] and table["positives"].tolist() == [50, 350, 400]
    assert table.loc["ill", "seen"] > 0.95 and table.loc["ill", "f1_before"] > 0.8 > 0.3 > table.loc["ill", "f1_after"]
    turned = oversampling_before_split(features, 1 - rare, groups, ["well"]).set_index("label")
    assert turned["repeats"].iloc[:2].tolist() == [1, 7]
    assert turned.loc["no well", "f1_before"] == pytest.approx(table.loc["ill", "f1_before"])
    assert turned.loc["well", "f1_after"] == pytest.approx(table.loc["no ill", "f1_after"])


def test_rare_classes_are_repeated():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(400, 20)), np.arange(400).astype(str)
    targets = np.eye(3)[[0] * 300 + [1] * 75 + [2] * 25]
    table = oversampling_before_split(features, targets, groups, list("abc")).set_index("label")
    assert table["repeats"].iloc[:3].tolist() == [1, 4, 10]
    assert table.loc["c", "f1_before"] > 0.9 and table.loc["c", "f1_after"] < 0.2


def test_uncertain_cells_count_for_neither_side():
    features, groups = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60).astype(str)
    cells = np.array([[1.0], [0], [0], [-1], [np.nan]] * 12)
    table = oversampling_before_split(features, cells, groups, ["ill"])
    assert table["positives"].tolist() == [12, 24, 36] and table["repeats"].iloc[:2].tolist() == [2, 1]


def test_labels_of_equal_frequency_are_not_repeated():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 6))
    targets = (features[:, :2] > 0).astype(float)
    table = oversampling_before_split(features, targets, np.arange(400).astype(str), LABELS)
    assert table["repeats"].iloc[:2].tolist() == [1, 1] and table["seen"].iloc[:2].max() == 0
    assert table["f1_before"].iloc[0] == pytest.approx(table["f1_after"].iloc[0], abs=0.05)
    assert table["f1_after"].equals(table["f1_without"])


def test_groups_are_sampled_whole():
    groups = np.repeat(np.arange(50).astype(str), np.arange(50) % 7 + 1)
    rows = sample_groups(groups, 60, seed=3)
    taken = set(groups[rows])
    assert 40 < len(rows) <= 60 and (np.diff(rows) > 0).all()
    assert np.isin(groups, list(taken)).sum() == len(rows)
    assert sample_groups(groups, 1000).tolist() == list(range(len(groups)))
    assert len(sample_groups(np.array(["a"] * 9), 3)) == 9  # one group is the least


def test_fewer_groups_than_folds_is_an_error():
    features, targets, groups = patients(3)
    with pytest.raises(ValueError, match="groups"):
        leakage_gap(features, targets, groups, n_folds=5)


# ---- a published split


def test_shared_ids_pixels_and_groups_are_counted():
    table = pd.DataFrame({"image_id": ["a", "b", "c", "a", "d"], "pixel_hash": ["1", "2", "", "1", "2"],
                          "group": ["p", "q", "r", "p", "r"]})
    found = split_overlaps(table, pd.Series(["train", "train", "train", "test", "test"]))
    assert found.iloc[0].tolist() == ["test", "train", 2, 1, 2, 2, 2]
    assert found.iloc[1].tolist() == ["train", "test", 3, 1, 2, 2, 2]
    bare = split_overlaps(table[["image_id"]], pd.Series(["x", "x", "x", "y", "y"]))
    assert bare["same_pixels"].isna().all() and bare["groups"].isna().all() and bare["same_id"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="two parts"):
        split_overlaps(table, pd.Series(["train"] * 5))


IMAGES = pd.DataFrame({"image_id": ["train/A/x1.png", "train/B/x2.png", "train/A/same.png", "train/B/same.png"],
                       "path": ["/d/train/A/x1.png", "/d/train/B/x2.png", "/d/train/A/same.png", "/d/train/B/same.png"],
                       "group": ["g1", "g2", "g3", "g4"]})


@pytest.mark.parametrize("names", [["x1.png", "x2.png"], ["x1", "x2"], ["A/x1.png", "B/x2.png"],
                                   ["train/A/x1.png", "train/B/x2.png"], ["A\\x1.png", "B\\x2.png"]])
def test_images_of_a_split_are_matched_by_several_names(names):
    joined, parts = match_split(pd.DataFrame({"split": ["train", "test"], "file": names}), IMAGES)
    assert joined["image_id"].tolist() == IMAGES["image_id"].tolist()[:2] and joined["group"].tolist() == ["g1", "g2"]
    assert parts.tolist() == ["train", "test"] and joined.attrs["unmatched"] == 0


def test_ambiguous_names_stay_unmatched():
    split = pd.DataFrame({"name": ["x1.png", "same.png", "zz.png"], "class": ["A", "A", "B"], "fold": ["0", "1", "1"]})
    joined, parts = match_split(split, IMAGES)
    assert joined["image_id"].tolist() == ["train/A/x1.png", "same.png", "zz.png"]
    assert joined["group"].tolist() == ["g1", "", ""] and joined.attrs["unmatched"] == 2
    assert parts.name == "fold"


def test_a_split_without_images_or_parts_is_an_error():
    with pytest.raises(ValueError, match="name, fold"):
        match_split(pd.DataFrame({"name": ["q"], "fold": ["0"]}), IMAGES)
    with pytest.raises(ValueError, match="names there are colour"):
        match_split(pd.DataFrame({"name": ["x1.png"], "colour": ["red"]}), IMAGES)


@needs("chest_xray")
def test_the_published_split_of_chest_xray_overlaps():
    folder = DATA / "chest_xray"
    paths = sorted(folder.glob("*/*/*.jpeg"))
    table = pd.DataFrame({"image_id": [str(path.relative_to(folder)) for path in paths], "path": list(map(str, paths))})
    joined, parts = match_split(read_csv(folder / "leaky_split.csv"), table)
    found = split_overlaps(joined, parts).set_index(["part", "other"])["same_id"]
    assert joined.attrs["unmatched"] == 0
    assert found["val", "train"] + found["test", "train"] == 1566
    assert found["val", "test"] == 0


# ---- features


def test_features_are_cached_by_image(home):
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40), dtype=np.uint8)
    first = frozen_features("some", images, key="pixels-1")
    assert first.shape == (5, 1280) and first.dtype == np.float32 and np.isfinite(first).all()
    assert len({row.tobytes() for row in first}) == 5
    turned = frozen_features("some", images, key="pixels-1", rows=np.array([3, 0]))
    assert turned == pytest.approx(first[[3, 0]], abs=1e-3)
    files = sorted((home / "data" / "features").iterdir())
    assert len(files) == 2 and all(path.name.startswith("some-") for path in files)
    stamp = [path.stat().st_mtime_ns for path in files]
    assert np.array_equal(frozen_features("some", images, key="pixels-1"), first)
    assert [path.stat().st_mtime_ns for path in files] == stamp
    for path in files:
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="delete it"):
        frozen_features("some", images, key="pixels-1")
