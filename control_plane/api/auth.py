"""Who calls, and whether they may: bearer tokens and permissions."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from control_plane.api.desk import Desk
from control_plane.errors import Forbidden, NotFound, Unauthenticated
from control_plane.tokens import Caller, Permission

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]

_CALLER = "countermand_caller"


def needs(permission: Permission | None) -> Guard:
    """A guard: the caller is known, and has the permission if one is needed. Runs before the request is read."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        caller = await _authenticate(connection)
        if permission is not None and permission not in caller.permissions:
            raise Forbidden(f"the token {caller.name!r} lacks the permission {permission}")
        connection.scope["state"][_CALLER] = caller

    return guard


async def _authenticate(connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed: Authorization: Bearer ctm_…")
    desk: Desk = connection.app.state.desk
    return await desk.callers.find(token.strip())


async def check_still_valid(request: Request[Any, Any, Any]) -> None:
    """For what takes long: raise Unauthenticated once the token has expired or was revoked."""
    await _authenticate(request)


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who the guard found."""
    caller: Caller = request.scope["state"][_CALLER]
    return caller


def check_bound(caller: Caller, data_plane_id: UUID) -> None:
    """Raise unless the caller is a process of the plane: Forbidden for a company's own token, NotFound for others."""
    if caller.data_plane_id is None:
        raise Forbidden(f"a token bound to data plane {data_plane_id} is needed: this is for its own processes")
    if caller.data_plane_id != data_plane_id:
        raise NotFound(f"data_plane_id: there is no data plane {data_plane_id}", field="data_plane_id")
