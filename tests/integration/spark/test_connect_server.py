"""What becomes of a Connect server itself: it hangs, it dies, it is started anew; and how long it remembers.

The server is the test's own, one for the module. Its tests run in order, each leaves it running.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from adapters.base import ENDED, Check, RunStatus, StopAnswer
from adapters.narrative.spark_connect_errors import SESSION_CLOSED, SESSION_NOT_FOUND, LineError
from adapters.narrative.spark_connect_line import writing
from adapters.narrative.spark_connect_names import operation_of
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Handle, Rung, Waiting
from control_plane.work import Work
from tests.contract.spark_connect import ENDLESS, TIMEOUT_SECONDS, SparkConnectPlane, connected
from tests.narrative import until
from tests.spark import ConnectServer
from workers.demo import spark_example
from workers.demo.example import long_view
from workers.engines.base import NotStarted

TOMBSTONES = 3
#: Hadoop, which starts over when it is interrupted there.
WAITS_FOR_ERRORS = "org.apache.hadoop.util.Shell.joinThread"

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(180)]


class Chmod:
    """The program that Hadoop runs before it writes. While it is held it has ended, and its errors may still come.

    Whoever waits for those overlooks an interrupt, and goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = folder / "held"
        program = folder / "chmod"
        linger = f"(while [ -e {self._held} ]; do sleep 0.05; done) < /dev/null > /dev/null &"
        program.write_text(f'#!/bin/sh\n/bin/chmod "$@" || exit\nif [ -e {self._held} ]; then {linger}\nfi\n')
        program.chmod(0o755)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Whatever begins to write meanwhile."""
        self._held.touch()
        try:
            yield
        finally:
            self._held.unlink()


@pytest.fixture(scope="module")
def chmod(tmp_path_factory: pytest.TempPathFactory) -> Chmod:
    return Chmod(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, chmod: Chmod) -> Iterator[ConnectServer]:
    folder = tmp_path_factory.mktemp("connect")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(chmod.folder), prepend=os.pathsep)
        yield from started(folder)


def started(folder: Path) -> Iterator[ConnectServer]:
    settings = {"spark__connect__session__manager__closedSessionsTombstonesSize": str(TOMBSTONES)}
    with ConnectServer.start(folder / "server", **settings) as server:
        yield server


@pytest.fixture
async def plane(own_server: ConnectServer, tmp_path: Path) -> AsyncIterator[SparkConnectPlane]:
    async with connected(own_server, tmp_path) as plane:
        yield plane


@pytest.fixture
async def hurried(own_server: ConnectServer, tmp_path: Path) -> AsyncIterator[SparkConnectPlane]:
    """One whose calls end soon where nobody answers."""
    async with connected(own_server, tmp_path, timeout_seconds=8.0) as plane:
        yield plane


@contextmanager
def frozen(server: ConnectServer) -> Iterator[None]:
    """It neither works nor answers, and its connections stay."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def cpu_ratio(process: psutil.Process, *, seconds: float) -> float:
    """So much of one core the process uses meanwhile."""
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(seconds)  # what is measured is what it does while nobody asks it for anything
    after, ended = process.cpu_times(), time.monotonic()
    return (after.user + after.system - before.user - before.system) / (ended - began)


async def stop_until_ended(plane: SparkConnectPlane, work: Work) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (runs := (await plane.adapter.find([work]))[work.job_id].runs) and runs[0].status not in ENDED:
            await plane.adapter.stop(runs, Rung.ASK)


async def test_after_a_stop_of_the_reference_pages_sql_the_server_is_as_idle_as_before(
    plane: SparkConnectPlane, record_property: Callable[[str, object], None]
) -> None:
    """No task, no thread that runs one, and no CPU."""
    process, work = psutil.Process(plane.server.pid), plane.work()
    spark_example.load(plane.warehouse.root)
    await plane.submit(work, long_view()["compiled_sql"])
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not (threads := await plane.task_threads(work)):
            pass
    computing = await asyncio.to_thread(cpu_ratio, process, seconds=1.0)

    await stop_until_ended(plane, work)
    await plane.until_idle(work)
    left = await plane.task_threads(work)
    idle = computing
    async with asyncio.timeout(TIMEOUT_SECONDS):  # a Java tidies up for a moment; what computes on is never idle
        while idle >= computing / 3:
            idle = await asyncio.to_thread(cpu_ratio, process, seconds=1.0)

    assert (bool(threads), left) == (True, [])
    record_property("cpu_of_spark_connect", f"{computing:.2f} of a core before the stop, {idle:.2f} after it")


