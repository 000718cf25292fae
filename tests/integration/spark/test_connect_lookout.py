"""What a Connect server's web UI has to show before an operation counts as ended: Connect's own word is not enough."""

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from adapters.base import ENDED, RunStatus
from adapters.narrative.spark_connect import SparkConnectAdapter
from adapters.narrative.spark_connect_drill import Drill
from adapters.narrative.spark_connect_errors import BehindError, LineError
from adapters.narrative.spark_connect_ladder import Ladder
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_names import Operation, Server, Session, operation_of
from adapters.narrative.spark_connect_sessions import Sessions
from adapters.narrative.spark_connect_sight import Job, Sight
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_connect_words import Outliving
from control_plane.jobs import Rung, Waiting
from control_plane.work import Work
from tests.contract.spark_connect import DEAF, ENDLESS, RUNS_A_TASK, TIMEOUT_SECONDS, USER, SparkConnectPlane, connected
from tests.narrative import PLANE
from tests.spark import ConnectServer
from workers.judgement import LADDER

pytestmark = [pytest.mark.anyio, pytest.mark.spark]

_SUMS = ", ".join(
    f"sum(CASE WHEN id % {n + 2} = {n % 7} AND id > {n} THEN id * {n} ELSE id + {n} END) AS sum_{n}" for n in range(40)
)
#: Planned, and then compiled, for longer than an interrupt takes to arrive; and computed for hours in one task.
LONG_PLANNED = f"SELECT {_SUMS} FROM range(0, 1000000000000, 1, 1) GROUP BY CUBE(id % 3, id % 5, id % 7)"

#: Two threads of the driver wait for as long as it runs: one for its only stage, and one for the other thread.
WITH_SUBQUERY = f"SELECT (SELECT count(*) FROM ({ENDLESS})) AS n"


class Curtain:
    """A web UI before which something hangs: it shows what could be seen earlier, or nothing at all."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown: dict[str, bytes] = {}
        self.looks_until_drawn = 0  #: at the jobs, from which on everything is shown
        self.is_down = False

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.is_down:
            return 503, b""
        if path in self._shown and self.looks_until_drawn > 0:
            self.looks_until_drawn -= 1
            return 200, self._shown[path]
        told = httpx.get(f"{self._url}{path}", timeout=TIMEOUT_SECONDS)
        return told.status_code, told.content

    def hang(self, application: str, *, looks: int) -> None:
        """From now on the jobs of now are shown, *looks* times."""
        path = f"/api/v1/applications/{application}/jobs"
        self._shown[path] = self.answer(path)[1]
        self.looks_until_drawn = looks


@contextmanager
def hung_before(url: str) -> Iterator[tuple[str, Curtain]]:
    curtain = Curtain(url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = curtain.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", curtain
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.fixture
async def curtained(shared_cluster: SparkConnectPlane) -> AsyncIterator[tuple[SparkConnectAdapter, Curtain]]:
    """An adapter of the same plane, to which the web UI is shown as the curtain lets it."""
    with hung_before(shared_cluster.server.ui_url) as (url, curtain):
        adapter = SparkConnectAdapter(
            Server.at(shared_cluster.server.url),
            installation="curtained",
            data_plane_id=PLANE,
            user=USER,
            ui_url=url,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        yield adapter, curtain
        await adapter.aclose()


async def application_of(plane: SparkConnectPlane) -> str:
    return (await plane.line.identity()).application


async def running_jobs(plane: SparkConnectPlane, work: Work) -> int:
    sight = await plane.ui.look(await application_of(plane))
    return len(sight.running(plane.session(work).session_id))


async def cancel_while_it_is_prepared(plane: SparkConnectPlane, work: Work) -> None:
    """Come back once Connect says CANCELLED of a query whose stages a thread of the driver was preparing."""
    operation, application = Operation(plane.session(work), operation_of(work.tag)), await application_of(plane)
    await plane.line.touch(operation.session)
    running = asyncio.create_task(plane.exhaust(operation, LONG_PLANNED, tag=work.tag))
    while not (await plane.ui.threads(application)).preparing:  # noqa: ASYNC110  it comes true on the server
        await asyncio.sleep(0.005)
    while (await Sessions(plane.line).release_ended(*operation)) != "CANCELLED":
        await plane.line.interrupt(operation.session, tag=work.tag)
    await running


async def kill_jobs(plane: SparkConnectPlane, work: Work) -> None:
    """They count for hours otherwise."""
    application, session = await application_of(plane), plane.session(work)
    while await plane.ui.kill(application, session.session_id):  # noqa: ASYNC110  it comes true on the server
        await asyncio.sleep(0.02)


async def test_an_operation_that_was_interrupted_while_it_was_planned_has_not_ended_while_its_job_runs_on(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    operation = Operation(plane.session(work), operation_of(work.tag))
    await plane.line.touch(operation.session)
    running = asyncio.create_task(plane.exhaust(operation, LONG_PLANNED, tag=work.tag))
    said: list[tuple[RunStatus, str]] = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not said or said[-1][0] not in ENDED:
            runs = (await plane.adapter.find([work]))[work.job_id].runs
            said += [(run.status, run.word) for run in runs]
            await plane.adapter.stop(runs, Rung.ASK)
    await running

    assert any(status is RunStatus.ACTIVE and word.startswith("CANCELLED,") for status, word in said)
    assert said[-1] == (RunStatus.STOPPED, "CANCELLED")
    assert await running_jobs(plane, work) == 0


async def test_a_job_that_is_submitted_after_its_operation_was_cancelled_is_seen_by_the_first_look(
    shared_cluster: SparkConnectPlane,
) -> None:
    """Whether an interrupt arrives just then is the server's to say, which others use as well: it is tried again."""
    plane, application = shared_cluster, await application_of(shared_cluster)
    seen = 0
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not seen:
            work = plane.work()
            await cancel_while_it_is_prepared(plane, work)

            sight = await Lookout(plane.line, plane.ui, timeout_seconds=TIMEOUT_SECONDS).look(application, [])

            seen = len(sight.running(plane.session(work).session_id))
            assert await running_jobs(plane, work) == seen
            await kill_jobs(plane, work)


