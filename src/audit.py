"""Look at a competition's images and labels before a network does:  python src/audit.py --competition demo

Files, duplicates, what test and training share, labels, what can be told without the pictures, and what a leak would
add to a score: findings on the screen, the worst first, and runs/<competition>/audit/ with audit.json, tables, plots.
"""

import dataclasses
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from auditing import plots
from auditing.file_checks import (
    PartData,
    Report,
    check_duplicates,
    check_images,
    check_parts,
    check_split,
    check_strays,
    check_truth,
)
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
from auditing.leakage import copies_of_rare, leakage_gap, sample_groups, upsampling_mistake
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
from commandline import load_competition, make_parser
from common.console import make_console, plural
from common.files import home, json_ready, read_csv, replace_atomically, sha256, write_json
from common.hardware import count_cores, tune_process
from common.settings import by_label, for_labels
from competition import Competition
from data.decoding import decode_image
from data.demo import read_truth
from data.duplicates import duplicate_keys, near_sets
from data.image_scan import scan_images
from data.metadata import ParsedColumns, is_age, is_sex, parse_columns
from data.splitting import join_groups
from data.tables import described_parts, label_cells, read_columns, read_part, read_solution, read_train
from experiment import EXPERIMENTS
from models.frozen_features import frozen_features

FOLDS = 5
MOST_PROBED, MOST_PRICED = 20_000, 4_000  # images; of more, whole patients are drawn at random
MOST_COLOURED = 20_000  # images whose three channels are measured
MOST_COLUMNS = 12  # other columns that are drawn
TELLING, GIVEN_AWAY = 0.6, 0.9  # AUC without the pictures that is worth a warning; an error
OF_THE_PICTURE = ("file size", "brightness", "contrast")  # a finding itself can change them: never worse than a warning
ALIKE = 0.9  # phi of two labels that say nearly the same
SHIFT = 0.05  # difference of prevalence between parts that is worth a line
OLDEST = 120  # years
SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
GREY_MODES = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L"}


def main(argv: list[str] | None = None) -> Path:
    """Audits a competition; returns the path of audit.json."""
    parser = make_parser(__doc__)
    parser.add_argument("--split", type=Path, metavar="FILE",
                        help="a CSV of somebody's own split, files and parts, searched for what its parts share")
    parser.add_argument("--quick", action="store_true", help="leave out the price of a leak, which needs a network")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    tune_process()
    competition, data_dir = load_competition(args)
    split = read_csv(args.split) if args.split else None
    parts, left_out = load_parts(competition, data_dir)
    folder = home() / "runs" / competition.name / "audit"
    with replace_atomically(folder) as temporary:
        temporary.mkdir()
        report = Report(competition, temporary)
        report.account |= {"competition": competition.name,
                           "command": ["audit.py", *(sys.argv[1:] if argv is None else argv)],
                           "inputs": describe_inputs(competition, data_dir, parts)}
        audit_parts(report, data_dir, parts, left_out, split, args.quick)
        findings = sorted(report.findings, key=lambda finding: list(SEVERITIES).index(finding.severity))
        report.account |= {"findings": findings, "plots": report.plots, "seconds": time.perf_counter() - started}
        write_json(temporary / "audit.json", json_ready(report.account, 6))
    show_report(json_ready(report.account, 6), folder)
    return folder / "audit.json"


def load_parts(competition: Competition, data_dir: Path) -> tuple[dict[str, PartData], pd.DataFrame]:
    """All parts with a look at every image, the training part first, and the training rows that are left out."""
    train, left_out = read_train(competition, data_dir, refuse_shared=False)  # what they share is a finding here
    tables = {"train": train}
    for name in described_parts(competition)[1:]:
        try:
            tables[name] = read_part(competition, data_dir, name)
        except FileNotFoundError:
            if not getattr(competition, name).optional:
                raise
    # without patients, a group is an image's id; and ids and patients may count anew in each part
    anew = competition.shared_groups == "distinct" or not has_patients(competition)
    parts = {}
    for name, table in tables.items():
        groups = np.char.add(f"{name}: " if anew else "", table["group"].to_numpy(str))
        columns = read_columns(competition, data_dir, name).reindex(table["image_id"])
        parts[name] = PartData(name, table, columns, scan_images(f"{competition.name}-{name}", table), groups)
    return parts, left_out


def has_patients(competition: Competition) -> bool:
    """True where the description says which images are of one patient."""
    return bool(competition.group_column or competition.group_pattern)


