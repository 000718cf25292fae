"""Spark's clusters, one query at a time on each: stopped by a bare client, or by a job's cancellation."""

import contextlib
import itertools
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import httpx
import msgspec
import psutil

from adapters.narrative.spark_connect_sight import Job, Sight, Stage, active_tasks
from adapters.narrative.spark_warehouse import Kind, Warehouse
from benchmarks.ground import Ground
from benchmarks.plane import Plane
from tests.snowflake import until
from tests.spark import ConnectServer, Standalone, is_running
from workers.demo.spark_example import CATALOG
from workers.engines.spark_plans import catalog_settings
from workers.engines.spark_standalone_submission import CLIENT_VERSION, DEFAULTS, FIXED, MAIN_CLASS

Told = TypeVar("Told")

PYTHON = Path(__file__).parents[1] / ".venv" / "bin" / "python"
#: One task, which counts for hours.
ENDLESS = "SELECT id FROM range(0, 100000000000000, 1, 1) WHERE id % 99999999977 = 7"
#: The same, of a task that only sleeps, and the dataset that it is shown as: no job may call Java by itself.
SLEEPING = "SELECT id FROM range(0, 1000000000, 1, 1) WHERE java_method('java.lang.Thread', 'sleep', 10L) IS NULL"
DATASET = 6402
ASLEEP = f"SELECT id FROM narrative.datasets.ds_{DATASET}"  # noqa: S608
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  #: no threads that compile or collect beside the query's
#: Of every application, ours and bare ones.
PROPERTIES = {
    "spark.driver.extraJavaOptions": JAVA_OPTIONS,
    "spark.executor.extraJavaOptions": JAVA_OPTIONS,
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.cores.max": "1",
    "spark.sql.catalog.narrative": CATALOG,
    "spark.ui.enabled": "false",
}
_COMPUTES_SECONDS = 0.3  #: before it is stopped
_SETTLES_SECONDS = 1.0  #: the same of an application, whose two processes have just started
_LOOK_SECONDS = 0.01
_AGAIN_SECONDS = 1.0  #: after which a bare stop is repeated, as whoever relies on it has to


class Stop(NamedTuple):
    """How long one took, in milliseconds."""

    nothing_runs: float
    cancelled: float = math.nan  #: until the store had the receipt; a bare one has none


class Cluster:
    """A cluster on which one query runs at a time."""

    settings: Mapping[str, str]
    query = ENDLESS

    def stop_bare(self) -> Stop:
        """Submit the query as a bare client, and stop it once it computes."""
        raise NotImplementedError

    def cancel(self, plane: Plane) -> Stop:
        """Submit a job, and ask for its cancellation once it computes."""
        job_id = plane.submit(self.query)
        is_over = self.until_computing(job_id, plane.handle(job_id).run_id)
        nothing_runs = milliseconds(partial(plane.request, job_id), is_over)
        return Stop(nothing_runs, plane.milliseconds(job_id))

    def until_computing(self, job_id: UUID, run_id: str) -> Callable[[], bool]:
        """Return when the job's run computes; answers how to see that it is over."""
        raise NotImplementedError


class Shared(Cluster):
    """A Connect server."""

    def __init__(self, server: ConnectServer, client: "Client", warehouse: Path) -> None:
        self.settings = {"CONNECT_URL": server.url, "UI_URL": server.ui_url, "WAREHOUSE": str(warehouse)}
        self._client = client
        self._ui = httpx.Client(base_url=f"{server.ui_url}/api/v1/")
        self._application = self._ui.get("applications").json()[0]["id"]
        self._numbers = itertools.count()

    def stop_bare(self) -> Stop:
        tag = f"bare-{next(self._numbers)}"
        self._client.tell(f"run {tag} {counted(self.query)}")
        is_over = self._until_active(tag)
        return Stop(milliseconds(partial(self._client.tell, f"interrupt {tag}"), is_over, again=_AGAIN_SECONDS))

    def until_computing(self, job_id: UUID, run_id: str) -> Callable[[], bool]:  # noqa: ARG002
        return self._until_active(f"{job_id}:run")

    def _until_active(self, tag: str) -> Callable[[], bool]:
        until(lambda: self._is_active(tag), seconds=60)
        time.sleep(_COMPUTES_SECONDS)
        return lambda: not self._is_active(tag)

    def _is_active(self, tag: str) -> bool:
        """Whether a task is active, or a job of Spark's runs, whose tag ends so; the UI is read as our adapter does."""
        sight = Sight(tuple(self._told("jobs", list[Job])), active_tasks(self._told("stages", list[Stage])))
        return any(found.endswith(tag) for _, found in sight.tagged(""))

    def _told(self, what: str, kind: type[Told]) -> Told:
        return msgspec.json.decode(self._ui.get(f"applications/{self._application}/{what}").content, type=kind)


