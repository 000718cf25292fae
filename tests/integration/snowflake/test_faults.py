"""Each fault of the double does what it says, by the real connector."""

import secrets
import time

import httpx
import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, OperationalError, ProgrammingError

from tests.integration.snowflake.given import (
    TERMINATED,
    WAREHOUSE,
    abort,
    cancel,
    history,
    new_tag,
    rows,
    status,
    submit,
    submit_executing,
    until_status,
    value,
)
from tests.snowflake import ENDLESS, QUICK, SnowflakeDouble, authorization_of, until


@pytest.mark.parametrize(
    ("way", "statement"),
    [
        ("SYSTEM$CANCEL_QUERY", "SELECT SYSTEM$CANCEL_QUERY('{query}')"),
        ("SYSTEM$CANCEL_ALL_QUERIES", "SELECT SYSTEM$CANCEL_ALL_QUERIES({session})"),
        ("SYSTEM$ABORT_SESSION", "SELECT SYSTEM$ABORT_SESSION({session})"),
        ("ALTER WAREHOUSE", "ALTER WAREHOUSE {warehouse} ABORT ALL QUERIES"),
    ],
)
def test_a_lie_sounds_like_the_truth_while_the_query_runs_on(
    double: SnowflakeDouble, own_warehouse: str, way: str, statement: str
) -> None:
    double.administer(f"GRANT OPERATE ON WAREHOUSE {own_warehouse} TO ROLE COUNTERMAND_EXECUTOR")
    double.switch(lying=[way])

    with double.connect("EXECUTOR", warehouse=own_warehouse) as runs, double.connect("EXECUTOR") as stops:
        query_id = submit_executing(double, runs)
        text = statement.format(query=query_id, session=runs.session_id, warehouse=own_warehouse)
        lie = value(stops, text)
        assert (status(runs, query_id), double.is_executing(query_id)) == ("RUNNING", True)

        double.switch(lying=[])
        truth = value(stops, text)
        until(lambda: not double.is_executing(query_id))

    assert lie == truth


def test_an_abort_request_can_lie_too(double: SnowflakeDouble, executor: SnowflakeConnection) -> None:
    double.switch(lying=["abort-request"])
    query_id = submit_executing(double, executor)

    assert abort(executor, query_id)

    assert (status(executor, query_id), double.is_executing(query_id)) == ("RUNNING", True)


