"""Check a competition's images and labels before training:  python src/audit.py --competition demo

Checks files, duplicates, images shared between parts, labels, labels that can be predicted without the image, and how
much data leakage would raise a score. Prints the findings, errors first, and writes audit.json, tables and plots to
runs/<competition>/audit/.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from auditing.file_checks import check_duplicates, check_images, check_parts, check_split, check_strays, check_truth
from auditing.findings import PartData, Report, has_patients
from auditing.label_checks import check_columns, check_labels, excluded_columns
from auditing.shortcut_checks import (
    HIGH_AUC,
    NOTABLE_AUC,
    draw_suspects,
    measure_channels,
    measure_leakage,
    probe_part,
    probe_train,
    relation_text,
)
from commandline import load_workspace, make_parser, run_script
from common.console import make_console, number, percent, plural
from common.files import home, json_ready, read_csv, replace_atomically, sha256, write_json
from common.hardware import tune_process
from competition import Competition
from data.demo import read_truth
from data.image_scan import scan_images
from data.metadata import parse_columns
from data.tables import described_parts, read_columns, read_part, read_train

SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def main(argv: list[str] | None = None) -> Path:
    """Audits a competition; returns the path of audit.json."""
    parser = make_parser(__doc__)
    parser.add_argument("--split", type=Path, metavar="FILE",
                        help="a CSV with image files and the part of each: report what these parts share")
    parser.add_argument("--quick", action="store_true", help="do not measure leakage, which needs a network")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    tune_process()
    workspace = load_workspace(args, with_folds=False)
    competition, data_dir = workspace.competition, workspace.data_dir
    split = read_csv(args.split) if args.split else None
    parts, left_out = load_parts(competition, data_dir)
    folder = home() / "runs" / competition.name / "audit"
    with replace_atomically(folder) as temporary:
        temporary.mkdir()
        report = Report(competition, temporary)
        report.summary |= {"competition": competition.name,
                           "command": ["audit.py", *(sys.argv[1:] if argv is None else argv)],
                           "inputs": describe_inputs(competition, data_dir, parts)}
        audit_parts(report, data_dir, parts, left_out, split, args.quick)
        findings = sorted(report.findings, key=lambda finding: list(SEVERITIES).index(finding.severity))
        report.summary |= {"findings": findings, "plots": report.plots, "seconds": time.perf_counter() - started}
        summary = json_ready(report.summary, 6)
        write_json(temporary / "audit.json", summary)
    show_report(summary, folder)
    return folder / "audit.json"


def load_parts(competition: Competition, data_dir: Path) -> tuple[dict[str, PartData], pd.DataFrame]:
    """All parts with their image scans, the training part first, and the training rows that are left out."""
    train, left_out = read_train(competition, data_dir, check_shared=False)  # here shared patients are a finding
    tables = {"train": train}
    for name in described_parts(competition)[1:]:
        try:
            tables[name] = read_part(competition, data_dir, name)
        except FileNotFoundError:
            if not getattr(competition, name).optional:
                raise
    # equal ids in two parts may mean two images, or two patients
    separate = competition.shared_groups == "distinct" or not has_patients(competition)
    parts = {}
    for name, table in tables.items():
        groups = np.char.add(f"{name}: " if separate else "", table["group"].to_numpy(str))
        columns = read_columns(competition, data_dir, name).reindex(table["image_id"])
        parts[name] = PartData(name, table, columns, scan_images(f"{competition.name}-{name}", table), groups)
    return parts, left_out


def describe_inputs(competition: Competition, data_dir: Path, parts: dict[str, PartData]) -> dict:
    """The label files with their hashes, and each part's number of images and the hash of their pixels."""
    described = [*competition.train_parts, competition.test, competition.official_validation]
    names = sorted({name for part in described if part is not None for name in part.tables})
    files = {path.name: sha256(path.read_bytes()) for name in names for path in sorted(data_dir.glob(name))}
    images = {name: {"images": len(part.scan), "sha256": sha256(*part.scan.ids, *part.scan.pixel_hash)}
              for name, part in parts.items()}
    return {"label_files": files, "parts": images}


