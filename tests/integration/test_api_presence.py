"""Who calls, who works there, and the metrics, over HTTP."""

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import pytest

from control_plane.intake import NewJob
from control_plane.jobs import Closure, JobType, Outcome
from control_plane.planes import SILENT_AFTER_SECONDS
from control_plane.scope import Scope
from control_plane.tokens import Permission
from tests.integration.api import FOREIGN_COMPANY, Api, job_path, plane_path, served
from tests.integration.given import EXECUTOR, INPUTS, STUCK_AFTER_SECONDS, SUBMITTER, Given, receipt_at

pytestmark = pytest.mark.anyio

PRESENCE = {"worker": "w1", "kind": "canceller", "version": "0.1.0", "engines": ["narrative"], "in_flight": 3}
NOON = "2026-03-01T12:00:00Z"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


# --- who calls -------------------------------------------------------------------------------------------------------


async def test_a_process_learns_which_plane_its_token_is_bound_to_and_what_answers(api: Api) -> None:
    plane = api.given.plane
    bearer = api.bearer({Permission.JOBS_WRITE}, plane=plane, name="worker", lifetime_seconds=3600.0)

    told = (await bearer.get("/whoami")).json()

    shown = (await api.bearer().get(plane_path(plane))).json()
    assert told == {
        "name": "worker",
        "company_id": 1,
        "permissions": ["jobs:write"],
        "expires_at": "2026-03-01T13:00:00Z",
        "data_plane": shown,
        "installation": api.given.dispatch.installation(),
        "version": version("countermand"),
        "now": NOON,
    }


async def test_a_persons_token_is_bound_to_no_plane_and_may_have_no_permission_that_is_asked_for(api: Api) -> None:
    bearer = api.bearer({Permission.WEBHOOKS_READ}, company_id=FOREIGN_COMPANY, user_id=7)

    told = (await bearer.get("/whoami")).json()

    assert (told["company_id"], told["data_plane"], told["expires_at"]) == (FOREIGN_COMPANY, None, None)


# --- who works there -------------------------------------------------------------------------------------------------


async def test_a_worker_that_says_who_it_is_stands_among_the_planes_workers(api: Api) -> None:
    requested = api.given.requested()

    shown = await api.process().post(plane_path(api.given.plane, "/heartbeat"), PRESENCE)
    listed = (await api.bearer().get(plane_path(api.given.plane, "/workers"))).json()

    assert (shown.status_code, shown.json()["last_heartbeat_at"]) == (200, NOON)
    seen = {"first_seen_at": NOON, "last_seen_at": NOON, "silent": False}
    assert listed == {
        "silent": False,
        "records": [PRESENCE | seen],
        "waiting": {"total": 1, "job_ids": [str(requested.job_id)]},
    }


async def test_a_heartbeat_without_a_body_attends_its_plane_all_the_same(api: Api) -> None:
    shown = await api.process().post(plane_path(api.given.plane, "/heartbeat"))

    assert (shown.status_code, shown.json()["last_heartbeat_at"]) == (200, NOON)


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker": ""},
        {"worker": "w" * 151},
        {"worker": "a\0b"},
        {"engines": ["\0"]},
        {"version": "\0"},
        {"kind": "patrol"},
        {"in_flight": -1},
        {"in_flight": 2**31},
        {"engines": [""]},
        {"engines": ["e"] * 101},
        {"more": 1},
    ],
    ids=str,
)
async def test_a_presence_that_cannot_be_right_is_refused_and_notes_nothing(api: Api, wrong: dict[str, Any]) -> None:
    answer = await api.process().post(plane_path(api.given.plane, "/heartbeat"), PRESENCE | wrong)

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-input")
    assert (await api.bearer().get(plane_path(api.given.plane, "/workers"))).json()["records"] == []


async def test_a_cancellation_on_a_silent_plane_says_so_over_http(api: Api) -> None:
    requested = api.given.requested()
    await api.process().post(plane_path(api.given.plane, "/heartbeat"), PRESENCE)
    api.given.clock.advance(SILENT_AFTER_SECONDS)

    told = (await api.bearer().get(job_path(requested.job_id, "/cancellation"))).json()

    detail = f"no worker of the data plane has been heard of since {NOON}"
    assert (told["cancellation"]["waiting"], told["cancellation"]["waiting_detail"]) == ("plane_silent", detail)


async def test_a_planes_process_learns_which_executors_are_registered(api: Api) -> None:
    api.register()
    api.given.running()

    told = (await api.process().call("GET", plane_path(api.given.plane, "/executors"))).json()

    registered = {"executor_id": EXECUTOR.executor_id, "incarnation": 1, "address": EXECUTOR.address, "registered": 1}
    assert told == {"records": [{"executor": registered, "holds_jobs": True}]}


