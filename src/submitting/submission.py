"""A submission: built like the sample, checked before it is written, and a manifest of what it was made from."""

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

NOT_ALL_BLACK = 6  # images; fewer may all be black and get the same prior, where a quarter of all is
FAR_RATE = 0.15  # a share of positives this far from the oof's, and beyond 4 standard errors, is worth a warning


@dataclass(frozen=True)
class Template:
    """What a submission must look like: all columns, and the ids in their order."""

    frame: pd.DataFrame  # every cell as text; label cells are placeholders
    id_column: str
    columns: tuple[str, ...]  # those to fill: one a label in the order of competition.labels, or one of text


def read_template(workspace: Workspace) -> Template:
    """The sample submission; where the organisers gave none, the test images' ids and one column a label."""
    competition = workspace.competition
    sample = workspace.sample
    columns = submission_columns(competition)
    if sample is None:
        ids = workspace.part(submitted_part(competition))["image_id"]
        sample = pd.DataFrame({competition.id_column: ids, **dict.fromkeys(columns, "0.5")})
    return Template(sample, competition.id_column, columns)


def fill_template(competition: Competition, template: Template, image_ids: pd.Series,
                  values: np.ndarray) -> pd.DataFrame:
    """The submission as text: the template's columns and order, `values` (N, K) joined by id.

    Probabilities have six decimals; hard labels are written as the sample writes numbers, 1 or 1.0, or as the texts
    that say them.
    Raises ValueError where an id of the template has no value.
    """
    by_id = pd.DataFrame(values, index=pd.Index(image_ids))
    missing = template.frame[template.id_column][~template.frame[template.id_column].isin(by_id.index)]
    if len(missing):
        raise ValueError(f"{len(missing)} ids of the sample submission have no prediction, the first is "
                         f"{missing.iloc[0]!r}; the sample and the test images do not belong together")
    ordered = by_id.loc[template.frame[template.id_column]].to_numpy()
    frame = template.frame.copy()
    if competition.submission == "text":
        frame[template.columns[0]] = _texts(competition, ordered)
        return frame
    for k, column in enumerate(template.columns):
        whole = template.frame[column].str.fullmatch(r"\d+").all()
        digits = (0 if whole else 1) if competition.submission == "labels" else 6
        frame[column] = [f"{value:.{digits}f}" for value in ordered[:, k]]
    return frame


def _texts(competition: Competition, decided: np.ndarray) -> list[str]:
    """The labels of every row as the organisers' own cells say them: (N, K) of 0 and 1 -> "16 0"."""
    text_of = {}
    for text, label in label_map(competition).items():
        text_of.setdefault(label, text)  # the first of several that mean the same
    texts = []
    for row in decided:
        names = [text_of[label] for label, there in zip(competition.labels, row, strict=True) if there]
        texts.append(competition.label_separator.join(names) if names else text_of.get("", ""))
    return texts


