"""A query that only waits, started to see whether it can be seen and stopped: what no list of privileges proves."""

import asyncio
from time import monotonic

from adapters.base import RunStatus
from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.history import History
from adapters.snowflake.line import NOT_ALLOWED, Line, LineError, close_quietly, literal, sign_in
from control_plane.jobs import Waiting

SINGS_SECONDS = 60
_LOOK_SECONDS = 0.05


class Canary:
    """Started as *who*, the executor's user; None where nobody here can sign in as that user."""

    def __init__(self, account: Account, who: SignIn | None, *, tag: str, timeout_seconds: float) -> None:
        self._account = account
        self._who = who
        self._tag = tag
        self._timeout_seconds = timeout_seconds

    async def fly(self, line: Line, history: History, *, as_user: str, of_user: str) -> str:
        """See and stop a query of *of_user* through *line*; one sentence. Raises LineError with what did not work."""
        if self._who is None:
            detail = (
                f"{as_user} signs in, but whether it sees and stops what {of_user} runs was not tried: "
                "how that user signs in is not configured here"
            )
            raise LineError(Waiting.NOT_PERMITTED, detail)
        session = await sign_in(
            self._account, self._who, timeout_seconds=self._timeout_seconds, with_warehouse=True, QUERY_TAG=self._tag
        )
        try:
            async with asyncio.timeout(self._timeout_seconds), session.cursor() as cursor:
                answer = await cursor.execute_async(f"SELECT SYSTEM$WAIT({SINGS_SECONDS})")
            query_id = str(answer["queryId"])
            await self._see(history, query_id, as_user, of_user)
            await self._stop(line, query_id, as_user, of_user)
        except TimeoutError as error:
            detail = f"{of_user} could not start a query within {self._timeout_seconds:g} s"
            raise LineError(Waiting.PLANE_SILENT, detail) from error
        finally:
            await close_quietly(session, self._timeout_seconds)
        return f"{as_user} sees and stops what {of_user} runs"

    async def _see(self, history: History, query_id: str, as_user: str, of_user: str) -> None:
        give_up_at = monotonic() + self._timeout_seconds
        while True:
            reading = await history.of_user(of_user, query_ids=[query_id])
            if reading.entries and not reading.truncated:
                return
            if monotonic() >= give_up_at:
                why = "too many others of that user" if reading.truncated else "may it monitor the warehouse?"
                detail = f"{as_user} is not shown what {of_user} runs, so that absence proves nothing: {why}"
                raise LineError(Waiting.NOT_PERMITTED, detail)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _stop(self, line: Line, query_id: str, as_user: str, of_user: str) -> None:
        await self._tell(line, query_id, of_user)
        give_up_at = monotonic() + self._timeout_seconds
        while True:
            fate = (await line.fates([query_id])).get(query_id)
            if fate is not None and fate.run_status is RunStatus.STOPPED:
                return
            if monotonic() >= give_up_at:
                told = fate.word if fate is not None else "unknown"
                detail = (
                    f"{as_user} told a query of {of_user} to stop, and after {self._timeout_seconds:g} s it is {told}"
                )
                raise LineError(Waiting.STILL_RUNNING, detail)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _tell(self, line: Line, query_id: str, of_user: str) -> None:
        """Raises LineError, naming the privilege that is missing: Snowflake names none."""
        try:
            await line.tell(f"SELECT SYSTEM$CANCEL_QUERY({literal(query_id)})")
        except LineError as error:
            if error.code not in NOT_ALLOWED:
                raise
            needed = f"OPERATE on the warehouse, or OWNERSHIP of the user {of_user}"
            raise LineError(Waiting.NOT_PERMITTED, f"{error.message} (needed: {needed})", error.code) from error
