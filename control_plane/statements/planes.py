"""Planes, executors, and the installation's name."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Insert,
    Integer,
    Select,
    Text,
    Update,
    bindparam,
    insert,
    select,
    update,
)

from control_plane.schema import (
    Uuid,
    data_planes,
    executors,
    installation,
)
from control_plane.statements.elements import now, rows


@lru_cache
def installation_name() -> Select[Any]:
    """The random name that this database got at its first migration."""
    return select(installation.c.name)


@lru_cache
def insert_plane() -> Insert:
    """A new data plane, from bound columns."""
    return insert(data_planes).values(created_at=now()).returning(*data_planes.c)


@lru_cache
def select_planes() -> Select[Any]:
    """Every plane, oldest first."""
    return select(data_planes).order_by(data_planes.c.created_at, data_planes.c.data_plane_id)


@lru_cache
def select_plane() -> Select[Any]:
    """One plane, ``:data_plane_id``."""
    return select(data_planes).where(data_planes.c.data_plane_id == bindparam("data_plane_id", type_=Uuid))


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
def insert_executor() -> Insert:
    """An executor's first registration, from bound columns."""
    return insert(executors).values(registered_at=now())
