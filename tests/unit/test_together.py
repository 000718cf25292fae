import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from control_plane.api.together import Together
from control_plane.errors import CountermandError, NotFound, RowLocked


class Threads:
    """Calls that end when they are let."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.locked: set[int] = set()
        self.asked: list[list[int]] = []
        self.going = asyncio.Event()

    def perform(self, items: Sequence[int]) -> list[int | CountermandError]:
        self.asked.append(list(items))
        if 13 in items:
            raise ZeroDivisionError
        if self.locked & set(items):
            raise RowLocked("held")
        return [NotFound("seven", field="number") if item == 7 else item * 10 for item in items]

    async def hand_off(self, call: Callable[[], Any]) -> Any:
        answers = call()
        if self.held & set(self.asked[-1]):
            await self.going.wait()
        return answers

    async def until_asked(self, batches: int) -> None:
        while len(self.asked) < batches:
            await checkpoint()


class HeldLoop(asyncio.SelectorEventLoop):
    """A loop for which no time passes but what the test lets pass."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds


def asked_together(
    scenario: Callable[[Threads, Together[int, int]], Awaitable[None]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **options: Any,
) -> None:
    """Run the scenario with a Together over such calls."""

    async def run() -> None:
        threads = Threads()
        await scenario(threads, Together(threads.perform, threads.hand_off, **options))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


def test_what_arrives_while_a_batch_is_performed_shares_the_next_one_and_each_gets_its_own_answer() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        answers = await asyncio.gather(*map(together.ask, [1, 2, 7, 3]), return_exceptions=True)

        assert [answers[0], answers[1], answers[3]] == [10, 20, 30]
        assert isinstance(answers[2], NotFound)
        assert len(threads.asked) <= 2

    asked_together(scenario)


def test_those_who_were_answered_together_go_together_again_though_they_come_back_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("control_plane.api.together.RECENT_SECONDS", 60.0)  # or a busy machine lets them be late

    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        await asyncio.gather(*map(together.ask, [1, 2, 3]))
        threads.asked.clear()

        back = []
        for item in (1, 2, 3):
            back.append(asyncio.create_task(together.ask(item)))
            for _ in range(10):  # each has long been waiting when the next one comes
                await checkpoint()

        assert await asyncio.gather(*back) == [10, 20, 30]
        assert threads.asked == [[1, 2, 3]]

    asked_together(scenario, gather_seconds=60)


def test_whoever_asks_alone_waits_for_nobody() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        for item in (1, 2, 3):
            assert await together.ask(item) == item * 10

        assert threads.asked == [[1], [2], [3]]

    asked_together(scenario, gather_seconds=60)


def test_those_who_do_not_come_back_are_not_waited_for_long() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        await asyncio.gather(*map(together.ask, [1, 2, 3]))

        assert await together.ask(4) == 40

    asked_together(scenario, gather_seconds=0.001)


def test_a_batch_that_waits_for_somebodys_lock_holds_up_no_later_one() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        threads.held = {1}
        stuck = asyncio.create_task(together.ask(1))
        await threads.until_asked(1)

        assert await together.ask(2) == 20
        assert not stuck.done()
        threads.going.set()
        assert await stuck == 10

    asked_together(scenario, patience_seconds=0)


def test_a_row_that_somebody_holds_fails_whoever_asks_for_it_and_nobody_beside() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        threads.locked = {2}

        answers = await asyncio.gather(*map(together.ask, [1, 2, 3]), return_exceptions=True)

        assert [answers[0], answers[2]] == [10, 30]
        assert isinstance(answers[1], RowLocked)

    asked_together(scenario)


def test_what_nobody_expected_fails_the_one_that_it_is_about_and_nobody_beside() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        answers = await asyncio.gather(*map(together.ask, [1, 13, 3]), return_exceptions=True)

        assert [answers[0], answers[2]] == [10, 30]
        assert isinstance(answers[1], ZeroDivisionError)

    asked_together(scenario)


def test_whoever_has_gone_is_not_asked_for() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        threads.held = {1}
        first = asyncio.create_task(together.ask(1))
        await threads.until_asked(1)
        gone, stays = asyncio.create_task(together.ask(2)), asyncio.create_task(together.ask(3))
        await checkpoint()
        gone.cancel()
        threads.going.set()

        assert (await first, await stays) == (10, 30)
        assert threads.asked == [[1], [3]]

    asked_together(scenario, patience_seconds=60)


def test_no_batch_is_larger_than_it_may_be() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        await asyncio.gather(*map(together.ask, [1, 2, 3, 4, 5]))

        assert max(map(len, threads.asked)) == 2

    asked_together(scenario, at_most=2)


def test_where_as_many_batches_are_stuck_as_there_may_be_the_others_go_as_soon_as_one_ends() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        threads.held = {1, 2}
        stuck = [asyncio.create_task(together.ask(1))]
        await threads.until_asked(1)
        stuck.append(asyncio.create_task(together.ask(2)))
        await threads.until_asked(2)
        later = asyncio.create_task(together.ask(3))
        await checkpoint()
        assert threads.asked == [[1], [2]]

        threads.going.set()

        assert await asyncio.gather(*stuck, later) == [10, 20, 30]

    asked_together(scenario, at_once=2, patience_seconds=0)


def test_where_nobody_is_in_a_hurry_a_batch_waits_for_all_who_come_meanwhile() -> None:
    async def scenario(threads: Threads, together: Together[int, int]) -> None:
        asked = []
        for item in (1, 2, 3):
            asked.append(asyncio.create_task(together.ask(item)))
            for _ in range(10):  # each has long been waiting when the next one comes
                await checkpoint()

        assert threads.asked == []
        loop.seconds += 0.5

        assert await asyncio.gather(*asked) == [10, 20, 30]
        assert threads.asked == [[1, 2, 3]]

    loop = HeldLoop()
    asked_together(scenario, loop_factory=lambda: loop, linger_seconds=0.5)
