"""The line to an account: one session, made anew when it is lost; every call bounded in time, every error translated.

Some calls of the connector (``abort_query``, ``execute_async``) hang beyond all of its own time-outs when the server
does (measured with 5.2.0), so that each is bounded here once more.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from snowflake.connector import aio
from snowflake.connector.errors import Error, ProgrammingError

from adapters.base import Trouble
from adapters.snowflake.account import SIGN_IN_SECONDS, Account, SignIn
from adapters.snowflake.words import Fate
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Waiting

Answer = TypeVar("Answer")
Row = tuple[Any, ...]

#: The session, or what signs it in, is no longer good; no statement was looked at.
SESSION_LOST = frozenset({390104, 390111, 390112, 390114, 390195})
#: The login was refused, and will be until somebody mends it.
SIGN_IN_REFUSED = frozenset({390100, 390101, 390144, 390189, 390303, 390318, 394400})
NOT_ALLOWED = frozenset({2003, 3001, 3013})  #: 2003: "does not exist or not authorized"
NO_WAREHOUSE = 606
QUERY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
PLAIN_NAME = re.compile(r"[A-Z_][A-Z0-9_$]*")
AT_ONCE = 100  #: status and abort calls under way together


class LineError(EngineUnavailable):
    """The account gave no answer that proves anything; *trouble* says why, *code* is Snowflake's own, if it spoke."""

    def __init__(self, waiting: Waiting, detail: str, code: int | None = None) -> None:
        super().__init__(detail)
        self.trouble = Trouble(waiting, detail)
        self.code = code


class Identity(NamedTuple):
    """Which account answers, and whom it takes us for. *incarnation* is the account's name, unique with its region."""

    incarnation: str
    user: str


class Line:
    """A session of *sign_in* for asking and telling, never for a job; its statements carry *tag*.

    Every call raises LineError, within *timeout_seconds* (and the time to sign in where that is needed).
    *with_warehouse*: its statements may compute, and may cost credits.
    """

    def __init__(
        self, account: Account, sign_in: SignIn, *, timeout_seconds: float, tag: str, with_warehouse: bool = False
    ) -> None:
        self._account = account
        self._sign_in = sign_in
        self._timeout_seconds = timeout_seconds
        self._tag = tag
        self._with_warehouse = with_warehouse
        self._signing_in = asyncio.Lock()
        self._connection: aio.SnowflakeConnection | None = None
        self._identity: Identity | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def identity(self) -> Identity:
        """Which account answers, and whom it takes us for."""
        if self._identity is None:
            [(region, account, user)] = await self.ask("SELECT CURRENT_REGION(), CURRENT_ACCOUNT(), CURRENT_USER()")
            self._identity = Identity(f"{region}.{account}", user)
        return self._identity

    async def still_in(self, incarnation: str) -> None:
        """Raise LineError where a session that was lost meanwhile was made anew in another account."""
        here = await self.identity()
        if here.incarnation != incarnation:
            detail = f"{here.incarnation} answers where {incarnation} did a moment ago"
            raise LineError(Waiting.PLANE_SILENT, detail)

    async def ask(self, sql: str, *, tag: str | None = None) -> list[Row]:
        """The rows that one statement answers."""

        async def execute(connection: aio.SnowflakeConnection) -> list[Row]:
            async with connection.cursor() as cursor:
                await cursor.execute(sql, _statement_params={"QUERY_TAG": tag or self._tag})
                return list(await cursor.fetchall())

        return await self._call(execute)

    async def tell(self, sql: str) -> list[Row]:
        """The same for a statement that stops something: it goes on when whoever asked for it is cancelled.

        The connector would abort it, and with it the stop (measured with 5.2.0).
        """
        return await asyncio.shield(asyncio.ensure_future(self.ask(sql)))

    async def result(self, query_id: str) -> list[Row]:
        """The rows that a query of this user answered, in whichever session; it has succeeded."""

        async def fetch(connection: aio.SnowflakeConnection) -> list[Row]:
            async with connection.cursor() as cursor:
                await cursor.get_results_from_sfqid(query_id)
                return list(await cursor.fetchall())

        return await self._call(fetch)

    async def fates(self, query_ids: Collection[str]) -> Mapping[str, Fate]:
        """What the account says of these queries, each by its own status; what it did not answer for is left out."""
        return await self._each(query_ids, _fate)

    async def abort(self, query_ids: Collection[str]) -> Mapping[str, bool]:
        """Send an abort request for each; False for every kind of refusal, and for what has ended."""
        return await asyncio.shield(asyncio.ensure_future(self._each(query_ids, _abort)))

    async def aclose(self) -> None:
        """Sign out."""
        if self._connection is not None:
            self._let_go(self._connection)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # --- inside

    async def _each(
        self, query_ids: Collection[str], ask: Callable[[aio.SnowflakeConnection, str], Awaitable[Answer]]
    ) -> Mapping[str, Answer]:
        """Ask about each by itself, many at a time: what goes wrong with one is no answer for that one alone."""
        wanted = list(query_ids)

        async def ask_all(connection: aio.SnowflakeConnection) -> dict[str, Answer]:
            room = asyncio.Semaphore(AT_ONCE)

            async def one(query_id: str) -> Answer | BaseException:
                async with room:
                    try:
                        return await ask(connection, query_id)
                    except Error as error:
                        if error.errno in SESSION_LOST:
                            raise
                        return error

            answers = await asyncio.gather(*map(one, wanted))
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            if failed and len(failed) == len(wanted):
                raise failed[0]
            return {
                query_id: answer
                for query_id, answer in zip(wanted, answers, strict=True)
                if not isinstance(answer, BaseException)
            }

        return await self._call(ask_all) if wanted else {}

    async def _call(self, ask: Callable[[aio.SnowflakeConnection], Awaitable[Answer]]) -> Answer:
        try:
            return await self._once(ask)
        except LineError as error:
            if error.code not in SESSION_LOST:
                raise
        return await self._once(ask)  # in a new session: in the lost one nothing was looked at

    async def _once(self, ask: Callable[[aio.SnowflakeConnection], Awaitable[Answer]]) -> Answer:
        connection = await self._connected()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await ask(connection)
        except TimeoutError as error:
            self._let_go(connection)
            detail = f"{self._account.account} did not answer within {self._timeout_seconds:g} s"
            raise LineError(Waiting.PLANE_SILENT, detail) from error
        except Error as error:
            if error.errno in SESSION_LOST or connection.is_closed():
                self._let_go(connection)
            raise translated(error, self._account, self._sign_in) from error

    async def _connected(self) -> aio.SnowflakeConnection:
        async with self._signing_in:
            if self._connection is None:
                self._connection = await sign_in(
                    self._account,
                    self._sign_in,
                    timeout_seconds=self._timeout_seconds,
                    with_warehouse=self._with_warehouse,
                    QUERY_TAG=self._tag,
                )
            return self._connection

    def _let_go(self, connection: aio.SnowflakeConnection) -> None:
        """Nobody waits for its logout: where the session was lost, that fails, and where the server hangs, it lasts."""
        if self._connection is connection:
            self._connection = self._identity = None  # where the next one is signed in is asked anew
        task = asyncio.create_task(close_quietly(connection, self._timeout_seconds))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def sign_in(
    account: Account, who: SignIn, *, timeout_seconds: float, with_warehouse: bool = False, **parameters: str
) -> aio.SnowflakeConnection:
    """A new session with these parameters. Raises LineError."""
    options = account.options(who, timeout_seconds=timeout_seconds, with_warehouse=with_warehouse, **parameters)
    try:
        async with asyncio.timeout(SIGN_IN_SECONDS + 1):
            return await aio.connect(**options)
    except TimeoutError as error:
        detail = f"{account.account} did not let {who.user} sign in within {SIGN_IN_SECONDS} s"
        raise LineError(Waiting.PLANE_SILENT, detail) from error
    except Error as error:
        raise translated(error, account, who) from error


