"""Kaggle's own client in a process of its own: there it may print, exit and hang, and here none of that is noticed."""

import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

SITE = "https://www.kaggle.com"
ANSWER_SECONDS = 60          # without an answer: the client itself would wait for ever
UPLOAD_BYTES_A_SECOND = 2e5  # a slow line; a large file gets more time by it
CHILD = "from submitting import kaggle_client; kaggle_client.answer()"
PASSING = ("server", "network", "timeout")  # kinds of failure that may be over in a moment, and leave it open whether
#                                             the request arrived
LIMIT = re.compile(r"daily|allowance|submission limit|limit reached|too many|per day", re.IGNORECASE)
RULES = re.compile(r"\brules\b", re.IGNORECASE)


class KaggleError(RuntimeError):
    """The service refused or did not answer: what happened and what to do next. `kind` tells the cases apart.

    client, credentials, rules, forbidden, not_found, bad_request, limit, server, network, timeout, upload, unknown.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class SubmissionStatus:
    """A submission as the service lists it."""

    ref: str
    state: str  # pending, complete, error
    public: float | None
    private: float | None
    description: str
    error: str


def submit_file(slug: str, path: Path, message: str) -> str:
    """Uploads a file and submits it; returns the number that the service gave it, "" where it gave none.

    Raises KaggleError.
    """
    seconds = ANSWER_SECONDS + path.stat().st_size / UPLOAD_BYTES_A_SECOND
    return _ask("submit", slug, seconds, path=str(path), message=message)["ref"]


def list_submissions(slug: str) -> list[SubmissionStatus]:
    """The team's newest submissions, newest first. Raises KaggleError."""
    return [SubmissionStatus(**each) for each in _ask("list", slug, ANSWER_SECONDS)["submissions"]]


def _ask(action: str, slug: str, seconds: float, **more: str) -> dict:
    if find_spec("kaggle") is None:
        raise KaggleError("client", "the package kaggle is not installed (it needs Python 3.11): pip install -r "
                          f"requirements.txt; or upload the file by hand at {SITE}/competitions/{slug}/submit")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps({"action": action, "slug": slug, **more}),
                              capture_output=True, text=True, encoding="utf-8", timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise KaggleError("timeout", f"Kaggle did not answer within {seconds:.0f} s. {_later(action)}") from error
    try:
        said = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise KaggleError("unknown", f"Kaggle's client ended with code {done.returncode} and said:\n"
                          f"{done.stderr.strip()[-1500:]}") from error
    if "failure" in said:
        raise explain(said["failure"], said.get("status", 0), said.get("text", ""), slug, action)
    return said


def explain(failure: str, status: int, text: str, slug: str, action: str) -> KaggleError:
    """What a failure means and what to do next.

    failure: "credentials", "network", "upload" or "http";  status: of the answer, where it was an answer;  text: what
    it said;  action: "submit" or "list".
    """
    text = text.strip().removesuffix("{}")  # an empty answer
    page, said = f"{SITE}/competitions/{slug}", f" Kaggle said: {text[:300]!r}." if text else ""
    if failure == "credentials":
        return KaggleError("credentials", "there are no Kaggle credentials here, or they have expired. Make a token at "
                           f"{SITE}/settings (API, Create New Token) and put it into ~/.kaggle/access_token, or into "
                           "the variable KAGGLE_API_TOKEN; an older kaggle.json goes into ~/.kaggle/")
    if failure == "network":
        return KaggleError("network", f"Kaggle cannot be reached ({text[:300]}): is there a network? "
                           f"{_later(action)}")
    if failure == "upload":
        return KaggleError("upload", "the file could not be uploaded; nothing was submitted. Run the command again")
    if status == 401:
        return KaggleError("credentials", f"Kaggle does not accept these credentials (401).{said} Make a new token at "
                           f"{SITE}/settings and put it into ~/.kaggle/access_token or KAGGLE_API_TOKEN")
    if status == 429 or (status in (400, 403) and LIMIT.search(text)):
        return KaggleError("limit", f"no more submissions just now ({status}).{said} The daily allowance stands at "
                           f"{page}/submissions and starts anew at midnight UTC; then run the command again")
    if status == 403 and RULES.search(text):
        return KaggleError("rules", f"this account has not accepted the competition's rules (403).{said} Open "
                           f"{page}/rules in a browser, accept them, then run the command again")
    if status == 403:
        return KaggleError("forbidden", f"Kaggle refuses (403).{said} Is {slug!r} exactly the competition's name in "
                           f"its address, has this account joined it at {page} and verified its phone number, and is "
                           "it still open?")
    if status == 404:
        return KaggleError("not_found", f"Kaggle knows no competition {slug!r}, or it has ended (404).{said} Take the "
                           f"name from its address, {SITE}/competitions/NAME, and put it into `kaggle` in "
                           "competition.py")
    if status >= 500:
        return KaggleError("server", f"Kaggle has an error of its own ({status}).{said} {_later(action)}")
    if status == 400:
        return KaggleError("bad_request", f"Kaggle does not take this file (400).{said} Compare its name and format "
                           f"with what {page}/overview/evaluation asks for; a code competition takes no file but a "
                           "notebook, see make_bundle.py. 400 is also said to teams that have not joined")
    return KaggleError("unknown", f"Kaggle answered {status}.{said}")


def _later(action: str) -> str:
    return ("Run the command again: it looks first whether the submission arrived" if action == "submit" else
            "Run the command again later: it asks for the score")


def answer() -> None:
    """What the other process does: reads a question from standard input, asks Kaggle, writes the answer as JSON."""
    asked, output = json.load(sys.stdin), sys.stdout
    with redirect_stdout(sys.stderr):
        said = _answer(**asked)
    output.write(json.dumps(said))


def _answer(action: str, slug: str, path: str = "", message: str = "") -> dict:
    import requests

    try:
        from kaggle import api  # asks for a token and prints a page of help where there is none

        api.authenticate()
        return _submit(api, slug, path, message) if action == "submit" else _list(api, slug)
    except SystemExit:  # how the client says that it has no credentials
        return {"failure": "credentials"}
    except requests.exceptions.HTTPError as error:
        if error.response is None:
            return {"failure": "network", "text": str(error)}
        return {"failure": "http", **_read_error(error.response.status_code, error.response.text)}
    except requests.exceptions.RequestException as error:
        return {"failure": "network", "text": str(error)}


def _read_error(status: int, text: str) -> dict:
    """The status and the message; an answer that calls itself 200 may carry the true code inside."""
    try:
        body = json.loads(text)
    except json.JSONDecodeError:
        return {"status": status, "text": re.sub(r"<[^>]*>|\s+", " ", text)}
    if not isinstance(body, dict):
        return {"status": status, "text": text}
    code = body.get("code")
    return {"status": code if status < 400 and isinstance(code, int) else status,
            "text": str(body.get("message") or text)}


def _submit(api: object, slug: str, path: str, message: str) -> dict:
    answered = api.competition_submit(path, message, slug, quiet=True)
    if answered.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        return {"failure": "upload"}
    return {"ref": str(answered.ref or "")}


def _list(api: object, slug: str) -> dict:
    return {"submissions": [{
        "ref": str(each.ref),
        "state": each.status.name.lower(),
        "public": _number(each.public_score),
        "private": _number(each.private_score),
        "description": each.description or "",
        "error": each.error_description or "",
    } for each in api.competition_submissions(slug) or [] if each]}


def _number(text: str | None) -> float | None:
    return float(text) if text else None
