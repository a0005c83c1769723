"""The audit's checks of what a network could exploit: file properties, image borders, parts that differ, leakage."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from tqdm import tqdm

from auditing import plots
from auditing.findings import LOW_CONTRAST, PartData, Report
from auditing.label_checks import FOLDS, excluded_columns
from auditing.label_stats import pool_statistics
from auditing.leakage import leakage_gap, oversampling_before_split, sample_groups
from auditing.metadata_probes import (
    Probe,
    border_features,
    column_features,
    file_features,
    histogram_features,
    order_features,
    probe_labels,
    probe_parts,
)
from common.console import plural, short_id
from common.figures import save_figure
from common.files import sha256
from common.hardware import count_cores
from common.image_grid import Tile, draw_tiles
from competition import Competition
from data.decoding import GREY_MODES, decode_image
from data.duplicates import duplicate_keys, near_sets
from data.metadata import ParsedColumns, parse_columns
from data.splitting import join_groups
from data.tables import label_cells
from models.frozen_features import frozen_features

MAX_PROBED, MAX_LEAKAGE = 20_000, 4_000  # images; of more, whole patients are drawn at random
MAX_COLOUR = 20_000  # images whose three channels are measured
MAX_SUSPECTS = 24  # images in suspicious.png
NOTABLE_AUC, HIGH_AUC = 0.6, 0.9  # AUC without the image that is worth a warning; an error
IMAGE_PROPERTIES = ("file size", "brightness", "contrast")  # a finding can change these: never more than a warning


def measure_channels(competition: Competition, train: PartData) -> dict:
    """Mean and standard deviation of each channel in [0, 1], for normalization; every usable image has equal weight.

    Unreadable and constant images are left out.
    """
    scan = train.scan
    rows = np.flatnonzero(scan.readable & ~scan.constant)
    if competition.channels == 1 or set(scan.mode[rows].tolist()) <= GREY_MODES:
        means, stds = (np.repeat(values[rows, None], competition.channels, axis=1) for values in (scan.mean, scan.std))
    else:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MAX_COLOUR])
        means, stds = np.empty((2, len(rows), 3))
        with ThreadPoolExecutor(count_cores()) as pool:
            bar = tqdm(pool.map(_measure, [scan.paths[row] for row in rows], chunksize=32), "measuring the channels",
                       len(rows), unit="image", leave=False, disable=None)
            for number, (mean, std) in enumerate(bar):
                means[number], stds[number] = mean, std
    mean, std = pool_statistics(means, stds)
    return {"mean": mean / 255, "std": std / 255, "images": len(rows)}


def _measure(path: str) -> tuple[np.ndarray, np.ndarray]:
    pixels = decode_image(path, 3).reshape(-1, 3)
    return pixels.mean(axis=0), pixels.std(axis=0)


def draw_suspects(report: Report, train: PartData, exact: list[list[str]]) -> None:
    """Draws images to look at: identical ones with different labels, unusual sizes, low contrast, constant images."""
    scan, table = train.scan, train.table
    row_of = {image_id: row for row, image_id in enumerate(scan.ids.tolist())}
    cells = label_cells(report.competition, table)
    suspects = {}
    for ids in exact:
        rows = [row_of[image_id] for image_id in ids]
        if ((cells[rows] == 1).any(axis=0) & (cells[rows] == 0).any(axis=0)).any():
            suspects |= dict.fromkeys(rows, "identical, labels differ")
    readable, area = scan.readable, scan.height.astype(float) * scan.width
    if readable.any():
        aspect = np.log(np.maximum(scan.width, 1) / np.maximum(scan.height, 1))
        unusual = readable & ((area < np.median(area[readable]) / 16)
                              | (np.abs(aspect - np.median(aspect[readable])) > math.log(2)))
        suspects |= {row: f"unusual size {scan.width[row]}x{scan.height[row]}"
                     for row in np.flatnonzero(unusual)[:8].tolist()}
    flat = readable & ~scan.constant & (scan.std < LOW_CONTRAST)
    suspects |= dict.fromkeys(np.flatnonzero(flat)[:6].tolist(), "almost no contrast")
    constant = np.flatnonzero(readable & scan.constant).tolist()
    suspects |= dict.fromkeys(constant[:4], f"constant, 1 of {len(constant):,}")
    if suspects:
        tiles = [Tile(f"{short_id(scan.ids[row])}\n{why}", decode_image(scan.paths[row], 3, 256), plots.ORANGE)
                 for row, why in list(suspects.items())[:MAX_SUSPECTS]]
        caption = "Check these images and their labels" + (
            f": {len(tiles)} of {len(suspects):,}." if len(tiles) < len(suspects) else ".")
        lines = [tiles[first:first + 6] for first in range(0, len(tiles), 6)]
        report.plot("suspicious", lambda path: save_figure(draw_tiles("Suspicious images", caption, lines), path))


# ---- labels and parts predicted without the image


def probe_train(report: Report, train: PartData, parsed: ParsedColumns) -> None:
    """Predicts each label from file and table columns, from row order and ids, and from the image's border, alone."""
    competition, readable = report.competition, np.flatnonzero(train.scan.readable)
    rows = _draw_patients(readable, train.groups, MAX_PROBED)
    kinds = {"metadata": (file_features(train.scan) | column_features(parsed), "file and table columns"),
             "order": (order_features(train.scan.ids), "the order of rows and the image ids"),
             "border": (border_features(train.scan), "the image's border and corners")}
    left_out = dict(parsed.left_out)
    if competition.label_pattern:  # the rows are in the order of paths
        left_out |= dict.fromkeys(kinds.pop("order")[0], "the label is part of the path")
    summary = {"images": len(rows), "left_out": left_out}
    for kind, (features, source) in kinds.items():
        features = {family: values[rows] for family, values in features.items()}
        probes = probe_labels(features, label_cells(competition, train.table)[rows], train.groups[rows],
                              list(competition.labels)) if len(rows) else []
        summary[kind] = probes
        if probes:
            report.plot(f"probe_{kind}", plots.plot_probes, [probe.name for probe in probes],
                        [(probe.auc, probe.low, probe.high) for probe in probes], [_best(probe) for probe in probes],
                        f"Labels predicted from {source} alone")
        _add_probe_findings(report, kind, source, probes)
    report.summary["probes"] = summary


