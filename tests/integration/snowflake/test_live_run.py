"""``make test-snowflake-live``, tried on a double that is configured as if it were the account."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from snowflake.connector.errors import Error, ProgrammingError

from adapters.snowflake.account import SignIn
from config.settings import load_settings
from tests.integration.snowflake.given import rows, submit_executing, value
from tests.snowflake import ROOT, SnowflakeDouble, until
from tests.snowflake_live import STATEMENT_SECONDS, LiveAccount

LIVE_RUN = (sys.executable, "-m", "pytest", "--snowflake-live", "tests/contract", "tests/integration/snowflake")


def variables_of(double: SnowflakeDouble) -> dict[str, str]:
    """What a developer would set whose account this is: the account customarily, each side's sign-in as ours."""
    place = double.account()
    return {
        "SNOWFLAKE_ACCOUNT": place.account,
        "SNOWFLAKE_HOST": str(place.host),
        "SNOWFLAKE_PORT": str(place.port),
        "SNOWFLAKE_PROTOCOL": place.protocol,
        "SNOWFLAKE_DATABASE": place.database,
        "SNOWFLAKE_WAREHOUSE": double.warehouse,
        **signs_in("EXECUTOR", double.sign_in("EXECUTOR")),
        **signs_in("WORKER", double.sign_in("CANCELLER")),
    }


def signs_in(section: str, who: SignIn) -> dict[str, str]:
    assert who.token is not None
    wanted = {"USER": who.user, "TOKEN": who.token.get_secret_value(), "TOKEN_KIND": "oauth"}
    return {f"COUNTERMAND_SNOWFLAKE__{section}__{name}": said for name, said in wanted.items()}


def run(*options: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LIVE_RUN, "-p", "no:cacheprovider", *options],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def another() -> Iterator[SnowflakeDouble]:
    """An account that nobody else runs anything in."""
    with SnowflakeDouble.started() as double:
        yield double


@pytest.fixture
def live(another: SnowflakeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveAccount]:
    """That account, as a live run treats it from now on."""
    for name, said in variables_of(another).items():
        monkeypatch.setenv(name, said)
    began = tmp_path / "began"
    began.write_text(str(time.time()))
    with LiveAccount.opened(load_settings(), began, seconds=60) as live:
        yield live


def test_without_an_account_a_live_run_says_what_to_set_and_ends_as_skipped() -> None:
    done = run(variables={})

    [line] = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert done.returncode == 0
    assert "skipped: [snowflake] of the settings does not say: account, database, warehouse" in line


@pytest.mark.timeout(400)
def test_a_live_run_passes_and_leaves_nothing_that_runs_and_no_session(another: SnowflakeDouble) -> None:
    with another.sessions_to_be_ended():
        done = run("-n", "0", "--snowflake-seconds", "600", variables=variables_of(another))

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    assert "measured: a start was listed after" in done.stdout
    assert (another.state()["active"], another.state()["sessions"]) == ([], 0)


def test_what_a_failing_test_had_started_is_stopped_and_its_database_dropped(
    another: SnowflakeDouble, live: LiveAccount
) -> None:
    started: list[str] = []

    def fail() -> None:
        with live.own_database() as database, live.connect("EXECUTOR", warehouse=live.warehouse) as session:
            started.extend([database, submit_executing(another, session)])
            raise AssertionError

    with pytest.raises(AssertionError):
        fail()

    database, query_id = started
    until(lambda: not another.is_executing(query_id))
    with live.connect("EXECUTOR") as session, pytest.raises(Error, match="does not exist"):
        rows(session, f"USE DATABASE {database}")


def test_what_has_no_time_left_on_the_warehouse_is_not_begun(live: LiveAccount, tmp_path: Path) -> None:
    (tmp_path / "began").write_text(str(time.time() - 60 + STATEMENT_SECONDS - 1))

    with pytest.raises(pytest.fail.Exception, match="not begun"), live.connect("EXECUTOR", warehouse=live.warehouse):
        pass
    with live.connect("CANCELLER") as session:
        assert value(session, "SELECT CURRENT_WAREHOUSE()") is None


def test_a_query_that_nobody_stops_meets_its_time_out(live: LiveAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.snowflake_live.STATEMENT_SECONDS", 1)

    with (
        live.connect("EXECUTOR", warehouse=live.warehouse) as session,
        pytest.raises(ProgrammingError, match="timeout"),
    ):
        rows(session, "SELECT SYSTEM$WAIT(30)")
