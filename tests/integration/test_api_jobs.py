"""Jobs over HTTP: submitting, looking, listing, running, and who sees which."""

import itertools
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from control_plane.intake import NewJob
from control_plane.jobs import ApiUser, JobType
from control_plane.planes import DataPlane
from control_plane.scope import Scope
from control_plane.work import Executor
from tests.integration.api import FOREIGN_COMPANY, Api, Bearer, job_path, plane_path, served, submission
from tests.integration.given import EXECUTOR, INPUTS, SUBMITTER, VIEW_INPUT, Given

pytestmark = pytest.mark.anyio

#: The page's example, by hand but for its two SQL texts.
SEED_INPUT = msgspec.json.decode(files("workers.demo").joinpath("materialize_view.json").read_bytes())
SEED_EXECUTOR = Executor("job-executor-98e1f48e-bf54-4f11-bbd1-73c445120266", 1)
SEED_RESULT = {
    "dataset_id": 6404,
    "snapshot_id": 739881302291276700,
    "recalculation_id": "abf9a2ec-426b-4751-bd16-fcb435061925",
}
COLLABORATOR = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    async with served(given) as api:
        yield api


# --- submitting ------------------------------------------------------------------------------------------------------


async def test_the_reference_pages_example_goes_in_and_comes_out_unchanged(api: Api) -> None:
    """Nobody's JSON parser may round the snapshot's id, which is above 2^53."""
    person, plane, pool = api.bearer(company_id=1, user_id=1248), api.given.plane, str(uuid4())
    body = submission(plane, input=SEED_INPUT, execution_cluster="shared", compute_pool_id=pool, idempotency_key="seed")

    submitted = (await person.post("/jobs", body)).json()
    await _run_to_the_end(api, UUID(submitted["job_id"]))
    shown = (await person.get(f"/jobs/{submitted['job_id']}")).json()

    assert submitted["state"] == "pending"
    assert {name: shown[name] for name in _REFERENCE_FIELDS} == {
        "job_id": submitted["job_id"],
        "data_plane_id": str(plane.data_plane_id),
        "request_source": {"type": "api_user", "company_id": 1, "user_id": 1248},
        "state": "completed",
        "type": "materialize-view",
        "input": SEED_INPUT,
        "executor": SEED_EXECUTOR.executor_id,
        "execution_cluster": "shared",
        "compute_pool_id": pool,
        "failures": [],
        "idempotency_key": "seed",
        "result": SEED_RESULT,
        "created_at": "2026-03-01T12:00:00Z",
        "updated_at": "2026-03-01T12:00:00Z",
        "ended_at": "2026-03-01T12:00:00Z",
    }


_REFERENCE_FIELDS = (
    "job_id", "data_plane_id", "request_source", "state", "type", "input", "executor", "execution_cluster",
    "compute_pool_id", "failures", "idempotency_key", "result", "created_at", "updated_at", "ended_at",
)  # fmt: skip


async def _run_to_the_end(api: Api, job_id: UUID) -> None:
    operator, path = api.process(), plane_path(api.given.plane)
    api.register(SEED_EXECUTOR)
    wanted = {"executor": SEED_EXECUTOR, "types": ["materialize-view"], "limit": 1, "incarnation": "engine-1"}
    [claim] = (await operator.post(f"{path}/jobs/claim", wanted)).json()["claims"]
    commit = {"job_id": job_id, "epoch": claim["epoch"], "result": SEED_RESULT, "dataset_id": 6404}
    committed = await operator.post(f"{path}/jobs/commit", {"executor": SEED_EXECUTOR, "commits": [commit]})
    assert committed.json()["publications"] == {str(job_id): {"dataset_id": 6404, "number": 1}}
    completed = await operator.post(f"{path}/jobs/complete", {"executor": SEED_EXECUTOR, "job_ids": [job_id]})
    assert completed.json()["job_ids"] == [str(job_id)]


