"""The executor on a real store and a real engine: what becomes of its jobs, whatever comes between."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import duckdb
import pytest
from duckdb import DuckDBPyConnection
from structlog.testing import capture_logs

from adapters.base import RunStatus
from control_plane.errors import EngineUnavailable, Refused, StoreUnavailable
from control_plane.jobs import ExecutionCluster, Job, JobType
from control_plane.lifecycle import TERMINAL, JobState
from control_plane.work import Executor as Identity
from control_plane.work import Served
from tests.doubles.interposed import Moment, interposed, nothing
from tests.doubles.manual_clock import ManualClock
from tests.integration.given import Given
from tests.narrative import ENDLESS, QUICK, opened, outputs, rows, until, view_input
from workers.engines.embedded import EmbeddedEngine
from workers.executor import Executor, Limits, Ticks
from workers.local import LocalJobs

pytestmark = pytest.mark.anyio

Answer = TypeVar("Answer")

SHOWN = "SELECT n FROM narrative.datasets.ds_6404 ORDER BY n"
DRAIN_SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def at_once(call: Callable[[], Answer]) -> Answer:
    """The hand-off that needs no thread."""
    return call()


@dataclass
class Site:
    """An executor at work, and what a test does to it."""

    given: Given
    engine: EmbeddedEngine
    executor: Executor
    time: ManualClock
    ticks: Ticks = field(default_factory=Ticks)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, sql: str, kind: JobType = JobType.MATERIALIZE_VIEW, **document: Any) -> UUID:
        """A pending job that the executor is told of."""
        job_id = submit(self.given, sql, kind, **document)
        self.ticks.claim.set()
        return job_id

    async def reached(self, job_id: UUID, state: JobState) -> Job:
        """The job, once it is in this state."""
        await until(lambda: self.given.job(job_id).state is state)
        return self.given.job(job_id)

    async def ended(self, job_id: UUID) -> Job:
        """The job, once it has ended; before asking the store again the executor pauses for no longer than need be."""

        def has_ended() -> bool:
            return self.given.job(job_id).state in TERMINAL

        while not has_ended():
            await until(lambda: self.time.pausing > 0 or has_ended())
            self.time.advance(1.0)
            await asyncio.sleep(0)
        return self.given.job(job_id)

    async def executing(self, *job_ids: UUID) -> None:
        """Wait until the engine executes these jobs."""
        await until(lambda: self.words(*job_ids) == ["executing"] * len(job_ids))

    def words(self, *job_ids: UUID) -> list[str]:
        """The engine's words for these jobs' runs."""
        return [run.word for run in self.engine.list_runs([self.tag(job_id) for job_id in job_ids])]

    def tag(self, job_id: UUID) -> str:
        return f"countermand:{installation(self.given)}:{self.given.plane.data_plane_id}:{job_id}:run"


def installation(given: Given) -> str:
    return given.dispatch.register(Identity(f"job-executor-{uuid4()}", 1), data_plane_id=given.plane.data_plane_id)


def submit(given: Given, sql: str, kind: JobType = JobType.MATERIALIZE_VIEW, **document: Any) -> UUID:
    if kind is JobType.MATERIALIZE_VIEW:
        document = view_input(sql, **document)
    elif kind is JobType.NQL_FORECAST:
        document = {"nql": "x", "compiled_sql": sql}
    return given.pending(kind, input=document).job_id


@asynccontextmanager
async def site(
    given: Given, path: Path, *, before: Moment = nothing, after: Moment = nothing, slots: int = 4, **of_engine: Any
) -> AsyncIterator[Site]:
    """An executor on this folder, not yet running."""
    async with opened(path, **of_engine) as engine:
        time = ManualClock()
        executor = Executor(
            interposed(LocalJobs(given.dispatch, at_once), before=before, after=after),
            interposed(engine, before=before, after=after),
            identity=Identity(engine.executor_id, int(engine.incarnation), "unix:/nowhere"),
            data_plane_id=given.plane.data_plane_id,
            limits=Limits(slots=slots, drain_seconds=DRAIN_SECONDS),
            clock=time.clock(),
        )
        yield Site(given, engine, executor, time)


@asynccontextmanager
async def working(given: Given, path: Path, **options: Any) -> AsyncIterator[Site]:
    """An executor at work; at the end it is gone without a word, as if killed."""
    async with site(given, path, **options) as place:
        task = asyncio.create_task(place.executor.run(stopping=place.stopping, ticks=place.ticks))
        try:
            yield place
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class Unsure(EmbeddedEngine):
    """Is not certain, until it is told that it is, whether something of a tag can still start."""

    ends_with_executor = False
    certain = False

    async def close(self, tag: str) -> bool:
        return self.certain and await super().close(tag)


class OfSharedClusters(EmbeddedEngine):
    """Serves one of a plane's clusters, under a name of its own there."""

    clusters: Served = {ExecutionCluster.SHARED: "app-7"}  # noqa: RUF012  # as the Protocol has it


