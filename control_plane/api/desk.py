"""What the API's handlers work with: the store, by way of threads, and the news of planes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog
from litestar.di import NamedDependency

from control_plane.api.callers import Callers
from control_plane.api.together import Together
from control_plane.api.wakeups import Wakeups, Work
from control_plane.dispatch import Dispatch
from control_plane.errors import BadInput, CountermandError, StoreUnavailable
from control_plane.intake import CancellationRequest, Intake, no_plane
from control_plane.jobs import Job
from control_plane.migrations import check_migrated
from control_plane.planes import DataPlane
from control_plane.policy import Policy
from control_plane.presence import Beat, Presences
from control_plane.store import Store
from control_plane.tally import Tally
from control_plane.tokens import Caller, Tokens
from control_plane.work import News

log = structlog.get_logger()

Answer = TypeVar("Answer")

LOOK_AGAIN_SECONDS = 1.0  #: a request that nobody told of is found after so long
BEATS_SECONDS = 0.1  #: a heartbeat waits for others: nobody hurries for its answer
THREADS = 8  #: as many calls reach the store at a time; the rest waits its turn


class Desk:
    """One server's way to its store."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self.tally = Tally()
        self._intake = Intake(store, policy, tally=self.tally)
        self.dispatch = Dispatch(store, self.tally)
        self.presences = Presences(store)
        self.tokens = Tokens(store)
        self.wakeups = Wakeups()
        self.callers = Callers(Together(self.tokens.authenticate, self._hand_off), self.tokens, self.call)
        self._cancellations: Together[CancellationRequest, Job] = Together(
            self._intake.request_cancellations, self._hand_off
        )
        self._beats: Together[Beat, DataPlane] = Together(
            self._note, self._hand_off, at_most=1_000, linger_seconds=BEATS_SECONDS
        )

    def _note(self, beats: Sequence[Beat]) -> Sequence[DataPlane | CountermandError]:
        noted = self._intake.planes_in(self.presences.note(beats))
        return [noted.get(beat.data_plane_id) or no_plane(beat.data_plane_id) for beat in beats]

    def _hand_off(self, call: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def call(self, call: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
        """What *call* answers, in a thread."""
        answer: Answer = await self._hand_off(partial(call, *arguments, **named))
        return answer

    def intake(self, caller: Caller) -> Intake:
        """The store as the caller may see it."""
        return self._intake.within(caller.scope)

    async def request_cancellation(self, job_id: UUID, caller: Caller, reason: str | None) -> Job:
        """Ask for a cancellation, together with whoever asks for one in the same moment."""
        job = await self._cancellations.ask(CancellationRequest(job_id, caller.source, reason, caller.scope))
        self.wakeups.tell(job.data_plane_id, News.CANCELLATIONS)
        return job

    async def beat(self, beat: Beat) -> DataPlane:
        """Note a heartbeat, together with those of the same moment, and answer the plane as its owner sees it."""
        return await self._beats.ask(beat)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look once a second for everybody who waits, and whether they may."""
        task = asyncio.create_task(self._look_each_second())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_each_second(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(LOOK_AGAIN_SECONDS - now % LOOK_AGAIN_SECONDS)  # on the second, when long polls end
            try:
                await self.look_for_all()
            except CountermandError:
                log.debug("look_missed", exc_info=True)  # whoever asks is told, and the listener has said so
            except Exception:
                log.exception("look_failed")

    async def look_for_all(self) -> None:
        """One look for every long poll: a few statements, however many there are."""
        await self.wakeups.look_for_all(partial(self.call, self._find_work))
        await self.callers.look_through()

    def _find_work(self, of_cancellers: Sequence[UUID], of_executors: Sequence[UUID]) -> Work:
        return Work(self.dispatch.due(of_cancellers), self.dispatch.pending(of_executors))

    async def check_ready(self) -> None:
        """Raise StoreUnavailable or NotMigrated unless the database is there and migrated."""
        try:
            await self.call(check_migrated, self._store)
        except BadInput as error:  # the URL was right when we started: now nobody lets us in
            raise StoreUnavailable(error.message) from error

    def close(self) -> None:
        """Let calls end that have begun, and begin no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


GivenDesk = NamedDependency[Desk]  #: as a handler asks for it
