"""The demo on Spark: both kinds of cluster, started here, and what happens to the jobs on each."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import msgspec

from adapters.narrative.spark_event_logs import UNDER_WAY
from adapters.narrative.spark_standalone_scripts import DRIVERS, EVENTS
from adapters.narrative.spark_warehouse import Kind, Warehouse
from control_plane.jobs import Closure, ExecutionCluster, JobType, Outcome
from control_plane.lifecycle import JobState
from workers.demo import spark_example
from workers.demo.example import short_view
from workers.demo.java import java_home, java_version
from workers.demo.parts import (
    MissedError,
    Part,
    ask_for_what_cannot_be,
    ask_too_late,
    ask_twice,
    cancel_unclaimed,
    cancel_while_running,
    has_ended,
)
from workers.demo.spark_local import SMALL, SPARK_VERSION, ConnectServer, Standalone
from workers.engines.spark_plans import count_rows

if TYPE_CHECKING:
    from workers.demo.stage import Stage

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
MAIN, KILLED = "main", "killed"
RUNS_ON_SECONDS = 2.0
WORKER_TIMEOUT_SECONDS = "600"  #: a machine that was asleep has not lost its applications
#: What each cluster's finished job makes: the other's is beside it.
MADE = {SHARED: 6404, DEDICATED: 6405}
BEGUN = b'"SparkListenerJobStart"'

Settings = Mapping[str, str]


class Clusters:
    """A Spark Connect server and a standalone master with one worker, in *folder*, with a warehouse for each plane.

    Whoever started them stops them.
    """

    def __init__(self, folder: Path) -> None:
        self.connect = ConnectServer(folder / "spark" / "connect")
        self.standalone = Standalone(folder / "spark" / "standalone")
        self._warehouses = folder / "warehouses"

    def start(self, say: Callable[[str], None]) -> None:
        """Start all at once, and return when they answer. Raises EngineUnavailable."""
        version = java_version(java_home(self.standalone.folder))
        say(f"Spark {SPARK_VERSION} on Java {version}: compiling the catalogue, and starting a standalone master …")
        self.standalone.begin_master(spark__worker__timeout=WORKER_TIMEOUT_SECONDS)
        self.connect.catalog()
        self.connect.begin()
        say("Starting a Spark Connect server for the shared cluster …")
        self.standalone.await_master()
        say("Starting a standalone worker for the dedicated one …")
        self.standalone.begin_worker()
        self.standalone.await_worker()
        self.connect.await_begun()
        say("Both clusters are up.")

    def stop(self, logs: Path) -> None:
        """End them, and all that they have started; what they said is put beside the other logs."""
        for servers in (self.connect, self.standalone):
            servers.kill()
            for log in servers.folder.glob("*.log"):
                shutil.copy(log, logs)

    def prepare(self, plane: str) -> None:
        """The plane's warehouse, with the example's data."""
        warehouse = self._warehouses / plane
        warehouse.mkdir(parents=True)
        spark_example.load(warehouse)

    def settings(self, plane: str, *clusters: ExecutionCluster) -> Settings:
        """What ``[spark]`` has, for a process that is to reach these clusters."""
        told = {"warehouse": str(self._warehouses / plane)}
        if SHARED in clusters:
            told |= {"connect_url": self.connect.url, "ui_url": self.connect.ui_url}
        if DEDICATED in clusters:
            told |= {"master_url": self.standalone.rest_url, "master_ui_url": self.standalone.ui_url}
        return told

    def properties(self) -> Settings:
        """``[spark.properties]``: of every dedicated application."""
        catalog = {
            "spark.sql.catalog.narrative": spark_example.CATALOG,
            "spark.driver.extraClassPath": str(self.connect.catalog()),
            "spark.sql.leafNodeDefaultParallelism": "1",
        }
        return SMALL | catalog

    def executor_variables(self, plane: str, cluster: ExecutionCluster) -> Settings:
        """The same as variables, for an executor of one cluster."""
        told = self.settings(plane, cluster)
        if cluster is DEDICATED:
            told = {**told, "properties": msgspec.json.encode(self.properties()).decode()}
        return {f"COUNTERMAND_SPARK__{name.upper()}": value for name, value in told.items()}

    def is_computing(self, part: Part) -> bool:
        """Whether Spark itself says that tasks of the job have begun, and not that the last has ended."""
        if part.cluster is SHARED:
            return self._is_computing_for(part.now.job_id)
        logs = (self._warehouses / part.plane / DRIVERS).glob(f"*{part.now.job_id}*/{EVENTS}/*{UNDER_WAY}")
        return any(BEGUN in _read(log) for log in logs)

    def _is_computing_for(self, job_id: UUID) -> bool:
        """As the Connect server's UI has it: it names the tags of whatever runs."""
        with suppress(httpx.HTTPError), httpx.Client(base_url=f"{self.connect.ui_url}/api/v1/", trust_env=False) as ui:
            [application] = ui.get("applications").json()
            running = ui.get(f"applications/{application['id']}/jobs", params={"status": "running"}).json()
            return any(f":{job_id}:" in tag for job in running for tag in job["jobTags"])
        return False

    def published_rows(self, part: Part) -> int | None:
        """How many rows readers find of what the job made, where nobody published after it; None where they do not."""
        shown = Warehouse(self._warehouses / part.plane).shown(Kind.VIEW, part.now.input["dataset_id"])
        if shown is None or shown.output is None or shown.job_id != part.now.job_id:
            return None
        return count_rows(self._warehouses / part.plane / shown.output)


