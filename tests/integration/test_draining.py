"""A worker that is told to stop: what it holds is settled where that can be done in time, and the rest given back."""

import asyncio
from dataclasses import dataclass
from typing import Self

from structlog.testing import capture_logs
from structlog.typing import EventDict

from control_plane.lifecycle import JobState
from control_plane.work import Claim, Work
from tests.doubles.memory_engine import MemoryEngine
from tests.integration.given import Given
from tests.integration.test_rounds import run, started
from tests.integration.timely import Timely
from workers.limits import Limits

DRAIN_SECONDS = 20.0


@dataclass
class Held:
    """A worker that holds a job on each of two planes, neither of whose engines answers yet."""

    bench: Timely
    slow: MemoryEngine
    slow_job: Work
    hanging_job: Claim
    logs: list[EventDict]

    @classmethod
    def by_a_worker(cls, given: Given, logs: list[EventDict]) -> Self:
        slow, hanging = MemoryEngine(), MemoryEngine()
        other = given.new_plane()
        work, held = started(given, slow), given.requested(plane=other)
        slow.faults.hangs, hanging.faults.hangs = asyncio.Event(), asyncio.Event()
        planes = {other.data_plane_id: hanging, given.plane.data_plane_id: slow}
        bench = Timely(given, dict(planes), limits=Limits(drain_seconds=DRAIN_SECONDS))
        return cls(bench, slow, work, held, logs)

    def is_held(self) -> bool:
        """Both."""
        return {case.job_id for case in self.bench.held()} == {self.slow_job.job_id, self.hanging_job.job_id}

    def tell_to_stop(self) -> None:
        self.bench.stopping.set()
        self.bench.wake.set()

    def told(self, event: str) -> list[EventDict]:
        return [line for line in self.logs if line["event"] == event]

    def answer(self) -> None:
        """From now on the slow engine does."""
        assert self.slow.faults.hangs is not None
        self.slow.faults.hangs.set()


def test_a_drain_settles_what_it_can_and_gives_back_the_rest(given: Given) -> None:
    with capture_logs() as logs:
        held = Held.by_a_worker(given, logs)
        bench, job_id = held.bench, held.slow_job.job_id

        async def scenario() -> None:
            async with bench.at_work():
                await bench.until(held.is_held)
                held.tell_to_stop()
                await bench.until(lambda: bool(held.told("drain_started")))
                assert given.job(job_id).state is JobState.PENDING_CANCELLATION
                began_at = given.clock.now
                held.answer()
                await bench.until(lambda: given.job(job_id).state is JobState.CANCELLED)
                await bench.for_seconds(1)
                assert (given.clock.now - began_at).total_seconds() < DRAIN_SECONDS
                assert held.told("drain_ended") == []  # the other is waited for as well

        run(scenario())

    assert [line["held"] for line in held.told("drain_started")] == [2]
    assert [line["given_back"] for line in held.told("drain_ended")] == [1]
    [row] = given.everything(held.hanging_job.job_id)["cancellations"]
    assert row["lease"] is None
    assert row["next_round_at"] <= given.clock.now


def test_a_drain_gives_back_what_is_not_settled_in_time(given: Given) -> None:
    with capture_logs() as logs:
        held = Held.by_a_worker(given, logs)

        async def scenario() -> None:
            async with held.bench.at_work():
                await held.bench.until(held.is_held)
                held.tell_to_stop()
                await held.bench.for_seconds(DRAIN_SECONDS - 1)
                assert held.told("drain_ended") == []

        run(scenario())

    assert [line["given_back"] for line in held.told("drain_ended")] == [2]
    assert given.job(held.slow_job.job_id).state is JobState.PENDING_CANCELLATION
