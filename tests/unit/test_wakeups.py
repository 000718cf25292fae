"""When long polls end, and how many look at a time."""

import asyncio
from uuid import UUID

import pytest
from anyio.lowlevel import checkpoint

from control_plane.api.app import REQUEST_SECONDS
from control_plane.api.wakeups import _LOOKS_AT_ONCE, Wakeups, Wish, _together
from control_plane.jobs import JobType
from control_plane.process_wire import LONGEST_WAIT_SECONDS
from control_plane.work import News


@pytest.mark.parametrize("now", [100.0, 100.001, 100.999])
def test_a_long_poll_ends_on_the_second_a_tenth_early_at_most_and_never_late(now: float) -> None:
    ends = {_together(now, 50.0) for _ in range(200)}

    assert all(end == int(end) and now + 44.0 <= end <= now + 50.0 for end in ends)
    assert len(ends) > 1


def test_a_short_poll_ends_when_it_was_asked_to() -> None:
    assert _together(100.25, 3.75) == 104.0


def test_the_longest_poll_is_shorter_than_what_a_request_may_take() -> None:
    assert LONGEST_WAIT_SECONDS < REQUEST_SECONDS


def test_of_a_planes_many_polls_a_few_look_at_a_time_and_all_in_turn() -> None:
    """Whatever one plane's processes ask for, the store is free for the others' in between."""
    looking = most = looks = 0

    async def look() -> bool:
        nonlocal looking, most, looks
        looking, looks = looking + 1, looks + 1
        most = max(most, looking)
        await checkpoint()
        looking -= 1
        return looks > 2 * 50  # so that each looks at first, and once more for the news

    async def scenario() -> None:
        wakeups, plane, wish = Wakeups(), UUID(int=1), Wish(jobs=frozenset(JobType))
        polls = [
            asyncio.create_task(wakeups.poll(plane, 9.0, look, bool, stay, wish=wish, nothing=False)) for _ in range(50)
        ]
        async with asyncio.timeout(20):
            while looks < 50:
                await checkpoint()
            while not all(poll.done() for poll in polls):
                wakeups.tell(plane, News.JOBS)
                await checkpoint()

    async def stay() -> None:
        await asyncio.Event().wait()

    asyncio.run(scenario())
    assert most == _LOOKS_AT_ONCE
    assert looks > 2 * 50
