"""Spark Connect: runs compiled SQL on a shared cluster, each job in a session of its own.

A run outlives the stream that it was begun with: whoever lost it reattaches. Nobody attached for five minutes, the
server abandons the run (``spark.connect.execute.manager.detachedTimeout``); until then it can be found and stopped.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self
from uuid import UUID

import structlog

from adapters.narrative.spark_connect_errors import SESSION_CLOSED, LineError
from adapters.narrative.spark_connect_ladder import Ladder
from adapters.narrative.spark_connect_line import Line, reading, writing
from adapters.narrative.spark_connect_names import ENGINE, Identity, Server, Session
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_outputs import Outputs
from control_plane.errors import EngineUnavailable
from control_plane.jobs import ExecutionCluster, Handle, JobType
from control_plane.work import Claim, Served
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.chores import Chores, cancel_all
from workers.engines.run import closed
from workers.engines.run_book import RunBook
from workers.engines.spark_connect_arrivals import Arrivals
from workers.engines.spark_connect_endings import Endings
from workers.engines.spark_connect_run import ConnectRun
from workers.engines.spark_connect_stream import Said, Stream
from workers.engines.spark_connect_watch import Watch
from workers.engines.spark_plans import FORMAT, SETTINGS, TYPES, Plan, catalog_settings, plan
from workers.outage import EngineOutage

log = structlog.get_logger()

LOOK_ANEW_SECONDS = 2.0  #: which start of the server it is; jobs are claimed on the one that was last seen
LINGER_SECONDS = 900.0  #: so long an ended run's session is kept: a cancellation may still want its status


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
        self._ladder = Ladder(line, self._ui)
        self._outputs = outputs
        self._timeout_seconds = timeout_seconds
        self._microcents_per_second = microcents_per_second
        self._clock = clock
        self._lost = EngineOutage(clock, what="operations", is_away=_is_silent)
        self._shut_out = EngineOutage(clock, what="sessions", is_away=_is_silent)
        self._watch = Watch(line, self._ui, lost=self._lost, timeout_seconds=timeout_seconds, clock=clock)
        self._arrivals = Arrivals(line, self._watch, lost=self._lost, timeout_seconds=timeout_seconds)
        self._endings = Endings(outputs, clock)
        self._book = RunBook(lambda claim: ConnectRun(claim, self._here), self._ask_to_stop)
        self._lingering: OrderedDict[Session, float] = OrderedDict()  #: sessions of ended runs, by when they ended
        self._chores = Chores()

    @classmethod
    async def open(
        cls, server: Server, outputs: Outputs, *, user: str, timeout_seconds: float = 30.0, **options: Any
    ) -> Self:
        """Learn which start of the server this is, and see that outputs can be written. Raises EngineUnavailable."""
        line = Line(server, user=user, timeout_seconds=timeout_seconds)
        try:
            identity = await line.identity()
            await outputs.prepare()
        except EngineUnavailable:
            await line.aclose()
            await outputs.aclose()
            raise
        engine = cls(line, outputs, identity=identity, timeout_seconds=timeout_seconds, **options)
        engine._chores.begin(engine._keep_looking())
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
        with self._book.starting(claim) as run:
            self._chores.begin(self._end_lingering())
            planned = await run.plan(partial(plan, microcents_per_second=self._microcents_per_second))
            await self._shut_out.outlast(partial(self._prepare, run, planned))
            return await self._submit(run, planned, permit_left)

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        return await self._book.follow(handle)

    async def close(self, tag: str) -> bool:
        """Close the tag for good, and see in the background that its run ends."""
        run = self._book.close(tag)
        return run is None or not run.unresolved

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs, each by itself; raises only when none could be."""
        orders = {claim.job_id: claim.publication for claim in claims if claim.publication is not None}
        return await self._outputs.publish(orders) if orders else frozenset()

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output in the warehouse which no reader was ever shown."""
        return await self._outputs.unpublished()

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that is still being written is left for the next time."""
        return await self._outputs.discard(list(self._book.idle(jobs)))

    def check(self) -> None:
        """A server that does not answer will answer again, or another start of it: nothing here is beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended. Sessions are left: their status is evidence."""
        await self._book.end_all(within_seconds=self._timeout_seconds)
        await self._chores.cancel()
        await self._watch.aclose()
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
            raise run.not_started(error.message, condition=error.condition) from error
        if planned.output is not None:
            await self._outputs.prepare()

    async def _submit(self, run: ConnectRun, planned: Plan, permit_left: Callable[[], float]) -> Handle:
        left = run.begin_submission(permit_left)
        began = self._clock.monotonic()
        reader = asyncio.create_task(Stream(self._line, run, self._sparks(planned)).read(self._lost))
        if not await self._arrivals.has_arrived(run, reader, left):
            await cancel_all([reader])
            run.unresolved = False
            raise run.not_started(f"{run.remark}; nothing of it runs")
        run.unresolved = False
        handle = Handle(ENGINE, run.here.incarnation, run.operation_id)
        return self._book.begin(run, handle, partial(self._end_of, run, planned, reader, began))

    def _sparks(self, planned: Plan) -> Any:
        """One operation, whatever the job: a statement of SQL and then a plan would be two."""
        if planned.output is None:
            return reading(planned.query)
        return writing(planned.query, self._outputs.place(planned.output), FORMAT)

    # --- ending

    async def _end_of(self, run: ConnectRun, planned: Plan, reader: asyncio.Task[Said], began: float) -> Ending:
        said = await reader
        state = await self._watch.end_of(run)
        now = self._clock.monotonic()
        ending = await self._endings.conclude(run, planned, said, state, now - began)
        log.info("run_ended", operation_id=run.operation_id, status=state, seconds=round(now - began, 3))
        self._lingering[run.session] = now
        return ending

    async def _ask_to_stop(self, run: ConnectRun) -> None:
        await self._ladder.climb(run.operation, run.claim.tag, next(run.rungs), application=run.here.application)

    async def _end_lingering(self) -> None:
        """End the sessions of what ended long ago; the server would, an hour after they were last used."""
        latest = self._clock.monotonic() - LINGER_SECONDS
        for session in [session for session, ended_at in self._lingering.items() if ended_at < latest]:
            del self._lingering[session]
            with contextlib.suppress(LineError):
                await self._line.release_session(session)


def _is_silent(error: BaseException) -> bool:
    """Whether to ask again; any other answer says what somebody has to mend."""
    return isinstance(error, LineError) and error.is_silence
