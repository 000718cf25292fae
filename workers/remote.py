"""The queue over HTTPS: as ``workers.local``, for processes that have neither a database nor a door of their own.

Claims and attending are long polls. What was claimed in the very moment in which a poll was given up is asked for once
more, by the same lease or epoch.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from control_plane import process_wire as wire
from control_plane.jobs import Handle, JobType
from control_plane.wire import DataPlaneView
from control_plane.work import (
    EVERYWHERE,
    Assignment,
    Attendance,
    Claim,
    Commit,
    Executor,
    Failure,
    Hold,
    Postponed,
    Postponement,
    Presence,
    Publication,
    Served,
    Settled,
    Settlement,
)
from workers.giving_up import unless
from workers.line import PlaneLine

Item = TypeVar("Item")

#: Of one long poll; less than the minute after which proxies call a connection idle.
WAIT_SECONDS = 55.0
#: Before the next one, where one was answered with nothing long before its time, as by a server that ends.
EARLY_PAUSE_SECONDS = 0.5


class RemoteCancellations:
    """:class:`workers.queue.CancellationQueue` over HTTPS, for the one plane that the token is bound to.

    Its claims wait for work until *stopping* is set.
    """

    waits = True

    def __init__(
        self,
        line: PlaneLine,
        *,
        stopping: asyncio.Event,
        wait_seconds: float = WAIT_SECONDS,
        early_pause_seconds: float = EARLY_PAUSE_SECONDS,
    ) -> None:
        self._line = line
        self._stopping = stopping
        self._wait_seconds = wait_seconds
        self._early_pause_seconds = early_pause_seconds

    async def claim(
        self, room: Mapping[UUID, int], *, worker: str, lease_seconds: float, lease: UUID
    ) -> list[Assignment]:
        [limit] = room.values()

        def wanted(wait_seconds: float) -> wire.ClaimCancellations:
            return wire.ClaimCancellations(worker, limit, lease_seconds, wait_seconds, lease)

        while not self._stopping.is_set():
            asked_at = asyncio.get_running_loop().time()
            claimed = await unless(self._stopping, self._claim(wanted(self._wait_seconds)))
            if claimed is not None and claimed.assignments:
                return claimed.assignments
            if asyncio.get_running_loop().time() - asked_at < self._wait_seconds / 2:
                await unless(self._stopping, asyncio.sleep(self._early_pause_seconds))
        return (await self._claim(wanted(0))).assignments

    async def _claim(self, wanted: wire.ClaimCancellations) -> wire.Assignments:
        seconds = wanted.wait_seconds
        return await self._line.ask("/cancellations/claim", wanted, wire.Assignments, wait_seconds=seconds)

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Hold]:
        asked = wire.Holds(list(holds), lease_seconds)
        return (await self._line.ask("/cancellations/extend", asked, wire.HeldLeases)).holds

    async def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        asked = wire.Settlements(worker, list(settlements))
        return (await self._line.ask("/cancellations/settle", asked, wire.SettledCancellations)).settled

    async def postpone(self, postponements: Sequence[Postponement]) -> list[Postponed]:
        asked = wire.Postponements(list(postponements))
        return (await self._line.ask("/cancellations/postpone", asked, wire.PostponedCancellations)).postponed

    async def release(self, holds: Sequence[Hold]) -> list[UUID]:
        released: list[UUID] = []
        for some in _in_parts(holds):
            released += (await self._line.ask("/cancellations/release", wire.Holds(some), wire.Jobs)).job_ids
        return released

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        await _record_leftovers(self._line, removed)

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:  # noqa: ARG002  # the token's
        await self._line.ask("/heartbeat", presence, DataPlaneView)


class RemoteJobs:
    """:class:`workers.queue.JobQueue` over HTTPS, for the one plane that the token is bound to.

    Its claims wait for work until *stopping* is set; *again* is set when a patient attend has ended, or there is
    something new to attend: another is due.
    """

    def __init__(
        self,
        line: PlaneLine,
        *,
        stopping: asyncio.Event,
        again: asyncio.Event,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._line = line
        self._stopping = stopping
        self._again = again
        self._wait_seconds = wait_seconds
        self._claimed = asyncio.Event()  #: there is more to attend than was asked about

    async def register(self, executor: Executor, *, data_plane_id: UUID, token: UUID) -> str:  # noqa: ARG002
        asked = wire.Registration(executor, token)
        return (await self._line.ask("/executors/register", asked, wire.Registered)).installation

    async def confirm_lower_incarnations(self, executor: Executor) -> list[UUID]:
        asked = wire.OfExecutor(executor)
        return (await self._line.ask("/executors/confirm-lower-incarnations", asked, wire.Jobs)).job_ids

    async def claim(
        self,
        executor: Executor,
        *,
        data_plane_id: UUID,  # noqa: ARG002  # the token's
        types: Sequence[JobType],
        limit: int,
        incarnation: str,
        epoch: UUID | None = None,
        clusters: Served = EVERYWHERE,
    ) -> list[Claim]:
        def wanted(types: Sequence[JobType], wait_seconds: float) -> wire.ClaimJobs:
            return wire.ClaimJobs(executor, list(types), limit, incarnation, epoch, wait_seconds, dict(clusters))

        claims: list[Claim] = []
        while not (claims or self._stopping.is_set()):
            asked_at = asyncio.get_running_loop().time()
            answer = await unless(self._stopping, self._claim(wanted(types, self._wait_seconds)))
            claims = answer.claims if answer is not None else []
            if not claims and asyncio.get_running_loop().time() - asked_at < self._wait_seconds / 2:
                await unless(self._stopping, asyncio.sleep(EARLY_PAUSE_SECONDS))
        if not claims:  # of no type: nothing is started any more, what this epoch had started is answered
            claims = (await self._claim(wanted([], 0))).claims
        self._claimed.set()
        if claims:
            self._again.set()  # where nothing was held, nobody waits for news
        return claims

    async def _claim(self, wanted: wire.ClaimJobs) -> wire.Claims:
        return await self._line.ask("/jobs/claim", wanted, wire.Claims, wait_seconds=wanted.wait_seconds)

    async def attend(self, held: Mapping[UUID, UUID], *, patiently: bool) -> Attendance:
        if not patiently:
            return await self._attend(held, 0)
        self._claimed.clear()
        attendance = await unless(self._claimed, self._attend(held, self._wait_seconds))
        self._again.set()
        return attendance or await self._attend(held, 0)

    async def _attend(self, held: Mapping[UUID, UUID], wait_seconds: float) -> Attendance:
        asked = wire.Attend(dict(held), wait_seconds)
        return await self._line.ask("/jobs/attend", asked, Attendance, wait_seconds=wait_seconds)

    async def record_handles(self, handles: Mapping[UUID, Handle], epochs: Mapping[UUID, UUID]) -> None:
        await self._line.ask("/jobs/handles", wire.Handles(dict(handles), dict(epochs)), wire.Jobs)

    async def confirm_closed(self, epochs: Mapping[UUID, UUID]) -> list[UUID]:
        return (await self._line.ask("/jobs/closed", wire.Epochs(dict(epochs)), wire.Jobs)).job_ids

    async def commit(self, commits: Sequence[Commit], *, executor: Executor) -> dict[UUID, Publication | None]:
        asked = wire.Commits(executor, list(commits))
        return (await self._line.ask("/jobs/commit", asked, wire.Committed)).publications

    async def complete(self, published: Sequence[UUID], *, executor: Executor) -> list[UUID]:
        asked = wire.Published(executor, list(published))
        return (await self._line.ask("/jobs/complete", asked, wire.Jobs)).job_ids

    async def fail(self, failures: Sequence[Failure], *, executor: Executor) -> list[UUID]:
        asked = wire.Failures(executor, list(failures))
        return (await self._line.ask("/jobs/fail", asked, wire.Jobs)).job_ids

    async def committed(self, executor: Executor) -> list[Claim]:
        return (await self._line.ask("/jobs/committed", wire.OfExecutor(executor), wire.Claims)).claims

    async def discardable(self, job_ids: Sequence[UUID]) -> list[UUID]:
        found: list[UUID] = []
        for some in _in_parts(job_ids):
            found += (await self._line.ask("/jobs/discardable", wire.JobIds(some), wire.Jobs)).job_ids
        return found

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        await _record_leftovers(self._line, removed)

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:  # noqa: ARG002  # the token's
        await self._line.ask("/heartbeat", presence, DataPlaneView)


async def _record_leftovers(line: PlaneLine, removed: Mapping[UUID, Sequence[str]]) -> None:
    for some in _in_parts(list(removed)):
        asked = wire.Leftovers({job_id: list(removed[job_id]) for job_id in some})
        await line.ask("/cancellations/leftovers", asked, wire.Jobs)


def _in_parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """As many at a time as the API takes; nothing else that is sent at once is ever more."""
    for begin in range(0, len(items), wire.MOST_ITEMS):
        yield list(items[begin : begin + wire.MOST_ITEMS])
