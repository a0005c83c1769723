"""The audit's checks of labels and of the other table columns: counts, combinations, rare labels, ages, sexes."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from auditing import plots
from auditing.findings import PartData, Report, has_patients
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
    rates_by_category,
    top_combinations,
)
from auditing.leakage import balancing_repeats
from common.console import percent, plural
from common.settings import by_label, for_labels
from competition import Competition
from data.metadata import ParsedColumns, is_age, is_sex
from data.tables import label_cells, read_part, read_solution
from experiment import EXPERIMENTS, REPEATS

FOLDS = 5          # a label needs so many patients with it and so many without it
ALIKE = 0.9        # |phi| from which two labels are reported as nearly identical or opposite
SHIFT = 0.05       # difference in prevalence between two parts that is reported
MOST_COLUMNS = 12  # other columns that are drawn
OLDEST = 120       # years


def check_labels(report: Report, data_dir: Path, parts: dict[str, PartData]) -> None:
    """Counts, combinations, correlations, rare labels, images per patient and mean images of the training part.

    Prevalence is also compared with the other parts whose labels are known.
    """
    competition, train, labels = report.competition, parts["train"], list(report.competition.labels)
    cells, usable = label_cells(competition, train.table), train.scan.readable & ~train.scan.constant
    counts = {"train": count_cells(cells, labels)}
    for name, known in known_labels(competition, data_dir, parts).items():
        counts[name] = count_cells(known, labels)
    rare, per_group = find_rare(cells, train.groups, labels, FOLDS), images_per_group(train.groups)
    summary = {"cells": counts, "rare": rare, "images_per_patient": per_group}
    report.plot("label_cells", plots.plot_cells, counts["train"])
    report.plot("label_prevalence", plots.plot_counts, {
        f"{name.replace('_', ' ')} ({int(each.loc[0, list(plots.CELLS)].sum()):,} images)": each
        for name, each in counts.items()}, "Labels by part")
    if by_file := cells_by_file(competition, data_dir, train.table):
        summary["train_files"] = {name: count_cells(each, labels) for name, each in by_file.items()}
        report.plot("labels_by_file", lambda path: plots.plot_counts(
            {f"{name} ({len(by_file[name]):,} images)": each for name, each in summary["train_files"].items()},
            "Labels in each of the training part's files or folders", path, with_absent=True))
    repeats = suggest_label_repeats(counts["train"])
    summary["samplers"] = count_shown(cells[usable], labels, competition.task, repeats)
    if summary["samplers"]:
        summary["label_repeats"] = dict(zip(labels, repeats, strict=True))
        report.plot("label_samplers", plots.plot_counts,
                    {f"{name}: {each['images'][0]:,.0f} images an epoch": each
                     for name, each in summary["samplers"].items()}, "Labels in an epoch by sampler")
    if has_patients(competition):
        sizes = dict(zip(per_group["images"], per_group["groups"], strict=True))
        report.plot("images_per_patient", plots.plot_columns, sizes,
                    f"{len(cells):,} images of {sum(sizes.values()):,} patients, at most {max(sizes):,} of one",
                    "images of a patient", "patients")
    report.plot("mean_images", plots.plot_mean_images, mean_images(train.scan.thumbnails, cells, usable), labels)
    if competition.task == "multilabel" and len(labels) > 1:
        summary |= check_combinations(report, cells, labels)
    report.summary["labels"] = summary
    _add_label_findings(report, counts, rare)


def cells_by_file(competition: Competition, data_dir: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Label cells (n, K) of the training images by label file or folder; {} if there is only one."""
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


def suggest_label_repeats(counts: pd.DataFrame) -> np.ndarray:
    """(K,) int, values for an experiment's `label_repeats`.

    They come from a named experiment whose `label_repeats` fit these labels; otherwise they even out the labels.
    counts: from label_stats.count_cells.
    """
    labels = counts["label"].tolist()
    for experiment in EXPERIMENTS.values():
        repeats = by_label("label_repeats", experiment.label_repeats, REPEATS)
        if repeats and set(repeats) <= set(labels):
            return np.array(for_labels("label_repeats", experiment.label_repeats, labels, REPEATS, "0"), int)
    rivals = counts["present"] if len(labels) > 1 else counts[["present", "absent"]].iloc[0]
    return balancing_repeats(rivals.to_numpy())[:len(labels)]


