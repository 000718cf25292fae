"""Chains: a guarded UPDATE and what follows from the rows that it changed, with the lifecycle's guards.

On Postgres a chain is one statement with data-modifying CTEs, one round trip; on SQLite, which has none, its parts run
one after the other in one transaction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import UpdateBase

from control_plane import lifecycle
from control_plane.lifecycle import Trigger
from control_plane.schema import (
    Document,
    audit,
    cancellations,
    jobs,
)
from control_plane.statements.elements import now


class Chain(NamedTuple):
    """*first* changes rows and returns them; *then* follow from those; *answer* reads what the caller gets."""

    first: UpdateBase
    then: tuple[Callable[[FromClause], UpdateBase], ...] = ()
    answer: Callable[[FromClause], Select[Any]] = select


def guard(trigger: Trigger) -> ColumnElement[bool]:
    """True for the jobs that *trigger* may move, by the lifecycle's table."""
    return or_(*map(_takes, lifecycle.edges(trigger)))


def _takes(edge: lifecycle.Edge) -> ColumnElement[bool]:
    there = jobs.c.state == edge.source.value
    if edge.committed is None:
        return there
    return and_(there, jobs.c.committed_at.is_not(None) if edge.committed else jobs.c.committed_at.is_(None))


#: What every move returns of the jobs that it moved.
MOVED = (jobs.c.job_id, jobs.c.data_plane_id, jobs.c.moved_from, jobs.c.state)


def move(trigger: Trigger, *conditions: ColumnElement[bool], **changes: Any) -> Update:
    """Perform *trigger* on the jobs that meet the conditions and whose state allows it; the others return no row."""
    target = lifecycle.destination(trigger)
    ended = {"ended_at": now()} if target in lifecycle.TERMINAL else {}
    return (
        update(jobs)
        .where(*conditions, guard(trigger))
        .values(state=target.value, moved_from=jobs.c.state, updated_at=now(), **ended, **changes)
        .returning(*MOVED)
    )


def audited(
    name: str, who: ColumnElement[Any], why: ColumnElement[Any] | None = None, *, told: FromClause | None = None
) -> Callable[[FromClause], Insert]:
    """What follows from a move: one audit row for each job that it moved; *told*: the rows that say who and why."""

    def record(moved: FromClause) -> Insert:
        whole = moved if told is None else moved.join(told, told.c.job_id == moved.c.job_id)
        columns = [
            moved.c.job_id,
            literal(name, Text),
            moved.c.moved_from,
            moved.c.state,
            who,
            null() if why is None else why,
            now(),
        ]
        names = ["job_id", "move", "from_state", "to_state", "actor", "reason", "moved_at"]
        return insert(audit).from_select(names, select(*columns).select_from(whole))

    return record


def actor() -> ColumnElement[Any]:
    """Who moves the jobs, ``:actor``."""
    return bindparam("actor", type_=Document)


def settled_now(moved: FromClause) -> Update:
    """What follows from a job's end: its cancellation, if there is one, is settled."""
    return (
        update(cancellations)
        .where(cancellations.c.job_id == moved.c.job_id, cancellations.c.settled_at.is_(None))
        .values(settled_at=now(), waiting=None, waiting_detail=None, unanswered=0)
    )
