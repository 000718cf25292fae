"""A clock that only the test moves: whoever pauses goes on once it has been moved far enough."""

import asyncio
from datetime import UTC, datetime, timedelta

from workers.clock import Clock

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class ManualClock:
    """Give :meth:`clock` to the worker, and :meth:`advance` it from the test."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._pauses: list[tuple[float, asyncio.Event]] = []

    def clock(self) -> Clock:
        return Clock(now=self._now, monotonic=lambda: self.seconds, pause=self._pause)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        for until, elapsed in self._pauses:
            if until <= self.seconds:
                elapsed.set()

    @property
    def pausing(self) -> int:
        """How many are waiting for time to pass."""
        return sum(not elapsed.is_set() for _, elapsed in self._pauses)

    def _now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    async def _pause(self, seconds: float) -> None:
        elapsed = asyncio.Event()
        entry = (self.seconds + seconds, elapsed)
        self._pauses.append(entry)
        try:
            await elapsed.wait()
        finally:
            self._pauses.remove(entry)
