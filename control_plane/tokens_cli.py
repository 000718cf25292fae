"""The subcommand ``tokens``: an operator at the database makes, lists and revokes the API's bearer tokens."""

from typing import Annotated

import typer

from control_plane.arguments import AsJson, DatabaseUrl, completing, find_plane, read_id, read_member
from control_plane.errors import BadInput
from control_plane.printing import as_moment, print_json, print_table

LONGEST_DAYS = 36_500

tokens = typer.Typer(
    help="Bearer tokens for the HTTP API, made at the database by the control plane's operator.", no_args_is_help=True
)


def _permissions() -> list[str]:
    """Imported late, with the store: nothing is completed where that is not installed."""
    try:
        from control_plane.tokens import Permission
    except ModuleNotFoundError:
        return []
    return list(Permission)


@tokens.command(epilog="Example: countermand tokens create airflow --permission jobs:read --permission jobs:write")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is; stands in the audit.")] = "operator",
    permission: Annotated[
        list[str] | None,
        typer.Option(
            help="jobs:read, jobs:write, jobs:attest, data_planes:read, data_planes:write; may be repeated.",
            autocompletion=completing(_permissions),
        ),
    ] = None,
    company: Annotated[int, typer.Option(help="The company that it acts for.")] = 1,
    plane: Annotated[
        str | None,
        typer.Option("--plane", "--data-plane", help="Bind it to a plane, by id or name: for the plane's processes."),
    ] = (None),
    user: Annotated[int | None, typer.Option(help="The id of the person who bears it, if it is one.")] = None,
    days: Annotated[float | None, typer.Option(help="How long it is valid. Default: until it is revoked.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is shown now and never again; only a hash of it is kept."""
    from control_plane.tokens import NewToken, Permission

    if days is not None and not 0 < days <= LONGEST_DAYS:
        raise BadInput(f"days: a number above 0 and up to {LONGEST_DAYS} is needed, not {days:g}", field="days")
    desk = context.obj
    made, text = desk.tokens(database_url).create(
        NewToken(
            name=name,
            company_id=company,
            permissions=[read_member(Permission, given, "permission") for given in permission or ()],
            data_plane_id=find_plane(desk.intake(database_url).planes(), plane).data_plane_id if plane else None,
            user_id=user,
            lifetime_seconds=days and days * 86_400,
        )
    )
    if as_json:
        print_json({"token": text, "token_id": made.token_id, "expires_at": made.expires_at})
    else:
        typer.echo(text)


@tokens.command("list", epilog="Example: countermand tokens list --json")
def list_tokens(context: typer.Context, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    known = context.obj.tokens(database_url).known()
    if as_json:
        print_json({"records": known})
        return
    if not known:
        typer.echo("No tokens.")
        return
    rows = [
        (
            token.token_id,
            token.name,
            token.company_id,
            " ".join(token.permissions),
            token.data_plane_id,
            as_moment(token.expires_at),
            as_moment(token.revoked_at),
            as_moment(token.last_used_at),
        )
        for token in known
    ]
    print_table(("id", "name", "company", "permissions", "plane", "expires", "revoked", "last used"), rows)


@tokens.command(epilog="Example: countermand tokens revoke 6f1c…")
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(help="The token's id, as `tokens list` shows it.")],
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a token for good. Every server refuses it within a second."""
    revoked = context.obj.tokens(database_url).revoke(read_id(token_id, "token_id"))
    print_json(revoked) if as_json else typer.echo(f"Revoked token {revoked.name}, {revoked.token_id}.")
