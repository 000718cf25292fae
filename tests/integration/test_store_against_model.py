"""Random histories of the store, step by step against a model in plain Python.

The model knows nothing of SQL: a few dataclasses and the rules of the design. After each step the store's answer is the
model's, and every job's row, cancellation and audit is as the model says.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from control_plane import schema
from control_plane.jobs import ApiUser, Closure, Job, Outcome, Process
from control_plane.store import Store
from control_plane.work import Assignment, Claim, Commit, Executor, Failure, Hold, Publication, Settlement
from tests.databases import Databases
from tests.integration.given import (
    DATASET,
    LEASE_SECONDS,
    PERMIT_SECONDS,
    VIEW_RESULT,
    Clock,
    Given,
    cause_at,
    receipt_at,
)

SUSPECT_AFTER = 3


@dataclass
class Known:
    """What the model knows of one job."""

    job_id: UUID
    created_at: datetime
    state: str = "pending"
    moves: list[str] = field(default_factory=lambda: ["submit"])
    epoch: UUID | None = None
    incarnation: int | None = None
    attended_at: datetime | None = None
    closed_at: datetime | None = None
    number: int | None = None
    outcome: str | None = None
    asker: int | None = None
    lease: UUID | None = None
    claimed_at: datetime | None = None
    due_at: datetime | None = None
    rounds: int = 0
    unanswered: int = 0
    settled: bool = False

    @property
    def open(self) -> bool:
        return self.asker is not None and not self.settled

    def move(self, name: str, state: str) -> None:
        self.moves.append(name)
        self.state = state

    def closure(self, now: datetime) -> Closure | None:
        if self.attended_at is None:
            return Closure.NEVER_CLAIMED
        if self.closed_at is not None:
            return Closure.EXECUTOR_CLOSED
        permit_ended = self.attended_at + timedelta(seconds=PERMIT_SECONDS) <= now
        return Closure.PERMIT_EXPIRED if permit_ended else None


def oldest(jobs: Iterable[Known], count: int) -> list[datetime]:
    """Since when the *count* that have waited longest are due."""
    return sorted(job.due_at for job in jobs if job.due_at)[:count]


def oldest_of(suspects: list[Known]) -> list[Known]:
    return sorted(suspects, key=lambda job: str(job.due_at))[:1]


def machine_over(template: Path) -> type[RuleBasedStateMachine]:
    """The machine over a copy of the migrated database in memory."""

    class StoreAgainstModel(RuleBasedStateMachine):
        jobs: Bundle[UUID] = Bundle("jobs")
        claims: Bundle[Claim] = Bundle("claims")
        assignments: Bundle[Assignment] = Bundle("assignments")
        settlements: Bundle[Settlement] = Bundle("settlements")

        def __init__(self) -> None:
            super().__init__()
            self.clock = Clock()
            self.store = Store("sqlite://", clock=self.clock)
            with closing(sqlite3.connect(template)) as source, self.store.engine.connect() as connection:
                source.backup(connection.connection.driver_connection)  # type: ignore[arg-type]  # it is sqlite3's
            self.given = Given(self.store, self.clock)
            self.known: dict[UUID, Known] = {}
            self.numbers = 0
            self.incarnation = 1

        def teardown(self) -> None:
            self.store.close()

        @property
        def executor(self) -> Executor:
            return Executor("job-executor-of-the-model", self.incarnation)

        @initialize(target=claims)
        def there_is_work(self) -> MultipleResults[Claim]:
            for _ in range(4):
                self.submit()
            return multiple(*self.started(4))

        @rule(seconds=st.sampled_from([0.001, 1.0, LEASE_SECONDS, PERMIT_SECONDS]))
        def time_passes(self, seconds: float) -> None:
            self.clock.advance(seconds)

        @rule(target=jobs)
        def submit(self) -> UUID:
            job = self.given.pending()
            self.known[job.job_id] = Known(job.job_id, self.clock.now)
            self.clock.advance(0.001)  # so that age has one order
            return job.job_id

        @rule(target=claims, limit=st.integers(1, 3))
        def start(self, limit: int) -> MultipleResults[Claim]:
            return multiple(*self.started(limit))

        def started(self, limit: int) -> list[Claim]:
            claims = self.given.start(executor=self.executor, limit=limit)

            pending = [job for job in self.known.values() if job.state == "pending"]
            expected = sorted(pending, key=lambda job: job.created_at)[:limit]
            assert [claim.job_id for claim in claims] == [job.job_id for job in expected]
            for job, claim in zip(expected, claims, strict=True):
                job.move("start", "running")
                job.epoch, job.attended_at, job.incarnation = claim.epoch, self.clock.now, self.incarnation
            return claims

        @rule()
        def restart_the_executor(self) -> None:
            self.incarnation += 1

            confirmed = self.given.dispatch.confirm_lower_incarnations(self.executor)

            live = ("running", "pending_cancellation")
            expected = [
                job
                for job in self.known.values()
                if job.state in live
                and job.closed_at is None
                and (job.incarnation or self.incarnation) < self.incarnation
            ]
            assert set(confirmed) == {job.job_id for job in expected}
            for job in expected:
                self.close(job)

        def close(self, job: Known) -> None:
            job.closed_at = self.clock.now
            if job.open and job.lease is None:
                job.due_at = self.clock.now

        @rule(claim=claims)
        def attend(self, claim: Claim) -> None:
            answer = self.given.dispatch.attend({claim.job_id: claim.epoch})

            job = self.known[claim.job_id]
            assert bool(answer.renewed) == (job.state == "running" and job.closed_at is None) != bool(answer.closing)
            if answer.renewed:
                job.attended_at = self.clock.now

        @rule(claim=claims)
        def confirm_closed(self, claim: Claim) -> None:
            confirmed = self.given.dispatch.confirm_closed({claim.job_id: claim.epoch})

            job = self.known[claim.job_id]
            assert bool(confirmed) == (job.state in ("running", "pending_cancellation") and job.closed_at is None)
            if confirmed:
                self.close(job)

        @rule(claim=claims, own=st.booleans())
        def commit(self, claim: Claim, own: bool) -> None:
            epoch = claim.epoch if own else uuid4()
            item = Commit(claim.job_id, epoch, VIEW_RESULT, DATASET)

            answer = self.given.dispatch.commit([item], executor=self.executor)

            job = self.known[claim.job_id]
            if own and job.state == "running" and job.closed_at is None and job.number is None:
                assert answer[claim.job_id] is not None
                publication = answer[claim.job_id]
                assert publication is not None
                assert publication.number > self.numbers
                job.number = self.numbers = publication.number
            expected = {job.job_id: Publication(DATASET, job.number)} if own and job.number is not None else {}
            assert answer == expected

        @rule(job_id=jobs)
        def complete(self, job_id: UUID) -> None:
            completed = self.given.dispatch.complete([job_id], actor=Process("anybody"))

            job = self.known[job_id]
            may = job.state in ("running", "pending_cancellation") and job.number is not None
            assert completed == ([job_id] if may else [])
            if may:
                self.end(job, "complete", "completed")

        def end(self, job: Known, move: str, state: str) -> None:
            job.move(move, state)
            if job.asker is not None:
                job.settled = True

        @rule(claim=claims)
        def fail(self, claim: Claim) -> None:
            failure = Failure(claim.job_id, claim.epoch, cause_at(self.clock.now))

            failed = self.given.dispatch.fail([failure], executor=self.executor)

            job = self.known[claim.job_id]
            may = job.state == "running" and job.number is None
            assert failed == ([job.job_id] if may else [])
            if may:
                job.move("fail", "failed")
            elif job.state == "pending_cancellation" and job.number is None and job.lease is None:
                job.due_at = self.clock.now

        @rule(job_id=jobs, asker=st.integers(1, 3))
        def request(self, job_id: UUID, asker: int) -> None:
            self.asked(job_id, asker)

        @rule(claim=claims, asker=st.integers(1, 3))
        def request_what_was_started(self, claim: Claim, asker: int) -> None:
            self.asked(claim.job_id, asker)

        def asked(self, job_id: UUID, asker: int) -> None:
            answered = self.given.request(job_id, ApiUser(1, asker))

            job = self.known[job_id]
            if job.state in ("pending", "running"):
                job.move("request_cancellation", "pending_cancellation")
                job.asker, job.due_at = asker, self.clock.now
            assert answered.state == job.state
            if job.attended_at is None and not job.settled:
                self.end(job, "cancel", "cancelled")
                job.outcome = "never_started"

        @rule(target=assignments, room=st.integers(1, 3))
        def claim(self, room: int) -> MultipleResults[Assignment]:
            return multiple(*self.claimed(room))

        def claimed(self, room: int) -> list[Assignment]:
            claimed = self.given.claim(room)

            due = [job for job in self.known.values() if job.open and job.due_at and job.due_at <= self.clock.now]
            suspects = [job for job in due if job.unanswered >= SUSPECT_AFTER]
            clear = [job for job in due if job.unanswered < SUSPECT_AFTER]
            taken = [self.known[one.work.job_id] for one in claimed]
            assert len(taken) == min(room, len(clear) + bool(suspects))
            assert len([job for job in taken if job in suspects]) <= 1
            assert oldest(taken, len(taken)) == oldest([*clear, *oldest_of(suspects)], len(taken))
            for one in claimed:
                self.take(self.known[one.work.job_id], one)
            return claimed

        @rule(target=assignments, room=st.integers(1, 3))
        def workers_claim_and_die(self, room: int) -> MultipleResults[Assignment]:
            leases: list[Assignment] = []
            for _ in range(SUSPECT_AFTER):
                leases.extend(self.claimed(room))
                self.clock.advance(LEASE_SECONDS)
            return multiple(*leases)

        @rule(target=assignments, claim=claims, asker=st.integers(1, 3))
        def request_and_claim(self, claim: Claim, asker: int) -> MultipleResults[Assignment]:
            self.asked(claim.job_id, asker)
            return multiple(*self.claimed(3))

        def take(self, job: Known, one: Assignment) -> None:
            assert one.lease != job.lease
            assert one.alone == (job.unanswered >= SUSPECT_AFTER)
            job.rounds += 1
            job.unanswered += 1
            job.lease, job.claimed_at, job.due_at = one.lease, self.clock.now, self.clock.after(LEASE_SECONDS)
            assert (one.rounds, one.committed) == (job.rounds, job.number is not None)
            assert one.closure is job.closure(self.clock.now)
            assert one.requested_by == ApiUser(1, job.asker or 0)

        def holds(self, one: Assignment) -> bool:
            job = self.known[one.work.job_id]
            return job.open and job.lease == one.lease

        @rule(one=assignments)
        def extend(self, one: Assignment) -> None:
            kept = self.given.dispatch.extend([Hold(one.work.job_id, one.lease)], lease_seconds=LEASE_SECONDS)

            job = self.known[one.work.job_id]
            assert bool(kept) == self.holds(one)
            if kept:
                assert kept[0].closure is job.closure(self.clock.now)
                job.due_at = self.clock.after(LEASE_SECONDS)

        @rule(one=assignments, delay_seconds=st.sampled_from([0.0, 5.0, 60.0]))
        def postpone(self, one: Assignment, delay_seconds: float) -> None:
            held = self.holds(one)

            postponed = self.given.dispatch.postpone([self.given.postponement(one, delay_seconds)])

            job = self.known[one.work.job_id]
            assert bool(postponed) == held
            if held:
                assert job.claimed_at is not None
                news = job.closed_at is not None and job.closed_at >= job.claimed_at
                job.due_at = self.clock.now if news else self.clock.after(delay_seconds)
                job.lease, job.unanswered = None, 0

        @rule(one=consumes(assignments))
        def release(self, one: Assignment) -> None:
            held = self.holds(one)

            released = self.given.dispatch.release([Hold(one.work.job_id, one.lease)])

            job = self.known[one.work.job_id]
            assert bool(released) == held
            if held:
                job.lease, job.unanswered, job.due_at = None, 0, self.clock.now

        @rule(target=settlements, one=assignments, outcome=st.sampled_from([*Outcome, None]))
        def settle(self, one: Assignment, outcome: Outcome | None) -> Settlement:
            receipt = receipt_at(self.clock.now, outcome) if outcome else None
            settlement = Settlement(one.work.job_id, one.lease, receipt)
            job = self.known[one.work.job_id]
            may_cancel = outcome is not None and self.holds(one) and job.number is None
            may_complete = outcome is None and job.state == "pending_cancellation" and job.number is not None

            [settled] = self.given.dispatch.settle([settlement], worker="w1")

            if may_cancel and outcome is not None:
                self.end(job, "cancel", "cancelled")
                job.outcome = outcome.value
            if may_complete:
                self.end(job, "complete", "completed")
            assert settled.landed or not (may_cancel or may_complete)
            return settlement

        @rule(settlement=settlements)
        def settle_again(self, settlement: Settlement) -> None:
            job = self.known[settlement.job_id]
            if job.open:
                return
            first, second = (self.given.dispatch.settle([settlement], worker="w2")[0] for _ in range(2))

            assert first == second
            assert not first.landed or job.lease == settlement.lease

        @invariant()
        def everything_is_as_the_model_says(self) -> None:
            records = self.given.intake.jobs(per_page=500).records
            for job in records:
                self.compare(job, self.known[job.job_id])
            assert len(records) == len(self.known)
            assert self.audited() == {job.job_id: job.moves for job in self.known.values()}

        def audited(self) -> dict[UUID, list[str]]:
            moves: dict[UUID, list[str]] = {}
            with self.store.engine.connect() as connection:
                for entry in connection.execute(select(schema.audit).order_by(schema.audit.c.audit_id)).mappings():
                    moves.setdefault(entry["job_id"], []).append(entry["move"])
            return moves

        def compare(self, job: Job, known: Known) -> None:
            assert job.state == known.state
            assert (job.committed_at is not None) == (known.number is not None)
            assert (job.ended_at is not None) == (known.state in ("cancelled", "completed", "failed"))
            assert (job.receipt and job.receipt.outcome) == known.outcome
            assert (job.cancellation is not None) == (known.asker is not None)
            if job.cancellation is not None:
                assert job.cancellation.requested_by == ApiUser(1, known.asker or 0)
                assert job.cancellation.rounds == known.rounds
                assert (job.cancellation.settled_at is not None) == known.settled
                assert known.settled or job.cancellation.next_round_at == known.due_at

    return StoreAgainstModel


def test_no_history_takes_the_store_where_the_model_does_not_go(databases: Databases) -> None:
    machine = machine_over(databases.sqlite_template())

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