def known_labels(competition: Competition, data_dir: Path, parts: dict[str, PartData]) -> dict[str, np.ndarray]:
    """Label cells (n, K) of the parts other than train whose labels are known; they are only reported."""
    known = {name: label_cells(competition, part.table) for name, part in parts.items()
             if name != "train" and competition.labels[0] in part.table}
    solution = read_solution(competition, data_dir) if "test" in parts and "test" not in known else None
    return known if solution is None else known | {"test": label_cells(competition, solution)}


def check_combinations(report: Report, cells: np.ndarray, labels: list[str]) -> dict:
    """Finds labels that occur together; returns their part of the summary."""
    findings, combinations, phi = count_findings(cells), count_combinations(cells, labels), phi_matrix(cells)
    top = top_combinations(combinations)
    none, one, several = (percent(count.sum() / max(1, len(cells)))
                          for count in (findings[:1], findings[1:2], findings[2:]))
    report.plot("label_findings", plots.plot_columns,
                dict(enumerate(findings[:1 + max(2, *np.flatnonzero(findings))])),
                f"Positive labels of an image: none {none}, one {one}, several {several}", "positive labels", "images")
    report.plot("label_combinations", plots.plot_combinations, top, len(combinations))
    report.plot("label_correlation", plots.plot_correlation, phi, labels)
    report.keep("combinations", combinations)
    nested = find_nested(cells, labels)
    if nested:
        report.add("note", f"In {plural(len(nested), 'pair')} of labels, every image with the first label also has "
                   "the second, as far as both are certain.", "Predictions that contradict this can be corrected.",
                   (f"{inner} → {outer}" for inner, outer in nested))
    pairs = sorted(zip(*np.nonzero(np.triu(np.nan_to_num(np.abs(phi)) > ALIKE, 1)), strict=True),
                   key=lambda pair: -abs(phi[pair]))
    alike = [(labels[i], labels[j], phi[i, j]) for i, j in pairs]
    for sign, words in ((1, "identical"), (-1, "opposite")):
        texts = [f"{first}, {second}: phi {value:.2f}" for first, second, value in alike if value * sign > 0]
        if texts:
            report.add("note", f"{plural(len(texts), 'pair')} of labels {'is' if len(texts) == 1 else 'are'} nearly "
                       f"{words}.", "", texts)
    return {"findings_per_image": findings, "none": findings[0], "single": findings[1], "multiple": findings[2:].sum(),
            "combinations": top, "different_combinations": len(combinations), "phi": phi, "nested": nested,
            "alike": alike}


def _add_label_findings(report: Report, counts: dict[str, pd.DataFrame], rare: pd.DataFrame) -> None:
    too_rare, few = (rare[rare["too_rare"] == kind] for kind in (True, False))
    if len(too_rare):
        report.add("warning", f"{plural(len(too_rare), 'label', 'are')} too rare or too frequent for {FOLDS} folds: "
                   f"fewer than {FOLDS} patients with the label, or fewer than {FOLDS} without it.",
                   "The scores of these labels are undefined in some folds. Use fewer folds, or leave the labels out "
                   "of `scored_labels` in competition.py.",
                   [f"{row['label']} {row['groups']}" for row in too_rare.to_dict("records")])
    if len(few):
        report.add("note", f"{plural(len(few), 'label', 'have')} fewer than 100 positive images.",
                   "Expect wide confidence intervals.",
                   [f"{row['label']} {row['positives']}" for row in few.to_dict("records")])
    train = counts["train"]
    for kind, setting in (("uncertain", "uncertain"), ("blank", "missing_labels")):
        if train[kind].any():
            share = train[kind].sum() / train[["present", "absent", "uncertain", "blank"]].to_numpy().sum()
            report.add("note", f"{plural(train[kind].sum(), 'label cell', 'are')} {kind} ({percent(share)}). Scores "
                       "leave them out.",
                       f"The setting `{setting}` of an experiment decides how training uses them.")
    for name, other in counts.items():
        difference = other["prevalence"] - train["prevalence"]
        shifted = difference.abs() > SHIFT
        if shifted.any():
            title = name.replace("_", " ")
            texts = [f"{row['label']} {percent(row['train'])} → {percent(row['there'])}" for row in pd.DataFrame(
                {"label": train["label"], "train": train["prevalence"], "there": other["prevalence"],
                 "size": difference.abs()})[shifted].sort_values("size", ascending=False).to_dict("records")]
            report.add("note", f"The prevalence of {plural(shifted.sum(), 'label')} differs between train and {title} "
                       f"by more than {100 * SHIFT:.0f} percentage points.",
                       f"Probabilities and decision thresholds fitted on train may be wrong for {title}.", texts)


