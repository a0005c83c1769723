"""What the labels look like, against scikit-learn, numpy and counting by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from auditing.label_stats import (
    count_cells,
    count_combinations,
    count_findings,
    count_shown,
    find_nested,
    find_rare,
    images_per_group,
    mean_images,
    phi_matrix,
    pool_statistics,
    rates_by_category,
    top_combinations,
)
from training.sampling import draw_epoch, expected_counts

NAN = np.nan
CELLS = np.array([[1, 0, 1], [1, 1, -1], [0, NAN, 0], [0, 0, 0], [-1, 1, 1]], float)
LABELS = ["a", "b", "c"]


def random_cells(rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.random(rows)
    cells = (rng.random((rows, 4)) + base[:, None] > 1.1).astype(float)
    cells[rng.random(cells.shape) < 0.1] = -1
    cells[rng.random(cells.shape) < 0.1] = NAN
    return cells


def test_cells_are_counted_by_kind():
    counts = count_cells(CELLS, LABELS)
    assert counts[["present", "absent", "uncertain", "blank"]].to_numpy().tolist() == [
        [2, 2, 1, 0], [2, 2, 0, 1], [2, 2, 1, 0]]
    assert counts["prevalence"].tolist() == [0.5, 0.5, 0.5]


def test_a_label_without_certain_cells_has_no_prevalence():
    counts = count_cells(np.array([[NAN, 1.0], [-1, 1]]), ["a", "b"])
    assert np.isnan(counts["prevalence"][0]) and counts["prevalence"][1] == 1


def test_findings_and_combinations_count_positive_cells_only():
    assert count_findings(CELLS).tolist() == [2, 0, 3, 0]
    combinations = count_combinations(CELLS, LABELS)
    assert dict(zip(combinations["combination"], combinations["images"], strict=True)) == {
        "none": 2, "a + b": 1, "a + c": 1, "b + c": 1}
    assert combinations["share"].sum() == pytest.approx(1)


def test_rare_combinations_are_one_row():
    combinations = pd.DataFrame({"combination": list("abcd"), "images": [5, 3, 1, 1], "share": [0.5, 0.3, 0.1, 0.1]})
    top = top_combinations(combinations, 2)
    assert top["combination"].tolist() == ["a", "b", "2 other"] and top["images"].tolist() == [5, 3, 2]
    assert top_combinations(combinations, 4).equals(combinations)


def test_phi_is_the_correlation_where_both_labels_are_certain():
    cells = random_cells()
    phi = phi_matrix(cells)
    for i in range(4):
        for j in range(4):
            both = np.isin(cells[:, [i, j]], (0, 1)).all(axis=1)
            first, second = cells[both, i], cells[both, j]
            assert phi[i, j] == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)
            assert phi[i, j] == pytest.approx(matthews_corrcoef(first, second), abs=1e-12)


def test_a_constant_label_has_no_correlation():
    phi = phi_matrix(np.array([[0.0, 1], [0, 0], [0, 1]]))
    assert np.isnan(phi[0]).all() and phi[1, 1] == 1


def test_nested_labels_are_found():
    outer = np.arange(100) % 2
    inner = (np.arange(100) % 4 == 1).astype(int)
    cells = np.stack([inner, outer, np.arange(100) % 3 == 0], axis=1).astype(float)
    assert find_nested(cells, LABELS) == [("a", "b")]
    assert find_nested(cells, LABELS, fewest=26) == []
    twin = np.stack([outer, outer], axis=1).astype(float)
    assert find_nested(twin, ["a", "b"]) == [("a", "b")]


def test_a_label_of_all_images_is_not_nested():
    cells = np.stack([np.arange(60) % 2, np.ones(60)], axis=1).astype(float)
    assert find_nested(cells, ["a", "b"]) == []


def test_rarity_counts_patients_and_not_images():
    groups = np.array(["p"] * 50 + [f"q{i}" for i in range(50)])
    cells = np.zeros((100, 2))
    cells[:50, 0] = 1  # fifty images of one patient
    cells[40:60, 1] = 1  # of eleven patients
    rare = find_rare(cells, groups, ["a", "b"], n_folds=5).set_index("label")
    assert rare.loc["a"].tolist() == [50, 1, 50, True]
    assert rare.loc["b"].tolist() == [20, 11, 41, False]
    assert find_rare(cells, groups, ["a", "b"], n_folds=1, fewest=10).empty


def test_a_label_without_negatives_is_too_rare():
    rare = find_rare(np.ones((200, 1)), np.arange(200).astype(str), ["a"], n_folds=5)
    assert rare["too_rare"].tolist() == [True] and rare["groups_without"].tolist() == [0]


def test_images_per_patient_are_counted():
    per_group = images_per_group(np.array(["a", "b", "b", "c", "c", "d", "d", "d"]))
    assert per_group.to_numpy().tolist() == [[1, 1], [2, 2], [3, 1]]


def test_mean_images_do_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    thumbnails, cells = rng.integers(0, 256, (50, 6, 6), dtype=np.uint8), random_cells(50)
    use = rng.random(50) < 0.8
    monkeypatch.setattr("auditing.label_stats.BLOCK", 7)
    means = mean_images(thumbnails, cells, use)
    for k in range(4):
        np.testing.assert_allclose(means.present[k], thumbnails[(cells[:, k] == 1) & use].mean(axis=0))
        np.testing.assert_allclose(means.absent[k], thumbnails[(cells[:, k] == 0) & use].mean(axis=0))
        assert means.present_count[k] == ((cells[:, k] == 1) & use).sum()


def test_a_label_without_images_has_no_mean_image():
    means = mean_images(np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1)), np.ones(3, bool))
    assert np.isnan(means.present).all() and not means.absent.any()


def test_pooled_statistics_equal_those_of_all_pixels():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(float)
    images[:10] /= 3
    mean, std = pool_statistics(images.mean(axis=(1, 2)), images.std(axis=(1, 2)))
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)))


def test_no_images_give_nan():
    mean, std = pool_statistics(np.empty((0, 3)), np.empty((0, 3)))
    assert mean.shape == std.shape == (3,) and np.isnan(mean).all() and np.isnan(std).all()


def test_rates_by_category_are_means_of_certain_cells():
    names, rates, counts = rates_by_category(CELLS, np.array(["x", "x", "", "y", "y"]))
    assert names == ["", "x", "y"] and counts.tolist() == [1, 2, 2]
    np.testing.assert_allclose(rates, [[0, NAN, 0], [1, 0.5, 1], [0, 0.5, 0.5]])


# ---- what an epoch shows


def test_expected_counts_match_the_rows_of_an_epoch():
    """The counts equal the means of 1,000 drawn epochs; images without certain cells are left out."""
    cells = random_cells(60)
    cells[::12] = NAN
    shown = count_shown(cells, list("abcd"), "multilabel", np.array([1, 3, 1, 2]))
    targets = np.where(np.isin(cells, (0, 1)), cells, NAN)
    targets = targets[~np.isnan(targets).all(axis=1)]
    assert list(shown) == ["natural", "square_root", "balanced", "label_repeats"]
    for sampler, frame in shown.items():
        expected = expected_counts(sampler, targets, "multilabel", [1, 3, 1, 2])
        drawn = np.concatenate([draw_epoch(expected, 0, epoch) for epoch in range(1000)])
        for kind, column in ((1, "present"), (0, "absent")):
            np.testing.assert_allclose((targets[drawn] == kind).sum(axis=0) / 1000, frame[column][:4], rtol=0.03)
        none = ((targets[drawn] == 1).sum(axis=1) == 0).sum() / 1000
        assert frame.iloc[4]["label"] == "no label" and frame.iloc[4]["present"] == pytest.approx(none, rel=0.03)
        assert frame["images"][0] == pytest.approx(len(drawn) / 1000, abs=0.5)
    np.testing.assert_allclose(shown["natural"]["prevalence"][:4], count_cells(cells, list("abcd"))["prevalence"])


def test_a_balanced_epoch_of_a_binary_task_has_equal_classes():
    shown = count_shown(np.array([[1.0]] * 9 + [[0]] * 3), ["pneumonia"], "binary", np.array([1]))
    assert list(shown) == ["natural", "square_root", "balanced"]  # nothing is rare that would be copied
    assert shown["natural"]["label"].tolist() == ["pneumonia", "no pneumonia"]
    assert shown["natural"]["prevalence"].tolist() == [0.75, 0.25]
    np.testing.assert_allclose(shown["balanced"]["prevalence"], [0.5, 0.5])
    root = 9 / np.sqrt(9) / (9 / np.sqrt(9) + 3 / np.sqrt(3))
    np.testing.assert_allclose(shown["square_root"]["prevalence"], [root, 1 - root])


def test_classes_are_balanced_without_a_row_for_no_label():
    cells = np.eye(3)[[0] * 6 + [1] * 3 + [2]]
    cells[9] = [0, 0, -1]  # a doubtful class: left out whole
    shown = count_shown(np.vstack([cells, np.eye(3)[[2]]]), list("abc"), "multiclass", np.array([1, 2, 6]))
    assert shown["balanced"]["label"].tolist() == list("abc")
    assert shown["natural"]["present"].tolist() == [6, 3, 1] and shown["label_repeats"]["present"].tolist() == [6, 6, 6]
    np.testing.assert_allclose(shown["balanced"]["prevalence"], [1 / 3] * 3)


def test_no_certain_cells_give_no_counts():
    assert count_shown(np.array([[-1.0, NAN]] * 5), ["a", "b"], "multilabel", np.array([1, 1])) == {}


def test_nested_pairs_are_sorted_by_images():
    number = np.arange(240)
    cells = np.stack([number % 8 == 0, number % 4 == 0, number % 2 == 0], axis=1).astype(float)
    assert find_nested(cells, LABELS) == [("b", "c"), ("a", "b"), ("a", "c")]
