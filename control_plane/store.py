"""Transactions over the statements, on SQLite and Postgres. Synchronous; async code calls it through a thread.

Errors: StoreUnavailable when the database is away (the call may be repeated), NotMigrated when it lacks our tables;
constraint and data errors pass through as SQLAlchemy raises them.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Engine, Executable, RowMapping, Select, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import StaticPool

from control_plane import statements
from control_plane.errors import BadInput, NotMigrated, StoreUnavailable
from control_plane.statements import Chain

Clock = Callable[[], datetime | None]

_POSTGRES_OPTIONS = "-c timezone=UTC -c statement_timeout=30000 -c idle_in_transaction_session_timeout=30000"
_CONFLICTS = {"40001", "40P01"}  #: serialization failure, deadlock: the loser repeats
_MISSING = {"42P01", "42703", "3F000"}  #: undefined table, column, schema
#: Connection exceptions; read-only after a fail-over, and idle time-outs; out of resources; a lock that somebody holds;
#: shut down, or cancelled by a time-out. None of them says that the statement is wrong: it may be repeated.
_AWAY = ("08", "25", "53", "55P03", "57")
_AWAY_IN_SQLITE = (
    "attempt to write a readonly database",
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "unable to open database file",
)
_MISSING_IN_SQLITE = ("no such table", "no such column")
_TRIES = 5


def _database_time() -> None:
    """The production clock: none of ours, the database's."""


class Transaction:
    """One open transaction; what it performs lands together or not at all."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._now = clock() or _start_of(connection)

    def perform(self, statement: Executable | Chain, rows: object = None, **parameters: Any) -> Sequence[RowMapping]:
        """Run one statement or chain; *rows* is what ``:rows`` stands for. Answers the rows that it returns."""
        parameters["clock"] = self._now
        if rows is not None:
            parameters["rows"] = as_json(rows)
        if isinstance(statement, Chain):
            if self._connection.dialect.name == "postgresql":
                return self._run(_as_one(statement), parameters)
            return self._stepwise(statement, parameters)
        return self._run(statement, parameters)

    def _run(self, statement: Executable, parameters: dict[str, Any]) -> Sequence[RowMapping]:
        result = self._connection.execute(statement, parameters)
        return result.mappings().all() if result.returns_rows else ()

    def _stepwise(self, chain: Chain, parameters: dict[str, Any]) -> Sequence[RowMapping]:
        changed = [dict(row) for row in self._run(chain.first, parameters)]
        if not changed:
            return ()
        parameters["moved"] = as_json(changed)
        steps, answer = _as_steps(chain)
        for step in steps:
            self._run(step, parameters)
        return self._run(answer, parameters)


def _start_of(connection: Connection) -> datetime | None:
    """One moment for a whole transaction: Postgres' now() is that; SQLite's clock, which is ours, is read once."""
    return datetime.now(UTC) if connection.dialect.name == "sqlite" else None


def as_json(value: object) -> str:
    """*value* as JSON text that both databases can hold: what text cannot be (NUL, half a character) is replaced.

    An engine's last words may be anything, and must not keep a job from being settled.
    """
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_storable(msgspec.to_builtins(value))).decode()
    if "\\u0000" in text:
        return msgspec.json.encode(_storable(msgspec.to_builtins(value))).decode()
    return text


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=256)
def _as_one(chain: Chain) -> Select[Any]:
    moved = chain.first.cte("moved")
    answer = chain.answer(moved)
    for number, follow in enumerate(chain.then):
        answer = answer.add_cte(follow(moved).cte(f"then_{number}"))
    return answer


@lru_cache(maxsize=256)
def _as_steps(chain: Chain) -> tuple[list[Executable], Select[Any]]:
    kinds = {str(column.key): column.type for column in chain.first.exported_columns}
    moved = statements.rows("moved", **kinds)
    return [follow(moved) for follow in chain.then], chain.answer(moved)


class Store:
    """The database. *clock* replaces the database's own in tests."""

    def __init__(self, database_url: str, *, clock: Clock = _database_time, pool_size: int = 5) -> None:
        self.engine = open_engine(database_url, pool_size=pool_size, create=False)
        self._single = _autocommitting(self.engine, pool_size)
        self._clock = clock

    @property
    def database(self) -> str:
        """Where the database is, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    def perform(self, statement: Executable | Chain, rows: object = None, **parameters: Any) -> Sequence[RowMapping]:
        """One statement or chain in a transaction of its own; on Postgres one round trip."""
        for attempt in range(1, _TRIES + 1):
            try:
                with self._alone(statement) as transaction:
                    return transaction.perform(statement, rows, **parameters)
            except DBAPIError as error:
                if attempt == _TRIES or _sqlstate(error) not in _CONFLICTS:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Several statements that land together."""
        with translated(self.database), self.engine.begin() as connection:
            yield Transaction(connection, self._clock)

    @contextmanager
    def _alone(self, statement: Executable | Chain) -> Iterator[Transaction]:
        if self.engine.dialect.name == "sqlite" and not isinstance(statement, Select):
            with self.transaction() as transaction:
                yield transaction
            return
        with translated(self.database), self._single.connect() as connection:
            yield Transaction(connection, self._clock)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()
        self._single.dispose()


