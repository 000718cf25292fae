"""What the tests of the store start from: jobs brought to where a test needs them, by the product's own moves.

Where a test needs a row that no move leads to, :func:`past_triggers` lets it write one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, select

from control_plane import schema
from control_plane.dispatch import Dispatch
from control_plane.intake import Intake, NewJob, NewPlane
from control_plane.jobs import (
    ApiUser,
    Closure,
    FailureCause,
    Handle,
    Job,
    JobType,
    Outcome,
    Process,
    Receipt,
    RequestSource,
    Rung,
    Waiting,
)
from control_plane.planes import DataPlane, Platform
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.work import (
    EVERYWHERE,
    Assignment,
    Claim,
    Commit,
    Executor,
    Failure,
    Postponement,
    Publication,
    Served,
    Settlement,
)

EXECUTOR = Executor("job-executor-6f1d", 1, "unix:/run/one.sock")
SUBMITTER = ApiUser(company_id=1, user_id=11)
ASKER = ApiUser(company_id=1, user_id=22)
OTHER_ASKER = Process("cli:somebody-else")
WHY = "the wrong month"
DATASET = 6402
LEASE_SECONDS = 20.0
PERMIT_SECONDS = 30.0
STUCK_AFTER_SECONDS = 900.0

VIEW_INPUT: dict[str, Any] = {"nql": "CREATE VIEW v AS SELECT 1", "compiled_sql": "SELECT 1", "dataset_id": DATASET}
VIEW_RESULT: dict[str, Any] = {"dataset_id": DATASET, "snapshot_id": 3, "recalculation_id": str(UUID(int=4))}
INPUTS: dict[JobType, dict[str, Any]] = {
    JobType.MATERIALIZE_VIEW: VIEW_INPUT,
    JobType.NQL_FORECAST: {"nql": "EXPLAIN SELECT 1", "compiled_sql": "SELECT 1"},
    JobType.SAMPLE: {"dataset_id": DATASET, "rows": 10},
}
FORECAST_RESULT: dict[str, Any] = {"rows": 12, "cost": 34}

Answer = TypeVar("Answer")


class Clock:
    """The store's clock, moved by the test alone."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def after(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)


def receipt_at(moment: datetime, outcome: Outcome = Outcome.STOPPED, **fields: Any) -> Receipt:
    """A receipt as a canceller would write it."""
    whole: dict[str, Any] = {
        "closure": Closure.ENGINE_CLOSED,
        "tag": "countermand:a:b:c:run",
        "engine": "duckdb",
        "incarnation": "1",
        "handle": Handle("duckdb", "1", "run-5"),
        "engine_status": "interrupted",
        "engine_ended_at": moment - timedelta(milliseconds=250),
        "rounds": 2,
        "rung": Rung.INSIST,
    }
    return Receipt(outcome=outcome, seen_at=moment, worker="w1", **(whole | fields))


def cause_at(moment: datetime, message: str = "out of memory") -> FailureCause:
    return FailureCause(message, moment, {"code": 137})


