"""Who waits for a plane's news: long polls sleep until there is some, or until their time is up.

News may get lost, SQLite tells none of other processes, and a postponed cancellation comes due without any. So once a
second one look is taken for everybody who waits, never one for each.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import StoreUnavailable
from control_plane.jobs import JobType
from control_plane.notify import Listener

log = structlog.get_logger()

Found = TypeVar("Found")

_LISTEN_AGAIN_SECONDS = 5.0
_WATCH_SECONDS = 5.0  #: a plane whose last poll has ended; the next one usually comes at once


class Wish(NamedTuple):
    """What a long poll waits for besides news: due cancellations, or pending jobs of these types."""

    cancellations: bool = False
    jobs: frozenset[JobType] = frozenset()


class Work(NamedTuple):
    """What one look has found."""

    open: Mapping[UUID, bool]  #: the planes that have unsettled cancellations, and whether one of them can be claimed
    pending: AbstractSet[tuple[UUID, JobType]]  #: which jobs nobody has started, on which planes


class _Poll:
    """One long poll that waits."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.woken = asyncio.Event()
        self.has_looked = False

    async def look(self, look: Callable[[], Awaitable[Found]]) -> Found:
        """What is there now; what comes later wakes it again."""
        self.woken.clear()
        self.has_looked = True
        return await look()

    async def news(self, until: float) -> bool:
        """Wait for news; False where none came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self.woken.wait()
        return self.woken.is_set()

    def wants(self, work: Work, data_plane_id: UUID) -> bool:
        """Whether there is something for it. The lease of one that has not looked may hold what is claimed already."""
        if self.wish.cancellations and data_plane_id in work.open:
            return work.open[data_plane_id] or not self.has_looked
        return any((data_plane_id, kind) in work.pending for kind in self.wish.jobs)


class _Plane:
    """A plane for which somebody waits, or did a moment ago."""

    def __init__(self) -> None:
        self.polls: set[_Poll] = set()
        self.news = 0  #: so many were told
        self.is_quiet = False  #: the latest look found no open cancellation, and no news came since
        self.left_at = 0.0

    def tell(self) -> None:
        self.news += 1
        self.is_quiet = False
        for poll in self.polls:
            poll.woken.set()


class Wakeups:
    """The long polls of one server, by plane."""

    def __init__(self) -> None:
        self._planes: dict[UUID, _Plane] = {}
        self.stopping = False

    def tell(self, data_plane_id: UUID) -> None:
        """The plane has news."""
        if plane := self._planes.get(data_plane_id):
            plane.tell()

    def stop(self) -> None:
        """Let everybody go, and hold nobody from now on: the server ends."""
        self.stopping = True
        for plane in self._planes.values():
            plane.tell()

    async def poll(
        self,
        data_plane_id: UUID,
        seconds: float,
        look: Callable[[], Awaitable[Found]],
        found: Callable[[Found], bool],
        until_gone: Callable[[], Coroutine[Any, Any, None]],
        *,
        wish: Wish,
        nothing: Found,
    ) -> Found:
        """Look until something is *found*, now and with each news, for so long at most; else the latest answer.

        While a plane is known to be quiet there is *nothing* to look for now. *until_gone* ends when whoever asked has
        gone: then nothing is looked for any more, for it would be claimed for nobody.
        """
        if seconds <= 0:
            return await look()
        until, answer = asyncio.get_running_loop().time() + seconds, nothing
        with self._waiting(data_plane_id, wish) as (plane, poll), _set_at_the_end_of(until_gone(), poll.woken) as gone:
            if not (wish.cancellations and plane.is_quiet):
                answer = await poll.look(look)
            while not found(answer) and not self.stopping and await poll.news(until) and not gone.done():
                answer = await poll.look(look)
        return answer

    async def look_for_all(self, find: Callable[[Sequence[UUID], Sequence[UUID]], Awaitable[Work]]) -> None:
        """One look for everybody: *find* is given the planes whose cancellations count, and those whose jobs do."""
        self._forget()
        news = {data_plane_id: plane.news for data_plane_id, plane in self._planes.items()}
        jobs = [key for key, plane in self._planes.items() if any(poll.wish.jobs for poll in plane.polls)]
        if not news:
            return
        work = await find(list(news), jobs)
        for data_plane_id, before in news.items():
            if plane := self._planes.get(data_plane_id):
                plane.is_quiet = data_plane_id not in work.open and plane.news == before
                for poll in plane.polls:
                    if poll.wants(work, data_plane_id):
                        poll.woken.set()

    def _forget(self) -> None:
        since = asyncio.get_running_loop().time() - _WATCH_SECONDS
        for data_plane_id in [key for key, plane in self._planes.items() if not plane.polls and plane.left_at < since]:
            del self._planes[data_plane_id]

    @contextmanager
    def _waiting(self, data_plane_id: UUID, wish: Wish) -> Iterator[tuple[_Plane, _Poll]]:
        plane, poll = self._planes.setdefault(data_plane_id, _Plane()), _Poll(wish)
        plane.polls.add(poll)
        try:
            yield plane, poll
        finally:
            plane.polls.discard(poll)
            plane.left_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def listening(self, open_listener: Callable[[], Listener] | None) -> AsyncIterator[None]:
        """Hear the database's news, also of what other servers and workers did; SQLite tells none."""
        task = asyncio.create_task(self._listen(open_listener)) if open_listener else None
        try:
            yield
        finally:
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _listen(self, open_listener: Callable[[], Listener]) -> None:
        while True:
            try:
                listener = await asyncio.to_thread(open_listener)
                await self._hear(listener)
            except StoreUnavailable as error:
                log.warning("wake_ups_lost", error=error.message)
                await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _hear(self, listener: Listener) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        descriptor = listener.fileno()
        loop.add_reader(descriptor, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                for data_plane_id in listener.news():
                    self.tell(data_plane_id)
        finally:
            loop.remove_reader(descriptor)
            listener.close()


@contextmanager
def _set_at_the_end_of(coroutine: Coroutine[Any, Any, None], event: asyncio.Event) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda _: event.set())
    try:
        yield task
    finally:
        task.cancel()