def describe_inputs(competition: Competition, data_dir: Path, parts: dict[str, PartData]) -> dict:
    """What was looked at: the label files' hashes, and each part's number of images and the hash of their pixels."""
    described = [*competition.train_parts, competition.test, competition.official_validation]
    names = sorted({name for part in described if part is not None for name in part.tables})
    files = {path.name: sha256(path.read_bytes()) for name in names for path in sorted(data_dir.glob(name))}
    images = {name: {"images": len(part.scan), "sha256": sha256(*part.scan.ids, *part.scan.pixel_hash)}
              for name, part in parts.items()}
    return {"label_files": files, "parts": images}


def audit_parts(report: Report, data_dir: Path, parts: dict[str, PartData], left_out: pd.DataFrame,
                split: pd.DataFrame | None, quick: bool) -> None:
    """All checks one after the other."""
    train = parts["train"]
    check_images(report, parts)
    check_strays(report, data_dir, parts, left_out)
    exact, near = check_duplicates(report, train)
    check_parts(report, parts, left_out)
    if (data_dir / "truth" / "truth.csv").exists():
        check_truth(report, read_truth(data_dir), train, exact, near)
    if split is not None:
        check_split(report, split, parts, left_out)
    report.account["channels"] = measure_channels(report.competition, train)
    check_labels(report, data_dir, parts)
    parsed = parse_columns(train.columns, skipped_columns(report.competition))
    check_columns(report, train, parsed)
    draw_suspects(report, train, exact)
    probe_train(report, train, parsed)
    for name in list(parts)[1:]:
        probe_part(report, train, parts[name])
    report.account["price"] = None if quick else price(report, train, exact, near)


# ---- labels


def check_labels(report: Report, data_dir: Path, parts: dict[str, PartData]) -> None:
    """Counts, combinations, correlations, rare labels, patients and mean images of the training part; shifts."""
    competition, train, labels = report.competition, parts["train"], list(report.competition.labels)
    cells = label_cells(competition, train.table)
    counts = {"train": count_cells(cells, labels)}
    for name, known in known_labels(competition, data_dir, parts).items():
        counts[name] = count_cells(known, labels)
    rare, per_group = find_rare(cells, train.groups, labels, FOLDS), images_per_group(train.groups)
    means = mean_images(train.scan.thumbnails, cells, train.scan.readable & ~train.scan.constant)
    account = {"cells": counts, "rare": rare, "images_per_patient": per_group}
    report.plot("label_cells", plots.plot_cells, counts["train"])
    report.plot("label_prevalence", plots.plot_prevalence, counts)
    if by_file := cells_by_file(competition, data_dir, train.table):
        account["train_files"] = {name: count_cells(of_file, labels) for name, of_file in by_file.items()}
        report.plot("labels_by_file", lambda path: plots.plot_counts(
            {f"{name} ({len(by_file[name]):,} images)": each for name, each in account["train_files"].items()},
            "Labels in each of the training part's files or folders", path, with_absent=True))
    copies = sampler_copies(counts["train"])
    account["samplers"] = count_shown(cells[train.scan.readable & ~train.scan.constant], labels, competition.task,
                                      copies)
    if account["samplers"]:
        account["copies"] = dict(zip(labels, copies, strict=True))
        report.plot("label_samplers", plots.plot_counts,
                    {f"{name}: {each['images'][0]:,.0f} images an epoch": each
                     for name, each in account["samplers"].items()}, "What an epoch shows under each sampler")
    if has_patients(competition):
        report.plot("images_per_patient", plots.plot_images_per_group, per_group)
    report.plot("mean_images", plots.plot_mean_images, means, labels)
    if competition.task == "multilabel" and len(labels) > 1:
        account |= check_combinations(report, cells, labels)
    report.account["labels"] = account
    _warn_of_labels(report, counts, rare)


