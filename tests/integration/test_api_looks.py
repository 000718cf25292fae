"""What long polls cost and hear: one look for all of them, news that got lost, and who may still wait."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from control_plane.jobs import ExecutionCluster, JobType
from control_plane.planes import DataPlane
from control_plane.store import Store
from control_plane.work import News
from tests.integration.api import Api, Bearer, plane_path, served, soon
from tests.integration.given import EXECUTOR, Given

pytestmark = pytest.mark.anyio

LONG = 50.0  #: seconds: what a long poll may ask for


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(given: Given) -> AsyncIterator[Api]:
    """No look is taken but those that a test takes."""
    async with served(given) as api:
        yield api


async def claim(bearer: Bearer, plane: DataPlane, **more: object) -> list[UUID]:
    body = {"worker": "w1", "limit": 10, "wait_seconds": LONG} | more
    answer = await bearer.post(plane_path(plane, "/cancellations/claim"), body)
    assert answer.status_code == 200, answer.text
    return [UUID(assignment["work"]["job_id"]) for assignment in answer.json()["assignments"]]


async def claim_jobs(bearer: Bearer, plane: DataPlane, types: Sequence[JobType], **more: object) -> list[UUID]:
    body = {"executor": EXECUTOR, "types": types, "limit": 10, "incarnation": "e", "wait_seconds": LONG} | more
    answer = await bearer.post(plane_path(plane, "/jobs/claim"), body)
    assert answer.status_code == 200, answer.text
    return [UUID(claimed["job_id"]) for claimed in answer.json()["claims"]]


class Statements:
    """Counts what reaches the database."""

    def __init__(self, store: Store) -> None:
        self.seen: list[str] = []
        for engine in (store.engine, store._single):
            event.listen(engine, "before_cursor_execute", lambda *told: self.seen.append(told[2]))

    @property
    def statements(self) -> set[str]:
        """Each once: SQLite's two engines are one, and tell of everything twice."""
        return set(self.seen)


# --- lost news -------------------------------------------------------------------------------------------------------


async def test_a_request_of_which_no_news_came_is_found_by_the_next_look(api: Api) -> None:
    process, claimed = api.process(), api.given.running()
    waiting = asyncio.create_task(claim(process, api.given.plane))
    await api.until_waiting(api.given.plane)

    api.given.request(claimed.job_id)
    await api.desk.look_for_all()

    assert await soon(waiting) == [claimed.job_id]


async def test_a_postponed_cancellation_that_comes_due_is_found_by_the_next_look(api: Api) -> None:
    process, held = api.process(), api.given.leased()
    api.given.dispatch.postpone([api.given.postponement(held, 5.0)])
    waiting = asyncio.create_task(claim(process, api.given.plane))
    await api.until_waiting(api.given.plane)

    await api.desk.look_for_all()
    await api.until_waiting(api.given.plane)
    early = waiting.done()
    api.given.clock.advance(5)
    await api.desk.look_for_all()

    assert not early
    assert await soon(waiting) == [held.work.job_id]


async def test_a_job_of_which_no_news_came_is_found_by_the_next_look(api: Api) -> None:
    waiting = asyncio.create_task(claim_jobs(api.process(), api.given.plane, list(JobType)))
    await api.until_waiting(api.given.plane)

    job = api.given.pending()
    await api.desk.look_for_all()

    assert await soon(waiting) == [job.job_id]


async def test_jobs_that_a_waiting_executor_cannot_run_are_not_looked_at_again_and_again(api: Api) -> None:
    api.given.pending(JobType.DELIVER_DATA, input={"dataset_id": 1})
    waiting = asyncio.create_task(claim_jobs(api.process(), api.given.plane, [JobType.MATERIALIZE_VIEW]))
    await api.until_waiting(api.given.plane)

    told = Statements(api.given.store)
    await api.desk.look_for_all()
    await api.until_waiting(api.given.plane)

    assert not any("UPDATE jobs" in statement for statement in told.seen)
    waiting.cancel()