async def drilled(
    plane: SparkConnectPlane,
    prefix: str,
    *,
    late_looks: int,
    within_seconds: float,
    kind: type[Lookout] = Lookout,
) -> str:
    """What a drill says to which the web UI shows nothing for so many looks; nothing of it is left running."""
    line, application = plane.line, await application_of(plane)
    with hung_before(plane.server.ui_url) as (url, curtain):
        curtain.hang(application, looks=late_looks)
        ui = Ui(url, timeout_seconds=TIMEOUT_SECONDS)
        lookout = kind(line, ui, timeout_seconds=TIMEOUT_SECONDS)
        try:
            drill = Drill(line, Sessions(line), Ladder(line, plane.ui), lookout)
            return await drill.run(prefix=prefix, within_seconds=within_seconds)
        finally:
            await lookout.aclose()
            sight = await Lookout(line, ui, timeout_seconds=TIMEOUT_SECONDS).look(application, [])
            assert sight.tagged(prefix) == set()
            await ui.aclose()


class LateLookout(Lookout):
    """Its first two looks show too little in time."""

    behind = 2

    async def look(self, application: str, of: Collection[Operation]) -> Sight:
        if self.behind > 0:
            self.behind -= 1
            raise BehindError(Waiting.PLANE_SILENT, "the driver, or its web UI, is behind")
        return await super().look(application, of)


@pytest.mark.parametrize("kind", [Lookout, LateLookout])
async def test_a_check_whose_queries_are_seen_stopped_too_late_says_that_the_server_is_slow_and_leaves_none_running(
    shared_cluster: SparkConnectPlane, kind: type[Lookout]
) -> None:
    slow = r"stopped a query only after [0-9.]+ s, and another after [0-9.]+ s, and not within 0 s: .* slow, not wrong"
    with pytest.raises(LineError, match=slow) as late:
        await drilled(shared_cluster, f"{uuid4()}:", late_looks=10, within_seconds=0.0, kind=kind)

    assert late.value.trouble.waiting is Waiting.STILL_RUNNING


async def test_a_server_that_stops_its_first_query_late_is_asked_to_stop_a_second(
    shared_cluster: SparkConnectPlane,
) -> None:
    """It has just started, say: then the first one takes it seconds, and the next ones do not."""
    said = await drilled(shared_cluster, f"{uuid4()}:", late_looks=32, within_seconds=10.0)

    assert re.search(r"stopped a query of \w+ within [0-9.]+ s \(the first one after [0-9.]+ s\)$", said)