async def test_a_submission_answers_201_with_the_job_as_it_is_shown_later(api: Api) -> None:
    person = api.bearer()

    answer = await person.post("/jobs", submission(api.given.plane))

    assert answer.status_code == 201
    assert (await person.get(f"/jobs/{answer.json()['job_id']}")).json() == answer.json()


async def test_a_token_without_a_person_stands_in_the_job_by_its_name(api: Api) -> None:
    script = api.bearer(name="nightly")

    answer = await script.post("/jobs", submission(api.given.plane))

    assert answer.json()["request_source"] == {"type": "process", "name": "token:nightly"}


async def test_a_retry_names_the_job_that_it_repeats(api: Api) -> None:
    failed = api.given.failed()

    answer = await api.bearer().post("/jobs", submission(api.given.plane, retry_of=failed))

    assert (answer.status_code, answer.json()["retry_of"]) == (201, str(failed))


async def test_a_retry_of_another_companys_job_is_a_retry_of_no_job(api: Api) -> None:
    plane = api.plane_of(FOREIGN_COMPANY)
    stranger = api.bearer(company_id=FOREIGN_COMPANY)

    foreign = await stranger.post("/jobs", submission(plane, retry_of=(asked := api.given.failed())))
    missing = await stranger.post("/jobs", submission(plane, retry_of=(nobodys := uuid4())))

    assert (foreign.status_code, missing.status_code) == (404, 404)
    assert foreign.json()["detail"].replace(str(asked), "…") == missing.json()["detail"].replace(str(nobodys), "…")


@pytest.mark.parametrize("where", ["header", "body", "both"])
async def test_the_same_key_and_the_same_job_answer_the_job_that_there_is(api: Api, where: str) -> None:
    person, options = api.bearer(), _with_key("k-1", where)

    first = await person.post("/jobs", submission(api.given.plane, **options["body"]), headers=options["headers"])
    again = await person.post("/jobs", submission(api.given.plane, **options["body"]), headers=options["headers"])

    assert first.json()["idempotency_key"] == "k-1"
    assert again.json() == first.json()
    assert (await person.get("/jobs")).json()["total_records"] == 1


def _with_key(key: str, where: str) -> dict[str, dict[str, str]]:
    return {
        "headers": {} if where == "body" else {"Idempotency-Key": key},
        "body": {} if where == "header" else {"idempotency_key": key},
    }


@pytest.mark.parametrize(
    "other",
    [
        {"type": "nql-forecast", "input": INPUTS[JobType.NQL_FORECAST]},
        {"input": VIEW_INPUT | {"dataset_id": 7}},
        {"execution_cluster": "shared"},
        {"compute_pool_id": "5d0ae7a5-76b9-4f0e-a6a1-0d5c5a8a4f5e"},
    ],
    ids=["type", "input", "execution_cluster", "compute_pool_id"],
)
async def test_the_same_key_with_another_job_is_a_conflict_and_makes_nothing(api: Api, other: dict[str, Any]) -> None:
    person = api.bearer()
    await person.post("/jobs", submission(api.given.plane, idempotency_key="k-1"))

    answer = await person.post("/jobs", submission(api.given.plane, idempotency_key="k-1", **other))

    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")
    assert (await person.get("/jobs")).json()["total_records"] == 1


async def test_a_header_that_says_another_key_than_the_body_is_refused(api: Api) -> None:
    person, body = api.bearer(), submission(api.given.plane, idempotency_key="k-1")

    answer = await person.post("/jobs", body, headers={"Idempotency-Key": "k-2"})

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-input")
    assert (await person.get("/jobs")).json()["total_records"] == 0