def cells_by_file(competition: Competition, data_dir: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Label cells (n, K) of the training table's images by the file or folder that they are of; {} where it is one."""
    found = {}
    for part in competition.train_parts if len(competition.train_parts) > 1 else ():
        try:
            ids = read_part(dataclasses.replace(competition, train=part), data_dir, "train")["image_id"]
        except FileNotFoundError:
            if not part.optional:
                raise
            continue
        name = part.arrays or (Path(part.tables[0]).stem if part.tables else part.images.partition("/*")[0])
        found[f"{name} {len(found) + 1}" if name in found else name] = label_cells(
            competition, table[table["image_id"].isin(ids)])
    return found if len(found) > 1 else {}


def sampler_copies(counts: pd.DataFrame) -> np.ndarray:
    """(K,) int, what to try as `label_repeats`: those of an experiment that names these labels, else what evens them out.

    counts: labelstats.count_cells.
    """
    labels = counts["label"].tolist()
    for experiment in EXPERIMENTS.values():
        if experiment.label_repeats and set(by_label("label_repeats", experiment.label_repeats)) <= set(labels):
            return np.array(for_labels("label_repeats", experiment.label_repeats, labels, "0"), int)
    rivals = counts["present"] if len(labels) > 1 else counts[["present", "absent"]].iloc[0]
    return copies_of_rare(rivals.to_numpy())[:len(labels)]


def known_labels(competition: Competition, data_dir: Path, parts: dict[str, PartData]) -> dict[str, np.ndarray]:
    """Label cells (n, K) of the parts kept apart, where they are known; only reported."""
    known = {name: label_cells(competition, part.table) for name, part in parts.items()
             if name != "train" and competition.labels[0] in part.table}
    solution = read_solution(competition, data_dir) if "test" in parts and "test" not in known else None
    return known if solution is None else known | {"test": label_cells(competition, solution)}


def check_combinations(report: Report, cells: np.ndarray, labels: list[str]) -> dict:
    """Which labels come together; returns their account."""
    findings, combinations, phi = count_findings(cells), count_combinations(cells, labels), phi_matrix(cells)
    top = top_combinations(combinations)
    report.plot("label_findings", plots.plot_findings, findings)
    report.plot("label_combinations", plots.plot_combinations, top, len(combinations))
    report.plot("label_correlation", plots.plot_correlation, phi, labels)
    report.keep("combinations", combinations)
    nested = find_nested(cells, labels)
    if nested:
        report.add("note", f"{plural(len(nested), 'pair')} of labels where every image with the first has the "
                   "second too, as far as is certain", "predictions that contradict this can be mended",
                   (f"{inner} → {outer}" for inner, outer in nested))
    pairs = sorted(zip(*np.nonzero(np.triu(np.nan_to_num(np.abs(phi)) > ALIKE, 1)), strict=True),
                   key=lambda pair: -abs(phi[pair]))
    alike = [(labels[i], labels[j], phi[i, j]) for i, j in pairs]
    for sign, words in ((1, "the same"), (-1, "the opposite of each other")):
        texts = [f"{first}, {second}: phi {value:.2f}" for first, second, value in alike if value * sign > 0]
        if texts:
            report.add("note", f"{plural(len(texts), 'pair')} of labels that say nearly {words}", "", texts)
    return {"findings_per_image": findings, "none": findings[0], "single": findings[1], "multiple": findings[2:].sum(),
            "combinations": top, "different_combinations": len(combinations), "phi": phi, "nested": nested,
            "alike": alike}


def _warn_of_labels(report: Report, counts: dict[str, pd.DataFrame], rare: pd.DataFrame) -> None:
    too_rare, few = (rare[rare["too_rare"] == kind] for kind in (True, False))
    if len(too_rare):
        report.add("warning", f"{plural(len(too_rare), 'label')} in fewer than {FOLDS} patients, or missing in "
                   f"fewer: not every one of {FOLDS} folds can have both",
                   "their scores are undefined in some folds; take fewer folds, or leave them out of the mean",
                   [f"{row['label']} {row['groups']}" for row in too_rare.to_dict("records")])
    if len(few):
        report.add("note", f"{plural(len(few), 'label')} with fewer than 100 positives", "expect wide intervals",
                   [f"{row['label']} {row['positives']}" for row in few.to_dict("records")])
    train = counts["train"]
    for kind, todo in (("uncertain", "`uncertain` of an experiment says what they mean in training"),
                       ("blank", "`missing_labels` of an experiment says what they mean in training")):
        if train[kind].any():
            share = train[kind].sum() / train[["present", "absent", "uncertain", "blank"]].to_numpy().sum()
            report.add("note", f"{plural(train[kind].sum(), f'{kind} label cell')} ({share:.1%}), not scored", todo)
    for name, other in counts.items():
        difference = other["prevalence"] - train["prevalence"]
        shifted = difference.abs() > SHIFT
        if shifted.any():
            texts = [f"{row['label']} {row['train']:.1%} → {row['there']:.1%}" for row in pd.DataFrame(
                {"label": train["label"], "train": train["prevalence"], "there": other["prevalence"],
                 "size": difference.abs()})[shifted].sort_values("size", ascending=False).to_dict("records")]
            report.add("note", f"{plural(shifted.sum(), 'label')} more or less frequent in {name} than in train by "
                       f"over {SHIFT:.0%}",
                       "thresholds and probabilities that fit the training part will not fit there", texts)


# ---- other columns


def skipped_columns(competition: Competition) -> dict[str, str]:
    """Columns that would give away what is asked, and why."""
    filters = {column: "the description chooses rows by it" for part in (*competition.train_parts, competition.test,
               competition.official_validation) if part is not None for column, _ in part.row_filter}
    return filters | ({competition.group_column: "it names the patient"} if competition.group_column else {})


def check_columns(report: Report, train: PartData, parsed: ParsedColumns) -> None:
    """Age, sex, view and all other columns against the labels."""
    labels, cells = list(report.competition.labels), label_cells(report.competition, train.table)
    first = ~train.table["group"].duplicated().to_numpy() if has_patients(report.competition) else None
    account = {"numeric": {}, "categorical": {}, "left_out": parsed.left_out}
    for column in parsed.numeric:
        values = parsed.numeric[column]
        account["numeric"][column] = values.describe().to_dict() | {"blank": values.isna().sum()}
    for column in parsed.categorical:
        names, rates, counts = rates_by_category(cells, parsed.categorical[column].to_numpy(str))
        account["categorical"][column] = {
            name: {"images": count, "prevalence": dict(zip(labels, rate, strict=True))}
            for name, count, rate in zip(names, counts, rates, strict=True)}
        _check_sexes(report, train, column, parsed.categorical[column])
    for column in list(parsed.numeric)[:MOST_COLUMNS]:
        of_patients = first if is_age(column) else None
        report.plot(f"column_{_file_name(column)}",
                    lambda path, column=column, rows=of_patients: plots.plot_numbers(
                        column, parsed.numeric[column].to_numpy(), cells, labels, path, rows))
    for column in list(parsed.categorical)[:MOST_COLUMNS]:
        report.plot(f"column_{_file_name(column)}", plots.plot_categories, column,
                    *rates_by_category(cells, parsed.categorical[column].to_numpy(str)), labels)
    for age in filter(is_age, list(parsed.numeric)[:MOST_COLUMNS]):
        _plot_age(report, train, parsed, age, cells)
    report.account["columns"] = account


def _plot_age(report: Report, train: PartData, parsed: ParsedColumns, age: str, cells: np.ndarray) -> None:
    ages, labels = parsed.numeric[age].to_numpy(copy=True), list(report.competition.labels)
    wrong = (ages > OLDEST) | (ages < 0)
    if wrong.any():
        report.add("warning", f"{plural(wrong.sum(), 'image')} with an impossible {age}",
                   "left out of the plots of ages",
                   [f"{image_id}: {value:g}" for image_id, value in
                    zip(train.table["image_id"][wrong], ages[wrong], strict=True)])
        ages[wrong] = np.nan
    if np.isnan(ages).all():
        return
    name = _file_name(age)
    report.plot(f"{name}_decades", plots.plot_decades, age, ages, train.groups)
    for sex in list(filter(is_sex, parsed.categorical))[:1]:
        sexes = parsed.categorical[sex].to_numpy(str)
        report.plot(f"{name}_by_sex", plots.plot_age_by_sex, age, ages, sexes, cells, labels)
        report.plot(f"{name}_histograms", plots.plot_age_histograms, age, ages, sexes, cells, labels)


def _check_sexes(report: Report, train: PartData, column: str, values: pd.Series) -> None:
    if is_sex(column):
        filled = values.to_numpy(str) != ""
        of_patient = pd.Series(values.to_numpy(str)[filled]).groupby(train.groups[filled]).nunique()
        if (several := of_patient > 1).any():
            report.add("warning", f"{plural(several.sum(), 'patient')} with several values of {column}",
                       "is the patient's column really the patient?", of_patient[several].index)


def _file_name(column: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in column.lower()).split()) or "unnamed"


