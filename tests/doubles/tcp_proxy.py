"""A TCP proxy that mistreats what passes through it, as networks do: it delays, holds up, resets, and loses answers.

It runs in a thread of the test and may be switched at any moment. Of HTTP it reads the first line of each request, so
that a fault may be confined to some of them.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TypeVar

Answer = TypeVar("Answer")

#: close() sends a reset, and forgets what was not delivered.
AT_ONCE = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What may happen to a connection."""

    DELAY = auto()  #: every part of it travels a while longer
    BLACK_HOLE = auto()  #: nothing arrives, not even an end; afterwards everything does, as TCP sends it again
    RESET = auto()  #: it is reset, whether it is there already or only comes
    WITHHOLD_ANSWERS = auto()  #: its requests arrive, their answers once it is lifted
    LOSE_ANSWERS = auto()  #: its requests arrive, and it is reset in place of the answer


#: What is held up is passed on at the end of these.
HOLDING = (Fault.BLACK_HOLE, Fault.WITHHOLD_ANSWERS)
#: Requests do not meet these.
OF_ANSWERS = (Fault.WITHHOLD_ANSWERS, Fault.LOSE_ANSWERS)


class _CutError(Exception):
    """The connection is to be reset."""


class _Link:
    """A client's connection, and ours to the server for it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.request = ""  #: the first line of the latest
        self.ends = [client]

    def reset(self) -> None:
        for end in self.ends:
            with suppress(OSError):  # it is closed already
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            end.transport.abort()


class TcpProxy:
    """Passes on everything to *upstream* until a fault begins, and again when it has ended."""

    def __init__(self, upstream: tuple[str, int], *, host: str = "127.0.0.1", delay_seconds: float = 0.2) -> None:
        self.requests: list[str] = []  #: the first lines of all that came, in order
        self.met: list[str] = []  #: the first lines of those that the latest fault was met by, once for each time
        self._upstream = upstream
        self._delay_seconds = delay_seconds
        self._fault: Fault | None = None
        self._only = ""
        self._times: int | None = None
        self._calm_at: str | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._calm = asyncio.Event()
        self._calm.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._thread.start()
        server = asyncio.start_server(self._serve, sock=self._listener)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result()

    # --- as tests use it

    def begin(self, fault: Fault, *, only: str = "", times: int | None = None) -> None:
        """From now on mistreat connections, or those whose request's first line has *only* in it, or so many *times*.

        What began before has ended.
        """
        self._at_the_loop(lambda: self._begin(fault, only, times))

    def calm(self) -> None:
        """Pass on everything again, and what was held up first."""
        self._at_the_loop(self._end)

    def calm_when_asked(self, part: str) -> None:
        """The same, as soon as another request comes with *part* in its first line: sooner than a test could see it."""

        def wait() -> None:
            self._calm_at = part

        self._at_the_loop(wait)

    @contextmanager
    def doing(self, fault: Fault) -> Iterator[None]:
        """The fault, for as long as the context lasts."""
        self.begin(fault)
        try:
            yield
        finally:
            self.calm()

    def count(self, part: str) -> int:
        """How many requests have come so far with *part* in their first line."""
        return sum(part in line for line in self.requests)

    def close(self) -> None:
        """Reset what is there, and listen no more."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _at_the_loop(self, act: Callable[[], None]) -> None:
        async def perform() -> None:
            act()

        asyncio.run_coroutine_threadsafe(perform(), self._loop).result()

    # --- faults

    def _begin(self, fault: Fault, only: str, times: int | None) -> None:
        self._end()
        self._fault, self._only, self._times = fault, only, times
        self.met = []
        if fault in HOLDING:
            self._calm.clear()
        if fault is Fault.RESET and not only:
            for link in self._links:
                self._note(link)
                link.reset()

    def _end(self) -> None:
        self._fault = self._calm_at = None
        self._calm.set()

    def _note_request(self, request: str) -> None:
        self.requests.append(request)
        if self._calm_at is not None and self._calm_at in request:
            self._end()

    def _note(self, link: _Link) -> None:
        self.met.append(link.request)
        if self._times is not None and len(self.met) >= self._times and self._fault not in HOLDING:
            self._fault = None

    async def _meet(self, link: _Link, *, is_answer: bool) -> None:
        """Let the fault happen to what is about to be passed on."""
        fault = self._fault
        if fault is None or self._only not in link.request or (fault in OF_ANSWERS and not is_answer):
            return
        self._note(link)
        if fault is Fault.DELAY:
            await asyncio.sleep(self._delay_seconds)
        elif fault in HOLDING:
            await self._calm.wait()
        else:
            raise _CutError

    # --- passing on

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(asyncio.CancelledError):  # by close(); asyncio's streams would take it for an error
            await self._serve_link(_Link(writer), reader)
        self._tasks.discard(task)

    async def _serve_link(self, link: _Link, reader: asyncio.StreamReader) -> None:
        self._links.add(link)
        try:
            if self._fault is Fault.RESET and not self._only:
                self._note(link)
                raise _CutError
            await self._pass_on(link, reader)
        except* (OSError, _CutError):
            link.reset()
        finally:
            self._links.discard(link)
            for end in link.ends:
                end.close()

    async def _pass_on(self, link: _Link, client: asyncio.StreamReader) -> None:
        server, to_server = await asyncio.open_connection(*self._upstream)
        link.ends.append(to_server)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pump(link, client, to_server, is_answer=False))
            both.create_task(self._pump(link, server, link.ends[0], is_answer=True))

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        part = b"begun"
        while part:
            part = await source.read(65_536)
            if part.startswith((b"GET ", b"POST ", b"DELETE ")) and not is_answer:
                link.request = part.partition(b"\r\n")[0].decode()
                self._note_request(link.request)
            await self._meet(link, is_answer=is_answer)
            with suppress(RuntimeError):  # an end that was closed before it came
                target.write(part) if part else target.write_eof()
            await target.drain()

    async def _close(self) -> None:
        self._server.close()
        for link in self._links:
            link.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def proxied(upstream: tuple[str, int], **options: str) -> Iterator[TcpProxy]:
    """Such a proxy, closed at the end."""
    proxy = TcpProxy(upstream, **options)  # type: ignore[arg-type]
    try:
        yield proxy
    finally:
        proxy.close()
