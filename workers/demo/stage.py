"""Where the demo plays: a store in a temporary folder, its processes, and what is seen of the jobs."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from control_plane.jobs import Job, JobType, Process, RequestSource
from control_plane.lifecycle import JobState
from workers.demo.actors import Actor, stop_all
from workers.demo.example import load, published_rows
from workers.demo.liar import IGNORE_STOP
from workers.demo.parts import Condition, MissedError, Part, has_ended

LOGS = "logs"
LOOK_EVERY_SECONDS = 0.1
SEE_WITHIN_SECONDS = 40.0
MEASURE_SECONDS = 1.5
#: Quick, so that the demo is: by default a worker looks once a second.
SETTINGS = {
    "COUNTERMAND_WORKER__POLL_SECONDS": "0.2",
    "COUNTERMAND_WORKER__NAME": "demo-canceller",
    "COUNTERMAND_EXECUTOR__MEMORY_LIMIT": "200MB",
    "COUNTERMAND_EXECUTOR__THREADS": "1",
    "COUNTERMAND_LOG_FORMAT": "json",
}


class Users(Protocol):
    """What the demo asks of the control plane, as any user could."""

    def create_plane(self, display_name: str) -> UUID:
        """Make a Narrative plane."""

    def submit(self, data_plane_id: UUID, job_type: JobType, document: dict[str, Any], source: RequestSource) -> Job:
        """Submit a job."""

    def request_cancellation(self, job_id: UUID, source: RequestSource, reason: str) -> Job:
        """Ask for a job to be cancelled. Raises NotCancellable."""

    def job(self, job_id: UUID) -> Job:
        """One job."""

    def close(self) -> None:
        """Let go of the store."""


@dataclass
class Load:
    """An executor's CPU, in percent of a core, at the moments when it was measured."""

    running: float | None = None
    told_to_stop: float | None = None  #: while it ran on all the same
    after: float | None = None


class Stage:
    """The demo's world in *folder*; *users* is its store, migrated already; *on_look* is called after every look."""

    def __init__(
        self, folder: Path, database_url: str, users: Users, parts: Sequence[Part], on_look: Callable[["Stage"], None]
    ) -> None:
        self.began_at = time.monotonic()
        self.parts = parts
        self.executors: dict[str, Actor] = {}
        self.loads: dict[str, Load] = {}
        self.published: int | None = None
        self._folder = folder
        self._logs = folder / LOGS
        self._users = users
        self._on_look = on_look
        self._planes: dict[str, UUID] = {}
        self._environment = _without_ours(os.environ) | SETTINGS | {"COUNTERMAND_DATABASE_URL": database_url}
        self._canceller = self._actor("canceller", ["workers", "worker"])

    # --- setting up

    def set_up(self) -> None:
        """Planes, data, and the jobs; no process runs yet."""
        self._logs.mkdir()
        for name in dict.fromkeys(part.plane for part in self.parts):
            self._planes[name] = self._users.create_plane(name)
            load(self._folder / name)
            self.executors[name] = self._executor(name)
            self.loads[name] = Load()
        for part in self.parts:
            part.job = self._users.submit(self._planes[part.plane], part.type, part.input, Process("demo"))

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
        actors = [*self.executors.values(), self._canceller]
        try:
            for actor in actors:
                actor.start()
            yield
        finally:
            stop_all(actors)

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

    def request(self, part: Part, reason: str, *, by: str = "demo") -> Job:
        """Ask for its cancellation; answers the job as the request left it."""
        part.job = self._users.request_cancellation(part.now.job_id, Process(by), reason)
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
        """The job as the store has it now."""
        part.job = self._users.job(part.now.job_id)
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
        for part in self.parts:
            self.look(part)
        self._on_look(self)

    def _refuse_dead_actors(self) -> None:
        for actor in (*self.executors.values(), self._canceller):
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
