"""The load of the benchmarks: by our own client, and by wrk where it is installed."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.api_request import CONNECTIONS, flood, flood_unit
from benchmarks.ground import Ground
from tests.databases import Databases

LINES = [f"POST /jobs/{number}/request-cancellation" for number in range(500)]
BODY = '{"state": {"type": "CANCELLING", "name": "a b"}}'


class Listener(ThreadingHTTPServer):
    """Notes what it is asked, and refuses some paths."""

    request_queue_size = CONNECTIONS

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.heard: Counter[tuple[str, ...]] = Counter()
        self.refused: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        with self:
            thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield
            self.shutdown()
            thread.join()


class Answer(BaseHTTPRequestHandler):
    """201, or 409 where it is to refuse."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.heard[self.path, self.headers["Authorization"], self.headers["Content-Type"] or "", body] += 1
        self.send_response(409 if self.path in self.server.refused else 201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's word)
        """Nothing is said."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    with listener.listening():
        yield listener


@pytest.fixture(params=["", os.environ["PATH"]], ids=["without_wrk", "as_installed"])
def ground(
    databases: Databases, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Ground:
    ground = Ground(databases.postgres(), tmp_path)  # which may be found on the PATH, too
    monkeypatch.setenv("PATH", request.param)
    return ground


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("secret")
    return file


def test_every_request_is_asked_once_and_once_only(ground: Ground, token: Path, listener: Listener) -> None:
    rate = flood(ground, listener.server_port, token, LINES)

    assert listener.heard == {(line.removeprefix("POST "), "Bearer secret", "", ""): 1 for line in LINES}
    assert rate > 0


def test_a_requests_body_is_sent_as_json(ground: Ground, token: Path, listener: Listener) -> None:
    flood(ground, listener.server_port, token, [f"POST /first {BODY}", "POST /second"])

    assert listener.heard == {
        ("/first", "Bearer secret", "application/json", BODY): 1,
        ("/second", "Bearer secret", "", ""): 1,
    }


def test_one_refused_request_fails_the_load(ground: Ground, token: Path, listener: Listener) -> None:
    listener.refused.add("/jobs/7/request-cancellation")

    with pytest.raises(RuntimeError, match=r"1 of 500 requests were refused|409 for .*/jobs/7/"):
        flood(ground, listener.server_port, token, LINES)


def test_the_unit_says_by_which_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    without = flood_unit()
    (tmp_path / "wrk").touch(mode=0o755)

    assert (without, flood_unit()) == ("requests/s by our client", "requests/s by wrk")
