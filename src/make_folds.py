"""Split a competition's images into folds:  python src/make_folds.py --competition demo

Patients, joined over images of equal pixels, are never in two folds. Writes folds/<competition>.csv (image_id,fold); a
file that is there already, yours or an earlier one, is checked and left as it is.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from commandline import load_competition, make_console, make_parser, pick_experiment
from competition import Competition
from folding import fold_report
from folds import Folds, add_folds, folds_path, make_folds
from labels import scoring_targets
from pixels import PixelSettings, open_store
from tables import label_cells, read_train


def main(argv: list[str] | None = None) -> Path:
    """Writes or checks the folds file; returns its path."""
    parser = make_parser(__doc__)
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="how many; default: 5")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--allow-split-groups", action="store_true",
                        help="accept a file of yours in which a patient is in two folds; its scores will be too good")
    args = parser.parse_args(argv)
    if args.folds < 2:
        raise ValueError(f"--folds {args.folds}: cross-validation needs at least 2")
    competition, data_dir = load_competition(args)
    table, left_out = read_train(competition, data_dir)
    if len(left_out):
        print(f"{len(left_out)} training images are left out: their {left_out['group'].nunique()} patients are in the "
              "test part too")
    # any size shows equal pixels; this one is needed anyway
    size = pick_experiment(competition.experiments[0]).image_size
    store = open_store(f"{competition.name}-train", table, PixelSettings(size, competition.channels))
    was_there = folds_path(competition).exists()
    folds = make_folds(competition, table, store, args.folds, args.seed, args.allow_split_groups)
    print(f"{folds.path} " + ("was there: checked and left as it is" if was_there else "written"))
    show_report(competition, add_folds(competition, table, folds), folds)
    return folds.path


def show_report(competition: Competition, table: pd.DataFrame, folds: Folds) -> None:
    """Prints images, groups and positives by fold and label, the largest deviation and the labels too rare."""
    cells = label_cells(competition, table)
    report = fold_report(scoring_targets(cells), table["group"].to_numpy(str), table["fold"].to_numpy())
    shown = Table("fold", "images", "groups", *(f"{label} +" for label in competition.labels),
                  title=f"folds of {competition.name}")
    for fold in range(folds.count):
        shown.add_row(*map(str, (fold, report.images[fold], report.groups[fold], *report.positives[fold].astype(int))))
    shown.add_section()
    shown.add_row("all", str(report.images.sum()), str(report.groups.sum()),
                  *map(str, report.positives.sum(axis=0).astype(int)))
    shown.add_row("deviation", "", "", *(f"{100 * deviation:.1f} %" for deviation in report.deviation))
    if (report.unavoidable > 0.01).any():
        shown.add_row("of it forced", "", "", *(f"{100 * forced:.1f} %" for forced in report.unavoidable))
    console = make_console()
    console.print(shown)
    if not np.isnan(report.largest_deviation):
        worst = int(np.flatnonzero(report.deviation == report.largest_deviation)[0])
        console.print(f"largest deviation of a fold's share of positives from 1/{folds.count}: "
                      f"{100 * report.largest_deviation:.1f} % ({competition.labels[worst]})")
    if report.too_rare.any():
        rare = [label for label, is_rare in zip(competition.labels, report.too_rare, strict=True) if is_rare]
        console.print(f"too rare for {folds.count} folds (fewer groups with it than folds): {', '.join(rare)}",
                      style="yellow")
    twins, black = folds.account["duplicates"], folds.account["black"]
    console.print(f"{sum(map(len, twins))} images in {len(twins)} sets of equal pixels, kept together; {len(black)} "
                  f"images of one grey value; {(cells == -1).sum()} uncertain and {np.isnan(cells).sum()} blank label "
                  "cells")


if __name__ == "__main__":
    main()
