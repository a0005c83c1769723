"""Submitting: only checked files are uploaded, each once; errors say what to do next; scores are recorded.

Tests with the real client use a local server in place of Kaggle; they are skipped if the client is not installed.
"""

import socket
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

import leaderboard
import make_demo
import make_folds
import submit
from common.files import read_json, sha256
from competition import COMPETITIONS
from kaggle_server import listed, serve
from results.runs import run_folder
from results.workspace import Workspace
from scoring.metrics import roc_auc
from submitting import checks, kaggle_client
from submitting.kaggle_client import KaggleError, SubmissionStatus, classify, explain
from submitting.ledger import Entry, ledger_path, read_ledger
from submitting.manifest import write_manifest
from submitting.submission import fill_submission, read_template, submission_path, template_inputs, write_submission
from untrained import write_untrained

DEMO = COMPETITIONS["demo"]
UPLOADED = replace(DEMO, kaggle="chest-demo")
HAS_CLIENT = find_spec("kaggle") is not None
NEEDS_CLIENT = pytest.mark.skipif(not HAS_CLIENT, reason="the package kaggle is not installed (it needs Python 3.11)")


@pytest.fixture(scope="module")
def demo_once(tmp_path_factory):
    """A small demo with the out-of-fold predictions of a run that nobody trained, and its submission."""
    home = tmp_path_factory.mktemp("submit")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STARTER_HOME", str(home))
        make_demo.main(["--images", "60", "--set", "test_images=40"])
        make_folds.main(["--folds", "2"])
        for seed, name in enumerate(("run", "other", "third")):
            oof, *_ = write_untrained(DEMO, name, seed)
            workspace = Workspace(DEMO, home / "data" / "demo")
            template = read_template(workspace)
            ids, probs = template.frame["image_id"], np.random.default_rng(seed).random((40, 3))
            frame, metadata = fill_submission(workspace, template, ids, probs, oof.probs)
            write_submission(DEMO, name, template, frame, template_inputs(DEMO, template) | {"weights": oof.made_of},
                             metadata)
    return home


@pytest.fixture
def demo(demo_once, monkeypatch):
    """The demo with an empty ledger."""
    monkeypatch.setenv("STARTER_HOME", str(demo_once))
    for path in (demo_once / "submissions").glob("*ledger*"):
        path.unlink()
    return demo_once


@pytest.fixture
def uploaded(demo, monkeypatch):
    """The same as a competition on Kaggle, with nothing waited for."""
    monkeypatch.setitem(COMPETITIONS, "demo", UPLOADED)
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(submit, "cross_validated", lambda *arguments: (0.75, 0.7, 0.8))  # a bootstrap each time
    return demo


# ---- before the upload


def test_a_dry_run_shows_the_upload_and_writes_nothing(uploaded, monkeypatch, capsys):
    def fail(*arguments):
        raise AssertionError("a dry run uses no network")

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(kaggle_client.subprocess, "run", fail)
    entry, = submit.main(["--experiment", "run", "--dry-run", "--message", "a\nb, \"c\" \x1b[31m ünï\udc80"])
    said = capsys.readouterr().out
    assert all(part in said for part in (
        "kaggle.com/competitions/chest-demo", str(submission_path(DEMO, "run")), entry.sha256, entry.message))
    assert entry.message == (f'a b, "c"  [31m ünï | run | CV ROC AUC {entry.cv:.4f} ({entry.low:.4f} to '
                             f'{entry.high:.4f}) | manifest {entry.manifest_sha256[:12]} | {entry.id}')
    assert not ledger_path(DEMO).exists()


def test_the_cv_in_the_message_is_the_leaderboards(demo):
    entry, = submit.main(["--experiment", "run", "--dry-run"])
    board = leaderboard.main([]).set_index("run")
    assert (entry.cv, entry.low, entry.high) == pytest.approx(tuple(board.loc["run", ["cv", "low", "high"]]))


