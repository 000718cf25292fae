"""The job lifecycle. This table alone says which moves exist; every guard derives from it."""

import logging
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from transitions import Machine

logging.getLogger("transitions").setLevel(logging.WARNING)  # it reports every transition at INFO


class JobState(StrEnum):
    """A job's states, the reference's words; who moves a job out of each."""

    PENDING = "pending"  #: waiting; an executor moves it out by claiming
    RUNNING = "running"  #: an executor holds it
    PENDING_CANCELLATION = "pending_cancellation"  #: somebody asked; a canceller moves it out, with a receipt
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"


class Trigger(StrEnum):
    """What can move a job."""

    START = "start"
    REQUEST_CANCELLATION = "request_cancellation"
    CANCEL = "cancel"
    COMPLETE = "complete"
    FAIL = "fail"


class Move(NamedTuple):
    """One declared move; ``committed`` is the only condition: whether ``committed_at`` is set."""

    trigger: str
    source: list[str]
    dest: str
    conditions: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()


MOVES = (
    Move("start", ["pending"], "running"),
    Move("request_cancellation", ["pending", "running"], "pending_cancellation"),
    Move("cancel", ["pending_cancellation"], "cancelled", unless=("committed",)),
    Move("complete", ["running", "pending_cancellation"], "completed", conditions=("committed",)),
    Move("fail", ["running"], "failed", unless=("committed",)),
)

machine = Machine(
    model=None,
    states=[state.value for state in JobState],  # members would be stored by name
    transitions=[move._asdict() for move in MOVES],
    initial=JobState.PENDING.value,
    auto_transitions=False,  # otherwise every state gains an unguarded to_<state>()
)


class Edge(NamedTuple):
    """One edge of the compiled machine; *committed* is what the commit point must be, or None where it is free."""

    trigger: Trigger
    source: JobState
    dest: JobState
    committed: bool | None


def _compiled() -> Iterator[Edge]:
    for name, event in machine.events.items():
        for source, transitions in event.transitions.items():
            for transition in transitions:
                wanted = {condition.target for condition in transition.conditions}
                yield Edge(
                    Trigger(name), JobState(source), JobState(str(transition.dest)), wanted.pop() if wanted else None
                )


EDGES = tuple(_compiled())
TERMINAL = frozenset(JobState) - {edge.source for edge in EDGES}
COMMITTABLE = JobState.RUNNING  #: committing needs this state: a request that comes before the commit wins
COMMITTED_STATES = frozenset(edge.dest for edge in EDGES if edge.committed is True)  #: only a committed job has these


def _reachable_when_committed() -> frozenset[JobState]:
    reached = {COMMITTABLE}
    while more := {edge.dest for edge in EDGES if edge.source in reached and edge.committed is not False} - reached:
        reached |= more
    return frozenset(reached)


UNCOMMITTED_STATES = frozenset(JobState) - _reachable_when_committed()  #: a committed job never has these
RECEIPTED_STATES = frozenset({JobState.CANCELLED})  #: states that are written with a receipt

_BY_TRIGGER = {trigger: tuple(edge for edge in EDGES if edge.trigger is trigger) for trigger in Trigger}


def edges(trigger: Trigger) -> tuple[Edge, ...]:
    """The edges that *trigger* may take."""
    return _BY_TRIGGER[trigger]


def destination(trigger: Trigger) -> JobState:
    """The one state that *trigger* leads to."""
    return _BY_TRIGGER[trigger][0].dest


def allows(trigger: Trigger, state: JobState, *, committed: bool) -> bool:
    """Whether a job in *state*, committed or not, may take *trigger*."""
    return any(edge.source is state and edge.committed in (None, committed) for edge in _BY_TRIGGER[trigger])
