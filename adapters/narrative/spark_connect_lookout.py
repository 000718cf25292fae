"""A look at a Connect server's web UI that shows whatever an operation that has ended can have left running.

Measured on Spark 4.3.0: of a query that was interrupted while it was planned, Connect said ``CANCELLED``, and up to
seconds later its job began, and ran on. That nothing is seen therefore proves nothing, for two reasons, and a look
sees to both:

* A thread of the driver may still be about to submit a job: adaptive execution has stages, broadcasts and subqueries
  prepared by pools of their own, which nobody interrupts. Whose query a thread prepares, nobody tells; so each that
  is busy when the look begins is waited for, until all of these were seen, at one moment, to have done with it or to
  wait: for a job, or for each other. What a pool has no free thread for stands in line, and shows nowhere; so a pool
  that was full at any of these moments is told of with the look. One may have handed over to another by then; so the
  same is done twice. Whoever waits for a job may go on once that has ended, so that a job that ends during the look
  counts as running. Where none is busy at two moments, nothing of all this can be: one moment alone might lie between
  handing over to a thread that sleeps and its waking up.
* The UI learns of jobs by events, in the order in which Spark's scheduler took the jobs up, and a busy driver is late
  with them. So the look begins a job of its own, the marker, and counts once that is shown: what was submitted before
  it is shown as well then.

And the UI forgets what ended long ago (``spark.ui.retainedJobs``, ``spark.ui.retainedStages``), of which a task may be
left that overlooks its end. Where that may have become of an operation that is asked about, the executors' threads are
looked at as well: each that runs a task has its stage in its name. Stages that are of no job that is shown afterwards
may be the operation's.

All this is dear: two dumps of the driver's threads at least, and a job. So it is first seen whether the UI shows that
what is asked about goes on: that needs no proof.
"""

import asyncio
import contextlib
from collections.abc import Collection
from itertools import chain
from uuid import uuid4

from adapters.narrative.spark_connect_errors import BehindError, LineError
from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_names import Operation
from adapters.narrative.spark_connect_sight import Sight
from adapters.narrative.spark_connect_threads import POOLS, Threads
from adapters.narrative.spark_connect_ui import Ui
from control_plane.jobs import Waiting

Asked = list[Collection[Operation]]  #: one for each who asks

MARKER = "SELECT id FROM range(1)"
TAG = "countermand-look"  #: of no job
HANDED_OVER = 1  #: so often what is prepared may go on in another thread that nobody waits for
PAUSE_SECONDS = 0.02
PAUSE_AT_MOST_SECONDS = 0.5


class Lookout:
    """Looks by *ui*, and has its markers in the own session of *line*. Whoever ends with it closes it.

    One look after the other: whoever asks while one is under way shares the next with all who do.
    """

    def __init__(self, line: Line, ui: Ui, *, timeout_seconds: float) -> None:
        self._line = line
        self._ui = ui
        self._timeout_seconds = timeout_seconds
        self._next: dict[str, tuple[asyncio.Task[Sight], Asked]] = {}  #: by application: what has yet to begin
        self._looks: set[asyncio.Task[Sight]] = set()
        self._turn = asyncio.Lock()

    async def look(self, application: str, of: Collection[Operation]) -> Sight:
        """What the web UI shows of all that these operations, if they have ended before, can have begun or still begin.

        Where it shows that each of them goes on: what it shows of them. Of others the sight proves nothing; with none,
        it is what an operation which has ended can have begun, unless that is forgotten.

        Raises LineError where the UI does not answer, and BehindError where it does not show that much in time.
        """
        if application not in self._next:
            asked: Asked = []
            look = asyncio.create_task(self._in_turn(application, asked))
            self._next[application] = look, asked
            self._looks.add(look)
            look.add_done_callback(self._forget)
        look, asked = self._next[application]
        asked.append(of)
        return await asyncio.shield(look)

    async def aclose(self) -> None:
        """Give up what is under way."""
        for look in self._looks:
            look.cancel()
        if self._looks:
            await asyncio.wait(set(self._looks))

    async def _in_turn(self, application: str, asked: Asked) -> Sight:
        async with self._turn:
            del self._next[application]  # whoever asks from now on has seen something that this look may miss
            return await self._look(application, asked)

    def _forget(self, look: asyncio.Task[Sight]) -> None:
        self._looks.discard(look)
        if not look.cancelled():
            look.exception()  # nobody may be left to hear of it

    async def _look(self, application: str, asked: Asked) -> Sight:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                sight = await self._ui.look(application)
                if all(of and all(sight.traces(operation).are_shown for operation in of) for of in asked):
                    return sight
                await self._line.identity()  # sees that the session is there
                sight = await self._look_past_the_driver(application)
                if any(sight.may_hide(operation) for operation in chain.from_iterable(asked)):
                    tasks = await self._ui.tasks(application)
                    return sight.with_tasks(tasks, await self._look_past_a_marker(application))
                return sight
        except TimeoutError as error:
            detail = f"the driver, or its web UI, is behind by {self._timeout_seconds:g} s: what is not shown may run"
            raise BehindError(Waiting.PLANE_SILENT, detail) from error

    async def _look_past_the_driver(self, application: str) -> Sight:
        moments = [await self._ui.threads(application) for _ in range(HANDED_OVER + 1)]
        if any(threads.busy for threads in moments):
            return await self._look_past_what_is_prepared(application)
        return await self._look_past_a_marker(application)  # nor can anything stand in line

    async def _look_past_what_is_prepared(self, application: str) -> Sight:
        earlier, sizes = await self._ui.look(application), await self._pool_sizes()
        some_wait, in_line = False, False
        for _ in range(HANDED_OVER + 1):
            any_waits, moments = await self._until_none_prepares(application)
            some_wait |= any_waits
            in_line |= any(threads.is_full(sizes) for threads in moments)
        sight = await self._look_past_a_marker(application)
        sight = sight.since(earlier) if some_wait else sight
        return sight._replace(in_line=in_line or sight.in_line)

    async def _pool_sizes(self) -> dict[str, int]:
        told = await self._line.settings([name for name, _ in POOLS.values() if name is not None])
        return {pool: int(told.get(name or "", size)) for pool, (name, size) in POOLS.items()}

    async def _until_none_prepares(self, application: str) -> tuple[bool, list[Threads]]:
        """Until each thread that is busy now has done with it, or waits while no other of them prepares.

        Whether any waits; and the threads at each moment that was looked at.
        """
        pause, moments = PAUSE_SECONDS, [await self._ui.threads(application)]
        watched = moments[0].busy
        while watched & moments[-1].preparing:
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, PAUSE_AT_MOST_SECONDS)
            moments.append(await self._ui.threads(application))
            watched &= moments[-1].busy
        return bool(watched), moments

    async def _look_past_a_marker(self, application: str) -> Sight:
        marker = Operation(self._line.own, str(uuid4()))
        marking = asyncio.create_task(self._mark(marker))
        try:
            pause = PAUSE_SECONDS
            while True:
                sight = await self._ui.look(application)
                if sight.shows_job_of(marker):
                    return sight
                if marking.done():
                    marking.result()
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, PAUSE_AT_MOST_SECONDS)
        finally:
            marking.cancel()
            await asyncio.wait([marking])
            with contextlib.suppress(LineError):  # nobody waits for it
                await self._line.release(*marker)

    async def _mark(self, marker: Operation) -> None:
        async for _ in self._line.execute(*marker, reading(MARKER), tag=TAG):
            pass
