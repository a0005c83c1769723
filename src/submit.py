"""Uploads a submission to Kaggle and records its score:  python src/submit.py --experiment cnn_e --dry-run

Checks submissions/<competition>-<experiment>.csv, uploads it with a message that names its cross-validation score and
its manifest, waits for the score, and adds it to submissions/<competition>-ledger.csv. If the competition has no name
on Kaggle but its test labels are known here, as the demo's are, the file is scored here and nothing is uploaded. After
an interruption, or while the score is missing, the same command continues.
--check FILE checks any submission file; --reproduce MANIFEST makes one again from weights and images.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from commandline import add_experiment, load_workspace, make_parser, run_names, run_script
from common.commands import command_line
from common.files import sha256
from common.hardware import tune_process
from competition import Competition
from data.tables import parse_texts, scored_targets, submission_columns, submitted_part
from results.evaluation import cross_validated
from results.workspace import Workspace
from scoring.metrics import METRICS, score
from submitting.checks import check_file
from submitting.kaggle_client import SITE, TRANSIENT, KaggleError, SubmissionStatus, list_submissions, submit_file
from submitting.ledger import Entry, append_entry, ledger_path, one_line, read_ledger
from submitting.manifest import read_manifest
from submitting.reproduce import reproduce
from submitting.submission import read_submission, submission_path

RETRY_PAUSES = (5.0, 30.0)  # seconds before a second and a third attempt after a transient error
FIRST_PAUSE, LONGEST_PAUSE, TOTAL_WAIT = 5.0, 60.0, 1800.0  # seconds between two requests for the score, and in all
LONGEST_MESSAGE = 200  # characters of --message, so that Kaggle does not cut off the id that is appended


def main(argv: list[str] | None = None) -> list[Entry]:
    """Submits the named runs; returns their new ledger entries."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="none; one must be named")
    parser.add_argument("--message", default="", metavar="TEXT", help="a note, at the start of the description")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be uploaded")
    parser.add_argument("--resubmit", action="store_true", help="submit even if the same file was scored before")
    parser.add_argument("--check", type=Path, metavar="FILE", help="only check this submission file")
    parser.add_argument("--reproduce", type=Path, metavar="MANIFEST",
                        help="only make this manifest's submission again and compare the bytes")
    args = parser.parse_args(argv)
    workspace = load_workspace(args, with_folds=not (args.check or args.reproduce))
    competition = workspace.competition
    if submitted_part(competition) is None:
        raise ValueError(f"competition {competition.name!r} has no part that is submitted: neither test nor "
                         "official_validation")
    if args.check:
        check_submitted(workspace, args.check)
        return []
    if args.reproduce:
        tune_process()
        reproduce_file(workspace, args.reproduce)
        return []
    if not args.experiment:
        raise ValueError("--experiment is missing: name the run or blend whose submission is to be uploaded")
    solution = None if competition.kaggle else workspace.solution
    if solution is None and not competition.kaggle:
        raise ValueError(f"competition {competition.name!r} has no name on Kaggle: set kaggle='NAME' in competition.py "
                         f"to the NAME in its address {SITE}/competitions/NAME")
    entries = []
    for name in run_names(args):
        entry = prepare(workspace, name, args.message)
        before = previous_entry(competition, entry)
        if args.dry_run:
            show_plan(competition, entry, before, solution)
        elif solution is not None:
            check_not_scored(before, args.resubmit)
            entry = replace(entry, state="scored", ref="local", **local_scores(competition, entry, solution))
            append_entry(competition, entry)
            print(f"{entry.submission}: the test labels are known here, so it was scored here and nothing was uploaded:"
                  f"{_scores(entry)}; written to {ledger_path(competition)}")
        else:
            entry = upload(competition, entry, None if args.resubmit else before)
            print(f"{entry.submission}: {entry.state}{_scores(entry)}; written to {ledger_path(competition)}")
        entries.append(entry)
    return entries


def check_submitted(workspace: Workspace, path: Path) -> Path:
    """Prints warnings about a submission file. Raises ValueError with all errors, if there are any."""
    competition = workspace.competition
    errors, warnings = check_file(workspace, path)
    for warning in warnings:
        print(f"warning: {warning}")
    if errors:
        raise ValueError(f"{path} must not be submitted: " + "; ".join(errors))
    print(f"{path} has the form of {competition.sample_submission or f'the {submitted_part(competition)} part'}")
    return path


def reproduce_file(workspace: Workspace, manifest: Path) -> Path:
    """Makes a submission again from weights and images. Raises ValueError with the first difference if bytes differ."""
    result = reproduce(workspace, manifest)
    for difference in result.differences:
        print(f"warning: different {difference.what}: {difference.message}")
    if result.mismatch:
        raise ValueError(f"{manifest}: the bytes differ ({result.mismatch}); " + (
            f"the first difference is the {result.differences[0].what}: {result.differences[0].message}"
            if result.differences else "nothing that the manifest records has changed"))
    print(f"{manifest} is reproduced: the same {result.rows} rows, byte for byte, from weights and images")
    return manifest


