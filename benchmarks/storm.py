"""A storm: very many cancellations are requested at once, and one worker process has to see them through."""

from collections.abc import Mapping
from typing import ClassVar

from benchmarks import population
from benchmarks.benchmark import PER_SECOND
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.worker_process import WorkerProcess

STORM = "storm"  #: the database of which the floor and our worker each get copies


class Storm:
    """A worker process with its default settings drains the storm, its log lines written to a file.

    From the transaction that claims the first one, by the database's clock, until the last one is settled, its log line
    is written and its leftovers are looked for, by the same machine's.
    """

    name = "storm"
    units: ClassVar[Mapping[str, str]] = {"storm": PER_SECOND}

    def __init__(self, effort: Effort) -> None:
        self._jobs = effort.storm_jobs

    def prepare(self, ground: Ground) -> None:
        """Load the jobs."""
        make_storm(ground, self._jobs)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Jobs a second, with the process's start left out."""
        with ground.lend(STORM) as database:
            with WorkerProcess.start(ground, database, jobs=self._jobs) as worker:
                ended_at = worker.moments().ended_at
            check_drained(ground, database, self._jobs)
            began_at = _began_at(ground, database)
        return {"storm": self._jobs / (ended_at - began_at)}


def _began_at(ground: Ground, database: str) -> float:
    with ground.connect(database) as connection:
        found = connection.execute("SELECT extract(epoch FROM min(first_claimed_at)) FROM cancellations")
        return float(found.fetchall()[0][0])


def make_storm(ground: Ground, jobs: int) -> None:
    """Make the database in which *jobs* wait for their cancellation, unless it is there."""
    with ground.connect("postgres") as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [STORM]).fetchone():
            return
    with ground.found(STORM) as connection:
        population.add_plane(connection)
        population.add_requested(connection, jobs)


def check_drained(ground: Ground, database: str, jobs: int) -> None:
    """Every job is cancelled, settled and audited: otherwise nothing was measured."""
    with ground.connect(database) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM jobs WHERE state = 'cancelled' AND receipt IS NOT NULL), "
            "(SELECT count(*) FROM cancellations WHERE settled_at IS NOT NULL), "
            "(SELECT count(*) FROM audit WHERE move = 'cancel')"
        ).fetchone()
    if found != (jobs, jobs, jobs):
        raise RuntimeError(f"{jobs} jobs were to be cancelled, settled and audited, but {found} were")
