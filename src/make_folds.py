"""Split a competition's images into folds:  python src/make_folds.py --competition demo

Patients, joined over images of equal pixels, are never in two folds. Writes folds/<competition>.csv (image_id,fold); a
file that is there already, yours or an earlier one, is checked and left as it is.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from commandline import load_workspace, make_parser, pick_experiment, run_script
from common.console import make_console, percent
from common.files import read_csv
from competition import Competition, did_you_mean
from data.folds import (
    HELD_OUT,
    Folds,
    attach_folds,
    find_near_sets,
    fold_numbers,
    folds_path,
    make_folds,
    read_folds,
    split_column,
)
from data.labels import scored_counts, scoring_targets
from data.pixel_store import open_store, pixel_settings
from data.splitting import TOLERANCE, TOLERATED_IMAGES, FoldReport, fold_report, make_strata
from data.tables import label_cells, read_columns, read_train


def main(argv: list[str] | None = None) -> Path:
    """Writes or checks the folds file; returns its path."""
    parser = make_parser(__doc__)
    parser.add_argument("--folds", type=int, metavar="N", help="how many; default: 5, or what the file has")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--repeats", type=int, metavar="R",
                        help="so many further splits of the same images, fold_1 to fold_R; an experiment chooses with "
                             "split=1; default: 0")
    parser.add_argument("--holdout", type=float, metavar="SHARE",
                        help="a share of the images, in whole groups, that is only predicted and reported; default: 0")
    parser.add_argument("--stratify", nargs="+", metavar="COLUMN",
                        help="other columns of the label file that are to be as frequent in every fold")
    parser.add_argument("--near-duplicates", action="store_true",
                        help="look for images that show the same picture and keep them together too")
    parser.add_argument("--allow-split-groups", action="store_true",
                        help="accept a file of yours in which a patient is in two folds; its scores will be too good")
    args = parser.parse_args(argv)
    if args.folds is not None and args.folds < 2:
        raise ValueError(f"--folds {args.folds}: cross-validation needs at least 2")
    workspace = load_workspace(args, with_folds=False)
    competition, data_dir = workspace.competition, workspace.data_dir
    table, left_out = read_train(competition, data_dir)
    if len(left_out):
        print(f"{len(left_out)} training images are left out: their {left_out['group'].nunique()} patients are in the "
              "test or official validation part too")
    folds = split_table(competition, data_dir, table, args)
    drawn = folds.metadata["made_by"]
    columns = drawn.get("stratify", []) if isinstance(drawn, dict) else []
    table = attach_folds(competition, table, folds)
    held_out = table["fold"] == HELD_OUT
    show_report(competition, table[~held_out], table[held_out], folds,
                pick_columns(competition, data_dir, columns) if columns else None)
    return folds.path


def split_table(competition: Competition, data_dir: Path, table: pd.DataFrame, args: argparse.Namespace) -> Folds:
    """Makes the folds that the flags ask for, or checks those that are there, and prints which."""
    path = folds_path(competition)
    was_there = path.exists()
    stratify = pick_columns(competition, data_dir, list(dict.fromkeys(args.stratify))) if args.stratify else None
    # any size shows equal pixels, and this one is needed anyway; with a holdout, training opens one without it
    name = f"{competition.name}-{'whole' if args.holdout or (was_there and _holds_out(path)) else 'train'}"
    as_they_are = replace(pick_experiment(competition.experiments[0]), preprocessing=())  # or more would look equal
    store = open_store(name, table, pixel_settings(competition, as_they_are))
    looked_for = was_there and "near_duplicates" in _known_metadata(competition)
    near = find_near_sets(competition, table) if args.near_duplicates or looked_for else None
    folds = make_folds(competition, table, store, args.folds, args.seed, args.allow_split_groups,
                       repeats=args.repeats, holdout=args.holdout, stratify=stratify, near=near)
    print(f"{folds.path} " + ("was there: checked and left as it is" if was_there else "written"))
    return folds


def _holds_out(path: Path) -> bool:
    frame = read_csv(path)
    return "fold" in frame and (frame["fold"] == str(HELD_OUT)).any()


def _known_metadata(competition: Competition) -> dict:
    try:
        return read_folds(competition).metadata
    except ValueError:  # never checked, or changed since: a file of the user's
        return {}


def pick_columns(competition: Competition, data_dir: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of the label files as text, indexed by image_id. Raises ValueError where one is not there."""
    there = read_columns(competition, data_dir, "train")
    for column in columns:
        if column not in there:
            raise ValueError(f"--stratify: no column {column!r}; the columns beside ids and labels are "
                             f"{', '.join(there.columns) or 'none'}{did_you_mean([column], there.columns)}")
    return there[columns]


