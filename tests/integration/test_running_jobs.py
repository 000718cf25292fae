"""What executors do with jobs: start, attend, close, commit, complete, fail; and how they make themselves known."""

from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from control_plane.errors import BadInput, NotFound, Refused
from control_plane.jobs import FailureCause, Handle, JobType, Process, work_tag
from control_plane.lifecycle import JobState
from control_plane.work import Attendance, Claim, Commit, Executor, Failure, Publication
from tests.integration.given import (
    DATASET,
    EXECUTOR,
    FORECAST_RESULT,
    INPUTS,
    PERMIT_SECONDS,
    VIEW_RESULT,
    Given,
    at_once,
    cause_at,
)

OF_EXECUTOR = Process(EXECUTOR.executor_id)


# --- start ----------------------------------------------------------------------------------------------------------


def test_a_started_job_is_told_with_all_that_an_executor_needs(given: Given) -> None:
    installation = given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id)
    job = given.pending()
    started_at = given.clock.advance(2)

    [claim] = given.start()

    now = given.job(job.job_id)
    assert (claim.job_id, claim.type, claim.input) == (job.job_id, job.type, job.input)
    assert claim.tag == work_tag(installation, given.plane.data_plane_id, job.job_id)
    assert (claim.permit_seconds, claim.publication) == (PERMIT_SECONDS, None)
    assert (now.state, now.executor, now.updated_at) == (JobState.RUNNING, EXECUTOR.executor_id, started_at)


def test_a_start_leaves_one_audit_row_by_the_executor(given: Given) -> None:
    claim = given.running()

    entry = given.intake.audit(claim.job_id)[-1]

    assert (entry.move, entry.from_state, entry.to_state) == ("start", JobState.PENDING, JobState.RUNNING)
    assert (entry.actor, entry.moved_at) == (OF_EXECUTOR, given.clock.now)


def test_the_oldest_are_started_first_and_no_more_than_there_is_room_for(given: Given) -> None:
    jobs = []
    for _ in range(5):
        jobs.append(given.pending().job_id)
        given.clock.advance(1)

    batches = [[claim.job_id for claim in given.start(limit=2)] for _ in range(4)]

    assert batches == [jobs[:2], jobs[2:4], jobs[4:], []]


def test_age_decides_and_not_the_order_in_which_the_jobs_were_written(given_without_indexes: Given) -> None:
    given = given_without_indexes
    jobs = []
    for _ in range(4):
        jobs.append(given.pending().job_id)
        given.clock.advance(-1)

    batches = [[claim.job_id for claim in given.start(limit=1)] for _ in jobs]

    assert batches == [[job_id] for job_id in reversed(jobs)]


def test_only_the_types_that_an_executor_runs_are_started(given: Given) -> None:
    delivery = given.pending(JobType.DELIVER_DATA)
    sample = given.pending(JobType.SAMPLE)

    claims = given.start([JobType.SAMPLE, JobType.NQL_FORECAST], limit=10)

    assert [claim.job_id for claim in claims] == [sample.job_id]
    assert given.job(delivery.job_id).state is JobState.PENDING
    assert given.start([], limit=10) == []


def test_only_the_jobs_of_the_plane_are_started(given: Given) -> None:
    elsewhere = given.new_plane()
    job = given.pending(plane=elsewhere)

    assert given.start(limit=10) == []
    assert [claim.job_id for claim in given.start(plane=elsewhere, limit=10)] == [job.job_id]


def test_two_executors_at_once_never_start_the_same_job(given: Given) -> None:
    jobs = [given.pending().job_id for _ in range(30)]
    executors = [Executor(f"job-executor-{number}", 1) for number in range(6)]

    batches = at_once(*(partial(given.start, executor=executor, limit=7) for executor in executors))
    batches.append(given.start(limit=100))

    started = [claim.job_id for batch in batches for claim in batch]
    assert sorted(started) == sorted(jobs)
    assert all([move for move, _, _ in given.moves(job_id)] == ["submit", "start"] for job_id in jobs)