async def close_quietly(connection: aio.SnowflakeConnection, timeout_seconds: float) -> None:
    """Sign out, if the account lets us; what still runs in the session may be stopped by that."""
    with contextlib.suppress(Error, TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await connection.close(retry=False)


def translated(error: Error, account: Account, who: SignIn) -> LineError:
    """Snowflake's or the connector's error in our words, with what would mend it where that is known."""
    said = " ".join(str(error.raw_msg or error).split()) or type(error).__name__
    if error.errno in SIGN_IN_REFUSED:
        return LineError(Waiting.NOT_PERMITTED, f"{account.account} refused {who.user}: {said}", error.errno)
    if error.errno in NOT_ALLOWED:
        return LineError(Waiting.NOT_PERMITTED, f"{who.user} may not: {said}", error.errno)
    if error.errno == NO_WAREHOUSE:
        return LineError(
            Waiting.ADAPTER_ERROR,
            f"{who.user} needs a warehouse for this, and cancelling is not to start any: {said}",
            error.errno,
        )
    if isinstance(error, ProgrammingError) and error.errno not in SESSION_LOST:
        return LineError(Waiting.ADAPTER_ERROR, f"{account.account} answered: {said}", error.errno)
    return LineError(Waiting.PLANE_SILENT, f"{account.account} cannot be reached: {said}", error.errno)


async def _fate(connection: aio.SnowflakeConnection, query_id: str) -> Fate:
    """In one round trip where the connector lets us have the whole answer, which it keeps to itself (5.2.0)."""
    ask = getattr(connection, "_get_query_status_with_response", None)
    if ask is None:
        return await fate_by_public_calls(connection, query_id)
    status, told = await ask(query_id)
    if not connection.is_an_error(status):
        return Fate(status.name, ended_at=_moment(told.end_time))
    code = told.error_code if told.HasField("error_code") else None
    return Fate(status.name, code, told.error_message, _moment(told.end_time))


def _moment(milliseconds: int) -> datetime | None:
    """The moment so long after 1970; a query that has no end is said to have ended then."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds > 0 else None


async def fate_by_public_calls(connection: aio.SnowflakeConnection, query_id: str) -> Fate:
    """The same, but for its end, in two round trips where it failed."""
    status = await connection.get_query_status(query_id)
    if not connection.is_an_error(status):
        return Fate(status.name)
    try:
        await connection.get_query_status_throw_if_error(query_id)
    except ProgrammingError as error:
        if error.sfqid != query_id:  # not the query's own error, but that of asking
            raise
        return Fate(status.name, error.errno, str(error.raw_msg or ""))
    return Fate(status.name)


async def _abort(connection: aio.SnowflakeConnection, query_id: str) -> bool:
    async with connection.cursor() as cursor:
        return bool(await cursor.abort_query(query_id))


def literal(text: str) -> str:
    """The text as SQL: Snowflake reads backslashes within quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def user_name(user: str) -> str:
    """The user's name as functions take it: within double quotes where it is not all capitals (documented)."""
    return user if PLAIN_NAME.fullmatch(user) else '"' + user.replace('"', '""') + '"'


def literals(texts: Sequence[str]) -> str:
    """The texts as the inside of an IN list, which may not be empty."""
    return ", ".join(map(literal, texts)) or "NULL"
