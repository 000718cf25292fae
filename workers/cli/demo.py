"""``countermand demo``: prepared here, played in ``workers.demo``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from config.settings import Settings
    from workers.demo.venue import Venue


def demo(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Show jobs meeting their fates, with real processes and real SQL. Exits 0 only if each is as it must be.

    Two of nine run in Snowflake: in a double of it where no account is configured, and where this is a checkout.
    """
    from config.logging import configure_logging
    from workers.demo.show import show

    venue = venue_of(context.obj.settings())
    configure_logging("warning")
    raise typer.Exit(show(_prepare_demo, venue, as_json=as_json))


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


# --- the Snowflake plane


def venue_of(settings: "Settings") -> "Venue":
    """BadInput where an account is configured, and not wholly: whoever named it wants no other."""
    from workers.cli.snowflake import account_of, sign_in_of, warehouse_of
    from workers.demo.venue import VenueKind, choose_venue, has_connector, has_double

    variables = dict(as_variables(settings.snowflake))
    venue = choose_venue(settings.snowflake.account, variables, has_connector=has_connector(), has_double=has_double())
    if venue.kind is VenueKind.ACCOUNT:
        account_of(settings)
        sign_in_of(settings, "executor")
        sign_in_of(settings, "worker")
        warehouse_of(settings)
    return venue


def as_variables(section: "BaseModel", name: str = "snowflake") -> Iterator[tuple[str, str]]:
    """What is set in the section, for processes that read nothing else of the user's, and work in another folder."""
    from pydantic import BaseModel, SecretStr

    from config.settings import variable_of
    from workers.cli.desk import at_home

    for field in type(section).model_fields:
        match getattr(section, field):
            case None:
                pass
            case BaseModel() as below:
                yield from as_variables(below, f"{name}.{field}")
            case SecretStr() as secret:
                yield variable_of(f"{name}.{field}"), secret.get_secret_value()
            case Path() as path:
                yield variable_of(f"{name}.{field}"), str(at_home(path).absolute())
            case value:
                yield variable_of(f"{name}.{field}"), str(value)