async def test_two_companies_may_use_the_same_key(api: Api) -> None:
    shared = api.given.new_plane(collaborators=[COLLABORATOR])
    body = submission(shared, idempotency_key="k-1")

    answers = [await api.bearer(company_id=company).post("/jobs", body) for company in (1, COLLABORATOR)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["job_id"] != answers[1].json()["job_id"]


# --- who sees what ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shared_plane(api: Api) -> DataPlane:
    """Company 1's plane, shared with a collaborator; each of the two has a job on it."""
    plane = api.given.new_plane(collaborators=[COLLABORATOR])
    _submit(api, plane, 1)
    _submit(api, plane, COLLABORATOR)
    return plane


def _submit(api: Api, plane: DataPlane, company_id: int) -> UUID:
    new = NewJob(plane.data_plane_id, JobType.MATERIALIZE_VIEW, VIEW_INPUT)
    return api.given.intake.within(Scope(company_id)).submit(new, ApiUser(company_id, company_id)).job_id


async def _companies(bearer: Bearer, **query: Any) -> list[int]:
    """Whose jobs are listed."""
    answer = (await bearer.get("/jobs", **query)).json()
    assert answer["total_records"] == len(answer["records"])
    return sorted(record["request_source"]["company_id"] for record in answer["records"])


async def test_a_company_lists_its_own_jobs_wherever_they_run(api: Api, shared_plane: DataPlane) -> None:
    _submit(api, api.plane_of(COLLABORATOR), COLLABORATOR)

    listed = {company: await _companies(api.bearer(company_id=company)) for company in (1, COLLABORATOR, 4)}

    assert listed == {1: [1], COLLABORATOR: [COLLABORATOR] * 2, 4: []}


async def test_of_its_own_plane_a_company_lists_everybodys_jobs_and_a_collaborator_only_its_own(
    api: Api, shared_plane: DataPlane
) -> None:
    listed = {
        company: await _companies(api.bearer(company_id=company), data_plane_id=shared_plane.data_plane_id)
        for company in (1, COLLABORATOR, 4)
    }

    assert listed == {1: [1, COLLABORATOR], COLLABORATOR: [COLLABORATOR], 4: []}


async def test_a_planes_process_lists_everybodys_jobs_on_its_plane(api: Api, shared_plane: DataPlane) -> None:
    _submit(api, api.given.plane, 1)
    operator = api.bearer(plane=shared_plane)

    listed = await _companies(operator)
    elsewhere = await _companies(operator, data_plane_id=api.given.plane.data_plane_id)

    assert (listed, elsewhere) == ([1, COLLABORATOR], [])


@pytest.mark.parametrize("rest", ["", "/events"])
async def test_a_job_is_seen_by_who_submitted_it_and_by_the_owner_of_its_plane(
    api: Api, shared_plane: DataPlane, rest: str
) -> None:
    jobs = {company: _submit(api, shared_plane, company) for company in (1, COLLABORATOR)}

    seen = {
        (company, whose): (await api.bearer(company_id=company).get(job_path(job_id, rest))).status_code
        for company, (whose, job_id) in itertools.product((1, COLLABORATOR, 4), jobs.items())
    }

    assert {pair for pair, status in seen.items() if status == 200} == {
        (1, 1),
        (1, COLLABORATOR),
        (COLLABORATOR, COLLABORATOR),
    }
    assert set(seen.values()) == {200, 404}


async def test_a_collaborator_submits_to_a_shared_plane_and_a_stranger_does_not(
    api: Api, shared_plane: DataPlane
) -> None:
    answers = {
        company: (await api.bearer(company_id=company).post("/jobs", submission(shared_plane))).status_code
        for company in (COLLABORATOR, 4)
    }

    assert answers == {COLLABORATOR: 201, 4: 404}


# --- listing ---------------------------------------------------------------------------------------------------------


async def test_every_filter_narrows_the_listing_and_filters_combine(api: Api) -> None:
    given, other = api.given, api.given.new_plane()
    running = given.running(JobType.SAMPLE)
    view = given.pending()
    another_set = given.pending(input=VIEW_INPUT | {"dataset_id": 7})
    elsewhere = given.pending(plane=other)
    everything = {running.job_id, view.job_id, another_set.job_id, elsewhere.job_id}
    plane = str(given.plane.data_plane_id)

    listed = {
        filters: await _listed(api.bearer(), dict(filters))
        for filters in (
            (),
            (("data_plane_id", plane),),
            (("dataset_id", "7"),),
            (("type", "datasets_sample"),),
            (("state", "pending"),),
            (("state", "pending"), ("type", "materialize-view"), ("dataset_id", "6402"), ("data_plane_id", plane)),
            (("state", "cancelled"),),
        )
    }

    assert list(listed.values()) == [
        everything,
        everything - {elsewhere.job_id},
        {another_set.job_id},
        {running.job_id},
        everything - {running.job_id},
        {view.job_id},
        set(),
    ]


async def _listed(bearer: Bearer, query: dict[str, str]) -> set[UUID]:
    return {UUID(record["job_id"]) for record in (await bearer.get("/jobs", **query)).json()["records"]}


async def test_the_listing_is_ordered_as_asked_newest_first_by_default(api: Api) -> None:
    given, person = api.given, api.bearer()
    jobs = {}
    for name in ("first", "second", "third"):
        jobs[str(given.pending().job_id)] = name
        given.clock.advance(1)
    given.request(UUID(next(iter(jobs))))  # the first is the last that was touched

    orders = ["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc", None]
    listed = {
        order: [
            jobs[record["job_id"]]
            for record in (await person.get("/jobs", **{"order_by": order} if order else {})).json()["records"]
        ]
        for order in orders
    }

    assert listed == {
        "created_at_asc": ["first", "second", "third"],
        "created_at_desc": ["third", "second", "first"],
        "updated_at_asc": ["second", "third", "first"],
        "updated_at_desc": ["first", "third", "second"],
        None: ["third", "second", "first"],
    }


@pytest.mark.parametrize(("offset", "page", "records"), [(0, 1, 2), (2, 2, 2), (4, 3, 1), (6, 4, 0), (1, 1, 2)])
async def test_pages_say_where_they_stand_and_how_many_there_are(
    api: Api, offset: int, page: int, records: int
) -> None:
    for _ in range(5):
        api.given.pending()

    answer = (await api.bearer().get("/jobs", per_page=2, offset=offset)).json()

    assert list(answer) == ["current_page", "total_records", "total_pages", "records"]
    assert (answer["current_page"], answer["total_records"], answer["total_pages"]) == (page, 5, 3)
    assert len(answer["records"]) == records


@pytest.mark.parametrize("offset", [2**31, 2**53])
async def test_a_page_far_beyond_the_last_is_empty(api: Api, offset: int) -> None:
    api.given.pending()

    answer = await api.bearer().get("/jobs", offset=offset)

    assert (answer.status_code, answer.json()["total_records"], answer.json()["records"]) == (200, 1, [])


async def test_pages_one_after_another_hold_every_job_once(api: Api) -> None:
    jobs = {str(api.given.pending().job_id) for _ in range(5)}  # all of one moment: the id decides
    person = api.bearer()

    pages = [(await person.get("/jobs", per_page=2, offset=offset)).json()["records"] for offset in (0, 2, 4)]

    assert sorted(record["job_id"] for page in pages for record in page) == sorted(jobs)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("per_page=0", "per_page"),
        ("per_page=501", "per_page"),
        ("per_page=many", "per_page"),
        ("offset=-1", "offset"),
        ("offset=9223372036854775808", "offset"),
        ("dataset_id=0", "dataset_id"),
        ("data_plane_id=7", "data_plane_id"),
        ("type=dance", "type"),
        ("state=asleep", "state"),
        ("order_by=size", "order_by"),
        ("colour=red", "colour"),
        ("state=pending&state=running", "state"),
        ("offset=0&offset=0", "offset"),
    ],
)
async def test_a_filter_out_of_its_range_is_refused_by_name(api: Api, query: str, field: str) -> None:
    answer = await api.bearer().get(f"/jobs?{query}")

    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (400, field)


