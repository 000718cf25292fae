"""What an executor runs its jobs on: start, follow to the end, close; then publish or discard what was written."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct

from adapters.base import RunStatus
from control_plane.jobs import FailureCause, Handle, JobType
from control_plane.work import Claim


class Ending(Struct, frozen=True):
    """How a run ended, in the engine's word and by the engine's clock."""

    status: RunStatus
    word: str
    ended_at: datetime
    result: dict[str, Any] | None = None  #: of a run that succeeded
    dataset_id: int | None = None  #: where its output is to be published; None where it has none
    cause: FailureCause | None = None  #: of a run that did not succeed


class Engine(Protocol):
    """One engine, as an executor uses it. Nothing here blocks the event loop."""

    name: str  #: as in handles
    incarnation: str  #: which start of the engine this is
    types: frozenset[JobType]  #: what it can run

    def start(self, claim: Claim, may_submit: Callable[[], bool]) -> Handle:
        """Begin the job's one run, under its tag, in a session of its own.

        *may_submit* is asked last before each statement. Raises Conflict when the tag was closed, or started before.
        """

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. What is wrong with the job is told by its ending, not raised."""

    def close(self, tag: str) -> None:
        """See that nothing of the tag can start any more, not even later, and stop what runs. Repeatable."""

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Move the pointers of committed jobs, only ever to a higher number; answers the jobs whose publication stands.

        A job whose publication was superseded in the meantime counts as published. Repeatable.
        """

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees."""

    async def discard(self, job_ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove these jobs' outputs, except what is published or still being written; answers what it removed."""

    def check(self) -> None:
        """Raise EngineUnavailable when the engine can run nothing any more, and only a new incarnation helps."""

    async def aclose(self) -> None:
        """Stop what runs and let go of the engine."""
