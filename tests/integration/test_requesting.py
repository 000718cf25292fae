"""Asking for a job to be cancelled."""

from functools import partial
from uuid import uuid4

import pytest

from control_plane.errors import BadInput, NotCancellable, NotFound
from control_plane.intake import CancellationRequest, Intake
from control_plane.jobs import ApiUser, Closure, Job, JobType, Outcome
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.store import Store
from tests.integration.given import ASKER, OTHER_ASKER, SUBMITTER, WHY, Given, at_once, put_job

#: By hand, from the design: what can be cancelled on the Narrative plane, and what cannot.
CANCELLABLE = {
    "materialize-view",
    "nql-forecast",
    "forecast",
    "costs",
    "datasets_sample",
    "datasets_calculate_column_stats",
    "model_training_run",
}
NOT_CANCELLABLE = {
    "datasets_delete_table",
    "datasets_deliver_data",
    "datasets_suggest_mappings",
    "delete-snowflake-table",
    "models_deliver_model",
    "upload-stats",
}


def test_a_request_says_who_asked_why_and_when(given: Given) -> None:
    claim = given.running()
    asked_at = given.clock.advance(7)

    answered = given.request(claim.job_id, ASKER, WHY)

    assert answered.state is JobState.PENDING_CANCELLATION
    assert answered.cancellation is not None
    assert answered.cancellation.requested_by == ASKER
    assert (answered.cancellation.reason, answered.cancellation.requested_at) == (WHY, asked_at)
    assert answered.updated_at == asked_at
    assert answered.receipt is None
    assert answered.ended_at is None
    assert given.job(claim.job_id) == answered


def test_a_request_leaves_one_audit_row_that_tells_the_move(given: Given) -> None:
    claim = given.running()
    asked_at = given.clock.advance(7)

    given.request(claim.job_id, ASKER, WHY)

    entry = given.intake.audit(claim.job_id)[-1]
    assert (entry.move, entry.from_state, entry.to_state) == (
        "request_cancellation",
        JobState.RUNNING,
        JobState.PENDING_CANCELLATION,
    )
    assert (entry.actor, entry.reason, entry.moved_at) == (ASKER, WHY, asked_at)


def test_a_reason_may_be_missing(given: Given) -> None:
    claim = given.running()

    answered = given.request(claim.job_id, ASKER, None)

    assert answered.cancellation is not None
    assert answered.cancellation.reason is None


def test_asking_again_changes_nothing_and_answers_the_first_request(given: Given) -> None:
    claim = given.running()
    first = given.request(claim.job_id, ASKER, WHY)
    before = given.everything(claim.job_id)
    given.clock.advance(60)

    again = given.request(claim.job_id, OTHER_ASKER, "another reason")

    assert again == first
    assert given.everything(claim.job_id) == before


@pytest.mark.parametrize("end", ["cancelled", "completed", "failed"])
def test_asking_for_a_job_that_ended_changes_nothing_and_answers_it_as_it_is(given: Given, end: str) -> None:
    job_id = getattr(given, end)()
    ended, before = given.job(job_id), given.everything(job_id)
    given.clock.advance(60)

    answered = given.request(job_id, OTHER_ASKER, "too late")

    assert answered == ended
    assert answered.state == end
    assert given.everything(job_id) == before


def test_of_many_who_ask_at_once_one_is_kept_and_everybody_is_answered_with_it(given: Given) -> None:
    claim = given.running()
    askers = [ApiUser(company_id=1, user_id=number) for number in range(8)]

    answers = at_once(*(partial(given.request, claim.job_id, asker, f"from {asker.user_id}") for asker in askers))

    kept = given.job(claim.job_id).cancellation
    assert kept is not None
    assert isinstance(kept.requested_by, ApiUser)
    assert kept.reason == f"from {kept.requested_by.user_id}"
    assert [answer.cancellation for answer in answers] == [kept] * len(askers)
    assert [move for move, _, _ in given.moves(claim.job_id)].count("request_cancellation") == 1


# --- jobs that nobody claimed ---------------------------------------------------------------------------------------