def test_a_slow_stop_is_aborting_while_it_burns_and_ends_in_the_end(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    double.switch(stop_seconds={"SYSTEM$CANCEL_QUERY": 4.0})
    query_id = submit_executing(double, executor)

    cancel(canceller, query_id)

    assert (status(canceller, query_id), double.is_executing(query_id)) == ("ABORTING", True)
    until_status(canceller, query_id, "FAILED_WITH_ERROR")
    assert not double.is_executing(query_id)


def test_a_quicker_way_ends_what_a_slow_one_had_begun_to_stop(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    double.switch(stop_seconds={"SYSTEM$CANCEL_QUERY": 3600.0})
    query_id = submit_executing(double, executor)
    cancel(canceller, query_id)

    assert abort(canceller, query_id)

    until_status(canceller, query_id, "FAILED_WITH_ERROR")


def test_a_denied_user_stops_nothing_whatever_was_granted(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)
    double.switch(denied=["CANCELLER"])

    with pytest.raises(ProgrammingError) as raised:
        cancel(canceller, query_id)

    assert raised.value.errno == 3001
    assert double.is_executing(query_id)


@pytest.mark.parametrize("switch", ["blind", "hidden", "listing_limit", "history_lag_seconds"])
def test_a_history_leaves_out_a_running_query_without_a_word(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection, switch: str
) -> None:
    tag = new_tag()
    query_id = submit_executing(double, executor, QUERY_TAG=tag)
    faults = {"blind": ["CANCELLER"], "hidden": [query_id], "listing_limit": 0, "history_lag_seconds": 3600}

    double.switch(**{switch: faults[switch]})

    assert history(canceller, tag) == []
    assert double.is_executing(query_id)


def test_a_hidden_query_is_left_out_of_the_listing_and_its_status_is_told(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor, QUERY_TAG=(tag := new_tag()))

    double.switch(hidden=[tag])

    assert double.asked(executor, "/monitoring/queries", subset="RUNNING")["data"]["queries"] == []
    assert status(executor, query_id) == "RUNNING"


def test_an_end_that_the_history_has_not_heard_of_is_running_there(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    tag = new_tag()
    query_id = submit(executor, "SELECT SYSTEM$WAIT(3.5)", QUERY_TAG=tag)
    double.switch(history_lag_seconds=3.0)

    until_status(canceller, query_id, "SUCCESS")

    assert history(canceller, tag) == [(query_id, "RUNNING")]
    until(lambda: history(canceller, tag) == [(query_id, "SUCCESS")])


def test_a_slow_listing_answers_late(double: SnowflakeDouble, canceller: SnowflakeConnection) -> None:
    double.switch(listing_seconds=0.5)
    began = time.monotonic()

    history(canceller, new_tag())
    double.asked(canceller, "/monitoring/queries", subset="RUNNING")

    assert time.monotonic() - began >= 1.0


def test_a_burst_of_503_is_survived_by_the_connector(double: SnowflakeDouble, executor: SnowflakeConnection) -> None:
    double.switch(unavailable={"statement": 2})

    assert value(executor, QUICK) == 1


def test_503_without_end_is_error_4(double: SnowflakeDouble, executor: SnowflakeConnection) -> None:
    query_id = submit(executor, QUICK)
    double.switch(unavailable={"status": 1000})

    with double.connect("EXECUTOR", request_timeout=3) as impatient, pytest.raises(OperationalError) as raised:
        status(impatient, query_id)

    assert raised.value.errno == 4


def test_a_statement_that_hangs_is_error_14_after_its_query_time_out(double: SnowflakeDouble) -> None:
    double.switch(hanging=["statement"])

    with double.connect("EXECUTOR", query_timeout=1) as impatient, pytest.raises(OperationalError) as raised:
        rows(impatient, QUICK)

    assert (raised.value.errno, raised.value.sqlstate) == (14, "HYT00")


def test_a_statement_whose_sender_gave_up_while_it_hung_never_runs(double: SnowflakeDouble) -> None:
    double.switch(hanging=["statement"])
    before = double.state()["queries"]
    with double.connect("EXECUTOR", query_timeout=1) as impatient, pytest.raises(OperationalError):
        rows(impatient, QUICK)

    double.switch(hanging=[])

    double.administer("SELECT 1")
    assert double.state()["queries"] == before + 1


def test_an_abort_request_whose_answer_is_lost_is_not_sent_again_and_took_effect(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)
    double.switch(lost_answers={"abort": 1})

    with pytest.raises(OperationalError):
        abort(executor, query_id)

    until_status(executor, query_id, "FAILED_WITH_ERROR")


def test_the_computing_process_ends_with_the_double_however_that_ends() -> None:
    with SnowflakeDouble.started() as double:
        with double.connect("EXECUTOR", warehouse=WAREHOUSE, server_session_keep_alive=True) as connection:
            submit_executing(double, connection)
        others = double.process.children()
        double.process.kill()

    assert others
    until(lambda: not any(process.is_running() for process in others))


def test_a_part_that_hangs_runs_into_the_connectors_time_out_and_then_comes_back(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    query_id = submit(executor, QUICK)
    double.switch(hanging=["status"])

    with double.connect("EXECUTOR", request_timeout=3, retry_timeout=4) as impatient, pytest.raises(OperationalError):
        status(impatient, query_id)

    double.switch(hanging=[])
    until_status(executor, query_id, "SUCCESS")


def test_a_lost_answer_is_asked_for_again_and_the_statement_ran_once(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    table = f"T_{secrets.token_hex(4)}"
    rows(executor, f"CREATE TABLE {table} (N NUMBER)")
    before = double.state()["requests"]["statement"]
    double.switch(lost_answers={"statement": 1})

    rows(executor, f"INSERT INTO {table} VALUES (1)")

    assert double.state()["requests"]["statement"] == before + 2
    assert value(executor, f"SELECT COUNT(*) FROM {table}") == 1


def test_an_answer_that_breaks_off_is_an_error_although_the_statement_ran(
    double: SnowflakeDouble, executor: SnowflakeConnection
) -> None:
    table = f"T_{secrets.token_hex(4)}"
    rows(executor, f"CREATE TABLE {table} (N NUMBER)")
    double.switch(cut_answers={"statement": 1})

    with pytest.raises(DatabaseError, match="Invalid Snowflake response"):
        rows(executor, f"INSERT INTO {table} VALUES (1)")

    assert value(executor, f"SELECT COUNT(*) FROM {table}") == 1


def test_a_cancel_whose_answer_is_lost_has_stopped_the_query(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    query_id = submit_executing(double, executor)
    double.switch(lost_answers={"statement": 1})

    assert cancel(canceller, query_id) == [TERMINATED.format(query_id)]

    until_status(executor, query_id, "FAILED_WITH_ERROR")


def test_a_late_statement_is_unknown_until_it_begins_and_begins_although_its_sender_gave_up(
    double: SnowflakeDouble, executor: SnowflakeConnection, canceller: SnowflakeConnection
) -> None:
    tag = new_tag()
    body = {"sqlText": ENDLESS, "asyncExec": True, "parameters": {"QUERY_TAG": tag}}
    double.switch(late_seconds=5.0)

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{double.url}/queries/v1/query-request", json=body, headers=authorization_of(executor), timeout=2.0)
    double.switch(late_seconds=0)
    before = history(canceller, tag)

    assert before == []
    until(lambda: [active for active in double.state()["active"] if active["tag"] == tag])


def test_an_unknown_fault_is_refused_and_changes_nothing(double: SnowflakeDouble) -> None:
    for nonsense in ({"lies": True}, {"lying": ["everything"]}, {"late_seconds": "soon"}):
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            double.switch(**nonsense)

    assert httpx.get(f"{double.url}/_double/faults").json()["lying"] == []
