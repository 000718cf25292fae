"""The API as its tests call it: the real application over a store, in this process, for bearers of any token."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

import httpx
import msgspec
from anyio.lowlevel import checkpoint
from litestar.types import ASGIApp

from control_plane.api.app import build_api
from control_plane.api.desk import Desk
from control_plane.intake import NewPlane
from control_plane.jobs import JobType
from control_plane.planes import DataPlane, Platform
from control_plane.policy import Policy
from control_plane.scope import Scope
from control_plane.store import Store
from control_plane.tokens import NewToken, Permission
from control_plane.work import Executor
from tests.integration.given import EXECUTOR, VIEW_INPUT, Given

EVERY_PERMISSION = frozenset(Permission)
FOREIGN_COMPANY = 2
ALLOWED_SECONDS = 20.0  #: for what should come at once: far below the 30 s after which a long poll answers anyway

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Bearer:
    """Somebody who calls with a token, or without one."""

    http: httpx.AsyncClient
    token: str | None = None

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """One request; a *body* is sent as JSON, and msgspec writes it, which knows our structs."""
        headers = httpx.Headers(options.pop("headers", {}))
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            options["content"] = msgspec.json.encode(body)
        return await self.http.request(method, path, headers=headers, **options)

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self.call("GET", path, params=query or None)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.call("POST", path, body, **options)

    async def delete(self, path: str) -> httpx.Response:
        return await self.call("DELETE", path)


@dataclass(frozen=True)
class Api:
    """The application, and tokens for it; ``given`` reaches the same store by the side door."""

    given: Given
    desk: Desk
    http: httpx.AsyncClient

    def token(
        self,
        permissions: Iterable[Permission] = EVERY_PERMISSION,
        *,
        company_id: int = 1,
        plane: DataPlane | None = None,
        **fields: Any,
    ) -> str:
        """A token's text; one that is bound to a plane cannot attest, so that permission is left out."""
        allowed = set(permissions) - ({Permission.JOBS_ATTEST} if plane else set())
        bound = plane.data_plane_id if plane else None
        new = NewToken(
            **{"name": "tests"} | fields, company_id=company_id, permissions=sorted(allowed), data_plane_id=bound
        )
        return self.desk.tokens.create(new)[1]

    def bearer(self, permissions: Iterable[Permission] = EVERY_PERMISSION, **fields: Any) -> Bearer:
        """Somebody with a new token; the fields are :meth:`token`'s."""
        return Bearer(self.http, self.token(permissions, **fields))

    def process(self, plane: DataPlane | None = None) -> Bearer:
        """A process of the plane, by default of the given one; its executor is registered."""
        where = plane or self.given.plane
        if where == self.given.plane:
            self.register()
        return self.bearer(plane=where, company_id=where.company_id, name="operator")

    def register(self, executor: Executor = EXECUTOR, plane: DataPlane | None = None) -> None:
        self.desk.dispatch.register(
            executor, data_plane_id=(plane or self.given.plane).data_plane_id, token=UUID(int=executor.incarnation)
        )

    def plane_of(self, company_id: int, **fields: Any) -> DataPlane:
        """A new plane of a company."""
        new = NewPlane(**{"display_name": f"plane {uuid4()}", "platform": Platform.NARRATIVE} | fields)
        return self.given.intake.within(Scope(company_id)).create_plane(new)

    async def until_waiting(self, plane: DataPlane, polls: int = 1) -> None:
        """Come back once so many long polls of the plane have looked, have found nothing, and wait for news."""
        async with asyncio.timeout(ALLOWED_SECONDS):
            while len([poll for poll in self._polls(plane) if poll.woken._waiters and not poll.woken.is_set()]) < polls:
                await checkpoint()

    def _polls(self, plane: DataPlane) -> Iterable[Any]:
        known = self.desk.wakeups._planes.get(plane.data_plane_id)
        return known.polls if known else ()


@asynccontextmanager
async def served(given: Given, **options: Any) -> AsyncIterator[Api]:
    """The application over the given store; the options are :func:`build_api`'s."""
    desk = Desk(given.store, Policy())
    async with called(build_api(desk, **options)) as http:
        yield Api(given, desk, http)
    desk.close()


def called(app: ASGIApp) -> httpx.AsyncClient:
    """A client of the application, in this process."""
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # ASGI's types are each library's own
    return httpx.AsyncClient(transport=transport, base_url="http://countermand")


def submission(plane: DataPlane, **fields: Any) -> dict[str, Any]:
    """The body of a submission."""
    whole = {"data_plane_id": plane.data_plane_id, "type": JobType.MATERIALIZE_VIEW, "input": VIEW_INPUT}
    return whole | fields


def plane_path(plane: DataPlane, rest: str = "") -> str:
    return f"/data-planes/{plane.data_plane_id}{rest}"


def job_path(job_id: UUID, rest: str = "") -> str:
    return f"/jobs/{job_id}{rest}"


async def soon(answer: Awaitable[Answer]) -> Answer:
    """The answer; an error where it does not come at once."""
    async with asyncio.timeout(ALLOWED_SECONDS):
        return await answer


class Operation(NamedTuple):
    """One operation of the description."""

    name: str
    method: str
    path: str
    description: dict[str, Any]


def describe() -> dict[str, Any]:
    """The OpenAPI description, as the application answers it; needs no database."""

    async def ask() -> dict[str, Any]:
        desk = Desk(Store("sqlite://"), Policy())
        async with called(build_api(desk)) as http:
            answer: dict[str, Any] = (await http.get("/openapi.json")).json()
        desk.close()
        return answer

    return asyncio.run(ask())


def operations(description: dict[str, Any]) -> dict[str, Operation]:
    """Every operation of a description, by its name."""
    found = [
        Operation(details["operationId"], method.upper(), path, details)
        for path, methods in description["paths"].items()
        for method, details in methods.items()
    ]
    return {operation.name: operation for operation in found}