def test_a_job_that_nobody_claimed_is_answered_as_pending_cancellation(given: Given) -> None:
    job = given.pending()

    answered = given.request(job.job_id)

    assert answered.state is JobState.PENDING_CANCELLATION
    assert answered.receipt is None


def test_a_job_that_nobody_claimed_is_settled_right_after_with_no_worker_running(given: Given) -> None:
    job = given.pending()
    asked_at = given.clock.advance(7)

    given.request(job.job_id)

    settled = given.job(job.job_id)
    assert settled.state is JobState.CANCELLED
    assert settled.ended_at == asked_at
    assert settled.receipt is not None
    assert settled.receipt.outcome is Outcome.NEVER_STARTED
    assert settled.receipt.closure is Closure.NEVER_CLAIMED
    assert settled.receipt.worker == "control_plane"
    assert settled.cancellation is not None
    assert (settled.cancellation.settled_at, settled.cancellation.rounds) == (asked_at, 0)


def test_its_receipt_tells_the_stores_own_time(given: Given) -> None:
    job = given.pending()
    asked_at = given.clock.advance(7)

    given.request(job.job_id)

    receipt = given.job(job.job_id).receipt
    assert receipt is not None
    assert receipt.seen_at == asked_at


def test_its_audit_tells_two_moves_of_two_actors(given: Given) -> None:
    job = given.pending()

    given.request(job.job_id, ASKER, WHY)

    assert [(entry.move, entry.from_state, entry.to_state) for entry in given.intake.audit(job.job_id)] == [
        ("submit", None, "pending"),
        ("request_cancellation", "pending", "pending_cancellation"),
        ("cancel", "pending_cancellation", "cancelled"),
    ]
    actors = [getattr(entry.actor, "name", None) for entry in given.intake.audit(job.job_id)]
    assert actors == [None, None, "control_plane"]


def test_what_a_crash_left_between_the_two_transactions_is_settled_by_the_sweep_once(given: Given) -> None:
    job = left_by_a_crash(given)

    first = given.intake.settle_never_claimed([job])
    again = given.intake.settle_never_claimed([job])

    assert (first, again) == ([job.job_id], [])
    assert [move for move, _, _ in given.moves(job.job_id)] == ["submit", "request_cancellation", "cancel"]


def test_what_a_crash_left_can_be_claimed_and_is_known_to_be_closed(given: Given) -> None:
    job = left_by_a_crash(given)

    [assignment] = given.claim()

    assert assignment.work.job_id == job.job_id
    assert assignment.closure is Closure.NEVER_CLAIMED
    assert assignment.work.executor is None


def left_by_a_crash(given: Given) -> Job:
    """A job whose request landed and whose settlement did not."""
    job_id = given.pending().job_id
    return given.intake.open_cancellations([CancellationRequest(job_id, ASKER, WHY)])[job_id]


def test_a_job_that_an_executor_claimed_is_not_settled_as_never_claimed(given: Given) -> None:
    claim = given.requested()
    before = given.everything(claim.job_id)

    settled = given.intake.settle_never_claimed([given.job(claim.job_id)])

    assert settled == []
    assert given.everything(claim.job_id) == before


def test_a_request_outranks_a_start(given: Given) -> None:
    job = given.pending()
    given.request(job.job_id)

    assert given.start(limit=10) == []


def test_a_request_and_a_start_at_once_leave_one_story(given: Given) -> None:
    jobs = [given.pending() for _ in range(6)]
    asks = [partial(given.request, job.job_id) for job in jobs]
    starts = [partial(given.start, limit=1) for _ in jobs]

    at_once(*asks, *starts)

    for job in jobs:
        now = given.job(job.job_id)
        moves = [move for move, _, _ in given.moves(job.job_id)]
        assert now.cancellation is not None
        if now.executor is None:
            assert moves == ["submit", "request_cancellation", "cancel"]
        else:
            assert moves == ["submit", "start", "request_cancellation"]


# --- a committed job ------------------------------------------------------------------------------------------------


def test_asking_for_a_committed_job_does_not_take_its_commit_back(given: Given) -> None:
    claim = given.committed()
    committed_at = given.job(claim.job_id).committed_at
    given.clock.advance(1)

    answered = given.request(claim.job_id)

    assert answered.state is JobState.PENDING_CANCELLATION
    assert answered.committed_at == committed_at
    assert answered.result == given.job(claim.job_id).result
    assert answered.result is not None


