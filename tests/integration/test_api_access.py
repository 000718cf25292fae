"""Who is let in: every operation of the description, with every kind of token that should not do."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select

from control_plane import schema
from control_plane.api import callers
from control_plane.errors import Unauthenticated
from control_plane.jobs import FailureCause, Handle, Job, JobType
from control_plane.planes import DataPlane
from control_plane.store import Store
from control_plane.tokens import Permission
from control_plane.work import Assignment, Claim, News
from tests.integration.api import (
    EVERY_PERMISSION,
    Api,
    Bearer,
    describe,
    operations,
    plane_path,
    served,
    soon,
    submission,
)
from tests.integration.given import EXECUTOR, VIEW_RESULT, Clock, Given, empty, receipt_at

pytestmark = pytest.mark.anyio

DESCRIPTION = describe()
OPERATIONS = operations(DESCRIPTION)
OPEN = {"live", "ready"}
CLOSED = sorted(OPERATIONS.keys() - OPEN)
WITH_IDS = [name for name in CLOSED if "{" in OPERATIONS[name].path]
OF_OWNERS = ["allow_tracking"]
OF_ANYBODY = ["whoami"]  # who bears a valid token
OF_THE_BEARER = [*OF_ANYBODY, "metrics"]  # tell of nothing but the bearer's own; what, has tests of its own
OF_READERS = ["list_workers"]
OF_PROCESSES = [
    name
    for name in CLOSED
    if OPERATIONS[name].path.startswith("/data-planes/{data_plane_id}/") and name not in OF_OWNERS + OF_READERS
]

#: By hand, from the design; what is not named here needs jobs:write.
NEEDS = {
    "list_jobs": Permission.JOBS_READ,
    "get_job": Permission.JOBS_READ,
    "list_job_events": Permission.JOBS_READ,
    "get_cancellation": Permission.JOBS_READ,
    "list_data_planes": Permission.DATA_PLANES_READ,
    "get_data_plane": Permission.DATA_PLANES_READ,
    "list_workers": Permission.DATA_PLANES_READ,
    "metrics": Permission.DATA_PLANES_READ,
    "create_data_plane": Permission.DATA_PLANES_WRITE,
    "archive_data_plane": Permission.DATA_PLANES_WRITE,
    "allow_tracking": Permission.DATA_PLANES_WRITE,
}
#: What is not about one thing answers everybody, with what is their own.
OWN = {"list_jobs", "list_data_planes"}
COMPANIES = itertools.count(2)


@dataclass
class World:
    """Company 1's plane, with a pending job, a running one, a claimed cancellation, and a plane that nobody uses."""

    given: Given
    running: Claim
    held: Assignment
    pending: Job
    idle: DataPlane

    @classmethod
    def made_by(cls, given: Given) -> "World":
        held, running = given.leased(), given.running()
        return cls(given, running, held, given.pending(), given.new_plane())

    def path(self, name: str, **ids: UUID) -> str:
        """The operation's path to company 1's things, or to those of the ids."""
        job = self.pending.job_id if name == "run_job" else self.held.work.job_id
        plane = self.idle if name == "archive_data_plane" else self.given.plane
        return OPERATIONS[name].path.format(**{"job_id": job, "data_plane_id": plane.data_plane_id} | ids)

    def body(self, name: str) -> Any:
        """A body that the operation takes; its ids are those of company 1."""
        held = self.held.work.job_id
        hold = {"job_id": held, "lease": self.held.lease}
        epochs = {self.running.job_id: self.running.epoch}
        cause = FailureCause("out of memory", self.given.clock.now, {})
        bodies: dict[str, Callable[[], Any]] = {
            "submit_job": lambda: submission(self.given.plane),
            "request_cancellation": lambda: {"reason": "the wrong month"},
            "cancel_job": lambda: {"attestation": "I looked"},
            "run_job": lambda: {"executor": EXECUTOR},
            "create_data_plane": lambda: {"display_name": f"made {uuid4()}", "platform": {"type": "platform_aws"}},
            "allow_tracking": lambda: {"users": ["dbt"]},
            "beat": lambda: {
                "worker": "w1", "kind": "canceller", "version": "0.1.0", "engines": ["narrative"], "in_flight": 1,
            },
            "claim_cancellations": lambda: {"worker": "w1", "limit": 1},
            "extend_leases": lambda: {"holds": [hold]},
            "settle_cancellations": lambda: {
                "worker": "w1",
                "settlements": [hold | {"receipt": receipt_at(self.given.clock.now)}],
            },
            "postpone_cancellations": lambda: {
                "postponements": [hold | {"waiting": "still_running", "detail": "it runs", "delay_seconds": 5.0}]
            },
            "release_cancellations": lambda: {"holds": [hold]},
            "record_leftovers": lambda: {"removed": {held: ["a table"]}},
            "register_executor": lambda: {"executor": EXECUTOR, "token": UUID(int=EXECUTOR.incarnation)},
            "confirm_lower_incarnations": lambda: {"executor": EXECUTOR},
            "claim_jobs": lambda: {
                "executor": EXECUTOR, "types": list(JobType), "limit": 1, "incarnation": "engine-1",
            },
            "attend_jobs": lambda: {"held": epochs},
            "record_handles": lambda: {
                "handles": {self.running.job_id: Handle("duckdb", "1", "run-5")}, "epochs": epochs,
            },
            "confirm_closed": lambda: {"epochs": epochs},
            "commit_jobs": lambda: {
                "executor": EXECUTOR,
                "commits": [
                    {"job_id": self.running.job_id, "epoch": self.running.epoch, "result": VIEW_RESULT}
                ],
            },
            "complete_jobs": lambda: {"executor": EXECUTOR, "job_ids": [self.running.job_id]},
            "fail_jobs": lambda: {
                "executor": EXECUTOR,
                "failures": [{"job_id": self.running.job_id, "epoch": self.running.epoch, "cause": cause}],
            },
            "list_committed_jobs": lambda: {"executor": EXECUTOR},
            "list_discardable_jobs": lambda: {"job_ids": [self.running.job_id]},
        }  # fmt: skip
        return bodies[name]() if name in bodies else None

    async def ask(self, bearer: Bearer, name: str, **options: Any) -> httpx.Response:
        """The operation's well-formed request for company 1's things."""
        operation = OPERATIONS[name]
        ids = options.pop("ids", {})
        return await bearer.call(operation.method, self.path(name, **ids), self.body(name), **options)


