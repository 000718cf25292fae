"""Other job queues on Postgres, draining jobs that do nothing: their dispatch alone."""

import os
import subprocess
import sys
from collections.abc import Mapping

from benchmarks.benchmark import PER_SECOND
from benchmarks.effort import Effort
from benchmarks.ground import Ground


class Peer:
    """One peer, in a process of its own, with the settings that its own documentation shows for throughput.

    From the moment when the first job is at work until the database's when the last one ends: neither starting nor
    the first dequeue counts. *script* is a module of :mod:`benchmarks.processes`, *at_once* how many jobs it takes on,
    *ended* a query of how many jobs ended and when the last one did.
    """

    def __init__(self, name: str, script: str, at_once: int, ended: str, effort: Effort) -> None:
        self.name = f"peer_{name}"
        self.units = {self.name: PER_SECOND}
        self._script = f"benchmarks.processes.{script}"
        self._at_once = str(at_once)
        self._ended = ended
        self._jobs = effort.peer_jobs

    def prepare(self, ground: Ground) -> None:
        """Its tables, and the jobs."""
        with ground.found(self.name, migrated=False):
            self._run(ground, self.name, "prepare", str(self._jobs))

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Jobs a second."""
        with ground.lend(self.name) as database:
            began_at = float(self._run(ground, database, "drain", self._at_once))
            with ground.connect(database) as connection:
                done, ended_at = connection.execute(self._ended).fetchone() or (0, 0.0)
        if done != self._jobs:
            raise RuntimeError(f"{self.name} was to run {self._jobs} jobs, but ran {done}")
        return {self.name: self._jobs / (float(ended_at) - began_at)}

    def _run(self, ground: Ground, database: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", self._script, *arguments],
            check=False,
            env={**os.environ, **ground.server.environment(database)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} exited {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout


def pgqueuer(effort: Effort) -> Peer:
    """PgQueuer with batches of a hundred; its guide's examples go up to 25."""
    return Peer("pgqueuer", "pgqueuer_drain", 100, _PGQUEUER_ENDED, effort)


def pgqueuer_400(effort: Effort) -> Peer:
    """PgQueuer with batches as large as our worker's: beyond what it documents, and faster. Run when it is named."""
    return Peer("pgqueuer_400", "pgqueuer_drain", 400, _PGQUEUER_ENDED, effort)


def procrastinate(effort: Effort) -> Peer:
    """Procrastinate with ten jobs at a time; 5, 20 and 50 are no faster."""
    return Peer("procrastinate", "procrastinate_drain", 10, _PROCRASTINATE_ENDED, effort)


_PGQUEUER_ENDED = "SELECT count(*), extract(epoch FROM max(created)) FROM pgqueuer_log WHERE status = 'successful'"
_PROCRASTINATE_ENDED = "SELECT count(*), extract(epoch FROM max(at)) FROM procrastinate_events WHERE type = 'succeeded'"
