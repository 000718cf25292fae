"""A place to try the real commands in: a database, data folders, and processes that are ended whatever happens."""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import httpx
import psutil
from sqlalchemy import text

from control_plane.intake import Intake, NewJob, NewPlane
from control_plane.jobs import Job, JobType, Process
from control_plane.lifecycle import TERMINAL, JobState
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.tokens import NewToken, Permission, Tokens
from tests.acceptance.network import HERE, Machine
from tests.narrative import DATA, ENDLESS, RESOURCES, view_input
from workers.demo.liar import IGNORE_STOP
from workers.engines.warehouse import Warehouse
from workers.run_server import SOCKET

ROOT = Path(__file__).parents[2]
PERSON = Process("a-person")
QUICK = {
    "COUNTERMAND_WORKER__POLL_SECONDS": "0.1",
    "COUNTERMAND_EXECUTOR__THREADS": "1",
    "COUNTERMAND_EXECUTOR__MEMORY_LIMIT": "500MB",
    "COUNTERMAND_LOG_FORMAT": "json",
}


IN_TRANSACTION = text(
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
)


def until(condition: Callable[[], object], *, seconds: float = 60.0, what: str = "it") -> None:
    """Look until it is so; AssertionError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:g} s"
        time.sleep(0.03)


def unclaimed_port() -> int:
    """A free port that stays free until we use it: of those that the system gives to nobody who asks for just any."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, lowest_given)  # noqa: S311
        with suppress(OSError), socket.create_server(("", port)):
            return port


def speaks_to_the_api(arguments: Iterable[str]) -> bool:
    """Whether a command line is one of users': all others work at the database, ``planes check`` among them."""
    return not {"jobs", "planes"}.isdisjoint(arguments) and "check" not in arguments


class Started:
    """A process of ours, and what it says."""

    def __init__(self, name: str, command: list[str], *, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def be_nice(self) -> None:
        """Leave the processor to the others: many endless queries at once would slow the tests themselves."""
        psutil.Process(self.process.pid).nice(15)

    def says(self) -> str:
        """Everything that it has said so far."""
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log lines of this event."""
        whole = self.says().rpartition("\n")[0].splitlines()  # it may be about to say more
        lines = (json.loads(line) for line in whole if line.startswith("{") and line.endswith("}"))
        return [line for line in lines if line["event"] == name]

    def until_event(self, name: str) -> None:
        """Wait until it has logged the event."""
        until(
            lambda: self.events(name) or self.process.poll() is not None, what=f"{name} of {self.name}"
        )  # a start takes two seconds of a processor, which may be shared; one that fails ends
        assert self.events(name), self.says()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stall(self) -> None:
        """SIGSTOP, and come back once none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        until(self._is_stopped, what=f"that {self.name} is stopped")

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, *, seconds: float = 60.0) -> int:
        """SIGTERM, and how it ended; TimeoutExpired when it has not in time."""
        self.process.terminate()
        return self.process.wait(seconds)

    def signal_until_ended(self, number: int) -> int:
        """The signal again and again, as from somebody without patience, and how it ended."""
        while True:
            self.signal(number)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.03)

    def is_busy(self, *, percent: float = 20.0) -> bool:
        """Whether it uses more of a core than that."""
        return bool(psutil.Process(self.process.pid).cpu_percent(interval=0.4) > percent)


