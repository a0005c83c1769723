"""The gate before upload: everything that can be told of a submission file from what stands on this disk."""

from pathlib import Path

from competition import Competition
from submission import check_submission, read_submission, read_template


def gate(competition: Competition, data_dir: Path, path: Path, last: Path | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings about a submission file; with an error it must not go up.

    Reads what it compares with from disk, as far as it is there: the sample, the file's manifest, the run's or blend's
    own predictions, its models' and its oof predictions, and the submission that went up last.
    last: that file; None: the newest other submission of the competition.
    Raises FileNotFoundError where there is no such file.
    """
    return check_submission(competition, read_template(competition, data_dir), read_submission(path))