async def test_news_of_cancellations_makes_nobody_look_for_jobs_and_the_other_way_round(api: Api) -> None:
    plane, process = api.given.plane, api.process()
    for_jobs = asyncio.create_task(claim_jobs(process, plane, list(JobType)))
    for_cancellations = asyncio.create_task(claim(process, plane))
    await api.until_waiting(plane, 2)
    told = Statements(api.given.store)

    api.desk.wakeups.tell(plane.data_plane_id, News.JOBS)
    await api.until_waiting(plane, 2)
    looked_for_jobs = told.seen[:]
    told.seen.clear()
    api.desk.wakeups.tell(plane.data_plane_id, News.CANCELLATIONS)
    await api.until_waiting(plane, 2)

    assert any("UPDATE jobs" in statement for statement in looked_for_jobs)
    assert not any("cancellations" in statement for statement in looked_for_jobs)
    assert any("UPDATE cancellations" in statement for statement in told.seen)
    assert not any("UPDATE jobs" in statement for statement in told.seen)
    for poll in (for_jobs, for_cancellations):
        poll.cancel()


async def test_jobs_of_a_cluster_that_a_waiting_executor_does_not_serve_are_not_looked_at_either(api: Api) -> None:
    """And those of its own are found by the next look, as any."""
    api.given.pending(execution_cluster=ExecutionCluster.DEDICATED)
    clusters = {"shared": "app-1"}
    waiting = asyncio.create_task(claim_jobs(api.process(), api.given.plane, list(JobType), clusters=clusters))
    await api.until_waiting(api.given.plane)

    told = Statements(api.given.store)
    await api.desk.look_for_all()
    await api.until_waiting(api.given.plane)
    looked_at = [statement for statement in told.seen if "UPDATE jobs" in statement]
    own = api.given.pending(execution_cluster=ExecutionCluster.SHARED)
    await api.desk.look_for_all()

    assert looked_at == []
    assert await soon(waiting) == [own.job_id]


# --- what it costs ---------------------------------------------------------------------------------------------------


async def test_a_look_takes_as_many_statements_for_twenty_planes_as_for_one(api: Api) -> None:
    told = Statements(api.given.store)
    counts = []
    for more in (1, 19):
        for _ in range(more):
            plane = api.given.new_plane()
            asyncio.create_task(claim(api.process(plane), plane))  # noqa: RUF006
            await api.until_waiting(plane)
        told.seen.clear()
        await api.desk.look_for_all()
        counts.append(len(told.seen))

    assert (
        len(told.statements) == 3
    )  # whether there are cancellations, how many tokens ended, and whether the new ones did
    assert counts[0] == counts[1]
    api.desk.wakeups.stop()


async def test_while_nothing_changes_a_look_asks_about_no_plane_and_no_token(api: Api) -> None:
    plane = api.given.plane
    waiting = asyncio.create_task(claim(api.process(), plane))
    await api.until_waiting(plane)
    await api.desk.look_for_all()
    told = Statements(api.given.store)

    await api.desk.look_for_all()

    assert len(told.statements) == 2
    assert not any("json" in statement for statement in told.statements)
    waiting.cancel()


