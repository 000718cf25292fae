"""What whoever waits for a cancellation is told meanwhile: why, since when, how often it was tried; and no flood."""

import io
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from msgspec.structs import replace
from rich.console import Console

from control_plane.jobs import Cancellation, Closure, Job, JobType, Outcome, Process, Receipt, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.waiting import Telling, describe, progress

ASKED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
STOPPED_AT_LAST = "it is CANCELLED, 1 tasks active, although it was told to stop (force)"


def job_asked_for() -> Job:
    """A job whose cancellation was requested, and that nobody has taken yet."""
    job_id = uuid4()
    cancellation = Cancellation(
        job_id=job_id,
        requested_by=Process("test"),
        reason=None,
        requested_at=ASKED_AT,
        rounds=0,
        waiting=None,
        waiting_detail=None,
        next_round_at=ASKED_AT,
        rung=None,
        first_claimed_at=None,
        first_stop_at=None,
        stuck_at=None,
        settled_at=None,
        leftovers=[],
    )
    return Job(
        job_id=job_id,
        data_plane_id=uuid4(),
        request_source=Process("test"),
        state=JobState.PENDING_CANCELLATION,
        type=JobType.NQL_FORECAST,
        input={},
        executor=None,
        execution_cluster=None,
        compute_pool_id=None,
        failures=[],
        idempotency_key=None,
        result=None,
        created_at=ASKED_AT,
        updated_at=ASKED_AT,
        ended_at=None,
        cancellation=cancellation,
    )


def waiting(job: Job, *, rounds: int, next_after: float, detail: str = STOPPED_AT_LAST) -> Job:
    """The same job, postponed; the next round begins so many seconds after the request."""
    assert job.cancellation is not None
    told = replace(
        job.cancellation,
        rounds=rounds,
        waiting=Waiting.STILL_RUNNING,
        waiting_detail=detail,
        first_claimed_at=ASKED_AT,
        next_round_at=after(next_after),
        rung=Rung.FORCE,
    )
    return replace(job, cancellation=told)


def after(seconds: float) -> datetime:
    return ASKED_AT + timedelta(seconds=seconds)


class Listener:
    """Whoever reads what is told, at moments that the test chooses."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.out = io.StringIO()
        self.now = ASKED_AT
        console = Console(file=self.out, force_terminal=terminal, width=400)
        self.telling = Telling(console, lambda: self.now)

    def hear(self, job: Job, seconds: float) -> None:
        self.now = after(seconds)
        self.telling.show(job)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def test_whoever_waits_is_told_why_for_what_since_when_and_how_often_it_was_tried() -> None:
    job = waiting(job_asked_for(), rounds=7, next_after=87)

    told = progress(job, after(75))

    assert told == (
        f"{job.job_id}: pending_cancellation (still_running): {STOPPED_AT_LAST} "
        "[waits for the engine's own word that it has ended; requested 75 s ago; 7 rounds, the next within 12 s]"
    )


def test_a_round_that_is_due_is_told_as_such() -> None:
    assert "1 round, the next is due]" in progress(waiting(job_asked_for(), rounds=1, next_after=10), after(11))


def test_where_nobody_has_taken_it_that_is_what_is_told() -> None:
    job = job_asked_for()

    assert "no worker has taken it yet" not in progress(job, after(1))
    assert progress(job, after(300)).endswith("is one running for this plane? [requested 5 min ago]")


def test_each_change_is_told_and_what_does_not_change_ever_more_seldom() -> None:
    listener, job = Listener(), job_asked_for()

    for second in range(900):
        listener.hear(waiting(job, rounds=1 + second // 10, next_after=second + 5), second)
    unchanged = len(listener.lines)
    listener.hear(waiting(job, rounds=91, next_after=905, detail="it is CANCELLED, 2 tasks active"), 900)

    assert 5 <= unchanged <= 8  # at 0, 15, 30, 60, 120, 240, 480 s
    assert "2 tasks active" in listener.lines[unchanged]
    assert "requested 8 min ago; 49 rounds" in listener.lines[unchanged - 1]


def test_on_a_terminal_it_is_one_line_that_goes_on() -> None:
    listener, job = Listener(terminal=True), job_asked_for()

    with listener.telling:
        for second in (1, 2, 3):
            listener.hear(waiting(job, rounds=1, next_after=20, detail="[/] as it is"), second)

    assert "[/] as it is" in listener.out.getvalue()
    assert listener.out.getvalue().count("\n") == 1


@pytest.mark.parametrize("closure", Closure)
def test_how_it_was_closed_is_explained(closure: Closure) -> None:
    receipt = Receipt(Outcome.STOPPED, ASKED_AT, "worker", closure=closure, engine_status="KILLED")
    job = replace(job_asked_for(), state=JobState.CANCELLED, receipt=receipt)

    told = describe(job)

    assert "cancelled, stopped (the engine says 'KILLED'; closed by " in told
    assert told.endswith(f"closed by {closure.value}: {closure.meaning})")
