"""The executor on a real store with Snowflake's engine: from the claim to the readers, and closed without a doubt."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from snowflake.connector import SnowflakeConnection

from adapters.snowflake.account import Account, SignIn
from control_plane.jobs import Handle, JobType
from control_plane.lifecycle import JobState
from control_plane.work import Claim
from control_plane.work import Executor as Identity
from tests.integration.given import Given
from tests.integration.snowflake.given import history, opened, rows
from tests.narrative import until, view_input
from tests.snowflake import ENDLESS, SnowflakeDouble
from workers.engines.snowflake import SnowflakeEngine
from workers.executor import Executor, Ticks
from workers.local import LocalJobs

pytestmark = pytest.mark.anyio

Answer = TypeVar("Answer")
Hook = Callable[[], None]


async def at_once(call: Callable[[], Answer]) -> Answer:
    return call()


class Eventful(SnowflakeEngine):
    """Has something happen right before each submission."""

    before_submitting: Hook = staticmethod(lambda: None)

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        def asked() -> float:
            self.before_submitting()
            return permit_left()

        return await super().start(claim, asked)


@dataclass
class Site:
    given: Given
    engine: Eventful
    executor: Executor
    ticks: Ticks = field(default_factory=Ticks)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, sql: str) -> UUID:
        job_id = self.given.pending(JobType.MATERIALIZE_VIEW, input=view_input(sql)).job_id
        self.ticks.claim.set()
        return job_id

    async def reached(self, job_id: UUID, state: JobState) -> None:
        await until(lambda: self.given.job(job_id).state is state)

    def is_confirmed(self, job_id: UUID) -> bool:
        return self.given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None


@asynccontextmanager
async def working(given: Given, account: Account, who: SignIn) -> AsyncIterator[Site]:
    async with opened(account, who, kind=Eventful) as engine:
        assert isinstance(engine, Eventful)
        executor = Executor(
            LocalJobs(given.dispatch, at_once),
            engine,
            identity=Identity(f"job-executor-{uuid4()}", 1),
            data_plane_id=given.plane.data_plane_id,
        )
        place = Site(given, engine, executor)
        task = asyncio.create_task(executor.run(stopping=place.stopping, ticks=place.ticks))
        try:
            yield place
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def place(given: Given, ours: Account, who: SignIn) -> AsyncIterator[Site]:
    async with working(given, ours, who) as place:
        yield place


async def test_a_view_ends_completed_and_is_read(place: Site, executor: SnowflakeConnection) -> None:
    job_id = place.submit("SELECT 7 AS N")

    await place.reached(job_id, JobState.COMPLETED)

    assert rows(executor, f"SELECT N FROM {place.engine._outputs.readers(6404)}") == [(7,)]
    job = place.given.job(job_id)
    assert job.handle is not None
    assert (job.handle.engine, job.handle.incarnation) == ("snowflake", "LOCAL.COUNTERMAND")


async def test_a_job_that_is_asked_to_be_cancelled_is_closed_and_its_query_ends(
    place: Site, double: SnowflakeDouble
) -> None:
    job_id = place.submit(ENDLESS)
    await until(lambda: place.given.job(job_id).handle is not None)
    place.given.request(job_id)

    place.ticks.attend.set()

    await until(lambda: place.is_confirmed(job_id))
    await until(lambda: not double.state()["executing"])
    assert place.given.job(job_id).failures == []


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT MISSING FROM NOWHERE"])
async def test_a_job_with_bad_sql_fails_with_the_cause(place: Site, sql: str) -> None:
    job_id = place.submit(sql)

    await place.reached(job_id, JobState.FAILED)

    [cause] = place.given.job(job_id).failures
    assert (cause.value["engine"], cause.value["sql"]) == ("snowflake", sql)


async def test_a_job_is_not_confirmed_while_the_fate_of_its_submission_is_unknown(
    place: Site, double: SnowflakeDouble
) -> None:
    faults: dict[str, Any] = {"cut_answers": {"statement": 1}, "lying": ["SYSTEM$ABORT_SESSION"]}
    place.engine.before_submitting = lambda: double.switch(**faults)
    asked = double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0)
    job_id = place.submit(ENDLESS)
    await until(lambda: double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0) > asked)
    place.given.request(job_id)
    place.ticks.attend.set()
    asked = double.state()["calls"]["SYSTEM$ABORT_SESSION"]
    await until(lambda: double.state()["calls"]["SYSTEM$ABORT_SESSION"] > asked + 2)
    assert not place.is_confirmed(job_id)

    double.switch(lying=[])

    await until(lambda: place.is_confirmed(job_id))
    await until(lambda: not double.state()["active"])
    assert place.given.job(job_id).state is JobState.PENDING_CANCELLATION


async def test_what_was_not_published_is_removed_once_its_job_has_failed(
    place: Site, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    job_id = place.submit("SELECT MISSING FROM NOWHERE")
    await place.reached(job_id, JobState.FAILED)
    outputs = place.engine._outputs
    left = place.engine._book.everything()[0]
    await outputs._line.ask(f'CREATE TABLE {outputs._database}.COUNTERMAND_OUTPUTS."JOB_{job_id}" AS SELECT 1 AS N')

    place.ticks.heartbeat.set()

    await until(lambda: len(history(canceller, left.claim.tag.replace(":run", ":cleanup"))) == 1)
    assert await outputs.unpublished() == []