async def test_a_closed_session_is_remembered_for_so_many_closings_since_it_was_last_asked_about(
    plane: SparkConnectPlane,
) -> None:
    """By count and not by time; afterwards it is as if it had never been, and may be begun anew."""
    asked_about, forgotten, *others = [plane.work() for _ in range(2 + TOMBSTONES)]
    await plane.adapter.close([asked_about])
    await plane.adapter.close([forgotten])
    answers = []

    for work in others:
        answers.append(await state_of(plane, asked_about))
        await plane.adapter.close([work])

    assert answers == [SESSION_CLOSED] * TOMBSTONES
    assert await state_of(plane, asked_about) == SESSION_CLOSED
    assert await state_of(plane, forgotten) == SESSION_NOT_FOUND


async def state_of(plane: SparkConnectPlane, work: Work) -> str | None:
    """What GetStatus answers about the job's session."""
    try:
        await plane.line.states(plane.session(work))
    except LineError as error:
        return error.condition
    return None


async def test_a_frozen_server_is_silence_and_no_evidence(hurried: SparkConnectPlane) -> None:
    plane, running, absent = hurried, hurried.work(), hurried.work()
    await plane.start(running)
    [run] = (await plane.adapter.find([running]))[running.job_id].runs

    with frozen(plane.server):
        listings, stops, closed, observed, check = await asyncio.gather(
            plane.adapter.find([running, absent]),
            plane.adapter.stop([run], Rung.FORCE),
            plane.adapter.close([running, absent]),
            plane.adapter.observe([run]),
            plane.adapter.check(),
            return_exceptions=True,
        )

    assert isinstance(listings, dict)
    for listing in listings.values():
        assert (listing.runs, listing.complete) == ((), False)
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.PLANE_SILENT
    assert stops == {run.handle: StopAnswer.UNREACHABLE}
    assert closed == frozenset()
    assert isinstance(observed, EngineUnavailable)
    assert isinstance(check, Check)
    assert not check.ok
    [seen] = (await plane.adapter.find([running]))[running.job_id].runs
    assert seen.status is RunStatus.ACTIVE


async def test_a_submission_that_a_frozen_server_did_not_answer_is_stopped_if_its_job_was_closed_meanwhile(
    hurried: SparkConnectPlane,
) -> None:
    plane, work = hurried, hurried.work()

    def freeze_and_allow() -> float:
        """Asked last before the statement is sent."""
        os.kill(plane.server.pid, signal.SIGSTOP)
        return 0.5

    starting = asyncio.create_task(plane.submit(work, ENDLESS, permit_left=freeze_and_allow))
    await until(lambda: psutil.Process(plane.server.pid).status() == psutil.STATUS_STOPPED)
    certain = await plane.engine.close(work.tag)
    os.kill(plane.server.pid, signal.SIGCONT)
    status = None
    with contextlib.suppress(NotStarted):  # or it did not begin, and cannot any more
        status = (await plane.engine.follow(await starting)).status

    assert not certain
    assert status in (RunStatus.STOPPED, None)
    assert await plane.active_tasks(work) == 0


async def until_deaf(plane: SparkConnectPlane) -> None:
    """Until a thread of the server waits for errors of the program that is held; before, it would hear an interrupt."""
    application = (await plane.line.identity()).application
    url = f"{plane.server.ui_url}/api/v1/applications/{application}/executors/driver/threads"
    async with asyncio.timeout(TIMEOUT_SECONDS), httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
        while WAITS_FOR_ERRORS not in (await client.get(url)).raise_for_status().text:
            pass


async def begun_deaf(plane: SparkConnectPlane, work: Work, chmod: Chmod) -> Handle:
    """The job computes, and was interrupted before."""
    with chmod.held():
        handle = await plane.submit(work, ENDLESS)
        await until_deaf(plane)
        assert await plane.line.interrupt(plane.session(work), tag=work.tag) == [handle.run_id]
    await plane.until_computing(work)
    return handle


