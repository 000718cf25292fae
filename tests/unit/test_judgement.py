"""The fate table of the design, row by row: what evidence settles, and what never does."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from adapters.base import ClosedWork, Listing, Run, RunStatus, StopAnswer, Trouble
from control_plane.jobs import Closure, Handle, JobType, Outcome, Process, Rung, Waiting
from control_plane.planes import Tracking
from control_plane.work import Assignment, Work
from workers.judgement import Case, Ended, Judgement, Unsettled, climb, heed, judge, receipt_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
JOB = UUID(int=1)
TAG = f"countermand:i:p:{JOB}:run"
HANDLE = Handle("duckdb", "7", "run-1")
PATIENCE = {Rung.ASK: timedelta(seconds=10), Rung.INSIST: timedelta(seconds=30)}


def case(
    *,
    closure: Closure | None = Closure.EXECUTOR_CLOSED,
    handle: Handle | None = HANDLE,
    lag: float = 0,
    tracked: Tracking | None = None,
    **fields: Any,
) -> Case:
    work = Work(JOB, TAG, handle=handle, incarnation="7", tracked=tracked)
    return Case.opened(
        Assignment(
            work=work,
            data_plane_id=UUID(int=2),
            type=JobType.NQL_FORECAST,
            lease=UUID(int=3),
            requested_by=Process("test"),
            reason=None,
            requested_at=NOW,
            rounds=1,
            committed=False,
            closure=closure,
            alone=False,
            listing_lag_seconds=lag,
            stuck_after_seconds=900,
            **fields,
        )
    )


def run(status: RunStatus, handle: Handle = HANDLE, *, ended_at: datetime | None = None) -> Run:
    return Run(JOB, TAG, handle, status, status.value.upper(), ended_at)


def shown(*runs: Run, complete: bool = True, incarnation: str | None = "7") -> Listing:
    return Listing(runs, complete=complete, incarnation=incarnation)


@dataclass
class Look:
    """Judges a case by listings, each begun at the next whole second."""

    of: Case
    at: float = 0.0

    def __call__(self, listing: Listing, *, closed_before: bool = True, after: float = 1.0) -> Judgement:
        self.at += after
        self.of.listing = listing
        return judge(self.of, closed_before=closed_before, begun_at=self.at)


def test_that_an_engine_shows_no_run_never_ends_a_tracked_job_however_often_it_is_asked() -> None:
    look = Look(case(closure=Closure.SINGLE_RUN, tracked=Tracking(users=["dbt"])))

    judgements = [look(shown()) for _ in range(3)]

    assert all(isinstance(found, Unsettled) and found.waiting is Waiting.HANDLE_UNKNOWN for found in judgements)


@pytest.mark.parametrize("status", [RunStatus.STOPPED, RunStatus.ERRORED])
def test_a_closed_job_whose_every_run_has_ended_is_stopped(status: RunStatus) -> None:
    judgement = Look(case())(shown(run(status)))

    assert judgement == Ended(Outcome.STOPPED, run(status))


def test_a_run_that_succeeded_before_it_could_be_stopped_is_finished_unpublished() -> None:
    other = run(RunStatus.STOPPED, Handle("duckdb", "7", "run-2"))

    judgement = Look(case())(shown(run(RunStatus.SUCCEEDED), other))

    assert judgement == Ended(Outcome.FINISHED_UNPUBLISHED, run(RunStatus.SUCCEEDED))


def test_the_run_that_ended_last_is_the_one_in_the_receipt() -> None:
    early = run(RunStatus.STOPPED, ended_at=NOW)
    late = run(RunStatus.STOPPED, Handle("duckdb", "7", "run-2"), ended_at=NOW + timedelta(seconds=1))

    assert Look(case())(shown(late, early)) == Ended(Outcome.STOPPED, late)


def test_one_active_run_keeps_the_job_waiting_whatever_the_others_did() -> None:
    judgement = Look(case())(shown(run(RunStatus.STOPPED), run(RunStatus.ACTIVE, Handle("duckdb", "7", "run-2"))))

    assert isinstance(judgement, Unsettled)
    assert judgement.waiting is Waiting.STILL_RUNNING
    assert "run-2 is ACTIVE" in judgement.detail


@pytest.mark.parametrize("status", [RunStatus.STOPPED, RunStatus.ERRORED, RunStatus.SUCCEEDED])
def test_an_ended_run_proves_nothing_in_a_listing_begun_before_closing(status: RunStatus) -> None:
    judgement = Look(case(closure=None))(shown(run(status)), closed_before=False)

    assert isinstance(judgement, Unsettled)
    assert judgement.waiting is Waiting.NOT_CLOSED


def test_an_unclosed_job_without_runs_is_never_settled_however_often_it_is_looked_at() -> None:
    look = Look(case(closure=None, handle=None))

    judgements = [look(shown(), closed_before=False) for _ in range(20)]

    assert {judgement.waiting for judgement in judgements if isinstance(judgement, Unsettled)} == {Waiting.NOT_CLOSED}
    assert not [judgement for judgement in judgements if isinstance(judgement, Ended)]


def test_absence_is_evidence_only_the_second_time() -> None:
    look = Look(case(handle=None))

    first, second = look(shown()), look(shown())

    assert isinstance(first, Unsettled)
    assert second == Ended(Outcome.NEVER_STARTED)


def test_two_empty_listings_closer_together_than_the_listing_lag_prove_nothing() -> None:
    look = Look(case(handle=None, lag=5))

    early = [look(shown()), look(shown(), after=4.9)]
    late = look(shown(), after=0.1)

    assert all(isinstance(judgement, Unsettled) for judgement in early)
    assert late == Ended(Outcome.NEVER_STARTED)


def test_absence_begins_anew_when_something_was_seen_in_between() -> None:
    look = Look(case(handle=None))

    judgements = [look(shown()), look(shown(run(RunStatus.ACTIVE))), look(shown())]

    assert all(isinstance(judgement, Unsettled) for judgement in judgements)


def test_absence_begins_anew_when_a_listing_was_not_complete() -> None:
    look = Look(case(handle=None))

    judgements = [look(shown()), look(shown(complete=False)), look(shown())]

    assert all(isinstance(judgement, Unsettled) for judgement in judgements)


def test_a_truncated_listing_never_settles_even_when_every_run_in_it_has_ended() -> None:
    look = Look(case())

    judgements = [look(shown(run(RunStatus.STOPPED), complete=False)) for _ in range(5)]

    assert all(isinstance(judgement, Unsettled) and judgement.hopeless for judgement in judgements)


@pytest.mark.parametrize("incarnation", ["8", "6", None])
def test_absence_is_no_evidence_from_another_incarnation_of_the_engine(incarnation: str | None) -> None:
    look = Look(case(handle=None))

    judgements = [look(shown(incarnation=incarnation)) for _ in range(3)]

    assert all(isinstance(judgement, Unsettled) and judgement.hopeless for judgement in judgements)


def test_a_run_that_its_own_engine_twice_calls_gone_is_stopped() -> None:
    look = Look(case())

    first, second = look(shown(run(RunStatus.GONE))), look(shown(run(RunStatus.GONE)))

    assert isinstance(first, Unsettled)
    assert second == Ended(Outcome.STOPPED, run(RunStatus.GONE))


def test_a_run_of_which_the_engine_cannot_say_anything_is_waited_for() -> None:
    look = Look(case())

    judgements = [look(shown(run(RunStatus.UNKNOWN))) for _ in range(3)]

    assert all(isinstance(j, Unsettled) and j.waiting is Waiting.HANDLE_UNKNOWN for j in judgements)


def test_a_silent_plane_gives_its_own_reason() -> None:
    trouble = Trouble(Waiting.PLANE_SILENT, "it does not answer")

    judgement = Look(case())(Listing(trouble=trouble))

    assert judgement == Unsettled(Waiting.PLANE_SILENT, "it does not answer", hopeless=True)


def test_a_refused_stop_is_said_to_be_not_permitted() -> None:
    refused = case()
    heed(refused, [StopAnswer.NOT_PERMITTED])

    judgement = Look(refused)(shown(run(RunStatus.ACTIVE)))

    assert isinstance(judgement, Unsettled)
    assert judgement.waiting is Waiting.NOT_PERMITTED


def test_an_accepted_stop_is_evidence_of_nothing() -> None:
    accepted = case()
    heed(accepted, [StopAnswer.ACCEPTED, StopAnswer.ALREADY_ENDED])

    judgement = Look(accepted)(shown(run(RunStatus.ACTIVE)))

    assert isinstance(judgement, Unsettled)


def test_a_run_that_the_listing_lacks_is_asked_for_by_its_handle() -> None:
    looked_at = case()
    looked_at.listing = shown()

    looked_at.observed({HANDLE: run(RunStatus.ACTIVE)})

    assert looked_at.listing.runs == (run(RunStatus.ACTIVE),)


def test_what_the_engine_does_not_answer_stays_unknown() -> None:
    looked_at = case()
    looked_at.listing = shown()

    looked_at.observed({})

    assert [seen.status for seen in looked_at.listing.runs] == [RunStatus.UNKNOWN]


@pytest.mark.parametrize("status", list(RunStatus))
def test_a_handle_that_names_another_jobs_run_proves_nothing(status: RunStatus) -> None:
    looked_at = case()
    of_another = Run(UUID(int=9), TAG.replace(str(JOB), str(UUID(int=9))), HANDLE, status)
    judgements = []

    for second in (1.0, 2.0, 3.0):
        looked_at.listing = shown()
        looked_at.observed({HANDLE: of_another})
        judgements.append(judge(looked_at, closed_before=True, begun_at=second))

    assert all(isinstance(j, Unsettled) and j.waiting is Waiting.HANDLE_UNKNOWN and j.hopeless for j in judgements)


def test_what_only_a_handle_names_is_not_stopped() -> None:
    looked_at = case()

    looked_at.listing = shown()
    of_the_handle_alone = looked_at.stoppable
    looked_at.listing = shown(run(RunStatus.ACTIVE))
    shown_as_its_own = looked_at.stoppable

    assert (of_the_handle_alone, shown_as_its_own) == ((), (run(RunStatus.ACTIVE),))


def test_the_ladder_is_climbed_only_when_a_rungs_time_is_up() -> None:
    climber = case()

    climbed = [climb(climber, NOW + timedelta(seconds=seconds), PATIENCE) for seconds in (0, 9, 10, 39, 40, 4000)]

    assert climbed == [Rung.ASK, Rung.ASK, Rung.INSIST, Rung.INSIST, Rung.FORCE, Rung.FORCE]


def test_the_rung_that_an_earlier_round_reached_is_where_the_next_goes_on() -> None:
    climber = case(rung=Rung.INSIST, rung_since=NOW)

    assert climb(climber, NOW + timedelta(seconds=29), PATIENCE) is Rung.INSIST
    assert climb(climber, NOW + timedelta(seconds=30), PATIENCE) is Rung.FORCE


def test_an_engine_without_a_rung_is_stopped_with_the_one_below_from_then_on() -> None:
    climber = case(rung=Rung.INSIST, rung_since=NOW)
    heed(climber, [StopAnswer.UNSUPPORTED])

    assert climb(climber, NOW + timedelta(days=1), PATIENCE) is Rung.ASK


def test_a_receipt_names_the_engines_word_and_time_the_closure_and_the_rung() -> None:
    settled = case(rung=Rung.INSIST)
    settled.listing = shown()
    ended = Ended(Outcome.STOPPED, run(RunStatus.STOPPED, ended_at=NOW))

    receipt = receipt_of(settled, ended, engine="duckdb", worker="w1", seen_at=NOW)

    assert (receipt.outcome, receipt.closure, receipt.rung) == (Outcome.STOPPED, Closure.EXECUTOR_CLOSED, Rung.INSIST)
    assert (receipt.engine_status, receipt.engine_ended_at, receipt.handle) == ("STOPPED", NOW, HANDLE)
    assert (receipt.engine, receipt.incarnation, receipt.tag, receipt.worker) == ("duckdb", "7", TAG, "w1")


@pytest.mark.parametrize(
    ("closure", "status", "tracked", "is_closed"),
    [
        (Closure.EXECUTOR_CLOSED, RunStatus.ACTIVE, None, True),
        (Closure.ENGINE_CLOSED, RunStatus.ACTIVE, None, True),
        (None, RunStatus.ACTIVE, None, False),
        (Closure.EXECUTOR_CLOSED, RunStatus.STOPPED, None, False),
        (Closure.SINGLE_RUN, RunStatus.ACTIVE, Tracking(users=["DBT"]), False),
    ],
)
def test_an_adapter_is_told_that_nothing_more_of_a_running_job_can_start(
    closure: Closure | None, status: RunStatus, tracked: Tracking | None, is_closed: bool
) -> None:
    given = case(closure=closure, tracked=tracked)
    given.listing = shown(run(status))

    assert isinstance(given.work, ClosedWork) is is_closed
    assert structs.asdict(given.work) == structs.asdict(given.assignment.work)


def test_the_receipt_names_the_engine_that_answered_where_an_adapter_speaks_to_several() -> None:
    settled = case()
    settled.listing = structs.replace(shown(), engine="spark-connect")

    receipt = receipt_of(settled, Ended(Outcome.NEVER_STARTED), engine="spark", worker="w1", seen_at=NOW)

    assert receipt.engine == "spark-connect"
