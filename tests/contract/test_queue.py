"""What every queue keeps to, in process and over HTTPS, on both databases: one suite for all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec import structs

from control_plane.certificates import tls_context
from control_plane.errors import Refused
from control_plane.jobs import Closure, ExecutionCluster, Handle, JobType
from control_plane.lifecycle import JobState
from control_plane.presence import Presences
from control_plane.scope import Scope
from control_plane.work import EVERYWHERE, Assignment, Commit, Executor, Failure, Hold, Presence, Served
from tests.doubles.misbehaving_server import answer, misbehaving
from tests.integration.api import Api, served
from tests.integration.conftest import clock, given, store, url  # noqa: F401  # fixtures
from tests.integration.given import DATASET, EXECUTOR, LEASE_SECONDS, VIEW_RESULT, Given, cause_at
from workers.line import Bearer, Line, PlaneLine
from workers.local import LocalCancellations, LocalJobs
from workers.queue import CancellationQueue, JobQueue
from workers.remote import RemoteCancellations, RemoteJobs

pytestmark = pytest.mark.anyio

Answer = TypeVar("Answer")

TYPES = list(JobType)
HANDLE = Handle("duckdb", "1", "run-7")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def inline(call: Callable[[], Answer]) -> Answer:
    """A hand-off to no thread."""
    return call()


@dataclass
class Post:
    """Where a worker and an executor of the given plane stand."""

    given: Given
    cancellations: CancellationQueue
    jobs: JobQueue
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    again: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def plane(self) -> UUID:
        return self.given.plane.data_plane_id

    async def claim(self, limit: int = 10, *, lease: UUID | None = None) -> list[Assignment]:
        return await self.cancellations.claim(
            {self.plane: limit}, worker="w1", lease_seconds=LEASE_SECONDS, lease=lease or uuid4()
        )

    async def start(
        self,
        limit: int = 10,
        *,
        epoch: UUID | None = None,
        types: list[JobType] = TYPES,
        clusters: Served = EVERYWHERE,
    ) -> list[Any]:
        return await self.jobs.claim(
            EXECUTOR,
            data_plane_id=self.plane,
            types=types,
            limit=limit,
            incarnation="engine-1",
            epoch=epoch or uuid4(),
            clusters=clusters,
        )


def near(given: Given) -> Post:  # noqa: F811
    return Post(given, LocalCancellations(given.dispatch, inline), LocalJobs(given.dispatch, inline))


def far(given: Given, api: Api, *, wait_seconds: float = 30.0) -> Post:  # noqa: F811
    """Over the API, with a token that is bound to the plane."""
    token = api.token(plane=given.plane)
    transport = httpx.ASGITransport(api.http._transport.app)  # type: ignore[attr-defined]
    line = Line("http://countermand", tls=tls_context(), transport=transport)
    plane = PlaneLine(line, Bearer(lambda: token), given.plane.data_plane_id)
    post = Post(given, None, None)  # type: ignore[arg-type]  # filled in at once
    post.cancellations = RemoteCancellations(plane, stopping=post.stopping, wait_seconds=wait_seconds)
    post.jobs = RemoteJobs(plane, stopping=post.stopping, again=post.again, wait_seconds=wait_seconds)
    return post


@pytest.fixture(params=["in_process", "over_https"])
async def post(request: pytest.FixtureRequest, given: Given) -> AsyncIterator[Post]:  # noqa: F811
    given.dispatch.register(EXECUTOR, data_plane_id=given.plane.data_plane_id, token=UUID(int=1))
    if request.param == "in_process":
        yield near(given)
    else:
        async with served(given) as api:
            yield far(given, api)


# --- cancellations


async def test_what_is_due_is_claimed_oldest_first_and_at_most_as_much_as_there_is_room(post: Post) -> None:
    requested = [post.given.requested().job_id for _ in range(3)]

    first, second = await post.claim(2), await post.claim(2)

    assert [held.work.job_id for held in (*first, *second)] == requested
    assert first[0].data_plane_id == post.plane


async def test_a_claim_that_is_repeated_with_its_lease_answers_what_the_first_had_claimed(post: Post) -> None:
    """Its answer was lost: no second round is begun, and nothing has to wait until the lease ends."""
    post.given.requested()
    lease = uuid4()
    [first] = await post.claim(lease=lease)

    [again] = await post.claim(lease=lease)

    assert again == first
    assert (again.rounds, again.lease) == (1, lease)


async def test_what_is_leased_is_nobody_elses(post: Post) -> None:
    post.given.requested()
    await post.claim()
    post.stopping.set()  # nobody waits for what does not come

    assert await post.claim() == []


async def test_a_lease_is_kept_and_tells_what_closed_meanwhile(post: Post) -> None:
    claim = post.given.requested()
    [held] = await post.claim()
    await post.jobs.confirm_closed({claim.job_id: claim.epoch})

    kept = await post.cancellations.extend([Hold(claim.job_id, held.lease)], lease_seconds=60)

    assert kept == [Hold(claim.job_id, held.lease, Closure.EXECUTOR_CLOSED)]


async def test_a_lease_that_somebody_else_has_is_left_out(post: Post) -> None:
    claim = post.given.requested()
    await post.claim()

    assert await post.cancellations.extend([Hold(claim.job_id, uuid4())], lease_seconds=60) == []


async def test_a_settlement_whose_answer_was_lost_lands_once(post: Post) -> None:
    [held] = [post.given.leased()]
    settlement = post.given.settlement(held)
    [first] = await post.cancellations.settle([settlement], worker="w1")
    told = post.given.everything(held.work.job_id)

    [again] = await post.cancellations.settle([settlement], worker="w1")

    assert (first.landed, again.landed) == (True, True)
    assert again.settled_at == first.settled_at
    assert post.given.everything(held.work.job_id) == told
    assert post.given.job(held.work.job_id).state is JobState.CANCELLED


async def test_each_settlement_of_a_batch_is_answered_in_its_place(post: Post) -> None:
    good, taken_over = post.given.leased(), post.given.leased()
    stale = structs.replace(post.given.settlement(taken_over), lease=uuid4())

    answers = await post.cancellations.settle([stale, post.given.settlement(good)], worker="w1")

    assert [(answer.job_id, answer.landed) for answer in answers] == [
        (taken_over.work.job_id, False),
        (good.work.job_id, True),
    ]


async def test_a_postponement_keeps_its_reason_and_tells_once_that_it_is_stuck(post: Post) -> None:
    held = post.given.leased()
    post.given.clock.advance(post.given.plane.stuck_after_seconds + 1)

    [postponed] = await post.cancellations.postpone([post.given.postponement(held)])
    again = await post.cancellations.postpone([post.given.postponement(held)])

    assert (postponed.job_id, postponed.became_stuck) == (held.work.job_id, True)
    assert again == []
    cancellation = post.given.job(held.work.job_id).cancellation
    assert cancellation is not None
    assert cancellation.waiting_detail == "the engine says: running"


async def test_what_is_given_back_is_due_at_once(post: Post) -> None:
    held = post.given.leased()

    released = await post.cancellations.release([Hold(held.work.job_id, held.lease)])

    assert released == [held.work.job_id]
    [again] = await post.claim()
    assert again.work.job_id == held.work.job_id


async def test_more_is_given_back_than_one_request_may_hold(post: Post) -> None:
    held = post.given.leased()
    others = [Hold(uuid4(), uuid4()) for _ in range(1_500)]

    released = await post.cancellations.release([*others, Hold(held.work.job_id, held.lease)])

    assert released == [held.work.job_id]


async def test_a_heartbeat_tells_that_the_plane_is_attended_and_by_whom(post: Post) -> None:
    presence = Presence("w1", "canceller", "0.1.0", ["duckdb"], 7)

    await post.cancellations.heartbeat([post.plane], presence)

    assert post.given.intake.plane(post.plane).last_heartbeat_at == post.given.clock.now
    [worker] = Presences(post.given.store).of_plane(post.given.plane, Scope(None)).records
    assert (worker.worker, worker.kind, worker.engines, worker.in_flight) == ("w1", "canceller", ["duckdb"], 7)


# --- jobs


async def test_pending_jobs_are_started_under_the_epoch_that_was_given(post: Post) -> None:
    jobs = [post.given.pending().job_id for _ in range(2)]
    epoch = uuid4()

    claims = await post.start(epoch=epoch)

    assert [claim.job_id for claim in claims] == jobs
    assert {claim.epoch for claim in claims} == {epoch}


async def test_a_claim_of_jobs_that_is_repeated_with_its_epoch_answers_what_the_first_had_started(post: Post) -> None:
    first, second = post.given.pending().job_id, post.given.pending().job_id
    epoch = uuid4()
    await post.start(1, epoch=epoch)

    again = await post.start(1, epoch=epoch)

    assert [claim.job_id for claim in again] == [first]
    assert post.given.job(second).state is JobState.PENDING


async def test_a_claim_of_no_type_starts_nothing_and_still_answers_what_its_epoch_had_started(post: Post) -> None:
    first, second = post.given.pending().job_id, post.given.pending().job_id
    epoch = uuid4()
    await post.start(1, epoch=epoch)

    again = await post.start(2, epoch=epoch, types=[])

    assert [claim.job_id for claim in again] == [first]
    assert post.given.job(second).state is JobState.PENDING


async def test_a_claim_for_some_clusters_starts_their_jobs_alone_on_the_incarnation_that_is_there(post: Post) -> None:
    shared = post.given.pending(execution_cluster=ExecutionCluster.SHARED).job_id
    dedicated = post.given.pending(execution_cluster=ExecutionCluster.DEDICATED).job_id

    [claim] = await post.start(clusters={ExecutionCluster.SHARED: "app-7"})

    post.given.request(claim.job_id)
    [held] = await post.claim()
    assert (claim.job_id, claim.execution_cluster) == (shared, ExecutionCluster.SHARED)
    assert (held.work.execution_cluster, held.work.incarnation) == (ExecutionCluster.SHARED, "app-7")
    assert post.given.job(dedicated).state is JobState.PENDING


async def test_attending_renews_what_goes_on_and_names_what_is_to_be_closed(post: Post) -> None:
    on, asked_for = post.given.running(), post.given.requested()

    held = {on.job_id: on.epoch, asked_for.job_id: asked_for.epoch}
    attendance = await post.jobs.attend(held, patiently=False)

    assert (attendance.renewed, attendance.closing) == ([on.job_id], [asked_for.job_id])


async def test_what_is_to_be_closed_is_told_at_once_also_to_the_patient(post: Post) -> None:
    asked_for = post.given.requested()

    attendance = await post.jobs.attend({asked_for.job_id: asked_for.epoch}, patiently=True)

    assert attendance.closing == [asked_for.job_id]


async def test_a_start_is_registered_once_and_a_copy_of_its_folder_is_refused(post: Post) -> None:
    token = uuid4()
    executor = Executor("job-executor-new", 1, "unix:/new")

    names = [await post.jobs.register(executor, data_plane_id=post.plane, token=token) for _ in range(2)]

    assert names == [post.given.dispatch.installation()] * 2
    with pytest.raises(Refused, match="copied or restored"):
        await post.jobs.register(executor, data_plane_id=post.plane, token=uuid4())


async def test_a_later_start_vouches_for_the_earlier_ones(post: Post) -> None:
    claim = post.given.requested()
    later = Executor(EXECUTOR.executor_id, 2, EXECUTOR.address)
    await post.jobs.register(later, data_plane_id=post.plane, token=uuid4())

    assert await post.jobs.confirm_lower_incarnations(later) == [claim.job_id]


async def test_a_job_goes_from_its_handle_by_commit_and_publication_to_its_completion(post: Post) -> None:
    claim = post.given.running()
    await post.jobs.record_handles({claim.job_id: HANDLE}, {claim.job_id: claim.epoch})
    commit = Commit(claim.job_id, claim.epoch, VIEW_RESULT, DATASET)

    passed = await post.jobs.commit([commit], executor=EXECUTOR)
    [unfinished] = await post.jobs.committed(EXECUTOR)
    completed = await post.jobs.complete([claim.job_id], executor=EXECUTOR)

    assert passed == {claim.job_id: unfinished.publication}
    assert completed == [claim.job_id]
    job = post.given.job(claim.job_id)
    assert (job.state, job.handle) == (JobState.COMPLETED, HANDLE)


async def test_a_commit_that_lost_against_a_cancellation_is_missing_from_the_answer(post: Post) -> None:
    claim = post.given.requested()

    passed = await post.jobs.commit([Commit(claim.job_id, claim.epoch, VIEW_RESULT, DATASET)], executor=EXECUTOR)

    assert passed == {}


async def test_a_failure_ends_a_running_job_and_is_a_hint_for_one_that_is_to_be_cancelled(post: Post) -> None:
    running, requested = post.given.running(), post.given.requested()
    cause = cause_at(post.given.clock.now)

    failed = await post.jobs.fail(
        [Failure(claim.job_id, claim.epoch, cause) for claim in (running, requested)], executor=EXECUTOR
    )

    assert failed == [running.job_id]
    assert post.given.job(requested.job_id).state is JobState.PENDING_CANCELLATION


async def test_what_ended_without_publishing_may_be_discarded_and_is_noted(post: Post) -> None:
    cancelled, running = post.given.cancelled(), post.given.running().job_id

    others = [uuid4() for _ in range(1_500)]  # more than one request may hold

    discardable = await post.jobs.discardable([running, *others, cancelled])
    await post.jobs.record_leftovers({key: ["outputs.t0"] for key in others} | {cancelled: ["outputs.t1"]})
    await post.cancellations.record_leftovers({cancelled: ["outputs.t2"]})

    assert discardable == [cancelled]
    cancellation = post.given.job(cancelled).cancellation
    assert cancellation is not None
    assert cancellation.leftovers == ["outputs.t1", "outputs.t2"]


# --- waiting, which only the remote one does


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:  # noqa: F811
    async with served(given) as api:
        yield api


async def test_over_https_a_claim_waits_for_work_and_is_answered_as_soon_as_there_is_some(api: Api) -> None:
    post = far(api.given, api)
    running = api.given.running()
    waiting = asyncio.create_task(post.claim())
    await api.until_waiting(api.given.plane)

    await api.bearer().post(f"/jobs/{running.job_id}/request-cancellation")

    async with asyncio.timeout(20):
        [held] = await waiting
    assert held.work.job_id == running.job_id


async def test_over_https_a_claim_outlasts_as_many_polls_as_it_takes(api: Api) -> None:
    post = far(api.given, api, wait_seconds=0.01)
    running = api.given.running()
    waiting = asyncio.create_task(post.claim())
    await api.until_waiting(api.given.plane)

    await api.bearer().post(f"/jobs/{running.job_id}/request-cancellation")

    async with asyncio.timeout(20):
        assert len(await waiting) == 1


@pytest.mark.parametrize("what", ["cancellations", "jobs"])
async def test_over_https_a_claim_waits_no_longer_once_the_process_is_told_to_stop(api: Api, what: str) -> None:
    api.register()
    post = far(api.given, api)
    waiting = asyncio.create_task(post.claim() if what == "cancellations" else post.start())
    await api.until_waiting(api.given.plane)

    post.stopping.set()

    async with asyncio.timeout(20):
        assert await waiting == []


async def test_over_https_a_canceller_that_is_told_to_stop_asks_once_more_for_what_it_was_given(api: Api) -> None:
    post, lease = far(api.given, api), uuid4()
    taken = api.given.requested().job_id
    await post.claim(lease=lease)
    post.stopping.set()

    [again] = await post.claim(lease=lease)

    assert again.work.job_id == taken


async def test_over_https_an_executor_that_is_told_to_stop_asks_once_more_and_starts_nothing_new(api: Api) -> None:
    api.register()
    post, epoch = far(api.given, api), uuid4()
    taken, other = api.given.pending().job_id, api.given.pending().job_id
    await post.start(1, epoch=epoch)
    post.stopping.set()

    again, later = await post.start(epoch=epoch), await post.start()

    assert ([claim.job_id for claim in again], later) == ([taken], [])
    assert api.given.job(other).state is JobState.PENDING


async def test_over_https_an_attend_that_a_claim_cut_short_renews_only_what_the_control_plane_renews(api: Api) -> None:
    api.register()
    post = far(api.given, api)
    asked_for, second = api.given.requested(), api.given.pending()
    held = {asked_for.job_id: asked_for.epoch}
    real, began, hold = post.jobs._line.ask, asyncio.Event(), asyncio.Event()  # type: ignore[attr-defined]

    async def slow_at_first(path: str, *arguments: Any, **named: Any) -> Any:
        if path == "/jobs/attend" and named["wait_seconds"]:
            began.set()
            await hold.wait()  # no answer comes
        return await real(path, *arguments, **named)

    post.jobs._line.ask = slow_at_first  # type: ignore[attr-defined]
    attending = asyncio.create_task(post.jobs.attend(held, patiently=True))
    async with asyncio.timeout(20):
        await began.wait()

    [claim] = await post.start()

    async with asyncio.timeout(20):  # at once, not with the end of its poll, which does not come
        attendance = await attending
    assert claim.job_id == second.job_id
    assert (attendance.renewed, attendance.closing) == ([], [asked_for.job_id])


async def test_over_https_what_is_claimed_is_attended_before_the_patient_attend_is_over(api: Api) -> None:
    """The patient attend did not ask about it; so it ends, and another is due."""
    api.register()
    post = far(api.given, api)
    first = api.given.running()
    attending = asyncio.create_task(post.jobs.attend({first.job_id: first.epoch}, patiently=True))
    await api.until_waiting(api.given.plane)
    second = api.given.pending()

    [claim] = await post.start()
    async with asyncio.timeout(20):
        attendance = await attending

    assert claim.job_id == second.job_id
    assert attendance.renewed == [first.job_id]
    assert post.again.is_set()


async def test_over_https_what_is_claimed_is_attended_where_nothing_was_before(api: Api) -> None:
    """No patient attend waits, whose end would begin another."""
    api.register()
    post = far(api.given, api)
    api.given.pending()

    await post.start()

    assert post.again.is_set()


async def test_over_https_a_poll_that_is_answered_at_once_with_nothing_is_not_repeated_at_once() -> None:
    """As by a server that ends, or something in its place: others are spared a flood."""
    stopping = asyncio.Event()
    with misbehaving(answer("200 OK", '{"assignments": [], "job_ids": []}')) as server:
        line = Line(server.url, tls=tls_context())
        plane = PlaneLine(line, Bearer(lambda: "ctm_token"), UUID(int=7))
        queue = RemoteCancellations(plane, stopping=stopping, early_pause_seconds=3_600)
        claiming = asyncio.create_task(
            queue.claim({UUID(int=7): 1}, worker="w1", lease_seconds=LEASE_SECONDS, lease=uuid4())
        )
        for _ in range(20):  # there and back again, while the other may
            await queue.release([Hold(uuid4(), uuid4())])
        stopping.set()
        await claiming
        await line.aclose()

        claims = [request for request in server.requests if b"/cancellations/claim" in request]
    assert len(claims) == 2  # the poll, and the last look of one that is told to stop
