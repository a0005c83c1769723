"""Copies are found whatever was done to them, other pictures are not taken for copies, constant ones say nothing."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import duplicates
from data.demo import DemoSettings, make_demo, read_truth
from data.duplicates import (
    conflicts,
    draw_pairs,
    duplicate_keys,
    exact_sets,
    near_pairs,
    near_sets,
    pairs_between,
    pairs_of_sets,
)
from data.image_scan import scan_images
from data.phantoms import SITES, draw_phantom
from real_data import DATA, needs


def phantom(number: int, size: int = 160) -> np.ndarray:
    rng = np.random.default_rng([5, number])
    return draw_phantom(rng, rng, np.zeros(3), size, SITES[0], False)[0]


def recompress(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_GRAYSCALE)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recompressed": recompress,
    "shifted": lambda image: np.roll(image, (2, -3), (0, 1)),
    "shrunk": lambda image: cv2.resize(image, None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA),
    "halved": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "brightened": lambda image: np.clip(image * 1.15 + 10, 0, 255).astype(np.uint8),
}


def scan_of(folder: Path, name: str, images: dict[str, np.ndarray]):
    folder.mkdir(exist_ok=True)
    for image_id, image in images.items():
        cv2.imwrite(str(folder / f"{image_id}.png"), image)
    return scan_images(name, table_of(folder, images))


def table_of(folder: Path, ids) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(ids), "path": [str(folder / f"{image_id}.png") for image_id in ids]})


@pytest.fixture
def people() -> dict[str, np.ndarray]:
    return {f"p{i:02d}": phantom(i) for i in range(12)}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nobody_else(home, people, change):
    images = people | {"copy": CHANGES[change](people["p03"])}
    scan = scan_of(home / "images", "people", images)
    pairs = near_pairs(scan)
    assert pairs[["a", "b"]].to_numpy().tolist() == [["p03", "copy"]]
    assert exact_sets(scan) == []
    assert 0.8 < pairs["correlation"][0] <= 1


def test_exact_copy_is_no_near_pair(home, people):
    scan = scan_of(home / "images", "twins", people | {"twin": people["p03"], "third": people["p03"]})
    assert exact_sets(scan) == [["p03", "third", "twin"]]
    assert near_pairs(scan).empty


def test_constant_and_unreadable_images_are_nobodys_copies(home, people):
    black = np.zeros((160, 160), np.uint8)
    scan = scan_of(home / "images", "black", people | {"black1": black, "black2": black, "grey": black + 9})
    assert exact_sets(scan) == [] and near_pairs(scan).empty
    (home / "images" / "p00.png").write_bytes(b"")
    (home / "images" / "p01.png").write_bytes(b"")
    scan = scan_images("bad", table_of(home / "images", people))
    assert exact_sets(scan) == [] and near_pairs(scan).empty


def test_images_of_two_parts_are_compared(home, people):
    train = scan_of(home / "train", "train", people | {"constant": np.zeros((9, 9), np.uint8)})
    test = scan_of(home / "test", "test", {"p99": phantom(99), "t_exact": people["p05"],
                                           "t_near": recompress(people["p07"]), "black": np.zeros((9, 9), np.uint8)})
    pairs = pairs_between(train, test)
    assert pairs[["a", "b", "kind"]].to_numpy().tolist() == [["p05", "t_exact", "exact"], ["p07", "t_near", "near"]]


def test_mirrored_and_inverted_copies_are_not_near_pairs(home, people):
    scan = scan_of(home / "images", "looks", people | {"m": people["p01"][:, ::-1], "i": 255 - people["p02"]})
    assert near_pairs(scan).empty


def test_one_image_and_two_images_are_enough(home, people):
    one = scan_of(home / "images", "one", {"p00": people["p00"]})
    assert exact_sets(one) == [] and near_pairs(one).empty
    two = scan_of(home / "images", "two", {"p00": people["p00"], "c": recompress(people["p00"])})
    assert len(near_pairs(two)) == 1


def test_close_hashes_are_those_that_a_plain_count_finds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (600, 4), dtype=np.uint64)
    hashes[300:310] = hashes[:10]
    hashes[310:320] = ~hashes[:10]  # 256 bits apart, which one byte cannot hold
    columns = np.ascontiguousarray(hashes.T)
    found = set()
    for first in range(0, 600, duplicates.JOB_ROWS):
        for i, j, distance in duplicates._close_hashes(first, columns, columns, 110, True):
            found |= set(zip(i.tolist(), j.tolist(), distance.tolist(), strict=True))
    bits = np.unpackbits(hashes.view(np.uint8).reshape(600, 32), axis=1).astype(int)
    plain = (bits[:, None] != bits[None]).sum(axis=-1)
    expected = {(i, j, plain[i, j]) for i in range(600) for j in range(i + 1, 600) if plain[i, j] <= 110}
    assert found == expected and len(found) > 10


def test_many_similar_images_lower_the_distance_limit(monkeypatch):
    rng = np.random.default_rng(0)
    alike = np.zeros((2500, 4), np.uint64)
    alike[:, :2] = rng.integers(0, 2**64, (2500, 2), dtype=np.uint64)  # any two are about 64 bits apart
    monkeypatch.setattr(duplicates, "FREE_CHECKS", 10**9)
    assert duplicates._affordable_bits(alike, alike, True) == duplicates.MOST_BITS
    monkeypatch.setattr(duplicates, "FREE_CHECKS", 0)
    limit = duplicates._affordable_bits(alike, alike, True)
    bits = np.unpackbits(alike.view(np.uint8).reshape(2500, 32), axis=1).astype(np.float32) * 2 - 1
    distances = ((256 - bits @ bits.T) / 2)[np.triu_indices(2500, 1)]
    allowed = duplicates.CHECKS * 2500
    assert (distances <= limit).sum() <= 1.1 * allowed and (distances <= limit + 1).sum() > 0.9 * allowed
    assert duplicates._affordable_bits(np.zeros((2500, 4), np.uint64), alike * 0, True) == duplicates.LEAST_BITS


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(13, 20)), max_size=15))
@settings(max_examples=40, deadline=None)
def test_sets_are_the_components_of_the_pairs(links):
    pairs = pd.DataFrame([(f"i{a}", f"i{b}") for a, b in links], columns=["a", "b"], dtype=str)
    sets = near_sets(pairs)
    where = {image_id: number for number, ids in enumerate(sets) for image_id in ids}
    assert sorted(where) == sorted({image_id for pair in pairs.to_numpy().tolist() for image_id in pair})
    assert all(where[a] == where[b] for a, b in pairs.to_numpy().tolist())
    assert all(len(ids) >= 2 for ids in sets)
    links_within = np.bincount([where[a] for a, _ in set(pairs.itertuples(index=False))], minlength=len(sets))
    assert all(count >= len(ids) - 1 for count, ids in zip(links_within, sets, strict=True))


def test_keys_join_exact_and_near_sets():
    keys = duplicate_keys(np.array(["d", "a", "b", "x", "c"]), [["a", "b"], ["b", "c"], ["d", "e"]])
    assert keys.tolist() == ["d", "a", "a", "", "a"]
    assert duplicate_keys(np.array(["a"]), []).tolist() == [""]
    assert pairs_of_sets([["a", "b", "c"]]).to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_only_certain_labels_conflict():
    table = pd.DataFrame({"image_id": list("abcd"), "mass": [1.0, 0, 1, 1], "edema": [-1.0, 1, np.nan, 0]})
    found = conflicts([["a", "b"], ["c", "d"]], table, ["mass", "edema"])
    assert found.to_numpy().tolist() == [["a b", "mass", "1 0"]]
    assert conflicts([], table, ["mass"]).empty


def test_the_demos_planted_copies_are_found(home):
    folder = make_demo(home / "data" / "demo", DemoSettings(images=300, test_images=2, seed=11, exact_duplicates=0.05,
                                                            near_duplicates=0.05), workers=1)
    truth = read_truth(folder)
    truth = truth[(truth["part"] == "train") & (truth["black"] == 0)]
    scan = scan_images("demo", table_of(folder / "train", truth["image_id"]))
    planted = {kind: {frozenset(pair) for pair in zip(truth["image_id"], truth[column], strict=True) if pair[1]}
               for kind, column in (("exact", "duplicate_of"), ("near", "near_duplicate_of"))}
    exact = {frozenset(pair) for pair in pairs_of_sets(exact_sets(scan)).to_numpy().tolist()}
    near = {frozenset(pair) for pair in near_pairs(scan)[["a", "b"]].to_numpy().tolist()}
    assert exact == planted["exact"] and len(exact) == 15
    assert len(near & planted["near"]) >= 0.9 * len(planted["near"])
    assert near <= planted["near"]


def test_pairs_are_drawn(home, people):
    scan_of(home / "images", "people", people)
    table = table_of(home / "images", people)
    pairs = pd.DataFrame({"a": ["p00", "p02"], "b": ["p01", "p03"], "distance": [3, 9], "correlation": [0.97, 0.91]})
    for some in (pairs, pairs[["a", "b"]], pairs.iloc[:0]):
        path = draw_pairs(some, table, table, home / "plots" / "pairs.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (home / "plots").iterdir()] == ["pairs.png"]


@needs("nih1000")
def test_similar_people_are_no_copies(home):
    paths = sorted((DATA / "nih1000" / "images").glob("*.png"))
    scan = scan_images("nih", pd.DataFrame({"image_id": [path.stem for path in paths], "path": list(map(str, paths))}))
    assert exact_sets(scan) == [] and near_pairs(scan).empty  # it is known to have no copies
