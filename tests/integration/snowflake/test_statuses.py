"""What the double says of a query, and what the connector makes of it."""

from uuid import uuid4

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.constants import QueryStatus

from tests.integration.snowflake.given import ENDED, RUNNING, UNKNOWN, WAREHOUSE, status, submit, submit_executing
from tests.snowflake import QUICK, SnowflakeDouble


@pytest.mark.parametrize("word", sorted(RUNNING | ENDED | UNKNOWN))
def test_every_status_reaches_the_connector(double: SnowflakeDouble, executor: SnowflakeConnection, word: str) -> None:
    query_id = submit(executor, QUICK)

    double.switch(statuses={query_id: word})

    assert executor.get_query_status(query_id) is QueryStatus[word]


def test_a_connector_calls_aborting_and_disconnected_not_running(executor: SnowflakeConnection) -> None:
    assert not executor.is_still_running(QueryStatus.ABORTING)
    assert not executor.is_still_running(QueryStatus.DISCONNECTED)


def test_a_query_that_nobody_knows_has_no_data(executor: SnowflakeConnection) -> None:
    assert status(executor, str(uuid4())) == "NO_DATA"


def test_a_malformed_id_is_not_even_sent(executor: SnowflakeConnection) -> None:
    with pytest.raises(ValueError, match="Invalid UUID"):
        status(executor, "no id")


def test_a_closed_client_reports_disconnected_while_the_query_burns_on(double: SnowflakeDouble) -> None:
    with double.connect("EXECUTOR", warehouse=WAREHOUSE, server_session_keep_alive=True) as connection:
        query_id = submit_executing(double, connection)

    assert status(connection, query_id) == "DISCONNECTED"
    assert double.is_executing(query_id)
