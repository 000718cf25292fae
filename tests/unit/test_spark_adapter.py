"""The adapter of a plane with clusters: every job is asked of its own cluster, and of no other."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from msgspec import structs

from adapters.base import Adapter, Run, RunStatus, StopAnswer
from adapters.narrative.spark import SparkAdapter, for_plane
from adapters.registry import Surroundings
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import ExecutionCluster, Handle, Rung, Waiting
from control_plane.work import Publication, Work
from tests.doubles.memory_engine import MemoryEngine
from tests.narrative import named_work

pytestmark = pytest.mark.anyio

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Away(MemoryEngine):
    """An engine whose adapter raises, as any adapter may."""

    async def _trouble(self) -> NoReturn:
        raise EngineUnavailable(f"{self.engine} is away")


class Clusters:
    """A plane with both clusters, each a double that passes the adapters' contract."""

    def __init__(self, dedicated: type[MemoryEngine] = MemoryEngine) -> None:
        self.engines = {
            SHARED: MemoryEngine(engine="spark-connect"),
            DEDICATED: dedicated(engine="spark-standalone"),
        }
        self.adapter: Adapter = SparkAdapter(self.engines)

    def work(self, cluster: ExecutionCluster | None, **fields: Any) -> Work:
        return structs.replace(named_work(), execution_cluster=cluster, **fields)

    def started(self, cluster: ExecutionCluster) -> Work:
        work = self.work(cluster)
        self.engines[cluster].start(work)
        return work

    async def run_of(self, work: Work) -> Run:
        [run] = (await self.adapter.find([work]))[work.job_id].runs
        return run


async def test_every_job_is_found_on_its_own_cluster_and_its_listing_names_the_engine_there() -> None:
    clusters = Clusters()
    shared, dedicated = clusters.started(SHARED), clusters.started(DEDICATED)

    listings = await clusters.adapter.find([shared, dedicated])

    assert {job_id: (listing.engine, listing.complete) for job_id, listing in listings.items()} == {
        shared.job_id: ("spark-connect", True),
        dedicated.job_id: ("spark-standalone", True),
    }
    assert [listings[work.job_id].runs[0].handle.engine for work in (shared, dedicated)] == [
        "spark-connect",
        "spark-standalone",
    ]


async def test_a_run_on_another_cluster_than_the_jobs_own_is_no_run_of_it() -> None:
    clusters = Clusters()
    work = clusters.started(DEDICATED)

    listing = (await clusters.adapter.find([structs.replace(work, execution_cluster=SHARED)]))[work.job_id]

    assert (listing.runs, listing.complete) == ((), True)


async def test_a_job_without_a_cluster_is_the_first_ones() -> None:
    clusters = Clusters()
    work = clusters.started(SHARED)

    [run] = (await clusters.adapter.find([structs.replace(work, execution_cluster=None)]))[work.job_id].runs

    assert run.handle.engine == "spark-connect"


async def test_a_job_of_a_cluster_that_the_plane_lacks_is_told_so_and_proves_nothing() -> None:
    adapter = SparkAdapter({SHARED: MemoryEngine(engine="spark-connect")})
    work = structs.replace(named_work(), execution_cluster=DEDICATED)

    listing = (await adapter.find([work]))[work.job_id]

    assert not listing.complete
    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.ADAPTER_ERROR
    assert "dedicated" in listing.trouble.detail
    assert await adapter.close([work]) == frozenset()
    assert dict(await adapter.discard([work])) == {}


async def test_runs_are_stopped_and_observed_by_the_engine_that_their_handle_names() -> None:
    clusters = Clusters()
    works = [clusters.started(SHARED), clusters.started(DEDICATED)]
    runs = [await clusters.run_of(work) for work in works]

    stopped = await clusters.adapter.stop(runs, Rung.INSIST)
    seen = await clusters.adapter.observe(runs)

    assert stopped == {run.handle: StopAnswer.ACCEPTED for run in runs}
    assert {seen[run.handle].status for run in runs} == {RunStatus.STOPPED}
    assert [engine.stops for engine in clusters.engines.values()] == [[(w.job_id, Rung.INSIST)] for w in works]


async def test_a_run_that_no_engine_here_gave_its_name_to_is_left_out() -> None:
    run = Run(uuid4(), "t", Handle("duckdb", "1", "run-1"), RunStatus.UNKNOWN)

    assert dict(await Clusters().adapter.observe([run])) == {}
    assert dict(await Clusters().adapter.stop([run], Rung.ASK)) == {}


