"""Parts of a report about the data: what the audit found, and how the folds came out."""

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
FIRST_PLOTS = ("label_prevalence.png", "images.png", "mean_images.png", "suspicious.png")  # the others are folded


def audit_section(competition: Competition, command: str) -> Section | None:
    """What audit.py found. command: the one that audits."""
    folder = home() / "runs" / competition.name / "audit"
    if not folder.exists():
        return None
    section = Section("audit", "Data audit", "What is wrong with images and labels, before a network sees them: the "
                      "worst first.")
    path = folder / "audit.json"
    with note_errors(section, path, command):
        account = read_json(path)
        found = sorted(account["findings"], key=lambda finding: SEVERITIES.index(finding["severity"]))
        entries = [{"severity": finding["severity"], "what": finding["what"],
                    "details": [each for each in ("; ".join(map(str, finding["examples"])), finding["todo"]) if each]}
                   for finding in found]
        section.blocks.append(findings(entries) if entries else paragraph("Nothing was found."))
        counted = Counter(finding["severity"] for finding in found)
        section.warning = ", ".join(plural(counted[severity], severity) for severity in SEVERITIES[:2]
                                    if counted[severity])
        rows = [[name, f"{each['images']:,}"] for name, each in account["inputs"]["parts"].items()]
        section.blocks.append(table(["part", "images"], rows))
        plots = [str(name) for name in account["plots"]]
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
    "images": "Brightness, contrast, size and shape of the images by part: parts that differ here come from elsewhere.",
    "label_cells": "What the cells say of each label: present, absent, uncertain, not stated.",
    "label_prevalence": "How common each label is, by part: where parts differ, thresholds that fit one do not fit the "
                        "other.",
    "labels_by_file": "How common each label is in each of the training part's files.",
    "label_samplers": "What an epoch shows of each label under each `sampler` of an experiment: balance changes what a "
                      "probability means.",
    "images_per_patient": "How many images a patient has: the longer the tail, the more folds by image would leak.",
    "mean_images": "The mean image of each label, and by how much it differs from the mean of the others.",
    "label_findings": "How many labels an image has.",
    "label_combinations": "Which labels come together most often.",
    "label_correlation": "Correlation (phi) of each pair of labels: near 1 they say the same.",
    "suspicious": "Images to check first: constant, identical with different labels, of unusual size.",
    "near_duplicates": "Pairs that show nearly the same picture: in two folds they would leak.",
    "probe_metadata": "AUC of telling each label from other columns alone, without the picture: right of the line is "
                      "more than chance.",
    "probe_order": "AUC of telling each label from the order of the files alone.",
    "probe_border": "AUC of telling each label from the picture's border and corners alone: a network may learn this.",
    "probe_test": "AUC of telling test from training images: away from 0.5 they are others.",
    "leakage_folds": "What random folds instead of folds of whole patients would add to a score.",
    "leakage_oversampling": "What oversampling rare labels before the split would add to a score.",
}

AGES = {
    "_decades": "Images by ten years of age, and how many images patients of that age have.",
    "_by_sex": "Age in the images with each label, by sex.",
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
        return f"Pictures of {words} that training images nearly show too: its score is too good."
    return f"How common each label is by {words}." if kind == "column" else f"{kind} {words}."


def folds_section(context: ReportContext) -> Section:
    """How images, groups and labels lie in the folds, and how these came about."""
    account = context.folds.metadata
    made = account.get("made_by", "given")  # or how they were dealt
    section = Section("folds", "Folds", "Each fold is predicted by a model trained on the others. All images of a "
                      "patient or group, exact twins among them, lie in one fold.")
    section.blocks.append(ReportFigure(_fold_table(context), "Positives of the cells that are certain. Each dot is a "
                                       "fold, the line their range: the closer the dots, the more alike the folds. A "
                                       "label that is missing in a fold has no score "
                                       "there.", (context.command("make_folds"),)))
    facts = [["rule", made, "not drawn here"]]
    if isinstance(made, dict):
        facts = [["rule", made["rule"], "even in " + ", ".join(["labels", *made.get("stratify", [])])],
                 ["seed", made["seed"], ""]]
    facts += [["splits", context.folds.splits, "of the same images, folds drawn anew"],
              ["held out altogether", f"{context.folds.held_out:,}", "images, never trained on"],
              ["sets of equal images", f"{len(account.get('duplicates', [])):,}", "each in one fold"],
              ["black images", f"{len(account.get('constant', [])):,}", "of one colour, predicted by the prior"],
              ["hash", context.folds.hash[:SHA_SHOWN], "of folds, labels and images; stands on every run"]]
    if account.get("split_groups_allowed"):
        section.notes.append("Groups that lie in several folds were allowed: scores may be too good.")
    section.blocks.append(table(["", "", ""], facts))
    return section


def _fold_table(context: ReportContext) -> Markup:
    """Images, groups and positives by fold, a line a label, since folds are few and labels may be many."""
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