def audit_parts(report: Report, data_dir: Path, parts: dict[str, PartData], left_out: pd.DataFrame,
                split: pd.DataFrame | None, quick: bool) -> None:
    """Runs all checks."""
    train = parts["train"]
    check_images(report, parts)
    check_strays(report, data_dir, parts, left_out)
    exact, near = check_duplicates(report, train)
    check_parts(report, parts, left_out)
    if (data_dir / "truth" / "truth.csv").exists():
        check_truth(report, read_truth(data_dir), train, exact, near)
    if split is not None:
        check_split(report, split, parts, left_out)
    report.summary["channels"] = measure_channels(report.competition, train)
    check_labels(report, data_dir, parts)
    parsed = parse_columns(train.columns, excluded_columns(report.competition))
    check_columns(report, train, parsed)
    draw_suspects(report, train, exact)
    probe_train(report, train, parsed)
    for name in list(parts)[1:]:
        probe_part(report, train, parts[name])
    report.summary["leakage"] = None if quick else measure_leakage(report, train, exact, near)


# ---- on the screen


def show_report(summary: dict, folder: Path) -> None:
    """Prints the findings, errors first, and tables with the main numbers of audit.json."""
    console = make_console()
    console.print(f"[bold]Audit of {summary['competition']}[/]")
    findings = Table.grid(padding=(0, 1))
    for finding in summary["findings"]:
        findings.add_row(f"[{SEVERITIES[finding['severity']]}]{finding['severity']}[/]", escape(finding["what"]))
        if finding["examples"]:
            findings.add_row("", f"[dim]{escape('; '.join(finding['examples']))}[/]")
        if finding["todo"]:
            findings.add_row("", f"→ {escape(finding['todo'])}")
    console.print(findings)
    for show in (_show_images, _show_truth, _show_labels, _show_probes, _show_split, _show_leakage):
        show(console, summary)
    channels = summary["channels"]
    console.print(f"Channels of {channels['images']:,} training images, in [0, 1]: mean "
                  f"{', '.join(map(number, channels['mean']))}; standard deviation "
                  f"{', '.join(map(number, channels['std']))}.", markup=False)
    console.print(f"{plural(len(summary['plots']), 'plot')} and audit.json ({summary['seconds']:.0f} s): {folder}",
                  soft_wrap=True, markup=False)


def _show_images(console: Console, summary: dict) -> None:
    parts, duplicates, shared = summary["images"], summary["duplicates"], summary["parts"]["shared_with_train"]

    def most(counts: dict[str, int], distinct: int) -> str:
        texts = [f"{name}: {images:,}" for name, images in list(counts.items())[:3]]
        return ", ".join(texts + ([f"{distinct - 3:,} more"] if distinct > 3 else []))

    rows = {text: [part[key] for part in parts.values()]
            for text, key in (("images", "images"), ("patients", "patients"), ("unreadable", "unreadable"),
                              ("constant", "constant"), ("almost no contrast", "low_contrast"))}
    pairs = [("exact", "exact_images", "identical pixels"), ("near_pairs", "near_pairs", "nearly identical, pairs")]
    for key, in_train, text in pairs:
        rows[text] = [duplicates[in_train] if name == "train" else shared[name][key] for name in parts]
    shown = Table("images", *parts, title="Images by part")
    for text, counts in rows.items():
        if text == "images" or any(counts):
            shown.add_row(text, *("unknown" if each is None else f"{each:,}" for each in counts))
    shown.add_row("sizes", *(most(part["sizes"], part["different_sizes"]) for part in parts.values()))
    shown.add_row("pixel modes", *(most(part["modes"], len(part["modes"])) for part in parts.values()))
    console.print(shown)
    if any(any(list(rows[text])[1:]) for *_, text in pairs):
        console.print("Identical and nearly identical images of other parts are counted against train.")


def _show_truth(console: Console, summary: dict) -> None:
    if "truth" in summary:
        shown = Table("problem", "in the demo", "found", "correct", "recall", "precision",
                      title="Problems that the demo contains by design")
        for kind, row in summary["truth"].items():
            shown.add_row(kind, *(f"{row[key]:,}" for key in ("planted", "found", "right")), percent(row["recall"]),
                          percent(row["precision"]))
        console.print(shown)


