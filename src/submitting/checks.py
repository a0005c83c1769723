"""Pre-upload checks of a submission file: its form, its values, and comparisons with all that is on this disk."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from auditing.ood import outlier_warnings
from common.files import home, sha256
from competition import Competition
from data.folds import folds_path
from data.tables import submitted_part
from results.runs import Oof, read_predictions, run_folder
from results.workspace import Workspace
from submitting.ledger import ledger_path
from submitting.manifest import model_name, read_manifest
from submitting.prediction_checks import (
    against_oof,
    against_other,
    against_own,
    among_models,
    check_values,
    unfilled_rows,
)
from submitting.submission import (
    Template,
    check_submission,
    oof_means,
    read_submission,
    read_template,
    read_values,
    submission_path,
)
from training.prediction import mean_of_models, read_models

OTHER_FORMATS = {b"\x1f\x8b": "packed with gzip", b"PK\x03\x04": "a zip or Excel file", b"\xff\xfe": "text in UTF-16",
               b"\xfe\xff": "text in UTF-16"}


@dataclass(frozen=True)
class References:
    """What a submission is compared with; None for what is missing. (n, K) arrays are in the template's order."""

    means: np.ndarray | None = None   # (K,) of the submitted values on held-out images
    oof: np.ndarray | None = None     # (N, K) probabilities
    own: np.ndarray | None = None     # (n, K) the run's or blend's own predictions
    models: np.ndarray | None = None  # (F, n, K) those of its models
    model_names: tuple[str, ...] = ()
    is_own: bool = False  # False: means and oof are of the last submission's run
    is_as_written: bool = False  # the file has the hash in its manifest


