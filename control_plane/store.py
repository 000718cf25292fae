"""Transactions over the statements, on SQLite and Postgres. Synchronous; async code calls it through a thread.

Errors: StoreUnavailable when the database is away (the call may be repeated), NotMigrated when it lacks our tables,
NotGranted when our role may not; constraint and data errors pass through as SQLAlchemy raises them.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Engine, Executable, RowMapping, Select, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.pool import StaticPool

from control_plane import statements
from control_plane.errors import BadInput, CountermandError, NotGranted, NotMigrated, RowLocked, StoreUnavailable
from control_plane.statements import Chain

Clock = Callable[[], datetime | None]

_STATEMENT_SECONDS = 30  #: as long as a statement may take, and on SQLite the wait for its turn
_POSTGRES_OPTIONS = (
    f"-c timezone=UTC -c statement_timeout={_STATEMENT_SECONDS}s"
    f" -c idle_in_transaction_session_timeout={_STATEMENT_SECONDS}s"
)
_CONFLICTS = {"40001", "40P01"}  #: serialization failure, deadlock: the loser repeats
_MISSING = {"42P01", "42703", "3F000"}  #: undefined table, column, schema
_NOT_GRANTED = "42501"  #: insufficient privilege
_LOCKED = "55P03"  #: a lock was waited for too long
#: Connection exceptions; read-only after a fail-over, and idle time-outs; out of resources; shut down, or cancelled by
#: a time-out. None of them says that the statement is wrong: it may be repeated.
_AWAY = ("08", "25", "53", "57")
_AWAY_IN_SQLITE = (
    "attempt to write a readonly database",
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "unable to open database file",
)
_MISSING_IN_SQLITE = ("no such table", "no such column")
#: Why Postgres lets nobody in, and the remedy. Known by its words: libpq tells no SQLSTATE of a connection that failed.
_LOGIN_REMEDIES = (
    (r"no password supplied", "give the role's password in the URL or in PGPASSWORD"),
    (r"password authentication failed", "correct the role or its password"),
    (r"role \".*\" does not exist", "correct the role, or create it"),
    (r"role \".*\" is not permitted to log in", "give the role LOGIN"),
    (r"permission denied for database", "grant the role CONNECT on it"),
    (r"database \".*\" does not exist", "correct the database's name, or create it"),
    (r"pg_hba\.conf", "let the role in there"),
)
#: What the settings say where nothing else was given.
DEFAULT_URL = "sqlite:///countermand.db"
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
    """The database. *clock* replaces the database's own in tests.

    On Postgres a statement that waits for a row for longer than *lock_seconds* raises RowLocked; without them, as any
    other statement that takes too long, StoreUnavailable.
    """

    def __init__(
        self,
        database_url: str,
        *,
        clock: Clock = _database_time,
        pool_size: int = 5,
        lock_seconds: float | None = None,
    ) -> None:
        self.engine = open_engine(database_url, pool_size=pool_size, create=False, lock_seconds=lock_seconds)
        self._single = _autocommitting(self.engine, pool_size, lock_seconds)
        self._clock = clock

    @property
    def database(self) -> str:
        """Where the database is, without its password."""
        return shown(self.engine.url)

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
        with translated(self.engine.url), self.engine.begin() as connection:
            yield Transaction(connection, self._clock)

    @contextmanager
    def _alone(self, statement: Executable | Chain) -> Iterator[Transaction]:
        if self.engine.dialect.name == "sqlite" and not isinstance(statement, Select):
            with self.transaction() as transaction:
                yield transaction
            return
        with translated(self.engine.url), self._single.connect() as connection:
            yield Transaction(connection, self._clock)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()
        self._single.dispose()


def open_engine(
    database_url: str, *, pool_size: int = 5, create: bool = True, lock_seconds: float | None = None
) -> Engine:
    """An engine for ``sqlite:///path`` or ``postgresql://…``; BadInput names the field and what is allowed.

    Unless *create* is true, a SQLite file that is not there is not made but called not migrated.
    """
    url = _read_url(database_url)
    if url.get_backend_name() == "postgresql":
        return _open_postgres(url.set(drivername="postgresql+psycopg"), pool_size, lock_seconds)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, create=create)
    raise _bad_url(f"{_ALLOWED_URL}, not {url.drivername}")


_ALLOWED_URL = "a URL sqlite:///PATH or postgresql://USER@HOST/NAME is needed"
_ALLOWED_PORT = "its port has to be a number from 1 to 65535"


def _read_url(database_url: str) -> URL:
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise _bad_url(_ALLOWED_URL) from error
    except ValueError as error:  # SQLAlchemy reads the port as a number, whatever it is
        raise _bad_url(_ALLOWED_PORT) from error
    if url.port is not None and not 1 <= url.port <= 65535:
        raise _bad_url(f"{_ALLOWED_PORT}, not {url.port}")
    return url


def _bad_url(message: str) -> BadInput:
    return BadInput(f"database_url: {message}", field="database_url")


def shown(url: URL) -> str:
    """The URL as its user knows it: without our driver's name and without a password."""
    plain = url.set(drivername=url.get_backend_name()).difference_update_query(["password"])
    return plain.render_as_string(hide_password=True)


