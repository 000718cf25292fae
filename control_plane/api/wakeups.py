"""Who waits for a plane's news: long polls sleep until there is some, or until their time is up.

News may get lost, SQLite tells none of other processes, and a postponed cancellation comes due without any. So once a
second one look is taken for everybody who waits, never one for each.
"""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import StoreUnavailable
from control_plane.jobs import ExecutionCluster, JobType
from control_plane.notify import Listener
from control_plane.work import News

log = structlog.get_logger()

Found = TypeVar("Found")

_LISTEN_AGAIN_SECONDS = 5.0
_SHARED_FROM_SECONDS = 10.0
_LOOKS_AT_ONCE = 4  #: of one plane's polls, for all its news wake: the other planes' need not wait for their end
_WATCH_SECONDS = 5.0  #: a plane whose last poll has ended; the next one usually comes at once


#: What makes two polls the same: the plane, and the lease or epoch under which it is claimed.
Asked = tuple[UUID, UUID]


class Wish(NamedTuple):
    """What a long poll waits for besides news: due cancellations, or pending jobs of these types, on any cluster
    where it names none."""

    cancellations: bool = False
    jobs: frozenset[JobType] = frozenset()
    clusters: frozenset[ExecutionCluster] = frozenset()

    def kinds(self) -> Iterator[tuple[JobType, ExecutionCluster | None]]:
        """The jobs that it waits for."""
        return itertools.product(self.jobs, self.clusters or (None, *ExecutionCluster))

    @property
    def news(self) -> News:
        """What wakes it; who wishes for nothing waits to be told what to close."""
        return News.JOBS if self.jobs else News.CANCELLATIONS


class Work(NamedTuple):
    """What one look has found."""

    open: Mapping[UUID, bool]  #: the planes that have unsettled cancellations, and whether one of them can be claimed
    pending: AbstractSet[tuple[UUID, JobType, ExecutionCluster | None]]  #: jobs that nobody has started, and where


