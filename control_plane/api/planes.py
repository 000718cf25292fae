"""Data planes: where work runs."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Router
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from control_plane.api.auth import caller_of, check_bound
from control_plane.api.desk import GivenDesk
from control_plane.api.operations import operation
from control_plane.intake import NewPlane
from control_plane.jobs import DataPlane, Platform
from control_plane.tokens import Permission

PlaneId = Annotated[UUID, PathParameter(description="The data plane's id.")]
Seconds = Annotated[float, Meta(gt=0, le=10**9)]


class PlatformObject(Struct, frozen=True, forbid_unknown_fields=True):
    """What the plane runs on: ``platform_aws`` is the Narrative plane."""

    type: Platform


class DataPlaneSubmission(Struct, frozen=True, forbid_unknown_fields=True):
    """A data plane to be made."""

    display_name: Annotated[str, Meta(min_length=1, max_length=200, description="Unique within the company.")]
    platform: PlatformObject
    external_id: Annotated[str | None, Meta(description="Its name in another system.")] = None
    description: str | None = None
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)] = []
    collaborators: Annotated[
        list[Annotated[int, Meta(ge=1, le=2**31 - 1)]],
        Meta(max_length=1_000, description="Companies that may submit jobs to it."),
    ] = []
    permit_seconds: Annotated[Seconds, Meta(description="How long a claim lets an executor start statements.")] = 30.0
    listing_lag_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=10**9)],
        Meta(description="How far apart two empty listings must be to prove absence."),
    ] = 0.0
    stuck_after_seconds: Annotated[Seconds, Meta(description="A cancellation that waits longer is called stuck.")] = (
        900.0
    )


class DataPlaneView(Struct, frozen=True):
    """A data plane as the API shows it."""

    data_plane_id: UUID
    company_id: Annotated[int, Meta(description="Its owner.")]
    display_name: str
    platform: PlatformObject
    status: Literal["active", "archived"]
    external_id: str | None
    description: str | None
    tags: list[str]
    collaborators: list[int]
    permit_seconds: float
    listing_lag_seconds: float
    stuck_after_seconds: float
    created_at: datetime
    last_heartbeat_at: datetime | None
    silent: Annotated[bool, Meta(description="No process of it was heard of for half a minute.")]


class DataPlanes(Struct, frozen=True):
    """Every data plane that the company owns or that is shared with it."""

    records: list[DataPlaneView]


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


@operation("POST", "/data-planes/{data_plane_id:uuid}/heartbeat", "beat", Permission.JOBS_WRITE)
async def beat(request: Request[Any, Any, Any], desk: GivenDesk, data_plane_id: PlaneId) -> DataPlaneView:
    """Say that a process of the plane lives."""
    caller = caller_of(request)
    check_bound(caller, data_plane_id)
    await desk.call(desk.dispatch.heartbeat, [data_plane_id])
    return view(await desk.call(desk.intake(caller).plane, data_plane_id))


ROUTES = Router("/", route_handlers=[list_planes, create_plane, get_plane, archive_plane, beat], tags=["Data planes"])