def test_one_epoch_that_is_asked_many_times_at_once_starts_the_same_jobs(given: Given) -> None:
    """Else what was started for the one whose answer nobody heard would run for ever."""
    jobs, epoch = [], uuid4()
    for _ in range(30):
        jobs.append(given.pending().job_id)
        given.clock.advance(1)  # of two that came in one moment, either may be the first

    answers = at_once(*(partial(given.start, limit=5, epoch=epoch) for _ in range(6)))

    assert [[claim.job_id for claim in answer] for answer in answers] == [jobs[:5]] * 6
    assert [given.job(job_id).state for job_id in jobs[5:]] == [JobState.PENDING] * 25


def test_every_claim_has_an_epoch_of_its_own(given: Given) -> None:
    epochs = {given.running().epoch for _ in range(5)}

    assert len(epochs) == 5


def test_a_claim_that_is_repeated_under_its_epoch_is_answered_alike_and_starts_nothing_more(given: Given) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(given.pending().job_id)
        given.clock.advance(1)
    epoch = uuid4()

    first = start_under(given, epoch)
    again = start_under(given, epoch)
    next_ = start_under(given, uuid4())

    assert again == first
    assert {claim.epoch for claim in first} == {epoch}
    assert [claim.job_id for claim in (*first, *next_)] == jobs


def test_a_superseded_start_that_repeats_its_claim_gets_nothing(given: Given) -> None:
    plane = given.plane.data_plane_id
    earlier, later = Executor("one", 1), Executor("one", 2)
    given.dispatch.register(earlier, data_plane_id=plane)
    given.pending()
    epoch = uuid4()
    start_under(given, epoch, earlier)
    given.dispatch.register(later, data_plane_id=plane)

    assert start_under(given, epoch, earlier) == []


def test_a_repeated_claim_answers_nothing_whose_cancellation_was_requested(given: Given) -> None:
    job = given.pending()
    epoch = uuid4()
    start_under(given, epoch)
    given.request(job.job_id)

    assert start_under(given, epoch) == []


def start_under(given: Given, epoch: UUID, executor: Executor = EXECUTOR) -> list[Claim]:
    """As many as two jobs."""
    return given.dispatch.start(
        executor,
        data_plane_id=given.plane.data_plane_id,
        types=list(JobType),
        limit=2,
        incarnation="engine-1",
        epoch=epoch,
    )


def test_an_epoch_answers_to_the_executor_alone_that_gave_it(given: Given) -> None:
    given.pending()
    epoch = uuid4()
    start_under(given, epoch)

    assert start_under(given, epoch, Executor("another", 1)) == []


# --- attend ---------------------------------------------------------------------------------------------------------


def test_attending_renews_what_runs_and_tells_what_to_close(given: Given) -> None:
    running, committed, requested, failed = given.running(), given.committed(), given.requested(), given.running()
    given.fail(failed)
    held = {claim.job_id: claim.epoch for claim in (running, committed, requested, failed)}

    answer = given.dispatch.attend(held)

    assert answer == Attendance(
        renewed=sorted([running.job_id, committed.job_id]), closing=sorted([requested.job_id, failed.job_id])
    )


def test_under_another_epoch_nothing_is_renewed(given: Given) -> None:
    claim, unknown = given.running(), uuid4()
    before = given.everything(claim.job_id)
    given.clock.advance(1)

    answer = given.dispatch.attend({claim.job_id: uuid4(), unknown: uuid4()})

    assert answer == Attendance(renewed=[], closing=sorted([claim.job_id, unknown]))
    assert given.everything(claim.job_id) == before


def test_attending_with_empty_hands_is_answered_with_nothing(given: Given) -> None:
    assert given.dispatch.attend({}) == Attendance([], [])


def test_attending_is_no_move(given: Given) -> None:
    claim = given.running()
    before = given.intake.audit(claim.job_id)

    given.dispatch.attend({claim.job_id: claim.epoch})

    assert given.intake.audit(claim.job_id) == before


# --- handles --------------------------------------------------------------------------------------------------------


def test_a_handle_is_kept_for_whoever_holds_the_epoch(given: Given) -> None:
    mine, another = given.running(), given.running()
    handles = {mine.job_id: Handle("duckdb", "1", "run-1"), another.job_id: Handle("duckdb", "1", "run-2")}

    given.dispatch.record_handles(handles, {mine.job_id: mine.epoch, another.job_id: uuid4()})

    assert given.job(mine.job_id).handle == handles[mine.job_id]
    assert given.job(another.job_id).handle is None


