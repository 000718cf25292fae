"""An engine and its adapter in one, in memory, which misbehaves as it is told to: a canceller must survive it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

from msgspec import structs

from adapters.base import Check, Listing, Run, RunStatus, StopAnswer, Trouble
from control_plane.errors import Conflict
from control_plane.jobs import Handle, Rung, Waiting
from control_plane.planes import Owner
from control_plane.work import Publication, Work

INCARNATION = "1"


@dataclass
class Faults:
    """How the engine misbehaves; each may be switched on and off at any time."""

    ignores_stops: bool = False  #: answers ``accepted`` and runs on
    truncates: bool = False  #: lists nothing, and says that the listing is not complete
    refuses: bool = False  #: answers ``not_permitted``
    silent: bool = False  #: does not answer
    hangs: asyncio.Event | None = None  #: does not answer until this is set
    stubborn_below: Rung | None = None  #: yields only to this rung or a harder one


@dataclass
class MemoryEngine:
    """Implements :class:`adapters.base.Adapter`; jobs are started and ended by the test."""

    faults: Faults = field(default_factory=Faults)
    engine: str = "memory"
    per_executor: bool = False
    runs: dict[str, Run] = field(default_factory=dict)  #: by tag
    closed: set[str] = field(default_factory=set)
    outputs: dict[UUID, str] = field(default_factory=dict)
    shown: dict[int, tuple[int, UUID]] = field(default_factory=dict)  #: by dataset: number and job
    published: set[UUID] = field(default_factory=set)
    stops: list[tuple[UUID, Rung]] = field(default_factory=list)  #: every stop that was asked for

    # --- what the test does to it

    def start(self, work: Work) -> Handle:
        """Begin the job's run; Conflict when its tag was closed."""
        if work.tag in self.closed:
            raise Conflict(f"tag: {work.tag} is closed", field="tag")
        handle = Handle(self.engine, INCARNATION, f"run-{work.job_id}")
        self.runs[work.tag] = Run(work.job_id, work.tag, handle, RunStatus.ACTIVE, "running")
        return handle

    def start_elsewhere(self, owner: Owner) -> str:
        """Begin a run that is nobody's job; answers its name."""
        name = f"run-{uuid4()}"
        handle = Handle(self.engine, INCARNATION, name)
        self.runs[name] = Run(uuid4(), name, handle, RunStatus.ACTIVE, "running", owner=owner)
        return name

    def end(self, work: Work, status: RunStatus) -> None:
        """End the job's run, with an output when it succeeded."""
        if status is RunStatus.SUCCEEDED:
            self.outputs[work.job_id] = f"output_{work.job_id}"
        self._end(self.runs[work.tag], status, status.value)

    def forget(self, work: Work) -> None:
        """Know nothing of the job's run any more."""
        del self.runs[work.tag]

    # --- as an adapter

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        if trouble := await self._trouble():
            return {work.job_id: Listing(trouble=trouble) for work in works}
        return {work.job_id: self._listing(self._run_of(work)) for work in works}

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        if await self._trouble():
            return {run.handle: StopAnswer.UNREACHABLE for run in runs}
        return {run.handle: self._stop(run, rung) for run in runs}

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        if await self._trouble():
            return frozenset()
        for work in works:
            self.closed.add(work.tag)
            if (run := self.runs.get(work.tag)) and run.status is RunStatus.ACTIVE:
                self._stop(run, Rung.ASK)
        return frozenset(work.job_id for work in works)

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        if await self._trouble():
            return {}
        known = {run.handle: run for run in self.runs.values()}
        return {run.handle: known.get(run.handle) or structs.replace(run, status=RunStatus.GONE) for run in runs}

    async def running(self) -> Listing:
        if trouble := await self._trouble():
            return Listing(trouble=trouble)
        active = [run for run in self.runs.values() if run.status is RunStatus.ACTIVE and run.owner is None]
        return Listing(tuple(active), complete=True, incarnation=INCARNATION)

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        if await self._trouble():
            return frozenset()
        return frozenset(work.job_id for work in works if work.publication and self._publish(work, work.publication))

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        if await self._trouble():
            return {}
        return {work.job_id: self._discard(work) for work in works}

    async def check(self) -> Check:
        trouble = await self._trouble()
        return Check(ok=trouble is None, detail=trouble.detail if trouble else "it answers", seconds=0.0)

    async def aclose(self) -> None:
        pass

    # --- inside

    async def _trouble(self) -> Trouble | None:
        if self.faults.hangs is not None:
            await self.faults.hangs.wait()
        if self.faults.silent:
            return Trouble(Waiting.PLANE_SILENT, "the engine is told to be silent")
        return None

    def _run_of(self, work: Work) -> Run | None:
        if work.tracked is None:
            return self.runs.get(work.tag)
        name = work.handle.run_id if work.handle else None
        found = next((run for run in self.runs.values() if run.handle.run_id == name), None)
        return found and structs.replace(found, job_id=work.job_id)

    def _listing(self, run: Run | None) -> Listing:
        if self.faults.truncates:
            return Listing(incarnation=INCARNATION)
        return Listing((run,) if run else (), complete=True, incarnation=INCARNATION)

    def _stop(self, run: Run, rung: Rung) -> StopAnswer:
        known = next((known for known in self.runs.values() if known.handle == run.handle), None)
        self.stops.append(((known or run).job_id, rung))
        if known is None or known.status is not RunStatus.ACTIVE:
            return StopAnswer.ALREADY_ENDED
        if self.faults.refuses:
            return StopAnswer.NOT_PERMITTED
        if not self.faults.ignores_stops and self._yields_to(rung):
            self._end(known, RunStatus.STOPPED, "interrupted")
        return StopAnswer.ACCEPTED

    def _yields_to(self, rung: Rung) -> bool:
        ladder = list(Rung)
        return self.faults.stubborn_below is None or ladder.index(rung) >= ladder.index(self.faults.stubborn_below)

    def _end(self, run: Run, status: RunStatus, word: str) -> None:
        self.runs[run.tag] = structs.replace(run, status=status, word=word, ended_at=datetime.now(UTC))

    def _publish(self, work: Work, publication: Publication) -> bool:
        if work.job_id in self.published:
            return True
        if work.job_id not in self.outputs:
            return False
        self.published.add(work.job_id)
        number, job_id = self.shown.get(publication.dataset_id, (0, work.job_id))
        if number > publication.number:
            del self.outputs[work.job_id]
            return True
        self.shown[publication.dataset_id] = (publication.number, work.job_id)
        if job_id != work.job_id:
            del self.outputs[job_id]
        return True

    def _discard(self, work: Work) -> tuple[str, ...]:
        if work.job_id in self.published or work.job_id not in self.outputs:
            return ()
        return (self.outputs.pop(work.job_id),)
