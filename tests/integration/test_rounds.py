"""A worker's rounds over a real store and an engine in memory that misbehaves as it is told to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from adapters.base import Adapter, Listing, Run, RunStatus, StopAnswer
from control_plane.errors import Conflict, StoreUnavailable
from control_plane.intake import CancellationRequest
from control_plane.jobs import Closure, Handle, JobType, Outcome, Process, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.work import Claim, Executor, Settled, Settlement, Work
from tests.doubles.interposed import interposed
from tests.doubles.memory_engine import Faults, MemoryEngine
from tests.integration.given import ASKER, EXECUTOR, PERMIT_SECONDS, Given
from tests.unit.test_events import documented
from workers.clock import Clock
from workers.limits import Limits
from workers.local import LocalCancellations
from workers.rounds import Rounds

Answer = TypeVar("Answer")


async def inline(call: Callable[[], Answer]) -> Answer:
    """A hand-off to no thread: the store answers before anything else happens."""
    return call()


@dataclass
class Bench:
    """A worker on the test's clock, which moves only where the worker pauses."""

    given: Given
    adapters: dict[UUID, Adapter]
    name: str = "w1"
    limits: Limits = field(default_factory=Limits)
    queue: Any = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    beat: asyncio.Event = field(default_factory=asyncio.Event)
    paused: float = 0.0

    def clock(self) -> Clock:
        store_clock = self.given.clock
        return Clock(now=lambda: store_clock.now, monotonic=lambda: store_clock.now.timestamp(), pause=self.pause)

    async def pause(self, seconds: float) -> None:
        if self.stopping.is_set() and seconds == self.limits.drain_seconds:
            await asyncio.sleep(seconds)  # nothing else moves this clock while what hangs is waited for
            return
        self.paused += seconds
        self.given.clock.advance(seconds)
        await asyncio.sleep(0)

    async def look(self) -> dict[UUID, Adapter]:
        return self.adapters

    def rounds(self) -> Rounds:
        queue = self.queue or LocalCancellations(self.given.dispatch, inline)
        return Rounds(queue, self.look, worker=self.name, limits=self.limits, clock=self.clock())

    @asynccontextmanager
    async def at_work(self) -> Any:
        """The worker runs while the context lasts, and is drained at its end."""
        running = asyncio.create_task(self.rounds().run(stopping=self.stopping, wake=self.wake, beat=self.beat))
        try:
            yield self
        finally:
            self.stopping.set()
            self.wake.set()
            await running

    async def until(self, done: Callable[[], bool], *, steps: int = 5000) -> None:
        """Let the worker go on until *done*; the clock moves where it pauses and, when it idles, a second a poll."""
        for step in range(steps):
            if done():
                return
            await asyncio.sleep(0)
            if step % 50 == 49:  # the poll
                self.given.clock.advance(1)
                self.wake.set()
        raise AssertionError("the worker did not get there")

    def settles(self, *jobs: UUID) -> Callable[[], bool]:
        return lambda: all(self.given.job(job).state is JobState.CANCELLED for job in jobs)

    def waits(self, job: UUID, waiting: Waiting) -> Callable[[], bool]:
        def waits() -> bool:
            cancellation = self.given.job(job).cancellation
            return cancellation is not None and cancellation.waiting is waiting

        return waits


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def bench(given: Given, engine: MemoryEngine) -> Bench:
    return Bench(given, {given.plane.data_plane_id: engine})


def claimed(given: Given) -> Claim:
    """A job that an executor of the engine has claimed, and not started."""
    given.pending()
    [claim] = given.dispatch.start(
        EXECUTOR, data_plane_id=given.plane.data_plane_id, types=list(JobType), limit=1, incarnation="1"
    )
    return claim


def work_of(claim: Claim) -> Work:
    return Work(claim.job_id, claim.tag, incarnation="1")