@dataclass
class Given:
    """A store with one active plane, and jobs on demand; each method's name is the state that it brings a job to."""

    store: Store
    clock: Clock
    intake: Intake = field(init=False)
    dispatch: Dispatch = field(init=False)
    plane: DataPlane = field(init=False)

    def __post_init__(self) -> None:
        self.intake = Intake(self.store, Policy())
        self.dispatch = Dispatch(self.store)
        self.plane = self.new_plane()

    def new_plane(self, platform: Platform = Platform.NARRATIVE, **fields: Any) -> DataPlane:
        whole: dict[str, Any] = {
            "display_name": f"plane {uuid4()}",
            "permit_seconds": PERMIT_SECONDS,
            "stuck_after_seconds": STUCK_AFTER_SECONDS,
        }
        return self.intake.create_plane(NewPlane(platform=platform, **(whole | fields)))

    def pending(
        self, kind: JobType = JobType.MATERIALIZE_VIEW, *, plane: DataPlane | None = None, **fields: Any
    ) -> Job:
        new = {"input": INPUTS.get(kind, {})} | fields
        return self.intake.submit(NewJob((plane or self.plane).data_plane_id, kind, **new), SUBMITTER)

    def start(
        self,
        kinds: Sequence[JobType] = tuple(JobType),
        *,
        plane: DataPlane | None = None,
        executor: Executor = EXECUTOR,
        limit: int = 1,
        epoch: UUID | None = None,
        clusters: Served = EVERYWHERE,
    ) -> list[Claim]:
        where, incarnation = (plane or self.plane).data_plane_id, f"engine-{executor.incarnation}"
        return self.dispatch.start(
            executor,
            data_plane_id=where,
            types=kinds,
            clusters=clusters,
            limit=limit,
            incarnation=incarnation,
            epoch=epoch,
        )

    def running(
        self,
        kind: JobType = JobType.MATERIALIZE_VIEW,
        *,
        plane: DataPlane | None = None,
        executor: Executor = EXECUTOR,
        **fields: Any,
    ) -> Claim:
        job = self.pending(kind, plane=plane, **fields)
        [claim] = self.start(plane=plane, executor=executor)
        assert claim.job_id == job.job_id
        return claim

    def committed(self, *, dataset_id: int = DATASET, **fields: Any) -> Claim:
        claim = self.running(**fields)
        assert claim.job_id in self.commit(claim, dataset_id=dataset_id)
        return claim

    def commit(
        self, claim: Claim, *, dataset_id: int | None = DATASET, result: dict[str, Any] | None = None
    ) -> dict[UUID, Publication | None]:
        what = VIEW_RESULT if result is None else result
        return self.dispatch.commit([Commit(claim.job_id, claim.epoch, what, dataset_id)], executor=EXECUTOR)

    def request(self, job_id: UUID, by: RequestSource = ASKER, reason: str | None = WHY) -> Job:
        return self.intake.request_cancellation(job_id, by, reason)

    def requested(self, **fields: Any) -> Claim:
        claim = self.running(**fields)
        self.request(claim.job_id)
        return claim

    def claim(
        self,
        room: int = 100,
        *,
        plane: DataPlane | None = None,
        worker: str = "w1",
        lease_seconds: float = LEASE_SECONDS,
        lease: UUID | None = None,
    ) -> list[Assignment]:
        where = (plane or self.plane).data_plane_id
        return self.dispatch.claim({where: room}, worker=worker, lease_seconds=lease_seconds, lease=lease)

    def leased(self, **fields: Any) -> Assignment:
        requested = self.requested(**fields)
        [assignment] = self.claim(plane=fields.get("plane"))
        assert assignment.work.job_id == requested.job_id
        return assignment

    def settlement(self, held: Assignment, **fields: Any) -> Settlement:
        return Settlement(held.work.job_id, held.lease, receipt_at(self.clock.now, **fields))

    def postponement(self, held: Assignment, delay_seconds: float = 5.0, **fields: Any) -> Postponement:
        whole: dict[str, Any] = {"waiting": Waiting.STILL_RUNNING, "detail": "the engine says: running"} | fields
        return Postponement(held.work.job_id, held.lease, delay_seconds=delay_seconds, **whole)

    def cancelled(self) -> UUID:
        held = self.leased()
        [settled] = self.dispatch.settle([self.settlement(held)], worker="w1")
        assert settled.landed
        return held.work.job_id

    def completed(self) -> UUID:
        claim = self.committed()
        assert self.dispatch.complete([claim.job_id], actor=Process(EXECUTOR.executor_id)) == [claim.job_id]
        return claim.job_id

    def failed(self) -> UUID:
        claim = self.running()
        assert self.fail(claim) == [claim.job_id]
        return claim.job_id

    def fail(self, claim: Claim, message: str = "out of memory") -> list[UUID]:
        cause = cause_at(self.clock.now, message)
        return self.dispatch.fail([Failure(claim.job_id, claim.epoch, cause)], executor=EXECUTOR)

    def job(self, job_id: UUID) -> Job:
        return self.intake.job(job_id)

    def moves(self, job_id: UUID) -> list[tuple[str, str | None, str]]:
        """What the audit tells of the job: move, from, to."""
        return [(entry.move, entry.from_state, entry.to_state) for entry in self.intake.audit(job_id)]

    def everything(self, job_id: UUID) -> dict[str, list[dict[str, Any]]]:
        """Every column of every row that the store has of the job."""
        return {
            table.name: self.rows_of(table.name, job_id) for table in (schema.jobs, schema.cancellations, schema.audit)
        }

    def rows_of(self, table_name: str, job_id: UUID) -> list[dict[str, Any]]:
        table = schema.metadata.tables[table_name]
        with self.store.engine.connect() as connection:
            found = connection.execute(select(table).where(table.c.job_id == job_id))
            return [dict(row) for row in found.mappings()]


