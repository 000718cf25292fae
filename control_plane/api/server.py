"""The API served by uvicorn: one process, which answers what it has accepted before it ends."""

import asyncio
import socket
from typing import Any

import structlog
from litestar.types import ASGIApp
from uvicorn import Config, Server

from control_plane.api.connections import Connection
from control_plane.api.desk import Desk
from control_plane.errors import Refused

log = structlog.get_logger()

DRAIN_SECONDS = 30
MOST_CONNECTIONS = 5_000  #: further ones get 503
IDLE_SECONDS = 60
_TICK_SECONDS = 0.5  #: so late at most it begins to drain


def serve(app: ASGIApp, desk: Desk, *, host: str, port: int) -> None:
    """Serve until a signal; Refused where the address cannot be had. Port 0 takes a free one, which the log names."""
    config = Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        proxy_headers=False,  # nobody asks where a request came from
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    _Server(config, desk).run(sockets=[_listening(host, port)])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2_048)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # not every loop sets it
        return listening
    except OSError as error:
        message = f"server: nothing can listen at {host}:{port}: {error.strerror}; choose another --host or --port"
        raise Refused(message, field="server") from error


class _Server(Server):
    def __init__(self, config: Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for opened in sockets or ():
            host, port = opened.getsockname()[:2]
            log.info("server_started", host=host, port=port)

    async def main_loop(self) -> None:
        """As uvicorn's, but for the pace: that looks ten times a second whether it is to end, idle or not."""
        while not await self.on_tick(0):  # noqa: ASYNC110  a signal sets what it looks at, as in uvicorn
            await asyncio.sleep(_TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the long polls go first: the others are answered as they end."""
        log.info("server_draining")
        self._desk.wakeups.stop()
        await super().shutdown(sockets)
        self._captured_signals.clear()  # uvicorn would raise them again: it ended in order, with exit code 0
        log.info("server_stopped")

    def _log_started_message(self, listeners: Any) -> None:
        """Said by our own event."""
