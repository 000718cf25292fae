"""Where the demo plays: a control plane in a temporary folder, its processes, and what is seen of the jobs."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from control_plane.client import Client
from control_plane.errors import ControlPlaneUnavailable
from control_plane.jobs import ExecutionCluster, Job
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.wire import DataPlaneSubmission, JobSubmission, PlatformObject
from workers.demo.actors import Actor, stop_all
from workers.demo.double import Double
from workers.demo.example import load, published_rows
from workers.demo.liar import IGNORE_STOP
from workers.demo.loads import Load, measure, measure_after
from workers.demo.parts import OWNER, PASSER_BY, Condition, MissedError, Part, has_ended
from workers.demo.programme import Programme
from workers.demo.snowflake import PLANE
from workers.demo.spark import Clusters
from workers.demo.starting import Starting
from workers.demo.venue import DOUBLE, VenueKind

LOGS = "logs"
LOOK_EVERY_SECONDS = 0.1
TELL_EVERY_SECONDS = 10.0
LISTEN_WITHIN_SECONDS = 60.0  #: three on an idle machine; what ends before is told at once
#: Quick, so that the demo is: by default a worker looks once a second, and an executor lets runs end by themselves.
SETTINGS = {
    "COUNTERMAND_WORKER__POLL_SECONDS": "0.2",
    "COUNTERMAND_WORKER__NAME": "demo-canceller",
    "COUNTERMAND_EXECUTOR__DRAIN_SECONDS": "0",
    "COUNTERMAND_EXECUTOR__MEMORY_LIMIT": "200MB",
    "COUNTERMAND_EXECUTOR__THREADS": "1",
    "COUNTERMAND_LOG_FORMAT": "json",
}
#: Each application is two Javas: the machine has to start all those that are there at a time.
SPARK_SETTINGS = {"COUNTERMAND_EXECUTOR__SLOTS": "2"}
#: In an account, a query that even a demo killed at once leaves behind ends by itself, and no call takes long.
SNOWFLAKE_SETTINGS = {
    "COUNTERMAND_SNOWFLAKE__STATEMENT_TIMEOUT_SECONDS": "120",
    "COUNTERMAND_SNOWFLAKE__QUEUED_TIMEOUT_SECONDS": "120",
    "COUNTERMAND_SNOWFLAKE__CALL_TIMEOUT_SECONDS": "10",
}


class Audience(Protocol):
    """Whoever is shown the stage."""

    def say(self, text: str) -> None:
        """Hear what is waited for."""

    def show(self, stage: "Stage") -> None:
        """See it as it is now."""


class TokenMaker(Protocol):
    """Makes tokens, as the control plane's operator does."""

    def __call__(self, name: str, plane: UUID | None = None, /) -> str:
        """A new token's text: a user's or, for a *plane*, one of its processes'."""


