"""A small web server in the place of Kaggle, for the real client: it answers as a script tells it to, and writes down
what it was asked.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service:
    """Every kind of request has its answers, (status, content), one after the other; the last is given for ever."""

    def __init__(self):
        self.hanging = threading.Event()  # set when the test is over: lets a request that hangs go
        self.asked = []  # (kind, content) of every request
        self.answers = {
            "StartSubmissionUpload": [(200, {"token": "token", "createUrl": "http://localhost/upload"})],
            "upload": [(200, {})],
            "CreateSubmission": [(200, {"message": "Successfully submitted", "ref": 77})],
            "ListSubmissions": [(200, {"submissions": []})],
            "SaveKernel": [(200, {"ref": "/code/me/kernel", "url": "http://localhost/me", "versionNumber": 1})],
        }

    def kinds(self) -> list[str]:
        """What was asked for, in its order."""
        return [kind for kind, _ in self.asked]

    def sent(self, kind: str) -> dict:
        """What the last request of a kind said."""
        return [content for each, content in self.asked if each == kind][-1]

    def answer(self, kind: str, raw: bytes) -> tuple[int, dict | str]:
        self.asked.append((kind, raw.decode() if kind == "upload" else json.loads(raw or b"{}")))
        answers = self.answers[kind]
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:
            self.hanging.wait(20)
            return 500, {}
        return status, content(self) if callable(content) else content


def listed(service: Service, status: str = "COMPLETE", **more: str) -> dict:
    """The list of submissions with the one that was made last."""
    said = service.sent("CreateSubmission").get("submissionDescription", "")
    return {"submissions": [{"ref": 77, "status": status, "description": said, "fileName": "submission.csv", **more}]}


@contextmanager
def serve() -> Iterator[tuple[Service, dict[str, str]]]:
    """The service, and the environment in which Kaggle's client asks it.

    The client knows a "localhost" at port 80 of its own; that the requests arrive here, at a free port, is done by
    naming this server as their proxy.
    """
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = service.answer(self.path.rpartition("/")[2], raw)
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET = reply

        def log_message(self, *arguments: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):  # a client that was stopped while it waited
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    proxy = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service, {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "",
                        "NO_PROXY": "", "KAGGLE_USERNAME": "me", "KAGGLE_KEY": "key"}
    finally:
        service.hanging.set()
        server.shutdown()
        server.server_close()
        thread.join()
