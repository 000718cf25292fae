"""What a thousand planes cost a control plane on which nothing happens, and how soon one of them hears of a request."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import psutil
import psycopg

from benchmarks.api_request import free_port, wait_until_ready
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.wakeup import percentile

PLANES = "planes"  #: a database with many planes, a token for each, and running jobs on all of them
COUNT = 1_000
RATE = 50.0  #: requests a second, each on a plane by chance
_SETTLE_SECONDS = 5.0  #: after the polls have begun
_SECRET = "s" * 43


class IdlePlanes:
    """The real server command on Postgres, and a thousand planes' workers as raw sockets, each with its own token.

    First every worker only holds its long poll (of 55 s, opened again and again): the server's CPU, and beside it that
    of all of Postgres. Then each also beats every ten seconds. At last cancellations are requested on planes by chance.
    """

    name = "idle_planes"
    units: ClassVar[Mapping[str, str]] = {
        "planes_idle": "core-s/min",
        "planes_idle_postgres": "core-s/min",
        "planes_beating": "core-s/min",
        "planes_beating_postgres": "core-s/min",
        "planes_claim_p50": "ms",
        "planes_claim_p99": "ms",
    }

    def __init__(self, effort: Effort) -> None:
        self._seconds = effort.idle_planes_seconds
        self._requests = effort.idle_planes_requests

    def prepare(self, ground: Ground) -> None:
        """Make the planes, their tokens, and a running job on each that will be asked for."""
        with ground.found(PLANES) as connection:
            values = {"planes": COUNT, "jobs": self._requests}
            connection.execute(_MADE_PLANES, values)
            make_tokens(connection)
            with connection.transaction():
                connection.execute("SET LOCAL session_replication_role = replica")
                connection.execute(_MADE_JOBS, values)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """CPU seconds a minute, and milliseconds."""
        with (
            ground.lend(PLANES) as database,
            serving(ground, database) as (server, port),
            ground.connect(database) as connection,
            working(ground, connection, port) as workers,
        ):
            tell(workers, f"wait {self._seconds * 5 / 6}")  # nearly as long as a poll: they end one after the other
            idle, idle_postgres = self._watch(ground, server)
            tell(workers, "beat")
            beating, beating_postgres = self._watch(ground, server)
            latencies = self._request(ground, connection, workers)
        return {
            "planes_idle": idle,
            "planes_idle_postgres": idle_postgres,
            "planes_beating": beating,
            "planes_beating_postgres": beating_postgres,
            "planes_claim_p50": percentile(latencies, 50),
            "planes_claim_p99": percentile(latencies, 99),
        }

    def _watch(self, ground: Ground, server: psutil.Process) -> tuple[float, float]:
        """Seconds of CPU a minute: the server's, and Postgres'."""
        time.sleep(_SETTLE_SECONDS)
        postmaster = psutil.Process(int((ground.server.data / "postmaster.pid").read_text().split()[0]))
        before, before_postgres, began = busy([server]), busy(family(postmaster)), time.monotonic()
        time.sleep(self._seconds)
        minutes = (time.monotonic() - began) / 60
        return (busy([server]) - before) / minutes, (busy(family(postmaster)) - before_postgres) / minutes

    def _request(self, ground: Ground, connection: psycopg.Connection, workers: "subprocess.Popen[str]") -> list[float]:
        jobs = ground.file("jobs")
        jobs.write_text(
            "\n".join(str(row[0]) for row in connection.execute("SELECT job_id FROM jobs ORDER BY random()"))
        )
        [company] = [
            token(row[0]) for row in connection.execute("SELECT token_id FROM tokens WHERE data_plane_id IS NULL")
        ]
        found: list[float] = json.loads(tell(workers, f"request {jobs} {company} {RATE}"))
        return found


def busy(processes: list[psutil.Process]) -> float:
    """Seconds of CPU until now; Postgres' processes that ended meanwhile are not counted."""
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(spent.user + spent.system for spent in times)


