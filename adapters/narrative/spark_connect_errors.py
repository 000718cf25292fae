"""What a call to a Connect server may end with, in our words. Spark names what went wrong by its conditions."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from adapters.base import Trouble
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Waiting

Answer = TypeVar("Answer")

SESSION_CLOSED = "INVALID_HANDLE.SESSION_CLOSED"
SESSION_NOT_FOUND = "INVALID_HANDLE.SESSION_NOT_FOUND"
OPERATION_NOT_FOUND = "INVALID_HANDLE.OPERATION_NOT_FOUND"
CANCELED = "OPERATION_CANCELED"
#: Nothing was learned: the server is away, overloaded or too slow, or the way there is.
SILENT = frozenset(
    {
        StatusCode.ABORTED,
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
    }
)
NOT_ALLOWED = frozenset({StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED})
DETAILS = "grpc-status-details-bin"


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


def translated(error: aio.AioRpcError, *, address: str, user: str) -> LineError:
    """Spark's or gRPC's error; what Spark itself answered bears its condition."""
    code, said = error.code(), " ".join((error.details() or error.code().name).split())
    if (condition := condition_of(error)) is not None:
        return LineError(Waiting.ADAPTER_ERROR, f"{address} answered: {said}", condition)
    if code is StatusCode.DEADLINE_EXCEEDED:
        return LineError(Waiting.PLANE_SILENT, f"{address} did not answer in time")
    if code in SILENT:
        return LineError(Waiting.PLANE_SILENT, f"{address} cannot be reached: {said}")
    if code in NOT_ALLOWED:
        return LineError(Waiting.NOT_PERMITTED, f"{address} refused {user}: {said}")
    if code is StatusCode.UNIMPLEMENTED:
        return LineError(Waiting.ADAPTER_ERROR, f"{address} lacks what Spark Connect has since 4.2: {said}")
    return LineError(Waiting.ADAPTER_ERROR, f"{address} answered {code.name}: {said}")


def condition_of(error: aio.AioRpcError) -> str | None:
    """Spark's error condition, such as ``OPERATION_CANCELED``; None where it was not Spark that answered."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            return _condition_in(status_pb2.Status.FromString(value))
    return None


def _condition_in(status: Any) -> str | None:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.metadata.get("errorClass") or info.reason or None
    return None


async def answered(ask: Callable[[], Awaitable[Answer]], *conditions: str) -> Answer | str:
    """What was answered, or which of these conditions; every other error passes through."""
    try:
        return await ask()
    except LineError as error:
        if error.condition in conditions and error.condition is not None:
            return error.condition
        raise
