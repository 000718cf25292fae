"""What commands are given: options that several share, and values that become our nouns."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from control_plane.errors import BadInput, Forbidden, NotFound
from control_plane.planes import DataPlane
from control_plane.wire import DataPlaneView

if TYPE_CHECKING:
    from control_plane.client import Client

DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME; else COUNTERMAND_DATABASE_URL.", metavar="URL"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
JobId = Annotated[str, typer.Argument(help="The job's id.")]

Member = TypeVar("Member", bound=StrEnum)
Plane = TypeVar("Plane", DataPlane, DataPlaneView)


def option_of(kind: type[StrEnum], *names: str, help_: str = "") -> Any:
    """An option whose values are an enumeration's: its help lists them, and a shell completes them."""
    return typer.Option(*names, help=f"{one_of(kind)} {help_}".strip(), autocompletion=completing(lambda: list(kind)))


def one_of(kind: type[StrEnum]) -> str:
    """The help of such an option."""
    return f"One of {', '.join(kind)}."


def completing(values: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Completes a word by those of the values that begin with it."""

    def complete(incomplete: str) -> list[str]:
        return [str(value) for value in values() if value.startswith(incomplete)]

    return complete


def read_member(kind: type[Member], value: str, field: str) -> Member:
    """A member of an enumeration from the command line; BadInput names the field and what is allowed."""
    try:
        return kind(value)
    except ValueError as error:
        raise BadInput(f"{field}: {value!r} is not one of {', '.join(kind)}", field=field) from error


def read_id(value: str, field: str) -> UUID:
    """A UUID from the command line; BadInput names the field."""
    try:
        return UUID(value)
    except ValueError as error:
        raise BadInput(f"{field}: {value!r} is not a UUID", field=field) from error


def read_document(given: str, field: str) -> Any:
    """JSON from the argument, from ``@FILE``, or from stdin for ``-``; BadInput names the field."""
    try:
        text = sys.stdin.read() if given == "-" else Path(given[1:]).read_text() if given.startswith("@") else given
        return json.loads(text)
    except OSError as error:
        raise BadInput(f"{field}: {given[1:]} cannot be read: {error.strerror}", field=field) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{field}: it is not JSON: {error}", field=field) from error


def find_plane(known: Sequence[Plane], name_or_id: str) -> Plane:
    """A data plane by its id or its name; NotFound names those that there are, BadInput several of one name."""
    found = [plane for plane in known if name_or_id in (str(plane.data_plane_id), plane.display_name)]
    if len(found) == 1:
        return found[0]
    if found:
        named = ", ".join(f"{plane.data_plane_id} of company {plane.company_id}" for plane in found)
        message = f"data_plane: several are called {name_or_id!r}; give one's id: {named}"
        raise BadInput(message, field="data_plane")
    names = (
        ", ".join(plane.display_name for plane in known if plane.status == "active")
        or "none yet: `countermand planes create`"
    )
    raise NotFound(f"data_plane: there is no data plane {name_or_id!r}; there are {names}", field="data_plane")


def find_plane_id(client: "Client", name_or_id: str) -> UUID:
    """A plane's id as it is given, or by the plane's name, for which the token has to have ``data_planes:read``."""
    with suppress(ValueError):
        return UUID(name_or_id)
    try:
        return find_plane(client.list_data_planes(), name_or_id).data_plane_id
    except Forbidden as error:
        raise Forbidden(f"{error.message}; or give the data plane's id instead of its name") from error
