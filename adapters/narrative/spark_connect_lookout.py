"""A look at a Connect server's web UI that shows whatever an operation that has ended can have left running.

Measured on Spark 4.3.0: of a query that was interrupted while it was planned, Connect said ``CANCELLED``, and up to
seconds later its job began, and ran on. That nothing is seen therefore proves nothing, for two reasons, and a look
sees to both:

* A thread of the driver may still be about to submit a job: adaptive execution has stages, broadcasts and subqueries
  prepared by pools of their own, which nobody interrupts. Whose query a thread prepares, nobody tells; so each that
  does when the look begins is waited for.
* The UI learns of jobs by events, in the order in which Spark's scheduler took the jobs up, and a busy driver is late
  with them. So the look begins a job of its own, the marker, and counts once that is shown: what was submitted before
  it is shown as well then.
"""

import asyncio
import contextlib
from uuid import uuid4

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_names import Operation
from adapters.narrative.spark_connect_ui import Sight, Ui
from control_plane.jobs import Waiting

MARKER = "SELECT id FROM range(1)"
TAG = "countermand-look"  #: of no job
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
        self._next: dict[str, asyncio.Task[Sight]] = {}  #: by application: the look that has yet to begin
        self._looks: set[asyncio.Task[Sight]] = set()
        self._turn = asyncio.Lock()

    async def look(self, application: str) -> Sight:
        """What the web UI shows of all that an operation which has ended before can have begun, or still begin.

        Raises LineError where the UI does not answer, or does not show that much in time.
        """
        if application not in self._next:
            look = self._next[application] = asyncio.create_task(self._in_turn(application))
            self._looks.add(look)
            look.add_done_callback(self._forget)
        return await asyncio.shield(self._next[application])

    async def aclose(self) -> None:
        """Give up what is under way."""
        for look in self._looks:
            look.cancel()
        if self._looks:
            await asyncio.wait(set(self._looks))

    async def _in_turn(self, application: str) -> Sight:
        async with self._turn:
            del self._next[application]  # whoever asks from now on has seen something that this look may miss
            return await self._look(application)

    def _forget(self, look: asyncio.Task[Sight]) -> None:
        self._looks.discard(look)
        if not look.cancelled():
            look.exception()  # nobody may be left to hear of it

    async def _look(self, application: str) -> Sight:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._until_all_is_submitted(application)
                return await self._look_past_a_marker(application)
        except TimeoutError as error:
            detail = f"the driver, or its web UI, is behind by {self._timeout_seconds:g} s: what is not shown may run"
            raise LineError(Waiting.PLANE_SILENT, detail) from error

    async def _until_all_is_submitted(self, application: str) -> None:
        """Until each thread that prepares something now was seen to have done with it."""
        pause, preparing = PAUSE_SECONDS, await self._ui.preparing(application)
        while preparing:
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, PAUSE_AT_MOST_SECONDS)
            preparing &= await self._ui.preparing(application)

    async def _look_past_a_marker(self, application: str) -> Sight:
        await self._line.identity()  # sees that the session is there
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
