"""Write one HTML page about a competition:  python src/report.py --competition demo

Collects the results of the other scripts in runs/<competition>/report.html: data, folds, leaderboard, curves,
confusion, calibration, thresholds, ensembles, explanations, shortcuts, similar images, anomalies, forecast,
submissions. The page is a single file and needs no network. A section appears if its results exist; a table lists the
missing ones with their commands, and a note marks results that are damaged or out of date. Curves are drawn for the
named runs, else for the best.
"""

import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from commandline import add_experiment, load_workspace, make_parser, run_names, run_script
from common.console import interval, number
from common.files import home, write_text
from competition import Competition
from reporting.context import BROKEN, ReportContext, pick_runs
from reporting.data_sections import audit_section, folds_section
from reporting.html import Markup, Section, SummaryTile, commands, join, link, paragraph, render, table
from reporting.image_sections import anomalies_section, errors_section, explain_section, map_section, shortcuts_section
from reporting.run_sections import board_section, gains_section, learning_section, read_board
from reporting.score_sections import calibration_section, confusion_section, curves_section, thresholds_section
from reporting.submission_sections import forecast_section, submissions_section
from results.evaluation import REPORTED_SCORES
from results.workspace import Workspace
from scoring.metrics import METRICS

# title, function, script and flags that create its results; in the order of the page
SECTIONS: tuple[tuple[str, Callable[[ReportContext], Section | None], str, str], ...] = (
    ("Folds", folds_section, "make_folds", ""),
    ("Leaderboard", board_section, "leaderboard", ""),
    ("Learning curves", learning_section, "train", ""),
    ("ROC and precision-recall curves", curves_section, "train", ""),
    ("Confusion matrices", confusion_section, "train", ""),
    ("Calibration", calibration_section, "train", ""),
    ("Thresholds", thresholds_section, "decide", ""),
    ("Ensemble gains", gains_section, "blend", ""),
    ("Explanations", explain_section, "explain", ""),
    ("Shortcut signals", shortcuts_section, "find_shortcuts", ""),
    ("Similar images", map_section, "show_neighbours", ""),
    ("Possible label errors", errors_section, "find_label_errors", ""),
    ("Anomalies", anomalies_section, "find_anomalies", ""),
    ("Shake-up forecast", forecast_section, "leaderboard", "--forecast"),
    ("Submissions", submissions_section, "predict", ""),
)


def main(argv: list[str] | None = None) -> Path:
    """Writes the page; returns its path."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="the best ones")
    args = parser.parse_args(argv)
    workspace = load_workspace(args, with_folds=False)
    text, notes = make_report(workspace, args)
    path = write_text(home() / "runs" / workspace.competition.name / "report.html", text)
    for note in notes:
        print(f"note: {note}")
    print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def make_report(workspace: Workspace, args: Namespace) -> tuple[str, list[str]]:
    """The page as HTML, and its notes on files that are damaged, missing or out of date.

    Raises ValueError if a named run does not exist, and the errors of reading the labels.
    """
    competition = workspace.competition
    where = f"--competition {competition.name}" + (
        f" --data-dir {shlex.quote(str(args.data_dir))}" if args.data_dir else "")
    names = run_names(args) if args.experiment else None
    command = f"python src/report.py {where}" + (f" --experiment {' '.join(names)}" if names else "")
    made = [("Data audit", audit_section(competition, f"python src/audit.py {where}"), f"python src/audit.py {where}")]
    tiles, warnings = [], []
    try:
        workspace.table  # noqa: B018 - read here to catch its errors
    except (ValueError, OSError) as error:
        workspace.train  # noqa: B018 - without labels there is nothing to report: raise
        warnings.append(f"Nothing about runs can be shown: {error}")
    else:
        shown, unread = read_runs(workspace, where, names)
        made += make_sections(shown)
        next(section for title, section, _ in made if title == "Leaderboard").notes += unread
        tiles, warnings = summarise(shown), warn(shown)
    parts = [section for _, section, _ in made if section]
    warnings += [join([link(f"#{section.name}", section.title),
                       f": {section.warning}"]) for section in parts if section.warning]
    warnings += [join([link(f"#{section.name}", section.title), f": {section.notes[0]}"
                       + (f" (and {len(section.notes) - 1} more)" if len(section.notes) > 1 else "")])
                 for section in parts if section.notes]
    missing = missing_table([(title, command) for title, section, command in made if section is None])
    return (render(f"{competition.name}: report", describe(competition, command), tiles, warnings, parts, missing),
            [note for section in parts for note in section.notes])


def read_runs(workspace: Workspace, where: str, names: list[str] | None) -> tuple[ReportContext, list[str]]:
    """The leaderboard and the runs to show, and notes on a leaderboard that cannot be read."""
    board, unread = None, []
    try:
        board = read_board(workspace.competition)
    except BROKEN as error:
        unread.append(str(error))
    oofs, failed = pick_runs(workspace, board, names)
    return ReportContext(workspace, where, board, oofs, failed, is_best=names is None), unread


def make_sections(context: ReportContext) -> list[tuple[str, Section | None, str]]:
    """Title, section and command of all SECTIONS; the section is None if its results do not exist."""
    made = []
    for title, make, script, flags in tqdm(SECTIONS, desc="report", unit="part", leave=False, disable=None):
        try:
            section = make(context)
        except BROKEN as error:  # one damaged file must not hide all others
            section = Section(make.__name__.removesuffix("_section"), title, notes=[
                f"This section could not be created: {type(error).__name__}: {error}"])
        made.append((title, section, context.command(script, flags)))
    return made


def describe(competition: Competition, command: str) -> Markup:
    """The competition's description, and the command that creates the page."""
    counted = f"{len(competition.labels)} labels" if len(competition.labels) > 1 else "one label"
    scored = f", of which {len(competition.scored_labels)} are scored" if competition.scored_labels else ""
    return join([
        paragraph(competition.about, style="about"),
        paragraph(f"A {competition.task} task with {counted}{scored}: {', '.join(competition.labels)}. Scored by "
                  f"{METRICS[competition.metric].title}.", style="about"),
        commands(command)])


