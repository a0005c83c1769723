"""Kaggle's own client in a process of its own, since it prints, exits without credentials and waits without limit."""

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
ANSWER_SECONDS = 60  # without an answer
UPLOAD_BYTES_PER_SECOND = 2e5  # of a slow line; large files get more time
CHILD = "from submitting import kaggle_client; kaggle_client.answer()"
TRANSIENT = ("server", "network", "timeout")  # kinds of error after which the request may have arrived all the same
LIMIT = re.compile(r"daily|allowance|submission limit|limit reached|too many|per day", re.IGNORECASE)
RULES = re.compile(r"\brules\b", re.IGNORECASE)
ADVICE = {  # by kind of error: what happened and what to do next
    "client": "the package kaggle is not installed (it needs Python 3.11): pip install -r requirements.txt; or upload "
              "the file by hand at {page}/submit",
    "credentials": "there are no Kaggle credentials here, or Kaggle does not accept them.{answer} Make a new token at "
                   "{site}/settings (API, Create New Token) and put it into ~/.kaggle/access_token, or into the "
                   "variable KAGGLE_API_TOKEN; an older kaggle.json goes into ~/.kaggle/",
    "network": "Kaggle cannot be reached; is there a network?{answer} {later}",
    "timeout": "Kaggle did not answer within {seconds:.0f} s. {later}",
    "server": "Kaggle has an internal error.{answer} {later}",
    "upload": "the file could not be uploaded; nothing was submitted. Run the command again",
    "limit": "no more submissions are allowed now.{answer} {page}/submissions shows the daily limit, which is reset at "
             "midnight UTC; then run the command again",
    "rules": "this account has not accepted the competition's rules.{answer} Open {page}/rules in a browser, accept "
             "them, then run the command again",
    "forbidden": "Kaggle denies access.{answer} Is {slug!r} exactly the competition's name in its address, has this "
                 "account joined it at {page} and verified its phone number, and is it still open?",
    "not_found": "Kaggle has no competition {slug!r}, or it has ended.{answer} Take the name from its address, "
                 "{site}/competitions/NAME, and put it into `kaggle` in competition.py",
    "bad_request": "Kaggle does not accept this file.{answer} Compare its name and format with {page}/overview/"
                   "evaluation; a code competition takes a notebook and no file, see make_bundle.py. A team that has "
                   "not joined gets this answer too",
    "unknown": "Kaggle's client failed.{answer}",
}
LATER = {"submit": "Run the command again: it first checks whether the submission arrived",
         "list": "Run the command again later: it asks for the score"}


class KaggleError(RuntimeError):
    """An error of the service or its client: what happened and what to do next.  kind: a key of ADVICE."""

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
    """Uploads a file and submits it; returns the number that the service gave it, "" if none. Raises KaggleError."""
    seconds = ANSWER_SECONDS + path.stat().st_size / UPLOAD_BYTES_PER_SECOND
    return _ask("submit", slug, seconds, path=str(path), message=message)["ref"]


def list_submissions(slug: str) -> list[SubmissionStatus]:
    """The team's newest submissions, newest first. Raises KaggleError."""
    return [SubmissionStatus(**each) for each in _ask("list", slug, ANSWER_SECONDS)["submissions"]]


def explain(kind: str, slug: str, action: str, text: str = "", seconds: float = 0) -> KaggleError:
    """The error of a kind with its advice.  action: "submit" or "list";  text: the answer of the service."""
    answer = f" Kaggle's answer: {text[:300]!r}." if text else ""
    page = f"{SITE}/competitions/{slug}"
    return KaggleError(kind, ADVICE[kind].format(site=SITE, page=page, slug=slug, answer=answer, later=LATER[action],
                                                 seconds=seconds))


def classify(status: int, text: str) -> str:
    """The kind of error that an HTTP status and the message in its answer mean."""
    if status == 429 or (status in (400, 403) and LIMIT.search(text)):
        return "limit"
    if status == 403 and RULES.search(text):
        return "rules"
    known = {400: "bad_request", 401: "credentials", 403: "forbidden", 404: "not_found"}
    return "server" if status >= 500 else known.get(status, "unknown")


def _ask(action: str, slug: str, seconds: float, **more: str) -> dict:
    if find_spec("kaggle") is None:
        raise explain("client", slug, action)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps({"action": action, "slug": slug, **more}),
                              capture_output=True, text=True, encoding="utf-8", timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise explain("timeout", slug, action, seconds=seconds) from error
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise KaggleError("unknown", f"Kaggle's client ended with code {done.returncode}:\n"
                                     f"{done.stderr.strip()[-1500:]}") from error
    if "error" in result:
        raise explain(result["error"], slug, action, result.get("text", ""))
    return result


def answer() -> None:
    """Runs in the other process: reads a request from standard input, asks Kaggle, writes the result as JSON."""
    request, output = json.load(sys.stdin), sys.stdout
    with redirect_stdout(sys.stderr):
        result = _answer(**request)
    output.write(json.dumps(result))


def _answer(action: str, slug: str, path: str = "", message: str = "") -> dict:
    import requests

    try:
        from kaggle import api

        api.authenticate()
        return _submit(api, slug, path, message) if action == "submit" else _list(api, slug)
    except SystemExit:  # the client found no credentials
        return {"error": "credentials"}
    except requests.exceptions.RequestException as error:
        if getattr(error, "response", None) is None:
            return {"error": "network", "text": str(error)}
        status, text = _read_error(error.response.status_code, error.response.text)
        return {"error": classify(status, text), "text": f"{status} {text}".strip()}


def _read_error(status: int, text: str) -> tuple[int, str]:
    """The status and the message of an answer; an answer of status 200 may have the true code in its body."""
    try:
        body = json.loads(text)
    except json.JSONDecodeError:
        return status, re.sub(r"<[^>]*>|\s+", " ", text).strip()
    if not isinstance(body, dict):
        return status, text
    code, message = body.get("code"), body.get("message") or (text if body else "")
    return code if status < 400 and isinstance(code, int) else status, str(message)


def _submit(api: object, slug: str, path: str, message: str) -> dict:
    response = api.competition_submit(path, message, slug, quiet=True)
    if response.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        return {"error": "upload"}
    return {"ref": str(response.ref or "")}


def _list(api: object, slug: str) -> dict:
    return {"submissions": [{
        "ref": str(each.ref),
        "state": each.status.name.lower(),
        "public": float(each.public_score) if each.public_score else None,
        "private": float(each.private_score) if each.private_score else None,
        "description": each.description or "",
        "error": each.error_description or "",
    } for each in api.competition_submissions(slug) or [] if each]}
