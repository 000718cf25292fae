"""A dedicated cluster for the contract: a real master and worker, and drivers as the executor's engine submits them.

A job that is to succeed or to fail at once is a driver of another program, which needs no Spark to start: what it wrote
is put into the warehouse by hand.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import structs

from adapters.base import ENDED, RunStatus
from adapters.narrative.spark_standalone import SparkStandaloneAdapter
from adapters.narrative.spark_standalone_line import MasterLine
from adapters.narrative.spark_standalone_scripts import Folder
from adapters.narrative.spark_warehouse import WHOLE, Kind, Output, Warehouse
from control_plane.work import Work
from tests.narrative import PLANE, named_work, view_of
from tests.spark import Standalone
from workers.engines.spark_standalone import SparkStandaloneEngine
from workers.engines.spark_standalone_submission import MAIN_CLASS

#: Thousands of millions of rows that exist only while they are read.
ENDLESS = "SELECT id FROM range(100000000000) WHERE id % 99999999977 = 7"
#: What an application of the tests needs, and no more.
SMALL = {
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.cores.max": "1",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
}
SUCCEEDS = "org.apache.hadoop.util.VersionInfo"  #: tells its version
ALLOWED_SECONDS = 60.0  #: no test is about it; a machine that is busy with other clusters answers late
FAILS = "org.apache.hadoop.util.RunJar"  #: is given too few arguments


class StandalonePlane:
    """Jobs are drivers; nobody's are drivers without a script."""

    outsider = ""

    def __init__(self, cluster: Standalone, warehouse: Path, engine: SparkStandaloneEngine, line: MasterLine) -> None:
        self.cluster = cluster
        self.warehouse = warehouse
        self.engine = engine
        self.line = line
        self.adapter = self.writer = adapter_of(cluster, warehouse)
        self._elsewhere: list[str] = []

    def work(self) -> Work:
        return structs.replace(named_work(), incarnation=self.engine.incarnation)

    async def start(self, work: Work) -> None:
        claim = structs.replace(view_of(ENDLESS, job_id=work.job_id), tag=work.tag)
        await self.engine.start(claim, lambda: 30.0)

    async def succeed(self, work: Work) -> None:
        warehouse = Warehouse(self.warehouse)
        warehouse.prepare()
        output = warehouse.folder(Output(Kind.VIEW, work.job_id))
        output.mkdir()
        (output / WHOLE).touch()
        await self._run_to_end(work, SUCCEEDS, RunStatus.SUCCEEDED)

    async def fail(self, work: Work) -> None:
        await self._run_to_end(work, FAILS, RunStatus.ERRORED)

    async def _run_to_end(self, work: Work, main_class: str, expected: RunStatus) -> None:
        folder = Folder(self.warehouse)
        script = folder.begin(work.tag, "SELECT 1")
        driver_id = await self.submit(script, main_class, name=work.tag)
        folder.name_driver(work.tag, driver_id)
        while (status := (await self.line.fate(driver_id)).run_status) not in ENDED:  # noqa: ASYNC110  the cluster's
            await asyncio.sleep(0.05)
        assert status is expected

    async def submit(self, resource: Path, main_class: str, *arguments: str, name: str) -> str:
        """A driver of this program; its id."""
        return await self.line.submit(
            {
                "clientSparkVersion": "4.3.0",
                "appResource": f"file://{resource}",
                "mainClass": main_class,
                "appArgs": arguments,
                "environmentVariables": {},
                "sparkProperties": SMALL | {"spark.app.name": name, "spark.submit.deployMode": "cluster"},
            }
        )

    async def shown(self) -> int | None:
        manifests = sorted((self.warehouse / "datasets" / "ds_6404").glob("*.json"))
        return int(manifests[-1].stem) if manifests else None

    async def start_elsewhere(self, owner: str) -> str:  # noqa: ARG002  the master keeps no driver's user
        resource = self.warehouse / "anything"
        resource.touch()
        driver_id = await self.submit(resource, MAIN_CLASS, "-e", ENDLESS, name="nightly")
        self._elsewhere.append(driver_id)
        return driver_id

    async def aclose(self) -> None:
        """End what was started elsewhere, and let go of connections."""
        for driver_id in self._elsewhere:
            await self.line.kill(driver_id)
        await self.adapter.aclose()
        await self.line.aclose()


def adapter_of(cluster: Standalone, warehouse: Path) -> SparkStandaloneAdapter:
    """A canceller's."""
    return SparkStandaloneAdapter(
        cluster.rest_url,
        warehouse,
        installation="tests",
        data_plane_id=PLANE,
        timeout_seconds=ALLOWED_SECONDS,
        ui_url=cluster.ui_url,
    )


@asynccontextmanager
async def opened(cluster: Standalone, warehouse: Path, **properties: str) -> AsyncIterator[SparkStandaloneEngine]:
    """An executor's engine, with these properties over the tests' own; what it runs is ended in the end."""
    engine = await SparkStandaloneEngine.open(
        cluster.rest_url,
        warehouse,
        timeout_seconds=ALLOWED_SECONDS,
        ui_url=cluster.ui_url,
        properties=SMALL | properties,
    )
    try:
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def standalone_plane(cluster: Standalone, warehouse: Path) -> AsyncIterator[StandalonePlane]:
    """The plane; what runs in it is ended in the end."""
    async with opened(cluster, warehouse) as engine:
        plane = StandalonePlane(
            cluster,
            warehouse,
            engine,
            MasterLine(cluster.rest_url, timeout_seconds=ALLOWED_SECONDS, ui_url=cluster.ui_url),
        )
        try:
            yield plane
        finally:
            await plane.aclose()
