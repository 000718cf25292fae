"""Ending cancellations: with a receipt, or by completing what was committed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text

from control_plane import statements
from control_plane.intake import CancellationRequest
from control_plane.jobs import Closure, Outcome, Process, Receipt
from control_plane.lifecycle import JobState
from control_plane.store import Store
from control_plane.work import Assignment, Hold, Settled, Settlement
from tests.integration.given import ASKER, EXECUTOR, LEASE_SECONDS, Clock, Given, at_once, put_job, receipt_at


def settle(given: Given, *settlements: Settlement, worker: str = "w1") -> list[Settled]:
    return given.dispatch.settle(settlements, worker=worker)


def leased_together(given: Given, count: int) -> list[Assignment]:
    for _ in range(count):
        given.requested()
    assignments = given.claim(count)
    assert len(assignments) == count
    return assignments


def test_a_receipt_ends_the_job_and_stands_in_it_word_for_word(given: Given) -> None:
    held = given.leased()
    receipt = receipt_at(given.clock.now)
    ended_at = given.clock.advance(3)

    [settled] = settle(given, Settlement(held.work.job_id, held.lease, receipt))

    job = given.job(held.work.job_id)
    assert settled == Settled(held.work.job_id, landed=True, settled_at=ended_at)
    assert job.state is JobState.CANCELLED
    assert job.receipt == receipt
    assert job.ended_at == ended_at
    assert job.cancellation is not None
    assert job.cancellation.settled_at == ended_at


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_can_be_settled(given: Given, outcome: Outcome) -> None:
    held = given.leased()

    [settled] = settle(given, given.settlement(held, outcome=outcome))

    receipt = given.job(held.work.job_id).receipt
    assert settled.landed
    assert receipt is not None
    assert receipt.outcome is outcome


def test_a_settlement_leaves_one_audit_row_by_the_canceller(given: Given) -> None:
    held = given.leased()
    settled_at = given.clock.advance(3)

    settle(given, given.settlement(held), worker="rack-7")

    entry = given.intake.audit(held.work.job_id)[-1]
    assert (entry.move, entry.from_state, entry.to_state) == ("cancel", "pending_cancellation", "cancelled")
    assert (entry.actor, entry.reason, entry.moved_at) == (Process("canceller:rack-7"), None, settled_at)


def test_settling_ends_the_waiting(given: Given) -> None:
    held = given.leased()
    given.dispatch.postpone([given.postponement(held, delay_seconds=0)])
    [again] = given.claim()

    settle(given, given.settlement(again))

    cancellation = given.job(held.work.job_id).cancellation
    assert cancellation is not None
    assert (cancellation.waiting, cancellation.waiting_detail, cancellation.rounds) == (None, None, 2)


def test_the_first_stop_is_kept_whether_it_was_told_when_postponing_or_when_settling(given: Given) -> None:
    early, late = leased_together(given, 2)
    stopped_at = given.clock.now
    given.dispatch.postpone([given.postponement(early, 0, first_stop_at=stopped_at)])
    [again] = given.claim()
    later = given.clock.advance(5)

    settle(
        given,
        msgspec.structs.replace(given.settlement(again), first_stop_at=later),
        msgspec.structs.replace(given.settlement(late), first_stop_at=later),
    )

    told = [given.job(held.work.job_id).cancellation for held in (early, late)]
    assert [cancellation and cancellation.first_stop_at for cancellation in told] == [stopped_at, later]


def test_nothing_to_settle_is_answered_with_nothing(given: Given) -> None:
    assert settle(given) == []


def test_the_answers_stand_in_the_order_of_the_settlements(given: Given) -> None:
    held = leased_together(given, 6)
    settlements = [given.settlement(one) for one in held]

    forwards = settle(given, *settlements)
    backwards = settle(given, *reversed(settlements))

    assert [answer.job_id for answer in forwards] == [one.work.job_id for one in held]
    assert backwards == forwards[::-1]


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_worker_whose_lease_was_taken_over_settles_nothing(given: Given) -> None:
    stalled = given.leased()
    given.clock.advance(LEASE_SECONDS + 1)
    [quick] = given.claim(worker="quick")
    before = given.everything(stalled.work.job_id)

    [refused] = settle(given, given.settlement(stalled))

    assert refused == Settled(stalled.work.job_id, landed=False, settled_at=None)
    assert given.everything(stalled.work.job_id) == before
    assert settle(given, given.settlement(quick), worker="quick")[0].landed


def test_a_worker_whose_lease_expired_settles_as_long_as_nobody_took_it_over(given: Given) -> None:
    stalled = given.leased()
    given.clock.advance(LEASE_SECONDS * 100)

    [settled] = settle(given, given.settlement(stalled))

    assert settled.landed


def test_a_worker_that_gave_a_cancellation_back_settles_it_no_more(given: Given) -> None:
    postponed, released = leased_together(given, 2)
    given.dispatch.postpone([given.postponement(postponed)])
    given.dispatch.release([hold(released)])

    answers = settle(given, given.settlement(postponed), given.settlement(released))

    assert [answer.landed for answer in answers] == [False, False]


def hold(assignment: Assignment) -> Hold:
    return Hold(assignment.work.job_id, assignment.lease)


def test_an_invented_lease_settles_nothing(given: Given) -> None:
    held = given.leased()
    before = given.everything(held.work.job_id)

    [refused] = settle(given, Settlement(held.work.job_id, uuid4(), receipt_at(given.clock.now)))

    assert not refused.landed
    assert given.everything(held.work.job_id) == before


def test_an_unknown_job_is_answered_as_not_landed(given: Given) -> None:
    [refused] = settle(given, Settlement(uuid4(), uuid4(), receipt_at(given.clock.now)))

    assert not refused.landed


def test_repeating_a_settlement_whose_answer_was_lost_answers_the_same_and_writes_nothing(given: Given) -> None:
    held = given.leased()
    first = settle(given, given.settlement(held))
    before = given.everything(held.work.job_id)
    given.clock.advance(60)

    again = settle(given, given.settlement(held, outcome=Outcome.NEVER_STARTED))

    assert again == first
    assert given.everything(held.work.job_id) == before


def test_repeating_it_under_another_lease_is_answered_as_not_landed(given: Given) -> None:
    held = given.leased()
    settle(given, given.settlement(held))

    [refused] = settle(given, Settlement(held.work.job_id, uuid4(), receipt_at(given.clock.now)))

    assert refused == Settled(held.work.job_id, landed=False, settled_at=None)


def test_one_lease_settled_from_several_threads_lands_once(given: Given) -> None:
    held = given.leased()

    answers = at_once(*[partial(settle, given, given.settlement(held))] * 4)

    assert answers == [answers[0]] * 4
    assert answers[0][0].landed
    assert [move for move, _, _ in given.moves(held.work.job_id)].count("cancel") == 1


@pytest.fixture
def given_on_database_time(url: str) -> Iterator[Given]:
    store = Store(url)
    yield Given(store, Clock())
    store.close()


def test_on_the_databases_own_clock_a_settlement_has_one_moment_in_all_rows(given_on_database_time: Given) -> None:
    given = given_on_database_time
    settlements = [given.settlement(held) for held in leased_together(given, 150)]

    first = settle(given, *settlements)
    again = settle(given, *settlements)

    assert all(answer.landed for answer in first)
    assert again == first


# --- committed jobs -------------------------------------------------------------------------------------------------


def leased_committed(given: Given) -> Assignment:
    claim = given.committed()
    given.request(claim.job_id)
    [assignment] = given.claim()
    assert assignment.committed
    return assignment


def test_a_committed_job_is_completed_by_its_canceller(given: Given) -> None:
    held = leased_committed(given)
    settled_at = given.clock.advance(3)

    [settled] = settle(given, Settlement(held.work.job_id, held.lease, None))

    job = given.job(held.work.job_id)
    assert settled == Settled(held.work.job_id, landed=True, settled_at=settled_at)
    assert (job.state, job.receipt, job.ended_at) == (JobState.COMPLETED, None, settled_at)
    assert job.cancellation is not None
    assert job.cancellation.settled_at == settled_at
    assert given.moves(held.work.job_id)[-1] == ("complete", "pending_cancellation", "completed")


def test_a_committed_job_takes_no_receipt(given: Given) -> None:
    held = leased_committed(given)
    before = given.everything(held.work.job_id)

    [refused] = settle(given, given.settlement(held))

    assert not refused.landed
    assert given.everything(held.work.job_id) == before


def test_a_job_that_did_not_commit_is_not_completed_by_its_canceller(given: Given) -> None:
    held = given.leased()
    before = given.everything(held.work.job_id)

    [refused] = settle(given, Settlement(held.work.job_id, held.lease, None))

    assert not refused.landed
    assert given.everything(held.work.job_id) == before


def test_completing_what_its_executor_completed_meanwhile_has_landed(given: Given) -> None:
    held = leased_committed(given)
    completed_at = given.clock.advance(1)
    given.dispatch.complete([held.work.job_id], actor=Process(EXECUTOR.executor_id))
    before = given.everything(held.work.job_id)
    given.clock.advance(1)

    [settled] = settle(given, Settlement(held.work.job_id, held.lease, None))

    assert settled == Settled(held.work.job_id, landed=True, settled_at=completed_at)
    assert given.everything(held.work.job_id) == before


def test_a_receipt_for_what_was_completed_meanwhile_has_not_landed(given: Given) -> None:
    held = leased_committed(given)
    given.dispatch.complete([held.work.job_id], actor=Process(EXECUTOR.executor_id))

    [refused] = settle(given, given.settlement(held))

    assert given.job(held.work.job_id).state is JobState.COMPLETED
    assert not refused.landed


def test_a_cancellation_that_was_left_open_by_a_job_that_ended_is_settled_with_its_lease(given: Given) -> None:
    left = put_job(given, "completed", committed=True, cancellation=True)
    ended_at = given.job(left.job_id).ended_at
    given.clock.advance(60)

    [settled] = settle(given, Settlement(left.job_id, left.lease, None))

    cancellation = given.job(left.job_id).cancellation
    assert settled == Settled(left.job_id, landed=True, settled_at=ended_at)
    assert cancellation is not None
    assert cancellation.settled_at == ended_at


def test_under_another_lease_what_was_left_open_stays_so(given: Given) -> None:
    left = put_job(given, "completed", committed=True, cancellation=True)
    before = given.everything(left.job_id)

    [refused] = settle(given, Settlement(left.job_id, uuid4(), None))

    assert not refused.landed
    assert given.everything(left.job_id) == before


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_request_that_lands_while_its_job_is_being_completed_is_settled_by_the_next_round(
    given: Given, store: Store
) -> None:
    """On Postgres what follows from a move does not see rows that were written while the move waited."""
    claim = given.committed()
    complete = partial(given.dispatch.complete, [claim.job_id], actor=Process(EXECUTOR.executor_id))

    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as requesting:
            requesting.perform(statements.request_cancellation(), [CancellationRequest(claim.job_id, ASKER)])
            completing = pool.submit(complete)
            until_somebody_waits(store)
        assert completing.result(60) == [claim.job_id]
    for held in given.claim():
        settle(given, Settlement(held.work.job_id, held.lease, None))

    job = given.job(claim.job_id)
    assert job.state is JobState.COMPLETED
    assert job.cancellation is not None
    assert job.cancellation.settled_at == job.ended_at
    given.clock.advance(3600)
    assert given.claim() == []


def until_somebody_waits(store: Store) -> None:
    """Return once another connection to this database waits for a lock; tests of other processes use other ones."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = monotonic() + 60
    with store.engine.connect() as connection:
        while not connection.scalar(waiting):
            assert monotonic() < deadline, "nobody waits"


