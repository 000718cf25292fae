"""One job's own session: opened by a statement that a canceller can find, used for one submission, and signed out."""

import asyncio
from collections.abc import Mapping
from typing import Self

from snowflake.connector import aio
from snowflake.connector.errors import Error, InternalError

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import QUERY_ID, SESSION_LOST, LineError, close_quietly, sign_in, translated
from control_plane.jobs import Purpose, Waiting, with_purpose

OPENING = "SELECT CURRENT_SESSION(), CURRENT_REGION(), CURRENT_ACCOUNT()"


class JobSession:
    """Known to the account by *number*; *incarnation* is the account that it is in. Both are there once it is open.

    A job never has two of them that were opened: whoever ends the one that it is found by has closed the job.
    """

    number: int
    incarnation: str

    def __init__(
        self, connection: aio.SnowflakeConnection, account: Account, who: SignIn, tag: str, timeout_seconds: float
    ) -> None:
        self._connection = connection
        self._account = account
        self._who = who
        self._tag = tag
        self._timeout_seconds = timeout_seconds

    @classmethod
    async def signed_in(
        cls, account: Account, who: SignIn, tag: str, *, timeout_seconds: float, limits: Mapping[str, str]
    ) -> Self:
        """Sign in under the job's tag, with *limits* as the session's parameters; nobody can find it yet.

        Raises LineError, and may be tried again.
        """
        connection = await sign_in(
            account, who, timeout_seconds=timeout_seconds, with_warehouse=True, QUERY_TAG=tag, **limits
        )
        return cls(connection, account, who, tag, timeout_seconds)

    async def open(self) -> None:
        """Let the session be found; may be tried again, in this very session, unless :meth:`is_lost` after it.

        Raises LineError.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                mark = with_purpose(self._tag, Purpose.SESSION)
                number, region, name = await _asked(self._connection, OPENING, mark)
        except Error as error:
            raise translated(error, self._account, self._who) from error
        except TimeoutError as error:
            detail = f"{self._account.account} did not open a session within {self._timeout_seconds:g} s"
            raise LineError(Waiting.PLANE_SILENT, detail) from error
        self.number, self.incarnation = int(number), f"{region}.{name}"

    def is_lost(self, error: LineError) -> bool:
        """Whether nothing can be run in it any more, by what opening it raised."""
        return error.code in SESSION_LOST or self._connection.is_closed()

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