def test_a_handle_that_arrives_while_the_job_is_being_cancelled_is_kept(given: Given) -> None:
    claim = given.requested()
    handle = Handle("duckdb", "1", "run-1")

    given.dispatch.record_handles({claim.job_id: handle}, {claim.job_id: claim.epoch})

    assert given.job(claim.job_id).handle == handle


def test_a_handle_that_arrives_after_the_end_changes_nothing(given: Given) -> None:
    claim = given.running()
    given.fail(claim)
    before = given.everything(claim.job_id)
    given.clock.advance(1)

    given.dispatch.record_handles({claim.job_id: Handle("duckdb", "1", "run-1")}, {claim.job_id: claim.epoch})
    given.dispatch.record_handles({}, {})

    assert given.everything(claim.job_id) == before


# --- close ----------------------------------------------------------------------------------------------------------


def test_closing_is_confirmed_once_and_moves_nothing(given: Given) -> None:
    claim = given.requested()

    first = given.dispatch.confirm_closed({claim.job_id: claim.epoch})
    before = given.everything(claim.job_id)
    given.clock.advance(1)
    again = given.dispatch.confirm_closed({claim.job_id: claim.epoch})

    assert (first, again) == ([claim.job_id], [])
    assert given.everything(claim.job_id) == before
    assert given.job(claim.job_id).state is JobState.PENDING_CANCELLATION


def test_what_has_ended_or_is_anothers_is_not_confirmed(given: Given) -> None:
    failed, anothers = given.running(), given.running()
    given.fail(failed)

    confirmed = given.dispatch.confirm_closed({failed.job_id: failed.epoch, anothers.job_id: uuid4()})

    assert confirmed == []
    assert given.dispatch.confirm_closed({}) == []


def test_a_new_start_confirms_what_its_own_lower_incarnations_had_claimed_and_nothing_else(given: Given) -> None:
    first = given.running(executor=Executor("one", 1))
    second = given.requested(executor=Executor("one", 2))
    own = given.running(executor=Executor("one", 3))
    anothers = given.running(executor=Executor("two", 1))
    ended = given.running(executor=Executor("one", 1))
    given.fail(ended)

    confirmed = given.dispatch.confirm_lower_incarnations(Executor("one", 3))

    assert sorted(confirmed) == sorted([first.job_id, second.job_id])
    closed = {
        claim.job_id
        for claim in (first, second, own, anothers, ended)
        if given.rows_of("jobs", claim.job_id)[0]["executor_closed_at"] is not None
    }
    assert closed == {first.job_id, second.job_id}
    assert given.dispatch.confirm_lower_incarnations(Executor("one", 3)) == []


# --- commit ---------------------------------------------------------------------------------------------------------


def test_a_commit_sets_the_commit_point_and_the_result_and_moves_nothing(given: Given) -> None:
    claim = given.running()
    committed_at = given.clock.advance(2)

    answer = given.commit(claim)

    job = given.job(claim.job_id)
    assert answer == {claim.job_id: Publication(DATASET, 1)}
    assert (job.state, job.committed_at, job.result) == (JobState.RUNNING, committed_at, VIEW_RESULT)
    assert [move for move, _, _ in given.moves(claim.job_id)] == ["submit", "start"]


def test_a_commit_without_a_dataset_completes_the_job_in_the_same_breath(given: Given) -> None:
    claim = given.running(JobType.NQL_FORECAST)
    committed_at = given.clock.advance(2)

    answer = given.commit(claim, dataset_id=None, result=FORECAST_RESULT)

    job = given.job(claim.job_id)
    assert answer == {claim.job_id: None}
    assert (job.state, job.result) == (JobState.COMPLETED, FORECAST_RESULT)
    assert (job.committed_at, job.ended_at) == (committed_at, committed_at)
    assert given.moves(claim.job_id)[-1] == ("complete", "running", "completed")
    assert given.intake.audit(claim.job_id)[-1].actor == OF_EXECUTOR


def test_numbers_rise_for_each_dataset_of_each_plane(given: Given) -> None:
    elsewhere = given.new_plane()
    numbers = [
        number_of(given, given.running(), dataset_id=1),
        number_of(given, given.running(), dataset_id=1),
        number_of(given, given.running(), dataset_id=2),
        number_of(given, given.running(plane=elsewhere), dataset_id=1),
        number_of(given, given.running(), dataset_id=1),
    ]

    assert numbers == [1, 2, 1, 1, 3]


