"""A worker's planes at a control plane elsewhere, each an outpost with a token, an adapter and limits of its own.

What is wrong with one of them costs the others nothing: it is told, and tried again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from adapters.base import Adapter
from control_plane.errors import CountermandError
from workers.clock import Clock
from workers.giving_up import unless
from workers.introduction import Introduced, introduce
from workers.limits import Limits
from workers.line import Bearer, Line, PlaneLine
from workers.outage import Outage
from workers.remote import RemoteCancellations
from workers.rounds import Rounds

log = structlog.get_logger()

TRY_AGAIN_SECONDS = 30.0


class Outpost:
    """One plane, served over *line* by whoever *bearer* is; *make* makes its adapter.

    *wanted* is the plane's id or name, where one was asked for: the token's own has to be that.
    """

    def __init__(
        self,
        name: str,
        line: Line,
        bearer: Bearer,
        *,
        wanted: str | None,
        make: Callable[[Introduced], Adapter],
        worker: str,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self.name = name
        self.wake = asyncio.Event()
        self.beat = asyncio.Event()
        self._line = line
        self._bearer = bearer
        self._wanted = wanted
        self._make = make
        self._worker = worker
        self._limits = limits
        self._clock = clock
        self._outage = Outage(clock)
        self._rounds: Rounds | None = None

    def limit(self, limits: Limits) -> None:
        """Keep to these limits from now on."""
        self._limits = limits
        if self._rounds is not None:
            self._rounds.limit(limits)

    async def introduce(self) -> Introduced:
        """Whom the control plane takes this process for, by its token of today; waits while it is away."""
        self._bearer.is_renewed(since=self._bearer.header)
        call = partial(introduce, self._line, self._bearer, wanted=self._wanted, clock=self._clock)
        return await self._outage.outlast(call)

    async def serve(self, introduced: Introduced, stopping: asyncio.Event) -> None:
        """Cancel on the plane until *stopping* is set."""
        bind_contextvars(plane=str(introduced.plane.data_plane_id))
        adapter = self._make(introduced)

        async def look() -> Mapping[UUID, Adapter]:
            return {introduced.plane.data_plane_id: adapter}

        line = PlaneLine(self._line, self._bearer, introduced.plane.data_plane_id)
        self._rounds = Rounds(
            RemoteCancellations(line, stopping=stopping),
            look,
            worker=self._worker,
            limits=self._limits,
            clock=self._clock,
            outage=self._outage,
        )
        try:
            await self._rounds.run(stopping=stopping, wake=self.wake, beat=self.beat)
        finally:
            self._rounds = None
            await adapter.aclose()


async def serve_all(outposts: Sequence[Outpost], *, stopping: asyncio.Event, clock: Clock) -> None:
    """Serve every outpost until *stopping* is set.

    Raises what is wrong with one that is alone. Of several, what is wrong with one is logged, and it is tried again.
    """
    if len(outposts) == 1:
        await _serve(outposts[0], stopping)
        return
    async with asyncio.TaskGroup() as together:
        for outpost in outposts:
            together.create_task(_keep_serving(outpost, stopping, clock))


async def _serve(outpost: Outpost, stopping: asyncio.Event) -> None:
    introduced = await unless(stopping, outpost.introduce())
    if introduced is not None:
        await outpost.serve(introduced, stopping)


async def _keep_serving(outpost: Outpost, stopping: asyncio.Event, clock: Clock) -> None:
    bind_contextvars(outpost=outpost.name)  # a task keeps the context that it binds
    told = ""
    while not stopping.is_set():
        try:
            await _serve(outpost, stopping)
        except CountermandError as error:
            if error.message != told:
                log.error("outpost_left_out", detail=error.message)
            told = error.message
        except Exception:  # the boundary of one outpost: a bug harms it alone, and is logged
            log.exception("outpost_failed")
        else:
            return
        await unless(stopping, _pause(clock))


async def _pause(clock: Clock) -> None:
    await clock.pause(TRY_AGAIN_SECONDS)
