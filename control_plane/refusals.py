"""What the database itself refuses: triggers, generated from the lifecycle, that hold for everybody.

They stand beside the schema's constraints: those say what a row may be, these what may become of it. Every upgrade
makes them anew from the lifecycle of its version.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, and_, literal_column, not_, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from control_plane import lifecycle
from control_plane.jobs import JobType
from control_plane.lifecycle import JobState
from control_plane.schema import jobs

#: Columns that say which job it is; SQLite's UPDATE OR REPLACE could else put one job in another's place.
IDENTITY = ("job_id", "data_plane_id", "company_id", "type", "idempotency_key", "tag")
#: Columns that are part of how a job ended; final together with the state.
FINAL = ("state", "receipt", "result", "committed_at", "ended_at", "failures", "dataset_id", "publication_number")

BOTH = frozenset({"postgresql", "sqlite"})


class Refusal(NamedTuple):
    """One trigger: *event* on *table* is refused with *message*, where *rule* is true of the row (always, without)."""

    name: str
    table: str
    event: str
    message: str
    rule: ColumnElement[bool] | None = None
    databases: frozenset[str] = BOTH


def _old(name: str) -> ColumnElement[Any]:
    return literal_column(f"OLD.{name}", jobs.c[name].type)


def _new(name: str) -> ColumnElement[Any]:
    return literal_column(f"NEW.{name}", jobs.c[name].type)


def _changed(*names: str) -> ColumnElement[bool]:
    return or_(*(_new(name).is_distinct_from(_old(name)) for name in names))


def _is(column: ColumnElement[Any], *states: Any) -> ColumnElement[bool]:
    return or_(*(column == literal_column(f"'{state.value}'") for state in sorted(states)))


def _takes(edge: lifecycle.Edge) -> ColumnElement[bool]:
    taken = and_(_is(_old("state"), edge.source), _is(_new("state"), edge.dest))
    if edge.committed is None:
        return taken
    committed = _new("committed_at").is_not(None)
    return and_(taken, committed if edge.committed else not_(committed))


def _illegal_move() -> ColumnElement[bool]:
    """True for an UPDATE of a job that takes no declared edge, changes how it ended, or moves its commit point."""
    committable = or_(
        _is(_old("state"), lifecycle.COMMITTABLE),
        and_(_is(_old("type"), JobType.EXTERNAL), _is(_old("state"), JobState.PENDING_CANCELLATION)),  # tracked
    )
    return or_(
        _changed(*IDENTITY),
        and_(_changed("state"), not_(or_(*map(_takes, lifecycle.EDGES)))),
        and_(_is(_old("state"), *lifecycle.TERMINAL), _changed(*FINAL)),
        and_(_changed("committed_at"), not_(and_(_old("committed_at").is_(None), committable))),
    )


def _taken(table: str, *keys: tuple[str, ...]) -> ColumnElement[bool]:
    """True for a row whose key another row has; SQLite's REPLACE would remove that one without its DELETE trigger."""
    same = " OR ".join(f"({', '.join(key)}) = ({', '.join(f'NEW.{column}' for column in key)})" for key in keys)
    return literal_column(f"EXISTS (SELECT 1 FROM {table} WHERE {same})")  # noqa: S608  # names of our own tables


REFUSALS = (
    Refusal(
        "jobs_moves", "jobs", "UPDATE", "no such move: see the lifecycle; terminal states are final", _illegal_move()
    ),
    Refusal("jobs_births", "jobs", "INSERT", "a job is born pending", not_(_is(_new("state"), JobState.PENDING))),
    Refusal(
        "jobs_removals",
        "jobs",
        "DELETE",
        "a job is removed only when it has ended",
        not_(_is(_old("state"), *lifecycle.TERMINAL)),
    ),
    Refusal(
        "jobs_untruncated",
        "jobs",
        "TRUNCATE",
        "a job is removed only when it has ended",
        databases=frozenset({"postgresql"}),
    ),
    Refusal(
        "jobs_unreplaced",
        "jobs",
        "INSERT",
        "jobs: the row exists",
        _taken("jobs", ("job_id",), ("company_id", "idempotency_key")),
        frozenset({"sqlite"}),
    ),
    Refusal("audit_unchanged", "audit", "UPDATE", "the audit is append-only"),
    Refusal("audit_kept", "audit", "DELETE", "the audit is append-only"),
    Refusal("audit_untruncated", "audit", "TRUNCATE", "the audit is append-only", databases=frozenset({"postgresql"})),
    Refusal(
        "audit_unreplaced",
        "audit",
        "INSERT",
        "audit: the row exists",
        _taken("audit", ("audit_id",)),
        frozenset({"sqlite"}),
    ),
)

_FUNCTION = (
    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = TG_ARGV[0]; END $$"
)


def refusals(database: str) -> Iterator[str]:
    """The statements that create the triggers, on ``postgresql`` or ``sqlite``."""
    if database == "postgresql":
        yield _FUNCTION
    for refusal in REFUSALS:
        if database in refusal.databases:
            yield _trigger(refusal, database)


def _trigger(refusal: Refusal, database: str) -> str:
    each = "STATEMENT" if refusal.event == "TRUNCATE" else "ROW"
    when = "" if refusal.rule is None else f"WHEN ({_text(refusal.rule, database)}) "
    head = f"CREATE TRIGGER {refusal.name} BEFORE {refusal.event} ON {refusal.table} FOR EACH {each} {when}"
    if database == "postgresql":
        return f"{head}EXECUTE FUNCTION refuse('{refusal.message}')"
    return f"{head}BEGIN SELECT RAISE(ABORT, '{refusal.message}'); END"


def _text(rule: ColumnElement[bool], database: str) -> str:
    dialects: dict[str, Any] = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}
    dialect: Dialect = dialects[database]()
    return str(rule.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def install(connection: Connection) -> None:
    """Make the triggers anew, in the connection's transaction."""
    database = connection.dialect.name
    for refusal in REFUSALS:
        where = f" ON {refusal.table}" if database == "postgresql" else ""
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {refusal.name}{where}")
    for statement in refusals(database):
        connection.exec_driver_sql(statement)
