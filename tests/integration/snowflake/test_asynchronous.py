"""The connector's asynchronous side against the double."""

import asyncio
from uuid import uuid4

import pytest
from snowflake.connector.constants import QueryStatus

from tests.integration.snowflake.given import TERMINATED, WAREHOUSE
from tests.snowflake import ENDLESS, QUICK, SnowflakeDouble, until


@pytest.mark.anyio
async def test_the_asynchronous_connector_runs_follows_and_cancels(double: SnowflakeDouble) -> None:
    connection = await double.connect_async("EXECUTOR", warehouse=WAREHOUSE)
    async with connection, connection.cursor() as cursor:
        submitted = await cursor.execute_async(ENDLESS)
        query_id = str(submitted["queryId"])
        await cursor.execute(f"SELECT SYSTEM$CANCEL_QUERY('{query_id}')")
        answer = await cursor.fetchone()
        async with asyncio.timeout(60):
            while (ended := await connection.get_query_status(query_id)) is QueryStatus.ABORTING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    assert (answer, ended) == ((TERMINATED.format(query_id),), QueryStatus.FAILED_WITH_ERROR)


@pytest.mark.anyio
async def test_cancelling_the_task_that_executes_aborts_its_statement_by_request_id(double: SnowflakeDouble) -> None:
    connection = await double.connect_async("EXECUTOR", warehouse=WAREHOUSE)
    async with connection, connection.cursor() as cursor:
        task = asyncio.create_task(cursor.execute(ENDLESS))
        await asyncio.to_thread(until, lambda: double.state()["executing"])

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: not double.state()["executing"])
    until(double.is_idle)


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["abort_query", "execute_async"])
async def test_a_call_that_no_time_out_of_the_connector_ends_is_ended_by_asyncio(
    double: SnowflakeDouble, call: str
) -> None:
    short = {"request_timeout": 2, "retry_timeout": 2, "query_timeout": 2}
    connection = await double.connect_async("EXECUTOR", warehouse=WAREHOUSE, **short)
    async with connection, connection.cursor() as cursor:
        double.switch(hanging=["abort", "statement"])

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await (cursor.abort_query(str(uuid4())) if call == "abort_query" else cursor.execute_async(QUICK))

        double.switch(hanging=[])
