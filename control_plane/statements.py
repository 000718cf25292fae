"""Every SQL statement, one function each. Nobody else builds statements.

Parameters that all of them share: ``rows``, a JSON array that stands for a table (:func:`rows`), and ``clock``, which
is NULL in production and a fixed moment in tests (:func:`now`). Guards come from the lifecycle.

What changes several tables is a :class:`Chain`: a guarded UPDATE and what follows from the rows that it changed. On
Postgres it is one statement with data-modifying CTEs, one round trip; on SQLite, which has none, its parts run one
after the other in one transaction.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    FromClause,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine, to_instance

from control_plane import lifecycle
from control_plane.jobs import Closure
from control_plane.lifecycle import JobState, Trigger
from control_plane.schema import (
    SUSPECT,
    Document,
    Moment,
    Uuid,
    audit,
    cancellations,
    data_planes,
    datasets,
    executors,
    installation,
    jobs,
)

CHANNEL = "countermand"  #: where Postgres tells of new work; the payload is the plane's id

# --- the databases' differences ------------------------------------------------------------------------------------


class _JsonArray(Text):
    """The parameter of :func:`rows`: jsonb on Postgres, parsed once for all fields; text on SQLite."""


@compiles(_JsonArray, "postgresql")
def _(kind: _JsonArray, compiler: Any, **keywords: Any) -> str:
    return "JSONB"


@compiles(_JsonArray, "sqlite")
def _(kind: _JsonArray, compiler: Any, **keywords: Any) -> str:
    return "TEXT"


class _JsonItems(FunctionElement[Any]):
    """The items of a JSON array, as a table with the column ``value``."""

    name = "json_items"
    inherit_cache = True


@compiles(_JsonItems, "postgresql")
def _(items: _JsonItems, compiler: Any, **keywords: Any) -> str:
    return f"jsonb_array_elements{compiler.process(items.clause_expr, **keywords)}"


@compiles(_JsonItems, "sqlite")
def _(items: _JsonItems, compiler: Any, **keywords: Any) -> str:
    return f"json_each{compiler.process(items.clause_expr, **keywords)}"


class _Member(FunctionElement[Any]):
    """A document within a document; SQL NULL where it is JSON's null."""

    type = Document()
    name = "member"
    inherit_cache = True


@compiles(_Member, "postgresql")
def _(member: _Member, compiler: Any, **keywords: Any) -> str:
    document, key = (compiler.process(clause, **keywords) for clause in member.clauses)
    return f"NULLIF({document} -> {key}, 'null')"


@compiles(_Member, "sqlite")
def _(member: _Member, compiler: Any, **keywords: Any) -> str:
    document, key = (compiler.process(clause, **keywords) for clause in member.clauses)
    return f"{document} ->> {key}"


def rows(parameter: str = "rows", **kinds: TypeEngine[Any] | type[TypeEngine[Any]]) -> CTE:
    """The table that the JSON array ``:parameter`` stands for: an object a row, with these columns."""
    items = _JsonItems(cast(bindparam(parameter, type_=Text), _JsonArray)).table_valued(
        "value", name=f"{parameter}_item"
    )
    return select(*(_field(items.c.value, name, kind) for name, kind in kinds.items())).cte(f"{parameter}_row")


def _field(item: ColumnElement[Any], name: str, kind: TypeEngine[Any] | type[TypeEngine[Any]]) -> ColumnElement[Any]:
    key = literal_column(f"'{name}'", Text)
    kind = to_instance(kind)
    if isinstance(kind, Document):
        return _Member(item, key).label(name)
    value = cast(item.op("->>")(key), kind)
    if isinstance(kind, Moment):
        return shifted(value, literal_column("0.0", Float)).label(name)  # brings RFC 3339 into SQLite's own form
    return value.label(name)


class among(FunctionElement[bool]):  # noqa: N801  # reads as the operator that it is
    """``among(column, subquery, …)``: the column is one of the answers.

    On Postgres ``= ANY(ARRAY(…))``: with stale statistics an ``IN`` with a LIMIT was planned as a join over the table.
    """

    type = Boolean()
    name = "among"
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], *subqueries: Select[Any]) -> None:
        super().__init__(column, *(query.correlate(None).scalar_subquery() for query in subqueries))


@compiles(among, "postgresql")
def _(element: among, compiler: Any, **keywords: Any) -> str:
    column, *queries = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"{column} = ANY({' || '.join(f'ARRAY{query}' for query in queries)})"


