"""Stopping and closing on a Connect server that others use as well: what its answers prove, and what they do not."""

import asyncio
import sys
from uuid import uuid4

import pytest

from adapters.base import ENDED, Adapter, Listing, Run, RunStatus, StopAnswer
from adapters.narrative.spark_connect import SparkConnectAdapter
from adapters.narrative.spark_connect_errors import CANCELED, SESSION_CLOSED
from adapters.narrative.spark_connect_names import Operation, Server, Session, operation_of
from control_plane.jobs import Rung
from control_plane.work import Work
from tests.contract.spark_connect import DEAF, ENDLESS, TIMEOUT_SECONDS, USER, SparkConnectPlane, rows_in
from tests.narrative import PLANE

pytestmark = [pytest.mark.anyio, pytest.mark.spark]


async def listing(adapter: Adapter, work: Work) -> Listing:
    return (await adapter.find([work]))[work.job_id]


async def stopped(adapter: Adapter, work: Work, *, seconds: float = TIMEOUT_SECONDS) -> list[Run]:
    """The job's runs, stopped again and again until all of them have ended."""
    async with asyncio.timeout(seconds):
        while True:
            runs = (await listing(adapter, work)).runs
            if runs and all(run.status in ENDED for run in runs):
                return list(runs)
            await adapter.stop(runs, Rung.ASK)


async def submit_late(plane: SparkConnectPlane, work: Work) -> str | None:
    """What an executor meets that stalled after it had looked whether it may; None where its query runs."""
    error = await plane.exhaust(Operation(plane.session(work), str(uuid4())), "SELECT 1", tag=work.tag)
    return None if error is None else error.condition


# --- what an interrupt proves


async def test_an_interrupt_that_answers_nothing_proves_nothing(shared_cluster: SparkConnectPlane) -> None:
    """The same answer for what never was, for another's, for a misspelt tag, for what has ended: and this one runs."""
    plane, work, ended = shared_cluster, shared_cluster.work(), shared_cluster.work()
    await plane.start(work)
    await plane.succeed(ended)
    session = plane.session(work)

    answers = [
        await plane.line.interrupt(plane.session(plane.work()), tag=work.tag),
        await plane.line.interrupt(Session("somebody", session.session_id), tag=work.tag),
        await plane.line.interrupt(session, tag=f"{work.tag}s"),
        await plane.line.interrupt(session, operation_id=str(uuid4())),
        await plane.line.interrupt(plane.session(ended), tag=ended.tag),
    ]

    assert answers == [[]] * len(answers)
    assert [run.status for run in (await listing(plane.adapter, work)).runs] == [RunStatus.ACTIVE]


async def test_what_is_stopped_until_its_status_is_final_computes_no_more(shared_cluster: SparkConnectPlane) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    await plane.start(work)

    [run] = await stopped(plane.adapter, work)

    assert (run.status, run.word) == (RunStatus.STOPPED, "CANCELLED")
    assert await plane.active_tasks(work) == 0


@pytest.mark.timeout(300)
async def test_a_task_that_looks_at_no_interrupt_keeps_its_run_active_whatever_connect_says(
    shared_cluster: SparkConnectPlane,
) -> None:
    """For its canceller, and for its executor."""
    plane, work = shared_cluster, shared_cluster.work()
    handle = await plane.submit(work, DEAF)
    following = asyncio.ensure_future(plane.engine.follow(handle))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await plane.task_threads(work, inside="GeneratedIterator"):
            pass
    [run] = (await listing(plane.adapter, work)).runs
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (said := (await plane.line.states(plane.session(work)))[handle.run_id]) != "CANCELLED":
            assert said in ("RUNNING", "TERMINATING")
            await plane.adapter.stop([run], Rung.ASK)

    [listed] = (await listing(plane.adapter, work)).runs
    seen = (await plane.adapter.observe([run]))[run.handle]
    followed = following.done()
    threads = await plane.task_threads(work)
    [ended] = await stopped(plane.adapter, work, seconds=200.0)  # so long on a busy machine

    assert (listed.status, listed.word) == (RunStatus.ACTIVE, "CANCELLED, 1 tasks active")
    assert (seen, followed, len(threads)) == (listed, False, 1)
    assert (ended.status, ended.word) == (RunStatus.STOPPED, "CANCELLED")
    assert await plane.task_threads(work) == []
    assert (await following).status is RunStatus.STOPPED


async def test_an_operation_that_began_after_the_stop_is_found_and_stopped_as_well(
    shared_cluster: SparkConnectPlane,
) -> None:
    """One query may be two operations under one tag, and an interrupt comes between them."""
    plane, work = shared_cluster, shared_cluster.work()
    session, names = plane.session(work), [str(uuid4()), str(uuid4())]
    await plane.exhaust(Operation(session, names[0]), "SELECT 1", tag=work.tag)
    [first] = (await listing(plane.adapter, work)).runs
    await plane.adapter.stop([first], Rung.ASK)
    second = asyncio.create_task(plane.exhaust(Operation(session, names[1]), ENDLESS, tag=work.tag))
    await plane.until_computing(work)

    runs = await stopped(plane.adapter, work)

    assert {run.handle.run_id: run.status for run in runs} == {
        names[0]: RunStatus.SUCCEEDED,
        names[1]: RunStatus.STOPPED,
    }
    assert await plane.active_tasks(work) == 0
    assert (told := await second) is not None
    assert told.condition == CANCELED


