"""A process introduces itself to the control plane before it serves a plane, and is told plainly what is wrong."""

from datetime import datetime, timedelta
from uuid import UUID

import structlog
from msgspec import Struct

from control_plane.errors import BadInput, Forbidden, Refused, Unauthenticated
from control_plane.planes import DataPlane
from control_plane.release import release, speaks_with
from control_plane.wire import DataPlaneView, Whoami, plane_of
from workers.clock import Clock
from workers.line import Bearer, Line

log = structlog.get_logger()

NEEDED = "jobs:write"
#: Receipts tell moments by the worker's clock; one that is further off makes poor evidence.
CLOCK_OFF_SECONDS = 30.0
EXPIRES_SOON = timedelta(days=7)


class Introduced(Struct, frozen=True):
    """The plane that the token is bound to, and the installation's name, which is part of every tag."""

    plane: DataPlane
    installation: str


async def introduce(line: Line, bearer: Bearer, *, wanted: str | None, clock: Clock) -> Introduced:
    """Whom the token lets this process be; *wanted* is the plane's id or name, where one was asked for.

    Raises Unauthenticated for a token that does not count, Forbidden for one that does not suffice, BadInput for
    another plane's, Refused where the two releases do not understand each other; ControlPlaneUnavailable may pass.
    """
    try:
        asked_at = clock.now()
        whoami = await line.call("GET", "/whoami", Whoami, bearer=bearer)
    except Unauthenticated as error:
        raise Unauthenticated(
            f"the control plane at {line.url} does not accept the token: it is wrong, has expired or was revoked; "
            "its operator makes another by `countermand tokens create NAME --permission jobs:write --plane ID`"
        ) from error
    _check_release(line, whoami.version)
    plane = _check_plane(whoami, wanted)
    _tell_clock(whoami.now, asked_at, clock.now())
    _tell_expiry(whoami, clock.now())
    return Introduced(plane, whoami.installation)


def _check_release(line: Line, theirs: str) -> None:
    if not speaks_with(release(), theirs):
        raise Refused(
            f"the control plane at {line.url} is release {theirs}, and this is {release()}: they do not understand "
            "each other; install the same major version"
        )


def _check_plane(whoami: Whoami, wanted: str | None) -> DataPlane:
    view = whoami.data_plane
    if view is None:
        raise Forbidden(
            f"the token {whoami.name!r} is bound to no data plane; a plane's process needs one made by "
            "`countermand tokens create NAME --permission jobs:write --plane ID`"
        )
    if NEEDED not in whoami.permissions:
        raise Forbidden(f"the token {whoami.name!r} lacks the permission {NEEDED}")
    if wanted is not None and not _is(view, wanted):
        known = f"{view.display_name} ({view.data_plane_id})"
        raise BadInput(
            f"data_plane: the token {whoami.name!r} is bound to {known}, not to {wanted}", field="data_plane"
        )
    if view.status != "active":
        raise BadInput(f"data_plane: {view.display_name} is {view.status}", field="data_plane")
    return plane_of(view)


def _is(view: DataPlaneView, wanted: str) -> bool:
    try:
        return view.data_plane_id == UUID(wanted)
    except ValueError:
        return view.display_name == wanted


def _tell_clock(theirs: datetime, asked_at: datetime, answered_at: datetime) -> None:
    ours = asked_at + (answered_at - asked_at) / 2
    off_seconds = (ours - theirs).total_seconds()
    if abs(off_seconds) > CLOCK_OFF_SECONDS:
        log.error("clock_off", off_seconds=round(off_seconds, 1), control_plane=theirs.isoformat())


def _tell_expiry(whoami: Whoami, now: datetime) -> None:
    if whoami.expires_at is not None and whoami.expires_at - now < EXPIRES_SOON:
        log.warning("token_expires_soon", token=whoami.name, expires_at=whoami.expires_at.isoformat())
