"""Leasing cancellations: who gets which, for how long, and what a canceller is told of them."""

from functools import partial
from uuid import UUID, uuid4

import pytest
from msgspec import structs
from sqlalchemy import Text, literal, update
from structlog.testing import capture_logs

from control_plane import schema
from control_plane.jobs import Closure, Handle, JobType, Rung, Waiting, work_tag
from control_plane.work import Assignment, Executor, Hold, Publication
from tests.integration.given import (
    ASKER,
    DATASET,
    EXECUTOR,
    LEASE_SECONDS,
    PERMIT_SECONDS,
    STUCK_AFTER_SECONDS,
    WHY,
    Given,
    at_once,
    past_triggers,
)


def ids(assignments: list[Assignment]) -> list[UUID]:
    return [assignment.work.job_id for assignment in assignments]


def hold(assignment: Assignment) -> Hold:
    return Hold(assignment.work.job_id, assignment.lease)


def requested_one_after_another(given: Given, count: int) -> list[UUID]:
    """Cancellations, oldest request first."""
    jobs = []
    for _ in range(count):
        jobs.append(given.requested().job_id)
        given.clock.advance(1)
    return jobs


# --- what a canceller is told ---------------------------------------------------------------------------------------


def test_an_assignment_tells_what_to_cancel_and_who_asked(given: Given) -> None:
    installation = given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id)
    claim = given.running()
    requested_at = given.clock.advance(1)
    given.request(claim.job_id)
    claimed_at = given.clock.advance(1)

    [assignment] = given.claim()

    assert assignment.work.job_id == claim.job_id
    assert assignment.work.tag == work_tag(installation, given.plane.data_plane_id, claim.job_id) == claim.tag
    assert assignment.work.handle is None
    assert assignment.work.executor == structs.replace(EXECUTOR, registered=EXECUTOR.incarnation)
    assert assignment.work.incarnation == "engine-1"
    assert assignment.work.publication is None
    assert assignment.data_plane_id == given.plane.data_plane_id
    assert assignment.type is JobType.MATERIALIZE_VIEW
    assert (assignment.requested_by, assignment.reason, assignment.requested_at) == (ASKER, WHY, requested_at)
    assert (assignment.rounds, assignment.first_claimed_at) == (1, claimed_at)
    assert (assignment.committed, assignment.alone, assignment.closure) == (False, False, None)
    assert (assignment.waiting, assignment.rung, assignment.rung_since, assignment.first_stop_at) == (None,) * 4
    assert (assignment.listing_lag_seconds, assignment.stuck_after_seconds) == (0.0, STUCK_AFTER_SECONDS)


def test_it_tells_the_handle_once_that_is_known(given: Given) -> None:
    claim = given.running()
    handle = Handle("duckdb", "1", "run-9")
    given.dispatch.record_handles({claim.job_id: handle}, {claim.job_id: claim.epoch})
    given.request(claim.job_id)

    [assignment] = given.claim()

    assert assignment.work.handle == handle


def test_it_tells_the_executors_address_and_start_of_today_and_the_incarnation_of_the_claim(given: Given) -> None:
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id)
    given.requested()
    moved = Executor(EXECUTOR.executor_id, 2, "unix:/run/two.sock")
    given.dispatch.register(moved, data_plane_id=given.plane.data_plane_id)

    [assignment] = given.claim()

    assert assignment.work.executor == Executor(EXECUTOR.executor_id, 1, "unix:/run/two.sock", registered=2)


def test_it_tells_of_the_commit_and_the_publication(given: Given) -> None:
    claim = given.committed()
    given.request(claim.job_id)

    [assignment] = given.claim()

    assert assignment.committed
    assert assignment.work.publication == Publication(DATASET, 1)


def test_it_tells_what_earlier_rounds_have_learned(given: Given) -> None:
    first = given.leased()
    learned_at = given.clock.advance(2)
    given.dispatch.postpone(
        [given.postponement(first, 0, rung=Rung.INSIST, rung_since=learned_at, first_stop_at=learned_at)]
    )
    given.clock.advance(5)

    [second] = given.claim()

    assert (second.rounds, second.waiting) == (2, Waiting.STILL_RUNNING)
    assert (second.rung, second.rung_since, second.first_stop_at) == (Rung.INSIST, learned_at, learned_at)
    assert second.first_claimed_at == first.first_claimed_at


