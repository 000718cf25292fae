"""What tests of the double say in a word: run this, stop that, what is its status."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import ProgrammingError

from adapters.snowflake.account import Account, SignIn, TokenKind
from adapters.snowflake.adapter import SnowflakeAdapter
from control_plane.jobs import Handle
from control_plane.work import Claim
from tests.narrative import PLANE
from tests.snowflake import ENDLESS, UNDER_WAY, SnowflakeDouble, until
from workers.engines.base import Ending
from workers.engines.snowflake import SnowflakeEngine

WAREHOUSE = "COMPUTE_WH"
PATIENCE_SECONDS = 60.0
CANCELED = 604
TERMINATED = "query [{}] terminated."
NOT_EXECUTING = "Identified SQL statement is not currently executing."
RUNNING = UNDER_WAY
ENDED = {"SUCCESS", "FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT", "ABORTED"}
UNKNOWN = {"NO_DATA", "DISCONNECTED"}


def new_user(double: SnowflakeDouble) -> str:
    name = f"U_{secrets.token_hex(4)}".upper()
    double.administer(
        f"CREATE ROLE {name}",
        f"CREATE USER {name} PASSWORD = '{name.lower()}' DEFAULT_ROLE = {name}",
        f"GRANT ROLE {name} TO USER {name}",
    )
    return name


def account_of(double: SnowflakeDouble, database: str) -> Account:
    """The account as Countermand is told of it."""
    address = double.options("NOBODY")
    return Account(
        account=address["account"],
        database=database,
        host=address["host"],
        port=address["port"],
        protocol="http",
        warehouse=WAREHOUSE,
    )


def signs_in(double: SnowflakeDouble, user: str) -> SignIn:
    """As the user, by a token that nobody else has."""
    token = secrets.token_urlsafe(16)
    double.issue_oauth_token(user, token)
    return SignIn(user=user, token=SecretStr(token), token_kind=TokenKind.OAUTH)


def adapter_of(
    double: SnowflakeDouble,
    user: str = "CANCELLER",
    *,
    warehouse: str = WAREHOUSE,
    timeout_seconds: float = 10.0,
    **options: Any,
) -> SnowflakeAdapter:
    """A worker's adapter, signed in as the user; short time-outs are for tests that wait until one is over."""
    return SnowflakeAdapter(
        double.account(warehouse=warehouse),
        double.sign_in(user),
        installation="tests",
        data_plane_id=PLANE,
        timeout_seconds=timeout_seconds,
        **options,
    )


class BoundedEngine(SnowflakeEngine):
    """Waits for no start and no end beyond a test's patience: interrupted from outside, its loop would hang."""

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await super().start(claim, permit_left)

    async def follow(self, handle: Handle) -> Ending:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await super().follow(handle)


@asynccontextmanager
async def opened(
    account: Account, who: SignIn, *, kind: type[SnowflakeEngine] = BoundedEngine, **options: Any
) -> AsyncIterator[SnowflakeEngine]:
    """An executor's engine; in the end it has stopped what it ran."""
    engine = await kind.open(account, who, **{"timeout_seconds": 5.0} | options)
    try:
        yield engine
    finally:
        await engine.aclose()


def rows(connection: SnowflakeConnection, sql: str, *bound: Any) -> list[Any]:
    with connection.cursor() as cursor:
        return cursor.execute(sql, bound or None, _force_qmark_paramstyle=bool(bound)).fetchall()


def value(connection: SnowflakeConnection, sql: str, *bound: Any) -> Any:
    return rows(connection, sql, *bound)[0][0]


def submit(connection: SnowflakeConnection, sql: str = ENDLESS, **parameters: str) -> str:
    with connection.cursor() as cursor:
        query_id = cursor.execute_async(sql, _statement_params=parameters)["queryId"]
    assert query_id is not None
    return query_id


def submit_executing(double: SnowflakeDouble, connection: SnowflakeConnection, **parameters: str) -> str:
    query_id = submit(connection, **parameters)
    until(lambda: double.is_executing(query_id))
    return query_id


def cancel(connection: SnowflakeConnection, *query_ids: str) -> list[str]:
    calls = ", ".join(f"SYSTEM$CANCEL_QUERY('{query_id}')" for query_id in query_ids)
    return list(rows(connection, f"SELECT {calls}")[0])


def abort(connection: SnowflakeConnection, query_id: str) -> bool:
    with connection.cursor() as cursor:
        return cursor.abort_query(query_id)


def status(connection: SnowflakeConnection, query_id: str) -> str:
    return connection.get_query_status(query_id).name


def until_status(connection: SnowflakeConnection, query_id: str, wanted: str) -> None:
    until(lambda: status(connection, query_id) == wanted)


def error_of(connection: SnowflakeConnection, query_id: str) -> tuple[int | None, str]:
    with pytest.raises(ProgrammingError) as raised:
        connection.get_query_status_throw_if_error(query_id)
    return raised.value.errno, str(raised.value.raw_msg)


def history(connection: SnowflakeConnection, tag: str, arguments: str = "") -> list[Any]:
    return rows(
        connection,
        f"SELECT QUERY_ID, EXECUTION_STATUS FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY({arguments}))"
        " WHERE QUERY_TAG = ? ORDER BY START_TIME",
        tag,
    )


def new_tag() -> str:
    return f"countermand:{uuid4()}:run"
