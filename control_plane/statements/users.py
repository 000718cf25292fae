"""What users ask of jobs: submit, look, request a cancellation."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Insert,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    null,
    select,
)

from control_plane.jobs import Cancellation, Job
from control_plane.lifecycle import JobState, Trigger
from control_plane.schema import (
    Document,
    Uuid,
    audit,
    cancellations,
    data_planes,
    jobs,
    named_dataset,
)
from control_plane.statements.chains import MOVED, Chain, actor, audited, move, settled_now
from control_plane.statements.elements import among, json_object, now, rows, woken
from control_plane.work import News


@lru_cache
def insert_job() -> Insert:
    """A new pending job, from bound columns."""
    return insert(jobs).values(state=JobState.PENDING.value, created_at=now(), updated_at=now()).returning(*MOVED)


@lru_cache
def record_birth() -> Insert:
    """The audit row of a submission, which is no move and comes from no state."""
    return insert(audit).values(
        job_id=bindparam("job_id", type_=Uuid),
        move="submit",
        to_state=JobState.PENDING.value,
        actor=actor(),
        moved_at=now(),
    )


@lru_cache
def start_tracked() -> Chain:
    """Start ``:of_job``, whose only run is the one that ``:new_handle`` names: it runs already, and no executor's."""
    first = move(
        Trigger.START,
        jobs.c.job_id == bindparam("of_job", type_=Uuid),
        handle=bindparam("new_handle", type_=Document),
        executor=bindparam("by_executor", type_=Text),
        epoch=bindparam("new_epoch", type_=Uuid),
    )
    return Chain(first, (audited(Trigger.START, actor()),))


@lru_cache
def wake_plane() -> Select[Any]:
    """Tell the listeners that ``:plane`` has a job to start."""
    return select(woken(bindparam("plane", type_=Text), News.JOBS))


def _job_document(job: FromClause, cancellation: ColumnElement[Any]) -> ColumnElement[Any]:
    """A row of jobs as the JSON of a Job: reading it so costs a third of reading sixty columns."""
    fields = {name: job.c[name] for name in Job.__struct_fields__ if name not in ("cancellation", "failures")}
    failures = func.coalesce(job.c.failures, literal_column("'[]'", Document), type_=Document)
    document = json_object(**fields, failures=failures, cancellation=cancellation)
    return cast(document, Text).label("job")


def _cancellation_document(fields: Mapping[str, ColumnElement[Any]]) -> ColumnElement[Any]:
    leftovers = func.coalesce(fields["leftovers"], literal_column("'[]'", Document), type_=Document)
    whole = {name: fields[name] for name in Cancellation.__struct_fields__ if name != "leftovers"}
    return json_object(**whole, leftovers=leftovers)


_CANCELLATION = case((cancellations.c.job_id.is_not(None), _cancellation_document(dict(cancellations.c.items()))))


def _jobs_with_cancellations() -> Select[Any]:
    return select(_job_document(jobs, _CANCELLATION)).select_from(
        jobs.outerjoin(cancellations, jobs.c.job_id == cancellations.c.job_id)
    )


@lru_cache
def select_jobs_in() -> Select[Any]:
    """The jobs in ``:rows``, with their cancellations, and with *owner*, that of their planes."""
    wanted = select(rows(job_id=Uuid).c.job_id)
    asked = and_(jobs.c.job_id == cancellations.c.job_id, among(cancellations.c.job_id, wanted))
    whole = jobs.outerjoin(cancellations, asked).join(data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id)
    return (
        select(
            _job_document(jobs, _CANCELLATION),
            jobs.c.job_id,
            jobs.c.data_plane_id,
            jobs.c.company_id,
            data_planes.c.company_id.label("owner"),
        )
        .select_from(whole)
        .where(among(jobs.c.job_id, wanted))
    )


@lru_cache
def select_requestable() -> Select[Any]:
    """What decides whether somebody may ask for the cancellation of the jobs in ``:rows``."""
    return (
        select(
            jobs.c.job_id,
            jobs.c.state,
            jobs.c.committed_at,
            jobs.c.type,
            jobs.c.data_plane_id,
            jobs.c.company_id,
            data_planes.c.company_id.label("owner"),
            data_planes.c.platform,
        )
        .join(data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id)
        .where(among(jobs.c.job_id, select(rows(job_id=Uuid).c.job_id)))
    )


@lru_cache
def select_job_by_key() -> Select[Any]:
    """The job that a company submitted under an idempotency key."""
    return _jobs_with_cancellations().where(
        jobs.c.company_id == bindparam("company_id", type_=Integer),
        jobs.c.idempotency_key == bindparam("idempotency_key", type_=Text),
    )


class Filters(NamedTuple):
    """The reference's filters of a listing, and the company whose jobs are listed; None lets everything through."""

    company_id: int | None = None
    data_plane_id: UUID | None = None
    dataset_id: int | None = None
    type: str | None = None
    state: str | None = None


