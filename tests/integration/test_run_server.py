"""The run server: who may speak to it, and what it makes of malformed requests."""

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import msgspec
import pytest

from adapters.base import RunStatus
from adapters.narrative import wire
from adapters.narrative.embedded import EmbeddedAdapter
from control_plane.errors import Refused
from control_plane.jobs import Waiting
from control_plane.work import Executor, Work
from tests.narrative import ENDLESS, opened, view_of
from workers.engines.embedded import EmbeddedEngine
from workers.run_server import SOCKET, Door, open_network_door, open_unix_door, run_application, serving

pytestmark = pytest.mark.anyio

TOKEN = "a-token-that-is-long-enough"
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "an array": b"[]",
    "null": b"null",
    "another field": b'{"jobs": [], "all": true}',
    "a job that is no uuid": b'{"jobs": [{"job_id": "1; DROP TABLE jobs", "tag": "t"}]}',
    "a job without a tag": b'{"jobs": [{"job_id": "5d0ae7a5-76b9-4f0e-a6a1-0d5c5a8a4f5e"}]}',
    "an empty tag": b'{"jobs": [{"job_id": "5d0ae7a5-76b9-4f0e-a6a1-0d5c5a8a4f5e", "tag": ""}]}',
    "a tag that is a number": b'{"jobs": [{"job_id": "5d0ae7a5-76b9-4f0e-a6a1-0d5c5a8a4f5e", "tag": 1}]}',
    "nested deeply": b'{"jobs": ' + b"[" * 100_000,
}
POSTS = ["/v1/list", "/v1/stop", "/v1/close", "/v1/observe", "/v1/publish", "/v1/discard"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def client_of(path: Path, *, token: str | None = None) -> AsyncIterator[tuple[EmbeddedEngine, httpx.AsyncClient]]:
    """An engine, served at its Unix socket, and a plain client of it."""
    async with opened(path) as engine, serving(run_application(engine, token=token), open_unix_door(path)):
        transport = httpx.AsyncHTTPTransport(uds=str(path / SOCKET))
        async with httpx.AsyncClient(transport=transport, base_url="http://executor") as client:
            yield engine, client


@asynccontextmanager
async def on_the_network(path: Path) -> AsyncIterator[tuple[EmbeddedEngine, str]]:
    """An engine, served on a port of this machine for whoever has the token, and its address."""
    door = open_network_door("127.0.0.1", 0, token=TOKEN)
    async with opened(path) as engine, serving(run_application(engine, token=TOKEN), door) as address:
        yield engine, address


# --- the door


async def test_the_socket_is_its_owners_alone_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with client_of(tmp_path):
            mode = (tmp_path / SOCKET).stat().st_mode
    finally:
        os.umask(before)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_that_a_killed_process_left_is_replaced_and_its_own_is_removed(tmp_path: Path) -> None:
    open_unix_door(tmp_path).socket.close()
    assert (tmp_path / SOCKET).exists()

    async with client_of(tmp_path) as (_, client):
        assert (await client.get("/v1/identity")).status_code == 200

    assert not (tmp_path / SOCKET).exists()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="too long for a Unix socket") as refused:
        open_unix_door(tmp_path / ("deep" * 30))

    assert refused.value.field == "data_folder"


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nobody_listens_on_the_network(token: str | None) -> None:
    with pytest.raises(Refused, match="token"):
        open_network_door("127.0.0.1", 0, token=token)


def test_an_answer_over_the_network_waits_for_no_acknowledgement() -> None:
    door = open_network_door("127.0.0.1", 0, token=TOKEN)
    with door.socket, socket.create_connection(door.socket.getsockname()):
        accepted, _ = door.socket.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_an_address_that_cannot_be_bound_is_refused() -> None:
    taken = open_network_door("127.0.0.1", 0, token=TOKEN)
    port = int(taken.address.rpartition(":")[2])

    with pytest.raises(Refused, match="cannot be bound"):
        open_network_door("127.0.0.1", port, token=TOKEN)

    taken.socket.close()


@pytest.mark.parametrize("bearer", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"])
async def test_whoever_lacks_the_token_is_told_nothing(tmp_path: Path, bearer: str) -> None:
    async with on_the_network(tmp_path) as (_, address), httpx.AsyncClient() as client:
        for path in ["/v1/identity", "/v1/running", "/nothing"]:
            answer = await client.get(f"{address}{path}", headers={"authorization": bearer})

            assert answer.status_code == 401
            assert answer.json() == {"detail": "a bearer token is needed"}


async def test_whoever_has_the_token_is_answered_and_a_wrong_one_is_seen_as_not_permitted(tmp_path: Path) -> None:
    async with on_the_network(tmp_path) as (engine, address):
        executor = Executor(engine.executor_id, 1, address)
        claim = view_of(ENDLESS)
        await engine.start(claim, lambda: 30.0)
        work = Work(claim.job_id, claim.tag, executor=executor)
        right, wrong = EmbeddedAdapter(token=TOKEN), EmbeddedAdapter(token="wrong")

        seen, refused = await right.find([work]), await wrong.find([work])

        assert [run.status for run in seen[work.job_id].runs] == [RunStatus.ACTIVE]
        trouble = refused[work.job_id].trouble
        assert trouble is not None
        assert trouble.waiting is Waiting.NOT_PERMITTED
        for adapter in (right, wrong):
            await adapter.aclose()


# --- requests


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_gets_one_clear_sentence_and_changes_nothing(tmp_path: Path, body: bytes) -> None:
    async with client_of(tmp_path) as (engine, client):
        claim = view_of(ENDLESS)
        handle = await engine.start(claim, lambda: 30.0)

        for path in POSTS:
            answer = await client.post(path, content=body)

            assert answer.status_code == 400, path
            assert answer.json()["detail"].startswith("malformed request: ")
        assert engine.observe([handle])[0].status is RunStatus.ACTIVE


async def test_a_request_beyond_bounds_is_not_read_to_its_end(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (_, client):
        answer = await client.post("/v1/list", content=b" " * (wire.MOST_BYTES + 1))

        assert answer.status_code == 413


async def test_more_jobs_than_one_request_may_name_are_refused(tmp_path: Path) -> None:
    named = [wire.NamedJob(uuid4(), "t")] * (wire.MOST + 1)
    async with client_of(tmp_path) as (_, client):
        answer = await client.post("/v1/list", content=msgspec.json.encode({"jobs": named}))

        assert answer.status_code == 400
        assert str(wire.MOST) in answer.json()["detail"]


async def test_an_unknown_path_or_method_is_no_server_error(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (_, client):
        assert (await client.get("/v1/nothing")).status_code == 404
        assert (await client.get("/v1/stop")).status_code == 405


async def test_every_answer_says_who_answers(tmp_path: Path) -> None:
    fields = ["jobs", "handles", "jobs", "handles", "orders", "jobs"]
    bodies: dict[str, dict[str, list[str]]] = {path: {field: []} for path, field in zip(POSTS, fields, strict=True)}
    async with client_of(tmp_path) as (engine, client):
        answers = [await client.post(path, json=body) for path, body in bodies.items()]
        answers += [await client.get(path) for path in ("/v1/identity", "/v1/running")]

    identity = {"executor_id": engine.executor_id, "incarnation": 1}
    assert [answer.json()["identity"] for answer in answers] == [identity] * 8


async def test_a_door_is_closed_with_its_server(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        door = open_unix_door(tmp_path)
        async with serving(run_application(engine), door):
            assert isinstance(door, Door)

    assert door.socket.fileno() == -1
