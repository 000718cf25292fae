"""What every long-running process of ours has: signals, ticks, wake-ups, and a drain."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from typing import Protocol
from uuid import UUID

import structlog

from control_plane.errors import StoreUnavailable
from control_plane.work import News
from workers.clock import Clock
from workers.duties import Duty, scheduled

log = structlog.get_logger()

#: Of a process that a second signal ended before its drain had.
EXIT_CUT_SHORT = 1
NOTHING: Mapping[News, asyncio.Event] = {}
STOPS = (signal.SIGTERM, signal.SIGINT)
#: A signal that comes again so soon is an echo: ``timeout`` signals a process, and then its group.
ECHO_SECONDS = 0.5
_LISTEN_AGAIN_SECONDS = 5.0


class Wakes(Protocol):
    """A source of wake-ups: readable when there is news."""

    def fileno(self) -> int:
        """The socket to wait on."""

    def news(self) -> Iterator[tuple[UUID, News]]:
        """The planes that were told of, and of what each has news."""

    def close(self) -> None:
        """Stop listening."""


class Daemon:
    """One process: *stopping* is set by its first signal; a second one, unless an echo of it, ends it at once."""

    def __init__(self, clock: Clock) -> None:
        self.stopping = asyncio.Event()
        self._asked_at = 0.0
        self._clock = clock

    async def run(
        self,
        work: Awaitable[None],
        *,
        duties: Sequence[Duty],
        woken: Mapping[News, asyncio.Event] = NOTHING,
        planes: AbstractSet[UUID] = frozenset(),
        listen: Callable[[], Wakes] | None = None,
        reload: Callable[[], None] | None = None,
    ) -> None:
        """Do *work* until it ends by itself, with ticks and, where there are any, wake-ups for *planes*, a live set.

        *woken*: the event that each kind of news sets.
        *reload* is called on SIGHUP, in the event loop. Whatever it raises is logged, and changes nothing.
        """
        scheduler = scheduled(duties)
        listening = asyncio.create_task(self._listen(listen, woken, planes)) if listen else None
        try:
            with self._signals([*woken.values(), *(duty.event for duty in duties)], reload):
                await work
        finally:
            scheduler.shutdown(wait=False)
            if listening:
                listening.cancel()
                with suppress(asyncio.CancelledError):
                    await listening

    # --- signals ---

    @contextmanager
    def _signals(self, events: Sequence[asyncio.Event], reload: Callable[[], None] | None) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._signalled, number.name, events)
        loop.add_signal_handler(signal.SIGHUP, _reload, reload)
        try:
            yield
        finally:
            for number in (*STOPS, signal.SIGHUP):
                loop.remove_signal_handler(number)
                if self.stopping.is_set():  # what was asked for is done
                    signal.signal(number, signal.SIG_IGN)

    def _signalled(self, name: str, events: Sequence[asyncio.Event]) -> None:
        if not self.stopping.is_set():
            self._stop(name, events)
        elif self._clock.monotonic() - self._asked_at >= ECHO_SECONDS:
            log.warning("cut_short", signal=name)
            asyncio.get_running_loop().call_soon(os._exit, EXIT_CUT_SHORT)  # the log's line comes first

    def _stop(self, name: str, events: Sequence[asyncio.Event]) -> None:
        log.info("stop_requested", signal=name)
        self._asked_at = self._clock.monotonic()
        self.stopping.set()
        for event in events:
            event.set()

    # --- wake-ups ---

    async def _listen(
        self, listen: Callable[[], Wakes], woken: Mapping[News, asyncio.Event], planes: AbstractSet[UUID]
    ) -> None:
        """Set the events on news of our planes. Lost wake-ups cost only time: the tick finds the work."""
        deaf = False
        while True:
            try:
                wakes = await asyncio.to_thread(listen)
            except StoreUnavailable as error:
                deaf = deaf or self._tell_deaf(error)
                await self._clock.pause(_LISTEN_AGAIN_SECONDS)
                continue
            for event in woken.values():  # whatever was told of before we listened
                event.set()
            try:
                await self._hear(wakes, woken, planes)
            except StoreUnavailable as error:
                deaf = self._tell_deaf(error)
            finally:
                wakes.close()

    def _tell_deaf(self, error: StoreUnavailable) -> bool:
        log.warning("wake_ups_lost", error=error.message)
        return True

    async def _hear(self, wakes: Wakes, woken: Mapping[News, asyncio.Event], planes: AbstractSet[UUID]) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        descriptor = wakes.fileno()  # asked once: a connection that was lost has none
        loop.add_reader(descriptor, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                for news in {news for data_plane_id, news in wakes.news() if data_plane_id in planes}:
                    if news in woken:
                        woken[news].set()
        finally:
            loop.remove_reader(descriptor)


def _reload(reload: Callable[[], None] | None) -> None:
    if reload is None:
        log.warning("reload_not_supported", signal="SIGHUP")
        return
    try:
        reload()
    except Exception:
        log.exception("reload_failed")
