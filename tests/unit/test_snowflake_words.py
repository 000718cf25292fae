"""What may be concluded from Snowflake's words: each row of what is known about them."""

import pytest
from pydantic import SecretStr
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import DatabaseError, Error, InternalError, OperationalError, ProgrammingError

from adapters.base import RunStatus
from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import literal, literals, translated
from adapters.snowflake.words import Fate, found_running
from control_plane.jobs import Waiting

ACCOUNT = Account(account="XY12345", database="ANALYTICS")
CANCELLER = SignIn(user="CANCELLER", token=SecretStr("the secret token"), private_key_password=SecretStr("pw"))
CONCLUSIONS = {
    "RUNNING": RunStatus.ACTIVE,
    "QUEUED": RunStatus.ACTIVE,
    "BLOCKED": RunStatus.ACTIVE,
    "RESUMING_WAREHOUSE": RunStatus.ACTIVE,
    "QUEUED_REPARING_WAREHOUSE": RunStatus.ACTIVE,
    "RESTARTED": RunStatus.ACTIVE,
    "ABORTING": RunStatus.ACTIVE,
    "SUCCESS": RunStatus.SUCCEEDED,
    "FAILED_WITH_ERROR": RunStatus.ERRORED,
    "FAILED_WITH_INCIDENT": RunStatus.ERRORED,
    "ABORTED": RunStatus.STOPPED,
    "NO_DATA": RunStatus.UNKNOWN,
    "DISCONNECTED": RunStatus.UNKNOWN,
}


@pytest.mark.parametrize(("status", "concluded"), CONCLUSIONS.items())
def test_each_status_is_concluded_from_as_it_may_be(status: str, concluded: RunStatus) -> None:
    assert Fate(status).run_status is concluded


def test_every_status_that_the_connector_knows_has_its_conclusion() -> None:
    assert CONCLUSIONS.keys() == {status.name for status in QueryStatus}


def test_a_status_that_nobody_has_heard_of_is_unknown() -> None:
    assert Fate("FINISHED_MAYBE").run_status is RunStatus.UNKNOWN


@pytest.mark.parametrize("code", [604, 630])
@pytest.mark.parametrize("status", ["FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT"])
def test_a_query_that_failed_because_it_was_cancelled_or_timed_out_was_stopped(status: str, code: int) -> None:
    fate = Fate(status, code, "SQL execution canceled\nand more")

    assert fate.run_status is RunStatus.STOPPED
    assert fate.word == f"{status} 000{code} SQL execution canceled"


def test_only_a_query_that_was_found_running_is_said_to_be_terminated() -> None:
    assert found_running("query [01b2c3d4-0000-1234-0000-000012345678] terminated.")
    assert not found_running("Identified SQL statement is not currently executing.")
    assert not found_running(None)


@pytest.mark.parametrize(
    ("error", "waiting"),
    [
        (ProgrammingError("no", errno=3001), Waiting.NOT_PERMITTED),
        (ProgrammingError("no", errno=2003), Waiting.NOT_PERMITTED),
        (DatabaseError("bad token", errno=390303), Waiting.NOT_PERMITTED),
        (DatabaseError("bad key", errno=390144), Waiting.NOT_PERMITTED),
        (ProgrammingError("no warehouse", errno=606), Waiting.ADAPTER_ERROR),
        (ProgrammingError("nonsense", errno=1003), Waiting.ADAPTER_ERROR),
        (OperationalError("503", errno=4), Waiting.PLANE_SILENT),
        (OperationalError("time-out", errno=14), Waiting.PLANE_SILENT),
        (InternalError("broke off", errno=6), Waiting.PLANE_SILENT),
        (ProgrammingError("session gone", errno=390111), Waiting.PLANE_SILENT),
    ],
)
def test_each_error_is_the_reason_to_wait_that_it_is(error: Error, waiting: Waiting) -> None:
    told = translated(error, ACCOUNT, CANCELLER)

    assert told.trouble.waiting is waiting
    assert "\n" not in told.message
    assert told.code == error.errno


@pytest.mark.parametrize("text", ["it's", "\\' OR 1=1 --", "\\", "''", "a\nb"])
def test_no_text_leaves_its_quotes(text: str) -> None:
    inside = literal(text)[1:-1]

    assert inside.replace("\\\\", "").replace("''", "").count("'") == 0
    assert inside.replace("\\\\", "").count("\\") == 0


def test_a_list_of_nothing_is_still_sql() -> None:
    assert literals([]) == "NULL"
    assert literals(["a", "b"]) == "'a', 'b'"


def test_no_secret_stands_in_a_repr() -> None:
    shown = repr(CANCELLER) + repr(ACCOUNT) + str(CANCELLER)

    assert "the secret token" not in shown
    assert "pw" not in shown


def test_every_time_out_of_the_connector_is_set() -> None:
    told = ACCOUNT.options(CANCELLER, timeout_seconds=7.0)

    times = ("login_timeout", "connect_timeout", "request_timeout", "query_timeout", "retry_timeout")
    assert all(0 < told[name] <= 15 for name in times)