def test_commits_of_one_dataset_at_once_get_numbers_of_their_own(given: Given) -> None:
    claims = [given.running() for _ in range(8)]

    numbers = at_once(*(partial(number_of, given, claim) for claim in claims))

    assert len(set(numbers)) == len(claims)


def number_of(given: Given, claim: Claim, dataset_id: int = DATASET) -> int:
    publication = given.commit(claim, dataset_id=dataset_id)[claim.job_id]
    assert publication is not None
    assert publication.dataset_id == dataset_id
    return publication.number


def test_a_commit_whose_answer_was_lost_is_answered_with_the_same_number(given: Given) -> None:
    claim = given.running()
    first = given.commit(claim)
    before = given.everything(claim.job_id)
    given.committed()
    given.clock.advance(1)

    again = given.commit(claim)

    assert again == first
    assert given.everything(claim.job_id) == before


@pytest.mark.parametrize("then", ["request", "complete"])
def test_it_is_answered_so_too_when_the_job_has_moved_on(given: Given, then: str) -> None:
    claim = given.running()
    first = given.commit(claim)
    if then == "request":
        given.request(claim.job_id)
    else:
        given.dispatch.complete([claim.job_id], actor=OF_EXECUTOR)

    assert given.commit(claim) == first


def test_one_commit_sent_twice_at_once_is_answered_twice_alike(given: Given) -> None:
    for _ in range(5):
        claim = given.running()

        answers = at_once(*[partial(given.commit, claim)] * 3)

        assert [set(answer) for answer in answers] == [{claim.job_id}] * 3
        assert answers == [answers[0]] * 3


def test_a_forecasts_commit_whose_answer_was_lost_is_answered_alike(given: Given) -> None:
    claim = given.running(JobType.NQL_FORECAST)
    first = given.commit(claim, dataset_id=None, result=FORECAST_RESULT)

    again = given.commit(claim, dataset_id=None, result=FORECAST_RESULT)

    assert again == first == {claim.job_id: None}
    assert [move for move, _, _ in given.moves(claim.job_id)].count("complete") == 1


def test_a_request_beats_the_commit_that_comes_after_it(given: Given) -> None:
    claim = given.requested()
    before = given.everything(claim.job_id)
    given.clock.advance(1)

    answer = given.commit(claim)

    assert answer == {}
    assert given.everything(claim.job_id) == before


def test_a_commit_beats_the_request_that_comes_after_it(given: Given) -> None:
    claim = given.committed()

    given.request(claim.job_id)

    [held] = given.claim()
    assert held.committed
    assert not given.dispatch.settle([given.settlement(held)], worker="w1")[0].landed
    assert given.dispatch.complete([claim.job_id], actor=OF_EXECUTOR) == [claim.job_id]
    assert given.job(claim.job_id).state is JobState.COMPLETED


def test_of_a_commit_and_a_request_at_once_the_commits_answer_tells_the_truth(given: Given) -> None:
    claims = [given.running() for _ in range(8)]
    commits = [partial(given.commit, claim) for claim in claims]
    requests = [partial(given.request, claim.job_id) for claim in claims]

    answers = at_once(*(call for pair in zip(commits, requests, strict=True) for call in pair))

    for claim, answer in zip(claims, answers[::2], strict=True):
        job = given.job(claim.job_id)
        assert job.state is JobState.PENDING_CANCELLATION
        assert (job.committed_at is not None) == (claim.job_id in answer)  # type: ignore[operator]  # of a commit


def test_one_bad_result_in_a_batch_of_commits_changes_nothing_of_any(given: Given) -> None:
    good, bad = given.running(), given.running()
    before = [given.everything(claim.job_id) for claim in (good, bad)]
    commits = [
        Commit(good.job_id, good.epoch, VIEW_RESULT, DATASET),
        Commit(bad.job_id, bad.epoch, {"rows": "many"}, DATASET),
    ]

    with pytest.raises(BadInput) as caught:
        given.dispatch.commit(commits, executor=EXECUTOR)

    assert caught.value.field == "result"
    assert [given.everything(claim.job_id) for claim in (good, bad)] == before


