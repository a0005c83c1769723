"""The price of a leak is found where one was planted, is nothing where there is none, and shared images are counted."""

import numpy as np
import pandas as pd
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import StandardScaler

from auditing import leakage
from auditing.leakage import (
    has_twin_in_training,
    leakage_gap,
    match_split,
    predict_held_out,
    sample_groups,
    scores_by_twin,
    split_overlaps,
    upsampling_mistake,
)
from common.files import read_csv
from models.frozen_features import frozen_features
from real_data import DATA, needs

LABELS = ["common", "rare"]


def patients(n_groups: int = 100, per_group: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that say who it is and nothing about labels, which are the same for all of a patient's images."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i:03d}" for i in range(n_groups)], per_group)
    features = np.repeat(rng.normal(size=(n_groups, 12)), per_group, axis=0) + 0.1 * rng.normal(
        size=(n_groups * per_group, 12))
    labels = np.repeat(rng.random((n_groups, 2)) < (0.5, 0.1), per_group, axis=0)
    return features.astype(np.float32), labels.astype(float), groups


def test_a_classifier_that_knows_patients_only_gains_by_random_folds_alone():
    price = leakage_gap(*patients(), LABELS, n_folds=4)
    assert price.random > 0.9 and price.grouped < 0.65
    assert price.difference == pytest.approx(price.random - price.grouped)
    assert price.difference_interval[0] > 0.2
    assert price.grouped_interval[0] <= price.grouped <= price.grouped_interval[1]
    assert (price.images, price.groups, price.n_folds) == (400, 100, 4)
    assert price.by_label["label"].tolist() == LABELS and price.by_label["positives"].min() > 4


def test_nothing_is_gained_where_every_image_is_its_own_patient():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8))
    targets = (features[:, :2] + rng.normal(size=(300, 2)) > 0).astype(float)
    price = leakage_gap(features, targets, np.arange(300).astype(str), LABELS)
    assert abs(price.difference) < 0.03
    assert price.difference_interval[0] < 0 < price.difference_interval[1]


def test_cells_that_are_not_certain_neither_teach_nor_count():
    features, targets, groups = patients(40)
    holes, wrong = targets.copy(), targets.copy()
    holes[::5, 0], wrong[::5, 0] = np.nan, -1
    assert leakage_gap(features, holes, groups, LABELS).by_label.equals(
        leakage_gap(features, wrong, groups, LABELS).by_label)
    assert leakage_gap(features, holes, groups, LABELS).by_label["positives"][0] == (holes[:, 0] == 1).sum()


def test_the_classifier_is_scikit_learns_on_the_training_rows_alone():
    features, targets, groups = patients(25)
    folds = np.arange(100) % 2
    scaler = StandardScaler().fit(features[folds == 0])
    gamma = 1 / (2 * 12 * leakage.WIDTH**2)
    means = targets[folds == 0].mean(axis=0)
    model = KernelRidge(kernel="rbf", alpha=leakage.RIDGE, gamma=gamma).fit(
        scaler.transform(features[folds == 0]), targets[folds == 0] - means)
    expected = np.clip(model.predict(scaler.transform(features[folds == 1])) + means, 0, 1)
    assert predict_held_out(features, targets, folds)[folds == 1] == pytest.approx(expected, abs=1e-4)


def test_a_row_that_counts_twice_is_a_row_that_stands_twice():
    features, targets, _ = patients(30)
    features = features.astype(np.float64)
    times = 1 + np.arange(120) % 3
    repeated = np.repeat(np.arange(120), times)
    counted = leakage._fit_predict(features, targets, features + 0.3, times)
    stood = leakage._fit_predict(features[repeated], targets[repeated], features + 0.3)
    assert counted == pytest.approx(stood, abs=1e-6)


def test_a_twin_is_one_in_another_fold_only():
    keys, folds = np.array(["a", "a", "b", "b", "", "", "c"]), np.array([0, 1, 2, 2, 0, 1, 0])
    assert has_twin_in_training(keys, folds).tolist() == [True, True, False, False, False, False, False]


def test_scores_of_rows_with_and_without_a_twin():
    targets = np.array([[1.0], [0], [1], [0], [1], [0]])
    random_probs = np.array([[0.9], [0.1], [0.2], [0.6], [0.1], [0.5]])
    grouped_probs = np.array([[0.1], [0.9], [0.2], [0.6], [0.9], [0.5]])
    keys, folds = np.array(["a", "a", "", "", "", ""]), np.array([0, 1, 0, 1, 0, 1])
    table = scores_by_twin(targets, random_probs, grouped_probs, folds, {"copy": keys, "none": np.full(6, "")})
    assert table.iloc[0].tolist() == ["copy", "with", 2, 1.0, 0.0, 1.0]
    assert table.iloc[1].tolist() == ["copy", "without", 4, 0.0, 0.5, -0.5]
    assert table["images"].tolist() == [2, 4, 0, 6] and np.isnan(table["random"][2])


