"""How much a storm on one plane delays single cancellations on another that the same processes serve."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Self
from uuid import UUID

import httpx
import psycopg

from benchmarks import population
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.idle_planes import make_tokens, serving, token

NEIGHBOURS = "neighbours"  #: a database with a plane on which a storm waits to break, and a quiet one
STORMY, QUIET = population.PLANE, UUID("00000000-0000-4000-8000-000000000003")
LEAST = 10  #: singles during a storm; fewer say nothing
_PAUSE_SECONDS = 0.05  #: between two singles
_LOOK_SECONDS = 0.005
_PATIENCE_SECONDS = 120.0


class Neighbour:
    """The real server command on Postgres, and one worker process that serves both planes over HTTP.

    Cancellations are requested on the quiet plane one after the other, each from before its request is sent until the
    database shows it settled: first while nothing else happens, then while the storm on the other plane is worked. What
    the storm costs them is their median, and their longest, less the calm's median.
    """

    name = "neighbour"
    units: ClassVar[Mapping[str, str]] = {
        "neighbour_calm_p50": "ms",
        "neighbour_calm_max": "ms",
        "neighbour_storm_p50": "ms",
        "neighbour_storm_max": "ms",
        "neighbour_delay_p50": "ms",
        "neighbour_delay_max": "ms",
        "neighbour_storm": "jobs/s",
    }

    def __init__(self, effort: Effort) -> None:
        self._storm = effort.neighbour_storm_jobs
        self._singles = effort.neighbour_singles

    def prepare(self, ground: Ground) -> None:
        """Load both planes' jobs; those of the storm are requested, and due tomorrow."""
        with ground.found(NEIGHBOURS) as connection:
            population.add_plane(connection)
            population.add_plane(connection, QUIET)
            population.add_requested(connection, self._storm)
            population.add_running(connection, 20 * self._singles, QUIET)
            make_tokens(connection)
            _make_due(connection, "now() + interval '1 day'")

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Milliseconds, and how fast the storm was worked meanwhile."""
        with (
            ground.lend(NEIGHBOURS) as database,
            ground.connect(database) as connection,
            serving(ground, database) as (_, port),
            _working(ground, connection, port),
            Asker(connection, port) as asker,
        ):
            asker.ask(3)  # connections are opened, and statements prepared
            calm = asker.ask(self._singles)
            _make_due(connection, "requested_at")
            began_at = time.perf_counter()
            storm = asker.ask_while(lambda: _waiting(connection) > 0)
            rate = self._storm / (time.perf_counter() - began_at)
        if len(storm) < LEAST:
            raise RuntimeError(f"only {len(storm)} single cancellations were settled during the storm")
        usual = statistics.median(calm)
        return {
            "neighbour_calm_p50": usual,
            "neighbour_calm_max": max(calm),
            "neighbour_storm_p50": statistics.median(storm),
            "neighbour_storm_max": max(storm),
            "neighbour_delay_p50": statistics.median(storm) - usual,
            "neighbour_delay_max": max(storm) - usual,
            "neighbour_storm": rate,
        }


class Asker:
    """Somebody who asks for single cancellations on the quiet plane, and waits for each."""

    def __init__(self, connection: psycopg.Connection, port: int) -> None:
        self._connection = connection
        found = connection.execute("SELECT token_id FROM tokens WHERE data_plane_id IS NULL").fetchall()
        headers = {"Authorization": f"Bearer {token(found[0][0])}"}
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=_PATIENCE_SECONDS)
        running = connection.execute("SELECT job_id FROM jobs WHERE data_plane_id = %s AND state = 'running'", [QUIET])
        self._jobs = [row[0] for row in running]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def ask(self, count: int) -> list[float]:
        """How many milliseconds each of so many took."""
        return [self._ask_one() for _ in range(count)]

    def ask_while(self, lasts: Callable[[], bool]) -> list[float]:
        """The same of those that were settled while it lasted."""
        took = []
        while lasts():
            took.append(self._ask_one())
        return took[:-1]  # the last one may have outlived it

    def _ask_one(self) -> float:
        job_id, began_at = self._jobs.pop(), time.perf_counter()
        self._http.post(f"/jobs/{job_id}/request-cancellation", json={"reason": "a benchmark"}).raise_for_status()
        while not self._is_settled(job_id):
            if time.perf_counter() - began_at > _PATIENCE_SECONDS:
                raise RuntimeError(f"the cancellation of {job_id} is not settled")
            time.sleep(_LOOK_SECONDS)
        took = (time.perf_counter() - began_at) * 1000
        time.sleep(_PAUSE_SECONDS)
        return took

    def _is_settled(self, job_id: UUID) -> bool:
        settled = "SELECT 1 FROM cancellations WHERE job_id = %s AND settled_at IS NOT NULL"
        return self._connection.execute(settled, [job_id]).fetchone() is not None


def _make_due(connection: psycopg.Connection, when: str) -> None:
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(
            f"UPDATE cancellations SET next_round_at = {when} WHERE data_plane_id = %s AND settled_at IS NULL",  # noqa: S608
            [STORMY],
        )


def _waiting(connection: psycopg.Connection) -> int:
    """How many of the storm are left."""
    left = "SELECT count(*) FROM cancellations WHERE data_plane_id = %s AND settled_at IS NULL"
    found = connection.execute(left, [STORMY]).fetchone()
    return int(found[0]) if found else 0


@contextmanager
def _working(ground: Ground, connection: psycopg.Connection, port: int) -> Iterator[None]:
    """The worker's process, at work on both planes."""
    rows = connection.execute("SELECT data_plane_id, token_id FROM tokens WHERE data_plane_id IS NOT NULL").fetchall()
    planes, log, said = ground.file("planes"), ground.file("worker.log"), ground.file("worker.said")
    planes.write_text("\n".join(f"{plane} {token(token_id)}" for plane, token_id in rows))
    command = [sys.executable, "-m", "benchmarks.processes.remote_worker", f"http://127.0.0.1:{port}"]
    with said.open("wb") as out:
        process = subprocess.Popen([*command, str(log), str(planes)], stdout=out, stderr=out)
    try:
        give_up_at = time.monotonic() + 30
        while not (log.exists() and log.read_text().count("worker_started") == len(rows)):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"the worker did not start: {said.read_text()} {log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)
