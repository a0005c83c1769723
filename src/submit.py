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
from submitting.kaggle_client import PASSING, SITE, KaggleError, SubmissionStatus, list_submissions, submit_file
from submitting.ledger import Entry, append_entry, ledger_path, one_line, read_ledger
from submitting.manifest import read_manifest
from submitting.reproduce import reproduce
from submitting.submission import read_submission, submission_path

TRIES = (5.0, 30.0)  # seconds before a second and a third try, where the fault may be over by then
FIRST_PAUSE, LONGEST_PAUSE, PATIENCE = 5.0, 60.0, 1800.0  # seconds between two looks for the score, and in all
LONGEST_MESSAGE = 200  # characters of one's own: what is added must not be cut off


def main(argv: list[str] | None = None) -> list[Entry]:
    """Submits what is asked for; returns what the ledger now says of it."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="none; one must be named")
    parser.add_argument("--message", default="", metavar="TEXT", help="what to remember of it")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    parser.add_argument("--resubmit", action="store_true", help="even if this very file was submitted before")
    parser.add_argument("--check", type=Path, metavar="FILE", help="only check this submission file")
    parser.add_argument("--reproduce", type=Path, metavar="MANIFEST",
                        help="only make the submission of this manifest again, and compare the bytes")
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
        raise ValueError(f"competition {competition.name!r} does not say what it is called on Kaggle: write kaggle="
                         f"'NAME' into its description in competition.py, NAME being that of its address, "
                         f"{SITE}/competitions/NAME")
    entries = []
    for name in run_names(args):
        entry = prepare(workspace, name, args.message)
        before = last_time(competition, entry)
        if args.dry_run:
            show_plan(competition, entry, before, solution)
        elif solution is not None:
            refuse_twice(before, args.resubmit)
            entry = replace(entry, state="scored", ref="local", **local_scores(competition, entry, solution))
            append_entry(competition, entry)
            print(f"{entry.submission}: the test labels are known here, so it was scored here and nothing was sent:"
                  f"{_scores(entry)}; written to {ledger_path(competition)}")
        else:
            entry = send(competition, entry, None if args.resubmit else before)
            print(f"{entry.submission}: {entry.state}{_scores(entry)}; written to {ledger_path(competition)}")
        entries.append(entry)
    return entries


def check_submitted(workspace: Workspace, path: Path) -> Path:
    """Prints what is wrong with a submission. Raises ValueError with all errors, if there are any."""
    competition = workspace.competition
    errors, warnings = check_file(workspace, path)
    for warning in warnings:
        print(f"warning: {warning}")
    if errors:
        raise ValueError(f"{path} must not be submitted: " + "; ".join(errors))
    print(f"{path} is as {competition.sample_submission or f'the {submitted_part(competition)} part'} asks for")
    return path


def reproduce_file(workspace: Workspace, manifest: Path) -> Path:
    """Makes a submission again from weights and images. Raises ValueError with the first thing that differs."""
    again = reproduce(workspace, manifest)
    for difference in again.differences:
        print(f"warning: another {difference.what}: {difference.said}")
    if again.other:
        raise ValueError(f"{manifest}: other bytes came out ({again.other}); " + (
            f"the first thing that differs is the {again.differences[0].what}: {again.differences[0].said}"
            if again.differences else "and nothing that the manifest knows of differs"))
    print(f"{manifest} holds: the same {again.rows} rows came out again, byte for byte, from weights and images")
    return manifest


def prepare(workspace: Workspace, name: str, message: str) -> Entry:
    """The checked submission of a run or a blend as a new ledger entry. Raises ValueError if a check finds an error."""
    competition = workspace.competition
    path = submission_path(competition, name)
    command = command_line("predict", competition, experiment=name)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; run: {command}")
    if not (manifest := path.with_suffix(".json")).exists():
        raise FileNotFoundError(f"{path} has no manifest {manifest.name}: nobody knows what it was made from; run: "
                                f"{command}")
    said, digest = read_manifest(manifest), sha256(path.read_bytes())
    if said["sha256"] != digest:
        raise ValueError(f"{path} is not the file that {manifest.name} describes: it was changed afterwards. Delete "
                         f"both and run: {command}")
    errors, warnings = check_file(workspace, path, last_sent(competition, path, digest), said)
    if errors:
        raise ValueError(f"{path} must not be submitted: " + "; ".join(errors))
    for warning in warnings:
        print(f"warning: {warning}")
    if len(one_line(message)) > LONGEST_MESSAGE:
        raise ValueError(f"--message has {len(one_line(message))} characters; {LONGEST_MESSAGE} are allowed")
    cv = read_cv(workspace, name, said, command)
    metric = METRICS[competition.metric].title
    times = sum(each.sha256 == digest for each in read_ledger(competition))
    entry = Entry(id=digest[:8] + (f"-{times + 1}" if times else ""), state="sent", run=name, metric=competition.metric,
                  **cv, submission=path.name, sha256=digest, manifest_sha256=sha256(manifest.read_bytes()))
    figures = f"CV {metric} {cv['cv']:.4f} ({cv['low']:.4f} to {cv['high']:.4f})" if cv else "CV not known"
    parts = (one_line(message), name, figures, f"manifest {entry.manifest_sha256[:12]}", entry.id)
    return replace(entry, message=" | ".join(part for part in parts if part))


def read_cv(workspace: Workspace, name: str, manifest: dict, command: str) -> dict[str, float]:
    """cv, low and high of the run that a submission was made from; {} where that is some folds only.

    Raises ValueError where the run has been trained again since: its score would be another file's.
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