async def kill_the_executor(stage: "Stage", part: Part) -> None:
    """What it started runs on, and needs no executor to be found by its tag, stopped and closed."""
    stage.executors[part.executor].kill()
    part.note = "its executor was killed with SIGKILL, and the work runs on without it"
    await stage.keep_seeing(part, stage.computes(part), "that it runs on", seconds=RUNS_ON_SECONDS)
    stage.request(part, "the executor is gone")
    await stage.see(part, has_ended, "its receipt")
    if part.now.receipt is None or part.now.receipt.closure is not Closure.ENGINE_CLOSED:
        raise MissedError("its receipt does not tell that the cluster closed it")
    part.note = "found by its tag, stopped and closed on the cluster; its executor was never started again"


def spark_parts() -> list[Part]:
    """The same five on each cluster, one after the other; and what cannot be cancelled, once."""
    return [*_parts_on(SHARED), _delivery(), *_parts_on(DEDICATED)]


def _parts_on(cluster: ExecutionCluster) -> list[Part]:
    make = partial(Part, plane=MAIN, cluster=cluster)
    return [
        make(f"{cluster}_running", f"cancelled while it runs on a {cluster} cluster", cancel_while_running),
        make(
            f"{cluster}_pending",
            "cancelled before anyone claimed it",
            cancel_unclaimed,
            expected_outcome=Outcome.NEVER_STARTED,
            begins_at=None,
            is_long=False,
        ),
        make(f"{cluster}_asked_twice", "its cancellation is requested twice", ask_twice, begins_at=1.0),
        make(
            f"{cluster}_finished_first",
            "completed before the request arrives",
            ask_too_late,
            input=short_view() | {"dataset_id": MADE[cluster]},
            expected_state=JobState.COMPLETED,
            expected_outcome=None,
            is_long=False,
        ),
        make(f"{cluster}_executor_killed", "its executor is killed", kill_the_executor, plane=KILLED, begins_at=0.5),
    ]


def _delivery() -> Part:
    return Part(
        "not_cancellable",
        "a delivery, which cannot be taken back",
        ask_for_what_cannot_be,
        plane=MAIN,
        cluster=SHARED,
        type=JobType.DELIVER_DATA,
        input={"dataset_id": 6402},
        expected_state=JobState.PENDING,
        expected_outcome=None,
        begins_at=2.0,
        is_long=False,
    )


def _read(log: Path) -> bytes:
    try:
        return log.read_bytes()
    except FileNotFoundError:  # it has ended, and has another name now
        return b""
