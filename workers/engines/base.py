"""What an executor runs its jobs on: start, follow to the end, close; then publish or discard what was written."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct

from adapters.base import RunStatus
from control_plane.errors import CountermandError
from control_plane.jobs import FailureCause, Handle, JobType
from control_plane.work import Claim, Served


class Ending(Struct, frozen=True):
    """How a run ended, in the engine's word and by the engine's clock."""

    status: RunStatus
    word: str
    ended_at: datetime
    result: dict[str, Any] | None = None  #: of a run that succeeded
    dataset_id: int | None = None  #: where its output is to be published; None where it has none
    cause: FailureCause | None = None  #: of a run that did not succeed


class NotStarted(CountermandError):
    """Nothing of the job runs, nor will: it got no handle. *diagnostics* say more than the message, for its cause."""

    def __init__(self, message: str, **diagnostics: Any) -> None:
        super().__init__(message)
        self.diagnostics: dict[str, Any] = diagnostics


class Engine(Protocol):
    """One engine, as an executor uses it. Nothing here blocks the event loop."""

    name: str  #: as in handles
    ends_with_executor: (
        bool  #: whether what an earlier start of the executor submitted is over, also what was under way
    )

    @property
    def incarnation(self) -> str:
        """Which start of the engine this is."""

    @property
    def types(self) -> frozenset[JobType]:
        """What it can run."""

    @property
    def clusters(self) -> Served:
        """Which clusters it serves, each by the incarnation of what runs there; empty: it takes jobs of any."""

    async def start(self, claim: Claim, permit_left: Callable[[], float]) -> Handle:
        """Begin the job's one run, under its tag, in a session of its own; answers once its name is known.

        *permit_left*, the seconds for which a statement may still be submitted (0 or less: not any more), is asked last
        before the statement, and no submission outlasts it. Raises Conflict when the tag was closed, or started before,
        and NotStarted for whatever else kept it from starting; neither while it is open whether anything started.
        """

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. What is wrong with the job is told by its ending, not raised."""

    async def close(self, tag: str) -> bool:
        """See that nothing of the tag can start any more, not even later, and stop what runs. Repeatable.

        Answers whether it is certain by now that nothing can start; False while the fate of a submission is not known.
        What was started may still be ending.
        """

    async def publish(self, claims: Sequence[Claim]) -> frozenset[UUID]:
        """Move the pointers of committed jobs, only ever to a higher number; answers the jobs whose publication stands.

        A job whose publication was superseded in the meantime counts as published. Repeatable.
        """

    async def unpublished(self) -> list[UUID]:
        """The jobs that have an output here which no reader sees."""

    async def discard(self, jobs: Mapping[UUID, str]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove the outputs of these jobs, given with their tags; answers what it removed.

        Except what is published or still being written.
        """

    def check(self) -> None:
        """Raise EngineUnavailable when the engine can run nothing any more, and only a new incarnation helps."""

    async def aclose(self) -> None:
        """Stop what runs and let go of the engine."""