def open_engine(database_url: str, *, pool_size: int = 5, create: bool = True) -> Engine:
    """An engine for ``sqlite:///path`` or ``postgresql://…``; BadInput names the field and what is allowed.

    Unless *create* is true, a SQLite file that is not there is not made but called not migrated.
    """
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise BadInput(f"database_url: {_ALLOWED_URL}", field="database_url") from error
    if url.get_backend_name() == "postgresql":
        return _open_postgres(url.set(drivername="postgresql+psycopg"), pool_size)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, create=create)
    raise BadInput(f"database_url: {_ALLOWED_URL}, not {url.drivername}", field="database_url")


_ALLOWED_URL = "a URL sqlite:///PATH or postgresql://USER@HOST/NAME is needed"


def _autocommitting(engine: Engine, pool_size: int) -> Engine:
    """For single statements. On Postgres with connections of its own, which are never switched to and fro."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return _open_postgres(engine.url, pool_size, isolation_level="AUTOCOMMIT")


def _document(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _open_postgres(url: URL, pool_size: int, **options: Any) -> Engine:
    return create_engine(
        url,
        **options,
        pool_size=pool_size,
        pool_timeout=10,
        json_serializer=_document,
        json_deserializer=msgspec.json.decode,
        connect_args={"connect_timeout": 5, "options": _POSTGRES_OPTIONS, "application_name": "countermand"},
    )


def _open_sqlite(url: URL, *, create: bool) -> Engine:
    in_memory = url.database in (None, "", ":memory:")
    if not (in_memory or create or Path(str(url.database)).exists()):
        raise NotMigrated(not_migrated(str(url)))
    pool: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(url, connect_args={"timeout": 10, "check_same_thread": False}, **pool)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # a writer that began by reading could not wait its turn

    return engine


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


@contextmanager
def translated(database: str) -> Iterator[None]:
    """Driver errors as StoreUnavailable and NotMigrated; constraint and data errors pass through."""
    try:
        yield
    except DBAPIError as error:
        if _sqlstate(error) in _MISSING or str(error.orig).startswith(_MISSING_IN_SQLITE):
            raise NotMigrated(not_migrated(database)) from error
        if error.connection_invalidated or _is_away(error):
            raise StoreUnavailable(f"the database {database} is away: {_first_line(error)}") from error
        raise


def not_migrated(database: str) -> str:
    """The sentence for a database that lacks our tables, with the remedy."""
    return f"the database {database} is not migrated: run `countermand db upgrade --database-url …` on it"


def _is_away(error: DBAPIError) -> bool:
    state = _sqlstate(error)
    if isinstance(error.orig, sqlite3.Error):
        return str(error.orig).startswith(_AWAY_IN_SQLITE)
    if state is None:  # the server said nothing
        return isinstance(error, (OperationalError, InterfaceError))
    return state.startswith(_AWAY)


def _first_line(error: DatabaseError | DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