def started(given: Given, engine: MemoryEngine, *, record: bool = True, requested: bool = True) -> Work:
    """A job whose run is active in the engine, and whose cancellation was requested."""
    claim = claimed(given)
    work = work_of(claim)
    handle = engine.start(work)
    if record:
        given.dispatch.record_handles({claim.job_id: handle}, {claim.job_id: claim.epoch})
    if requested:
        given.request(claim.job_id)
    return work


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_a_running_job_is_stopped_and_settled_with_the_engines_word(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure, receipt.engine_status) == (
        Outcome.STOPPED,
        Closure.ENGINE_CLOSED,
        "interrupted",
    )
    assert (receipt.worker, receipt.rounds, receipt.rung) == ("w1", 1, Rung.ASK)


def test_a_run_whose_handle_was_never_written_down_is_found_by_its_tag(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    work = started(given, engine, record=False)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    assert engine.runs[work.tag].status is RunStatus.STOPPED


def test_neighbours_that_nobody_asked_to_cancel_run_on(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    neighbours = [started(given, engine, requested=False) for _ in range(5)]
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    assert {engine.runs[other.tag].status for other in neighbours} == {RunStatus.ACTIVE}
    assert {job for job, _ in engine.stops} == {work.job_id}


def test_an_engine_that_lies_is_never_believed_and_settles_when_it_stops_lying(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    engine.faults.ignores_stops = True
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, Waiting.STILL_RUNNING))
            given.clock.advance(600)
            await bench.until(lambda: (given.job(work.job_id).cancellation or fail()).rounds >= 3)
            assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert receipt.rung is not Rung.ASK
    assert receipt.rounds >= 3


def fail() -> Any:
    raise AssertionError("there is no cancellation")


def test_a_stubborn_run_is_stopped_by_climbing_the_ladder(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    engine.faults.stubborn_below = Rung.FORCE
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id), steps=20_000)

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert receipt.rung is Rung.FORCE
    assert [rung for rung in Rung if rung in {rung for _, rung in engine.stops}] == list(Rung)


@pytest.mark.parametrize(
    ("fault", "waiting"),
    [("silent", Waiting.PLANE_SILENT), ("refuses", Waiting.NOT_PERMITTED), ("truncates", Waiting.HANDLE_UNKNOWN)],
)
def test_a_fault_of_the_plane_postpones_with_its_reason_and_ends_with_the_fault(
    given: Given, bench: Bench, engine: MemoryEngine, fault: str, waiting: Waiting
) -> None:
    setattr(engine.faults, fault, True)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, waiting))
            given.clock.advance(3600)
            await bench.until(lambda: (given.job(work.job_id).cancellation or fail()).rounds >= 3)
            assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION
            setattr(engine.faults, fault, False)
            await bench.until(bench.settles(work.job_id))

    run(scenario())


