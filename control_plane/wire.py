"""What travels between the API and its users, so that both sides read the same nouns."""

from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from control_plane.jobs import AuditEntry, Cancellation, ExecutionCluster, Job, JobType, Moment, Receipt
from control_plane.lifecycle import JobState
from control_plane.planes import DataPlane, Platform, Tracking
from control_plane.work import Executor

Key = Annotated[str, Meta(min_length=1, max_length=255)]
Sentence = Annotated[str, Meta(max_length=2_000)]


class Order(StrEnum):
    """How a listing of jobs is sorted."""

    CREATED_AT_ASC = "created_at_asc"
    CREATED_AT_DESC = "created_at_desc"
    UPDATED_AT_ASC = "updated_at_asc"
    UPDATED_AT_DESC = "updated_at_desc"


class JobSubmission(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job to be submitted."""

    data_plane_id: Annotated[UUID, Meta(description="The plane on which it will run.")]
    type: JobType
    input: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="What to do; its fields depend on the type. Needed, except for work started elsewhere."),
    ] = UNSET
    execution_cluster: ExecutionCluster | None = None
    compute_pool_id: UUID | None = None
    idempotency_key: Annotated[Key | None, Meta(description="Submitted again, it answers the same job.")] = None
    retry_of: Annotated[UUID | None, Meta(description="The job that this one repeats.")] = None
    handle: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Of an external job: its engine's own name for the run, such as a Snowflake query id."),
    ] = None


class CancellationReason(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a job is to be cancelled."""

    reason: Annotated[Sentence | None, Meta(description="Kept with the request, for whoever asks later.")] = None


class Evidence(Struct, frozen=True, forbid_unknown_fields=True):
    """What finalizes a cancellation: a worker's lease and receipt, or a person's attestation."""

    lease: Annotated[UUID | None, Meta(description="The worker's claim.")] = None
    receipt: Receipt | None = None
    attestation: Annotated[
        Annotated[str, Meta(min_length=1, max_length=2_000)] | None,
        Meta(description="How you know that it stopped. Recorded with your name, and shown as unproven."),
    ] = None


class Page(Struct, frozen=True):
    """One page of a listing, the reference's fields; pages count from 1."""

    current_page: int
    total_records: int
    total_pages: int
    records: list[Job]


class CancellationProgress(Struct, frozen=True):
    """How far a job's cancellation is, and what proves its end."""

    state: JobState
    cancellation: Cancellation
    receipt: Receipt | None
    proven: Annotated[bool | None, Meta(description="False for an attestation; null until it is settled.")]
    stuck: Annotated[bool, Meta(description="It waits for longer than its plane's stuck_after_seconds.")]


class Events(Struct, frozen=True):
    """Every move of a job, in order."""

    records: list[AuditEntry]


Seconds = Annotated[float, Meta(gt=0, le=10**9)]


class PlatformObject(Struct, frozen=True, forbid_unknown_fields=True):
    """What the plane runs on: ``platform_aws`` is the Narrative plane."""

    type: Platform


EXECUTION_CLUSTERS = (
    "The clusters of Spark that it has, of a Narrative plane; a job that names none gets the first. "
    "Without any, its jobs run in the embedded engine."
)


class DataPlaneSubmission(Struct, frozen=True, forbid_unknown_fields=True):
    """A data plane to be made."""

    display_name: Annotated[str, Meta(min_length=1, max_length=200, description="Unique within the company.")]
    platform: PlatformObject
    external_id: Annotated[str | None, Meta(description="Its name in another system.")] = None
    description: str | None = None
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)] = []
    collaborators: Annotated[
        list[Annotated[int, Meta(ge=1, le=2**31 - 1)]],
        Meta(max_length=1_000, description="Companies that may submit jobs to it."),
    ] = []
    permit_seconds: Annotated[Seconds, Meta(description="How long a claim lets an executor start statements.")] = 30.0
    listing_lag_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=10**9)] | None,
        Meta(description="How far apart two empty listings must be to prove absence; null: 0, on Snowflake 10."),
    ] = None
    stuck_after_seconds: Annotated[Seconds, Meta(description="A cancellation that waits longer is called stuck.")] = (
        900.0
    )
    execution_clusters: Annotated[
        list[ExecutionCluster],
        Meta(max_length=10, description=EXECUTION_CLUSTERS),
    ] = []


class DataPlaneView(Struct, frozen=True):
    """A data plane as the API shows it."""

    data_plane_id: UUID
    company_id: Annotated[int, Meta(description="Its owner.")]
    display_name: str
    platform: PlatformObject
    status: Literal["active", "archived"]
    external_id: str | None
    description: str | None
    tags: list[str]
    collaborators: list[int]
    permit_seconds: float
    listing_lag_seconds: float
    stuck_after_seconds: float
    tracking: Annotated[Tracking, Meta(description="Whose work, started elsewhere, may be tracked and stopped here.")]
    execution_clusters: Annotated[list[ExecutionCluster], Meta(description=EXECUTION_CLUSTERS)]
    created_at: Moment
    last_heartbeat_at: Moment | None
    silent: Annotated[bool, Meta(description="No process of it was heard of for half a minute.")]


def plane_of(view: DataPlaneView) -> DataPlane:
    """The plane that was shown."""
    return DataPlane(**msgspec.structs.asdict(view) | {"platform": view.platform.type})


class DataPlanes(Struct, frozen=True):
    """Every data plane that the company owns or that is shared with it."""

    records: list[DataPlaneView]


class Worker(Struct, frozen=True):
    """A process of a data plane, as it described itself when it was last heard of."""

    worker: str
    kind: Literal["canceller", "executor"]
    version: Annotated[str, Meta(description="Countermand's, where the process runs.")]
    engines: list[str]
    in_flight: Annotated[int, Meta(description="So many cancellations or jobs it held.")]
    first_seen_at: Moment
    last_seen_at: Moment
    silent: Annotated[bool, Meta(description="It was not heard of for half a minute.")]


class WaitingCancellations(Struct, frozen=True):
    """A data plane's unsettled cancellations, as far as the company may see them."""

    total: int
    job_ids: Annotated[list[UUID], Meta(description="The oldest hundred of them.")]


class Workers(Struct, frozen=True):
    """Who works on a data plane, those who were last heard of first, and what waits there."""

    silent: Annotated[bool, Meta(description="No process of the data plane was heard of for half a minute.")]
    records: Annotated[list[Worker], Meta(description="At most a thousand; only the data plane's owner is told.")]
    waiting: WaitingCancellations


class KnownExecutor(Struct, frozen=True):
    """The latest start of an executor, and whether any job of it has not ended."""

    executor: Executor
    holds_jobs: bool


class Executors(Struct, frozen=True):
    """Every executor that ever registered for a data plane."""

    records: list[KnownExecutor]


class Whoami(Struct, frozen=True):
    """Who bears a token, and what answers."""

    name: Annotated[str, Meta(description="The token's.")]
    company_id: int
    permissions: list[str]
    expires_at: Annotated[Moment | None, Meta(description="When the token will; null: never.")]
    data_plane: Annotated[DataPlaneView | None, Meta(description="The one that the token is bound to.")]
    installation: Annotated[str, Meta(description="The name of this database, which is part of every tag.")]
    version: Annotated[str, Meta(description="Countermand's.")]
    now: Annotated[Moment, Meta(description="The clock that everything here is measured by.")]
