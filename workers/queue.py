"""The queue that a worker speaks: in process (``workers.local``) or over HTTPS (``workers.remote``). One contract.

Every call may raise Unavailable, and may then be repeated: leases, epochs, tokens and guards make each idempotent.
Rows that are stale are left out of the answer, never raised.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from control_plane.jobs import Handle, JobType
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


class CancellationQueue(Protocol):
    """What a canceller asks of the control plane."""

    waits: bool  #: a claim that finds nothing waits for work; else whoever asks does

    async def claim(
        self, room: Mapping[UUID, int], *, worker: str, lease_seconds: float, lease: UUID
    ) -> list[Assignment]:
        """Due cancellations, oldest first, at most as many a plane as *room* says; each is a round begun.

        Repeated with its *lease*, it answers what the first call had claimed.
        """

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Hold]:
        """Keep these leases; answers those still held, with what the store knows now of their closure."""

    async def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        """End cancellations, each for itself; answers for all of them, in their order."""

    async def postpone(self, postponements: Sequence[Postponement]) -> list[Postponed]:
        """Give back with a reason; answers those that were still held."""

    async def release(self, holds: Sequence[Hold]) -> list[UUID]:
        """Give back as if never claimed, due at once; for draining."""

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        """Note on the cancellations what was discarded of their jobs' output."""

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:
        """Say that these planes are attended, and by whom."""


class JobQueue(Protocol):
    """What an executor asks of the control plane."""

    async def register(self, executor: Executor, *, data_plane_id: UUID, token: UUID) -> str:
        """Make this incarnation known, and answer the installation's name; repeatable under one *token*.

        Raises Refused when the same or a higher incarnation is known already (the folder was copied or restored).
        """

    async def confirm_lower_incarnations(self, executor: Executor) -> list[UUID]:
        """Confirm that nothing of what earlier incarnations had claimed can start; answers the jobs it closed."""

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
        """Start pending jobs of these types; *incarnation* is the engine's. It may wait until there are some.

        With *clusters*, those of these clusters alone, on the incarnation of what runs there.
        Repeated with its *epoch*, it answers what the first call had started.
        """

    async def attend(self, held: Mapping[UUID, UUID], *, patiently: bool) -> Attendance:
        """Renew the permits of the jobs *held* (job id → epoch) and learn which to close.

        *patiently*: it may wait for news of them, for an eighth of the permit at most.
        """

    async def record_handles(self, handles: Mapping[UUID, Handle], epochs: Mapping[UUID, UUID]) -> None:
        """Write down the engine's names of runs."""

    async def confirm_closed(self, epochs: Mapping[UUID, UUID]) -> list[UUID]:
        """Confirm that nothing more of these jobs will be submitted; makes their cancellations due."""

    async def commit(self, commits: Sequence[Commit], *, executor: Executor) -> dict[UUID, Publication | None]:
        """Pass the commit point; a job that is missing from the answer lost against a cancellation.

        A job without a dataset has no effects and is completed in the same transaction.
        """

    async def complete(self, published: Sequence[UUID], *, executor: Executor) -> list[UUID]:
        """Complete committed jobs whose publication stands."""

    async def fail(self, failures: Sequence[Failure], *, executor: Executor) -> list[UUID]:
        """Fail running jobs; for one whose cancellation was requested it is only a hint to look again."""

    async def committed(self, executor: Executor) -> list[Claim]:
        """This executor's committed jobs that are not completed: to be published and completed."""

    async def discardable(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Those of the jobs that ended without publishing, so that their output may be removed."""

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        """Note on the cancellations what was discarded of their jobs' output."""

    async def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence) -> None:
        """Say that these planes are attended, and by whom."""