# --- which, and how many --------------------------------------------------------------------------------------------


def test_the_oldest_are_claimed_first(given: Given) -> None:
    jobs = requested_one_after_another(given, 5)

    assert ids(given.claim(2)) == jobs[:2]
    assert ids(given.claim(2)) == jobs[2:4]
    assert ids(given.claim(2)) == jobs[4:]
    assert given.claim(2) == []


def test_those_that_are_due_longest_are_claimed_first_in_whatever_order_they_were_given_back(
    given_without_indexes: Given,
) -> None:
    given = given_without_indexes
    requested_one_after_another(given, 4)
    held = given.claim()
    for delay_seconds, one in zip((40.0, 30.0, 20.0, 10.0), held, strict=True):
        given.dispatch.postpone([given.postponement(one, delay_seconds)])
    given.clock.advance(60)

    batches = [ids(given.claim(1)) for _ in held]

    assert batches == [[one.work.job_id] for one in reversed(held)]


def test_each_plane_has_room_of_its_own(given: Given) -> None:
    near, far, unasked = given.new_plane(), given.new_plane(), given.new_plane()
    for plane in (near, far, unasked):
        for _ in range(4):
            given.requested(plane=plane)

    assignments = given.dispatch.claim(
        {near.data_plane_id: 3, far.data_plane_id: 1, given.plane.data_plane_id: 5},
        worker="w1",
        lease_seconds=LEASE_SECONDS,
    )

    planes = [assignment.data_plane_id for assignment in assignments]
    assert len(planes) == 4
    assert (planes.count(near.data_plane_id), planes.count(far.data_plane_id)) == (3, 1)


@pytest.mark.parametrize("room", [0, -1])
def test_no_room_claims_nothing(given: Given, room: int) -> None:
    given.requested()
    other = given.new_plane()
    given.requested(plane=other)

    assignments = given.dispatch.claim(
        {given.plane.data_plane_id: room, other.data_plane_id: 5}, worker="w1", lease_seconds=LEASE_SECONDS
    )

    assert [assignment.data_plane_id for assignment in assignments] == [other.data_plane_id]
    assert given.claim(room) == []


def test_jobs_that_nobody_asked_about_are_not_claimed(given: Given) -> None:
    given.running()
    given.pending()

    assert given.claim() == []


def test_settled_cancellations_are_not_claimed_again(given: Given) -> None:
    given.cancelled()
    given.clock.advance(LEASE_SECONDS * 100)

    assert given.claim() == []


def test_two_claimers_at_once_never_get_the_same_row(given: Given) -> None:
    jobs = [given.requested().job_id for _ in range(40)]

    batches = at_once(*(partial(given.claim, 8, worker=f"w{number}") for number in range(6)))

    claimed = [job_id for batch in batches for job_id in ids(batch)]
    assert len(claimed) == len(set(claimed))
    assert all(len(batch) <= 8 for batch in batches)
    rest = ids(given.claim(100))
    assert sorted([*claimed, *rest]) == sorted(jobs)


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_leased_cancellation_is_nobody_elses_until_the_lease_ends(given: Given) -> None:
    first = given.leased()

    given.clock.advance(LEASE_SECONDS - 0.001)
    assert given.claim(worker="w2") == []

    given.clock.advance(0.001)
    [second] = given.claim(worker="w2")
    assert second.work.job_id == first.work.job_id
    assert second.lease != first.lease
    assert second.rounds == 2
    assert second.first_claimed_at == first.first_claimed_at


def test_every_round_has_a_lease_of_its_own(given: Given) -> None:
    leases = set()
    given.requested()
    for _ in range(5):
        [assignment] = given.claim()
        leases.add(assignment.lease)
        given.dispatch.release([hold(assignment)])

    assert len(leases) == 5


def test_extending_keeps_a_lease_and_begins_no_round(given: Given) -> None:
    held = given.leased()
    given.clock.advance(LEASE_SECONDS - 1)

    kept = given.dispatch.extend([hold(held)], lease_seconds=LEASE_SECONDS)

    given.clock.advance(LEASE_SECONDS - 0.001)
    assert kept == [hold(held)]
    assert given.claim(worker="w2") == []
    given.clock.advance(0.001)
    assert given.claim(worker="w2")[0].rounds == 2