# ---- other columns


def excluded_columns(competition: Competition) -> dict[str, str]:
    """Columns that are not used to predict labels or parts, each with the reason."""
    filters = {column: "`row_filter` in competition.py selects rows by it" for part in (
        *competition.train_parts, competition.test, competition.official_validation) if part is not None
        for column, _ in part.row_filter}
    return filters | ({competition.group_column: "it identifies the patient"} if competition.group_column else {})


def check_columns(report: Report, train: PartData, parsed: ParsedColumns) -> None:
    """Describes and draws age, sex, view and all other columns with the labels."""
    labels, cells = list(report.competition.labels), label_cells(report.competition, train.table)
    first = ~train.table["group"].duplicated().to_numpy() if has_patients(report.competition) else None
    summary = {"numeric": {}, "categorical": {}, "left_out": parsed.left_out}
    for column in parsed.numeric:
        values = parsed.numeric[column]
        summary["numeric"][column] = values.describe().to_dict() | {"blank": values.isna().sum()}
    for column in parsed.categorical:
        names, rates, counts = rates_by_category(cells, parsed.categorical[column].to_numpy(str))
        summary["categorical"][column] = {
            name: {"images": images, "prevalence": dict(zip(labels, rate, strict=True))}
            for name, images, rate in zip(names, counts, rates, strict=True)}
        if is_sex(column):
            _check_sexes(report, train, column, parsed.categorical[column].to_numpy(str))
    for column in list(parsed.numeric)[:MOST_COLUMNS]:
        of_patients = first if is_age(column) else None
        report.plot(f"column_{_file_name(column)}",
                    lambda path, column=column, rows=of_patients: plots.plot_numbers(
                        column, parsed.numeric[column].to_numpy(), cells, labels, path, rows))
    for column in list(parsed.categorical)[:MOST_COLUMNS]:
        report.plot(f"column_{_file_name(column)}", plots.plot_categories, column,
                    *rates_by_category(cells, parsed.categorical[column].to_numpy(str)), labels)
    for age in filter(is_age, list(parsed.numeric)[:MOST_COLUMNS]):
        _check_ages(report, train, parsed, age, cells)
    report.summary["columns"] = summary


def _check_ages(report: Report, train: PartData, parsed: ParsedColumns, age: str, cells: np.ndarray) -> None:
    ages, labels = parsed.numeric[age].to_numpy(copy=True), list(report.competition.labels)
    wrong = (ages > OLDEST) | (ages < 0)
    if wrong.any():
        report.add("warning", f"{plural(wrong.sum(), 'image', 'have')} an impossible {age}, below 0 or above {OLDEST} "
                   "years.", "The age plots leave these values out.",
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


def _check_sexes(report: Report, train: PartData, column: str, values: np.ndarray) -> None:
    filled = values != ""
    per_patient = pd.Series(values[filled]).groupby(train.groups[filled]).nunique()
    if (several := per_patient > 1).any():
        report.add("warning", f"{plural(several.sum(), 'patient', 'have')} more than one value of {column}.",
                   "Check that `group_column` or `group_pattern` in competition.py identifies patients.",
                   per_patient[several].index)


def _file_name(column: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in column.lower()).split()) or "unnamed"
