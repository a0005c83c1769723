"""Sections of a report on the data: findings of the audit, and the distribution of labels over folds."""

from collections import Counter
from pathlib import Path

import numpy as np

from common.console import plural
from common.files import home, read_json
from competition import Competition
from data.labels import scored_counts
from data.tables import label_cells
from reporting.context import SHA_SHOWN, ReportContext, add_picture, note_errors
from reporting.html import Folded, Markup, ReportFigure, Section, findings, paragraph, table
from reporting.svg import interval_bar

SEVERITIES = ("error", "warning", "note")
FIRST_PLOTS = ("label_prevalence.png", "images.png", "mean_images.png", "suspicious.png")  # the others are collapsed


def audit_section(competition: Competition, command: str) -> Section | None:
    """The findings and plots of audit.py; None if there is no audit. command: runs the audit."""
    folder = home() / "runs" / competition.name / "audit"
    if not folder.exists():
        return None
    section = Section("audit", "Data audit", "Problems of images and labels that were found before training, the "
                      "most severe first.")
    path = folder / "audit.json"
    with note_errors(section, path, command):
        record = read_json(path)
        found = sorted(record["findings"], key=lambda finding: SEVERITIES.index(finding["severity"]))
        entries = [{"severity": finding["severity"], "what": finding["what"],
                    "details": [each for each in ("; ".join(map(str, finding["examples"])), finding["todo"]) if each]}
                   for finding in found]
        section.blocks.append(findings(entries) if entries else paragraph("Nothing was found."))
        counted = Counter(finding["severity"] for finding in found)
        section.warning = ", ".join(plural(counted[severity], severity) for severity in SEVERITIES[:2]
                                    if counted[severity])
        rows = [[name, f"{each['images']:,}"] for name, each in record["inputs"]["parts"].items()]
        section.blocks.append(table(["part", "images"], rows))
        plots = [str(name) for name in record["plots"]]
        _add_plots(section, folder, plots, command)
    return section


def _add_plots(section: Section, folder: Path, plots: list[str], command: str) -> None:
    first = [name for name in FIRST_PLOTS if name in plots]
    for name in first:
        add_picture(section, folder / name, _plot_caption(name), command)
    more = Section("", "")
    for name in plots:
        if name not in first:
            add_picture(more, folder / name, _plot_caption(name), command)
    section.notes += more.notes
    if more.blocks:
        section.blocks.append(Folded(f"{len(more.blocks)} more plots of the audit", more.blocks))


PLOTS = {
    "images": "Brightness, contrast, size and shape of the images by part. Differences suggest another source.",
    "label_cells": "Values of the cells of each label: present, absent, uncertain, not stated.",
    "label_prevalence": "Prevalence of each label by part: if it differs, thresholds for one part do not fit the "
                        "other.",
    "labels_by_file": "Prevalence of each label in each file of the training part.",
    "label_samplers": "Share of each label in an epoch for each `sampler` of an experiment: balancing changes the "
                      "calibration of probabilities.",
    "images_per_patient": "Number of images per patient: the longer the tail, the more would folds by image leak.",
    "mean_images": "Mean image of each label, and its difference from the mean of all other images.",
    "label_findings": "Number of labels per image.",
    "label_combinations": "The most frequent combinations of labels.",
    "label_correlation": "Correlation (phi) of each pair of labels: near 1 the two labels are redundant.",
    "suspicious": "Images to check first: constant, identical with different labels, of unusual size.",
    "near_duplicates": "Pairs of nearly identical images: in two different folds they would leak.",
    "probe_metadata": "AUC of predicting each label from other columns alone, without the image: right of the line is "
                      "better than chance.",
    "probe_order": "AUC of predicting each label from the order of the files alone.",
    "probe_border": "AUC of predicting each label from the image's border and corners alone: a network may learn this.",
    "probe_test": "AUC of distinguishing test from training images: far from 0.5 the two parts differ.",
    "leakage_folds": "By how much random folds, instead of folds by patient, would overestimate a score.",
    "leakage_oversampling": "By how much oversampling rare labels before the split would overestimate a score.",
}

