"""Dedicated applications on a real master and worker: what they leave, how they are found, ended and closed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest
from msgspec import structs

from adapters.base import ENDED, Listing, Run, RunStatus, StopAnswer
from adapters.narrative.spark_standalone import SparkStandaloneAdapter
from adapters.narrative.spark_standalone_line import MasterLine
from adapters.narrative.spark_standalone_scripts import Folder, State
from adapters.narrative.spark_warehouse import Kind, Warehouse
from control_plane.jobs import JobType, Rung
from control_plane.work import Claim, Publication, Work
from tests.contract.spark_standalone import ENDLESS, SMALL, adapter_of, opened
from tests.doubles.tcp_proxy import Fault, TcpProxy
from tests.narrative import claim_of, until, view_of
from tests.spark import Standalone, catalog_jar, command_of, is_executor, is_running
from workers.demo import spark_example
from workers.demo.example import long_view
from workers.demo.spark_example import CATALOG
from workers.engines.base import Ending, NotStarted
from workers.engines.spark_standalone import SparkStandaloneEngine

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(300)]  # each driver is a Java of its own

ROOT = Path(__file__).parents[3]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cluster(spark_standalone: Standalone) -> Standalone:
    """The run's, by its short name."""
    return spark_standalone


@pytest.fixture
async def engine(cluster: Standalone, tmp_path: Path) -> AsyncIterator[SparkStandaloneEngine]:
    async with opened(cluster, tmp_path) as engine:
        yield engine


@pytest.fixture
async def adapter(cluster: Standalone, tmp_path: Path) -> AsyncIterator[SparkStandaloneAdapter]:
    adapter = adapter_of(cluster, tmp_path)
    yield adapter
    await adapter.aclose()


def work_of(claim: Claim, warehouse: Path) -> Work:
    """The job as the store knows it before its handle is recorded."""
    return Work(claim.job_id, claim.tag, incarnation=Folder(warehouse).name())


async def run_to_end(engine: SparkStandaloneEngine, claim: Claim) -> Ending:
    return await engine.follow(await engine.start(claim, lambda: 30.0))


async def listing_of(adapter: SparkStandaloneAdapter, work: Work) -> Listing:
    return (await adapter.find([work]))[work.job_id]


async def until_ended(adapter: SparkStandaloneAdapter, work: Work) -> Run:
    """The job's one run, once it has ended."""
    async with asyncio.timeout(120):
        while (listing := await listing_of(adapter, work)).runs[0].status not in ENDED:  # noqa: ASYNC110  the cluster's
            await asyncio.sleep(0.05)
    assert listing.complete
    [run] = listing.runs
    return run


