"""Where the demo plays: a control plane in a temporary folder, its processes, and what is seen of the jobs."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from control_plane.client import Client
from control_plane.errors import ControlPlaneUnavailable
from control_plane.jobs import Job
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.wire import DataPlaneSubmission, JobSubmission, PlatformObject
from workers.demo.actors import Actor, stop_all
from workers.demo.double import Double
from workers.demo.example import load, published_rows
from workers.demo.liar import IGNORE_STOP
from workers.demo.parts import OWNER, PASSER_BY, Condition, MissedError, Part, has_ended
from workers.demo.snowflake import PLANE
from workers.demo.venue import DOUBLE, Venue, VenueKind

LOGS = "logs"
LOOK_EVERY_SECONDS = 0.1
SEE_WITHIN_SECONDS = 40.0
BEGIN_WITHIN_SECONDS = 30.0
LISTEN_WITHIN_SECONDS = 20.0
MEASURE_SECONDS = 1.5
#: Quick, so that the demo is: by default a worker looks once a second, and an executor lets runs end by themselves.
SETTINGS = {
    "COUNTERMAND_WORKER__POLL_SECONDS": "0.2",
    "COUNTERMAND_WORKER__NAME": "demo-canceller",
    "COUNTERMAND_EXECUTOR__DRAIN_SECONDS": "0",
    "COUNTERMAND_EXECUTOR__MEMORY_LIMIT": "200MB",
    "COUNTERMAND_EXECUTOR__THREADS": "1",
    "COUNTERMAND_LOG_FORMAT": "json",
}
#: In an account, a query that even a demo killed at once leaves behind ends by itself, and no call takes long.
SNOWFLAKE_SETTINGS = {
    "COUNTERMAND_SNOWFLAKE__STATEMENT_TIMEOUT_SECONDS": "120",
    "COUNTERMAND_SNOWFLAKE__QUEUED_TIMEOUT_SECONDS": "120",
    "COUNTERMAND_SNOWFLAKE__CALL_TIMEOUT_SECONDS": "10",
}


@dataclass
class Load:
    """The CPU of what computes for a plane, in percent of a core, at the moments when it was measured."""

    of: str
    actor: Actor
    running: float | None = None
    told_to_stop: float | None = None  #: while it ran on all the same
    after: float | None = None


class TokenMaker(Protocol):
    """Makes tokens, as the control plane's operator does."""

    def __call__(self, name: str, plane: UUID | None = None, /) -> str:
        """A new token's text: a user's or, for a *plane*, one of its processes'."""


