"""One page about a competition, to open, print and hand on:  python src/report.py --competition demo

Everything that the other scripts have found out, as runs/<competition>/report.html: data, folds, leaderboard, curves,
confusion, calibration, thresholds, ensembles, explanations, shortcuts, maps, anomalies, forecast, submissions. One file
that needs no network and nothing beside it. A part is there if what it shows has been made; what is missing is named
with its command, and what is damaged or out of date is said in its place. Curves are drawn for the runs named, else the
best.
"""

import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names, run_script
from common.console import interval, number
from common.files import home, write_text
from competition import Competition
from data.folds import Folds
from data.tables import read_train
from reporting.context import BROKEN, ReportContext, pick_runs
from reporting.data_sections import audit_part, folds_part
from reporting.html import Markup, Part, Tile, commands, join, link, paragraph, render
from reporting.html import table as make_table
from reporting.image_sections import anomalies_part, errors_part, explain_part, map_part, shortcuts_part
from reporting.run_sections import board_part, gains_part, learning_part, read_board
from reporting.score_sections import calibration_part, confusion_part, curves_part, thresholds_part
from reporting.submission_sections import forecast_part, submissions_part
from scoring.metrics import METRICS

# title, what makes it, and the command that it is made by; the order of the page
PARTS: tuple[tuple[str, Callable[[ReportContext], Part | None], str, str], ...] = (
    ("Folds", folds_part, "make_folds", ""),
    ("Leaderboard", board_part, "leaderboard", ""),
    ("Learning curves", learning_part, "train", "--experiment all"),
    ("ROC and precision-recall curves", curves_part, "train", "--experiment all"),
    ("Confusion matrices", confusion_part, "train", "--experiment all"),
    ("Calibration", calibration_part, "train", "--experiment all"),
    ("Thresholds", thresholds_part, "decide", "--experiment RUN"),
    ("Ensemble gains", gains_part, "blend", ""),
    ("Spot checks", explain_part, "explain", "--experiment RUN"),
    ("Shortcut alarm", shortcuts_part, "shortcuts", "--experiment RUN"),
    ("Map of neighbours", map_part, "neighbours", "--experiment RUN"),
    ("Labels to look at again", errors_part, "label_errors", "--experiment RUN"),
    ("Anomalies", anomalies_part, "anomaly", ""),
    ("Shake-up forecast", forecast_part, "leaderboard", "--forecast"),
    ("Submissions", submissions_part, "predict", "--experiment all"),
)


