"""Anomalies: normal images, scores in units of held-out normal images, and outliers in the test part."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.covariance import LedoitWolf

import find_anomalies
from auditing import anomaly_scores, autoencoder, ood
from auditing.anomaly_scores import detection, fit_density, fit_distance, fit_scale, hold_out, normal_mask
from auditing.autoencoder import Autoencoder, errors_and_codes, train_autoencoder
from auditing.ood import find_outliers, outlier_warnings
from competition import Competition, Part
from data.folds import make_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_part, read_train
from results.workspace import Workspace

SIDE = 64


def competition_of(task="binary", labels=("ill",), **fields):
    return Competition(name="toy", about="", task=task, labels=labels, metric="roc_auc",
                       train=Part(table="train.csv", images="images/{image_id}.png"), **fields)


def cells(*rows, labels):
    return pd.DataFrame(rows, columns=list(labels), dtype=float)


# ---- which images are normal


def test_images_without_any_label_are_normal_by_default():
    labels = ("a", "b")
    is_anomaly, rule = normal_mask(competition_of("multilabel", labels),
                                   cells([0, 0], [0, 1], [0, -1], [1, np.nan], [0, np.nan], labels=labels))
    np.testing.assert_array_equal(is_anomaly, [0, 1, np.nan, 1, np.nan])
    assert "none of the 2 labels" in rule


def test_a_label_that_means_normal_defines_normal_images():
    labels = ("No Finding", "Edema")
    is_anomaly, rule = normal_mask(competition_of("multilabel", labels),
                                   cells([1, 0], [0, 1], [1, 1], [0, 0], [1, np.nan], labels=labels))
    np.testing.assert_array_equal(is_anomaly, [0, 1, np.nan, np.nan, 0])
    assert "'No Finding'" in rule
    labels = ("no_findings", "pneumonia")
    np.testing.assert_array_equal(normal_mask(competition_of("multiclass", labels),
                                              cells([1, 0], [0, 1], labels=labels))[0], [0, 1])
    np.testing.assert_array_equal(normal_mask(competition_of("binary", ("benign",)),
                                              cells([1], [0], labels=("benign",)))[0], [0, 1])


def test_classes_without_a_normal_one_are_an_error():
    np.testing.assert_array_equal(normal_mask(competition_of(), cells([1], [0], [-1], labels=("ill",)))[0],
                                  [1, 0, np.nan])
    with pytest.raises(ValueError, match="none of its classes means normal"):
        normal_mask(competition_of("multiclass", ("heart", "liver")), cells([1, 0], labels=("heart", "liver")))


# ---- scores


def test_whole_groups_are_held_out_and_too_few_are_an_error():
    groups = np.repeat(np.arange(50), 4).astype(str)
    held = hold_out(groups, seed=0)
    assert not set(groups[held]) & set(groups[~held]) and 0.25 <= held.mean() <= 0.3
    for few in (groups[:30], np.zeros(500, str), groups[:2]):
        with pytest.raises(ValueError, match="too few"):
            hold_out(few, seed=0)


def test_the_threshold_covers_95_percent_of_normal_images():
    rng = np.random.default_rng(0)
    for n in (20, 37, 100):  # the expected coverage of the k-th of n is k / (n + 1)
        below = []
        for _ in range(2000):
            zero, one = fit_scale(rng.normal(size=n))(np.array([0.0, 1.0]))
            below.append(norm.cdf((1 - zero) / (one - zero)))  # the raw score whose scaled value is 1
        assert np.mean(below) == pytest.approx(np.ceil(0.95 * (n + 1)) / (n + 1), abs=0.004)


def test_the_median_is_zero_and_equal_scores_are_not_scaled():
    scale = fit_scale(np.arange(21.0))
    assert scale(np.array([10.0, 20.0])).tolist() == [0, 1]
    assert fit_scale(np.ones(30))(np.array([1.0, 2.0])).tolist() == [0, 1]


def test_normal_images_alone_give_specificity_and_no_auc():
    figures = detection(np.array([0, 0, 0, np.nan]), np.array([0.0, 0.5, 2.0, 9.0]), np.array(list("abcd")))
    assert np.isnan(figures["roc_auc"]) and np.isnan(figures["sensitivity"]) and figures["images"] == 3
    assert figures["specificity"] == pytest.approx(2 / 3)


def test_distance_and_density_match_a_known_gaussian():
    rng = np.random.default_rng(2)
    # roots of the features are normal, of deviations 1 and 3
    drawn = rng.normal(size=(2000, 2)) * [1, 3]
    features = np.sign(drawn) * drawn**2
    distance = fit_distance(features, seed=0)
    assert distance(np.array([[0.0, 81.0], [9.0, 0.0]])) == pytest.approx([3, 3], rel=0.1)
    shrunk = LedoitWolf().fit(drawn)
    others = rng.normal(size=(30, 2))
    np.testing.assert_allclose(distance(np.sign(others) * others**2), np.sqrt(shrunk.mahalanobis(others)), rtol=1e-6)
    minus_log, bandwidth = fit_density(drawn[:1000], np.arange(1000).astype(str), seed=0)
    assert 0.2 <= bandwidth <= 0.7
    true = -norm.logpdf(np.array([[0, 0], [1, 3.0]]), scale=[1, 3]).sum(axis=1)
    assert np.diff(minus_log(np.array([[0, 0], [1, 3.0]]))) == pytest.approx(np.diff(true), abs=0.3)


def test_the_number_of_images_in_a_density_is_limited(monkeypatch):
    monkeypatch.setattr(anomaly_scores, "MOST_DENSITY", 50)
    minus_log, _ = fit_density(np.random.default_rng(0).normal(size=(100_000, 2)), np.arange(100_000).astype(str), 0)
    assert np.isfinite(minus_log(np.zeros((1, 2)))).all()


# ---- outliers


def cloud(n, rng, shift=0.0):
    return (rng.normal(size=(n, 20)) + shift) ** 2


def test_only_foreign_test_images_raise_an_alarm():
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        train, test = cloud(400, rng), cloud(200, rng)
        groups = np.arange(400).astype(str)
        alarms.append(find_outliers(train, groups, test).is_alarm)
    assert sum(alarms) == 0
    moved = cloud(200, rng, shift=3)
    found = find_outliers(train, groups, moved)
    assert found.is_alarm and len(found.rows) > 150
    one = test.copy()
    one[17] = 400
    found = find_outliers(train, groups, one)
    assert found.is_alarm and found.rows.tolist() == [17]


# ---- find_anomalies.py


def draw(folder, n, rng, colour=False):
    """Writes images: normal ones show a grey disc, others a bright square in it; image 5 is black."""
    folder.mkdir(parents=True, exist_ok=True)
    names, ill = [f"{folder.name}{i}" for i in range(n)], np.arange(n) % 3 == 0
    for i, name in enumerate(names):
        image = np.full((SIDE, SIDE), 40, np.uint8)
        cv2.circle(image, tuple(map(int, rng.integers(28, 36, 2))), int(rng.integers(15, 22)), 150, -1)
        if ill[i]:
            cv2.rectangle(image, (22, 22), (42, 42), 255, -1)
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        image = image * (i != 5)
        cv2.imwrite(str(folder / f"{name}.png"), np.stack([image, image // 2, image], axis=2) if colour else image)
    return pd.DataFrame({"image_id": names, "ill": ill.astype(int)})


@pytest.fixture
def toy(home, monkeypatch):
    """A function that makes competition, folder, table and folds, with fast settings; grey by default."""
    monkeypatch.setattr(autoencoder, "STEPS", 12)
    monkeypatch.setattr(find_anomalies, "anomaly_features", lambda store: small_features(store))

    def make(n=150, colour=False, labels=None):
        folder, rng = home / "toy", np.random.default_rng(0)
        train, test = (draw(folder / part, count, rng, colour) for part, count in (("images", n), ("tests", 24)))
        if labels is not None:
            train["ill"] = labels(n)
        train.to_csv(folder / "train.csv", index=False)
        test.to_csv(folder / "test.csv", index=False)
        competition = replace(competition_of(test=Part(table="test.csv", images="tests/{image_id}.png")),
                              channels=3 if colour else 1)
        table = read_train(competition, folder)[0]
        store = open_store("toy-train", table, PixelSettings(SIDE, competition.channels))
        make_folds(competition, table, store, n_folds=2, seed=0)
        return Workspace(competition, folder)

    return make


def small_features(store):
    images = store.pixels.reshape(len(store), SIDE, SIDE, -1)[..., 0]
    return images.reshape(len(store), 8, 8, 8, 8).mean(axis=(2, 4)).reshape(len(store), -1).astype(np.float32)


def test_anomalies_are_found_and_files_written(toy, home, capsys):
    workspace = toy()
    board = find_anomalies.find_anomalies(workspace)
    assert set(board["part"]) == {"train", "test"} and len(board) == 8
    assert (board[board["method"] == "features"]["roc_auc"] > 0.95).all()
    place = home / "runs" / "toy" / "anomaly"
    scores = pd.read_csv(place / "scores.csv")
    assert len(scores) == 174 and scores.loc[scores["image_id"] == "images5", "density"].isna().all()
    assert scores["either"].notna().sum() == 172
    assert {"scores_train.png", "scores_test.png", "reconstructions.png"} <= {path.name for path in place.iterdir()}
    assert json.loads((place / "detection.json").read_text())["normal"] == "normal: without 'ill'"
    assert "1 are constant and left out" in capsys.readouterr().out


def test_scores_are_deterministic(toy, undrawn):
    workspace = toy()
    one, other = (find_anomalies.find_anomalies(workspace) for _ in range(2))
    pd.testing.assert_frame_equal(one, other)


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: they take most of the time."""
    for name in ("draw_scores", "draw_reconstructions"):
        monkeypatch.setattr(find_anomalies, name, lambda *_: None)


