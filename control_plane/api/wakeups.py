"""Who waits for a plane's news: long polls sleep until there is some, or until their time is up."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import StoreUnavailable
from control_plane.notify import Listener

log = structlog.get_logger()

Found = TypeVar("Found")

LOOK_AGAIN_SECONDS = 1.0  #: news may get lost; SQLite tells none of other processes
_LISTEN_AGAIN_SECONDS = 5.0


class Wakeups:
    """The long polls of one server, by plane. Lost news cost only time: who waits looks again by itself."""

    def __init__(self) -> None:
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self.stopping = False

    def tell(self, data_plane_id: UUID) -> None:
        """The plane has news."""
        for event in self._waiting.get(data_plane_id, ()):
            event.set()

    def stop(self) -> None:
        """Let everybody go, and hold nobody from now on: the server ends."""
        self.stopping = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    @contextmanager
    def waiting(self, data_plane_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when the plane has news, from now on: look for work after this, then wait."""
        event = asyncio.Event()
        self._waiting[data_plane_id].add(event)
        try:
            yield event
        finally:
            self._waiting[data_plane_id].discard(event)
            if not self._waiting[data_plane_id]:
                del self._waiting[data_plane_id]

    async def poll(
        self,
        data_plane_id: UUID,
        seconds: float,
        look: Callable[[], Awaitable[Found]],
        found: Callable[[Found], bool],
        until_gone: Callable[[], Coroutine[Any, Any, None]],
    ) -> Found:
        """Look until something is *found*, anew with each news and every second; for so long at most.

        *until_gone* ends when whoever asked has gone: then nothing is looked for any more, for it would be claimed for
        nobody.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with self.waiting(data_plane_id) as event, _set_at_the_end_of(until_gone(), event) as gone:
            while True:
                event.clear()
                answer, left = await look(), until - loop.time()
                if found(answer) or left <= 0 or self.stopping or gone.done():
                    return answer
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_AGAIN_SECONDS)):
                        await event.wait()
                if gone.done():
                    return answer

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
