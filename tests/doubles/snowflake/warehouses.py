"""Warehouses: room for so many queries at a time, suspended until something computes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.doubles.snowflake.errors import no_warehouse


class Warehouse:
    """Queries enter from their own threads, in no particular order."""

    def __init__(self, name: str, *, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.auto_resume = True
        self.resumes = 0  #: how often it was started: every start costs credits
        self._started = False
        self._running = 0
        self._changed = threading.Condition()

    @property
    def state(self) -> str:
        """STARTED or SUSPENDED."""
        return "STARTED" if self._started else "SUSPENDED"

    @contextmanager
    def place(self, check: Callable[[str], None], *, resume_seconds: float) -> Iterator[None]:
        """A place for one query; *check* is called with its status every now and then, and raises to give up."""
        self._resume(check, resume_seconds)
        self._enter(check)
        try:
            yield
        finally:
            self._leave()

    def suspend(self) -> None:
        """What runs may end; what comes next has to wait until it is resumed."""
        self._started = False

    def resume(self) -> None:
        """Start it, unless it is started."""
        if not self._started:
            self._started = True
            self.resumes += 1

    def resize(self, capacity: int) -> None:
        """Have room for so many queries from now on."""
        with self._changed:
            self.capacity = capacity
            self._changed.notify_all()

    def _resume(self, check: Callable[[str], None], seconds: float) -> None:
        if self._started:
            return
        if not self.auto_resume:
            raise no_warehouse()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            check("RESUMING_WAREHOUSE")
            time.sleep(0.01)
        with self._changed:
            self.resume()

    def _enter(self, check: Callable[[str], None]) -> None:
        with self._changed:
            while self._running >= self.capacity:
                check("QUEUED")
                self._changed.wait(0.05)
            self._running += 1

    def _leave(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify()