def test_a_run_that_finished_first_is_settled_as_finished_unpublished_and_its_output_is_removed(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    work = started(given, engine, requested=False)
    engine.end(work, RunStatus.SUCCEEDED)
    given.request(work.job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool((given.job(work.job_id).cancellation or fail()).leftovers))

    run(scenario())
    job = given.job(work.job_id)
    assert job.receipt is not None
    assert job.receipt.outcome is Outcome.FINISHED_UNPUBLISHED
    assert work.job_id not in engine.outputs


def test_a_committed_job_is_published_and_completed_never_stopped(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    claim = given.committed()
    work = Work(claim.job_id, claim.tag)
    engine.start(work)
    engine.end(work, RunStatus.SUCCEEDED)
    given.request(claim.job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: given.job(claim.job_id).state is JobState.COMPLETED)

    run(scenario())
    assert engine.published == {claim.job_id}
    assert engine.stops == []


def test_a_committed_job_that_cannot_be_published_yet_waits_and_is_not_cancelled(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    engine.faults.silent = True
    claim = given.committed()
    work = Work(claim.job_id, claim.tag)
    engine.start(work)
    engine.end(work, RunStatus.SUCCEEDED)
    given.request(claim.job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(claim.job_id, Waiting.PLANE_SILENT))
            engine.faults.silent = False
            await bench.until(lambda: given.job(claim.job_id).state is JobState.COMPLETED)

    run(scenario())


def test_a_never_claimed_job_that_a_crash_left_is_settled_without_asking_the_engine(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    engine.faults.silent = True
    job = given.pending()
    given.intake.open_cancellations([CancellationRequest(job.job_id, Process("test"))])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(job.job_id))

    run(scenario())
    receipt = given.job(job.job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure) == (Outcome.NEVER_STARTED, Closure.NEVER_CLAIMED)


def test_a_round_outlasts_the_lag_of_the_listings_where_only_a_second_one_is_missing(
    given: Given, engine: MemoryEngine
) -> None:
    plane = given.new_plane(listing_lag_seconds=20)
    given.pending(plane=plane)
    [claim] = given.dispatch.start(
        EXECUTOR, data_plane_id=plane.data_plane_id, types=list(JobType), limit=1, incarnation="1"
    )
    given.request(claim.job_id)
    bench = Bench(given, {plane.data_plane_id: engine}, limits=Limits(round_seconds=3.0))

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(claim.job_id))

    run(scenario())
    receipt = given.job(claim.job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.rounds) == (Outcome.NEVER_STARTED, 1)


class Deaf(MemoryEngine):
    """An engine whose sessions cannot be closed."""

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:  # noqa: ARG002  # the Protocol's
        return frozenset()


def test_a_job_that_nobody_closes_waits_until_its_permit_has_run_out(given: Given) -> None:
    engine = Deaf()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    work = started(given, engine)
    claimed_at = given.clock.now

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, Waiting.NOT_CLOSED))
            await bench.until(bench.settles(work.job_id), steps=20_000)

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert receipt.closure is Closure.PERMIT_EXPIRED
    assert (receipt.seen_at - claimed_at.astimezone(UTC)).total_seconds() >= given.plane.permit_seconds


def test_an_executors_confirmation_closes_a_job_at_once(given: Given) -> None:
    engine = Deaf()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    work = started(given, engine)
    epoch = given.everything(work.job_id)["jobs"][0]["epoch"]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, Waiting.NOT_CLOSED))
            given.dispatch.confirm_closed({work.job_id: epoch})
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert receipt.closure is Closure.EXECUTOR_CLOSED


def test_an_executors_confirmation_is_heard_of_in_the_round_that_waits_for_it(given: Given) -> None:
    class ClosedMeanwhile(Deaf):
        async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
            given.dispatch.confirm_closed({work.job_id: epoch})
            return await super().stop(runs, rung)

    engine = ClosedMeanwhile()
    work = started(given, engine)
    epoch = given.everything(work.job_id)["jobs"][0]["epoch"]
    bench = Bench(given, {given.plane.data_plane_id: engine})

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (receipt.closure, receipt.rounds) == (Closure.EXECUTOR_CLOSED, 1)


def test_an_engine_that_closes_only_what_has_ended_is_asked_again_in_the_same_round(given: Given) -> None:
    class ClosesTheIdle(MemoryEngine):
        async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
            idle = [work for work in works if self.runs[work.tag].status is not RunStatus.ACTIVE]
            return await super().close(idle)

    engine = ClosesTheIdle(faults=Faults(stubborn_below=Rung.INSIST))
    work = started(given, engine)
    bench = Bench(given, {given.plane.data_plane_id: engine}, limits=Limits(patience={Rung.ASK: timedelta(seconds=1)}))

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (receipt.closure, receipt.rung, receipt.rounds) == (Closure.ENGINE_CLOSED, Rung.INSIST, 1)


def test_the_engine_closes_a_job_although_its_permit_ran_out_by_the_stores_clock(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    work = work_of(claimed(given))  # the claim's answer is under way to an executor whose clock may say otherwise
    given.request(work.job_id)
    given.clock.advance(PERMIT_SECONDS + 1)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure) == (Outcome.NEVER_STARTED, Closure.ENGINE_CLOSED)
    with pytest.raises(Conflict):
        engine.start(work)