def change(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(("change_file", "message"), [
    (lambda path: path.unlink(), "there is no .*run: python src/predict.py --competition demo --experiment changed"),
    (lambda path: path.with_suffix(".json").unlink(), "has no manifest"),
    (lambda path: change(path.with_suffix(".json"), '"python": "', '"python": "9'), "was changed after it was written"),
    (lambda path: change(path, "0.", "0.9"), "was changed afterwards"),
    (lambda path: change(path, "image_id,", "id,"), "was changed afterwards"),
])
def test_a_file_that_differs_from_its_manifest_is_not_uploaded(uploaded, change_file, message):
    path = submission_path(DEMO, "changed")
    for suffix in (".csv", ".json"):
        path.with_suffix(suffix).write_bytes(submission_path(DEMO, "run").with_suffix(suffix).read_bytes())
    change_file(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        submit.main(["--experiment", "changed"])
    assert not ledger_path(DEMO).exists()


def test_a_file_with_errors_is_not_uploaded_even_with_a_manifest(uploaded):
    path = submission_path(DEMO, "unsound")
    path.write_text(submission_path(DEMO, "run").read_text().replace("0.", "7.", 1))
    said = read_json(submission_path(DEMO, "run").with_suffix(".json"))
    write_manifest(path.with_suffix(".json"), said | {"sha256": submit.sha256(path.read_bytes())})
    with pytest.raises(ValueError, match="must not be submitted: .*lie outside 0 to 1"):
        submit.main(["--experiment", "unsound"])


def test_a_submission_of_earlier_models_is_an_error(uploaded):
    result = run_folder(DEMO, "third") / "fold1" / "result.json"
    before = result.read_text()
    change(result, '"weights_sha256": "', '"weights_sha256": "0')
    try:
        with pytest.raises(ValueError, match=r"made by other models than third has now \(third/fold1\)"):
            submit.main(["--experiment", "third"])
    finally:
        result.write_text(before)


def test_a_competition_without_a_name_on_kaggle_is_an_error(demo, monkeypatch):
    monkeypatch.setitem(COMPETITIONS, "demo", replace(DEMO, solution=None))
    with pytest.raises(ValueError, match="set kaggle='NAME' in competition.py"):
        submit.main(["--experiment", "run", "--dry-run"])


@pytest.mark.parametrize("name", ["Titanic", "a b", "competitions/titanic", "https://www.kaggle.com/c/x", "a--b", ""])
def test_a_wrong_kaggle_name_is_an_error(name):
    with pytest.raises(ValueError, match="is not a name as in the address"):
        replace(DEMO, kaggle=name)


def test_a_message_that_is_too_long_is_an_error(uploaded):
    with pytest.raises(ValueError, match="--message has 201 characters; 200 are allowed"):
        submit.main(["--experiment", "run", "--message", "x" * 201])


# ---- where the labels are known


def test_known_labels_are_scored_here_without_an_upload(demo, capsys):
    entry, = submit.main(["--experiment", "run"])
    frame = pd.read_csv(submission_path(DEMO, "run"), dtype={"image_id": str}).set_index("image_id")
    truth = pd.read_csv(demo / "data" / "demo" / "solution.csv", dtype={"image_id": str})
    for usage in ("Public", "Private"):
        part = truth[truth["Usage"] == usage]
        labels = list(DEMO.labels)
        wanted = roc_auc(part[labels].to_numpy(float), frame.loc[part["image_id"], labels].to_numpy(), "multilabel")
        assert getattr(entry, usage.lower()) == pytest.approx(wanted)
    assert entry.state == "scored" and entry.ref == "local"
    assert "scored here and nothing was uploaded" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"was submitted on .* and scored public .*--resubmit"):
        submit.main(["--experiment", "run"])
    again, = submit.main(["--experiment", "run", "--resubmit"])
    assert again.id == f"{entry.id}-2" and len(read_ledger(DEMO)) == 2


@pytest.mark.parametrize(("form", "header", "rows"), [
    ("labels", "image_id,b,a", ("2,1,0", "1,0,1", "3,1,1")), ("text", "image_id,found", ("2,b", "1,a", "3,b a"))])
def test_hard_labels_are_scored_as_written(home, form, header, rows):
    hard = replace(DEMO, name="hard", labels=("a", "b"), metric="f1_macro", submission=form, label_list_column="found",
                   label_separator=" ")
    path = submission_path(hard, "run")
    path.parent.mkdir()
    path.write_text("\n".join((header, *rows)))
    solution = pd.DataFrame({"image_id": ["1", "2", "3"], "a": [1.0, 1, 0], "b": [0.0, 1, -1], "usage": "Private"})
    entry = Entry(id="1", state="sent", run="run", metric="f1_macro", submission=path.name, sha256="0" * 64)
    # a: one of two found, one wrongly: F1 = 1/2; b: all right where it is certain
    assert submit.local_scores(hard, entry, solution) == {"private": pytest.approx((0.5 + 1) / 2)}


def test_the_leaderboard_shows_cv_against_scores(demo, capsys):
    submit.main(["--experiment", "run", "other", "third"])
    leaderboard.main([])
    said = capsys.readouterr().out
    assert "ROC AUC of submissions" in said and "public: 3 runs; scores lie" in said
    assert (demo / "runs" / "demo" / "cv_lb.png").stat().st_size > 10_000


# ---- interrupted and pending submissions


class Scripted:
    """Kaggle as a script of answers: an error is raised, anything else is returned."""

    def __init__(self, monkeypatch, submits=(), lists=()):
        self.answers, self.asked = {"submit": list(submits), "list": list(lists)}, []
        monkeypatch.setattr(submit, "submit_file", lambda slug, path, message: self.answer("submit", message))
        monkeypatch.setattr(submit, "list_submissions", lambda slug: self.answer("list", ""))

    def answer(self, kind, message):
        self.asked.append(kind)
        self.message = message or getattr(self, "message", "")
        answer = self.answers[kind].pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer(self) if callable(answer) else answer


def listing(state="complete", **more):
    return lambda kaggle: [SubmissionStatus(**{"ref": "77", "state": state, "public": 0.7, "private": None, "error": "",
                                       "description": kaggle.message, **more})]


def failure(kind):
    return KaggleError(kind, f"error {kind}")


def states():
    return [line.split(",")[2] for line in ledger_path(DEMO).read_text().splitlines()[1:]]


def test_a_score_that_is_late_is_waited_for(uploaded, monkeypatch):
    kaggle = Scripted(monkeypatch, ["77"], [[], failure("limit"), listing("pending"), failure("network"), listing()])
    entry, = submit.main(["--experiment", "run"])
    assert (entry.state, entry.ref, entry.public, entry.private) == ("scored", "77", 0.7, None)
    kept, = read_ledger(DEMO)
    assert (kept.message, kept.public, kept.cv) == (entry.message, 0.7, 0.75)
    assert states() == ["sent", "pending", "scored"]
    assert kaggle.asked == ["submit"] + 5 * ["list"]


def test_the_same_command_asks_later_without_a_second_upload(uploaded, monkeypatch):
    monkeypatch.setattr(submit, "TOTAL_WAIT", 20.0)
    kaggle = Scripted(monkeypatch, ["77"], [[]] * 3)
    assert submit.main(["--experiment", "run"])[0].state == "pending"
    assert kaggle.asked == ["submit", "list", "list", "list"]
    kaggle = Scripted(monkeypatch, [], [listing()])
    assert submit.main(["--experiment", "run"])[0].public == 0.7
    assert kaggle.asked == ["list"] and states() == ["sent", "pending", "scored"]
    with pytest.raises(ValueError, match="scored public 0.7"):
        submit.main(["--experiment", "run"])


def test_pauses_grow_and_end():
    pauses = list(submit._pauses())
    assert pauses == sorted(pauses) and pauses[0] == submit.FIRST_PAUSE and max(pauses) == submit.LONGEST_PAUSE
    assert sum(pauses[:-1]) < submit.TOTAL_WAIT <= sum(pauses)


def test_a_kill_after_the_upload_does_not_upload_twice(uploaded, monkeypatch):
    kaggle = Scripted(monkeypatch, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        submit.main(["--experiment", "run"])
    message = kaggle.message
    kaggle = Scripted(monkeypatch, [], [listing(description=message)] * 2)
    entry, = submit.main(["--experiment", "run"])
    assert entry.state == "scored" and kaggle.asked == ["list", "list"]


def test_a_kill_before_the_upload_uploads(uploaded, monkeypatch):
    Scripted(monkeypatch, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        submit.main(["--experiment", "run"])
    kaggle = Scripted(monkeypatch, ["77"], [listing(description="another | 12345678", ref="3"), listing()])
    assert submit.main(["--experiment", "run"])[0].state == "scored"
    assert kaggle.asked == ["list", "submit", "list"] and len(read_ledger(DEMO)) == 1


@pytest.mark.parametrize("kind", kaggle_client.TRANSIENT)
def test_a_transient_error_is_retried_after_reading_the_list(uploaded, monkeypatch, kind):
    kaggle = Scripted(monkeypatch, [failure(kind), "77"], [[], listing()])
    assert submit.main(["--experiment", "run"])[0].state == "scored"
    assert kaggle.asked == ["submit", "list", "submit", "list"]
    assert kaggle.asked.count("submit") == 2


def test_retries_end_and_leave_the_entry_unconfirmed(uploaded, monkeypatch):
    kaggle = Scripted(monkeypatch, [failure("server")] * 3, [[], []])
    with pytest.raises(KaggleError, match="error server"):
        submit.main(["--experiment", "run"])
    assert kaggle.asked == ["submit", "list", "submit", "list", "submit"] and states() == ["sent"]


@pytest.mark.parametrize("kind", ["rules", "credentials", "limit", "not_found", "bad_request", "forbidden", "client"])
def test_other_errors_are_not_retried_but_may_be_corrected(uploaded, monkeypatch, kind):
    kaggle = Scripted(monkeypatch, [failure(kind)])
    with pytest.raises(KaggleError, match=f"error {kind}"):
        submit.main(["--experiment", "run"])
    assert kaggle.asked == ["submit"] and states() == ["sent", "failed"]
    kaggle = Scripted(monkeypatch, ["77"], [listing()])
    assert submit.main(["--experiment", "run"])[0].state == "scored"


def test_a_file_that_kaggle_cannot_score_is_an_error(uploaded, monkeypatch):
    Scripted(monkeypatch, ["77"], [listing("error", error="Row 3\nhas no id", public=None)])
    with pytest.raises(ValueError, match="could not score demo-run.csv: Row 3"):
        submit.main(["--experiment", "run"])
    entry, = read_ledger(DEMO)
    assert entry.state == "failed" and entry.message.endswith("| Row 3 has no id")


# ---- errors of the service


@pytest.mark.parametrize(("status", "text", "kind", "advice"), [
    (400, "Your team has used its daily Submission allowance (5) today", "limit", "midnight UTC"),
    (400, "Bad Request", "bad_request", "overview/evaluation"),
    (401, "", "credentials", "new token"),
    (403, "You cannot submit until you accept the competition rules", "rules", "competitions/slug/rules"),
    (403, "Permission 'competitions.participate' was denied", "forbidden", "joined it"),
    (404, "", "not_found", "`kaggle` in competition.py"),
    (429, "", "limit", "midnight UTC"),
    (500, "", "server", "first checks whether the submission arrived"),
    (418, "teapot", "unknown", "teapot"),
])
def test_every_error_has_its_kind_and_advice(status, text, kind, advice):
    error = explain(classify(status, text), "slug", "submit", text)
    assert error.kind == kind and advice in str(error) and text in str(error)


def test_a_missing_client_is_an_error_with_an_alternative(tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client, "find_spec", lambda name: None)
    (tmp_path / "a.csv").touch()
    with pytest.raises(KaggleError, match="pip install -r requirements.txt; or upload the file by hand"):
        kaggle_client.submit_file("slug", tmp_path / "a.csv", "")


# ---- the real client


@pytest.fixture
def service(uploaded, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials but those that the test gives
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    with serve() as (service, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield service


@NEEDS_CLIENT
def test_the_real_client_submits_and_reads_a_late_score(service):
    service.answers["ListSubmissions"] = [
        (503, "<p>busy</p>"), (200, lambda asked: listed(asked, "PENDING")),
        (200, lambda asked: listed(asked, publicScore="0.81234", privateScore=""))]
    entry, = submit.main(["--experiment", "run", "--message", 'ünï, "x"'])
    assert (entry.state, entry.public, entry.private, entry.ref) == ("scored", 0.81234, None, "77")
    assert service.kinds() == ["StartSubmissionUpload", "upload", "CreateSubmission"] + 3 * ["ListSubmissions"]
    assert service.sent("CreateSubmission") == {"competitionName": "chest-demo", "blobFileTokens": "token",
                                                "submissionDescription": entry.message}
    assert service.sent("upload") == submission_path(DEMO, "run").read_text()
    assert service.sent("StartSubmissionUpload")["fileName"] == "demo-run.csv"


@NEEDS_CLIENT
@pytest.mark.parametrize(("request_kind", "status", "content", "kind"), [
    ("StartSubmissionUpload", 401, "<html>no</html>", "credentials"),
    ("StartSubmissionUpload", 403, {"code": 403, "message": "You must accept this competition's rules"}, "rules"),
    ("StartSubmissionUpload", 404, {"code": 404, "message": "NotFound"}, "not_found"),
    ("CreateSubmission", 400, {"code": 400, "message": "used its daily Submission allowance (5)"}, "limit"),
    ("CreateSubmission", 200, {"code": 403, "message": "accept the rules"}, "rules"),
    ("upload", 403, {}, "upload"),
])
def test_errors_of_the_real_client_have_their_kind(service, request_kind, status, content, kind):
    service.answers[request_kind] = [(status, content)]
    with pytest.raises(KaggleError) as caught:
        submit.main(["--experiment", "run"])
    assert caught.value.kind == kind and states() == ["sent", "failed"]


@NEEDS_CLIENT
def test_a_submission_that_arrived_despite_an_error_is_found(service):
    service.answers["CreateSubmission"] = [(500, {})]
    service.answers["ListSubmissions"] = [(200, lambda asked: listed(asked, publicScore="0.5"))]
    assert submit.main(["--experiment", "run"])[0].public == 0.5
    assert service.kinds().count("CreateSubmission") == 1


@NEEDS_CLIENT
def test_a_service_that_hangs_is_a_timeout(service, monkeypatch):
    monkeypatch.setattr(kaggle_client, "ANSWER_SECONDS", 3)
    monkeypatch.setattr(submit, "RETRY_PAUSES", ())
    service.answers["StartSubmissionUpload"] = [(0, {})]
    with pytest.raises(KaggleError, match="did not answer within 3 s"):
        submit.main(["--experiment", "run"])
    assert states() == ["sent"]


@NEEDS_CLIENT
def test_without_credentials_the_real_client_is_an_error(service, monkeypatch, capfd):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(KaggleError, match="no Kaggle credentials here.*settings") as caught:
        submit.main(["--experiment", "run"])
    assert caught.value.kind == "credentials" and service.asked == []
    said = capfd.readouterr()
    assert said.err == "" and "kaggle.json" not in said.out


@NEEDS_CLIENT
def test_without_a_network_the_real_client_is_an_error(service, monkeypatch):
    monkeypatch.setattr(submit, "RETRY_PAUSES", ())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(KaggleError, match="cannot be reached.*is there a network") as caught:
            submit.main(["--experiment", "run"])
    assert caught.value.kind == "network" and states() == ["sent"]


def test_a_file_is_compared_with_the_last_uploaded_one(demo):
    path = submission_path(DEMO, "run")
    raw, before = path.read_bytes(), submit.main(["--experiment", "run"])[0].sha256
    assert submit.last_submitted(DEMO, path, before) is None
    assert submit.last_submitted(DEMO, submission_path(DEMO, "other"), "0" * 64) == path
    change(path, "0.", "0.0")  # predicted again: what was sent does not stand there any more
    assert submit.last_submitted(DEMO, path, sha256(path.read_bytes())) is None
    path.write_bytes(raw)
    assert checks._newest_other(DEMO, path) != ledger_path(DEMO)