async def test_a_run_that_overlooked_its_interrupt_runs_on_until_the_last_rung(
    plane: SparkConnectPlane, chmod: Chmod
) -> None:
    """It is interrupted once, and no more: a second interrupt answers nothing, and does nothing."""
    work = plane.work()
    await begun_deaf(plane, work, chmod)
    [run] = (await plane.adapter.find([work]))[work.job_id].runs

    again = [await plane.line.interrupt(plane.session(work), tag=work.tag) for _ in range(2)]
    await plane.adapter.stop([run], Rung.INSIST)
    [still] = (await plane.adapter.find([work]))[work.job_id].runs
    closed = await plane.adapter.close([work])
    answers = await plane.adapter.stop([run], Rung.FORCE)
    await plane.until_idle(work)
    await stop_until_ended(plane, work)

    assert again == [[], []]
    assert still.status is RunStatus.ACTIVE
    assert closed == frozenset()
    assert answers == {run.handle: StopAnswer.ACCEPTED}
    [ended] = (await plane.adapter.find([work]))[work.job_id].runs
    assert (ended.status, ended.word) == (RunStatus.STOPPED, "CANCELLED")


async def test_an_executor_ends_its_run_that_overlooked_its_interrupt(plane: SparkConnectPlane, chmod: Chmod) -> None:
    work = plane.work()
    handle = await begun_deaf(plane, work, chmod)

    await plane.engine.close(work.tag)
    ending = await plane.engine.follow(handle)

    assert (ending.status, ending.word) == (RunStatus.STOPPED, "CANCELLED")
    assert await plane.active_tasks(work) == 0


async def test_what_goes_on_in_an_ended_session_is_active_also_while_it_is_planned(
    plane: SparkConnectPlane, chmod: Chmod
) -> None:
    """Whoever ends a session interrupts what is in it, and does not learn whether that was heard."""
    work = plane.work()
    with chmod.held():
        late = asyncio.create_task(write(plane, work))
        await until_deaf(plane)
        with contextlib.suppress(LineError):  # an internal error; it is ended all the same
            await plane.line.release_session(plane.session(work))
        [planned] = (await plane.adapter.find([work]))[work.job_id].runs
    await plane.until_computing(work)

    [computing] = (await plane.adapter.find([work]))[work.job_id].runs
    answers = await plane.adapter.stop([computing], Rung.FORCE)
    await plane.until_idle(work)

    assert await state_of(plane, work) == SESSION_CLOSED
    assert (planned.status, planned.word) == (RunStatus.ACTIVE, f"{SESSION_CLOSED}, not finished")
    assert (computing.status, computing.word) == (RunStatus.ACTIVE, f"{SESSION_CLOSED}, 1 tasks active")
    assert answers == {computing.handle: StopAnswer.ACCEPTED}
    await late


async def write(plane: SparkConnectPlane, work: Work) -> None:
    """Write the job's output as its executor would, and do not care how that ends."""
    output = writing(ENDLESS, f"file://{plane.warehouse.root}/late", "parquet")
    with contextlib.suppress(LineError):
        async for _ in plane.line.execute(plane.session(work), operation_of(work.tag), output, tag=work.tag):
            pass


async def test_a_server_that_was_started_anew_is_another_incarnation_and_never_vouches_for_the_earlier_one(
    hurried: SparkConnectPlane,
) -> None:
    plane, work = hurried, hurried.work()
    await plane.start(work)
    [run] = (await plane.adapter.find([work]))[work.job_id].runs
    plane.server.kill()

    silent = (await plane.adapter.find([work]))[work.job_id]
    await asyncio.to_thread(plane.server.resume)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not (listing := (await plane.adapter.find([work]))[work.job_id]).complete:
            pass

    assert silent.trouble is not None
    assert silent.trouble.waiting is Waiting.PLANE_SILENT
    assert (listing.runs, listing.trouble) == ((), None)
    assert listing.incarnation != run.handle.incarnation
    assert await plane.adapter.observe([run]) == {}  # unknown, and not gone
    assert await plane.adapter.close([work]) == {work.job_id}
    assert await state_of(plane, work) == SESSION_CLOSED
