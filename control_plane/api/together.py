"""Requests that arrive while others are being performed share the next statement, and each gets its own answer."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar

from control_plane.errors import CountermandError, RowLocked

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class HandOff(Protocol):
    """Runs a blocking call elsewhere and waits for it."""

    def __call__(self, call: Callable[[], Result], /) -> Awaitable[Result]:
        """Await what *call* answers."""


PATIENCE_SECONDS = 0.1  #: a batch usually takes a tenth of it; whoever waits on somebody's lock holds up nobody else
GATHER_SECONDS = 0.001  #: what the first to come back waits for the others; with 2 ms, half the load queued up
RECENT_SECONDS = 0.05  #: so long those who were answered may be expected back


class Together(Generic[Asked, Answer]):
    """*perform* answers a batch, item by item, with an answer or an error; at most *at_most* at a time.

    The next batch goes when the one before is answered, for a second beside it only makes both smaller; but also when
    that one takes longer than *patience_seconds*, until *at_once* are under way.

    Those who were answered together come back one after the other. So the next batch waits until as many have come, for
    *gather_seconds* at most: else the first would go alone, and the others wait for its commit. Whoever has asked alone
    waits for nobody; unless nobody is in a hurry: then every batch waits for *linger_seconds*.
    """

    def __init__(
        self,
        perform: Callable[[Sequence[Asked]], Sequence[Answer | CountermandError]],
        hand_off: HandOff,
        *,
        at_most: int = 100,
        at_once: int = 4,
        patience_seconds: float = PATIENCE_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
        linger_seconds: float = 0.0,
    ) -> None:
        self._perform = perform
        self._hand_off = hand_off
        self._at_most = at_most
        self._at_once = at_once
        self._patience_seconds = patience_seconds
        self._gather_seconds = gather_seconds
        self._linger_seconds = linger_seconds
        self._expected = 0  #: so many were answered, or waited already, at the latest end of a batch
        self._ended_at = -math.inf
        self._all_here = asyncio.Event()
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def ask(self, item: Asked) -> Answer:
        """The item's own answer; raises its own error."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._expected:
            self._all_here.set()
        self._begin()
        return await future

    def _begin(self) -> None:
        if self._waiting and self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting and len(self._under_way) < self._at_once:
            await self._gather()
            batch, self._waiting = self._waiting[: self._at_most], self._waiting[self._at_most :]
            wanted = [(item, future) for item, future in batch if not future.done()]
            answering = asyncio.create_task(self._answer(wanted))
            self._under_way.add(answering)
            answering.add_done_callback(self._end)
            await asyncio.wait({answering}, timeout=self._patience_seconds)
        self._sending = None

    async def _gather(self) -> None:
        """Wait until all are here who are expected back, or their time is up."""
        if self._linger_seconds:
            await asyncio.sleep(self._linger_seconds)
            return
        since = asyncio.get_running_loop().time() - self._ended_at
        if since < RECENT_SECONDS and len(self._waiting) < self._expected:
            self._all_here.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._gather_seconds):
                    await self._all_here.wait()

    def _end(self, answered: asyncio.Task[None]) -> None:
        self._under_way.discard(answered)
        self._begin()

    async def _answer(self, batch: Sequence[tuple[Asked, "asyncio.Future[Answer]"]]) -> None:
        """A batch that fails as a whole is asked one by one, so that a bad item harms no other."""
        try:
            answers = await self._hand_off(partial(self._perform, [item for item, _ in batch]))
        except RowLocked as error:
            if len(batch) > 1:  # the others need not wait with the one
                await asyncio.gather(*(self._answer([single]) for single in batch))
                return
            answers = [error]
        except CountermandError as error:  # the store is away, for all of them
            answers = [error] * len(batch)
        except Exception as error:  # noqa: BLE001  # each item's caller gets it, and nobody else
            if len(batch) > 1:
                for single in batch:
                    if not single[1].done():  # its caller may have gone meanwhile
                        await self._answer([single])
                return
            _fail(batch[0][1], error)
            return
        self._expected = min(len(batch) + len(self._waiting), self._at_most)
        self._ended_at = asyncio.get_running_loop().time()
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, CountermandError):
                _fail(future, answer)
            elif not future.done():
                future.set_result(answer)


def _fail(future: "asyncio.Future[Answer]", error: Exception) -> None:
    if not future.done():  # its caller may have gone
        future.set_exception(error)
