"""Jobs, for an executor: start, attend, close, commit, complete, fail."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    exists,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from control_plane import lifecycle
from control_plane.jobs import ExecutionCluster
from control_plane.lifecycle import JobState, Trigger
from control_plane.planes import in_order
from control_plane.schema import (
    Document,
    Uuid,
    cancellations,
    data_planes,
    datasets,
    executors,
    jobs,
)
from control_plane.statements.chains import Chain, actor, audited, move
from control_plane.statements.elements import among, now, rows, woken
from control_plane.work import News

_CLAIM = (
    jobs.c.job_id,
    jobs.c.type,
    jobs.c.input,
    jobs.c.tag,
    jobs.c.epoch,
    jobs.c.dataset_id,
    jobs.c.publication_number,
    jobs.c.execution_cluster,
    data_planes.c.permit_seconds,
)


@lru_cache
def start(clusters: frozenset[ExecutionCluster] = frozenset()) -> Chain:
    """Start at most ``:room`` pending jobs of ``:plane`` whose type is in ``:rows``, oldest first.

    With *clusters*, those alone that are to run on one of them; ``:shared_incarnation`` and the like are claimed on.
    """
    pending = jobs.alias("due")
    there = [pending.c.execution_cluster.in_(_values(clusters))] if clusters else []
    due = (
        select(pending.c.job_id)
        .where(
            pending.c.data_plane_id == bindparam("plane", type_=Uuid),
            pending.c.state == JobState.PENDING.value,
            among(pending.c.type, select(rows(type=Text).c.type)),
            *there,
        )
        .order_by(pending.c.created_at)
        .limit(bindparam("room", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    return _started(among(jobs.c.job_id, due), clusters)


@lru_cache
def start_one() -> Chain:
    """Start ``:of_job``, if it is pending."""
    return _started(jobs.c.job_id == bindparam("of_job", type_=Uuid))


def _started(which: ColumnElement[bool], clusters: frozenset[ExecutionCluster] = frozenset()) -> Chain:
    first = move(
        Trigger.START,
        which,
        _not_superseded(),
        executor=bindparam("executor_id", type_=Text),
        executor_incarnation=bindparam("by_incarnation", type_=Integer),
        engine_incarnation=_engine_incarnation(clusters),
        epoch=bindparam("new_epoch", type_=Uuid),
        attended_at=now(),
    ).returning(jobs.c.type, jobs.c.input, jobs.c.tag, jobs.c.epoch, jobs.c.execution_cluster, jobs.c.created_at)
    return Chain(first, (audited(Trigger.START, actor()),), _claims)


def _engine_incarnation(clusters: frozenset[ExecutionCluster]) -> ColumnElement[Any]:
    """That of the engine on the job's cluster, where each cluster has one of its own."""
    everywhere = bindparam("by_engine_incarnation", type_=Text)
    there = [
        (jobs.c.execution_cluster == name, bindparam(f"{name}_incarnation", type_=Text)) for name in _values(clusters)
    ]
    return case(*there, else_=everywhere) if there else everywhere


def _values(clusters: frozenset[ExecutionCluster]) -> list[str]:
    return [cluster.value for cluster in in_order(clusters)]


def _not_superseded() -> ColumnElement[bool]:
    """No later start of the asking executor is registered."""
    return ~exists().where(
        executors.c.executor_id == bindparam("executor_id", type_=Text),
        executors.c.incarnation > bindparam("by_incarnation", type_=Integer),
    )


def _claims(started: FromClause) -> Select[Any]:
    return (
        select(started, data_planes.c.permit_seconds)
        .select_from(started.join(data_planes, data_planes.c.data_plane_id == started.c.data_plane_id))
        .order_by(started.c.created_at)
    )


def _epoch_held(wanted: FromClause) -> ColumnElement[bool]:
    return and_(
        among(jobs.c.job_id, select(wanted.c.job_id)),
        jobs.c.job_id == wanted.c.job_id,
        jobs.c.epoch == wanted.c.epoch,
    )


@lru_cache
def attend() -> Update:
    """Renew the permits of those of ``:rows`` that are still running under their epoch, and not closed."""
    wanted = rows(job_id=Uuid, epoch=Uuid)
    return (
        update(jobs)
        .where(_epoch_held(wanted), jobs.c.state == JobState.RUNNING.value, jobs.c.executor_closed_at.is_(None))
        .values(attended_at=now())
        .returning(jobs.c.job_id)
    )


@lru_cache
def record_handles() -> Update:
    """Write down the engine's names of the runs in ``:rows``."""
    wanted = rows(job_id=Uuid, epoch=Uuid, handle=Document)
    return (
        update(jobs)
        .where(_epoch_held(wanted), jobs.c.ended_at.is_(None))
        .values(handle=wanted.c.handle, updated_at=now())
        .returning(jobs.c.job_id)
    )


def _made_due(closed: FromClause) -> Update:
    """Postponed cancellations come back at once; one that is being worked is told by claim, extend and postpone."""
    return (
        update(cancellations)
        .where(
            cancellations.c.job_id == closed.c.job_id,
            cancellations.c.lease.is_(None),
            cancellations.c.settled_at.is_(None),
        )
        .values(next_round_at=now())
    )


