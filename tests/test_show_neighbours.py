"""The map of what looks alike: neighbours of other folds, turned spaces, a page that is whole, sheets and refusals."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import confusion_matrix

import show_neighbours
from common.image_grid import labels_text
from competition import COMPETITIONS, Competition, Part
from data.demo import DemoSettings, make_demo
from data.folds import make_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from explaining.embedding_map import draw_confusion, draw_map, make_views
from explaining.embeddings import align_spaces, lay_out, search, search_from_outside, search_held_out
from explaining.mappage import Points, pack_thumbnails, write_page
from untrained import write_untrained

RNG = np.random.default_rng(0)


def cosine_distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    return 1 - one @ others.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(others, axis=1)


# ---- neighbours


def test_the_nearest_are_those_of_the_smallest_angle_among_the_allowed():
    asked, cases, allowed = RNG.normal(size=(5, 4)), RNG.normal(size=(30, 4)), RNG.random(30) < 0.5
    found = search(asked, cases, allowed, 3)
    distances = np.where(allowed, cosine_distances(asked, cases), np.inf)
    assert np.array_equal(found.rows, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :3], atol=1e-5)


def test_fewer_cases_than_asked_for_leave_the_rest_empty():
    found = search(RNG.normal(size=(2, 4)), RNG.normal(size=(3, 4)), np.array([True, False, True]), 5)
    assert (found.rows[:, 2:] == -1).all() and np.isnan(found.distances[:, 2:]).all() and (found.rows[:, :2] >= 0).all()
    assert (search(np.zeros((0, 4)), np.zeros((3, 4)), np.ones(3, bool), 2).rows).shape == (0, 2)


def test_a_held_out_image_has_neighbours_of_other_folds_by_the_model_that_did_not_see_it():
    folds = np.arange(20) % 2
    embedded = [RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3))]
    found = search_held_out(embedded, [0, 1], folds, np.ones(20, bool), np.array([4, 7]), 2)
    for number, (row, fold) in enumerate(((4, 0), (7, 1))):
        distances = np.where(folds != fold, cosine_distances(embedded[fold][[row]], embedded[fold])[0], np.inf)
        assert np.array_equal(found.rows[number], np.argsort(distances)[:2])
    assert (search_held_out(embedded[:1], [0], folds, np.ones(20, bool), np.array([7]), 2).rows == -1).all()


def test_an_image_of_another_part_is_compared_by_the_models_that_were_trained_on_the_case():
    folds = np.arange(12) % 3
    embedded, asked = [RNG.normal(size=(12, 3)) for _ in range(3)], [RNG.normal(size=(2, 3)) for _ in range(3)]
    found = search_from_outside(asked, embedded, [0, 1, 2], folds, np.ones(12, bool), 12)
    all_models = np.stack([cosine_distances(one, others) for one, others in zip(asked, embedded, strict=True)])
    for row in range(12):
        mean = np.mean([all_models[model][:, row] for model in range(3) if model != folds[row]], axis=0)
        for number in range(2):
            assert found.distances[number][found.rows[number] == row] == pytest.approx(mean[number], abs=1e-6)


# ---- spaces and the map


def test_spaces_that_are_one_turned_and_mirrored_come_to_lie_on_each_other():
    plain, folds = RNG.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 2
    turned = (plain @ ortho_group.rvs(5, random_state=0)).astype(np.float32)
    aligned, agreement = align_spaces([plain, turned], [0, 1], folds, np.ones(60, bool))
    alone, _ = align_spaces([plain, plain], [0, 1], folds, np.ones(60, bool))
    np.testing.assert_allclose(aligned, alone, atol=1e-4)
    assert agreement == pytest.approx(1, abs=1e-4)
    _, chance = align_spaces([plain, RNG.normal(size=(60, 5))], [0, 1], folds, np.ones(60, bool))
    assert chance < 0.7


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_few_images_are_laid_out_too(count):
    points = RNG.normal(size=(count, 6))
    points[:count // 2] += 50
    places = lay_out(points)
    assert places.shape == (count, 2) and (places > -1e-6).all() and (places < 1 + 1e-6).all()
    if count == 40:
        left, right = places[:20], places[20:]
        assert np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)) > np.linalg.norm(left.std(axis=0))
    assert np.isfinite(lay_out(np.zeros((count, 6)))).all()


# ---- the page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def a_page(path, count: int, name: str = "image"):
    views = make_views(COMPETITIONS["demo"], np.ones((count, 3)), np.full((count, 3), 1.0),
                       np.ones((count, 3), np.int8), np.zeros(count, int))
    points = Points(RNG.random((count, 2)), [f"{name} {row}" for row in range(count + 1)], ["none"] * (count + 1),
                    ["p 1"] * count, np.tile([count, -1], (count, 1)), np.tile([0.5, np.nan], (count, 1)))
    images = RNG.integers(0, 256, (count, 32, 32), dtype=np.uint8)
    return write_page(path, "a <title> & more", "note", points, views, images).read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_outside_itself_and_holds_every_image(tmp_path):
    text = a_page(tmp_path / "page.html", 300, "</script><b>")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|https?://|@import|fetch\(""", text)
    parser = Tags()
    parser.feed(text)
    assert [tag for tag, _ in parser.seen].count("script") == 2 and "<title> &" not in text
    data = json.loads(re.search(r'application/json">(.*?)</script>', text, re.DOTALL).group(1))
    assert len(data["sheets"]) == 2 and len(data["names"]) == 301 and data["names"][3] == "</script><b> 3"
    assert data["near"][0] == [300, -1] and data["distances"][0] == [0.5, None]
    assert all(len(view["values"]) == 300 and max(view["values"]) < len(view["texts"]) for view in data["views"])


