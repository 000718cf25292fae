"""Which planes a worker serves, and through which adapters."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from structlog.testing import capture_logs

from control_plane.errors import BadInput
from control_plane.planes import DataPlane, Platform
from tests.doubles.memory_engine import MemoryEngine
from workers.planes import Planes


def plane(platform: Platform = Platform.NARRATIVE) -> DataPlane:
    return DataPlane(
        data_plane_id=uuid4(),
        company_id=1,
        display_name=f"on {platform.value}",
        platform=platform,
        status="active",
        external_id=None,
        description=None,
        tags=[],
        permit_seconds=30,
        listing_lag_seconds=0,
        stuck_after_seconds=900,
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        last_heartbeat_at=None,
        silent=False,
    )


class Landscape:
    """The planes that there are; MemoryEngine has an adapter for those of one platform."""

    def __init__(self, *planes: DataPlane) -> None:
        self.all = list(planes)
        self.made: list[UUID] = []
        self.planes = Planes(self.read, self.make)

    async def read(self) -> Iterable[DataPlane]:
        return self.all

    def make(self, plane: DataPlane) -> MemoryEngine:
        if plane.platform is Platform.SNOWFLAKE:
            raise BadInput("snowflake.account: set it")
        self.made.append(plane.data_plane_id)
        return MemoryEngine()

    def look(self) -> list[UUID]:
        return list(asyncio.run(self.planes.look()))


def test_a_plane_that_no_adapter_can_be_made_for_is_left_out_and_told_of_once() -> None:
    snow, local = plane(Platform.SNOWFLAKE), plane()
    landscape = Landscape(snow, local)

    with capture_logs() as logs:
        looks = [landscape.look(), landscape.look()]

    assert looks == [[local.data_plane_id]] * 2
    assert logs == [
        {
            "event": "plane_left_out",
            "log_level": "warning",
            "plane": str(snow.data_plane_id),
            "name": "on platform_snowflake",
            "platform": "platform_snowflake",
            "detail": "snowflake.account: set it",
        }
    ]


def test_a_plane_that_came_since_gets_an_adapter_and_the_others_keep_theirs() -> None:
    first, second = plane(), plane()
    landscape = Landscape(first)
    before = asyncio.run(landscape.planes.look())
    landscape.all.append(second)

    after = asyncio.run(landscape.planes.look())

    assert landscape.made == [first.data_plane_id, second.data_plane_id]
    assert after[first.data_plane_id] is before[first.data_plane_id]
