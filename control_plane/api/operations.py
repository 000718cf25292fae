"""How every operation of the API is declared: its path, who may call it, and what else than success it may answer."""

from collections.abc import Callable
from typing import Any

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from control_plane.api.auth import needs
from control_plane.api.problems import MEDIA_TYPE, Problem
from control_plane.tokens import Permission

_METHODS: dict[str, Any] = {"GET": get, "POST": post, "PUT": put, "DELETE": delete}
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


def operation(
    method: str,
    path: str,
    name: str,
    permission: Permission,
    *,
    may_answer: frozenset[int] = frozenset({404}),
    creates: bool = False,
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """A handler's decorator. *name*: the method's in generated clients; *may_answer*: which problems are its own."""
    declare: Callable[[Callable[..., Any]], HTTPRouteHandler] = _METHODS[method](
        path,
        guards=[needs(permission)],
        operation_id=name,
        status_code=201 if creates else 200,
        responses={status: problem_response(status) for status in sorted(_ALWAYS | may_answer)},
    )
    return declare


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