class Once:
    """Does something at one moment of the executor's work, the first time only."""

    def __init__(self, call: str, deed: Callable[[], object]) -> None:
        self.call = call
        self.deed: Callable[[], object] | None = deed

    async def __call__(self, call: str) -> None:
        if call == self.call and self.deed is not None:
            deed, self.deed = self.deed, None
            deed()


# --- jobs and their ends


async def test_a_view_ends_completed_and_published(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path) as place:
        job = await place.reached(place.submit(QUICK), JobState.COMPLETED)

        assert rows(place.engine, SHOWN) == [(0,), (1,), (2,)]
        assert job.result is not None
        assert job.result["dataset_id"] == 6404
        assert job.executor == place.engine.executor_id
        assert job.handle is not None
        assert job.handle.run_id.startswith(f"{place.engine.executor_id}/1/")


async def test_only_jobs_of_the_clusters_that_the_engine_serves_are_claimed_and_on_its_incarnation_there(
    given: Given, tmp_path: Path
) -> None:
    async with working(given, tmp_path, kind=OfSharedClusters) as place:
        document = view_input(ENDLESS)
        other = given.pending(input=document, execution_cluster=ExecutionCluster.DEDICATED).job_id
        own = given.pending(input=document, execution_cluster=ExecutionCluster.SHARED).job_id
        place.ticks.claim.set()
        await place.executing(own)

        given.request(own)
        [held] = given.claim()

    assert (held.work.job_id, held.work.incarnation) == (own, "app-7")
    assert given.job(other).state is JobState.PENDING


async def test_a_forecast_and_a_sample_end_with_their_results(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path) as place:
        forecast = place.submit(QUICK, JobType.NQL_FORECAST)
        sample = place.submit("", JobType.SAMPLE, dataset_id=1, rows=2)

        assert (await place.reached(forecast, JobState.COMPLETED)).result == {"rows": 3, "cost": 0}
        assert (await place.reached(sample, JobState.COMPLETED)).result == {"dataset_id": 1, "rows": 2}
        assert len(rows(place.engine, "SELECT * FROM narrative.samples.ds_1")) == 2


async def test_more_jobs_than_slots_run_in_turn(given: Given, tmp_path: Path) -> None:
    jobs = [submit(given, QUICK, dataset_id=7000 + number) for number in range(7)]

    async with working(given, tmp_path, slots=2) as place:
        for job_id in jobs:
            await place.reached(job_id, JobState.COMPLETED)


async def test_no_more_is_claimed_than_there_are_slots(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path, slots=1) as place:
        first, second = place.submit(ENDLESS), place.submit(QUICK)
        await place.executing(first)

        place.ticks.claim.set()
        await asyncio.sleep(0)

        assert given.job(second).state is JobState.PENDING


