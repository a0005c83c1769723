"""What is inferred about a competition: decisions with reasons, questions, and the tables' roles."""

from dataclasses import dataclass, field

import pandas as pd

from describing.image_paths import ImageLocation
from describing.inventory import Table


@dataclass
class Findings:
    """Decisions with their reasons, and questions that a person must answer."""

    decisions: list[tuple[str, str, str]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    needs_preparation: bool = False  # True: the described files must be written first

    def decide(self, what: str, value: object, why: str) -> None:
        """Records a decision: what was decided, its value, and why."""
        self.decisions.append((what, str(value), why))

    def ask(self, question: str) -> None:
        """Records a question, once."""
        if question not in self.questions:
            self.questions.append(question)

    def ask_kept_apart(self, what: str) -> None:
        """Asks whether a validation part, which is added to the training part, should be kept apart."""
        self.ask(f"{what} is added to the training part, because folds are used for validation. Should it be kept "
                 "apart as `official_validation` instead?")


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a table that hold labels, and how."""

    kind: str  # "columns" (one per label), "single" (one label per cell) or "joined" (several per cell)
    columns: tuple[str, ...]
    separator: str = "|"


@dataclass
class TableInfo:
    """A table, the column that names its images, and its role in the competition."""

    table: Table
    role: str  # "train", "valid", "test", "sample", "solution" or "" (unknown), by the file's name
    location: ImageLocation | None
    labels: LabelColumns | None = None

    @property
    def rows(self) -> pd.DataFrame:
        """The table's rows."""
        return self.table.rows

    @property
    def column(self) -> str:
        """The column that names images."""
        return self.location.column

    def files(self) -> dict:
        """The fields of a Part that describe how this table is read."""
        return {"table": self.table.path, "header": self.table.header, "separator": self.table.separator}


def distinct_texts(column: pd.Series) -> list[str]:
    """The different texts of a column, stripped and sorted."""
    return sorted({text.strip() for text in column.unique()})


def wanted_columns(sample: TableInfo | None) -> list[str]:
    """The columns that a submission must fill."""
    if sample is None:
        return []
    named = sample.column if sample.location else sample.rows.columns[0]
    return [column for column in sample.rows.columns if column != named]
