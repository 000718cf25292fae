"""What a plane's processes are given and say: jobs for executors, cancellations for cancellers."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from control_plane.checks import check_kept, check_range
from control_plane.errors import BadInput
from control_plane.inputs import ExternalResult
from control_plane.jobs import (
    Closure,
    ExecutionCluster,
    FailureCause,
    Handle,
    JobType,
    Moment,
    Receipt,
    RequestSource,
    Rung,
    Waiting,
    check_evidence,
)
from control_plane.planes import Tracking


class News(StrEnum):
    """What a plane has news of: jobs that may be started, or cancellations that are to be seen to."""

    JOBS = "jobs"
    CANCELLATIONS = "cancellations"


class Executor(Struct, frozen=True):
    """An executor: its identity, which start of it, and where its run server listens.

    In a work *incarnation* is the one that claimed the job, *registered* the one that the control plane knows now: it
    alone is believed.
    """

    executor_id: Annotated[str, Meta(min_length=1, max_length=200)]
    incarnation: int
    address: Annotated[str, Meta(max_length=1_000)] | None = None
    registered: int | None = None


def check_executor(executor: Executor) -> None:
    """Raise BadInput, naming the field, for an executor that no database can hold."""
    check_kept("executor", msgspec.to_builtins(executor))
    check_range("executor.incarnation", executor.incarnation, 1, 2**31 - 1)
    check_range("executor.registered", executor.registered, 1, 2**31 - 1)


class Presence(Struct, frozen=True, forbid_unknown_fields=True):
    """What a process of a plane says of itself with every heartbeat; *worker* is its name on the plane."""

    worker: Annotated[str, Meta(min_length=1, max_length=150)]
    kind: Literal["canceller", "executor"]
    version: Annotated[str, Meta(max_length=100, description="Countermand's.")]
    engines: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=100)]],
        Meta(max_length=100, description="What it works on: the names of its adapters or engines."),
    ]
    in_flight: Annotated[int, Meta(ge=0, le=2**31 - 1, description="So many cancellations or jobs it holds.")]


def check_presence(presence: Presence) -> None:
    """Raise BadInput, naming the field, for a presence that no database can hold."""
    check_kept("worker", presence.worker)
    check_kept("version", presence.version)
    check_kept("engines", presence.engines)


class Publication(Struct, frozen=True):
    """A committed job's place in the order of its dataset: pointers only ever move to a higher number."""

    dataset_id: int
    number: int


class Claim(Struct, frozen=True):
    """A job that an executor holds, by its epoch; the permit counts from before the claim was sent."""

    job_id: UUID
    type: JobType
    input: dict[str, Any]
    tag: str
    epoch: UUID
    permit_seconds: float
    publication: Publication | None = None  #: set when the job is committed and wants publishing
    execution_cluster: ExecutionCluster | None = None  #: where on its plane it runs; None where there are no clusters


class Attendance(Struct, frozen=True):
    """The answer to attending: *renewed* may go on under a fresh permit, *closing* must be closed at once."""

    renewed: list[UUID]
    closing: list[UUID]


class Commit(Struct, frozen=True):
    """A job whose output is written; *dataset_id* is where it will be published, None for a job without effects."""

    job_id: UUID
    epoch: UUID
    result: dict[str, Any]
    dataset_id: int | None = None


class Failure(Struct, frozen=True):
    """A job that its executor gives up, with the cause."""

    job_id: UUID
    epoch: UUID
    cause: FailureCause


#: What an executor's engine serves of a plane's clusters, each with the incarnation of whatever runs there.
Served = Mapping[ExecutionCluster, str]
EVERYWHERE: Served = {}  #: by an engine that does not tell clusters apart


# --- cancellations, for a canceller --------------------------------------------------------------------------------


class Work(Struct, frozen=True):
    """A job as its engine knows it: by its tag, by its handle where one is known, and by who claimed it.

    A *tracked* one is the run that its handle names, and no other, whatever tag that bears; it is stopped only if its
    owner is among those whom the plane allows.
    """

    job_id: UUID
    tag: str
    handle: Handle | None = None
    executor: Executor | None = None  #: identity and incarnation of the claim, the address of today
    incarnation: str | None = None  #: the engine's incarnation at the claim
    publication: Publication | None = None
    tracked: Tracking | None = None
    execution_cluster: ExecutionCluster | None = None  #: where on its plane it runs; None where there are no clusters


class Assignment(Struct, frozen=True):
    """One claimed cancellation: what to cancel, who asked, and what earlier rounds have learned."""

    work: Work
    data_plane_id: UUID
    type: JobType
    lease: UUID
    requested_by: RequestSource
    reason: str | None
    requested_at: Moment
    rounds: int
    committed: bool
    closure: Closure | None  #: what the store knows: never claimed, executor closed, permit expired
    alone: bool  #: claimed repeatedly without an outcome, so it is worked by itself
    listing_lag_seconds: float
    stuck_after_seconds: float
    waiting: Waiting | None = None
    rung: Rung | None = None
    rung_since: Moment | None = None
    first_claimed_at: Moment | None = None
    first_stop_at: Moment | None = None


class Hold(Struct, frozen=True):
    """A lease that is extended; the answer tells what the store has learned of its closure."""

    job_id: UUID
    lease: UUID
    closure: Closure | None = None


class Settlement(Struct, frozen=True):
    """The end of a cancellation: with a receipt ``cancel``, without one ``complete`` (the job was committed).

    With a *result* instead, the job's tracked run was seen to succeed: it is committed with it, and completed.
    """

    job_id: UUID
    lease: UUID
    receipt: Receipt | None
    first_stop_at: Moment | None = None
    result: ExternalResult | None = None


def signed(settlement: Settlement, worker: str) -> Settlement:
    """As a worker elsewhere may send it: its receipt checked, and in the name of who sends it."""
    if settlement.receipt is None:
        return settlement
    if settlement.result is not None:
        raise BadInput("result: a job that is cancelled has none", field="result")
    check_evidence(settlement.receipt)
    receipt = msgspec.structs.replace(settlement.receipt, worker=worker)
    return msgspec.structs.replace(settlement, receipt=receipt)


class Settled(Struct, frozen=True):
    """A settlement's fate: *landed* now, or already landed under the same lease; otherwise it was stale."""

    job_id: UUID
    landed: bool
    settled_at: Moment | None = None


class Postponement(Struct, frozen=True):
    """A cancellation given back for now, with the reason in one sentence."""

    job_id: UUID
    lease: UUID
    waiting: Waiting
    detail: str
    delay_seconds: float
    rung: Rung | None = None
    rung_since: Moment | None = None
    first_stop_at: Moment | None = None


class Postponed(Struct, frozen=True):
    """A postponement that was taken; *became_stuck* is true once in a cancellation's life."""

    job_id: UUID
    became_stuck: bool