async def test_jobs_of_types_that_it_does_not_run_are_left_alone(given: Given, tmp_path: Path) -> None:
    delivery = given.pending(JobType.DELIVER_DATA, input={}).job_id

    async with working(given, tmp_path) as place:
        await place.reached(place.submit(QUICK), JobState.COMPLETED)

    assert given.job(delivery).state is JobState.PENDING


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT 1; SELECT 2", "compiled_sql: exactly one SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "compiled_sql: the table function read_csv"),
        ("SELECT missing FROM narrative.datasets.ds_1", "missing"),
    ],
)
async def test_a_job_with_bad_sql_fails_with_the_cause(given: Given, tmp_path: Path, sql: str, names: str) -> None:
    async with working(given, tmp_path) as place:
        job = await place.reached(place.submit(sql), JobState.FAILED)

        [cause] = job.failures
        assert names in cause.message
        assert cause.value["sql"] == sql
        await place.reached(place.submit(QUICK), JobState.COMPLETED)  # and harms nobody else


async def test_a_publication_that_fails_harms_no_other_and_is_tried_again(given: Given, tmp_path: Path) -> None:
    async def take_the_name(call: str) -> None:
        if call == "commit" and given.job(poisoned).committed_at is not None:
            rows(place.engine, "CREATE TABLE IF NOT EXISTS narrative.datasets.ds_6404 AS SELECT 7 AS n")

    async with working(given, tmp_path, after=take_the_name, slots=1) as place:
        poisoned = place.submit(QUICK)
        await until(lambda: given.job(poisoned).committed_at is not None)
        await place.reached(place.submit(QUICK, dataset_id=1234), JobState.COMPLETED)
        assert given.job(poisoned).state is JobState.RUNNING

        rows(place.engine, "DROP TABLE narrative.datasets.ds_6404")
        place.ticks.heartbeat.set()

        await place.reached(poisoned, JobState.COMPLETED)
        assert rows(place.engine, SHOWN) == [(0,), (1,), (2,)]


# --- cancellations


async def test_a_running_job_that_is_asked_to_be_cancelled_is_closed_with_the_next_attend(
    given: Given, tmp_path: Path
) -> None:
    async with working(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)
        given.request(job_id)

        place.ticks.attend.set()

        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)
        await until(lambda: place.engine.list_runs([place.tag(job_id)])[0].status is RunStatus.STOPPED)
        assert given.job(job_id).state is JobState.PENDING_CANCELLATION
        assert given.job(job_id).failures == []


async def test_a_run_that_a_canceller_stopped_first_is_closed_and_is_no_failure(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)
        given.request(job_id)

        place.engine.stop([run.handle for run in place.engine.active_runs()])

        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)
        assert given.job(job_id).failures == []


async def test_a_run_that_was_stopped_without_a_request_is_a_failed_job(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)

        place.engine.stop([run.handle for run in place.engine.active_runs()])

        job = await place.reached(job_id, JobState.FAILED)
        assert "stopped" in job.failures[0].message


async def test_attending_renews_and_closes_nobody_else(given: Given, tmp_path: Path) -> None:
    attended = asyncio.Event()

    async def after(call: str) -> None:
        if call == "attend":
            attended.set()

    async with working(given, tmp_path, after=after) as place:
        doomed, spared = place.submit(ENDLESS), place.submit(ENDLESS)
        await place.executing(doomed, spared)
        given.request(doomed)

        attended.clear()
        place.ticks.attend.set()
        await attended.wait()
        await until(lambda: place.engine.list_runs([place.tag(doomed)])[0].status is RunStatus.STOPPED)

        assert place.words(spared) == ["executing"]
        assert given.rows_of("jobs", spared)[0]["executor_closed_at"] is None


async def test_a_request_that_comes_before_the_commit_wins(given: Given, tmp_path: Path) -> None:
    job_id = submit(given, QUICK)

    async with working(given, tmp_path, before=Once("commit", lambda: given.request(job_id))) as place:
        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)

        assert given.job(job_id).committed_at is None
        assert given.job(job_id).state is JobState.PENDING_CANCELLATION
        with pytest.raises(duckdb.CatalogException):
            rows(place.engine, SHOWN)


async def test_a_request_that_comes_after_the_commit_does_not_keep_the_job_from_completing(
    given: Given, tmp_path: Path
) -> None:
    job_id = submit(given, QUICK)

    async with working(given, tmp_path, after=Once("commit", lambda: given.request(job_id))) as place:
        await place.reached(job_id, JobState.COMPLETED)

        assert rows(place.engine, SHOWN) == [(0,), (1,), (2,)]


