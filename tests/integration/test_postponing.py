"""Giving cancellations back for now: when they come back, what they say meanwhile, and when they are stuck."""

from typing import cast
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from control_plane.jobs import Closure, Rung, Waiting
from control_plane.work import Assignment, Executor, Failure, Hold, Postponed, Postponement
from tests.integration.given import EXECUTOR, LEASE_SECONDS, STUCK_AFTER_SECONDS, Given, cause_at


def postpone(given: Given, *postponements: Postponement) -> list[Postponed]:
    return given.dispatch.postpone(postponements)


def test_a_postponed_cancellation_comes_back_after_its_delay_and_not_before(given: Given) -> None:
    held = given.leased()
    postpone(given, given.postponement(held, delay_seconds=5.0))

    given.clock.advance(4.999)
    assert given.claim() == []

    given.clock.advance(0.001)
    [again] = given.claim()
    assert again.work.job_id == held.work.job_id


def test_delays_are_each_rows_own(given: Given) -> None:
    given.requested()
    given.requested()
    first, second = given.claim()
    postpone(given, given.postponement(first, 10.0), given.postponement(second, 2.5))

    given.clock.advance(2.5)
    assert [one.work.job_id for one in given.claim()] == [second.work.job_id]
    given.clock.advance(7.5)
    assert [one.work.job_id for one in given.claim()] == [first.work.job_id]


@pytest.mark.parametrize("waiting", list(Waiting))
def test_a_postponed_cancellation_says_why_in_its_own_words(given: Given, waiting: Waiting) -> None:
    held = given.leased()

    answered = postpone(given, given.postponement(held, waiting=waiting, detail="one sentence: ünïcode, too"))

    cancellation = given.job(held.work.job_id).cancellation
    assert answered == [Postponed(held.work.job_id, became_stuck=False)]
    assert cancellation is not None
    assert (cancellation.waiting, cancellation.waiting_detail) == (waiting, "one sentence: ünïcode, too")
    assert cancellation.next_round_at == given.clock.after(5.0)
    assert cancellation.settled_at is None


def test_postponing_moves_no_job_and_writes_no_audit(given: Given) -> None:
    held = given.leased()
    before = given.everything(held.work.job_id)
    given.clock.advance(1)

    postpone(given, given.postponement(held))

    after = given.everything(held.work.job_id)
    assert (after["jobs"], after["audit"]) == (before["jobs"], before["audit"])


def test_the_latest_reason_is_the_one_that_is_told(given: Given) -> None:
    held = given.leased()
    postpone(given, given.postponement(held, 0, waiting=Waiting.PLANE_SILENT, detail="no answer"))
    [again] = given.claim()

    postpone(given, given.postponement(again, 0, waiting=Waiting.NOT_CLOSED, detail="may still start"))

    cancellation = given.job(held.work.job_id).cancellation
    assert cancellation is not None
    assert (cancellation.waiting, cancellation.waiting_detail) == (Waiting.NOT_CLOSED, "may still start")


def test_a_round_without_a_rung_does_not_forget_the_rung_that_was_reached(given: Given) -> None:
    held = given.leased()
    since = given.clock.now
    postpone(given, given.postponement(held, 0, rung=Rung.FORCE, rung_since=since, first_stop_at=since))
    given.clock.advance(3)
    [again] = given.claim()

    postpone(given, given.postponement(again, 0, waiting=Waiting.PLANE_SILENT))

    cancellation = given.job(held.work.job_id).cancellation
    assert cancellation is not None
    assert (cancellation.rung, cancellation.first_stop_at) == (Rung.FORCE, since)
    assert given.claim()[0].rung_since == since


def test_a_later_stop_does_not_replace_the_first(given: Given) -> None:
    held = given.leased()
    first = given.clock.now
    postpone(given, given.postponement(held, 0, first_stop_at=first))
    [again] = given.claim()

    postpone(given, given.postponement(again, 0, first_stop_at=given.clock.advance(9)))

    cancellation = given.job(held.work.job_id).cancellation
    assert cancellation is not None
    assert cancellation.first_stop_at == first