# --- a poisoned row harms only itself -------------------------------------------------------------------------------


def poisoned(held: Assignment, **fields: object) -> Settlement:
    """A settlement that the database refuses, or that cannot even be written down."""
    good = receipt_at(held.requested_at)
    return Settlement(held.work.job_id, held.lease, msgspec.structs.replace(good, **fields))


def assert_only_the_poisoned_is_refused(given: Given, held: list[Assignment], bad: Settlement) -> None:
    good = [given.settlement(one) for one in held if one.work.job_id != bad.job_id]
    before = given.everything(bad.job_id)

    answers = settle(given, *good[:2], bad, *good[2:])

    landed = {answer.job_id: answer.landed for answer in answers}
    assert landed == {one.work.job_id: one.work.job_id != bad.job_id for one in held}
    assert given.everything(bad.job_id) == before
    assert all(len(audit_of_cancel(given, one.job_id)) == 1 for one in good)


def audit_of_cancel(given: Given, job_id: UUID) -> list[Any]:
    return [move for move in given.moves(job_id) if move[0] == "cancel"]


def test_an_outcome_that_nobody_knows_harms_only_its_own_row(given: Given) -> None:
    held = leased_together(given, 5)

    assert_only_the_poisoned_is_refused(given, held, poisoned(held[3], outcome=cast("Outcome", "perhaps")))