def check_file(workspace: Workspace, path: Path, last: Path | None = None,
               manifest: dict | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings about a submission file; with an error it must not be uploaded.

    Reads what it compares with from disk, if it exists: the sample, the file's manifest, the run's or blend's own
    predictions, its models' and its oof predictions, and the last submission.
    last: that file; None: the newest other submission of the competition;  manifest: the file's own, if it was read.
    Raises FileNotFoundError if there is no such file.
    """
    competition = workspace.competition
    errors, warnings = check_bytes(path)
    if errors:
        return errors, warnings
    try:
        frame = read_submission(path)
    except ValueError as error:
        return [str(error)], warnings
    template = read_template(workspace)
    last = last or _newest_other(competition, path)
    references, missing = find_references(workspace, path, template, last, manifest)
    errors, found = check_submission(competition, template, frame, references.means)
    if errors:
        return errors, warnings
    warnings += [*missing, *check_cells(template, frame), *found]
    values = read_values(competition, template, frame)
    errors, found = compare(competition, template, values, references)
    warnings += [*found, *outlier_warnings(workspace)]
    if last and not errors:
        warnings += _against_last(competition, template, values, last)
    return errors, list(dict.fromkeys(warnings))


def check_bytes(path: Path) -> tuple[list[str], list[str]]:
    """Errors and warnings about a file's format, encoding and line ends. Raises FileNotFoundError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return [], []
    for start, name in OTHER_FORMATS.items():
        if raw.startswith(start):
            return [f"{path} is {name}; write it as plain text in UTF-8"], []
    if not raw.strip():
        return [f"{path} is empty"], []
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return [f"{path} is not UTF-8: line {line} has the byte {raw[error.start]:#x}"], []
    warnings = []
    if text.startswith("\ufeff"):
        warnings.append("the file begins with a byte order mark, which some readers take for a part of the first "
                        "column's name; write the file without it")
    if "\r" in text:
        warnings.append("the lines end in \\r\\n as on Windows; write them with \\n")
    if last := text.rpartition("\n")[2]:
        warnings.append(f"the last line does not end in a line break: {last!r} may be cut off")
    header = text.partition("\n")[0]
    if "," not in header and (other := next((mark for mark in (";", "\t", "|") if mark in header), None)):
        return [f"the cells are separated by {other!r}, but must be separated by commas"], warnings
    return [], warnings


def check_cells(template: Template, frame: pd.DataFrame) -> list[str]:
    """Warnings about unusual ways in which numbers are written."""
    warnings = []
    for column in template.columns:
        cells = frame[column]
        if (blank := cells.str.strip() != cells).any():
            warnings.append(f"column {column!r}: {blank.sum()} cells have blanks around them")
        if (power := cells.str.fullmatch(r"\s*[0-9.]+[eE][-+]?\d+\s*")).any():
            warnings.append(f"column {column!r}: {power.sum()} numbers are written with a power of ten, the first "
                            f"{cells[power].iloc[0]!r}")
    return warnings


def compare(competition: Competition, template: Template, values: np.ndarray,
            references: References) -> tuple[list[str], list[str]]:
    """Errors and warnings about the values (n, K) of a submission whose form has no error."""
    columns = competition.labels if competition.submission == "text" else template.columns
    errors, warnings = [], []
    if competition.submission == "probs":
        errors, warnings = check_values(columns, values, references.oof)
        sample = template.frame[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        if references.own is None or not np.array_equal(references.own.round(6), values):
            warnings += unfilled_rows(values, sample)
        if references.oof is not None and not errors:
            # calibrated values are distributed differently, so the predictions are compared
            is_predicted = references.is_as_written and references.own is not None
            compared = references.own if is_predicted else values
            warnings += against_oof(columns, compared, references.oof, references.is_own)
    if references.own is not None and not errors:
        errors, found = against_own(columns, values, references.own)
        warnings += [] if references.is_as_written else found  # a decision rule may have changed the values
    if references.models is not None:
        warnings += among_models(columns, references.models, list(references.model_names))
    return errors, warnings


def find_references(workspace: Workspace, path: Path, template: Template, last: Path | None = None,
                    manifest: dict | None = None) -> tuple[References, list[str]]:
    """What a submission is compared with, and warnings about what is missing.

    The run is found by the manifest beside the file, by one in submissions/ with its hash, or by the file's name. If
    there is none, the oof predictions are those of the last submission's run.
    """
    competition = workspace.competition
    warnings = []
    if not manifest:
        manifest, warnings = _find_manifest(competition, path)
    name = (manifest or {}).get("inputs", {}).get("run") or path.stem.removeprefix(f"{competition.name}-")
    is_own = run_folder(competition, name).is_dir() and (manifest is not None or path.stem != name)
    if not is_own and last is not None:
        manifest, _ = _find_manifest(competition, last)
        name = (manifest or {}).get("inputs", {}).get("run") or last.stem.removeprefix(f"{competition.name}-")
    references = References(means=oof_means(competition, manifest or _manifest_of(competition, name)), is_own=is_own,
                       is_as_written=is_own and manifest is not None)
    if not (folds_path(competition).exists() and run_folder(competition, name).is_dir()):
        return references, warnings
    try:
        oof = workspace.oof(name)
    except (ValueError, FileNotFoundError) as error:
        return references, [*warnings, f"the file could not be compared with its run: {error}"]
    references = replace(references, oof=oof.probs[~np.isnan(oof.probs).any(axis=1)])
    if not len(references.oof):
        references = replace(references, oof=None)
    if competition.submission == "probs" and references.means is None and references.oof is not None:
        references = replace(references, means=references.oof.mean(axis=0))
    return (_add_own(competition, template, references, oof, manifest, warnings) if is_own else references), warnings


def _add_own(competition: Competition, template: Template, references: References, oof: Oof, manifest: dict | None,
             warnings: list[str]) -> References:
    """Adds the run's own predictions if they are by the weights that the submission was made from."""
    now = oof.made_of
    weights = (manifest or {}).get("inputs", {}).get("weights", now)
    if any(now.get(model) != digest for model, digest in weights.items()):
        warnings.append(f"{oof.name} was trained again since this file was made; predict again")
        return references
    part, ids = submitted_part(competition), template.frame[template.id_column]
    names = tuple(map(model_name, oof.runs))
    models = None if oof.members else read_models(competition, oof, part, ids)
    if len(weights) < len(now):
        wanted = [names.index(model) for model in weights]
        own = None if models is None else mean_of_models(models[wanted].astype(np.float64))
        return replace(references, own=own)
    return replace(references, own=read_predictions(competition, oof, part, ids), models=models, model_names=names)


def _find_manifest(competition: Competition, path: Path) -> tuple[dict | None, list[str]]:
    """The manifest of a file, None if there is none, and warnings about it."""
    digest = sha256(path.read_bytes())
    beside, warnings = path.with_suffix(".json"), []
    for manifest in (beside, *sorted((home() / "submissions").glob(f"{competition.name}-*.json"))):
        if not manifest.exists():
            continue
        try:
            content = read_manifest(manifest)
        except ValueError as error:
            if manifest == beside:
                warnings.append(str(error))
            continue
        if content["competition"] == competition.name and content["sha256"] == digest:
            return content, warnings
        if manifest == beside:
            warnings.append(f"{manifest.name} was written for another file: this one was changed since, or copied here")
    return None, warnings


def _manifest_of(competition: Competition, name: str) -> dict:
    """The manifest of a run's submission; {} if there is none that can be read."""
    try:
        return read_manifest(submission_path(competition, name).with_suffix(".json"))
    except (FileNotFoundError, ValueError):
        return {}


def _newest_other(competition: Competition, path: Path) -> Path | None:
    others = [other for other in (home() / "submissions").glob(f"{competition.name}-*.csv")
              if other.resolve() not in (path.resolve(), ledger_path(competition).resolve())]
    return max(others, key=lambda other: other.stat().st_mtime, default=None)


def _against_last(competition: Competition, template: Template, values: np.ndarray, last: Path) -> list[str]:
    try:
        frame = read_submission(last)
    except (ValueError, FileNotFoundError) as error:
        return [f"the file could not be compared with the last submission: {error}"]
    if check_submission(competition, template, frame)[0]:
        return [f"the file could not be compared with the last submission, {last.name}, which has errors itself"]
    columns = competition.labels if competition.submission == "text" else template.columns
    return against_other(columns, values, read_values(competition, template, frame), last.name)
