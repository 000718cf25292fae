"""Sessions of the double: how they are renewed and lost, and what becomes of their queries."""

from typing import Any

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError

from tests.integration.snowflake.given import WAREHOUSE, rows, status, submit_executing, until_status, value
from tests.snowflake import QUICK, SnowflakeDouble, token_of


def test_an_expired_token_is_renewed_without_anybody_noticing(double: SnowflakeDouble, own_user: str) -> None:
    with double.connect(own_user) as connection:
        before = token_of(connection)
        double.lose_sessions(own_user, "token_expired")

        assert value(connection, QUICK) == 1
        assert token_of(connection) != before


@pytest.mark.parametrize(("loss", "errno"), [("master_token_expired", 390114), ("gone", 390111), ("unknown", 390104)])
def test_a_lost_session_is_told_by_its_own_number(
    double: SnowflakeDouble, own_user: str, loss: str, errno: int
) -> None:
    with double.connect(own_user) as connection:
        double.lose_sessions(own_user, loss)

        with pytest.raises(DatabaseError) as raised:
            rows(connection, QUICK)

    assert raised.value.errno == errno


def test_a_heartbeat_tells_whether_the_session_is_good(double: SnowflakeDouble, own_user: str) -> None:
    with double.connect(own_user) as connection:
        assert connection.is_valid()

        double.lose_sessions(own_user, "gone")

        assert not connection.is_valid()


@pytest.mark.parametrize(
    ("stops", "options", "survives"),
    [
        (True, {}, False),
        (False, {}, True),
        (True, {"server_session_keep_alive": True}, True),
    ],
)
def test_closing_a_connection_stops_its_queries_unless_the_server_or_the_client_keeps_them(
    double: SnowflakeDouble, canceller: SnowflakeConnection, stops: bool, options: dict[str, Any], survives: bool
) -> None:
    double.switch(logout_stops_queries=stops)
    with double.connect("EXECUTOR", warehouse=WAREHOUSE, **options) as connection:
        query_id = submit_executing(double, connection)

    if survives:
        assert status(canceller, query_id) == "RUNNING"
        assert double.is_executing(query_id)
    else:
        until_status(canceller, query_id, "FAILED_WITH_ERROR")
