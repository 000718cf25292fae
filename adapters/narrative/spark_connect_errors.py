"""What a call to a Connect server may end with, in our words. Spark names what went wrong by its conditions."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapters.base import Trouble
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Waiting

Answer = TypeVar("Answer")

SESSION_CLOSED = "INVALID_HANDLE.SESSION_CLOSED"
SESSION_NOT_FOUND = "INVALID_HANDLE.SESSION_NOT_FOUND"
OPERATION_NOT_FOUND = "INVALID_HANDLE.OPERATION_NOT_FOUND"
CANCELED = "OPERATION_CANCELED"


class LineError(EngineUnavailable):
    """The server gave no answer that proves anything; *trouble* says why, *condition* is Spark's own, if it spoke."""

    def __init__(self, waiting: Waiting, detail: str, condition: str | None = None) -> None:
        super().__init__(detail)
        self.trouble = Trouble(waiting, detail)
        self.condition = condition

    @property
    def is_silence(self) -> bool:
        """Whether asking again may help; any other answer says what somebody has to mend."""
        return self.trouble.waiting is Waiting.PLANE_SILENT


class BehindError(LineError):
    """What the web UI shows may be too old: it is there, and late, so that a later look may tell."""


async def answered(ask: Callable[[], Awaitable[Answer]], *conditions: str) -> Answer | str:
    """What was answered, or which of these conditions; every other error passes through."""
    try:
        return await ask()
    except LineError as error:
        if error.condition in conditions and error.condition is not None:
            return error.condition
        raise
