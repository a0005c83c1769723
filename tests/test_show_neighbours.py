"""The map of similar images and their neighbours: distances, aligned feature spaces, figures and errors."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group

import show_neighbours
from common.image_grid import draw_tiles, labels_text
from competition import COMPETITIONS, Competition, Part
from data.demo import DemoSettings, make_demo
from data.folds import make_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from explaining.embedding_map import (
    THUMBNAIL_SIDE,
    THUMBNAILS,
    draw_map,
    make_views,
    place_thumbnails,
)
from explaining.embeddings import align_spaces, lay_out, search, search_from_outside, search_held_out
from untrained import write_untrained

RNG = np.random.default_rng(0)


def cosine_distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    return 1 - one @ others.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(others, axis=1)


# ---- neighbours


def test_neighbours_have_the_smallest_angles():
    asked, cases, allowed = RNG.normal(size=(5, 4)), RNG.normal(size=(30, 4)), RNG.random(30) < 0.5
    found = search(asked, cases, allowed, 3)
    distances = np.where(allowed, cosine_distances(asked, cases), np.inf)
    assert np.array_equal(found.rows, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :3], atol=1e-5)


def test_missing_neighbours_are_marked():
    found = search(RNG.normal(size=(2, 4)), RNG.normal(size=(3, 4)), np.array([True, False, True]), 5)
    assert (found.rows[:, 2:] == -1).all() and np.isnan(found.distances[:, 2:]).all() and (found.rows[:, :2] >= 0).all()
    assert (search(np.zeros((0, 4)), np.zeros((3, 4)), np.ones(3, bool), 2).rows).shape == (0, 2)


def test_held_out_images_have_neighbours_in_other_folds():
    folds = np.arange(20) % 2
    embedded = [RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3))]
    found = search_held_out(embedded, [0, 1], folds, np.ones(20, bool), np.array([4, 7]), 2)
    for number, (row, fold) in enumerate(((4, 0), (7, 1))):
        distances = np.where(folds != fold, cosine_distances(embedded[fold][[row]], embedded[fold])[0], np.inf)
        assert np.array_equal(found.rows[number], np.argsort(distances)[:2])
    assert (search_held_out(embedded[:1], [0], folds, np.ones(20, bool), np.array([7]), 2).rows == -1).all()


def test_distances_of_other_parts_average_models_trained_on_the_neighbour():
    folds = np.arange(12) % 3
    embedded, asked = [RNG.normal(size=(12, 3)) for _ in range(3)], [RNG.normal(size=(2, 3)) for _ in range(3)]
    found = search_from_outside(asked, embedded, [0, 1, 2], folds, np.ones(12, bool), 12)
    all_models = np.stack([cosine_distances(one, others) for one, others in zip(asked, embedded, strict=True)])
    for row in range(12):
        mean = np.mean([all_models[model][:, row] for model in range(3) if model != folds[row]], axis=0)
        for number in range(2):
            assert found.distances[number][found.rows[number] == row] == pytest.approx(mean[number], abs=1e-6)


# ---- spaces and the map


def test_rotated_spaces_are_aligned():
    plain, folds = RNG.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 2
    turned = (plain @ ortho_group.rvs(5, random_state=0)).astype(np.float32)
    aligned, agreement = align_spaces([plain, turned], [0, 1], folds, np.ones(60, bool))
    alone, _ = align_spaces([plain, plain], [0, 1], folds, np.ones(60, bool))
    np.testing.assert_allclose(aligned, alone, atol=1e-4)
    assert agreement == pytest.approx(1, abs=1e-4)
    _, chance = align_spaces([plain, RNG.normal(size=(60, 5))], [0, 1], folds, np.ones(60, bool))
    assert chance < 0.7


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_few_images_are_laid_out(count):
    points = RNG.normal(size=(count, 6))
    points[:count // 2] += 50
    places = lay_out(points)
    assert places.shape == (count, 2) and (places > -1e-6).all() and (places < 1 + 1e-6).all()
    if count == 40:
        left, right = places[:20], places[20:]
        assert np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)) > np.linalg.norm(left.std(axis=0))
    assert np.isfinite(lay_out(np.zeros((count, 6)))).all()


# ---- the figures


def test_thumbnails_lie_at_their_images_places():
    images = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 120, 200)])
    canvas = place_thumbnails(np.array([[0.0, 0.0], [1.0, 1.0], [0.999, 0.999]]), images)
    assert canvas.shape == (THUMBNAILS * THUMBNAIL_SIDE, THUMBNAILS * THUMBNAIL_SIDE, 3)
    lower_left, upper_right = canvas[-THUMBNAIL_SIDE:, :THUMBNAIL_SIDE], canvas[:THUMBNAIL_SIDE, -THUMBNAIL_SIDE:]
    assert (lower_left == 10).all() and (upper_right == 120).all()  # of two in one cell the first is drawn
    assert (canvas == 255).mean() > 0.99


def test_thumbnails_keep_their_colours():
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    canvas = place_thumbnails(np.array([[0.0, 1.0]]), red)
    assert (canvas[:THUMBNAIL_SIDE, :THUMBNAIL_SIDE] == (255, 0, 0)).all()


def test_errors_are_named_and_uncertain_cells_not_scored():
    cells = np.array([[1.0], [0.0], [1.0], [0.0], [-1.0], [np.nan]])
    one = Competition(name="c", about="", task="binary", labels=("a",), metric="roc_auc",
                      train=Part(table="t.csv", images="{image_id}.png"))
    views = make_views(one, cells, np.full((6, 1), 1.0), np.array([[1], [1], [0], [0], [1], [0]]), np.zeros(6, int))
    error = next(view for view in views if view.name == "a: error")
    assert [error.texts[value] for value in error.values] == [
        "correct", "false positive", "false negative", "correct", "not scored", "not scored"]
    draw_map("title", "note", RNG.random((6, 2)), views, RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8))
    assert labels_text(one, cells[4]) == "a?" and labels_text(one, cells[5]) == "not stated"


# ---- the script


@pytest.fixture
def demo_home(home):
    competition = COMPETITIONS["demo"]
    make_demo(home / "data" / "demo", DemoSettings(images=40, test_images=10, size=32), workers=1)
    table, _ = read_train(competition, home / "data" / "demo")
    make_folds(competition, table, open_store("demo-train", table, PixelSettings(32, 1)), n_folds=2, seed=0)
    return home


def test_a_run_is_drawn(demo_home, capsys):
    write_untrained(COMPETITIONS["demo"], "cnn_b", with_network=True)
    path, = show_neighbours.main(["--experiment", "cnn_b"])
    assert path.name == "neighbours.png" and path.exists()
    assert "their correlation is then" in capsys.readouterr().out


def test_neighbours_of_training_and_test_images_are_drawn(demo_home, monkeypatch):
    _, table, _ = write_untrained(COMPETITIONS["demo"], "cnn_b", with_network=True)
    drawn = {}
    monkeypatch.setattr(show_neighbours, "draw_tiles",
                        lambda title, caption, rows: drawn.update(rows=rows) or draw_tiles(title, caption, rows))
    row = int(np.flatnonzero(~table["constant"])[0])
    test_id = pd.read_csv(demo_home / "data" / "demo" / "sample_submission.csv")["image_id"].iloc[0]
    sheet, = show_neighbours.main(["--experiment", "cnn_b", "--image", table["image_id"].iloc[row], test_id])
    assert sheet.exists() and [len(tiles) for tiles in drawn["rows"]] == [9, 9]
    fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
    neighbours = [tile.text.partition("\n")[0] for tile in drawn["rows"][0][1:]]
    assert all(fold_of[each] != table["fold"].iloc[row] for each in neighbours)
    distances = [float(re.search(r"distance ([\d.]+)", tile.text).group(1)) for tile in drawn["rows"][1][1:]]
    assert distances == sorted(distances)


def test_an_unknown_image_is_an_error(demo_home):
    write_untrained(COMPETITIONS["demo"], "cnn_b", with_network=True)
    with pytest.raises(ValueError, match=r"no image is called nobody in the parts train, test"):
        show_neighbours.main(["--experiment", "cnn_b", "--image", "nobody"])


def test_a_run_without_a_fold_is_an_error(demo_home):
    with pytest.raises(FileNotFoundError, match="has no finished fold; run: python src/train.py"):
        show_neighbours.main(["--experiment", "cnn_b"])