class _Poll:
    """One long poll that waits."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.woken = asyncio.Event()
        self.has_looked = False
        self.is_repeated = False  #: somebody asks the same anew: nobody hears this one's answer any more
        self.ended = asyncio.Event()

    async def give_way(self) -> None:
        """End without another look, once the look that is under way is over."""
        self.is_repeated = True
        self.woken.set()
        await self.ended.wait()

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
        return any((data_plane_id, kind, cluster) in work.pending for kind, cluster in self.wish.kinds())


class _Plane:
    """A plane for which somebody waits, or did a moment ago."""

    def __init__(self, loud_at: int) -> None:
        self.polls: set[_Poll] = set()
        self.executors = 0  #: so many polls wait for jobs
        self.turns = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self.loud_at = loud_at  #: in which look, or before which, there was something to look for

    def wake(self, which: Callable[[_Poll], bool], loud_at: int) -> None:
        self.loud_at = loud_at
        for poll in self.polls:
            if which(poll):
                poll.woken.set()


class Wakeups:
    """The long polls of one server, by plane. A look costs no step for a plane that it does not name."""

    def __init__(self) -> None:
        self._planes: dict[UUID, _Plane] = {}
        self._left: dict[UUID, float] = {}  #: planes without a poll, and since when
        self._executors: set[UUID] = set()  #: planes with polls that wait for jobs
        self._asked: dict[Asked, _Poll] = {}  #: the latest poll of each lease and epoch
        self._begun = 0  #: looks
        self._ended = 0  #: the latest look that has ended
        self.stopping = False

    def tell(self, data_plane_id: UUID, news: News) -> None:
        """The plane has news of that."""
        if plane := self._planes.get(data_plane_id):
            plane.wake(lambda poll: poll.wish.news is news, self._begun)

    def stop(self) -> None:
        """Let everybody go, and hold nobody from now on: the server ends."""
        self.stopping = True
        for plane in self._planes.values():
            plane.wake(lambda _: True, self._begun)

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
        asked: Asked | None = None,
    ) -> Found:
        """Look until something is *found*, now and with each news, for so long at most; else the latest answer.

        While a plane is known to be quiet there is *nothing* to look for now. *until_gone* ends when whoever asked has
        gone: then nothing is looked for any more, for it would be claimed for nobody. That may never be heard of; so a
        poll also ends when the same is *asked* anew, which looks only after that.
        """
        until, answer = _together(asyncio.get_running_loop().time(), seconds), nothing
        async with self._latest(asked, _Poll(wish)) as poll:
            if poll.is_repeated:
                return nothing
            if seconds <= 0:
                return await look()
            with (
                self._waiting(data_plane_id, poll) as plane,
                _set_at_the_end_of(until_gone(), poll.woken) as gone,
            ):
                if not (wish.cancellations and self._is_quiet(plane)):
                    async with plane.turns:
                        answer = await poll.look(look)
                while not (found(answer) or self.stopping or poll.is_repeated) and await poll.news(until):
                    async with plane.turns:
                        if gone.done() or poll.is_repeated:
                            break
                        answer = await poll.look(look)
        return answer

    @asynccontextmanager
    async def _latest(self, asked: Asked | None, poll: _Poll) -> AsyncIterator[_Poll]:
        """The only poll that asks for this: an earlier one has ended before it begins."""
        if asked is None:
            yield poll
            return
        before, self._asked[asked] = self._asked.get(asked), poll
        try:
            if before is not None:
                await before.give_way()
            yield poll
        finally:
            poll.ended.set()
            if self._asked[asked] is poll:
                del self._asked[asked]

    def _is_quiet(self, plane: _Plane) -> bool:
        """The latest look found no open cancellation of it, and no news came since that look began."""
        return plane.loud_at < self._ended

    async def look_for_all(self, find: Callable[[Sequence[UUID], Sequence[UUID]], Awaitable[Work]]) -> None:
        """One look for everybody: *find* is given the planes whose cancellations count, and those whose jobs do."""
        self._forget()
        if not self._planes:
            return
        self._begun = look = self._begun + 1
        work = await find(list(self._planes), list(self._executors))
        for data_plane_id in {*work.open, *(plane for plane, _, _ in work.pending)}:
            if plane := self._planes.get(data_plane_id):
                plane.wake(lambda poll, on=data_plane_id: poll.wants(work, on), look)  # type: ignore[misc]
        self._ended = look

    def _forget(self) -> None:
        since = asyncio.get_running_loop().time() - _WATCH_SECONDS
        for data_plane_id in [key for key, left_at in self._left.items() if left_at < since]:
            del self._left[data_plane_id], self._planes[data_plane_id]

    @contextmanager
    def _waiting(self, data_plane_id: UUID, poll: _Poll) -> Iterator[_Plane]:
        plane = self._planes.get(data_plane_id)
        if plane is None:
            plane = self._planes[data_plane_id] = _Plane(self._begun)
        self._enter(data_plane_id, plane, poll)
        try:
            yield plane
        finally:
            self._leave(data_plane_id, plane, poll)

    def _enter(self, data_plane_id: UUID, plane: _Plane, poll: _Poll) -> None:
        plane.polls.add(poll)
        self._left.pop(data_plane_id, None)
        if poll.wish.jobs:
            plane.executors += 1
            self._executors.add(data_plane_id)

    def _leave(self, data_plane_id: UUID, plane: _Plane, poll: _Poll) -> None:
        plane.polls.discard(poll)
        if not plane.polls:
            self._left[data_plane_id] = asyncio.get_running_loop().time()
        if poll.wish.jobs:
            plane.executors -= 1
            if not plane.executors:
                self._executors.discard(data_plane_id)

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
                for data_plane_id, news in listener.news():
                    self.tell(data_plane_id, news)
        finally:
            loop.remove_reader(descriptor)
            listener.close()


def _together(now: float, seconds: float) -> float:
    """When a poll ends that waits for so long: a long one together with others on the second, which costs less CPU.

    Up to a tenth earlier, by chance: those who came at once, after the server had been away, do not for ever.
    """
    if seconds < _SHARED_FROM_SECONDS:
        return now + seconds
    return float(math.floor(now + seconds * random.uniform(0.9, 1.0)))  # noqa: S311  # no secret


@contextmanager
def _set_at_the_end_of(coroutine: Coroutine[Any, Any, None], event: asyncio.Event) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda _: event.set())
    try:
        yield task
    finally:
        task.cancel()
