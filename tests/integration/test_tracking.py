"""Work that was started elsewhere: a job whose only run is a given handle, found by it alone, and only its owner's."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import structs

from adapters.base import RunStatus
from control_plane.errors import BadInput, Conflict, Forbidden, NotCancellable
from control_plane.inputs import ExternalResult
from control_plane.intake import NewJob
from control_plane.jobs import Closure, Handle, Job, JobType, Outcome, Waiting, check_evidence
from control_plane.lifecycle import JobState
from control_plane.planes import DataPlane, Owner, Tracking
from control_plane.scope import Scope
from control_plane.work import Assignment, Executor, Hold, Settlement
from tests.doubles.memory_engine import INCARNATION, MemoryEngine
from tests.integration.api import Api, plane_path, served
from tests.integration.given import ASKER, EXECUTOR, SUBMITTER, Given, receipt_at
from tests.integration.test_rounds import Bench, started

DBT = Tracking(users=["dbt"], warehouses=["LOADING"])
QUERY = "01b1-query"


def allowing(given: Given, tracking: Tracking = DBT) -> DataPlane:
    return given.intake.allow_tracking(given.plane.data_plane_id, tracking)


def track(given: Given, name: str | None = QUERY, *, scope: Scope | None = None, **fields: Any) -> Job:
    whole: dict[str, Any] = {"type": JobType.EXTERNAL, "input": {}, "handle": name} | fields
    intake = given.intake if scope is None else given.intake.within(scope)
    return intake.submit(NewJob(given.plane.data_plane_id, **whole), SUBMITTER)


def jobs(given: Given) -> list[Job]:
    return given.intake.jobs().records


def leased(given: Given, name: str = QUERY) -> Assignment:
    """A tracked job's cancellation, requested and claimed."""
    allowing(given)
    given.request(track(given, name).job_id)
    [assignment] = given.claim()
    return assignment


def succeeded(held: Assignment, **fields: Any) -> Settlement:
    result = ExternalResult(Handle("snowflake", "", QUERY), "SUCCESS", held.requested_at)
    return structs.replace(Settlement(held.work.job_id, held.lease, None, result=result), **fields)


# --- tracking


def test_a_tracked_job_runs_from_its_birth_and_is_no_executors(given: Given) -> None:
    allowing(given)

    job = track(given, input={"dag": "nightly"})

    assert (job.state, job.type, job.executor, job.input) == (
        JobState.RUNNING,
        JobType.EXTERNAL,
        None,
        {"dag": "nightly"},
    )
    assert job.handle == Handle("", "", QUERY)
    assert given.moves(job.job_id) == [("submit", None, "pending"), ("start", "pending", "running")]
    assert given.start() == []


def test_a_tracked_job_is_found_again_by_its_key_when_its_plane_allows_it_no_more(given: Given) -> None:
    allowing(given)
    job = track(given, idempotency_key="k")
    allowing(given, Tracking())

    assert track(given, idempotency_key="k") == job
    with pytest.raises(NotCancellable):
        track(given, idempotency_key="another")


def test_tracking_again_under_the_same_key_answers_the_same_job(given: Given) -> None:
    allowing(given)
    first = track(given, idempotency_key="k")

    assert track(given, idempotency_key="k") == first
    with pytest.raises(Conflict) as caught:
        track(given, "another", idempotency_key="k")
    assert caught.value.field == "idempotency_key"
    assert jobs(given) == [first]


def test_a_plane_that_does_not_allow_it_tracks_nothing(given: Given) -> None:
    with pytest.raises(NotCancellable) as never:
        track(given)
    allowing(given)
    allowing(given, Tracking())
    with pytest.raises(NotCancellable) as withdrawn:
        track(given)

    assert never.value.message == withdrawn.value.message
    assert "allow-tracking" in never.value.message
    assert jobs(given) == []


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 501, "a\0b", "\ud800"])
def test_a_handle_that_nobody_could_mean_is_refused(given: Given, name: str | None) -> None:
    allowing(given)

    with pytest.raises(BadInput) as caught:
        track(given, name)

    assert caught.value.field == "handle"
    assert jobs(given) == []


