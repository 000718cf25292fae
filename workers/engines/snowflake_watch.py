"""Looks after queries until they have ended: one round of status calls for all of them, however many there are."""

import asyncio
from functools import partial

from adapters.base import ENDED
from adapters.snowflake.line import Line
from adapters.snowflake.words import Fate
from workers.outage import Outage

SHORTEST_SECONDS = 0.05
LONGEST_SECONDS = 1.0


class Watch:
    """Asks by each query's own status: quickly while something changes, slower and slower while nothing does."""

    def __init__(self, line: Line, outage: Outage) -> None:
        self._line = line
        self._outage = outage
        self._awaited: dict[str, asyncio.Future[Fate]] = {}
        self._statuses: dict[str, str] = {}
        self._news = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None

    async def end_of(self, query_id: str) -> Fate:
        """How the query ended, once the account says so, however long it is silent or knows nothing."""
        if query_id not in self._awaited:
            self._awaited[query_id] = asyncio.get_running_loop().create_future()
            self._news.set()
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._look_until_all_have_ended())
            self._rounds.add_done_callback(self._give_up)
        return await asyncio.shield(self._awaited[query_id])

    async def aclose(self) -> None:
        """Look no more; who still waits is cancelled."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])

    async def _look_until_all_have_ended(self) -> None:
        pause = SHORTEST_SECONDS
        while self._awaited:
            self._news.clear()
            changed = await self._look()
            pause = SHORTEST_SECONDS if changed else min(2 * pause, LONGEST_SECONDS)
            if self._awaited and await self._heard_news(within_seconds=pause):
                pause = SHORTEST_SECONDS

    async def _look(self) -> bool:
        """Whether anything has changed. What the account does not answer for has not ended."""
        fates = await self._outage.outlast(partial(self._line.fates, list(self._awaited)))
        before, self._statuses = self._statuses, {query_id: fate.status for query_id, fate in fates.items()}
        for query_id, fate in fates.items():
            if fate.run_status in ENDED:
                self._awaited.pop(query_id).set_result(fate)
        return before != self._statuses

    async def _heard_news(self, *, within_seconds: float) -> bool:
        try:
            async with asyncio.timeout(within_seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    def _give_up(self, rounds: asyncio.Task[None]) -> None:
        """Nobody may wait for what is no longer looked at."""
        awaited, self._awaited = self._awaited, {}
        for future in awaited.values():
            if rounds.cancelled():
                future.cancel()
            elif (error := rounds.exception()) is not None:
                future.set_exception(error)
