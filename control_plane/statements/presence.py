"""Who works on a plane, what waits there, and since when nobody was heard of."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
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
    delete,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql

from control_plane.lifecycle import JobState
from control_plane.planes import SILENT_AFTER_SECONDS
from control_plane.schema import Document, Uuid, cancellations, data_planes, jobs, workers
from control_plane.statements.chains import Chain
from control_plane.statements.elements import among, now, rows, shifted

_DAY_SECONDS = 86_400.0
MOST_WORKERS = 1_000  #: kept of a plane: those that were last heard of
MOST_WAITING = 100  #: named of a plane


@lru_cache
def note_presences() -> Chain:
    """Write down what the processes in ``:rows`` say of themselves, and that their planes are attended.

    A process stands there once. *is_new* is true where it was not known before, or not for a day.
    """
    told = rows(data_plane_id=Uuid, worker=Text, kind=Text, version=Text, engines=Document, in_flight=Integer)
    known = exists().where(data_planes.c.data_plane_id == told.c.data_plane_id)
    names = [*told.c.keys(), "first_seen_at", "last_seen_at"]
    first = postgresql.insert(workers).from_select(names, select(*told.c, now(), now()).where(known))
    said = {name: first.excluded[name] for name in ("kind", "version", "engines", "in_flight", "last_seen_at")}
    again = case((_forgotten(), first.excluded.first_seen_at), else_=workers.c.first_seen_at)
    noted = first.on_conflict_do_update(
        index_elements=[workers.c.data_plane_id, workers.c.worker], set_=said | {"first_seen_at": again}
    ).returning(
        workers.c.data_plane_id, workers.c.worker, (workers.c.first_seen_at == workers.c.last_seen_at).label("is_new")
    )
    return Chain(noted, (_attended,))


def _attended(noted: FromClause) -> Update:
    return (
        update(data_planes)
        .where(among(data_planes.c.data_plane_id, select(noted.c.data_plane_id)))
        .values(last_heartbeat_at=now())
    )


def _ago(seconds: float) -> ColumnElement[Any]:
    return shifted(now(), literal(-seconds, Float))


def _forgotten() -> ColumnElement[bool]:
    return workers.c.last_seen_at <= _ago(_DAY_SECONDS)


@lru_cache
def forget_workers() -> Delete:
    """Of the planes in ``:rows``, remove who was not heard of for a day, and all but the latest MOST_WORKERS."""
    place = func.row_number().over(
        partition_by=workers.c.data_plane_id, order_by=(workers.c.last_seen_at.desc(), workers.c.worker)
    )
    wanted = select(rows(data_plane_id=Uuid).c.data_plane_id)
    placed = (
        select(workers.c.data_plane_id, workers.c.worker, place.label("place"), _forgotten().label("forgotten"))
        .where(among(workers.c.data_plane_id, wanted))
        .subquery()
    )
    out = select(placed.c.data_plane_id, placed.c.worker).where(or_(placed.c.forgotten, placed.c.place > MOST_WORKERS))
    return delete(workers).where(tuple_(workers.c.data_plane_id, workers.c.worker).in_(out))


@lru_cache
def select_workers() -> Select[Any]:
    """The processes of ``:data_plane_id`` that were heard of within a day; the latest first."""
    silent = (workers.c.last_seen_at <= _ago(SILENT_AFTER_SECONDS)).label("silent")
    return (
        select(workers, silent)
        .where(workers.c.data_plane_id == bindparam("data_plane_id", type_=Uuid), ~_forgotten())
        .order_by(workers.c.last_seen_at.desc(), workers.c.worker)
        .limit(literal_column(str(MOST_WORKERS), Integer))
    )


def _waiting_on(plane: str) -> tuple[ColumnElement[bool], ...]:
    """The unsettled cancellations of a plane: of ``:of_company``'s jobs, or of everybody's where that is NULL."""
    company = cast(bindparam("of_company", type_=Integer), Integer)
    its_own = exists().where(jobs.c.job_id == cancellations.c.job_id, jobs.c.company_id == company)
    return (
        cancellations.c.data_plane_id == bindparam(plane, type_=Uuid),
        cancellations.c.settled_at.is_(None),
        or_(company.is_(None), its_own),
    )


@lru_cache
def count_waiting() -> Select[Any]:
    """How many cancellations of ``:data_plane_id`` are not settled."""
    return select(func.count()).select_from(cancellations).where(*_waiting_on("data_plane_id"))


@lru_cache
def select_waiting() -> Select[Any]:
    """The oldest of them, MOST_WAITING at most."""
    return (
        select(cancellations.c.job_id)
        .where(*_waiting_on("data_plane_id"))
        .order_by(cancellations.c.requested_at, cancellations.c.job_id)
        .limit(literal_column(str(MOST_WAITING), Integer))
    )


@lru_cache
def count_reasons() -> Select[Any]:
    """How many cancellations are not settled on each of the planes in ``:rows``, by the reason to wait, and how many of
    them are stuck; by the partial index, whatever has been settled before."""
    wanted = select(rows(data_plane_id=Uuid).c.data_plane_id)
    stuck_from = shifted(cancellations.c.requested_at, data_planes.c.stuck_after_seconds)
    is_stuck = or_(cancellations.c.stuck_at.is_not(None), stuck_from < now())
    return (
        select(
            cancellations.c.data_plane_id,
            cancellations.c.waiting,
            func.count().label("waiting_count"),
            func.count(case((is_stuck, 1))).label("stuck_count"),
        )
        .join(data_planes, data_planes.c.data_plane_id == cancellations.c.data_plane_id)
        .where(among(cancellations.c.data_plane_id, wanted), cancellations.c.settled_at.is_(None))
        .group_by(cancellations.c.data_plane_id, cancellations.c.waiting)
    )


@lru_cache
def select_any_open() -> Select[Any]:
    """A row, if any plane has unsettled cancellations."""
    return select(cancellations.c.data_plane_id).where(cancellations.c.settled_at.is_(None)).limit(1)


@lru_cache
def select_open() -> Select[Any]:
    """Those of the planes in ``:rows`` that have unsettled cancellations, and *next_round_at*, when the first is due.

    One probe of the partial index for each plane, however many cancellations it has.
    """
    wanted = rows(data_plane_id=Uuid)
    first = (
        select(cancellations.c.next_round_at)
        .where(cancellations.c.data_plane_id == wanted.c.data_plane_id, cancellations.c.settled_at.is_(None))
        .order_by(cancellations.c.next_round_at)
        .limit(literal_column("1", Integer))
        .scalar_subquery()
    )
    found = select(wanted.c.data_plane_id, first.label("next_round_at")).cte("first_of_plane")
    return select(found, now().label("moment")).where(found.c.next_round_at.is_not(None))


@lru_cache
def select_pending() -> Select[Any]:
    """Which types of jobs wait to be started on which of the planes in ``:rows``, and of their clusters."""
    pending = literal_column(
        f"'{JobState.PENDING.value}'", Text
    )  # as text: a bound value would not match the partial index
    return (
        select(jobs.c.data_plane_id, jobs.c.type, jobs.c.execution_cluster)
        .distinct()
        .where(
            among(jobs.c.data_plane_id, select(rows(data_plane_id=Uuid).c.data_plane_id)),
            jobs.c.state == pending,
            jobs.c.ended_at.is_(None),  # else an index of all jobs would do, and SQLite would read all of the plane's
        )
    )


@lru_cache
def select_silence() -> Select[Any]:
    """What decides why a cancellation of ``:data_plane_id`` waits: *heard_at*, when a canceller was last heard of, and
    whether that is too long ago. Where no canceller ever said who it is, any process of the plane counts."""
    cancellers = and_(workers.c.data_plane_id == data_planes.c.data_plane_id, workers.c.kind == "canceller")
    latest = select(func.max(workers.c.last_seen_at)).where(cancellers).correlate(data_planes).scalar_subquery()
    heard_at = func.coalesce(latest, data_planes.c.last_heartbeat_at, type_=workers.c.last_seen_at.type)
    since = func.coalesce(heard_at, data_planes.c.created_at)
    return select(
        data_planes.c.stuck_after_seconds,
        heard_at.label("heard_at"),
        (since <= _ago(SILENT_AFTER_SECONDS)).label("silent"),
        now().label("moment"),
    ).where(data_planes.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))
