"""An engine that does at once whatever it is told, and the adapter to it: what is left is our own work."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from adapters.base import Check, Listing, Run, RunStatus, StopAnswer
from benchmarks.population import ENGINE, INCARNATION
from control_plane.jobs import Handle, Rung
from control_plane.work import Work


class Instant:
    """Every job has one run, which is active until it is stopped. *tell* hears of each batch that has been settled."""

    engine = ENGINE
    per_executor = False

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._stopped: dict[Handle, datetime] = {}
        self.found_at: dict[UUID, float] = {}  #: when a job was first asked about, by the system's clock

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's run."""
        now = time.time()
        for work in works:
            self.found_at.setdefault(work.job_id, now)
        return {
            work.job_id: Listing((self._run(work, work.handle),), complete=True, incarnation=INCARNATION)
            for work in works
            if work.handle is not None
        }

    def _run(self, work: Work, handle: Handle) -> Run:
        ended_at = self._stopped.get(handle)
        if ended_at is None:
            return Run(work.job_id, work.tag, handle, RunStatus.ACTIVE, "RUNNING")
        return Run(work.job_id, work.tag, handle, RunStatus.STOPPED, "CANCELLED", ended_at)

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:  # noqa: ARG002
        """Accepted and done."""
        now = datetime.now(UTC)
        for run in runs:
            self._stopped[run.handle] = now
        return dict.fromkeys((run.handle for run in runs), StopAnswer.ACCEPTED)

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """All of them."""
        return frozenset(work.job_id for work in works)

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """Never asked: its listings tell all."""
        return {run.handle: run for run in runs}

    async def running(self) -> Listing:
        """Nothing that the benchmarks need."""
        return Listing(complete=True, incarnation=INCARNATION)

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Done."""
        return frozenset(work.job_id for work in works)

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Nothing was written. It is asked of once the jobs are settled, which is told here."""
        self._tell(len(works))
        return {}

    async def check(self) -> Check:
        """Always."""
        return Check(ok=True, detail="it is always ready", seconds=0.0)

    async def aclose(self) -> None:
        """There is nothing to let go of."""
