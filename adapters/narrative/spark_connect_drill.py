"""A query that only counts, started and stopped: can work on this server be cancelled now?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from adapters.base import ENDED
from adapters.narrative.spark_connect_errors import BehindError, LineError
from adapters.narrative.spark_connect_ladder import Ladder
from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_names import Identity, Operation, operation_of, session_of
from adapters.narrative.spark_connect_sessions import Sessions
from adapters.narrative.spark_connect_words import STATUSES
from control_plane.jobs import Rung, Waiting

ENDLESS = "SELECT count(*) FROM range(0, 1000000000000, 1, 1) WHERE id % 99999999977 = 7"
PAUSE_SECONDS = 0.02
LATE_SECONDS = 30.0  #: for what was not stopped in time: nobody else would stop it


class Stopped(NamedTuple):
    """Of a query nothing was left after *seconds*."""

    seconds: float
    in_time: bool


class Drill:
    """Drills on one server, by what cancels there."""

    def __init__(self, line: Line, sessions: Sessions, ladder: Ladder, lookout: Lookout) -> None:
        self._line = line
        self._sessions = sessions
        self._ladder = ladder
        self._lookout = lookout

    async def run(self, *, prefix: str, within_seconds: float) -> str:
        """What was found, in one sentence. In sessions of its own, under tags that are no job's. Raises LineError.

        A server that was late is asked once more: the first query after its start takes it seconds.
        """
        here = await self._line.identity()
        first = await self._stopped(prefix, here, within_seconds)
        said = f"{here.application} stopped a query of {here.user} within"
        if first.in_time:
            return f"{said} {first.seconds:.2g} s"
        second = await self._stopped(prefix, here, within_seconds)
        if second.in_time:
            return f"{said} {second.seconds:.2g} s (the first one after {first.seconds:.2g} s)"
        detail = (
            f"{self._line.server.address} stopped a query only after {first.seconds:.2g} s, and another after "
            f"{second.seconds:.2g} s, and not within {within_seconds:g} s: it, or its web UI, is slow, not wrong; try "
            "again, or raise call_timeout_seconds in [spark]"
        )
        raise LineError(Waiting.STILL_RUNNING, detail)

    async def _stopped(self, prefix: str, here: Identity, within_seconds: float) -> Stopped:
        """One query, begun and stopped. Raises LineError where it was not even late."""
        tag = f"{prefix}{uuid4()}:drill"
        operation = Operation(session_of(here.user, tag), operation_of(tag))
        async with self._running(operation, tag):
            began = monotonic()
            seconds = await self._stop(operation, tag, here, within_seconds)
            if seconds is not None:
                return Stopped(seconds, in_time=True)
            if await self._stop(operation, tag, here, LATE_SECONDS) is not None:
                return Stopped(monotonic() - began, in_time=False)
        detail = f"{self._line.server.address} was not seen to stop a query within {within_seconds + LATE_SECONDS:g} s"
        raise LineError(Waiting.STILL_RUNNING, f"{detail}; it only counts, and may run on there as {operation.name}")

    @asynccontextmanager
    async def _running(self, operation: Operation, tag: str) -> AsyncIterator[None]:
        await self._line.touch(operation.session)
        running = asyncio.create_task(self._exhaust(operation, tag))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            with suppress(LineError):  # it ends by itself, an hour later
                await self._line.release_session(operation.session)

    async def _exhaust(self, operation: Operation, tag: str) -> None:
        async for _ in self._line.execute(*operation, reading(ENDLESS), tag=tag):
            pass

    async def _stop(self, operation: Operation, tag: str, here: Identity, within_seconds: float) -> float | None:
        """Seconds from when the server knew of it until nothing of it was left; None where that was not in time."""
        known_at: float | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while True:
                    status = STATUSES.get(await self._sessions.release_ended(*operation))
                    if status is not None:
                        known_at = known_at or monotonic()
                    if known_at and status in ENDED and not await self._computes(operation, here):
                        return monotonic() - known_at
                    rung = Rung.FORCE if status in ENDED else Rung.ASK
                    await self._ladder.climb(operation, tag, rung, application=here.application)
                    await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def _computes(self, operation: Operation, here: Identity) -> bool:
        try:
            sight = await self._lookout.look(here.application, [operation])
        except BehindError:
            return True  # for all that is known
        return sight.traces(operation).computes
