"""Sessions of the account's users."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from snowflake.connector import SnowflakeConnection

from adapters.snowflake.account import Account, SignIn
from tests.databases import Databases
from tests.integration.given import Given
from tests.integration.snowflake.cancelling import Site
from tests.integration.snowflake.given import WAREHOUSE, new_user, opened, rows
from tests.snowflake import SnowflakeAccount, SnowflakeDouble
from workers.engines.snowflake import SnowflakeEngine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def double(snowflake_double: SnowflakeDouble) -> SnowflakeDouble:
    """The account, by its short name."""
    return snowflake_double


@pytest.fixture(scope="module")
def url(databases: Databases) -> Iterator[str]:
    """A store on one database is enough where the engine is what is tried."""
    with databases.lend_sqlite() as lent:
        yield lent


@pytest.fixture
def site(given: Given, snowflake: SnowflakeAccount) -> Iterator[Site]:
    """A Snowflake plane with a store and a worker."""
    with ExitStack() as sessions:
        yield Site(given, snowflake, sessions)


@pytest.fixture
def executor(double: SnowflakeDouble) -> Iterator[SnowflakeConnection]:
    """Runs queries."""
    with double.connect("EXECUTOR", warehouse=WAREHOUSE) as connection:
        yield connection


@pytest.fixture
def canceller(double: SnowflakeDouble) -> Iterator[SnowflakeConnection]:
    """May stop and see everything on the executor's warehouse, and has none in use itself."""
    with double.connect("CANCELLER") as connection:
        yield connection


@pytest.fixture
def stranger(double: SnowflakeDouble) -> Iterator[SnowflakeConnection]:
    """May use the executor's warehouse, and has no privilege on anybody's work."""
    with double.connect("STRANGER", warehouse=WAREHOUSE) as connection:
        yield connection


@pytest.fixture
def own_warehouse(double: SnowflakeDouble) -> str:
    """A warehouse that this test may change."""
    name = f"WH_{secrets.token_hex(4)}".upper()
    double.administer(
        f"CREATE WAREHOUSE {name} MAX_CONCURRENCY_LEVEL = 1", f"GRANT USAGE ON WAREHOUSE {name} TO ROLE PUBLIC"
    )
    return name


@pytest.fixture
def own_user(double: SnowflakeDouble) -> str:
    """A user, with a role of the same name, that this test may change."""
    return new_user(double)


@pytest.fixture
def own_database(double: SnowflakeDouble) -> str:
    """A database without anything of ours in it."""
    name = f"DB_{secrets.token_hex(4)}".upper()
    with double.connect("EXECUTOR", warehouse=WAREHOUSE) as connection:
        rows(connection, f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def ours(double: SnowflakeDouble, own_database: str) -> Account:
    """The account as Countermand is told of it, with that database."""
    return double.account(database=own_database, warehouse=WAREHOUSE)


@pytest.fixture
def who(double: SnowflakeDouble) -> SignIn:
    """As whom the executor signs in."""
    return double.sign_in("EXECUTOR")


@pytest.fixture
async def engine(ours: Account, who: SignIn) -> AsyncIterator[SnowflakeEngine]:
    """An executor's engine on that database; in the end it has stopped what it ran."""
    async with opened(ours, who) as engine:
        yield engine
