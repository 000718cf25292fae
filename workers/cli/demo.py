"""``countermand demo``: prepared here, played in ``workers.demo``."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from config.settings import Settings
    from workers.demo.stage import TokenMaker
    from workers.demo.venue import Venue


def demo(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    spark: Annotated[
        bool, typer.Option("--spark", help="On Spark instead: a shared and a dedicated cluster, started here.")
    ] = False,
) -> None:
    """Show jobs meeting their fates, with real processes and real SQL. Exits 0 only if each is as it must be.

    Two of nine run in Snowflake: in a double of it where no account is configured, and where this is a checkout.
    With --spark eleven run on Spark, in two to four minutes: that needs the whole pyspark, and Java 17 or newer.
    """
    from config.logging import configure_logging
    from workers.demo.programme import programme_at, programme_on_spark
    from workers.demo.show import show

    if spark:
        need_spark()
    programme = programme_on_spark() if spark else programme_at(venue_of(context.obj.settings()))
    configure_logging("warning")
    raise typer.Exit(show(_prepare_demo, programme, as_json=as_json))


def need_spark() -> None:
    """Refused where there is no Spark with its servers, or no Java for it."""
    from workers.demo.java import need_java
    from workers.demo.spark_local import spark_home

    spark_home()
    need_java()


def _prepare_demo(database_url: str) -> "TokenMaker":
    """A new database; answers what makes tokens for it, as its operator would."""
    from control_plane.migrations import upgrade
    from control_plane.store import Store
    from control_plane.tokens import NewToken, Permission, Tokens

    upgrade(database_url)

    def make_token(name: str, plane: UUID | None = None) -> str:
        allowed = [Permission.JOBS_READ, Permission.JOBS_WRITE, Permission.DATA_PLANES_WRITE]
        with closing(Store(database_url)) as store:
            new = NewToken(name, 1, [Permission.JOBS_WRITE] if plane else allowed, data_plane_id=plane)
            return Tokens(store).create(new)[1]

    return make_token


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
