"""Statements on the double: values, tables, transactions, tags, and what needs a warehouse."""

import secrets
from uuid import uuid4

import httpx
import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, ProgrammingError

from tests.integration.snowflake.given import (
    NOT_EXECUTING,
    RUNNING,
    WAREHOUSE,
    cancel,
    history,
    new_tag,
    rows,
    status,
    submit,
    until_status,
    value,
)
from tests.snowflake import QUICK, SnowflakeDouble, authorization_of


def test_values_of_every_kind_arrive(executor: SnowflakeConnection) -> None:
    sql = "SELECT 7, 1.50::NUMBER(10, 2), 0.5::FLOAT, 'text', TRUE, NULL, '2026-11-24'::DATE, '2026-11-24'::TIMESTAMP"

    found = rows(executor, sql)

    assert [str(cell) for cell in found[0]] == [
        "7",
        "1.50",
        "0.5",
        "text",
        "True",
        "None",
        "2026-11-24",
        "2026-11-24 00:00:00",
    ]


def test_values_are_bound(executor: SnowflakeConnection) -> None:
    assert rows(executor, "SELECT ?, ?, ?", 7, "it's", None) == [(7, "it's", None)]


def test_a_table_is_written_read_and_dropped(executor: SnowflakeConnection) -> None:
    table = f"T_{secrets.token_hex(4)}"

    rows(executor, f"CREATE TABLE {table} AS SELECT SEQ8() AS N FROM TABLE(GENERATOR(ROWCOUNT => 100))")

    assert rows(executor, f"INSERT INTO {table} SELECT 1000") == [(1,)]
    assert rows(executor, f"SELECT COUNT(*), MAX(N) FROM {table}") == [(101, 1000)]
    rows(executor, f"DROP TABLE {table}")
    with pytest.raises(ProgrammingError, match="does not exist or not authorized") as raised:
        rows(executor, f"SELECT * FROM {table}")
    assert raised.value.errno == 2003


@pytest.mark.parametrize(("ending", "seen"), [("COMMIT", 1), ("ROLLBACK", 0)])
def test_a_transaction_is_seen_by_others_once_it_is_committed(
    executor: SnowflakeConnection, stranger: SnowflakeConnection, ending: str, seen: int
) -> None:
    table = f"T_{secrets.token_hex(4)}"
    rows(executor, f"CREATE TABLE {table} (N NUMBER)")

    rows(executor, "BEGIN")
    rows(executor, f"INSERT INTO {table} VALUES (1)")
    before = value(stranger, f"SELECT COUNT(*) FROM {table}")
    rows(executor, ending)

    assert (before, value(stranger, f"SELECT COUNT(*) FROM {table}")) == (0, seen)


def submit_blocked(connection: SnowflakeConnection, holder: SnowflakeConnection) -> tuple[str, str]:
    """A table that the holder's open transaction has changed, and an update of it that waits."""
    table = f"T_{secrets.token_hex(4)}"
    rows(holder, f"CREATE TABLE {table} AS SELECT 1 AS N")
    rows(holder, "BEGIN")
    rows(holder, f"UPDATE {table} SET N = N + 1")
    query_id = submit(connection, f"UPDATE {table} SET N = N * 10")
    until_status(connection, query_id, "BLOCKED")
    return table, query_id


def test_whoever_changes_a_locked_table_is_blocked_until_it_is_free(
    executor: SnowflakeConnection, stranger: SnowflakeConnection
) -> None:
    table, query_id = submit_blocked(stranger, executor)

    rows(executor, "COMMIT")

    until_status(stranger, query_id, "SUCCESS")
    assert value(executor, f"SELECT N FROM {table}") == 20


def test_a_blocked_query_is_cancelled_without_having_changed_anything(
    executor: SnowflakeConnection, stranger: SnowflakeConnection
) -> None:
    table, query_id = submit_blocked(stranger, executor)

    cancel(stranger, query_id)

    until_status(stranger, query_id, "FAILED_WITH_ERROR")
    rows(executor, "COMMIT")
    assert value(executor, f"SELECT N FROM {table}") == 2


def test_a_view_is_published_over_a_jobs_own_table_in_another_schema(executor: SnowflakeConnection) -> None:
    schema = f"JOBS_{secrets.token_hex(4)}".upper()
    rows(executor, f"CREATE SCHEMA ANALYTICS.{schema}")
    rows(executor, f"CREATE TRANSIENT TABLE ANALYTICS.{schema}.JOB AS SELECT 7 AS N")

    rows(executor, f"CREATE OR REPLACE VIEW ANALYTICS.PUBLIC.{schema} AS SELECT * FROM ANALYTICS.{schema}.JOB")

    assert value(executor, f"SELECT N FROM {schema}") == 7
    tables = f"SELECT TABLE_NAME FROM ANALYTICS.INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = '{schema}'"
    assert rows(executor, tables) == [("JOB",)]


def test_a_database_is_made_used_and_dropped(executor: SnowflakeConnection) -> None:
    name = f"DB_{secrets.token_hex(4)}".upper()
    rows(executor, f"CREATE DATABASE {name}")

    rows(executor, f"USE DATABASE {name}")

    assert rows(executor, "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()") == [(name, "PUBLIC")]
    rows(executor, "USE SCHEMA ANALYTICS.PUBLIC")
    rows(executor, f"DROP DATABASE {name}")
    with pytest.raises(ProgrammingError, match="does not exist or not authorized"):
        rows(executor, f"USE DATABASE {name}")


