"""The API as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from litestar import Litestar, Request, get
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api import health, jobs, metrics, planes, processes, whoami
from control_plane.api.description import CONFIG, describe
from control_plane.api.desk import Desk
from control_plane.api.docs import ASSETS
from control_plane.api.problems import (
    MEDIA_TYPE,
    Problem,
    answer_http,
    answer_known,
    answer_nesting,
    answer_unexpected,
    as_bytes,
)
from control_plane.errors import CountermandError
from control_plane.ids import new_id
from control_plane.notify import Listener

log = structlog.get_logger()

MOST_BYTES = 4_000_000  #: of a request's body; a SQL text may have a million characters
REQUEST_SECONDS = 60.0  #: for all of a request, its slow sender included; a long poll waits for 55 at most


def build_api(
    desk: Desk,
    *,
    open_listener: Callable[[], Listener] | None = None,
    request_seconds: float = REQUEST_SECONDS,
) -> ASGIApp:
    """The API over a desk, which it closes at its end."""

    @asynccontextmanager
    async def living(_app: Litestar) -> AsyncIterator[None]:
        try:
            async with desk.wakeups.listening(open_listener), desk.looking():
                yield
        finally:
            desk.close()

    app = Litestar(
        [jobs.ROUTES, planes.ROUTES, processes.ROUTES, whoami.ROUTES, metrics.ROUTES, health.ROUTES, ASSETS, openapi],
        dependencies={"desk": Provide(lambda: desk, sync_to_thread=False)},
        exception_handlers={
            CountermandError: answer_known,
            HTTPException: answer_http,
            RecursionError: answer_nesting,
            Exception: answer_unexpected,
        },
        request_max_body_size=MOST_BYTES,
        lifespan=[living],
        openapi_config=CONFIG,
        logging_config=None,
    )
    app.state.desk = desk
    app.state.description = describe(app)
    return _Hurried(app, request_seconds)


@get("/openapi.json", include_in_schema=False)
async def openapi(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The API's description, for generated clients."""
    described: dict[str, Any] = request.app.state.description
    return described


class _Hurried:
    """Gives every request so many seconds, however slowly it is sent or answered."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, told)
        except TimeoutError:
            if not begun:
                await _answer_late(scope["path"], self._seconds, send)


async def _answer_late(path: str, seconds: float, send: Any) -> None:
    log_id = new_id()
    detail = f"the request was not received and answered within {seconds:g} s"
    log.warning("request_timed_out", path=path, log_id=log_id)
    body = as_bytes(Problem("/problems/request-timeout", "Request Timeout", 408, detail, path, log_id))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 408, "headers": headers})
    await send({"type": "http.response.body", "body": body})
