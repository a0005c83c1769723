"""The flags that all scripts share, what they name, and how a script ends."""

import argparse
import difflib
import dis
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.commands import GIVEN_DATA_DIRS, command_line
from common.files import home, sha256
from common.hardware import tune_process
from common.settings import override
from competition import COMPETITIONS, Competition
from data.folds import folds_path, make_folds
from data.pixel_store import open_store, pixel_settings
from experiment import EXPERIMENTS, Experiment
from results.runs import list_runs, run_folder
from results.workspace import Workspace
from scoring.metrics import METRICS

LONGEST_NAME = 80  # characters of a run's name, which is a folder's and part of a file's
MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130  # exit codes; argparse's own for a wrong flag is 2 too


def run_script(main: Callable[[], Any]) -> NoReturn:
    """Runs a script's `main` and exits: 0, 2 for a user's mistake, 1 for what failed on the way, 130 for Ctrl-C.

    Mistakes and failures are one line on stderr, "error: ...". Any other exception is a bug and keeps its traceback;
    --traceback, or the environment variable STARTER_TRACEBACK, shows that of a mistake too.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues or starts anew", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        code = exit_code(error)
        if code is None or "--traceback" in sys.argv or os.environ.get("STARTER_TRACEBACK"):
            raise
        text = str(error) or type(error).__name__
        if code == MISTAKE:  # a failure may quote what another program printed
            text = " ".join(line.strip() for line in text.splitlines())
        print(f"error: {text}", file=sys.stderr)
        sys.exit(code)
    sys.exit(0)


def exit_code(error: BaseException) -> int | None:
    """2 for a user's mistake, 1 for what failed on the way, None for a bug.

    Our checks raise ValueError or FileNotFoundError for a mistake and RuntimeError or OSError for a failure. The same
    types out of a library, or out of our code by anything but a `raise`, are bugs; but an OSError is always the
    machine's, whoever meets it, and the wrong path that caused it the user's.
    """
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return MISTAKE
    if isinstance(error, (OSError, MemoryError)):
        return FAILURE
    if not getattr(error, "is_deliberate", is_deliberate(error)):
        return None
    return MISTAKE if isinstance(error, ValueError) else FAILURE


def is_deliberate(error: BaseException) -> bool:
    """Whether a `raise` statement in src raised the exception, and no library and no operation that failed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    is_ours = Path(__file__).resolve().parent in Path(code.co_filename).resolve().parents
    return is_ours and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


class _Print(argparse.Action):
    """A flag that prints a text and exits, as --help does.  text: makes it."""

    def __init__(self, option_strings: Sequence[str], dest: str, text: Callable[[], str], **more: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **more)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(self.text())
        parser.exit()


def list_names() -> str:
    """The competitions, experiments and metrics that flags can name, as text."""
    rows = [f"  {competition.name:<24} {competition.task}, {len(competition.labels)} labels, {competition.metric}"
            for competition in COMPETITIONS.values()]
    experiments = [f"  {name:<24} {each.network}, {each.image_size} px" for name, each in EXPERIMENTS.items()]
    return "\n".join(["competitions (competition.py)", *rows, "experiments (experiment.py)", *experiments,
                      "metrics (scoring/metrics.py)", f"  {', '.join(METRICS)}",
                      "networks: python src/show_networks.py"])


def list_fields() -> str:
    """A table, 80 columns wide, of an experiment's fields: default, meaning, and the values that registries allow."""
    tune_process()  # before torch, which the registries import
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from training.recipe_checks import describe_fields

    table = Table("field", "default", "meaning and values", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for field in describe_fields():
        values = "\n" + " | ".join(field.values) if field.values else ""
        table.add_row(field.name, Text(field.default), Text(field.meaning + values))
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def make_parser(description: str, competition: bool = True) -> argparse.ArgumentParser:
    """A parser with --competition, --data-dir, --list and --traceback; `description` is the script's docstring.

    competition: False leaves out the first two.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    if competition:
        parser.add_argument("--competition", default="demo", metavar="NAME", help="default: demo")
        parser.add_argument("--data-dir", type=Path, metavar="DIR",
                            help="the competition's files; default: data/COMPETITION")
    parser.add_argument("--list", action=_Print, text=list_names,
                        help="list all competitions, experiments and metrics, and exit")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    return parser


def add_experiment(parser: argparse.ArgumentParser, default: str = "the competition's own list") -> None:
    """Adds --experiment, one run or several.  default: what the help says that it is."""
    parser.add_argument("--experiment", nargs="+", metavar="NAME", help=f"one or several; default: {default}")


def add_fold(parser: argparse.ArgumentParser) -> None:
    """Adds --fold, one or several."""
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="these folds only, from 0; default: all")


def run_names(args: argparse.Namespace) -> list[str]:
    """The experiments named with --experiment, each once; without it, the competition's own list."""
    return list(dict.fromkeys(args.experiment or pick_competition(args.competition).experiments))


def trained_names(args: argparse.Namespace, all_folds: int = 0) -> list[str]:
    """The runs named with --experiment; without it, those of the competition's own list that have a finished fold.

    all_folds: that many folds must be finished.  Raises FileNotFoundError if no experiment of the list is trained.
    """
    competition, names = pick_competition(args.competition), run_names(args)
    if args.experiment:
        return names

    def is_trained(name: str) -> bool:
        return len(list(run_folder(competition, name).glob("fold*/result.json"))) >= max(all_folds, 1)

    if trained := [name for name in names if is_trained(name)]:
        return trained
    lacking = f"all {all_folds} folds" if all_folds else "a fold"
    others = [name for name in list_runs(competition) if is_trained(name)]
    hint = f"name another run with --experiment: {', '.join(others)}; or " if others else ""
    raise FileNotFoundError(f"no experiment of {competition.name!r} has {lacking} trained yet ({', '.join(names)}); "
                            f"{hint}run: {command_line('train', competition)}")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds --set and --name, for recipes that are not in experiment.py."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
                        help="change fields of the experiment: lr=3e-4 epochs=8")
    parser.add_argument("--fields", action=_Print, text=list_fields,
                        help="list all fields with their defaults, and exit")
    parser.add_argument("--name", help="of the run; default: the experiment's, with what --set changes")


