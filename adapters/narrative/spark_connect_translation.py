"""What gRPC says of a call to a Connect server, in our words."""

from typing import Any

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from adapters.narrative.spark_connect_errors import LineError
from control_plane.jobs import Waiting

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
#: What to set right, by what a wrong setting mostly ends with.
REMEDIES = {
    StatusCode.UNAVAILABLE: (
        "; connect_url in [spark] has to be where the server's log says that it was started, port 15002 by default; "
        "TLS is spoken with /;use_ssl=true, connect_token or connect_ca_file, and not otherwise"
    ),
    StatusCode.UNAUTHENTICATED: "; connect_token in [spark] has to be its token",
}


def translated(error: aio.AioRpcError, *, address: str, user: str) -> LineError:
    """Spark's or gRPC's error; what Spark itself answered bears its condition."""
    code, said = error.code(), " ".join((error.details() or error.code().name).split())
    if (condition := condition_of(error)) is not None:
        return LineError(Waiting.ADAPTER_ERROR, f"{address} answered: {said}", condition)
    remedy = REMEDIES.get(code, "")
    if code is StatusCode.DEADLINE_EXCEEDED:
        return LineError(Waiting.PLANE_SILENT, f"{address} did not answer in time")
    if code in SILENT:
        return LineError(Waiting.PLANE_SILENT, f"{address} cannot be reached: {said}{remedy}")
    if code in NOT_ALLOWED:
        return LineError(Waiting.NOT_PERMITTED, f"{address} refused {user}: {said}{remedy}")
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
