"""What becomes of a Connect server itself: it hangs, it dies, it is started anew; and how long it remembers.

The server is the test's own, one for the module. Its tests run in order, each leaves it running.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from adapters.base import ENDED, Check, RunStatus, StopAnswer
from adapters.narrative.spark_connect_errors import SESSION_CLOSED, SESSION_NOT_FOUND, LineError
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Rung, Waiting
from control_plane.work import Work
from tests.contract.spark_connect import TIMEOUT_SECONDS, SparkConnectPlane, connected
from tests.spark import ConnectServer

TOMBSTONES = 3

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectServer]:
    folder = tmp_path_factory.mktemp("connect")
    settings = {"spark__connect__session__manager__closedSessionsTombstonesSize": str(TOMBSTONES)}
    with ConnectServer.start(folder / "server", **settings) as server:
        yield server


@pytest.fixture
async def plane(own_server: ConnectServer, tmp_path: Path) -> AsyncIterator[SparkConnectPlane]:
    async with connected(own_server, tmp_path, timeout_seconds=5.0) as plane:
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


async def test_after_a_stop_the_server_is_as_idle_as_before(
    plane: SparkConnectPlane, record_property: Callable[[str, object], None]
) -> None:
    process, work = psutil.Process(plane.server.pid), plane.work()
    await plane.start(work)
    computing = await asyncio.to_thread(cpu_ratio, process, seconds=1.0)

    await stop_until_ended(plane, work)
    await plane.until_idle(work)
    idle = await asyncio.to_thread(cpu_ratio, process, seconds=1.0)

    record_property("cpu_of_spark_connect", f"{computing:.2f} of a core before the stop, {idle:.2f} after it")
    assert idle < computing / 3


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


async def test_a_frozen_server_is_silence_and_no_evidence(plane: SparkConnectPlane) -> None:
    running, absent = plane.work(), plane.work()
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


async def test_a_server_that_was_started_anew_is_another_incarnation_and_never_vouches_for_the_earlier_one(
    plane: SparkConnectPlane,
) -> None:
    work = plane.work()
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