async def until_killed(adapter: SparkStandaloneAdapter, work: Work) -> Run:
    """The job's one run, once the master has dropped its driver and its application."""
    async with asyncio.timeout(120):
        while not (run := (await listing_of(adapter, work)).runs[0]).word.startswith("KILLED"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return run


async def until_computing(cluster: Standalone, warehouse: Path, tag: str) -> list[psutil.Process]:
    """The application's processes, once it computes."""
    processes: list[psutil.Process] = []

    def computes() -> bool:
        processes[:] = cluster.computing(warehouse, tag)
        return bool(processes)

    await until(computes, seconds=150)
    return processes


async def test_jobs_end_with_their_result_and_leave_what_they_wrote(
    engine: SparkStandaloneEngine, adapter: SparkStandaloneAdapter, tmp_path: Path
) -> None:
    view = view_of("SELECT id, 'a;b' AS text FROM range(1000) -- as it is; given")
    counted = {"nql": "SELECT 1", "compiled_sql": "SELECT id FROM range(5) WHERE id <> -1"}
    forecast = claim_of(JobType.NQL_FORECAST, counted)
    broken = view_of("SELECT no_such_function(id) FROM range(3)")

    endings = await asyncio.gather(*(run_to_end(engine, claim) for claim in (view, forecast, broken)))

    assert [ending.status for ending in endings] == [RunStatus.SUCCEEDED, RunStatus.SUCCEEDED, RunStatus.ERRORED]
    assert [ending.word for ending in endings] == ["FINISHED", "FINISHED", "FAILED"]
    assert endings[0].dataset_id == 6404
    assert endings[1].result is not None
    assert endings[1].result["rows"] == 5
    assert await engine.publish([structs.replace(view, publication=Publication(6404, 7))]) == {view.job_id}
    shown = Warehouse(tmp_path).shown(Kind.VIEW, 6404)
    assert shown is not None
    assert shown.job_id == view.job_id
    assert [run.status for run in (await listing_of(adapter, work_of(broken, tmp_path))).runs] == [RunStatus.ERRORED]
    assert await engine.unpublished() == [broken.job_id]
    await engine.discard({broken.job_id: broken.tag})
    assert await engine.unpublished() == []


async def test_a_job_whose_executor_was_killed_is_found_by_its_tag_stopped_and_leaves_no_process(
    cluster: Standalone, adapter: SparkStandaloneAdapter, tmp_path: Path
) -> None:
    claim = view_of(ENDLESS, job_id=uuid4())
    work = work_of(claim, tmp_path)
    command = [sys.executable, "-m", "tests.integration.spark.submitting"]
    command += [cluster.rest_url, cluster.ui_url, str(tmp_path)]
    executor = await asyncio.create_subprocess_exec(*command, str(claim.job_id), ENDLESS, cwd=ROOT)
    try:
        processes = await until_computing(cluster, tmp_path, claim.tag)
    finally:
        executor.kill()
        await executor.wait()

    [run] = (await listing_of(adapter, work)).runs
    closed = await adapter.close([work])
    answers = await adapter.stop([run], Rung.ASK)
    ended = await until_ended(adapter, work)

    assert run.status is RunStatus.ACTIVE
    assert closed == {work.job_id}
    assert answers == {run.handle: StopAnswer.ACCEPTED}
    assert (ended.status, ended.word, ended.handle) == (RunStatus.STOPPED, "KILLED", run.handle)
    assert [command_of(process) for process in processes if is_running(process)] == []
    assert (await adapter.running()).runs == ()


async def test_the_reference_pages_sql_is_stopped_half_way_and_has_not_ended_while_an_executor_outlives_its_driver(
    cluster: Standalone, adapter: SparkStandaloneAdapter, tmp_path: Path
) -> None:
    """Its tasks run in processes of its own: they compute before, and none of them is there afterwards.

    The executor heeds nothing when its driver is killed. The master drops it at once, its worker kills it later.
    """
    spark_example.load(tmp_path)
    claim = view_of(long_view()["compiled_sql"])
    catalog = {"spark.driver.extraClassPath": str(catalog_jar(tmp_path)), "spark.sql.catalog.narrative": CATALOG}
    async with opened(cluster, tmp_path, **catalog) as engine:
        handle = await engine.start(claim, lambda: 30.0)
        processes = await until_computing(cluster, tmp_path, claim.tag)
        [executor] = [process for process in processes if is_executor(process)]
        await until(lambda: executor.cpu_percent(0.5) > 30, seconds=60)

        [run] = (await listing_of(adapter, work_of(claim, tmp_path))).runs
        executor.suspend()
        await adapter.stop([run], Rung.ASK)
        orphaned = await until_killed(adapter, work_of(claim, tmp_path))
        outlives = is_running(executor)
        executor.resume()
        ended = await until_ended(adapter, work_of(claim, tmp_path))
        left = [command_of(process) for process in processes if is_running(process)]
        ending = await engine.follow(handle)

    assert (run.status, ended.status, ended.word) == (RunStatus.ACTIVE, RunStatus.STOPPED, "KILLED")
    assert (orphaned.status, orphaned.word) == (RunStatus.ACTIVE, "KILLED, and its executors are ending")
    assert outlives
    assert left == []
    assert ending.status is RunStatus.STOPPED
    assert not (tmp_path / "outputs" / f"JOB_{claim.job_id}" / "_SUCCESS").exists()


async def test_a_submission_whose_answer_was_lost_leaves_nothing_that_runs(
    cluster: Standalone, adapter: SparkStandaloneAdapter, tmp_path: Path
) -> None:
    claim = view_of(ENDLESS)
    address = urlsplit(cluster.rest_url)
    proxy = TcpProxy((str(address.hostname), int(address.port or 0)))
    engine = await SparkStandaloneEngine.open(proxy.url, tmp_path, ui_url=cluster.ui_url, properties=SMALL)
    proxy.begin(Fault.LOSE_ANSWERS, only="/create")

    with pytest.raises(NotStarted, match="was not answered"):
        await engine.start(claim, lambda: 30.0)

    assert proxy.met == ["POST /v1/submissions/create HTTP/1.1"]
    listing = await listing_of(adapter, work_of(claim, tmp_path))
    assert listing.complete
    assert all(run.status in ENDED for run in listing.runs)
    await engine.aclose()
    proxy.close()


async def test_a_driver_that_waits_for_a_worker_is_active_and_ends_at_once(
    cluster: Standalone, adapter: SparkStandaloneAdapter, tmp_path: Path
) -> None:
    claim = view_of(ENDLESS)
    async with opened(cluster, tmp_path, **{"spark.driver.cores": "1000"}) as engine:
        handle = await engine.start(claim, lambda: 30.0)

        [run] = (await listing_of(adapter, work_of(claim, tmp_path))).runs
        assert await engine.close(claim.tag)
        ending = await engine.follow(handle)

    assert (run.status, run.word) == (RunStatus.ACTIVE, "SUBMITTED")
    assert (ending.status, ending.word) == (RunStatus.STOPPED, "KILLED")
    assert Folder(tmp_path).state(claim.tag) == State(True, True, frozenset({handle.run_id}))


async def test_a_driver_that_is_launched_after_closing_finds_nothing_to_run_and_a_new_master_proves_no_end(
    tmp_path: Path,
) -> None:
    """While it waits nobody knows whose it is: its id was lost, and the master's list tells no tag."""
    (warehouse := tmp_path / "warehouse").mkdir()
    (tmp_path / "cluster").mkdir()
    late = view_of(ENDLESS)
    with Standalone(tmp_path / "cluster") as cluster:
        cluster.resume_master()
        adapter = adapter_of(cluster, warehouse)
        line = MasterLine(cluster.rest_url, timeout_seconds=10.0, ui_url=cluster.ui_url)
        async with opened(cluster, warehouse) as engine:
            handle = await engine.start(late, lambda: 30.0)
            (Folder(warehouse).events(late.tag).parent / "driver").unlink()

            before = await listing_of(adapter, work_of(late, warehouse))
            closed = await adapter.close([work_of(late, warehouse)])
            after = await listing_of(adapter, work_of(late, warehouse))
            cluster.resume_worker()
            ending = await engine.follow(handle)
            cluster.process("master").kill()
            cluster.resume_master()
            seen = await line.fate(handle.run_id)
        await adapter.aclose()
        await line.aclose()

    assert (before.complete, before.runs) == (False, ())
    assert closed == {late.job_id}
    assert (after.complete, after.runs) == (True, ())
    assert (ending.status, ending.word) == (RunStatus.ERRORED, "ERROR")
    assert seen.run_status is RunStatus.UNKNOWN
    assert not (warehouse / "outputs" / f"JOB_{late.job_id}").exists()