def summarise(context: ReportContext) -> list[SummaryTile]:
    """The most important figures, for the top of the page."""
    tiles, groups = [], context.table["group"].nunique()
    if context.oofs:
        best = next(iter(context.oofs))
        cv, low, high = context.scores[best]
        row = {} if context.board is None else next(
            (row for row in context.board.to_dict("records") if row["run"] == best), {})
        among = len(context.ranked) if context.is_best else len(context.oofs)
        of = f"of {among} runs and blends" if among > 1 else "the only run" if context.is_best else "as named"
        tiles += [SummaryTile("best run" if context.is_best else "best of those named" if among > 1 else "run", best,
                              of),
                  SummaryTile(f"CV {context.metric}", number(cv), f"95 % interval {interval(low, high)}")]
        tiles += [SummaryTile(usage, number(row[usage]), f"{context.metric}, reported only")
                  for usage in REPORTED_SCORES if row.get(usage)]
        single = next((name for name, oof in context.oofs.items() if not oof.members), best)
        if single != best:
            tiles.append(SummaryTile("best single run", single, f"{number(context.scores[single][0])}, "
                                     f"{interval(*context.scores[single][1:])}"))
    tiles.append(SummaryTile("training images", f"{len(context.table):,}",
                             f"of {groups:,} groups, in {context.folds.count} folds"))
    positives = (context.targets == 1).sum(axis=0)
    rarest = int(positives.argmin())
    tiles.append(SummaryTile("positives", f"{positives[0]:,}",
                             context.competition.labels[0]) if len(positives) == 1 else
                 SummaryTile("rarest label", context.competition.labels[rarest], f"{positives[rarest]:,} positives"))
    return tiles


def warn(context: ReportContext) -> list[str]:
    """Warnings about the figures, for the top of the page."""
    warnings = []
    if not context.oofs:
        warnings.append(f"No run has all its folds yet; run: {context.command('train')}")
    failed = {name: [run.recipe["fold"] for run in runs if not run.result.get("learned", True)]
              for name, runs in context.folds_of.items()}
    warnings += [f"{name} did not beat constant predictions in the folds {', '.join(map(str, folds))}"
                 for name, folds in failed.items() if folds]
    among = len(context.ranked) if context.is_best else len(context.oofs)
    if among > 1 and context.oofs:
        warnings.append(f"The best of {among} runs is selected by the score shown, which is therefore slightly "
                        "optimistic; test scores are only reported.")
    return warnings


def missing_table(missing: list[tuple[str, str]]) -> Markup | str:
    """The missing sections, each with the command that creates it; "" if there is none."""
    return table(["section", "command"], [[title, commands(command)] for title, command in missing]) if missing else ""


if __name__ == "__main__":
    run_script(main)
