"""Spark for tests: a Connect server, and a standalone master with one worker, as the demo starts them.

All processes of a run share one Connect server and one standalone cluster; whoever stops or restarts one starts one of
its own.
"""

from hashlib import sha256
from pathlib import Path
from typing import Self

import psutil

from adapters.narrative.spark_standalone_scripts import Folder
from tests.shared import SharedFolder
from workers.demo import spark_local
from workers.demo.java import java_home
from workers.demo.spark_example import compile_catalog
from workers.demo.spark_local import LocalSpark, spark_home

ROOT = Path(__file__).parents[1]
EXECUTOR = "CoarseGrainedExecutorBackend"
SOURCE = ROOT / "adapters" / "narrative" / "spark_catalog.scala"


class RunsOwn(LocalSpark):
    """Servers that a whole run of tests may share, and that tests look at as processes."""

    @classmethod
    def of_run(cls, shared: SharedFolder) -> Self:
        """The run's own, started by whoever asks first."""
        return cls(shared.once(cls.__name__.lower(), lambda folder: cls.start(folder)))

    @classmethod
    def close_run(cls, shared: SharedFolder) -> None:
        """Stop the run's own, if they were started; called once, after every process of the run has ended."""
        if (folder := shared.path / cls.__name__.lower()).exists():
            cls(folder).stop()

    def process(self, server: str) -> psutil.Process:
        """The server's process."""
        return psutil.Process(int((self.folder / f"{server}.pid").read_text()))


class ConnectServer(RunsOwn, spark_local.ConnectServer):
    """A Spark Connect server, which runs its tasks in its own process."""

    @property
    def pid(self) -> int:
        return self.process("connect").pid

    def catalog(self) -> Path:
        return catalog_jar(self.folder)


class Standalone(RunsOwn, spark_local.Standalone):
    """A standalone master that takes submissions by REST, and one worker."""

    def computing(self, warehouse: Path, tag: str) -> list[psutil.Process]:
        """The driver and the executors of the job's application, once Spark has begun its first job on an executor."""
        events = Folder(warehouse).events(tag)
        if not any(b"SparkListenerJobStart" in log.read_bytes() for log in events.glob("app-*")):
            return []
        # executors are told the application's id, as its event log is named
        words = [tag, *(log.name.removesuffix(".inprogress") for log in events.iterdir())]
        started = self.process("worker").children(recursive=True)
        own = [process for process in started if any(word in part for part in command_of(process) for word in words)]
        return own if any(map(is_executor, own)) else []


def catalog_jar(folder: Path) -> Path:
    """The catalogue by which Spark finds what jobs have published: compiled once for each Spark, and then kept."""
    known = sha256(SOURCE.read_bytes() + str(spark_home()).encode()).hexdigest()[:16]
    jar = ROOT / ".pytest_cache" / "spark" / f"catalog-{known}.jar"
    if not jar.exists():
        jar.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        compile_catalog(spark_home(), java_home(folder), folder / jar.name).replace(jar)
    return jar


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty once it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def is_executor(process: psutil.Process) -> bool:
    """Whether it runs an application's tasks."""
    return any(EXECUTOR in part for part in command_of(process))


def is_running(process: psutil.Process) -> bool:
    """Whether it runs; what has ended and was not yet asked for its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