class Dedicated(Cluster):
    """A standalone master and one worker, whose processes are seen from here as well.

    Its query only sleeps: one that computes keeps a core busy until its executor is gone, while two Javas end.
    """

    query = ASLEEP

    def __init__(self, cluster: Standalone, catalog: str, warehouse: Path) -> None:
        Warehouse(warehouse).define(Kind.VIEW, DATASET, SLEEPING)
        self._properties = PROPERTIES | {"spark.driver.extraClassPath": catalog}
        self.settings = {
            "MASTER_URL": cluster.rest_url,
            "MASTER_UI_URL": cluster.ui_url,
            "WAREHOUSE": str(warehouse),
            "PROPERTIES": msgspec.json.encode(self._properties).decode(),
        }
        self._warehouse = warehouse
        self._worker = cluster.process("worker")
        self._master = httpx.Client(base_url=f"{cluster.rest_url}/v1/submissions/")
        self._numbers = itertools.count()

    def stop_bare(self) -> Stop:
        folder = self._warehouse / "bare" / str(next(self._numbers))
        events = folder / "events"
        events.mkdir(parents=True)
        script = folder / "run.sql"
        script.write_text(f"CREATE TABLE bare USING json LOCATION 'file://{folder / 'rows'}' AS {counted(self.query)}")
        driver_id = self._ask("POST", "create", self._submission(script, events))["submissionId"]
        is_over = self._until_computing(driver_id)
        kill = partial(self._ask, "POST", f"kill/{driver_id}")
        return Stop(milliseconds(kill, is_over, again=_AGAIN_SECONDS))

    def until_computing(self, job_id: UUID, run_id: str) -> Callable[[], bool]:  # noqa: ARG002
        return self._until_computing(run_id)

    def _submission(self, script: Path, events: Path) -> Mapping[str, Any]:
        """As an executor submits a script."""
        own = {"spark.app.name": script.parent.name, "spark.eventLog.dir": f"file://{events}"}
        own |= catalog_settings(self._warehouse)
        return {
            "action": "CreateSubmissionRequest",
            "clientSparkVersion": CLIENT_VERSION,
            "appResource": f"file://{script}",
            "mainClass": MAIN_CLASS,
            "appArgs": ["-f", str(script)],
            "environmentVariables": {},
            "sparkProperties": {**DEFAULTS, **self._properties, **FIXED, **own},
        }

    def _until_computing(self, driver_id: str) -> Callable[[], bool]:
        until(self._computes, seconds=120)
        time.sleep(_SETTLES_SECONDS)
        return partial(self._is_over, driver_id, self._processes())

    def _computes(self) -> bool:
        """Whether an executor says that it runs a task, in the folder that it was started in."""
        with contextlib.suppress(OSError, psutil.Error):  # of one that is just starting
            return any(b": Running task" in Path(child.cwd(), "stderr").read_bytes() for child in self._processes())
        return False

    def _processes(self) -> list[psutil.Process]:
        """The driver's and the executor's; the worker's own start has left it a zombie."""
        return [child for child in self._worker.children() if is_running(child)]

    def _is_over(self, driver_id: str, processes: list[psutil.Process]) -> bool:
        return not any(map(is_running, processes)) and (
            self._ask("GET", f"status/{driver_id}")["driverState"] == "KILLED"
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        told: dict[str, Any] = self._master.request(method, path, json=body).json()
        return told


def counted(query: str) -> str:
    """The same query as an executor has it counted."""
    return f"SELECT count(*) AS rows FROM ( {query} )"  # noqa: S608


def milliseconds(stop: Callable[[], object], is_over: Callable[[], bool], *, again: float = math.inf) -> float:
    """From just before it is stopped until it is over; it is stopped *again* each time so many seconds have passed."""
    began = stopped = time.perf_counter()
    stop()
    while not is_over():
        if time.perf_counter() - stopped > again:
            stopped = time.perf_counter()
            stop()
        time.sleep(_LOOK_SECONDS)
    return (time.perf_counter() - began) * 1000


class Client:
    """The process that has Spark's stubs, and started the cluster."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log
        self.welcome = ""  #: what it has said once it was up

    @classmethod
    @contextlib.contextmanager
    def started(cls, ground: Ground, kind: str, folder: Path) -> "Iterator[Client]":
        """The process with its cluster in the folder, up; both end with it."""
        if not PYTHON.exists():
            raise RuntimeError("Spark is in an environment of its own: make .venv/ready")
        log = ground.file(f"spark-{kind}.log")
        with log.open("wb") as said:
            process = subprocess.Popen(
                [PYTHON, "-m", "benchmarks.processes.spark", kind, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        try:
            client = cls(process, log)
            client.welcome = client.heard()
            yield client
        finally:
            process.communicate()

    def tell(self, line: str) -> str:
        """Say it, and wait for the answer."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.heard()

    def heard(self) -> str:
        """Its next line."""
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the process with Spark has ended: {self._log.read_text()[-2000:]}")
        return line.rstrip("\n")


@contextlib.contextmanager
def connect(ground: Ground) -> Iterator[Shared]:
    """A Connect server of its own for a round."""
    folder = ground.file("connect")
    with Client.started(ground, "connect", folder) as client:
        yield Shared(ConnectServer(folder), client, warehouse(ground))


@contextlib.contextmanager
def standalone(ground: Ground) -> Iterator[Dedicated]:
    """A standalone cluster of its own for a round."""
    folder = ground.file("standalone")
    with Client.started(ground, "standalone", folder) as client:
        yield Dedicated(Standalone(folder), client.welcome, warehouse(ground))


def warehouse(ground: Ground) -> Path:
    """An empty one."""
    folder = ground.file("warehouse")
    folder.mkdir()
    return folder
