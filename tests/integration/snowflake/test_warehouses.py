"""Warehouses of the double: queues, time-outs in them, and what resumes a suspended one."""

from uuid import uuid4

from tests.integration.snowflake.given import (
    cancel,
    error_of,
    history,
    new_tag,
    status,
    submit,
    submit_executing,
    until_status,
)
from tests.snowflake import SnowflakeDouble, until


def test_a_full_warehouse_queues_and_a_queued_query_is_cancelled_without_ever_executing(
    double: SnowflakeDouble, own_warehouse: str
) -> None:
    with double.connect("EXECUTOR", warehouse=own_warehouse) as connection:
        first = submit_executing(double, connection)
        second = submit(connection)
        until_status(connection, second, "QUEUED")

        cancel(connection, second)

        until_status(connection, second, "FAILED_WITH_ERROR")
        assert double.state()["executing"] == [first]


def test_a_queued_query_runs_once_there_is_room(double: SnowflakeDouble, own_warehouse: str) -> None:
    with double.connect("EXECUTOR", warehouse=own_warehouse) as connection:
        first = submit_executing(double, connection)
        second = submit(connection)

        cancel(connection, first)

        until(lambda: double.is_executing(second))
        assert status(connection, second) == "RUNNING"


def test_a_queue_time_out_stops_what_still_waits(double: SnowflakeDouble, own_warehouse: str) -> None:
    with double.connect("EXECUTOR", warehouse=own_warehouse) as connection:
        first = submit_executing(double, connection, STATEMENT_QUEUED_TIMEOUT_IN_SECONDS="1")
        second = submit(connection, STATEMENT_QUEUED_TIMEOUT_IN_SECONDS="1")

        until_status(connection, second, "FAILED_WITH_ERROR")

        assert "queued timeout of 1 second(s)" in error_of(connection, second)[1]
        assert double.is_executing(first)


def test_a_suspended_warehouse_is_resumed_by_what_computes_and_by_nothing_else(
    double: SnowflakeDouble, own_warehouse: str
) -> None:
    double.switch(resume_seconds=3600)

    with double.connect("EXECUTOR", warehouse=own_warehouse) as connection:
        cancel(connection, str(uuid4()))
        history(connection, new_tag())
        untouched = double.state()["warehouses"][own_warehouse]
        query_id = submit(connection)
        until_status(connection, query_id, "RESUMING_WAREHOUSE")
        double.switch(resume_seconds=0)
        until(lambda: double.is_executing(query_id))

    assert untouched == {"state": "SUSPENDED", "resumes": 0}
    assert double.state()["warehouses"][own_warehouse] == {"state": "STARTED", "resumes": 1}


def test_a_warehouse_that_nothing_resumes_refuses_to_compute(double: SnowflakeDouble, own_warehouse: str) -> None:
    double.administer(f"ALTER WAREHOUSE {own_warehouse} SET AUTO_RESUME = FALSE")

    with double.connect("EXECUTOR", warehouse=own_warehouse) as connection:
        query_id = submit(connection)
        until_status(connection, query_id, "FAILED_WITH_ERROR")
        assert error_of(connection, query_id)[0] == 606

        double.administer(f"ALTER WAREHOUSE {own_warehouse} RESUME")
        submit_executing(double, connection)
