"""What became of a submission that nobody answered: its query may run, or begin later, until the session is ended.

The session is ended first, and only when the account knows it no more is its query looked for. A history that shows
nothing proves nothing by itself, it may lag or be cut off: it counts once it shows a statement that was sent after the
session's end (unverified: that a history shows a user's queries in their order).
"""

import asyncio
from functools import partial

from adapters.snowflake.history import History
from adapters.snowflake.line import Line
from adapters.snowflake.sessions import end_sessions
from control_plane.jobs import Purpose, with_purpose
from workers.outage import Outage

AGAIN_SECONDS = 0.2


class Inquest:
    """Goes on while the account is silent: nothing may be told of the job before it is known."""

    def __init__(self, line: Line, outage: Outage) -> None:
        self._line = line
        self._outage = outage

    async def find(self, session: int, incarnation: str, tag: str) -> str | None:
        """End the session of this account for good; the id of the query that was begun in it under the tag, if any.

        Another account, should one answer here by now, knows neither, and proves nothing.
        """
        while not await self._outage.outlast(partial(self._end, session, incarnation)):  # noqa: ASYNC110
            await asyncio.sleep(AGAIN_SECONDS)
        mark = with_purpose(tag, Purpose.CLEANUP)
        await self._outage.outlast(partial(self._line.ask, f"SELECT 'session {session:d} has ended'", tag=mark))
        while not (found := await self._outage.outlast(partial(self._look, incarnation, tag, mark))):  # noqa: ASYNC110
            await asyncio.sleep(AGAIN_SECONDS)
        return found.get(tag)

    async def _end(self, session: int, incarnation: str) -> bool:
        ended = await end_sessions(self._line, [session])
        await self._line.still_in(incarnation)
        return bool(ended)

    async def _look(self, incarnation: str, tag: str, mark: str) -> dict[str, str]:
        """Query ids by tag, of these two."""
        user = (await self._line.identity()).user
        reading = await History(self._line, prefix=tag).of_user(user, tags=[tag, mark])
        await self._line.still_in(incarnation)
        return {entry.tag: entry.query_id for entry in reading.entries}