@pytest.mark.parametrize(
    ("query", "allowed"), [("type=dance", "nql-forecast"), ("state=asleep", "pending"), ("colour=red", "order_by")]
)
async def test_a_filter_that_is_refused_is_told_what_is_allowed(api: Api, query: str, allowed: str) -> None:
    answer = await api.bearer().get(f"/jobs?{query}")

    assert allowed in answer.json()["detail"]


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events_tell_every_move_with_who_when_and_why(api: Api) -> None:
    claim = api.given.running()
    person = api.bearer(user_id=7)
    await person.post(job_path(claim.job_id, "/request-cancellation"), {"reason": "the wrong month"})

    events = (await person.get(job_path(claim.job_id, "/events"))).json()["records"]

    moment = "2026-03-01T12:00:00Z"
    submitter = msgspec.to_builtins(SUBMITTER)
    executor = {"type": "process", "name": EXECUTOR.executor_id}
    asker = {"type": "api_user", "company_id": 1, "user_id": 7}
    assert [tuple(event.values()) for event in events] == [
        ("submit", None, "pending", submitter, None, moment),
        ("start", "pending", "running", executor, None, moment),
        ("request_cancellation", "running", "pending_cancellation", asker, "the wrong month", moment),
    ]
    assert list(events[0]) == ["move", "from_state", "to_state", "actor", "reason", "moved_at"]


