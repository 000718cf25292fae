"""How much a look at a Connect server's web UI takes upon itself, and what it makes of what it is told meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_names import Operation, Server, Session
from adapters.narrative.spark_connect_sight import Sight
from adapters.narrative.spark_connect_ui import Ui
from control_plane.jobs import Waiting
from tests.doubles.connect_server import APPLICATION, TellingServer, job, thread

pytestmark = pytest.mark.anyio

SESSION = str(UUID(int=1))
AT_WORK, ENDED = (Operation(Session("u", SESSION), str(UUID(int=number))) for number in (2, 3))
TASK = "Executor task launch worker for task 0.0 in stage {}.0 (TID 7)"
IDLE, BUSY = thread("main", "Object.wait"), "spark.executor.Executor$TaskRunner.run"


def telling(*, first: int = 0) -> TellingServer:
    """A server that shows one operation at work, and one that has ended; with jobs before the *first* forgotten."""
    jobs = [
        job(first, SESSION, AT_WORK.operation_id, stages=(3,), status="RUNNING"),
        job(first + 1, SESSION, ENDED.operation_id, stages=(4,)),
    ]
    stages = [{"stageId": 3, "status": "ACTIVE"}, {"stageId": 4, "status": "COMPLETE"}]
    return TellingServer(jobs=jobs, stages=stages, threads={"driver": [IDLE], "0": [IDLE], "1": []})


@asynccontextmanager
async def lookout_on(server: TellingServer) -> AsyncIterator[Lookout]:
    async with server.listening() as (address, url):
        line, ui = Line(Server(address), user="u", timeout_seconds=30), Ui(url, timeout_seconds=30)
        lookout = Lookout(line, ui, timeout_seconds=30)
        yield lookout
        await lookout.aclose()
        await line.aclose()
        await ui.aclose()


async def looked(server: TellingServer, *asked: list[Operation]) -> Sight:
    async with lookout_on(server) as lookout:
        [sight, *_] = await asyncio.gather(*(lookout.look(APPLICATION, of) for of in asked))
    return sight


async def test_what_is_shown_at_work_is_looked_at_once_and_nothing_is_begun_for_it() -> None:
    server = telling(first=5)

    sight = await looked(server, [AT_WORK], [AT_WORK])

    assert sight.traces(AT_WORK).are_shown
    assert (server.asked, server.begun) == (["connect/operations", "jobs", "stages"], 0)


@pytest.mark.parametrize("asked", [[[AT_WORK, ENDED]], [[AT_WORK], [ENDED]], [[ENDED], [AT_WORK]], [[AT_WORK], []]])
async def test_a_look_that_is_shared_is_a_whole_one_where_anybody_needs_that(asked: list[list[Operation]]) -> None:
    server = telling()

    sight = await looked(server, *asked)

    assert not sight.traces(ENDED).computes
    assert server.asked.count("executors/driver/threads") == 2
    assert ("executors" in server.asked, server.begun) == (False, 1)


@pytest.mark.parametrize(
    ("stages", "is_asked"),
    [
        ([{"stageId": 3, "status": "ACTIVE"}], True),
        ([{"stageId": 3, "attemptId": 1, "status": "ACTIVE"}, {"stageId": 4, "status": "COMPLETE"}], False),
    ],
)
async def test_executors_are_asked_where_one_of_all_may_be_forgotten_that_is_not_shown_at_work_anyway(
    stages: list[dict[str, object]], is_asked: bool
) -> None:
    server = telling()
    server.stages = stages

    sight = await looked(server, [AT_WORK], [ENDED])

    assert ("executors" in server.asked) is is_asked
    assert (sight.traces(AT_WORK).computes, sight.traces(ENDED).computes) == (True, False)


async def test_where_something_may_be_forgotten_the_threads_of_every_executor_that_is_there_tell_what_runs() -> None:
    server = telling(first=5)
    server.threads["0"] = [thread(TASK.format(1), BUSY)]

    sight = await looked(server, [ENDED])

    assert sight.traces(ENDED).forgotten
    assert {"executors/0/threads", "executors/driver/threads"} < set(server.asked)
    assert "executors/1/threads" not in server.asked


async def test_a_task_of_a_job_that_is_shown_a_moment_later_is_none_of_what_is_forgotten() -> None:
    server = telling(first=5)
    server.threads["0"] = [thread(TASK.format(9), BUSY)]
    server.late = [job(20, stages=(9,), status="RUNNING")]

    sight = await looked(server, [ENDED])

    assert (sight.strays, sight.traces(ENDED).computes, server.begun) == (False, False, 2)


async def test_an_executor_that_does_not_tell_its_threads_proves_nothing() -> None:
    server = telling(first=5)
    del server.threads["driver"]

    with pytest.raises(LineError) as silent:
        await looked(server, [ENDED])

    assert silent.value.trouble.waiting is Waiting.PLANE_SILENT


@pytest.mark.parametrize(("passed", "computes"), [(0, False), (1, True)])
async def test_while_a_thread_waits_nothing_has_ended_where_a_job_came_and_went_unseen(
    passed: int, computes: bool
) -> None:
    """It may be the one that was waited for, and another may follow."""
    server = telling()
    server.threads["driver"] = [thread("subquery-1", "DAGScheduler.runJob")]
    server.passed = passed

    sight = await looked(server, [ENDED])

    assert sight.traces(ENDED).computes is computes


async def test_while_a_pool_of_the_driver_is_full_nothing_has_ended() -> None:
    server = telling()
    server.threads["driver"] = [thread(f"subquery-{number}", "DAGScheduler.runJob", number) for number in range(16)]

    sight = await looked(server, [ENDED])

    assert (sight.in_line, sight.traces(ENDED).computes) == (True, True)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_job_that_ends_during_a_look_counts_as_running_only_where_a_thread_may_have_waited_for_it(
    waits: bool,
) -> None:
    server = telling()
    server.ends = {0}
    server.dumps = [[thread("subquery-1", "DAGScheduler.runJob")] for _ in range(2)]
    server.threads["driver"] = server.dumps[0] if waits else [thread("subquery-1", "ThreadPoolExecutor.getTask")]

    sight = await looked(server, [ENDED])

    assert any(one.job_id == 0 and one.status == "RUNNING" for one in sight.jobs) is waits


async def test_a_web_ui_of_the_cluster_is_not_asked_by_way_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a master is not: a proxy for the web's sake seldom knows the way."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = telling()

    async with server.listening() as (_, url):
        ui = Ui(url, timeout_seconds=30)
        sight = await ui.look(APPLICATION)
        await ui.aclose()

    assert sight.traces(AT_WORK).are_shown