def contents(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Every row but the tokens', whose use is noted."""
    with store.engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in schema.metadata.sorted_tables
            if table is not schema.tokens
        }


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def a_world(url: str) -> Iterator[World]:
    clock = Clock()
    store = Store(url, clock=clock)
    empty(store)
    given = Given(store, clock)
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id, token=UUID(int=EXECUTOR.incarnation))
    yield World.made_by(given)
    store.close()


@pytest.fixture(scope="module")
def world(url: str) -> Iterator[World]:
    """One for all who are refused: that they change nothing is what their tests say."""
    with a_world(url) as world:
        yield world


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    async with served(world.given) as api:
        yield api


def right(api: Api, name: str) -> Bearer:
    """Whoever may call the operation."""
    if name in OF_PROCESSES or name == "run_job":
        return api.bearer({NEEDS.get(name, Permission.JOBS_WRITE)}, plane=api.given.plane)
    more = {Permission.JOBS_ATTEST} if name == "cancel_job" else set()
    return api.bearer({NEEDS.get(name, Permission.JOBS_WRITE)} | more, user_id=7)


def of_other_company(api: Api, name: str) -> Bearer:
    """A new company's bearer with every permission, bound to a plane of its own where the operation wants that."""
    company_id = next(COMPANIES)
    plane = api.plane_of(company_id) if name in OF_PROCESSES else None
    return api.bearer(plane=plane, company_id=company_id)


def revoked(api: Api) -> str:
    text = api.token()
    api.desk.tokens.revoke(UUID(text.split("_")[1]))
    return text


def expired(api: Api) -> str:
    text = api.token(lifetime_seconds=60.0)
    api.given.clock.advance(60)
    return text


