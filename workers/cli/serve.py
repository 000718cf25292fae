"""``countermand serve``: the HTTP API over a store."""

from typing import Annotated

import typer

from control_plane.arguments import DatabaseUrl
from workers.cli.desk import listener_of, open_store, tune_interpreter

LOCK_SECONDS = 3.0  #: what a request waits for a row that somebody holds, before the others of its batch go on


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Where to listen. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8080; 0 takes a free one.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the HTTP API, until stopped. SIGTERM answers what was accepted; a second SIGINT ends it at once."""
    settings = context.obj.settings(database_url=database_url, server={"host": host, "port": port})
    from control_plane.api.app import build_api
    from control_plane.api.desk import THREADS
    from control_plane.api.desk import Desk as ApiDesk
    from control_plane.api.server import serve as serve_api
    from control_plane.policy import Policy

    tune_interpreter()
    desk = ApiDesk(
        open_store(settings, pool_size=THREADS, lock_seconds=LOCK_SECONDS), Policy(settings.policy.overrides)
    )
    app = build_api(desk, open_listener=listener_of(settings.database_url))
    serve_api(app, desk, host=settings.server.host, port=settings.server.port)
