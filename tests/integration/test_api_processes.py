"""What a plane's processes ask over HTTP: from registering an executor to the settled cancellation."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from control_plane.api.app import build_api
from control_plane.jobs import FailureCause, Handle, JobType
from control_plane.lifecycle import JobState
from control_plane.notify import Listener
from control_plane.planes import DataPlane
from control_plane.statements import Filters
from control_plane.store import Store
from control_plane.work import Claim, Executor, Hold
from tests.integration.api import (
    FOREIGN_COMPANY,
    Api,
    Bearer,
    job_path,
    plane_path,
    served,
    soon,
    submission,
)
from tests.integration.given import EXECUTOR, FORECAST_RESULT, VIEW_RESULT, WHY, Given, receipt_at

pytestmark = pytest.mark.anyio

LONG = 30.0  #: seconds: what a long poll may ask for


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


class Plane:
    """A process of a plane, and what it asks."""

    def __init__(self, api: Api, plane: DataPlane | None = None, bearer: Bearer | None = None) -> None:
        self.plane = plane or api.given.plane
        self.bearer = bearer or api.process(self.plane)

    async def ask(self, rest: str, **body: Any) -> dict[str, Any]:
        answer = await self.bearer.post(plane_path(self.plane, rest), body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def claim_jobs(self, **more: Any) -> list[Claim]:
        whole = {"executor": EXECUTOR, "types": list(JobType), "limit": 10, "incarnation": "engine-1"} | more
        return msgspec.convert((await self.ask("/jobs/claim", **whole))["claims"], list[Claim])

    async def claim_cancellations(self, **more: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("/cancellations/claim", worker="w1", limit=10, **more))[
            "assignments"
        ]
        return found


# --- the whole way ---------------------------------------------------------------------------------------------------


async def test_a_job_goes_from_submission_to_completion(api: Api) -> None:
    person, plane = api.bearer(), Plane(api)
    registered = await plane.ask("/executors/register", executor=EXECUTOR, token=UUID(int=EXECUTOR.incarnation))
    job_id = UUID((await person.post("/jobs", submission(plane.plane))).json()["job_id"])

    [claim] = await plane.claim_jobs()
    attended = await plane.ask("/jobs/attend", held={claim.job_id: claim.epoch})
    handled = await plane.ask(
        "/jobs/handles", handles={job_id: Handle("duckdb", "1", "run-5")}, epochs={job_id: claim.epoch}
    )
    commit = {"job_id": job_id, "epoch": claim.epoch, "result": VIEW_RESULT, "dataset_id": 6402}
    committed = await plane.ask("/jobs/commit", executor=EXECUTOR, commits=[commit])
    to_publish = await plane.ask("/jobs/committed", executor=EXECUTOR)
    completed = await plane.ask("/jobs/complete", executor=EXECUTOR, job_ids=[job_id])

    assert registered == {"installation": api.given.dispatch.installation()}
    assert (claim.job_id, claim.tag.endswith(":run")) == (job_id, True)
    assert attended == {"renewed": [str(job_id)], "closing": []}
    assert handled == completed == {"job_ids": [str(job_id)]}
    assert committed == {"publications": {str(job_id): {"dataset_id": 6402, "number": 1}}}
    assert [each["publication"] for each in to_publish["claims"]] == [{"dataset_id": 6402, "number": 1}]
    shown = (await person.get(job_path(job_id))).json()
    assert (shown["state"], shown["result"]) == ("completed", VIEW_RESULT)
    assert shown["handle"] == {"engine": "duckdb", "incarnation": "1", "run_id": "run-5"}


async def test_a_cancellation_goes_from_request_to_receipt(api: Api) -> None:
    person, plane, claim = api.bearer(), Plane(api), api.given.running()
    await person.post(job_path(claim.job_id, "/request-cancellation"), {"reason": WHY})

    [assignment] = await plane.claim_cancellations()
    hold = {"job_id": claim.job_id, "lease": assignment["lease"]}
    closed = await plane.ask("/jobs/closed", epochs={claim.job_id: claim.epoch})
    extended = await plane.ask("/cancellations/extend", holds=[hold])
    settlement = hold | {"receipt": receipt_at(api.given.clock.now)}
    settled = await plane.ask("/cancellations/settle", worker="w1", settlements=[settlement])
    discardable = await plane.ask("/jobs/discardable", job_ids=[claim.job_id])
    noted = await plane.ask("/cancellations/leftovers", removed={claim.job_id: ["a table"]})

    assert (assignment["reason"], assignment["closure"]) == (WHY, None)
    assert closed == discardable == noted == {"job_ids": [str(claim.job_id)]}
    assert extended["holds"] == [
        {"job_id": str(claim.job_id), "lease": assignment["lease"], "closure": "executor_closed"}
    ]
    assert settled["settled"] == [{"job_id": str(claim.job_id), "landed": True, "settled_at": "2026-03-01T12:00:00Z"}]
    shown = (await person.get(job_path(claim.job_id))).json()
    assert (shown["state"], shown["receipt"]["outcome"]) == ("cancelled", "stopped")
    assert shown["cancellation"]["leftovers"] == ["a table"]


async def test_a_job_without_effects_is_completed_by_its_commit(api: Api) -> None:
    claim, plane = api.given.running(JobType.NQL_FORECAST), Plane(api)
    commit = {"job_id": claim.job_id, "epoch": claim.epoch, "result": FORECAST_RESULT}

    committed = await plane.ask("/jobs/commit", executor=EXECUTOR, commits=[commit])

    assert committed == {"publications": {str(claim.job_id): None}}
    assert api.given.job(claim.job_id).state == "completed"


async def test_a_commit_that_lost_against_a_cancellation_is_missing_from_the_answer(api: Api) -> None:
    claim, plane = api.given.requested(), Plane(api)
    commit = {"job_id": claim.job_id, "epoch": claim.epoch, "result": VIEW_RESULT, "dataset_id": 6402}

    committed = await plane.ask("/jobs/commit", executor=EXECUTOR, commits=[commit])

    assert committed == {"publications": {}}
    assert api.given.job(claim.job_id).state == "pending_cancellation"


async def test_a_failure_is_kept_with_its_cause(api: Api) -> None:
    claim, plane = api.given.running(), Plane(api)
    cause = FailureCause("out of memory", api.given.clock.now, {"code": 137})

    failed = await plane.ask(
        "/jobs/fail", executor=EXECUTOR, failures=[{"job_id": claim.job_id, "epoch": claim.epoch, "cause": cause}]
    )

    assert failed == {"job_ids": [str(claim.job_id)]}
    shown = (await api.bearer().get(job_path(claim.job_id))).json()
    assert (shown["state"], shown["failures"]) == (
        "failed",
        [{"message": "out of memory", "timestamp": "2026-03-01T12:00:00Z", "value": {"code": 137}}],
    )


async def test_a_restarted_executor_closes_what_its_earlier_start_had_claimed(api: Api) -> None:
    claim, plane, restarted = api.given.requested(), Plane(api), Executor(EXECUTOR.executor_id, 2)
    await plane.ask("/executors/register", executor=restarted, token=uuid4())

    closed = await plane.ask("/executors/confirm-lower-incarnations", executor=restarted)

    assert closed == {"job_ids": [str(claim.job_id)]}
    assert (await plane.claim_cancellations())[0]["closure"] == "executor_closed"


async def test_a_copied_folder_is_refused(api: Api) -> None:
    plane = Plane(api)

    answer = await plane.bearer.post(
        plane_path(plane.plane, "/executors/register"), {"executor": EXECUTOR, "token": uuid4()}
    )

    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/refused")


async def test_another_planes_executor_is_refused_without_telling_whose_it_is(api: Api) -> None:
    api.register()
    foreign = api.plane_of(FOREIGN_COMPANY)
    stranger = Plane(api, foreign, api.bearer(plane=foreign, company_id=FOREIGN_COMPANY))

    answer = await stranger.bearer.post(
        plane_path(foreign, "/executors/register"), {"executor": EXECUTOR, "token": uuid4()}
    )

    assert answer.status_code == 404
    assert str(api.given.plane.data_plane_id) not in answer.text


# --- repeated calls --------------------------------------------------------------------------------------------------


async def test_a_job_that_stands_twice_in_a_batch_is_refused_and_changes_nothing(api: Api) -> None:
    process, held = api.process(), api.given.leased()
    before = api.given.everything(held.work.job_id)
    hold = {"job_id": held.work.job_id, "lease": held.lease}
    stopped = hold | {"receipt": receipt_at(api.given.clock.now)}

    answers = [
        await process.post(plane_path(api.given.plane, f"/cancellations/{path}"), body)
        for path, body in {
            "settle": {"worker": "w1", "settlements": [stopped, hold | {"receipt": None}]},
            "release": {"holds": [hold, hold]},
        }.items()
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert all(f"job {held.work.job_id} stands there 2 times" in answer.json()["detail"] for answer in answers)
    assert api.given.everything(held.work.job_id) == before


async def test_a_settlement_that_is_sent_twice_lands_once_and_is_answered_twice(api: Api) -> None:
    held, plane = api.given.leased(), Plane(api)
    settlement = {"job_id": held.work.job_id, "lease": held.lease, "receipt": receipt_at(api.given.clock.now)}

    first = await plane.ask("/cancellations/settle", worker="w1", settlements=[settlement])
    api.given.clock.advance(5)
    again = await plane.ask("/cancellations/settle", worker="w1", settlements=[settlement])

    assert again == first
    assert first["settled"][0]["landed"] is True
    assert [move for move, _, _ in api.given.moves(held.work.job_id)].count("cancel") == 1


async def test_a_stale_settlement_does_not_land(api: Api) -> None:
    held, plane = api.given.leased(), Plane(api)
    settlement = {"job_id": held.work.job_id, "lease": uuid4(), "receipt": receipt_at(api.given.clock.now)}
    before = api.given.everything(held.work.job_id)

    settled = await plane.ask("/cancellations/settle", worker="w1", settlements=[settlement])

    assert settled["settled"] == [{"job_id": str(held.work.job_id), "landed": False, "settled_at": None}]
    assert api.given.everything(held.work.job_id) == before


async def test_a_claim_whose_answer_was_lost_is_answered_again_under_its_epoch(api: Api) -> None:
    plane, epoch = Plane(api), uuid4()
    api.given.pending()

    first = await plane.claim_jobs(epoch=epoch)
    again = await plane.claim_jobs(epoch=epoch)

    assert [claim.epoch for claim in first] == [epoch]
    assert again == first


async def test_a_postponed_cancellation_comes_back_after_its_delay(api: Api) -> None:
    held, plane = api.given.leased(), Plane(api)
    postponement = api.given.postponement(held, delay_seconds=5)

    postponed = await plane.ask("/cancellations/postpone", postponements=[postponement])
    at_once = await plane.claim_cancellations()
    api.given.clock.advance(6)
    later = await plane.claim_cancellations()

    assert postponed == {"postponed": [{"job_id": str(held.work.job_id), "became_stuck": False}]}
    assert at_once == []
    assert [assignment["rounds"] for assignment in later] == [2]


async def test_a_released_cancellation_is_due_at_once(api: Api) -> None:
    held, plane = api.given.leased(), Plane(api)

    released = await plane.ask("/cancellations/release", holds=[Hold(held.work.job_id, held.lease)])

    assert released == {"job_ids": [str(held.work.job_id)]}
    assert len(await plane.claim_cancellations()) == 1


async def test_an_extended_lease_is_not_claimed_by_another(api: Api) -> None:
    held, plane = api.given.leased(), Plane(api)
    hold = Hold(held.work.job_id, held.lease)

    await plane.ask("/cancellations/extend", holds=[hold], lease_seconds=600.0)
    api.given.clock.advance(500)

    assert await plane.claim_cancellations() == []


# --- long polls ------------------------------------------------------------------------------------------------------


async def test_a_waiting_executor_is_given_a_job_as_soon_as_it_is_submitted(api: Api) -> None:
    plane = Plane(api)
    waiting = asyncio.create_task(plane.claim_jobs(wait_seconds=LONG))
    await api.until_waiting(plane.plane)

    submitted = await api.bearer().post("/jobs", submission(plane.plane))

    claims = await soon(waiting)
    assert [str(claim.job_id) for claim in claims] == [submitted.json()["job_id"]]


async def test_a_waiting_canceller_is_given_a_cancellation_as_soon_as_it_is_asked_for(
    api: Api,
) -> None:
    plane, claim = Plane(api), api.given.running()
    waiting = asyncio.create_task(plane.claim_cancellations(wait_seconds=LONG))
    await api.until_waiting(plane.plane)

    await api.bearer().post(job_path(claim.job_id, "/request-cancellation"))

    assignments = await soon(waiting)
    assert [assignment["work"]["job_id"] for assignment in assignments] == [str(claim.job_id)]


async def test_an_attending_executor_is_told_at_once_what_to_close(api: Api) -> None:
    patient = api.given.new_plane(permit_seconds=8 * LONG)
    api.register(EXECUTOR, patient)
    claim, plane = api.given.running(plane=patient), Plane(api, patient)
    waiting = asyncio.create_task(plane.ask("/jobs/attend", held={claim.job_id: claim.epoch}, wait_seconds=LONG))
    await api.until_waiting(patient)

    await api.bearer().post(job_path(claim.job_id, "/request-cancellation"))

    assert await soon(waiting) == {"renewed": [], "closing": [str(claim.job_id)]}


async def test_attending_waits_for_an_eighth_of_the_permit_at_most(api: Api) -> None:
    hasty = api.given.new_plane(permit_seconds=0.4)
    claim, plane = api.given.running(plane=hasty), Plane(api, hasty)

    attended = await soon(plane.ask("/jobs/attend", held={claim.job_id: claim.epoch}, wait_seconds=LONG))

    assert attended == {"renewed": [str(claim.job_id)], "closing": []}


async def test_a_postponed_cancellation_is_worked_at_once_when_its_executor_closes(
    api: Api,
) -> None:
    held, plane = api.given.leased(), Plane(api)
    await plane.ask("/cancellations/postpone", postponements=[api.given.postponement(held, delay_seconds=600)])
    waiting = asyncio.create_task(plane.claim_cancellations(wait_seconds=LONG))
    await api.until_waiting(plane.plane)

    [job] = api.given.rows_of("jobs", held.work.job_id)
    await plane.ask("/jobs/closed", epochs={held.work.job_id: job["epoch"]})

    assert [assignment["closure"] for assignment in await soon(waiting)] == ["executor_closed"]


async def test_a_poll_whose_client_has_gone_claims_nothing_any_more(api: Api) -> None:
    plane, claim, gone = Plane(api), api.given.running(), asyncio.Event()
    waiting = asyncio.create_task(ask_until(gone, api, plane, "/cancellations/claim", worker="w", limit=1))
    await api.until_waiting(plane.plane)

    gone.set()
    await soon(waiting)
    await api.bearer().post(job_path(claim.job_id, "/request-cancellation"))

    assert len(await plane.claim_cancellations()) == 1


async def test_a_poll_that_is_asked_anew_under_its_epoch_starts_no_job_for_nobody(api: Api) -> None:
    """Its connection was cut, and the server has not heard of that: its executor holds what the later poll brings."""
    plane, never, epoch = Plane(api), asyncio.Event(), uuid4()
    how = {"executor": EXECUTOR, "types": list(JobType), "limit": 1, "incarnation": "engine-1", "epoch": epoch}
    cut_off = asyncio.create_task(ask_until(never, api, plane, "/jobs/claim", **how))
    await api.until_waiting(plane.plane)

    waiting = asyncio.create_task(plane.claim_jobs(limit=1, epoch=epoch, wait_seconds=LONG))
    await soon(cut_off)
    await api.until_waiting(plane.plane)
    for _ in range(2):
        await api.bearer().post("/jobs", submission(plane.plane))

    [claim] = await soon(waiting)
    running = [job.job_id for job in api.given.intake.jobs(Filters(state=JobState.RUNNING)).records]
    assert running == [claim.job_id]


async def test_a_poll_that_is_asked_anew_under_its_lease_claims_nothing_for_nobody(api: Api) -> None:
    plane, never, lease = Plane(api), asyncio.Event(), uuid4()
    cut_off = asyncio.create_task(
        ask_until(never, api, plane, "/cancellations/claim", worker="w", limit=1, lease=lease)
    )
    await api.until_waiting(plane.plane)

    assert await plane.claim_cancellations(lease=lease) == []

    await soon(cut_off)
    api.given.requested()
    await api.desk.look_for_all()
    assert len(await plane.claim_cancellations()) == 1


async def test_polls_that_are_asked_anew_are_not_remembered_for_ever(api: Api) -> None:
    plane = Plane(api)
    for _ in range(3):
        await plane.claim_cancellations(lease=uuid4())
        await plane.claim_jobs(epoch=uuid4())

    assert not api.desk.wakeups._asked


async def ask_until(gone: asyncio.Event, api: Api, plane: Plane, rest: str, **fields: Any) -> None:
    """A long poll as a server passes it on, whose client goes away: httpx in this process would cancel it instead."""
    body = msgspec.json.encode(fields | {"wait_seconds": LONG})
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    bearer = f"Bearer {plane.bearer.token}".encode()
    path = plane_path(plane.plane, rest)
    scope: Any = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"authorization", bearer), (b"content-type", b"application/json")], "http_version": "1.1",
    }  # fmt: skip
    await build_api(api.desk)(scope, receive, send)


async def test_news_of_another_plane_wakes_nobody_here_and_a_stopping_server_lets_everybody_go(
    api: Api,
) -> None:
    plane, other = Plane(api), api.given.new_plane()
    waiting = asyncio.create_task(plane.claim_jobs(wait_seconds=LONG))
    await api.until_waiting(plane.plane)

    await api.bearer().post("/jobs", submission(other))
    still_waiting = not waiting.done()
    api.desk.wakeups.stop()

    assert still_waiting
    assert await soon(waiting) == []


async def test_a_long_poll_hears_of_what_another_server_took_in(postgres_url: str, clock: Any) -> None:
    """Two servers on one Postgres: one is asked, the other tells who waits there."""
    store, listens = Store(postgres_url, clock=clock), threading.Event()
    given = Given(store, clock)

    def open_listener() -> Listener:
        listener = Listener(postgres_url)
        listens.set()
        return listener

    async with served(given) as here, served(given) as there, here.desk.wakeups.listening(open_listener):
        await soon(asyncio.to_thread(listens.wait))
        plane = Plane(here)
        waiting = asyncio.create_task(plane.claim_jobs(wait_seconds=LONG))
        await here.until_waiting(plane.plane)

        await there.bearer().post("/jobs", submission(plane.plane))

        assert len(await soon(waiting)) == 1
    store.close()


# --- a plane's own, and nobody else's --------------------------------------------------------------------------------


@contextmanager
def unchanged(given: Given, *job_ids: UUID) -> Iterator[None]:
    before = [given.everything(job_id) for job_id in job_ids]
    yield
    assert [given.everything(job_id) for job_id in job_ids] == before


async def test_a_plane_settles_extends_and_postpones_only_its_own_cancellations(api: Api) -> None:
    own, elsewhere = api.given.leased(), api.given.new_plane()
    foreign = api.given.leased(plane=elsewhere)
    plane, both = Plane(api), (foreign, own)
    holds = [Hold(held.work.job_id, held.lease) for held in both]

    with unchanged(api.given, foreign.work.job_id):
        extended = await plane.ask("/cancellations/extend", holds=holds, lease_seconds=600.0)
        settled = await plane.ask(
            "/cancellations/settle", worker="w1", settlements=[api.given.settlement(held) for held in both]
        )

    assert [hold["job_id"] for hold in extended["holds"]] == [str(own.work.job_id)]
    assert [(each["job_id"], each["landed"]) for each in settled["settled"]] == [
        (str(foreign.work.job_id), False),
        (str(own.work.job_id), True),
    ]


@pytest.mark.parametrize(
    "call",
    ["postpone", "release", "leftovers", "handles", "closed", "commit", "complete", "fail", "discardable"],
)
async def test_what_is_of_another_plane_is_left_out_and_stays_as_it_is(api: Api, call: str) -> None:
    """Its epoch and its lease are right: that it is another plane's is all that is wrong."""
    elsewhere, given, plane = api.given.new_plane(), api.given, Plane(api)
    claim = given.running(plane=elsewhere)
    held = given.leased(plane=elsewhere)
    cause = FailureCause("out of memory", given.clock.now, {})
    epochs = {claim.job_id: claim.epoch}
    commit = {"job_id": claim.job_id, "epoch": claim.epoch, "result": VIEW_RESULT, "dataset_id": 6402}
    if call == "complete":
        given.commit(claim)
    if call == "discardable":
        given.fail(claim)
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "postpone": ("/cancellations/postpone", {"postponements": [given.postponement(held)]}),
        "release": ("/cancellations/release", {"holds": [Hold(held.work.job_id, held.lease)]}),
        "leftovers": ("/cancellations/leftovers", {"removed": {held.work.job_id: ["a table"]}}),
        "handles": ("/jobs/handles", {"handles": {claim.job_id: Handle("duckdb", "1", "r")}, "epochs": epochs}),
        "closed": ("/jobs/closed", {"epochs": epochs}),
        "commit": ("/jobs/commit", {"executor": EXECUTOR, "commits": [commit]}),
        "complete": ("/jobs/complete", {"executor": EXECUTOR, "job_ids": [claim.job_id]}),
        "fail": (
            "/jobs/fail",
            {"executor": EXECUTOR, "failures": [{"job_id": claim.job_id, "epoch": claim.epoch, "cause": cause}]},
        ),
        "discardable": ("/jobs/discardable", {"job_ids": [claim.job_id]}),
    }

    with unchanged(given, claim.job_id, held.work.job_id):
        rest, body = calls[call]
        answer = await plane.ask(rest, **body)

    assert list(answer.values()) in ([[]], [{}])


