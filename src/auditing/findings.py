"""What the audit's checks work on and collect: the images of a part, findings, and the report that holds them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from common.files import write_csv
from competition import Competition
from data.image_scan import Scan

EXAMPLES = 5  # ids named with a finding; the CSV files beside audit.json hold all of them
LOW_CONTRAST = 2  # standard deviation of grey values, 0 to 255, below which an image shows almost nothing


@dataclass(frozen=True)
class Finding:
    """One problem or property of the data: what was found and where, what to do about it, and a few image ids."""

    severity: Literal["error", "warning", "note"]
    what: str
    todo: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartData:
    """One part of a competition: its table, its other columns (rows in the same order), and its image scan."""

    name: str
    table: pd.DataFrame
    columns: pd.DataFrame
    scan: Scan
    groups: np.ndarray  # (N,) str; equal names mean one patient in all parts

    @property
    def title(self) -> str:
        """The name as it is written in sentences: "official validation"."""
        return self.name.replace("_", " ")

    @property
    def patients(self) -> int | None:
        """The number of patients; None where the competition does not say which images belong to one patient."""
        known = (self.table["group"] != self.table["image_id"]).any()
        return len(np.unique(self.groups)) if known else None


@dataclass
class Report:
    """Collects findings, plots and tables; `summary` becomes audit.json."""

    competition: Competition
    folder: Path  # plots and tables are written here
    findings: list[Finding] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    plots: list[str] = field(default_factory=list)

    def add(self, severity: str, what: str, todo: str = "", examples: Iterable = ()) -> None:
        """Adds a finding with its first examples."""
        self.findings.append(Finding(severity, what, todo, tuple(map(str, list(examples)[:EXAMPLES]))))

    def plot(self, name: str, draw: Callable, *arguments: Any) -> None:
        """Draws `name`.png with a function of auditing.plots, whose last positional argument is the path."""
        draw(*arguments, self.folder / f"{name}.png")
        self.plots.append(f"{name}.png")

    def keep(self, name: str, frame: pd.DataFrame) -> None:
        """Writes `name`.csv beside audit.json if the table has rows."""
        if len(frame):
            write_csv(self.folder / f"{name}.csv", frame, float_format="%.6g")


def has_patients(competition: Competition) -> bool:
    """True if the competition describes which images belong to one patient."""
    return bool(competition.group_column or competition.group_pattern)