def test_only_work_started_elsewhere_has_a_handle(given: Given) -> None:
    allowing(given)

    with pytest.raises(BadInput) as caught:
        track(given, type=JobType.FORECAST)

    assert caught.value.field == "handle"
    assert jobs(given) == []


def test_only_the_planes_owner_tracks_and_says_whose_work_may_be(given: Given) -> None:
    plane = given.new_plane(collaborators=[2])
    given.intake.allow_tracking(plane.data_plane_id, DBT)
    new = NewJob(plane.data_plane_id, JobType.EXTERNAL, {}, handle=QUERY)
    collaborator = given.intake.within(Scope(2))

    with pytest.raises(Forbidden):
        collaborator.submit(new, SUBMITTER)
    with pytest.raises(Forbidden):
        collaborator.allow_tracking(plane.data_plane_id, Tracking(users=["anybody"]))

    assert given.intake.plane(plane.data_plane_id).tracking == DBT
    assert given.intake.within(Scope(1)).submit(new, SUBMITTER).state is JobState.RUNNING


def test_a_collaborator_sees_neither_the_others_nor_whose_work_is_tracked(given: Given) -> None:
    plane = given.new_plane(collaborators=[2, 3])
    given.intake.allow_tracking(plane.data_plane_id, DBT)
    owner, collaborator = given.intake.within(Scope(1)), given.intake.within(Scope(2))

    seen = collaborator.plane(plane.data_plane_id)

    assert (seen.collaborators, seen.tracking) == ([2], Tracking())
    assert seen in collaborator.planes()
    assert (owner.plane(plane.data_plane_id).collaborators, owner.plane(plane.data_plane_id).tracking) == ([2, 3], DBT)


def test_the_executor_that_a_handle_names_is_recorded_if_it_is_the_planes_own(given: Given) -> None:
    allowing(given)
    other = Executor("job-executor-other", 1)
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id)
    given.dispatch.register(other, data_plane_id=given.new_plane().data_plane_id)

    recorded = [track(given, f"{name}/1/run").executor for name in (EXECUTOR.executor_id, "job-executor-other", "x")]

    assert recorded == [EXECUTOR.executor_id, None, None]


def test_what_its_named_executor_confirms_changes_nothing_of_a_tracked_job(given: Given) -> None:
    allowing(given)
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id)
    job = track(given, f"{EXECUTOR.executor_id}/1/run")
    before = given.everything(job.job_id)

    assert given.dispatch.confirm_lower_incarnations(structs.replace(EXECUTOR, incarnation=2)) == []
    assert given.dispatch.committed(EXECUTOR) == []
    assert given.dispatch.discardable([job.job_id]) == []

    assert given.everything(job.job_id) == before


# --- its cancellation in the store


def test_a_tracked_job_is_closed_as_the_single_run_that_it_is(given: Given) -> None:
    held = leased(given)

    assert (held.closure, held.work.tracked, held.work.executor) == (Closure.SINGLE_RUN, DBT, None)
    assert held.work.handle == Handle("", "", QUERY)


def test_a_tracked_job_is_never_settled_as_never_claimed(given: Given) -> None:
    held = leased(given)

    assert given.intake.settle_never_claimed([given.job(held.work.job_id)]) == []
    receipt = receipt_at(given.clock.now, closure=Closure.NEVER_CLAIMED)
    [settled] = given.dispatch.settle([Settlement(held.work.job_id, held.lease, receipt)], worker="w1")

    assert not settled.landed
    assert given.job(held.work.job_id).state is JobState.PENDING_CANCELLATION


def test_whose_work_may_be_stopped_is_read_at_each_claim(given: Given) -> None:
    held = leased(given)
    given.dispatch.release([Hold(held.work.job_id, held.lease)])
    allowing(given, Tracking())

    [again] = given.claim()

    assert again.work.tracked == Tracking()


