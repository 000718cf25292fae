"""Spark's servers on this machine, from pip's whole package: a Connect server, and a standalone master with a worker.

Each server is a process in a session of its own, with whatever it starts, and has a folder, a log, a file with its
process id and files with the ports that it took.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from control_plane.errors import EngineUnavailable, Refused
from workers.demo.actors import end_group, members
from workers.demo.java import QUICK, java_home
from workers.demo.spark_example import CATALOG, compile_catalog

#: What is tested; the lock file has the same.
SPARK_VERSION = "4.3.0"
START_SECONDS = 90.0  #: a server needs 4 to 12 seconds on an idle machine
LOOK_EVERY_SECONDS = 0.05
HOST = "127.0.0.1"
JAVA_OPTIONS = " ".join(QUICK)
#: An application that needs little: two Javas of half a gigabyte, and one core.
SMALL = {
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.cores.max": "1",
    "spark.driver.extraJavaOptions": JAVA_OPTIONS,
    "spark.executor.extraJavaOptions": JAVA_OPTIONS,
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
}

#: The processes started here; a forgotten Popen would warn that its process still runs.
_STARTED: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class LocalSpark:
    """Servers in a folder. Another process reaches them through ``kind(folder)``; whoever started them stops them."""

    folder: Path
    servers: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def start(cls, folder: Path, **settings: str) -> Self:
        """Start them in *folder*, with *settings* over our own (dots written as two underscores).

        Raises EngineUnavailable for one that does not start, and Refused where there is no Spark, or no Java.
        """
        spark = cls(folder)
        try:
            spark.resume(**settings)
        except BaseException:
            spark.stop()
            raise
        return spark

    def resume(self, **settings: str) -> None:
        """Start them, at the same addresses as before if they ran in this folder already."""
        raise NotImplementedError

    def group(self, server: str) -> int | None:
        """The process group of the server and of what it has started; None before it was started."""
        file = self.folder / f"{server}.pid"
        return int(file.read_text()) if file.exists() else None

    def is_up(self, server: str) -> bool:
        """Whether anything of it runs."""
        group = self.group(server)
        return group is not None and any(not member.state.startswith("Z") for member in members(group))

    def cpu_seconds(self) -> float:
        """The processor time that the servers, and what of theirs still runs, have used so far."""
        groups = [group for server in self.servers if (group := self.group(server)) is not None]
        return sum(member.cpu_seconds for group in groups for member in members(group))

    def log(self, server: str) -> str:
        """What it has written so far since its last start."""
        file = self.folder / f"{server}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def kill(self) -> None:
        """End them and all that they have started, as a crash would; `resume` starts them again."""
        for server in reversed(self.servers):
            if (group := self.group(server)) is not None:
                end_group(group, seconds=START_SECONDS)
                (self.folder / f"{server}.pid").unlink()
        for started in _STARTED:
            started.poll()  # so that no zombie stays

    def stop(self) -> None:
        """End them for good and remove their folder."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def launch(self, server: str, *command: str, **environment: str) -> None:
        """Start one of Spark's programs in a session and a folder of its own."""
        work = self.folder / server
        work.mkdir(parents=True, exist_ok=True)
        home, java = spark_home(), java_home(self.folder)
        with (self.folder / f"{server}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  the user's own Spark
                [str(home / "bin" / command[0]), *command[1:]],
                cwd=work,
                env=_without_spark(os.environ)
                | {
                    "JAVA_HOME": str(java),
                    "SPARK_HOME": str(home),
                    "SPARK_LOCAL_IP": HOST,
                    "SPARK_LOCAL_DIRS": str(work),
                    "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={work} -XX:-UsePerfData",  # of what it starts as well
                }
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _STARTED.append(process)
        (self.folder / f"{server}.pid").write_text(str(process.pid))

    def told(self, server: str, pattern: str) -> str:
        """The first group of *pattern* in its log, once it is there.

        Raises EngineUnavailable when it ends before, or is too slow.
        """
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self.log(server))) is None:
            if not self.is_up(server) or time.monotonic() > deadline:
                raise EngineUnavailable(f"Spark's {server} did not start: {self.log(server)[-3000:]}")
            time.sleep(LOOK_EVERY_SECONDS)
        return found.group(1)

    def port(self, name: str) -> int:
        """The port at which it listened last; 0, for any free one, before its first start."""
        file = self.folder / f"{name}.port"
        return int(file.read_text()) if file.exists() else 0

    def keep_port(self, name: str, server: str, pattern: str) -> None:
        """Read it from the log, once it is there."""
        (self.folder / f"{name}.port").write_text(self.told(server, pattern))


