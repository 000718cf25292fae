"""The rounds of a worker over one queue: claims for all its planes at once, works what it claimed, and drains.

Each plane's rounds run by themselves, so that one that hangs delays no other; each plane holds at most so many
cancellations, so that it cannot take the worker's whole attention either.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, KeysView, Mapping
from contextlib import suppress
from functools import partial
from uuid import UUID, uuid4

import structlog
from structlog.contextvars import bound_contextvars

from adapters.base import Adapter
from control_plane.errors import Unavailable
from control_plane.release import release
from control_plane.work import Assignment, Hold, Presence
from workers.canceller import Canceller
from workers.clock import Clock
from workers.limits import Limits
from workers.metrics import WAITING, count_now
from workers.outage import Outage
from workers.queue import CancellationQueue

log = structlog.get_logger()

#: How long the last claim, and giving back at the end, may take; the leases run out by themselves.
_LAST_CALL_SECONDS = 3.0


class Rounds:
    """One worker's rounds over its planes: those that *look* answers, at the start and with each heartbeat."""

    def __init__(
        self,
        queue: CancellationQueue,
        look: Callable[[], Awaitable[Mapping[UUID, Adapter]]],
        *,
        worker: str,
        limits: Limits = Limits(),
        clock: Clock = Clock(),
        outage: Outage | None = None,
    ) -> None:
        self._queue = queue
        self._look = look
        self._worker = worker
        self._limits = limits
        self._clock = clock
        self._outage = outage or Outage(clock)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancellers: dict[UUID, Canceller] = {}

    @property
    def planes(self) -> KeysView[UUID]:
        """The planes that are served; it grows with them."""
        return self._cancellers.keys()

    async def run(self, *, stopping: asyncio.Event, wake: asyncio.Event, beat: asyncio.Event) -> None:
        """Claim and work until *stopping* is set, then drain. *wake*: look for work; *beat*: say that we live.

        Whoever sets *stopping* sets the others, too.
        """
        self._wake = wake
        log.info("worker_started", planes=await self._take_up_planes())
        beating = asyncio.create_task(self._heartbeat(beat))
        working = asyncio.create_task(self._claim_and_work(wake, stopping))
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({working, beating, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=_LAST_CALL_SECONDS)  # a claim's answer is not thrown away
            for ended in (task for task in (working, beating) if task.done()):
                ended.result()
        finally:
            for task in (beating, working, stopped):
                task.cancel()
            await asyncio.gather(beating, working, stopped, return_exceptions=True)
            await self._drain()

    async def _claim_and_work(self, wake: asyncio.Event, stopping: asyncio.Event) -> None:
        """A claim is followed at once by the next where there may be more, or where that one waits by itself."""
        while not stopping.is_set():
            wake.clear()
            if not await self._claim():
                await wake.wait()

    async def _heartbeat(self, beat: asyncio.Event) -> None:
        while True:
            beat.clear()
            await self._outage.attempt(self._beat)  # refused, it is heard of before a long poll ends
            await beat.wait()

    async def _beat(self) -> None:
        if new := await self._take_up_planes():
            log.info("planes_taken_up", planes=new)
            self._wake.set()
        await self._queue.heartbeat(list(self._cancellers), self._presence())

    async def _take_up_planes(self) -> list[str]:
        """Serve the planes that came since we last looked; answers them."""
        adapters = await self._look()
        new = adapters.keys() - self._cancellers.keys()
        for plane in new:
            canceller = self._cancellers[plane] = self._canceller(adapters[plane])
            count_now(WAITING, plane, partial(len, canceller.held))
        return sorted(map(str, new))

    def _presence(self) -> Presence:
        engines = sorted({canceller.engine for canceller in self._cancellers.values()})
        in_flight = sum(len(canceller.held) for canceller in self._cancellers.values())
        return Presence(self._worker, "canceller", release(), engines, in_flight)

    def limit(self, limits: Limits) -> None:
        """Keep to these limits from now on, on every plane."""
        self._limits = limits
        for canceller in self._cancellers.values():
            canceller.limit(limits)
        self._wake.set()  # there may be more room

    def _canceller(self, adapter: Adapter) -> Canceller:
        return Canceller(
            self._queue, adapter, worker=self._worker, limits=self._limits, outage=self._outage, clock=self._clock
        )

    # --- claiming ---

    async def _claim(self) -> bool:
        """Claim once for all planes and begin working; whether to claim again at once."""
        room = {plane: canceller.room for plane, canceller in self._cancellers.items()}
        if not any(room.values()):
            return False
        claim = partial(self._queue.claim, room, worker=self._worker, lease_seconds=self._limits.lease_seconds)
        claimed: defaultdict[UUID, list[Assignment]] = defaultdict(list)
        for assignment in await self._outage.outlast(
            partial(claim, lease=uuid4())
        ):  # one lease, however often it is asked
            claimed[assignment.data_plane_id].append(assignment)
        for plane, assignments in claimed.items():
            self._begin(plane, assignments)
        is_full = any(len(assignments) >= room[plane] for plane, assignments in claimed.items())
        return is_full or (self._queue.waits and bool(claimed))

    def _begin(self, plane: UUID, assignments: list[Assignment]) -> None:
        canceller = self._cancellers[plane]
        with bound_contextvars(plane=str(plane)):  # a task keeps the context that it was made in
            for batch in canceller.batches(assignments):
                task = asyncio.create_task(canceller.work(canceller.hold(batch)))
                self._tasks.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()  # there is room again

    # --- draining ---

    async def _drain(self) -> None:
        """Let rounds settle or postpone what they hold; give back what is left when the time is up."""
        log.info("drain_started", held=sum(map(len, self._holds().values())))
        await self._let_end()
        left = [hold for holds in self._holds().values() for hold in holds]
        given_back = 0
        if left:
            with suppress(Unavailable, TimeoutError):
                given_back = len(await asyncio.wait_for(self._queue.release(left), _LAST_CALL_SECONDS))
        log.info("drain_ended", given_back=given_back)

    async def _let_end(self) -> None:
        """Wait for the rounds under way, but for no longer than a drain may take; those that are late are cut off."""
        if not self._tasks:
            return
        ending = asyncio.ensure_future(asyncio.wait(list(self._tasks)))
        enough = asyncio.ensure_future(self._clock.pause(self._limits.drain_seconds))
        try:
            await asyncio.wait({ending, enough}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late = [ending, enough, *self._tasks]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _holds(self) -> dict[UUID, list[Hold]]:
        return {
            plane: [Hold(case.job_id, case.assignment.lease) for case in canceller.held]
            for plane, canceller in self._cancellers.items()
        }
