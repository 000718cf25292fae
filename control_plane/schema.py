"""Tables, indexes and constraints; the trigger and the checks are generated from the lifecycle.

What a constraint can refuse, it refuses for everybody: also for a person with psql or the sqlite3 shell.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
    not_,
    or_,
)
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from control_plane import lifecycle
from control_plane.jobs import JobType, Outcome, Platform, Rung, Waiting
from control_plane.lifecycle import JobState


class _Portable(sqltypes.TypeDecorator[Any]):
    """A type that Postgres has and SQLite keeps as text; only SQLite's values are converted."""

    impl = Text
    cache_ok = True
    native: sqltypes.TypeEngine[Any]

    def load_dialect_impl(self, dialect: Dialect) -> sqltypes.TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else self.native)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return self.to_text(value) if value is not None and dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """None on Postgres, whose driver reads the value: a claim of 100 rows has some 2,000 of them."""
        if dialect.name == "sqlite":
            return lambda text: text if text is None else self.from_text(text)
        return self.impl_instance.dialect_impl(dialect).result_processor(dialect, coltype)

    def to_text(self, value: Any) -> str:
        """How SQLite keeps it."""
        raise NotImplementedError

    def from_text(self, text: str) -> Any:
        """How it is read again."""
        raise NotImplementedError


class Uuid(_Portable):
    """A UUID; hyphenated on SQLite, so that ids inside JSON match it."""

    cache_ok = True
    native = postgresql.UUID(as_uuid=True)

    def to_text(self, value: UUID) -> str:
        return str(value)

    def from_text(self, text: str) -> UUID:
        return UUID(text)


class Moment(_Portable):
    """An aware moment in UTC; to the millisecond on SQLite, in a form that sorts as time does."""

    cache_ok = True
    native = postgresql.TIMESTAMP(timezone=True)

    def to_text(self, value: datetime) -> str:
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:23]

    def from_text(self, text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Document(_Portable):
    """A JSON document; SQL NULL where there is none, never JSON's null."""

    cache_ok = True
    native = postgresql.JSONB(none_as_null=True)

    def to_text(self, value: Any) -> str:
        return msgspec.json.encode(value).decode()

    def from_text(self, text: str) -> Any:
        return msgspec.json.decode(text)


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ck": "%(table_name)s_%(constraint_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "ix": "%(table_name)s_%(column_0_N_name)s",
    }
)

installation = Table("installation", metadata, Column("name", String(32), primary_key=True))

data_planes = Table(
    "data_planes",
    metadata,
    Column("data_plane_id", Uuid, primary_key=True),
    Column("company_id", Integer, nullable=False, server_default="1"),
    Column("display_name", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("external_id", Text),
    Column("description", Text),
    Column("tags", Document, nullable=False),
    Column("permit_seconds", Float, nullable=False),
    Column("listing_lag_seconds", Float, nullable=False),
    Column("stuck_after_seconds", Float, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("last_heartbeat_at", Moment),
    UniqueConstraint("company_id", "display_name"),
)

executors = Table(
    "executors",
    metadata,
    Column("executor_id", Text, primary_key=True),
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("address", Text),
    Column("registered_at", Moment, nullable=False),
)

#: The last publication number of each dataset of a plane; committing raises it.
datasets = Table(
    "datasets",
    metadata,
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), primary_key=True),
    Column("dataset_id", sqltypes.BigInteger, primary_key=True, autoincrement=False),
    Column("last_number", sqltypes.BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), nullable=False),
    Column("company_id", Integer, nullable=False, server_default="1"),
    Column("state", Text, nullable=False),
    Column("moved_from", Text),  # the state before the latest move, so that one UPDATE can tell its audit row
    Column("type", Text, nullable=False),
    Column("request_source", Document, nullable=False),
    Column("input", Document, nullable=False),
    Column("execution_cluster", Text),
    Column("compute_pool_id", Uuid),
    Column("idempotency_key", Text),
    Column("retry_of", Uuid, ForeignKey("jobs.job_id")),
    Column("tag", Text, nullable=False),
    Column("executor", Text),
    Column("executor_incarnation", Integer),
    Column("engine_incarnation", Text),
    Column("epoch", Uuid),
    Column("attended_at", Moment),
    Column("executor_closed_at", Moment),
    Column("handle", Document),
    Column("committed_at", Moment),
    Column("dataset_id", sqltypes.BigInteger),
    Column("publication_number", sqltypes.BigInteger),
    Column("result", Document),
    Column("failures", Document),
    Column("receipt", Document),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("ended_at", Moment),
    UniqueConstraint("company_id", "idempotency_key"),
)

