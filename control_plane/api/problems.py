"""Errors as answers: ``application/problem+json`` (RFC 9457) with the reference's six fields, and a log line each."""

from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from msgspec import Struct

from control_plane.errors import (
    BadInput,
    Conflict,
    CountermandError,
    Forbidden,
    NotCancellable,
    NotFound,
    NotGranted,
    NotMigrated,
    Refused,
    StoreUnavailable,
    Unauthenticated,
)
from control_plane.ids import new_id
from control_plane.jobs import ExecutionCluster, JobType
from control_plane.planes import Platform

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class Problem(Struct, frozen=True):
    """What went wrong. Quote *log_id* to whoever runs the service: the log line has it, too."""

    type: str  #: a URI reference; the table of types stands in docs/reference/api.md
    title: str
    status: int
    detail: str  #: one sentence for a person, which begins with the name of the field at fault, where there is one
    instance: str  #: the path that was asked for
    log_id: UUID


#: Where a subclass stands before its base, it wins.
STATUSES: tuple[tuple[type[CountermandError], int], ...] = (
    (NotCancellable, 422),
    (BadInput, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 409),
    (NotMigrated, 503),
    (NotGranted, 503),
    (StoreUnavailable, 503),
)

#: What Litestar refuses by itself, or our time-out, by status.
OF_THE_FRAMEWORK = {
    400: "bad-input",
    404: "no-such-path",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "request-entity-too-large",
}
#: By status, so that a title is the same on every Python: 3.13 renamed some in its own table.
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Request Entity Too Large",
    422: "Unprocessable Entity",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def status_of(error: CountermandError) -> int:
    """The error's HTTP status."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


#: What is told instead of a message that says where the database is: that one is for the log alone.
_TOLD: dict[type[CountermandError], str] = {
    NotMigrated: "the database has to be migrated; whoever runs the service runs `countermand db upgrade`",
    StoreUnavailable: "the database is away; try again later",
}


def answer_known(request: Request[Any, Any, Any], error: CountermandError) -> Response[Problem]:
    """One of our own errors."""
    status = status_of(error)
    if status == 500:
        return answer_unexpected(request, error)
    return _answer(request, status, error.problem_type, error.message, told=_TOLD.get(type(error)))


def answer_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """What the framework refuses: no such path, a method, a body that is too large or has another shape."""
    if error.status_code not in OF_THE_FRAMEWORK:
        return answer_unexpected(request, error)
    return _answer(request, error.status_code, OF_THE_FRAMEWORK[error.status_code], _why(error), headers=error.headers)


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """A bug of ours: nothing of it is told but the id under which it is logged."""
    log_id = new_id()
    log.error("request_failed", method=request.method, path=request.scope["path"], log_id=log_id, exc_info=error)
    detail = "something went wrong here; quote the log_id to whoever runs the service"
    return _respond(
        Problem(_uri("unexpected"), "Internal Server Error", 500, detail, request.scope["path"], log_id), {}
    )


def answer_nesting(request: Request[Any, Any, Any], _error: RecursionError) -> Response[Problem]:
    """JSON that is nested deeper than can be read."""
    return _answer(request, 400, "bad-input", "the body is nested too deeply")


#: Whose members are named where a field of this name is not one of them.
_CHOICES: dict[str, type[StrEnum]] = {"type": JobType, "execution_cluster": ExecutionCluster, "platform.type": Platform}


def _why(error: HTTPException) -> str:
    if isinstance(error, NotFoundException):
        return "there is nothing at this path; /openapi.json lists what there is"
    if isinstance(error, MethodNotAllowedException):
        return "the path does not take this method"
    if not (isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra):
        return f"body: {error.detail}" if error.status_code == 400 else error.detail
    return "; ".join(_sentence(str(item.get("key") or "body"), str(item.get("message"))) for item in error.extra)


def _sentence(field: str, message: str) -> str:
    field = {"data": "body", "key": "Idempotency-Key"}.get(field, field)
    if message == "'data'":
        message = "a JSON object is needed"
    allowed = _CHOICES.get(field)
    if allowed and message.startswith("Invalid enum value"):
        message += f"; allowed are {', '.join(allowed)}"
    return f"{field}: {message}"


def _answer(
    request: Request[Any, Any, Any],
    status: int,
    kind: str,
    detail: str,
    *,
    told: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    log_id = new_id()
    title, path = TITLES[status], request.scope["path"]
    story = {"method": request.method, "path": path, "status": status, "detail": detail, "log_id": log_id}
    if status < 500:
        log.info("request_refused", **story)
    else:
        log.warning("request_refused", **story)
    more = dict(headers or {})
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return _respond(Problem(_uri(kind), title, status, told or detail, path, log_id), more)


def _uri(kind: str) -> str:
    return f"/problems/{kind}"


def _respond(problem: Problem, headers: dict[str, str]) -> Response[Problem]:
    return Response(
        content=problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers,
        type_encoders={UUID: str},
    )  # fmt: skip


def as_bytes(problem: Problem) -> bytes:
    """For what answers below the framework."""
    return msgspec.json.encode(problem)