def test_a_run_that_succeeded_completes_its_tracked_job_with_the_engines_word(given: Given) -> None:
    held = leased(given)

    [settled] = given.dispatch.settle([succeeded(held)], worker="w1")

    job = given.job(held.work.job_id)
    assert (settled.landed, job.state, job.receipt) == (True, JobState.COMPLETED, None)
    assert job.result is not None
    assert (job.result["engine_status"], job.committed_at) == ("SUCCESS", job.ended_at)
    assert given.moves(job.job_id)[-1] == ("complete", "pending_cancellation", "completed")


def test_a_success_that_is_told_again_lands_once(given: Given) -> None:
    held = leased(given)
    given.dispatch.settle([succeeded(held)], worker="w1")
    before = given.everything(held.work.job_id)

    [again] = given.dispatch.settle([succeeded(held)], worker="w1")

    assert again.landed
    assert given.everything(held.work.job_id) == before


def test_a_success_under_a_lost_lease_changes_nothing(given: Given) -> None:
    held = leased(given)

    [stale] = given.dispatch.settle([succeeded(held, lease=uuid4())], worker="w1")

    assert not stale.landed
    assert given.job(held.work.job_id).state is JobState.PENDING_CANCELLATION


def test_only_a_tracked_job_is_completed_by_its_runs_success(given: Given) -> None:
    held = given.leased()

    [stale] = given.dispatch.settle([succeeded(held)], worker="w1")

    assert not stale.landed
    assert given.job(held.work.job_id).committed_at is None


@pytest.mark.parametrize(
    "fields",
    [
        {"closure": Closure.PERMIT_EXPIRED},
        {"closure": Closure.EXECUTOR_CLOSED},
        {"closure": Closure.NEVER_CLAIMED},
        {"outcome": Outcome.NEVER_STARTED},
        {"outcome": Outcome.FINISHED_UNPUBLISHED},
        {"handle": Handle("memory", "1", "another run")},
        {"handle": None},
    ],
    ids=str,
)
def test_nothing_but_the_stop_of_the_run_that_it_is_cancels_a_tracked_job(given: Given, fields: dict[str, Any]) -> None:
    held = leased(given)
    true: dict[str, Any] = {
        "closure": Closure.SINGLE_RUN,
        "handle": Handle("memory", "1", QUERY),
        "outcome": Outcome.STOPPED,
    }
    lie, truth = (
        Settlement(held.work.job_id, held.lease, receipt_at(given.clock.now, **(true | said))) for said in (fields, {})
    )

    landed = [given.dispatch.settle([settlement], worker="w1")[0].landed for settlement in (lie, truth)]

    assert landed == [False, True]


def test_another_runs_success_completes_no_tracked_job(given: Given) -> None:
    held = leased(given)
    result = ExternalResult(Handle("snowflake", "", "another run"), "SUCCESS")

    [stale] = given.dispatch.settle([succeeded(held, result=result)], worker="w1")

    assert not stale.landed


@pytest.mark.parametrize("closure", [Closure.SINGLE_RUN, Closure.EXECUTOR_CLOSED])
def test_a_closure_that_the_store_knows_better_cancels_no_job(given: Given, closure: Closure) -> None:
    held = given.leased()

    [stale] = given.dispatch.settle([given.settlement(held, closure=closure)], worker="w1")

    assert not stale.landed
    assert given.job(held.work.job_id).state is JobState.PENDING_CANCELLATION


def test_one_success_harms_no_other_settlement_of_its_batch(given: Given) -> None:
    held, other = leased(given), given.leased()

    settled = given.dispatch.settle([given.settlement(other), succeeded(held)], worker="w1")

    assert [item.landed for item in settled] == [True, True]
    assert given.job(other.work.job_id).state is JobState.CANCELLED


def test_a_receipt_for_a_single_run_names_the_run(given: Given) -> None:
    receipt = receipt_at(given.clock.now, closure=Closure.SINGLE_RUN, tag=None)
    check_evidence(receipt)

    with pytest.raises(BadInput) as caught:
        check_evidence(structs.replace(receipt, handle=None))

    assert caught.value.field == "receipt.handle"


