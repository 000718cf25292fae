"""How every operation of the API is declared: its path, who may call it, and what else than success it may answer."""

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.types import ASGIApp, Receive, Scope, Send

from control_plane.api.auth import needs
from control_plane.api.problems import MEDIA_TYPE, Problem
from control_plane.tokens import Permission

_SAYS = {
    400: "What was given cannot be right; `detail` names the field and what is allowed. Nothing was changed.",
    401: "No bearer token, or one that is unknown, has expired or was revoked.",
    403: "The token lacks a permission, which `detail` names.",
    404: "There is no such thing, or it is another company's: the two are not told apart.",
    408: "The request was not received and answered in time.",
    409: "It exists, but its state does not allow this. Nothing was changed.",
    413: "The body is too large.",
    422: "Jobs of this type cannot be cancelled on their plane, or not be tracked; `detail` names those that can.",
    500: "A bug of ours, logged under the `log_id`.",
    503: "The database is away, or has to be migrated; try again later.",
}
_ALWAYS = {400, 401, 403, 408, 413, 500, 503}


class Operation(HTTPRouteHandler):
    """A handler whose guards see itself, and whose answer is encoded and sent as it is.

    Litestar copies the handler for each guard and makes two response objects of each answer: together a third of what
    the framework costs a request.
    """

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Run the guards."""
        for guard in self.resolve_guards():
            await guard(connection, self)  # type: ignore[misc]  # Litestar's guards may be plain functions, ours are not

    async def to_response(self, app: Litestar, data: Any, request: Request[Any, Any, Any]) -> ASGIApp:  # noqa: ARG002  # Litestar's signature
        """What was answered, as JSON or as plain text."""
        if isinstance(data, Text):
            return _Answer(self.status_code, data.encode(), b"text/plain; version=0.0.4; charset=utf-8")
        return _Answer(self.status_code, msgspec.json.encode(data))


class Text(str):
    """An answer that is no JSON but text."""

    __slots__ = ()


class _Answer:
    """Sends one body."""

    def __init__(self, status: int, body: bytes, kind: bytes = b"application/json") -> None:
        self._status = status
        self._body = body
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        headers = [(b"content-type", self._kind), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def operation(
    method: str,
    path: str,
    name: str,
    permission: Permission | None,
    *,
    may_answer: frozenset[int] = frozenset({404}),
    creates: bool = False,
    media_type: str = "application/json",
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """A handler's decorator. *name*: the method's in generated clients; *may_answer*: which problems are its own.

    Without a *permission* any valid token is enough.
    """
    return Operation(
        path,
        http_method=HttpMethod(method),
        guards=[needs(permission)],
        operation_id=name,
        status_code=201 if creates else 200,
        media_type=media_type,
        responses={status: problem_response(status) for status in sorted(_ALWAYS | may_answer)},
    )


def problem_response(status: int) -> ResponseSpec:
    return ResponseSpec(
        Problem,
        description=_SAYS[status],
        media_type=MEDIA_TYPE,
        generate_examples=False,
        examples=_EXAMPLES.get(status),
    )


_EXAMPLES = {
    404: [
        Example(
            summary="No such job",
            value={
                "type": "/problems/not-found",
                "title": "Not Found",
                "status": 404,
                "detail": "job_id: there is no job 6f1c3a52-0000-7000-8000-000000000000",
                "instance": "/jobs/6f1c3a52-0000-7000-8000-000000000000",
                "log_id": "01a20a8b-2999-7e87-9618-67905414fdfa",
            },
        )
    ]
}
