"""The flags, the same in every script, and what they name: competition, data folder, experiments, folds."""

import argparse
import difflib
from pathlib import Path

import pandas as pd

from common.files import home
from competition import COMPETITIONS, Competition
from data.folds import Folds, add_folds, folds_path, make_folds, read_folds
from data.pixel_store import open_store, pixel_settings
from data.tables import read_train
from experiment import EXPERIMENTS, Experiment
from results.workspace import Workspace


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with --competition and --data-dir; `description` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--competition", default="demo", choices=COMPETITIONS, help="default: demo")
    parser.add_argument("--data-dir", type=Path, help="the competition's files; default: data/COMPETITION")
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Adds --experiment, one run or several."""
    parser.add_argument("--experiment", default=["cnn_e"], nargs="+", metavar="NAME",
                        help="one run or several; all: the competition's own list; default: cnn_e; "
                             f"known: {', '.join(EXPERIMENTS)}")


def run_names(args: argparse.Namespace) -> list[str]:
    """The runs asked for, each once."""
    names = COMPETITIONS[args.competition].experiments if args.experiment == ["all"] else args.experiment
    return list(dict.fromkeys(names))


def add_fold(parser: argparse.ArgumentParser) -> None:
    """Adds --fold, one or several."""
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="these folds only, from 0; default: all")


def data_folder(args: argparse.Namespace) -> Path:
    """The folder given with --data-dir, or data/<competition>."""
    return args.data_dir or home() / "data" / args.competition


def pick_folds(wanted: list[int] | None, count: int) -> list[int]:
    """The folds asked for. Raises ValueError where one does not exist."""
    if wanted is None:
        return list(range(count))
    if strange := [fold for fold in wanted if not 0 <= fold < count]:
        raise ValueError(f"there is no fold {strange[0]}; the folds file has 0 to {count - 1}")
    return sorted(set(wanted))


def pick_experiment(name: str) -> Experiment:
    """The named experiment. Raises ValueError with the nearest names where there is none."""
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=3) or list(EXPERIMENTS)
        raise ValueError(f"no experiment {name!r}; did you mean {', '.join(near)}? "
                         "New ones are a line in experiment.py")
    return EXPERIMENTS[name]


def load_competition(args: argparse.Namespace) -> tuple[Competition, Path]:
    """The competition and its data folder. The demo's images are drawn if they are missing."""
    competition, data_dir = COMPETITIONS[args.competition], data_folder(args)
    if competition.name == "demo" and args.data_dir is None and not (data_dir / "demo.json").exists():
        from data.demo import DemoSettings, make_demo

        print(f"the demo's images are missing: drawing them into {data_dir}")
        make_demo(data_dir, DemoSettings())
    return competition, data_dir


def load_workspace(args: argparse.Namespace, with_folds: bool = True) -> Workspace:
    """The competition with all that is read of it. The demo's images and folds are made if they are missing.

    with_folds: False for scripts that need no folds file.
    """
    workspace = Workspace(*load_competition(args))
    if with_folds and workspace.competition.name == "demo" and not folds_path(workspace.competition).exists():
        settings = pixel_settings(workspace.competition, pick_experiment(workspace.competition.experiments[0]))
        make_folds(workspace.competition, workspace.train, open_store("demo-train", workspace.train, settings),
                   n_folds=5, seed=0)
    return workspace


def load_folded_table(competition: Competition, data_dir: Path) -> tuple[pd.DataFrame, Folds]:
    """The training table with folds and joined groups, and the folds. The demo's folds are made if they are missing."""
    table, _ = read_train(competition, data_dir)
    if competition.name == "demo" and not folds_path(competition).exists():
        settings = pixel_settings(competition, pick_experiment(competition.experiments[0]))
        store = open_store("demo-train", table, settings)
        make_folds(competition, table, store, n_folds=5, seed=0)
    folds = read_folds(competition)
    return add_folds(competition, table, folds), folds
