"""DuckDB, as the computing part: each statement on a cursor of its own, in a thread of its own, interruptible."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from tests.doubles.snowflake.account import DATABASE
from tests.doubles.snowflake.errors import SnowflakeError, does_not_exist, failed, malformed
from tests.doubles.snowflake.queries import Column, Query, QueryBook, Table
from tests.doubles.snowflake.sessions import Session

ENFORCE_EVERY_SECONDS = 0.02
TYPES = {
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "real",
    "FLOAT": "real",
    "TIMESTAMP": "timestamp_ntz",
    "TIMESTAMP WITH TIME ZONE": "timestamp_ltz",
    "VARCHAR": "text",
}
WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}


class Engine:
    """One DuckDB instance in memory. What a query may use is bounded by *threads* and *memory_limit*."""

    def __init__(self, *, threads: int, memory_limit: str) -> None:
        self._root = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory_limit})
        self._root.execute("SET TimeZone = 'UTC'")
        self._root.execute(f"ATTACH ':memory:' AS {DATABASE}")
        self._root.execute(f"CREATE SCHEMA {DATABASE}.PUBLIC")

    def execute(self, query: Query, sql: str, prepare: Callable[[DuckDBPyConnection], None]) -> Table:
        """Run the text for the query, after *prepare* has made what it reads; raises SnowflakeError."""
        with self._cursor(query.session) as cursor:
            prepare(cursor)
            query.begin(cursor)
            try:
                return _table(cursor.execute(sql))
            except duckdb.InterruptException as error:
                raise query.stopped_with() from error
            except duckdb.Error as error:
                raise _translated(error) from error
            finally:
                query.leave()

    def evaluate(self, cursor: DuckDBPyConnection, sql: str) -> Any:
        """The value of one expression; raises SnowflakeError."""
        try:
            found = cursor.execute(f"SELECT {sql}").fetchone()
        except duckdb.Error as error:
            raise _translated(error) from error
        return found and found[0]

    def begin(self, session: Session) -> None:
        """From now on the session's statements are one transaction, and run one after another."""
        with session.serial:
            if session.transaction is None:
                session.transaction = self._opened(session)
                session.transaction.begin()

    def finish(self, session: Session, *, commit: bool) -> None:
        """End the session's transaction, if it has one; raises SnowflakeError when it cannot be committed."""
        with session.serial:
            cursor, session.transaction = session.transaction, None
            if cursor is None:
                return
            try:
                cursor.commit() if commit else cursor.rollback()
            except duckdb.Error as error:
                raise _translated(error) from error
            finally:
                cursor.close()

    @contextmanager
    def _cursor(self, session: Session) -> Iterator[DuckDBPyConnection]:
        if session.transaction is not None:
            with session.serial:
                if session.transaction is not None:
                    yield session.transaction
                    return
        cursor = self._opened(session)
        try:
            yield cursor
        finally:
            cursor.close()

    def _opened(self, session: Session) -> DuckDBPyConnection:
        cursor = self._root.cursor()
        with contextlib.suppress(duckdb.CatalogException):  # a login may name a database that is not there
            cursor.execute(f'USE "{session.database or DATABASE}"."{session.schema or "PUBLIC"}"')
        return cursor


class Enforcer:
    """Stops what is to stop: repeats each interrupt until the query has ended, and watches the time-outs."""

    def __init__(self, book: QueryBook) -> None:
        self._book = book
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._enforce, name="enforcer", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """End the thread."""
        self._finished.set()
        self._thread.join()

    def _enforce(self) -> None:
        while not self._finished.wait(ENFORCE_EVERY_SECONDS):
            for query in self._book.active():
                query.enforce()


def give_way() -> None:
    """Let this thread burn only what nobody else needs: the protocol answers while two hundred queries run."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _table(cursor: DuckDBPyConnection) -> Table:
    columns = [_column(name, str(kind)) for name, kind, *_ in cursor.description or ()]
    return Table(columns, cursor.fetchall())


def _column(name: str, kind: str) -> Column:
    name = name.upper()  # as Snowflake does with what is not quoted
    if kind in WHOLE:
        return Column(name, "fixed", 0)
    if kind.startswith("DECIMAL"):
        return Column(name, "fixed", int(kind.rstrip(")").rpartition(",")[2]))
    return Column(name, TYPES.get(kind, "text"))


def _translated(error: duckdb.Error) -> SnowflakeError:
    sentence = str(error).splitlines()[0]
    if isinstance(error, duckdb.CatalogException):
        return does_not_exist("Object", sentence)
    if isinstance(error, (duckdb.ParserException, duckdb.BinderException)):
        return malformed(sentence)
    return failed(sentence)
