"""What a plane's processes ask of the control plane: cancellations to work, jobs to run.

Stale rows are left out of the answers, never raised. Every call may be repeated: guards, leases and epochs decide.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import RowMapping
from sqlalchemy.exc import DataError, IntegrityError

from control_plane import statements
from control_plane.checks import LARGEST, check_kept, check_range
from control_plane.errors import Conflict, NotFound, Refused
from control_plane.ids import new_token
from control_plane.inputs import check_result
from control_plane.jobs import Closure, ExecutionCluster, Handle, Job, JobType, Process, Waiting
from control_plane.lifecycle import RECEIPTED_STATES, JobState
from control_plane.presence import Beat, Presences
from control_plane.store import Store, Transaction
from control_plane.tally import COMPLETED, Tally
from control_plane.work import (
    EVERYWHERE,
    Assignment,
    Attendance,
    Claim,
    Commit,
    Executor,
    Failure,
    Hold,
    Postponed,
    Postponement,
    Presence,
    Publication,
    Served,
    Settled,
    Settlement,
)

log = structlog.get_logger()


_PLANES_AT_ONCE = 200  #: in one claim; SQLite takes no more than 500
_UNREADABLE_DELAY_SECONDS = 60.0
_LONGEST_DELAY_SECONDS = 3_600.0  #: of a postponement: whoever asks for more would lose it


class Dispatch:
    """The store as planes' processes see it."""

    def __init__(self, store: Store, tally: Tally | None = None) -> None:
        self._store = store
        self._tally = tally or Tally()

    def installation(self) -> str:
        """The random name that this database got at its first migration."""
        return str(self._store.perform(statements.installation_name())[0]["name"])

    def now(self) -> datetime:
        """What time it is for the database."""
        moment: datetime = self._store.perform(statements.select_moment())[0]["moment"]
        return moment

    # --- cancellations, for a canceller ---

    def claim(
        self, room: Mapping[UUID, int], *, worker: str, lease_seconds: float, lease: UUID | None = None
    ) -> list[Assignment]:
        """Lease due cancellations, oldest first, at most as many a plane as *room* says: a round begins.

        With a *lease* that was given before it answers what is still held under it, for as long as if it were new, and
        begins no round: its answer was lost.
        """
        wanted = [(plane, limit) for plane, limit in room.items() if limit > 0]
        some = [wanted[begin : begin + _PLANES_AT_ONCE] for begin in range(0, len(wanted), _PLANES_AT_ONCE)]
        return [claimed for planes in some for claimed in self._claim(planes, worker, lease_seconds, lease)]

    def _claim(
        self, wanted: Sequence[tuple[UUID, int]], worker: str, lease_seconds: float, lease: UUID | None
    ) -> list[Assignment]:
        if lease is None:
            return self._read(self._lease_due(self._store, wanted, worker, lease_seconds, new_token()))
        planes = [{"data_plane_id": plane} for plane, _ in wanted]
        with self._store.transaction() as transaction:  # the same lease asked twice at once: one after the other
            transaction.perform(statements.lock_claim(), under=str(lease))
            held = transaction.perform(statements.reclaim(), planes, of_lease=lease, lease_seconds=lease_seconds)
            claimed = held or self._lease_due(transaction, wanted, worker, lease_seconds, lease)
        return self._read(claimed)

    @staticmethod
    def _lease_due(
        on: Store | Transaction, wanted: Sequence[tuple[UUID, int]], worker: str, lease_seconds: float, lease: UUID
    ) -> Sequence[RowMapping]:
        bound = {f"plane_{number}": plane for number, (plane, _) in enumerate(wanted)}
        limits = {f"room_{number}": limit for number, (_, limit) in enumerate(wanted)}
        return on.perform(
            statements.claim_cancellations(len(wanted)),
            new_lease=lease,
            by_worker=worker,
            lease_seconds=lease_seconds,
            **bound,
            **limits,
        )

    def _read(self, claimed: Sequence[RowMapping]) -> list[Assignment]:
        read = {row["job_id"]: _assignment(row) for row in claimed}
        self.postpone([_unreadable(row) for row in claimed if read[row["job_id"]] is None])
        return [assignment for assignment in read.values() if assignment is not None]

    def due(self, data_plane_ids: Sequence[UUID]) -> dict[UUID, bool]:
        """Those of the planes that have unsettled cancellations, and whether one of them can be claimed now."""
        if not data_plane_ids or not self._store.perform(statements.select_any_open()):
            return {}  # on a quiet day, whatever the number of planes
        found = self._store.perform(statements.select_open(), [{"data_plane_id": plane} for plane in data_plane_ids])
        return {row["data_plane_id"]: row["next_round_at"] <= row["moment"] for row in found}

    def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Hold]:
        """Keep leases; answers those still held, with what is known now of their closure."""
        kept = self._store.perform(statements.extend(), _by_id(holds), lease_seconds=lease_seconds)
        return [Hold(row["job_id"], row["lease"], _closure(row)) for row in kept]

    def settle(self, settlements: Sequence[Settlement], *, worker: str) -> list[Settled]:
        """End cancellations: with a receipt ``cancel``, without one ``complete``. A poisoned row harms only itself."""
        if not settlements:
            return []
        actor = Process(f"canceller:{worker}")
        landed = self._each_for_itself(_by_id(settlements), lambda items: self._land(items, actor))
        landed |= self._landed_before([item for item in settlements if item.job_id not in landed])
        return [
            Settled(item.job_id, landed=item.job_id in landed, settled_at=landed.get(item.job_id))
            for item in settlements
        ]

    def _land(self, settlements: Sequence[Settlement], actor: Process) -> dict[UUID, Any]:
        landed: dict[UUID, Any] = {}
        cancelled = [item for item in settlements if item.receipt is not None]
        if cancelled:
            rows = self._store.perform(statements.settle(), cancelled, actor=_document(actor))
            landed |= {row["job_id"]: row["ended_at"] for row in rows}
            outcomes = {item.job_id: item.receipt.outcome for item in cancelled if item.receipt is not None}
            self._tally.add((row["data_plane_id"], outcomes[row["job_id"]].value) for row in rows)
        succeeded = [item for item in settlements if item.receipt is None and item.result is not None]
        if succeeded:
            landed |= self._complete_tracked(succeeded, actor)
        completed = [item.job_id for item in settlements if item.receipt is None and item.result is None]
        return landed | (self._completed(self._store, completed, actor) if completed else {})

    def _complete_tracked(self, settlements: Sequence[Settlement], actor: Process) -> dict[UUID, Any]:
        with self._store.transaction() as transaction:
            committed = transaction.perform(statements.commit_tracked(), settlements)
            job_ids = [row["job_id"] for row in committed]
            return self._completed(transaction, job_ids, actor) if job_ids else {}

    def _landed_before(self, settlements: Sequence[Settlement]) -> dict[UUID, Any]:
        """Those that had landed already under the same lease, as what they say: their answer was lost."""
        if not settlements:
            return {}
        left_open = {row["job_id"] for row in self._store.perform(statements.settle_ended(), settlements)}
        cancelled = {item.job_id: item.receipt is not None for item in settlements}
        return {
            row["job_id"]: row["settled_at"]
            for row in self._store.perform(statements.select_settled(), settlements)
            if (JobState(row["state"]) in RECEIPTED_STATES) == cancelled[row["job_id"]]
            and not (cancelled[row["job_id"]] and row["job_id"] in left_open)  # another's receipt, not this one
        }

    def _each_for_itself(
        self, items: Sequence[Any], perform: Callable[[Sequence[Any]], dict[UUID, Any]]
    ) -> dict[UUID, Any]:
        """All at once; where the database refuses one of them, each by itself, and the refused one is left as it is."""
        try:
            return perform(items)
        except (IntegrityError, DataError) as error:
            if len(items) == 1:
                log.error("cancellation_refused", job=str(items[0].job_id), error=str(error.orig))
                return {}
        done: dict[UUID, Any] = {}
        for item in items:
            done |= self._each_for_itself([item], perform)
        return done

    def postpone(self, postponements: Sequence[Postponement]) -> list[Postponed]:
        """Give back with a reason; due after the delay, or at once where there is news already."""
        if not postponements:
            return []
        given_back = self._each_for_itself([_bounded(item) for item in _by_id(postponements)], self._give_back)
        return [Postponed(job_id, became_stuck=became_stuck) for job_id, became_stuck in given_back.items()]

    def _give_back(self, postponements: Sequence[Postponement]) -> dict[UUID, Any]:
        rows = self._store.perform(statements.postpone(), postponements)
        return {row["job_id"]: bool(row["became_stuck"]) for row in rows}

    def release(self, holds: Sequence[Hold]) -> list[UUID]:
        """Give back as if never claimed, due at once."""
        return [row["job_id"] for row in self._store.perform(statements.release(), _by_id(holds))] if holds else []

    def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> list[UUID]:
        """Add what was discarded to the cancellations' lists; answers which: jobs without a cancellation have none."""
        if not removed:
            return []
        with self._store.transaction() as transaction:
            wanted = [{"job_id": job_id} for job_id in sorted(removed)]
            known = transaction.perform(statements.lock_leftovers(), wanted)
            noted = [
                {"job_id": row["job_id"], "leftovers": sorted({*(row["leftovers"] or ()), *removed[row["job_id"]]})}
                for row in known
            ]
            return [row["job_id"] for row in transaction.perform(statements.note_leftovers(), noted)]

    def heartbeat(self, data_plane_ids: Sequence[UUID], presence: Presence | None = None) -> list[UUID]:
        """Note that these planes are attended, and by whom where that is said; answers those that exist."""
        beats = [Beat(plane, presence) for plane in data_plane_ids]
        return sorted(Presences(self._store).note(beats))

    def of_plane(self, data_plane_id: UUID, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs that are on the plane."""
        wanted = [{"job_id": job_id} for job_id in job_ids]
        if not wanted:
            return set()
        found = self._store.perform(statements.select_on_plane(), wanted, on_plane=data_plane_id)
        return {row["job_id"] for row in found}

    # --- jobs, for an executor ---

    def check_latest(self, executor: Executor) -> None:
        """Raise Conflict unless this start of the executor is the registered one: it alone vouches for earlier ones."""
        known = self._store.perform(statements.select_executor(), executor_id=executor.executor_id)
        if not known or known[0]["incarnation"] != executor.incarnation:
            message = f"executor.incarnation: {executor.incarnation} is not the registered start"
            raise Conflict(message, field="executor.incarnation")

    def check_executor(self, executor_id: str, data_plane_id: UUID) -> None:
        """Raise NotFound for an executor that is another plane's, or is not registered."""
        known = self._store.perform(statements.select_executor(), executor_id=executor_id)
        if not known or known[0]["data_plane_id"] != data_plane_id:
            raise NotFound(f"executor_id: there is no executor {executor_id} of this plane", field="executor_id")

    def executors(self, data_plane_id: UUID) -> dict[Executor, bool]:
        """The latest start of each executor that ever registered for the plane, and whether it holds jobs."""
        known = self._store.perform(statements.select_executors(), data_plane_id=data_plane_id)
        return {
            Executor(row["executor_id"], row["incarnation"], row["address"], row["incarnation"]): bool(
                row["holds_jobs"]
            )
            for row in known
        }

    def register(self, executor: Executor, *, data_plane_id: UUID, token: UUID | None = None) -> str:
        """Make this start of the executor known and answer the installation's name; repeatable under one *token*.

        Raises NotFound for an unknown plane, Refused when another process is known as this or a later start: then the
        data folder is a copy or was restored, and this process may vouch for nothing.
        """
        if not self._store.perform(statements.select_plane(), data_plane_id=data_plane_id):
            raise NotFound(f"data_plane_id: there is no data plane {data_plane_id}", field="data_plane_id")
        try:
            with self._store.transaction() as transaction:
                self._register(transaction, executor, data_plane_id, token)
        except IntegrityError:  # another registered the same executor in the same moment: now it is known
            with self._store.transaction() as transaction:
                self._register(transaction, executor, data_plane_id, token)
        return self.installation()

    def _register(self, transaction: Transaction, executor: Executor, plane: UUID, token: UUID | None) -> None:
        raised = transaction.perform(
            statements.raise_incarnation(),
            of_executor=executor.executor_id,
            of_plane=plane,
            new_incarnation=executor.incarnation,
            new_address=executor.address,
            new_token=token,
        )
        if raised:
            return
        known = transaction.perform(statements.select_executor(), executor_id=executor.executor_id)
        if known and token is not None and known[0]["token"] == token:
            return  # the answer was lost
        if known:
            raise Refused(_why_refused(known[0], executor, plane), field="data_folder")
        transaction.perform(
            statements.insert_executor(),
            executor_id=executor.executor_id,
            data_plane_id=plane,
            incarnation=executor.incarnation,
            address=executor.address,
            token=token,
        )

    def confirm_lower_incarnations(self, executor: Executor) -> list[UUID]:
        """Confirm that nothing of what this executor's earlier starts had claimed can start any more."""
        closed = self._store.perform(
            statements.confirm_lower_incarnations(),
            executor_id=executor.executor_id,
            incarnation=executor.incarnation,
        )
        return [row["job_id"] for row in closed]

    def start(
        self,
        executor: Executor,
        *,
        data_plane_id: UUID,
        types: Sequence[JobType],
        limit: int,
        incarnation: str,
        epoch: UUID | None = None,
        clusters: Served = EVERYWHERE,
    ) -> list[Claim]:
        """Start pending jobs of these types for the executor, oldest first, under one new epoch.

        With *clusters*, those alone that are to run on one of them, each claimed on the incarnation that is there, not
        on *incarnation*.

        With an *epoch* that it had given before it answers what that claim had started: its answer was lost. A start
        of the executor that a later one has superseded gets nothing.
        """
        starting = {"plane": data_plane_id, "room": limit} | _starting(executor, incarnation, epoch)
        if epoch is None:
            return _start(self._store, types, clusters, starting)
        with self._store.transaction() as transaction:  # the same epoch asked twice at once: one after the other
            transaction.perform(statements.lock_claim(), under=str(epoch))
            return _before(transaction, executor, epoch) or _start(transaction, types, clusters, starting)

    def pending(self, data_plane_ids: Sequence[UUID]) -> set[tuple[UUID, JobType, ExecutionCluster | None]]:
        """Which types of jobs wait to be started, on which of the planes and of their clusters."""
        wanted = [{"data_plane_id": plane} for plane in data_plane_ids]
        found = self._store.perform(statements.select_pending(), wanted) if wanted else ()
        return {(row["data_plane_id"], JobType(row["type"]), _cluster(row)) for row in found}

    def start_one(self, job: Job, executor: Executor, *, incarnation: str, epoch: UUID | None = None) -> Claim | None:
        """Start one given job, as :meth:`start` does; None for one that was started before, or has ended well.

        Raises Conflict for a job that failed or is to be cancelled, and where a later start of the executor is known.
        """
        if epoch is not None:
            for claim in _before(self._store, executor, epoch):
                if claim.job_id == job.job_id:
                    return claim
        if job.state in (JobState.FAILED, JobState.PENDING_CANCELLATION):
            raise Conflict(f"job_id: job {job.job_id} is {job.state}; a retry is a new job", field="job_id")
        if job.state is not JobState.PENDING:
            return None
        started = self._store.perform(
            statements.start_one(), of_job=job.job_id, **_starting(executor, incarnation, epoch)
        )
        if not started:
            raise Conflict(f"job_id: job {job.job_id} was started or ended by another, look again", field="job_id")
        return _claim(started[0])

    def attend(self, held: Mapping[UUID, UUID]) -> Attendance:
        """Renew permits; whatever could not be renewed is to be closed."""
        renewed = {row["job_id"] for row in self._store.perform(statements.attend(), _epochs(held))}
        return Attendance(sorted(renewed), sorted(held.keys() - renewed))

    def record_handles(self, handles: Mapping[UUID, Handle], epochs: Mapping[UUID, UUID]) -> list[UUID]:
        """Write down the engine's names of runs; answers those whose epoch still holds."""
        wanted = [
            {"job_id": job_id, "epoch": epochs[job_id], "handle": handle} for job_id, handle in sorted(handles.items())
        ]
        return [row["job_id"] for row in self._store.perform(statements.record_handles(), wanted)]

    def confirm_closed(self, epochs: Mapping[UUID, UUID]) -> list[UUID]:
        """Write that the executor will submit nothing more of these jobs; their cancellations become due."""
        return [row["job_id"] for row in self._store.perform(statements.confirm_closed(), _epochs(epochs))]

    def commit(self, commits: Sequence[Commit], *, executor: Executor) -> dict[UUID, Publication | None]:
        """Pass the commit point, each job in a transaction of its own; who is missing lost against a cancellation.

        Raises BadInput for a result of the wrong shape; nothing is changed then, of no job.
        """
        wanted = [{"job_id": item.job_id} for item in commits]
        types = {row["job_id"]: row["type"] for row in self._store.perform(statements.select_types(), wanted)}
        checked = [_checked(item, JobType(types[item.job_id])) for item in commits if item.job_id in types]
        passed: dict[UUID, Publication | None] = {}
        for item in checked:
            with self._store.transaction() as transaction:
                passed |= self._commit(transaction, item, Process(executor.executor_id))
        return passed

    def _commit(self, transaction: Transaction, item: Commit, actor: Process) -> dict[UUID, Publication | None]:
        number = None
        if item.dataset_id is not None:
            raised = transaction.perform(statements.next_publication(), job_id=item.job_id, dataset_id=item.dataset_id)
            number = raised[0]["last_number"]
        committed = transaction.perform(
            statements.commit(),
            of_job=item.job_id,
            of_epoch=item.epoch,
            new_result=item.result,
            of_dataset=item.dataset_id,
            number=number,
        )
        if not committed:
            repeated = transaction.perform(statements.select_commits(), [item])
            return {item.job_id: _publication(repeated[0])} if repeated else {}
        if item.dataset_id is None or number is None:
            self._completed(transaction, [item.job_id], actor)
            return {item.job_id: None}
        return {item.job_id: Publication(item.dataset_id, number)}

    def complete(self, job_ids: Sequence[UUID], *, actor: Process) -> list[UUID]:
        """Complete committed jobs whose publication stands; anybody may, any number of times."""
        return list(self._completed(self._store, job_ids, actor)) if job_ids else []

    def _completed(self, on: Store | Transaction, job_ids: Sequence[UUID], actor: Process) -> dict[UUID, Any]:
        wanted = [{"job_id": job_id} for job_id in sorted(job_ids)]
        moved = on.perform(statements.complete(), wanted, actor=_document(actor))
        asked = [row for row in moved if row["moved_from"] == JobState.PENDING_CANCELLATION.value]
        self._tally.add((row["data_plane_id"], COMPLETED) for row in asked)
        return {row["job_id"]: row["ended_at"] for row in moved}

    def fail(self, failures: Sequence[Failure], *, executor: Executor) -> list[UUID]:
        """Fail running jobs; where a cancellation was requested it is a hint to look again, and changes no state."""
        causes = [{"job_id": item.job_id, "epoch": item.epoch, "failures": [item.cause]} for item in _by_id(failures)]
        if not causes:
            return []
        actor = _document(Process(executor.executor_id))
        failed = [row["job_id"] for row in self._store.perform(statements.fail(), causes, actor=actor)]
        overtaken = [cause for cause in causes if cause["job_id"] not in set(failed)]
        if overtaken:
            self._store.perform(statements.hint(), overtaken)
        return failed

    def committed(self, executor: Executor) -> list[Claim]:
        """The executor's committed jobs that are not completed: to be published, then completed."""
        waiting = self._store.perform(statements.select_committed(), executor_id=executor.executor_id)
        return [_claim(row, _publication(row)) for row in waiting]

    def discardable(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Those of the jobs that ended without publishing."""
        if not job_ids:
            return []
        wanted = [{"job_id": job_id} for job_id in sorted(job_ids)]
        return [row["job_id"] for row in self._store.perform(statements.select_discardable(), wanted)]


# --- rows into nouns -----------------------------------------------------------------------------------------------


def _by_id(items: Sequence[Any]) -> list[Any]:
    """In one order everywhere, so that two batches seldom wait for each other's rows in a circle."""
    return sorted(items, key=lambda item: item.job_id.int)  # UUIDs compare slowly


def _bounded(postponement: Postponement) -> Postponement:
    delay = min(max(postponement.delay_seconds, 0.0), _LONGEST_DELAY_SECONDS)
    return msgspec.structs.replace(postponement, delay_seconds=delay)


def _checked(item: Commit, kind: JobType) -> Commit:
    result = check_result(kind, item.result)
    check_kept("result", result)
    check_range("dataset_id", item.dataset_id, 1, LARGEST)
    return msgspec.structs.replace(item, result=result)


def _epochs(held: Mapping[UUID, UUID]) -> list[dict[str, UUID]]:
    return [{"job_id": job_id, "epoch": epoch} for job_id, epoch in sorted(held.items())]


def _start(
    on: Store | Transaction, types: Sequence[JobType], clusters: Served, starting: Mapping[str, Any]
) -> list[Claim]:
    statement = statements.start(frozenset(clusters))
    there = {f"{cluster.value}_incarnation": incarnation for cluster, incarnation in clusters.items()}
    started = on.perform(statement, [{"type": kind.value} for kind in types], **starting, **there)
    return [_claim(row) for row in started]


def _before(on: Store | Transaction, executor: Executor, epoch: UUID) -> list[Claim]:
    """What this start of the executor claimed under the epoch, and still runs."""
    held = on.perform(
        statements.select_epoch(),
        executor_id=executor.executor_id,
        by_incarnation=executor.incarnation,
        of_epoch=epoch,
    )
    return [_claim(row) for row in held]


def _starting(executor: Executor, incarnation: str, epoch: UUID | None) -> dict[str, Any]:
    return {
        "executor_id": executor.executor_id,
        "by_incarnation": executor.incarnation,
        "by_engine_incarnation": incarnation,
        "new_epoch": epoch or new_token(),
        "actor": _document(Process(executor.executor_id)),
    }


def _document(value: msgspec.Struct) -> Any:
    return msgspec.to_builtins(value)


def _closure(row: RowMapping) -> Closure | None:
    return Closure(row["closure"]) if row["closure"] else None


def _publication(row: RowMapping) -> Publication | None:
    number = row["publication_number"]
    return None if number is None else Publication(row["dataset_id"], number)


def _cluster(row: RowMapping) -> ExecutionCluster | None:
    return ExecutionCluster(row["execution_cluster"]) if row["execution_cluster"] else None


def _claim(row: RowMapping, publication: Publication | None = None) -> Claim:
    return Claim(
        job_id=row["job_id"],
        type=JobType(row["type"]),
        input=row["input"],
        tag=row["tag"],
        epoch=row["epoch"],
        permit_seconds=row["permit_seconds"],
        publication=publication,
        execution_cluster=_cluster(row),
    )


_ASSIGNMENT = msgspec.json.Decoder(Assignment)


def _unreadable(row: RowMapping) -> Postponement:
    """Given back, so that it comes to be seen as stuck like everything else that cannot go on."""
    detail = "what the store has of it cannot be read; the log says why"
    return Postponement(row["job_id"], row["lease"], Waiting.ADAPTER_ERROR, detail, _UNREADABLE_DELAY_SECONDS)


def _assignment(row: RowMapping) -> Assignment | None:
    """One claimed row; None, with a log line, for a row that cannot be read: it harms nobody else."""
    try:
        return _ASSIGNMENT.decode(row["assignment"])
    except msgspec.MsgspecError as error:
        log.error("cancellation_unreadable", job=str(row["job_id"]), error=str(error))
        return None


def _why_refused(known: RowMapping, executor: Executor, plane: UUID) -> str:
    if known["data_plane_id"] != plane:
        return f"data_folder: it belongs to {executor.executor_id} of another data plane, {known['data_plane_id']}"
    return (
        f"data_folder: {executor.executor_id} is known at incarnation {known['incarnation']}, this folder says "
        f"{executor.incarnation}; it was copied or restored, so start on an empty folder instead"
    )