def _autocommitting(engine: Engine, pool_size: int, lock_seconds: float | None) -> Engine:
    """For single statements. On Postgres with connections of its own, which are never switched to and fro."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return _open_postgres(engine.url, pool_size, lock_seconds, isolation_level="AUTOCOMMIT")


def _document(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _open_postgres(url: URL, pool_size: int, lock_seconds: float | None, **options: Any) -> Engine:
    lock_milliseconds = round((lock_seconds or 0) * 1000)  # 0: as long as the statement may take
    return create_engine(
        url,
        **options,
        pool_size=pool_size,
        pool_timeout=10,
        json_serializer=_document,
        json_deserializer=msgspec.json.decode,
        connect_args={
            "connect_timeout": 5,
            "options": f"{_POSTGRES_OPTIONS} -c lock_timeout={lock_milliseconds}",
            "application_name": "countermand",
        },
    )


def _open_sqlite(url: URL, *, create: bool) -> Engine:
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory:
        _check_file(url, Path(str(url.database)), create=create)
    pool: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(url, connect_args={"timeout": _STATEMENT_SECONDS, "check_same_thread": False}, **pool)

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


def _check_file(url: URL, file: Path, *, create: bool) -> None:
    if not file.parent.is_dir():
        raise _bad_url(f"the folder {file.parent} does not exist; create it")
    if file.is_dir():
        raise _bad_url(f"{file} is a folder; the name of a file is needed")
    if not (create or file.exists()):
        raise NotMigrated(not_migrated(url))


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Driver errors as StoreUnavailable, NotMigrated and NotGranted; constraint and data errors pass through."""
    try:
        yield
    except DBAPIError as error:
        known = _translation(error, url)
        if known is None:
            raise
        raise known from error


def _translation(error: DBAPIError, url: URL) -> CountermandError | None:
    if _sqlstate(error) in _MISSING or str(error.orig).startswith(_MISSING_IN_SQLITE):
        return NotMigrated(not_migrated(url))
    if _sqlstate(error) == _NOT_GRANTED:
        role = f"the role {url.username}" if url.username else "our role"
        return NotGranted(f"{role} lacks a privilege on {shown(url)}: {_first_line(error)}; grant it")
    if _sqlstate(error) == _LOCKED:
        return RowLocked("somebody at the database holds a lock on what is asked for; try again later")
    if error.connection_invalidated or _is_away(error):
        return StoreUnavailable(f"the database {shown(url)} is away: {_first_line(error)}")
    return None


@contextmanager
def first_look(url: URL) -> Iterator[None]:
    """As :func:`translated`, for a process that begins: BadInput, too, where waiting would not mend the URL.

    Later the same words are an absence: a database that is restored, or a password that is changed, comes back.
    """
    try:
        with translated(url):
            yield
    except StoreUnavailable as error:
        said = str(getattr(error.__cause__, "orig", ""))
        if remedy := _login_remedy(said):
            raise _bad_url(f"{shown(url)} does not let us in: {_last_words(said)}; {remedy}") from error
        raise
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise _bad_url(f"the file {url.database} is not a SQLite database; name another") from error
        if isinstance(error, ProgrammingError) and url.get_backend_name() == "postgresql" and not _sqlstate(error):
            raise _bad_url(f"{shown(url)} cannot be used: {_first_line(error)}") from error
        raise


def not_migrated(url: URL) -> str:
    """The sentence for a database that lacks our tables, with the remedy."""
    sentence = f"the database {shown(url)} is not migrated: run `countermand db upgrade --database-url …` on it"
    if shown(url) == DEFAULT_URL:
        sentence += "; it is the default: set COUNTERMAND_DATABASE_URL if you mean another"
    return sentence


def _last_words(said: str) -> str:
    """What the server said, without libpq's account of how it was reached."""
    return re.split(r"FATAL:  |failed: ", said)[-1].splitlines()[0]


def _login_remedy(said: str) -> str | None:
    return next((remedy for words, remedy in _LOGIN_REMEDIES if re.search(words, said)), None)


def _is_away(error: DBAPIError) -> bool:
    state = _sqlstate(error)
    if isinstance(error.orig, sqlite3.Error):
        return str(error.orig).startswith(_AWAY_IN_SQLITE)
    if state is None:  # the server said nothing
        return isinstance(error, (OperationalError, InterfaceError))
    return state.startswith(_AWAY)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
