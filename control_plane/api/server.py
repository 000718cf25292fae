"""The API served by uvicorn: one process, which answers what it has accepted before it ends."""

from litestar.types import ASGIApp
from uvicorn import Config, Server

from control_plane.api.desk import Desk

DRAIN_SECONDS = 30
MOST_CONNECTIONS = 5_000  #: further ones get 503
IDLE_SECONDS = 60


class ApiServer(Server):
    """Lets its long polls go as soon as it is told to end; a second signal ends it at once."""

    def __init__(self, app: ASGIApp, desk: Desk, *, host: str, port: int) -> None:
        config = Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        super().__init__(config)
        self._desk = desk

    async def shutdown(self, sockets: "list[object] | None" = None) -> None:  # type: ignore[override]  # as it is called
        self._desk.wakeups.stop()
        await super().shutdown(sockets)  # type: ignore[arg-type]