@pytest.mark.parametrize("rung", [Rung.INSIST, Rung.FORCE])
async def test_what_a_tag_does_not_reach_the_higher_rungs_do(shared_cluster: SparkConnectPlane, rung: Rung) -> None:
    """Somebody's statement in the job's session, without the job's tag."""
    plane, work = shared_cluster, shared_cluster.work()
    operation = Operation(plane.session(work), str(uuid4()))
    stray = asyncio.create_task(plane.exhaust(operation, ENDLESS, tag="stray"))
    await plane.until_computing(work)
    [run] = (await listing(plane.adapter, work)).runs

    asked = await plane.adapter.stop([run], Rung.ASK)
    still = (await listing(plane.adapter, work)).runs
    told = await plane.adapter.stop([run], rung)

    assert [seen.status for seen in still] == [RunStatus.ACTIVE]
    assert (asked[run.handle], told[run.handle]) == (StopAnswer.ACCEPTED, StopAnswer.ACCEPTED)
    await plane.until_idle(work)
    assert await stray is not None


async def test_of_two_jobs_on_one_server_one_is_cancelled_and_the_other_writes_the_right_rows(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, doomed, spared = shared_cluster, shared_cluster.work(), shared_cluster.work()
    await plane.start(doomed)
    other = asyncio.ensure_future(
        plane.run_to_end(spared, "SELECT id FROM range(0, 200000000, 1, 2) WHERE id % 99999989 = 7")
    )
    while not (await plane.active_tasks(spared) or other.done()):  # both compute when one is stopped
        pass

    [run] = await stopped(plane.adapter, doomed)
    ending = await other

    assert (run.status, ending.status) == (RunStatus.STOPPED, RunStatus.SUCCEEDED)
    written = plane.warehouse.root / "outputs" / f"JOB_{spared.job_id}"
    assert sorted(rows_in(written)) == [7, 99999996, 199999985]
    assert not (plane.warehouse.root / "outputs" / f"JOB_{doomed.job_id}" / "_SUCCESS").exists()


# --- closing


@pytest.mark.parametrize("seen_before", [True, False])
async def test_nothing_is_started_late_in_a_closed_session(
    shared_cluster: SparkConnectPlane, seen_before: bool
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    if seen_before:
        await plane.succeed(work)

    closed = await plane.adapter.close([work])

    assert closed == {work.job_id}
    assert await submit_late(plane, work) == SESSION_CLOSED


async def test_releasing_a_session_that_the_server_has_never_seen_does_not_close_it(
    shared_cluster: SparkConnectPlane,
) -> None:
    """Which is why it is touched first."""
    plane, work = shared_cluster, shared_cluster.work()

    await plane.line.release_session(plane.session(work))

    assert await submit_late(plane, work) is None


async def test_a_job_of_which_something_runs_is_not_closed_under_it(shared_cluster: SparkConnectPlane) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    await plane.start(work)

    assert await plane.adapter.close([work]) == frozenset()
    assert [run.status for run in (await listing(plane.adapter, work)).runs] == [RunStatus.ACTIVE]


async def test_whoever_closed_a_session_still_knows_how_its_run_ended_and_others_that_it_is_gone(
    shared_cluster: SparkConnectPlane,
) -> None:
    """GetStatus answers nothing but SESSION_CLOSED from then on."""
    plane, work = shared_cluster, shared_cluster.work()
    await plane.start(work)
    [run] = await stopped(plane.adapter, work)
    await plane.adapter.close([work])
    other = SparkConnectAdapter(
        Server.at(plane.server.url), installation="tests", data_plane_id=PLANE, user=USER, ui_url=plane.server.ui_url
    )

    ours, theirs = (await listing(plane.adapter, work)), (await listing(other, work))
    seen = (await other.observe([run]))[run.handle]

    assert [known.status for known in ours.runs] == [RunStatus.STOPPED]
    assert (theirs.complete, theirs.incarnation) == (True, run.handle.incarnation)
    assert [(known.handle, known.status, known.word) for known in theirs.runs] == [
        (run.handle, RunStatus.GONE, SESSION_CLOSED)
    ]
    assert seen == theirs.runs[0]
    await other.aclose()


# --- the process that submitted it


async def test_the_orphan_of_a_killed_executor_is_found_by_its_tag_alone_stopped_and_closed(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    command = (
        sys.executable,
        "-m",
        "tests.integration.spark.orphaning",
        plane.server.url,
        plane.server.ui_url,
        plane.warehouse.root,
    )
    executor = await asyncio.create_subprocess_exec(
        *command, work.tag, str(work.job_id), ENDLESS, stdout=asyncio.subprocess.PIPE
    )
    assert executor.stdout is not None
    assert await executor.stdout.readline() == b"started\n"
    executor.kill()
    await executor.wait()
    await plane.until_computing(work)  # it does not care

    [found] = (await listing(plane.adapter, work)).runs
    [run] = await stopped(plane.adapter, work)
    closed = await plane.adapter.close([work])

    assert (found.status, found.handle.run_id) == (RunStatus.ACTIVE, operation_of(work.tag))
    assert run.status is RunStatus.STOPPED
    assert closed == {work.job_id}
    assert await submit_late(plane, work) == SESSION_CLOSED
    assert await plane.active_tasks(work) == 0
