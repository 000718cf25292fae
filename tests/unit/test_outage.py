"""One log line when whoever keeps the jobs goes away, and one when it is back."""

import asyncio

import pytest
from structlog.testing import capture_logs

from control_plane.errors import StoreUnavailable
from tests.doubles.manual_clock import ManualClock
from workers.outage import Outage

AWAY = StoreUnavailable("the database is away")


async def raise_away() -> None:
    raise AWAY


async def answer() -> str:
    return "here"


def test_a_call_that_had_begun_before_another_was_answered_tells_of_no_new_outage() -> None:
    """Its connection was cut by an outage that is over."""
    time = ManualClock()
    outage = Outage(time.clock())

    async def scenario() -> None:
        over = asyncio.Event()

        async def hang() -> None:
            await over.wait()
            raise AWAY

        hanging = asyncio.create_task(outage.attempt(hang))
        await asyncio.sleep(0)
        time.advance(1)
        await outage.attempt(answer)
        over.set()
        await hanging

    with capture_logs() as lines:
        asyncio.run(scenario())

    assert lines == []


@pytest.mark.parametrize("times", [1, 3])
def test_however_often_it_is_found_away_that_is_told_once_and_once_that_it_is_back(times: int) -> None:
    time = ManualClock()
    outage = Outage(time.clock())

    async def scenario() -> None:
        await outage.attempt(answer)
        for _ in range(times):
            await outage.attempt(raise_away)
            time.advance(10)
        await outage.attempt(answer)

    with capture_logs() as lines:
        asyncio.run(scenario())

    assert [line["event"] for line in lines] == ["store_lost", "store_back"]
    assert lines[1]["away_seconds"] == 10.0 * times
