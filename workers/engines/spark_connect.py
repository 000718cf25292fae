"""Spark Connect: runs compiled SQL on a shared cluster, each job in a session of its own.

A run outlives the stream that it was begun with: whoever lost it reattaches. Nobody attached for five minutes, the
server abandons the run (``spark.connect.execute.manager.detachedTimeout``); until then it can be found and stopped.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from itertools import chain, count, repeat
from typing import Any, NamedTuple, Self
from uuid import UUID

import structlog

from adapters.base import RunStatus
from adapters.narrative.spark_connect_errors import (
    OPERATION_NOT_FOUND,
    SESSION_CLOSED,
    SESSION_NOT_FOUND,
    LineError,
    answered,
)
from adapters.narrative.spark_connect_ladder import Ladder
from adapters.narrative.spark_connect_line import Line, reading, writing
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_names import ENGINE, Identity, Server, Session
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_connect_words import STATUSES, TERMINATING, Outliving
from adapters.narrative.spark_outputs import Outputs
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import ExecutionCluster, FailureCause, Handle, JobType, Rung
from control_plane.work import Claim, Served
from workers.clock import Clock
from workers.engines.base import Ending, NotStarted
from workers.engines.run_book import RunBook, closed
from workers.engines.spark_connect_run import ConnectRun
from workers.engines.spark_plans import FORMAT, SETTINGS, TYPES, Plan, Rows, catalog_settings, count_rows, plan
from workers.outage import EngineOutage

log = structlog.get_logger()

REMEMBERED = 10_000
STOP_AGAIN_SECONDS = 1.0
LOOK_ANEW_SECONDS = 2.0  #: which start of the server it is; jobs are claimed on the one that was last seen
RUNGS = (Rung.ASK, Rung.INSIST, Rung.FORCE)  #: of what is stopped again and again: the last one for good
LOOK_SECONDS = 0.02  #: between two looks whether a submission has arrived
LOOK_AT_MOST_SECONDS = 0.5
LET_END_SECONDS = 0.5  #: for tasks to end after their operation has, before that is worth a word
IDLE_AT_MOST_SECONDS = 15.0  #: between two looks whether it goes on: each is a job in the web UI's list, which is short
LINGER_SECONDS = 900.0  #: so long an ended run's session is kept: a cancellation may still want its status


class Said(NamedTuple):
    """What came of a run's stream: the rows, in Arrow's format, or the error that it ended with."""

    arrow: tuple[bytes, ...] = ()
    error: LineError | None = None


class SparkConnectEngine:
    """One server, in the user's name that its jobs run under.

    With its web UI at *ui_url*, what is stopped has ended only once no task of it is active, and what did not hear that
    it was to stop is stopped all the same. *timeout_seconds* bounds every call; a run may last as long as it likes.
    """

    name = ENGINE
    types: frozenset[JobType] = TYPES
    ends_with_executor = False  #: what was submitted, or is on its way, is in the server's hands

    def __init__(
        self,
        line: Line,
        outputs: Outputs,
        *,
        identity: Identity,
        ui_url: str,
        timeout_seconds: float = 30.0,
        microcents_per_second: float = 0.0,
        clock: Clock = Clock(),
    ) -> None:
        self._here = identity
        self._line = line
        self._ui = Ui(ui_url, timeout_seconds=timeout_seconds)
        self._lookout = Lookout(line, self._ui, timeout_seconds=timeout_seconds)
        self._ladder = Ladder(line, self._ui)
        self._outputs = outputs
        self._timeout_seconds = timeout_seconds
        self._microcents_per_second = microcents_per_second
        self._clock = clock
        self._book = RunBook(lambda claim: ConnectRun(claim, self._here), remembered=REMEMBERED)
        self._lost = EngineOutage(clock, what="operations", is_away=_is_silent)
        self._shut_out = EngineOutage(clock, what="sessions", is_away=_is_silent)
        self._lingering: OrderedDict[Session, float] = OrderedDict()  #: sessions of ended runs, by when they ended
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, server: Server, outputs: Outputs, *, user: str, timeout_seconds: float = 30.0, **options: Any
    ) -> Self:
        """Learn which start of the server this is. Raises LineError."""
        line = Line(server, user=user, timeout_seconds=timeout_seconds)
        try:
            identity = await line.identity()
        except LineError:
            await line.aclose()
            raise
        engine = cls(line, outputs, identity=identity, timeout_seconds=timeout_seconds, **options)
        engine._later(engine._keep_looking())
        return engine

    # --- as the executor uses it

    @property
    def incarnation(self) -> str:
        """The start of the server that was last seen."""
        return self._here.incarnation

    @property
    def clusters(self) -> Served:
        """The shared one, on the start of the server that was last seen."""
        return {ExecutionCluster.SHARED: self.incarnation}

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one run, however long the server is silent; a submission without an answer is looked into."""
        run = self._book.add(claim)
        self._later(self._end_lingering())
        try:
            planned = await self._plan(run)
            await self._shut_out.outlast(partial(self._prepare, run, planned))
            return await self._submit(run, planned, permit_left)
        finally:
            if run.handle is None and not run.unresolved:
                self._book.note_end(run)

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        run = self._book.by_handle(handle)
        if run is None or run.ending is None:
            raise EngineUnavailable(f"handle: {handle.run_id} is no run of this executor", field="handle")
        return await asyncio.shield(run.ending)

    async def close(self, tag: str) -> bool:
        """Close the tag for good, and see in the background that its run ends."""
        run = self._book.close(tag)
        if run is None:
            return True
        self._stop(run)
        return not run.unresolved

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs, each by itself; raises only when none could be."""
        orders = {claim.job_id: claim.publication for claim in claims if claim.publication is not None}
        return await self._outputs.publish(orders) if orders else frozenset()

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output in the warehouse which no reader was ever shown."""
        return await self._outputs.unpublished()

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that is still being written is left for the next time."""
        busy = {run.claim.job_id for run in self._book.everything() if run.is_active or run.unresolved}
        return await self._outputs.discard([job_id for job_id in jobs if job_id not in busy])

    def check(self) -> None:
        """A server that does not answer will answer again, or another start of it: nothing here is beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended. Sessions are left: their status is evidence."""
        active = [run for run in self._book.everything() if run.is_active]
        for run in active:
            self._stop(run)
        if endings := [run.ending for run in active if run.ending is not None]:
            _, left = await asyncio.wait(endings, timeout=self._timeout_seconds)
            await _cancel(left)
        await _cancel({run.stopping for run in active if run.stopping is not None})
        await _cancel(self._tasks)
        await self._lookout.aclose()
        await self._line.aclose()
        await self._ui.aclose()
        await self._outputs.aclose()

    async def _keep_looking(self) -> None:
        """Of a job that was claimed on a start that is gone, and never began, nobody could say that nothing runs."""
        while True:
            await self._clock.pause(LOOK_ANEW_SECONDS)
            with contextlib.suppress(LineError):
                self._note(await self._line.identity())

    def _note(self, here: Identity) -> Identity:
        """The start of the server that answers now."""
        if here != self._here:
            log.warning("server_started_anew", incarnation=here.incarnation, before=self._here.incarnation)
        self._here = here
        return here

    # --- starting

    async def _plan(self, run: ConnectRun) -> Plan:
        """Read in a thread: a long SQL takes seconds."""
        try:
            return await asyncio.to_thread(plan, run.claim, self._microcents_per_second)
        except BadInput as error:
            raise NotStarted(error.message, **run.known(), field=error.field) from error

    async def _prepare(self, run: ConnectRun, planned: Plan) -> None:
        """See that its session is there. Raises LineError to be tried again, NotStarted for what is to be mended."""
        run.refuse_closed()
        try:
            run.here = self._note(await self._line.identity())
            await self._line.touch(run.session, SETTINGS | catalog_settings(self._outputs.root))
        except LineError as error:
            if error.condition == SESSION_CLOSED:
                raise closed(run.claim.tag) from error
            if _is_silent(error):
                raise
            raise NotStarted(error.message, **run.known(condition=error.condition)) from error
        if planned.output is not None:
            await self._outputs.prepare()

    async def _submit(self, run: ConnectRun, planned: Plan, permit_left: Callable[[], float]) -> Handle:
        run.refuse_closed()
        if (left := permit_left()) <= 0:
            raise NotStarted("the permit ran out before it was submitted", **run.known())
        run.unresolved = True
        began = self._clock.monotonic()
        reader = asyncio.create_task(self._read(run, self._sparks(planned)))
        if not await self._has_arrived(run, reader, left):
            await _cancel({reader})
            run.unresolved = False
            raise NotStarted(f"{run.remark}; nothing of it runs", **run.known())
        run.unresolved = False
        return self._started(run, planned, reader, began)

    def _sparks(self, planned: Plan) -> Any:
        """One operation, whatever the job: a statement of SQL and then a plan would be two."""
        if planned.output is None:
            return reading(planned.query)
        return writing(planned.query, self._outputs.place(planned.output), FORMAT)

    async def _has_arrived(self, run: ConnectRun, reader: asyncio.Task[Said], left: float) -> bool:
        """Whether the operation is on the server. Where that is not learned in time, its session is ended.

        Raises Conflict when its session had been ended before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                if await self._is_known(run, reader):
                    return True
        refusal = reader.result().error if reader.done() else None
        if refusal is not None and refusal.condition == SESSION_CLOSED:
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
                if STATUSES.get(await self._state(run)) is not None:
                    return True
            if last:
                return False
            await asyncio.wait([reader], timeout=pause)
            pause = min(1.5 * pause, LOOK_AT_MOST_SECONDS)

    async def _find_out(self, run: ConnectRun, reader: asyncio.Task[Said]) -> bool:
        """Whether it arrived after all; otherwise its session is ended, so that it cannot any more."""
        state = await self._state(run)
        if STATUSES.get(state) is not None:
            return True
        if state != SESSION_CLOSED:
            await self._line.touch(run.session)
            await self._line.release_session(run.session)
        # It may have arrived after the look and before the end of its session, which ends its stream as well.
        await asyncio.wait([reader], timeout=self._timeout_seconds)
        await self._until_idle(run)
        return False

    async def _state(self, run: ConnectRun) -> str:
        """The operation's state; or why there is none."""
        states = await answered(
            lambda: self._line.states(run.session, [run.operation_id]), SESSION_CLOSED, SESSION_NOT_FOUND
        )
        return states if isinstance(states, str) else states.get(run.operation_id, "UNKNOWN")

    def _started(self, run: ConnectRun, planned: Plan, reader: asyncio.Task[Said], began: float) -> Handle:
        handle = Handle(ENGINE, run.here.incarnation, run.operation_id)
        self._book.name(run, handle)
        run.ending = asyncio.create_task(self._see_to_the_end(run, planned, reader, began))
        if run.closed:
            self._stop(run)
        return handle

    # --- ending

    async def _read(self, run: ConnectRun, plan: Any) -> Said:
        """The run's stream to its end, however often it is lost: then it is taken up where it was."""
        arrow: list[bytes] = []
        last: str | None = None  #: the id of the latest response
        submitted = False

        async def read_on() -> bool:
            nonlocal last, submitted
            again = partial(self._line.reattach, run.session, run.operation_id, last)
            first = partial(self._line.execute, run.session, run.operation_id, plan, tag=run.claim.tag)
            stream, submitted = again() if submitted else first(), True
            async for batch in stream:
                last = batch.response_id
                arrow.extend([batch.arrow] if batch.arrow else [])
                if batch.complete:
                    return True
            return False

        try:
            while not await self._lost.outlast(read_on):
                pass
        except LineError as error:
            return Said(error=error)
        return Said(tuple(arrow))

    async def _see_to_the_end(self, run: ConnectRun, planned: Plan, reader: asyncio.Task[Said], began: float) -> Ending:
        said = await reader
        state = await self._lost.outlast(partial(self._last_state, run))
        if STATUSES.get(state) is not RunStatus.SUCCEEDED:
            await self._until_idle(run)
        now = self._clock.monotonic()
        ending = await self._conclude(run, planned, said, state, now - began)
        log.info("run_ended", operation_id=run.operation_id, status=state, seconds=round(now - began, 3))
        self._book.note_end(run)
        self._lingering[run.session] = now
        return ending

    async def _last_state(self, run: ConnectRun) -> str:
        """Its state once it has one that is final: what has ended stays TERMINATING until its answer is let go of."""
        pause = LOOK_SECONDS
        while STATUSES.get(state := await self._state(run)) is RunStatus.ACTIVE:
            if state == TERMINATING:
                await self._line.release(run.session, run.operation_id)
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LOOK_AT_MOST_SECONDS)
        return state

    async def _until_idle(self, run: ConnectRun) -> None:
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

    async def _conclude(self, run: ConnectRun, planned: Plan, said: Said, state: str, seconds: float) -> Ending:
        status = STATUSES.get(state, RunStatus.GONE)
        if status is not RunStatus.SUCCEEDED:
            message = said.error.message if said.error else f"what became of it is not known: {state}"
            return self._failed(run, status, state, message, said.error.condition if said.error else None)
        try:
            rows = await self._rows(planned, said)
        except EngineUnavailable as error:
            return self._failed(run, RunStatus.ERRORED, state, f"its result cannot be read: {error.message}")
        result = planned.conclude(rows, seconds)
        return Ending(status, state, self._clock.now(), result=result, dataset_id=planned.dataset_id)

    async def _rows(self, planned: Plan, said: Said) -> int:
        if planned.rows is Rows.ANSWERED:
            return await asyncio.to_thread(_number_in, said)
        if planned.rows is Rows.WRITTEN and planned.output is not None:
            return await asyncio.to_thread(count_rows, self._outputs.folder(planned.output))
        return 0

    def _failed(
        self, run: ConnectRun, status: RunStatus, word: str, message: str, condition: str | None = None
    ) -> Ending:
        now = self._clock.now()
        return Ending(status, word, now, cause=FailureCause(message, now, run.known(condition=condition)))

    def _stop(self, run: ConnectRun) -> None:
        if run.is_active and run.stopping is None:
            run.stopping = asyncio.create_task(self._interrupt_until_ended(run))

    async def _interrupt_until_ended(self, run: ConnectRun) -> None:
        """What is answered proves nothing: only the run's end ends this."""
        rungs = chain(RUNGS, repeat(RUNGS[-1]))
        while run.ending is not None and not run.ending.done():
            with contextlib.suppress(LineError):  # whoever follows the run tells of the silence
                await self._ladder.climb(run.operation, run.claim.tag, next(rungs), application=run.here.application)
            await asyncio.wait([run.ending], timeout=STOP_AGAIN_SECONDS)

    async def _end_lingering(self) -> None:
        """End the sessions of what ended long ago; the server would, an hour after they were last used."""
        latest = self._clock.monotonic() - LINGER_SECONDS
        for session in [session for session, ended_at in self._lingering.items() if ended_at < latest]:
            del self._lingering[session]
            with contextlib.suppress(LineError):
                await self._line.release_session(session)

    def _later(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chore)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _number_in(said: Said) -> int:
    """The one number in the one row that came. Raises EngineUnavailable where it did not."""
    import pyarrow as pa

    try:
        rows = [row for part in said.arrow for row in pa.ipc.open_stream(part).read_all().to_pylist()]
        [row] = rows
        return int(row["rows"])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise EngineUnavailable(f"{len(said.arrow)} batches hold no single number") from error


def _is_silent(error: BaseException) -> bool:
    """Whether to ask again; any other answer says what somebody has to mend."""
    return isinstance(error, LineError) and error.is_silence


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