def prepare(workspace: Workspace, name: str, message: str) -> Entry:
    """Checks the submission of a run or a blend; returns its new ledger entry. Raises ValueError with all errors."""
    competition = workspace.competition
    path = submission_path(competition, name)
    command = command_line("predict", competition, experiment=name)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; run: {command}")
    if not (manifest := path.with_suffix(".json")).exists():
        raise FileNotFoundError(f"{path} has no manifest {manifest.name}, which records what it was made from; run: "
                                f"{command}")
    content, digest = read_manifest(manifest), sha256(path.read_bytes())
    if content["sha256"] != digest:
        raise ValueError(f"{path} is not the file that {manifest.name} describes: it was changed afterwards. Delete "
                         f"both and run: {command}")
    errors, warnings = check_file(workspace, path, last_submitted(competition, path, digest), content)
    if errors:
        raise ValueError(f"{path} must not be submitted: " + "; ".join(errors))
    for warning in warnings:
        print(f"warning: {warning}")
    if len(one_line(message)) > LONGEST_MESSAGE:
        raise ValueError(f"--message has {len(one_line(message))} characters; {LONGEST_MESSAGE} are allowed")
    cv = read_cv(workspace, name, content, command)
    metric = METRICS[competition.metric].title
    times = sum(each.sha256 == digest for each in read_ledger(competition))
    entry = Entry(id=digest[:8] + (f"-{times + 1}" if times else ""), state="sent", run=name, metric=competition.metric,
                  **cv, submission=path.name, sha256=digest, manifest_sha256=sha256(manifest.read_bytes()))
    figures = f"CV {metric} {cv['cv']:.4f} ({cv['low']:.4f} to {cv['high']:.4f})" if cv else "CV not known"
    parts = (one_line(message), name, figures, f"manifest {entry.manifest_sha256[:12]}", entry.id)
    return replace(entry, message=" | ".join(part for part in parts if part))


def read_cv(workspace: Workspace, name: str, manifest: dict, command: str) -> dict[str, float]:
    """cv, low and high of the run that a submission was made from; {} if it was made from some folds only.

    Raises ValueError if the run was trained again since: its score would not be this file's.
    """
    competition = workspace.competition
    if name not in workspace.runs:
        return {}
    oof = workspace.oof(name)
    if not oof.is_whole:
        return {}
    if (weights := manifest["inputs"].get("weights", oof.made_of)) != oof.made_of:
        changed = sorted(set(weights.items()) ^ set(oof.made_of.items()))[0][0]
        raise ValueError(f"{submission_path(competition, name)} was made by other models than {name} has now "
                         f"({changed}); run: {command}")
    return dict(zip(("cv", "low", "high"), cross_validated(workspace, oof), strict=True))


def last_submitted(competition: Competition, path: Path, digest: str) -> Path | None:
    """The other file that was uploaded last, if it is still unchanged."""
    sent = [each for each in read_ledger(competition) if each.state != "failed" and each.sha256 != digest]
    last = path.with_name(sent[-1].submission) if sent else None
    return last if last and last.exists() and sha256(last.read_bytes()) == sent[-1].sha256 else None


def previous_entry(competition: Competition, entry: Entry) -> Entry | None:
    """The newest entry of the same file that has not failed; None if there is none."""
    same = [each for each in read_ledger(competition) if each.sha256 == entry.sha256 and each.state != "failed"]
    return same[-1] if same else None


def check_not_scored(before: Entry | None, resubmit: bool = False) -> None:
    """Raises ValueError if this file was scored before: it would get the same score again."""
    if before and before.state == "scored" and not resubmit:
        raise ValueError(f"{before.submission} was submitted on {before.date} UTC and scored{_scores(before)}; the "
                         "same file gets the same score. To submit it again, give --resubmit")


def show_plan(competition: Competition, entry: Entry, before: Entry | None, solution: pd.DataFrame | None) -> None:
    """Prints what would be uploaded. Needs neither credentials nor a network."""
    path = submission_path(competition, entry.run)
    what = "scored here" if solution is not None else f"uploaded to {SITE}/competitions/{competition.kaggle}"
    print(f"{path}\n  {path.stat().st_size:,} bytes, sha256 {entry.sha256}\n  manifest sha256 {entry.manifest_sha256}\n"
          f"  checked; would be {what}\n  message: {entry.message}")
    if before:
        print(f"  the same file was submitted on {before.date} UTC: {before.state}{_scores(before)}")
    print("  nothing was uploaded and nothing was written")


