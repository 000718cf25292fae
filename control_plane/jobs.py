"""The nouns that control plane, workers and adapters share, with the reference's field names.

Moments are aware, UTC; ids are UUIDs; everything here is plain data that msgspec reads and writes.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from control_plane.errors import BadInput
from control_plane.lifecycle import JobState


class Platform(StrEnum):
    """What a data plane runs on."""

    NARRATIVE = "platform_aws"
    SNOWFLAKE = "platform_snowflake"


class JobType(StrEnum):
    """The reference's job types, and ``external`` for work started elsewhere."""

    COSTS = "costs"
    CALCULATE_COLUMN_STATS = "datasets_calculate_column_stats"
    DELETE_TABLE = "datasets_delete_table"
    DELIVER_DATA = "datasets_deliver_data"
    SAMPLE = "datasets_sample"
    SUGGEST_MAPPINGS = "datasets_suggest_mappings"
    DELETE_SNOWFLAKE_TABLE = "delete-snowflake-table"
    FORECAST = "forecast"
    MATERIALIZE_VIEW = "materialize-view"
    DELIVER_MODEL = "models_deliver_model"
    MODEL_TRAINING_RUN = "model_training_run"
    NQL_FORECAST = "nql-forecast"
    UPLOAD_STATS = "upload-stats"
    EXTERNAL = "external"


class ExecutionCluster(StrEnum):
    """``dedicated`` runs the job on a cluster of its own, ``shared`` on a common one."""

    DEDICATED = "dedicated"
    SHARED = "shared"


class Outcome(StrEnum):
    """How a cancellation ended; ``attested`` is a person's word and shown as unproven."""

    STOPPED = "stopped"
    FINISHED_UNPUBLISHED = "finished_unpublished"
    NEVER_STARTED = "never_started"
    ATTESTED = "attested"


class Closure(StrEnum):
    """Why nothing of a job can start any more."""

    NEVER_CLAIMED = "never_claimed"
    EXECUTOR_CLOSED = "executor_closed"
    ENGINE_CLOSED = "engine_closed"
    PERMIT_EXPIRED = "permit_expired"
    SINGLE_RUN = "single_run"


class Waiting(StrEnum):
    """Why a cancellation is postponed."""

    PLANE_SILENT = "plane_silent"
    NOT_PERMITTED = "not_permitted"
    STILL_RUNNING = "still_running"
    NOT_CLOSED = "not_closed"
    HANDLE_UNKNOWN = "handle_unknown"
    ADAPTER_ERROR = "adapter_error"


class Rung(StrEnum):
    """The ladder: ask (cancel the statement), insist (abort request, session), force (kill the application)."""

    ASK = "ask"
    INSIST = "insist"
    FORCE = "force"


class Purpose(StrEnum):
    """What a statement is for; only ``run`` is ever found or stopped."""

    RUN = "run"
    PUBLISH = "publish"
    CLEANUP = "cleanup"


def work_tag(installation: str, data_plane_id: UUID, job_id: UUID, purpose: Purpose = Purpose.RUN) -> str:
    """The tag that every statement of a job carries in its engine; fixed before anything starts."""
    return f"countermand:{installation}:{data_plane_id}:{job_id}:{purpose.value}"


# --- who asked -----------------------------------------------------------------------------------------------------


class ApiUser(Struct, frozen=True, tag="api_user", tag_field="type", forbid_unknown_fields=True):
    """A person, by way of the API."""

    company_id: int
    user_id: int


class Process(Struct, frozen=True, tag="process", tag_field="type", forbid_unknown_fields=True):
    """A program, by its name; ``token:<name>`` for the bearer of a token."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


RequestSource = ApiUser | Process


def read_source(document: Any) -> RequestSource:
    """A stored request source."""
    source: RequestSource = msgspec.convert(document, RequestSource)
    return source


# --- inputs and results by type ------------------------------------------------------------------------------------

Sql = Annotated[str, Meta(min_length=1, max_length=1_000_000)]
DatasetId = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class MaterializeViewInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``materialize-view``: the rows of *compiled_sql* become the dataset."""

    nql: Sql
    dataset_id: DatasetId
    compiled_sql: Sql | UnsetType = UNSET
    compiled_select: Sql | UnsetType = UNSET  #: an older spelling of compiled_sql
    stats_enabled: bool = True

    def __post_init__(self) -> None:
        if (self.compiled_sql is UNSET) == (self.compiled_select is UNSET):
            raise ValueError("exactly one of compiled_sql and its older spelling compiled_select is needed")

    @property
    def sql(self) -> str:
        """The compiled SQL, by either spelling."""
        return self.compiled_select if self.compiled_sql is UNSET else self.compiled_sql  # type: ignore[return-value]  # one is set: __post_init__


class NqlForecastInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``nql-forecast``: how many rows would *compiled_sql* answer, at what cost."""

    nql: Sql
    compiled_sql: Sql

    @property
    def sql(self) -> str:
        """The compiled SQL."""
        return self.compiled_sql


class SampleInput(Struct, frozen=True, forbid_unknown_fields=True):
    """``datasets_sample``: *rows* of the dataset, chosen at random, for people to look at."""

    dataset_id: DatasetId
    rows: Annotated[int, Meta(ge=1, le=100_000)] = 1_000


class MaterializeViewResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The reference's result of ``materialize-view``."""

    dataset_id: int
    snapshot_id: int
    recalculation_id: UUID


class ForecastResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The reference's result of a forecast; *cost* in micro cents of a US dollar."""

    rows: Annotated[int, Meta(ge=0)]
    cost: Annotated[int, Meta(ge=0)]


class SampleResult(Struct, frozen=True, forbid_unknown_fields=True):
    """How many rows the published sample of the dataset has."""

    dataset_id: int
    rows: Annotated[int, Meta(ge=0)]


class ExternalResult(Struct, frozen=True, forbid_unknown_fields=True):
    """How a tracked run succeeded, by its engine's own word and time: it could not be stopped in time."""

    handle: "Handle"
    engine_status: Annotated[str, Meta(min_length=1)]
    engine_ended_at: datetime | None = None


INPUTS: dict[JobType, Any] = {
    JobType.MATERIALIZE_VIEW: MaterializeViewInput,
    JobType.NQL_FORECAST: NqlForecastInput,
    JobType.SAMPLE: SampleInput,
}
RESULTS: dict[JobType, Any] = {
    JobType.MATERIALIZE_VIEW: MaterializeViewResult,
    JobType.NQL_FORECAST: ForecastResult,
    JobType.FORECAST: ForecastResult,
    JobType.SAMPLE: SampleResult,
    JobType.EXTERNAL: ExternalResult,
}


def _checked(kind: str, model: Any, job_type: JobType, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{kind}: a JSON object is needed, not {type(value).__name__}", field=kind)
    if model is None:
        return value
    try:
        converted = msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(model))
        raise BadInput(f"{kind}: {error}; a {job_type.value} job has the fields {fields}", field=kind) from error
    document: dict[str, Any] = msgspec.to_builtins(converted)
    return document


def check_input(job_type: JobType, value: object) -> dict[str, Any]:
    """*value* as the input of a job of this type, with defaults filled in; BadInput names the field at fault.

    Types without a documented input take any JSON object.
    """
    return _checked("input", INPUTS.get(job_type), job_type, value)


def check_result(job_type: JobType, value: object) -> dict[str, Any]:
    """*value* as the result of a job of this type; BadInput names the field at fault."""
    return _checked("result", RESULTS.get(job_type), job_type, value)


LARGEST = 2**63 - 1  #: what a database's integer holds


def check_range(field: str, value: int | None, least: int, most: int) -> None:
    """Raise BadInput, naming the field, for a number out of its range."""
    if value is not None and not least <= value <= most:
        raise BadInput(f"{field}: a number from {least} to {most} is needed, not {value}", field=field)


def check_kept(field: str, value: object) -> None:
    """Raise BadInput, naming the field, for what no database holds: NUL or half a character, and numbers like NaN."""
    if _is_deeper(value, DEEPEST):
        raise BadInput(f"{field}: it is nested deeper than {DEEPEST} levels", field=field)
    for leaf in _leaves(value):
        if isinstance(leaf, str) and ("\0" in leaf or leaf.encode(errors="ignore").decode() != leaf):
            raise BadInput(f"{field}: text with a NUL or half a character cannot be kept", field=field)
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise BadInput(f"{field}: JSON has no number {leaf}", field=field)


