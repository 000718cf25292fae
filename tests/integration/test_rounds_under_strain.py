"""What a round never does, and what it still gets done, while its engine drops stops, is slow, hangs or is lost."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from structlog.testing import capture_logs

from adapters.base import Listing, Run, RunStatus, StopAnswer
from control_plane.jobs import Closure, Receipt, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.work import Assignment, Work
from tests.doubles.memory_engine import MemoryEngine
from tests.integration.given import Given
from tests.integration.test_rounds import Bench, Deaf, run, started
from workers.limits import Limits

A_LONG_TIME = 10_000.0


class Listened(MemoryEngine):
    """The double, which keeps note of what it is told to discard."""

    def __init__(self) -> None:
        super().__init__()
        self.discards: list[UUID] = []

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        self.discards += [work.job_id for work in works]
        return await super().discard(works)


@dataclass
class Interfered(Bench):
    """A bench on which something happens, as often as the worker pauses."""

    meanwhile: Callable[[], object] = lambda: None

    async def pause(self, seconds: float) -> None:
        await super().pause(seconds)
        self.meanwhile()


def receipt_of(given: Given, work: Work) -> Receipt:
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    return receipt


def rounds_of(given: Given, job_id: UUID) -> int:
    cancellation = given.job(job_id).cancellation
    assert cancellation is not None
    return cancellation.rounds


async def several_rounds(bench: Bench, job_id: UUID, waiting: Waiting) -> None:
    """Until the cancellation has been postponed for this reason and taken up again, more than once."""
    await bench.until(lambda: rounds_of(bench.given, job_id) >= 3, steps=20_000)
    await bench.until(bench.waits(job_id, waiting))


def once(deed: Callable[[], object]) -> Callable[[], None]:
    """Does it the first time, and nothing from then on."""
    deeds = [deed]

    def do() -> None:
        if deeds:
            deeds.pop()()

    return do


# --- the committed


class Unconfirmed(Listened):
    """An engine that lists, stops and discards, and never says that anything is published."""

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:  # noqa: ARG002  # the Protocol's
        return frozenset()


def test_a_committed_job_is_not_stopped_closed_or_discarded_while_its_publication_is_unconfirmed(given: Given) -> None:
    engine = Unconfirmed()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    claim = given.committed()
    work = Work(claim.job_id, claim.tag)
    engine.start(work)  # not even a run that the engine still shows is stopped
    engine.outputs[work.job_id] = "what it wrote"
    given.request(work.job_id)

    async def scenario() -> None:
        async with bench.at_work():
            await several_rounds(bench, work.job_id, Waiting.PLANE_SILENT)

    run(scenario())
    assert (engine.stops, engine.closed, engine.discards) == ([], set(), [])
    assert engine.runs[work.tag].status is RunStatus.ACTIVE
    assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION


def test_a_committed_job_without_an_output_in_the_engine_is_not_completed(given: Given) -> None:
    engine = Listened()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    lost, sound = given.committed(), given.committed(dataset_id=1234)
    for claim in (lost, sound):
        work = Work(claim.job_id, claim.tag)
        engine.start(work)
        engine.end(work, RunStatus.SUCCEEDED)
        given.request(claim.job_id)
    del engine.outputs[lost.job_id]

    async def scenario() -> None:
        async with bench.at_work():
            await several_rounds(bench, lost.job_id, Waiting.PLANE_SILENT)

    run(scenario())
    assert given.job(lost.job_id).state is JobState.PENDING_CANCELLATION
    assert given.job(sound.job_id).state is JobState.COMPLETED


# --- stops


class Dropping(MemoryEngine):
    """An engine that accepts its first stops, the one that comes with closing included, and forgets them."""

    drops = 3

    def _stop(self, run: Run, rung: Rung) -> StopAnswer:
        self.faults.ignores_stops = len(self.stops) < self.drops
        return super()._stop(run, rung)


def test_a_stop_that_the_engine_dropped_is_sent_again_within_the_round(given: Given) -> None:
    engine = Dropping()
    bench = Bench(given, {given.plane.data_plane_id: engine})
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    assert engine.stops == [(work.job_id, Rung.ASK)] * (engine.drops + 1)
    assert receipt_of(given, work).rounds == 1


# --- what is not settled is not discarded


def test_what_an_unsettled_job_wrote_stays(given: Given) -> None:
    engine = Listened()
    engine.faults.ignores_stops = True
    bench = Bench(given, {given.plane.data_plane_id: engine})
    work, ending = started(given, engine), started(given, engine)
    engine.outputs[work.job_id] = "what it has written so far"
    engine.end(ending, RunStatus.SUCCEEDED)

    async def scenario() -> None:
        async with bench.at_work():
            await several_rounds(bench, work.job_id, Waiting.STILL_RUNNING)
            await bench.until(lambda: bool(engine.discards))

    run(scenario())
    assert engine.discards == [ending.job_id]
    assert engine.outputs == {work.job_id: "what it has written so far"}


class Interrupted(Listened):
    """An engine during whose closing something happens."""

    meanwhile: Callable[[], object]

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        self.meanwhile()
        return await super().close(works)


def test_what_a_job_wrote_stays_when_its_settlement_came_too_late(given: Given) -> None:
    engine = Interrupted()
    limits = Limits(lease_seconds=6.0)
    bench = Bench(given, {given.plane.data_plane_id: engine}, limits=limits)
    work = started(given, engine)
    engine.end(work, RunStatus.SUCCEEDED)

    def take_over() -> None:
        given.clock.advance(limits.lease_seconds)
        given.claim(worker="rival", lease_seconds=A_LONG_TIME)

    engine.meanwhile = once(take_over)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: "settlement_stale" in [line["event"] for line in logs])

    with capture_logs() as logs:
        run(scenario())
    assert engine.discards == []
    assert work.job_id in engine.outputs


# --- leases


@dataclass
class Slow(MemoryEngine):
    """An engine that ends what it was told to stop one after another, *seconds* apart."""

    now: Callable[[], float] = lambda: 0.0
    seconds: float = 2.0
    told: dict[UUID, Work] = field(default_factory=dict)
    next_end_at: float = 0.0

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        if self.told and self.now() >= self.next_end_at:
            self.end(self.told.pop(next(iter(self.told))), RunStatus.STOPPED)
            self.next_end_at = self.now() + self.seconds
        return await super().find(works)

    def _stop(self, run: Run, rung: Rung) -> StopAnswer:  # noqa: ARG002  # the double's
        if run.job_id not in self.told:
            self.told[run.job_id] = Work(run.job_id, run.tag)
            self.next_end_at = self.next_end_at or self.now() + self.seconds
        return StopAnswer.ACCEPTED


def test_a_batch_that_ends_one_by_one_for_longer_than_a_lease_is_kept_and_settled_in_one_round(given: Given) -> None:
    engine = Slow(now=lambda: given.clock.now.timestamp())
    limits = Limits(lease_seconds=6.0, round_seconds=3.0)
    taken: list[Assignment] = []
    bench = Interfered(
        given,
        {given.plane.data_plane_id: engine},
        limits=limits,
        meanwhile=lambda: taken.extend(given.claim(worker="rival")),
    )
    works = [started(given, engine) for _ in range(8)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(*(work.job_id for work in works)), steps=20_000)

    run(scenario())
    assert bench.paused > 2 * limits.lease_seconds
    assert taken == []
    assert [receipt_of(given, work).rounds for work in works] == [1] * len(works)


def test_of_what_was_taken_over_in_the_middle_of_a_round_nothing_more_is_stopped(given: Given) -> None:
    engine = MemoryEngine()
    engine.faults.ignores_stops = True
    limits = Limits(lease_seconds=6.0, round_seconds=A_LONG_TIME)
    bench = Interfered(given, {given.plane.data_plane_id: engine}, limits=limits)
    works = {work.job_id for work in (started(given, engine), started(given, engine))}
    taken: list[UUID] = []

    def take_one_over() -> None:
        given.clock.advance(limits.lease_seconds)
        taken.extend(one.work.job_id for one in given.claim(1, worker="rival", lease_seconds=A_LONG_TIME))
        stopped_before.extend(job_id for job_id, _ in engine.stops)

    stopped_before: list[UUID] = []
    bench.meanwhile = once(take_one_over)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(engine.stops) > 3 * len(stopped_before) > 0)
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(*works.difference(taken)))

    run(scenario())
    stopped_since = [job_id for job_id, _ in engine.stops[len(stopped_before) :]]
    assert len(taken) == 1
    assert set(stopped_before) == works
    assert set(stopped_since) == works.difference(taken)


def test_a_closure_that_is_confirmed_in_the_middle_of_a_round_settles_in_that_round(given: Given) -> None:
    engine = Deaf()
    limits = Limits(lease_seconds=3.0, round_seconds=3.0)
    work = started(given, engine)
    epoch = given.everything(work.job_id)["jobs"][0]["epoch"]
    bench = Interfered(
        given,
        {given.plane.data_plane_id: engine},
        limits=limits,
        meanwhile=once(lambda: given.dispatch.confirm_closed({work.job_id: epoch})),
    )

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    receipt = receipt_of(given, work)
    assert (receipt.closure, receipt.rounds) == (Closure.EXECUTOR_CLOSED, 1)


# --- engines that hang


def test_an_engine_that_hangs_holds_no_more_than_its_batches_in_flight(given: Given) -> None:
    engine = MemoryEngine()
    engine.faults.hangs = let = asyncio.Event()
    limits = Limits(batch_size=2, batches_in_flight=3)
    bench = Bench(given, {given.plane.data_plane_id: engine}, limits=limits)
    works = [started(given, engine) for _ in range(12)]
    begun: list[UUID] = []

    def claimed() -> list[UUID]:
        return [work.job_id for work in works if rounds_of(given, work.job_id)]

    async def scenario() -> None:
        async with bench.at_work():
            polled = given.clock.after(5)
            await bench.until(lambda: given.clock.now >= polled)
            begun.extend(claimed())
            let.set()
            await bench.until(bench.settles(*(work.job_id for work in works)))

    run(scenario())
    assert len(begun) == limits.batch_size * limits.batches_in_flight