def test_thumbnails_shrink_until_they_are_small_enough():
    noise = RNG.integers(0, 256, (100, 128, 128), dtype=np.uint8)
    sides = {bound: pack_thumbnails(noise, bound) for bound in (10_000_000, 200_000)}
    assert sides[10_000_000][0] == 96 > sides[200_000][0]
    assert sum(map(len, sides[200_000][1])) <= 200_000
    assert pack_thumbnails(RNG.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))[0] == 16


# ---- views and confusion


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_confusion_matrices_are_scikit_learns(task):
    competition = Competition(name="c", about="", task=task, labels=("a", "b", "c"), metric="roc_auc",
                              train=Part(table="t.csv", images="{image_id}.png"))
    truth, decided = RNG.integers(0, 3, 50), RNG.integers(0, 3, 50)
    if task == "multiclass":
        targets, decisions = np.eye(3)[truth], np.eye(3, dtype=np.int8)[decided]
        targets[:5] = np.nan
        expected = [confusion_matrix(truth[5:], decided[5:], labels=range(3))]
    else:
        targets, decisions = (RNG.integers(0, 2, (50, 3)).astype(float), RNG.integers(0, 2, (50, 3)))
        targets[::7, 1] = np.nan
        known = ~np.isnan(targets)
        expected = [confusion_matrix(targets[known[:, k], k], decisions[known[:, k], k], labels=[0, 1])
                    for k in range(3)]
    _, found = draw_confusion(competition, "title", targets, decisions)
    assert np.array_equal(found, expected)


def test_an_error_is_named_and_what_is_not_certain_is_not_scored():
    cells = np.array([[1.0], [0.0], [1.0], [0.0], [-1.0], [np.nan]])
    one = Competition(name="c", about="", task="binary", labels=("a",), metric="roc_auc",
                      train=Part(table="t.csv", images="{image_id}.png"))
    views = make_views(one, cells, np.full((6, 1), 1.0), np.array([[1], [1], [0], [0], [1], [0]]), np.zeros(6, int))
    error = next(view for view in views if view.name == "a: error")
    assert [error.texts[value] for value in error.values] == [
        "right", "false positive", "false negative", "right", "not scored", "not scored"]
    draw_map("title", "note", RNG.random((6, 2)), views)
    assert labels_text(one, cells[4]) == "a?" and labels_text(one, cells[5]) == "not stated"


# ---- the script


@pytest.fixture
def demo_home(home):
    competition = COMPETITIONS["demo"]
    make_demo(home / "data" / "demo", DemoSettings(images=40, test_images=10, size=32), workers=1)
    table, _ = read_train(competition, home / "data" / "demo")
    make_folds(competition, table, open_store("demo-train", table, PixelSettings(32, 1)), n_folds=2, seed=0)
    return home


def test_a_run_is_drawn_and_its_neighbours_are_found(demo_home, capsys):
    competition = COMPETITIONS["demo"]
    oof, table, folds = write_untrained(competition, "cnn_b", with_network=True)
    page, picture, confusion = show_neighbours.main(["--experiment", "cnn_b"])
    assert page.stat().st_size < 10e6 and picture.exists() and confusion.exists()
    shown = table.loc[~table["constant"], "image_id"]
    data = json.loads(re.search(r'application/json">(.*?)</script>', page.read_text(), re.DOTALL).group(1))
    assert data["names"][:len(data["places"])] == shown.tolist()
    fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
    for name, near in zip(data["names"], data["near"], strict=False):
        assert all(fold_of[data["names"][each]] != fold_of[name] for each in near if each >= 0)
    test_id = pd.read_csv(demo_home / "data" / "demo" / "sample_submission.csv")["image_id"].iloc[0]
    (sheet,) = show_neighbours.main(["--experiment", "cnn_b", "--image", shown.iloc[0], test_id])
    assert sheet.exists()
    with pytest.raises(ValueError, match=r"no image is called nobody in the parts train, test"):
        show_neighbours.main(["--experiment", "cnn_b", "--image", shown.iloc[0], "nobody"])


def test_nothing_is_drawn_a_second_time_until_something_changes(demo_home, monkeypatch, capsys):
    write_untrained(COMPETITIONS["demo"], "cnn_b", with_network=True)
    drawn = []
    monkeypatch.setattr(show_neighbours, "lay_out", lambda points: drawn.append(len(points)) or lay_out(points))
    first = show_neighbours.main(["--experiment", "cnn_b"])
    made = [path.read_bytes() for path in first]
    assert show_neighbours.main(["--experiment", "cnn_b"]) == first and len(drawn) == 1
    assert "neighbours.html is there already" in capsys.readouterr().out
    first[1].unlink()  # a picture that is gone
    show_neighbours.main(["--experiment", "cnn_b"])
    assert len(drawn) == 2 and [path.read_bytes() for path in first][1:] == made[1:]
    write_untrained(COMPETITIONS["demo"], "cnn_b", seed=1, with_network=True)  # other weights
    show_neighbours.main(["--experiment", "cnn_b"])
    assert len(drawn) == 3


def test_what_cannot_be_drawn_is_said(demo_home):
    with pytest.raises(FileNotFoundError, match="has no finished fold; run: python src/train.py"):
        show_neighbours.main(["--experiment", "cnn_b"])