@pytest.mark.parametrize("status", [RunStatus.ACTIVE, RunStatus.STOPPED])
def test_a_handle_that_names_another_jobs_run_stops_nobodys_work_and_settles_nothing(
    given: Given, bench: Bench, engine: MemoryEngine, status: RunStatus
) -> None:
    other = started(given, engine, requested=False)
    engine.end(other, status)
    claim = claimed(given)
    given.dispatch.record_handles({claim.job_id: engine.runs[other.tag].handle}, {claim.job_id: claim.epoch})
    given.request(claim.job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(claim.job_id, Waiting.HANDLE_UNKNOWN))
            await bench.until(lambda: (given.job(claim.job_id).cancellation or fail()).rounds >= 3)

    run(scenario())
    assert engine.runs[other.tag].status is status
    assert engine.stops == []
    assert given.job(claim.job_id).state is JobState.PENDING_CANCELLATION


def test_two_workers_share_a_plane_and_each_cancellation_is_settled_once(given: Given, engine: MemoryEngine) -> None:
    works = [started(given, engine) for _ in range(40)]
    small = Limits(batch_size=5)
    plane = given.plane.data_plane_id
    benches = [Bench(given, {plane: engine}, name=name, limits=small) for name in ("w1", "w2")]

    async def scenario() -> None:
        async with benches[0].at_work(), benches[1].at_work():
            await benches[0].until(benches[0].settles(*(work.job_id for work in works)))

    run(scenario())
    assert all([move for move, _, _ in given.moves(work.job_id)].count("cancel") == 1 for work in works)


def test_a_plane_that_hangs_does_not_slow_another(given: Given, engine: MemoryEngine) -> None:
    hanging = MemoryEngine()
    hanging.faults.hangs = asyncio.Event()
    other = given.new_plane()
    bench = Bench(given, {other.data_plane_id: hanging, given.plane.data_plane_id: engine})
    stuck = given.requested(plane=other)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))
            assert given.job(stuck.job_id).state is JobState.PENDING_CANCELLATION
            hanging.faults.hangs.set()  # type: ignore[union-attr]  # set above

    run(scenario())


def test_a_plane_that_comes_while_the_worker_runs_is_served_from_the_next_heartbeat(
    given: Given, engine: MemoryEngine
) -> None:
    bench = Bench(given, adapters={})
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: "worker_started" in events())
            bench.adapters[given.plane.data_plane_id] = engine
            bench.beat.set()
            await bench.until(bench.settles(work.job_id))

    def events() -> list[str]:
        return [line["event"] for line in logs]

    with capture_logs() as logs:
        run(scenario())
    assert [line["planes"] for line in logs if line["event"] == "planes_taken_up"] == [[str(given.plane.data_plane_id)]]


class Broken(MemoryEngine):
    """An adapter with a bug, until it is mended."""

    def __init__(self, *, poisoned: bool) -> None:
        super().__init__()
        self.poisoned = poisoned

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        if self.poisoned:
            raise KeyError("a bug in the adapter")
        return await super().find(works)


def test_an_adapters_bug_postpones_its_batch_and_says_so(given: Given) -> None:
    broken = Broken(poisoned=True)
    bench = Bench(given, {given.plane.data_plane_id: broken})
    work = started(given, broken)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, Waiting.ADAPTER_ERROR))
            broken.poisoned = False
            await bench.until(bench.settles(work.job_id))

    with capture_logs() as logs:
        run(scenario())
    assert {line["event"] for line in logs if line["log_level"] == "error"} == {"round_failed"}


class ChokingEngine(MemoryEngine):
    """An adapter that fails over one job, and so over everything that is asked together with it."""

    over: UUID | None = None

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        if any(work.job_id == self.over for work in works):
            raise ValueError("invalid literal for int()")
        return await super().find(works)


class ChokingQueue:
    """A queue that fails over one job's settlement, and so over all that are sent together with it."""

    def __init__(self, inner: LocalCancellations, over: UUID) -> None:
        self.inner = inner
        self.over = over

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        if any(item.job_id == self.over for item in settlements):
            raise ValueError("invalid literal for int()")
        return await self.inner.settle(settlements, worker=worker)


