"""Stopping queries of the double: who may, what is answered, and what the processor does then."""

import secrets
from uuid import uuid4

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import ProgrammingError

from tests.integration.snowflake.given import (
    CANCELED,
    NOT_EXECUTING,
    TERMINATED,
    WAREHOUSE,
    abort,
    cancel,
    error_of,
    new_user,
    rows,
    status,
    submit,
    submit_executing,
    until_status,
    value,
)
from tests.snowflake import ENDLESS, QUICK, SnowflakeDouble, until


def test_a_cancelled_query_ends_with_604_and_the_processor_is_idle(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)
    before = double.cpu_seconds()
    until(lambda: double.cpu_seconds() > before + 0.1)

    answer = cancel(canceller, query_id)

    assert answer == [TERMINATED.format(query_id)]
    until_status(canceller, query_id, "FAILED_WITH_ERROR")
    assert error_of(canceller, query_id) == (CANCELED, "SQL execution canceled")
    assert not double.is_executing(query_id)
    until(double.is_idle)


def test_cancelling_what_has_ended_answers_a_row_and_no_error(
    executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit(executor, QUICK)
    until_status(executor, query_id, "SUCCESS")

    assert cancel(canceller, query_id) == [NOT_EXECUTING]
    assert status(canceller, query_id) == "SUCCESS"


def test_a_user_cancels_its_own_queries_from_any_session(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)

    with double.connect("EXECUTOR") as another:
        assert cancel(another, query_id) == [TERMINATED.format(query_id)]

    until_status(executor, query_id, "FAILED_WITH_ERROR")


def test_without_a_privilege_nothing_of_others_is_stopped(
    double: SnowflakeDouble, executor: SnowflakeConnection, stranger: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)

    with pytest.raises(ProgrammingError) as raised:
        cancel(stranger, query_id)

    assert (raised.value.errno, raised.value.sqlstate) == (3001, "42501")
    assert not abort(stranger, query_id)
    assert double.is_executing(query_id)


@pytest.mark.parametrize(
    "grant",
    ["OWNERSHIP ON USER {user}", "OPERATE ON WAREHOUSE {warehouse}", "OWNERSHIP ON WAREHOUSE {warehouse}"],
)
def test_each_of_the_privileges_suffices_to_cancel(
    double: SnowflakeDouble, own_user: str, own_warehouse: str, grant: str
) -> None:
    other = new_user(double)
    double.administer(f"GRANT {grant.format(user=own_user, warehouse=own_warehouse)} TO ROLE {other}")

    with double.connect(own_user, warehouse=own_warehouse) as runs, double.connect(other) as cancels:
        query_id = submit_executing(double, runs)

        assert cancel(cancels, query_id) == [TERMINATED.format(query_id)]
        until_status(runs, query_id, "FAILED_WITH_ERROR")


@pytest.mark.parametrize("privilege", ["OPERATE", "OWNERSHIP"])
def test_a_tasks_query_obeys_whoever_may_operate_the_task_and_not_the_warehouse(
    double: SnowflakeDouble,
    executor: SnowflakeConnection,
    canceller: SnowflakeConnection,
    own_user: str,
    privilege: str,
) -> None:
    task = f"TASK_{secrets.token_hex(4)}".upper()
    double.administer(f"GRANT {privilege} ON TASK {task} TO ROLE {own_user}")
    query_id = submit_executing(double, executor, TASK_NAME=task)

    with pytest.raises(ProgrammingError, match="Insufficient privileges"):
        cancel(canceller, query_id)
    with double.connect(own_user) as connection:
        assert cancel(connection, query_id) == [TERMINATED.format(query_id)]


def test_accountadmin_does_not_suffice_where_somebody_else_owns_the_user_and_the_warehouse(
    double: SnowflakeDouble, own_user: str, own_warehouse: str
) -> None:
    double.administer(
        f"GRANT OWNERSHIP ON WAREHOUSE {own_warehouse} TO ROLE {own_user}",
        f"REVOKE OWNERSHIP ON WAREHOUSE {own_warehouse} FROM ROLE SYSADMIN",
        f"REVOKE OWNERSHIP ON USER {own_user} FROM ROLE USERADMIN",
    )

    with double.connect(own_user, warehouse=own_warehouse) as runs, double.connect("ADMIN") as administrator:
        query_id = submit_executing(double, runs)
        with pytest.raises(ProgrammingError, match="Insufficient privileges"):
            cancel(administrator, query_id)

        assert value(administrator, "SELECT CURRENT_ROLE()") == "ACCOUNTADMIN"


def test_many_are_cancelled_by_one_statement(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_ids = [submit(executor) for _ in range(20)]
    until(lambda: set(query_ids) <= set(double.state()["executing"]))
    before = double.state()

    answers = cancel(canceller, *query_ids)

    assert answers == [TERMINATED.format(query_id) for query_id in query_ids]
    until(lambda: {status(executor, query_id) for query_id in query_ids} == {"FAILED_WITH_ERROR"})
    until(double.is_idle)
    after = double.state()
    name = "SYSTEM$CANCEL_QUERY"
    assert after["statements"][name] - before["statements"].get(name, 0) == 1
    assert after["calls"][name] - before["calls"].get(name, 0) == 20


def test_nineteen_of_twenty_run_on_when_one_is_cancelled(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_ids = [submit(executor) for _ in range(20)]
    until(lambda: set(query_ids) <= set(double.state()["executing"]))

    cancel(canceller, query_ids[7])
    until_status(canceller, query_ids[7], "FAILED_WITH_ERROR")

    assert set(double.state()["executing"]) == set(query_ids) - {query_ids[7]}


def test_an_abort_request_stops_a_query_and_tells_whether_there_was_one(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)

    assert abort(canceller, query_id)

    until_status(canceller, query_id, "FAILED_WITH_ERROR")
    assert not abort(canceller, query_id)
    assert not abort(canceller, str(uuid4()))


def test_all_queries_of_a_session_are_cancelled_and_the_session_goes_on(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    query_ids = [submit_executing(double, executor) for _ in range(2)]

    with double.connect("EXECUTOR") as another:
        rows(another, f"SELECT SYSTEM$CANCEL_ALL_QUERIES({executor.session_id})")

    for query_id in query_ids:
        until_status(executor, query_id, "FAILED_WITH_ERROR")
    assert value(executor, QUICK) == 1


def test_an_aborted_session_is_gone_with_its_queries(double: SnowflakeDouble, canceller: SnowflakeConnection) -> None:
    with double.connect("EXECUTOR", warehouse=WAREHOUSE) as doomed, double.connect("EXECUTOR") as another:
        query_id = submit_executing(double, doomed)

        rows(another, f"SELECT SYSTEM$ABORT_SESSION({doomed.session_id})")

        until_status(canceller, query_id, "FAILED_WITH_ERROR")
        with pytest.raises(ProgrammingError) as raised:
            rows(doomed, QUICK)
        assert raised.value.errno == 390111


@pytest.mark.parametrize("function", ["SYSTEM$CANCEL_ALL_QUERIES", "SYSTEM$ABORT_SESSION"])
def test_a_session_of_another_user_needs_ownership_of_that_user(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection, function: str
) -> None:
    with pytest.raises(ProgrammingError, match="Insufficient privileges"):
        rows(canceller, f"SELECT {function}({executor.session_id})")

    assert executor.is_valid()


def test_a_warehouses_queries_are_aborted_by_whoever_may_operate_it(
    double: SnowflakeDouble, executor: SnowflakeConnection, own_user: str, own_warehouse: str
) -> None:
    double.administer(f"GRANT OPERATE ON WAREHOUSE {own_warehouse} TO ROLE {own_user}")
    neighbour = submit_executing(double, executor)

    with double.connect("EXECUTOR", warehouse=own_warehouse) as runs, double.connect(own_user) as operates:
        query_id = submit_executing(double, runs)
        rows(operates, f"ALTER WAREHOUSE {own_warehouse} ABORT ALL QUERIES")
        until_status(runs, query_id, "FAILED_WITH_ERROR")

    assert double.is_executing(neighbour)


def test_a_statement_time_out_stops_a_query_that_nobody_cancelled(executor: SnowflakeConnection) -> None:
    rows(executor, "ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = 1")

    query_id = submit(executor)

    until_status(executor, query_id, "FAILED_WITH_ERROR")
    errno, sentence = error_of(executor, query_id)
    assert errno == CANCELED
    assert "timeout of 1 second(s)" in sentence


def test_a_cancelled_write_leaves_nothing(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    table = f"T_{secrets.token_hex(4)}"
    query_id = submit(executor, f"CREATE TABLE {table} AS {ENDLESS.replace('COUNT(*)', 'SEQ8() AS N')}")
    until(lambda: double.is_executing(query_id))

    cancel(canceller, query_id)
    until_status(canceller, query_id, "FAILED_WITH_ERROR")

    with pytest.raises(ProgrammingError, match="does not exist"):
        rows(executor, f"SELECT * FROM {table}")
