"""``countermand demo``: prepared here, played in ``workers.demo``."""

from collections.abc import Sequence
from typing import Annotated

import typer


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Show seven jobs meeting their fates, with real processes and real SQL. Exits 0 only if each is as it must be."""
    from config.logging import configure_logging
    from workers.demo.show import show

    configure_logging("warning")
    raise typer.Exit(show(_prepare_demo, as_json=as_json))


def _prepare_demo(database_url: str, names: Sequence[str]) -> dict[str, str]:
    """A new database, and a token for each of the names."""
    from control_plane.migrations import upgrade
    from control_plane.store import Store
    from control_plane.tokens import NewToken, Permission, Tokens

    upgrade(database_url)
    store = Store(database_url)
    allowed = [Permission.JOBS_READ, Permission.JOBS_WRITE, Permission.DATA_PLANES_WRITE]
    made = {name: Tokens(store).create(NewToken(name, 1, allowed))[1] for name in names}
    store.close()
    return made
