"""The adapter Protocol: how a canceller speaks to an engine, set-wise, and the words that engines' answers are put in.

Every adapter and every double passes ``tests/contract/test_adapter.py``. An adapter reports what the engine said and
decides nothing: only the canceller judges, and only from listings begun after closing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from control_plane.jobs import Handle, Rung, Waiting
from control_plane.planes import Owner
from control_plane.work import Work


class RunStatus(StrEnum):
    """What an engine says of a run. Queued, blocked, suspended and aborting runs are ``active``."""

    ACTIVE = "active"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    GONE = "gone"  #: not in a complete listing; evidence only when seen twice, listing_lag apart
    UNKNOWN = "unknown"  #: the engine cannot say


ENDED = frozenset({RunStatus.STOPPED, RunStatus.SUCCEEDED, RunStatus.ERRORED})


class StopAnswer(StrEnum):
    """What an engine answered to a stop. Not evidence of anything."""

    ACCEPTED = "accepted"
    ALREADY_ENDED = "already_ended"
    NOT_PERMITTED = "not_permitted"
    UNSUPPORTED = "unsupported"  #: the engine has no such rung
    UNREACHABLE = "unreachable"


class Run(Struct, frozen=True):
    """One execution of a job's work in its engine."""

    job_id: UUID
    tag: str
    handle: Handle
    status: RunStatus
    word: str = ""  #: the engine's own word for the status
    ended_at: datetime | None = None  #: the engine's own time
    owner: Owner | None = None  #: to whom it belongs, where it was started elsewhere


class ClosedWork(Work, frozen=True):
    """A work of which nothing can start any more: whatever one complete listing has shown is all that there will be."""


class Trouble(Struct, frozen=True):
    """Why a listing proves nothing: the reason to wait, and one sentence."""

    waiting: Waiting
    detail: str


class Listing(Struct, frozen=True):
    """The runs of one job (or, for ``running()``, of the plane).

    *complete*: not truncated, and read by an identity that is known to see the executor's work; only then is absence
    evidence. *incarnation*: which start of the engine answered. *engine*: which engine, of an adapter that speaks to
    several. *again_seconds*: how soon after this one a listing may show an end; looking sooner only costs the engine.
    """

    runs: tuple[Run, ...] = ()
    complete: bool = False
    incarnation: str | None = None
    trouble: Trouble | None = None
    engine: str | None = None
    again_seconds: float = 0.0


class Check(Struct, frozen=True):
    """Whether work on the plane can be cancelled now; *seconds* of one harmless drill, where one was made."""

    ok: bool
    detail: str
    seconds: float | None = None


class Adapter(Protocol):
    """One engine's cancelling side. Calls are bounded in time and raise nothing for what the engine answers.

    EngineUnavailable may be raised by any call: nothing is then known. Mappings answer for each work by its job id;
    a work that is missing from the answer is unknown.
    """

    engine: str  #: the engine's name in handles and receipts
    per_executor: bool  #: each executor answers for itself, so that one's silence must not delay the others' works

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's runs, by handle and by tag; never a run of another job. Statuses as the engine lists them.

        Of a :class:`ClosedWork` a listing may be made of what an earlier one, begun when it was closed already, has
        shown, and of what became of those runs.

        A tracked work is found by its handle alone, whose name is as somebody gave it; the run bears the whole handle,
        its own tag, and its owner. None, in a complete listing, where the engine knows no run of that name.
        """

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        """Ask the engine to stop these runs, as hard as *rung* says. Repeatable."""

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """End each job's own engine session for good, where the engine can; answers the jobs for which it did."""

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What the engine says of each run now; a run that it no longer knows is ``gone`` or ``unknown``."""

    async def running(self) -> Listing:
        """Every ``run`` of this installation and plane that the engine knows to be active; for the patrol."""

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Move the pointers for committed jobs, only ever to a higher number; answers those that are published now."""

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove what unpublished jobs wrote, except what is still being written; answers by job what it removed.

        Repeatable: what was left now is removed later.
        """

    async def check(self) -> Check:
        """Can work on this plane be cancelled now?"""

    async def aclose(self) -> None:
        """Let go of connections."""