def test_columns_are_named_in_capitals_unless_they_are_quoted(executor: SnowflakeConnection) -> None:
    with executor.cursor() as cursor:
        cursor.execute('SELECT 1 AS small, 2 AS "Quoted", COUNT(*) FROM TABLE(GENERATOR(ROWCOUNT => 1))')
        assert [column.name for column in cursor.description or ()] == ["SMALL", "Quoted", "COUNT(*)"]


def test_a_second_statement_in_one_text_is_refused_and_the_first_does_not_run(executor: SnowflakeConnection) -> None:
    table = f"T_{secrets.token_hex(4)}"

    with pytest.raises(ProgrammingError, match="statement count 2"):
        rows(executor, f"CREATE TABLE {table} (N NUMBER); SELECT 1")

    with pytest.raises(ProgrammingError, match="does not exist"):
        rows(executor, f"SELECT * FROM {table}")


def test_a_result_that_is_too_large_is_an_error_and_no_flood(executor: SnowflakeConnection) -> None:
    with pytest.raises(DatabaseError, match="more than 100000 rows"):
        rows(executor, "SELECT SEQ8() FROM TABLE(GENERATOR(ROWCOUNT => 200000))")


@pytest.mark.parametrize(("sql", "errno"), [("SELEC 1", 1003), ("SELECT * FROM NOWHERE", 2003), ("USE ROLE X", 3013)])
def test_a_statement_that_cannot_be_performed_is_told_by_its_own_number(
    executor: SnowflakeConnection, sql: str, errno: int
) -> None:
    with pytest.raises(ProgrammingError) as raised:
        rows(executor, sql)

    assert raised.value.errno == errno


def test_a_slow_result_is_polled_for(double: SnowflakeDouble, executor: SnowflakeConnection) -> None:
    double.switch(sync_seconds=0.05)
    before = double.state()["requests"].get("result", 0)

    assert value(executor, "CALL SYSTEM$WAIT(0.4)") == "waited 0.4 seconds"

    assert double.state()["requests"]["result"] > before


def test_an_asynchronous_query_is_running_and_then_has_a_result(executor: SnowflakeConnection) -> None:
    query_id = submit(executor, "SELECT SYSTEM$WAIT(1.5), COUNT(*) AS N FROM TABLE(GENERATOR(ROWCOUNT => 10))")
    assert status(executor, query_id) in RUNNING

    until_status(executor, query_id, "SUCCESS")

    with executor.cursor() as cursor:
        cursor.get_results_from_sfqid(query_id)
        assert cursor.fetchall() == [("waited 1.5 seconds", 10)]


def test_a_request_id_runs_once_however_often_it_is_sent(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    before = double.state()["queries"]

    with httpx.Client(
        base_url=double.url, headers=authorization_of(executor), params={"requestId": str(uuid4())}
    ) as client:
        sent = [
            client.post("/queries/v1/query-request", json={"sqlText": QUICK, "asyncExec": True}).json()
            for _ in range(3)
        ]

    assert len({answer["data"]["queryId"] for answer in sent}) == 1
    assert double.state()["queries"] == before + 1


def test_computing_needs_a_warehouse_and_asking_needs_none(double: SnowflakeDouble) -> None:
    with double.connect("EXECUTOR") as connection:
        with pytest.raises(ProgrammingError) as raised:
            rows(connection, "SELECT COUNT(*) FROM TABLE(GENERATOR(ROWCOUNT => 1))")

        assert (raised.value.errno, raised.value.sqlstate) == (606, "57P03")
        assert cancel(connection, str(uuid4())) == [NOT_EXECUTING]
        assert history(connection, new_tag()) == []


def test_system_functions_and_history_can_be_told_to_need_a_warehouse(
    double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    double.switch(needs_warehouse=["functions", "history"])

    for asks in (lambda: cancel(canceller, str(uuid4())), lambda: history(canceller, new_tag())):
        with pytest.raises(ProgrammingError) as raised:
            asks()
        assert raised.value.errno == 606


def test_a_tag_comes_from_the_connection_the_session_or_the_statement_and_the_closest_wins(
    double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    given, altered, own = new_tag(), new_tag(), new_tag()

    with double.connect("EXECUTOR", warehouse=WAREHOUSE, session_parameters={"QUERY_TAG": given}) as connection:
        first = submit(connection, QUICK)
        second = submit(connection, QUICK, QUERY_TAG=own)
        rows(connection, f"ALTER SESSION SET QUERY_TAG = '{altered}'")
        third = submit(connection, QUICK)
        rows(connection, "ALTER SESSION UNSET QUERY_TAG")
        fourth = submit(connection, QUICK)

    found = {tag: [query_id for query_id, _ in history(canceller, tag)] for tag in (given, own, altered)}
    assert first in found[given]
    assert found[own] == [second]
    assert third in found[altered]
    assert not any(fourth in query_ids for query_ids in found.values())