async def test_the_output_of_a_lost_commit_is_kept_until_the_job_is_cancelled_and_then_removed(
    given: Given, tmp_path: Path
) -> None:
    job_id = submit(given, QUICK)
    beaten = Once("commit", lambda: given.request(job_id))
    async with working(given, tmp_path, before=beaten) as place:
        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)
        place.ticks.heartbeat.set()
        await place.reached(place.submit(QUICK, dataset_id=1234), JobState.COMPLETED)
        assert f"job_{job_id}" in outputs(place.engine)

        [held] = given.dispatch.claim({given.plane.data_plane_id: 9}, worker="w1", lease_seconds=20.0)
        given.dispatch.settle([given.settlement(held)], worker="w1")
        place.ticks.heartbeat.set()

        await until(lambda: f"job_{job_id}" not in outputs(place.engine))
        await until(lambda: given.rows_of("cancellations", job_id)[0]["leftovers"] != [])


async def test_a_tag_that_was_closed_before_the_claim_was_answered_is_not_started(given: Given, tmp_path: Path) -> None:
    job_id = submit(given, QUICK)

    async with site(given, tmp_path) as place:
        await place.engine.close(place.tag(job_id))
        task = asyncio.create_task(place.executor.run(stopping=place.stopping, ticks=place.ticks))
        job = await place.reached(job_id, JobState.FAILED)
        task.cancel()

        assert "closed" in job.failures[0].message
        assert outputs(place.engine) == []


async def test_a_job_is_confirmed_as_closed_only_once_the_engine_is_certain(given: Given, tmp_path: Path) -> None:
    attended = asyncio.Event()

    async def after(call: str) -> None:
        if call == "close":
            attended.set()

    async with working(given, tmp_path, kind=Unsure, after=after) as place:
        assert isinstance(place.engine, Unsure)
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)
        given.request(job_id)
        place.ticks.attend.set()
        await attended.wait()
        assert given.rows_of("jobs", job_id)[0]["executor_closed_at"] is None

        place.engine.certain = True
        place.ticks.attend.set()

        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)