@pytest.mark.parametrize("whose", ["epoch", "job"])
def test_a_commit_that_is_not_the_holders_changes_nothing(given: Given, whose: str) -> None:
    claim = given.running()
    before = given.everything(claim.job_id)
    stranger = Commit(claim.job_id, uuid4(), VIEW_RESULT, DATASET) if whose == "epoch" else other_job(claim)

    assert given.dispatch.commit([stranger], executor=EXECUTOR) == {}
    assert given.everything(claim.job_id) == before


def other_job(claim: Claim) -> Commit:
    return Commit(uuid4(), claim.epoch, VIEW_RESULT, DATASET)


@pytest.mark.parametrize(
    ("kind", "result", "named"),
    [
        (JobType.MATERIALIZE_VIEW, {}, "dataset_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_RESULT | {"snapshot_id": "three"}, "snapshot_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_RESULT | {"recalculation_id": "not a uuid"}, "recalculation_id"),
        (JobType.MATERIALIZE_VIEW, VIEW_RESULT | {"rows": 1}, "rows"),
        (JobType.NQL_FORECAST, {"rows": -1, "cost": 0}, "rows"),
        (JobType.NQL_FORECAST, {"rows": 1}, "cost"),
        (JobType.FORECAST, {"rows": 1, "cost": 1.5}, "cost"),
        (JobType.SAMPLE, {"dataset_id": DATASET, "rows": None}, "rows"),
    ],
)
def test_a_result_of_the_wrong_shape_is_named_and_changes_nothing(
    given: Given, kind: JobType, result: dict[str, Any], named: str
) -> None:
    claim = given.running(kind)
    before = given.everything(claim.job_id)

    with pytest.raises(BadInput, match=rf"result: .*`.*{named}.*; a {kind.value} job has the fields ") as caught:
        given.commit(claim, result=result)

    assert caught.value.field == "result"
    assert given.everything(claim.job_id) == before
    assert number_of_next(given) == 1


@pytest.mark.parametrize(
    "result",
    [
        {"note": "a NUL \x00"},
        {"note": "half a character \ud800"},
        {"a NUL in a name \x00": 1},
        {"nested": [{"deep": ["\x00"]}]},
        {"cost": float("nan")},
        {"cost": float("inf")},
    ],
    ids=["NUL", "half a character", "a name", "nested", "NaN", "infinity"],
)
def test_a_result_that_no_database_keeps_is_bad_input_and_changes_nothing(given: Given, result: dict[str, Any]) -> None:
    claim = given.running(JobType.COSTS)
    before = given.everything(claim.job_id)

    with pytest.raises(BadInput, match=r"^result: ") as caught:
        given.commit(claim, result=result)

    assert caught.value.field == "result"
    assert given.everything(claim.job_id) == before
    assert number_of_next(given) == 1


@pytest.mark.parametrize("dataset_id", [2**63, 0, -1])
def test_a_dataset_that_no_database_can_number_is_bad_input_and_changes_nothing(given: Given, dataset_id: int) -> None:
    claim = given.running()
    before = given.everything(claim.job_id)

    with pytest.raises(BadInput, match=r"^dataset_id: ") as caught:
        given.commit(claim, dataset_id=dataset_id)

    assert caught.value.field == "dataset_id"
    assert given.everything(claim.job_id) == before


def number_of_next(given: Given) -> int:
    return number_of(given, given.running())


def test_a_type_without_a_documented_result_takes_any_object(given: Given) -> None:
    claim = given.running(JobType.COSTS)

    assert given.commit(claim, dataset_id=None, result={"anything": [1, None]}) == {claim.job_id: None}
    assert given.job(claim.job_id).result == {"anything": [1, None]}


# --- complete -------------------------------------------------------------------------------------------------------


def test_completing_ends_a_committed_job_once(given: Given) -> None:
    claim = given.committed()
    ended_at = given.clock.advance(3)

    first = given.dispatch.complete([claim.job_id], actor=OF_EXECUTOR)
    before = given.everything(claim.job_id)
    given.clock.advance(1)
    again = given.dispatch.complete([claim.job_id], actor=Process("somebody-else"))

    job = given.job(claim.job_id)
    assert (first, again) == ([claim.job_id], [])
    assert (job.state, job.ended_at, job.receipt) == (JobState.COMPLETED, ended_at, None)
    assert given.everything(claim.job_id) == before
    assert given.moves(claim.job_id)[-1] == ("complete", "running", "completed")


