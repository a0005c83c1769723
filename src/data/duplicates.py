"""Finds images that show the same picture: equal pixels, or recompressed, resized, brightened or slightly shifted."""

import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from common.console import shorten
from common.hardware import count_cores
from data.decoding import decode_image, fit_image
from data.image_cache import map_in_order, single_threaded_opencv
from data.image_scan import SIDE, Scan

# Measured on X-rays of adults (64 pixels) and children (224 pixels), and copies of them recompressed (JPEG quality 30),
# resized, brightened or shifted by 1 to 3 %: at most 82 of 256 bits differ, at most 22 where it was recompressed, 60
# in half of those shifted by 2 %. Of pairs of two different pictures, 2 to 4 in 1,000 differ in at most 80.
MOST_BITS, LEAST_BITS = 84, 24
CHECKS = 40  # pairs compared in detail, per image on average; with more, MOST_BITS is lowered to bound the time
FREE_CHECKS = 100_000  # pairs that are always compared, which takes seconds
# The correlation of copies was 0.93 to 1.00 in the thumbnails (0.86 for 64-pixel files at quality 30), 0.94 to 1.00 at
# 256 pixels; that of two pictures of different people at most 0.77 and 0.57; of one person on two days, in the
# thumbnails, at most 0.91.
DETAIL_SIDE, LEAST_SIDE = 256, 112  # pixels; files with a smaller side than LEAST_SIDE are judged by their thumbnails
THUMBNAILS_AGREE, THUMBNAILS_MAY_AGREE, DETAILS_AGREE = 0.92, 0.80, 0.80
THUMBNAIL_BAND, DETAIL_BAND = (0.8, 2.0, 4.0), (1.5, 4.0, 8.0)  # see fine_detail
ROWS, COLUMNS, JOB_ROWS = 16, 8192, 256  # of a tile of the table of all distances, which then stays in the cache


def exact_sets(scan: Scan) -> list[list[str]]:
    """Sets of ids whose full-size pixels are equal, each sorted, of two ids or more; without constant images."""
    return equal_pixel_sets(scan.ids, scan.pixel_hash, scan.readable & ~scan.constant)


def equal_pixel_sets(ids: np.ndarray, hashes: np.ndarray, usable: np.ndarray) -> list[list[str]]:
    """Sets of ids (N,) with equal hashes (N,), each sorted, of two ids or more, among the usable (N,) bool.

    Constant images should not be usable: they are all alike, whoever the patient is.
    """
    frame = pd.DataFrame({"image_id": ids, "hash": hashes})[usable]
    repeated = frame[frame["hash"].duplicated(keep=False)]
    return sorted(sorted(ids) for _, ids in repeated.groupby("hash")["image_id"])


def near_pairs(scan: Scan) -> pd.DataFrame:
    """Pairs of images that show the same picture with different pixels, the most similar first.

    Columns: `a`, `b` (ids), `distance` (bits of 256 in which the perceptual hashes differ), `correlation` (of the fine
    detail, at the best shift of up to 5 %). Of images with equal pixels only the first is compared.
    `attrs["most_bits"]` is the distance up to which pairs were compared: less than MOST_BITS where images are so
    similar that comparing them all would take too long.
    Copies that were mirrored, rotated, inverted, or cropped by 2 % or more at every side are not found.
    """
    return _near(scan, None)


def pairs_between(scan_a: Scan, scan_b: Scan) -> pd.DataFrame:
    """Pairs of an image of one scan (train) and one of another (test): `a`, `b`, `kind` ("exact" or "near"),
    `distance`, `correlation`.

    Each image of b whose pixels are also in a has one exact pair, with the first such image of a. Near pairs and attrs
    are as in near_pairs.
    """
    usable = [pd.DataFrame({"id": scan.ids, "hash": scan.pixel_hash})[scan.readable & ~scan.constant]
              for scan in (scan_a, scan_b)]
    firsts = usable[0].drop_duplicates("hash")
    exact = usable[1].merge(firsts, on="hash", suffixes=("_b", "_a"))
    exact = pd.DataFrame({"a": exact["id_a"], "b": exact["id_b"], "kind": "exact", "distance": 0, "correlation": 1.0})
    near = _near(scan_a, scan_b)
    near.insert(2, "kind", "near")
    pairs = pd.concat([exact, near] if len(near) else [exact], ignore_index=True)
    pairs.attrs["most_bits"] = near.attrs["most_bits"]
    return pairs


