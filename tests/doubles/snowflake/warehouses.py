"""Warehouses: room for so many queries at a time, suspended until something computes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tests.doubles.snowflake.errors import SnowflakeError, no_warehouse


class Waiting(Protocol):
    """What a warehouse knows of a query."""

    stopping: threading.Event
    nudged: threading.Event

    def check(self, status: str) -> None:
        """Wait on with this status. Raises SnowflakeError when it is to stop instead."""


class Warehouse:
    """Queries enter from their own threads, first come, first served."""

    def __init__(self, name: str, *, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.auto_resume = True
        self.resumes = 0  #: how often it was started: every start costs credits
        self._started = False
        self._running = 0
        self._queue: deque[Waiting] = deque()
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """STARTED or SUSPENDED."""
        return "STARTED" if self._started else "SUSPENDED"

    @contextmanager
    def place(self, query: Waiting, *, start: Callable[[], None]) -> Iterator[None]:
        """A place for one query, which is told its status while it waits, and raises to give up.

        *start* takes as long as a suspended warehouse does to start.
        """
        self._resume(query, start)
        self._enter(query)
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
        with self._lock:
            self.capacity = capacity
            self._call_next()

    def _resume(self, query: Waiting, start: Callable[[], None]) -> None:
        if self._started:
            return
        if not self.auto_resume:
            raise no_warehouse()
        query.check("RESUMING_WAREHOUSE")
        start()
        query.check("RESUMING_WAREHOUSE")
        with self._lock:
            self.resume()

    def _enter(self, query: Waiting) -> None:
        with self._lock:
            self._queue.append(query)
            self._call_next()
        try:
            while not self._admit(query):
                query.check("QUEUED")
                query.nudged.wait()
                query.nudged.clear()
        except SnowflakeError:
            with self._lock:
                self._queue.remove(query)
                self._call_next()
            raise

    def _admit(self, query: Waiting) -> bool:
        with self._lock:
            if self._queue[0] is not query or self._running >= self.capacity:
                return False
            self._queue.popleft()
            self._running += 1
            self._call_next()
            return True

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            self._call_next()

    def _call_next(self) -> None:
        if self._queue and self._running < self.capacity:
            self._queue[0].nudged.set()