def check_submission(competition: Competition, template: Template, frame: pd.DataFrame,
                     oof_rates: np.ndarray | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings about a submission whose cells are all text; no errors means it can go up.

    oof_rates: (K,) the mean of what the runs predicted on held-out images, to compare the submission's with.
    """
    if list(frame.columns) != list(template.frame.columns):
        there, wanted = ", ".join(frame.columns), ", ".join(template.frame.columns)
        return [f"the columns are {there}, but must be {wanted} in this order{_column_hint(frame, template)}"], []
    errors = _id_errors(frame[template.id_column], template.frame[template.id_column])
    columns = template.columns
    if competition.submission == "text":
        try:
            values = parse_texts(competition, frame[columns[0]], frame[template.id_column], f"column {columns[0]!r}")
        except ValueError as error:
            return [*errors, str(error)], []
        columns, texts = competition.labels, pd.DataFrame(values, columns=competition.labels)
        if competition.task == "multiclass" and (off := values.sum(axis=1) != 1).any():
            return [*errors, f"{off.sum()} rows do not name exactly one class, the first is id "
                             f"{frame[template.id_column][off].iloc[0]!r}"], []
    else:
        texts = frame[list(columns)]
        values = np.column_stack([pd.to_numeric(texts[column], errors="coerce") for column in columns]).astype(float)
    warnings = []
    for k, column in enumerate(columns):
        column_values = values[:, k]
        if (bad := ~np.isfinite(column_values)).any():
            row = int(bad.argmax())
            comma = ": write decimals with a point" if "," in texts[column].iloc[row] else ""
            errors.append(f"column {column!r}: {bad.sum()} cells are no numbers, the first is "
                          f"{texts[column].iloc[row]!r} for id {frame[template.id_column].iloc[row]!r}{comma}")
            continue
        if (outside := (column_values < 0) | (column_values > 1)).any():
            errors.append(f"column {column!r}: {outside.sum()} values lie outside 0 to 1, the first is "
                          f"{column_values[outside][0]} for id {frame[template.id_column][outside].iloc[0]!r}")
        elif competition.submission != "probs" and (soft := ~np.isin(column_values, (0, 1))).any():
            errors.append(f"column {column!r}: {soft.sum()} values are neither 0 nor 1, but hard labels are asked for")
        if len(frame) > 1 and np.ptp(column_values) == 0:
            message = f"column {column!r} is {column_values[0]:g} for every image"
            if competition.submission == "probs" and len(frame) >= NOT_ALL_BLACK:
                errors.append(f"{message}: nothing was predicted")
            elif competition.submission != "probs" and (
                    oof_rates is None or _chance_of_all(column_values[0], oof_rates[k], len(frame)) < 1e-3):
                warnings.append(message)  # which is sound where a label is rare or the images are few
        elif oof_rates is not None and len(frame) and (message := _far_rate(column, column_values, oof_rates[k])):
            warnings.append(message)
    if competition.task == "multiclass" and not errors and (off := np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        errors.append(f"{off.sum()} rows do not sum to one, the first is id {frame[template.id_column][off].iloc[0]!r}")
    return errors, warnings


def read_values(competition: Competition, template: Template, frame: pd.DataFrame) -> np.ndarray:
    """(n, K) the numbers of a submission in which `check_submission` found no error; 0 and 1 where it is of text."""
    if competition.submission == "text":
        return parse_texts(competition, frame[template.columns[0]], frame[template.id_column], "the submission")
    return np.column_stack([pd.to_numeric(frame[column]) for column in template.columns]).astype(np.float64)


def _column_hint(frame: pd.DataFrame, template: Template) -> str:
    there, wanted = list(frame.columns), list(template.frame.columns)
    if there[1:] == wanted:
        return ": an index column was left in; write it with index=False"
    if [column.strip() for column in there] == wanted:
        return ": there are blanks around the names"
    if [column.lower() for column in there] == [column.lower() for column in wanted]:
        return ": capital letters count"
    if set(there) & set(template.frame[template.id_column]):
        return ": the header is missing, the first line is a row already"
    return ""


def _id_hint(strange: str, wanted: pd.Series, header: str) -> str:
    """What may have happened to an id that is not in the sample."""
    known = set(wanted)
    number = strange.strip().removesuffix(".0")
    if strange == header:
        return ": a second header line"
    if strange.strip() in known:
        return ": there are blanks around it"
    if number in known:
        return f": {number!r} became a decimal number"
    for name in wanted:
        if name.lstrip("0") == number.lstrip("0") and name.isdigit() and number.isdigit():
            return f": {name!r} lost its zeros on the way through a number"
        if Path(name).stem == strange or Path(strange).stem == name:
            return f": the sample has {name!r}"
        if name.lower() == strange.lower():
            return f": the sample has {name!r}; capital letters count"
    if strange.lower().replace(".", "").replace("e+", "").replace("e", "").isdigit() and "e" in strange.lower():
        return ": a number with a power of ten, as a spreadsheet writes long ids"
    return ""


def _id_errors(ids: pd.Series, wanted: pd.Series) -> list[str]:
    errors = []
    if (repeated := ids[ids.duplicated()]).size:
        errors.append(f"{len(repeated)} ids stand there more than once, the first is {repeated.iloc[0]!r}")
    if (missing := wanted[~wanted.isin(ids)]).size:
        errors.append(f"{len(missing)} of {len(wanted)} ids are missing, the first is {missing.iloc[0]!r}")
    if (strange := ids[~ids.isin(wanted)]).size:
        hint = _id_hint(strange.iloc[0], wanted, str(wanted.name))
        errors.append(f"{len(strange)} ids are not in the sample submission, the first is {strange.iloc[0]!r}{hint}")
    if not errors and (moved := ids.to_numpy() != wanted.to_numpy()).any():
        row = int(moved.argmax())
        errors.append(f"the ids are not in the sample's order: row {row + 2} has {ids.iloc[row]!r}, not "
                      f"{wanted.iloc[row]!r}")
    return errors


def _chance_of_all(value: float, rate: float, count: int) -> float:
    """How probable it is that `count` images all have this hard label, at the rate of held-out images."""
    return (rate if value else 1 - rate) ** count


def _far_rate(column: str, values: np.ndarray, oof_rate: float) -> str | None:
    rate = values.mean()
    noise = 4 * np.sqrt(max(oof_rate * (1 - oof_rate), 1e-6) / len(values))
    if abs(rate - oof_rate) <= max(FAR_RATE, noise):
        return None
    return (f"column {column!r}: the mean is {rate:.3f}, but was {oof_rate:.3f} on held-out training images; either "
            f"the test images are another population or something is wrong with them")


def write_submission(competition: Competition, name: str, template: Template, frame: pd.DataFrame, inputs: dict,
                     account: dict, oof_rates: np.ndarray | None = None,
                     folder: Path | None = None) -> tuple[Path, list[str]]:
    """Checks and writes submissions/<competition>-<name>.csv and its manifest; returns the path and the warnings.

    inputs: whatever the file is a function of, hashes for the most part;  account: what else the manifest tells;
    folder: another place than submissions/.
    Raises ValueError with all errors where the check fails, OSError where the disk is full; any earlier submission
    and its manifest are then as they were.
    """
    path = submission_path(competition, name)
    path = path if folder is None else folder / path.name
    errors, warnings = check_submission(competition, template, frame, oof_rates)
    if errors:
        raise ValueError(f"{path} was not written:\n  " + "\n  ".join(errors))
    said = {"submission": path.name, "competition": competition.name, "inputs": inputs, "code": describe_code(),
            "versions": describe_versions(), **account, "warnings": warnings}
    try:
        with replace_atomically(path) as temporary:  # the submission comes into its place only after its manifest did
            write_csv(temporary, frame)
            write_manifest(path.with_suffix(".json"), {**said, "sha256": sha256(temporary.read_bytes())})
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; the submission was not written, and an earlier one is as it was",
                      str(path)) from error
    return path, warnings


def submit_probs(workspace: Workspace, template: Template, name: str, image_ids: pd.Series, probs: np.ndarray,
                 oof_probs: np.ndarray, inputs: dict, rule: DecisionRule | None = None, *, computed: dict | None = None,
                 folder: Path | None = None) -> Path:
    """Writes the submission of test probabilities (n, K) and says what it did; returns the path.

    The values are made by the rule, the competition's default where it is None, fitted on the oof predictions: hard
    labels where the competition wants them. oof_probs: (N, K) in the order of `table`, NaN where no fold has predicted
    yet;  computed: by run, where its predictions were;  folder: another place than submissions/.
    """
    competition = workspace.competition
    there = ~np.isnan(oof_probs).any(axis=1)
    targets = workspace.label_targets[there]
    rule = rule or default_rule(competition, submitted_kind(competition))
    fitted = rule.fit(headline_targets(competition, targets), oof_probs[there])
    values, oof_values = fitted.apply(probs), fitted.apply(oof_probs[there])
    frame = fill_template(competition, template, image_ids, values)
    account = {
        "oof": {competition.metric: score(competition.metric, headline_targets(competition, targets),
                                          oof_probs[there], competition.task),
                "images": int(there.sum()),
                "means": dict(zip(competition.labels, oof_values.mean(axis=0).tolist(), strict=True))},
        "decision_rule": {"name": rule.name, "for": rule.metric, "fitted_on": "the oof predictions",
                          "labels": list(competition.labels), **fitted.parameters},
        "computed": computed or {},
        "numbers": "%.6f" if competition.submission == "probs" else "as the sample writes them",
    }
    path, warnings = write_submission(competition, name, template, frame, inputs, account, oof_values.mean(axis=0),
                                      folder)
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"wrote {path}: {len(frame)} rows, checked")
    return path


def submitted_kind(competition: Competition) -> Kind:
    """Whether probabilities are handed in or decisions."""
    return "probs" if competition.submission == "probs" else "decisions"


def template_inputs(competition: Competition, template: Template) -> dict:
    """What a submission is a function of besides the predictions: the template, and what kind of values it takes."""
    return {"template": sha256(template.frame.to_csv(index=False)), "kind": competition.submission,
            "criterion": criterion(competition.metric)}


def submission_path(competition: Competition, name: str) -> Path:
    """Where a submission stands: submissions/<competition>-<name>.csv."""
    return home() / "submissions" / f"{competition.name}-{name}.csv"


def is_written(competition: Competition, name: str, inputs: dict) -> bool:
    """True where the submission is there, whole, and was made from these very inputs."""
    path = submission_path(competition, name)
    manifest = path.with_suffix(".json")
    if not (path.exists() and manifest.exists()):
        return False
    said = read_json(manifest)
    return said["inputs"] == inputs and said["sha256"] == sha256(path.read_bytes())


def read_submission(path: Path) -> pd.DataFrame:
    """Every cell as text. Raises FileNotFoundError where there is no such file, ValueError where it is no table."""
    return read_csv(path)
