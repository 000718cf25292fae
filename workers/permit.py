"""An executor's right to submit a job's statements, as the executor may count on it."""

from collections.abc import Callable


class Permit:
    """Granted for *seconds*, counted from before it was asked for; only the first half is used.

    The second half is margin: for a stall between the last look at the permit and the submission, and for clocks that
    do not run alike. The control plane counts the whole, from after it was asked.
    """

    def __init__(self, monotonic: Callable[[], float], *, seconds: float, asked_at: float) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._asked_at = asked_at

    def renew(self, *, asked_at: float) -> None:
        """Count from the later of the askings; answers may overtake one another."""
        self._asked_at = max(self._asked_at, asked_at)

    def left_seconds(self) -> float:
        """For how long a statement may still be submitted; 0 or less: not any more."""
        return self._seconds / 2 - (self._monotonic() - self._asked_at)

    def is_stale(self) -> bool:
        """Whether so much of it has passed since it was asked for that it is better renewed before it is used."""
        return self._monotonic() - self._asked_at > self._seconds / 8
