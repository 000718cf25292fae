"""Tables, indexes and constraints; the trigger and the checks are generated from the lifecycle.

What a constraint can refuse, it refuses for everybody: also for a person with psql or the sqlite3 shell.
"""

from collections.abc import Callable
from contextlib import suppress
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
    cast,
    func,
    literal_column,
    or_,
)
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import ColumnElement

from control_plane import lifecycle
from control_plane.jobs import JobType, Outcome, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.planes import Platform


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
            return self._read
        return self.impl_instance.dialect_impl(dialect).result_processor(dialect, coltype)

    def _read(self, text: str | None) -> Any:
        """What is malformed, written by hand, stays text: whoever reads that row says so, and no other suffers."""
        with suppress(ValueError):
            return text if text is None else self.from_text(text)
        return text

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
    Column("tracking", Document, nullable=False, server_default="{}"),  # whose work may be; empty: nobody's
    Column("execution_clusters", Document, nullable=False, server_default="[]"),
    Column("created_at", Moment, nullable=False),
    Column("last_heartbeat_at", Moment),
    UniqueConstraint("company_id", "display_name"),
)

#: With which companies a plane is shared by its owner.
collaborators = Table(
    "collaborators",
    metadata,
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), primary_key=True),
    Column("company_id", Integer, primary_key=True, autoincrement=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("company_id", Integer, nullable=False),
    Column("permissions", Document, nullable=False),
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id")),
    Column("user_id", sqltypes.BigInteger),
    Column("hash", Text, nullable=False),  # of the secret; the token itself is kept nowhere
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
)

executors = Table(
    "executors",
    metadata,
    Column("executor_id", Text, primary_key=True),
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("address", Text),
    Column("token", Uuid),  # which process registered it: the same may do so again
    Column("registered_at", Moment, nullable=False),
)

#: Who works on a plane, as each process last described itself; a row that nobody renews is removed after a day.
workers = Table(
    "workers",
    metadata,
    Column("data_plane_id", Uuid, ForeignKey("data_planes.data_plane_id"), primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("engines", Document, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("first_seen_at", Moment, nullable=False),
    Column("last_seen_at", Moment, nullable=False),
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
    Column("job_id", Uuid, nullable=False),  # no foreign key: it outlives its job, and a look-up a row costs a tenth
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
#: By which a claim that is repeated finds what it had leased.
_leased = and_(_open, cancellations.c.lease.is_not(None))
Index("cancellations_leased", cancellations.c.lease, postgresql_where=_leased, sqlite_where=_leased)
Index("jobs_pending", jobs.c.data_plane_id, jobs.c.created_at,
      postgresql_where=jobs.c.state == literal_column(f"'{JobState.PENDING.value}'"),
      sqlite_where=jobs.c.state == literal_column(f"'{JobState.PENDING.value}'"))  # fmt: skip
_live = jobs.c.ended_at.is_(None)
Index("jobs_live_of_executor", jobs.c.executor, postgresql_where=_live, sqlite_where=_live)
#: What a page is chosen and counted by stands in one index: only the rows of the page itself are read. Every move makes
#: new entries in all indexes anyway, because partial ones depend on the state.
_listed = (jobs.c.created_at, jobs.c.job_id, jobs.c.updated_at, jobs.c.state, jobs.c.type)
Index("jobs_by_plane", jobs.c.data_plane_id, *_listed, jobs.c.company_id)
Index("jobs_by_company", jobs.c.company_id, *_listed)
#: As text, for other types' inputs may hold anything under that name.
#: No longer than what an index can hold, and one digit longer than an id: nothing longer is one.
named_dataset = func.substr(
    cast(jobs.c.input.op("->>")(literal_column("'dataset_id'", Text)), Text), literal_column("1"), literal_column("20")
)
Index("jobs_by_dataset", jobs.c.company_id, named_dataset, jobs.c.created_at,
      postgresql_where=named_dataset.is_not(None), sqlite_where=named_dataset.is_not(None))  # fmt: skip
_keyed = jobs.c.idempotency_key.is_not(None)
Index("jobs_by_idempotency_key", jobs.c.company_id, jobs.c.idempotency_key, unique=True,
      postgresql_where=_keyed, sqlite_where=_keyed)  # fmt: skip
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
            jobs.c.receipt.op("->>")(literal_column("'seen_at'")).is_not(None),
            jobs.c.receipt.op("->>")(literal_column("'worker'")).is_not(None),
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
_check(workers, "known_kind", workers.c.kind.in_([literal_column("'canceller'"), literal_column("'executor'")]))
_check(data_planes, "known_platform", data_planes.c.platform.in_(_quoted(Platform)))
_check(
    data_planes, "known_status", data_planes.c.status.in_([literal_column("'active'"), literal_column("'archived'")])
)
_check(cancellations, "known_waiting", cancellations.c.waiting.in_(_quoted(Waiting)))
_check(cancellations, "known_rung", cancellations.c.rung.in_(_quoted(Rung)))
