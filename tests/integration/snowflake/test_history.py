"""The double's history and listing: what they show, to whom, and how far back."""

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError

from tests.integration.snowflake.given import (
    WAREHOUSE,
    history,
    new_tag,
    rows,
    status,
    submit,
    submit_executing,
    until_status,
)
from tests.snowflake import QUICK, SnowflakeDouble


def test_running_queries_are_in_the_history_unless_it_is_asked_for_until_a_moment(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    tag = new_tag()
    query_id = submit_executing(double, executor, QUERY_TAG=tag)

    assert history(canceller, tag) == [(query_id, "RUNNING")]
    assert history(canceller, tag, "END_TIME_RANGE_END => CURRENT_TIMESTAMP()") == []


def test_the_limit_of_the_history_applies_before_where(executor: SnowflakeConnection) -> None:
    tag = new_tag()
    query_id = submit(executor, QUICK, QUERY_TAG=tag)
    until_status(executor, query_id, "SUCCESS")
    for _ in range(3):
        rows(executor, QUICK)

    assert history(executor, tag, "RESULT_LIMIT => 3") == []
    assert history(executor, tag, "RESULT_LIMIT => 1000") == [(query_id, "SUCCESS")]


@pytest.mark.parametrize("privilege", ["MONITOR", "OPERATE"])
def test_others_queries_are_left_out_in_silence_without_a_privilege_on_their_warehouse(
    double: SnowflakeDouble, own_user: str, own_warehouse: str, privilege: str
) -> None:
    tag = new_tag()
    with double.connect("EXECUTOR", warehouse=own_warehouse) as runs, double.connect(own_user) as looks:
        query_id = submit_executing(double, runs, QUERY_TAG=tag)
        before = history(looks, tag), status(looks, query_id)

        double.administer(f"GRANT {privilege} ON WAREHOUSE {own_warehouse} TO ROLE {own_user}")

        assert before == ([], "NO_DATA")
        assert (history(looks, tag), status(looks, query_id)) == ([(query_id, "RUNNING")], "RUNNING")


def test_the_history_is_told_by_user_by_session_and_by_warehouse(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor, QUERY_TAG=new_tag())
    asked = {
        "QUERY_HISTORY_BY_USER(USER_NAME => 'EXECUTOR', RESULT_LIMIT => 10000)": True,
        "QUERY_HISTORY_BY_USER(RESULT_LIMIT => 10000)": False,
        f"QUERY_HISTORY_BY_SESSION(SESSION_ID => {executor.session_id})": True,
        f"QUERY_HISTORY_BY_SESSION(SESSION_ID => {canceller.session_id})": False,
        f"QUERY_HISTORY_BY_WAREHOUSE(WAREHOUSE_NAME => '{WAREHOUSE}', RESULT_LIMIT => 10000)": True,
        "QUERY_HISTORY_BY_WAREHOUSE(WAREHOUSE_NAME => 'ANOTHER')": False,
    }

    told = {
        function: rows(canceller, f"SELECT 1 FROM TABLE(INFORMATION_SCHEMA.{function}) WHERE QUERY_ID = '{query_id}'")
        for function in asked
    }

    assert {function: found == [(1,)] for function, found in told.items()} == asked


def test_the_history_goes_back_seven_days_and_no_further(executor: SnowflakeConnection) -> None:
    query_id = submit(executor, QUICK, QUERY_TAG=(tag := new_tag()))
    until_status(executor, query_id, "SUCCESS")

    since = "END_TIME_RANGE_START => DATEADD('day', -{}, CURRENT_TIMESTAMP()), RESULT_LIMIT => 10000"

    assert history(executor, tag, since.format(7)) == [(query_id, "SUCCESS")]
    with pytest.raises(DatabaseError, match="7 days"):
        history(executor, tag, since.format(8))


def test_the_listing_of_running_queries_has_their_tags(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    tag = new_tag()
    query_id = submit_executing(double, executor, QUERY_TAG=tag)

    running = double.asked(canceller, "/monitoring/queries", subset="RUNNING", max=1000, start=0)
    queued = double.asked(canceller, "/monitoring/queries", subset="QUEUED", max=1000, start=0)

    assert [entry["id"] for entry in running["data"]["queries"] if entry["queryTag"] == tag] == [query_id]
    assert queued["data"]["queries"] == []
