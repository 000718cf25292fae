"""A shared cluster for the contract: the executor's engine and the canceller's adapter, on a real Connect server."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pyarrow.parquet
from msgspec import structs

from adapters.base import RunStatus
from adapters.narrative.spark_connect import SparkConnectAdapter
from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_names import Operation, Server, Session, session_of
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_outputs import Outputs
from adapters.narrative.spark_warehouse import Kind, Warehouse
from control_plane.jobs import Handle, work_tag
from control_plane.work import Work
from tests.narrative import PLANE, view_of
from tests.spark import ConnectServer
from workers.engines.base import Ending
from workers.engines.spark_connect import SparkConnectEngine

USER = "countermand"
#: One task, which counts for hours.
ENDLESS = "SELECT id FROM range(0, 100000000000000, 1, 1) WHERE id % 99999999977 = 7"
#: One task of one row, which takes many seconds over it and looks at no interrupt meanwhile.
DEAF = (
    "SELECT n FROM (SELECT explode(sequence(1, 1)) AS n) WHERE 0 > aggregate(sequence(1, 6000), 0L, (a, x) -> a + "
    "aggregate(sequence(1, 10000), 0L, (b, y) -> (b + x * y) % 7 + n))"
)
#: In the stack of whatever thread runs a task; one that waits for its next keeps the name of its last.
RUNS_A_TASK = "org.apache.spark.executor.Executor$TaskRunner.run"
TIMEOUT_SECONDS = 60.0  #: a server that has just started takes long over its first query


class SparkConnectPlane:
    """Jobs run as countermand, each in a session of its own. No two planes have the same tags or warehouse."""

    outsider = "dbt"

    def __init__(
        self,
        server: ConnectServer,
        engine: SparkConnectEngine,
        adapter: SparkConnectAdapter,
        *,
        warehouse: Path,
        installation: str,
    ) -> None:
        self.server = server
        self.engine = engine
        self.adapter = self.writer = adapter
        self.warehouse = Warehouse(warehouse)
        self.line = Line(Server.at(server.url), user=USER, timeout_seconds=TIMEOUT_SECONDS)
        self.ui = Ui(server.ui_url, timeout_seconds=TIMEOUT_SECONDS)
        self._installation = installation
        self._elsewhere: set[asyncio.Task[LineError | None]] = set()

    async def aclose(self) -> None:
        """Stop what was started elsewhere, and let go of connections."""
        for task in self._elsewhere:
            task.cancel()
        if self._elsewhere:
            await asyncio.wait(self._elsewhere)
        await self.line.aclose()
        await self.ui.aclose()

    def work(self) -> Work:
        job_id = uuid4()
        return Work(job_id, work_tag(self._installation, PLANE, job_id), incarnation=self.engine.incarnation)

    async def start(self, work: Work) -> None:
        await self.submit(work, ENDLESS)
        await self.until_computing(work)

    async def submit(
        self, work: Work, sql: str, *, permit_left: Callable[[], float] = lambda: TIMEOUT_SECONDS
    ) -> Handle:
        """Begin the job's one run."""
        claim = structs.replace(view_of(sql, job_id=work.job_id), tag=work.tag)
        return await self.engine.start(claim, permit_left)

    async def until_computing(self, work: Work) -> None:
        """Until the web UI shows a task of the job."""
        await self._until_active_tasks(self.session(work), 1)

    async def until_idle(self, work: Work) -> None:
        """Until the web UI shows no task of the job."""
        await self._until_active_tasks(self.session(work), 0)

    async def _until_active_tasks(self, session: Session, tasks: int) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await self._active_tasks(session) != tasks:  # noqa: ASYNC110  it comes true on the server
                await asyncio.sleep(0.02)

    async def active_tasks(self, work: Work) -> int:
        """Those of the job, as the web UI shows them."""
        return await self._active_tasks(self.session(work))

    async def _active_tasks(self, session: Session) -> int:
        sight = await self.ui.look((await self.line.identity()).application)
        assert sight is not None
        names = sight.operations(session.session_id)
        return sum(sight.traces(Operation(session, name)).active_tasks for name in names)

    async def task_threads(self, work: Work, *, inside: str = RUNS_A_TASK) -> list[str]:
        """The names of the server's threads that run tasks of the job, and are *inside* of this."""
        application, session_id = (await self.line.identity()).application, self.session(work).session_id
        sight = await self.ui.look(application)
        assert sight is not None
        own = [job for job in sight.jobs if any(found[0] == session_id for found in job.operations)]
        names = [f" in stage {stage}." for job in own for stage in job.stage_ids]
        url = f"{self.server.ui_url}/api/v1/applications/{application}/executors/driver/threads"
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            threads = (await client.get(url)).raise_for_status().json()
        running = [one["threadName"] for one in threads if inside in json.dumps(one["stackTrace"])]
        return [thread for thread in running if any(name in thread for name in names)]

    async def exhaust(self, operation: Operation, sql: str, *, tag: str) -> LineError | None:
        """Run it to its end, and let go of it as Spark's own client does; the error that it ended with, if any."""
        try:
            async for _ in self.line.execute(*operation, reading(sql), tag=tag):
                pass
        except LineError as error:
            return error
        finally:
            with contextlib.suppress(LineError):
                await self.line.release(*operation)
        return None

    def session(self, work: Work) -> Session:
        """The session that the job has to itself."""
        return session_of(USER, work.tag)

    async def succeed(self, work: Work) -> None:
        number = work.publication.number if work.publication else 0
        assert (await self.run_to_end(work, f"SELECT {number} AS n")).status is RunStatus.SUCCEEDED

    async def fail(self, work: Work) -> None:
        assert (await self.run_to_end(work, "SELECT missing FROM range(3)")).status is RunStatus.ERRORED

    async def run_to_end(self, work: Work, sql: str) -> Ending:
        """Start the job's one run and wait for its end."""
        return await self.engine.follow(await self.submit(work, sql))

    async def shown(self) -> int | None:
        manifest = self.warehouse.shown(Kind.VIEW, 6404)
        if manifest is None or manifest.output is None:
            return None
        [number] = rows_in(self.warehouse.root / manifest.output)
        return number

    async def start_elsewhere(self, owner: str, sql: str = ENDLESS) -> str:
        """As another user, with Spark's own kind of names."""
        operation = Operation(Session(owner, str(uuid4())), str(uuid4()))
        await self.line.touch(operation.session)
        running = asyncio.create_task(self.exhaust(operation, sql, tag="elsewhere"))
        self._elsewhere.add(running)
        await self._until_active_tasks(operation.session, 1)
        return operation.name


@asynccontextmanager
async def connected(
    server: ConnectServer, warehouse: Path, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[SparkConnectPlane]:
    """A plane of its own on the server; *timeout_seconds* bounds every call of its adapter and engine."""
    name = f"tests-{secrets.token_hex(4)}"
    at = Server.at(server.url)
    engine = await SparkConnectEngine.open(
        at, Outputs(warehouse), user=USER, ui_url=server.ui_url, timeout_seconds=timeout_seconds
    )
    adapter = SparkConnectAdapter(
        at,
        installation=name,
        data_plane_id=PLANE,
        user=USER,
        outputs=Outputs(warehouse),
        ui_url=server.ui_url,
        timeout_seconds=timeout_seconds,
    )
    plane = SparkConnectPlane(server, engine, adapter, warehouse=warehouse, installation=name)
    try:
        yield plane
    finally:
        await plane.aclose()
        await adapter.aclose()
        await engine.aclose()


def rows_in(folder: Path) -> list[int]:
    """The values of the one column that an output has."""
    found = pyarrow.parquet.read_table(folder).to_pylist()
    return [int(value) for row in found for value in row.values()]
