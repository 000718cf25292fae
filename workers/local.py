"""The queue in process: the store by way of a thread. The thread hand-off is injected; a simulation runs it inline."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from control_plane.dispatch import Dispatch
from control_plane.jobs import Handle, JobType, Process
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

Answer = TypeVar("Answer")


class HandOff(Protocol):
    """Runs a blocking call elsewhere and waits for it."""

    def __call__(self, call: Callable[[], Answer], /) -> Awaitable[Answer]:
        """Await what *call* answers."""


def threads(count: int) -> HandOff:
    """A hand-off to *count* threads of its own, so that no other blocking work delays the store's."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="store")

    def hand_off(call: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(pool, call)

    return hand_off


class LocalCancellations:
    """:class:`workers.queue.CancellationQueue` over the store."""

    waits = False

    def __init__(self, dispatch: Dispatch, hand_off: HandOff) -> None:
        self._dispatch = dispatch
        self._hand_off = hand_off

    async def claim(
        self, room: Mapping[UUID, int], *, worker: str, lease_seconds: float, lease: UUID
    ) -> list[Assignment]:
        return await self._hand_off(
            partial(self._dispatch.claim, room, worker=worker, lease_seconds=lease_seconds, lease=lease)
        )

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Hold]:
        return await self._hand_off(partial(self._dispatch.extend, holds, lease_seconds=lease_seconds))

    async def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        return await self._hand_off(partial(self._dispatch.settle, settlements, worker=worker))

    async def postpone(self, postponements: Sequence[Postponement]) -> list[Postponed]:
        return await self._hand_off(partial(self._dispatch.postpone, postponements))

    async def release(self, holds: Sequence[Hold]) -> list[UUID]:
        return await self._hand_off(partial(self._dispatch.release, holds))

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        await self._hand_off(partial(self._dispatch.record_leftovers, removed))

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:
        await self._hand_off(partial(self._dispatch.heartbeat, data_plane_ids, presence))


class LocalJobs:
    """:class:`workers.queue.JobQueue` over the store."""

    def __init__(self, dispatch: Dispatch, hand_off: HandOff) -> None:
        self._dispatch = dispatch
        self._hand_off = hand_off

    async def register(self, executor: Executor, *, data_plane_id: UUID, token: UUID) -> str:
        return await self._hand_off(
            partial(self._dispatch.register, executor, data_plane_id=data_plane_id, token=token)
        )

    async def confirm_lower_incarnations(self, executor: Executor) -> list[UUID]:
        return await self._hand_off(partial(self._dispatch.confirm_lower_incarnations, executor))

    async def claim(
        self,
        executor: Executor,
        *,
        data_plane_id: UUID,
        types: Sequence[JobType],
        limit: int,
        incarnation: str,
        epoch: UUID | None = None,
        clusters: Served = EVERYWHERE,
    ) -> list[Claim]:
        return await self._hand_off(
            partial(
                self._dispatch.start,
                executor,
                data_plane_id=data_plane_id,
                types=types,
                limit=limit,
                incarnation=incarnation,
                epoch=epoch,
                clusters=clusters,
            )
        )

    async def attend(self, held: Mapping[UUID, UUID], *, patiently: bool) -> Attendance:  # noqa: ARG002  # news wake us
        return await self._hand_off(partial(self._dispatch.attend, held))

    async def record_handles(self, handles: Mapping[UUID, Handle], epochs: Mapping[UUID, UUID]) -> None:
        await self._hand_off(partial(self._dispatch.record_handles, handles, epochs))

    async def confirm_closed(self, epochs: Mapping[UUID, UUID]) -> list[UUID]:
        return await self._hand_off(partial(self._dispatch.confirm_closed, epochs))

    async def commit(self, commits: Sequence[Commit], *, executor: Executor) -> dict[UUID, Publication | None]:
        return await self._hand_off(partial(self._dispatch.commit, commits, executor=executor))

    async def complete(self, published: Sequence[UUID], *, executor: Executor) -> list[UUID]:
        actor = Process(executor.executor_id)
        return await self._hand_off(partial(self._dispatch.complete, published, actor=actor))

    async def fail(self, failures: Sequence[Failure], *, executor: Executor) -> list[UUID]:
        return await self._hand_off(partial(self._dispatch.fail, failures, executor=executor))

    async def committed(self, executor: Executor) -> list[Claim]:
        return await self._hand_off(partial(self._dispatch.committed, executor))

    async def discardable(self, job_ids: Sequence[UUID]) -> list[UUID]:
        return await self._hand_off(partial(self._dispatch.discardable, job_ids))

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        await self._hand_off(partial(self._dispatch.record_leftovers, removed))

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:
        await self._hand_off(partial(self._dispatch.heartbeat, data_plane_ids, presence))