def _show_labels(console: Console, summary: dict) -> None:
    labels = summary["labels"]
    counts = labels["cells"]["train"]
    others = [name for name in labels["cells"] if name != "train"]
    kinds = ["present", "absent", *(kind for kind in ("uncertain", "blank") if any(row[kind] for row in counts))]
    shown = Table("label", *kinds, "prevalence", *(f"in {name.replace('_', ' ')}" for name in others),
                  title="Training labels")
    for k, row in enumerate(counts):
        shown.add_row(escape(row["label"]), *(f"{row[kind]:,}" for kind in kinds), percent(row["prevalence"]),
                      *(percent(labels["cells"][name][k]["prevalence"]) for name in others))
    console.print(shown)
    if "findings_per_image" in labels:
        top = ", ".join(f"{row['combination']} {percent(row['share'])}" for row in labels["combinations"][:3])
        console.print(f"Positive labels of an image: none {labels['none']:,}, one {labels['single']:,}, several "
                      f"{labels['multiple']:,}. The most frequent of {labels['different_combinations']:,} "
                      f"combinations: {top}.", markup=False)


def _show_probes(console: Console, summary: dict) -> None:
    probes = summary["probes"]
    kinds = {"metadata": "file and columns", "order": "row order", "border": "image border"}
    there = [kind for kind in kinds if probes.get(kind)]
    if there:
        shown = Table(Column("label", overflow="fold"), *(kinds[kind] for kind in there), "best column",
                      title="Labels predicted without the image: AUC (95 %)")
        for of_label in zip(*(probes[kind] for kind in there), strict=True):
            best = next(iter(of_label[0]["families"].items()), None) if there[0] == "metadata" else None
            shown.add_row(escape(of_label[0]["name"]), *map(_auc, of_label),
                          f"{escape(best[0])} {best[1]:.2f}" if best else "")
        console.print(shown)
    if probes["left_out"]:
        by_reason = {}
        for name, why in probes["left_out"].items():
            by_reason.setdefault(why, []).append(name)
        texts = [f"{', '.join(names)} ({why})" for why, names in by_reason.items()]
        console.print(f"Columns that were not used: {'; '.join(texts)}.", markup=False)
    for name, probe in probes.get("parts", {}).items():
        families = ", ".join(f"{family} {auc:.2f}" for family, auc in list(probe["families"].items())[:6])
        title = name.replace("_", " ").capitalize()
        console.print(f"{title} images distinguished from training images: AUC {_auc(probe)}"
                      + (f"; by one column each: {escape(families)}" if families else "") + ".")


def _auc(probe: dict) -> str:
    """An AUC with its interval, without spaces in it so that a narrow table breaks the line between the two."""
    if probe["auc"] is None:
        return "too few"
    text = number(probe["auc"], 2) + ("" if probe["low"] is None else f" ({probe['low']:.2f}–{probe['high']:.2f})")
    if probe["low"] is None or probe["low"] <= 0.5 or probe["auc"] <= NOTABLE_AUC:
        return text
    return f"[{'red' if probe['low'] > HIGH_AUC else 'yellow'}]{text}[/]"


def _show_split(console: Console, summary: dict) -> None:
    if "split" in summary:
        shown = Table("part", "images", "other part", "same file", "same pixels", "same patient", "shared patients",
                      title="What the parts of the given split share")
        for row in summary["split"]:
            counts = ["unknown" if row[key] is None else f"{row[key]:,}"
                      for key in ("same_id", "same_pixels", "same_group", "groups")]
            shown.add_row(escape(row["part"]), f"{row['images']:,}", escape(row["other"]), *counts)
        console.print(shown)


def _show_leakage(console: Console, summary: dict) -> None:
    if not summary["leakage"]:
        return
    if folds := summary["leakage"]["folds"]:
        shown = Table("images", "number", "random folds", "folds of patients", "difference",
                      title=f"Leakage: macro AUC of a quick classifier on {folds['images']:,} images")
        rows = [("all", folds["images"], folds["random"], folds["grouped"], folds["difference"])]
        rows += [(relation_text(row), row["images"], row["random"], row["grouped"], row["difference"])
                 for row in folds["by_relation"]]
        for name, images, *scores in rows:
            shown.add_row(name, f"{images:,}", *(number(score, 3) for score in scores))
        console.print(shown)
    if summary["leakage"]["oversampling"]:
        shown = Table("label", "positives", "repeats", "before", "seen", "after", "without",
                      title="Oversampling before and after the split: F1 at threshold 0.5")
        for row in summary["leakage"]["oversampling"]:
            scores = [number(row[key], 3) for key in ("f1_before", "f1_after", "f1_without")]
            shown.add_row(escape(row["label"]), f"{row['positives']:,}", str(row["repeats"] or ""), scores[0],
                          percent(row["seen"]), *scores[1:])
        console.print(shown)
        console.print("seen: share of the positives held out after oversampling whose image is in training too.")


if __name__ == "__main__":
    run_script(main)
