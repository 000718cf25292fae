"""Planes, executors, and the installation's name."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from control_plane.planes import SILENT_AFTER_SECONDS
from control_plane.schema import (
    Document,
    Uuid,
    collaborators,
    data_planes,
    executors,
    installation,
    jobs,
)
from control_plane.statements.elements import among, now, rows, shifted


@lru_cache
def installation_name() -> Select[Any]:
    """The random name that this database got at its first migration."""
    return select(installation.c.name)


@lru_cache
def insert_plane() -> Insert:
    """A new data plane, from bound columns."""
    return insert(data_planes).values(created_at=now()).returning(data_planes.c.data_plane_id)


@lru_cache
def share_plane() -> Insert:
    """Share ``:data_plane_id`` with the companies in ``:rows``."""
    wanted = rows(company_id=Integer)
    shared = select(bindparam("data_plane_id", type_=Uuid), wanted.c.company_id)
    return insert(collaborators).from_select(["data_plane_id", "company_id"], shared)


def _silent() -> ColumnElement[bool]:
    heard_at = func.coalesce(data_planes.c.last_heartbeat_at, data_planes.c.created_at)
    return (heard_at <= shifted(now(), literal(-SILENT_AFTER_SECONDS, Float))).label("silent")


@lru_cache
def select_planes() -> Select[Any]:
    """The planes that ``:company_id`` owns or that are shared with it, everybody's where that is NULL; oldest first."""
    company = cast(bindparam("company_id", type_=Integer), Integer)
    shared = exists().where(
        collaborators.c.data_plane_id == data_planes.c.data_plane_id, collaborators.c.company_id == company
    )
    return (
        select(data_planes, _silent())
        .where(or_(company.is_(None), data_planes.c.company_id == company, shared))
        .order_by(data_planes.c.created_at, data_planes.c.data_plane_id)
    )


@lru_cache
def select_plane() -> Select[Any]:
    """One plane, ``:data_plane_id``."""
    return select(data_planes, _silent()).where(data_planes.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))


@lru_cache
def select_planes_in() -> Select[Any]:
    """The planes in ``:rows``."""
    wanted = select(rows(data_plane_id=Uuid).c.data_plane_id)
    return select(data_planes, _silent()).where(among(data_planes.c.data_plane_id, wanted))


@lru_cache
def select_collaborators() -> Select[Any]:
    """With whom the planes in ``:rows`` are shared."""
    wanted = select(rows(data_plane_id=Uuid).c.data_plane_id)
    return (
        select(collaborators)
        .where(among(collaborators.c.data_plane_id, wanted))
        .order_by(collaborators.c.data_plane_id, collaborators.c.company_id)
    )


@lru_cache
def keep_plane() -> Select[Any]:
    """The status of ``:data_plane_id``, which nobody archives until the transaction ends."""
    return (
        select(data_planes.c.status)
        .where(data_planes.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))
        .with_for_update(read=True, key_share=True)
    )


@lru_cache
def lock_plane() -> Select[Any]:
    """Wait for those who :func:`keep_plane`, and let nobody new."""
    return (
        select(data_planes.c.status)
        .where(data_planes.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))
        .with_for_update()
    )


@lru_cache
def archive_plane() -> Update:
    """Archive ``:of_plane`` unless a job of it has not ended."""
    unfinished = exists().where(jobs.c.data_plane_id == data_planes.c.data_plane_id, jobs.c.ended_at.is_(None))
    return (
        update(data_planes)
        .where(data_planes.c.data_plane_id == bindparam("of_plane", type_=Uuid), ~unfinished)
        .values(status="archived")
        .returning(data_planes.c.data_plane_id)
    )


@lru_cache
def allow_tracking() -> Update:
    """Say whose work, started elsewhere, may be tracked on ``:of_plane``."""
    return (
        update(data_planes)
        .where(data_planes.c.data_plane_id == bindparam("of_plane", type_=Uuid))
        .values(tracking=bindparam("new_tracking", type_=Document))
        .returning(data_planes.c.data_plane_id)
    )


@lru_cache
def beat() -> Update:
    """Say that the planes in ``:rows`` are attended."""
    wanted = rows(data_plane_id=Uuid)
    return (
        update(data_planes)
        .where(data_planes.c.data_plane_id == wanted.c.data_plane_id)
        .values(last_heartbeat_at=now())
        .returning(data_planes.c.data_plane_id)
    )


@lru_cache
def raise_incarnation() -> Update:
    """Register a later start of a known executor."""
    return (
        update(executors)
        .where(
            executors.c.executor_id == bindparam("of_executor", type_=Text),
            executors.c.data_plane_id == bindparam("of_plane", type_=Uuid),
            executors.c.incarnation < bindparam("new_incarnation", type_=Integer),
        )
        .values(
            incarnation=bindparam("new_incarnation", type_=Integer),
            address=bindparam("new_address", type_=Text),
            token=bindparam("new_token", type_=Uuid),
            registered_at=now(),
        )
        .returning(executors.c.executor_id)
    )


@lru_cache
def select_executor() -> Select[Any]:
    """One executor, ``:executor_id``."""
    return select(executors).where(executors.c.executor_id == bindparam("executor_id", type_=Text))


@lru_cache
def select_executors() -> Select[Any]:
    """The executors of ``:data_plane_id``, each with whether any job of it has not ended."""
    live = exists().where(jobs.c.executor == executors.c.executor_id, jobs.c.ended_at.is_(None))
    return (
        select(executors, live.label("holds_jobs"))
        .where(executors.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))
        .order_by(executors.c.executor_id)
    )


@lru_cache
def insert_executor() -> Insert:
    """An executor's first registration, from bound columns."""
    return insert(executors).values(registered_at=now())
