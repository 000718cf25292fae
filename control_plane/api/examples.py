"""One story as the examples of the description: a view is materialized, and its cancellation requested and proven."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, structs

from control_plane import process_wire
from control_plane.api import health, jobs
from control_plane.inputs import MaterializeViewInput, MaterializeViewResult
from control_plane.jobs import (
    ApiUser,
    AuditEntry,
    Cancellation,
    Closure,
    FailureCause,
    Handle,
    Job,
    JobType,
    Outcome,
    Process,
    Receipt,
    Rung,
    Waiting,
    work_tag,
)
from control_plane.lifecycle import JobState
from control_plane.planes import Platform, Tracking
from control_plane.wire import (
    CancellationProgress,
    CancellationReason,
    DataPlanes,
    DataPlaneSubmission,
    DataPlaneView,
    Events,
    Evidence,
    Executors,
    JobSubmission,
    KnownExecutor,
    Page,
    PlatformObject,
    WaitingCancellations,
    Whoami,
    Worker,
    Workers,
)
from control_plane.work import (
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
    Settled,
    Settlement,
    Work,
)

_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_PLANE = UUID("01938c52-6b1e-7a52-9d0e-3f1f4a6f8f10")
_JOB = UUID("6f1c3a52-17c2-7e0f-8a4e-2b8c1d5e7f90")
_EPOCH = UUID("3d0cbd5e-9a1b-4b53-9f3c-6f4f0a7d2e11")
_LEASE = UUID("b0a1c9d4-52f7-4c8e-8f7a-0d9e6c3b5a22")
_EXECUTOR = Executor("job-executor-98e1f48e-bf54-4f11-bbd1-73c445120266", 3)
_RUN = Handle("duckdb", "3", f"{_EXECUTOR.executor_id}/3/{_JOB}")
_TAG = work_tag("4d1f0c6a", _PLANE, _JOB)
_WHY = "the wrong month"
_PERSON = ApiUser(company_id=1, user_id=1248)
_INPUT = msgspec.to_builtins(
    MaterializeViewInput(
        nql='CREATE MATERIALIZED VIEW "march" AS SELECT "id" FROM company_data."6402"',
        dataset_id=6404,
        compiled_sql="SELECT `ds`.`id` FROM `narrative`.`datasets`.`ds_6402` AS `ds`",
    )
)
_RESULT = msgspec.to_builtins(
    MaterializeViewResult(6404, 739881302291276700, UUID("abf9a2ec-426b-4751-bd16-fcb435061925"))
)


def _after(seconds: float) -> datetime:
    return _NOON + timedelta(seconds=seconds)


_RECEIPT = Receipt(
    outcome=Outcome.STOPPED,
    seen_at=_after(61.4),
    worker="canceller-1",
    closure=Closure.EXECUTOR_CLOSED,
    tag=_TAG,
    engine="duckdb",
    incarnation="3",
    handle=_RUN,
    engine_status="INTERRUPT Error: Interrupted!",
    engine_ended_at=_after(61.3),
    rounds=1,
    rung=Rung.ASK,
)
_REQUESTED = Cancellation(
    job_id=_JOB,
    requested_by=_PERSON,
    reason=_WHY,
    requested_at=_after(61),
    rounds=0,
    waiting=None,
    waiting_detail=None,
    next_round_at=_after(61),
    rung=None,
    first_claimed_at=None,
    first_stop_at=None,
    stuck_at=None,
    settled_at=None,
    leftovers=[],
)
_SETTLED = structs.replace(
    _REQUESTED, rounds=1, rung=Rung.ASK, first_claimed_at=_after(61.1), first_stop_at=_after(61.2),
    settled_at=_after(61.5), leftovers=[f"outputs.job_{_JOB.hex}"],
)  # fmt: skip
_PENDING = Job(
    job_id=_JOB,
    data_plane_id=_PLANE,
    request_source=_PERSON,
    state=JobState.PENDING,
    type=JobType.MATERIALIZE_VIEW,
    input=_INPUT,
    executor=None,
    execution_cluster=None,
    compute_pool_id=None,
    failures=[],
    idempotency_key="march",
    result=None,
    created_at=_NOON,
    updated_at=_NOON,
    ended_at=None,
)
_RUNNING = structs.replace(
    _PENDING, state=JobState.RUNNING, executor=_EXECUTOR.executor_id, updated_at=_after(1), handle=_RUN
)
_ASKED = structs.replace(_RUNNING, state=JobState.PENDING_CANCELLATION, updated_at=_after(61), cancellation=_REQUESTED)
_CANCELLED = structs.replace(
    _ASKED, state=JobState.CANCELLED, updated_at=_after(61.5), ended_at=_after(61.5), receipt=_RECEIPT,
    cancellation=_SETTLED,
)  # fmt: skip
_CLAIM = Claim(_JOB, JobType.MATERIALIZE_VIEW, _INPUT, _TAG, _EPOCH, 30.0)
_EVENTS = Events(
    [
        AuditEntry("submit", None, JobState.PENDING, _PERSON, None, _NOON),
        AuditEntry("start", JobState.PENDING, JobState.RUNNING, Process(_EXECUTOR.executor_id), None, _after(1)),
        AuditEntry(
            "request_cancellation", JobState.RUNNING, JobState.PENDING_CANCELLATION, _PERSON, _WHY, _after(61)
        ),
        AuditEntry(
            "cancel", JobState.PENDING_CANCELLATION, JobState.CANCELLED, Process("canceller:canceller-1"), None,
            _after(61.5),
        ),
    ]
)  # fmt: skip
_VIEW = DataPlaneView(
    data_plane_id=_PLANE,
    company_id=1,
    display_name="local",
    platform=PlatformObject(Platform.NARRATIVE),
    status="active",
    external_id=None,
    description=None,
    tags=["eu"],
    collaborators=[],
    permit_seconds=30.0,
    listing_lag_seconds=0.0,
    stuck_after_seconds=900.0,
    tracking=Tracking(users=["dbt"]),
    execution_clusters=[],
    created_at=_NOON,
    last_heartbeat_at=_after(55),
    silent=False,
)
_HOLDS = process_wire.Holds([Hold(_JOB, _LEASE)])
_OF_EXECUTOR = process_wire.OfExecutor(_EXECUTOR)
_THIS = process_wire.Jobs([_JOB])
_CAUSE = FailureCause("out of memory", _after(60), {"engine": "duckdb"})

#: A body for every operation that takes one.
BODIES: dict[str, Struct] = {
    "submit_job": JobSubmission(_PLANE, JobType.MATERIALIZE_VIEW, _INPUT, idempotency_key="march"),
    "request_cancellation": CancellationReason(_WHY),
    "cancel_job": Evidence(attestation="the machine was switched off; I was there"),
    "run_job": jobs.Start(_EXECUTOR, "3"),
    "create_data_plane": DataPlaneSubmission("local", PlatformObject(Platform.NARRATIVE), tags=["eu"]),
    "allow_tracking": Tracking(users=["dbt"], warehouses=["LOADING"]),
    "beat": Presence("canceller-1", "canceller", "0.1.0", ["narrative"], 1),
    "claim_cancellations": process_wire.ClaimCancellations("canceller-1", 100, wait_seconds=55.0, lease=_LEASE),
    "extend_leases": _HOLDS,
    "settle_cancellations": process_wire.Settlements("canceller-1", [Settlement(_JOB, _LEASE, _RECEIPT, _after(61.2))]),
    "postpone_cancellations": process_wire.Postponements(
        [Postponement(_JOB, _LEASE, Waiting.STILL_RUNNING, f"{_RUN.run_id} is executing", 2.0, Rung.ASK)]
    ),
    "release_cancellations": _HOLDS,
    "record_leftovers": process_wire.Leftovers({_JOB: _SETTLED.leftovers}),
    "register_executor": process_wire.Registration(_EXECUTOR, _EPOCH),
    "confirm_lower_incarnations": _OF_EXECUTOR,
    "claim_jobs": process_wire.ClaimJobs(_EXECUTOR, [JobType.MATERIALIZE_VIEW], 4, "3", wait_seconds=20.0),
    "attend_jobs": process_wire.Attend({_JOB: _EPOCH}, 3.0),
    "record_handles": process_wire.Handles({_JOB: _RUN}, {_JOB: _EPOCH}),
    "confirm_closed": process_wire.Epochs({_JOB: _EPOCH}),
    "commit_jobs": process_wire.Commits(_EXECUTOR, [Commit(_JOB, _EPOCH, _RESULT, 6404)]),
    "complete_jobs": process_wire.Published(_EXECUTOR, [_JOB]),
    "fail_jobs": process_wire.Failures(_EXECUTOR, [Failure(_JOB, _EPOCH, _CAUSE)]),
    "list_committed_jobs": _OF_EXECUTOR,
    "list_discardable_jobs": process_wire.JobIds([_JOB]),
}
#: What every operation answers when all is well.
ANSWERS: dict[str, Struct | str] = {
    "list_jobs": Page(1, 1, 1, [_CANCELLED]),
    "submit_job": _PENDING,
    "get_job": _CANCELLED,
    "list_job_events": _EVENTS,
    "get_cancellation": CancellationProgress(JobState.CANCELLED, _SETTLED, _RECEIPT, proven=True, stuck=False),
    "request_cancellation": _ASKED,
    "cancel_job": _CANCELLED,
    "run_job": jobs.StartedJob(**structs.asdict(_RUNNING), claim=_CLAIM),
    "list_data_planes": DataPlanes([_VIEW]),
    "create_data_plane": structs.replace(_VIEW, tracking=Tracking(), last_heartbeat_at=None),
    "get_data_plane": _VIEW,
    "archive_data_plane": structs.replace(_VIEW, status="archived"),
    "allow_tracking": structs.replace(_VIEW, tracking=Tracking(users=["dbt"], warehouses=["LOADING"])),
    "beat": _VIEW,
    "list_workers": Workers(
        silent=False,
        records=[
            Worker("canceller-1", "canceller", "0.1.0", ["narrative"], 1, _NOON, _after(55), silent=False),
            Worker(_EXECUTOR.executor_id, "executor", "0.1.0", ["duckdb"], 1, _NOON, _after(54), silent=False),
        ],
        waiting=WaitingCancellations(1, [_JOB]),
    ),
    "claim_cancellations": process_wire.Assignments(
        [
            Assignment(
                work=Work(_JOB, _TAG, _RUN, _EXECUTOR, "3"),
                data_plane_id=_PLANE,
                type=JobType.MATERIALIZE_VIEW,
                lease=_LEASE,
                requested_by=_PERSON,
                reason=_WHY,
                requested_at=_after(61),
                rounds=1,
                committed=False,
                closure=None,
                alone=False,
                listing_lag_seconds=0.0,
                stuck_after_seconds=900.0,
            )
        ]
    ),
    "extend_leases": process_wire.HeldLeases([Hold(_JOB, _LEASE, Closure.EXECUTOR_CLOSED)]),
    "settle_cancellations": process_wire.SettledCancellations([Settled(_JOB, landed=True, settled_at=_after(61.5))]),
    "postpone_cancellations": process_wire.PostponedCancellations([Postponed(_JOB, became_stuck=False)]),
    "release_cancellations": _THIS,
    "record_leftovers": _THIS,
    "register_executor": process_wire.Registered("4d1f0c6a"),
    "list_executors": Executors([KnownExecutor(structs.replace(_EXECUTOR, registered=3), holds_jobs=True)]),
    "confirm_lower_incarnations": _THIS,
    "claim_jobs": process_wire.Claims([_CLAIM]),
    "attend_jobs": Attendance(renewed=[], closing=[_JOB]),
    "record_handles": _THIS,
    "confirm_closed": _THIS,
    "commit_jobs": process_wire.Committed({_JOB: Publication(6404, 17)}),
    "complete_jobs": _THIS,
    "fail_jobs": _THIS,
    "list_committed_jobs": process_wire.Claims([structs.replace(_CLAIM, publication=Publication(6404, 17))]),
    "list_discardable_jobs": _THIS,
    "whoami": Whoami("canceller-1", 1, ["jobs:write"], None, _VIEW, "4d1f0c6a", "0.1.0", _after(60)),
    "metrics": f'countermand_cancellations_waiting{{plane="{_PLANE}",reason="still_running"}} 1\n',
    "live": health.Health(),
    "ready": health.Health(),
}


def examples_of(operation_id: str) -> tuple[Any, Any]:
    """The bodies' and the answers' example of an operation, as JSON has them; None where it has no body."""
    body = BODIES.get(operation_id)
    return None if body is None else msgspec.to_builtins(body), msgspec.to_builtins(ANSWERS[operation_id])
