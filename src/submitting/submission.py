"""Submissions: filled like the sample submission, checked before they are written, with a manifest of their inputs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import home, read_csv, read_json, replace_atomically, sha256, write_csv
from competition import Competition
from data.tables import (
    headline_targets,
    label_map,
    parse_texts,
    submission_columns,
    submitted_part,
)
from results.adopted_rules import default_rule
from results.workspace import Workspace
from scoring.decision_rules import DecisionRule, Kind
from scoring.metrics import score
from scoring.thresholds import criterion
from submitting.manifest import describe_code, describe_versions, write_manifest

MIN_VARYING = 6  # images; fewer may all be constant images, which all get the same prior
MEAN_DIFFERENCE = 0.15  # between submitted and out-of-fold means; a larger one, beyond 4 standard errors, is a warning


@dataclass(frozen=True)
class Template:
    """What a submission must look like: all columns, and the ids in their order."""

    frame: pd.DataFrame  # every cell as text; label cells are placeholders
    id_column: str
    columns: tuple[str, ...]  # the columns to fill: one per label in the order of competition.labels, or one of text


def read_template(workspace: Workspace) -> Template:
    """The sample submission; without one, the ids of the submitted part and one column per label."""
    competition = workspace.competition
    sample = workspace.sample
    columns = submission_columns(competition)
    if sample is None:
        ids = workspace.part(submitted_part(competition))["image_id"]
        sample = pd.DataFrame({competition.id_column: ids, **dict.fromkeys(columns, "0.5")})
    return Template(sample, competition.id_column, columns)


def fill_template(competition: Competition, template: Template, image_ids: pd.Series,
                  values: np.ndarray) -> pd.DataFrame:
    """The submission as text: columns and order of the template, `values` (n, K) joined by id.

    Probabilities have six decimals. Hard labels are written as the sample writes numbers, 1 or 1.0, or as the
    competition's label texts.
    Raises ValueError if an id of the template has no value.
    """
    by_id = pd.DataFrame(values, index=pd.Index(image_ids))
    missing = template.frame[template.id_column][~template.frame[template.id_column].isin(by_id.index)]
    if len(missing):
        raise ValueError(f"{len(missing)} ids of the sample submission have no prediction, the first is "
                         f"{missing.iloc[0]!r}; the sample and the test images do not belong together")
    ordered = by_id.loc[template.frame[template.id_column]].to_numpy()
    frame = template.frame.copy()
    if competition.submission == "text":
        frame[template.columns[0]] = _label_texts(competition, ordered)
        return frame
    for k, column in enumerate(template.columns):
        whole = template.frame[column].str.fullmatch(r"\d+").all()
        digits = (0 if whole else 1) if competition.submission == "labels" else 6
        frame[column] = [f"{value:.{digits}f}" for value in ordered[:, k]]
    return frame


def _label_texts(competition: Competition, decisions: np.ndarray) -> list[str]:
    """The labels of every row of decisions (n, K), 0 or 1, in the texts of the competition's label cells: "16 0"."""
    text_of = {}
    for text, label in label_map(competition).items():
        text_of.setdefault(label, text)  # the first of several with the same meaning
    texts = []
    for row in decisions:
        names = [text_of[label] for label, decision in zip(competition.labels, row, strict=True) if decision]
        texts.append(competition.label_separator.join(names) if names else text_of.get("", ""))
    return texts


