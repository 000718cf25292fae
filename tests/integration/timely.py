"""A bench whose clock moves on only when everybody on it pauses, and then to the next moment that anybody waits for."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from control_plane.errors import Unavailable
from tests.doubles.interposed import interposed
from tests.integration.test_rounds import Bench, inline
from workers.judgement import Case
from workers.local import LocalCancellations
from workers.rounds import Rounds

POLL_SECONDS = 1.0
#: So many steps without a pause of anybody's are taken for a pause of everybody's: no thread is at work here.
STEPS = 20


@dataclass
class Timely(Bench):
    """Where several pause, each goes on at its own moment; *rounds* are kept, for the test to change their limits."""

    worker: Rounds = field(init=False)
    pauses: list[tuple[datetime, asyncio.Event]] = field(default_factory=list)

    def rounds(self) -> Rounds:
        self.worker = super().rounds()
        return self.worker

    def monotonic(self) -> float:
        return self.given.clock.now.timestamp()

    def held(self) -> list[Case]:
        """What the worker holds now."""
        return [case for canceller in self.worker._cancellers.values() for case in canceller.held]

    async def pause(self, seconds: float) -> None:
        entry = (self.given.clock.after(seconds), asyncio.Event())
        self.pauses.append(entry)
        try:
            await entry[1].wait()
        finally:
            self.pauses.remove(entry)

    @asynccontextmanager
    async def at_work(self) -> Any:
        running = asyncio.create_task(self.rounds().run(stopping=self.stopping, wake=self.wake, beat=self.beat))
        try:
            yield self
        finally:
            self.stopping.set()
            self.wake.set()
            await self.until(running.done)
            await running

    async def until(self, done: Callable[[], bool], *, steps: int = 2000) -> None:
        """Let the worker go on until *done*."""
        for _ in range(steps):
            for _ in range(STEPS):
                await asyncio.sleep(0)
            if done():  # it may ask the store: not at each step
                return
            self.move_on(POLL_SECONDS)
        raise AssertionError("the worker did not get there")

    async def for_seconds(self, seconds: float) -> None:
        """Let it go on for so long."""
        end = self.given.clock.after(seconds)
        await self.until(lambda: self.given.clock.now >= end)

    def move_on(self, at_most: float) -> None:
        """To the next moment that anybody waits for, or so far; which is a poll."""
        clock = self.given.clock
        clock.now = max(clock.now, min([clock.after(at_most), *(moment for moment, _ in self.pauses)]))
        for moment, over in self.pauses:
            if moment <= clock.now:
                over.set()
        self.wake.set()


@dataclass
class Away:
    """A queue whose store or control plane is away while *away*; it keeps count of what was asked meanwhile."""

    error: Unavailable
    away: bool = False
    loses: set[str] = field(default_factory=set)  #: calls whose next answer is lost
    tries: list[str] = field(default_factory=list)

    async def before(self, call: str) -> None:
        if self.away:
            self.tries.append(call)
            raise self.error

    async def after(self, call: str) -> None:
        if call in self.loses:
            self.loses.remove(call)
            raise self.error

    async def _after(self, call: str) -> None:
        await self.after(call)

    def stand_before(self, bench: Bench) -> None:
        """Be the bench's queue."""
        local = LocalCancellations(bench.given.dispatch, inline)
        bench.queue = interposed(local, before=self.before, after=self._after)
