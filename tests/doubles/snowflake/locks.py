"""Locks on tables: in Snowflake whoever changes a locked one waits, BLOCKED, where DuckDB would fail."""

import threading
from collections.abc import Collection

from tests.doubles.snowflake.queries import Query


class Locks:
    """A lock is held until its owner gives it back: the end of a statement, or of a session's transaction."""

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}
        self._waiting: list[Query] = []
        self._lock = threading.Lock()

    def acquire(self, query: Query, owner: object, tables: Collection[str]) -> None:
        """Lock these for the owner, once nobody else has them. Raises SnowflakeError when the query is to stop."""
        with self._lock:
            self._waiting.append(query)
        try:
            while not self._take(owner, tables):
                query.check("BLOCKED")
                query.nudged.wait()
                query.nudged.clear()
        finally:
            with self._lock:
                self._waiting.remove(query)

    def release(self, owner: object) -> None:
        """The owner has no locks any more."""
        with self._lock:
            for table in [table for table, holder in self._owners.items() if holder is owner]:
                del self._owners[table]
            for query in self._waiting:
                query.nudged.set()

    def _take(self, owner: object, tables: Collection[str]) -> bool:
        with self._lock:
            if any(self._owners.get(table, owner) is not owner for table in tables):
                return False
            self._owners |= dict.fromkeys(tables, owner)
            return True
