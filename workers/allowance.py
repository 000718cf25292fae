"""How many stops a second an engine is asked for; what is left of a second is not saved for later ones."""

from workers.clock import Clock


class Allowance:
    """A token bucket that holds what one second brings, and is full at the start. None a second: no bound."""

    def __init__(self, clock: Clock, *, per_second: float | None) -> None:
        self._clock = clock
        self._per_second = per_second
        self._left = self._most
        self._filled_at = clock.monotonic()

    @property
    def _most(self) -> float:
        return max(1.0, self._per_second or 1.0)  # less than one a second still allows one at a time

    def change(self, per_second: float | None) -> None:
        """Allow so many from now on."""
        if per_second != self._per_second:
            self._per_second = per_second
            self._left, self._filled_at = self._most, self._clock.monotonic()

    def left(self) -> int | None:
        """How many are allowed now; None where nothing bounds them."""
        if self._per_second is None:
            return None
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return int(self._left)

    def allows(self, wanted: int) -> bool:
        """Whether there are so many; of more than a second brings, one that is full is owed the rest."""
        left = self.left()
        return left is None or left >= min(wanted, int(self._most))

    def take(self, wanted: int) -> bool:
        """Use up *wanted*, if it allows so many."""
        allowed = self.allows(wanted)
        if allowed:
            self._left -= wanted
        return allowed