# ---- pixels


def measure_channels(competition: Competition, train: PartData) -> dict:
    """Mean and deviation of each channel in [0, 1], every readable image that is not of one colour counting alike."""
    scan = train.scan
    rows = np.flatnonzero(scan.readable & ~scan.constant)
    if competition.channels == 1 or set(scan.mode[rows].tolist()) <= GREY_MODES:
        means, stds = (np.repeat(values[rows, None], competition.channels, axis=1) for values in (scan.mean, scan.std))
    else:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_COLOURED])
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
    """A sheet of images to look at: equal ones with different labels, odd sizes, hardly any contrast, one colour."""
    scan, table = train.scan, train.table
    row_of = {image_id: row for row, image_id in enumerate(scan.ids.tolist())}
    cells = label_cells(report.competition, table)
    suspects = {}
    for ids in exact:
        rows = [row_of[image_id] for image_id in ids]
        if ((cells[rows] == 1).any(axis=0) & (cells[rows] == 0).any(axis=0)).any():
            suspects |= dict.fromkeys(rows, "equal, labels differ")
    seen, area = scan.readable, scan.height.astype(float) * scan.width
    if seen.any():
        aspect = np.log(np.maximum(scan.width, 1) / np.maximum(scan.height, 1))
        odd = seen & ((area < np.median(area[seen]) / 16) | (np.abs(aspect - np.median(aspect[seen])) > math.log(2)))
        suspects |= {row: f"odd size {scan.width[row]}x{scan.height[row]}" for row in np.flatnonzero(odd)[:8].tolist()}
    flat = seen & ~scan.constant & (scan.std < 2)
    suspects |= dict.fromkeys(np.flatnonzero(flat)[:6].tolist(), "hardly any contrast")
    plain_ones = np.flatnonzero(seen & scan.constant).tolist()
    suspects |= dict.fromkeys(plain_ones[:4], f"one colour, as {len(plain_ones):,} are")
    if suspects:
        shown = [(f"{plots.shorten([scan.ids[row]], 26)[0]}\n{why}", _small_picture(scan.paths[row]))
                 for row, why in list(suspects.items())[:24]]
        report.plot("suspicious", plots.plot_montage, shown, len(suspects))


