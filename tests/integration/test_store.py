"""What the store makes of the database's errors: which are an absence, to be waited for, and which a fault."""

from sqlite3 import Connection

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from control_plane.errors import NotGranted, StoreUnavailable
from control_plane.store import Store, Transaction
from tests.postgres import Postgres

#: How each database is told, on a new connection, to wait for a lock no longer than a millisecond.
IMPATIENCE = {"postgresql": "SET lock_timeout = 1", "sqlite": "PRAGMA busy_timeout = 1"}
LOCK = {"postgresql": "LOCK TABLE audit", "sqlite": "DELETE FROM audit WHERE 1 = 0"}
READ_ONLY = {"postgresql": "SET TRANSACTION READ ONLY", "sqlite": "PRAGMA query_only = ON"}
NO_JSON = {"postgresql": "SELECT '{'::jsonb", "sqlite": "SELECT json('{')"}


def run(store: Store, *statements: str) -> None:
    """Run them in one transaction of the store's."""
    with store.transaction() as transaction:
        run_in(transaction, *statements)


def run_in(transaction: Transaction, *statements: str) -> None:
    for statement in statements:
        transaction._connection.exec_driver_sql(statement)


@pytest.fixture
def database(store: Store) -> str:
    return store.engine.dialect.name


@pytest.fixture
def impatient(store: Store, database: str) -> Store:
    """A store whose connections give up at once on what somebody else has locked."""

    @event.listens_for(store.engine, "connect")
    def set_up(connection: psycopg.Connection | Connection, _record: object) -> None:
        connection.execute(IMPATIENCE[database])
        connection.commit()

    store.engine.dispose()
    return store


def test_a_lock_that_somebody_else_holds_is_an_absence(impatient: Store, database: str) -> None:
    with impatient.transaction() as somebody_else:
        run_in(somebody_else, LOCK[database])

        with pytest.raises(StoreUnavailable, match="lock") as caught:
            run(impatient, "SELECT * FROM audit")

    assert isinstance(caught.value.__cause__, DBAPIError)


def test_a_database_that_lets_nobody_write_is_away(store: Store, database: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"read.?only"):
        run(store, READ_ONLY[database], "DELETE FROM audit")


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_statement_that_takes_longer_than_it_may_is_an_absence(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        run(store, "SET LOCAL statement_timeout = 1", "SELECT pg_sleep(60)")


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_connection_that_the_server_ended_is_an_absence(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="terminat"):
        run(store, "SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_login_that_is_refused_while_a_store_is_open_is_an_absence(own_postgres: Postgres) -> None:
    own_postgres.execute("CREATE ROLE keeper LOGIN")
    store = Store(own_postgres.url().replace("postgres@", "keeper@"))
    run(store, "SELECT 1")
    own_postgres.execute("ALTER ROLE keeper NOLOGIN")
    store.engine.dispose()

    with pytest.raises(StoreUnavailable, match="not permitted to log in"):
        run(store, "SELECT 1")

    own_postgres.execute("ALTER ROLE keeper LOGIN")
    run(store, "SELECT 1")
    store.close()


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_privilege_that_was_not_granted_is_named_with_the_role(store: Store) -> None:
    demote = "SET LOCAL ROLE pg_monitor"

    with pytest.raises(NotGranted, match=r"the role postgres lacks a privilege on .*audit; grant it") as caught:
        run(store, demote, "DELETE FROM audit")

    assert isinstance(caught.value.__cause__, DBAPIError)


def test_a_document_that_is_no_json_is_a_fault_and_no_absence(store: Store, database: str) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)json"):
        run(store, NO_JSON[database])


def test_a_statement_that_is_wrong_is_a_fault_and_no_absence(store: Store) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)syntax"):
        run(store, "SELEKT 1")