@pytest.mark.parametrize("what", ["adapter", "store"])
def test_a_job_that_the_adapter_or_the_store_fails_over_harms_only_itself(given: Given, what: str) -> None:
    engine = ChokingEngine()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    works = [started(given, engine) for _ in range(20)]
    poisoned, others = works[7].job_id, [work.job_id for work in (*works[:7], *works[8:])]
    if what == "adapter":
        engine.over = poisoned
    else:
        bench.queue = ChokingQueue(LocalCancellations(given.dispatch, inline), poisoned)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(*others))
            await bench.until(bench.waits(poisoned, Waiting.ADAPTER_ERROR))

    with capture_logs() as logs:
        run(scenario())
    assert {(given.job(other).cancellation or fail()).rounds for other in others} == {1}
    assert {line["job"] for line in logs if line["event"] == "round_failed"} == {poisoned}
    assert "ValueError" in ((given.job(poisoned).cancellation or fail()).waiting_detail or "")


def test_rounds_that_the_store_fails_use_up_none_of_a_workers_room(given: Given, engine: MemoryEngine) -> None:
    works = [started(given, engine) for _ in range(6)]
    failed: list[str] = []

    async def fail_at_first(call: str) -> None:
        if call in ("settle", "postpone") and len(failed) < 6:
            failed.append(call)
            raise RuntimeError("neither an outage nor a conflict")

    bench = Bench(given, {given.plane.data_plane_id: engine}, limits=Limits(batch_size=1, batches_in_flight=3))
    bench.queue = interposed(LocalCancellations(given.dispatch, inline), before=fail_at_first)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(failed) == 6)
            given.clock.advance(bench.limits.lease_seconds)
            await bench.until(bench.settles(*(work.job_id for work in works)))

    with capture_logs() as logs:
        run(scenario())
    assert [line["event"] for line in logs].count("round_failed") == 3


class Unsteady:
    """A queue whose store goes away between a settlement's landing and its answer."""

    def __init__(self, inner: LocalCancellations) -> None:
        self.inner = inner
        self.lost_answers = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        answer = await self.inner.settle(settlements, worker=worker)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnavailable("the answer was lost")
        return answer


def test_a_settlement_whose_answer_was_lost_is_sent_again_and_lands_once(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    bench.queue = Unsteady(LocalCancellations(given.dispatch, inline))
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: not bench.queue.lost_answers)

    with capture_logs() as logs:
        run(scenario())
    events = [line["event"] for line in logs]
    assert [move for move, _, _ in given.moves(work.job_id)].count("cancel") == 1
    assert events.count("cancellation_settled") == 1
    assert (events.count("store_lost"), events.count("store_back")) == (1, 1)


class Gate:
    """Holds up the next call of a name, once it is armed, until it is opened."""

    def __init__(self, call: str, *, armed: bool = True) -> None:
        self.call = call
        self.armed = armed
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, call: str) -> None:
        if call == self.call and self.armed:
            self.armed = False
            self.reached.set()
            await self.opened.wait()


def test_a_late_answer_to_a_workers_earlier_round_does_not_end_the_round_that_it_is_in_now(
    given: Given, engine: MemoryEngine
) -> None:
    settling, looking = Gate("settle"), Gate("find", armed=False)
    bench = Bench(given, {given.plane.data_plane_id: interposed(engine, before=looking)})
    bench.queue = interposed(LocalCancellations(given.dispatch, inline), before=settling)
    job_id = claimed(given).job_id  # nothing of it runs, so that each round has to look twice
    given.request(job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(settling.reached.is_set)
            looking.armed = True
            given.clock.advance(bench.limits.lease_seconds)
            bench.wake.set()
            await bench.until(looking.reached.is_set)
            settling.opened.set()
            await bench.until(lambda: "settlement_stale" in [line["event"] for line in logs])
            looking.opened.set()
            await bench.until(bench.settles(job_id))

    with capture_logs() as logs:
        run(scenario())
    receipt = given.job(job_id).receipt
    assert receipt is not None
    assert receipt.rounds == 2


def test_a_drain_whose_leases_nobody_took_back_does_not_say_that_somebody_did(given: Given) -> None:
    hanging = MemoryEngine()
    hanging.faults.hangs = asyncio.Event()
    bench = Bench(given, {given.plane.data_plane_id: hanging}, limits=Limits(drain_seconds=0.2))
    held = given.requested()

    async def fail_to_release(call: str) -> None:
        if call == "release":
            raise StoreUnavailable("the database is away")

    bench.queue = interposed(LocalCancellations(given.dispatch, inline), before=fail_to_release)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool((given.job(held.job_id).cancellation or fail()).rounds))

    with capture_logs() as logs:
        run(scenario())
    assert [line["given_back"] for line in logs if line["event"] == "drain_ended"] == [0]


