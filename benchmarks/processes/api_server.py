"""``countermand serve``, composed as the command composes it.

Arguments: the database's URL, the port, and a file, into which it writes a token of company 1 before it listens.
"""

import sys
from pathlib import Path

from config.logging import configure_logging
from control_plane.api.app import build_api
from control_plane.api.desk import THREADS, Desk
from control_plane.api.server import serve
from control_plane.notify import Listener
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.tokens import NewToken, Permission
from workers.cli.desk import tune_interpreter


def main(database_url: str, port: str, token_file: str) -> None:
    """Serve until stopped."""
    configure_logging("info", "json")
    tune_interpreter()
    desk = Desk(Store(database_url, pool_size=THREADS), Policy())
    _, text = desk.tokens.create(NewToken("benchmark", 1, [Permission.JOBS_READ, Permission.JOBS_WRITE], user_id=7))
    Path(token_file).write_text(text)
    app = build_api(desk, open_listener=lambda: Listener(database_url))
    serve(app, desk, host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
