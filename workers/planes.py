"""The planes that a worker serves, each through the adapter that was made for it."""

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import structlog

from adapters.base import Adapter
from control_plane.errors import BadInput, Refused
from control_plane.planes import DataPlane

log = structlog.get_logger()


class Planes:
    """The planes that *read* answers; *make* makes the adapter of each, once.

    It raises BadInput or Refused where this process cannot make one.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Iterable[DataPlane]]],
        make: Callable[[DataPlane], Adapter],
    ) -> None:
        self._read = read
        self._make = make
        self._adapters: dict[UUID, Adapter | None] = {}

    async def look(self) -> dict[UUID, Adapter]:
        """The planes that can be served now; one that cannot be is left out, and told of once."""
        for plane in await self._read():
            if plane.data_plane_id not in self._adapters and plane.status == "active":
                self._adapters[plane.data_plane_id] = self._adapter(plane)
        return {plane: adapter for plane, adapter in self._adapters.items() if adapter is not None}

    def _adapter(self, plane: DataPlane) -> Adapter | None:
        try:
            return self._make(plane)
        except (BadInput, Refused) as error:
            log.warning(
                "plane_left_out",
                plane=str(plane.data_plane_id),
                name=plane.display_name,
                platform=plane.platform.value,
                detail=error.message,
            )
            return None

    async def aclose(self) -> None:
        """Let go of the adapters' connections."""
        for adapter in self._adapters.values():
            if adapter is not None:
                await adapter.aclose()