def check_submission(competition: Competition, template: Template, frame: pd.DataFrame,
                     oof_means: np.ndarray | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings about the form of a submission whose cells are all text; with no errors it can be uploaded.

    oof_means: (K,) the means of the same values on held-out images, compared with the submission's.
    """
    if list(frame.columns) != list(template.frame.columns):
        found, expected = ", ".join(frame.columns), ", ".join(template.frame.columns)
        return [f"the columns are {found}, but must be {expected} in this order{_column_hint(frame, template)}"], []
    ids, columns, warnings = frame[template.id_column], template.columns, []
    errors = _id_errors(ids, template.frame[template.id_column])
    if competition.submission == "text":
        try:
            values = parse_texts(competition, frame[columns[0]], ids, f"column {columns[0]!r}")
        except ValueError as error:
            return [*errors, str(error)], []
        columns, cells = competition.labels, pd.DataFrame(values, columns=competition.labels)
        if competition.task == "multiclass" and (wrong := values.sum(axis=1) != 1).any():
            return [*errors, f"{wrong.sum()} rows do not name exactly one class, the first is id "
                             f"{ids[wrong].iloc[0]!r}"], []
    else:
        cells = frame[list(columns)]
        values = np.column_stack([pd.to_numeric(cells[column], errors="coerce") for column in columns]).astype(float)
    for k, column in enumerate(columns):
        rate = None if oof_means is None else oof_means[k]
        in_errors, in_warnings = _check_column(competition, ids, cells[column], values[:, k], rate)
        errors += [f"column {column!r}{message}" for message in in_errors]
        warnings += [f"column {column!r}{message}" for message in in_warnings]
    if competition.task == "multiclass" and not errors and (wrong := np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        errors.append(f"{wrong.sum()} rows do not sum to one, the first is id {ids[wrong].iloc[0]!r}")
    return errors, warnings


def _check_column(competition: Competition, ids: pd.Series, cells: pd.Series, values: np.ndarray,
                  oof_mean: float | None) -> tuple[list[str], list[str]]:
    """Errors and warnings about the values (n,) of one column; NaN where the cell is not a number."""
    if (wrong := ~np.isfinite(values)).any():
        row = int(wrong.argmax())
        hint = ": write decimals with a point" if "," in cells.iloc[row] else ""
        return [f": {wrong.sum()} cells are not numbers, the first is {cells.iloc[row]!r} for id "
                f"{ids.iloc[row]!r}{hint}"], []
    errors, is_probs = [], competition.submission == "probs"
    if (outside := (values < 0) | (values > 1)).any():
        errors.append(f": {outside.sum()} values lie outside 0 to 1, the first is {values[outside][0]} for id "
                      f"{ids[outside].iloc[0]!r}")
    elif not is_probs and (soft := ~np.isin(values, (0, 1))).any():
        errors.append(f": {soft.sum()} values are neither 0 nor 1, but the competition takes hard labels")
    if len(values) > 1 and np.ptp(values) == 0:
        message = f" is {values[0]:g} for every image"
        if is_probs:
            return [*errors, f"{message}: nothing was predicted"] if len(values) >= MIN_VARYING else errors, []
        # a hard label may be the same for all images by chance if the label is rare or the images are few
        chance = 0 if oof_mean is None else (oof_mean if values[0] else 1 - oof_mean) ** len(values)
        return errors, [message] if chance < 1e-3 else []
    if oof_mean is None or not len(values):
        return errors, []
    standard_error = np.sqrt(max(oof_mean * (1 - oof_mean), 1e-6) / len(values))
    if abs(values.mean() - oof_mean) <= max(MEAN_DIFFERENCE, 4 * standard_error):
        return errors, []
    return errors, [f": the mean is {values.mean():.3f}, but was {oof_mean:.3f} on held-out training images; either "
                    "the test images are another population or something is wrong with them"]


def read_values(competition: Competition, template: Template, frame: pd.DataFrame) -> np.ndarray:
    """(n, K) the values of a submission without errors of `check_submission`; 0 and 1 if it is of text."""
    if competition.submission == "text":
        return parse_texts(competition, frame[template.columns[0]], frame[template.id_column], "the submission")
    return np.column_stack([pd.to_numeric(frame[column]) for column in template.columns]).astype(np.float64)


def _column_hint(frame: pd.DataFrame, template: Template) -> str:
    found, expected = list(frame.columns), list(template.frame.columns)
    if found[1:] == expected:
        return ": the file has an index column; write it with index=False"
    if [column.strip() for column in found] == expected:
        return ": there are blanks around the names"
    if [column.lower() for column in found] == [column.lower() for column in expected]:
        return ": upper and lower case differ"
    if set(found) & set(template.frame[template.id_column]):
        return ": the header is missing, the first line is a row already"
    return ""


def _id_hint(unknown: str, expected: pd.Series) -> str:
    """What may have changed an id that is not in the sample."""
    stripped = unknown.strip()
    number = stripped.removesuffix(".0")
    if unknown == expected.name:
        return ": a second header line"
    if stripped in set(expected):
        return ": there are blanks around it"
    if number in set(expected):
        return f": {number!r} became a decimal number"
    for name in expected:
        if name.isdigit() and number.isdigit() and name.lstrip("0") == number.lstrip("0"):
            return f": {name!r} lost its leading zeros"
        if Path(name).stem == unknown or Path(unknown).stem == name:
            return f": the sample has {name!r}"
        if name.lower() == unknown.lower():
            return f": the sample has {name!r}; upper and lower case differ"
    is_power = "e" in unknown.lower() and unknown.lower().replace(".", "").replace("e+", "").replace("e", "").isdigit()
    return ": a number with a power of ten, as a spreadsheet writes long ids" if is_power else ""


def _id_errors(ids: pd.Series, expected: pd.Series) -> list[str]:
    errors = []
    if (repeated := ids[ids.duplicated()]).size:
        errors.append(f"{len(repeated)} ids occur more than once, the first is {repeated.iloc[0]!r}")
    if (missing := expected[~expected.isin(ids)]).size:
        errors.append(f"{len(missing)} of {len(expected)} ids are missing, the first is {missing.iloc[0]!r}")
    if (unknown := ids[~ids.isin(expected)]).size:
        errors.append(f"{len(unknown)} ids are not in the sample submission, the first is "
                      f"{unknown.iloc[0]!r}{_id_hint(unknown.iloc[0], expected)}")
    if not errors and (moved := ids.to_numpy() != expected.to_numpy()).any():
        row = int(moved.argmax())
        errors.append(f"the ids are not in the sample's order: row {row + 2} has {ids.iloc[row]!r}, not "
                      f"{expected.iloc[row]!r}")
    return errors


def fill_submission(workspace: Workspace, template: Template, image_ids: pd.Series, probs: np.ndarray,
                    oof_probs: np.ndarray, rule: DecisionRule | None = None) -> tuple[pd.DataFrame, dict]:
    """The submission of probabilities (n, K) as text, and what the manifest records of how its values were made.

    rule: makes the values, hard labels if the competition takes them; None: the competition's default. It is fitted on
    the out-of-fold predictions.  oof_probs: (N, K) in the order of the training table, NaN where no fold has predicted.
    """
    competition = workspace.competition
    is_predicted = ~np.isnan(oof_probs).any(axis=1)
    targets = headline_targets(competition, workspace.label_targets[is_predicted])
    rule = rule or default_rule(competition, submitted_kind(competition))
    fitted = rule.fit(targets, oof_probs[is_predicted])
    values, oof_values = fitted.apply(probs), fitted.apply(oof_probs[is_predicted])
    return fill_template(competition, template, image_ids, values), {
        "oof": {competition.metric: score(competition.metric, targets, oof_probs[is_predicted], competition.task),
                "images": int(is_predicted.sum()),
                "means": dict(zip(competition.labels, oof_values.mean(axis=0).tolist(), strict=True))},
        "decision_rule": {"name": rule.name, "for": rule.metric, "fitted_on": "the oof predictions",
                          "labels": list(competition.labels), **fitted.parameters},
        "numbers": "%.6f" if competition.submission == "probs" else "as the sample writes them",
    }


def write_submission(competition: Competition, name: str, template: Template, frame: pd.DataFrame, inputs: dict,
                     metadata: dict) -> Path:
    """Checks and writes submissions/<competition>-<name>.csv and its manifest, prints warnings; returns the path.

    inputs: all that the file is a function of, most of it as hashes;  metadata: what else the manifest records, see
    `fill_submission`.
    Raises ValueError with all errors of the check, OSError if the disk is full; an earlier submission and its manifest
    then stay as they were.
    """
    path = submission_path(competition, name)
    errors, warnings = check_submission(competition, template, frame, oof_means(competition, metadata))
    if errors:
        raise ValueError(f"{path} was not written:\n  " + "\n  ".join(errors))
    manifest = {"submission": path.name, "competition": competition.name, "inputs": inputs, "code": describe_code(),
                "versions": describe_versions(), "computed": {}, **metadata, "warnings": warnings}
    try:
        with replace_atomically(path) as temporary:  # the manifest is written first, so that no submission lacks one
            write_csv(temporary, frame)
            write_manifest(path.with_suffix(".json"), {**manifest, "sha256": sha256(temporary.read_bytes())})
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; the submission was not written, and an earlier one is unchanged",
                      str(path)) from error
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"wrote {path}: {len(frame)} rows, checked")
    return path


def oof_means(competition: Competition, manifest: dict) -> np.ndarray | None:
    """(K,) the means of the submitted values on held-out images; None if the manifest has none."""
    means = manifest.get("oof", {}).get("means")
    return None if means is None else np.array([means[label] for label in competition.labels])


def submitted_kind(competition: Competition) -> Kind:
    """"probs" or "decisions": what the competition's submissions hold."""
    return "probs" if competition.submission == "probs" else "decisions"


def template_inputs(competition: Competition, template: Template) -> dict:
    """What a submission is a function of besides the predictions: the template, and which kind of values it takes."""
    return {"template": sha256(template.frame.to_csv(index=False)), "kind": competition.submission,
            "criterion": criterion(competition.metric)}


def submission_path(competition: Competition, name: str) -> Path:
    """The path of a submission: submissions/<competition>-<name>.csv."""
    return home() / "submissions" / f"{competition.name}-{name}.csv"


def is_written(competition: Competition, name: str, inputs: dict) -> bool:
    """True if the submission exists, is unchanged, and was made from these inputs."""
    path = submission_path(competition, name)
    manifest = path.with_suffix(".json")
    if not (path.exists() and manifest.exists()):
        return False
    written = read_json(manifest)
    return written["inputs"] == inputs and written["sha256"] == sha256(path.read_bytes())


def read_submission(path: Path) -> pd.DataFrame:
    """Every cell as text. Raises FileNotFoundError if there is no such file, ValueError if it is not a table."""
    return read_csv(path)