def with_a_wrong_secret(api: Api) -> str:
    """One token's name with another's secret."""
    prefix, name, _ = api.token().split("_", 2)
    return f"{prefix}_{name}_{api.token().split('_', 2)[2]}"


def not_bearers(api: Api) -> dict[str, str | None]:
    """Headers that let nobody in, by what is wrong with them."""
    return {
        "no token": None,
        "no scheme": api.token(),
        "another scheme": f"Basic {api.token()}",
        "a scheme alone": "Bearer",
        "an unknown token": f"Bearer ctm_{uuid4().hex}_{'s' * 43}",
        "a wrong secret": f"Bearer {with_a_wrong_secret(api)}",
        "an expired token": f"Bearer {expired(api)}",
        "a revoked token": f"Bearer {revoked(api)}",
    }


# --- the description -------------------------------------------------------------------------------------------------


def test_the_open_operations_say_that_they_need_no_token() -> None:
    without = {name for name, operation in OPERATIONS.items() if operation.description.get("security") == [{}]}

    assert without == OPEN
    assert DESCRIPTION["security"] == [{"bearer": []}]


async def test_every_route_of_the_application_is_in_the_description(api: Api) -> None:
    application: Any = api.http._transport.app  # type: ignore[attr-defined]  # httpx keeps it there
    routes = {
        (method, route.path_format)
        for route in application._app.routes
        for method in route.methods - {"OPTIONS", "HEAD"}
        if not route.path_format.startswith(("/assets/", "/docs", "/openapi.json"))
    }

    described = {(operation.method, operation.path) for operation in OPERATIONS.values()}

    assert described == routes


# --- the right token, so that the others are refused for what they are -----------------------------------------------


@pytest.mark.parametrize("name", CLOSED)
async def test_the_right_token_is_enough(sqlite_url: str, name: str) -> None:
    with a_world(sqlite_url) as world:
        async with served(world.given) as api:
            bearer = right(api, name)

            answer = await world.ask(bearer, name)

    assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize("name", sorted(OPEN))
async def test_health_needs_no_token(api: Api, name: str) -> None:
    answer = await api.http.get(OPERATIONS[name].path)

    assert answer.status_code == 200


# --- nobody ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOSED)
async def test_who_bears_no_valid_token_gets_401_and_changes_nothing(api: Api, world: World, name: str) -> None:
    """Unknown, wrong, expired and revoked tokens are answered with the same words."""
    headers = not_bearers(api)
    before = contents(api.given.store)

    answers = {
        what: await world.ask(Bearer(api.http), name, headers={} if header is None else {"Authorization": header})
        for what, header in headers.items()
    }

    assert {what: answer.status_code for what, answer in answers.items()} == dict.fromkeys(headers, 401)
    assert {answer.headers["www-authenticate"] for answer in answers.values()} == {"Bearer"}
    assert (
        len({answers[what].json()["detail"] for what in headers if what.startswith("a") and "scheme" not in what}) == 1
    )
    assert contents(api.given.store) == before


async def test_a_revocation_is_heard_as_soon_as_a_caller_is_forgotten(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "REMEMBER_SECONDS", 0.0)
    bearer = api.bearer()
    assert bearer.token is not None

    before = await bearer.get("/jobs")
    api.desk.tokens.revoke(UUID(bearer.token.split("_")[1]))
    after = await bearer.get("/jobs")

    assert (before.status_code, after.status_code) == (200, 401)


async def test_a_revocation_is_heard_within_a_second(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    text, loop = api.token(), asyncio.get_running_loop()
    await api.desk.callers.find(text)
    api.desk.tokens.revoke(UUID(text.split("_")[1]))
    later = loop.time() + 1.0

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(loop, "time", lambda: later)
        with pytest.raises(Unauthenticated):
            await api.desk.callers.find(text)


async def test_a_long_poll_ends_when_its_token_is_revoked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "REMEMBER_SECONDS", 0.0)
    plane = api.given.new_plane()  # on which there is nothing to claim
    process = api.process(plane)
    assert process.token is not None
    path = plane_path(plane, "/cancellations/claim")
    waiting = asyncio.create_task(process.post(path, {"worker": "w1", "limit": 1, "wait_seconds": 30}))
    await api.until_waiting(plane)

    api.desk.tokens.revoke(UUID(process.token.split("_")[1]))
    api.desk.wakeups.tell(plane.data_plane_id, News.CANCELLATIONS)

    assert (await soon(waiting)).status_code == 401