@pytest.mark.parametrize("labels", [np.ones, lambda n: (np.arange(n) > 0).astype(int)], ids=["none", "one"])
def test_too_few_normal_images_are_an_error(toy, labels):
    workspace = toy(labels=labels)
    with pytest.raises(ValueError, match=r"outside fold \d there are [01] normal images"):
        find_anomalies.find_anomalies(workspace)


def test_colour_images_without_anomalies_have_no_auc(toy, capsys, undrawn):
    workspace = toy(n=100, colour=True, labels=np.zeros)
    board = find_anomalies.find_anomalies(workspace)
    train = board[board["part"] == "train"]
    assert train["roc_auc"].isna().all() and train["specificity"].notna().all()
    assert "cannot be scored" in capsys.readouterr().out


def test_the_autoencoder_depends_on_its_seed_and_reconstructs(toy):
    workspace = toy()
    store, rows = open_store("toy-train", workspace.table, PixelSettings(SIDE, 1)), np.arange(60)
    one, same, other = (train_autoencoder(store, rows, seed, steps=3) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.encoder[0].weight, other.encoder[0].weight)
    errors, codes = errors_and_codes(train_autoencoder(store, rows, 0, steps=30), store, rows)
    untrained, _ = errors_and_codes(Autoencoder(1, SIDE).eval(), store, rows)
    assert codes.shape == (60, autoencoder.CODE) and errors.mean() < untrained.mean() / 2