# --- what cannot be asked for ---------------------------------------------------------------------------------------


def test_an_unknown_job_is_named(given: Given) -> None:
    unknown = uuid4()

    with pytest.raises(NotFound, match=f"job_id: there is no job {unknown}") as caught:
        given.request(unknown)

    assert caught.value.field == "job_id"


def test_every_type_but_a_tracked_one_is_either_cancellable_on_the_narrative_plane_or_not() -> None:
    assert {kind.value for kind in JobType} == CANCELLABLE | NOT_CANCELLABLE | {"external"}
    assert not CANCELLABLE & NOT_CANCELLABLE


def test_each_cancellable_type_is_cancelled(given: Given) -> None:
    running = {kind: put_job(given, "running", committed=False, type=kind) for kind in CANCELLABLE}

    states = {kind: given.request(put.job_id).state for kind, put in running.items()}

    assert states == dict.fromkeys(CANCELLABLE, JobState.PENDING_CANCELLATION)


@pytest.mark.parametrize("state", ["pending", "running"])
def test_any_other_type_is_refused_naming_what_is_supported_and_changes_nothing(given: Given, state: str) -> None:
    for kind in NOT_CANCELLABLE:
        put = put_job(given, state, committed=False, type=kind)
        before = given.everything(put.job_id)
        given.clock.advance(60)

        with pytest.raises(NotCancellable, match=f"a {kind} job cannot be cancelled on platform_aws") as caught:
            given.request(put.job_id)

        assert caught.value.field == "type"
        assert all(supported in caught.value.message for supported in CANCELLABLE)
        assert given.everything(put.job_id) == before


def test_a_type_that_cannot_be_cancelled_is_answered_as_it_is_once_it_has_ended(given: Given) -> None:
    put = put_job(given, "failed", committed=False, type="datasets_deliver_data")

    assert given.request(put.job_id).state is JobState.FAILED


def test_on_snowflake_every_type_can_be_cancelled() -> None:
    assert all(accepts(Policy(), Platform.SNOWFLAKE, kind) for kind in JobType)


@pytest.mark.parametrize("platform", Platform)
def test_a_policy_has_no_say_in_work_that_was_started_elsewhere(platform: Platform) -> None:
    assert accepts(Policy({platform.value: []}), platform, JobType.EXTERNAL)


def test_an_override_replaces_what_a_platform_supports(store: Store, given: Given) -> None:
    policy = Policy({"platform_aws": ["datasets_deliver_data"]})
    delivery = put_job(given, "running", committed=False, type="datasets_deliver_data")
    view = put_job(given, "running", committed=False, type="materialize-view")
    intake = Intake(store, policy)

    assert intake.request_cancellation(delivery.job_id, SUBMITTER).state is JobState.PENDING_CANCELLATION
    with pytest.raises(NotCancellable, match=r"supported are datasets_deliver_data$"):
        intake.request_cancellation(view.job_id, SUBMITTER)


def test_an_override_of_one_platform_leaves_the_other_as_it_was() -> None:
    policy = Policy({"platform_aws": []})

    assert not accepts(policy, Platform.NARRATIVE, JobType.MATERIALIZE_VIEW)
    assert accepts(policy, Platform.SNOWFLAKE, JobType.MATERIALIZE_VIEW)


@pytest.mark.parametrize(
    ("overrides", "named", "allowed"),
    [
        ({"platform_azure": ["costs"]}, "platform_azure", "platform_aws"),
        ({"platform_aws": ["materialise-view"]}, "materialise-view", "materialize-view"),
    ],
)
def test_a_typo_in_an_override_is_named_with_what_is_allowed(
    overrides: dict[str, list[str]], named: str, allowed: str
) -> None:
    with pytest.raises(BadInput, match=f"policy: '{named}' is not known; allowed are .*{allowed}") as caught:
        Policy(overrides)

    assert caught.value.field == "policy"


def accepts(policy: Policy, platform: Platform, kind: JobType) -> bool:
    try:
        policy.check(platform, kind)
    except NotCancellable:
        return False
    return True