def last_sent(competition: Competition, path: Path, digest: str) -> Path | None:
    """The other file that went up last, if it still stands there as it was then."""
    sent = [each for each in read_ledger(competition) if each.state != "failed" and each.sha256 != digest]
    last = path.with_name(sent[-1].submission) if sent else None
    return last if last and last.exists() and sha256(last.read_bytes()) == sent[-1].sha256 else None


def last_time(competition: Competition, entry: Entry) -> Entry | None:
    """What became of the same file when it was submitted before; None where it was not, or was turned down."""
    same = [each for each in read_ledger(competition) if each.sha256 == entry.sha256 and each.state != "failed"]
    return same[-1] if same else None


def refuse_twice(before: Entry | None, again: bool = False) -> None:
    """Raises ValueError where this file was scored before: it would cost a submission and tell nothing."""
    if before and before.state == "scored" and not again:
        raise ValueError(f"{before.submission} was submitted on {before.date} UTC and scored{_scores(before)}; the "
                         "same file scores the same. To submit it all the same: --resubmit")


def show_plan(competition: Competition, entry: Entry, before: Entry | None, solution: pd.DataFrame | None) -> None:
    """Prints what would be done. Needs neither credentials nor a network."""
    path = submission_path(competition, entry.run)
    what = "scored here, sent nowhere" if solution is not None else f"sent to {SITE}/competitions/{competition.kaggle}"
    print(f"{path}\n  {path.stat().st_size:,} bytes, sha256 {entry.sha256}\n  manifest sha256 {entry.manifest_sha256}\n"
          f"  checked; would be {what}\n  message: {entry.message}")
    if before:
        print(f"  this very file was submitted on {before.date} UTC: {before.state}{_scores(before)}")
    print("  nothing was sent and nothing written down")


def send(competition: Competition, entry: Entry, before: Entry | None) -> Entry:
    """Uploads the file, or takes up an earlier attempt, and waits for the score; returns what the ledger now says.

    Raises ValueError where the file was scored before, KaggleError where the service refuses.
    """
    refuse_twice(before)
    if before:
        print(f"{before.submission} was sent on {before.date} UTC and is {before.state}: asking for its score")
        entry = before
    else:
        append_entry(competition, entry)  # first, so that a kill from here on is known to have left something open
    if entry.state == "sent":
        print(f"{entry.submission}: sending it to {SITE}/competitions/{competition.kaggle}")
        try:
            ref = _submit(competition, entry, look_first=before is not None)
        except KaggleError as error:
            if error.kind not in PASSING:
                append_entry(competition, replace(entry, state="failed", date=_now(), message=f"{error.kind}: {error}"))
            raise
        entry = replace(entry, state="pending", ref=ref, date=_now())
        append_entry(competition, entry)
        print(f"{entry.submission}: Kaggle has it{f' as {ref}' if ref else ''}; waiting for its score")
    return wait_for_score(competition, entry)


def _submit(competition: Competition, entry: Entry, look_first: bool) -> str:
    """The number that the service gave the submission.

    Where an earlier attempt got no answer it may have arrived all the same, so the list is looked at first.
    """
    for pause in (*TRIES, None):
        try:
            if look_first and (found := _find(competition, entry)):
                return found.ref
            return submit_file(competition.kaggle, submission_path(competition, entry.run), entry.message)
        except KaggleError as error:
            if error.kind not in PASSING or pause is None:
                raise
            print(f"{error}\ntrying again in {pause:.0f} s")
            time.sleep(pause)
            look_first = True
    raise AssertionError("the last try returns or raises")


def _find(competition: Competition, entry: Entry) -> SubmissionStatus | None:
    for standing in list_submissions(competition.kaggle):
        if standing.ref == entry.ref or standing.description.split(" | ")[-1].strip() == entry.id:
            return standing
    return None


def wait_for_score(competition: Competition, entry: Entry) -> Entry:
    """Looks for the score at growing intervals, half an hour at most, and writes it down; the entry as it then is."""
    for pause in tqdm(_pauses(), desc="looking for the score", unit="look", leave=False, disable=None):
        try:
            found = _find(competition, entry)
        except KaggleError as error:
            if error.kind not in (*PASSING, "limit"):
                raise
            print(f"{error}\nlooking again in {pause:.0f} s")
            found = None
        if found and found.state != "pending":
            is_scored = found.state == "complete"
            told = entry.message if is_scored else f"{entry.message} | {found.error or 'no reason given'}"
            entry = replace(entry, state="scored" if is_scored else "failed", ref=found.ref, date=_now(),
                            public=found.public, private=found.private, message=one_line(told))
            append_entry(competition, entry)
            if not is_scored:
                raise ValueError(f"Kaggle could not score {entry.submission}: {found.error or 'it gives no reason'}. "
                                 "Nothing was wrong by the checks here; compare the file with what the competition's "
                                 f"page asks for: {SITE}/competitions/{competition.kaggle}/overview/evaluation")
            return entry
        time.sleep(pause)
    print(f"{entry.submission} has no score yet; the same command asks for it later and sends nothing")
    return entry


def _pauses() -> Iterator[float]:
    pause, waited = FIRST_PAUSE, 0.0
    while waited < PATIENCE:
        yield pause
        waited, pause = waited + pause, min(1.5 * pause, LONGEST_PAUSE)


def local_scores(competition: Competition, entry: Entry, solution: pd.DataFrame) -> dict[str, float]:
    """public and private, as an organiser would score the file; private alone where the labels name no public part.

    Where the metric is of decisions and the file holds probabilities, those from 0.5 up count as yes.
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