def test_anybody_may_complete_a_committed_job(given: Given) -> None:
    claim = given.committed()

    given.dispatch.complete([claim.job_id], actor=Process("start-up-check"))

    assert given.intake.audit(claim.job_id)[-1].actor == Process("start-up-check")


def test_nothing_else_is_completed_beside_it(given: Given) -> None:
    committed, running, requested = given.committed(), given.running(), given.requested()

    done = given.dispatch.complete([running.job_id, committed.job_id, requested.job_id, uuid4()], actor=OF_EXECUTOR)

    assert done == [committed.job_id]
    assert given.dispatch.complete([], actor=OF_EXECUTOR) == []
    assert given.job(running.job_id).state is JobState.RUNNING


def test_completing_a_job_that_somebody_asked_about_settles_its_cancellation(given: Given) -> None:
    claim = given.committed()
    given.request(claim.job_id)
    ended_at = given.clock.advance(3)

    given.dispatch.complete([claim.job_id], actor=OF_EXECUTOR)

    cancellation = given.job(claim.job_id).cancellation
    assert cancellation is not None
    assert cancellation.settled_at == ended_at
    assert given.claim() == []


def test_an_executor_is_told_of_its_committed_jobs_that_are_not_completed(given: Given) -> None:
    waiting, asked, done = given.committed(), given.committed(), given.committed()
    given.request(asked.job_id)
    given.dispatch.complete([done.job_id], actor=OF_EXECUTOR)
    given.running()
    anothers = given.running(executor=Executor("another", 1))
    given.commit(anothers)

    told = given.dispatch.committed(Executor(EXECUTOR.executor_id, 2))

    assert {claim.job_id: claim.publication for claim in told} == {
        waiting.job_id: Publication(DATASET, 1),
        asked.job_id: Publication(DATASET, 2),
    }
    assert {claim.epoch for claim in told} == {waiting.epoch, asked.epoch}


# --- fail -----------------------------------------------------------------------------------------------------------


def test_a_failed_job_tells_its_cause(given: Given) -> None:
    claim = given.running()
    failed_at = given.clock.advance(3)
    cause = FailureCause("no such table: ds_1", failed_at, {"line": 3, "nested": {"a": [1, None]}})

    failed = given.dispatch.fail([Failure(claim.job_id, claim.epoch, cause)], executor=EXECUTOR)

    job = given.job(claim.job_id)
    assert failed == [claim.job_id]
    assert (job.state, job.failures, job.ended_at) == (JobState.FAILED, [cause], failed_at)
    assert given.moves(claim.job_id)[-1] == ("fail", "running", "failed")
    assert given.intake.audit(claim.job_id)[-1].actor == OF_EXECUTOR


def test_failing_twice_changes_nothing(given: Given) -> None:
    claim = given.running()
    given.fail(claim)
    before = given.everything(claim.job_id)
    given.clock.advance(1)

    assert given.fail(claim, "another cause") == []
    assert given.everything(claim.job_id) == before


def test_a_failure_under_another_epoch_or_after_the_commit_changes_nothing(given: Given) -> None:
    running, committed = given.running(), given.committed()
    before = [given.everything(claim.job_id) for claim in (running, committed)]
    given.clock.advance(1)
    cause = cause_at(given.clock.now)

    failed = given.dispatch.fail(
        [Failure(running.job_id, uuid4(), cause), Failure(committed.job_id, committed.epoch, cause)],
        executor=EXECUTOR,
    )

    assert failed == []
    assert given.dispatch.fail([], executor=EXECUTOR) == []
    assert [given.everything(claim.job_id) for claim in (running, committed)] == before


def test_a_failure_after_a_request_is_only_a_hint_and_moves_nothing(given: Given) -> None:
    claim = given.requested()
    before = given.everything(claim.job_id)

    failed = given.fail(claim)

    assert failed == []
    assert given.everything(claim.job_id) == before