@compiles(among, "sqlite")
def _(element: among, compiler: Any, **keywords: Any) -> str:
    column, *queries = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"{column} IN ({' UNION ALL '.join(f'SELECT * FROM {query}' for query in queries)})"  # noqa: S608  # compiled


class _DatabaseTime(FunctionElement[Any]):
    type = Moment()
    name = "database_time"
    inherit_cache = True


@compiles(_DatabaseTime, "postgresql")
def _(element: _DatabaseTime, compiler: Any, **keywords: Any) -> str:
    return "now()"


@compiles(_DatabaseTime, "sqlite")
def _(element: _DatabaseTime, compiler: Any, **keywords: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


class shifted(FunctionElement[Any]):  # noqa: N801  # a function's name, as in sqlalchemy.func
    """``shifted(moment, seconds)``: that many seconds later."""

    type = Moment()
    name = "shifted"
    inherit_cache = True


@compiles(shifted, "postgresql")
def _(element: shifted, compiler: Any, **keywords: Any) -> str:
    moment, seconds = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"({moment} + make_interval(secs => {seconds}))"


@compiles(shifted, "sqlite")
def _(element: shifted, compiler: Any, **keywords: Any) -> str:
    moment, seconds = (compiler.process(clause, **keywords) for clause in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f', {moment}, printf('%+.3f seconds', {seconds}))"


class _Woken(FunctionElement[Any]):
    """Tells the listeners of a channel; SQLite has none, there the poll finds the work."""

    type = Text()
    name = "woken"
    inherit_cache = True


@compiles(_Woken, "postgresql")
def _(element: _Woken, compiler: Any, **keywords: Any) -> str:
    return f"pg_notify{compiler.process(element.clause_expr, **keywords)}"


@compiles(_Woken, "sqlite")
def _(element: _Woken, compiler: Any, **keywords: Any) -> str:
    return "NULL"


def now() -> ColumnElement[Any]:
    """The only clock: the database's, or ``:clock`` where a test binds it."""
    return func.coalesce(bindparam("clock", None, type_=Moment), _DatabaseTime(), type_=Moment)


def _woken(moved: FromClause) -> ColumnElement[Any]:
    return _Woken(literal(CHANNEL, Text), cast(moved.c.data_plane_id, Text)).label("woken")


# --- chains and guards ---------------------------------------------------------------------------------------------


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


_MOVED = (jobs.c.job_id, jobs.c.data_plane_id, jobs.c.moved_from, jobs.c.state)


def _move(trigger: Trigger, *conditions: ColumnElement[bool], **changes: Any) -> Update:
    """Perform *trigger* on the jobs that meet the conditions and whose state allows it; the others return no row."""
    target = lifecycle.destination(trigger)
    ended = {"ended_at": now()} if target in lifecycle.TERMINAL else {}
    return (
        update(jobs)
        .where(*conditions, guard(trigger))
        .values(state=target.value, moved_from=jobs.c.state, updated_at=now(), **ended, **changes)
        .returning(*_MOVED)
    )


def _audited(
    move: str, actor: ColumnElement[Any], reason: ColumnElement[Any] | None = None
) -> Callable[[FromClause], Insert]:
    def record(moved: FromClause) -> Insert:
        columns = [
            moved.c.job_id,
            literal(move, Text),
            moved.c.moved_from,
            moved.c.state,
            actor,
            null() if reason is None else reason,
            now(),
        ]
        names = ["job_id", "move", "from_state", "to_state", "actor", "reason", "moved_at"]
        return insert(audit).from_select(names, select(*columns).select_from(moved))

    return record


def _actor() -> ColumnElement[Any]:
    return bindparam("actor", type_=Document)


def _reason() -> ColumnElement[Any]:
    return bindparam("reason", type_=Text)


# --- installation, planes, executors -------------------------------------------------------------------------------


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


# --- submitting, reading and requesting ----------------------------------------------------------------------------


@lru_cache
def insert_job() -> Insert:
    """A new pending job, from bound columns."""
    return insert(jobs).values(state=JobState.PENDING.value, created_at=now(), updated_at=now()).returning(*_MOVED)


@lru_cache
def record_birth() -> Insert:
    """The audit row of a submission, which is no move and comes from no state."""
    return insert(audit).values(
        job_id=bindparam("job_id", type_=Uuid),
        move="submit",
        to_state=JobState.PENDING.value,
        actor=_actor(),
        moved_at=now(),
    )


@lru_cache
def wake_plane() -> Select[Any]:
    """Tell the listeners that ``:plane`` has work."""
    return select(_Woken(literal(CHANNEL, Text), bindparam("plane", type_=Text)))


_JOB_WITH_CANCELLATION = [*jobs.c, *(column.label(f"cancellation_{column.key}") for column in cancellations.c)]


def _jobs_with_cancellations() -> Select[Any]:
    return select(*_JOB_WITH_CANCELLATION).select_from(
        jobs.outerjoin(cancellations, jobs.c.job_id == cancellations.c.job_id)
    )


@lru_cache
def select_jobs_in() -> Select[Any]:
    """The jobs in ``:rows``, with their cancellations."""
    return _jobs_with_cancellations().where(among(jobs.c.job_id, select(rows(job_id=Uuid).c.job_id)))


@lru_cache
def select_job_by_key() -> Select[Any]:
    """The job that a company submitted under an idempotency key."""
    return _jobs_with_cancellations().where(
        jobs.c.company_id == bindparam("company_id", type_=Integer),
        jobs.c.idempotency_key == bindparam("idempotency_key", type_=Text),
    )


class Filters(NamedTuple):
    """The reference's filters of a listing; None lets everything through."""

    data_plane_id: UUID | None = None
    dataset_id: int | None = None
    type: str | None = None
    state: str | None = None


def _matching(filters: Filters) -> list[ColumnElement[bool]]:
    wanted = {
        jobs.c.data_plane_id: filters.data_plane_id,
        jobs.c.type: filters.type,
        jobs.c.state: filters.state,
    }
    matches = [column == value for column, value in wanted.items() if value is not None]
    if filters.dataset_id is not None:  # as text: other types' inputs may hold anything under that name
        named = cast(jobs.c.input.op("->>")(literal_column("'dataset_id'", Text)), Text)
        matches.append(named == str(filters.dataset_id))
    return matches


ORDERS = {
    "created_at_asc": (jobs.c.created_at.asc(), jobs.c.job_id.asc()),
    "created_at_desc": (jobs.c.created_at.desc(), jobs.c.job_id.desc()),
    "updated_at_asc": (jobs.c.updated_at.asc(), jobs.c.job_id.asc()),
    "updated_at_desc": (jobs.c.updated_at.desc(), jobs.c.job_id.desc()),
}


def select_jobs(filters: Filters, order_by: str) -> Select[Any]:
    """One page of the jobs that match: ``:per_page`` of them from ``:offset``."""
    return (
        _jobs_with_cancellations()
        .where(*_matching(filters))
        .order_by(*ORDERS[order_by])
        .limit(bindparam("per_page", type_=Integer))
        .offset(bindparam("offset", type_=Integer))
    )


def count_jobs(filters: Filters) -> Select[Any]:
    """How many jobs match."""
    return select(func.count()).select_from(jobs).where(*_matching(filters))


@lru_cache
def select_audit() -> Select[Any]:
    """The moves of one job, in order."""
    return select(audit).where(audit.c.job_id == bindparam("job_id", type_=Uuid)).order_by(audit.c.audit_id)


@lru_cache
def request_cancellation() -> Chain:
    """Ask for the jobs in ``:rows`` to be cancelled; those that nobody may ask for any more return no row."""
    wanted = rows(job_id=Uuid)

    def opened(moved: FromClause) -> Insert:
        names = ["job_id", "data_plane_id", "requested_by", "reason", "requested_at", "next_round_at"]
        columns = select(moved.c.job_id, moved.c.data_plane_id, _actor(), _reason(), now(), now())
        return insert(cancellations).from_select(names, columns.select_from(moved))

    return Chain(
        _move(Trigger.REQUEST_CANCELLATION, jobs.c.job_id == wanted.c.job_id),
        (opened, _audited(Trigger.REQUEST_CANCELLATION, _actor(), _reason())),
        lambda moved: select(moved, _woken(moved)),
    )


def _settled_now(moved: FromClause) -> Update:
    return (
        update(cancellations)
        .where(cancellations.c.job_id == moved.c.job_id, cancellations.c.settled_at.is_(None))
        .values(settled_at=now(), waiting=None, waiting_detail=None, unanswered=0)
    )


@lru_cache
def settle_never_claimed() -> Chain:
    """Cancel those of the jobs in ``:rows`` that no executor ever claimed."""
    wanted = rows(job_id=Uuid, receipt=Document)
    return Chain(
        _move(Trigger.CANCEL, jobs.c.job_id == wanted.c.job_id, jobs.c.executor.is_(None), receipt=wanted.c.receipt),
        (_settled_now, _audited(Trigger.CANCEL, _actor())),
    )


# --- cancellations, for a canceller --------------------------------------------------------------------------------


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


#: What a canceller is told of a cancellation that it claims; a batch reads a hundred of each.
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
        (jobs.c.executor.is_(None), Closure.NEVER_CLAIMED.value),
        (jobs.c.executor_closed_at.is_not(None), Closure.EXECUTOR_CLOSED.value),
        (permit_ends <= now(), Closure.PERMIT_EXPIRED.value),
    ).label("closure")


def _with_jobs(moved: FromClause) -> FromClause:
    return moved.join(jobs, jobs.c.job_id == moved.c.job_id).join(
        data_planes, data_planes.c.data_plane_id == jobs.c.data_plane_id
    )


def _assignments(claimed: FromClause) -> Select[Any]:
    job = (
        jobs.c.type,
        jobs.c.tag,
        jobs.c.handle,
        jobs.c.executor,
        jobs.c.executor_incarnation,
        jobs.c.engine_incarnation,
        jobs.c.committed_at,
        jobs.c.dataset_id,
        jobs.c.publication_number,
    )
    return (
        select(
            claimed,
            *job,
            executors.c.address,
            data_planes.c.listing_lag_seconds,
            data_planes.c.stuck_after_seconds,
            _closure(),
        )
        .select_from(_with_jobs(claimed).outerjoin(executors, executors.c.executor_id == jobs.c.executor))
        .order_by(claimed.c.requested_at)
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
        _move(
            Trigger.CANCEL,
            jobs.c.job_id == wanted.c.job_id,
            among(cancellations.c.job_id, select(wanted.c.job_id)),  # by the index, whatever the statistics say
            cancellations.c.job_id == wanted.c.job_id,
            cancellations.c.lease == wanted.c.lease,
            receipt=wanted.c.receipt,
        ).returning(jobs.c.ended_at),
        (closed, _audited(Trigger.CANCEL, _actor())),
    )


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
def complete() -> Chain:
    """Complete the committed jobs in ``:rows``, whether or not their cancellation was requested; anybody may."""
    wanted = rows(job_id=Uuid)
    return Chain(
        _move(Trigger.COMPLETE, jobs.c.job_id == wanted.c.job_id).returning(jobs.c.ended_at),
        (_settled_now, _audited(Trigger.COMPLETE, _actor())),
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


# --- jobs, for an executor -----------------------------------------------------------------------------------------

_CLAIM = (
    jobs.c.job_id,
    jobs.c.type,
    jobs.c.input,
    jobs.c.tag,
    jobs.c.epoch,
    jobs.c.dataset_id,
    jobs.c.publication_number,
    data_planes.c.permit_seconds,
)


@lru_cache
def start() -> Chain:
    """Start at most ``:room`` pending jobs of ``:plane`` whose type is in ``:rows``, oldest first."""
    pending = jobs.alias("due")
    due = (
        select(pending.c.job_id)
        .where(
            pending.c.data_plane_id == bindparam("plane", type_=Uuid),
            pending.c.state == JobState.PENDING.value,
            among(pending.c.type, select(rows(type=Text).c.type)),
        )
        .order_by(pending.c.created_at)
        .limit(bindparam("room", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    first = _move(
        Trigger.START,
        among(jobs.c.job_id, due),
        executor=bindparam("executor_id", type_=Text),
        executor_incarnation=bindparam("by_incarnation", type_=Integer),
        engine_incarnation=bindparam("by_engine_incarnation", type_=Text),
        epoch=bindparam("new_epoch", type_=Uuid),
        attended_at=now(),
    ).returning(jobs.c.type, jobs.c.input, jobs.c.tag, jobs.c.epoch, jobs.c.created_at)
    return Chain(first, (_audited(Trigger.START, _actor()),), _claims)


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
    """Renew the permits of those of ``:rows`` that are still running under their epoch."""
    wanted = rows(job_id=Uuid, epoch=Uuid)
    return (
        update(jobs)
        .where(_epoch_held(wanted), jobs.c.state == JobState.RUNNING.value)
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
    return Chain(first, (_made_due,), lambda closed: select(closed, _woken(closed)))


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
def select_type() -> Select[Any]:
    """The type of one job, ``:job_id``."""
    return select(jobs.c.type).where(jobs.c.job_id == bindparam("job_id", type_=Uuid))


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
        _move(Trigger.FAIL, _epoch_held(wanted), failures=wanted.c.failures),
        (_audited(Trigger.FAIL, _actor()),),
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
    return Chain(first, (_made_due,), lambda closed: select(closed, _woken(closed)))


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
