"""Workspaces whose tables are given and not read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from competition import Competition
from results.workspace import Workspace


def filled_workspace(competition: Competition, table: pd.DataFrame, folds_hash: str = "", data_dir: Path = Path(),
                     **attributes: Any) -> Workspace:
    """A workspace with this table and a folds file of this hash; attributes: others that are not to be read."""
    workspace = Workspace(competition, data_dir)
    count = table["fold"].nunique() if "fold" in table else 0
    vars(workspace).update({"table": table, "folds": SimpleNamespace(hash=folds_hash, count=count, held_out=0),
                            **attributes})
    return workspace