# --- running ---------------------------------------------------------------------------------------------------------


async def test_running_a_job_claims_it_for_the_executor(api: Api) -> None:
    job = api.given.pending()

    answer = await api.process().post(job_path(job.job_id, "/run"), {"executor": EXECUTOR})

    assert (answer.status_code, answer.json()["state"], answer.json()["executor"]) == (
        200,
        "running",
        EXECUTOR.executor_id,
    )
    assert answer.json()["claim"]["job_id"] == str(job.job_id)
    assert answer.json()["claim"]["permit_seconds"] == api.given.plane.permit_seconds


async def test_running_a_job_again_under_its_epoch_answers_the_same_claim(api: Api) -> None:
    job, operator, body = api.given.pending(), api.process(), {"executor": EXECUTOR, "epoch": uuid4()}

    first = await operator.post(job_path(job.job_id, "/run"), body)
    again = await operator.post(job_path(job.job_id, "/run"), body)

    assert again.json() == first.json()
    assert first.json()["claim"]["epoch"] == str(body["epoch"])
    assert [move for move, _, _ in api.given.moves(job.job_id)] == ["submit", "start"]


@pytest.mark.parametrize("state", ["running", "cancelled", "completed"])
async def test_running_a_job_that_runs_or_ended_well_is_a_no_op_without_a_claim(api: Api, state: str) -> None:
    made = getattr(api.given, state)()
    job_id = made if isinstance(made, UUID) else made.job_id
    before, operator = api.given.everything(job_id), api.process()

    answer = await operator.post(job_path(job_id, "/run"), {"executor": EXECUTOR})

    assert (answer.status_code, answer.json()["state"], answer.json()["claim"]) == (200, state, None)
    assert api.given.everything(job_id) == before


@pytest.mark.parametrize("state", ["failed", "pending_cancellation"])
async def test_running_a_job_that_failed_or_is_to_be_cancelled_is_a_conflict(api: Api, state: str) -> None:
    job_id = api.given.failed() if state == "failed" else api.given.requested().job_id
    before, operator = api.given.everything(job_id), api.process()

    answer = await operator.post(job_path(job_id, "/run"), {"executor": EXECUTOR})

    assert (answer.status_code, state in answer.json()["detail"]) == (409, True)
    assert api.given.everything(job_id) == before


async def test_only_the_planes_own_process_runs_a_job(api: Api) -> None:
    job = api.given.pending()
    api.register()

    answer = await api.bearer().post(job_path(job.job_id, "/run"), {"executor": EXECUTOR})

    assert answer.status_code == 403
    assert api.given.job(job.job_id) == job


async def test_an_executor_that_is_not_registered_on_the_plane_runs_nothing(api: Api) -> None:
    job, operator, other = api.given.pending(), api.process(), Executor("job-executor-elsewhere", 1)
    api.register(other, api.given.new_plane())

    answers = [
        await operator.post(job_path(job.job_id, "/run"), {"executor": executor})
        for executor in (other, Executor("job-executor-unknown", 1))
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert api.given.job(job.job_id) == job
