"""Whether a run has arrived on the Connect server: nothing answers a submission but what comes of it."""

import asyncio
import contextlib
from functools import partial

import structlog

from adapters.narrative.spark_connect_errors import OPERATION_NOT_FOUND, SESSION_CLOSED, LineError
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_words import STATUSES
from workers.engines.run import closed
from workers.engines.spark_connect_run import ConnectRun
from workers.engines.spark_connect_stream import Said
from workers.engines.spark_connect_watch import LOOK_AT_MOST_SECONDS, LOOK_SECONDS, Watch
from workers.outage import Outage

log = structlog.get_logger()


class Arrivals:
    """Asked of the server that *line* leads to; *lost* is its outage."""

    def __init__(self, line: Line, watch: Watch, *, lost: Outage, timeout_seconds: float) -> None:
        self._line = line
        self._watch = watch
        self._lost = lost
        self._timeout_seconds = timeout_seconds

    async def has_arrived(self, run: ConnectRun, reader: asyncio.Task[Said], left: float) -> bool:
        """Whether the operation is on the server. Where that is not learned in time, its session is ended.

        Otherwise the run's remark says why it is not. Raises Conflict when its session had been ended before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                if await self._is_known(run, reader):
                    return True
        refusal = reader.result().error if reader.done() else None
        if refusal is not None and refusal.condition == SESSION_CLOSED:
            await self._watch.until_idle(run)  # it may have begun just before
            run.unresolved = False
            raise closed(run.claim.tag) from refusal
        if refusal is not None and refusal.condition != OPERATION_NOT_FOUND:
            run.remark = refusal.message
            return False
        run.remark = f"its submission was not answered within the {left:.3g} s that its permit had left"
        log.warning("submission_unanswered", operation_id=run.operation_id)
        arrived = await self._lost.outlast(partial(self._find_out, run, reader))
        log.info("submission_resolved", operation_id=run.operation_id, started=arrived)
        return arrived

    async def _is_known(self, run: ConnectRun, reader: asyncio.Task[Said]) -> bool:
        """Look until the server knows the operation, or its stream has ended; a last look decides."""
        pause = LOOK_SECONDS
        while True:
            last = reader.done()
            with contextlib.suppress(LineError):
                if STATUSES.get(await self._watch.state(run)) is not None:
                    return True
            if last:
                return False
            await asyncio.wait([reader], timeout=pause)
            pause = min(1.5 * pause, LOOK_AT_MOST_SECONDS)

    async def _find_out(self, run: ConnectRun, reader: asyncio.Task[Said]) -> bool:
        """Whether it arrived after all; otherwise its session is ended, so that it cannot any more."""
        state = await self._watch.state(run)
        if STATUSES.get(state) is not None:
            return True
        if state != SESSION_CLOSED:
            await self._line.touch(run.session)
            await self._line.release_session(run.session)
        # It may have arrived after the look and before the end of its session, which ends its stream as well.
        await asyncio.wait([reader], timeout=self._timeout_seconds)
        await self._watch.until_idle(run)
        return False
