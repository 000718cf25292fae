"""The absences of whoever keeps the jobs, or of an engine: calls are repeated until it is back.

Each change of state is one log line.
"""

import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from control_plane.errors import ControlPlaneUnavailable, Unavailable
from workers.clock import Clock

log = structlog.get_logger()

Answer = TypeVar("Answer")

ATTEMPT_AGAIN_SECONDS = 2.0  #: on average, between single attempts at what is away


def is_queue_away(error: BaseException) -> bool:
    """Whether the store, or the control plane before it, was not there to answer."""
    return isinstance(error, Unavailable)


class Outage:
    """Whether the keeper of the jobs is away, as this process sees it. One for each queue."""

    def __init__(self, clock: Clock, *, is_away: Callable[[BaseException], bool] = is_queue_away) -> None:
        self._lost_at = 0.0
        self._answered_at = -math.inf
        self._next_attempt_at = 0.0
        self._lost_to: BaseException | None = None
        self._is_away = is_away
        self._monotonic = clock.monotonic
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(is_away),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.5),
            sleep=clock.pause,
            reraise=True,
        )

    async def outlast(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """What *call* answers, repeated while it is away; every other error passes through."""
        began_at = 0.0

        async def begun() -> Answer:
            nonlocal began_at
            began_at = self._monotonic()
            return await call()

        def lost(attempt: RetryCallState) -> None:
            again = attempt.attempt_number > 1  # the first may have met a connection that was lost before
            if again and attempt.outcome and (error := attempt.outcome.exception()):
                self._lost(error, began_at)

        answer: Answer = await self._retrying.copy(before_sleep=lost)(begun)
        self._back()
        return answer

    async def attempt(self, call: Callable[[], Awaitable[Answer]]) -> Answer | None:
        """What *call* answers; None when it is away, and for a while after an attempt that found it so.

        It is asked twice: the first may meet a connection that was lost before.
        """
        if self._lost_to is not None and self._monotonic() < self._next_attempt_at:
            return None
        began_at = self._monotonic()
        try:
            answer = await self._twice(call)
        except Exception as error:
            if not self._is_away(error):
                raise
            self._lost(error, began_at)
            self._next_attempt_at = self._monotonic() + ATTEMPT_AGAIN_SECONDS * (0.5 + random.random())  # noqa: S311
            return None
        self._back()
        return answer

    async def _twice(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await call()
        except Exception as error:
            if not self._is_away(error) or self._lost_to is not None:
                raise
            return await call()

    def tell_lost(self, error: BaseException) -> None:
        """It has gone away just now."""
        if isinstance(error, ControlPlaneUnavailable):
            log.warning("control_plane_lost", error=str(error))
        else:
            log.warning("store_lost", error=str(error))

    def tell_back(self, error: BaseException, away_seconds: float) -> None:
        """It has answered again, after what was told as lost."""
        if isinstance(error, ControlPlaneUnavailable):
            log.info("control_plane_back", away_seconds=away_seconds)
        else:
            log.info("store_back", away_seconds=away_seconds)

    def _lost(self, error: BaseException, began_at: float) -> None:
        """News, unless the call had begun before another was answered: that one's connection was lost in the past."""
        if self._lost_to is None and began_at >= self._answered_at:
            self._lost_at, self._lost_to = self._monotonic(), error
            self.tell_lost(error)

    def _back(self) -> None:
        self._answered_at = self._monotonic()
        if self._lost_to is not None:
            error, self._lost_to = self._lost_to, None
            self.tell_back(error, round(self._monotonic() - self._lost_at, 3))


class EngineOutage(Outage):
    """The same of an engine, as far as it is asked for *what*."""

    def __init__(self, clock: Clock, *, what: str, is_away: Callable[[BaseException], bool]) -> None:
        super().__init__(clock, is_away=is_away)
        self._what = what

    def tell_lost(self, error: BaseException) -> None:
        """It gives no answer."""
        log.warning("engine_lost", what=self._what, error=str(error))

    def tell_back(self, error: BaseException, away_seconds: float) -> None:  # noqa: ARG002  # whatever it was
        """It has answered again."""
        log.info("engine_back", what=self._what, away_seconds=away_seconds)
