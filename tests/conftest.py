"""Fixtures for every test: a database of its own, on SQLite and on Postgres."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Databases
from tests.postgres import DURABLE, Postgres
from tests.shared import SharedFolder
from tests.snowflake import SnowflakeDouble

SHARED = pytest.StashKey[SharedFolder]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a folder that all its processes share, and keep the developer's own settings out of it."""
    for variable in [name for name in os.environ if name.startswith(("COUNTERMAND_", "SNOWFLAKE_"))]:
        del os.environ[variable]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in a shell's background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given = getattr(config, "workerinput", {}).get("shared_folder")
    config.stash[SHARED] = SharedFolder(Path(given)) if given else SharedFolder.create()
    os.environ["XDG_CONFIG_HOME"] = str(config.stash[SHARED].path / "no-settings")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a pytest-xdist worker which folder that is."""
    node.workerinput["shared_folder"] = str(node.config.stash[SHARED].path)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's Postgres, once all workers are done."""
    if not hasattr(config, "workerinput"):
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
def snowflake_account() -> Iterator[SnowflakeDouble]:
    """One Snowflake account for all tests of a process; whoever changes users or warehouses makes some of its own."""
    with SnowflakeDouble.started() as double:
        yield double


@pytest.fixture
def snowflake_double(snowflake_account: SnowflakeDouble) -> Iterator[SnowflakeDouble]:
    """The account, which each test leaves calm."""
    yield snowflake_account
    snowflake_account.calm()


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