# --- a worker's rounds


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def bench(given: Given, engine: MemoryEngine) -> Bench:
    return Bench(given, {given.plane.data_plane_id: engine})


def requested(given: Given, name: str) -> UUID:
    """A tracked run whose cancellation was requested."""
    allowing(given)
    return given.request(track(given, name).job_id, ASKER).job_id


def play(bench: Bench, until: Callable[[], bool], *, then: Callable[[], Callable[[], bool]] | None = None) -> None:
    """Let a worker go on until it is so, and then, if wanted, until that which *then* answers is so, too."""

    async def scenario() -> None:
        async with bench.at_work():
            await bench.until(until)
            if then is not None:
                await bench.until(then())

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("owner", [Owner(user="dbt"), Owner("somebody", "LOADING"), Owner(None, "LOADING", "r")])
def test_an_allowed_run_is_stopped_and_proven_by_its_own_status(
    given: Given, bench: Bench, engine: MemoryEngine, owner: Owner
) -> None:
    name, neighbour = engine.start_elsewhere(owner), engine.start_elsewhere(owner)
    job_id = requested(given, name)

    play(bench, bench.settles(job_id))

    receipt = given.job(job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure, receipt.engine_status) == (
        Outcome.STOPPED,
        Closure.SINGLE_RUN,
        "interrupted",
    )
    assert (receipt.handle, receipt.tag) == (Handle("memory", INCARNATION, name), None)
    assert engine.runs[neighbour].status is RunStatus.ACTIVE


@pytest.mark.parametrize("owner", [Owner(user="finance"), Owner(user="DBT"), Owner(), Owner(role="dbt"), None])
def test_a_run_of_somebody_else_is_not_touched_and_the_reason_is_told(
    given: Given, bench: Bench, engine: MemoryEngine, owner: Owner | None
) -> None:
    name = engine.start_elsewhere(owner) if owner else name_of_a_jobs_run(given, engine)
    job_id = requested(given, name)

    play(bench, bench.waits(job_id, Waiting.NOT_PERMITTED))

    cancellation = given.job(job_id).cancellation
    assert cancellation is not None
    assert cancellation.waiting_detail is not None
    assert name in cancellation.waiting_detail
    assert cancellation.first_stop_at is None
    assert engine.stops == []
    assert all(run.status is RunStatus.ACTIVE for run in engine.runs.values())


@pytest.mark.parametrize("status", [RunStatus.STOPPED, RunStatus.SUCCEEDED, RunStatus.ERRORED])
def test_how_somebody_elses_run_ended_is_none_of_our_business(
    given: Given, bench: Bench, engine: MemoryEngine, status: RunStatus
) -> None:
    name = engine.start_elsewhere(Owner(user="finance"))
    engine.runs[name] = structs.replace(engine.runs[name], status=status, ended_at=given.clock.now)
    job_id = requested(given, name)

    play(bench, bench.waits(job_id, Waiting.NOT_PERMITTED))

    assert given.job(job_id).state is JobState.PENDING_CANCELLATION