def test_a_receipt_that_is_no_receipt_harms_only_its_own_row(given: Given) -> None:
    held = leased_together(given, 5)
    bad = Settlement(held[0].work.job_id, held[0].lease, cast("Receipt", {}))

    assert_only_the_poisoned_is_refused(given, held, bad)


def test_an_engines_word_that_cannot_be_encoded_is_kept_as_far_as_it_can_be(given: Given) -> None:
    held = leased_together(given, 5)
    odd = poisoned(held[1], engine_status="half a character: \ud800")
    others = [given.settlement(one) for one in held if one is not held[1]]

    answers = settle(given, odd, *others)

    receipt = given.job(odd.job_id).receipt
    assert receipt is not None
    assert receipt.engine_status == "half a character: ?"
    assert all(answer.landed for answer in answers)


def test_an_engines_word_with_a_zero_byte_does_not_keep_its_neighbours_from_landing(given: Given) -> None:
    held = leased_together(given, 5)
    bad = poisoned(held[2], engine_status="interrupted\x00")
    good = [given.settlement(one) for one in held if one is not held[2]]

    answers = settle(given, *good, bad)

    assert all(answer.landed for answer in answers if answer.job_id != bad.job_id)


def test_stale_rows_and_committed_jobs_in_one_batch_stand_each_for_itself(given: Given) -> None:
    committed = leased_committed(given)
    good, stale = leased_together(given, 2)

    answers = settle(
        given,
        Settlement(committed.work.job_id, committed.lease, None),
        Settlement(stale.work.job_id, uuid4(), receipt_at(given.clock.now)),
        given.settlement(good),
    )

    assert [answer.landed for answer in answers] == [True, False, True]


def test_a_poisoned_receipt_keeps_no_committed_job_of_its_batch_from_completing(given: Given) -> None:
    committed = leased_committed(given)
    held = given.leased()
    bad = poisoned(held, outcome=cast("Outcome", "perhaps"))

    answers = settle(given, bad, Settlement(committed.work.job_id, committed.lease, None))

    assert [answer.landed for answer in answers] == [False, True]


def test_a_job_that_was_claimed_is_not_cancelled_as_never_claimed(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    receipt = receipt_at(given.clock.now, Outcome.NEVER_STARTED, closure=Closure.NEVER_CLAIMED)

    [refused] = settle(given, Settlement(claim.job_id, held.lease, receipt))

    assert not refused.landed
    assert given.job(claim.job_id).state is JobState.PENDING_CANCELLATION