class Stage:
    """The demo's world in *folder*, on a migrated database, for which *make_token* makes tokens.

    Only the control plane knows of the database: executors and the canceller reach out to it, as they would from
    another network.

    The *audience* is shown it after every look. Whoever made it closes it.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        make_token: TokenMaker,
        programme: Programme,
        audience: Audience,
    ) -> None:
        self.programme = programme
        self.parts: Sequence[Part] = programme.parts
        self.executors: dict[str, Actor] = {}
        self.loads: dict[str, Load] = {}
        self.published: dict[str, int] = {}  #: rows, by the job that made them
        self._folder = folder
        self._logs = folder / LOGS
        self._make_token = make_token
        self._users: dict[str, Client] = {}
        self._actors: list[Actor] = []  #: in the order in which they were made
        self._audience = audience
        self._planes: dict[str, UUID] = {}
        self._environment = _without_settings(os.environ) | SETTINGS | {"XDG_CONFIG_HOME": str(folder)}
        serve = ["workers", "serve", "--port", "0"]
        self._server = self._actor("server", serve, COUNTERMAND_DATABASE_URL=database_url)
        has_double = programme.venue is not None and programme.venue.kind is VenueKind.DOUBLE
        self._double = Double(self._actor("double", [DOUBLE])) if has_double else None
        self._clusters = Clusters(folder) if programme.on_spark else None

    # --- setting up

    def set_up(self) -> None:
        """The control plane, planes, data, and the jobs; nobody runs any, or cancels, yet."""
        self._logs.mkdir()
        signing_in = {**self._open(), **SNOWFLAKE_SETTINGS}
        if self._clusters is not None:
            self._clusters.start(self._audience.say)
        for name in dict.fromkeys(part.plane for part in self.parts):
            if self._clusters is not None:
                self._set_up_clusters(name, self._clusters)
            elif name == PLANE:
                self._set_up_plane(name, Platform.SNOWFLAKE, **signing_in)
            else:
                load(self._folder / name)
                self._set_up_plane(name, Platform.NARRATIVE)
        self._actor("canceller", ["workers", "--config", str(self._canceller_settings()), "worker"], **signing_in)
        for part in self.parts:
            plane = self._planes[part.plane]
            submission = JobSubmission(plane, part.type, part.input, execution_cluster=part.cluster)
            part.job = self._users[OWNER].submit_job(submission)

    def _open(self) -> Mapping[str, str]:
        """Open the control plane and, where there is one, the double; answers how to reach the Snowflake account."""
        self._server.start()
        if self._double is not None:
            self._double.actor.start()
        address = self._await_address(self._server)
        url = f"http://{address['host']}:{address['port']}"
        self._environment["COUNTERMAND_CONTROL_PLANE"] = url
        for name in (OWNER, PASSER_BY):
            self._users[name] = Client(url, self._make_token(name))
        if self._double is None:
            return self.programme.venue.variables if self.programme.venue is not None else {}
        return self._double.open(self._await_address(self._double.actor))

    def _await_address(self, actor: Actor) -> dict[str, Any]:
        """Where it listens: it takes a free port, and its log tells which."""
        deadline = time.monotonic() + LISTEN_WITHIN_SECONDS
        while (address := actor.address()) is None:
            ended = actor.unexpected_end()
            if ended or time.monotonic() > deadline:
                why = ended or f"the {actor.name} did not listen in {LISTEN_WITHIN_SECONDS:g} s"
                raise ControlPlaneUnavailable(why)
            time.sleep(LOOK_EVERY_SECONDS)
        return address

    def _set_up_plane(self, name: str, platform: Platform, **variables: str) -> None:
        plane = self._make_plane(DataPlaneSubmission(display_name=name, platform=PlatformObject(platform)))
        executor = self._executor(name, COUNTERMAND_TOKEN=self._make_token(f"executor {name}", plane), **variables)
        self.executors[name] = executor
        if platform is not Platform.SNOWFLAKE:
            self.loads[name] = Load(f"executor {name}", executor)
        elif self._double is not None:
            self.loads[name] = Load("the double", self._double.actor)

    def _set_up_clusters(self, name: str, clusters: Clusters) -> None:
        """A plane with both clusters, its data, and an executor for each of them."""
        clusters.prepare(name)
        submission = DataPlaneSubmission(
            display_name=name,
            platform=PlatformObject(Platform.NARRATIVE),
            execution_clusters=[*ExecutionCluster],
        )
        plane = self._make_plane(submission)
        for cluster in ExecutionCluster:
            executor, folder = f"{name}-{cluster.value}", self._folder / f"{name}-{cluster.value}"
            self.executors[executor] = self._actor(
                executor,
                ["workers", "executor", "--data-plane", name, "--data-folder", str(folder)],
                COUNTERMAND_TOKEN=self._make_token(f"executor {executor}", plane),
                **SPARK_SETTINGS,
                **clusters.executor_variables(name, cluster),
            )
        self.loads["shared"] = Load("the Connect server", clusters.connect)
        self.loads["dedicated"] = Load("the applications", clusters.standalone)

    def _make_plane(self, submission: DataPlaneSubmission) -> UUID:
        plane = self._users[OWNER].create_data_plane(submission).data_plane_id
        self._planes[submission.display_name] = plane
        return plane

    def _canceller_settings(self) -> Path:
        """One canceller serves all planes, each by a token of its own."""
        tokens = {name: self._make_token(f"canceller {name}", plane) for name, plane in self._planes.items()}
        file = self._folder / "canceller.toml"
        file.touch(mode=0o600)
        file.write_text("".join(self._section(name, token) for name, token in tokens.items()))
        return file

    def _section(self, plane: str, token: str) -> str:
        """What the canceller is told of a plane: its token and, where it has any, how its clusters are reached."""
        section = f'[worker.planes.{plane}]\ntoken = "{token}"\n'
        if self._clusters is None:
            return section
        told = self._clusters.settings(plane, *ExecutionCluster)
        return section + "".join([f"[worker.planes.{plane}.spark]\n", *(f'{k} = "{v}"\n' for k, v in told.items())])

    def close(self) -> None:
        """End every process that still runs."""
        for client in self._users.values():
            client.close()
        try:
            self._stop_actors()
        finally:
            if self._clusters is not None:
                self._clusters.stop(self._logs)

    def _stop_actors(self) -> None:
        """The double last: executors stop there what still runs, and sign out."""
        double = [] if self._double is None else [self._double.actor]
        stop_all([actor for actor in self._actors if actor not in double])
        stop_all(double)

    def _executor(self, name: str, **variables: str) -> Actor:
        folder = self._folder / name
        if name == "liar":
            (folder / IGNORE_STOP).touch()
            return self._actor(name, ["workers.demo.liar", name, str(folder)], **variables)
        arguments = ["workers", "executor", "--data-plane", name, "--data-folder", str(folder)]
        return self._actor(name, arguments, **variables)

    def _actor(self, name: str, arguments: list[str], **variables: str) -> Actor:
        environment = self._environment | variables
        actor = Actor(name, arguments, folder=self._folder, log=self._logs / f"{name}.log", environment=environment)
        self._actors.append(actor)
        return actor

    # --- playing

    async def play(self) -> None:
        """Every act, the one after the other. Then every process is ended."""
        before = [part for part in self.parts if part.begins_at is None]
        await asyncio.gather(*(self._attempt(part) for part in before))
        with self._processes():
            watching = asyncio.create_task(self._watch())
            try:
                for cluster in dict.fromkeys(part.cluster for part in self.parts):
                    await self._play_act([part for part in self.parts if part.cluster is cluster])
            finally:
                watching.cancel()
            self._look_at_all()
        self._look_for_the_published()

    async def _play_act(self, parts: Sequence[Part]) -> None:
        """Every part of one cluster, or where there are none; each from its own moment on; what goes wrong is its own.

        Clusters are not played at once: a machine with two cores would be seen to start Javas for minutes.
        """
        for name in dict.fromkeys(part.executor for part in parts):
            self.executors[name].start()
        loads = [self.loads[place] for place in dict.fromkeys(part.place for part in parts) if place in self.loads]
        await self._see_all_at_work(parts)
        await measure("running", loads)
        await asyncio.gather(*(self._attempt(part) for part in parts if part.begins_at is not None))
        await measure_after(loads)

    @contextmanager
    def _processes(self) -> Iterator[None]:
        """All but the executors, which are started with their act."""
        try:
            for actor in self._actors:
                if not actor.was_started and actor not in self.executors.values():
                    actor.start()
            yield
        finally:
            self._stop_actors()

    async def _attempt(self, part: Part) -> None:
        await asyncio.sleep(part.begins_at or 0)
        try:
            if part.missed is None:
                await part.play(self, part)
        except MissedError as missed:
            part.tell_missed(str(missed))

    async def _see_all_at_work(self, parts: Sequence[Part]) -> None:
        long = [part for part in parts if part.is_long]
        with self._telling_of_the_start(long):
            for part in long:
                try:
                    patience = self.programme.patience.begin_seconds
                    await self.see(part, self.computes(part), "that it runs", seconds=patience)
                except MissedError as missed:
                    part.tell_missed(str(missed))

    @contextmanager
    def _telling_of_the_start(self, parts: Sequence[Part]) -> Iterator[None]:
        """On a cluster, where that takes long: how many of them compute, every few seconds, and once all do."""
        cluster = next((part.cluster for part in parts), None)
        if cluster is None:
            yield
            return
        starting = Starting(cluster, len(parts), self._audience.say)
        telling = asyncio.create_task(self._keep_telling(starting, parts))
        try:
            yield
            starting.tell(self._computing(parts))
        finally:
            telling.cancel()

    async def _keep_telling(self, starting: Starting, parts: Sequence[Part]) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_SECONDS)
            starting.tell(self._computing(parts))

    def _computing(self, parts: Sequence[Part]) -> int:
        return sum(self.computes(part)(part.now) for part in parts)

    def _look_for_the_published(self) -> None:
        """Whoever is completed is published: readers find it in the plane's own database, or its warehouse."""
        for part in self.parts:
            if part.expected_state is JobState.COMPLETED:
                if rows := self._published_rows(part):
                    self.published[part.name] = rows
                else:
                    part.tell_missed("readers do not find what it made")

    def _published_rows(self, part: Part) -> int | None:
        if self._clusters is not None:
            return self._clusters.published_rows(part)
        return published_rows(self._folder / part.plane)

    # --- what a part may do

    def request(self, part: Part, reason: str, *, by: str = OWNER) -> Job:
        """Ask for its cancellation; answers the job as the request left it."""
        part.job = self._users[by].request_cancellation(part.now.job_id, reason)
        return part.job

    def computes(self, part: Part) -> Condition:
        """Its run is known, and on Spark has come so far that tasks of it run."""

        def condition(job: Job) -> bool:
            return _is_at_work(job) and (self._clusters is None or self._clusters.is_computing(part))

        return condition

    async def see(self, part: Part, condition: Condition, what: str, *, seconds: float | None = None) -> None:
        """Look until it is so. Raises MissedError when it cannot be any more, or a process ends by itself."""
        seconds = self.programme.patience.see_seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while not condition(self.look(part)):
            self._refuse_dead_actors(part)
            if has_ended(part.now) or time.monotonic() > deadline:
                raise MissedError(f"{what} was not seen, within {seconds:g} s at most: it is {part.now.state.value}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def keep_seeing(self, part: Part, condition: Condition, what: str, *, seconds: float) -> None:
        """Look for so long. Raises MissedError once it is not so."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not condition(self.look(part)):
                raise MissedError(f"{what} was not seen for {seconds:g} s: it is {part.now.state.value}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def look(self, part: Part) -> Job:
        """The job as the control plane has it now."""
        part.job = self._users[OWNER].get_job(part.now.job_id)
        return part.job

    async def measure_lie(self, part: Part) -> None:
        """What it uses although it was told to stop."""
        await measure("told_to_stop", [self.loads[part.place]])

    def lift_fault(self, part: Part) -> None:
        """From now on its engine does as it is told."""
        (self._folder / part.plane / IGNORE_STOP).unlink()

    def begin_to_lie(self) -> None:
        """From now on the double of a Snowflake account says that a query is terminated, and it runs on."""
        if self._double is None:
            raise MissedError("an account cannot be told to lie")
        self._double.lie()

    # --- looking

    async def _watch(self) -> None:
        while True:
            self._look_at_all()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _look_at_all(self) -> None:
        """All of them in one call: this happens ten times a second, beside what is to be shown."""
        seen = {job.job_id: job for job in self._users[OWNER].list_jobs().records}
        for part in self.parts:
            part.job = seen[part.now.job_id]
        self._audience.show(self)

    def _refuse_dead_actors(self, part: Part) -> None:
        """All but the executors of others, whose jobs that is the end of."""
        others = [executor for name, executor in self.executors.items() if name != part.executor]
        for actor in self._actors:
            if actor not in others and (ended := actor.unexpected_end()):
                raise MissedError(ended)


def _is_at_work(job: Job) -> bool:
    return job.state is JobState.RUNNING and job.handle is not None


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, without what is meant for another store, or for another Snowflake account."""
    meant = ("COUNTERMAND_", "SNOWFLAKE_")
    return {name: value for name, value in environment.items() if not name.startswith(meant)}