# --- somebody else ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CLOSED if name not in OF_ANYBODY])
async def test_who_lacks_the_permission_gets_403_naming_it_and_changes_nothing(
    api: Api, world: World, name: str
) -> None:
    needed = NEEDS.get(name, Permission.JOBS_WRITE)
    bound = api.given.plane if name in OF_PROCESSES or name == "run_job" else None
    bearer, before = api.bearer(EVERY_PERMISSION - {needed}, plane=bound), contents(api.given.store)

    answer = await world.ask(bearer, name)

    assert (answer.status_code, needed in answer.json()["detail"]) == (403, True)
    assert contents(api.given.store) == before


@pytest.mark.parametrize("name", [name for name in CLOSED if name not in ["create_data_plane", *OF_THE_BEARER]])
async def test_another_company_finds_nothing_but_its_own_and_changes_nothing(api: Api, world: World, name: str) -> None:
    bearer = of_other_company(api, name)
    before = contents(api.given.store)

    answer = await world.ask(bearer, name)

    assert answer.status_code == (200 if name in OWN else 404)
    if name in OWN:
        assert answer.json()["records"] == []
    assert contents(api.given.store) == before


@pytest.mark.parametrize("name", [name for name in CLOSED if name not in OF_THE_BEARER])
async def test_a_token_bound_to_another_plane_finds_nothing_of_this_one_and_changes_nothing(
    api: Api, world: World, name: str
) -> None:
    other = api.given.new_plane()
    bearer, before = api.bearer(plane=other), contents(api.given.store)

    answer = await world.ask(bearer, name)

    assert contents(api.given.store) == before
    assert answer.status_code == {"create_data_plane": 403}.get(name, 200 if name in OWN else 404)
    if name in OWN:
        found = [plane["data_plane_id"] for plane in answer.json()["records"]]
        assert found == ([str(other.data_plane_id)] if name == "list_data_planes" else [])


@pytest.mark.parametrize("name", OF_PROCESSES)
async def test_what_a_planes_processes_ask_wants_a_token_that_is_bound_to_it(api: Api, world: World, name: str) -> None:
    before = contents(api.given.store)

    answer = await world.ask(api.bearer(), name)

    assert answer.status_code == 403
    assert contents(api.given.store) == before


@pytest.mark.parametrize("name", OF_OWNERS)
async def test_a_planes_process_cannot_say_whose_work_may_be_stopped_on_it(api: Api, world: World, name: str) -> None:
    before = contents(api.given.store)

    answer = await world.ask(api.process(), name)

    assert answer.status_code == 403
    assert contents(api.given.store)["data_planes"] == before["data_planes"]


@pytest.mark.parametrize("name", WITH_IDS)
async def test_what_is_anothers_and_what_does_not_exist_are_not_told_apart(api: Api, world: World, name: str) -> None:
    """By status, headers and body, but for the path that was asked and the id of the log line."""
    bearer, nobodys = of_other_company(api, name), uuid4()

    foreign = await world.ask(bearer, name)
    missing = await world.ask(bearer, name, ids={"job_id": nobodys, "data_plane_id": nobodys})

    assert seen(foreign, world.path(name)) == seen(missing, world.path(name, job_id=nobodys, data_plane_id=nobodys))


def seen(answer: httpx.Response, path: str) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
    """What tells an answer from another, with the ids that were asked for blanked out."""
    problem = answer.json()
    assert problem.pop("instance") == path
    assert UUID(problem.pop("log_id")).version
    ids = [part for part in path.split("/") if part.count("-") == 4]
    for asked in ids:
        problem["detail"] = problem["detail"].replace(asked, "…")
    return answer.status_code, sorted(answer.headers.items()), problem