def _draw_patients(rows: np.ndarray, groups: np.ndarray, most: int) -> np.ndarray:
    """Of these rows (n,) those of patients drawn at random, at most so many rows."""
    return rows[sample_groups(groups[rows], most)] if len(rows) else rows


def _best(probe: Probe) -> str:
    return f"{probe.best} ({probe.families[probe.best]:.2f})" if probe.best else ""


def _add_probe_findings(report: Report, kind: str, source: str, probes: list[Probe]) -> None:
    severities = {"metadata": ("error", "warning"), "order": ("warning", "note"), "border": ("error", "warning")}[kind]
    todo = {"order": "Training shuffles the rows, so this does no harm by itself. Ask how the data set was put "
                     "together: were images with and without the finding collected in the same way?"}.get(
        kind, f"A network may learn this instead of the finding. See probe_{kind}.png, and check whether the test "
              "images have the same property.")
    high = [probe for probe in probes if probe.low > HIGH_AUC]
    notable = [probe for probe in probes if probe.auc > NOTABLE_AUC and probe.is_above_chance and probe not in high]
    for severity, found, how in zip(severities, (high, notable), ("almost perfectly", "better than by chance"),
                                    strict=True):
        if not found:
            continue
        names = [f"{probe.name} AUC {probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}], best column {_best(probe)}"
                 for probe in sorted(found, key=lambda probe: -probe.auc)]
        what = f"{plural(len(found), 'label')} can be predicted {how} from {source} alone."
        if kind == "metadata" and all(probe.best in IMAGE_PROPERTIES for probe in found):
            report.add("warning", what, "File size, brightness and contrast depend on the image, so this may be the "
                       "finding itself. See probe_metadata.png, and ask whether images with and without the finding "
                       "were made in the same way.", names)
        else:
            report.add(severity, what, todo, names)