def test_each_failure_of_a_batch_stands_for_itself(given: Given) -> None:
    one, asked, two = given.running(), given.requested(), given.running()
    failures = [
        Failure(claim.job_id, claim.epoch, cause_at(given.clock.now, str(claim.job_id))) for claim in (one, asked, two)
    ]

    failed = given.dispatch.fail(failures, executor=EXECUTOR)

    assert sorted(failed) == sorted([one.job_id, two.job_id])
    for claim in (one, two):
        assert [cause.message for cause in given.job(claim.job_id).failures] == [str(claim.job_id)]
    assert given.job(asked.job_id).state is JobState.PENDING_CANCELLATION


def test_a_failure_whose_message_has_a_zero_byte_fails_its_job_all_the_same(given: Given) -> None:
    claim = given.running()

    failed = given.fail(claim, "broken pipe\x00")

    assert failed == [claim.job_id]
    assert given.job(claim.job_id).failures[0].message.startswith("broken pipe")


# --- leftovers ------------------------------------------------------------------------------------------------------


def leftovers_of(given: Given, job_id: UUID) -> list[str]:
    cancellation = given.job(job_id).cancellation
    assert cancellation is not None
    return cancellation.leftovers


def test_leftovers_add_up_and_are_told_once_each(given: Given) -> None:
    one, two = given.cancelled(), given.cancelled()

    given.dispatch.record_leftovers({one: ["b", "a"], two: ["x"]})
    given.dispatch.record_leftovers({one: ["c", "b"]})
    given.dispatch.record_leftovers({one: []})

    assert leftovers_of(given, one) == ["a", "b", "c"]
    assert leftovers_of(given, two) == ["x"]


def test_leftovers_noted_at_once_are_all_kept(given: Given) -> None:
    job_id = given.cancelled()

    at_once(*(partial(given.dispatch.record_leftovers, {job_id: [f"part-{number}"]}) for number in range(6)))

    assert leftovers_of(given, job_id) == [f"part-{number}" for number in range(6)]


def test_leftovers_of_a_job_that_nobody_asked_about_are_noted_nowhere(given: Given) -> None:
    job_id = given.failed()
    before = given.everything(job_id)

    given.dispatch.record_leftovers({job_id: ["a"], uuid4(): ["b"]})
    given.dispatch.record_leftovers({})

    assert given.everything(job_id) == before


def test_only_jobs_that_ended_without_publishing_are_discardable(given: Given) -> None:
    cancelled, failed, completed = given.cancelled(), given.failed(), given.completed()
    live = [given.running().job_id, given.requested().job_id, given.committed().job_id, given.pending().job_id]

    discardable = given.dispatch.discardable([cancelled, failed, completed, *live, uuid4()])

    assert sorted(discardable) == sorted([cancelled, failed])
    assert given.dispatch.discardable([]) == []


# --- a start that a later one has superseded ------------------------------------------------------------------------


def superseded(given: Given) -> Executor:
    """The earlier of two starts of one executor, after the later one has vouched for it."""
    earlier, later = Executor("one", 1, "unix:/one.sock"), Executor("one", 2, "unix:/two.sock")
    for start in (earlier, later):
        given.dispatch.register(start, data_plane_id=given.plane.data_plane_id)
    given.dispatch.confirm_lower_incarnations(later)
    return earlier


def test_a_superseded_start_claims_nothing(given: Given) -> None:
    earlier = superseded(given)
    job = given.pending()

    assert given.start(executor=earlier) == []
    assert given.job(job.job_id).state is JobState.PENDING
    assert [claim.job_id for claim in given.start(executor=Executor("one", 2))] == [job.job_id]


def test_a_superseded_start_is_told_to_close_all_that_it_holds(given: Given) -> None:
    held = given.running(executor=Executor("one", 1))
    superseded(given)
    before = given.everything(held.job_id)
    given.clock.advance(1)

    answer = given.dispatch.attend({held.job_id: held.epoch})

    assert answer == Attendance(renewed=[], closing=[held.job_id])
    assert given.everything(held.job_id) == before


def test_a_superseded_start_commits_nothing(given: Given) -> None:
    held = given.running(executor=Executor("one", 1))
    superseded(given)
    before = given.everything(held.job_id)
    given.clock.advance(1)

    assert given.commit(held) == {}
    assert given.everything(held.job_id) == before