def test_nothing_is_removed_of_what_a_tracked_run_wrote(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    job_id = requested(given, engine.start_elsewhere(Owner(user="dbt")))
    engine.outputs[job_id] = "whatever bears its name"

    play(bench, bench.settles(job_id))

    assert job_id in engine.outputs


def name_of_a_jobs_run(given: Given, engine: MemoryEngine) -> str:
    return engine.runs[started(given, engine, requested=False).tag].handle.run_id


def test_once_its_owner_is_allowed_a_waiting_run_is_stopped(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    job_id = requested(given, engine.start_elsewhere(Owner(user="finance")))

    def allow() -> Callable[[], bool]:
        assert engine.stops == []
        allowing(given, Tracking(users=["finance"]))
        return bench.settles(job_id)

    play(bench, bench.waits(job_id, Waiting.NOT_PERMITTED), then=allow)

    assert engine.stops != []


def test_a_run_that_succeeded_first_completes_the_job(given: Given, bench: Bench, engine: MemoryEngine) -> None:
    name = engine.start_elsewhere(Owner(user="dbt"))
    engine.runs[name] = structs.replace(
        engine.runs[name], status=RunStatus.SUCCEEDED, word="SUCCESS", ended_at=given.clock.now
    )
    job_id = requested(given, name)

    play(bench, lambda: given.job(job_id).state is JobState.COMPLETED)

    job = given.job(job_id)
    assert job.result is not None
    assert job.result["engine_status"] == "SUCCESS"
    assert job.result["handle"]["run_id"] == name
    assert engine.stops == []


def test_a_run_that_the_engine_does_not_know_is_never_called_cancelled(
    given: Given, bench: Bench, engine: MemoryEngine
) -> None:
    real = engine.start_elsewhere(Owner(user="dbt"))
    job_id = requested(given, f"{real}-mistyped")

    play(bench, bench.waits(job_id, Waiting.HANDLE_UNKNOWN), then=lambda: lambda: rounds(given, job_id) > 3)

    assert given.job(job_id).state is JobState.PENDING_CANCELLATION
    assert engine.runs[real].status is RunStatus.ACTIVE


def rounds(given: Given, job_id: UUID) -> int:
    cancellation = given.job(job_id).cancellation
    assert cancellation is not None
    return cancellation.rounds


# --- over HTTP


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def tracking_over_http(api: Api, **fields: Any) -> Any:
    body = {"data_plane_id": api.given.plane.data_plane_id, "type": "external", "handle": QUERY} | fields
    return await api.bearer().post("/jobs", body)


@pytest.mark.anyio
async def test_work_started_elsewhere_is_tracked_over_http_where_its_planes_owner_allows_it(given: Given) -> None:
    async with served(given) as api:
        refused = await tracking_over_http(api)
        path = plane_path(given.plane, "/tracking")
        allowed = await api.bearer().call("PUT", path, {"users": ["dbt"]})
        tracked = await tracking_over_http(api)
        forbidden = await api.bearer().call("PUT", path, {})
        refused_again = await tracking_over_http(api)

    assert [answer.status_code for answer in (refused, allowed, tracked, forbidden, refused_again)] == [
        422, 200, 201, 200, 422,
    ]  # fmt: skip
    assert allowed.json()["tracking"] == {"users": ["dbt"], "warehouses": [], "roles": []}
    assert forbidden.json()["tracking"] == {"users": [], "warehouses": [], "roles": []}
    job = tracked.json()
    assert (job["state"], job["handle"]["run_id"], job["input"]) == ("running", QUERY, {})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "field"),
    [({"handle": None}, "handle"), ({"type": "forecast", "input": {}}, "handle"), ({"handle": "x" * 501}, "handle")],
)
async def test_a_bad_handle_is_named_over_http(given: Given, fields: dict[str, Any], field: str) -> None:
    allowing(given)
    async with served(given) as api:
        answer = await tracking_over_http(api, **fields)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"{field}: ")


@pytest.mark.anyio
async def test_a_worker_completes_a_tracked_job_over_http(given: Given) -> None:
    held = leased(given)
    result = {"handle": Handle("snowflake", "", QUERY), "engine_status": "SUCCESS"}
    settlement = {"job_id": held.work.job_id, "lease": held.lease, "receipt": None, "result": result}
    async with served(given) as api:
        path = plane_path(given.plane, "/cancellations/settle")
        both = settlement | {"receipt": receipt_at(given.clock.now)}
        refused = await api.process().post(path, {"worker": "w1", "settlements": [both]})
        settled = await api.process().post(path, {"worker": "w1", "settlements": [settlement]})

    assert refused.status_code == 400
    assert settled.json()["settled"][0]["landed"]
    assert given.job(held.work.job_id).state is JobState.COMPLETED
