"""Everything the scripts load for a competition: table, folds, parts, pixel stores and runs, each read at most once."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import read_json
from competition import Competition
from data.folds import HELD_OUT, Folds, attach_folds, read_folds, split_column
from data.labels import scoring_targets
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import headline_targets, label_cells, read_part, read_sample, read_solution, read_train
from experiment import Experiment
from results.runs import Oof, decisions_path, list_runs, read_oof


@dataclass(frozen=True, eq=False)
class Workspace:
    """A competition with its data folder. Attributes are read on first use and then kept.

    A later change of a file has no effect: a script creates one workspace and passes it to everything. Pickling keeps
    what was read, so that a training process reads nothing a second time.
    Every attribute and method raises FileNotFoundError or ValueError if its file is missing or damaged.
    """

    competition: Competition
    data_dir: Path
    _parts: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)
    _oofs: dict[str, Oof] = field(default_factory=dict, init=False, repr=False)
    _decisions: dict[str, dict] = field(default_factory=dict, init=False, repr=False)

    # ---- data

    @cached_property
    def train(self) -> pd.DataFrame:
        """The training table without the rows whose group is also in another part."""
        return read_train(self.competition, self.data_dir)[0]

    @cached_property
    def folds(self) -> Folds:
        """The checked folds file."""
        return read_folds(self.competition)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The training table with folds, joined groups and `constant`, without the holdout."""
        return self._rows(is_held_out=False)

    @cached_property
    def holdout(self) -> pd.DataFrame | None:
        """The held-out rows of the training table, without the columns of folds; None if nothing is held out."""
        if not self.folds.held_out:
            return None
        return self._rows(is_held_out=True).drop(columns=[split_column(split) for split in range(self.folds.splits)])

    @cached_property
    def cells(self) -> np.ndarray:
        """(N, K) label cells of `table`: 1, 0, -1 (uncertain), NaN (empty)."""
        return _read_only(label_cells(self.competition, self.table))

    @cached_property
    def label_targets(self) -> np.ndarray:
        """(N, K) 1 and 0, NaN for uncertain and empty cells; all labels."""
        return _read_only(scoring_targets(self.cells))

    @cached_property
    def targets(self) -> np.ndarray:
        """(N, K) `label_targets` with NaN for the labels that the competition does not score."""
        return _read_only(headline_targets(self.competition, self.label_targets))

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) str, the group of every row of `table`."""
        return self.table["group"].to_numpy(str)

    def part(self, name: str) -> pd.DataFrame:
        """The table of "test", "official_validation" or "holdout". Raises ValueError if there is no such part."""
        if name not in self._parts:
            table = self.holdout if name == "holdout" else read_part(self.competition, self.data_dir, name)
            if table is None:
                raise ValueError(f"competition {self.competition.name!r} has no {name} part")
            self._parts[name] = table
        return self._parts[name]

    @cached_property
    def predicted_parts(self) -> dict[str, pd.DataFrame]:
        """The tables that a run predicts besides its folds: "test", "official_validation" and "holdout", if present."""
        names = [name for name in ("test", "official_validation") if getattr(self.competition, name)]
        return {name: self.part(name) for name in (*names, *(["holdout"] if self.folds.held_out else []))}

    @cached_property
    def reported_parts(self) -> dict[str, pd.DataFrame]:
        """The labelled parts that are only reported: "official_validation" and "holdout", if present."""
        validation = self.competition.official_validation
        names = ["official_validation"] if validation and validation.labelled else []
        return {name: self.part(name) for name in (*names, *(["holdout"] if self.folds.held_out else []))}

    @cached_property
    def solution(self) -> pd.DataFrame | None:
        """The labels of the submitted part with their `usage`; None if they are not known."""
        return read_solution(self.competition, self.data_dir)

    @property
    def test_solution(self) -> pd.DataFrame | None:
        """The labels of the test part with their `usage`; None if they are not known or there is no test part."""
        return self.solution if self.competition.test else None

    @cached_property
    def sample(self) -> pd.DataFrame | None:
        """The sample submission as text; None if there is none."""
        return read_sample(self.competition, self.data_dir)

    def store(self, part: str, experiment: Experiment, unreadable: str = "error") -> PixelStore:
        """The pixel store of "train", "test", ... for an experiment, built if it is missing."""
        images = self.table if part == "train" else self.part(part)
        return open_store(f"{self.competition.name}-{part}", images, pixel_settings(self.competition, experiment),
                          unreadable=unreadable)

    # ---- runs

    @property
    def runs(self) -> list[str]:
        """Names of all runs and blends on the disk, finished or not."""
        return list_runs(self.competition)

    def oof(self, name: str) -> Oof:
        """The out-of-fold predictions of a run or a blend. Raises ValueError if they are from other folds."""
        if name not in self._oofs:
            self._oofs[name] = read_oof(self.competition, name, self.table, self.folds.hash, self.oof)
        return self._oofs[name]

    def decisions(self, name: str) -> dict:
        """decisions.json of a run or a blend, as decide.py wrote it; {} if there is none."""
        if name not in self._decisions:
            path = decisions_path(self.competition, name)
            self._decisions[name] = read_json(path) if path.exists() else {}
        return self._decisions[name]

    @cached_property
    def _all_rows(self) -> pd.DataFrame:
        return attach_folds(self.competition, self.train, self.folds)

    def _rows(self, is_held_out: bool) -> pd.DataFrame:
        rows = self._all_rows
        return rows[(rows["fold"] == HELD_OUT) == is_held_out].reset_index(drop=True)


def _read_only(array: np.ndarray) -> np.ndarray:
    """Makes the array read-only, because all callers share it; returns it."""
    array.setflags(write=False)
    return array
