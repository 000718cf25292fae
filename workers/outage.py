"""The absences of a store or an engine: calls are repeated until it is back; each change of state is one log line."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from control_plane.errors import StoreUnavailable
from workers.clock import Clock

log = structlog.get_logger()

Answer = TypeVar("Answer")


def is_store_away(error: BaseException) -> bool:
    """Whether the store was not there to answer."""
    return isinstance(error, StoreUnavailable)


class Outage:
    """Whether the store is away, as this process sees it. One for each process."""

    def __init__(self, clock: Clock, *, is_away: Callable[[BaseException], bool] = is_store_away) -> None:
        self._lost_at: float | None = None
        self._monotonic = clock.monotonic
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(is_away),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.5),
            sleep=clock.pause,
            before_sleep=self._lost,
            reraise=True,
        )

    async def outlast(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """What *call* answers, repeated while it is away; every other error passes through."""
        answer: Answer = await self._retrying.copy()(call)
        self._back()
        return answer

    def tell_lost(self, error: str) -> None:
        """It has gone away just now."""
        log.warning("store_lost", error=error)

    def tell_back(self, away_seconds: float) -> None:
        """It has answered again."""
        log.info("store_back", away_seconds=away_seconds)

    def _lost(self, attempt: RetryCallState) -> None:
        if self._lost_at is None:
            self._lost_at = self._monotonic()
            self.tell_lost(str(attempt.outcome and attempt.outcome.exception()))

    def _back(self) -> None:
        if self._lost_at is not None:
            self.tell_back(round(self._monotonic() - self._lost_at, 3))
            self._lost_at = None


class EngineOutage(Outage):
    """The same of an engine, as far as it is asked for *what*."""

    def __init__(self, clock: Clock, *, what: str, is_away: Callable[[BaseException], bool]) -> None:
        super().__init__(clock, is_away=is_away)
        self._what = what

    def tell_lost(self, error: str) -> None:
        """It gives no answer."""
        log.warning("engine_lost", what=self._what, error=error)

    def tell_back(self, away_seconds: float) -> None:
        """It has answered again."""
        log.info("engine_back", what=self._what, away_seconds=away_seconds)
