"""Cancellations, for a canceller: claim, extend, settle, postpone, give back."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    update,
)

from control_plane.jobs import Closure, JobType, Outcome
from control_plane.lifecycle import Trigger, destination
from control_plane.schema import (
    SUSPECT,
    Document,
    Moment,
    Uuid,
    cancellations,
    data_planes,
    executors,
    jobs,
)
from control_plane.statements.chains import Chain, actor, audited, move, settled_now
from control_plane.statements.elements import among, json_object, locked, now, rows, shifted


@lru_cache
def claim_cancellations(planes: int) -> Chain:
    """Lease due cancellations of ``:plane_0``, ``:plane_1``, … at most ``:room_0``, … of each, oldest first.

    Of those that were claimed repeatedly without an outcome at most one a plane: it may be what kills its workers.
    """
    first = (
        update(cancellations)
        .where(among(cancellations.c.job_id, *map(_due, range(planes))))
        .values(
            lease=bindparam("new_lease", type_=Uuid),
            worker=bindparam("by_worker", type_=Text),
            rounds=cancellations.c.rounds + 1,
            unanswered=cancellations.c.unanswered + 1,
            claimed_at=now(),
            first_claimed_at=func.coalesce(cancellations.c.first_claimed_at, now()),
            next_round_at=_lease_end(),
        )
        .returning(*_CLAIMED)
    )
    return Chain(first, answer=_assignments)


@lru_cache
def lock_claim() -> Select[Any]:
    """Let nobody else claim ``:under`` the same lease or epoch until the transaction ends; on SQLite the transaction
    itself sees to that."""
    return select(locked(bindparam("under", type_=Text)))


@lru_cache
def reclaim() -> Chain:
    """What is still leased under ``:of_lease`` on the planes in ``:rows``, for ``:lease_seconds`` more: the claim's
    answer was lost. No round begins."""
    planes = select(rows(data_plane_id=Uuid).c.data_plane_id)
    first = (
        update(cancellations)
        .where(
            cancellations.c.lease == bindparam("of_lease", type_=Uuid),
            among(cancellations.c.data_plane_id, planes),
            cancellations.c.settled_at.is_(None),
        )
        .values(next_round_at=_lease_end())
        .returning(*_CLAIMED)
    )
    return Chain(first, answer=_assignments)


#: What a canceller is told of a cancellation that it claims; a batch reads hundreds of each.
_CLAIMED = (
    cancellations.c.job_id,
    cancellations.c.data_plane_id,
    cancellations.c.lease,
    cancellations.c.requested_by,
    cancellations.c.reason,
    cancellations.c.requested_at,
    cancellations.c.rounds,
    cancellations.c.unanswered,
    cancellations.c.waiting,
    cancellations.c.rung,
    cancellations.c.rung_since,
    cancellations.c.first_claimed_at,
    cancellations.c.first_stop_at,
)


def _due(number: int) -> Select[Any]:
    """In order; of those that are suspect only the oldest, so that they are worked one at a time."""
    return (
        _waiting(number, or_(cancellations.c.unanswered < SUSPECT, cancellations.c.job_id == _oldest_suspect(number)))
        .limit(bindparam(f"room_{number}", type_=Integer))
        .with_for_update(skip_locked=True)
    )


def _oldest_suspect(number: int) -> ColumnElement[Any]:
    suspect = _waiting(number, cancellations.c.unanswered >= SUSPECT).limit(literal_column("1", Integer))
    return suspect.with_for_update(skip_locked=True).correlate(None).scalar_subquery()


def _waiting(number: int, condition: ColumnElement[bool]) -> Select[Any]:
    return (
        select(cancellations.c.job_id)
        .where(
            cancellations.c.data_plane_id == bindparam(f"plane_{number}", type_=Uuid),
            cancellations.c.next_round_at <= now(),
            cancellations.c.settled_at.is_(None),
            condition,
        )
        .order_by(cancellations.c.next_round_at)
    )


def _lease_end() -> ColumnElement[Any]:
    return shifted(now(), bindparam("lease_seconds", type_=Float))


def _closure() -> ColumnElement[Any]:
    """What the store knows of why nothing of a job can start any more; NULL when something may."""
    permit_ends = shifted(jobs.c.attended_at, data_planes.c.permit_seconds)
    return case(
        (jobs.c.type == JobType.EXTERNAL.value, Closure.SINGLE_RUN.value),
        (jobs.c.epoch.is_(None), Closure.NEVER_CLAIMED.value),
        (jobs.c.executor_closed_at.is_not(None), Closure.EXECUTOR_CLOSED.value),
        (permit_ends <= now(), Closure.PERMIT_EXPIRED.value),
    ).label("closure")


def _with_jobs(moved: FromClause) -> FromClause:
    return moved.join(jobs, jobs.c.job_id == moved.c.job_id).join(
        data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id
    )


def _assignments(claimed: FromClause) -> Select[Any]:
    """Each claimed row as the JSON of an Assignment: reading it so costs half of reading its columns one by one."""
    assignment = json_object(
        work=_work(),
        data_plane_id=claimed.c.data_plane_id,
        type=jobs.c.type,
        lease=claimed.c.lease,
        requested_by=claimed.c.requested_by,
        reason=claimed.c.reason,
        requested_at=claimed.c.requested_at,
        rounds=claimed.c.rounds,
        committed=jobs.c.committed_at.is_not(None),
        closure=_closure(),
        alone=claimed.c.unanswered > SUSPECT,
        listing_lag_seconds=data_planes.c.listing_lag_seconds,
        stuck_after_seconds=data_planes.c.stuck_after_seconds,
        waiting=claimed.c.waiting,
        rung=claimed.c.rung,
        rung_since=claimed.c.rung_since,
        first_claimed_at=claimed.c.first_claimed_at,
        first_stop_at=claimed.c.first_stop_at,
    )
    return (
        select(claimed.c.job_id, claimed.c.lease, cast(assignment, Text).label("assignment"))
        .select_from(_with_jobs(claimed).outerjoin(executors, executors.c.executor_id == jobs.c.executor))
        .order_by(claimed.c.requested_at)
    )


def _work() -> ColumnElement[Any]:
    executor = json_object(
        executor_id=jobs.c.executor,
        incarnation=func.coalesce(jobs.c.executor_incarnation, executors.c.incarnation),
        address=executors.c.address,
        registered=executors.c.incarnation,
    )
    publication = json_object(dataset_id=jobs.c.dataset_id, number=jobs.c.publication_number)
    return json_object(
        job_id=jobs.c.job_id,
        tag=jobs.c.tag,
        handle=jobs.c.handle,
        executor=case((jobs.c.executor.is_not(None), executor)),
        incarnation=jobs.c.engine_incarnation,
        publication=case((jobs.c.publication_number.is_not(None), publication)),
        tracked=case((jobs.c.type == JobType.EXTERNAL.value, data_planes.c.tracking)),
        execution_cluster=jobs.c.execution_cluster,
    )


def _held(wanted: FromClause) -> ColumnElement[bool]:
    """Equality of the lease decides, expiry does not: an expired lease that nobody took over still holds."""
    return and_(
        among(cancellations.c.job_id, select(wanted.c.job_id)),
        cancellations.c.job_id == wanted.c.job_id,
        cancellations.c.lease == wanted.c.lease,
        cancellations.c.settled_at.is_(None),
    )


@lru_cache
def extend() -> Chain:
    """Keep the leases in ``:rows`` for ``:lease_seconds`` more; answers what the store knows now of their closure."""
    wanted = rows(job_id=Uuid, lease=Uuid)
    first = (
        update(cancellations)
        .where(_held(wanted))
        .values(next_round_at=_lease_end())
        .returning(cancellations.c.job_id, cancellations.c.lease)
    )
    return Chain(
        first, answer=lambda held: select(held.c.job_id, held.c.lease, _closure()).select_from(_with_jobs(held))
    )


@lru_cache
def settle() -> Chain:
    """Cancel the jobs in ``:rows`` whose lease is still the settler's; each with its receipt."""
    wanted = rows(job_id=Uuid, lease=Uuid, receipt=Document, first_stop_at=Moment)

    def closed(moved: FromClause) -> Update:
        return (
            update(cancellations)
            .where(cancellations.c.job_id == moved.c.job_id, wanted.c.job_id == moved.c.job_id)
            .values(
                settled_at=now(),
                waiting=None,
                waiting_detail=None,
                unanswered=0,
                first_stop_at=func.coalesce(cancellations.c.first_stop_at, wanted.c.first_stop_at),
            )
        )

    return Chain(
        move(
            Trigger.CANCEL,
            jobs.c.job_id == wanted.c.job_id,
            among(cancellations.c.job_id, select(wanted.c.job_id)),  # by the index, whatever the statistics say
            cancellations.c.job_id == wanted.c.job_id,
            cancellations.c.lease == wanted.c.lease,
            _may_be_true(wanted.c.receipt),
            receipt=wanted.c.receipt,
        ).returning(jobs.c.ended_at),
        (closed, audited(Trigger.CANCEL, actor())),
        answer=lambda moved: select(moved.c.job_id, moved.c.data_plane_id, moved.c.ended_at),
    )