def test_a_commit_from_before_it_was_superseded_is_answered_as_it_was(given: Given) -> None:
    held = given.running(executor=Executor("one", 1))
    first = given.commit(held)
    superseded(given)

    assert given.commit(held) == first


# --- registration and heartbeats ------------------------------------------------------------------------------------


def test_registering_answers_the_installations_name_every_time(given: Given) -> None:
    plane = given.plane.data_plane_id

    names = {
        given.dispatch.register(Executor("one", 1), data_plane_id=plane),
        given.dispatch.register(Executor("two", 1), data_plane_id=plane),
        given.dispatch.register(Executor("one", 2), data_plane_id=plane),
    }

    assert len(names) == 1


def test_a_registration_that_is_repeated_under_its_token_is_answered_alike(given: Given) -> None:
    plane, token = given.plane.data_plane_id, uuid4()

    first = given.dispatch.register(Executor("one", 1), data_plane_id=plane, token=token)
    again = given.dispatch.register(Executor("one", 1), data_plane_id=plane, token=token)

    assert again == first


@pytest.mark.parametrize("known", ["under another token", "superseded"])
def test_a_registration_is_repeatable_by_the_registered_process_alone(given: Given, known: str) -> None:
    plane, token = given.plane.data_plane_id, uuid4()
    given.dispatch.register(Executor("one", 1), data_plane_id=plane, token=token)
    if known == "superseded":
        given.dispatch.register(Executor("one", 2), data_plane_id=plane, token=uuid4())

    with pytest.raises(Refused):
        given.dispatch.register(
            Executor("one", 1), data_plane_id=plane, token=token if known == "superseded" else uuid4()
        )


@pytest.mark.parametrize("incarnation", [4, 5])
def test_a_start_that_is_known_already_is_refused_and_changes_nothing(given: Given, incarnation: int) -> None:
    plane = given.plane.data_plane_id
    given.dispatch.register(Executor("one", 5, "unix:/first"), data_plane_id=plane)

    with pytest.raises(Refused, match=f"one is known at incarnation 5, this folder says {incarnation}") as caught:
        given.dispatch.register(Executor("one", incarnation, "unix:/copy"), data_plane_id=plane)

    given.requested(executor=Executor("one", 5))
    [held] = given.claim()
    assert caught.value.field == "data_folder"
    assert held.work.executor == Executor("one", 5, "unix:/first", registered=5)


def test_a_start_on_another_plane_is_refused_naming_the_plane_it_belongs_to(given: Given) -> None:
    given.dispatch.register(Executor("one", 1), data_plane_id=given.plane.data_plane_id)
    elsewhere = given.new_plane().data_plane_id

    with pytest.raises(Refused, match=f"of another data plane, {given.plane.data_plane_id}"):
        given.dispatch.register(Executor("one", 2), data_plane_id=elsewhere)


def test_registering_on_a_plane_that_does_not_exist_names_it(given: Given) -> None:
    unknown = uuid4()

    with pytest.raises(NotFound, match=f"data_plane_id: there is no data plane {unknown}"):
        given.dispatch.register(EXECUTOR, data_plane_id=unknown)


def test_of_two_copies_of_a_folder_that_start_at_once_one_is_refused(given: Given) -> None:
    for number in range(5):
        executor = Executor(f"job-executor-{number}", 1)

        outcomes = at_once(*[partial(registers, given, executor)] * 4)

        assert sorted(outcomes) == [False, False, False, True]


def registers(given: Given, executor: Executor) -> bool:
    try:
        given.dispatch.register(executor, data_plane_id=given.plane.data_plane_id)
    except Refused:
        return False
    return True


def test_a_heartbeat_is_noted_for_the_planes_that_exist(given: Given) -> None:
    plane, other = given.plane.data_plane_id, given.new_plane().data_plane_id
    beat_at = given.clock.advance(4)

    noted = given.dispatch.heartbeat([plane, uuid4()])

    assert noted == [plane]
    assert given.intake.plane(plane).last_heartbeat_at == beat_at
    assert given.intake.plane(other).last_heartbeat_at is None


def test_every_type_with_a_documented_input_can_run(given: Given) -> None:
    started = [given.running(kind) for kind in INPUTS]

    assert [claim.type for claim in started] == list(INPUTS)