def show_report(competition: Competition, table: pd.DataFrame, holdout: pd.DataFrame, folds: Folds,
                stratify: pd.DataFrame | None = None) -> None:
    """Prints images, groups and positives by fold and label, how far prevalences are off, and the labels too rare."""
    console, cells = make_console(), label_cells(competition, table)
    targets, groups = scoring_targets(cells), table["group"].to_numpy(str)
    reports = [fold_report(targets, groups, fold_numbers(table, split)) for split in range(folds.splits)]
    console.print(_counts_table(competition, reports[0], table, holdout))
    for split, report in enumerate(reports):
        _print_evenness(console, competition, report, f"{split_column(split)}: " if folds.splits > 1 else "")
    if stratify is not None:
        console.print(_strata_table(table, stratify.loc[table["image_id"]], folds))
    if reports[0].too_rare.any():
        rare = [label for label, is_rare in zip(competition.labels, reports[0].too_rare, strict=True) if is_rare]
        console.print(f"too rare for {folds.count} folds (fewer groups with it than folds): {', '.join(rare)}",
                      style="yellow")
    for name, what in (("duplicates", "equal pixels"), ("near_duplicates", "the same picture")):
        if name in folds.metadata:
            sets = folds.metadata[name]
            console.print(f"{sum(map(len, sets))} images in {len(sets)} sets of {what}, kept together")
    console.print(f"{len(folds.metadata['constant'])} images of one grey value; {(cells == -1).sum()} uncertain and "
                  f"{np.isnan(cells).sum()} blank label cells")


def _counts_table(competition: Competition, report: FoldReport, table: pd.DataFrame, holdout: pd.DataFrame) -> Table:
    shown = Table("fold", "images", "groups", *(f"{label} +" for label in competition.labels),
                  title=f"folds of {competition.name}")
    for fold in range(len(report.images)):
        shown.add_row(*map(str, (fold, report.images[fold], report.groups[fold], *report.positives[fold])))
    shown.add_section()
    shown.add_row("all", str(report.images.sum()), str(report.groups.sum()), *map(str, report.positives.sum(axis=0)))
    shown.add_row("deviation", "", "", *map(percent, report.prevalence_deviation))
    if (report.unavoidable > 0.01).any():
        shown.add_row("of it forced", "", "", *map(percent, report.unavoidable))
    if len(holdout):
        whole = pd.concat([table, holdout])
        (held, positive), (_, all_positive) = (scored_counts(label_cells(competition, part)).T
                                               for part in (holdout, whole))
        shown.add_section()
        shown.add_row("held out", str(len(holdout)), str(holdout["group"].nunique()), *map(str, positive))
        in_whole = all_positive / scored_counts(label_cells(competition, whole))[:, 0].clip(1)
        off = np.divide(positive / held.clip(1), in_whole, out=np.full(len(held), np.nan), where=in_whole > 0)
        shown.add_row("deviation", "", "", *map(percent, np.abs(off - 1)))
    return shown


def _print_evenness(console: Console, competition: Competition, report: FoldReport, what: str) -> None:
    rated = ~report.too_rare
    if not rated.any():
        return
    worst = int(np.nanargmax(np.where(rated, report.prevalence_deviation, -1)))
    console.print(f"{what}prevalence in a fold differs from the overall one by at most "
                  f"{100 * report.prevalence_deviation[worst]:.1f} % ({competition.labels[worst]})")
    if report.uneven.any():
        names = [label for label, uneven in zip(competition.labels, report.uneven, strict=True) if uneven]
        console.print(f"{what}prevalence differs by more than {TOLERANCE:.0%}, {TOLERATED_IMAGES} images or more and "
                      f"by more than the largest group forces: {', '.join(names)}", style="yellow")


def _strata_table(table: pd.DataFrame, stratify: pd.DataFrame, folds: Folds) -> Table:
    columns = [f"deviation, {split_column(split)}" for split in range(folds.splits)]
    shown = Table("column", "stratum", "images", *columns,
                  title="columns that were stratified by, after the labels")
    for column in stratify:
        codes, names = make_strata(stratify[column])
        indicators = np.eye(len(names))[codes]
        reports = [fold_report(indicators, table["group"].to_numpy(str), fold_numbers(table, split))
                   for split in range(folds.splits)]
        for code, name in enumerate(names):
            shown.add_row(column if code == 0 else "", name, str((codes == code).sum()),
                          *(percent(each.prevalence_deviation[code]) for each in reports))
    return shown


if __name__ == "__main__":
    run_script(main)