def _may_be_true(receipt: ColumnElement[Any]) -> ColumnElement[bool]:
    """What a receipt says of which the store knows better: why nothing can start, and which run a tracked job is."""
    closure, outcome = _says(receipt, "closure"), _says(receipt, "outcome")
    its_run_stopped = and_(
        closure == Closure.SINGLE_RUN.value, outcome == Outcome.STOPPED.value, _names_its_run(receipt)
    )
    return case(
        (closure == Closure.NEVER_CLAIMED.value, jobs.c.epoch.is_(None)),
        (jobs.c.type == JobType.EXTERNAL.value, its_run_stopped),
        (closure == Closure.EXECUTOR_CLOSED.value, jobs.c.executor_closed_at.is_not(None)),
        else_=closure != Closure.SINGLE_RUN.value,
    )


def _names_its_run(evidence: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether this is about the run that the tracked job is."""
    told = evidence.op("->")(literal_column("'handle'", Text))
    return _says(told, "run_id") == _says(jobs.c.handle, "run_id")


def _says(document: ColumnElement[Any], name: str) -> ColumnElement[str]:
    said = document.op("->>", return_type=Text())(literal_column(f"'{name}'", Text))
    return func.coalesce(said, literal_column("''", Text))


@lru_cache
def select_settled() -> Select[Any]:
    """Those of ``:rows`` that were settled under the lease that they name, and how: they may have landed before."""
    wanted = rows(job_id=Uuid, lease=Uuid)
    return select(cancellations.c.job_id, cancellations.c.settled_at, jobs.c.state).where(
        jobs.c.job_id == cancellations.c.job_id,
        cancellations.c.job_id == wanted.c.job_id,
        cancellations.c.lease == wanted.c.lease,
        cancellations.c.settled_at.is_not(None),
    )


@lru_cache
def settle_ended() -> Update:
    """Settle those of ``:rows`` whose job has ended: on Postgres a request and a completion in the same moment leave
    them open, because what follows from a move does not see rows that were written while the move waited."""
    wanted = rows(job_id=Uuid, lease=Uuid)
    return (
        update(cancellations)
        .where(_held(wanted), jobs.c.job_id == cancellations.c.job_id, jobs.c.ended_at.is_not(None))
        .values(settled_at=jobs.c.ended_at, waiting=None, waiting_detail=None, unanswered=0)
        .returning(cancellations.c.job_id)
    )


@lru_cache
def commit_tracked() -> Update:
    """Commit the tracked jobs in ``:rows`` whose lease is still the settler's: it saw their runs succeed."""
    wanted = rows(job_id=Uuid, lease=Uuid, result=Document)
    return (
        update(jobs)
        .where(
            jobs.c.job_id == wanted.c.job_id,
            jobs.c.type == JobType.EXTERNAL.value,
            jobs.c.state == destination(Trigger.REQUEST_CANCELLATION).value,
            jobs.c.committed_at.is_(None),
            among(cancellations.c.job_id, select(wanted.c.job_id)),
            cancellations.c.job_id == wanted.c.job_id,
            cancellations.c.lease == wanted.c.lease,
            _names_its_run(wanted.c.result),
        )
        .values(committed_at=now(), updated_at=now(), result=wanted.c.result)
        .returning(jobs.c.job_id)
    )


@lru_cache
def complete() -> Chain:
    """Complete the committed jobs in ``:rows``, whether or not their cancellation was requested; anybody may."""
    wanted = rows(job_id=Uuid)
    return Chain(
        move(Trigger.COMPLETE, jobs.c.job_id == wanted.c.job_id).returning(jobs.c.ended_at),
        (settled_now, audited(Trigger.COMPLETE, actor())),
    )


@lru_cache
def postpone() -> Chain:
    """Give back the cancellations in ``:rows`` with the reason; due after their delay, or at once when an executor
    confirmed closing during this round. ``became_stuck`` is answered true once for each."""
    wanted = rows(
        job_id=Uuid, lease=Uuid, waiting=Text, detail=Text, delay_seconds=Float, rung=Text, rung_since=Moment,
        first_stop_at=Moment,
    )  # fmt: skip
    news = jobs.c.executor_closed_at >= cancellations.c.claimed_at
    stuck_from = shifted(cancellations.c.requested_at, data_planes.c.stuck_after_seconds)
    becomes_stuck = and_(cancellations.c.stuck_at.is_(None), stuck_from <= now())
    first = (
        update(cancellations)
        .where(
            _held(wanted),
            jobs.c.job_id == cancellations.c.job_id,
            data_planes.c.data_plane_id == cancellations.c.data_plane_id,
        )
        .values(
            next_round_at=case((news, now()), else_=shifted(now(), wanted.c.delay_seconds)),
            lease=None,
            unanswered=0,
            waiting=wanted.c.waiting,
            waiting_detail=wanted.c.detail,
            rung=func.coalesce(wanted.c.rung, cancellations.c.rung),
            rung_since=func.coalesce(wanted.c.rung_since, cancellations.c.rung_since),
            first_stop_at=func.coalesce(cancellations.c.first_stop_at, wanted.c.first_stop_at),
            stuck_at=case((becomes_stuck, now()), else_=cancellations.c.stuck_at),
            stuck_round=case((becomes_stuck, cancellations.c.rounds), else_=cancellations.c.stuck_round),
        )
        .returning(
            cancellations.c.job_id, (cancellations.c.stuck_round == cancellations.c.rounds).label("became_stuck")
        )
    )
    return Chain(first)


@lru_cache
def release() -> Update:
    """Give back the cancellations in ``:rows`` as if never claimed, due at once."""
    wanted = rows(job_id=Uuid, lease=Uuid)
    return (
        update(cancellations)
        .where(_held(wanted))
        .values(next_round_at=now(), lease=None, unanswered=0)
        .returning(cancellations.c.job_id, cancellations.c.data_plane_id)
    )


@lru_cache
def lock_leftovers() -> Select[Any]:
    """What is noted already of the jobs in ``:rows``, locked until the transaction ends."""
    return (
        select(cancellations.c.job_id, cancellations.c.leftovers)
        .where(among(cancellations.c.job_id, select(rows(job_id=Uuid).c.job_id)))
        .with_for_update()
    )


@lru_cache
def note_leftovers() -> Update:
    """Set the list of what was removed, for each of ``:rows``."""
    wanted = rows(job_id=Uuid, leftovers=Document)
    return (
        update(cancellations)
        .where(cancellations.c.job_id == wanted.c.job_id)
        .values(leftovers=wanted.c.leftovers)
        .returning(cancellations.c.job_id)
    )
