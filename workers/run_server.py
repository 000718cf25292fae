"""The embedded executor's HTTP protocol: what a canceller asks of runs that live in the executor's own process.

It listens on a Unix socket in the executor's folder that its owner alone can open, or, over the network, for whoever
has the token. Only runs of purpose ``run`` exist here to be found or stopped: publishing and discarding are no runs.
"""

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.narrative import wire
from control_plane.errors import CountermandError, Refused
from workers.engines.embedded import EmbeddedEngine

Asked = TypeVar("Asked", bound=Struct)

SOCKET = "run.sock"
LONGEST_SOCKET_PATH = 103  #: bytes; Linux allows 107, macOS 103
MESSAGES = {400: "malformed request", 401: "a bearer token is needed", 413: "request too large"}


class _RejectedError(Exception):
    """The request is answered with a status and one sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RunProtocol:
    """The protocol's operations on one engine; each takes a request's struct and answers a struct."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine
        self._identity = wire.Identity(engine.executor_id, int(engine.incarnation))

    def routes(self, *, takes_queries: bool) -> list[Route]:
        """Every operation, by its path; *takes_queries* that are nobody's job."""
        queries = [_operation("/v1/query", wire.Query, self.query)] if takes_queries else []
        return [
            *queries,
            Route("/v1/identity", self.identity, methods=["GET"]),
            Route("/v1/running", self.running, methods=["GET"]),
            _operation("/v1/list", wire.Jobs, self.list_runs),
            _operation("/v1/stop", wire.Handles, self.stop),
            _operation("/v1/close", wire.Jobs, self.close),
            _operation("/v1/observe", wire.Handles, self.observe),
            _operation("/v1/publish", wire.Orders, self.publish),
            _operation("/v1/discard", wire.Jobs, self.discard),
        ]

    async def identity(self, _request: Request) -> Response:
        """Who answers here."""
        return _answer(wire.Answer(self._identity))

    async def running(self, _request: Request) -> Response:
        """Every active run."""
        return _answer(wire.Runs(self._identity, self._engine.active_runs()))

    async def query(self, asked: wire.Query) -> wire.Started:
        """Run a query that is nobody's job, under its owner's name; its handle may be given to be tracked."""
        return wire.Started(self._identity, self._engine.start_query(asked.sql, asked.owner))

    async def list_runs(self, asked: wire.Jobs) -> wire.Runs:
        """The runs under these very tags; a tag of another installation is another tag."""
        return wire.Runs(self._identity, self._engine.list_runs([job.tag for job in asked.jobs]))

    async def stop(self, asked: wire.Handles) -> wire.Stops:
        """Stop these runs."""
        answers = self._engine.stop(asked.handles)
        return wire.Stops(self._identity, [wire.StoppedRun(handle, answer) for handle, answer in answers.items()])

    async def close(self, asked: wire.Jobs) -> wire.Done:
        """Close these tags for good, started or not, and stop their runs."""
        for job in asked.jobs:
            await self._engine.close(job.tag)
        return wire.Done(self._identity, frozenset(job.job_id for job in asked.jobs))

    async def observe(self, asked: wire.Handles) -> wire.Runs:
        """What is known of these runs."""
        return wire.Runs(self._identity, self._engine.observe(asked.handles))

    async def publish(self, asked: wire.Orders) -> wire.Done:
        """Publish the outputs of committed jobs."""
        published = await self._engine.publish_orders({order.job_id: order.publication for order in asked.orders})
        return wire.Done(self._identity, published)

    async def discard(self, asked: wire.Jobs) -> wire.Removed:
        """Remove the unpublished outputs of these jobs."""
        removed = await self._engine.discard([job.job_id for job in asked.jobs])
        return wire.Removed(self._identity, {job_id: list(names) for job_id, names in removed.items()})


def run_application(engine: EmbeddedEngine, *, token: str | None = None) -> ASGIApp:
    """The protocol as an ASGI application; with a *token*, for its bearers alone.

    They are cancellers, who are to stop work and not to start any: only whoever may open the folder's socket may query.
    """
    application = Starlette(routes=RunProtocol(engine).routes(takes_queries=token is None))
    return application if token is None else _Guarded(application, token)


def _operation(path: str, asked: type[Asked], perform: Callable[[Asked], Awaitable[Struct]]) -> Route:
    decoder = msgspec.json.Decoder(asked)

    async def answer(request: Request) -> Response:
        try:
            return _answer(await perform(_decoded(decoder, await _body(request))))
        except _RejectedError as rejected:
            return _problem(rejected.status, rejected.detail)
        except CountermandError as error:
            return _problem(503, error.message)

    return Route(path, answer, methods=["POST"])


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > wire.MOST_BYTES:
                raise _RejectedError(413, f"{MESSAGES[413]}: at most {wire.MOST_BYTES} bytes")
    except ClientDisconnect as error:
        raise _RejectedError(400, "the request ended early") from error
    return bytes(body)


def _decoded(decoder: msgspec.json.Decoder[Asked], body: bytes) -> Asked:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _RejectedError(400, f"{MESSAGES[400]}: {error}") from error


def _answer(answer: Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")


def _problem(status: int, detail: str) -> Response:
    return _answer(wire.Problem(detail), status)


class _Guarded:
    """Lets through only requests that bear the token."""

    def __init__(self, inner: ASGIApp, token: str) -> None:
        self._inner = inner
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        guarded = scope["type"] == "http"
        if guarded and not hmac.compare_digest(headers.get(b"authorization", b""), self._wanted):
            await _problem(401, MESSAGES[401])(scope, receive, send)
            return
        await self._inner(scope, receive, send)


# --- listening -----------------------------------------------------------------------------------------------------


class Door(NamedTuple):
    """A bound socket, and the address that is registered for it."""

    socket: socket.socket
    address: str


def open_unix_door(folder: Path) -> Door:
    """A socket in the folder that only its owner can open; the folder's lock must be held.

    Raises Refused when the path is too long for a Unix socket.
    """
    path = folder.absolute() / SOCKET
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise Refused(
            f"data_folder: {path} is too long for a Unix socket ({LONGEST_SOCKET_PATH} bytes); choose a shorter "
            "folder, or listen on the network with a token",
            field="data_folder",
        )
    path.unlink(missing_ok=True)  # a killed process left it; it holds nobody's lock any more
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _umask(0o177):
        door.bind(str(path))
    door.listen()
    return Door(door, f"unix:{path}")


def open_network_door(host: str, port: int, *, token: str | None) -> Door:
    """A socket on the network. Raises Refused without a token, or when the address cannot be bound."""
    if not token:
        raise Refused("token: listening on the network needs a token; a Unix socket needs none", field="token")
    try:
        door = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Refused(f"listen: {host}:{port} cannot be bound: {error.strerror}", field="listen") from error
    door.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # else an answer's body waits 40 ms for an acknowledgement
    shown = f"[{host}]" if ":" in host else host
    return Door(door, f"http://{shown}:{door.getsockname()[1]}")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever composes it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


@contextlib.asynccontextmanager
async def serving(application: ASGIApp, door: Door) -> AsyncIterator[str]:
    """Answer at the door while the context lasts; gives the address."""
    config = uvicorn.Config(
        application, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[door.socket]))
    try:
        yield door.address
    finally:
        server.should_exit = True
        await task
        _close(door)


def _close(door: Door) -> None:
    door.socket.close()
    if door.address.startswith("unix:"):
        Path(door.address.removeprefix("unix:")).unlink(missing_ok=True)