# --- leases ---------------------------------------------------------------------------------------------------------


def test_what_another_worker_took_over_is_not_postponed(given: Given) -> None:
    stalled = given.leased()
    given.clock.advance(LEASE_SECONDS)
    given.claim(worker="w2")
    before = given.everything(stalled.work.job_id)

    assert postpone(given, given.postponement(stalled)) == []
    assert given.everything(stalled.work.job_id) == before


def test_postponing_twice_is_answered_once(given: Given) -> None:
    held = given.leased()
    given.clock.advance(1)

    assert len(postpone(given, given.postponement(held))) == 1
    assert postpone(given, given.postponement(held)) == []


def test_what_was_settled_or_never_held_is_left_out(given: Given) -> None:
    given.requested()
    given.requested()
    settled, held = given.claim()
    given.dispatch.settle([given.settlement(settled)], worker="w1")
    invented = Postponement(uuid4(), uuid4(), Waiting.STILL_RUNNING, "", delay_seconds=1)

    answered = postpone(given, given.postponement(settled), invented, given.postponement(held))

    assert [one.job_id for one in answered] == [held.work.job_id]
    assert postpone(given) == []


# --- news -----------------------------------------------------------------------------------------------------------


def test_an_executor_that_confirms_closing_makes_a_postponed_cancellation_due_at_once(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    postpone(given, given.postponement(held, 600.0))
    given.clock.advance(1)
    assert given.claim() == []

    confirmed = given.dispatch.confirm_closed({claim.job_id: claim.epoch})

    [again] = given.claim()
    assert confirmed == [claim.job_id]
    assert again.closure is Closure.EXECUTOR_CLOSED


def test_confirming_while_it_is_worked_makes_the_postponement_that_follows_due_at_once(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    given.clock.advance(1)
    given.dispatch.confirm_closed({claim.job_id: claim.epoch})
    assert given.claim(worker="w2") == []
    given.clock.advance(1)

    postpone(given, given.postponement(held, 600.0))

    [again] = given.claim()
    assert (again.work.job_id, again.closure) == (claim.job_id, Closure.EXECUTOR_CLOSED)


def test_a_confirmation_from_before_the_claim_is_no_news(given: Given) -> None:
    claim = given.requested()
    given.dispatch.confirm_closed({claim.job_id: claim.epoch})
    given.clock.advance(1)
    [held] = given.claim()

    postpone(given, given.postponement(held, 600.0))

    given.clock.advance(599.999)
    assert given.claim() == []


def test_a_confirmation_under_another_epoch_makes_nothing_due(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    postpone(given, given.postponement(held, 600.0))

    confirmed = given.dispatch.confirm_closed({claim.job_id: uuid4()})

    assert confirmed == []
    assert given.claim() == []


def test_an_executor_that_is_started_again_makes_what_its_earlier_starts_left_due_at_once(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    postpone(given, given.postponement(held, 600.0, waiting=Waiting.PLANE_SILENT))
    given.clock.advance(1)

    confirmed = given.dispatch.confirm_lower_incarnations(Executor(EXECUTOR.executor_id, 2))

    [again] = given.claim()
    assert confirmed == [claim.job_id]
    assert again.closure is Closure.EXECUTOR_CLOSED


def test_an_executors_failure_makes_a_postponed_cancellation_due_at_once(given: Given) -> None:
    claim = given.requested()
    [held] = given.claim()
    postpone(given, given.postponement(held, 600.0))
    given.clock.advance(1)

    given.dispatch.fail([Failure(claim.job_id, claim.epoch, cause_at(given.clock.now))], executor=EXECUTOR)

    assert [one.work.job_id for one in given.claim()] == [claim.job_id]


def test_news_of_one_job_make_no_other_due(given: Given) -> None:
    claim = given.requested()
    given.requested()
    postpone(given, *(given.postponement(held, 600.0) for held in given.claim()))
    given.clock.advance(1)

    given.dispatch.confirm_closed({claim.job_id: claim.epoch})

    assert [one.work.job_id for one in given.claim()] == [claim.job_id]


# --- stuck ----------------------------------------------------------------------------------------------------------


def test_a_cancellation_becomes_stuck_exactly_once_and_stays_open(given: Given) -> None:
    held = given.leased()
    told = []
    given.clock.advance(STUCK_AFTER_SECONDS - 0.001)
    for step in (0.0, 0.001, 1.0, 1.0):
        given.clock.advance(step)
        [answer] = postpone(given, given.postponement(held, 0))
        told.append(answer.became_stuck)
        [held] = given.claim()

    cancellation = given.job(held.work.job_id).cancellation
    assert told == [False, True, False, False]
    assert cancellation is not None
    assert cancellation.stuck_at == given.clock.after(-2.0)
    assert cancellation.settled_at is None


def test_it_becomes_stuck_once_even_when_two_rounds_share_an_instant(given: Given) -> None:
    held = given.leased()
    given.clock.advance(STUCK_AFTER_SECONDS)

    first = postpone(given, given.postponement(held, 0))
    [again] = given.claim()
    second = postpone(given, given.postponement(again, 0))

    assert [answer.became_stuck for answer in (*first, *second)] == [True, False]


def test_stuck_counts_from_the_request_by_each_planes_own_measure(given: Given) -> None:
    hasty = given.new_plane(stuck_after_seconds=10.0)
    given.requested(plane=hasty)
    given.requested()
    given.clock.advance(10.0)
    [soon], [later] = given.claim(plane=hasty), given.claim()

    answers = postpone(given, given.postponement(soon), given.postponement(later))

    assert {one.job_id: one.became_stuck for one in answers} == {soon.work.job_id: True, later.work.job_id: False}


# --- a poisoned row harms only itself -------------------------------------------------------------------------------


def leased_pair(given: Given) -> tuple[Assignment, Assignment]:
    given.requested()
    given.requested()
    first, second = given.claim()
    return first, second


def test_a_reason_that_nobody_knows_harms_only_its_own_row(given: Given) -> None:
    bad, good = leased_pair(given)

    answers = postpone(given, given.postponement(bad, waiting=cast("Waiting", "bored")), given.postponement(good))

    assert [one.job_id for one in answers] == [good.work.job_id]
    assert given.dispatch.extend([Hold(bad.work.job_id, bad.lease)], lease_seconds=LEASE_SECONDS) != []


def test_a_postponement_that_the_database_refuses_is_logged_with_its_job(given: Given) -> None:
    bad, good = leased_pair(given)

    with capture_logs() as logs:
        postpone(given, given.postponement(bad, waiting=cast("Waiting", "bored")), given.postponement(good))

    [line] = logs
    assert (line["event"], line["log_level"], line["job"]) == ("cancellation_refused", "error", str(bad.work.job_id))
    assert "known_waiting" in line["error"]


def test_a_detail_with_a_zero_byte_does_not_keep_its_neighbours_from_being_postponed(given: Given) -> None:
    bad, good = leased_pair(given)

    answers = postpone(given, given.postponement(bad, detail="broken pipe\x00"), given.postponement(good))

    assert good.work.job_id in [one.job_id for one in answers]


@pytest.mark.parametrize(("asked", "taken"), [(1e10, 3600.0), (-5.0, 0.0)])
def test_a_postponement_comes_back_within_an_hour_whatever_was_asked(given: Given, asked: float, taken: float) -> None:
    claim = given.requested()
    [held] = given.claim()

    given.dispatch.postpone([Postponement(claim.job_id, held.lease, Waiting.STILL_RUNNING, "it runs", asked)])

    cancellation = given.job(claim.job_id).cancellation
    assert cancellation is not None
    assert cancellation.next_round_at == given.clock.after(taken)
