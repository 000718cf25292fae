"""An engine that gives no answer is tried now and then, whatever waits for it; its neighbours do not notice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from structlog.typing import EventDict

from adapters.base import Listing, Trouble
from adapters.narrative.spark import SparkAdapter
from control_plane import schema
from control_plane.errors import EngineUnavailable
from control_plane.jobs import ExecutionCluster, Waiting
from control_plane.lifecycle import JobState
from control_plane.work import Executor, Work
from tests.doubles.memory_engine import MemoryEngine
from tests.integration.given import Given
from tests.integration.test_rounds import fail, run, started
from tests.integration.timely import Timely
from workers.breaker import LONGEST_PAUSE_SECONDS
from workers.judgement import Case
from workers.limits import Limits

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
DEAD = Executor("job-executor-dead", 1, "unix:/dead")
ONE_BY_ONE = Limits(batch_size=1, batches_in_flight=100, postpone_at_most_seconds=1.0)


@dataclass
class Listened(MemoryEngine):
    """The double, which keeps note of when it is asked to list, and answers for no executor in *dead*."""

    given: Given = field(kw_only=True)
    raises: bool = False
    dead: set[object] = field(default_factory=set)
    asked: list[tuple[datetime, set[UUID]]] = field(default_factory=list)

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        self.asked.append((self.given.clock.now, {work.job_id for work in works}))
        if self.raises and self.faults.silent:
            raise EngineUnavailable("the engine hung up")
        if any(start_of(work.executor) in self.dead for work in works):
            return {work.job_id: Listing(trouble=Trouble(Waiting.PLANE_SILENT, "no answer")) for work in works}
        return await super().find(works)

    def asked_about(self, job_id: UUID) -> list[datetime]:
        return [moment for moment, jobs in self.asked if job_id in jobs]


def start_of(executor: Executor | None) -> object:
    return (executor.executor_id, executor.registered, executor.address) if executor else None


def lines(logs: list[EventDict], name: str) -> list[EventDict]:
    return [line for line in logs if line["event"] == name]


def bench_of(given: Given, engine: MemoryEngine) -> Timely:
    return Timely(given, {given.plane.data_plane_id: engine}, limits=ONE_BY_ONE)


@pytest.mark.parametrize("raises", [False, True])
def test_a_silent_plane_is_tried_now_and_then_and_what_waits_for_it_learns_why_without_a_try_of_its_own(
    given: Given, raises: bool
) -> None:
    engine = Listened(given=given, raises=raises)
    engine.faults.silent = True
    bench = bench_of(given, engine)
    works = [started(given, engine) for _ in range(6)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: all(bench.waits(work.job_id, Waiting.PLANE_SILENT)() for work in works))
            tried_at_first.extend(engine.asked)
            await bench.for_seconds(30)
            tried_in_a_while.extend(engine.asked)
            engine.faults.silent = False
            await bench.for_seconds(LONGEST_PAUSE_SECONDS + 5)
            assert all(given.job(work.job_id).state is JobState.CANCELLED for work in works)

    tried_at_first: list[object] = []
    tried_in_a_while: list[object] = []
    with capture_logs() as logs:
        run(scenario())
    assert len(tried_at_first) == 1
    assert 4 <= len(tried_in_a_while) <= 6
    assert [line["what"] for line in lines(logs, "engine_lost")] == ["memory"]
    assert [line["what"] for line in lines(logs, "engine_back")] == ["memory"]
    assert len(lines(logs, "cancellation_postponed")) == len(works)


def test_a_dead_executors_cancellations_do_not_delay_a_living_ones(given: Given) -> None:
    engine = Listened(given=given, per_executor=True, dead={start_of(_registered(DEAD))})
    given.dispatch.register(DEAD, data_plane_id=given.plane.data_plane_id, token=uuid4())
    bench = bench_of(given, engine)
    dead = [given.requested(executor=DEAD).job_id for _ in range(10)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: all(bench.waits(job_id, Waiting.PLANE_SILENT)() for job_id in dead))
            work = started(given, engine)
            requested_at = given.clock.now
            await bench.until(bench.settles(work.job_id))
            assert (given.clock.now - requested_at).total_seconds() < 2
            assert (given.job(work.job_id).cancellation or fail()).rounds == 1

    with capture_logs() as logs:
        run(scenario())
    assert [line["what"] for line in lines(logs, "engine_lost")] == [DEAD.executor_id]
    assert lines(logs, "engine_back") == []


def test_a_silent_clusters_cancellations_do_not_delay_those_of_another(given: Given) -> None:
    silent = Listened(engine="spark-standalone", given=given, raises=True)
    silent.faults.silent = True
    living = MemoryEngine(engine="spark-connect")
    plane = given.new_plane(execution_clusters=[SHARED, DEDICATED])
    engine = SparkAdapter({SHARED: living, DEDICATED: silent})
    bench = Timely(given, {plane.data_plane_id: engine}, limits=Limits(postpone_at_most_seconds=1.0))
    waiting = [given.requested(plane=plane, execution_cluster=DEDICATED).job_id for _ in range(10)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: all(bench.waits(job_id, Waiting.PLANE_SILENT)() for job_id in waiting))
            claim = given.running(plane=plane)
            living.start(Work(claim.job_id, claim.tag))
            given.request(claim.job_id)
            requested_at = given.clock.now
            await bench.until(bench.settles(claim.job_id))
            assert (given.clock.now - requested_at).total_seconds() < 2
            assert (given.job(claim.job_id).receipt or fail()).engine == "spark-connect"

    with capture_logs() as logs:
        run(scenario())
    assert [line["what"] for line in lines(logs, "engine_lost")] == ["spark, dedicated cluster"]


def test_executors_that_answered_are_not_remembered_for_ever(given: Given) -> None:
    """Each start of each executor is another; a worker runs for months."""
    engine = Listened(given=given, per_executor=True)
    canceller = bench_of(given, engine).rounds()._canceller(engine)
    for number in range(20):
        given.requested(executor=Executor(f"job-executor-{number}", 1, "unix:/there"))

    for assignment in given.claim(20):
        canceller._breaker([Case.opened(assignment)]).met_an_answer()

    assert len(canceller._breakers) == 1


@pytest.mark.parametrize("what", ["start", "address"])
def test_an_executor_that_started_again_is_asked_at_once(given: Given, what: str) -> None:
    engine = Listened(given=given, per_executor=True, dead={start_of(_registered(DEAD))})
    plane = given.plane.data_plane_id
    given.dispatch.register(DEAD, data_plane_id=plane, token=uuid4())
    bench = bench_of(given, engine)
    waiting = given.requested(executor=DEAD).job_id

    def start_again() -> None:
        if what == "start":
            given.dispatch.register(Executor(DEAD.executor_id, 2, DEAD.address), data_plane_id=plane, token=uuid4())
        else:
            with given.store.engine.begin() as connection:
                connection.execute(update(schema.executors).values(address="unix:/elsewhere"))

    async def scenario() -> None:
        async with bench.at_work():
            await bench.for_seconds(40)
            tries = len(engine.asked)
            await bench.until(lambda: len(engine.asked) > tries)  # nobody is due for a try for a good while
            start_again()
            started_again_at = given.clock.now
            await bench.until(lambda: engine.asked_about(waiting)[-1] > started_again_at)
            assert (engine.asked_about(waiting)[-1] - started_again_at).total_seconds() <= 2

    run(scenario())


def _registered(executor: Executor) -> Executor:
    return Executor(executor.executor_id, executor.incarnation, executor.address, executor.incarnation)


def test_an_engine_that_publishes_has_answered_as_well(given: Given) -> None:
    engine = Listened(given=given)
    engine.faults.silent = True
    bench = bench_of(given, engine)
    opening = started(given, engine)
    claims = [given.committed(dataset_id=number) for number in range(1, 6)]
    for claim in claims:
        engine.start(Work(claim.job_id, claim.tag))
        engine.outputs[claim.job_id] = "what it wrote"

    async def scenario() -> None:
        async with bench.at_work():
            await bench.for_seconds(40)
            given.clock.advance(120)  # whatever was postponed is due
            assert given.claim(worker="rival", lease_seconds=10_000)  # before the worker looks: nothing is left to it
            engine.faults.silent = False
            for claim in claims:
                given.request(claim.job_id)
            await bench.for_seconds(LONGEST_PAUSE_SECONDS + 5)
            assert {given.job(claim.job_id).state for claim in claims} == {JobState.COMPLETED}
            assert given.job(opening.job_id).state is JobState.PENDING_CANCELLATION

    with capture_logs() as logs:
        run(scenario())
    assert len(lines(logs, "engine_back")) == 1
