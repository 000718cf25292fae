"""While nobody keeps the jobs, a round goes on with what is leased, begins nothing new, and forgets no evidence."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from adapters.base import Listing, RunStatus
from control_plane.errors import ControlPlaneUnavailable, EngineUnavailable, StoreUnavailable, Unavailable
from control_plane.intake import CancellationRequest
from control_plane.jobs import Process, Waiting
from control_plane.lifecycle import JobState
from control_plane.work import Work
from tests.doubles.interposed import interposed
from tests.doubles.memory_engine import Faults, MemoryEngine
from tests.integration.given import Given
from tests.integration.test_rounds import fail, inline, run, started
from tests.integration.timely import Away, Timely
from workers.limits import Limits
from workers.local import LocalCancellations

#: A round that looks for long enough: what ends it is the lease.
LIMITS = Limits(lease_seconds=30.0, round_seconds=10_000.0)
STORE_AWAY = StoreUnavailable("the database is away")
CONTROL_PLANE_AWAY = ControlPlaneUnavailable("the control plane is away")


@dataclass
class Looked(MemoryEngine):
    """The double, which counts how often it is asked about whom."""

    asked: list[UUID] = field(default_factory=list)
    takes: Callable[[], Awaitable[None]] | None = None
    raises: bool = False

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        self.asked += [work.job_id for work in works]
        if self.takes:
            await self.takes()
        if self.raises:
            raise EngineUnavailable("the engine hung up")
        return await super().find(works)


@pytest.fixture
def engine() -> Looked:
    engine = Looked()
    engine.faults.ignores_stops = True
    return engine


@pytest.fixture
def bench(given: Given, engine: Looked) -> Timely:
    return Timely(given, {given.plane.data_plane_id: engine}, limits=LIMITS)


def events(logs: list[EventDict], *names: str) -> list[str]:
    return [line["event"] for line in logs if line["event"] in names]


def cancels(given: Given, work: Work) -> int:
    return [move for move, _, _ in given.moves(work.job_id)].count("cancel")


def rounds_of(given: Given, work: Work) -> int:
    return (given.job(work.job_id).cancellation or fail()).rounds


@pytest.mark.parametrize("error", [STORE_AWAY, CONTROL_PLANE_AWAY], ids=["store", "control_plane"])
def test_what_is_leased_is_looked_at_and_stopped_until_its_lease_ends_and_then_let_go(
    given: Given, bench: Timely, engine: Looked, error: Unavailable
) -> None:
    queue = Away(error)
    queue.stand_before(bench)
    work = started(given, engine)
    seen: dict[str, int] = {}

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            later = started(given, engine)
            for moment in (5, 25, 35, 100):
                await bench.for_seconds(moment - (given.clock.now - began).total_seconds())
                seen[f"looks_{moment}"], seen[f"stops_{moment}"] = len(engine.asked), len(engine.stops)
            assert later.job_id not in engine.asked
            engine.faults.ignores_stops = False
            queue.away = False
            await bench.until(bench.settles(work.job_id, later.job_id))

    began = given.clock.now
    with capture_logs() as logs:
        run(scenario())
    assert seen["looks_5"] < seen["looks_25"] <= seen["looks_35"] == seen["looks_100"]
    assert seen["stops_5"] < seen["stops_25"] <= seen["stops_35"] == seen["stops_100"]
    name = "store" if error is STORE_AWAY else "control_plane"
    told = ("lease_lost", "store_lost", "store_back", "control_plane_lost", "control_plane_back")
    assert events(logs, *told) == [f"{name}_lost", "lease_lost", f"{name}_back"]
    assert (cancels(given, work), rounds_of(given, work)) == (1, 2)


def test_nothing_is_stopped_any_more_once_the_lease_has_ended(given: Given, bench: Timely, engine: Looked) -> None:
    """By then another worker may have it, which climbs its own ladder."""
    engine.takes = lambda: bench.pause(0.7)  # no third of a lease is a whole number of looks
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.for_seconds(15)  # so that the lease has been extended once, and not by the whole third
            [case] = bench.held()
            queue.away = True
            await bench.until(lambda: bench.monotonic() >= case.lease_ends)
            stopped = len(engine.stops)
            await bench.for_seconds(20)
            assert len(engine.stops) == stopped
            queue.away = False
            engine.faults.ignores_stops = False

    run(scenario())


@pytest.mark.parametrize("away_seconds", [5, 100], ids=["within_the_lease", "beyond_the_lease"])
def test_evidence_that_is_gathered_meanwhile_is_settled_once_when_the_queue_is_back(
    given: Given, bench: Timely, engine: Looked, away_seconds: float
) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            engine.end(work, RunStatus.STOPPED)
            await bench.for_seconds(away_seconds)
            assert given.job(work.job_id).state is JobState.PENDING_CANCELLATION
            queue.away = False
            await bench.until(bench.settles(work.job_id))

    with capture_logs() as logs:
        run(scenario())
    assert cancels(given, work) == 1
    assert rounds_of(given, work) == 1 if away_seconds < LIMITS.lease_seconds else 2  # it may claim it anew before
    assert events(logs, "cancellation_settled", "lease_lost") == ["cancellation_settled"]
    assert events(logs, "control_plane_lost", "control_plane_back") == ["control_plane_lost", "control_plane_back"]


def test_what_waits_to_be_settled_does_not_keep_the_rest_of_its_batch_from_being_stopped(
    given: Given, bench: Timely, engine: Looked
) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    ended, other = started(given, engine), started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            engine.end(ended, RunStatus.STOPPED)
            await bench.for_seconds(5)
            stops = len(engine.stops)
            await bench.for_seconds(5)
            assert {job_id for job_id, _ in engine.stops[stops:]} == {other.job_id}
            queue.away = False
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(ended.job_id, other.job_id))

    run(scenario())


@pytest.mark.parametrize("fault", ["silent", "raises", "truncates", "forgets"])
def test_evidence_is_not_lost_with_an_engine_that_falls_silent_before_the_queue_is_back(
    given: Given, bench: Timely, engine: Looked, fault: str
) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    work, other = started(given, engine), started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            engine.end(work, RunStatus.STOPPED)
            seen_ended_at.append(given.clock.now)
            await bench.for_seconds(2)
            if fault == "forgets":
                engine.forget(work)
            else:
                setattr(engine if fault == "raises" else engine.faults, fault, True)
            await bench.for_seconds(8)
            queue.away = False
            await bench.until(bench.settles(work.job_id))
            engine.faults, engine.raises = Faults(), False
            await bench.until(bench.settles(other.job_id))

    seen_ended_at: list[object] = []
    run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (cancels(given, work), rounds_of(given, work)) == (1, 1)
    assert receipt.engine_status == "stopped"
    assert (receipt.seen_at - seen_ended_at[0]).total_seconds() <= 1  # type: ignore[operator]  # moments


def test_a_settlement_whose_answer_was_lost_lands_once_however_long_the_queue_is_away(
    given: Given, bench: Timely, engine: Looked
) -> None:
    queue = Away(STORE_AWAY)
    queue.stand_before(bench)
    engine.faults.ignores_stops = False
    queue.loses.add("settle")
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(bench.settles(work.job_id))
            queue.away = True
            receipts.append(given.job(work.job_id).receipt)
            await bench.for_seconds(100)
            queue.away = False
            await bench.until(lambda: "cancellation_settled" in events(logs, "cancellation_settled"))

    receipts: list[object] = []
    with capture_logs() as logs:
        run(scenario())
    assert cancels(given, work) == 1
    assert events(logs, "cancellation_settled", "settlement_stale", "lease_lost") == ["cancellation_settled"]
    assert [given.job(work.job_id).receipt] == receipts
    [settled] = [line for line in logs if line["event"] == "cancellation_settled"]
    assert settled["each"][0]["outcome"] == "stopped"


def test_evidence_that_comes_after_another_workers_is_stale_and_changes_nothing(
    given: Given, bench: Timely, engine: Looked
) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            engine.end(work, RunStatus.STOPPED)
            await bench.for_seconds(LIMITS.lease_seconds + 5)
            given.dispatch.settle([given.settlement(held) for held in given.claim(worker="rival")], worker="rival")
            queue.away = False
            await bench.until(lambda: bool(events(logs, "settlement_stale")))

    with capture_logs() as logs:
        run(scenario())
    receipt = given.job(work.job_id).receipt
    assert receipt is not None
    assert (receipt.worker, cancels(given, work)) == ("w1", 1)  # the rival's receipt: see receipt_at
    assert receipt.rung is not None
    assert receipt.rounds == 2
    assert events(logs, "cancellation_settled") == []


def test_what_cannot_be_postponed_is_kept_and_looked_at_until_it_can(
    given: Given, bench: Timely, engine: Looked
) -> None:
    queue = Away(STORE_AWAY)
    queue.stand_before(bench)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: bool(engine.stops))
            queue.away = True
            engine.faults.refuses = True  # which ends a round at once
            await bench.for_seconds(5)
            looks = len(engine.asked)
            await bench.for_seconds(5)
            assert len(engine.asked) > looks
            queue.away = False
            await bench.until(bench.waits(work.job_id, Waiting.NOT_PERMITTED))

    with capture_logs() as logs:
        run(scenario())
    told = ("cancellation_postponed", "lease_lost", "store_lost", "store_back")
    assert events(logs, *told) == ["store_lost", "store_back", "cancellation_postponed"]


def test_each_change_of_state_is_one_line_however_often_and_by_whomever_it_is_tried(
    given: Given, bench: Timely, engine: Looked
) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    bench.limits = Limits(batch_size=1, batches_in_flight=10, lease_seconds=30.0, round_seconds=10_000.0)
    works = [started(given, engine) for _ in range(4)]

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: len({job_id for job_id, _ in engine.stops}) == 4)
            for _ in range(2):
                queue.away = True
                await bench.for_seconds(8)
                queue.away = False
                await bench.for_seconds(10)
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(*(work.job_id for work in works)))

    with capture_logs() as logs:
        run(scenario())
    told = ("control_plane_lost", "control_plane_back", "lease_lost")
    assert events(logs, *told) == ["control_plane_lost", "control_plane_back"] * 2
    assert len(queue.tries) > 8


def test_a_short_absence_costs_no_lease_and_no_round(given: Given, bench: Timely, engine: Looked) -> None:
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    work = started(given, engine)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.for_seconds(5)
            queue.away = True
            await bench.for_seconds(20)
            queue.away = False
            await bench.for_seconds(60)
            assert given.claim(worker="rival") == []
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(work.job_id))

    run(scenario())
    assert rounds_of(given, work) == 1


def test_of_a_batch_what_was_never_claimed_does_not_hold_up_what_runs(
    given: Given, bench: Timely, engine: Looked
) -> None:
    """Its settlement waits for the queue, in a batch of its own."""
    queue = Away(CONTROL_PLANE_AWAY)
    queue.stand_before(bench)
    never = given.pending().job_id
    given.intake.open_cancellations([CancellationRequest(never, Process("test"))])
    work = started(given, engine, requested=False)
    given.request(work.job_id)

    async def lose(call: str) -> None:
        if call == "claim":
            queue.away = True

    queue.after = lose  # type: ignore[method-assign]  # gone as soon as it has given the work
    queue.stand_before(bench)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: queue.away)
            await bench.for_seconds(5)
            assert {job_id for job_id, _ in engine.stops} == {work.job_id}
            queue.after = Away(CONTROL_PLANE_AWAY).after  # type: ignore[method-assign]
            queue.away = False
            engine.faults.ignores_stops = False
            await bench.until(bench.settles(work.job_id, never))

    run(scenario())


def test_a_refused_heartbeat_tells_of_the_outage_while_a_claim_still_waits(given: Given, engine: Looked) -> None:
    """A long poll may wait for most of a minute: who has expired meanwhile hears of it from the heartbeat."""
    bench, refused = Timely(given, {given.plane.data_plane_id: engine}), [CONTROL_PLANE_AWAY] * 2

    async def before(call: str) -> None:
        if call == "claim":
            await bench.stopping.wait()
        if call == "heartbeat" and refused:
            raise refused.pop()

    bench.queue = interposed(LocalCancellations(given.dispatch, inline), before=before)

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(lambda: not refused)
            given.clock.advance(10)
            bench.beat.set()
            await bench.until(lambda: bool(events(logs, "control_plane_back")))

    with capture_logs() as logs:
        run(scenario())

    assert events(logs, "control_plane_lost", "control_plane_back") == ["control_plane_lost", "control_plane_back"]
