"""What a standalone master says of a driver, and what that makes of its run."""

import re
from datetime import datetime
from typing import NamedTuple

from adapters.base import RunStatus

DRIVER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
STATUSES = {
    "SUBMITTED": RunStatus.ACTIVE,  # it waits for a worker with room
    "RUNNING": RunStatus.ACTIVE,
    "RELAUNCHING": RunStatus.ACTIVE,
    "FINISHED": RunStatus.SUCCEEDED,
    "FAILED": RunStatus.ERRORED,
    "KILLED": RunStatus.STOPPED,
}


class Fate(NamedTuple):
    """What the master says of a driver: its ``driverState``, none for a driver that it does not know.

    *told_at* is the master's own clock; it tells no moment of an end. *worker* is where the driver was launched.
    *log_ended*: the application itself has told, in its event log, that it has ended.
    """

    state: str
    message: str = ""
    told_at: datetime | None = None
    worker: str = ""
    log_ended: bool = False

    @property
    def run_status(self) -> RunStatus:
        """Unknown, never gone, for a driver that the master does not know: started again, it forgets live ones.

        It calls a driver ERROR for two reasons. With an exception, from the worker, it never ran or was killed for it.
        Without one, its worker was lost, or did not come back after the master's recovery: it may well run on there.
        Where the master cannot say, the driver's own word for its application's end counts.
        """
        told = STATUSES.get(self.state, RunStatus.UNKNOWN)
        if self.state == "ERROR" and self.message:
            told = RunStatus.ERRORED
        return RunStatus.STOPPED if told is RunStatus.UNKNOWN and self.log_ended else told

    @property
    def is_by_log(self) -> bool:
        """Whether it is the application alone that tells its end: of its executors that says nothing."""
        return self.log_ended and STATUSES.get(self.state) is None and self.run_status is RunStatus.STOPPED

    @property
    def word(self) -> str:
        """The master's own word, and ours for what it does not say."""
        word = self.state or "not known to the master"
        if self.state == "ERROR" and not self.message:
            word = "ERROR (lost with its worker)"
        return f"{word}; its event log has ended" if self.log_ended and word not in STATUSES else word