def test_foreign_test_images_give_a_warning_if_features_are_cached(toy, home, monkeypatch):
    workspace = toy(labels=np.zeros)
    competition, folder = workspace.competition, workspace.data_dir
    assert outlier_warnings(Workspace(competition, folder)) == []
    for part, name in (("train", "train"), ("test", "test")):
        ood.anomaly_store(competition, part, read_train(competition, folder)[0] if name == "train"
                           else read_part(competition, folder, part))
    (home / "data" / "features").mkdir()
    (home / "data" / "features" / "toy-train-0.npy").touch()
    monkeypatch.setattr(ood, "kept_features", lambda name, images, key: images.reshape(
        len(images), 8, 8, 8, 8).mean(axis=(2, 4)).reshape(len(images), -1))
    assert outlier_warnings(Workspace(competition, folder)) == []
    rng = np.random.default_rng(0)
    for i in range(24):
        cv2.imwrite(str(folder / "tests" / f"tests{i}.png"), rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    ood.anomaly_store(competition, "test", read_part(competition, folder, "test"))
    warnings = outlier_warnings(Workspace(competition, folder))
    assert len(warnings) == 1 and warnings[0].startswith("24 of 24 images of the test part") and "tests" in warnings[0]
    (folder / "train.csv").unlink()
    assert outlier_warnings(Workspace(competition, folder)) == []
