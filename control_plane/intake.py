"""What users ask: planes, jobs, and the cancellation of jobs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Self
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import RowMapping
from sqlalchemy.exc import IntegrityError

from control_plane import lifecycle, statements
from control_plane.checks import LARGEST, check_kept, check_range
from control_plane.errors import BadInput, Conflict, CountermandError, Forbidden, NotCancellable, NotFound
from control_plane.ids import new_id, new_token
from control_plane.inputs import check_input
from control_plane.jobs import (
    ApiUser,
    AuditEntry,
    Cancellation,
    Closure,
    ExecutionCluster,
    Handle,
    Job,
    JobType,
    Outcome,
    Process,
    Receipt,
    RequestSource,
    Waiting,
    executor_of,
    read_source,
    work_tag,
)
from control_plane.lifecycle import JobState, Trigger
from control_plane.planes import LISTING_LAG_SECONDS, DataPlane, Platform, Tracking, in_order
from control_plane.policy import Policy
from control_plane.scope import OPERATOR, Scope
from control_plane.statements import Filters
from control_plane.store import Store, Transaction
from control_plane.tally import Tally
from control_plane.wire import CancellationProgress, Page

PER_PAGE_LIMIT = 500
LONGEST_NAME = 200
LONGEST_HANDLE = 500
OPERATORS_COMPANY = 1  #: the owner of what an operator makes at the database itself
EVERYTHING = Filters()
SELF = Process("control_plane")


class NewPlane(Struct, frozen=True):
    """What a data plane is made from."""

    display_name: str
    platform: Platform
    external_id: str | None = None
    description: str | None = None
    tags: list[str] = []
    collaborators: list[int] = []
    permit_seconds: float = 30.0
    listing_lag_seconds: float | None = None  #: None: as long as listings of the platform may lag
    stuck_after_seconds: float = 900.0
    execution_clusters: list[ExecutionCluster] = []  #: of Spark; none: the plane's jobs run in its one engine


class NewJob(Struct, frozen=True):
    """What a job is made from."""

    data_plane_id: UUID
    type: JobType
    input: dict[str, Any]
    execution_cluster: ExecutionCluster | None = None
    compute_pool_id: UUID | None = None
    idempotency_key: str | None = None
    retry_of: UUID | None = None
    handle: str | None = None  #: of work started elsewhere: its engine's own name for it


class CancellationRequest(Struct, frozen=True):
    """One request: which job, by whom, why, and what the one who asks may see."""

    job_id: UUID
    requested_by: RequestSource
    reason: str | None = None
    scope: Scope = OPERATOR


class Intake:
    """The store as users see it, each within a scope: what is outside of it is not there."""

    def __init__(self, store: Store, policy: Policy, scope: Scope = OPERATOR, tally: Tally | None = None) -> None:
        self._store = store
        self._policy = policy
        self._scope = scope
        self._tally = tally or Tally()
        self._company_id = scope.company_id or OPERATORS_COMPANY

    def within(self, scope: Scope) -> Self:
        """The same store, for somebody else."""
        return type(self)(self._store, self._policy, scope, self._tally)

    # --- data planes ---

    def create_plane(self, new: NewPlane) -> DataPlane:
        """Make a data plane; Conflict when its name is taken, BadInput for what it cannot have."""
        if self._scope.data_plane_id is not None:
            raise Forbidden(f"whoever is bound to data plane {self._scope.data_plane_id} makes no others")
        _check_plane(new)
        fields = msgspec.to_builtins(new) | {
            "listing_lag_seconds": _listing_lag_of(new),
            "execution_clusters": [cluster.value for cluster in in_order(new.execution_clusters)],
        }
        shared = [{"company_id": company} for company in sorted(set(fields.pop("collaborators")))]
        plane_id = new_id()
        try:
            with self._store.transaction() as transaction:
                transaction.perform(
                    statements.insert_plane(), data_plane_id=plane_id, company_id=self._company_id, **fields
                )
                if shared:
                    transaction.perform(statements.share_plane(), shared, data_plane_id=plane_id)
        except IntegrityError as error:
            message = f"display_name: there is a data plane {new.display_name!r} already"
            raise Conflict(message, field="display_name") from error
        return self.plane(plane_id)

    def planes(self) -> list[DataPlane]:
        """Every data plane that is the company's or shared with it, oldest first."""
        rows = self._store.perform(statements.select_planes(), company_id=self._scope.company_id)
        return [self._shown(plane) for plane in self._with_collaborators(rows) if self._sees(plane)]

    def plane(self, data_plane_id: UUID) -> DataPlane:
        """One data plane; NotFound when there is none."""
        found = self._store.perform(statements.select_plane(), data_plane_id=data_plane_id)
        for plane in self._with_collaborators(found):
            if self._sees(plane):
                return self._shown(plane)
        raise no_plane(data_plane_id)

    def planes_in(self, data_plane_ids: Iterable[UUID]) -> dict[UUID, DataPlane]:
        """Those of the data planes that are within the scope."""
        wanted = [{"data_plane_id": plane} for plane in data_plane_ids]
        found = self._with_collaborators(self._store.perform(statements.select_planes_in(), wanted)) if wanted else []
        return {plane.data_plane_id: self._shown(plane) for plane in found if self._sees(plane)}

    def _sees(self, plane: DataPlane) -> bool:
        shared = self._scope.company_id in plane.collaborators
        return self._scope.sees_plane(plane.data_plane_id, plane.company_id, shared=shared)

    def _shown(self, plane: DataPlane) -> DataPlane:
        """Who else shares it, and whose work is tracked on it, is its owner's affair."""
        if self._scope.company_id in (None, plane.company_id):
            return plane
        return msgspec.structs.replace(plane, collaborators=[self._scope.company_id], tracking=Tracking())

    def _with_collaborators(self, rows: Sequence[RowMapping]) -> list[DataPlane]:
        if not rows:
            return []
        shared: defaultdict[UUID, list[int]] = defaultdict(list)
        wanted = [{"data_plane_id": row["data_plane_id"]} for row in rows]
        for row in self._store.perform(statements.select_collaborators(), wanted):
            shared[row["data_plane_id"]].append(row["company_id"])
        return [_plane(row, shared[row["data_plane_id"]]) for row in rows]

    def archive_plane(self, data_plane_id: UUID) -> DataPlane:
        """Let a data plane take no more jobs; its owner may, repeatedly. Conflict while a job on it has not ended."""
        plane = self.plane(data_plane_id)
        if self._scope.company_id not in (None, plane.company_id):
            raise Forbidden("data_plane_id: a data plane is archived by its owner alone", field="data_plane_id")
        with self._store.transaction() as transaction:
            transaction.perform(statements.lock_plane(), data_plane_id=data_plane_id)
            archived = transaction.perform(statements.archive_plane(), of_plane=data_plane_id)
        if not archived:
            message = f"data_plane_id: {plane.display_name} has jobs that have not ended; cancel them first"
            raise Conflict(message, field="data_plane_id")
        return self.plane(data_plane_id)

    def allow_tracking(self, data_plane_id: UUID, tracking: Tracking) -> DataPlane:
        """Say whose work, started elsewhere, may be tracked on a data plane; its owner may."""
        plane = self.plane(data_plane_id)
        if self._scope.company_id not in (None, plane.company_id) or self._scope.data_plane_id is not None:
            message = (
                "data_plane_id: only the owner of a data plane says what is tracked on it, by a token that is not bound"
            )
            raise Forbidden(message, field="data_plane_id")
        document = msgspec.to_builtins(tracking)
        check_kept("tracking", document)
        self._store.perform(statements.allow_tracking(), of_plane=data_plane_id, new_tracking=document)
        return self.plane(data_plane_id)

    # --- jobs ---

    def submit(self, new: NewJob, source: RequestSource) -> Job:
        """Make a pending job. The same idempotency key with the same content answers the same job, else Conflict.

        BadInput names what the job cannot have, also a cluster that its plane does not have.
        """
        plane = self.plane(new.data_plane_id)
        new = msgspec.structs.replace(new, execution_cluster=plane.cluster_for(new.execution_cluster))
        if new.retry_of is not None:
            self._check_retry(new.retry_of)
        document = check_input(new.type, new.input)
        check_kept("input", document)
        check_kept("idempotency_key", new.idempotency_key)
        if new.handle is not None or new.type is JobType.EXTERNAL:
            try:
                self._check_tracked(new, plane)
            except NotCancellable as error:  # it was allowed before, perhaps: then the key has its job
                return self._same_job(new, document, error)
        job_id = new_id()
        try:
            with self._store.transaction() as transaction:
                self._insert(transaction, job_id, msgspec.structs.replace(new, input=document), source)
        except (IntegrityError, Conflict) as error:  # the key is taken, or the plane is archived
            return self._same_job(new, document, error)
        return self.job(job_id)

    def _check_retry(self, job_id: UUID) -> None:
        try:
            self.job(job_id)
        except NotFound as error:
            raise NotFound(f"retry_of: there is no job {job_id}", field="retry_of") from error

    def _check_tracked(self, new: NewJob, plane: DataPlane) -> None:
        if new.type is not JobType.EXTERNAL:
            raise BadInput(f"handle: only a job of type {JobType.EXTERNAL.value} has one", field="handle")
        if not (new.handle and new.handle.strip()) or len(new.handle) > LONGEST_HANDLE:
            message = (
                f"handle: the engine's own name of the run, of at most {LONGEST_HANDLE} characters, is needed: "
                "`countermand jobs track` takes it"
            )
            raise BadInput(message, field="handle")
        check_kept("handle", new.handle)
        if self._scope.company_id not in (None, plane.company_id):
            raise Forbidden("handle: work started elsewhere is tracked by the owner of its data plane", field="handle")
        if plane.status == "active" and plane.tracking == Tracking():
            raise NotCancellable(
                f"type: {plane.display_name} does not allow work started elsewhere to be tracked; its owner says whose "
                "may be: `countermand planes allow-tracking`",
                field="type",
            )

    def _insert(self, transaction: Transaction, job_id: UUID, new: NewJob, source: RequestSource) -> None:
        kept = transaction.perform(statements.keep_plane(), data_plane_id=new.data_plane_id)
        if kept[0]["status"] != "active":
            raise Conflict(
                f"data_plane_id: data plane {new.data_plane_id} is archived; it takes no jobs", field="data_plane_id"
            )
        installation = transaction.perform(statements.installation_name())[0]["name"]
        actor = msgspec.to_builtins(source)
        transaction.perform(
            statements.insert_job(),
            job_id=job_id,
            company_id=self._company_id,
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
        if new.handle is None:
            transaction.perform(statements.wake_plane(), plane=str(new.data_plane_id))
        else:
            self._start_tracked(transaction, job_id, new.data_plane_id, new.handle, actor)

    @staticmethod
    def _start_tracked(
        transaction: Transaction, job_id: UUID, data_plane_id: UUID, named: str, actor: dict[str, Any]
    ) -> None:
        executor_id = executor_of(named)
        executor = transaction.perform(statements.select_executor(), executor_id=executor_id)
        transaction.perform(
            statements.start_tracked(),
            of_job=job_id,
            new_handle=msgspec.to_builtins(Handle(engine="", incarnation="", run_id=named)),
            by_executor=executor_id if executor and executor[0]["data_plane_id"] == data_plane_id else None,
            new_epoch=new_token(),
            actor=actor,
        )

    def _same_job(self, new: NewJob, document: dict[str, Any], error: Exception) -> Job:
        if new.idempotency_key is None:
            raise error
        found = self._store.perform(
            statements.select_job_by_key(), company_id=self._company_id, idempotency_key=new.idempotency_key
        )
        if not found:
            raise error
        job = _job(found[0])
        same = ("data_plane_id", "type", "execution_cluster", "compute_pool_id", "retry_of")
        named = job.handle.run_id if job.handle and job.type is JobType.EXTERNAL else None
        if (job.input, named) != (document, new.handle) or any(
            getattr(job, name) != getattr(new, name) for name in same
        ):
            message = f"idempotency_key: {new.idempotency_key!r} was used for another job, {job.job_id}"
            raise Conflict(message, field="idempotency_key") from error
        return job

    def job(self, job_id: UUID) -> Job:
        """One job with its cancellation; NotFound when there is none."""
        for row in self._store.perform(statements.select_jobs_in(), [{"job_id": job_id}]):
            if _sees_job(self._scope, row):
                return _job(row)
        raise _no_job(job_id)

    def jobs(
        self, filters: Filters = EVERYTHING, *, order_by: str = "created_at_desc", per_page: int = 100, offset: int = 0
    ) -> Page:
        """One page of the jobs that match; BadInput names a field out of its range.

        A company lists its own jobs; with one of its own planes as a filter, everybody's on that plane.
        """
        _check_choice("order_by", order_by, statements.ORDERS)
        _check_choice("state", filters.state, JobState)
        _check_choice("type", filters.type, JobType)
        check_range("per_page", per_page, 1, PER_PAGE_LIMIT)
        check_range("offset", offset, 0, LARGEST)
        check_range("dataset_id", filters.dataset_id, 1, LARGEST)
        within = self._narrowed(filters)
        if within is None:
            return Page(offset // per_page + 1, 0, 0, [])
        total = self._store.perform(statements.count_jobs(within))[0]["count"]
        found = self._store.perform(statements.select_jobs(within, order_by), per_page=per_page, offset=offset)
        return Page(
            current_page=offset // per_page + 1,
            total_records=total,
            total_pages=-(-total // per_page),
            records=[_job(row) for row in found],
        )

    def _narrowed(self, filters: Filters) -> Filters | None:
        """The filters within the scope; None when nothing within it can match."""
        own = self._scope
        if own.company_id is None:
            return filters
        if own.data_plane_id is not None:
            if filters.data_plane_id not in (None, own.data_plane_id):
                return None
            filters = filters._replace(data_plane_id=own.data_plane_id)
        if filters.data_plane_id is None:
            return filters._replace(company_id=own.company_id)
        try:
            plane = self.plane(filters.data_plane_id)
        except NotFound:
            return None
        return filters if plane.company_id == own.company_id else filters._replace(company_id=own.company_id)

    def audit(self, job_id: UUID) -> list[AuditEntry]:
        """Every move of a job, in order; NotFound when there is none."""
        self.job(job_id)
        return [_audit_entry(row) for row in self._store.perform(statements.select_audit(), job_id=job_id)]

    # --- cancellation ---

    def cancellation(self, job_id: UUID) -> CancellationProgress:
        """How far a job's cancellation is; NotFound when nobody asked for one, or there is no such job."""
        job = self.job(job_id)
        if job.cancellation is None:
            raise NotFound(f"job_id: nobody asked for the cancellation of job {job_id}", field="job_id")
        if job.state is JobState.PENDING_CANCELLATION:
            plane = self._store.perform(statements.select_silence(), data_plane_id=job.data_plane_id)[0]
            stuck = _is_stuck(job.cancellation, plane)
            return CancellationProgress(job.state, _while_silent(job.cancellation, plane), None, None, stuck)
        proven = None if job.receipt is None else job.receipt.outcome is not Outcome.ATTESTED
        return CancellationProgress(job.state, job.cancellation, job.receipt, proven, stuck=False)

    def request_cancellation(self, job_id: UUID, requested_by: RequestSource, reason: str | None = None) -> Job:
        """Ask for a job to be cancelled, and answer it as the request left it.

        A no-op for a terminal job and for one that was asked before: the first request's who, why and when are kept.
        NotCancellable for a type that cannot be cancelled on its plane; nothing is changed then.
        """
        [answer] = self.request_cancellations([CancellationRequest(job_id, requested_by, reason, self._scope)])
        if isinstance(answer, CountermandError):
            raise answer
        return answer

    def request_cancellations(self, asked: Sequence[CancellationRequest]) -> list[Job | CountermandError]:
        """Many requests in a few statements and with one wake-up a plane; each gets its own answer, or its own error.

        Of several that name the same job the first is the one that counts.
        """
        known = self._known(request.job_id for request in asked)
        refusals = [self._refusal(request, known.get(request.job_id)) for request in asked]
        wanted = {
            request.job_id: request
            for request, refusal in reversed(list(zip(asked, refusals, strict=True)))
            if refusal is None and _may_be_asked(known[request.job_id])
        }
        opened = self.open_cancellations(list(wanted.values()))
        self.settle_never_claimed([job for job in opened.values() if job.executor is None])
        others = known.keys() - opened.keys()
        if others:  # nothing changed them
            rows = self._store.perform(statements.select_jobs_in(), [{"job_id": job_id} for job_id in others])
            opened |= {row["job_id"]: _job(row) for row in rows}
        return [
            refusal or opened.get(request.job_id) or _no_job(request.job_id)
            for request, refusal in zip(asked, refusals, strict=True)
        ]

    def _known(self, job_ids: Iterable[UUID]) -> dict[UUID, RowMapping]:
        wanted = [{"job_id": job_id} for job_id in set(job_ids)]
        return {row["job_id"]: row for row in self._store.perform(statements.select_requestable(), wanted)}

    def _refusal(self, request: CancellationRequest, row: RowMapping | None) -> CountermandError | None:
        if row is None or not _sees_job(request.scope, row):
            return _no_job(request.job_id)
        if not _may_be_asked(row):
            return None
        try:
            self._policy.check(Platform(row["platform"]), JobType(row["type"]))
            check_kept("reason", request.reason)
        except CountermandError as refusal:
            return refusal
        return None

    def open_cancellations(self, asked: Sequence[CancellationRequest]) -> dict[UUID, Job]:
        """The first of the two transactions: the moves, and those jobs that they moved, as they left them."""
        if not asked:
            return {}
        wanted = sorted(asked, key=lambda request: request.job_id.int)
        moved = self._store.perform(statements.request_cancellation(), wanted)
        return {row["job_id"]: _job(row) for row in moved}

    def attest(self, job_id: UUID, attested_by: RequestSource, name: str, attestation: str) -> Job:
        """Cancel a job on a person's word that it stopped; the receipt says whose word, and that it is no more.

        A no-op for a job that has ended. Conflict unless its cancellation was requested, and for a committed job;
        Forbidden for whoever is no person.
        """
        job = self.job(job_id)
        if job.state in lifecycle.TERMINAL:
            return job
        if not lifecycle.allows(Trigger.CANCEL, job.state, committed=job.committed_at is not None):
            why = "it is committed, and will be completed" if job.committed_at else "request its cancellation first"
            raise Conflict(f"job_id: job {job_id} is {job.state}; {why}", field="job_id")
        if not attestation.strip():
            raise BadInput("attestation: say how you know that it stopped", field="attestation")
        check_kept("attestation", attestation)
        if not isinstance(attested_by, ApiUser):
            raise Forbidden("attestation: a person attests; make a token of theirs: `countermand tokens create --user`")
        moment = self._store.perform(statements.select_moment())[0]["moment"]
        receipt = Receipt(outcome=Outcome.ATTESTED, seen_at=moment, worker=name, attestation=attestation)
        settled = self._store.perform(
            statements.attest(),
            [{"job_id": job_id, "receipt": receipt}],
            actor=msgspec.to_builtins(attested_by),
            attestation=attestation,
        )
        self._tally.add((row["data_plane_id"], receipt.outcome.value) for row in settled)
        return self.job(job_id)

    def settle_never_claimed(self, jobs: Sequence[Job]) -> list[UUID]:
        """Cancel those of the jobs that no executor ever claimed: the store itself knows that nothing ever ran."""
        if not jobs:
            return []
        wanted = [{"job_id": job.job_id, "receipt": _never_claimed(job)} for job in jobs]
        settled = self._store.perform(statements.settle_never_claimed(), wanted, actor=msgspec.to_builtins(SELF))
        self._tally.add((row["data_plane_id"], Outcome.NEVER_STARTED.value) for row in settled)
        return [row["job_id"] for row in settled]


def _listing_lag_of(new: NewPlane) -> float:
    return LISTING_LAG_SECONDS[new.platform] if new.listing_lag_seconds is None else new.listing_lag_seconds


def _check_plane(new: NewPlane) -> None:
    for name in ("permit_seconds", "stuck_after_seconds", "listing_lag_seconds"):
        seconds = _listing_lag_of(new) if name == "listing_lag_seconds" else getattr(new, name)
        if not (math.isfinite(seconds) and (seconds > 0 or (seconds == 0 and name == "listing_lag_seconds"))):
            least = "from" if name == "listing_lag_seconds" else "above"
            raise BadInput(f"{name}: a number of seconds {least} 0 is needed, not {seconds}", field=name)
    if new.execution_clusters and new.platform is not Platform.NARRATIVE:
        message = f"execution_clusters: only a plane on {Platform.NARRATIVE} has any; leave it out"
        raise BadInput(message, field="execution_clusters")
    if not new.display_name.strip():
        raise BadInput("display_name: a name is needed", field="display_name")
    if len(new.display_name) > LONGEST_NAME:
        raise BadInput(f"display_name: at most {LONGEST_NAME} characters are kept", field="display_name")
    if not all(tag.strip() for tag in new.tags):
        raise BadInput("tags: a tag may not be empty", field="tags")
    for name in ("display_name", "external_id", "description", "tags"):
        check_kept(name, getattr(new, name))
    for company in new.collaborators:
        check_range("collaborators", company, 1, 2**31 - 1)


def _sees_job(scope: Scope, row: RowMapping) -> bool:
    return scope.sees_job(row["data_plane_id"], row["company_id"], row["owner"])


def no_plane(data_plane_id: UUID) -> NotFound:
    """What is said of a plane that does not exist, and of one that is outside of the scope."""
    return NotFound(f"data_plane_id: there is no data plane {data_plane_id}", field="data_plane_id")


def _no_job(job_id: UUID) -> NotFound:
    return NotFound(f"job_id: there is no job {job_id}", field="job_id")


def _is_stuck(cancellation: Cancellation, plane: RowMapping) -> bool:
    """By the plane's own limit: where no worker runs, nobody else could say so."""
    waited = plane["moment"] - cancellation.requested_at
    return cancellation.stuck_at is not None or bool(waited.total_seconds() > plane["stuck_after_seconds"])


def _while_silent(cancellation: Cancellation, plane: RowMapping) -> Cancellation:
    """The cancellation; on a silent plane with that as the reason, which no worker is there to write."""
    if not plane["silent"]:
        return cancellation
    detail = "no worker of the data plane has ever been heard of"
    if plane["heard_at"] is not None:
        heard_at = msgspec.to_builtins(plane["heard_at"].replace(microsecond=0))
        detail = f"no worker of the data plane has been heard of since {heard_at}"
    if cancellation.waiting_detail is not None:
        detail = f"{detail}; before that: {cancellation.waiting_detail}"
    return msgspec.structs.replace(cancellation, waiting=Waiting.PLANE_SILENT, waiting_detail=detail)


def _may_be_asked(row: RowMapping) -> bool:
    committed = row["committed_at"] is not None
    return lifecycle.allows(Trigger.REQUEST_CANCELLATION, JobState(row["state"]), committed=committed)


def _never_claimed(job: Job) -> Receipt:
    """The evidence is the row as the request left it."""
    return Receipt(
        outcome=Outcome.NEVER_STARTED, seen_at=job.updated_at, worker=SELF.name, closure=Closure.NEVER_CLAIMED
    )


def _check_choice(field: str, value: str | None, allowed: Iterable[str]) -> None:
    if value is not None and value not in list(allowed):
        raise BadInput(f"{field}: {value!r} is not one of {', '.join(allowed)}", field=field)


# --- rows into nouns -----------------------------------------------------------------------------------------------


def _plane(row: RowMapping, shared: list[int]) -> DataPlane:
    fields = {name: row[name] for name in DataPlane.__struct_fields__ if name != "collaborators"}
    return msgspec.convert(fields | {"collaborators": shared, "silent": bool(row["silent"])}, DataPlane)


_JOB = msgspec.json.Decoder(Job)


def _job(row: RowMapping) -> Job:
    return _JOB.decode(row["job"])


def _audit_entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        move=row["move"],
        from_state=JobState(row["from_state"]) if row["from_state"] else None,
        to_state=JobState(row["to_state"]),
        actor=read_source(row["actor"]),
        reason=row["reason"],
        moved_at=row["moved_at"],
    )
