"""The ladder of a Connect server's jobs, for whoever climbs it: an executor with its runs, or who cancels for others.

One rung does what the lower ones do as well. A session is never ended under what runs in it: that interrupts like the
rest, and no more, and afterwards GetStatus would tell nothing of what had not heard it.
"""

from adapters.narrative.spark_connect_errors import SESSION_CLOSED, answered
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_names import Operation, Session
from adapters.narrative.spark_connect_ui import Ui
from control_plane.jobs import Rung


class Ladder:
    """On one server and its web UI. Raises LineError."""

    def __init__(self, line: Line, ui: Ui) -> None:
        self._line = line
        self._ui = ui

    async def climb(self, operation: Operation, tag: str, rung: Rung, *, application: str) -> bool:
        """Stop a job's own operation: by its tag; by its id; whatever its session has, and Spark's jobs one by one.

        Whether anybody was told by that for the first time. *application*: the start of the server that it runs on.
        """
        session, operation_id = operation
        told = await self.interrupt(session, tag=tag)
        if rung is not Rung.ASK:
            told |= await self.interrupt(session, operation_id=operation_id)
        if rung is Rung.FORCE:
            told |= await self.interrupt(session)
            told |= await self._ui.kill(application, session.session_id)
        return told

    async def interrupt(self, session: Session, *, tag: str | None = None, operation_id: str | None = None) -> bool:
        """Interrupt by tag, by operation, or all; whether any was that had not been interrupted before."""
        told = await answered(lambda: self._line.interrupt(session, tag=tag, operation_id=operation_id), SESSION_CLOSED)
        return not isinstance(told, str) and bool(told)
