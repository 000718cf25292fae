"""The API keeps to its own description, whatever it is asked: generated requests, one by one and in chains.

The requests are the same in every run. Half of them name things that there are, the others whatever is generated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, strategies
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from control_plane.api.app import build_api
from control_plane.api.desk import Desk
from control_plane.jobs import Assignment, Claim
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.tokens import NewToken, Permission
from tests.integration.api import describe, operations
from tests.integration.given import EXECUTOR, Clock, Given, empty

MADE_BY_CHAINS = {
    ("POST /data-planes", 201),
    ("GET /data-planes/{data_plane_id}", 200),
    ("DELETE /data-planes/{data_plane_id}", 200),
    ("POST /jobs", 201),
    ("GET /jobs/{job_id}", 200),
    ("POST /jobs/{job_id}/request-cancellation", 200),
}
AnyCase = schemathesis.Case[Any]
OPERATIONS = sorted(operations(describe()))
EXAMPLES = 25  #: for each operation, of well-formed requests and of others
CHAINS = 40
STEPS = 20


@dataclass
class World:
    """The application, a token for it, and the ids of things that there are."""

    schema: OpenApiSchema
    token: str  #: of the plane's process
    unbound: str
    ids: Mapping[str, UUID]

    def call(self, case: AnyCase, *, real: bool) -> None:
        """Make the request, with the real things' ids or as it is; the answer has to be one that is described.

        What is well-formed may still be refused, for what there is; and what was malformed may not be with real ids.
        """
        excluded: list[Any] = [positive_data_acceptance]
        if self._prepare(case, real=real) or case.method == "GET":  # a query's empty list is not sent at all
            excluded.append(negative_data_rejection)
        response = case.call(headers={"Authorization": f"Bearer {self.token}"})
        case.validate_response(response, excluded_checks=excluded)

    def _prepare(self, case: AnyCase, *, real: bool) -> bool:
        """Whether anything was changed."""
        given = dict(case.path_parameters), case.body
        if real:
            case.path_parameters.update({name: str(self.ids[name]) for name in case.path_parameters})
        case.body = self._with_ids(case.body, real=real)
        return (dict(case.path_parameters), case.body) != given

    def _with_ids(self, value: Any, *, real: bool) -> Any:
        """The same document that waits for nothing, and with real ids where they are wanted."""
        if isinstance(value, list):
            return [self._with_ids(item, real=real) for item in value]
        if not isinstance(value, dict):
            return value
        changed = {name: self._with_ids(item, real=real) for name, item in value.items()}
        if isinstance(changed.get("wait_seconds"), int | float):
            changed["wait_seconds"] = 0
        if real:
            changed |= {name: str(self.ids[name]) for name in changed.keys() & self.ids.keys()}
            changed |= (
                {"executor": {"executor_id": EXECUTOR.executor_id, "incarnation": 1}} if "executor" in changed else {}
            )
        return changed


def a_world(url: str) -> Iterator[World]:
    clock = Clock()
    store = Store(url, clock=clock)
    empty(store)
    given = Given(store, clock)
    held, running = given.leased(), given.running()
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id, token=UUID(int=1))
    desk = Desk(store, Policy())
    schema = schemathesis.openapi.from_asgi("/openapi.json", undying(build_api(desk)), config=SchemathesisConfig())
    yield World(schema, a_token(desk, given.plane.data_plane_id), a_token(desk, None), ids_of(given, held, running))
    desk.close()
    store.close()


def undying(app: ASGIApp) -> ASGIApp:
    """The application without its end: schemathesis would end it after each test."""

    async def without_an_end(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await app(scope, receive, send)

    return without_an_end


def a_token(desk: Desk, plane: UUID | None) -> str:
    """With every permission that it can have."""
    permissions = sorted(set(Permission) - ({Permission.JOBS_ATTEST} if plane else set()))
    return desk.tokens.create(NewToken("fuzz", 1, permissions, plane))[1]


def ids_of(given: Given, held: Assignment, running: Claim) -> dict[str, UUID]:
    return {
        "data_plane_id": given.plane.data_plane_id,
        "job_id": held.work.job_id,
        "lease": held.lease,
        "epoch": running.epoch,
        "retry_of": running.job_id,
    }


@pytest.fixture(scope="module")
def world(url: str) -> Iterator[World]:
    yield from a_world(url)


def generated(operation: APIOperation[Any, Any, Any, Any]) -> strategies.SearchStrategy[AnyCase]:
    """Requests as they are described, and others."""
    return operation.as_strategy(GenerationMode.POSITIVE) | operation.as_strategy(GenerationMode.NEGATIVE)


def the_same_each_time(examples: int, **more: Any) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_answers_as_it_is_described_whatever_it_is_asked(world: World, name: str) -> None:
    operation = world.schema.find_operation_by_id(name)

    @the_same_each_time(EXAMPLES)
    @hypothesis.given(case=generated(operation), real=strategies.booleans())
    def ask(case: AnyCase, real: bool) -> None:
        world.call(case, real=real)

    ask()


def test_chains_of_requests_are_answered_as_they_are_described(world: World) -> None:
    """What one operation answers, the next is asked about: jobs and planes that a chain itself has made."""
    users = world.schema.include(tag=["Jobs", "Data planes"])
    users.config.generation.update(modes=[GenerationMode.POSITIVE])
    answered: set[tuple[str, int]] = set()

    class Chain(users.as_state_machine()):  # type: ignore[misc]  # made while it runs
        def call(self, case: AnyCase, **_: Any) -> schemathesis.Response:
            response = case.call(headers={"Authorization": f"Bearer {world.unbound}"})
            answered.add((case.operation.label, response.status_code))
            return response

        def validate_response(self, response: schemathesis.Response, case: AnyCase, *_: Any, **__: Any) -> None:
            case.validate_response(response, excluded_checks=[positive_data_acceptance])

    Chain.run(settings=the_same_each_time(CHAINS, stateful_step_count=STEPS))

    assert not {asked for asked in MADE_BY_CHAINS if asked not in answered}, answered
