"""The engine of a plane with clusters: every job is run by the engine of its own cluster.

Both clusters are real engines here, embedded ones: what is tried is which of them is asked.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from adapters.base import RunStatus
from control_plane.errors import Conflict, EngineUnavailable
from control_plane.jobs import ExecutionCluster, Handle, JobType
from control_plane.work import Claim, Publication
from tests.narrative import ENDLESS, QUICK, opened, outputs, rows, until, view_of
from workers.engines.base import Engine, NotStarted
from workers.engines.embedded import EmbeddedEngine
from workers.engines.spark import SparkEngine
from workers.engines.spark_standalone_submission import properties_of

pytestmark = pytest.mark.anyio

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
SHOWN = "SELECT n FROM narrative.datasets.ds_6404"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Connect(EmbeddedEngine):
    """By the name of the engine on shared clusters."""

    name = "spark-connect"

    async def start(self, claim: Claim, permit_left: Any) -> Handle:
        return structs.replace(await super().start(claim, permit_left), engine=self.name)

    async def follow(self, handle: Handle) -> Any:
        return await super().follow(structs.replace(handle, engine="duckdb"))


class Standalone(Connect):
    """By the name of the engine on dedicated clusters."""

    name = "spark-standalone"


class Clusters:
    """The engine of a plane with both clusters, and the two that it is made of."""

    def __init__(self, shared: EmbeddedEngine, dedicated: EmbeddedEngine) -> None:
        self.shared, self.dedicated = shared, dedicated
        self.engine: Engine = SparkEngine({SHARED: shared, DEDICATED: dedicated})


@asynccontextmanager
async def clusters_in(path: Path) -> AsyncIterator[Clusters]:
    async with AsyncExitStack() as engines:
        shared = await engines.enter_async_context(opened(path / "shared", kind=Connect))
        dedicated = await engines.enter_async_context(opened(path / "dedicated", kind=Standalone))
        yield Clusters(shared, dedicated)


def permit() -> float:
    return 30.0


def claim(cluster: ExecutionCluster | None, sql: str = QUICK) -> Claim:
    return structs.replace(view_of(sql), execution_cluster=cluster)


async def test_every_job_runs_on_its_own_cluster_and_one_without_any_on_the_first(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        endings = {}
        for cluster in (SHARED, DEDICATED, None):
            handle = await clusters.engine.start(claim(cluster), permit)
            endings[cluster] = (handle.engine, (await clusters.engine.follow(handle)).status)

        assert endings == {
            SHARED: ("spark-connect", RunStatus.SUCCEEDED),
            DEDICATED: ("spark-standalone", RunStatus.SUCCEEDED),
            None: ("spark-connect", RunStatus.SUCCEEDED),
        }
        assert (len(outputs(clusters.shared)), len(outputs(clusters.dedicated))) == (2, 1)


async def test_it_says_what_it_serves_by_the_incarnation_of_each_clusters_engine(tmp_path: Path) -> None:
    async with clusters_in(tmp_path):
        pass
    async with opened(tmp_path / "shared") as shared, clusters_in(tmp_path / "new") as new:
        engine = SparkEngine({SHARED: shared, DEDICATED: new.dedicated})

        assert engine.clusters == {SHARED: "2", DEDICATED: "1"}
        assert engine.incarnation == "2"
        assert engine.types == EmbeddedEngine.types
        assert not engine.ends_with_executor


class OfSamplesAlone(Standalone):
    """An engine that can do less than the other."""

    types = frozenset({JobType.SAMPLE})


async def test_it_can_run_what_each_of_its_clusters_can(tmp_path: Path) -> None:
    async with opened(tmp_path / "one") as one, opened(tmp_path / "other", kind=OfSamplesAlone) as other:
        assert SparkEngine({SHARED: one, DEDICATED: other}).types == {JobType.SAMPLE}


async def test_a_cluster_that_is_away_is_served_once_it_answers_and_holds_up_no_other(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        engine, tried, mended = SparkEngine({SHARED: clusters.shared}), 0, False

        async def join() -> Engine:
            nonlocal tried
            tried += 1
            if tried < 3 or not mended:
                raise EngineUnavailable("it does not answer")
            return clusters.dedicated

        engine.await_cluster(DEDICATED, join)
        committed = structs.replace(claim(DEDICATED), publication=Publication(6404, 1))
        before = engine.clusters
        handle = await engine.start(claim(SHARED), permit)
        with pytest.raises(EngineUnavailable, match="dedicated: the cluster is away"):
            await engine.publish([committed])
        mended = True
        await until(lambda: len(engine.clusters) == 2)
        late = await engine.start(claim(DEDICATED), permit)

        assert before == {SHARED: "1"}
        assert engine.clusters == {SHARED: "1", DEDICATED: "1"}
        assert (handle.engine, late.engine) == ("spark-connect", "spark-standalone")
        assert (await engine.follow(late)).status is RunStatus.SUCCEEDED


async def test_what_is_awaited_is_let_go_of(tmp_path: Path) -> None:
    async def join() -> Engine:
        raise EngineUnavailable("it never answers")

    async with opened(tmp_path) as shared:
        engine = SparkEngine({SHARED: shared})
        engine.await_cluster(DEDICATED, join)

        await engine.wait_no_more()

        assert engine.clusters == {SHARED: "1"}


async def test_a_job_of_a_cluster_that_is_not_served_is_not_started(tmp_path: Path) -> None:
    async with opened(tmp_path) as shared:
        engine = SparkEngine({SHARED: shared})

        with pytest.raises(NotStarted, match="this executor serves shared, not dedicated"):
            await engine.start(claim(DEDICATED), permit)


async def test_a_run_that_no_engine_here_started_is_not_followed(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        with pytest.raises(EngineUnavailable, match="no run of this executor"):
            await clusters.engine.follow(Handle("duckdb", "1", "run-1"))


@pytest.mark.parametrize("cluster", [SHARED, DEDICATED])
async def test_closing_stops_a_job_where_it_runs(tmp_path: Path, cluster: ExecutionCluster) -> None:
    async with clusters_in(tmp_path) as clusters:
        running = claim(cluster, ENDLESS)
        handle = await clusters.engine.start(running, permit)

        assert await clusters.engine.close(running.tag)
        assert (await clusters.engine.follow(handle)).status is RunStatus.STOPPED


async def test_a_tag_that_was_closed_before_its_start_starts_on_no_cluster(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        late = claim(DEDICATED)

        assert await clusters.engine.close(late.tag)
        with pytest.raises(Conflict, match="closed"):
            await clusters.engine.start(late, permit)
        assert outputs(clusters.dedicated) == []


async def test_a_job_is_started_once(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        once = claim(SHARED)
        await clusters.engine.start(once, permit)

        with pytest.raises(Conflict, match="started before"):
            await clusters.engine.start(once, permit)


async def test_committed_jobs_are_published_on_their_own_cluster(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        claims = [claim(SHARED, "SELECT 1 AS n"), claim(DEDICATED, "SELECT 2 AS n")]
        for number, one in enumerate(claims, start=1):
            await clusters.engine.follow(await clusters.engine.start(one, permit))
            claims[number - 1] = structs.replace(one, publication=Publication(6404, number))

        published = await clusters.engine.publish(claims)

        assert published == {one.job_id for one in claims}
        assert [rows(engine, SHOWN) for engine in (clusters.shared, clusters.dedicated)] == [[(1,)], [(2,)]]
        assert await clusters.engine.unpublished() == []


async def test_what_nobody_published_is_told_once_and_removed_where_it_was_written(tmp_path: Path) -> None:
    async with clusters_in(tmp_path) as clusters:
        claims = [claim(SHARED), claim(DEDICATED)]
        for one in claims:
            await clusters.engine.follow(await clusters.engine.start(one, permit))

        unpublished = await clusters.engine.unpublished()
        removed = await clusters.engine.discard({one.job_id: one.tag for one in claims})

        assert sorted(unpublished) == sorted(one.job_id for one in claims)
        assert {job_id: len(names) for job_id, names in removed.items()} == {one.job_id: 1 for one in claims}
        assert outputs(clusters.shared) == outputs(clusters.dedicated) == []


async def test_what_an_earlier_start_of_the_executor_wrote_is_removed_wherever_it_is(tmp_path: Path) -> None:
    """Nobody knows any more on which cluster the job ran."""
    written = claim(DEDICATED)
    async with clusters_in(tmp_path) as clusters:
        await clusters.engine.follow(await clusters.engine.start(written, permit))

    async with clusters_in(tmp_path) as clusters:
        removed = await clusters.engine.discard({written.job_id: written.tag})

        assert [*removed] == [written.job_id]
        assert outputs(clusters.dedicated) == []


def test_what_finding_and_stopping_an_application_relies_on_cannot_be_set_otherwise() -> None:
    wanted = {"spark.driver.supervise": "true", "spark.eventLog.enabled": "false", "spark.executor.memory": "4g"}

    told = properties_of(Path("/w"), wanted)

    assert [told[name] for name in wanted] == ["false", "true", "4g"]
