"""The input of a report: a competition, its runs sorted by score, and which of them are shown."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.console import number
from common.files import home, read_csv
from competition import Competition
from data.folds import Folds
from reporting.html import COLOURS, Markup, ReportFigure, Section, check_picture, code, paragraph
from results.adopted_rules import metric_values
from results.evaluation import cross_validated
from results.runs import Oof, Run, run_folder
from results.workspace import Workspace
from scoring.metrics import METRICS

SAME = 1e-5      # tolerance between a score and its copy in a CSV, which has six digits
SHA_SHOWN = 12   # digits
BEST = 3         # number of runs shown if none is named
# errors of reading a truncated file, or a file of another program or version
BROKEN = (ValueError, OSError, KeyError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True)
class ReportContext:
    """The input of all sections of a report.

    board: leaderboard.csv as text, None if there is none;  oofs: the complete runs and blends shown, best first;
    failed: the reason for each run that cannot be shown;  is_best: the runs are the best ones, not named by the user.
    """

    workspace: Workspace
    where: str  # the flags that name competition and data folder, for the commands
    board: pd.DataFrame | None
    oofs: dict[str, Oof] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    is_best: bool = True

    @property
    def competition(self) -> Competition:
        """The competition that the report is about."""
        return self.workspace.competition

    @property
    def table(self) -> pd.DataFrame:
        """The training table."""
        return self.workspace.table

    @property
    def folds(self) -> Folds:
        """The checked folds file."""
        return self.workspace.folds

    @property
    def targets(self) -> np.ndarray:
        """(N, K) 0, 1, or NaN where a cell is uncertain or empty; all labels."""
        return self.workspace.label_targets

    @property
    def groups(self) -> np.ndarray:
        """(N,) str, the group of every training image."""
        return self.workspace.groups

    @cached_property
    def scores(self) -> dict[str, tuple[float, float, float]]:
        """The competition's metric of every run shown, cross-validated, and its 95 % interval over groups."""
        return {name: cross_validated(self.workspace, oof) for name, oof in self.oofs.items()}

    @property
    def metric(self) -> str:
        """The metric's title."""
        return METRICS[self.competition.metric].title

    @property
    def colours(self) -> dict[str, str]:
        """The colour class of each run shown, the same in all sections; only as many runs as there are colours."""
        return dict(zip(self.oofs, COLOURS, strict=False))

    @cached_property
    def folds_of(self) -> dict[str, tuple[Run, ...]]:
        """The folds of every run shown and of every member of a blend shown, without the blends themselves."""
        found = {}
        for name, oof in self.oofs.items():
            for member in oof.members or (name,):
                found.setdefault(member, tuple(run for run in oof.runs if run.folder.parent.name == member))
        return found

    def folder(self, name: str = "") -> Path:
        """runs/<competition>/<name>."""
        return run_folder(self.competition, name)

    def command(self, script: str, more: str = "") -> str:
        """A command of one of the scripts for this competition."""
        return f"python src/{script}.py {self.where} {more}".rstrip()

    def commands_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The commands that create runs or blends, and the one that creates this page from them."""
        commands = []
        for name in names:
            oof = self.oofs.get(name)
            if oof and oof.members:
                given = f"--experiment {' '.join(map(shlex.quote, oof.members))}"
                stem = name.removesuffix(f"_{oof.kind}")
                commands.append(self.command("blend", given + ("" if stem == "blend" else f" --name {stem}")
                                             + ("" if oof.kind in ("mean", "rank_mean") else f" --method {oof.kind}")))
            else:
                known = [run.recipe.get("command", "") for run in self.folds_of[name]][:1]
                commands.append("".join(known) or self.command("train", f"--experiment {shlex.quote(name)}"))
        return (*dict.fromkeys(commands), self.command("report", f"--experiment {' '.join(map(shlex.quote, names))}"))

    def runs_with(self, pattern: str) -> tuple[list[str], list[str]]:
        """Runs that have a file of this pattern, as two lists: those to show, and the others.

        Shown are the report's runs and their members; if none of them has the file, the best run that has it.
        """
        have = [name for name in self.ranked if any(self.folder(name).glob(pattern))]
        mine = [name for name in (*self.oofs, *self.folds_of) if name in have]
        shown = list(dict.fromkeys(mine))[:BEST] or have[:1]
        return shown, [name for name in have if name not in shown]

    @cached_property
    def ranked(self) -> list[str]:
        """All runs and blends on disk in the order of the leaderboard; those not on it come last."""
        return rank_names(self.workspace, self.board)


def rank_names(workspace: Workspace, board: pd.DataFrame | None) -> list[str]:
    """All runs and blends on disk in the order of the leaderboard; those not on it come last."""
    runs = workspace.runs
    known = [] if board is None else [name for name in board["run"] if name in runs]
    return list(dict.fromkeys([*known, *runs]))


def pick_runs(workspace: Workspace, board: pd.DataFrame | None,
              names: Sequence[str] | None) -> tuple[dict[str, Oof], dict[str, str]]:
    """The complete runs and blends to show, best first, and the reason for each one that is not shown.

    names: None for the BEST by the leaderboard or, without one, by their scores. At least one of these is a single run,
    not a blend, if there is one.
    Raises ValueError if a name is unknown.
    """
    competition = workspace.competition
    ranked, oofs, scores, failed = rank_names(workspace, board), {}, {}, {}
    targets, metric = workspace.targets, METRICS[competition.metric]
    if names and (unknown := [name for name in names if name not in (*ranked, *competition.experiments)]):
        raise ValueError(f"there is no run {unknown[0]!r} in {run_folder(competition, '')}; there are "
                         f"{', '.join(ranked) or 'none yet'}")
    is_ordered = board is not None and set(ranked) <= set(board["run"])
    for name in names or ranked:
        if not names and is_ordered and len(oofs) >= BEST and any(not oof.members for oof in oofs.values()):
            break
        if name not in ranked:
            failed[name] = "it is not trained yet"
            continue
        try:
            oof = workspace.oof(name)
            if not oof.is_whole:
                failed[name] = f"lacks the folds {', '.join(map(str, oof.folds_missing))}"
                continue
            values = metric_values(workspace, oof)
            score = metric.score(targets, values, competition.task)
            if np.isnan(score):
                failed[name] = "has no score: one class only"
            elif oof.made_of:  # reads every result.json here, so that a damaged one is noted once
                oofs[name], scores[name] = oof, score
        except BROKEN as error:
            failed[name] = str(error) if isinstance(error, (ValueError, OSError)) else (
                f"one of its files has an unexpected format ({type(error).__name__} {error})")
    ordered = sorted(oofs, key=scores.get, reverse=metric.greater_is_better)
    if not names:
        best = ordered[:BEST]
        if best and all(oofs[name].members for name in best):
            best = best[:BEST - 1] + [name for name in ordered if not oofs[name].members][:1]
        ordered = best
    return {name: oofs[name] for name in ordered}, failed


@contextmanager
def note_errors(section: Section, path: Path, command: str = "") -> Iterator[None]:
    """Turns an error on reading `path` into a note of the section. command: creates the file anew."""
    try:
        yield
    except BROKEN as error:
        message = str(error) if isinstance(error, (ValueError, OSError)) else (
            f"the file has an unexpected format: {type(error).__name__} {error}")
        shown = path.relative_to(home()) if path.is_relative_to(home()) else path
        named = message if path.name in message else f"{shown}: {message}"
        section.notes.append(named + (f". To recreate it: {command}" if command and command not in named else ""))


def read_rows(path: Path, columns: Sequence[str], may_be_empty: bool = False) -> list[dict]:
    """The rows of a CSV, cells as text.

    Raises ValueError if a column is missing, there is no row, or the last line has no end.
    """
    frame = read_csv(path)
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError(f"{path} ends within a line; the file is truncated")
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"{path} has no column {missing[0]!r}; the file is truncated or has another format")
    if frame.empty and not may_be_empty:
        raise ValueError(f"{path} has no row; the file is truncated")
    return frame.to_dict("records")


def add_picture(section: Section, path: Path, caption: str, command: str) -> None:
    """Adds a PNG to a section; a missing or damaged file becomes a note."""
    with note_errors(section, path, command):
        section.blocks.append(ReportFigure(check_picture(path), caption, (command,)))


def compact(value: float | str | None) -> str:
    """A large count in thousands or millions."""
    if number(value) == "-":
        return "-"
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if float(value) >= unit:
            return f"{float(value) / unit:.3g}{name}"
    return f"{float(value):.0f}"


def other_runs(names: Sequence[str], context: ReportContext) -> list[Markup]:
    """A paragraph that names further runs with the same results, which are not shown."""
    if not names:
        return []
    command = context.command("report", f"--experiment {' '.join(map(shlex.quote, names[:BEST]))}")
    return [paragraph(f"Also available for {', '.join(names)}: ", code(command), style="lead")]
