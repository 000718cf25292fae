"""The catalogue by which Spark finds what jobs have published: SQL that names datasets runs as it was given."""

from pathlib import Path

import pytest
from msgspec import structs

from adapters.base import ENDED, RunStatus
from adapters.narrative.spark_warehouse import Kind
from control_plane.jobs import JobType, Rung
from control_plane.work import Publication, Work
from tests.contract.spark_connect import TIMEOUT_SECONDS, SparkConnectPlane
from tests.narrative import claim_of, view_of
from tests.spark import Standalone, catalog_jar
from workers.demo import spark_example
from workers.demo.example import long_view, short_view
from workers.demo.spark_example import CATALOG
from workers.engines.base import Ending
from workers.engines.spark_plans import count_rows
from workers.engines.spark_standalone import SparkStandaloneEngine

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(240)]


def committed(plane: SparkConnectPlane, number: int, *, dataset_id: int = 6404) -> Work:
    return structs.replace(plane.work(), publication=Publication(dataset_id, number))


async def rows_of(plane: SparkConnectPlane, sql: str) -> Ending:
    """What a forecast of this SQL ends with."""
    claim = claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": sql}, job_id=(work := plane.work()).job_id)
    handle = await plane.engine.start(structs.replace(claim, tag=work.tag), lambda: TIMEOUT_SECONDS)
    return await plane.engine.follow(handle)


async def test_the_reference_pages_sql_runs_unchanged_and_its_rows_are_published(
    shared_cluster: SparkConnectPlane,
) -> None:
    spark_example.load(shared_cluster.warehouse.root)
    work = committed(shared_cluster, 1)

    ending = await shared_cluster.run_to_end(work, short_view()["compiled_sql"])
    published = await shared_cluster.adapter.publish([work])
    counted = await rows_of(shared_cluster, "SELECT mobile_id, day FROM narrative.datasets.ds_6404")

    assert ending.status is RunStatus.SUCCEEDED, ending
    assert published == frozenset({work.job_id})
    assert counted.result is not None
    assert counted.result["rows"] > 100


async def test_the_reference_pages_sql_over_many_rows_is_stopped_half_way(shared_cluster: SparkConnectPlane) -> None:
    spark_example.load(shared_cluster.warehouse.root)
    work = shared_cluster.work()
    handle = await shared_cluster.submit(work, long_view()["compiled_sql"])
    await shared_cluster.until_computing(work)

    runs = (await shared_cluster.adapter.find([work]))[work.job_id].runs
    while runs[0].status not in ENDED:
        await shared_cluster.adapter.stop(runs, Rung.ASK)
        runs = (await shared_cluster.adapter.find([work]))[work.job_id].runs
    ending = await shared_cluster.engine.follow(handle)

    assert ending.status is RunStatus.STOPPED
    assert await shared_cluster.active_tasks(work) == 0
    assert await shared_cluster.task_threads(work) == []
    assert not await shared_cluster.adapter.publish([structs.replace(work, publication=Publication(6404, 1))])


async def test_readers_are_shown_the_highest_publication(shared_cluster: SparkConnectPlane) -> None:
    first, second = committed(shared_cluster, 1, dataset_id=7), committed(shared_cluster, 2, dataset_id=7)
    await shared_cluster.run_to_end(first, "SELECT explode(sequence(1, 3)) AS n")
    await shared_cluster.run_to_end(second, "SELECT explode(sequence(1, 5)) AS n, 'x' AS another_column")
    seen = []

    for work in (first, second, first):
        await shared_cluster.adapter.publish([work])
        seen.append((await rows_of(shared_cluster, "SELECT * FROM narrative.datasets.ds_7")).result)

    assert [result and result["rows"] for result in seen] == [3, 5, 5]


async def test_a_dataset_that_nobody_has_published_is_not_there(shared_cluster: SparkConnectPlane) -> None:
    ending = await rows_of(shared_cluster, "SELECT * FROM narrative.datasets.ds_1")

    assert ending.status is RunStatus.ERRORED
    assert ending.cause is not None
    assert "TABLE_OR_VIEW_NOT_FOUND" in ending.cause.message


async def test_a_sample_is_drawn_from_what_readers_see(shared_cluster: SparkConnectPlane) -> None:
    shared_cluster.warehouse.define(Kind.VIEW, 7, "SELECT id AS n FROM range(100)")
    work = structs.replace(shared_cluster.work(), publication=Publication(7, 1))
    claim = claim_of(JobType.SAMPLE, {"dataset_id": 7, "rows": 20}, job_id=work.job_id)
    handle = await shared_cluster.engine.start(structs.replace(claim, tag=work.tag), lambda: TIMEOUT_SECONDS)

    ending = await shared_cluster.engine.follow(handle)
    await shared_cluster.adapter.publish([work])
    counted = await rows_of(shared_cluster, "SELECT DISTINCT n FROM narrative.samples.ds_7 WHERE n < 100")

    assert ending.result == {"dataset_id": 7, "rows": 20}
    assert counted.result is not None
    assert counted.result["rows"] == 20


async def test_the_reference_pages_sql_runs_unchanged_in_an_application(
    spark_standalone: Standalone, tmp_path: Path
) -> None:
    spark_example.load(tmp_path)
    claim = view_of(short_view()["compiled_sql"])
    properties = {
        "spark.cores.max": "1",
        "spark.driver.extraClassPath": str(catalog_jar(tmp_path)),
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.sql.catalog.narrative": CATALOG,
        "spark.sql.shuffle.partitions": "2",
    }
    engine = await SparkStandaloneEngine.open(
        spark_standalone.rest_url, tmp_path, ui_url=spark_standalone.ui_url, properties=properties
    )

    ending = await engine.follow(await engine.start(claim, lambda: TIMEOUT_SECONDS))
    published = await engine.publish([structs.replace(claim, publication=Publication(6404, 1))])
    await engine.aclose()

    assert ending.status is RunStatus.SUCCEEDED, ending
    assert published == frozenset({claim.job_id})
    assert count_rows(tmp_path / "outputs" / f"JOB_{claim.job_id}") > 100