def upload(competition: Competition, entry: Entry, before: Entry | None) -> Entry:
    """Uploads the file, or continues an earlier attempt, and waits for the score; returns the newest ledger entry.

    Raises ValueError if the file was scored before, KaggleError if the service returns an error.
    """
    check_not_scored(before)
    if before:
        print(f"{before.submission} was sent on {before.date} UTC and is {before.state}: asking for its score")
        entry = before
    else:
        append_entry(competition, entry)  # before the upload, so that an interrupted one is found by the next call
    if entry.state == "sent":
        print(f"{entry.submission}: uploading to {SITE}/competitions/{competition.kaggle}")
        try:
            ref = _submit(competition, entry, find_first=before is not None)
        except KaggleError as error:
            if error.kind not in TRANSIENT:
                append_entry(competition, replace(entry, state="failed", date=_now(), message=f"{error.kind}: {error}"))
            raise
        entry = replace(entry, state="pending", ref=ref, date=_now())
        append_entry(competition, entry)
        print(f"{entry.submission}: uploaded{f' as {ref}' if ref else ''}; waiting for its score")
    return wait_for_score(competition, entry)


def _submit(competition: Competition, entry: Entry, find_first: bool) -> str:
    """Uploads the file; returns the number that the service gave the submission.

    find_first: after an attempt without an answer the file may have arrived, so the list of submissions is read first.
    """
    for pause in (*RETRY_PAUSES, None):
        try:
            if find_first and (found := _find(competition, entry)):
                return found.ref
            return submit_file(competition.kaggle, submission_path(competition, entry.run), entry.message)
        except KaggleError as error:
            if error.kind not in TRANSIENT or pause is None:
                raise
            print(f"{error}\nnext attempt in {pause:.0f} s")
            time.sleep(pause)
            find_first = True
    raise AssertionError("the last attempt returns or raises")


def _find(competition: Competition, entry: Entry) -> SubmissionStatus | None:
    for each in list_submissions(competition.kaggle):
        if each.ref == entry.ref or each.description.split(" | ")[-1].strip() == entry.id:
            return each
    return None


def wait_for_score(competition: Competition, entry: Entry) -> Entry:
    """Requests the score at growing intervals, for half an hour at most; returns the newest ledger entry."""
    for pause in tqdm(_pauses(), desc="waiting for the score", unit="request", leave=False, disable=None):
        try:
            found = _find(competition, entry)
        except KaggleError as error:
            if error.kind not in (*TRANSIENT, "limit"):
                raise
            print(f"{error}\nnext request in {pause:.0f} s")
            found = None
        if found and found.state != "pending":
            is_scored = found.state == "complete"
            message = entry.message if is_scored else f"{entry.message} | {found.error or 'no reason given'}"
            entry = replace(entry, state="scored" if is_scored else "failed", ref=found.ref, date=_now(),
                            public=found.public, private=found.private, message=one_line(message))
            append_entry(competition, entry)
            if not is_scored:
                raise ValueError(f"Kaggle could not score {entry.submission}: {found.error or 'it gives no reason'}. "
                                 "The checks here found no error; compare the file with the competition's page: "
                                 f"{SITE}/competitions/{competition.kaggle}/overview/evaluation")
            return entry
        time.sleep(pause)
    print(f"{entry.submission} has no score yet; the same command asks for it later and uploads nothing")
    return entry


def _pauses() -> Iterator[float]:
    pause, waited = FIRST_PAUSE, 0.0
    while waited < TOTAL_WAIT:
        yield pause
        waited, pause = waited + pause, min(1.5 * pause, LONGEST_PAUSE)


def local_scores(competition: Competition, entry: Entry, solution: pd.DataFrame) -> dict[str, float]:
    """The public and private scores of a file; private alone if the labels name no public part.

    If the metric takes decisions and the file holds probabilities, those of at least 0.5 are positive.
    """
    frame = read_submission(submission_path(competition, entry.run)).set_index(competition.id_column)
    cells = frame.loc[solution["image_id"], list(submission_columns(competition))]
    if competition.submission == "text":
        values = parse_texts(competition, cells.iloc[:, 0], solution["image_id"], entry.submission)
    else:
        values = cells.to_numpy(float)
    truth = scored_targets(competition, solution)
    parts = {"public": solution["usage"] == "Public", "private": solution["usage"] != "Public"}
    return {name: score(competition.metric, truth[rows], values[rows], competition.task)
            for name, rows in parts.items() if rows.any()}


def _scores(entry: Entry) -> str:
    parts = [f"{name} {value:.4f}" for name, value in (("public", entry.public), ("private", entry.private))
             if value is not None and not np.isnan(value)]
    return " " + ", ".join(parts) if parts else ""


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


if __name__ == "__main__":
    run_script(main)