def probe_part(report: Report, train: PartData, other: PartData) -> None:
    """Distinguishes another part from the training part by files, columns, grey values and borders."""
    both, sides = (train, other), []
    shared = [column for column in train.columns if column in other.columns]
    together = parse_columns(pd.concat([part.columns[shared] for part in both], ignore_index=True),
                             excluded_columns(report.competition))
    columns, start = column_features(together), 0
    modes = sorted({*train.scan.mode.tolist(), *other.scan.mode.tolist()})
    for part in both:
        stop = start + len(part.scan)
        rows = _draw_patients(np.flatnonzero(part.scan.readable), part.groups, MAX_PROBED // 2)
        features = file_features(part.scan) | histogram_features(part.scan) | border_features(part.scan)
        features |= {name: values[start:stop] for name, values in columns.items()}
        features["mode"] = pd.get_dummies(pd.Categorical(part.scan.mode, modes)).to_numpy(float)
        sides.append(({name: values[rows] for name, values in features.items()}, part.groups[rows]))
        start = stop
    (values, groups), (other_values, other_groups) = sides
    if not len(groups) or not len(other_groups):
        return
    probe = probe_parts(values, other_values, groups, other_groups)
    report.summary["probes"].setdefault("parts", {})[other.name] = probe
    if not probe.families:
        return
    names = ["all together", *list(probe.families)[:12]]
    aucs = [(probe.auc, probe.low, probe.high), *((auc, np.nan, np.nan) for auc in list(probe.families.values())[:12])]
    report.plot(f"probe_{other.name}", plots.plot_probes, names, aucs, [""] * len(names),
                f"{other.title.capitalize()} images distinguished from training images")
    if probe.auc > NOTABLE_AUC and probe.is_above_chance:
        report.add("warning", f"A classifier distinguishes {other.title} images from training images "
                   + ("almost perfectly" if probe.auc > HIGH_AUC else "better than by chance")
                   + f": AUC {probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}].",
                   "The two parts may come from different sources, and cross-validation cannot measure what that "
                   f"costs. See images.png and probe_{other.name}.png.",
                   [f"{name} {auc:.2f}" for name, auc in probe.families.items()])


# ---- leakage


def measure_leakage(report: Report, train: PartData, exact: list[list[str]], near: pd.DataFrame) -> dict | None:
    """Measures what two kinds of leakage would add to a score, with a quick classifier on frozen features.

    They are random folds instead of folds of whole patients, and images of rare labels repeated before the split.
    Returns None if too few patients have a label.
    """
    scan, labels = train.scan, list(report.competition.labels)
    near_images = near_sets(near)
    keys = {"exact duplicate": duplicate_keys(scan.ids, exact), "near duplicate": duplicate_keys(scan.ids, near_images)}
    audited = join_groups(train.groups, duplicate_keys(scan.ids, [*exact, *near_images]))
    rows = _draw_patients(np.flatnonzero(scan.readable & ~scan.constant), audited, MAX_LEAKAGE)
    cells, groups, patients = label_cells(report.competition, train.table)[rows], audited[rows], train.groups[rows]
    scored = [k for k in range(len(labels))
              if min(len(np.unique(groups[cells[:, k] == kind])) for kind in (1, 0)) >= FOLDS]
    if not scored:
        report.add("note", f"Leakage was not measured: no label is present in {FOLDS} patients and absent in {FOLDS} "
                   "others.")
        return None
    features = frozen_features(f"{report.competition.name}-audit", scan.thumbnails[rows],
                               sha256(scan.folder.name, rows.tobytes()))
    names, cells = [labels[k] for k in scored], cells[:, scored]
    images_of_patient = pd.Series(patients).map(pd.Series(patients).value_counts()).to_numpy()
    related = {relation: values[rows] for relation, values in keys.items()}
    related["same patient"] = np.where(images_of_patient > 1, patients, "")
    related = {relation: values for relation, values in related.items() if (values != "").any()}
    summary = {"images": len(rows), "folds": None, "oversampling": None}
    if related:
        summary["folds"] = found = leakage_gap(features, cells, groups, related, FOLDS)
        low, high = found.difference_interval
        report.add("warning" if low > 0.01 else "note", f"Random folds would report a macro AUC of {found.random:.3f}; "
                   f"folds of whole patients report {found.grouped:.3f}. The difference is {found.difference:+.3f} "
                   f"[{low:+.3f}, {high:+.3f}].", "Split with make_folds.py." if low > 0.01 else "")
    f1 = oversampling_before_split(features, cells, groups, names, FOLDS)
    if (f1["repeats"].iloc[:-1] > 1).any():  # otherwise no label is rare
        summary["oversampling"], mean = f1, f1.iloc[-1]
        report.add("note", f"Oversampling rare labels before the split would report a mean F1 of "
                   f"{mean['f1_before']:.2f}; oversampling after the split reports {mean['f1_after']:.2f}.",
                   "Oversample within the training folds only, as the setting `sampler` of an experiment does.")
    _plot_leakage(report, summary)
    return summary


def _plot_leakage(report: Report, summary: dict) -> None:
    if found := summary["folds"]:
        rows = [("all images", found.random, found.grouped)]
        rows += [(f"{relation_text(row)} ({row['images']:,})", row["random"], row["grouped"])
                 for row in found.by_relation.to_dict("records") if not pd.isna(row["random"])]
        _plot_pairs(report, "leakage_folds", rows, ("random folds", "folds of patients"),
                    "Macro ROC AUC of a quick classifier")
    if (f1 := summary["oversampling"]) is not None:
        _plot_pairs(report, "leakage_oversampling", f1[["label", "f1_before", "f1_after"]].to_numpy().tolist(),
                    ("oversampled before the split", "after it"), "F1 at threshold 0.5 of a quick classifier")


def relation_text(row: dict) -> str:
    """The images of a row of leakage.scores_by_relation: "same patient in training", "no same patient in training"."""
    return f"{'' if row['in_training'] else 'no '}{row['relation']} in training"


def _plot_pairs(report: Report, name: str, rows: list[tuple[str, float, float]], series: tuple[str, str],
                title: str) -> None:
    """Two bars a row, the first with leakage and the second without."""
    names, *values = zip(*rows, strict=True)
    numbers = dict(zip(series, np.array(values, float), strict=True))
    texts = {text: ["" if np.isnan(value) else f"{value:.3f}" for value in of] for text, of in numbers.items()}
    report.plot(name, plots.plot_bars, names, [plots.Bars(title, numbers, texts, colours=(plots.RED, plots.BLUE))], 8)