AGES = {
    "_decades": "Number of images by decade of age, and images per patient of that age.",
    "_by_sex": "Age distribution of each label, by sex.",
}


def _plot_caption(name: str) -> str:
    stem = name.removesuffix(".png")
    if stem in PLOTS:
        return PLOTS[stem]
    for ending, caption in AGES.items():
        if stem.endswith(ending):
            return caption
    kind, _, words = stem.replace("_", " ").partition(" ")
    if kind == "near":
        return f"Images of {words} that nearly equal a training image: the score there is too optimistic."
    return f"Prevalence of each label by {words}." if kind == "column" else f"{kind} {words}."


def folds_section(context: ReportContext) -> Section:
    """Images, groups and labels in each fold, and the rule that created the folds."""
    metadata = context.folds.metadata
    made = metadata.get("made_by", "given")  # a dict with rule and seed, or "given"
    section = Section("folds", "Folds", "Each fold is predicted by a model trained on the other folds. All images "
                      "of a patient or group, including exact duplicates, are in the same fold.")
    section.blocks.append(ReportFigure(_fold_table(context), "Positives among the certain cells. Each dot is a fold, "
                                       "the line their range: the closer the dots, the more similar the folds. A label "
                                       "without positives in a fold has no score there.",
                                       (context.command("make_folds"),)))
    facts = [["rule", made, "not created by make_folds.py"]]
    if isinstance(made, dict):
        facts = [["rule", made["rule"], "stratified by " + ", ".join(["labels", *made.get("stratify", [])])],
                 ["seed", made["seed"], ""]]
    facts += [["splits", context.folds.splits, "independent assignments of the same images to folds"],
              ["holdout", f"{context.folds.held_out:,}", "images that are never trained on"],
              ["sets of identical images", f"{len(metadata.get('duplicates', [])):,}", "each set is in one fold"],
              ["constant images", f"{len(metadata.get('constant', [])):,}",
               "of a single colour; their prediction is the prior"],
              ["hash", context.folds.hash[:SHA_SHOWN], "of folds, labels and images; stored with every run"]]
    if metadata.get("split_groups_allowed"):
        section.notes.append("Groups were allowed to be in several folds: scores may be too optimistic.")
    section.blocks.append(table(["", "", ""], facts))
    return section


def _fold_table(context: ReportContext) -> Markup:
    """Images, groups and positives by fold. Labels are rows, because there may be many of them and folds are few."""
    cells, folds = label_cells(context.competition, context.table), context.table["fold"].to_numpy()
    of_fold = {fold: folds == fold for fold in sorted(set(folds.tolist()))} | {"all": np.ones(len(folds), bool)}
    counts = np.stack([scored_counts(cells[rows]) for rows in of_fold.values()])  # (folds and all, K, 2)
    shares = counts[:, :, 1] / np.maximum(counts[:, :, 0], 1)
    top = max(0.02, 1.05 * float(shares.max()))
    rows = [["images", *(f"{rows.sum():,}" for rows in of_fold.values()), "", ""],
            ["groups", *(f"{len(np.unique(context.groups[rows])):,}" for rows in of_fold.values()), "", ""]]
    for k, label in enumerate(context.competition.labels):
        by_fold = shares[:-1, k]
        rows.append([label, *(f"{positive:,} of {certain:,}" for certain, positive in counts[:, k]),
                     f"{shares[-1, k]:.3f}", interval_bar(by_fold.min(), np.nan, by_fold.max(), (0, top),
                                                          [(share, "c0") for share in by_fold])])
    return table(["", *(f"fold {fold}" if fold != "all" else "all" for fold in of_fold), "share",
                  f"by fold, 0 to {top:.2f}"], rows)