async def test_a_look_counts_only_once_it_shows_what_had_been_submitted_before_it(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    application = await application_of(plane)
    with hung_before(plane.server.ui_url) as (url, curtain):
        curtain.hang(application, looks=3)
        ui = Ui(url, timeout_seconds=TIMEOUT_SECONDS)
        await plane.start(work)

        sight = await Lookout(plane.line, ui, timeout_seconds=TIMEOUT_SECONDS).look(application, [])

        await ui.aclose()
    assert curtain.looks_until_drawn == 0
    assert len(sight.running(plane.session(work).session_id)) == 1


async def test_looks_that_are_asked_for_together_are_one_and_not_the_one_that_was_under_way_before(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    application = await application_of(plane)
    with hung_before(plane.server.ui_url) as (url, curtain):
        curtain.hang(application, looks=sys.maxsize)
        ui = Ui(url, timeout_seconds=TIMEOUT_SECONDS)
        lookout = Lookout(plane.line, ui, timeout_seconds=TIMEOUT_SECONDS)
        early = asyncio.create_task(lookout.look(application, []))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while curtain.looks_until_drawn == sys.maxsize:  # noqa: ASYNC110  it comes true in another thread
                await asyncio.sleep(0.005)
        await plane.start(work)
        late = [asyncio.create_task(lookout.look(application, [])) for _ in range(20)]
        await asyncio.sleep(0)
        curtain.looks_until_drawn = 0

        seen = await asyncio.gather(early, *late)

        await lookout.aclose()
        await ui.aclose()
    assert len({id(sight) for sight in seen}) == 2
    assert len(seen[-1].running(plane.session(work).session_id)) == 1


async def test_a_look_does_not_wait_for_the_end_of_what_others_run(shared_cluster: SparkConnectPlane) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    application = await application_of(plane)
    await plane.start_elsewhere("dbt", WITH_SUBQUERY)
    assert (await plane.ui.threads(application)).busy

    await plane.start(work)
    sight = await Lookout(plane.line, plane.ui, timeout_seconds=TIMEOUT_SECONDS).look(application, [])

    assert len(sight.running(plane.session(work).session_id)) == 1


async def test_what_stands_in_line_for_a_thread_of_the_driver_has_not_ended(tmp_path: Path) -> None:
    """Another's subquery keeps the only thread there is; by Spark's default sixteen do."""
    (warehouse := tmp_path / "warehouse").mkdir()
    with ConnectServer.start(tmp_path / "server", spark__sql__subquery__maxThreadThreshold="1") as server:
        async with connected(server, warehouse) as plane:
            line, work = plane.line, plane.work()
            application, theirs = await application_of(plane), Session("dbt", str(uuid4()))
            await line.touch(theirs, {"spark.sql.adaptive.enabled": "false"})
            other = asyncio.create_task(plane.exhaust(Operation(theirs, str(uuid4())), WITH_SUBQUERY, tag="elsewhere"))
            while not (await plane.ui.look(application)).running(theirs.session_id):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            operation = Operation(plane.session(work), operation_of(work.tag))
            await line.touch(operation.session)
            waiting = asyncio.create_task(plane.exhaust(operation, WITH_SUBQUERY, tag=work.tag))
            while await threads_inside(plane, "SubqueryExec.executeCollect(") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await line.interrupt(operation.session, tag=work.tag)
            await waiting

            [run] = (await plane.adapter.find([work]))[work.job_id].runs
            assert run.status is RunStatus.ACTIVE

            await line.interrupt(theirs)
            await other
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while run.status not in ENDED:
                    await plane.adapter.stop([run], Rung.FORCE)
                    [run] = (await plane.adapter.find([work]))[work.job_id].runs
            assert run.status is RunStatus.STOPPED
            assert await running_jobs(plane, work) == 0


async def threads_inside(plane: SparkConnectPlane, call: str) -> int:
    """How many threads of the driver are, which runs tasks as well."""
    url = f"{plane.server.ui_url}/api/v1/applications/{await application_of(plane)}/executors/driver/threads"
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
        threads = (await client.get(url)).raise_for_status().json()
    return sum(call in str(one["stackTrace"]) for one in threads)


async def test_a_job_that_ends_during_a_look_counts_as_running_where_a_thread_may_have_waited_for_it() -> None:
    before = Sight((Job(1, status="SUCCEEDED"), Job(2, status="RUNNING")), {})
    after = Sight((Job(1, status="SUCCEEDED"), Job(2, status="FAILED"), Job(3, status="SUCCEEDED")), {})

    assert [job.status for job in after.since(before).jobs] == ["SUCCEEDED", "RUNNING", "RUNNING"]


async def test_what_was_seen_to_go_on_has_not_ended_when_the_web_ui_forgets_its_job() -> None:
    operation = Operation(Session(USER, str(uuid4())), str(uuid4()))
    tags = [
        f"SparkConnect_OperationTag_User_{USER}_Session_{operation.session.session_id}_Operation_{operation.operation_id}"
    ]
    failed = Job(0, tags, [1], status="FAILED")
    outliving = Outliving()

    looks = [Sight((failed,), {1: 1}), Sight((), {}), Sight((failed,), {1: 0}), Sight((), {})]

    assert [outliving.goes_on(operation, sight) for sight in looks] == [True, True, False, False]


@pytest.mark.timeout(300)
async def test_a_task_that_outlives_a_job_which_the_web_ui_has_forgotten_keeps_its_run_active(tmp_path: Path) -> None:
    """Whoever has not seen it before has the threads that run tasks alone to tell."""
    (warehouse := tmp_path / "warehouse").mkdir()
    few = {"spark__ui__retainedJobs": "5", "spark__ui__retainedStages": "5"}
    with ConnectServer.start(tmp_path / "server", **few) as server:
        async with connected(server, warehouse) as plane:
            work, application = plane.work(), await application_of(plane)
            operation = Operation(plane.session(work), operation_of(work.tag))
            await plane.line.touch(operation.session)
            deaf = asyncio.create_task(plane.exhaust(operation, DEAF, tag=work.tag))
            while not await threads_inside(plane, "GeneratedIterator"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await plane.line.interrupt(operation.session, tag=work.tag)
            await deaf
            while (await plane.ui.look(application)).shows_job_of(operation):
                await plane.exhaust(Operation(Session("dbt", str(uuid4())), str(uuid4())), "SELECT 1", tag="elsewhere")

            [run] = (await plane.adapter.find([work]))[work.job_id].runs
            assert (run.status, await threads_inside(plane, RUNS_A_TASK)) == (RunStatus.ACTIVE, 1)
            assert run.word.startswith("CANCELLED, and tasks run of jobs that its web UI has forgotten")

            while run.status is RunStatus.ACTIVE:
                [run] = (await plane.adapter.find([work]))[work.job_id].runs
            assert run.status is RunStatus.STOPPED
            assert await threads_inside(plane, RUNS_A_TASK) == 0


async def test_a_web_ui_that_stays_behind_is_silence(shared_cluster: SparkConnectPlane) -> None:
    plane, application = shared_cluster, await application_of(shared_cluster)
    with hung_before(plane.server.ui_url) as (url, curtain):
        curtain.hang(application, looks=sys.maxsize)
        ui = Ui(url, timeout_seconds=TIMEOUT_SECONDS)

        with pytest.raises(LineError) as behind:
            await Lookout(plane.line, ui, timeout_seconds=1.0).look(application, [])

        await ui.aclose()
    assert behind.value.trouble.waiting is Waiting.PLANE_SILENT
    assert "what is not shown may run" in behind.value.message


@pytest.mark.parametrize("rung", LADDER)
async def test_while_the_web_ui_does_not_answer_nothing_counts_as_ended(
    shared_cluster: SparkConnectPlane, curtained: tuple[SparkConnectAdapter, Curtain], rung: Rung
) -> None:
    plane, work, (adapter, curtain) = shared_cluster, shared_cluster.work(), curtained
    await plane.start(work)
    [run] = (await adapter.find([work]))[work.job_id].runs
    curtain.is_down = True
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (listing := (await adapter.find([work]))[work.job_id]).trouble is None:
            await adapter.stop([run], rung)

    assert (listing.complete, listing.runs) == (False, ())
    assert listing.trouble.waiting is Waiting.PLANE_SILENT
    with pytest.raises(LineError):
        await adapter.observe([run])

    curtain.is_down = False
    assert (await adapter.observe([run]))[run.handle].status is RunStatus.STOPPED