def run_name(experiment: str, assignments: Sequence[str]) -> str:
    """The name of a run whose fields were changed: ("lite0", ["lr=3e-4"]) -> "lite0_lr=3e-4".

    The order of the assignments does not matter, and a long name ends in a hash.
    """
    changes = dict(assignment.partition("=")[::2] for assignment in assignments)
    words = [re.sub(r"[^A-Za-z0-9.+=]+", "-", f"{field}={value}") for field, value in sorted(changes.items())]
    name = "_".join([experiment, *words])
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME - 9]}_{sha256(*sorted(assignments))[:8]}"


def named_experiments(args: argparse.Namespace) -> dict[str, Experiment]:
    """The experiments to train by the name of their run, with --set applied. Raises ValueError for a wrong field."""
    names = run_names(args)
    experiments = [override(pick_experiment(name), args.set) for name in names]
    if args.name and len(names) > 1:
        raise ValueError(f"--name {args.name} names one run, but there are {len(names)} experiments; name one with "
                         "--experiment")
    return {args.name or run_name(name, args.set): experiment
            for name, experiment in zip(names, experiments, strict=True)}


def data_folder(args: argparse.Namespace) -> Path:
    """The folder given with --data-dir, or data/<competition>."""
    return args.data_dir or home() / "data" / args.competition


def pick_folds(wanted: list[int] | None, count: int) -> list[int]:
    """The folds asked for, sorted. Raises ValueError if one does not exist."""
    if wanted is None:
        return list(range(count))
    if strange := [fold for fold in wanted if not 0 <= fold < count]:
        raise ValueError(f"there is no fold {strange[0]}; the folds file has 0 to {count - 1}")
    return sorted(set(wanted))


def pick_competition(name: str) -> Competition:
    """The named competition. Raises ValueError with the nearest names if there is none."""
    return _pick("competition", name, COMPETITIONS)


def pick_experiment(name: str) -> Experiment:
    """The named experiment. Raises ValueError with the nearest names if there is none."""
    return _pick("experiment", name, EXPERIMENTS)


def _pick(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "--list shows all."
        raise ValueError(f"no {kind} {name!r}; {hint} New ones are a line in {kind}.py")
    return known[name]


def load_workspace(args: argparse.Namespace, with_folds: bool = True) -> Workspace:
    """The competition with all that is read of it. The demo's images and folds are made if they are missing.

    with_folds: False reads nothing yet and makes no folds, for scripts that need none.
    Raises FileNotFoundError or ValueError where the data folder, the training table or the folds cannot be read.
    """
    workspace = Workspace(pick_competition(args.competition), data_folder(args))
    name = workspace.competition.name
    GIVEN_DATA_DIRS.pop(name, None)
    if args.data_dir is not None:
        GIVEN_DATA_DIRS[name] = args.data_dir
    if name == "demo":
        _complete_demo(workspace, args.data_dir is None, with_folds)
    if not workspace.data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {workspace.data_dir}; name the folder of {name!r} with --data-dir")
    if with_folds:
        workspace.table  # noqa: B018 - read now, so that a wrong label file or folds file is the first error
    return workspace


def _complete_demo(workspace: Workspace, draw_images: bool, with_folds: bool) -> None:
    """Draws the demo's images and makes its folds where they are missing."""
    competition = workspace.competition
    if draw_images and not (workspace.data_dir / "demo.json").exists():
        from data.demo import DemoSettings, make_demo

        print(f"the demo's images are missing: drawing them into {workspace.data_dir}")
        make_demo(workspace.data_dir, DemoSettings())
    if with_folds and not folds_path(competition).exists():
        settings = pixel_settings(competition, pick_experiment(competition.experiments[0]))
        store = open_store("demo-train", workspace.train, settings)
        make_folds(competition, workspace.train, store, n_folds=5, seed=0)