async def test_a_job_whose_engine_is_not_certain_is_neither_failed_nor_confirmed(given: Given, tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def after(call: str) -> None:
        if call == "close":
            closed.set()

    async with working(given, tmp_path, kind=Unsure, after=after) as place:
        job_id = place.submit("SELECT missing FROM narrative.datasets.ds_1")
        await closed.wait()
        await place.reached(place.submit(QUICK), JobState.COMPLETED)

        assert given.job(job_id).state is JobState.RUNNING
        assert given.rows_of("jobs", job_id)[0]["executor_closed_at"] is None


# --- the permit


async def test_a_claim_that_was_answered_late_starts_nothing(given: Given, tmp_path: Path) -> None:
    async def late(call: str) -> None:
        if call == "claim":
            place.time.advance(given.plane.permit_seconds / 2)

    job_id = submit(given, QUICK)
    async with working(given, tmp_path, after=late) as place:
        job = await place.reached(job_id, JobState.FAILED)

        assert "permit" in job.failures[0].message
        assert outputs(place.engine) == []


# --- the store's absence


async def test_what_a_job_wrote_is_not_lost_while_the_store_is_away(given: Given, tmp_path: Path) -> None:
    away = asyncio.Event()

    async def before(call: str) -> None:
        if call == "commit" and not away.is_set():
            raise StoreUnavailable("the database is away")

    with capture_logs() as logs:
        async with working(given, tmp_path, before=before) as place:
            job_id = place.submit(QUICK)
            for _ in range(3):
                await until(lambda: place.time.pausing > 0)
                place.time.advance(10.0)
                await until(lambda: place.time.pausing == 0)
            assert given.job(job_id).state is JobState.RUNNING

            away.set()
            await until(lambda: place.time.pausing > 0 or given.job(job_id).state is JobState.COMPLETED)
            place.time.advance(10.0)

            await place.reached(job_id, JobState.COMPLETED)

    events = [entry["event"] for entry in logs]
    assert events.count("store_lost") == events.count("store_back") == 1


async def test_an_answer_that_was_lost_is_asked_for_again_and_changes_nothing_twice(
    given: Given, tmp_path: Path
) -> None:
    lost: set[str] = set()

    async def after(call: str) -> None:
        if call in {"record_handles", "commit", "complete"} - lost:
            lost.add(call)
            raise StoreUnavailable("the connection broke before the answer came")

    async with working(given, tmp_path, after=after) as place:
        job = await place.ended(place.submit(QUICK))

        assert lost == {"record_handles", "commit", "complete"}
        assert job.state is JobState.COMPLETED
        assert [move for move, _, _ in given.moves(job.job_id)].count("complete") == 1


async def test_a_handle_that_cannot_be_recorded_fails_its_job_with_that_cause(given: Given, tmp_path: Path) -> None:
    async def before(call: str) -> None:
        if call == "record_handles":
            raise ValueError("no handle is kept today")

    async with working(given, tmp_path, before=before) as place:
        job = await place.ended(place.submit(ENDLESS))

        assert job.state is JobState.FAILED
        assert job.failures[0].message == "ValueError: no handle is kept today"


def lose_the_answer() -> None:
    raise StoreUnavailable("the connection broke before the answer came")


async def test_a_claim_whose_answer_was_lost_is_asked_for_again_and_its_job_is_run(
    given: Given, tmp_path: Path
) -> None:
    job_id = submit(given, QUICK)

    async with working(given, tmp_path, after=Once("claim", lose_the_answer)) as place:
        job = await place.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert [move for move, _, _ in given.moves(job_id)].count("start") == 1


async def test_a_registration_whose_answer_was_lost_is_repeated_and_not_refused(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path, after=Once("register", lose_the_answer)) as place:
        job = await place.ended(place.submit(QUICK))

    assert job.state is JobState.COMPLETED


async def test_failed_is_written_only_once_nothing_of_the_job_runs(given: Given, tmp_path: Path) -> None:
    yielding = threading.Event()
    calls: list[str] = []
    seen: list[RunStatus] = []

    def interrupt_once_it_yields(session: DuckDBPyConnection) -> None:
        if yielding.is_set():
            session.interrupt()

    async def before(call: str) -> None:
        calls.append(call)
        if call == "record_handles":
            await place.executing(job_id)
            raise RuntimeError("no outage, but an error of the store's")
        if call == "fail":
            seen.append(place.engine.list_runs([place.tag(job_id)])[0].status)

    job_id = submit(given, ENDLESS)
    async with working(given, tmp_path, before=before, interrupt=interrupt_once_it_yields) as place:
        try:
            await until(lambda: calls.count("follow") == 2 or "fail" in calls)
        finally:
            yielding.set()
        await place.reached(job_id, JobState.FAILED)

    assert seen == [RunStatus.STOPPED]


# --- draining


async def test_a_drain_lets_runs_end_and_claims_nothing_more(given: Given, tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def before(call: str) -> None:
        if call == "commit":
            await hold.wait()

    async with site(given, tmp_path, before=before) as place:
        job_id = place.submit(QUICK)
        running = asyncio.create_task(place.executor.run(stopping=place.stopping, ticks=place.ticks))
        await place.reached(job_id, JobState.RUNNING)
        place.stopping.set()
        await until(lambda: place.time.pausing > 0)
        left = place.submit(QUICK)
        hold.set()

        await running

        assert given.job(job_id).state is JobState.COMPLETED
        assert given.job(left).state is JobState.PENDING


async def test_a_run_that_outlasts_the_drain_is_stopped_and_its_job_fails(given: Given, tmp_path: Path) -> None:
    async with site(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        running = asyncio.create_task(place.executor.run(stopping=place.stopping, ticks=place.ticks))
        await place.executing(job_id)
        place.stopping.set()
        await until(lambda: place.time.pausing > 0)

        place.time.advance(DRAIN_SECONDS)
        await running

        job = given.job(job_id)
        assert job.state is JobState.FAILED
        assert job.failures[0].message.startswith("executor_drained")
        assert place.engine.active_runs() == []


async def test_a_drain_while_the_store_is_away_ends_nevertheless(given: Given, tmp_path: Path) -> None:
    async def before(call: str) -> None:
        if call in ("commit", "fail", "claim", "attend", "record_handles") and gone.is_set():
            raise StoreUnavailable("the database is away")

    gone = asyncio.Event()
    async with site(given, tmp_path, before=before) as place:
        job_id = place.submit(ENDLESS)
        running = asyncio.create_task(place.executor.run(stopping=place.stopping, ticks=place.ticks))
        await place.executing(job_id)
        gone.set()
        place.stopping.set()

        while not running.done():
            await asyncio.sleep(0)
            place.time.advance(1.0)

        assert given.job(job_id).state is JobState.RUNNING
        await until(lambda: place.engine.active_runs() == [])


# --- starting again

#: Where the first start ends without a word, and where the second one then brings the job.
CRASHES = [
    ("before", "claim", JobState.COMPLETED),  # nobody had it: it is run as if nothing had been
    ("after", "claim", JobState.RUNNING),  # closed, and left for whoever asks for its cancellation
    ("before", "record_handles", JobState.RUNNING),
    ("after", "record_handles", JobState.RUNNING),
    ("before", "follow", JobState.RUNNING),
    ("after", "follow", JobState.RUNNING),
    ("before", "commit", JobState.RUNNING),
    ("after", "commit", JobState.COMPLETED),
    ("before", "publish", JobState.COMPLETED),
    ("after", "publish", JobState.COMPLETED),
    ("before", "complete", JobState.COMPLETED),
    ("after", "complete", JobState.COMPLETED),
]


@pytest.mark.parametrize(("when", "call", "state"), CRASHES, ids=[f"{when} {call}" for when, call, _ in CRASHES])
async def test_whatever_a_crash_interrupts_the_next_start_takes_up(
    given: Given, tmp_path: Path, when: str, call: str, state: JobState
) -> None:
    reached = asyncio.Event()

    async def crash(now: str) -> None:
        if now == call:
            reached.set()
            await asyncio.Event().wait()

    job_id = submit(given, QUICK)
    async with working(given, tmp_path, **{when: crash}):
        await reached.wait()

    async with working(given, tmp_path) as place:
        await place.reached(place.submit(QUICK, dataset_id=1234), JobState.COMPLETED)
        await place.reached(job_id, state)

        if state is JobState.COMPLETED:
            assert rows(place.engine, SHOWN) == [(0,), (1,), (2,)]
        else:
            assert given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None


async def test_the_next_start_confirms_what_the_earlier_one_held_and_makes_its_cancellation_due(
    given: Given, tmp_path: Path
) -> None:
    async with working(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)
    given.request(job_id)

    async with working(given, tmp_path) as place:
        await place.reached(place.submit(QUICK), JobState.COMPLETED)

    [held] = given.dispatch.claim({given.plane.data_plane_id: 9}, worker="w1", lease_seconds=20.0)
    assert held.closure == "executor_closed"


async def test_where_submissions_may_outlive_their_executor_the_next_start_confirms_nothing(
    given: Given, tmp_path: Path
) -> None:
    async with working(given, tmp_path, kind=Unsure) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)
    given.request(job_id)

    async with working(given, tmp_path, kind=Unsure) as place:
        await place.reached(place.submit(QUICK), JobState.COMPLETED)

    assert given.rows_of("jobs", job_id)[0]["executor_closed_at"] is None


async def test_a_start_that_the_store_knows_already_is_refused(given: Given, tmp_path: Path) -> None:
    async with site(given, tmp_path) as place:
        known = Identity(place.engine.executor_id, 5)
        given.dispatch.register(known, data_plane_id=given.plane.data_plane_id)

        with pytest.raises(Refused):
            await place.executor.run(stopping=place.stopping, ticks=place.ticks)


async def test_an_engine_beyond_use_ends_the_executor(given: Given, tmp_path: Path) -> None:
    async with site(given, tmp_path) as place:
        place.engine._fatal = "the disk is full"

        with pytest.raises(EngineUnavailable, match="the disk is full"):
            await place.executor.run(stopping=place.stopping, ticks=place.ticks)
