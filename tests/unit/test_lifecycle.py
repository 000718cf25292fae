"""The lifecycle's table against the edges written out by hand."""

from itertools import product

import pytest

from control_plane import lifecycle
from control_plane.lifecycle import JobState, Trigger

#: trigger, from, to, what the commit point must be (None: either)
EDGES = {
    ("start", "pending", "running", None),
    ("request_cancellation", "pending", "pending_cancellation", None),
    ("request_cancellation", "running", "pending_cancellation", None),
    ("cancel", "pending_cancellation", "cancelled", False),
    ("complete", "running", "completed", True),
    ("complete", "pending_cancellation", "completed", True),
    ("fail", "running", "failed", False),
}
#: trigger, from, committed: every combination that may be taken
ALLOWED = {
    ("start", "pending", False),
    ("start", "pending", True),
    ("request_cancellation", "pending", False),
    ("request_cancellation", "pending", True),
    ("request_cancellation", "running", False),
    ("request_cancellation", "running", True),
    ("cancel", "pending_cancellation", False),
    ("complete", "running", True),
    ("complete", "pending_cancellation", True),
    ("fail", "running", False),
}


def test_the_states_are_the_references_words() -> None:
    assert [state.value for state in JobState] == [
        "pending",
        "running",
        "pending_cancellation",
        "cancelled",
        "completed",
        "failed",
    ]


def test_the_compiled_machine_has_exactly_these_edges() -> None:
    compiled = [(edge.trigger.value, edge.source.value, edge.dest.value, edge.committed) for edge in lifecycle.EDGES]

    assert len(compiled) == len(EDGES)
    assert set(compiled) == EDGES


def test_the_machine_itself_knows_no_other_trigger_and_no_other_state() -> None:
    assert set(lifecycle.machine.events) == {"start", "request_cancellation", "cancel", "complete", "fail"}
    assert set(lifecycle.machine.states) == {
        "pending",
        "running",
        "pending_cancellation",
        "cancelled",
        "completed",
        "failed",
    }


def test_three_states_are_terminal_and_nothing_leads_out_of_them() -> None:
    assert {state.value for state in lifecycle.TERMINAL} == {"cancelled", "completed", "failed"}
    assert not [edge for edge in lifecycle.EDGES if edge.source in lifecycle.TERMINAL]


def test_a_job_begins_pending_and_nothing_leads_back() -> None:
    assert lifecycle.machine.initial == "pending"
    assert not [edge for edge in lifecycle.EDGES if edge.dest is JobState.PENDING]


@pytest.mark.parametrize(("trigger", "state", "committed"), list(product(Trigger, JobState, [False, True])))
def test_a_move_is_allowed_exactly_where_the_table_says_so(trigger: Trigger, state: JobState, committed: bool) -> None:
    allowed = lifecycle.allows(trigger, state, committed=committed)

    assert allowed == ((trigger.value, state.value, committed) in ALLOWED)


@pytest.mark.parametrize(
    ("trigger", "leads_to"),
    [
        ("start", "running"),
        ("request_cancellation", "pending_cancellation"),
        ("cancel", "cancelled"),
        ("complete", "completed"),
        ("fail", "failed"),
    ],
)
def test_each_trigger_leads_to_one_state(trigger: str, leads_to: str) -> None:
    assert lifecycle.destination(Trigger(trigger)) == leads_to
    assert {edge.dest.value for edge in lifecycle.edges(Trigger(trigger))} == {leads_to}


def test_only_a_running_job_may_commit() -> None:
    assert lifecycle.COMMITTABLE.value == "running"


def test_completed_means_committed_and_giving_up_means_not_committed() -> None:
    assert {state.value for state in lifecycle.COMMITTED_STATES} == {"completed"}
    assert {state.value for state in lifecycle.UNCOMMITTED_STATES} == {"pending", "cancelled", "failed"}


def test_cancelled_alone_is_written_with_a_receipt() -> None:
    assert {state.value for state in lifecycle.RECEIPTED_STATES} == {"cancelled"}
