"""What the product relies on of Snowflake that its documentation does not say, or not clearly.

Each is true of the double, which was written so; a run against a real account tells whether that was right.
"""

import time
from collections.abc import Callable, Iterator

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error, ProgrammingError

from adapters.snowflake.line import NOT_ALLOWED, SESSION_LOST
from adapters.snowflake.sessions import NOT_FOUND
from adapters.snowflake.words import STOPPED_BY, found_running
from control_plane.planes import LISTING_LAG_SECONDS, Platform
from tests.integration.snowflake.given import (
    ENDED,
    UNKNOWN,
    abort,
    cancel,
    error_of,
    history,
    new_tag,
    rows,
    status,
    submit,
    until_status,
    value,
)
from tests.snowflake import QUICK, SnowflakeAccount, until

pytestmark = pytest.mark.live

LAG_SECONDS = LISTING_LAG_SECONDS[Platform.SNOWFLAKE]
NOBODYS = "01b2c3d4-0000-1234-0000-000012345678"


@pytest.fixture
def runs(snowflake: SnowflakeAccount) -> Iterator[SnowflakeConnection]:
    """The executor's session."""
    with snowflake.connect("EXECUTOR", warehouse=snowflake.warehouse) as session:
        yield session


@pytest.fixture
def stops(snowflake: SnowflakeAccount) -> Iterator[SnowflakeConnection]:
    """The canceller's session, without a warehouse."""
    with snowflake.connect("CANCELLER") as session:
        yield session


def executing(snowflake: SnowflakeAccount, session: SnowflakeConnection, **parameters: str) -> str:
    query_id = submit(session, **parameters)
    until(lambda: snowflake.is_executing(query_id))
    return query_id


def ended(session: SnowflakeConnection, query_id: str) -> bool:
    return status(session, query_id) in ENDED


def succeeded(session: SnowflakeConnection) -> str:
    query_id = submit(session, QUICK)
    until_status(session, query_id, "SUCCESS")
    return query_id


def refusal_of(session: SnowflakeConnection, sql: str) -> int | None:
    """The number of the error with which the statement is refused."""
    with pytest.raises(Error) as raised:
        rows(session, sql)
    return raised.value.errno


# --- cancelling a query


def test_a_query_that_ran_is_told_to_be_terminated_and_ends_with_the_error_of_a_cancelled_one(
    snowflake: SnowflakeAccount, runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    query_id = executing(snowflake, runs)

    [answer] = cancel(stops, query_id)

    assert found_running(answer)
    until(lambda: ended(stops, query_id))
    assert error_of(stops, query_id)[0] == 604


def test_of_a_query_that_has_ended_nobody_is_told_that_it_was_terminated(
    runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    [answer] = cancel(stops, succeeded(runs))

    assert not found_running(answer)


def test_of_an_id_that_nobody_knows_nobody_is_told_that_it_was_terminated(stops: SnowflakeConnection) -> None:
    try:
        [answer] = cancel(stops, NOBODYS)
    except ProgrammingError as refused:
        answer = refused.raw_msg

    assert not found_running(answer)


def test_the_status_of_an_id_that_nobody_knows_is_unknown(stops: SnowflakeConnection) -> None:
    assert status(stops, NOBODYS) in UNKNOWN


def test_an_abort_request_stops_anothers_query_and_is_refused_once_it_has_ended(
    snowflake: SnowflakeAccount, runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    query_id = executing(snowflake, runs)

    assert abort(stops, query_id)
    until(lambda: ended(stops, query_id))
    assert not abort(stops, query_id)
    assert error_of(stops, query_id)[0] in STOPPED_BY


def test_who_may_not_cancel_a_query_is_refused_by_a_number_that_says_so(
    snowflake: SnowflakeAccount, runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    if snowflake.user("EXECUTOR") == snowflake.user("CANCELLER"):
        pytest.skip("both sides are one user, who may cancel its own")
    query_id = submit(stops, "SELECT SYSTEM$WAIT(10)")
    until(lambda: status(stops, query_id) == "RUNNING")

    assert refusal_of(runs, f"SELECT SYSTEM$CANCEL_QUERY('{query_id}')") in NOT_ALLOWED


def test_what_a_statements_time_out_ends_counts_as_stopped(runs: SnowflakeConnection) -> None:
    rows(runs, "ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = 1")
    query_id = submit(runs)

    until(lambda: ended(runs, query_id))

    assert error_of(runs, query_id)[0] in STOPPED_BY


# --- ending a session


@pytest.mark.ends_sessions
def test_a_session_that_was_aborted_is_not_found_when_it_is_aborted_again(
    runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    abort_session = f"SELECT SYSTEM$ABORT_SESSION({runs.session_id})"
    rows(stops, abort_session)

    assert refusal_of(stops, abort_session) == NOT_FOUND


@pytest.mark.ends_sessions
def test_a_session_that_was_aborted_runs_nothing_more_and_what_ran_in_it_stops(
    snowflake: SnowflakeAccount, runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    query_id = executing(snowflake, runs)

    rows(stops, f"SELECT SYSTEM$ABORT_SESSION({runs.session_id})")

    until(lambda: ended(stops, query_id))
    assert refusal_of(runs, QUICK) in SESSION_LOST


# --- reading without a warehouse


def test_neither_the_history_nor_cancelling_needs_a_warehouse(
    snowflake: SnowflakeAccount, runs: SnowflakeConnection, stops: SnowflakeConnection
) -> None:
    query_id = executing(snowflake, runs)

    history(stops, new_tag(), "RESULT_LIMIT => 10000")
    cancel(stops, query_id)

    assert value(stops, "SELECT CURRENT_WAREHOUSE()") is None
    until(lambda: ended(stops, query_id))


def test_starts_and_ends_are_in_the_history_within_the_lag_that_planes_are_given(
    snowflake: SnowflakeAccount,
    runs: SnowflakeConnection,
    stops: SnowflakeConnection,
    record_property: Callable[[str, object], None],
) -> None:
    query_id = submit(runs, QUERY_TAG=(tag := new_tag()))
    began = time.monotonic()

    until(lambda: history(stops, tag, "RESULT_LIMIT => 10000"), seconds=LAG_SECONDS)
    listed_after = time.monotonic() - began
    cancel(stops, query_id)
    until(lambda: ended(stops, query_id))
    began = time.monotonic()
    until(lambda: history(stops, tag, "RESULT_LIMIT => 10000")[0][1] != "RUNNING", seconds=LAG_SECONDS)
    ended_after = time.monotonic() - began

    record_property("a start was listed after", f"{listed_after:.2f} s")
    record_property("an end was listed after", f"{ended_after:.2f} s")