def _matching(filters: Filters) -> list[ColumnElement[bool]]:
    wanted = {
        jobs.c.company_id: filters.company_id,
        jobs.c.data_plane_id: filters.data_plane_id,
        jobs.c.type: filters.type,
        jobs.c.state: filters.state,
    }
    matches = [column == value for column, value in wanted.items() if value is not None]
    if filters.dataset_id is not None:
        matches.append(named_dataset == str(filters.dataset_id))
    return matches


ORDERS = {
    "created_at_asc": (jobs.c.created_at.asc(), jobs.c.job_id.asc()),
    "created_at_desc": (jobs.c.created_at.desc(), jobs.c.job_id.desc()),
    "updated_at_asc": (jobs.c.updated_at.asc(), jobs.c.job_id.asc()),
    "updated_at_desc": (jobs.c.updated_at.desc(), jobs.c.job_id.desc()),
}


def select_jobs(filters: Filters, order_by: str) -> Select[Any]:
    """One page of the jobs that match: ``:per_page`` of them from ``:offset``. The index alone says which they are."""
    page = (
        select(jobs.c.job_id)
        .where(*_matching(filters))
        .order_by(*ORDERS[order_by])
        .limit(bindparam("per_page", type_=Integer))
        .offset(bindparam("offset", type_=BigInteger))
    )
    return _jobs_with_cancellations().where(among(jobs.c.job_id, page)).order_by(*ORDERS[order_by])


def count_jobs(filters: Filters) -> Select[Any]:
    """How many jobs match."""
    return select(func.count()).select_from(jobs).where(*_matching(filters))


@lru_cache
def select_audit() -> Select[Any]:
    """The moves of one job, in order."""
    return select(audit).where(audit.c.job_id == bindparam("job_id", type_=Uuid)).order_by(audit.c.audit_id)


@lru_cache
def request_cancellation() -> Chain:
    """Ask for the jobs in ``:rows`` to be cancelled, each as somebody and for a reason of its own; a job stands there
    once. Those that nobody may ask for any more return no row."""
    wanted = rows(job_id=Uuid, requested_by=Document, reason=Text)

    def opened(moved: FromClause) -> Insert:
        names = ["job_id", "data_plane_id", "requested_by", "reason", "requested_at", "next_round_at"]
        asked = moved.join(wanted, wanted.c.job_id == moved.c.job_id)
        columns = select(moved.c.job_id, moved.c.data_plane_id, wanted.c.requested_by, wanted.c.reason, now(), now())
        return insert(cancellations).from_select(names, columns.select_from(asked))

    return Chain(
        move(
            Trigger.REQUEST_CANCELLATION,
            among(jobs.c.job_id, select(wanted.c.job_id)),  # by the index, whatever the statistics say
            jobs.c.job_id == wanted.c.job_id,
        ).returning(*(column for column in jobs.c if column not in MOVED)),
        (opened, audited(Trigger.REQUEST_CANCELLATION, wanted.c.requested_by, wanted.c.reason, told=wanted)),
        lambda moved: _as_requested(moved, wanted),
    )


def _as_requested(moved: FromClause, wanted: FromClause) -> Select[Any]:
    """The jobs as the request left them, with their new cancellations; their planes are told."""
    given: dict[str, ColumnElement[Any]] = {
        "job_id": moved.c.job_id,
        "requested_by": wanted.c.requested_by,
        "reason": wanted.c.reason,
        "requested_at": moved.c.updated_at,
        "next_round_at": moved.c.updated_at,
        "rounds": literal_column("0", Integer),
    }
    empty = {name: cast(null(), cancellations.c[name].type) for name in Cancellation.__struct_fields__}
    document = _job_document(moved, _cancellation_document(empty | given))
    return select(moved.c.job_id, document, woken(moved.c.data_plane_id, News.CANCELLATIONS)).select_from(
        moved.join(wanted, wanted.c.job_id == moved.c.job_id)
    )


@lru_cache
def select_on_plane() -> Select[Any]:
    """Those of the jobs in ``:rows`` that are on ``:on_plane``."""
    return select(jobs.c.job_id).where(
        among(jobs.c.job_id, select(rows(job_id=Uuid).c.job_id)),
        jobs.c.data_plane_id == bindparam("on_plane", type_=Uuid),
    )


@lru_cache
def attest() -> Chain:
    """Cancel the jobs in ``:rows`` on a person's word, which is the reason in the audit."""
    wanted = rows(job_id=Uuid, receipt=Document)
    return Chain(
        move(Trigger.CANCEL, jobs.c.job_id == wanted.c.job_id, receipt=wanted.c.receipt),
        (settled_now, audited(Trigger.CANCEL, actor(), bindparam("attestation", type_=Text))),
    )


@lru_cache
def select_moment() -> Select[Any]:
    """What time it is for the database."""
    return select(now().label("moment"))


@lru_cache
def settle_never_claimed() -> Chain:
    """Cancel those of the jobs in ``:rows`` that no executor ever claimed."""
    wanted = rows(job_id=Uuid, receipt=Document)
    return Chain(
        move(Trigger.CANCEL, jobs.c.job_id == wanted.c.job_id, jobs.c.epoch.is_(None), receipt=wanted.c.receipt),
        (settled_now, audited(Trigger.CANCEL, actor())),
    )
