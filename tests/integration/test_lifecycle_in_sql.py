"""The exhaustive matrix: every state, committed or not, against every move, through the real statements.

The rows are written past the triggers and entitled to everything (their epoch, their lease), so that the state and the
commit point alone decide. What is expected is written out by hand.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from control_plane.jobs import Job, JobType, Outcome, Process
from control_plane.store import Store
from control_plane.work import Commit, Failure, Settlement
from tests.integration.given import (
    ASKER,
    DATASET,
    EXECUTOR,
    VIEW_RESULT,
    WHY,
    Clock,
    Given,
    Put,
    cause_at,
    put_job,
    receipt_at,
)

NOTHING = "nothing"  #: refused, and no row changes
HINT = "hint"  #: refused, and the canceller is to look again

#: (state, committed): move: the state that it leads to
MATRIX = {
    ("pending", False): {
        "start": "running",
        "request_cancellation": "pending_cancellation",
        "cancel": NOTHING,
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": NOTHING,
        "commit": NOTHING,
    },
    ("running", False): {
        "start": NOTHING,
        "request_cancellation": "pending_cancellation",
        "cancel": NOTHING,
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": "failed",
        "commit": "running",
    },
    ("running", True): {
        "start": NOTHING,
        "request_cancellation": "pending_cancellation",
        "cancel": NOTHING,
        "complete": "completed",
        "complete_by_canceller": "completed",
        "fail": NOTHING,
        "commit": NOTHING,
    },
    ("pending_cancellation", False): {
        "start": NOTHING,
        "request_cancellation": NOTHING,
        "cancel": "cancelled",
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": HINT,
        "commit": NOTHING,
    },
    ("pending_cancellation", True): {
        "start": NOTHING,
        "request_cancellation": NOTHING,
        "cancel": NOTHING,
        "complete": "completed",
        "complete_by_canceller": "completed",
        "fail": NOTHING,
        "commit": NOTHING,
    },
    ("cancelled", False): {
        "start": NOTHING,
        "request_cancellation": NOTHING,
        "cancel": NOTHING,
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": NOTHING,
        "commit": NOTHING,
    },
    ("completed", True): {
        "start": NOTHING,
        "request_cancellation": NOTHING,
        "cancel": NOTHING,
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": NOTHING,
        "commit": NOTHING,
    },
    ("failed", False): {
        "start": NOTHING,
        "request_cancellation": NOTHING,
        "cancel": NOTHING,
        "complete": NOTHING,
        "complete_by_canceller": NOTHING,
        "fail": NOTHING,
        "commit": NOTHING,
    },
}
#: What the constraints refuse as a row; no trigger is needed for it.
IMPOSSIBLE = {
    ("cancelled", True): "uncommitted_when_given_up",
    ("completed", False): "committed_when_completed",
    ("failed", True): "uncommitted_when_given_up",
}


def start(given: Given, put: Put) -> object:
    return given.dispatch.start(
        EXECUTOR, data_plane_id=put.data_plane_id, types=list(JobType), limit=10, incarnation="engine-1"
    )


def request_cancellation(given: Given, put: Put) -> object:
    return given.intake.request_cancellation(put.job_id, ASKER, WHY)


def cancel(given: Given, put: Put) -> object:
    receipt = receipt_at(given.clock.now)
    return given.dispatch.settle([Settlement(put.job_id, put.lease, receipt)], worker="w1")


def complete(given: Given, put: Put) -> object:
    return given.dispatch.complete([put.job_id], actor=Process(EXECUTOR.executor_id))


def complete_by_canceller(given: Given, put: Put) -> object:
    return given.dispatch.settle([Settlement(put.job_id, put.lease, None)], worker="w1")


def fail(given: Given, put: Put) -> object:
    return given.dispatch.fail([Failure(put.job_id, put.epoch, cause_at(given.clock.now))], executor=EXECUTOR)


def commit(given: Given, put: Put) -> object:
    return given.dispatch.commit([Commit(put.job_id, put.epoch, VIEW_RESULT, DATASET)], executor=EXECUTOR)


MOVES: dict[str, Callable[[Given, Put], object]] = {
    "start": start,
    "request_cancellation": request_cancellation,
    "cancel": cancel,
    "complete": complete,
    "complete_by_canceller": complete_by_canceller,
    "fail": fail,
    "commit": commit,
}
CASES = [
    (state, committed, move, expected)
    for (state, committed), by_move in MATRIX.items()
    for move, expected in by_move.items()
]
#: Asking opens the cancellation; the other moves must not want for one.
WITHOUT_CANCELLATION = {"start", "request_cancellation"}


@pytest.fixture(scope="module")
def given(url: str) -> Iterator[Given]:
    """One store for the whole matrix: each case has a job on a plane of its own."""
    clock = Clock()
    store = Store(url, clock=clock)
    yield Given(store, clock)
    store.close()


def test_the_matrix_is_whole() -> None:
    states = ("pending", "running", "pending_cancellation", "cancelled", "completed", "failed")
    rows = {*MATRIX, *IMPOSSIBLE, ("pending", True)}

    assert rows == {(state, committed) for state in states for committed in (False, True)}
    assert all(set(by_move) == set(MOVES) for by_move in MATRIX.values())


@pytest.mark.parametrize(("state", "committed", "move", "expected"), CASES)
def test_a_move_leads_where_the_table_says_or_changes_nothing(
    given: Given, state: str, committed: bool, move: str, expected: str
) -> None:
    put = put_job(given, state, committed=committed, cancellation=move not in WITHOUT_CANCELLATION)
    before = given.everything(put.job_id)
    given.clock.advance(1)

    MOVES[move](given, put)

    after = given.everything(put.job_id)
    if expected == NOTHING:
        assert (after["jobs"], after["audit"]) == (before["jobs"], before["audit"])
        assert after == before or before["jobs"][0]["ended_at"] is not None  # a cancellation left open is closed
    elif expected == HINT:
        assert after["jobs"][0] | {"updated_at": None} == before["jobs"][0] | {"updated_at": None}
        assert after["audit"] == []
    elif move == "commit":
        assert (after["jobs"][0]["state"], after["audit"]) == (state, [])
        assert after["jobs"][0]["committed_at"] == given.clock.now
    else:
        first = given.moves(put.job_id)[0]
        assert first == (move.removesuffix("_by_canceller"), state, expected)


@pytest.mark.parametrize(("state", "committed"), [key for key in MATRIX if key[0] not in ("pending", "running")])
def test_a_job_that_cannot_be_asked_for_is_answered_as_it_is(given: Given, state: str, committed: bool) -> None:
    put = put_job(given, state, committed=committed)

    answered = given.intake.request_cancellation(put.job_id, ASKER, WHY)

    assert isinstance(answered, Job)
    assert (answered.state, answered.cancellation) == (state, None)


@pytest.mark.parametrize(("state", "committed"), [key for key in MATRIX if key != ("pending_cancellation", False)])
def test_a_receipt_lands_on_no_other_job(given: Given, state: str, committed: bool) -> None:
    put = put_job(given, state, committed=committed, cancellation=True)

    [settled] = given.dispatch.settle(
        [Settlement(put.job_id, put.lease, receipt_at(given.clock.now, Outcome.NEVER_STARTED))], worker="w1"
    )

    assert not settled.landed
    assert settled.settled_at is None


@pytest.mark.parametrize(("state", "committed"), IMPOSSIBLE)
def test_the_constraints_refuse_a_row_that_no_moves_lead_to(given: Given, state: str, committed: bool) -> None:
    with pytest.raises(IntegrityError, match=IMPOSSIBLE[state, committed]):
        put_job(given, state, committed=committed)


def test_the_constraints_refuse_a_committed_job_that_was_never_started(given: Given) -> None:
    with pytest.raises(IntegrityError):
        put_job(given, "pending", committed=True)


@pytest.mark.parametrize(
    ("state", "fields", "constraint"),
    [
        ("asleep", {}, "known_state"),
        ("pending", {"type": "unheard-of"}, "known_type"),
        ("running", {"ended_at": "now"}, "ended_when_terminal"),
        ("failed", {"ended_at": None}, "ended_when_terminal"),
        ("running", {"receipt": {"outcome": "stopped"}}, "receipt_when_cancelled"),
        ("cancelled", {"receipt": None}, "receipt_when_cancelled"),
        ("running", {"result": VIEW_RESULT}, "result_when_committed"),
    ],
)
def test_the_constraints_refuse_a_row_that_contradicts_itself(
    given: Given, state: str, fields: dict[str, Any], constraint: str
) -> None:
    columns = fields | ({"ended_at": given.clock.now} if fields.get("ended_at") == "now" else {})

    with pytest.raises(IntegrityError, match=constraint):
        put_job(given, state, committed=False, **columns)
