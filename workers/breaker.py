"""Whether an engine answers, as far as a worker has seen. While it does not, one try at a time is let through.

So a plane that hangs costs its worker one call in a while, and its cancellations learn at once why they wait.
"""

import structlog

from workers.clock import Clock

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0
FORGOTTEN_AFTER_SECONDS = 600.0  #: without a try; what waits for it comes back far more often


class Breaker:
    """Open from a try that met silence until one that did not; each further silence doubles the pause between tries."""

    def __init__(self, clock: Clock, *, what: str) -> None:
        self._clock = clock
        self._what = what
        self._opened_at = 0.0
        self._next_try_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self.detail: str | None = None  #: why it is open

    @property
    def is_needed(self) -> bool:
        """Whether a new one would behave otherwise, as far as anybody may still ask."""
        return self.detail is not None and self._clock.monotonic() < self._next_try_at + FORGOTTEN_AFTER_SECONDS

    def admits(self) -> bool:
        """Whether to ask the engine now; whoever is admitted tells how it went."""
        if self.detail is None:
            return True
        now = self._clock.monotonic()
        if now < self._next_try_at:
            return False
        self._next_try_at = now + self._pause  # nobody else until this one has told
        return True

    def met_silence(self, detail: str) -> None:
        """The engine did not answer."""
        now = self._clock.monotonic()
        if self.detail is None:
            self._opened_at, self._pause = now, FIRST_PAUSE_SECONDS
            log.warning("engine_lost", what=self._what, error=detail)
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self.detail, self._next_try_at = detail, now + self._pause

    def met_an_answer(self) -> None:
        """The engine answered, whatever it was."""
        if self.detail is not None:
            self.detail = None
            away_seconds = round(self._clock.monotonic() - self._opened_at, 3)
            log.info("engine_back", what=self._what, away_seconds=away_seconds)