@dataclass(frozen=True)
class Put:
    """A job whose row was written past the triggers, with the epoch and the lease that entitle to every move."""

    job_id: UUID
    data_plane_id: UUID
    epoch: UUID
    lease: UUID


def put_job(given: Given, state: str, *, committed: bool, cancellation: bool = False, **columns: Any) -> Put:
    """A job in this state on a plane of its own, with whatever such a row needs; the constraints still hold."""
    put = Put(uuid4(), given.new_plane().data_plane_id, uuid4(), uuid4())
    row = {
        "job_id": put.job_id,
        "data_plane_id": put.data_plane_id,
        "state": state,
        "type": JobType.MATERIALIZE_VIEW.value,
        "request_source": {"type": "process", "name": "test"},
        "input": VIEW_INPUT,
        "tag": f"countermand:test:{put.data_plane_id}:{put.job_id}:run",
        "epoch": put.epoch,
        "executor": None if state == "pending" else EXECUTOR.executor_id,
        "executor_incarnation": None if state == "pending" else EXECUTOR.incarnation,
        "committed_at": given.clock.now if committed else None,
        "result": VIEW_RESULT if committed else None,
        "dataset_id": DATASET if committed else None,
        "publication_number": 1 if committed else None,
        "receipt": receipt_at(given.clock.now) if state == "cancelled" else None,
        "created_at": given.clock.now,
        "updated_at": given.clock.now,
        "ended_at": given.clock.now if state in ("cancelled", "completed", "failed") else None,
    }
    with past_triggers(given.store) as connection:
        connection.execute(insert(schema.jobs).values(row | columns))
        if cancellation:
            connection.execute(
                insert(schema.cancellations).values(
                    job_id=put.job_id,
                    data_plane_id=put.data_plane_id,
                    requested_by={"type": "process", "name": "test"},
                    requested_at=given.clock.now,
                    next_round_at=given.clock.now,
                    lease=put.lease,
                )
            )
    return put


@contextmanager
def past_triggers(store: Store) -> Iterator[Connection]:
    """A transaction in which no trigger fires, so that a test can write rows that no move leads to."""
    with store.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            yield connection
            return
        triggers = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield connection
        for _, text in triggers:
            connection.exec_driver_sql(text)


def empty(store: Store) -> None:
    """Remove every row but the installation's name, whatever refuses it."""
    with past_triggers(store) as connection:
        for table in reversed(schema.metadata.sorted_tables):
            if table is not schema.installation:
                connection.execute(delete(table))


def at_once(*calls: Callable[[], Answer]) -> list[Answer]:
    """Make the calls in threads that set off together; their answers, in order."""
    barrier = threading.Barrier(len(calls), timeout=30)

    def set_off(call: Callable[[], Answer]) -> Answer:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(set_off, calls))
