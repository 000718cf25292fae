"""One job's own session: opened by a statement that a canceller can find, used for one submission, and signed out."""

import asyncio
from collections.abc import Mapping
from typing import Self

from snowflake.connector import aio
from snowflake.connector.errors import Error, InternalError

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import QUERY_ID, LineError, close_quietly, sign_in, translated
from control_plane.jobs import Purpose, Waiting, with_purpose

OPENING = "SELECT CURRENT_SESSION(), CURRENT_REGION(), CURRENT_ACCOUNT()"


class JobSession:
    """Known to the account by *number*; *incarnation* is the account that it is in."""

    def __init__(
        self, connection: aio.SnowflakeConnection, tag: str, number: int, incarnation: str, timeout_seconds: float
    ) -> None:
        self.number = number
        self.incarnation = incarnation
        self._connection = connection
        self._tag = tag
        self._timeout_seconds = timeout_seconds

    @classmethod
    async def open(
        cls, account: Account, who: SignIn, tag: str, *, timeout_seconds: float, limits: Mapping[str, str]
    ) -> Self:
        """Sign in under the job's tag, with *limits* as the session's parameters. Raises LineError."""
        connection = await sign_in(
            account, who, timeout_seconds=timeout_seconds, with_warehouse=True, QUERY_TAG=tag, **limits
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                number, region, name = await _asked(connection, OPENING, with_purpose(tag, Purpose.SESSION))
        except (Error, TimeoutError) as error:
            await close_quietly(connection, timeout_seconds)
            if isinstance(error, Error):
                raise translated(error, account, who) from error
            detail = f"{account.account} did not open a session within {timeout_seconds:g} s"
            raise LineError(Waiting.PLANE_SILENT, detail) from error
        return cls(connection, tag, int(number), f"{region}.{name}", timeout_seconds)

    async def submit(self, sql: str) -> str:
        """Submit the job's one statement; answers its query id.

        Whatever is raised, also what sounds like a refusal, leaves open whether the query runs or will.
        """
        async with self._connection.cursor() as cursor:
            answer = await cursor.execute_async(sql, _statement_params={"QUERY_TAG": self._tag})
        query_id = str(answer.get("queryId"))
        if not QUERY_ID.fullmatch(query_id):
            raise InternalError(f"the submission was answered with the query id {query_id}")
        return query_id

    async def sign_out(self) -> None:
        """End the session, if the account lets us. What runs in it may be stopped by that."""
        await close_quietly(self._connection, self._timeout_seconds)


async def _asked(connection: aio.SnowflakeConnection, sql: str, tag: str) -> tuple[str, ...]:
    async with connection.cursor() as cursor:
        await cursor.execute(sql, _statement_params={"QUERY_TAG": tag})
        [row] = await cursor.fetchall()
        return tuple(map(str, row))