def test_a_cancellation_that_waits_too_long_is_called_stuck_once_and_loudly(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    engine.faults.silent = True
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(work.job_id, Waiting.PLANE_SILENT))
            given.clock.advance(given.plane.stuck_after_seconds)
            rounds = (given.job(work.job_id).cancellation or fail()).rounds
            for _ in range(3):
                given.clock.advance(3600)
                await bench.until(lambda: (given.job(work.job_id).cancellation or fail()).rounds > rounds)

    with capture_logs() as logs:
        run(scenario())
    assert [line["log_level"] for line in logs if line["event"] == "cancellation_stuck"] == ["error"]
    assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION


class PerExecutor(MemoryEngine):
    """An engine that each executor answers for: the one in *dead* never does."""

    def __init__(self) -> None:
        super().__init__(per_executor=True)
        self.never = asyncio.Event()

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        if any(work.executor is not None and work.executor.executor_id == "job-executor-dead" for work in works):
            await self.never.wait()
        return await super().find(works)


def test_one_dead_executor_does_not_hold_up_its_batch(given: Given) -> None:

    engine = PerExecutor()
    bench = Bench(given, {given.plane.data_plane_id: engine}, limits=Limits(drain_seconds=0.1))
    dead = given.running(executor=Executor("job-executor-dead", 1))
    given.request(dead.job_id)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    assert given.job(dead.job_id).state is JobState.PENDING_CANCELLATION


def test_a_suspect_is_worked_alone(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    suspect = started(given, engine)
    for _ in range(3):
        given.claim(lease_seconds=1)
        given.clock.advance(2)
    others = [started(given, engine) for _ in range(3)]
    batches: list[set[UUID]] = []
    find = engine.find

    async def recorded(works: Sequence[Work]) -> Mapping[UUID, Listing]:
        batches.append({work.job_id for work in works})
        return await find(works)

    engine.find = recorded  # type: ignore[method-assign]  # the double, listened to

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(suspect.job_id, *(work.job_id for work in others)))

    run(scenario())
    assert {frozenset(batch) for batch in batches if suspect.job_id in batch} == {frozenset({suspect.job_id})}


def test_the_settled_line_tells_the_whole_story(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    with capture_logs() as logs:
        run(scenario())
    [event] = [event for event in logs if event["event"] == "cancellation_settled"]
    [line] = event["each"]
    assert set(line) == documented()["cancellation_settled"][1]
    assert line["job"] == work.job_id
    assert (line["state"], line["outcome"], line["closure"], line["rung"]) == (
        "cancelled",
        "stopped",
        "engine_closed",
        "ask",
    )
    assert (line["engine"], line["engine_status"], line["rounds"]) == ("memory", "interrupted", 1)
    assert line["requested_by"] == ASKER
    assert line["reason"] == "the wrong month"
    durations = ("request_to_claim_ms", "claim_to_stop_ms", "stop_to_ended_ms", "ended_to_settled_ms")
    assert all(isinstance(line[name], float) for name in durations)


def test_a_worker_whose_lease_was_taken_over_settles_nothing(given: Given, engine: MemoryEngine) -> None:
    engine.faults.ignores_stops = True
    work = started(given, engine)
    stalled = given.claim(worker="stalled", lease_seconds=1)
    given.clock.advance(2)
    given.claim(worker="quick")
    engine.end(work, RunStatus.STOPPED)

    settled = given.dispatch.settle([given.settlement(item) for item in stalled], worker="stalled")

    assert [answer.landed for answer in settled] == [False]
    assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION
