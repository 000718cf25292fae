"""Options that the commands of planes' processes have in common."""

from pathlib import Path
from typing import Annotated

import typer

ControlPlane = Annotated[
    str | None,
    typer.Option(help="Its URL, instead of a database; else COUNTERMAND_CONTROL_PLANE.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="The token for the control plane, bound to the plane; else COUNTERMAND_TOKEN or COUNTERMAND_TOKEN_FILE."
    ),
]


def refuse_both(control_plane: str | None, database_url: str | None) -> None:
    """Raise BadInput where both ways to the jobs were given as options."""
    from control_plane.errors import BadInput

    if control_plane is not None and database_url is not None:
        message = "control_plane: --control-plane and --database-url are two ways to the same jobs; give one"
        raise BadInput(message, field="control_plane")