def _small_picture(path: str) -> np.ndarray:
    picture = decode_image(path, 3, 256)
    step = max(1, max(picture.shape[:2]) // 256)
    return picture[::step, ::step]


# ---- what can be told without the picture


def probe_train(report: Report, train: PartData, parsed: ParsedColumns) -> None:
    """Each label by file and table columns alone, and by the picture's border alone."""
    competition, seen = report.competition, np.flatnonzero(train.scan.readable)
    rows = seen[sample_groups(train.groups[seen], MOST_PROBED)] if len(seen) else seen
    kinds = {"metadata": (file_features(train.scan) | column_features(parsed), "file and table columns"),
             "order": (order_features(train.scan.ids), "the order of rows and the ids"),
             "border": (border_features(train.scan), "the picture's border and corners")}
    left_out = dict(parsed.left_out)
    if competition.label_pattern:  # the rows are in the order of paths
        left_out |= dict.fromkeys(kinds.pop("order")[0], "the label is read out of the path")
    account = {"images": len(rows), "left_out": left_out}
    for kind, (features, by_what) in kinds.items():
        features = {family: values[rows] for family, values in features.items()}
        probes = probe_labels(features, label_cells(competition, train.table)[rows], train.groups[rows],
                              list(competition.labels)) if len(rows) else []
        account[kind] = probes
        if probes:
            report.plot(f"probe_{kind}", plots.plot_probes, [probe.name for probe in probes],
                        [(probe.auc, probe.low, probe.high) for probe in probes], [_best(probe) for probe in probes],
                        f"Labels told by {by_what} alone")
        _warn_of_probes(report, kind, by_what, probes)
    report.account["probes"] = account


def _best(probe: Probe) -> str:
    return f"{probe.best} ({probe.families[probe.best]:.2f})" if probe.best else ""


def _warn_of_probes(report: Report, kind: str, by_what: str, probes: list[Probe]) -> None:
    severities = {"metadata": ("error", "warning"), "order": ("warning", "note"), "border": ("error", "warning")}[kind]
    todo = {"order": "no harm where rows are shuffled, as here; but ask how the set was put together: were images with "
                     "and without a finding collected in one way?"}.get(
        kind, f"a network may learn this instead of the finding: see probe_{kind}.png, and ask whether the test images "
              "have the same")
    given_away = [probe for probe in probes if probe.low > GIVEN_AWAY]
    telling = [probe for probe in probes if probe.auc > TELLING and probe.is_above_chance and probe not in given_away]
    for severity, found, how in zip(severities, (given_away, telling), ("nearly always", "better than by chance"),
                                    strict=True):
        if not found:
            continue
        names = [f"{probe.name} AUC {probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}], most of it by {_best(probe)}"
                 for probe in sorted(found, key=lambda probe: -probe.auc)]
        what = f"{plural(len(found), 'label')} told {how} by {by_what} alone"
        if kind == "metadata" and all(probe.best in OF_THE_PICTURE for probe in found):
            report.add("warning", what, "file size, brightness and contrast follow from the picture, so it may be the "
                       "finding itself; see probe_metadata.png, and ask whether images with and without it were made "
                       "in one way", names)
        else:
            report.add(severity, what, todo, names)


def probe_part(report: Report, train: PartData, other: PartData) -> None:
    """The images of a part kept apart told from the training images by files, columns, grey values and border."""
    both, sides = (train, other), []
    shared = [column for column in train.columns if column in other.columns]
    together = parse_columns(pd.concat([part.columns[shared] for part in both], ignore_index=True),
                             skipped_columns(report.competition))
    columns, start = column_features(together), 0
    for part in both:
        stop = start + len(part.scan)
        seen = np.flatnonzero(part.scan.readable)
        rows = seen[sample_groups(part.groups[seen], MOST_PROBED // 2)] if len(seen) else seen
        features = file_features(part.scan) | histogram_features(part.scan) | border_features(part.scan)
        features |= {name: values[start:stop] for name, values in columns.items()}
        modes = pd.Categorical(part.scan.mode, sorted({*train.scan.mode.tolist(), *other.scan.mode.tolist()}))
        features["mode"] = pd.get_dummies(modes).to_numpy(float)
        sides.append(({name: values[rows] for name, values in features.items()}, part.groups[rows]))
        start = stop
    (values, groups), (other_values, other_groups) = sides
    if not len(groups) or not len(other_groups):
        return
    probe = probe_parts(values, other_values, groups, other_groups)
    report.account["probes"].setdefault("parts", {})[other.name] = probe
    if not probe.families:
        return
    names = ["all together", *list(probe.families)[:12]]
    aucs = [(probe.auc, probe.low, probe.high), *((auc, np.nan, np.nan) for auc in list(probe.families.values())[:12])]
    report.plot(f"probe_{other.name}", plots.plot_probes, names, aucs, [""] * len(names),
                f"{other.name.capitalize()} images told from training images")
    if probe.auc > TELLING and probe.is_above_chance:
        report.add("warning", f"a classifier tells {other.name} from training images "
                   + ("nearly always" if probe.auc > GIVEN_AWAY else "better than by chance")
                   + f": AUC {probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}]",
                   "they may come from elsewhere, which cross-validation knows nothing of; see images.png and "
                   f"probe_{other.name}.png", [f"{name} {auc:.2f}" for name, auc in probe.families.items()])


# ---- the price of a leak


def price(report: Report, train: PartData, exact: list[list[str]], near: pd.DataFrame) -> dict | None:
    """A quick classifier on frozen features under random and under audited folds, and rare rows copied too early."""
    scan, labels = train.scan, list(report.competition.labels)
    keys = {"exact duplicate": duplicate_keys(scan.ids, exact), "near duplicate": duplicate_keys(scan.ids,
                                                                                                near_sets(near))}
    audited = join_groups(train.groups, duplicate_keys(scan.ids, [*exact, *near_sets(near)]))
    usable = np.flatnonzero(scan.readable & ~scan.constant)
    rows = usable[sample_groups(audited[usable], MOST_PRICED)] if len(usable) else usable
    cells, groups = label_cells(report.competition, train.table)[rows], audited[rows]
    scored = [k for k in range(len(labels))
              if min(len(np.unique(groups[cells[:, k] == kind])) for kind in (1, 0)) >= FOLDS]
    if not scored:
        report.add("note", f"the price of a leak is not computed: no label is in {FOLDS} patients and missing in "
                   f"{FOLDS} others")
        return None
    features = frozen_features(f"{report.competition.name}-audit", scan.thumbnails[rows],
                               sha256(scan.folder.name, rows.tobytes()))
    names, cells = [labels[k] for k in scored], cells[:, scored]
    patients = train.groups[rows]
    counted = pd.Series(patients).map(pd.Series(patients).value_counts()).to_numpy()
    twins = {kind: values[rows] for kind, values in keys.items()}
    twins["same patient"] = np.where(counted > 1, patients, "")
    twins = {kind: values for kind, values in twins.items() if (values != "").any()}
    account = {"images": len(rows), "folds": None, "upsampling": None}
    if twins:
        found = leakage_gap(features, cells, groups, names, twins, FOLDS)
        account["folds"] = found
        low, high = found.difference_interval
        report.add("warning" if low > 0.01 else "note", f"random folds would promise a macro AUC of {found.random:.3f} "
                   f"where folds of whole patients give {found.grouped:.3f}: {found.difference:+.3f} [{low:+.3f}, "
                   f"{high:+.3f}]", "use make_folds.py" if low > 0.01 else "")
    f1 = upsampling_mistake(features, cells, groups, names, FOLDS)
    if (f1["copies"].iloc[:-1] > 1).any():  # else none is rare
        account["upsampling"] = f1
        mean = f1.iloc[-1]
        report.add("note", f"copying rare rows before the split would promise a mean F1 of {mean['false_f1']:.2f} "
                   f"where copying after it gives {mean['true_f1']:.2f}", "copy within the training folds only: "
                   "an experiment's `sampler` does")
    _plot_price(report, account)
    return account


def _plot_price(report: Report, account: dict) -> None:
    folds, f1 = [], []
    if found := account["folds"]:
        folds = [("all images", found.random, found.grouped)]
        folds += [(f"{row['twin']} {row['kind']} in training ({row['images']:,})", row["random"], row["grouped"])
                  for row in found.by_twin.to_dict("records") if not pd.isna(row["random"])]
    if account["upsampling"] is not None:
        f1 = [(row["label"], row["false_f1"], row["true_f1"]) for row in account["upsampling"].to_dict("records")]
    if folds or f1:
        report.plot("price_of_a_leak", plots.plot_price, folds, f1)


# ---- what a person and a machine read


def show_report(account: dict, folder: Path) -> None:
    """Prints the findings, the worst first, and compact tables of what audit.json holds."""
    console = make_console()
    console.print(f"[bold]audit of {account['competition']}[/]")
    for finding in account["findings"]:
        console.print(f"[{SEVERITIES[finding['severity']]}]{finding['severity']:>7}[/]  {escape(finding['what'])}")
        if finding["examples"]:
            console.print(f"         [dim]{escape('; '.join(finding['examples']))}[/]")
        if finding["todo"]:
            console.print(f"         → {escape(finding['todo'])}")
    for show in (_show_images, _show_truth, _show_labels, _show_probes, _show_split, _show_price):
        show(console, account)
    channels = account["channels"]
    console.print(f"channels of {channels['images']:,} training images, for networks from scratch: mean "
                  f"{_numbers(channels['mean'])}, deviation {_numbers(channels['std'])} of 1")
    console.print(f"{len(account['plots'])} plots and audit.json, {account['seconds']:.0f} s: {folder}", soft_wrap=True)


def _numbers(values: list[float | None]) -> str:
    return ", ".join("–" if value is None else f"{value:.4f}" for value in values)


def _show_images(console: Console, account: dict) -> None:
    shown = Table("part", "images", "patients", "unreadable", "one colour", "equal", "nearly equal", "sizes", "modes",
                  title="images")
    duplicates, shared = account["duplicates"], account["parts"]["shared_with_train"]
    for name, part in account["images"].items():
        equal = (f"{duplicates['exact_images']:,} in {plural(duplicates['exact_sets'], 'set')}",
                 plural(duplicates["near_pairs"], "pair"))
        if name != "train":
            equal = f"{shared[name]['exact']:,} to train", f"{shared[name]['near_pairs']:,} to train"
        sizes = list(part["sizes"].items())[:2]
        more = f", {part['different_sizes'] - 2:,} more" if part["different_sizes"] > 2 else ""
        counts = (part[key] for key in ("images", "patients", "unreadable", "one_colour"))
        shown.add_row(name, *("unknown" if count is None else f"{count:,}" for count in counts), *equal,
                      ", ".join(f"{size}: {count:,}" for size, count in sizes) + more,
                      ", ".join(f"{mode}: {count:,}" for mode, count in part["modes"].items()))
    console.print(shown)


def _show_truth(console: Console, account: dict) -> None:
    if "truth" in account:
        shown = Table("planted", "number", "found", "of them right", "recall", "precision",
                      title="what was planted and what was found")
        for kind, row in account["truth"].items():
            shown.add_row(kind, str(row["planted"]), str(row["found"]), str(row["right"]), _share(row["recall"]),
                          _share(row["precision"]))
        console.print(shown)


def _show_labels(console: Console, account: dict) -> None:
    labels = account["labels"]
    others = [name for name in labels["cells"] if name != "train"]
    shown = Table("label", "present", "absent", "uncertain", "blank", "prevalence", *(f"in {name}" for name in others),
                  "by columns alone", "most telling", "by the order", "by the border",
                  title="training labels, and what tells them without the picture (AUC)")
    probes = {kind: {probe["name"]: probe for probe in account["probes"].get(kind, [])}
              for kind in ("metadata", "order", "border")}
    for number, row in enumerate(labels["cells"]["train"]):
        probe, order, border = (of_labels.get(row["label"]) for of_labels in probes.values())
        best = next(iter(probe["families"].items()), None) if probe else None
        shown.add_row(row["label"], *(f"{row[kind]:,}" for kind in ("present", "absent", "uncertain", "blank")),
                      _share(row["prevalence"]), *(_share(labels["cells"][name][number]["prevalence"])
                                                   for name in others),
                      _auc(probe), f"{best[0]} {best[1]:.2f}" if best else "", _auc(order), _auc(border))
    console.print(shown)
    if "findings_per_image" in labels:
        console.print(f"labels present on an image: none {labels['none']:,}, one {labels['single']:,}, several "
                      f"{labels['multiple']:,}; {labels['different_combinations']:,} combinations, the most frequent "
                      + ", ".join(f"{escape(_cut(row['combination']))} {row['share']:.1%}"
                                  for row in labels["combinations"][:3]))
    if left_out := account["probes"]["left_out"]:
        console.print("columns not probed: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))


def _cut(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[:longest - 1]}…"


def _auc(probe: dict | None) -> str:
    if probe is None or probe["auc"] is None:
        return "–" if probe is None else "too few"
    interval = "" if probe["low"] is None else f" [{probe['low']:.2f}, {probe['high']:.2f}]"
    text = f"{probe['auc']:.2f}{interval}".replace("[", r"\[")
    if probe["low"] is None or probe["low"] <= 0.5 or probe["auc"] <= TELLING:
        return text
    return f"[{'red' if probe['low'] > GIVEN_AWAY else 'yellow'}]{text}[/]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _show_probes(console: Console, account: dict) -> None:
    for name, probe in account["probes"].get("parts", {}).items():
        console.print(f"{name} told from train: AUC {_auc(probe)}; by one column each: " + ", ".join(
            f"{family} {auc:.2f}" for family, auc in list(probe["families"].items())[:6]))


def _show_split(console: Console, account: dict) -> None:
    if "split" in account:
        shown = Table("of", "images", "in", "same file", "equal pixels", "same patient", "patients shared",
                      title="what the parts of the given split share")
        for row in account["split"]:
            counts = ["unknown" if row[key] is None else f"{row[key]:,}"
                      for key in ("same_id", "same_pixels", "same_group", "groups")]
            shown.add_row(row["part"], f"{row['images']:,}", row["other"], *counts)
        console.print(shown)


def _show_price(console: Console, account: dict) -> None:
    if not account["price"]:
        return
    if folds := account["price"]["folds"]:
        shown = Table("images", "number", "random folds", "audited folds", "difference",
                      title=f"the price of a leak: macro AUC of a quick classifier on frozen features, "
                            f"{folds['images']:,} images")
        rows = [("all", folds["images"], folds["random"], folds["grouped"], folds["difference"])]
        rows += [(f"{row['twin']} {row['kind']} in training", row["images"], row["random"], row["grouped"],
                  row["difference"]) for row in folds["by_twin"]]
        for name, images, *scores in rows:
            shown.add_row(name, f"{images:,}", *("–" if score is None else f"{score:.3f}" for score in scores))
        console.print(shown)
    if account["price"]["upsampling"]:
        shown = Table("label", "positives", "copies", "false F1", "seen in training", "true F1", "without copies",
                      title="rare rows copied before the split (false) and in training alone (true): F1 at 0.5")
        for row in account["price"]["upsampling"]:
            scores = ["–" if row[key] is None else f"{row[key]:.3f}" for key in ("false_f1", "true_f1", "plain_f1")]
            shown.add_row(row["label"], f"{row['positives']:,}", str(row["copies"] or ""), scores[0],
                          _share(row["seen"]), *scores[1:])
        console.print(shown)


if __name__ == "__main__":
    main()
