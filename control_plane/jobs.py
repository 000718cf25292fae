"""Jobs and their cancellation, with the reference's field names: the nouns that everybody shares.

Moments are aware, UTC; ids are UUIDs; everything here is plain data that msgspec reads and writes.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from control_plane.errors import BadInput
from control_plane.lifecycle import JobState

Moment = Annotated[datetime, Meta(tz=True)]  #: aware; who sends it without a zone is refused


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
    """``shared`` runs the job on a common cluster, ``dedicated`` on one of its own. A plane prefers the former."""

    SHARED = "shared"
    DEDICATED = "dedicated"


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

    @property
    def meaning(self) -> str:
        """The same for people."""
        return _CLOSURES[self]


_CLOSURES = {
    Closure.NEVER_CLAIMED: "nobody had ever begun it",
    Closure.EXECUTOR_CLOSED: "its executor vouches that it starts nothing more of it",
    Closure.ENGINE_CLOSED: "the engine starts nothing more of it: its session, or its application's script, is gone",
    Closure.PERMIT_EXPIRED: "the time in which its executor was permitted to start anything is over",
    Closure.SINGLE_RUN: "it was this one run and nothing else",
}


class Waiting(StrEnum):
    """Why a cancellation is postponed."""

    PLANE_SILENT = "plane_silent"
    NOT_PERMITTED = "not_permitted"
    STILL_RUNNING = "still_running"
    NOT_CLOSED = "not_closed"
    HANDLE_UNKNOWN = "handle_unknown"
    ADAPTER_ERROR = "adapter_error"

    @property
    def meaning(self) -> str:
        """What is waited for."""
        return _WAITS[self]


_WAITS = {
    Waiting.PLANE_SILENT: "for an answer from where it runs",
    Waiting.NOT_PERMITTED: "for the right to see and stop it",
    Waiting.STILL_RUNNING: "for the engine's own word that it has ended",
    Waiting.NOT_CLOSED: "until nothing of it can start any more",
    Waiting.HANDLE_UNKNOWN: "for the engine to tell what became of its run; who knows may attest it",
    Waiting.ADAPTER_ERROR: "for a look at the engine that succeeds",
}


class Rung(StrEnum):
    """The ladder: ask (cancel the statement), insist (abort request, session), force (kill the application)."""

    ASK = "ask"
    INSIST = "insist"
    FORCE = "force"


class Purpose(StrEnum):
    """What a statement is for; only ``run`` is ever stopped.

    By ``session`` the session that a job has to itself is found, also where its run was never recorded.
    """

    RUN = "run"
    SESSION = "session"
    PUBLISH = "publish"
    CLEANUP = "cleanup"


def work_tag(installation: str, data_plane_id: UUID, job_id: UUID, purpose: Purpose = Purpose.RUN) -> str:
    """The tag that every statement of a job carries in its engine; fixed before anything starts."""
    return f"countermand:{installation}:{data_plane_id}:{job_id}:{purpose.value}"


def with_purpose(tag: str, purpose: Purpose) -> str:
    """The tag of the same job's statements for another purpose."""
    job, _, _ = tag.rpartition(":")
    return f"{job}:{purpose.value}"


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


class Receipt(Struct, frozen=True, forbid_unknown_fields=True):
    """The evidence without which ``cancelled`` cannot be written."""

    outcome: Outcome
    seen_at: Moment  #: when the deciding evidence was read
    worker: str  #: who read it
    closure: Closure | None = None
    tag: str | None = None
    engine: str | None = None
    incarnation: str | None = None
    handle: Handle | None = None
    engine_status: str | None = None  #: the engine's own word
    engine_ended_at: Moment | None = None  #: the engine's own time
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
    timestamp: Moment
    value: dict[str, Any]


class Cancellation(Struct, frozen=True):
    """Who asked for a job to be cancelled, why and when, and how far it has come."""

    job_id: UUID
    requested_by: RequestSource
    reason: str | None
    requested_at: Moment
    rounds: int
    waiting: Waiting | None
    waiting_detail: str | None
    next_round_at: Moment
    rung: Rung | None
    first_claimed_at: Moment | None
    first_stop_at: Moment | None
    stuck_at: Moment | None  #: when it was found to wait for longer than the plane's stuck_after
    settled_at: Moment | None
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
    created_at: Moment
    updated_at: Moment
    ended_at: Moment | None
    committed_at: Moment | None = None
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
    moved_at: Moment
