"""How soon an idle worker has a new cancellation in its hands."""

import statistics
import time
from collections.abc import Mapping
from typing import ClassVar
from uuid import UUID

from benchmarks import population
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.worker_process import WorkerProcess
from control_plane.intake import Intake
from control_plane.jobs import ApiUser
from control_plane.policy import Policy
from control_plane.store import Store

RUNNING = "running"  #: the database of jobs whose cancellation can be requested
_WARM_UP = 20  #: requests that do not count: connections are opened and statements prepared
_PAUSE_SECONDS = 0.02  #: after each request: the worker is idle again


class Wakeup:
    """Request after request to a worker process that waits for wake-ups, each when the last has been settled.

    From the transaction that requests it (``requested_at``, by the clock of a Postgres on this machine) until the claim
    is committed, has been read and is handed to the plane's adapter (by the same machine's clock in the worker): the
    request's commit, the NOTIFY, the waking and the whole claim. The worker's own ``first_claimed_at`` would leave
    the claim itself out.
    """

    name = "wakeup"
    units: ClassVar[Mapping[str, str]] = {"wakeup_p50": "ms", "wakeup_p99": "ms"}

    def __init__(self, effort: Effort) -> None:
        self._count = effort.wakeups

    def prepare(self, ground: Ground) -> None:
        """Load running jobs."""
        with ground.found(RUNNING) as connection:
            population.add_plane(connection)
            population.add_running(connection, self._count + _WARM_UP)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Milliseconds."""
        with ground.lend(RUNNING) as database, WorkerProcess.start(ground, database) as worker:
            worker.wait_until_listening()
            requested_at = self._request_all(ground, database)
            worker.stop()
            found_at = worker.moments().found_at
        waits = [(found_at[job_id] - moment) * 1000 for job_id, moment in requested_at.items()]
        return {"wakeup_p50": statistics.median(waits), "wakeup_p99": percentile(waits, 99)}

    def _request_all(self, ground: Ground, database: str) -> dict[UUID, float]:
        """Ask for every job to be cancelled; answers when those that count were asked for."""
        store = Store(ground.server.url(database))
        intake, somebody = Intake(store, Policy()), ApiUser(company_id=1, user_id=7)
        with ground.connect(database) as connection:
            job_ids = [row[0] for row in connection.execute("SELECT job_id FROM jobs ORDER BY created_at")]
        moments = {}
        for job_id in job_ids:
            answered = intake.request_cancellation(job_id, somebody)
            if answered.cancellation is None:
                raise RuntimeError(f"the cancellation of {job_id} was not requested")
            moments[job_id] = answered.cancellation.requested_at.timestamp()
            time.sleep(_PAUSE_SECONDS)
        store.close()
        return {job_id: moments[job_id] for job_id in job_ids[_WARM_UP:]}


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]