# --- claims under a lease --------------------------------------------------------------------------------------------


async def test_a_claim_of_cancellations_is_answered_again_under_its_lease(api: Api) -> None:
    process, lease = api.process(), uuid4()
    api.given.requested()
    body = {"worker": "w1", "limit": 1, "lease": lease, "wait_seconds": 50}

    first = await process.post(plane_path(api.given.plane, "/cancellations/claim"), body)
    again = await process.post(plane_path(api.given.plane, "/cancellations/claim"), body)

    assert [assignment["lease"] for assignment in first.json()["assignments"]] == [str(lease)]
    assert again.json() == first.json()


# --- metrics ---------------------------------------------------------------------------------------------------------


def lines(text: str) -> set[str]:
    return {line.removeprefix("countermand_") for line in text.splitlines() if not line.startswith("#")}


async def test_metrics_tell_what_waits_and_why_and_what_is_stuck(api: Api) -> None:
    given, plane = api.given, api.given.plane.data_plane_id
    given.dispatch.postpone([given.postponement(given.leased(), 3600)])
    given.clock.advance(STUCK_AFTER_SECONDS + 1)
    given.cancelled()
    given.requested()
    given.dispatch.heartbeat([plane])

    answer = await api.bearer({Permission.DATA_PLANES_READ}).get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert lines(answer.text) == {
        f'cancellations_waiting{{plane="{plane}",reason="still_running"}} 1.0',
        f'cancellations_waiting{{plane="{plane}",reason="none"}} 1.0',
        f'cancellations_stuck{{plane="{plane}"}} 1.0',
        f'plane_silent{{plane="{plane}"}} 0.0',
    }
    families = [line.split()[2:4] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert dict(families) == {
        "countermand_cancellations_waiting": "gauge",
        "countermand_cancellations_stuck": "gauge",
        "countermand_cancellations_settled_total": "counter",
        "countermand_plane_silent": "gauge",
    }


async def test_metrics_count_once_what_was_settled_through_this_process_by_its_outcome(api: Api) -> None:
    given, process, person = api.given, api.process(), api.bearer(user_id=7)
    path = plane_path(given.plane, "/cancellations/settle")
    held, late = given.leased(), given.committed()
    given.request(late.job_id)
    [committed] = given.claim()
    stopped = {
        "job_id": held.work.job_id,
        "lease": held.lease,
        "receipt": receipt_at(given.clock.now, Outcome.STOPPED, closure=Closure.ENGINE_CLOSED),
    }
    completed = {"job_id": late.job_id, "lease": committed.lease, "receipt": None}
    attested = given.requested()
    given.completed()  # whose cancellation nobody asked for
    pending = given.pending()

    for _ in range(2):  # an answer was lost
        await process.post(path, {"worker": "w1", "settlements": [stopped, completed]})
        await person.post(job_path(attested.job_id, "/cancel"), {"attestation": "I looked"})
        await person.post(job_path(pending.job_id, "/request-cancellation"))
    answer = await person.get("/metrics")

    plane = given.plane.data_plane_id
    assert {line for line in lines(answer.text) if "settled_total" in line} == {
        f'cancellations_settled_total{{outcome="{outcome}",plane="{plane}"}} 1.0'
        for outcome in ("stopped", "completed", "attested", "never_started")
    }


async def test_metrics_tell_nothing_of_another_companys_planes(api: Api) -> None:
    """Not even where that shares its plane: what waits there is its owner's affair."""
    shared = api.plane_of(FOREIGN_COMPANY, collaborators=[1])
    own = api.given.intake.within(Scope(1))
    job = own.submit(NewJob(shared.data_plane_id, JobType.COSTS, INPUTS.get(JobType.COSTS, {})), SUBMITTER)
    await api.bearer().post(job_path(job.job_id, "/request-cancellation"))

    mine = (await api.bearer().get("/metrics")).text
    theirs = (await api.bearer(company_id=FOREIGN_COMPANY).get("/metrics")).text
    strangers = (await api.bearer(company_id=3).get("/metrics")).text

    assert str(shared.data_plane_id) not in mine
    assert f'settled_total{{outcome="never_started",plane="{shared.data_plane_id}"}} 1.0' in theirs
    assert str(api.given.plane.data_plane_id) not in theirs
    assert lines(strangers) == set()


async def test_metrics_of_a_token_that_is_bound_tell_of_its_plane_alone(api: Api) -> None:
    other = api.given.new_plane()

    answer = await api.process().call("GET", "/metrics")

    assert str(api.given.plane.data_plane_id) in answer.text
    assert str(other.data_plane_id) not in answer.text
