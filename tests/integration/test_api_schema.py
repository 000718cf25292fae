"""The API keeps to its own description, whatever it is asked: generated requests, one by one and in chains.

The requests are the same in every run. Half of them name things that there are, the others whatever is generated; half
are a person's, who may do all that a person may, the others a process's of the plane.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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

from control_plane import lifecycle
from control_plane.api.app import build_api
from control_plane.api.desk import Desk
from control_plane.jobs import JobType
from control_plane.lifecycle import JobState
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.tokens import NewToken, Permission
from control_plane.work import Assignment, Claim
from tests.integration.api import describe, operations
from tests.integration.given import EXECUTOR, Clock, Given, empty

#: Would end the chain, or has nothing that another could be asked about.
NO_LINKS = {
    "archive_data_plane",
    "create_data_plane",
    "list_executors",
    "list_workers",
    "live",
    "metrics",
    "ready",
    "whoami",
}
#: What no process may do: a person has to be let in, or nothing but the refusal was tried.
OF_PERSONS = {"allow_tracking", "create_data_plane"}
AnyCase = schemathesis.Case[Any]
OPERATIONS = sorted(operations(describe()))
LEARNED = {"job_id", "lease", "epoch"}
REAL = {
    "executor": {"executor_id": EXECUTOR.executor_id, "incarnation": EXECUTOR.incarnation},
    "type": JobType.COSTS,
    "types": list(JobType),
} | dict.fromkeys(["timestamp", "seen_at", "engine_ended_at", "first_stop_at", "rung_since"], "2026-03-01T12:00:00Z")
WHO = strategies.sampled_from(["process", "person"])
EXAMPLES = 20  #: for each operation, of well-formed requests and of others
CHAINS = 20
STEPS = 30


@dataclass
class World:
    """The application, who calls it, and the ids of things that there are."""

    given: Given
    schema: OpenApiSchema
    tokens: dict[str, str]
    ids: dict[str, Any]

    def call(self, case: AnyCase, *, real: bool, who: str) -> schemathesis.Response:
        """Make the request, with the real things' ids or as it is; the answer has to be one that is described.

        What is well-formed may still be refused, for what there is; and what was malformed may not be with real ids.
        """
        excluded: list[Any] = [positive_data_acceptance]
        if self._prepare(case, real=real) or case.method == "GET":  # a query's empty list is not sent at all
            excluded.append(negative_data_rejection)
        response = case.call(headers={"Authorization": f"Bearer {self.tokens[who]}"})
        case.validate_response(response, excluded_checks=excluded)
        return response

    def with_another_job(self) -> "World":
        """The same, with another job whose cancellation was requested as the real one."""
        return replace(self, ids=self.ids | {"job_id": self.given.requested().job_id})

    def learn(self, answer: schemathesis.Response) -> None:
        """Remember the ids that were answered last, for whoever asks next."""
        for found in _objects(answer.json()):
            self.ids.update({name: found[name] for name in LEARNED & found.keys() if found[name]})

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


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
        document = list(document.values())
    for item in document if isinstance(document, list) else ():
        yield from _objects(item)


def a_world(url: str) -> Iterator[World]:
    clock = Clock()
    store = Store(url, clock=clock)
    empty(store)
    given = Given(store, clock)
    held, running = given.leased(), given.running()
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id, token=UUID(int=1))
    desk = Desk(store, Policy())
    schema = schemathesis.openapi.from_asgi("/openapi.json", undying(build_api(desk)), config=SchemathesisConfig())
    yield World(given, schema, tokens_of(desk, given), ids_of(given, held, running))
    desk.close()
    store.close()


def undying(app: ASGIApp) -> ASGIApp:
    """The application without its end: schemathesis would end it after each test."""

    async def without_an_end(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await app(scope, receive, send)

    return without_an_end


def tokens_of(desk: Desk, given: Given) -> dict[str, str]:
    """A person's and a process's of the plane, each with every permission that it can have."""
    of_process = sorted(set(Permission) - {Permission.JOBS_ATTEST})
    wanted = {
        "person": NewToken("fuzz", 1, sorted(Permission), user_id=7),
        "process": NewToken("fuzz", 1, of_process, given.plane.data_plane_id),
    }
    return {who: desk.tokens.create(new)[1] for who, new in wanted.items()}


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


def the_same_each_time(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_answers_as_it_is_described_whatever_it_is_asked(world: World, name: str) -> None:
    operation = world.schema.find_operation_by_id(name)
    let_in: set[str] = set()

    @the_same_each_time(EXAMPLES)
    @hypothesis.given(case=generated(operation), real=strategies.booleans(), who=WHO)
    def ask(case: AnyCase, real: bool, who: str) -> None:
        about = world.with_another_job() if name == "cancel_job" else world  # a person's word ends it, for the others
        if about.call(case, real=real, who=who).status_code < 300:
            let_in.add(who)

    ask()

    assert "person" in let_in or name not in OF_PERSONS


@pytest.mark.timeout(300)  # six hundred requests, each made up first
def test_chains_of_requests_are_answered_as_they_are_described(world: World) -> None:
    """What one operation answers, the next is asked about: jobs are submitted, run, and cancelled."""
    asked = {name: world.schema.find_operation_by_id(name) for name in OPERATIONS if name not in NO_LINKS}
    reached: set[str] = set()

    @the_same_each_time(CHAINS)
    @hypothesis.given(data=strategies.data())
    def ask(data: strategies.DataObject) -> None:
        for step in range(STEPS):
            name = data.draw(strategies.sampled_from(sorted(asked))) if step else "submit_job"
            answer = world.call(data.draw(asked[name].as_strategy()), real=True, who=data.draw(WHO))
            world.learn(answer)
            reached.update(state for state in JobState if f'"state":"{state}"'.encode() in answer.content)

    ask()

    assert reached >= set(JobState) - lifecycle.TERMINAL  # those come by chance
