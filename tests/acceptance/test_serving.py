"""``countermand serve`` and ``countermand tokens``: the API, as whoever has nothing but a URL and a token sees it."""

import json
import socket
import threading
from contextlib import suppress
from uuid import UUID

import httpx
import pytest

from control_plane.api.connections import Connection
from control_plane.jobs import JobType
from control_plane.tokens import Tokens
from tests.acceptance.site import Site, Started, until
from tests.narrative import ENDLESS, view_input

#: Well before the end of a long poll.
SOON = 30.0
READER_AND_WRITER = ("--permission", "jobs:read", "--permission", "jobs:write")


def token(site: Site, name: str, *options: str) -> str:
    """The text of a new token."""
    made = site.run("tokens", "create", name, *options, "--json")
    text: str = json.loads(made.stdout)["token"]
    return text


def client(server: Started, bearer: str) -> httpx.Client:
    """Somebody who speaks to it."""
    [started] = server.events("server_started")
    headers = {"Authorization": f"Bearer {bearer}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{started['port']}", headers=headers, timeout=60)


def test_a_running_job_is_submitted_and_cancelled_with_nothing_but_a_url_and_a_token(site: Site) -> None:
    plane = site.plane()
    site.executor(plane)
    site.worker()
    job = {"data_plane_id": str(plane), "type": JobType.MATERIALIZE_VIEW, "input": view_input(ENDLESS)}

    with client(site.serve(), token(site, "airflow", *READER_AND_WRITER)) as api:
        path = f"/jobs/{api.post('/jobs', json=job).raise_for_status().json()['job_id']}"
        until(lambda: api.get(path).json()["state"] == "running", what="that it runs")
        asked = api.post(f"{path}/request-cancellation", json={"reason": "wrong month"}).raise_for_status()
        until(lambda: api.get(path).json()["state"] == "cancelled", what="that it is cancelled")
        told = api.get(f"{path}/cancellation").json()

    assert asked.json()["state"] == "pending_cancellation"
    assert (told["receipt"]["outcome"], told["proven"]) == ("stopped", True)
    assert told["cancellation"]["requested_by"] == {"type": "process", "name": "token:airflow"}
    assert told["cancellation"]["reason"] == "wrong month"


def test_a_server_that_is_told_to_end_lets_its_long_polls_go_and_exits_with_0(site: Site) -> None:
    plane = site.plane()
    server, answers = site.serve(), list[httpx.Response]()
    with client(server, token(site, "worker", "--permission", "jobs:write", "--plane", str(plane))) as api:
        asked = {"worker": "w", "limit": 1, "wait_seconds": 55}
        waiting = threading.Thread(
            target=lambda: answers.append(api.post(f"/data-planes/{plane}/cancellations/claim", json=asked))
        )
        waiting.start()
        until(lambda: Tokens(site.store).known()[0].last_used_at, what="the long poll")

        code = server.terminate(seconds=SOON)

        waiting.join(SOON)
    assert code == 0
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"assignments": []})]


def test_a_served_connection_does_not_wait_for_an_endless_head(sqlite_site: Site) -> None:
    [started] = sqlite_site.serve().events("server_started")

    with socket.create_connection(("127.0.0.1", started["port"]), timeout=20) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (Connection.most_head_bytes + 1))
        with suppress(ConnectionResetError):  # it did not read everything
            assert endless.recv(1) == b""


def test_an_address_that_is_taken_is_refused_in_a_sentence(sqlite_site: Site) -> None:
    with client(sqlite_site.serve(), "nobody's") as api:
        refused = sqlite_site.run("serve", "--port", str(api.base_url.port))

    assert refused.returncode == 10
    assert refused.stderr.startswith(f"countermand: server: nothing can listen at 127.0.0.1:{api.base_url.port}")


def test_a_token_is_shown_once_and_refused_once_it_is_revoked(sqlite_site: Site) -> None:
    text = token(sqlite_site, "airflow", *READER_AND_WRITER)
    token_id = str(UUID(text.split("_")[1]))

    listed = sqlite_site.run("tokens", "list", "--json")
    revoked = sqlite_site.run("tokens", "revoke", token_id, "--json")

    [record] = json.loads(listed.stdout)["records"]
    assert (record["token_id"], record["name"]) == (token_id, "airflow")
    assert text.split("_")[2] not in listed.stdout
    assert json.loads(revoked.stdout)["revoked_at"] is not None
    with client(sqlite_site.serve(), text) as api:
        assert api.get("/jobs").status_code == 401


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ((), 2, "permissions: at least one is needed"),
        (("--permission", "jobs:delete"), 2, "permission: 'jobs:delete' is not one of"),
        (("--permission", "jobs:read", "--plane", "nowhere"), 5, "data_plane: there is no data plane 'nowhere'"),
        (("--permission", "jobs:read", "--company", "0"), 2, "company_id: a number from 1"),
        (("--permission", "jobs:read", "--days", "-1"), 2, "days: a number above 0"),
    ],
)
def test_a_token_that_cannot_be_made_gets_one_sentence(
    sqlite_site: Site, options: tuple[str, ...], code: int, sentence: str
) -> None:
    refused = sqlite_site.run("tokens", "create", "x", *options)

    assert refused.returncode == code
    assert refused.stderr.startswith(f"countermand: {sentence}")
    assert refused.stderr.count("\n") == 1
    assert json.loads(sqlite_site.run("tokens", "list", "--json").stdout)["records"] == []