def test_copying_before_the_split_makes_a_worthless_classifier_look_good():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(500, 20)), np.arange(500).astype(str)
    targets = (rng.random((500, 2)) < (0.5, 0.03)).astype(float)  # nothing to learn
    table = upsampling_mistake(features, targets, groups, LABELS).set_index("label")
    assert table.loc["rare", "copies"] == 10 and table.loc["common", "copies"] == 1
    assert table.loc["rare", "seen"] > 0.95
    assert table.loc["rare", "false_f1"] > 0.85
    assert table.loc["rare", "true_f1"] < 0.2
    assert table.loc["mean", "false_f1"] == pytest.approx(table["false_f1"].iloc[:2].mean())


def test_of_a_binary_task_the_rarer_side_is_copied_whichever_it_is():
    """Nothing to learn, one in eight on one side: its copies are known again, and that is all there is to F1."""
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(400, 20)), np.arange(400).astype(str)
    rare = (np.arange(400) % 8 == 0).astype(float)[:, None]
    table = upsampling_mistake(features, rare, groups, ["ill"]).set_index("label")
    assert table.index.tolist() == ["ill", "no ill", "mean"]
    assert table["copies"].iloc[:2].tolist() == [7, 1] and table["positives"].tolist() == [50, 350, 400]
    assert table.loc["ill", "seen"] > 0.95 and table.loc["ill", "false_f1"] > 0.8 > 0.3 > table.loc["ill", "true_f1"]
    turned = upsampling_mistake(features, 1 - rare, groups, ["well"]).set_index("label")
    assert turned["copies"].iloc[:2].tolist() == [1, 7]
    assert turned.loc["no well", "false_f1"] == pytest.approx(table.loc["ill", "false_f1"])
    assert turned.loc["well", "true_f1"] == pytest.approx(table.loc["no ill", "true_f1"])


def test_of_classes_the_rare_ones_are_copied_and_known_again():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(400, 20)), np.arange(400).astype(str)
    targets = np.eye(3)[[0] * 300 + [1] * 75 + [2] * 25]
    table = upsampling_mistake(features, targets, groups, list("abc")).set_index("label")
    assert table["copies"].iloc[:3].tolist() == [1, 4, 10]
    assert table.loc["c", "false_f1"] > 0.9 and table.loc["c", "true_f1"] < 0.2


def test_uncertain_cells_of_a_binary_task_are_of_neither_side():
    features, groups = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60).astype(str)
    cells = np.array([[1.0], [0], [0], [-1], [np.nan]] * 12)
    table = upsampling_mistake(features, cells, groups, ["ill"])
    assert table["positives"].tolist() == [12, 24, 36] and table["copies"].iloc[:2].tolist() == [2, 1]


def test_without_rare_labels_nothing_is_copied_and_both_are_alike():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 6))
    targets = (features[:, :2] > 0).astype(float)
    table = upsampling_mistake(features, targets, np.arange(400).astype(str), LABELS)
    assert table["copies"].iloc[:2].tolist() == [1, 1] and table["seen"].iloc[:2].max() == 0
    assert table["false_f1"].iloc[0] == pytest.approx(table["true_f1"].iloc[0], abs=0.05)
    assert table["true_f1"].equals(table["copied_test_f1"]) and table["true_f1"].equals(table["plain_f1"])


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
        leakage_gap(features, targets, groups, LABELS, n_folds=5)


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
def test_a_split_names_images_in_many_ways(names):
    joined, parts = match_split(pd.DataFrame({"split": ["train", "test"], "file": names}), IMAGES)
    assert joined["image_id"].tolist() == IMAGES["image_id"].tolist()[:2] and joined["group"].tolist() == ["g1", "g2"]
    assert parts.tolist() == ["train", "test"] and joined.attrs["unmatched"] == 0


def test_a_name_that_could_be_several_images_is_left_alone():
    split = pd.DataFrame({"name": ["x1.png", "same.png", "zz.png"], "class": ["A", "A", "B"], "fold": ["0", "1", "1"]})
    joined, parts = match_split(split, IMAGES)
    assert joined["image_id"].tolist() == ["train/A/x1.png", "same.png", "zz.png"]
    assert joined["group"].tolist() == ["g1", "", ""] and joined.attrs["unmatched"] == 2
    assert parts.name == "fold"


def test_a_split_without_ids_or_parts_says_what_it_has():
    with pytest.raises(ValueError, match="name, fold"):
        match_split(pd.DataFrame({"name": ["q"], "fold": ["0"]}), IMAGES)
    with pytest.raises(ValueError, match="there are colour"):
        match_split(pd.DataFrame({"name": ["x1.png"], "colour": ["red"]}), IMAGES)


@needs("chest_xray")
def test_the_published_leaky_split_lights_up():
    folder = DATA / "chest_xray"
    paths = sorted(folder.glob("*/*/*.jpeg"))
    table = pd.DataFrame({"image_id": [str(path.relative_to(folder)) for path in paths], "path": list(map(str, paths))})
    joined, parts = match_split(read_csv(folder / "leaky_split.csv"), table)
    found = split_overlaps(joined, parts).set_index(["part", "other"])["same_id"]
    assert joined.attrs["unmatched"] == 0
    assert found["val", "train"] + found["test", "train"] == 1566  # as many as are known to stand in train too
    assert found["val", "test"] == 0


# ---- features


def test_features_are_kept_and_follow_their_images(home):
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
