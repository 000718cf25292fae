"""The computing process: DuckDB alone. Hundreds of queries burn in it while the protocol's process goes on answering.

In one process they would not: DuckDB's threads ask for Python's lock every few milliseconds, and whoever holds it is
then kept waiting by all the others for the processor.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import duckdb
from duckdb import DuckDBPyConnection

from tests.doubles.snowflake.sessions import DATABASE, SCHEMA

INTERRUPT_EVERY_SECONDS = 0.02
MOST_ROWS = 100_000


class Place(NamedTuple):
    """Where a statement runs: in its session, with what its names refer to."""

    session_id: int
    database: str
    schema: str


class Computed(NamedTuple):
    """What came of a statement: columns with DuckDB's types, and rows; or DuckDB's error."""

    columns: list[tuple[str, str]]
    rows: list[tuple[Any, ...]]
    error: str | None = None  #: the name of DuckDB's exception
    detail: str = ""


def fetch(cursor: DuckDBPyConnection, sql: str) -> Computed:
    """Run one statement to its end. Raises OverflowError when its result is larger than this double carries."""
    cursor.execute(sql)
    columns = [(str(name), str(kind)) for name, kind, *_ in cursor.description or ()]
    rows = cursor.fetchmany(MOST_ROWS + 1)
    if len(rows) > MOST_ROWS:
        raise OverflowError(f"the result has more than {MOST_ROWS} rows")
    return Computed(columns, rows)


def failure(error: Exception) -> Computed:
    """What came of a statement that failed."""
    return Computed([], [], type(error).__name__, (str(error).splitlines() or [""])[0])


class Computer:
    """Performs what comes through the pipe, each piece in a thread of its own, and sends back what came of it."""

    def __init__(self, pipe: Connection, *, threads: int, memory_limit: str) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._root = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory_limit})
        self._root.execute("SET TimeZone = 'UTC'")
        self._root.execute(f"ATTACH ':memory:' AS {DATABASE}")
        self._root.execute(f"CREATE SCHEMA {DATABASE}.{SCHEMA}")
        self._transactions: dict[int, _Transaction] = {}
        self._running: dict[int, _Execution] = {}
        self._known: set[int] = set()  #: arrived, and not yet answered
        self._interrupted: set[int] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._interrupt, name="interrupter", daemon=True).start()

    def serve(self) -> None:
        """Until the protocol's process is gone."""
        while True:
            number, operation, *arguments = self._pipe.recv()
            if operation == "interrupt":
                self.interrupt(number)
            else:
                self._known.add(number)
                perform = getattr(self, operation)
                threading.Thread(target=self._perform, args=(number, perform, arguments), daemon=True).start()

    def interrupt(self, number: int) -> None:
        """Interrupt this piece until it has ended: before execution has begun, an interrupt is lost."""
        with self._changed:
            if number in self._known:
                self._interrupted.add(number)
                self._changed.notify()

    def execute(self, number: int, place: Place, sql: str) -> Computed:
        """Run one statement, in the session's transaction if there is one."""
        transaction = self._transactions.get(place.session_id)
        if transaction is not None:
            with transaction.serial:
                return self._run(number, transaction.cursor, sql)
        with self._opened(place) as cursor:
            return self._run(number, cursor, sql)

    def begin(self, _number: int, place: Place) -> Computed:
        """The session's statements are one transaction from now on, and run one after another."""
        if place.session_id not in self._transactions:
            cursor = self._opened(place)
            cursor.begin()
            self._transactions[place.session_id] = _Transaction(cursor)
        return Computed([], [])

    def finish(self, _number: int, place: Place, how: str) -> Computed:
        """Commit or roll back the session's transaction, if there is one."""
        transaction = self._transactions.pop(place.session_id, None)
        if transaction is not None:
            with transaction.serial, transaction.cursor:
                transaction.cursor.execute(how)
        return Computed([], [])

    def _perform(self, number: int, perform: Callable[..., Computed], arguments: list[Any]) -> None:
        try:
            outcome = perform(number, *arguments)
        except Exception as error:  # noqa: BLE001  the thread's boundary: whoever asked must not wait for ever
            outcome = failure(error)
        with self._changed:
            self._known.discard(number)
            self._interrupted.discard(number)
        with self._sending, contextlib.suppress(OSError):  # the other side is gone, and this one goes after it
            self._pipe.send((number, outcome))

    def _run(self, number: int, cursor: DuckDBPyConnection, sql: str) -> Computed:
        execution = self._running[number] = _Execution(cursor)
        _give_way()
        try:
            return fetch(cursor, sql)
        finally:
            execution.end()
            del self._running[number]

    def _opened(self, place: Place) -> DuckDBPyConnection:
        cursor = self._root.cursor()
        cursor.execute(f'USE "{place.database}"."{place.schema}"')
        return cursor

    def _interrupt(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._interrupted)
                numbers = list(self._interrupted)
            for number in numbers:
                if (execution := self._running.get(number)) is not None:
                    execution.interrupt()
            time.sleep(INTERRUPT_EVERY_SECONDS)


class _Execution:
    def __init__(self, cursor: DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._serial = threading.Lock()
        self._ended = False

    def interrupt(self) -> None:
        with self._serial:  # the cursor may be somebody else's once this has ended
            if not self._ended:
                self._cursor.interrupt()

    def end(self) -> None:
        with self._serial:
            self._ended = True


class _Transaction:
    def __init__(self, cursor: DuckDBPyConnection) -> None:
        self.cursor = cursor
        self.serial = threading.Lock()


def compute(pipe: Connection, threads: int, memory_limit: str) -> None:
    """The process's whole life."""
    try:
        Computer(pipe, threads=threads, memory_limit=memory_limit).serve()
    except (EOFError, OSError, KeyboardInterrupt):
        os._exit(0)  # what still runs is in the middle of DuckDB's code, and nobody waits for it


def _give_way() -> None:
    """Burn only what nobody else needs, so that a query can be begun and interrupted at once."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
