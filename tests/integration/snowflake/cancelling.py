"""A worker over a store and a Snowflake account: jobs that run there, and rounds on a clock that hurries."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from adapters.base import Adapter
from control_plane.intake import CancellationRequest
from control_plane.jobs import Cancellation, Handle, Job, JobType, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.work import Executor, Work
from tests.contract.snowflake import SnowflakePlane
from tests.integration.given import ASKER, Given
from tests.snowflake import ENDLESS, SnowflakeAccount, until
from workers.clock import Clock
from workers.judgement import LADDER
from workers.limits import Limits
from workers.local import LocalCancellations, threads
from workers.rounds import Rounds

EXECUTOR = Executor("job-executor-snowflake", 1)
#: What a second of the worker's pauses takes here.
REAL_SECONDS = 0.1
#: More of the hurried clock's than any test lasts: a busy machine would lose a shorter lease, and the round with it.
LEASE_SECONDS = 3_600.0


@dataclass
class Site:
    """One Snowflake plane with its store, its account and a worker."""

    given: Given
    account: SnowflakeAccount
    stack: ExitStack
    listing_lag_seconds: float = 0.0
    canceller: str = "CANCELLER"
    limits: Limits = field(init=False)

    queries: dict[UUID, str] = field(default_factory=dict)  #: by job
    _epochs: dict[UUID, UUID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        patience = timedelta(seconds=self.account.patience_seconds)
        self.limits = Limits(lease_seconds=LEASE_SECONDS, patience=dict.fromkeys((Rung.ASK, Rung.INSIST), patience))
        self.plane = self.given.new_plane(Platform.SNOWFLAKE, listing_lag_seconds=self.listing_lag_seconds)
        self.engine = SnowflakePlane(
            self.account,
            self.stack,
            installation=self.given.dispatch.installation(),
            data_plane_id=self.plane.data_plane_id,
            canceller=self.canceller,
        )

    def be_patient_at(self, rung: Rung) -> None:
        """Never climb past *rung*: the clock hurries here, and a busy machine would climb past the one that stops."""
        below = LADDER[: LADDER.index(rung)]
        self.limits = replace(self.limits, patience={lower: self.limits.patience[lower] for lower in below})

    def claimed(self) -> Work:
        """A job that an executor has claimed, with its session open."""
        self.given.pending(plane=self.plane)
        [claim] = self.given.dispatch.start(
            EXECUTOR,
            data_plane_id=self.plane.data_plane_id,
            types=list(JobType),
            limit=1,
            incarnation=self.account.incarnation,
        )
        self._epochs[claim.job_id] = claim.epoch
        work = Work(claim.job_id, claim.tag, incarnation=self.account.incarnation)
        self.engine.open_session(work)
        return work

    def running(self, *, record: bool = True, sql: str = ENDLESS) -> Work:
        """A job whose query is under way; *record*: and on record."""
        work = self.claimed()
        query_id = self.engine.submit(work, sql)
        self.queries[work.job_id] = query_id
        if record:
            handle = Handle("snowflake", self.account.incarnation, query_id)
            self.given.dispatch.record_handles({work.job_id: handle}, {work.job_id: self._epochs[work.job_id]})
        if sql == ENDLESS:
            until(lambda: self.account.is_executing(query_id))
        self.account.until_listed(query_id)
        return work

    def close(self, *works: Work) -> None:
        """The executor confirms that it submits nothing more."""
        self.given.dispatch.confirm_closed({work.job_id: self._epochs[work.job_id] for work in works})

    def request(self, *works: Work) -> None:
        """Somebody asks for the jobs' cancellation, all at once."""
        requests = [CancellationRequest(work.job_id, ASKER, None) for work in works]
        self.given.intake.request_cancellations(requests)

    def is_executing(self, work: Work) -> bool:
        return self.account.is_executing(self.queries[work.job_id])

    # --- the worker

    def work_until(self, *conditions: Callable[[], bool], real_seconds: float = 40.0) -> None:
        """Let a worker do its rounds until each of these was so, one after the other; then it is drained."""
        asyncio.run(asyncio.wait_for(self._work_until(conditions), real_seconds))

    async def _work_until(self, conditions: tuple[Callable[[], bool], ...]) -> None:
        stopping, wake, beat = asyncio.Event(), asyncio.Event(), asyncio.Event()
        rounds = Rounds(
            LocalCancellations(self.given.dispatch, threads(2)),
            self._look,
            worker="w1",
            limits=self.limits,
            clock=self._clock(),
        )
        working = asyncio.create_task(rounds.run(stopping=stopping, wake=wake, beat=beat))
        try:
            for condition in conditions:
                while not condition():
                    if working.done():
                        working.result()
                    await self._pause(1.0)
                    wake.set()
        finally:
            stopping.set()
            wake.set()
            await working
            await self.engine.aclose()

    async def _look(self) -> dict[UUID, Adapter]:
        return {self.plane.data_plane_id: self.engine.adapter}

    def _clock(self) -> Clock:
        store_clock = self.given.clock
        return Clock(now=lambda: store_clock.now, monotonic=lambda: store_clock.now.timestamp(), pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        self.given.clock.advance(seconds)
        await asyncio.sleep(seconds * REAL_SECONDS)

    # --- what came of it

    def job(self, work: Work) -> Job:
        return self.given.job(work.job_id)

    def cancellation(self, work: Work) -> Cancellation:
        cancellation = self.job(work).cancellation
        assert cancellation is not None
        return cancellation

    def has_ended(self, *works: Work) -> Callable[[], bool]:
        return lambda: all(self.job(work).state is JobState.CANCELLED for work in works)

    def waits(self, work: Work, waiting: Waiting, *, rounds: int = 1) -> Callable[[], bool]:
        """The cancellation waits for this reason, and at least so many rounds were made."""

        def waits() -> bool:
            cancellation = self.cancellation(work)
            return cancellation.waiting is waiting and cancellation.rounds >= rounds

        return waits