DEEPEST = 100  #: of a document; somewhere above it, encoders and databases give up


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_leaves(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def read_input(job_type: JobType, document: dict[str, Any]) -> Any:
    """The typed input that :func:`check_input` accepted when the job was submitted."""
    return msgspec.convert(document, INPUTS[job_type])


# --- the job and its cancellation ----------------------------------------------------------------------------------


class Handle(Struct, frozen=True):
    """The engine's own name for a run, with the incarnation of the engine that gave it.

    Of a tracked run only the name is known, as somebody gave it; the other two are empty until the engine has answered.
    """

    engine: str
    incarnation: str
    run_id: str


def executor_of(run_id: str) -> str:
    """What the name of a run begins with: its executor's id, where an executor gave it."""
    return run_id.partition("/")[0]


Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(max_length=1_000)]


class Owner(Struct, frozen=True):
    """To whom a run belongs, as its engine says; what the engine does not know is None."""

    user: str | None = None
    warehouse: str | None = None
    role: str | None = None

    def __str__(self) -> str:
        known = [f"{name} {value}" for name, value in msgspec.structs.asdict(self).items() if value is not None]
        return ", ".join(known) or "nobody known"


class Tracking(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose work, started elsewhere, may be tracked on a plane and stopped: one match is enough, letter by letter."""

    users: Names = []
    warehouses: Names = []
    roles: Names = []

    def __str__(self) -> str:
        named = [f"{kind} {', '.join(names)}" for kind, names in msgspec.structs.asdict(self).items() if names]
        return "; ".join(named) or "nobody"

    def allows(self, owner: Owner | None) -> bool:
        """Whether the run of this owner may be stopped; nobody known is nobody allowed."""
        return owner is not None and (
            owner.user in self.users or owner.warehouse in self.warehouses or owner.role in self.roles
        )


class Receipt(Struct, frozen=True, forbid_unknown_fields=True):
    """The evidence without which ``cancelled`` cannot be written."""

    outcome: Outcome
    seen_at: datetime  #: when the deciding evidence was read
    worker: str  #: who read it
    closure: Closure | None = None
    tag: str | None = None
    engine: str | None = None
    incarnation: str | None = None
    handle: Handle | None = None
    engine_status: str | None = None  #: the engine's own word
    engine_ended_at: datetime | None = None  #: the engine's own time
    rounds: int = 0
    rung: Rung | None = None  #: how far the ladder was climbed; None where nothing had to be stopped
    attestation: str | None = None  #: a person's own words, where nothing but their word is known


def check_evidence(receipt: Receipt) -> None:
    """Raise BadInput unless a worker could have written this: it saw why nothing can start, and attests to nothing."""
    if receipt.outcome is Outcome.ATTESTED or receipt.attestation is not None:
        raise BadInput("receipt.outcome: a worker has evidence, or none; it cannot attest", field="receipt.outcome")
    if receipt.closure is None:
        allowed = ", ".join(Closure)
        raise BadInput(f"receipt.closure: why nothing can start any more, one of {allowed}", field="receipt.closure")
    if receipt.closure is Closure.SINGLE_RUN and not (receipt.handle and receipt.engine):
        raise BadInput("receipt.handle: which run was seen to end, in which engine, is needed", field="receipt.handle")
    if receipt.closure not in (Closure.NEVER_CLAIMED, Closure.SINGLE_RUN) and not (receipt.tag and receipt.engine):
        raise BadInput("receipt.tag: what was looked for, in which engine, is needed", field="receipt.tag")


class FailureCause(Struct, frozen=True):
    """One cause of a job's failure; *value* holds diagnostics."""

    message: str
    timestamp: datetime
    value: dict[str, Any]


class Cancellation(Struct, frozen=True):
    """Who asked for a job to be cancelled, why and when, and how far it has come."""

    job_id: UUID
    requested_by: RequestSource
    reason: str | None
    requested_at: datetime
    rounds: int
    waiting: Waiting | None
    waiting_detail: str | None
    next_round_at: datetime
    rung: Rung | None
    first_claimed_at: datetime | None
    first_stop_at: datetime | None
    stuck_at: datetime | None  #: when it was found to wait for longer than the plane's stuck_after
    settled_at: datetime | None
    leftovers: list[str]


class Job(Struct, frozen=True):
    """A job as the API and the command show it."""

    job_id: UUID
    data_plane_id: UUID
    request_source: RequestSource
    state: JobState
    type: JobType
    input: dict[str, Any]
    executor: str | None
    execution_cluster: ExecutionCluster | None
    compute_pool_id: UUID | None
    failures: list[FailureCause]
    idempotency_key: str | None
    result: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    committed_at: datetime | None = None
    retry_of: UUID | None = None
    handle: Handle | None = None
    receipt: Receipt | None = None
    cancellation: Cancellation | None = None


class AuditEntry(Struct, frozen=True):
    """One move of a job: who, from, to, when, why; *from_state* is None for its submission."""

    move: str
    from_state: JobState | None
    to_state: JobState
    actor: RequestSource
    reason: str | None
    moved_at: datetime


class DataPlane(Struct, frozen=True):
    """Where work runs."""

    data_plane_id: UUID
    company_id: int  #: its owner
    display_name: str
    platform: Platform
    status: Literal["active", "archived"]
    external_id: str | None
    description: str | None
    tags: list[str]
    permit_seconds: float  #: how long a claim or an attend lets an executor submit statements
    listing_lag_seconds: float  #: how far apart two empty listings must be to mean absence
    stuck_after_seconds: float  #: a cancellation that waits longer is stuck
    created_at: datetime
    last_heartbeat_at: datetime | None
    silent: bool  #: no process of it was heard of for SILENT_AFTER_SECONDS
    collaborators: list[int] = []  #: the companies that it is shared with
    tracking: Tracking = Tracking()  #: whose work, started elsewhere, may be tracked on it


#: Processes of a plane say that they live every ten seconds.
SILENT_AFTER_SECONDS = 30.0


# --- what an executor is given and says ----------------------------------------------------------------------------


class Executor(Struct, frozen=True):
    """An executor: its identity, which start of it, and where its run server listens.

    In a work *incarnation* is the one that claimed the job, *registered* the one that the control plane knows now: it
    alone is believed.
    """

    executor_id: str
    incarnation: int
    address: str | None = None
    registered: int | None = None


def check_executor(executor: Executor) -> None:
    """Raise BadInput, naming the field, for an executor that no database can hold."""
    check_kept("executor", msgspec.to_builtins(executor))
    check_range("executor.incarnation", executor.incarnation, 1, 2**31 - 1)
    check_range("executor.registered", executor.registered, 1, 2**31 - 1)


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


# --- what a canceller is given and says ----------------------------------------------------------------------------


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


class Assignment(Struct, frozen=True):
    """One claimed cancellation: what to cancel, who asked, and what earlier rounds have learned."""

    work: Work
    data_plane_id: UUID
    type: JobType
    lease: UUID
    requested_by: RequestSource
    reason: str | None
    requested_at: datetime
    rounds: int
    committed: bool
    closure: Closure | None  #: what the store knows: never claimed, executor closed, permit expired
    alone: bool  #: claimed repeatedly without an outcome, so it is worked by itself
    listing_lag_seconds: float
    stuck_after_seconds: float
    waiting: Waiting | None = None
    rung: Rung | None = None
    rung_since: datetime | None = None
    first_claimed_at: datetime | None = None
    first_stop_at: datetime | None = None


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
    first_stop_at: datetime | None = None
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
    settled_at: datetime | None = None


class Postponement(Struct, frozen=True):
    """A cancellation given back for now, with the reason in one sentence."""

    job_id: UUID
    lease: UUID
    waiting: Waiting
    detail: str
    delay_seconds: float
    rung: Rung | None = None
    rung_since: datetime | None = None
    first_stop_at: datetime | None = None


class Postponed(Struct, frozen=True):
    """A postponement that was taken; *became_stuck* is true once in a cancellation's life."""

    job_id: UUID
    became_stuck: bool
