"""Fixtures for every test: a database of its own, on SQLite and on Postgres; a Snowflake account, double or real."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from config.settings import Settings, load_settings
from tests.databases import Databases
from tests.postgres import DURABLE, Postgres
from tests.shared import SharedFolder
from tests.snowflake import SnowflakeAccount, SnowflakeDouble
from tests.snowflake_live import LiveAccount, missing
from tests.spark import ConnectServer, Standalone

SHARED = pytest.StashKey[SharedFolder]()
#: What the developer's own settings are read from; there only with ``--snowflake-live``.
OWN_VARIABLES = pytest.StashKey[dict[str, str]]()
LIVE = pytest.StashKey[Settings]()
OWN = ("COUNTERMAND_", "SNOWFLAKE_", "XDG_CONFIG_HOME")


#: No example's duration is a claim: a machine may stall within any of them, or while one is made up.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests marked live run against a real account."""
    group = parser.getgroup("snowflake")
    group.addoption(
        "--snowflake-live", action="store_true", help="run the tests marked live, against the account in the settings"
    )
    group.addoption(
        "--snowflake-seconds",
        type=float,
        default=60.0,
        help="how long such a run may use the warehouse (default: 60)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a folder that all its processes share, and keep the developer's own settings out of it."""
    workerinput = getattr(config, "workerinput", {})
    own = {name: value for name, value in os.environ.items() if name.startswith(OWN)}
    for variable in own:
        del os.environ[variable]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in a shell's background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given = workerinput.get("shared_folder")
    config.stash[SHARED] = SharedFolder(Path(given)) if given else SharedFolder.create()
    if config.option.snowflake_live:
        prepare_live_run(config, workerinput.get("own_variables", own))
    os.environ["XDG_CONFIG_HOME"] = str(config.stash[SHARED].path / "no-settings")


def prepare_live_run(config: pytest.Config, own_variables: dict[str, str]) -> None:
    """Choose the tests marked live, and read the settings; without an account in them, the run ends as skipped."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in own_variables.items():
            environment.setenv(name, value)
        settings = load_settings()
    if (lacking := missing(settings)) is not None:
        pytest.exit(f"skipped: {lacking}", returncode=0)
    config.stash[OWN_VARIABLES] = own_variables
    config.stash[LIVE] = settings
    config.option.markexpr = "live"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep Spark's acceptance tests, the longest, for the end.

    At first every process is given a long row of tests, and one of them all of `acceptance`; at the end they are given
    out as processes are free.
    """
    items.sort(key=lambda item: item.path.parent.name == "acceptance" and item.path.name.startswith("test_spark_"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a pytest-xdist worker which folder that is, and the settings of a live run."""
    node.workerinput["shared_folder"] = str(node.config.stash[SHARED].path)
    node.workerinput["own_variables"] = node.config.stash.get(OWN_VARIABLES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests measured, or found this machine to allow."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, measured in report.user_properties:
            terminalreporter.write_line(f"measured: {name} {measured}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers, once all workers are done."""
    if not hasattr(config, "workerinput"):
        for spark in (ConnectServer, Standalone):
            spark.close_run(config.stash[SHARED])
        Databases(config.stash[SHARED]).close()
        config.stash[SHARED].remove()


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> SharedFolder:
    """For what is made once per run."""
    return pytestconfig.stash[SHARED]


@pytest.fixture(scope="session")
def databases(shared: SharedFolder) -> Databases:
    """Lends databases, to tests that need several or one that is not migrated."""
    return Databases(shared)


@pytest.fixture(scope="session")
def spark_connect(shared: SharedFolder) -> ConnectServer:
    """The run's Spark Connect server, which all its tests share: no test stops it, or what others run there."""
    return ConnectServer.of_run(shared)


@pytest.fixture(scope="session")
def spark_standalone(shared: SharedFolder) -> Standalone:
    """The run's standalone cluster, which all its tests share: no test stops it, or what others run there."""
    return Standalone.of_run(shared)


@pytest.fixture(scope="session")
def snowflake_account(pytestconfig: pytest.Config) -> Iterator[SnowflakeDouble]:
    """One Snowflake account for all tests of a process; whoever changes users or warehouses makes some of its own."""
    if LIVE in pytestconfig.stash:
        pytest.fail("a test marked live asks for the double, whose faults and truth no real account has")
    with SnowflakeDouble.started() as double:
        yield double


@pytest.fixture
def snowflake_double(snowflake_account: SnowflakeDouble) -> Iterator[SnowflakeDouble]:
    """The account, which each test leaves calm."""
    yield snowflake_account
    snowflake_account.calm()


@pytest.fixture(scope="session")
def live_account(pytestconfig: pytest.Config, shared: SharedFolder) -> Iterator[LiveAccount]:
    """The account in the developer's settings."""
    began = shared.once("warehouse-first-used", lambda path: path.write_text(str(time.time())))
    seconds = pytestconfig.option.snowflake_seconds
    with LiveAccount.opened(pytestconfig.stash[LIVE], began, seconds=seconds) as live:
        yield live


@pytest.fixture
def snowflake(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[SnowflakeAccount]:
    """The double, where CANCELLER may end EXECUTOR's sessions; or the real account, in a run that is about it."""
    if LIVE in pytestconfig.stash:
        live: LiveAccount = request.getfixturevalue("live_account")
        if request.node.get_closest_marker("ends_sessions"):
            live.demand_sessions_to_be_ended()
        yield live
    else:
        double: SnowflakeDouble = request.getfixturevalue("snowflake_double")
        with double.sessions_to_be_ended():
            yield double


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of the test's own; the test runs once on SQLite and once on Postgres."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(databases: Databases) -> Iterator[str]:
    """A migrated SQLite database of the test's own."""
    with databases.lend_sqlite() as url:
        yield url


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """A migrated Postgres database of the test's own."""
    with databases.lend_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def unmigrated_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A database that was never migrated, on SQLite and on Postgres."""
    lend = databases.lend_sqlite if request.param == "sqlite" else databases.lend_postgres
    with lend(migrated=False) as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A Postgres server of the test's own, to be stopped and restarted at will; what it committed survives."""
    with Postgres.start(DURABLE) as server:
        yield server