class ConnectServer(LocalSpark):
    """A Spark Connect server, which runs its tasks in its own process."""

    servers = ("connect",)

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"sc://{HOST}:{self.port('grpc')}"

    @property
    def ui_url(self) -> str:
        """Its web UI, whose REST API lies under ``/api/v1``."""
        return f"http://{HOST}:{self.port('ui')}"

    def catalog(self) -> Path:
        """The catalogue by which Spark finds what jobs have published, compiled when it is first asked for."""
        jar = self.folder / "catalog.jar"
        if not jar.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            compile_catalog(spark_home(), java_home(self.folder), jar)
        return jar

    def resume(self, **settings: str) -> None:
        """Start it, at the same addresses as before if it ran in this folder already."""
        self.begin(**settings)
        self.await_begun()

    def begin(self, **settings: str) -> None:
        """Start it, and do not wait for it."""
        defaults = {
            "spark.connect.grpc.binding.address": HOST,
            "spark.connect.grpc.binding.port": str(self.port("grpc")),
            "spark.driver.extraClassPath": str(self.catalog()),
            "spark.driver.extraJavaOptions": JAVA_OPTIONS,
            "spark.driver.memory": "1g",
            "spark.sql.catalog.narrative": CATALOG,
            "spark.sql.leafNodeDefaultParallelism": "1",  # so that a job that runs for long takes one core
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.ui.port": str(self.port("ui")),
        }
        self.launch(
            "connect",
            *("spark-submit", "--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
            *("--master", "local[16]"),  # as many tasks at once as there may be
            *in_pairs({**defaults, **dotted(settings)}),
            "spark-internal",
        )

    def await_begun(self) -> None:
        """Return when it takes calls."""
        self.keep_port("ui", "connect", r"Successfully started service 'SparkUI' on port (\d+)")
        self.keep_port("grpc", "connect", r"Spark Connect server started at: \S*:(\d+)")


class Standalone(LocalSpark):
    """A standalone master that takes submissions by REST, and one worker."""

    servers = ("master", "worker")

    @property
    def rest_url(self) -> str:
        """Where submissions are made, under ``/v1/submissions``."""
        return f"http://{HOST}:{self.port('rest')}"

    @property
    def ui_url(self) -> str:
        """The master's web UI; ``/json/`` tells its applications and drivers."""
        return f"http://{HOST}:{self.port('master_ui')}"

    @property
    def url(self) -> str:
        """Where workers and drivers reach the master."""
        return f"spark://{HOST}:{self.port('master')}"

    def resume(self, **settings: str) -> None:
        """Start both, at the same addresses as before if they ran in this folder already."""
        self.resume_master(**settings)
        self.resume_worker(**settings)

    def resume_master(self, **settings: str) -> None:
        """Start the master, and return when it accepts submissions."""
        self.begin_master(**settings)
        self.await_master()

    def resume_worker(self, **settings: str) -> None:
        """Start the worker, and return when the master has it."""
        self.begin_worker(**settings)
        self.await_worker()

    def begin_master(self, **settings: str) -> None:
        """Start the master, and do not wait for it."""
        defaults = {"spark.master.rest.enabled": "true", "spark.master.rest.port": str(self.port("rest"))}
        self.launch(
            "master",
            *("spark-class", "org.apache.spark.deploy.master.Master", "--host", HOST),
            *("--port", str(self.port("master")), "--webui-port", str(self.port("master_ui"))),
            SPARK_MASTER_OPTS=" ".join([JAVA_OPTIONS, *as_properties({**defaults, **dotted(settings)})]),
            SPARK_DAEMON_MEMORY="512m",
        )

    def await_master(self) -> None:
        """Return when the master accepts submissions."""
        self.keep_port("master", "master", r"Starting Spark master at spark://\S+:(\d+)")
        self.keep_port("master_ui", "master", r"Successfully started service 'MasterUI' on port (\d+)")
        self.keep_port("rest", "master", r"Started REST server for submitting applications on \S+ with port (\d+)")

    def begin_worker(self, **settings: str) -> None:
        """Start the worker, with more cores than there are: applications share them, and none waits for one."""
        self.launch(
            "worker",
            *("spark-class", "org.apache.spark.deploy.worker.Worker", "--host", HOST, "--webui-port", "0"),
            *("--cores", "16", "--memory", "8g", "--work-dir", str(self.folder / "work"), self.url),
            SPARK_WORKER_OPTS=" ".join([JAVA_OPTIONS, *as_properties(dotted(settings))]),
            SPARK_DAEMON_MEMORY="512m",
        )

    def await_worker(self) -> None:
        """Return when the master has the worker."""
        self.told("worker", r"(Successfully registered with master)")


def spark_home() -> Path:
    """The folder of pip's whole Spark, without importing it. Refused where there is none, or the thin client alone."""
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        raise Refused(f"pyspark is not installed: {_REMEDY}")
    home = Path(found.origin).parent
    if not (home / "jars").is_dir():
        raise Refused(f"only Spark's thin client is installed here, which has no servers: {_REMEDY}")
    return home


_REMEDY = (
    f"to start Spark here, pip install 'pyspark[connect]=={SPARK_VERSION}' 'pandas<3' into an environment of its own, "
    "beside countermand[server,worker,embedded] and without the extra spark; or run it from a checkout, by its .venv"
)


def in_pairs(settings: Mapping[str, str]) -> Iterable[str]:
    """Settings as arguments of ``spark-submit``."""
    return (argument for name, value in settings.items() for argument in ("--conf", f"{name}={value}"))


def as_properties(settings: Mapping[str, str]) -> Iterable[str]:
    """Settings as options of Java."""
    return (f"-D{name}={value}" for name, value in settings.items())


def dotted(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings given as keywords, by the names that Spark knows."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def _without_spark(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, without what is meant for another Spark."""
    return {name: value for name, value in environment.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