class Site:
    """One installation, as its operator sees it."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = database_url
        self.folder = folder
        self._started: list[Started] = []

    @cached_property
    def store(self) -> Store:
        return Store(self.url)

    def is_locked(self) -> bool:
        """Whether somebody else is in the middle of a transaction: on Postgres any, on SQLite one that writes."""
        if not self.url.startswith("sqlite"):
            with self.store.engine.connect() as connection:
                return connection.execute(IN_TRANSACTION).first() is not None
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=0.2, isolation_level=None)) as opened:
            try:
                opened.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    @cached_property
    def intake(self) -> Intake:
        return Intake(self.store, Policy())

    # --- the API

    def serve(self, *, port: int = 0, on: Machine = HERE) -> Started:
        """``countermand serve``, once it listens; by default on a free port."""
        command = ("workers", "serve", "--host", on.address, "--port", str(port))
        server = self._begin("server", *command, environment=self.environment(), on=on)
        server.until_event("server_started")
        return server

    @cached_property
    def server(self) -> Started:
        """The site's own, started when it is first needed; another may take its place at the port."""
        return self.serve(port=unclaimed_port())

    @property
    def api_url(self) -> str:
        """Where it listens."""
        [started] = self.server.events("server_started")
        return f"http://127.0.0.1:{started['port']}"

    def token(self, *permissions: Permission, name: str = "site", **fields: Any) -> str:
        """The text of a new token; by default one that may do everything but attest."""
        allowed = list(permissions or set(Permission) - {Permission.JOBS_ATTEST})
        return Tokens(self.store).create(NewToken(name, **{"company_id": 1} | fields, permissions=allowed))[1]

    @cached_property
    def access(self) -> dict[str, str]:
        """What users' commands are given: where the control plane is, and a token."""
        return {"COUNTERMAND_URL": self.api_url, "COUNTERMAND_TOKEN": self.token()}

    # --- commands

    def environment(self, **settings: str) -> dict[str, str]:
        """What our processes are given: nothing of the developer's own settings."""
        ours = QUICK | {"COUNTERMAND_DATABASE_URL": self.url} | settings
        return {"PYTHONPATH": str(ROOT), **os.environ, **ours}

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end; one that speaks to the API finds it, unless it is told of another."""
        if speaks_to_the_api(arguments) and "COUNTERMAND_URL" not in settings:
            settings = self.access | settings
        return subprocess.run(
            [sys.executable, "-P", "-m", "workers", *arguments],
            cwd=self.folder,
            env=self.environment(**settings),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, name: str, module: str, *arguments: str, **settings: str) -> Started:
        """A module of ours, as a process that is ended with the test."""
        if speaks_to_the_api(arguments):
            settings = self.access | settings
        return self._begin(name, module, *arguments, environment=self.environment(**settings))

    def _begin(
        self, name: str, module: str, *arguments: str, environment: dict[str, str], on: Machine = HERE
    ) -> Started:
        command = [*on.prefix, sys.executable, "-P", "-m", module, *arguments]
        started = Started(name, command, folder=self.folder, environment=environment)
        self._started.append(started)
        return started

    def worker(self, name: str = "worker", *planes: UUID, **settings: str) -> Started:
        """``countermand worker``, once it has begun."""
        wanted = [part for plane in planes for part in ("--data-plane", str(plane))]
        started = self.start(name, "workers", "worker", "--name", name, *wanted, **settings)
        started.until_event("worker_started")
        return started

    def executor(self, plane: UUID, folder: str = "data", *, slots: int = 4) -> Started:
        """``countermand executor`` on a folder of the site, once it has begun."""
        self.load(folder)
        wanted = ["--data-plane", str(plane), "--data-folder", str(self.folder / folder), "--slots", str(slots)]
        started = self.start(folder, "workers", "executor", *wanted)
        started.until_event("executor_started")
        if slots > 4:
            started.be_nice()
        return started

    def liar(self, plane: UUID, folder: str = "liar", *, slots: int = 4) -> Started:
        """An executor whose engine ignores stops until :meth:`lift_fault`."""
        self.load(folder)
        (self.folder / folder / IGNORE_STOP).touch()
        settings = {"COUNTERMAND_EXECUTOR__SLOTS": str(slots)}
        started = self.start(folder, "workers.demo.liar", str(plane), str(self.folder / folder), **settings)
        started.until_event("executor_started")
        return started

    def lift_fault(self, folder: str = "liar") -> None:
        (self.folder / folder / IGNORE_STOP).unlink()

    def load(self, folder: str) -> None:
        """Make a data folder with the data of every test, unless it is there."""
        path = self.folder / folder
        if not path.exists():
            path.mkdir(mode=0o700)
            with opened(path) as warehouse, warehouse.session() as session:
                session.execute(DATA)

    # --- processes without a database

    def remote_environment(self, **settings: str) -> dict[str, str]:
        """What a plane's own processes are given elsewhere: no database, and no token but a file that is named."""
        environment = self.environment(**settings)
        del environment["COUNTERMAND_DATABASE_URL"]
        return environment

    def plane_token(self, plane: UUID, **fields: Any) -> str:
        """The text of a token for the processes of the plane, which may do no more than these need."""
        return self.token(Permission.JOBS_WRITE, data_plane_id=plane, **{"name": "plane"} | fields)

    def token_file(self, text: str, name: str = "token") -> Path:
        """The text in a file that only we may read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def remote_worker(
        self,
        plane: UUID | None,
        name: str = "remote",
        *,
        url: str | None = None,
        on: Machine = HERE,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Started:
        """``countermand worker --control-plane``, once it has begun; without a plane, as its settings say."""
        command = ("workers", "worker", "--name", name, *self._reach(name, plane, url))
        started = self._begin(name, *command, environment=self.remote_environment(**settings), on=on)
        started.until_event("worker_started")
        return started

    def remote_executor(
        self,
        plane: UUID,
        folder: str = "data",
        *,
        slots: int = 4,
        url: str | None = None,
        on: Machine = HERE,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Started:
        """``countermand executor --control-plane`` on a folder of the site, once it has begun."""
        self.load(folder)
        place = ("--data-plane", str(plane), "--data-folder", str(self.folder / folder), "--slots", str(slots))
        command = ("workers", "executor", *place, *self._reach(folder, plane, url))
        started = self._begin(folder, *command, environment=self.remote_environment(**settings), on=on)
        started.until_event("executor_started")
        if slots > 4:
            started.be_nice()
        return started

    def _reach(self, name: str, plane: UUID | None, url: str | None) -> tuple[str, ...]:
        """The options by which a process reaches the control plane as its plane's."""
        where = ("--control-plane", url or self.api_url)
        if plane is None:
            return where
        return (*where, "--token-file", str(self.token_file(self.plane_token(plane), f"{name}.token")))

    def run_remote(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command of a plane's process, to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "workers", *arguments],
            cwd=self.folder,
            env=self.remote_environment(**settings),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    # --- jobs

    def plane(self, name: str = "local", *, permit_seconds: float = 30.0) -> UUID:
        new = NewPlane(name, Platform.NARRATIVE, permit_seconds=permit_seconds)
        return self.intake.create_plane(new).data_plane_id

    def submit(self, plane: UUID, sql: str = ENDLESS) -> UUID:
        return self.intake.submit(NewJob(plane, JobType.MATERIALIZE_VIEW, view_input(sql)), PERSON).job_id

    def submit_running(self, plane: UUID, count: int = 1) -> list[UUID]:
        """Jobs that would run for minutes, each seen executing: a run that is still queued would end at any stop."""
        job_ids = [self.submit(plane) for _ in range(count)]
        until(lambda: all(self.is_running(job_id) for job_id in job_ids), what="that all jobs run")
        until(lambda: self.executing().issuperset(job_ids), seconds=120, what="that all runs execute")
        return job_ids

    def request(self, job_id: UUID) -> Job:
        return self.intake.request_cancellation(job_id, PERSON, "the wrong month")

    def is_running(self, job_id: UUID) -> bool:
        job = self.intake.job(job_id)
        return job.state is JobState.RUNNING and job.handle is not None

    def waiting(self, job_id: UUID) -> str | None:
        """Why its cancellation waits."""
        cancellation = self.intake.job(job_id).cancellation
        return cancellation.waiting.value if cancellation and cancellation.waiting else None

    def ended(self, job_id: UUID, *, seconds: float = 60.0) -> Job:
        """The job, once it has ended."""
        until(lambda: self.intake.job(job_id).state in TERMINAL, seconds=seconds, what=f"the end of {job_id}")
        return self.intake.job(job_id)

    def moves(self, job_id: UUID) -> list[str]:
        """Every move of the job, in order."""
        return [entry.move for entry in self.intake.audit(job_id)]

    # --- engines

    def active_runs(self, folder: str = "data") -> set[UUID]:
        """The jobs whose runs are active, as the engine says itself."""
        return {UUID(run["job_id"]) for run in self._runs(self.folder / folder)}

    def executing(self) -> set[UUID]:
        """The jobs whose statements were submitted, on whichever engine answers."""
        runs: set[UUID] = set()
        for door in self.folder.glob(f"*/{SOCKET}"):
            with suppress(httpx.TransportError):  # a killed executor left it
                runs |= {UUID(run["job_id"]) for run in self._runs(door.parent) if run["word"] == "executing"}
        return runs

    def _runs(self, folder: Path) -> list[dict[str, Any]]:
        transport = httpx.HTTPTransport(uds=str(folder / SOCKET))
        with httpx.Client(transport=transport, base_url="http://executor", timeout=30.0) as client:
            runs: list[dict[str, Any]] = client.get("/v1/running").raise_for_status().json()["runs"]
        return runs

    def rows(self, sql: str, folder: str = "data") -> list[tuple[Any, ...]]:
        """What a reader of the folder's data sees; its executor must have ended."""
        with opened(self.folder / folder) as warehouse, warehouse.session() as session:
            return session.execute(sql).fetchall()

    def close(self) -> None:
        """End every process, and let go of the store."""
        for started in self._started:
            started.kill()
        if "store" in vars(self):
            self.store.close()


@contextmanager
def opened(path: Path) -> Iterator[Warehouse]:
    """The data of an executor that does not run."""
    warehouse = Warehouse.open(path, RESOURCES)
    try:
        yield warehouse
    finally:
        warehouse.close()


@contextmanager
def site_of(database_url: str) -> Iterator[Site]:
    """A site on this database, in a folder whose name is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="countermand-site-"))
    site = Site(database_url, folder)
    try:
        yield site
    finally:
        site.close()
        shutil.rmtree(folder, ignore_errors=True)