def near_sets(pairs: pd.DataFrame) -> list[list[str]]:
    """Sets of ids (`a`, `b`) linked by pairs, directly or through others, each sorted."""
    names, numbers = np.unique(pairs[["a", "b"]].to_numpy(str).ravel(), return_inverse=True)
    a, b = numbers.reshape(-1, 2).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False) if len(names) else (0, np.zeros(0, int))
    return sorted(ids.tolist() for _, ids in pd.Series(names).groupby(component))


def duplicate_keys(ids: np.ndarray, sets: list[list[str]]) -> np.ndarray:
    """(N,) str: the smallest id of the set that an image is in, "" where it is in none.

    Sets that share an id, such as an exact and a near one, are joined. splitting.join_groups takes it.
    """
    links = [(ids_of_set[0], other) for ids_of_set in sets for other in ids_of_set[1:]]
    joined = near_sets(pd.DataFrame(links, columns=["a", "b"], dtype=str)) if links else []
    first = {image_id: ids_of_set[0] for ids_of_set in joined for image_id in ids_of_set}
    return np.array([first.get(image_id, "") for image_id in ids], dtype=str)


def conflicts(sets: list[list[str]], table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Labels that are certainly 1 for one image of a set and certainly 0 for another.

    table: `image_id` and the label cells 1, 0, -1, NaN. One row a set and label: `ids` (joined by a blank), `label`,
    `values` in the order of the ids ("1 0", "-" where it is uncertain or blank).
    """
    cells = table.set_index("image_id")[list(labels)]
    rows = []
    for ids in sets:
        for label, values in cells.loc[ids].items():
            if {0, 1} <= set(values):
                shown = " ".join({0: "0", 1: "1"}.get(value, "-") for value in values)
                rows.append((" ".join(ids), label, shown))
    return pd.DataFrame(rows, columns=["ids", "label", "values"])


def pairs_of_sets(sets: list[list[str]]) -> pd.DataFrame:
    """All pairs within sets, `a` and `b`, for counting and drawing."""
    return pd.DataFrame([pair for ids in sets for pair in combinations(ids, 2)], columns=["a", "b"], dtype=str)


# ---- near duplicates: hashes, then thumbnails, then the files


def _near(scan_a: Scan, scan_b: Scan | None) -> pd.DataFrame:
    """scan_b None: the pairs within scan_a, each once."""
    other, found, within = scan_b or scan_a, [], scan_b is None
    with (single_threaded_opencv(), tempfile.TemporaryFile(dir=scan_a.folder) as file_a,
          tempfile.TemporaryFile(dir=scan_a.folder) as file_b):
        rows_a, details_a = _details(scan_a, file_a)
        rows_b, details_b = (rows_a, details_a) if within else _details(other, file_b)
        hashes_a, hashes_b = scan_a.phash[rows_a], other.phash[rows_b]
        most_bits = _affordable_bits(hashes_a, hashes_b, within)
        columns_a, columns_b = (np.ascontiguousarray(hashes.T) for hashes in (hashes_a, hashes_b))
        jobs = [(first, columns_a, columns_b, most_bits, within, details_a, details_b)
                for first in range(0, len(rows_a), JOB_ROWS)]
        with tqdm(total=len(rows_a), desc="near duplicates", unit="image", disable=None, delay=1) as bar:
            for agreeing in map_in_order(_compare_rows, jobs, count_cores()):
                found += [(rows_a[i], rows_b[j], distance, correlation) for i, j, distance, correlation in agreeing]
                bar.update(min(JOB_ROWS, len(rows_a) - bar.n))
        pairs = _check_files(scan_a, other, found)
    pairs = pd.DataFrame(pairs, columns=["a", "b", "distance", "correlation"])
    pairs = pairs.astype({"distance": int, "correlation": float})
    pairs = pairs.sort_values(["correlation", "a", "b"], ascending=[False, True, True], ignore_index=True)
    pairs.attrs["most_bits"] = most_bits
    return pairs


def fine_detail(image: np.ndarray, band: tuple[float, float, float]) -> np.ndarray:
    """float32 (H, W): what is larger than the first and smaller than the second sigma of `band` (in pixels), divided by
    its strength over the third: ribs and vessels, whatever the brightness, without the noise of compression.

    The slow shades are taken out because all chests share them.
    """
    small, large, around = band
    image = image.astype(np.float32)
    detail = cv2.GaussianBlur(image, (0, 0), small) - cv2.GaussianBlur(image, (0, 0), large)
    return detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), around)) + 2)


def best_correlation(a: np.ndarray, b: np.ndarray, margin: int) -> float:
    """The largest correlation, -1 to 1, of a's middle with b, shifted by up to `margin` pixels in either direction."""
    return float(cv2.matchTemplate(b, a[margin:-margin, margin:-margin], cv2.TM_CCOEFF_NORMED).max())


def _details(scan: Scan, file: object) -> tuple[np.ndarray, np.ndarray]:
    """The rows that can be compared, and (n, 64, 64) their thumbnails' fine detail, a byte a pixel, in a file.

    Left out are unreadable and constant images, all but the first of equal pixels, and those without any detail.
    """
    usable = np.flatnonzero(scan.readable & ~scan.constant)
    _, firsts = np.unique(scan.pixel_hash[usable], return_index=True)
    usable = usable[np.sort(firsts)]
    kept = []
    for row in usable.tolist():
        detail = fine_detail(scan.thumbnails[row], THUMBNAIL_BAND)
        if detail.std() > 0.1:
            kept.append(row)
            file.write(np.clip(np.rint(128 + 40 * detail), 0, 255).astype(np.uint8).data)
    file.flush()
    shape = (len(kept), SIDE, SIDE)
    return np.array(kept, int), np.memmap(file, np.uint8, "r", shape=shape) if kept else np.zeros(shape, np.uint8)


def _affordable_bits(hashes_a: np.ndarray, hashes_b: np.ndarray, within: bool) -> int:
    """The distance up to which no more pairs are expected than can be looked at, from a sample of pairs."""
    if not len(hashes_a) or not len(hashes_b):
        return MOST_BITS
    rng = np.random.default_rng(0)
    a, b = (hashes[rng.permutation(len(hashes))[:1500]] for hashes in (hashes_a, hashes_b))
    counts = np.zeros(257)
    for first in range(0, len(a), ROWS):
        distances = np.bitwise_count(a[first:first + ROWS, None] ^ b[None]).sum(axis=-1, dtype=np.int64)
        counts += np.bincount(distances.ravel(), minlength=257)
    if within:
        counts[0] -= min(len(a), len(b)) * min(1, len(a) / len(hashes_a))  # an image and itself
    pairs = len(hashes_a) * len(hashes_b) / (2 if within else 1)
    expected = counts.cumsum() / (len(a) * len(b)) * pairs
    allowed = max(CHECKS * (len(hashes_a) + len(hashes_b)) / 2, FREE_CHECKS)
    affordable = np.flatnonzero(expected[:MOST_BITS + 1] <= allowed)
    return int(max(affordable[-1] if len(affordable) else 0, LEAST_BITS))


def _compare_rows(first: int, hashes_a: np.ndarray, hashes_b: np.ndarray, most_bits: int, within: bool,
                  details_a: np.ndarray, details_b: np.ndarray) -> list[tuple[int, int, int, float]]:
    """JOB_ROWS images of a, from `first` on, against all of b: row, row, distance, correlation of those that agree."""
    found = []
    for i, j, distance in _close_hashes(first, hashes_a, hashes_b, most_bits, within):
        for row_a, row_b, bits in zip(i.tolist(), j.tolist(), distance.tolist(), strict=True):
            a, b = details_a[row_a].astype(np.float32), details_b[row_b].astype(np.float32)
            if (correlation := best_correlation(a, b, SIDE // 16)) >= THUMBNAILS_MAY_AGREE:
                found.append((row_a, row_b, bits, correlation))
    return found


def _close_hashes(first: int, hashes_a: np.ndarray, hashes_b: np.ndarray, most_bits: int,
                  within: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of a, rows of b and distances of close hashes (4, N), tile by tile; within: only those with a < b."""
    last = min(first + JOB_ROWS, hashes_a.shape[1])
    for top in range(first, last, ROWS):
        a = hashes_a[:, top:min(top + ROWS, last)]
        for left in range((top // COLUMNS) * COLUMNS if within else 0, hashes_b.shape[1], COLUMNS):
            b = hashes_b[:, left:left + COLUMNS]
            shape = a.shape[1], b.shape[1]
            different, bits, total = np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.zeros(shape, np.uint8)
            for word in range(4):
                np.bitwise_xor(a[word][:, None], b[word], out=different)
                np.bitwise_count(different, out=bits)
                np.add(total, bits, out=total)  # 256 comes out as 0, which the exact distances below put right
            i, j = np.nonzero(total <= most_bits)
            distance = np.bitwise_count(a[:, i] ^ b[:, j]).sum(axis=0, dtype=np.int64)
            i, j = i + top, j + left
            close = (distance <= most_bits) & ((i < j) if within else True)
            if close.any():
                yield i[close], j[close], distance[close]


def _check_files(scan_a: Scan, scan_b: Scan, found: list[tuple]) -> list[tuple]:
    """Ids, distance and correlation of the pairs that still agree when larger files are compared in detail."""
    sides = [np.minimum(scan.height, scan.width) for scan in (scan_a, scan_b)]
    jobs = [(scan_a.paths[a], scan_b.paths[b], min(sides[0][a], sides[1][b]), correlation)
            for a, b, _, correlation in found]
    kept = []
    with tqdm(total=len(jobs), desc="near duplicates, in detail", unit="pair", disable=None, delay=1) as bar:
        for (a, b, distance, _), correlation in zip(found, map_in_order(_check_pair, jobs, count_cores()),
                                                    strict=True):
            if correlation and scan_a.pixel_hash[a] != scan_b.pixel_hash[b]:
                kept.append((str(scan_a.ids[a]), str(scan_b.ids[b]), distance, round(correlation, 4)))
            bar.update()
    return kept


def _check_pair(path_a: str, path_b: str, side: int, correlation: float) -> float:
    """The correlation of the most detailed images there are; 0 where it is too low."""
    if side < LEAST_SIDE:
        return correlation if correlation >= THUMBNAILS_AGREE else 0.0
    a, b = (fine_detail(fit_image(decode_image(path, 1, DETAIL_SIDE), DETAIL_SIDE), DETAIL_BAND)
            for path in (path_a, path_b))
    correlation = best_correlation(a, b, DETAIL_SIDE // 20)
    return correlation if correlation >= DETAILS_AGREE else 0.0


# ---- drawing


def draw_pairs(pairs: pd.DataFrame, table_a: pd.DataFrame, table_b: pd.DataFrame, path: Path, most: int = 24) -> Path:
    """A PNG of the pairs side by side, the least alike first, at most `most`; the tables give the `path` of each
    `image_id`, of column `a` and of column `b`."""
    from matplotlib.figure import Figure

    from common.figures import save_figure

    if "correlation" in pairs:
        pairs = pairs.sort_values("correlation", kind="stable")
    shown = pairs.iloc[:most]
    places = [table.set_index("image_id")["path"] for table in (table_a, table_b)]
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.3 * rows + 0.5), layout="constrained")
    note = f"the {len(shown)} least alike of {len(pairs):,} pairs" if len(shown) < len(pairs) else f"{len(pairs)} pairs"
    figure.suptitle(note, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, pair in zip(axes, shown.to_dict("records"), strict=False):
        pictures = [fit_image(decode_image(places[side][pair["ab"[side]]], 1, 160), 160) for side in (0, 1)]
        gap = np.full((160, 6), 255, np.uint8)
        axis.imshow(np.hstack([pictures[0], gap, pictures[1]]), cmap="gray", vmin=0, vmax=255)
        facts = [f"correlation {pair['correlation']:.2f}"] if "correlation" in pair else []
        facts += [f"{pair['distance']} bits"] if "distance" in pair else []
        axis.set_title("\n".join([shorten(pair["a"], 44), shorten(pair["b"], 44), ", ".join(facts)]), fontsize=7)
    return save_figure(figure, path)
