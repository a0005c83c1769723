"""What an epoch shows: every image as often as its sampler says, the same on every machine, and nothing else."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from common.settings import for_labels
from experiment import CHEXPERT_COPIES, REPEATS
from training.sampling import draw_epoch, epoch_length, expected_counts, occurrences

NAN = np.nan
CLASSES = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], (70, 20, 10))]


@pytest.mark.parametrize("count", [1, 2, 97])
@pytest.mark.parametrize("seed, epoch", [(0, 0), (0, 1), (7, 3)])
def test_natural_is_the_permutation_of_seed_and_epoch(count, seed, epoch):
    expected = expected_counts("natural", np.zeros((count, 2)), "multilabel")
    drawn = draw_epoch(expected, seed, epoch)
    np.testing.assert_array_equal(drawn, np.random.default_rng([seed, epoch]).permutation(count))


def test_balanced_classes_are_shown_equally_often():
    expected = expected_counts("balanced", CLASSES, "multiclass")
    assert expected.sum() == pytest.approx(100) and epoch_length(expected) == 100
    np.testing.assert_allclose(CLASSES.T @ expected, 100 / 3)
    np.testing.assert_allclose(expected, compute_sample_weight("balanced", CLASSES.argmax(axis=1)))


def test_balanced_shows_the_positives_and_negatives_of_one_label_equally_often():
    targets = np.array([[1.0]] * 5 + [[0.0]] * 45)
    expected = expected_counts("balanced", targets, "binary")
    assert expected[:5].sum() == pytest.approx(25) and expected[5:].sum() == pytest.approx(25)


def test_balanced_weights_an_image_by_its_rarest_class():
    targets = np.array([[1, 1], [1, 0], [1, NAN], [1, 0], [0, 0], [NAN, 0]])  # 4 and 1 positives, 2 without any
    expected = expected_counts("balanced", targets, "multilabel")
    weights = np.array([1, 1 / 4, 1 / 4, 1 / 4, 1 / 2, 1 / 2])
    np.testing.assert_allclose(expected, 6 * weights / weights.sum())


@pytest.mark.parametrize("task, targets", [
    ("multiclass", CLASSES), ("multilabel", CLASSES), ("binary", CLASSES[:, :1])])
def test_square_root_is_the_root_of_the_balanced_weight(task, targets):
    balanced, root = (expected_counts(name, targets, task) for name in ("balanced", "square_root"))
    np.testing.assert_allclose(root / root[0], np.sqrt(balanced / balanced[0]))
    assert root.sum() == pytest.approx(100)
    assert 1 < root.max() < balanced.max()


def test_a_soft_target_counts_as_what_it_is_nearer_to():
    hard = expected_counts("balanced", np.array([[1.0], [0.0], [0.0]]), "binary")
    np.testing.assert_allclose(expected_counts("balanced", np.array([[0.7], [0.4], [0.0]]), "binary"), hard)
    soft = np.array([[0.4, 0.3, 0.3], [0.1, 0.9, 0.0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(expected_counts("balanced", soft, "multiclass"), 1)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("sampler", ["balanced", "square_root"])
def test_labels_without_positives_and_a_single_image_can_be_sampled(task, sampler):
    for targets in (np.zeros((3, 2)), np.ones((3, 2)), np.array([[1.0, 0.0]])):
        np.testing.assert_allclose(expected_counts(sampler, targets, task), 1)


def test_an_unknown_sampler_raises():
    with pytest.raises(ValueError, match="there is no 'balance'; did you mean 'balanced'"):
        expected_counts("balance", CLASSES, "multiclass")


# ---- drawing


@pytest.mark.parametrize("sampler", ["balanced", "square_root"])
def test_every_image_appears_as_often_as_expected_rounded_down_or_up(sampler):
    expected = expected_counts(sampler, CLASSES, "multiclass")
    for epoch in range(50):
        counts = np.bincount(draw_epoch(expected, 0, epoch), minlength=100)
        assert counts.sum() == 100
        assert ((counts == np.floor(expected)) | (counts == np.ceil(expected))).all()


def test_over_many_epochs_every_image_appears_as_often_as_expected():
    expected = expected_counts("balanced", CLASSES, "multiclass")
    counts = sum(np.bincount(draw_epoch(expected, 3, epoch), minlength=100) for epoch in range(4000)) / 4000
    np.testing.assert_allclose(counts, expected, atol=5 * 0.5 / np.sqrt(4000))  # five standard deviations at the most


def test_two_images_beside_each_other_are_drawn_independently_enough():
    """With a fixed order, half the images would never be together with their neighbour."""
    together = np.mean([np.isin((0, 1), draw_epoch(np.full(100, 0.5), 0, epoch)).all() for epoch in range(1000)])
    assert together == pytest.approx(0.25, abs=0.06)


def test_an_epoch_is_shuffled_by_seed_and_epoch():
    expected = expected_counts("balanced", CLASSES, "multiclass")
    first = draw_epoch(expected, 0, 0)
    np.testing.assert_array_equal(draw_epoch(expected, 0, 0), first)
    assert (np.bincount(draw_epoch(expected, 0, 1), minlength=100) != np.bincount(first, minlength=100)).any()
    assert (draw_epoch(expected, 1, 0) != first).any()
    assert not (np.diff(first) >= 0).all()


def test_whole_counts_are_kept_exactly_among_many_images():
    expected = np.random.default_rng(0).integers(0, 11, 200_000).astype(float)
    for epoch in range(3):
        np.testing.assert_array_equal(np.bincount(draw_epoch(expected, 0, epoch), minlength=200_000), expected)


def test_rounding_of_the_sum_costs_no_image(monkeypatch):
    expected = np.full(10, 0.1)
    assert np.cumsum(expected)[-1] < 1  # so that starting from 0 the last whole number is never reached

    class FromZero:
        permutation = staticmethod(np.arange)
        integers = staticmethod(lambda high: 0)

    monkeypatch.setattr("training.sampling.np.random.default_rng", lambda seed: FromZero)
    assert len(draw_epoch(expected, 0, 0)) == epoch_length(expected) == 1


def test_occurrences_count_from_the_first_time_on():
    np.testing.assert_array_equal(occurrences(np.array([3, 1, 3, 3, 0, 1])), [0, 0, 1, 2, 0, 1])


# ---- copies

# label, certain positives, uncertain, copies: 001's frontal images of CheXpert
CHEXPERT = [
    ("No Finding", 17000, 0, 4), ("Enlarged Cardiomediastinum", 9292, 10286, 1), ("Cardiomegaly", 23451, 6707, 1),
    ("Lung Opacity", 94328, 4431, 0), ("Lung Lesion", 7041, 1108, 9), ("Edema", 49717, 11818, 1),
    ("Consolidation", 13015, 24381, 1), ("Pneumonia", 4683, 15981, 1), ("Atelectasis", 29795, 29863, 1),
    ("Pneumothorax", 17700, 2708, 1), ("Pleural Effusion", 76963, 9578, 0), ("Pleural Other", 2506, 1812, 10),
    ("Fracture", 7436, 499, 8), ("Support Devices", 107269, 915, 0)]


def test_the_copies_of_001_make_its_497398_images():
    labels = [label for label, *_ in CHEXPERT]
    copies = [int(number) for number in for_labels("label_repeats", CHEXPERT_COPIES, labels, REPEATS, "0")]
    assert copies == [number for *_, number in CHEXPERT]
    rng = np.random.default_rng(0)
    targets = np.zeros((191_229, 14), np.float32)
    for k, (_, certain, uncertain, _) in enumerate(CHEXPERT):  # uncertain ones are positive there
        targets[rng.permutation(len(targets))[:certain + uncertain], k] = 1
    sums = targets @ np.array(copies)
    assert sums.sum() == 497_398 and (sums == 0).any()
    counts = expected_counts("label_repeats", targets, "multilabel", copies)
    np.testing.assert_array_equal(counts, np.where(sums == 0, 1, sums))
    drawn = draw_epoch(counts, 0, 0)
    np.testing.assert_array_equal(np.bincount(drawn, minlength=len(targets)), counts)


def test_repeats_add_up_over_labels_and_are_at_least_1():
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [NAN, 1, 0]])
    np.testing.assert_array_equal(expected_counts("label_repeats", targets, "multilabel", [4, 9, 0]), [13, 9, 1, 1, 9])
    counts = expected_counts("label_repeats", CLASSES, "multiclass", [1, 2, 3])
    np.testing.assert_array_equal(counts @ CLASSES, [70, 40, 30])