class Stage:
    """The demo's world in *folder*, on a migrated database, for which *make_token* makes tokens.

    Only the control plane knows of the database: executors and the canceller reach out to it, as they would from
    another network.

    *venue* is where its Snowflake plane is. *on_look* is called after every look. Whoever made it closes it.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        make_token: TokenMaker,
        parts: Sequence[Part],
        venue: Venue,
        on_look: Callable[["Stage"], None],
    ) -> None:
        self.began_at = time.monotonic()
        self.parts = parts
        self.venue = venue
        self.executors: dict[str, Actor] = {}
        self.loads: dict[str, Load] = {}
        self.published: int | None = None
        self._folder = folder
        self._logs = folder / LOGS
        self._make_token = make_token
        self._users: dict[str, Client] = {}
        self._actors: list[Actor] = []  #: in the order in which they were made
        self._on_look = on_look
        self._planes: dict[str, UUID] = {}
        self._environment = _without_settings(os.environ) | SETTINGS | {"XDG_CONFIG_HOME": str(folder)}
        serve = ["workers", "serve", "--port", "0"]
        self._server = self._actor("server", serve, COUNTERMAND_DATABASE_URL=database_url)
        self._double = Double(self._actor("double", [DOUBLE])) if venue.kind is VenueKind.DOUBLE else None

    # --- setting up

    def set_up(self) -> None:
        """The control plane, planes, data, and the jobs; nobody runs any, or cancels, yet."""
        self._logs.mkdir()
        signing_in = {**self._open(), **SNOWFLAKE_SETTINGS}
        for name in dict.fromkeys(part.plane for part in self.parts):
            if name == PLANE:
                self._set_up_plane(name, Platform.SNOWFLAKE, **signing_in)
            else:
                load(self._folder / name)
                self._set_up_plane(name, Platform.NARRATIVE)
        self._actor("canceller", ["workers", "--config", str(self._canceller_settings()), "worker"], **signing_in)
        for part in self.parts:
            submission = JobSubmission(self._planes[part.plane], part.type, part.input)
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
            return self.venue.variables
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
        submission = DataPlaneSubmission(display_name=name, platform=PlatformObject(platform))
        plane = self._planes[name] = self._users[OWNER].create_data_plane(submission).data_plane_id
        executor = self._executor(name, COUNTERMAND_TOKEN=self._make_token(f"executor {name}", plane), **variables)
        self.executors[name] = executor
        if platform is not Platform.SNOWFLAKE:
            self.loads[name] = Load(f"executor {name}", executor)
        elif self._double is not None:
            self.loads[name] = Load("the double", self._double.actor)

    def _canceller_settings(self) -> Path:
        """One canceller serves all planes, each by a token of its own."""
        tokens = {name: self._make_token(f"canceller {name}", plane) for name, plane in self._planes.items()}
        file = self._folder / "canceller.toml"
        file.touch(mode=0o600)
        file.write_text("".join(f'[worker.planes.{name}]\ntoken = "{token}"\n' for name, token in tokens.items()))
        return file

    def close(self) -> None:
        """End every process that still runs."""
        for client in self._users.values():
            client.close()
        self._stop_actors()

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
        """Every part, each from its own moment on; what goes wrong with one is its own. Then every process is ended."""
        before = [part for part in self.parts if part.begins_at is None]
        await asyncio.gather(*(self._attempt(part) for part in before))
        with self._processes():
            watching = asyncio.create_task(self._watch())
            try:
                await self._see_all_at_work()
                await self._measure("running", self.loads.values())
                await asyncio.gather(*(self._attempt(part) for part in self.parts if part not in before))
                await self._measure("after", self.loads.values())
            finally:
                watching.cancel()
            self._look_at_all()
        self._look_for_the_published()

    @contextmanager
    def _processes(self) -> Iterator[None]:
        try:
            for actor in self._actors:
                if not actor.was_started:
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

    async def _see_all_at_work(self) -> None:
        for part in self.parts:
            try:
                if part.is_long:
                    await self.see(part, _is_at_work, "that it runs", seconds=BEGIN_WITHIN_SECONDS)
            except MissedError as missed:
                part.tell_missed(str(missed))

    def _look_for_the_published(self) -> None:
        """Whoever is completed is published: readers find it in the plane's own database."""
        for part in self.parts:
            if part.expected_state is JobState.COMPLETED:
                self.published = published_rows(self._folder / part.plane)
                if not self.published:
                    part.tell_missed("readers do not find what it made")

    # --- what a part may do

    def request(self, part: Part, reason: str, *, by: str = OWNER) -> Job:
        """Ask for its cancellation; answers the job as the request left it."""
        part.job = self._users[by].request_cancellation(part.now.job_id, reason)
        return part.job

    async def see(self, part: Part, condition: Condition, what: str, *, seconds: float = SEE_WITHIN_SECONDS) -> None:
        """Look until it is so. Raises MissedError when it cannot be any more, or a process ends by itself."""
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
        await self._measure("told_to_stop", [self.loads[part.plane]])

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
        self._on_look(self)

    def _refuse_dead_actors(self, part: Part) -> None:
        """All but the executors of other planes, whose jobs that is the end of."""
        others = [executor for plane, executor in self.executors.items() if plane != part.plane]
        for actor in self._actors:
            if actor not in others and (ended := actor.unexpected_end()):
                raise MissedError(ended)

    async def _measure(self, moment: str, loads: Iterable[Load]) -> None:
        began_at, used = time.monotonic(), [(each, each.actor.cpu_seconds()) for each in loads]
        await asyncio.sleep(MEASURE_SECONDS)
        elapsed = time.monotonic() - began_at
        for measured, seconds in used:
            setattr(measured, moment, (measured.actor.cpu_seconds() - seconds) / elapsed * 100)


def _is_at_work(job: Job) -> bool:
    return job.state is JobState.RUNNING and job.handle is not None


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, without what is meant for another store, or for another Snowflake account."""
    meant = ("COUNTERMAND_", "SNOWFLAKE_")
    return {name: value for name, value in environment.items() if not name.startswith(meant)}