async def test_closing_publishing_and_discarding_reach_the_jobs_own_cluster_alone() -> None:
    clusters = Clusters()
    shared, dedicated = clusters.started(SHARED), clusters.started(DEDICATED)
    for cluster, work in ((SHARED, shared), (DEDICATED, dedicated)):
        clusters.engines[cluster].end(work, RunStatus.SUCCEEDED)
    committed = structs.replace(shared, publication=Publication(6404, 1))

    closed = await clusters.adapter.close([shared, dedicated])
    published = await clusters.adapter.publish([committed])
    removed = await clusters.adapter.discard([dedicated])

    assert closed == {shared.job_id, dedicated.job_id}
    assert [engine.closed for engine in clusters.engines.values()] == [{shared.tag}, {dedicated.tag}]
    assert published == {shared.job_id}
    assert removed == {dedicated.job_id: (f"output_{dedicated.job_id}",)}


async def test_all_that_runs_on_any_cluster_is_told_and_is_complete_only_if_each_is() -> None:
    clusters = Clusters()
    works = [clusters.started(SHARED), clusters.started(DEDICATED)]

    whole = await clusters.adapter.running()
    clusters.engines[DEDICATED].faults.silent = True
    partly = await clusters.adapter.running()

    assert ([run.job_id for run in whole.runs], whole.complete) == ([work.job_id for work in works], True)
    assert ([run.job_id for run in partly.runs], partly.complete) == ([works[0].job_id], False)
    assert partly.trouble is not None


async def test_a_plane_can_be_cancelled_on_only_if_each_of_its_clusters_can() -> None:
    clusters = Clusters()

    well = await clusters.adapter.check()
    clusters.engines[DEDICATED].faults.silent = True
    ill = await clusters.adapter.check()

    assert (well.ok, well.detail) == (True, "shared: it answers; dedicated: it answers")
    assert (ill.ok, ill.detail) == (False, "shared: it answers; dedicated: the engine is told to be silent")


# --- one cluster's silence


async def test_the_jobs_of_a_cluster_that_answers_are_answered_for_while_another_is_away() -> None:
    clusters = Clusters(dedicated=Away)
    shared, dedicated = clusters.started(SHARED), clusters.started(DEDICATED)

    listings = await clusters.adapter.find([shared, dedicated])

    assert [run.status for run in listings[shared.job_id].runs] == [RunStatus.ACTIVE]
    trouble = listings[dedicated.job_id].trouble
    assert trouble is not None
    assert (trouble.waiting, trouble.detail) == (Waiting.PLANE_SILENT, "spark-standalone is away")
    assert await clusters.adapter.close([shared, dedicated]) == {shared.job_id}
    assert not (await clusters.adapter.running()).complete
    assert (await clusters.adapter.check()).detail == "shared: it answers; dedicated: spark-standalone is away"


OF_WORKS: list[Callable[[Adapter, Work], Awaitable[object]]] = [
    lambda adapter, work: adapter.close([work]),
    lambda adapter, work: adapter.publish([work]),
    lambda adapter, work: adapter.discard([work]),
    lambda adapter, work: adapter.observe([_named_run(work)]),
    lambda adapter, work: adapter.stop([_named_run(work)], Rung.ASK),
]


def _named_run(work: Work) -> Run:
    return Run(work.job_id, work.tag, Handle("spark-standalone", "1", "driver-1"), RunStatus.UNKNOWN)


@pytest.mark.parametrize("call", OF_WORKS, ids=["close", "publish", "discard", "observe", "stop"])
async def test_it_is_unavailable_where_nobody_who_was_asked_has_answered(
    call: Callable[[Adapter, Work], Awaitable[object]],
) -> None:
    clusters = Clusters(dedicated=Away)

    with pytest.raises(EngineUnavailable, match="spark-standalone is away"):
        await call(clusters.adapter, clusters.work(DEDICATED))


# --- as the registry makes it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "options: spark needs parts"),
        ({"colour": "red"}, "options: unknown for spark: colour; allowed: parts"),
        ({"parts": {SHARED: ("x", {}), DEDICATED: ("x", {})}}, "options: x is the adapter of several clusters"),
    ],
)
def test_options_that_cannot_be_right_are_named(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        for_plane(Surroundings("tests", uuid4(), 5.0, options))

    assert caught.value.field == "options"
