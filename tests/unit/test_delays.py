"""How long a cancellation that could not be settled waits for its next round."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import pytest

from control_plane.jobs import Closure, JobType, Process
from control_plane.work import Assignment, Postponed, Postponement, Work
from tests.doubles.memory_engine import Faults, MemoryEngine
from workers.canceller import Canceller
from workers.clock import Clock
from workers.limits import Limits
from workers.outage import Outage
from workers.queue import CancellationQueue

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits(postpone_seconds=1.0, postpone_at_most_seconds=60.0)
FAR_TOO_MANY_ROUNDS = 100_000


class Notebook:
    """A queue that takes back what it is given, and keeps note of it."""

    def __init__(self) -> None:
        self.given_back: list[Postponement] = []

    async def postpone(self, postponements: Sequence[Postponement]) -> list[Postponed]:
        self.given_back += postponements
        return [Postponed(item.job_id, became_stuck=False) for item in postponements]


def assignment(number: int, rounds: int) -> Assignment:
    return Assignment(
        work=Work(UUID(int=number), f"countermand:i:p:{number}:run"),
        data_plane_id=UUID(int=2),
        type=JobType.NQL_FORECAST,
        lease=UUID(int=3),
        requested_by=Process("test"),
        reason=None,
        requested_at=NOW,
        rounds=rounds,
        committed=False,
        closure=Closure.EXECUTOR_CLOSED,
        alone=False,
        listing_lag_seconds=0,
        stuck_after_seconds=900,
    )


def delays(*rounds: int, **options: Callable[[], float]) -> list[float]:
    """What a canceller on a silent plane lets pass after each of these rounds."""
    notebook, clock = Notebook(), Clock()
    canceller = Canceller(
        cast("CancellationQueue", notebook),
        MemoryEngine(Faults(silent=True)),
        worker="w1",
        limits=LIMITS,
        outage=Outage(clock),
        clock=clock,
        **options,
    )
    cases = canceller.hold([assignment(number, each) for number, each in enumerate(rounds)])
    asyncio.run(canceller.work(cases))
    return [postponement.delay_seconds for postponement in notebook.given_back]


def test_the_delay_doubles_with_each_round() -> None:
    assert delays(1, 2, 3, 4, 5, 6, jitter=lambda: 1.0) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def test_the_delay_is_bounded_however_many_rounds_there_were() -> None:
    assert delays(7, 8, 30, FAR_TOO_MANY_ROUNDS, jitter=lambda: 1.0) == [60.0] * 4


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_chance_decides_between_half_and_the_whole_of_the_delay(chance: float, share: float) -> None:
    assert delays(1, 4, FAR_TOO_MANY_ROUNDS, jitter=lambda: chance) == [share, 8 * share, 60 * share]


def test_cancellations_that_were_postponed_together_do_not_come_back_together() -> None:
    drawn = delays(*[3] * 50)

    assert all(2.0 <= delay <= 4.0 for delay in drawn)
    assert len(set(drawn)) == 50