def _confirmed(*conditions: ColumnElement[bool]) -> Chain:
    first = (
        update(jobs)
        .where(*conditions, jobs.c.ended_at.is_(None), jobs.c.executor_closed_at.is_(None))
        .values(executor_closed_at=now())
        .returning(jobs.c.job_id, jobs.c.data_plane_id)
    )
    return Chain(first, (_made_due,), lambda closed: select(closed, woken(closed.c.data_plane_id, News.CANCELLATIONS)))


@lru_cache
def confirm_closed() -> Chain:
    """Write that the executor will submit nothing more of the jobs in ``:rows``, and make their cancellations due."""
    return _confirmed(_epoch_held(rows(job_id=Uuid, epoch=Uuid)))


@lru_cache
def confirm_lower_incarnations() -> Chain:
    """The same for every job that ``:executor_id`` had claimed before ``:incarnation``."""
    return _confirmed(
        jobs.c.executor == bindparam("executor_id", type_=Text),
        jobs.c.executor_incarnation < bindparam("incarnation", type_=Integer),
    )


@lru_cache
def select_types() -> Select[Any]:
    """The types of the jobs in ``:rows``."""
    wanted = select(rows(job_id=Uuid).c.job_id)
    return select(jobs.c.job_id, jobs.c.type).where(among(jobs.c.job_id, wanted))


@lru_cache
def next_publication() -> Insert:
    """Raise and answer the publication number of a dataset."""
    first = postgresql.insert(datasets).values(
        data_plane_id=select(jobs.c.data_plane_id)
        .where(jobs.c.job_id == bindparam("job_id", type_=Uuid))
        .scalar_subquery(),
        dataset_id=bindparam("dataset_id", type_=BigInteger),
        last_number=1,
    )
    return first.on_conflict_do_update(
        index_elements=[datasets.c.data_plane_id, datasets.c.dataset_id],
        set_={"last_number": datasets.c.last_number + 1},
    ).returning(datasets.c.last_number)


@lru_cache
def commit() -> Update:
    """Pass the commit point, if the job is running under its epoch and has not passed it. No edge: the state stays."""
    return (
        update(jobs)
        .where(
            jobs.c.job_id == bindparam("of_job", type_=Uuid),
            jobs.c.epoch == bindparam("of_epoch", type_=Uuid),
            jobs.c.state == lifecycle.COMMITTABLE.value,
            jobs.c.committed_at.is_(None),
            jobs.c.executor_closed_at.is_(None),
        )
        .values(
            committed_at=now(),
            updated_at=now(),
            result=bindparam("new_result", type_=Document),
            dataset_id=bindparam("of_dataset", type_=BigInteger),
            publication_number=bindparam("number", type_=BigInteger),
        )
        .returning(jobs.c.job_id)
    )


@lru_cache
def select_commits() -> Select[Any]:
    """Those of ``:rows`` that are past the commit point under their epoch: commits whose answer was lost."""
    wanted = rows(job_id=Uuid, epoch=Uuid)
    return select(jobs.c.job_id, jobs.c.dataset_id, jobs.c.publication_number).where(
        _epoch_held(wanted), jobs.c.committed_at.is_not(None)
    )


@lru_cache
def fail() -> Chain:
    """Fail the jobs in ``:rows``, each with its causes."""
    wanted = rows(job_id=Uuid, epoch=Uuid, failures=Document)
    return Chain(
        move(Trigger.FAIL, _epoch_held(wanted), failures=wanted.c.failures),
        (audited(Trigger.FAIL, actor()),),
    )


@lru_cache
def hint() -> Chain:
    """Look again at once at those of the jobs in ``:rows`` whose cancellation was requested before they failed."""
    wanted = rows(job_id=Uuid, epoch=Uuid)
    first = (
        update(jobs)
        .where(
            _epoch_held(wanted),
            jobs.c.state == lifecycle.destination(Trigger.REQUEST_CANCELLATION).value,
            jobs.c.committed_at.is_(None),
        )
        .values(updated_at=now())
        .returning(jobs.c.job_id, jobs.c.data_plane_id)
    )
    return Chain(first, (_made_due,), lambda closed: select(closed, woken(closed.c.data_plane_id, News.CANCELLATIONS)))


@lru_cache
def select_epoch() -> Select[Any]:
    """The running jobs that ``:executor_id`` claimed under ``:of_epoch``."""
    return (
        select(*_CLAIM)
        .join(data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id)
        .where(
            jobs.c.executor == bindparam("executor_id", type_=Text),
            jobs.c.epoch == bindparam("of_epoch", type_=Uuid),
            jobs.c.state == JobState.RUNNING.value,
            jobs.c.executor_closed_at.is_(None),
            jobs.c.ended_at.is_(None),
            _not_superseded(),
        )
    )


@lru_cache
def select_committed() -> Select[Any]:
    """The jobs of ``:executor_id`` that are committed and not yet completed."""
    return (
        select(*_CLAIM)
        .join(data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id)
        .where(
            jobs.c.executor == bindparam("executor_id", type_=Text),
            jobs.c.ended_at.is_(None),
            jobs.c.committed_at.is_not(None),
        )
    )


@lru_cache
def select_discardable() -> Select[Any]:
    """Those of the jobs in ``:rows`` that ended without publishing."""
    unpublished = [state.value for state in sorted(lifecycle.UNCOMMITTED_STATES & lifecycle.TERMINAL)]
    return select(jobs.c.job_id).where(
        among(jobs.c.job_id, select(rows(job_id=Uuid).c.job_id)), jobs.c.state.in_(unpublished)
    )
