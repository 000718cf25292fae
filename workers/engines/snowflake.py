"""Snowflake: runs compiled SQL in an account, each job in a session of its own, and knows its end by its status."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Self
from uuid import UUID

import structlog
from snowflake.connector.errors import Error

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import Identity, Line, LineError, literal
from adapters.snowflake.outputs import Outputs
from adapters.snowflake.words import Fate
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import Handle, JobType, Waiting
from control_plane.work import EVERYWHERE, Claim, Served
from workers.clock import Clock
from workers.engines.base import Ending, NotStarted
from workers.engines.run_book import RunBook
from workers.engines.snowflake_endings import Endings
from workers.engines.snowflake_inquest import Inquest
from workers.engines.snowflake_plans import TYPES, Plan, plan
from workers.engines.snowflake_run import ENGINE, SnowflakeRun
from workers.engines.snowflake_session import JobSession
from workers.engines.snowflake_watch import Watch
from workers.outage import EngineOutage

log = structlog.get_logger()

TAG = "countermand:executor"  #: of its own statements, which are no job's
REMEMBERED = 10_000
CANCEL_AGAIN_SECONDS = 1.0


class SnowflakeEngine:
    """One account, in the user's and the warehouse's name that its jobs run under.

    *timeout_seconds* bounds every call; *statement_timeout_seconds* and *queued_timeout_seconds* are what Snowflake
    itself ends a run by, should nobody else be left to do it.
    """

    name = ENGINE
    types: frozenset[JobType] = TYPES
    clusters: Served = EVERYWHERE
    ends_with_executor = False  #: what was submitted, or is on its way, is in Snowflake's hands

    def __init__(
        self,
        account: Account,
        sign_in: SignIn,
        *,
        line: Line,
        identity: Identity,
        timeout_seconds: float = 30.0,
        statement_timeout_seconds: float = 86_400.0,
        queued_timeout_seconds: float = 3_600.0,
        microcents_per_second: float = 0.0,
        clock: Clock = Clock(),
    ) -> None:
        self.incarnation = identity.incarnation
        self._account = account
        self._sign_in = sign_in
        self._line = line
        self._timeout_seconds = timeout_seconds
        self._limits = {
            "STATEMENT_TIMEOUT_IN_SECONDS": str(math.ceil(statement_timeout_seconds)),
            "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": str(math.ceil(queued_timeout_seconds)),
        }
        self._microcents_per_second = microcents_per_second
        self._clock = clock
        self._outputs = Outputs(line, account.database)
        unanswered = EngineOutage(clock, what="queries", is_away=_is_unanswered)
        self._endings = Endings(line, EngineOutage(clock, what="results", is_away=_is_silent), clock)
        self._shut_out = EngineOutage(clock, what="sessions", is_away=_is_silent)
        self._watch = Watch(line, unanswered)
        self._inquest = Inquest(line, unanswered)
        self._book = RunBook(SnowflakeRun, remembered=REMEMBERED)
        self._owed: set[UUID] = set()  #: jobs that may have an output which no reader sees
        self._looked = False
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, account: Account, sign_in: SignIn, *, timeout_seconds: float = 30.0, **options: Any) -> Self:
        """Sign in, and learn which account this is. Raises LineError."""
        line = Line(account, sign_in, timeout_seconds=timeout_seconds, tag=TAG, with_warehouse=True)
        try:
            identity = await line.identity()
        except LineError:
            await line.aclose()
            raise
        return cls(account, sign_in, line=line, identity=identity, timeout_seconds=timeout_seconds, **options)

    # --- as the executor uses it

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one run, however long the account is silent; a submission without an answer is looked into.

        Nothing is sent for SQL that is not one plain query.
        """
        run = self._book.add(claim)
        try:
            planned = await self._plan(run)
            run.session = session = await self._shut_out.outlast(partial(self._sign_in_for, run, planned))
            await self._shut_out.outlast(partial(self._open, run, session))
            return self._started(run, planned, await self._submit(run, session, planned, permit_left))
        finally:
            if run.handle is None and not run.unresolved:
                self._book.note_end(run)
                self._later(self._sign_out(run))

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
        published: set[UUID] = set()
        failed: LineError | None = None
        for claim in claims:
            try:
                published |= {claim.job_id} if await self._publish(claim) else set()
            except LineError as error:
                failed = error
        if failed is not None and not published:
            raise failed
        return frozenset(published)

    async def unpublished(self) -> list[UUID]:
        """The jobs that may have an output here which no reader sees.

        Looked for once; afterwards it is known what this executor has written. Looking again and again would keep the
        warehouse from ever being suspended.
        """
        if not self._looked:
            self._owed.update(await self._outputs.unpublished())
            self._looked = True
        return list(self._owed)

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that is still being written is left for the next time."""
        busy = {run.claim.job_id for run in self._book.everything() if run.is_active or run.unresolved}
        idle = {job_id: tag for job_id, tag in jobs.items() if job_id not in busy}
        removed = await self._outputs.discard(idle)
        self._owed.difference_update(idle)
        return removed

    def check(self) -> None:
        """An account that does not answer will answer again: nothing here is ever beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended, sign out everywhere."""
        active = [run for run in self._book.everything() if run.is_active]
        for run in active:
            self._stop(run)
        if endings := [run.ending for run in active if run.ending is not None]:
            _, left = await asyncio.wait(endings, timeout=self._timeout_seconds)
            await _cancel(left)
        await _cancel({run.stopping for run in active if run.stopping is not None})
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout_seconds)
        await asyncio.gather(*(self._sign_out(run) for run in self._book.everything()))
        await self._watch.aclose()
        await self._line.aclose()

    # --- starting

    async def _plan(self, run: SnowflakeRun) -> Plan:
        """Read in a thread: a long SQL takes seconds."""
        try:
            return await asyncio.to_thread(plan, run.claim, self._outputs, self._microcents_per_second)
        except BadInput as error:
            raise NotStarted(error.message, **run.known(), field=error.field) from error

    async def _sign_in_for(self, run: SnowflakeRun, planned: Plan) -> JobSession:
        """Raises LineError to be tried again, and NotStarted for what somebody has to mend."""
        run.refuse_closed()
        try:
            if planned.output is not None:
                await self._outputs.prepare()
            return await JobSession.signed_in(
                self._account,
                self._sign_in,
                run.claim.tag,
                timeout_seconds=self._timeout_seconds,
                limits=self._limits,
            )
        except LineError as error:
            if _is_silent(error):
                raise
            raise NotStarted(error.message, **run.known(code=error.code)) from error

    async def _open(self, run: SnowflakeRun, session: JobSession) -> None:
        """The same. A session that was lost is not replaced: whoever ended it may have closed the job by that."""
        run.refuse_closed()
        try:
            await session.open()
        except LineError as error:
            if _is_silent(error) and not session.is_lost(error):
                raise
            raise NotStarted(error.message, **run.known(code=error.code)) from error
        if session.incarnation != self.incarnation:
            await self._sign_out(run)
            message = f"{self._account.account} is now {session.incarnation}, and was {self.incarnation}"
            raise NotStarted(message, **run.known())

    async def _submit(
        self, run: SnowflakeRun, session: JobSession, planned: Plan, permit_left: Callable[[], float]
    ) -> str:
        run.refuse_closed()
        if (left := permit_left()) <= 0:
            raise NotStarted("the permit ran out before it was submitted", **run.known())
        run.unresolved = True
        try:
            async with asyncio.timeout(left):
                query_id: str | None = await session.submit(planned.sql)
        except Exception as error:  # noqa: BLE001  whatever it was: the query may run, or begin later
            query_id = await self._find_out(run, session, _said(error, left))
        run.unresolved = False
        if query_id is None:
            raise NotStarted(f"{run.remark}, and no query was begun under its tag", **run.known())
        return query_id

    async def _find_out(self, run: SnowflakeRun, session: JobSession, said: str) -> str | None:
        log.warning("submission_unanswered", error=said, session=session.number)
        query_id = await self._inquest.find(session.number, session.incarnation, run.claim.tag)
        run.remark = f"its submission was not answered ({said}), so that its session was ended"
        log.info("submission_resolved", query_id=query_id)
        return query_id

    def _started(self, run: SnowflakeRun, planned: Plan, query_id: str) -> Handle:
        handle = Handle(ENGINE, self.incarnation, query_id)
        self._book.name(run, handle)
        run.ending = asyncio.create_task(self._see_to_the_end(run, planned))
        if planned.output is not None:
            self._owed.add(run.claim.job_id)
        if run.closed:
            self._stop(run)
        return handle

    # --- ending

    async def _see_to_the_end(self, run: SnowflakeRun, planned: Plan) -> Ending:
        began = self._clock.monotonic()
        fate = await self._watch.end_of(run.run_id)
        seconds = self._clock.monotonic() - began
        ending = await self._endings.conclude(run, planned, fate, seconds)
        self._book.note_end(run)
        self._later(self._wind_up(run, fate, seconds))
        return ending

    async def _wind_up(self, run: SnowflakeRun, fate: Fate, seconds: float) -> None:
        await self._sign_out(run)
        await self._endings.tell(run, fate, seconds)

    def _stop(self, run: SnowflakeRun) -> None:
        if run.is_active and run.stopping is None:
            run.stopping = asyncio.create_task(self._cancel_until_ended(run))

    async def _cancel_until_ended(self, run: SnowflakeRun) -> None:
        """What is answered proves nothing: only the run's end ends this."""
        while run.ending is not None and not run.ending.done():
            with contextlib.suppress(LineError):  # whoever watches the run tells of the silence
                await self._line.tell(f"SELECT SYSTEM$CANCEL_QUERY({literal(run.run_id)})")
            await asyncio.wait([run.ending], timeout=CANCEL_AGAIN_SECONDS)

    async def _sign_out(self, run: SnowflakeRun) -> None:
        session, run.session = run.session, None
        if session is not None:
            await session.sign_out()

    # --- outputs

    async def _publish(self, claim: Claim) -> bool:
        if claim.publication is None:
            return False
        published = await self._outputs.publish(claim.tag, claim.job_id, claim.publication)
        if published:
            self._owed.discard(claim.job_id)
        return published

    def _later(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chore)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_unanswered(error: BaseException) -> bool:
    """Whatever it was, nothing was learned: what runs is looked after until something is."""
    return isinstance(error, Exception)


def _is_silent(error: BaseException) -> bool:
    """Whether to try again; any other answer says what somebody has to mend."""
    return isinstance(error, LineError) and error.trouble.waiting is Waiting.PLANE_SILENT


def _said(error: Exception, left: float) -> str:
    """In the connector's words; its own time-outs have none."""
    if isinstance(error, Error):
        return " ".join(str(error.raw_msg or error).split())
    return (
        f"no answer within the {left:.3g} s that its permit had left" if isinstance(error, TimeoutError) else str(error)
    )


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
