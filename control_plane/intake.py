"""What users ask: planes, jobs, and the cancellation of jobs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import RowMapping
from sqlalchemy.exc import IntegrityError

from control_plane import lifecycle, statements
from control_plane.errors import BadInput, Conflict, NotFound
from control_plane.ids import new_id
from control_plane.jobs import (
    LARGEST,
    AuditEntry,
    Cancellation,
    Closure,
    DataPlane,
    ExecutionCluster,
    FailureCause,
    Handle,
    Job,
    JobType,
    Outcome,
    Platform,
    Process,
    Receipt,
    RequestSource,
    Rung,
    Waiting,
    check_input,
    check_kept,
    check_range,
    read_source,
    work_tag,
)
from control_plane.lifecycle import JobState, Trigger
from control_plane.policy import Policy
from control_plane.statements import Filters
from control_plane.store import Store, Transaction

COMPANY = 1  #: the only company until tokens tell them apart
PER_PAGE_LIMIT = 500
EVERYTHING = Filters()
SELF = Process("control_plane")


class NewPlane(Struct, frozen=True):
    """What a data plane is made from."""

    display_name: str
    platform: Platform
    external_id: str | None = None
    description: str | None = None
    tags: list[str] = []
    permit_seconds: float = 30.0
    listing_lag_seconds: float = 0.0
    stuck_after_seconds: float = 900.0


class NewJob(Struct, frozen=True):
    """What a job is made from."""

    data_plane_id: UUID
    type: JobType
    input: dict[str, Any]
    execution_cluster: ExecutionCluster | None = None
    compute_pool_id: UUID | None = None
    idempotency_key: str | None = None
    retry_of: UUID | None = None


class Page(Struct, frozen=True):
    """One page of a listing, the reference's fields; pages count from 1."""

    current_page: int
    total_records: int
    total_pages: int
    records: list[Job]