async def test_a_poll_of_a_quiet_plane_asks_the_database_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look found nothing open there, no news came since, and the token was looked at as well."""
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 0.0)
    process = api.process()
    first = asyncio.create_task(claim(process, api.given.plane))
    await api.until_waiting(api.given.plane)
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 60.0)
    await api.desk.look_for_all()
    told = Statements(api.given.store)

    second = asyncio.create_task(claim(process, api.given.plane, lease=uuid4()))
    await api.until_waiting(api.given.plane, 2)

    assert told.seen == []
    claimed = api.given.requested()
    api.desk.wakeups.tell(api.given.plane.data_plane_id, News.CANCELLATIONS)
    assert await soon(asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED))
    assert [claimed.job_id] in [poll.result() for poll in (first, second) if poll.done()]
    api.desk.wakeups.stop()


async def test_news_between_two_polls_is_looked_for_at_the_start_of_the_next(api: Api) -> None:
    process = api.process()
    waiting = asyncio.create_task(claim(process, api.given.plane, wait_seconds=0.01))
    await soon(waiting)
    await api.desk.look_for_all()

    claimed = api.given.requested()
    api.desk.wakeups.tell(api.given.plane.data_plane_id, News.CANCELLATIONS)

    assert await soon(claim(process, api.given.plane)) == [claimed.job_id]


async def test_news_that_comes_during_a_look_is_not_forgotten_by_it(api: Api) -> None:
    process = api.process()
    await soon(claim(process, api.given.plane, wait_seconds=0.01))
    find = api.desk._find_work

    async def find_and_be_told(*asked: Sequence[UUID]) -> object:
        found = find(*asked)  # sees nothing of what comes now
        api.given.requested()
        api.desk.wakeups.tell(api.given.plane.data_plane_id, News.CANCELLATIONS)
        return found

    await api.desk.wakeups.look_for_all(find_and_be_told)  # type: ignore[arg-type]

    assert len(await soon(claim(process, api.given.plane))) == 1


async def test_a_claim_whose_answer_was_lost_is_answered_though_the_plane_was_quiet(api: Api) -> None:
    """Another server leased it: of that came no news, and nothing is due."""
    process, lease = api.process(), uuid4()
    await soon(claim(process, api.given.plane, wait_seconds=0.01))
    await api.desk.look_for_all()
    claimed = api.given.requested()
    api.given.claim(lease=lease)

    waiting = asyncio.create_task(claim(process, api.given.plane, lease=lease))
    await api.until_waiting(api.given.plane)
    await api.desk.look_for_all()

    assert await soon(waiting) == [claimed.job_id]


async def test_a_plane_that_nobody_waits_for_any_more_is_forgotten(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await soon(claim(api.process(), api.given.plane, wait_seconds=0.01))
    monkeypatch.setattr("control_plane.api.wakeups._WATCH_SECONDS", -1.0)

    await api.desk.look_for_all()

    assert not api.desk.wakeups._planes


# --- who may wait ----------------------------------------------------------------------------------------------------


async def test_a_process_is_known_for_as_long_as_looks_find_its_token_valid(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 0.0)
    process = api.process()
    path = plane_path(api.given.plane, "/heartbeat")
    assert (await process.post(path)).status_code == 200
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 60.0)
    await api.desk.look_for_all()
    told = Statements(api.given.store)

    again = await process.post(path)

    assert again.status_code == 200
    assert not any("FROM tokens" in statement for statement in told.seen)


@pytest.mark.parametrize("ended_by", ["revocation", "expiry"])
async def test_the_look_after_its_token_has_ended_ends_what_a_process_may(
    api: Api, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 0.0)
    process = api.bearer(plane=api.given.plane, lifetime_seconds=60.0)
    assert process.token is not None
    path = plane_path(api.given.plane, "/heartbeat")
    assert (await process.post(path)).status_code == 200
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 60.0)
    await api.desk.look_for_all()

    if ended_by == "revocation":
        api.desk.tokens.revoke(UUID(process.token.split("_")[1]))
    else:
        api.given.clock.advance(60)
    await api.desk.look_for_all()

    assert (await process.post(path)).status_code == 401


async def test_a_token_that_ended_just_before_its_bearer_was_remembered_is_found_by_the_next_look(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked up when it was valid, and a look that came between the two has counted it as ended."""
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 0.0)
    process = api.bearer(plane=api.given.plane)
    assert process.token is not None
    path = plane_path(api.given.plane, "/heartbeat")
    assert (await process.post(path)).status_code == 200
    monkeypatch.setattr("control_plane.api.callers.REMEMBER_SECONDS", 60.0)
    api.desk.tokens.revoke(UUID(process.token.split("_")[1]))
    api.desk.callers._counts = api.desk.tokens.counts()

    await api.desk.look_for_all()

    assert (await process.post(path)).status_code == 401


async def test_that_a_token_is_used_is_noted_though_it_is_not_looked_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = api.process()
    await process.post(plane_path(api.given.plane, "/heartbeat"))
    later = api.given.clock.advance(60)
    monkeypatch.setattr("control_plane.api.callers._NOTE_SECONDS", 0.0)

    await api.desk.look_for_all()

    assert [token.last_used_at for token in api.desk.tokens.known()] == [later]


async def test_a_look_that_the_database_cannot_answer_is_taken_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.api.desk.LOOK_AGAIN_SECONDS", 0.001)
    process, find = api.process(), api.desk._find_work
    failing = [ZeroDivisionError(), ConnectionError()]

    def find_after_two(*asked: Sequence[UUID]) -> object:
        if failing:
            raise failing.pop()
        return find(*asked)

    monkeypatch.setattr(api.desk, "_find_work", find_after_two)
    waiting = asyncio.create_task(claim(process, api.given.plane))
    await api.until_waiting(api.given.plane)
    claimed = api.given.requested()

    async with api.desk.looking():
        assert await soon(waiting) == [claimed.job_id]
    assert failing == []
