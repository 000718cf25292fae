"""Whether the server lives, and whether it can serve."""

from litestar import Router, get
from msgspec import Struct

from control_plane.api.desk import GivenDesk
from control_plane.api.operations import problem_response


class Health(Struct, frozen=True):
    """All is well; otherwise the answer is a problem."""

    status: str = "ok"


@get("/health/live", operation_id="live", security=[{}])
async def live() -> Health:
    """The process answers."""
    return Health()


@get("/health/ready", operation_id="ready", security=[{}], responses={503: problem_response(503)})
async def ready(desk: GivenDesk) -> Health:
    """The database is there, and migrated."""
    await desk.check_ready()
    return Health()


ROUTES = Router("/", route_handlers=[live, ready], tags=["Health"])
