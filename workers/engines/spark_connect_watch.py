"""What a Connect server and its web UI say of a run, looked at until it has ended."""

import asyncio
from functools import partial
from itertools import count

import structlog

from adapters.base import RunStatus
from adapters.narrative.spark_connect_errors import SESSION_CLOSED, SESSION_NOT_FOUND, answered
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_connect_words import STATUSES, TERMINATING, UNKNOWN, Outliving
from workers.clock import Clock
from workers.engines.spark_connect_run import ConnectRun
from workers.outage import Outage

log = structlog.get_logger()

LOOK_SECONDS = 0.02  #: between two looks at what changes soon
LOOK_AT_MOST_SECONDS = 0.5
LET_END_SECONDS = 0.5  #: for tasks to end after their operation has, before that is worth a word
IDLE_AT_MOST_SECONDS = 15.0  #: between two looks whether it goes on: each is a job in the web UI's list, which is short


class Watch:
    """What is stopped has ended only once the web UI shows no task of it. *lost* is the outage of the server."""

    def __init__(self, line: Line, ui: Ui, *, lost: Outage, timeout_seconds: float, clock: Clock) -> None:
        self._line = line
        self._ui = ui
        self._lookout = Lookout(line, ui, timeout_seconds=timeout_seconds)
        self._lost = lost
        self._clock = clock

    async def state(self, run: ConnectRun) -> str:
        """The operation's state; or why there is none. Raises LineError."""
        states = await answered(
            lambda: self._line.states(run.session, [run.operation_id]), SESSION_CLOSED, SESSION_NOT_FOUND
        )
        return states if isinstance(states, str) else states.get(run.operation_id, UNKNOWN)

    async def end_of(self, run: ConnectRun) -> str:
        """Its last state, or why there is none, once nothing of it goes on, however long the server is away."""
        state = await self._lost.outlast(partial(self._last_state, run))
        if STATUSES.get(state) is not RunStatus.SUCCEEDED:
            await self.until_idle(run)
        return state

    async def until_idle(self, run: ConnectRun) -> None:
        """Until the web UI shows no task of it, nor that it may begin any, however long it does not answer.

        Connect may have said before that it has ended.
        """
        pause, application, outliving = LET_END_SECONDS, run.here.application, Outliving()
        if run.closed:  # whoever cancels it looks as well: two looks at once delay each other, and the end
            await self._clock.pause(LET_END_SECONDS)
        for looks in count(1):
            sight = await self._lost.outlast(partial(self._lookout.look, application, [run.operation]))
            traces = sight.traces(run.operation)
            if not (outliving.goes_on(run.operation, sight) or traces.unfinished):
                return
            if looks == 2:
                log.warning("run_goes_on", operation_id=run.operation_id, active_tasks=traces.active_tasks)
            if looks >= 2:
                await self._ui.kill(application, run.session.session_id)
            await self._clock.pause(pause)
            pause = min(1.5 * pause, IDLE_AT_MOST_SECONDS)

    async def aclose(self) -> None:
        """Give up the looks that are under way."""
        await self._lookout.aclose()

    async def _last_state(self, run: ConnectRun) -> str:
        """Its state once it has one that is final: what has ended stays TERMINATING until its answer is let go of."""
        pause = LOOK_SECONDS
        while STATUSES.get(state := await self.state(run)) is RunStatus.ACTIVE:
            if state == TERMINATING:
                await self._line.release(run.session, run.operation_id)
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LOOK_AT_MOST_SECONDS)
        return state