async def test_an_executor_that_holds_a_job_which_is_not_its_planes_is_told_to_close_it(api: Api) -> None:
    """As for a job that does not exist: the two are not told apart, and neither's permit is renewed."""
    foreign, nobodys, plane = api.given.running(plane=api.given.new_plane()), uuid4(), Plane(api)

    with unchanged(api.given, foreign.job_id):
        attended = await soon(
            plane.ask("/jobs/attend", held={foreign.job_id: foreign.epoch, nobodys: uuid4()}, wait_seconds=LONG)
        )

    assert attended == {"renewed": [], "closing": sorted([str(foreign.job_id), str(nobodys)])}


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        ("/jobs/claim", {"types": ["materialize-view"], "limit": 1, "incarnation": "e"}),
        ("/jobs/commit", {"commits": []}),
        ("/jobs/complete", {"job_ids": []}),
        ("/jobs/fail", {"failures": []}),
        ("/jobs/committed", {}),
        ("/executors/confirm-lower-incarnations", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_another_planes_executor_is_no_executor_here(api: Api, rest: str, body: dict[str, Any]) -> None:
    elsewhere, plane = Executor("job-executor-elsewhere", 1), Plane(api)
    api.register(elsewhere, api.given.new_plane())

    answer = await plane.bearer.post(plane_path(plane.plane, rest), body | {"executor": elsewhere})

    assert answer.status_code == 404


async def test_a_batch_of_nothing_is_answered_with_nothing(api: Api) -> None:
    plane = Plane(api)

    answers = [
        await plane.ask(rest, **body)
        for rest, body in (
            ("/cancellations/extend", {"holds": []}),
            ("/cancellations/settle", {"worker": "w1", "settlements": []}),
            ("/cancellations/postpone", {"postponements": []}),
            ("/cancellations/release", {"holds": []}),
            ("/cancellations/leftovers", {"removed": {}}),
            ("/jobs/handles", {"handles": {}, "epochs": {}}),
            ("/jobs/closed", {"epochs": {}}),
            ("/jobs/commit", {"executor": EXECUTOR, "commits": []}),
            ("/jobs/complete", {"executor": EXECUTOR, "job_ids": []}),
            ("/jobs/fail", {"executor": EXECUTOR, "failures": []}),
            ("/jobs/discardable", {"job_ids": []}),
            ("/jobs/claim", {"executor": EXECUTOR, "types": [], "limit": 1, "incarnation": "e"}),
        )
    ]

    assert all(list(answer.values()) in ([[]], [{}]) for answer in answers)


async def test_an_epoch_without_a_handle_and_a_handle_without_an_epoch_are_left_out(api: Api) -> None:
    claim, plane = api.given.running(), Plane(api)
    handles = {claim.job_id: Handle("duckdb", "1", "run-5")}

    alone = await plane.ask("/jobs/handles", handles=handles, epochs={})
    stale = await plane.ask("/jobs/handles", handles=handles, epochs={claim.job_id: uuid4()})

    assert alone == {"job_ids": []}
    assert stale == {"job_ids": []}
    assert api.given.job(claim.job_id).handle is None


async def test_leftovers_of_a_job_that_nobody_cancelled_are_noted_nowhere(api: Api) -> None:
    job_id, plane = api.given.failed(), Plane(api)

    noted = await plane.ask("/cancellations/leftovers", removed={job_id: ["a table"]})

    assert noted == {"job_ids": []}