class Intake:
    """The store as users see it."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    # --- data planes ---

    def create_plane(self, new: NewPlane) -> DataPlane:
        """Make a data plane; Conflict when its name is taken, BadInput for times that are not positive."""
        for name in ("permit_seconds", "stuck_after_seconds", "listing_lag_seconds"):
            seconds = getattr(new, name)
            if not (math.isfinite(seconds) and (seconds > 0 or (seconds == 0 and name == "listing_lag_seconds"))):
                least = "from" if name == "listing_lag_seconds" else "above"
                raise BadInput(f"{name}: a number of seconds {least} 0 is needed, not {seconds}", field=name)
        if not new.display_name.strip():
            raise BadInput("display_name: a name is needed", field="display_name")
        for name in ("display_name", "external_id", "description", "tags"):
            check_kept(name, getattr(new, name))
        try:
            made = self._store.perform(
                statements.insert_plane(), data_plane_id=new_id(), company_id=COMPANY, **msgspec.to_builtins(new)
            )
        except IntegrityError as error:
            message = f"display_name: there is a data plane {new.display_name!r} already"
            raise Conflict(message, field="display_name") from error
        return _plane(made[0])

    def planes(self) -> list[DataPlane]:
        """Every data plane, oldest first."""
        return [_plane(row) for row in self._store.perform(statements.select_planes())]

    def plane(self, data_plane_id: UUID) -> DataPlane:
        """One data plane; NotFound when there is none."""
        found = self._store.perform(statements.select_plane(), data_plane_id=data_plane_id)
        if not found:
            raise NotFound(f"data_plane_id: there is no data plane {data_plane_id}", field="data_plane_id")
        return _plane(found[0])

    # --- jobs ---

    def submit(self, new: NewJob, source: RequestSource) -> Job:
        """Make a pending job. The same idempotency key with the same content answers the same job, else Conflict."""
        self.plane(new.data_plane_id)
        if new.retry_of is not None and not self._found(new.retry_of):
            raise NotFound(f"retry_of: there is no job {new.retry_of}", field="retry_of")
        document = check_input(new.type, new.input)
        check_kept("input", document)
        check_kept("idempotency_key", new.idempotency_key)
        job_id = new_id()
        try:
            with self._store.transaction() as transaction:
                self._insert(transaction, job_id, msgspec.structs.replace(new, input=document), source)
        except IntegrityError as error:
            if new.idempotency_key is None:
                raise
            return self._same_job(new, document, error)
        return self.job(job_id)

    def _insert(self, transaction: Transaction, job_id: UUID, new: NewJob, source: RequestSource) -> None:
        installation = transaction.perform(statements.installation_name())[0]["name"]
        actor = msgspec.to_builtins(source)
        transaction.perform(
            statements.insert_job(),
            job_id=job_id,
            company_id=COMPANY,
            data_plane_id=new.data_plane_id,
            type=new.type.value,
            input=new.input,
            request_source=actor,
            execution_cluster=new.execution_cluster and new.execution_cluster.value,
            compute_pool_id=new.compute_pool_id,
            idempotency_key=new.idempotency_key,
            retry_of=new.retry_of,
            tag=work_tag(installation, new.data_plane_id, job_id),
        )
        transaction.perform(statements.record_birth(), job_id=job_id, actor=actor)
        transaction.perform(statements.wake_plane(), plane=str(new.data_plane_id))

    def _same_job(self, new: NewJob, document: dict[str, Any], error: IntegrityError) -> Job:
        found = self._store.perform(
            statements.select_job_by_key(), company_id=COMPANY, idempotency_key=new.idempotency_key
        )
        if not found:
            raise error
        job = _job(found[0])
        same = ("data_plane_id", "type", "execution_cluster", "compute_pool_id", "retry_of")
        if job.input != document or any(getattr(job, name) != getattr(new, name) for name in same):
            message = f"idempotency_key: {new.idempotency_key!r} was used for another job, {job.job_id}"
            raise Conflict(message, field="idempotency_key") from error
        return job

    def job(self, job_id: UUID) -> Job:
        """One job with its cancellation; NotFound when there is none."""
        found = self._found(job_id)
        if not found:
            raise NotFound(f"job_id: there is no job {job_id}", field="job_id")
        return _job(found[0])

    def _found(self, job_id: UUID) -> Sequence[RowMapping]:
        return self._store.perform(statements.select_jobs_in(), [{"job_id": job_id}])

    def jobs(
        self, filters: Filters = EVERYTHING, *, order_by: str = "created_at_desc", per_page: int = 100, offset: int = 0
    ) -> Page:
        """One page of the jobs that match; BadInput names a field out of its range."""
        _check_choice("order_by", order_by, statements.ORDERS)
        _check_choice("state", filters.state, JobState)
        _check_choice("type", filters.type, JobType)
        check_range("per_page", per_page, 1, PER_PAGE_LIMIT)
        check_range("offset", offset, 0, LARGEST)
        check_range("dataset_id", filters.dataset_id, 1, LARGEST)
        total = self._store.perform(statements.count_jobs(filters))[0]["count"]
        found = self._store.perform(statements.select_jobs(filters, order_by), per_page=per_page, offset=offset)
        return Page(
            current_page=offset // per_page + 1,
            total_records=total,
            total_pages=-(-total // per_page),
            records=[_job(row) for row in found],
        )

    def audit(self, job_id: UUID) -> list[AuditEntry]:
        """Every move of a job, in order; NotFound when there is none."""
        self.job(job_id)
        return [_audit_entry(row) for row in self._store.perform(statements.select_audit(), job_id=job_id)]

    # --- cancellation ---

    def request_cancellation(self, job_id: UUID, requested_by: RequestSource, reason: str | None = None) -> Job:
        """Ask for a job to be cancelled, and answer it as the request left it.

        A no-op for a terminal job and for one that was asked before: the first request's who, why and when are kept.
        NotCancellable for a type that cannot be cancelled on its plane; nothing is changed then.
        """
        job = self.job(job_id)
        if job.state in lifecycle.TERMINAL or not lifecycle.allows(
            Trigger.REQUEST_CANCELLATION, job.state, committed=job.committed_at is not None
        ):
            return job
        self._policy.check(self.plane(job.data_plane_id).platform, job.type)
        check_kept("reason", reason)
        answered = self.open_cancellation(job_id, requested_by, reason)
        if answered.executor is None:
            self.settle_never_claimed([answered])
        return answered

    def open_cancellation(self, job_id: UUID, requested_by: RequestSource, reason: str | None) -> Job:
        """The first of the two transactions: the move, and the job as it left it."""
        wanted = [{"job_id": job_id}]
        with self._store.transaction() as transaction:
            transaction.perform(
                statements.request_cancellation(), wanted, actor=msgspec.to_builtins(requested_by), reason=reason
            )
            return _job(transaction.perform(statements.select_jobs_in(), wanted)[0])

    def settle_never_claimed(self, jobs: Sequence[Job]) -> list[UUID]:
        """Cancel those of the jobs that no executor ever claimed: the store itself knows that nothing ever ran."""
        wanted = [{"job_id": job.job_id, "receipt": _never_claimed(job)} for job in jobs]
        settled = self._store.perform(statements.settle_never_claimed(), wanted, actor=msgspec.to_builtins(SELF))
        return [row["job_id"] for row in settled]


def _never_claimed(job: Job) -> Receipt:
    """The evidence is the row as the request left it."""
    return Receipt(
        outcome=Outcome.NEVER_STARTED, seen_at=job.updated_at, worker=SELF.name, closure=Closure.NEVER_CLAIMED
    )


def _check_choice(field: str, value: str | None, allowed: Iterable[str]) -> None:
    if value is not None and value not in list(allowed):
        raise BadInput(f"{field}: {value!r} is not one of {', '.join(allowed)}", field=field)


# --- rows into nouns -----------------------------------------------------------------------------------------------


def _plane(row: RowMapping) -> DataPlane:
    return msgspec.convert({name: row[name] for name in DataPlane.__struct_fields__}, DataPlane)


def _job(row: RowMapping) -> Job:
    return Job(
        job_id=row["job_id"],
        data_plane_id=row["data_plane_id"],
        request_source=read_source(row["request_source"]),
        state=JobState(row["state"]),
        type=JobType(row["type"]),
        input=row["input"],
        executor=row["executor"],
        execution_cluster=ExecutionCluster(row["execution_cluster"]) if row["execution_cluster"] else None,
        compute_pool_id=row["compute_pool_id"],
        failures=msgspec.convert(row["failures"] or [], list[FailureCause]),
        idempotency_key=row["idempotency_key"],
        result=row["result"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        ended_at=row["ended_at"],
        committed_at=row["committed_at"],
        retry_of=row["retry_of"],
        handle=msgspec.convert(row["handle"], Handle | None),
        receipt=msgspec.convert(row["receipt"], Receipt | None),
        cancellation=_cancellation(row),
    )


def _cancellation(row: RowMapping) -> Cancellation | None:
    if row["cancellation_job_id"] is None:
        return None
    fields = {name: row[f"cancellation_{name}"] for name in Cancellation.__struct_fields__}
    return Cancellation(
        **fields
        | {
            "requested_by": read_source(fields["requested_by"]),
            "waiting": fields["waiting"] and Waiting(fields["waiting"]),
            "rung": fields["rung"] and Rung(fields["rung"]),
            "leftovers": fields["leftovers"] or [],
        }
    )


def _audit_entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        move=row["move"],
        from_state=JobState(row["from_state"]) if row["from_state"] else None,
        to_state=JobState(row["to_state"]),
        actor=read_source(row["actor"]),
        reason=row["reason"],
        moved_at=row["moved_at"],
    )
