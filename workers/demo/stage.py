"""Where the demo plays: a control plane in a temporary folder, its processes, and what is seen of the jobs."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from control_plane.client import Client
from control_plane.errors import ControlPlaneUnavailable
from control_plane.jobs import Job
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.wire import DataPlaneSubmission, JobSubmission, PlatformObject
from workers.demo.actors import Actor, stop_all
from workers.demo.example import load, published_rows
from workers.demo.liar import IGNORE_STOP
from workers.demo.parts import OWNER, Condition, MissedError, Part, has_ended

LOGS = "logs"
LOOK_EVERY_SECONDS = 0.1
SEE_WITHIN_SECONDS = 40.0
SERVE_WITHIN_SECONDS = 20.0
MEASURE_SECONDS = 1.5
#: Quick, so that the demo is: by default a worker looks once a second.
SETTINGS = {
    "COUNTERMAND_WORKER__POLL_SECONDS": "0.2",
    "COUNTERMAND_WORKER__NAME": "demo-canceller",
    "COUNTERMAND_EXECUTOR__MEMORY_LIMIT": "200MB",
    "COUNTERMAND_EXECUTOR__THREADS": "1",
    "COUNTERMAND_LOG_FORMAT": "json",
}


@dataclass
class Load:
    """An executor's CPU, in percent of a core, at the moments when it was measured."""

    running: float | None = None
    told_to_stop: float | None = None  #: while it ran on all the same
    after: float | None = None


class Stage:
    """The demo's world in *folder*, on a migrated database; *tokens* has the text of one for each who asks.

    *on_look* is called after every look. Whoever made it closes it.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        tokens: Mapping[str, str],
        parts: Sequence[Part],
        on_look: Callable[["Stage"], None],
    ) -> None:
        self.began_at = time.monotonic()
        self.parts = parts
        self.executors: dict[str, Actor] = {}
        self.loads: dict[str, Load] = {}
        self.published: int | None = None
        self._folder = folder
        self._logs = folder / LOGS
        self._tokens = tokens
        self._users: dict[str, Client] = {}
        self._on_look = on_look
        self._planes: dict[str, UUID] = {}
        own = {"COUNTERMAND_DATABASE_URL": database_url, "XDG_CONFIG_HOME": str(folder)}
        self._environment = _without_ours(os.environ) | SETTINGS | own
        self._server = self._actor("server", ["workers", "serve", "--port", "0"])
        self._canceller = self._actor("canceller", ["workers", "worker"])

    # --- setting up

    def set_up(self) -> None:
        """The control plane, planes, data, and the jobs; nobody runs any, or cancels, yet."""
        self._logs.mkdir()
        self._open_the_control_plane()
        for name in dict.fromkeys(part.plane for part in self.parts):
            self._planes[name] = self._create_plane(name)
            load(self._folder / name)
            self.executors[name] = self._executor(name)
            self.loads[name] = Load()
        for part in self.parts:
            submission = JobSubmission(self._planes[part.plane], part.type, part.input)
            part.job = self._users[OWNER].submit_job(submission)

    def _open_the_control_plane(self) -> None:
        self._server.start()
        url = self._await_address()
        for name, token in self._tokens.items():
            self._users[name] = Client(url, token)

    def _await_address(self) -> str:
        """Where the server listens: it takes a free port, and its log tells which."""
        deadline = time.monotonic() + SERVE_WITHIN_SECONDS
        while not (told := self._server.told("server_started")):
            ended = self._server.unexpected_end()
            if ended or time.monotonic() > deadline:
                raise ControlPlaneUnavailable(ended or f"the server did not listen in {SERVE_WITHIN_SECONDS:g} s")
            time.sleep(LOOK_EVERY_SECONDS)
        return f"http://{told[0]['host']}:{told[0]['port']}"

    def _create_plane(self, name: str) -> UUID:
        submission = DataPlaneSubmission(display_name=name, platform=PlatformObject(Platform.NARRATIVE))
        return self._users[OWNER].create_data_plane(submission).data_plane_id

    def close(self) -> None:
        """End every process that still runs."""
        for client in self._users.values():
            client.close()
        stop_all(self._actors())

    def _executor(self, name: str) -> Actor:
        folder = self._folder / name
        if name == "liar":
            (folder / IGNORE_STOP).touch()
            return self._actor(name, ["workers.demo.liar", name, str(folder)])
        return self._actor(name, ["workers", "executor", "--data-plane", name, "--data-folder", str(folder)])

    def _actor(self, name: str, arguments: list[str]) -> Actor:
        log = self._logs / f"{name}.log"
        return Actor(name, arguments, folder=self._folder, log=log, environment=self._environment)

    # --- playing

    async def play(self) -> None:
        """Every part, each from its own moment on; what goes wrong with one is its own. Then every process is ended."""
        before = [part for part in self.parts if part.begins_at is None]
        await asyncio.gather(*(self._attempt(part) for part in before))
        with self._processes():
            watching = asyncio.create_task(self._watch())
            try:
                await self._see_all_at_work()
                await self._measure("running", self.loads)
                await asyncio.gather(*(self._attempt(part) for part in self.parts if part not in before))
                await self._measure("after", self.loads)
            finally:
                watching.cancel()
            self._look_at_all()
        self._look_for_the_published()

    @contextmanager
    def _processes(self) -> Iterator[None]:
        try:
            for actor in (*self.executors.values(), self._canceller):
                actor.start()
            yield
        finally:
            stop_all(self._actors())

    def _actors(self) -> list[Actor]:
        return [*self.executors.values(), self._canceller, self._server]

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
                    await self.see(part, _is_at_work, "that it runs")
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
            self._refuse_dead_actors()
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
        """What the executor uses although it was told to stop."""
        await self._measure("told_to_stop", [part.plane])

    def lift_fault(self, part: Part) -> None:
        """From now on its engine does as it is told."""
        (self._folder / part.plane / IGNORE_STOP).unlink()

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

    def _refuse_dead_actors(self) -> None:
        for actor in self._actors():
            if ended := actor.unexpected_end():
                raise MissedError(ended)

    async def _measure(self, moment: str, names: Sequence[str] | dict[str, Load]) -> None:
        began_at, used = time.monotonic(), {name: self.executors[name].cpu_seconds() for name in names}
        await asyncio.sleep(MEASURE_SECONDS)
        elapsed = time.monotonic() - began_at
        for name, seconds in used.items():
            percent = (self.executors[name].cpu_seconds() - seconds) / elapsed * 100
            setattr(self.loads[name], moment, percent)


def _is_at_work(job: Job) -> bool:
    return job.state is JobState.RUNNING and job.handle is not None


def _without_ours(environment: os._Environ[str]) -> dict[str, str]:
    """The user's environment, without settings of ours that are meant for another store."""
    return {name: value for name, value in environment.items() if not name.startswith("COUNTERMAND_")}
