"""The store's absences: calls are repeated until it is back, and each change of state is one log line."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from control_plane.errors import StoreUnavailable
from workers.clock import Clock

log = structlog.get_logger()

Answer = TypeVar("Answer")


class Outage:
    """Whether the store is away, as this process sees it. One for each process."""

    def __init__(self, clock: Clock) -> None:
        self._lost_at: float | None = None
        self._monotonic = clock.monotonic
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.5),
            sleep=clock.pause,
            before_sleep=self._lost,
            reraise=True,
        )

    async def outlast(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """What *call* answers, repeated while the store is away; every other error passes through."""
        answer: Answer = await self._retrying.copy()(call)
        self._back()
        return answer

    def _lost(self, attempt: RetryCallState) -> None:
        if self._lost_at is None:
            self._lost_at = self._monotonic()
            log.warning("store_lost", error=str(attempt.outcome and attempt.outcome.exception()))

    def _back(self) -> None:
        if self._lost_at is not None:
            log.info("store_back", away_seconds=round(self._monotonic() - self._lost_at, 3))
            self._lost_at = None
