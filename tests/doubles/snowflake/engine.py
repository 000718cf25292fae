"""The protocol's side of the computing process: gives it statements, and puts what comes back in Snowflake's words."""

import itertools
import multiprocessing
import os
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

import duckdb
from duckdb import DuckDBPyConnection

from tests.doubles.snowflake.computing import Computed, Place, compute, failure, fetch
from tests.doubles.snowflake.errors import SnowflakeError, does_not_exist, failed, malformed
from tests.doubles.snowflake.queries import Column, Query, QueryBook, Table
from tests.doubles.snowflake.sessions import Session

ENFORCE_EVERY_SECONDS = 0.05
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
    """One DuckDB in memory, in a process of its own. What queries may use: *threads* and *memory_limit*."""

    def __init__(self, *, threads: int, memory_limit: str) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        process = spawning.Process(target=compute, args=(theirs, threads, memory_limit), daemon=True)
        process.start()
        theirs.close()  # only so does its process notice when this one is gone
        self._numbers = itertools.count()
        self._sending = threading.Lock()
        self._awaited: dict[int, Future[Computed]] = {}
        threading.Thread(target=self._receive, name="engine", daemon=True).start()

    def execute(self, query: Query, sql: str) -> Table:
        """Run the text for the query; raises SnowflakeError."""
        number = next(self._numbers)
        query.begin(lambda: self._send(number, "interrupt"))
        try:
            computed = self._ask(number, "execute", _place(query.session), sql)
        finally:
            query.leave()
        if computed.error == "InterruptException":
            raise query.stopped_with()
        return _table(computed)

    def begin(self, session: Session) -> None:
        """From now on the session's statements are one transaction, and run one after another."""
        _table(self._ask(next(self._numbers), "begin", _place(session)))

    def finish(self, session: Session, how: str) -> None:
        """COMMIT or ROLLBACK; raises SnowflakeError when it cannot be committed."""
        _table(self._ask(next(self._numbers), "finish", _place(session), how))

    def forget(self, session: Session) -> None:
        """The session has ended: its transaction is undone, once no statement runs in it. Returns at once."""
        self._send(next(self._numbers), "finish", _place(session), "ROLLBACK")

    def _ask(self, number: int, operation: str, *arguments: Any) -> Computed:
        answer: Future[Computed] = Future()
        self._awaited[number] = answer
        self._send(number, operation, *arguments)
        return answer.result()

    def _send(self, number: int, operation: str, *arguments: Any) -> None:
        with self._sending:
            self._pipe.send((number, operation, *arguments))

    def _receive(self) -> None:
        number: int
        computed: Computed
        while True:
            try:
                number, computed = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(1)  # nothing will ever be computed again; a test had better see that than wait
            if (answer := self._awaited.pop(number, None)) is not None:
                answer.set_result(computed)


class Given(NamedTuple):
    """A table that is made for one statement: JSON rows, and the JSON of their columns' types."""

    name: str
    rows: str
    columns: str


class Services:
    """What Snowflake answers without a warehouse: constants and history, at once however much is computed elsewhere."""

    def __init__(self) -> None:
        self._root = duckdb.connect(":memory:", config={"threads": 1})
        self._root.execute("SET TimeZone = 'UTC'")

    def execute(self, sql: str, tables: list[Given]) -> Table:
        """Run the text, with the tables made for it; raises SnowflakeError."""
        with self._root.cursor() as cursor:
            for table in tables:
                cursor.execute(
                    f"CREATE TEMP TABLE {table.name} AS SELECT unnest(from_json(?, ?), recursive := true)",
                    [table.rows, table.columns],
                )
            return self._fetched(cursor, sql)

    def evaluate(self, sql: str) -> Any:
        """The value of one expression; raises SnowflakeError."""
        with self._root.cursor() as cursor:
            return self._fetched(cursor, f"SELECT {sql}").rows[0][0]

    def _fetched(self, cursor: DuckDBPyConnection, sql: str) -> Table:
        try:
            return _table(fetch(cursor, sql))
        except duckdb.Error as error:
            return _table(failure(error))


class Enforcer:
    """Lets time-outs and delayed stops come true."""

    def __init__(self, book: QueryBook) -> None:
        self._book = book
        threading.Thread(target=self._enforce, name="enforcer", daemon=True).start()

    def _enforce(self) -> None:
        pause = threading.Event()
        while not pause.wait(ENFORCE_EVERY_SECONDS):
            for query in self._book.active():
                query.enforce()


def _place(session: Session) -> Place:
    return Place(session.session_id, session.database, session.schema)


def _table(computed: Computed) -> Table:
    if computed.error is not None:
        raise _translated(computed.error, computed.detail)
    return Table([_column(name, kind) for name, kind in computed.columns], computed.rows)


def _column(name: str, kind: str) -> Column:
    if kind in WHOLE:
        return Column(name, "fixed", 0)
    if kind.startswith("DECIMAL"):
        return Column(name, "fixed", int(kind.rstrip(")").rpartition(",")[2]))
    return Column(name, TYPES.get(kind, "text"))


def _translated(error: str, detail: str) -> SnowflakeError:
    match error:
        case "CatalogException":
            return does_not_exist("Object", detail)
        case "ParserException" | "BinderException":
            return malformed(detail)
        case _:
            return failed(detail)