def test_an_expired_lease_that_nobody_took_over_can_be_extended(given: Given) -> None:
    held = given.leased()
    given.clock.advance(LEASE_SECONDS + 1)

    assert given.dispatch.extend([hold(held)], lease_seconds=LEASE_SECONDS) == [hold(held)]
    assert given.claim(worker="w2") == []


def test_what_is_held_no_more_is_left_out_when_extending(given: Given) -> None:
    for _ in range(4):
        given.requested()
    taken_over, postponed, settled, held = given.claim()
    given.dispatch.postpone([given.postponement(postponed)])
    given.dispatch.settle([given.settlement(settled)], worker="w1")
    given.dispatch.extend([hold(held)], lease_seconds=LEASE_SECONDS * 3)
    given.clock.advance(LEASE_SECONDS + 1)
    given.claim(worker="w2")
    before = given.everything(taken_over.work.job_id)

    kept = given.dispatch.extend(
        [hold(one) for one in (taken_over, postponed, settled, held)], lease_seconds=LEASE_SECONDS
    )

    assert kept == [hold(held)]
    assert given.everything(taken_over.work.job_id) == before
    assert given.dispatch.extend([], lease_seconds=LEASE_SECONDS) == []


def test_extending_tells_that_the_job_was_closed_meanwhile(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    assert held.closure is None
    given.dispatch.confirm_closed({claim.job_id: claim.epoch})

    [kept] = given.dispatch.extend([hold(held)], lease_seconds=LEASE_SECONDS)

    assert kept.closure is Closure.EXECUTOR_CLOSED


def test_releasing_makes_due_at_once_and_ends_the_hold(given: Given) -> None:
    held = given.leased()

    released = given.dispatch.release([hold(held)])

    assert released == [held.work.job_id]
    assert given.dispatch.release([hold(held)]) == []
    assert given.dispatch.extend([hold(held)], lease_seconds=LEASE_SECONDS) == []
    assert ids(given.claim(worker="w2")) == [held.work.job_id]


def test_releasing_what_another_holds_changes_nothing(given: Given) -> None:
    held = given.leased()
    before = given.everything(held.work.job_id)

    released = given.dispatch.release([Hold(held.work.job_id, uuid4())])

    assert released == []
    assert given.dispatch.release([]) == []
    assert given.everything(held.work.job_id) == before


def test_releasing_forgets_no_reason_to_wait(given: Given) -> None:
    first = given.leased()
    given.dispatch.postpone([given.postponement(first, 0)])
    [second] = given.claim()

    given.dispatch.release([hold(second)])

    assert given.claim()[0].waiting is Waiting.STILL_RUNNING


# --- a claim whose answer was lost ----------------------------------------------------------------------------------


def test_a_claim_that_is_repeated_under_its_lease_answers_the_same_and_begins_no_round(given: Given) -> None:
    jobs, lease = requested_one_after_another(given, 3), uuid4()
    first = given.claim(2, lease=lease)
    before = [given.rows_of("cancellations", job_id) for job_id in jobs]

    again = given.claim(2, lease=lease)

    assert ids(first) == jobs[:2]
    assert {assignment.lease for assignment in first} == {lease}
    assert again == first
    assert [given.rows_of("cancellations", job_id) for job_id in jobs] == before


def test_a_lost_answer_costs_no_lease(given: Given) -> None:
    """Without the lease the second claim finds nothing until the first one's has ended."""
    job_id, lease = given.requested().job_id, uuid4()
    given.claim(lease=lease)

    assert given.claim() == []
    assert ids(given.claim(lease=lease)) == [job_id]


def test_a_repeated_claim_holds_for_as_long_as_a_new_one(given: Given) -> None:
    given.requested()
    lease = uuid4()
    given.claim(lease=lease)
    given.clock.advance(LEASE_SECONDS - 1)

    given.claim(lease=lease)

    given.clock.advance(LEASE_SECONDS - 0.001)
    assert given.claim(worker="w2") == []


def test_a_repeated_claim_leaves_out_what_is_held_no_more(given: Given) -> None:
    lease = uuid4()
    for _ in range(4):
        given.requested()
    settled, postponed, released, held = given.claim(lease=lease)
    given.dispatch.settle([given.settlement(settled)], worker="w1")
    given.dispatch.postpone([given.postponement(postponed, 60)])
    given.dispatch.release([hold(released)])
    given.claim(worker="w2")

    assert ids(given.claim(lease=lease)) == [held.work.job_id]


def test_a_lease_that_another_took_over_is_answered_no_more(given: Given) -> None:
    given.requested()
    lease = uuid4()
    given.claim(lease=lease)
    given.clock.advance(LEASE_SECONDS)
    given.claim(worker="w2")

    assert given.claim(lease=lease) == []


def test_a_lease_under_which_nothing_is_held_claims_anew(given: Given) -> None:
    lease = uuid4()
    assert given.claim(lease=lease) == []
    job_id = given.requested().job_id

    assert ids(given.claim(lease=lease)) == [job_id]


def test_a_lease_answers_nothing_of_another_plane(given: Given) -> None:
    other, lease = given.new_plane(), uuid4()
    given.requested(plane=other)
    given.claim(plane=other, lease=lease)

    assert given.claim(lease=lease) == []


def test_one_lease_that_is_asked_many_times_at_once_is_one_round_of_the_same_rows(given: Given) -> None:
    jobs, lease = requested_one_after_another(given, 40), uuid4()

    answers = at_once(*(partial(given.claim, 5, lease=lease) for _ in range(6)))

    assert [ids(answer) for answer in answers] == [jobs[:5]] * 6
    rounds = [given.rows_of("cancellations", job_id)[0] for job_id in jobs]
    assert [(row["rounds"], row["unanswered"]) for row in rounds] == [(1, 1)] * 5 + [(0, 0)] * 35


# --- suspects -------------------------------------------------------------------------------------------------------


def let_leases_end(given: Given, times: int, room: int = 100) -> None:
    """Workers claim and die."""
    for _ in range(times):
        assert given.claim(room)
        given.clock.advance(LEASE_SECONDS)


def test_after_three_claims_without_an_outcome_a_cancellation_is_claimed_alone(given: Given) -> None:
    given.requested()
    flags = []

    for _ in range(5):
        [assignment] = given.claim()
        flags.append(assignment.alone)
        given.clock.advance(LEASE_SECONDS)

    assert flags == [False, False, False, True, True]


def test_of_several_suspects_one_is_claimed_at_a_time_beside_the_others(given: Given) -> None:
    suspects = {given.requested().job_id for _ in range(3)}
    let_leases_end(given, 3)
    fresh = {given.requested().job_id for _ in range(2)}

    batches = [given.claim() for _ in range(4)]

    alone = [[one.work.job_id for one in batch if one.alone] for batch in batches]
    assert [len(found) for found in alone] == [1, 1, 1, 0]
    assert {job_id for found in alone for job_id in found} == suspects
    assert {one.work.job_id for one in batches[0] if not one.alone} == fresh


def test_a_suspect_takes_no_room_that_was_not_given(given: Given) -> None:
    given.requested()
    let_leases_end(given, 3)
    given.requested()

    assert len(given.claim(1)) == 1


def test_each_plane_may_have_a_suspect(given: Given) -> None:
    other = given.new_plane()
    given.requested()
    given.requested(plane=other)
    for _ in range(3):
        given.dispatch.claim(
            {given.plane.data_plane_id: 5, other.data_plane_id: 5}, worker="w1", lease_seconds=LEASE_SECONDS
        )
        given.clock.advance(LEASE_SECONDS)

    assignments = given.dispatch.claim(
        {given.plane.data_plane_id: 5, other.data_plane_id: 5}, worker="w1", lease_seconds=LEASE_SECONDS
    )

    assert [assignment.alone for assignment in assignments] == [True, True]


@pytest.mark.parametrize("outcome", ["postponed", "released"])
def test_an_outcome_ends_the_suspicion(given: Given, outcome: str) -> None:
    given.requested()
    let_leases_end(given, 3)
    [suspect] = given.claim()
    assert suspect.alone
    if outcome == "postponed":
        given.dispatch.postpone([given.postponement(suspect, 0)])
    else:
        given.dispatch.release([hold(suspect)])

    [again] = given.claim()

    assert not again.alone


# --- closure --------------------------------------------------------------------------------------------------------


def test_a_job_whose_permit_ran_out_is_closed_by_the_clock(given: Given) -> None:
    given.requested()
    given.clock.advance(PERMIT_SECONDS - 0.001)
    [before] = given.claim(lease_seconds=0.001)
    given.clock.advance(0.001)

    [after] = given.claim()

    assert (before.closure, after.closure) == (None, Closure.PERMIT_EXPIRED)


def test_the_permit_counts_from_the_last_time_that_it_was_renewed(given: Given) -> None:
    claim = given.running()
    given.clock.advance(PERMIT_SECONDS - 1)
    given.dispatch.attend({claim.job_id: claim.epoch})
    given.clock.advance(PERMIT_SECONDS - 1)
    given.request(claim.job_id)

    [early] = given.claim(lease_seconds=1)
    given.clock.advance(1)
    [late] = given.claim()

    assert (early.closure, late.closure) == (None, Closure.PERMIT_EXPIRED)


def test_each_plane_has_a_permit_of_its_own(given: Given) -> None:
    patient = given.new_plane(permit_seconds=1000.0)
    given.requested(plane=patient)
    given.clock.advance(PERMIT_SECONDS * 2)

    [assignment] = given.claim(plane=patient)

    assert assignment.closure is None


def test_what_the_executor_confirmed_is_said_rather_than_that_the_permit_ran_out(given: Given) -> None:
    claim = given.requested()
    given.dispatch.confirm_closed({claim.job_id: claim.epoch})
    given.clock.advance(PERMIT_SECONDS * 2)

    [assignment] = given.claim()

    assert assignment.closure is Closure.EXECUTOR_CLOSED


# --- a row that cannot be read --------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_read_harms_only_itself(given: Given) -> None:
    jobs = requested_one_after_another(given, 3)
    with past_triggers(given.store) as connection:
        connection.execute(
            update(schema.cancellations)
            .where(schema.cancellations.c.job_id == jobs[1])
            .values(requested_by={"type": "nobody"})
        )

    with capture_logs() as logs:
        assignments = given.claim()

    assert ids(assignments) == [jobs[0], jobs[2]]
    assert [(entry["event"], entry["job"]) for entry in logs] == [("cancellation_unreadable", str(jobs[1]))]


def test_a_row_that_cannot_be_read_is_called_stuck_like_any_other(given: Given) -> None:
    job_id = given.requested().job_id
    with past_triggers(given.store) as connection:
        unreadable = update(schema.cancellations).values(requested_by={"type": "nobody"})
        connection.execute(unreadable)
    given.claim()
    given.clock.advance(STUCK_AFTER_SECONDS)
    given.claim()

    [row] = given.rows_of("cancellations", job_id)

    assert (row["waiting"], row["lease"], row["stuck_at"]) == ("adapter_error", None, given.clock.now)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("column", "written"),
    [("requested_by", "{"), ("requested_at", "yesterday"), ("rung_since", "x"), ("first_claimed_at", "x")],
)
def test_what_was_written_by_hand_into_a_cancellation_harms_no_other(given: Given, column: str, written: str) -> None:
    jobs = requested_one_after_another(given, 3)
    with past_triggers(given.store) as connection:
        values = {column: literal(written, Text)}
        connection.execute(update(schema.cancellations).where(schema.cancellations.c.job_id == jobs[1]).values(values))

    assert {jobs[0], jobs[2]} <= set(ids(given.claim()))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("document", ["{", "", "\x00", "no JSON"], ids=["cut short", "empty", "NUL", "text"])
def test_a_document_that_is_no_json_harms_only_its_own_row(given: Given, document: str) -> None:
    """SQLite keeps documents as text, whatever it is; Postgres refuses such a one itself."""
    jobs = requested_one_after_another(given, 3)
    with past_triggers(given.store) as connection:
        malformed = literal(document, Text)
        connection.execute(update(schema.jobs).where(schema.jobs.c.job_id == jobs[1]).values(handle=malformed))

    with capture_logs() as logs:
        assignments = given.claim()

    assert ids(assignments) == [jobs[0], jobs[2]]
    assert [(entry["event"], entry["job"]) for entry in logs] == [("cancellation_unreadable", str(jobs[1]))]


def test_a_worker_may_serve_more_planes_than_one_statement_takes(given: Given) -> None:
    job_id = given.requested().job_id
    room = {uuid4(): 1 for _ in range(700)} | {given.plane.data_plane_id: 1}

    claimed = given.dispatch.claim(room, worker="w", lease_seconds=LEASE_SECONDS)

    assert ids(claimed) == [job_id]
