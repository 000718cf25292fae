"""Data planes: where work runs."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Router
from litestar.params import JSONBody, PathParameter

from control_plane.api.auth import caller_of, check_bound
from control_plane.api.desk import GivenDesk
from control_plane.api.operations import operation
from control_plane.intake import NewPlane
from control_plane.planes import DataPlane, Tracking
from control_plane.presence import Beat
from control_plane.tokens import Permission
from control_plane.wire import DataPlanes, DataPlaneSubmission, DataPlaneView, PlatformObject, Workers
from control_plane.work import Presence, check_presence

PlaneId = Annotated[UUID, PathParameter(description="The data plane's id.")]


def view(plane: DataPlane) -> DataPlaneView:
    """The plane with its platform as an object, as the reference has it."""
    return DataPlaneView(**msgspec.structs.asdict(plane) | {"platform": PlatformObject(plane.platform)})


@operation("GET", "/data-planes", "list_data_planes", Permission.DATA_PLANES_READ, may_answer=frozenset())
async def list_planes(request: Request[Any, Any, Any], desk: GivenDesk) -> DataPlanes:
    """The data planes that your company owns, and those that are shared with it."""
    return DataPlanes([view(plane) for plane in await desk.call(desk.intake(caller_of(request)).planes)])


@operation(
    "POST",
    "/data-planes",
    "create_data_plane",
    Permission.DATA_PLANES_WRITE,
    may_answer=frozenset({409}),
    creates=True,
)
async def create_plane(
    request: Request[Any, Any, Any], desk: GivenDesk, data: JSONBody[DataPlaneSubmission]
) -> DataPlaneView:
    """Make a data plane."""
    new = NewPlane(**msgspec.structs.asdict(data) | {"platform": data.platform.type})
    return view(await desk.call(desk.intake(caller_of(request)).create_plane, new))


@operation("GET", "/data-planes/{data_plane_id:uuid}", "get_data_plane", Permission.DATA_PLANES_READ)
async def get_plane(request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId) -> DataPlaneView:
    """One data plane."""
    return view(await desk.call(desk.intake(caller_of(request)).plane, data_plane_id))


@operation(
    "DELETE",
    "/data-planes/{data_plane_id:uuid}",
    "archive_data_plane",
    Permission.DATA_PLANES_WRITE,
    may_answer=frozenset({404, 409}),
)
async def archive_plane(request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId) -> DataPlaneView:
    """Archive a data plane: it takes no more jobs. Its owner may, once every job on it has ended."""
    return view(await desk.call(desk.intake(caller_of(request)).archive_plane, data_plane_id))


@operation("PUT", "/data-planes/{data_plane_id:uuid}/tracking", "allow_tracking", Permission.DATA_PLANES_WRITE)
async def allow_tracking(
    request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Tracking]
) -> DataPlaneView:
    """Say whose work, started elsewhere, may be tracked and stopped here: users, warehouses or roles of the engine.

    It replaces what was said before; three empty lists are nobody's.
    """
    return view(await desk.call(desk.intake(caller_of(request)).allow_tracking, data_plane_id, data))


@operation("POST", "/data-planes/{data_plane_id:uuid}/heartbeat", "beat", Permission.JOBS_WRITE)
async def beat(
    request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Presence | None] = None
) -> DataPlaneView:
    """Say that a process of the plane lives, and who it is: then it is among the plane's workers for a day."""
    check_bound(caller_of(request), data_plane_id)
    if data is not None:
        check_presence(data)
    return view(await desk.beat(Beat(data_plane_id, data)))


@operation("GET", "/data-planes/{data_plane_id:uuid}/workers", "list_workers", Permission.DATA_PLANES_READ)
async def list_workers(request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId) -> Workers:
    """Who works on a data plane, and which cancellations are not settled there.

    Only its owner is told who; a company that shares it sees which of its own jobs' cancellations wait.
    """
    caller = caller_of(request)

    def look() -> Workers:
        return desk.presences.of_plane(desk.intake(caller).plane(data_plane_id), caller.scope)

    return await desk.call(look)


ROUTES = Router(
    "/",
    route_handlers=[list_planes, create_plane, get_plane, archive_plane, allow_tracking, beat, list_workers],
    tags=["Data planes"],
)
