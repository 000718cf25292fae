"""Snowflake: runs compiled SQL in an account, each job in a session of its own, and knows its end by its status."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self
from uuid import UUID

import structlog
from snowflake.connector.errors import Error

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import Identity, Line, LineError, literal
from adapters.snowflake.outputs import Outputs
from adapters.snowflake.words import Fate
from control_plane.jobs import Handle, JobType, Waiting
from control_plane.work import EVERYWHERE, Claim, Served
from workers.clock import Clock
from workers.engines.base import Ending
from workers.engines.chores import Chores
from workers.engines.run_book import RunBook
from workers.engines.snowflake_endings import Endings
from workers.engines.snowflake_inquest import Inquest
from workers.engines.snowflake_owed import Owed
from workers.engines.snowflake_plans import TYPES, Plan, plan
from workers.engines.snowflake_run import ENGINE, SnowflakeRun
from workers.engines.snowflake_session import JobSession
from workers.engines.snowflake_watch import Watch
from workers.outage import EngineOutage

log = structlog.get_logger()

TAG = "countermand:executor"  #: of its own statements, which are no job's


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
        self._owed = Owed(self._outputs)
        unanswered = EngineOutage(clock, what="queries", is_away=_is_unanswered)
        self._endings = Endings(line, EngineOutage(clock, what="results", is_away=_is_silent), clock)
        self._shut_out = EngineOutage(clock, what="sessions", is_away=_is_silent)
        self._watch = Watch(line, unanswered)
        self._inquest = Inquest(line, unanswered)
        self._book = RunBook(SnowflakeRun, self._ask_to_stop)
        self._chores = Chores()

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
        with self._book.starting(claim) as run:
            try:
                planned = await run.plan(self._plan)
                run.session = session = await self._shut_out.outlast(partial(self._sign_in_for, run, planned))
                await self._shut_out.outlast(partial(self._open, run, session))
                return self._started(run, planned, await self._submit(run, session, planned, permit_left))
            finally:
                if run.never_began:
                    self._chores.begin(self._sign_out(run))

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        return await self._book.follow(handle)

    async def close(self, tag: str) -> bool:
        """Close the tag for good, and see in the background that its run ends."""
        run = self._book.close(tag)
        return run is None or not run.unresolved

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Publish committed jobs, each by itself; raises only when none could be."""
        return await self._owed.publish(claims)

    async def unpublished(self) -> list[UUID]:
        """The jobs that may have an output here which no reader sees."""
        return await self._owed.jobs()

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove unpublished outputs; one that is still being written is left for the next time."""
        return await self._owed.discard(self._book.idle(jobs))

    def check(self) -> None:
        """An account that does not answer will answer again: nothing here is ever beyond use."""

    async def aclose(self) -> None:
        """Stop every run, wait for a bounded time until all have ended, sign out everywhere."""
        await self._book.end_all(within_seconds=self._timeout_seconds)
        await self._chores.finish(within_seconds=self._timeout_seconds)
        await asyncio.gather(*(self._sign_out(run) for run in self._book.everything()))
        await self._watch.aclose()
        await self._line.aclose()

    # --- starting

    def _plan(self, claim: Claim) -> Plan:
        return plan(claim, self._outputs, self._microcents_per_second)

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
            raise run.not_started(error.message, code=error.code) from error

    async def _open(self, run: SnowflakeRun, session: JobSession) -> None:
        """The same. A session that was lost is not replaced: whoever ended it may have closed the job by that."""
        run.refuse_closed()
        try:
            await session.open()
        except LineError as error:
            if _is_silent(error) and not session.is_lost(error):
                raise
            raise run.not_started(error.message, code=error.code) from error
        if session.incarnation != self.incarnation:
            await self._sign_out(run)
            message = f"{self._account.account} is now {session.incarnation}, and was {self.incarnation}"
            raise run.not_started(message)

    async def _submit(
        self, run: SnowflakeRun, session: JobSession, planned: Plan, permit_left: Callable[[], float]
    ) -> str:
        left = run.begin_submission(permit_left)
        try:
            async with asyncio.timeout(left):
                query_id: str | None = await session.submit(planned.sql)
        except Exception as error:  # noqa: BLE001  whatever it was: the query may run, or begin later
            query_id = await self._find_out(run, session, _said(error, left))
        run.unresolved = False
        if query_id is None:
            raise run.not_started(f"{run.remark}, and no query was begun under its tag")
        return query_id

    async def _find_out(self, run: SnowflakeRun, session: JobSession, said: str) -> str | None:
        log.warning("submission_unanswered", error=said, session=session.number)
        query_id = await self._inquest.find(session.number, session.incarnation, run.claim.tag)
        run.remark = f"its submission was not answered ({said}), so that its session was ended"
        log.info("submission_resolved", query_id=query_id)
        return query_id

    def _started(self, run: SnowflakeRun, planned: Plan, query_id: str) -> Handle:
        if planned.output is not None:
            self._owed.add(run.claim.job_id)
        handle = Handle(ENGINE, self.incarnation, query_id)
        return self._book.begin(run, handle, partial(self._end_of, run, planned))

    # --- ending

    async def _end_of(self, run: SnowflakeRun, planned: Plan) -> Ending:
        began = self._clock.monotonic()
        fate = await self._watch.end_of(run.run_id)
        seconds = self._clock.monotonic() - began
        ending = await self._endings.conclude(run, planned, fate, seconds)
        self._chores.begin(self._wind_up(run, fate, seconds))
        return ending

    async def _wind_up(self, run: SnowflakeRun, fate: Fate, seconds: float) -> None:
        await self._sign_out(run)
        await self._endings.tell(run, fate, seconds)

    async def _ask_to_stop(self, run: SnowflakeRun) -> None:
        await self._line.tell(f"SELECT SYSTEM$CANCEL_QUERY({literal(run.run_id)})")

    async def _sign_out(self, run: SnowflakeRun) -> None:
        session, run.session = run.session, None
        if session is not None:
            await session.sign_out()


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
