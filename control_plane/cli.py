"""The subcommand ``db``, and what the composition root gives to every subcommand."""

from typing import TYPE_CHECKING, Protocol

import typer

from control_plane.arguments import DatabaseUrl

if TYPE_CHECKING:  # libraries are imported by the commands that need them
    from control_plane.client import Client
    from control_plane.intake import Intake
    from control_plane.tokens import Tokens


class Desk(Protocol):
    """What is opened from the settings, for one command: the API for users, the store for operators."""

    def client(self) -> "Client":
        """The control plane as the bearer of the token that was set sees it; Unauthenticated where none was."""

    def intake(self, database_url: str | None) -> "Intake":
        """Users' side of the store; raises NotMigrated, StoreUnavailable or BadInput."""

    def tokens(self, database_url: str | None) -> "Tokens":
        """The API's tokens; raises as :meth:`intake` does."""

    def database_url(self, database_url: str | None) -> str:
        """The database that was given, by option, environment or file."""


db = typer.Typer(help="The database, for the control plane's operator.", no_args_is_help=True)


@db.command(epilog="Example: countermand db upgrade --database-url sqlite:///countermand.db")
def upgrade(context: typer.Context, database_url: DatabaseUrl = None) -> None:
    """Create the tables, or bring them to what this version needs. May be repeated."""
    from control_plane import migrations

    migrations.upgrade(context.obj.database_url(database_url))
    typer.echo(f"The database is at revision {migrations.newest()}.")
