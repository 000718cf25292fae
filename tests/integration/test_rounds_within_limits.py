"""What a worker takes on, and how fast it stops, stays within its limits; they count from the moment they change."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from uuid import UUID

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from adapters.base import Listing, Run, StopAnswer
from control_plane.jobs import Handle, Rung, Waiting
from control_plane.work import Work
from tests.doubles.memory_engine import MemoryEngine
from tests.integration.given import Given
from tests.integration.test_rounds import fail, run, started
from tests.integration.timely import Timely
from workers.limits import Limits


@dataclass
class Counting(MemoryEngine):
    """The double, which keeps note of when it is told to stop whose run."""

    given: Given = field(kw_only=True)
    stopped: list[tuple[float, UUID]] = field(default_factory=list)

    def _stop(self, run: Run, rung: Rung) -> StopAnswer:
        self.stopped.append((self.given.clock.now.timestamp(), run.job_id))
        return super()._stop(run, rung)

    def most_within(self, seconds: float) -> int:
        """The most stops that it saw in any stretch so long."""
        moments = [moment for moment, _ in self.stopped]
        return max(sum(begin <= moment < begin + seconds for moment in moments) for begin in moments)

    @property
    def first_stops(self) -> dict[UUID, float]:
        return {job_id: moment for moment, job_id in reversed(self.stopped)}


@dataclass
class Holding(MemoryEngine):
    """The double, which counts whom it is asked about while it hangs."""

    asked: set[UUID] = field(default_factory=set)

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        self.asked |= {work.job_id for work in works}
        return await super().find(works)


@dataclass
class Slow(MemoryEngine):
    """The double, whose runs take a while to end, and which says so."""

    given: Given = field(kw_only=True)
    looks: list[float] = field(default_factory=list)

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        self.looks.append(self.given.clock.now.timestamp())
        listings = await super().find(works)
        return {job_id: structs.replace(listing, again_seconds=0.2) for job_id, listing in listings.items()}


@dataclass
class Choking(MemoryEngine):
    """The double, which fails over one job's stop, and so over all that are stopped together with it."""

    over: UUID | None = None

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        if any(run.job_id == self.over for run in runs):
            raise ValueError("invalid literal for int()")
        return await super().stop(runs, rung)


def limited(given: Given, engine: MemoryEngine, **limits: object) -> Timely:
    return Timely(given, {given.plane.data_plane_id: engine}, limits=replace(Limits(), **limits))  # type: ignore[arg-type]


def settled(bench: Timely, works: Sequence[Work]) -> bool:
    return bench.settles(*(work.job_id for work in works))()


def closed(given: Given, works: Sequence[Work]) -> Sequence[Work]:
    """Their executor has confirmed that nothing more of them is submitted: nothing has to be closed."""
    epochs = {work.job_id: given.everything(work.job_id)["jobs"][0]["epoch"] for work in works}
    given.dispatch.confirm_closed(epochs)
    return works


# --- how often an engine is asked


def test_a_run_that_goes_on_is_told_to_stop_again_and_not_with_every_look(given: Given) -> None:
    engine = Counting(given=given)
    engine.faults.ignores_stops = True
    bench = limited(given, engine, stop_again_seconds=0.5, round_seconds=60)
    closed(given, [started(given, engine)])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(engine.stopped) >= 10)

    run(scenario())
    moments = [moment for moment, _ in engine.stopped]
    assert all(0.5 <= later - earlier <= 1.1 for earlier, later in pairwise(moments))  # at most a look later than due


def test_a_second_run_of_a_job_is_stopped_as_soon_as_it_is_seen(given: Given) -> None:
    engine = Counting(given=given)
    engine.faults.ignores_stops = True
    bench = limited(given, engine, stop_again_seconds=1000, round_seconds=1000)
    (work,) = closed(given, [started(given, engine)])
    first = engine.runs[work.tag].handle

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(engine.stopped) == 1)
            engine.runs[work.tag] = structs.replace(engine.runs[work.tag], handle=structs.replace(first, run_id="next"))
            engine.faults.ignores_stops = False
            await bench.until(lambda: settled(bench, [work]))

    run(scenario())
    assert engine.stopped[1][0] - engine.stopped[0][0] <= 1


def test_a_stop_that_an_adapter_failed_over_is_made_up_for_at_once(given: Given) -> None:
    engine = Choking()
    bench = limited(given, engine, stop_again_seconds=1000, round_seconds=1000)
    works = closed(given, [started(given, engine) for _ in range(20)])
    engine.over = works[7].job_id
    others = [work for work in works if work.job_id != engine.over]
    began = given.clock.now

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.waits(works[7].job_id, Waiting.ADAPTER_ERROR))
            await bench.until(lambda: settled(bench, others))
            took.append((given.clock.now - began).total_seconds())

    took: list[float] = []
    with capture_logs():
        run(scenario())
    assert took[0] <= 100


