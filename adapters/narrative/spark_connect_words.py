"""What a Connect server says of an operation, and what may be concluded from it."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from msgspec import structs

from adapters.base import ENDED, Run, RunStatus
from adapters.narrative.spark_connect_names import ENGINE, Identity, Operation, is_uuid, session_of
from adapters.narrative.spark_connect_sight import Sight, Traces
from control_plane.jobs import Handle

STATUSES = {
    "RUNNING": RunStatus.ACTIVE,
    "TERMINATING": RunStatus.ACTIVE,  #: also of what has finished, and whose answer nobody has let go of yet
    "SUCCEEDED": RunStatus.SUCCEEDED,
    "FAILED": RunStatus.ERRORED,
    "CANCELLED": RunStatus.STOPPED,
}
TERMINATING = "TERMINATING"
UNKNOWN = "UNKNOWN"  #: no operation of that name, or one that ended half an hour ago


def run_of(job_id: UUID, tag: str, operation_id: str, state: str, here: Identity) -> Run:
    """A job's own run."""
    handle = Handle(ENGINE, here.incarnation, operation_id)
    return Run(job_id, tag, handle, STATUSES.get(state, RunStatus.UNKNOWN), state)


def operation_named(run: Run, user: str) -> Operation | None:
    """A job's own run is in the job's own session; another's is named in full."""
    if run.owner is not None:
        return Operation.named(run.handle.run_id)
    return Operation(session_of(user, run.tag), run.handle.run_id) if is_uuid(run.handle.run_id) else None


def operations_named(runs: Iterable[Run], user: str) -> list[Operation]:
    """Those of the runs whose names are an operation's."""
    return [operation for run in runs if (operation := operation_named(run, user)) is not None]


def have_ended(states: Mapping[str, str]) -> bool:
    """Whether none of them is known to go on."""
    return all(STATUSES.get(state) is not RunStatus.ACTIVE for state in states.values())


def is_gone(run: Run) -> bool:
    """Whether nothing is known of how it ended, nor that it did before its session."""
    return run.status is RunStatus.GONE


def wants_a_look(run: Run) -> bool:
    """Whether the web UI has a say in it: it is said to have ended, or is not there any more."""
    return is_gone(run) or run.status in ENDED


class Outliving:
    """The operations that Connect says have ended, and that went on when the web UI last showed them.

    The UI forgets its oldest jobs (``spark.ui.retainedJobs``), also one of which a task is left: that is no end of it.
    That no thread runs a task of a job that is not shown is.
    """

    def __init__(self) -> None:
        self._names: set[tuple[str, str]] = set()

    def goes_on(self, operation: Operation, sight: Sight) -> bool:
        """Whether this one does, or did when it was last shown."""
        name = (operation.session.session_id, operation.operation_id)
        traces = sight.traces(operation)
        if traces.are_shown:
            self._names.add(name)
        elif sight.shows_job_of(operation) or sight.strays is False:
            self._names.discard(name)
        return traces.computes or name in self._names


def looked_at(run: Run, sight: Sight, user: str, outliving: Outliving) -> Run:
    """The run as both say it is: what has active tasks runs, whatever its status is; so does what never finished."""
    operation = operation_named(run, user)
    if operation is None or not wants_a_look(run):
        return run
    traces = sight.traces(operation)
    goes_on = outliving.goes_on(operation, sight)
    if goes_on or (is_gone(run) and traces.unfinished):
        word = f"{run.word}, {_what_goes_on(traces)}" if goes_on else f"{run.word}, not finished"
        return structs.replace(run, status=RunStatus.ACTIVE, word=word, ended_at=None)
    return structs.replace(run, ended_at=traces.ended_at if run.status in ENDED else None)


def _what_goes_on(traces: Traces) -> str:
    if traces.forgotten and not traces.active_tasks:
        return "and tasks run of jobs that its web UI has forgotten (spark.ui.retainedJobs)"
    return f"{traces.active_tasks} tasks active"
