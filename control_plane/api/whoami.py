"""Who bears a token, and what answers: what a plane's process looks at before it begins."""

from typing import Any

from litestar import Request, Router

from control_plane.api.auth import caller_of
from control_plane.api.desk import Desk, GivenDesk
from control_plane.api.operations import operation
from control_plane.api.planes import view
from control_plane.release import release
from control_plane.tokens import Caller
from control_plane.wire import Whoami


@operation("GET", "/whoami", "whoami", None, may_answer=frozenset())
async def whoami(request: Request[Any, Any, Any], desk: GivenDesk) -> Whoami:
    """Who bears the token, which data plane it is bound to, and the version and the clock of what answers.

    Any valid token is enough.
    """
    return await desk.call(_look, desk, caller_of(request))


def _look(desk: Desk, caller: Caller) -> Whoami:
    bound = caller.data_plane_id
    return Whoami(
        name=caller.name,
        company_id=caller.company_id,
        permissions=sorted(caller.permissions),
        expires_at=caller.expires_at,
        data_plane=None if bound is None else view(desk.intake(caller).plane(bound)),
        installation=desk.dispatch.installation(),
        version=release(),
        now=desk.dispatch.now(),
    )


ROUTES = Router("/", route_handlers=[whoami], tags=["Tokens"])
