"""The migrated database: what it has, that it is what the code says, and what is said of one that is not migrated."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from control_plane import refusals, schema
from control_plane.dispatch import Dispatch
from control_plane.errors import BadInput, Conflict, NotMigrated
from control_plane.intake import Intake
from control_plane.migrations import check_migrated, newest, upgrade
from control_plane.policy import Policy
from control_plane.store import Store, open_engine
from tests.databases import Databases

pytestmark = [  # on SQLite an index of an expression cannot be compared
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index"),
    pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index"),
]
REMEDY = "countermand db upgrade"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a database of the test's own: these tests change what is in it for good."""
    opened = Store(database_url)
    yield opened
    opened.close()


def content(url: str) -> dict[str, Any]:
    """The installation's name, the revision, and the text of everything that was created."""
    engine = open_engine(url)
    with engine.connect() as connection:
        name = connection.exec_driver_sql("SELECT name FROM installation").scalars().all()
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
        tables = sorted(inspect(connection).get_table_names())
        found = {"name": name, "revision": revision, "tables": tables, "triggers": triggers(connection)}
    engine.dispose()
    return found


def triggers(connection: Connection) -> dict[str, str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = (
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger "
            "WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname"
        )
    return {str(row[0]): str(row[1]) for row in connection.exec_driver_sql(query)}


def test_upgrading_again_changes_nothing(database_url: str) -> None:
    before = content(database_url)

    upgrade(database_url)
    upgrade(database_url)

    assert content(database_url) == before
    assert before["revision"] == [newest()]


def test_upgrading_again_keeps_what_was_written(database_url: str, store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO data_planes (data_plane_id, display_name, platform, tags, permit_seconds, "
            "listing_lag_seconds, stuck_after_seconds, created_at) "
            f"VALUES ('{uuid4()}', 'kept', 'platform_aws', '[]', 1, 0, 1, '2026-03-01 12:00:00.000')"
        )

    upgrade(database_url)

    assert [plane.display_name for plane in Intake(store, Policy()).planes()] == ["kept"]


def test_an_unmigrated_database_is_migrated_from_nothing(unmigrated_url: str) -> None:
    upgrade(unmigrated_url)

    assert set(content(unmigrated_url)["tables"]) == {*schema.metadata.tables, "alembic_version"}


def test_a_migration_that_breaks_off_leaves_nothing_behind(unmigrated_url: str) -> None:
    engine = open_engine(unmigrated_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (job_id integer)")
        connection.exec_driver_sql("CREATE INDEX audit_by_job ON theirs (job_id)")

    with pytest.raises(Exception, match="audit_by_job"):
        upgrade(unmigrated_url)

    with engine.connect() as connection:
        left = set(inspect(connection).get_table_names())
    engine.dispose()
    assert left - {"alembic_version"} == {"theirs"}


def test_a_database_at_a_revision_of_somebody_elses_is_left_in_peace(store: Store, database_url: str) -> None:
    change(store, "UPDATE alembic_version SET version_num = 'theirs'")
    before = content(database_url)

    with pytest.raises(Conflict, match=r"revision theirs, .* a database of its own"):
        upgrade(database_url)

    assert content(database_url) == before


def test_the_migrated_tables_are_those_that_the_code_declares(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})

        differences = compare_metadata(context, schema.metadata)

    assert differences == []


def test_every_declared_constraint_stands_in_the_database_under_its_name(store: Store) -> None:
    declared = {str(constraint.name) for table in schema.metadata.tables.values() for constraint in table.constraints}

    with store.engine.connect() as connection:
        inspector = inspect(connection)
        found = {
            str(constraint["name"])
            for table in schema.metadata.tables
            for kind in (
                inspector.get_check_constraints(table),
                inspector.get_unique_constraints(table),
                inspector.get_foreign_keys(table),
                [inspector.get_pk_constraint(table)],
            )
            for constraint in kind
        }

    assert declared
    assert found == declared


def test_the_triggers_are_those_that_the_lifecycle_generates(store: Store) -> None:
    dialect = store.engine.dialect.name
    generated = {
        name: statement
        for statement in refusals.refusals(dialect)
        for name in re.findall(r"^CREATE TRIGGER (\w+)", statement)
    }

    with store.engine.connect() as connection:
        found = triggers(connection)

    assert set(found) == set(generated)
    if dialect == "sqlite":
        assert found == generated


def test_postgres_reads_the_triggers_as_they_were_generated(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        migrated = triggers(connection)
        for name in migrated:
            table = name.split("_")[0]
            connection.exec_driver_sql(f"DROP TRIGGER {name} ON {table}")
        for statement in refusals.refusals("postgresql"):
            connection.exec_driver_sql(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
        generated = triggers(connection)
        connection.rollback()
    engine.dispose()

    assert generated == migrated
    assert len(migrated) > 3


def test_the_installations_name_is_random(databases: Databases) -> None:
    with databases.lend_sqlite(migrated=False) as one, databases.lend_sqlite(migrated=False) as other:
        upgrade(one)
        upgrade(other)
        names = [content(url)["name"] for url in (one, other)]

    assert names[0] != names[1]
    assert all(re.fullmatch("[0-9a-f]{16}", found[0]) for found in names)


def test_an_installation_has_one_name(store: Store) -> None:
    assert Dispatch(store).installation() == Dispatch(store).installation()
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM installation").scalar() == 1


# --- databases that are not migrated --------------------------------------------------------------------------------


def assert_names_the_remedy(call: Callable[[], object]) -> None:
    with pytest.raises(NotMigrated, match="is not migrated") as caught:
        call()

    assert REMEDY in caught.value.message
    assert "\n" not in caught.value.message


def made_empty(url: str) -> str:
    """The database, reachable and without a table."""
    engine = open_engine(url)
    engine.connect().close()
    engine.dispose()
    return url


def test_an_unmigrated_database_is_called_so_with_the_remedy(unmigrated_url: str) -> None:
    store = Store(made_empty(unmigrated_url))

    assert_names_the_remedy(lambda: check_migrated(store))
    assert_names_the_remedy(lambda: Intake(store, Policy()).planes())
    assert_names_the_remedy(lambda: Dispatch(store).heartbeat([uuid4()]))

    store.close()


def test_a_file_that_is_not_there_is_called_so_and_not_made(tmp_path: Path) -> None:
    file = tmp_path / "typo.db"

    assert_names_the_remedy(lambda: Store(f"sqlite:///{file}"))
    assert not file.exists()


def test_a_migrated_database_is_left_in_peace(store: Store) -> None:
    check_migrated(store)


def change(store: Store, statement: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM alembic_version", "DROP TABLE alembic_version", "UPDATE alembic_version SET version_num = '0000'"],
)
def test_a_database_at_no_known_revision_is_called_not_migrated(store: Store, statement: str) -> None:
    change(store, statement)

    assert_names_the_remedy(lambda: check_migrated(store))


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE cancellations",
        "ALTER TABLE data_planes DROP COLUMN last_heartbeat_at",
        "ALTER TABLE data_planes RENAME TO planes_of_old",
    ],
)
def test_a_half_migrated_database_is_called_so_by_whoever_meets_what_it_lacks(store: Store, statement: str) -> None:
    change(store, statement)
    dispatch = Dispatch(store)

    assert_names_the_remedy(
        lambda: (dispatch.heartbeat([uuid4()]), dispatch.claim({uuid4(): 1}, worker="w1", lease_seconds=1))
    )


def test_the_message_keeps_the_password_to_itself(databases: Databases) -> None:
    with databases.lend_postgres(migrated=False) as url:
        store = Store(url.replace("postgres@", "postgres:hunter2@"))

        with pytest.raises(NotMigrated) as caught:
            check_migrated(store)

        store.close()
    assert "hunter2" not in caught.value.message


def test_the_url_is_shown_as_its_user_knows_it() -> None:
    store = Store("postgresql+psycopg://keeper:hunter2@db.local:5433/jobs?sslmode=require&password=hunter2")

    assert store.database == "postgresql://keeper:***@db.local:5433/jobs?sslmode=require"


@pytest.mark.parametrize("wrong", ["", "countermand.db", "mysql://localhost/x", "sqlite", "postgresql:/localhost"])
def test_a_url_that_cannot_be_right_is_named_with_what_is_allowed(wrong: str) -> None:
    with pytest.raises(BadInput, match=r"database_url: .*sqlite:///PATH or postgresql://") as caught:
        open_engine(wrong)

    assert caught.value.field == "database_url"