def family(postmaster: psutil.Process) -> list[psutil.Process]:
    return [postmaster, *postmaster.children(recursive=True)]


def make_tokens(connection: psycopg.Connection) -> None:
    """One for each plane's processes, and one of somebody who may ask; :func:`token` is their text."""
    connection.execute(_MADE_TOKENS, {"hash": hashlib.sha256(_SECRET.encode()).hexdigest()})


def token(token_id: object) -> str:
    return f"ctm_{str(token_id).replace('-', '')}_{_SECRET}"


@contextmanager
def serving(ground: Ground, database: str) -> Iterator[tuple[psutil.Process, int]]:
    """The server command on the database, and its port."""
    port, log = free_port(), ground.file("server.log")
    command = [sys.executable, "-m", "workers", "serve", "--database-url", ground.server.url(database)]
    with log.open("wb") as said:
        process = subprocess.Popen([*command, "--port", str(port)], stderr=said, stdout=said)
    try:
        wait_until_ready(process, port, log)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def working(ground: Ground, connection: psycopg.Connection, port: int) -> "Iterator[subprocess.Popen[str]]":
    """The workers' process, which waits to be told."""
    rows = connection.execute("SELECT data_plane_id, token_id FROM tokens WHERE data_plane_id IS NOT NULL").fetchall()
    planes = ground.file("planes")
    planes.write_text("\n".join(f"{plane} {token(token_id)}" for plane, token_id in rows))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.processes.plane_workers", str(port), str(planes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def tell(workers: "subprocess.Popen[str]", line: str) -> str:
    """Say it to the workers' process, and wait for its word."""
    assert workers.stdin
    assert workers.stdout
    workers.stdin.write(line + "\n")
    workers.stdin.flush()
    answer = workers.stdout.readline()
    if not answer:
        raise RuntimeError(f"the workers ended instead of doing {line.split()[0]!r}")
    return answer


_MADE_PLANES = """
INSERT INTO data_planes (data_plane_id, display_name, platform, tags, permit_seconds, listing_lag_seconds,
                         stuck_after_seconds, created_at)
SELECT uuidv7(), 'plane ' || number, 'platform_aws', '[]', 30, 0, 900, now()
FROM generate_series(1, %(planes)s) AS number
"""
_MADE_TOKENS = """
INSERT INTO tokens (token_id, name, company_id, permissions, data_plane_id, user_id, hash, created_at)
SELECT uuidv7(), 'worker', 1, '["jobs:write"]'::jsonb, data_plane_id, NULL::bigint, %(hash)s, now() FROM data_planes
UNION ALL
SELECT uuidv7(), 'somebody', 1, '["jobs:read", "jobs:write"]'::jsonb, NULL::uuid, 7, %(hash)s, now()
"""
_MADE_JOBS = """
INSERT INTO jobs (job_id, data_plane_id, state, moved_from, type, request_source, input, tag, executor,
                  executor_incarnation, engine_incarnation, epoch, attended_at, executor_closed_at, handle,
                  created_at, updated_at)
SELECT job_id, data_plane_id, 'running', 'pending', 'nql-forecast',
       '{"type": "api_user", "company_id": 1, "user_id": 7}',
       '{"nql": "SELECT 1", "compiled_sql": "SELECT 1"}',
       'countermand:' || name || ':' || data_plane_id || ':' || job_id || ':run',
       'job-executor-' || data_plane_id, 1, '1', gen_random_uuid(), now(), now(),
       jsonb_build_object('engine', 'benchmark', 'incarnation', '1', 'run_id', job_id), now(), now()
FROM (SELECT uuidv7() AS job_id, data_plane_id, row_number() OVER (ORDER BY random()) AS number
      FROM data_planes, generate_series(1, 10)) AS made, installation
WHERE number <= %(jobs)s
"""
