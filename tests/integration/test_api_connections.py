"""Connections over a real socket: who sends no head, an endless one, or reads no answer, is let go."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from uvicorn import Config, Server

from control_plane.api.connections import Connection

ANSWER = b"x" * 40_000_000  #: more than any socket buffers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Impatient(Connection):
    head_seconds = 0.2
    unread_seconds = 0.2
    one_was_made: ClassVar[asyncio.Event]
    one_was_lost: ClassVar[asyncio.Event]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.one_was_made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.one_was_lost.set()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers much where much is wanted."""
    body = ANSWER if scope["path"] == "/much" else b"ok"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    Impatient.one_was_made = asyncio.Event()
    Impatient.one_was_lost = asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Config(application, http=Impatient, log_config=None, lifespan="off", timeout_keep_alive=60))
    serving = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def told_until_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes the connection; it has to."""
    async with asyncio.timeout(20):
        return await reader.read()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A request, and its answer."""
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: "])
async def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(sent: bytes) -> None:
    async with listening() as port:
        reader, writer = await connect(port)
        writer.write(sent)

        assert await told_until_the_end(reader) == b""
        writer.close()


async def test_an_endless_head_is_not_kept() -> None:
    async with listening() as port:
        reader, writer = await connect(port)
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * (Impatient.most_head_bytes + 1))

        assert await told_until_the_end(reader) == b""
        writer.close()


async def test_a_reader_that_does_not_read_is_let_go() -> None:
    async with listening() as port:
        with socket.create_connection(("127.0.0.1", port)) as unread:
            unread.sendall(b"GET /much HTTP/1.1\r\nHost: here\r\n\r\n")

            async with asyncio.timeout(20):
                await Impatient.one_was_lost.wait()


async def test_between_two_requests_a_connection_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as port:
        with monkeypatch.context() as patient:  # its first head comes, if late
            patient.setattr(Impatient, "head_seconds", 60.0)
            reader, writer = await connect(port)
            await Impatient.one_was_made.wait()
        await ask(reader, writer)
        silent, unused = await connect(port)
        assert await told_until_the_end(silent) == b""  # by now a head would have been waited for in vain

        await ask(reader, writer)

        for each in (writer, unused):
            each.close()
