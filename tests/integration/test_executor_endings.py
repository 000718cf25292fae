"""Where an executor must not go on: what was closed, what has no output, and what a refused start may not vouch for."""

import asyncio
from pathlib import Path

import pytest

from adapters.base import RunStatus
from control_plane.errors import Refused
from control_plane.lifecycle import JobState
from control_plane.work import Executor as Identity
from tests.integration.given import Given
from tests.integration.test_executor import Once, Site, site, submit, working
from tests.narrative import ENDLESS, QUICK, rows, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def next_job_is_done(place: Site) -> None:
    """The only slot is free again: whatever was to become of the job before has become of it."""
    await place.reached(place.submit(QUICK, dataset_id=1234), JobState.COMPLETED)


async def test_a_job_that_was_closed_and_whose_run_succeeds_then_is_not_committed(given: Given, tmp_path: Path) -> None:
    calls: list[str] = []
    released = asyncio.Event()

    async def before(call: str) -> None:
        calls.append(call)

    async def after(call: str) -> None:
        if call == "follow":
            await released.wait()

    job_id = submit(given, QUICK)
    async with working(given, tmp_path, before=before, after=after, slots=1) as place:
        await until(lambda: place.words(job_id) == ["succeeded"])
        given.request(job_id)
        place.ticks.attend.set()
        await until(lambda: given.rows_of("jobs", job_id)[0]["executor_closed_at"] is not None)

        released.set()
        await next_job_is_done(place)

        assert place.engine.list_runs([place.tag(job_id)])[0].status is RunStatus.SUCCEEDED
        assert calls.count("commit") == 1  # the next job's
        assert given.job(job_id).committed_at is None
        assert given.job(job_id).state is JobState.PENDING_CANCELLATION


async def test_a_committed_job_whose_output_the_engine_does_not_have_is_not_completed(
    given: Given, tmp_path: Path
) -> None:
    heard: list[str] = []

    async def before(call: str) -> None:
        heard.append(call)
        await lose_the_output(call)

    job_id = submit(given, QUICK)
    async with working(given, tmp_path, before=before, slots=1) as place:
        lose_the_output = Once("publish", lambda: rows(place.engine, f'DROP TABLE narrative.outputs."job_{job_id}"'))
        await next_job_is_done(place)

        tidied = heard.count("unpublished")
        place.ticks.heartbeat.set()
        await until(lambda: heard.count("unpublished") > tidied)  # asked once the committed have been tried again

        job = given.job(job_id)
        assert (job.state, job.committed_at is None) == (JobState.RUNNING, False)
        assert heard.count("publish") == 3
        assert heard.count("complete") == 1  # the next job's


async def test_a_start_that_is_refused_closes_nothing_of_earlier_starts(given: Given, tmp_path: Path) -> None:
    async with working(given, tmp_path) as place:
        job_id = place.submit(ENDLESS)
        await place.executing(job_id)

    async with site(given, tmp_path) as refused:
        elsewhere = Identity(refused.engine.executor_id, int(refused.engine.incarnation), "unix:/elsewhere")
        given.dispatch.register(elsewhere, data_plane_id=given.plane.data_plane_id)
        with pytest.raises(Refused):
            await refused.executor.run(stopping=refused.stopping, ticks=refused.ticks)

    [row] = given.rows_of("jobs", job_id)
    assert (row["executor_incarnation"], row["executor_closed_at"]) == (1, None)
    assert given.job(job_id).state is JobState.RUNNING