def main(argv: list[str] | None = None) -> Path:
    """Writes the page; returns its path."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="the best ones")
    args = parser.parse_args(argv)
    competition, data_dir = load_competition(args)
    text, notes = make_report(competition, data_dir, args)
    path = write_text(home() / "runs" / competition.name / "report.html", text)
    for note in notes:
        print(f"on it is said: {note}")
    print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def make_report(competition: Competition, data_dir: Path, args: Namespace) -> tuple[str, list[str]]:
    """The page, and what it says of files that are damaged, missing or out of date.

    Raises ValueError where a run is named that is not there, and what reading the labels raises.
    """
    where = f"--competition {competition.name}" + (
        f" --data-dir {shlex.quote(str(args.data_dir))}" if args.data_dir else "")
    names = run_names(args) if args.experiment else None
    command = f"python src/report.py {where}" + (f" --experiment {' '.join(names)}" if names else "")
    made = [("Data audit", audit_part(competition, f"python src/audit.py {where}"), f"python src/audit.py {where}")]
    tiles, warnings = [], []
    try:
        table, folds = load_folded_table(competition, data_dir)
    except (ValueError, OSError) as error:
        read_train(competition, data_dir)  # where it is the labels that cannot be read, there is nothing to report
        warnings.append(f"Nothing about runs can be shown: {error}")
    else:
        shown, unread = read_runs(competition, data_dir, where, table, folds, names)
        made += make_parts(shown)
        next(part for title, part, _ in made if title == "Leaderboard").notes += unread
        tiles, warnings = summarise(shown), warn(shown)
    parts = [part for _, part, _ in made if part]
    warnings += [join([link(f"#{part.name}", part.title), f": {part.warning}"]) for part in parts if part.warning]
    warnings += [join([link(f"#{part.name}", part.title), f": {part.notes[0]}"
                       + (f" (and {len(part.notes) - 1} more)" if len(part.notes) > 1 else "")])
                 for part in parts if part.notes]
    missing = say_missing([(title, again) for title, part, again in made if part is None])
    return (render(f"{competition.name}: report", describe(competition, command), tiles, warnings, parts, missing),
            [note for part in parts for note in part.notes])


def read_runs(competition: Competition, data_dir: Path, where: str, table: pd.DataFrame, folds: Folds,
              names: list[str] | None) -> tuple[ReportContext, list[str]]:
    """The leaderboard and the runs to show, and what there is to say of a leaderboard that cannot be read."""
    board, unread = None, []
    try:
        board = read_board(competition)
    except BROKEN as error:
        unread.append(str(error))
    oofs, failed = pick_runs(competition, table, folds.hash, board, names)
    return ReportContext(competition, data_dir, where, table, folds, board, oofs, failed, is_best=names is None), unread


def make_parts(shown: ReportContext) -> list[tuple[str, Part | None, str]]:
    """Title, part and command of all PARTS; None where what it shows has not been made."""
    made = []
    for title, make, script, flags in tqdm(PARTS, desc="report", unit="part", leave=False, disable=None):
        try:
            part = make(shown)
        except BROKEN as error:  # one damaged file must not hide all others
            part = Part(make.__name__.removesuffix("_part"), title, notes=[
                f"This part could not be made: {type(error).__name__}: {error}"])
        made.append((title, part, shown.command(script, flags)))
    return made


def describe(competition: Competition, command: str) -> Markup:
    """What the competition is, and how this page was made."""
    counted = f"{len(competition.labels)} labels" if len(competition.labels) > 1 else "one label"
    scored = f", of which {len(competition.scored_labels)} count" if competition.scored_labels else ""
    return join([
        paragraph(competition.about, style="about"),
        paragraph(f"A {competition.task} task with {counted}{scored}: {', '.join(competition.labels)}. ScoredRun by "
                  f"{METRICS[competition.metric].title}.", style="about"),
        commands(command)])


def summarise(shown: ReportContext) -> list[Tile]:
    """The figures that one wants first."""
    tiles, groups = [], shown.table["group"].nunique()
    if shown.oofs:
        best = next(iter(shown.oofs))
        cv, low, high = shown.scores[best]
        row = {} if shown.board is None else next(
            (row for row in shown.board.to_dict("records") if row["run"] == best), {})
        among = len(shown.ranked) if shown.is_best else len(shown.oofs)
        of = f"of {among} runs and blends" if among > 1 else "the only run" if shown.is_best else "as named"
        tiles += [Tile("best run" if shown.is_best else "best of those named" if among > 1 else "run", best, of),
                  Tile(f"CV {shown.metric}", number(cv), f"95 % interval {interval(low, high)}")]
        tiles += [Tile(usage, number(row[usage]), f"{shown.metric}, reported only")
                  for usage in ("public", "private", "test", "official_validation", "holdout") if row.get(usage)]
        single = next((name for name, oof in shown.oofs.items() if not oof.members), best)
        if single != best:
            tiles.append(Tile("best single run", single, f"{number(shown.scores[single][0])}, "
                              f"{interval(*shown.scores[single][1:])}"))
    tiles.append(Tile("training images", f"{len(shown.table):,}",
                      f"of {groups:,} groups, in {shown.folds.count} folds"))
    positives = (shown.targets == 1).sum(axis=0)
    rarest = int(positives.argmin())
    tiles.append(Tile("positives", f"{positives[0]:,}", shown.competition.labels[0]) if len(positives) == 1 else
                 Tile("rarest label", shown.competition.labels[rarest], f"{positives[rarest]:,} positives"))
    return tiles


def warn(shown: ReportContext) -> list[str]:
    """What to know before believing the figures."""
    warnings = []
    if not shown.oofs:
        warnings.append(f"No run has all its folds yet; run: {shown.command('train')}")
    failed = {name: [run.recipe["fold"] for run in runs if not run.result.get("learned", True)]
              for name, runs in shown.folds_of.items()}
    warnings += [f"{name} did not learn in the folds {', '.join(map(str, folds))}" for name, folds in failed.items()
                 if folds]
    among = len(shown.ranked) if shown.is_best else len(shown.oofs)
    if among > 1 and shown.oofs:
        warnings.append(f"The best of {among} is chosen by the very score that it is shown with, which is "
                        "a little too good by that; test scores are reported and choose nothing.")
    return warnings


def say_missing(missing: list[tuple[str, str]]) -> Markup:
    """Parts that are not there, each with its command."""
    if not missing:
        return Markup("")
    rows = [[title, commands(command)] for title, command in missing]
    return join([Markup('<section id="missing" class="rest"><h2>Not made yet</h2>'),
                 make_table(["part", "command"], rows), Markup("</section>")])


if __name__ == "__main__":
    run_script(main)