def test_it_is_looked_again_no_sooner_than_an_engine_says_that_it_may_show_an_end(given: Given) -> None:
    engine = Slow(given=given)
    engine.faults.ignores_stops = True
    bench = limited(given, engine, round_seconds=60)
    closed(given, [started(given, engine)])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(engine.looks) >= 10)

    run(scenario())
    gaps = [later - earlier for earlier, later in pairwise(engine.looks[1:])]  # the first listing was for the stop
    assert gaps[0] == pytest.approx(0.2, abs=0.01)
    assert min(gaps) >= 0.19


# --- what is held


def test_a_worker_holds_no_more_cancellations_of_a_plane_than_it_may_and_a_change_counts_at_once(given: Given) -> None:
    engine = Holding()
    engine.faults.hangs = let = asyncio.Event()
    bench = limited(given, engine, max_in_flight=5, batch_size=4)
    works = [started(given, engine) for _ in range(20)]
    held: list[int] = []

    async def scenario() -> None:
        async with bench.at_work():
            for most in (5, 9, 3):
                bench.worker.limit(replace(bench.limits, max_in_flight=most))
                await bench.for_seconds(5)
                held.append(len(engine.asked))
            let.set()
            await bench.until(lambda: settled(bench, works))

    run(scenario())
    assert held == [5, 9, 9]


# --- stops


def test_an_engine_sees_no_more_stops_a_second_than_it_may_and_all_is_settled(given: Given) -> None:
    engine = Counting(given=given)
    bench = limited(given, engine, stops_per_second=4)
    works = closed(given, [started(given, engine) for _ in range(30)])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: settled(bench, works))

    run(scenario())
    took = engine.stopped[-1][0] - engine.stopped[0][0]
    assert engine.most_within(1) <= 2 * 4  # what had been saved for one second, and what another brings
    assert engine.most_within(5) <= 6 * 4
    assert took <= 15
    assert Counter(job_id for _, job_id in engine.stopped) == {work.job_id: 1 for work in works}
    assert {(given.job(work.job_id).cancellation or fail()).rounds for work in works} == {1}  # none waits leased


def test_closing_is_no_way_around_the_bound(given: Given) -> None:
    """Jobs whose permits run on are closed by the engine, which stops what it closes."""
    engine = Counting(given=given)
    bench = limited(given, engine, stops_per_second=4)
    works = [started(given, engine) for _ in range(30)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: settled(bench, works))

    run(scenario())
    assert engine.most_within(5) <= 6 * 4


def test_whoever_was_not_stopped_yet_is_stopped_before_those_that_would_not_end(given: Given) -> None:
    engine = Counting(given=given)
    engine.faults.ignores_stops = True
    bench = limited(given, engine, stops_per_second=2)
    works = closed(given, [started(given, engine) for _ in range(12)])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len(engine.first_stops) == len(works))
            engine.faults.ignores_stops = False
            await bench.until(lambda: settled(bench, works))

    run(scenario())
    began = engine.stopped[0][0]
    assert max(engine.first_stops.values()) - began <= 20
    assert engine.most_within(5) <= 6 * 2


def test_a_job_with_more_runs_than_a_second_allows_is_stopped_all_the_same(given: Given) -> None:
    engine = Counting(given=given)
    bench = limited(given, engine, stops_per_second=0.5)
    works = closed(given, [started(given, engine) for _ in range(3)])

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: settled(bench, works))

    run(scenario())
    assert engine.most_within(2) <= 2


def test_a_bound_on_stops_counts_as_soon_as_it_is_set_and_as_soon_as_it_is_lifted(given: Given) -> None:
    engine = Counting(given=given)
    bench = limited(given, engine, batch_size=4)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(bench.worker.planes))
            bench.worker.limit(replace(bench.limits, stops_per_second=1))
            works = closed(given, [started(given, engine) for _ in range(12)])
            await bench.for_seconds(4)
            bounded.append(len(engine.stopped))
            bench.worker.limit(bench.limits)
            lifted_at = given.clock.now
            await bench.until(lambda: settled(bench, works))
            assert (given.clock.now - lifted_at).total_seconds() <= 2

    bounded: list[int] = []
    run(scenario())
    assert 1 <= bounded[0] <= 6
