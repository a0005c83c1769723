"""What can be told without the picture: probes that find what was planted and nothing else."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from auditing.metadata_probes import (
    _auc,
    _held_out_ranks,
    border_features,
    column_features,
    file_features,
    histogram_features,
    order_features,
    probe_labels,
    probe_parts,
)
from data.metadata import parse_columns

N = 240


def make_scan(**fields):
    """An object with the fields of a Scan that probes read."""
    rng = np.random.default_rng(0)
    given = {"height": np.full(N, 64), "width": np.full(N, 64), "mode": np.full(N, "L"),
             "file_bytes": rng.integers(1000, 2000, N), "mean": rng.normal(100, 10, N), "std": rng.normal(50, 5, N),
             "thumbnails": rng.integers(0, 256, (N, 64, 64), dtype=np.uint8)} | fields

    class Fake(SimpleNamespace):
        def __len__(self):
            return len(self.height)

    return Fake(**given)


def test_missing_values_are_a_feature():
    parsed = parse_columns(pd.DataFrame({"device": ["tube", "", "tube", ""]}))
    assert column_features(parsed)["device"].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_features_of_files_ids_and_borders_have_known_values():
    images = np.zeros((2, 64, 64), np.uint8)
    images[1, :8, :8] = 255
    scan = make_scan(height=np.array([10, 0]), width=np.array([20, 0]), mode=np.array(["L", "RGB"]),
                     file_bytes=np.array([5, 6]), mean=np.zeros(2), std=np.zeros(2), thumbnails=images)
    files = file_features(scan)
    np.testing.assert_allclose(files["aspect"][:, 0], [2, np.nan])
    assert files["mode"].tolist() == [[1, 0], [0, 1]]
    border = border_features(scan)
    assert border["corners"][0].tolist() == [0] * 8
    assert border["corners"][1].tolist() == [255, 0, 0, 0, 255, 0, 0, 0]
    assert border["border"][0, 4:].tolist() == [1, 0] and border["border"][1, 5] > 0
    np.testing.assert_allclose(histogram_features(scan)["grey value histogram"].sum(axis=1), 1)
    order = order_features(np.array(["p7_v012", "none"]))
    np.testing.assert_allclose(order["number in the id"][:, 0], [12, np.nan])
    assert order["row order"][:, 0].tolist() == [0, 1] and order["id length"][:, 0].tolist() == [7, 4]


def test_the_auc_equals_scikit_learns():
    rng = np.random.default_rng(0)
    target, scores = rng.integers(0, 2, 200), rng.integers(0, 9, 200) / 8
    assert _auc(target, scores) == pytest.approx(roc_auc_score(target, scores), abs=1e-12)


def test_a_column_that_predicts_the_label_is_named():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, N).astype(float)
    features = {"noise": rng.normal(size=(N, 1)), "site": (label + rng.normal(0, 0.3, N))[:, None]}
    probe = probe_labels(features, label[:, None], np.arange(N).astype(str), ["finding"])[0]
    assert probe.best == "site" and probe.auc > 0.9 and probe.is_above_chance
    assert probe.low < probe.auc < probe.high and probe.families["noise"] < 0.65
    assert (probe.images, probe.positives) == (N, int(label.sum()))


def test_a_nonmonotonic_column_is_found():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, N)
    probe = probe_labels({"size": values[:, None]}, (np.abs(values) < 0.5).astype(float)[:, None],
                         np.arange(N).astype(str), ["finding"])[0]
    assert probe.families["size"] > 0.9


def test_noise_scores_at_chance_with_similar_images_of_a_patient():
    """The feature identifies the patient, so it would predict the label if folds shared patients."""
    above = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        patient = np.arange(N) // 8
        label, mark = rng.integers(0, 2, N // 8)[patient], rng.normal(size=N // 8)[patient]
        probe = probe_labels({"mark": mark[:, None]}, label.astype(float)[:, None], patient.astype(str), ["finding"])[0]
        above += probe.auc > 0.6 and probe.is_above_chance
    assert above == 0


def test_uncertain_and_blank_cells_do_not_count():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, N).astype(float)
    cells = np.where(np.arange(N) % 4 == 0, np.where(np.arange(N) % 8 == 0, -1, np.nan), label)
    features = {"a": rng.normal(size=(N, 1))}
    assert probe_labels(features, cells[:, None], np.arange(N).astype(str), ["finding"])[0].images == N * 3 // 4


@pytest.mark.parametrize("cells", [np.zeros(N), np.full(N, np.nan), (np.arange(N) < 9).astype(float)])
def test_too_few_patients_give_no_auc(cells):
    probe = probe_labels({"a": np.arange(N, dtype=float)[:, None]}, cells[:, None], np.arange(N).astype(str), ["x"])[0]
    assert np.isnan(probe.auc) and probe.families == {} and probe.best == "" and not probe.is_above_chance


def test_two_images_or_one_patient_are_accepted():
    for groups in (["a", "b"], ["a", "a"]):
        probe = probe_labels({"a": np.array([[1.0], [2.0]])}, np.array([[0.0], [1.0]]), np.array(groups), ["x"])[0]
        assert np.isnan(probe.auc)


def test_constant_and_empty_columns_are_left_out():
    rng = np.random.default_rng(0)
    features = {"same": np.ones((N, 1)), "nothing": np.full((N, 1), np.nan), "good": rng.normal(size=(N, 1))}
    label = rng.integers(0, 2, N).astype(float)
    assert set(probe_labels(features, label[:, None], np.arange(N).astype(str), ["x"])[0].families) == {"good"}


def test_images_of_another_scanner_are_distinguished():
    rng = np.random.default_rng(0)
    sides = [{"brightness": rng.normal(mean, 1, (N, 1)), "age": rng.normal(size=(N, 1))} for mean in (0, 3)]
    sides[0]["only here"] = rng.normal(size=(N, 1))
    groups = [np.array([f"{part} {i}" for i in range(N)]) for part in ("train", "test")]
    probe = probe_parts(*sides, *groups)
    assert probe.best == "brightness" and probe.low > 0.9 and set(probe.families) == {"brightness", "age"}
    assert probe.families["age"] < 0.65


def test_probes_are_deterministic():
    rng = np.random.default_rng(0)
    features, label = {"a": rng.normal(size=(N, 2))}, rng.integers(0, 2, N).astype(float)
    one, other = (probe_labels(features, label[:, None], np.arange(N).astype(str), ["x"])[0] for _ in range(2))
    assert one == other


class PrevalencePlusValue:
    """A classifier whose scores depend on the prevalence in its training folds, as those of real ones do."""

    def fit(self, values, target):
        self.prevalence = target.mean()
        return self

    def predict_proba(self, values):
        score = self.prevalence + values[:, 0] / 1000
        return np.stack([1 - score, score], axis=1)


def test_held_out_scores_are_ranks_within_the_fold():
    rng = np.random.default_rng(0)
    values, folds = rng.integers(0, 9, 60).astype(float), np.repeat([0, 1, 2], [10, 20, 30])
    target = (rng.random(60) < np.array([0.9, 0.5, 0.1])[folds]).astype(float)
    scores = _held_out_ranks(PrevalencePlusValue(), values[:, None], target, folds)
    for fold in range(3):
        ranks = rankdata(values[folds == fold])
        np.testing.assert_allclose(scores[folds == fold], (ranks - 0.5) / len(ranks))


def test_folds_of_different_prevalence_do_not_lower_the_auc():
    """A feature that separates the classes in every fold has an AUC near 1 however the prevalence differs."""
    folds = np.repeat([0, 1], 50)
    target = np.concatenate([np.arange(50) < 45, np.arange(50) < 5]).astype(float)
    scores = _held_out_ranks(PrevalencePlusValue(), target[:, None], target, folds)
    unranked = np.where(folds == 0, 0.1, 0.9) + target / 1000
    within = np.concatenate([(rankdata(target[folds == fold]) - 0.5) / 50 for fold in (0, 1)])
    assert _auc(target, scores) == pytest.approx(roc_auc_score(target, within))
    assert _auc(target, scores) > roc_auc_score(target, unranked) + 0.3


def test_a_fold_whose_training_rows_have_one_class_scores_one_half():
    target, folds = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0, 0, 1, 1])
    scores = _held_out_ranks(PrevalencePlusValue(), np.arange(4.0)[:, None], target, folds)
    assert scores.tolist() == [0.5, 0.5, 0.25, 0.75]