cancellations = Table(
    "cancellations",
    metadata,
    Column("job_id", Uuid, ForeignKey("jobs.job_id"), primary_key=True),
    Column("data_plane_id", Uuid, nullable=False),
    Column("requested_by", Document, nullable=False),
    Column("reason", Text),
    Column("requested_at", Moment, nullable=False),
    Column("next_round_at", Moment, nullable=False),  # while it is claimed: when the lease ends
    Column("lease", Uuid),  # kept after settling, so that a repeated settlement is known again
    Column("worker", Text),
    Column("rounds", Integer, nullable=False, server_default="0"),
    Column("unanswered", Integer, nullable=False, server_default="0"),  # claims in a row without an outcome
    Column("claimed_at", Moment),
    Column("first_claimed_at", Moment),
    Column("first_stop_at", Moment),
    Column("waiting", Text),
    Column("waiting_detail", Text),
    Column("rung", Text),
    Column("rung_since", Moment),
    Column("stuck_at", Moment),
    Column("stuck_round", Integer),  # the round that found it so, and said so
    Column("settled_at", Moment),
    Column("leftovers", Document),
)

#: One row for every move, never changed and never removed.
audit = Table(
    "audit",
    metadata,
    Column("audit_id", sqltypes.BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("job_id", Uuid, ForeignKey("jobs.job_id"), nullable=False),
    Column("move", Text, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("actor", Document, nullable=False),
    Column("reason", Text),
    Column("moved_at", Moment, nullable=False),
)

_open = cancellations.c.settled_at.is_(None)
Index("cancellations_due", cancellations.c.data_plane_id, cancellations.c.next_round_at,
      postgresql_where=_open, sqlite_where=_open)  # fmt: skip
#: So many claims in a row without an outcome make a cancellation suspect; it is then claimed alone.
SUSPECT_AFTER = 3
SUSPECT = literal_column(str(SUSPECT_AFTER), Integer)  # as text: a bound value would not match the partial index
_suspects = and_(_open, cancellations.c.unanswered >= SUSPECT)
Index("cancellations_suspect", cancellations.c.data_plane_id, cancellations.c.next_round_at,
      postgresql_where=_suspects, sqlite_where=_suspects)  # fmt: skip
Index("jobs_pending", jobs.c.data_plane_id, jobs.c.created_at,
      postgresql_where=jobs.c.state == literal_column(f"'{JobState.PENDING.value}'"),
      sqlite_where=jobs.c.state == literal_column(f"'{JobState.PENDING.value}'"))  # fmt: skip
_live = jobs.c.ended_at.is_(None)
Index("jobs_live_of_executor", jobs.c.executor, postgresql_where=_live, sqlite_where=_live)
Index("jobs_by_plane", jobs.c.data_plane_id, jobs.c.created_at)
Index("jobs_by_creation", jobs.c.created_at)
Index("audit_by_job", audit.c.job_id, audit.c.audit_id)


# --- what may stand in a row ---------------------------------------------------------------------------------------


def _quoted(values: Any) -> list[ColumnElement[str]]:
    return [literal_column(f"'{value.value}'") for value in sorted(values)]


def _check(table: Table, name: str, rule: ColumnElement[bool]) -> None:
    table.append_constraint(CheckConstraint(rule, name=name))


_receipt_outcome = jobs.c.receipt.op("->>")(literal_column("'outcome'"))

_check(jobs, "known_state", jobs.c.state.in_(_quoted(JobState)))
_check(jobs, "known_type", jobs.c.type.in_(_quoted(JobType)))
_check(jobs, "ended_when_terminal", jobs.c.state.in_(_quoted(lifecycle.TERMINAL)) == jobs.c.ended_at.is_not(None))
_check(
    jobs,
    "receipt_when_cancelled",
    or_(
        and_(jobs.c.state.not_in(_quoted(lifecycle.RECEIPTED_STATES)), jobs.c.receipt.is_(None)),
        and_(
            jobs.c.state.in_(_quoted(lifecycle.RECEIPTED_STATES)),
            jobs.c.receipt.is_not(None),
            _receipt_outcome.is_not(None),
            _receipt_outcome.in_(_quoted(Outcome)),
        ),
    ),
)
_check(
    jobs,
    "committed_when_completed",
    or_(jobs.c.state.not_in(_quoted(lifecycle.COMMITTED_STATES)), jobs.c.committed_at.is_not(None)),
)
_check(
    jobs,
    "uncommitted_when_given_up",
    or_(jobs.c.state.not_in(_quoted(lifecycle.UNCOMMITTED_STATES)), jobs.c.committed_at.is_(None)),
)
_check(jobs, "result_when_committed", jobs.c.committed_at.is_not(None) == jobs.c.result.is_not(None))
_check(data_planes, "known_platform", data_planes.c.platform.in_(_quoted(Platform)))
_check(
    data_planes, "known_status", data_planes.c.status.in_([literal_column("'active'"), literal_column("'archived'")])
)
_check(cancellations, "known_waiting", cancellations.c.waiting.in_(_quoted(Waiting)))
_check(cancellations, "known_rung", cancellations.c.rung.in_(_quoted(Rung)))


# --- what may change in a row: the trigger --------------------------------------------------------------------------

#: Columns that say which job it is; SQLite's UPDATE OR REPLACE could else put one job in another's place.
IDENTITY = ("job_id", "data_plane_id", "company_id", "type", "idempotency_key", "tag")
#: Columns that are part of how a job ended; final together with the state.
FINAL = ("state", "receipt", "result", "committed_at", "ended_at", "failures", "publication_number")
_TRACKED = JobType.EXTERNAL


def _old(name: str) -> ColumnElement[Any]:
    return literal_column(f"OLD.{name}", jobs.c[name].type)


def _new(name: str) -> ColumnElement[Any]:
    return literal_column(f"NEW.{name}", jobs.c[name].type)


def _is(column: ColumnElement[Any], state: Any) -> ColumnElement[bool]:
    return column == literal_column(f"'{state.value}'")


def _edge(edge: lifecycle.Edge) -> ColumnElement[bool]:
    taken = and_(_is(_old("state"), edge.source), _is(_new("state"), edge.dest))
    if edge.committed is None:
        return taken
    committed = _new("committed_at").is_not(None)
    return and_(taken, committed if edge.committed else not_(committed))


def illegal_move() -> ColumnElement[bool]:
    """True for an UPDATE of a job that takes no declared edge, changes how it ended, or moves its commit point."""
    changed = _new("state").is_distinct_from(_old("state"))
    known = {(edge.source, edge.dest, edge.committed): edge for edge in lifecycle.EDGES}
    terminal = or_(*(_is(_old("state"), state) for state in sorted(lifecycle.TERMINAL)))
    committable = or_(
        _is(_old("state"), lifecycle.COMMITTABLE),
        and_(_is(_old("type"), _TRACKED), _is(_old("state"), JobState.PENDING_CANCELLATION)),
    )
    return or_(
        *(_new(name).is_distinct_from(_old(name)) for name in IDENTITY),
        and_(changed, not_(or_(*map(_edge, known.values())))),
        and_(terminal, or_(*(_new(name).is_distinct_from(_old(name)) for name in FINAL))),
        and_(
            _new("committed_at").is_distinct_from(_old("committed_at")),
            not_(and_(_old("committed_at").is_(None), committable)),
        ),
    )


def illegal_birth() -> ColumnElement[bool]:
    """True for an INSERT of a job that is not pending."""
    return not_(_is(_new("state"), JobState.PENDING))


def illegal_removal() -> ColumnElement[bool]:
    """True for a DELETE of a job that has not ended."""
    return not_(or_(*(_is(_old("state"), state) for state in sorted(lifecycle.TERMINAL))))


_REFUSALS = {
    ("jobs", "UPDATE"): ("jobs_moves", illegal_move, "no such move: see the lifecycle; terminal states are final"),
    ("jobs", "INSERT"): ("jobs_births", illegal_birth, "a job is born pending"),
    ("jobs", "DELETE"): ("jobs_removals", illegal_removal, "a job is removed only when it has ended"),
    ("audit", "UPDATE"): ("audit_unchanged", None, "the audit is append-only"),
    ("audit", "DELETE"): ("audit_kept", None, "the audit is append-only"),
}


def _unreplaced(table: str, *keys: tuple[str, ...]) -> str:
    same = " OR ".join(f"({', '.join(key)}) = ({', '.join(f'NEW.{column}' for column in key)})" for key in keys)
    exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"  # noqa: S608  # names of our own tables
    refusal = f"BEGIN SELECT RAISE(ABORT, '{table}: the row exists'); END"
    return f"CREATE TRIGGER {table}_unreplaced BEFORE INSERT ON {table} FOR EACH ROW WHEN {exists} {refusal}"


#: Each database's own back door: SQLite's REPLACE removes a row without its DELETE trigger; Postgres has TRUNCATE.
_BACK_DOORS = {
    "sqlite": (
        _unreplaced("jobs", ("job_id",), ("company_id", "idempotency_key")),
        _unreplaced("audit", ("audit_id",)),
    ),
    "postgresql": (
        "CREATE TRIGGER audit_untruncated BEFORE TRUNCATE ON audit EXECUTE FUNCTION refuse('the audit is append-only')",
    ),
}


def refusals(dialect_name: str) -> Iterator[str]:
    """The statements that create the triggers, for ``postgresql`` or ``sqlite``."""
    if dialect_name == "postgresql":
        yield (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = TG_ARGV[0]; END $$"
        )
    for (table, event), (name, rule, message) in _REFUSALS.items():
        when = f"WHEN ({_text(rule(), dialect_name)}) " if rule else ""
        head = f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {when}"
        if dialect_name == "postgresql":
            yield f"{head}EXECUTE FUNCTION refuse('{message}')"
        else:
            yield f"{head}BEGIN SELECT RAISE(ABORT, '{message}'); END"
    yield from _BACK_DOORS[dialect_name]


def _text(rule: ColumnElement[bool], dialect_name: str) -> str:
    dialect: Dialect = postgresql.dialect() if dialect_name == "postgresql" else sqlite.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialect classes are untyped
    return str(rule.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
