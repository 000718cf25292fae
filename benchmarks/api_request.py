"""How many cancellations can be requested over HTTP, and how soon each is answered, beside Postgres' own pace."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

import httpx

from benchmarks import population, wrk
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.machine import Pulse, Spell
from benchmarks.wakeup import percentile

REQUESTABLE = "requestable"  #: the database of running jobs, of which the floor and the server each get copies
FLOOR_SCRIPT = Path(__file__).with_name("request_floor.sql")
FLOOR_CLIENTS = 8
CONNECTIONS = 16
_PATIENCE_SECONDS = 30.0


class RequestFloor:
    """``request_floor.sql`` by eight pgbench clients, prepared: a transaction and a NOTIFY for each request."""

    name = "request_floor"
    units: ClassVar[Mapping[str, str]] = {"request_floor": "requests/s"}

    def __init__(self, effort: Effort) -> None:
        self._requests = effort.api_requests

    def prepare(self, ground: Ground) -> None:
        """Load running jobs."""
        make_requestable(ground, self._requests)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Requests a second, connecting apart."""
        each = self._requests // FLOOR_CLIENTS
        with ground.lend(REQUESTABLE) as database:
            told = self._run(ground, database, each)
            check_requested(ground, database, each * FLOOR_CLIENTS)
        return {"request_floor": told}

    def _run(self, ground: Ground, database: str, each: int) -> float:
        done = subprocess.run(
            [
                str(ground.server.binaries / "pgbench"), "--no-vacuum", "--protocol=prepared", "--define=turn=-1",
                f"--client={FLOOR_CLIENTS}", "--jobs=1", f"--transactions={each}", f"--file={FLOOR_SCRIPT}",
            ],
            check=False,
            env={**os.environ, **ground.server.environment(database)},
            capture_output=True,
            text=True,
        )  # fmt: skip
        told = re.search(r"tps = ([\d.]+) \(without initial connection time\)", done.stdout)
        if done.returncode or not told:
            raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
        return float(told[1])


class ApiRequest:
    """``POST /jobs/{job_id}/request-cancellation`` to one server process, over sixteen connections.

    First as fast as they are answered, loaded by wrk where it is on the PATH and else by our own client; the unit says
    which. Then at half of that, where a latency counts from when the request was due: always by our own client, as wrk
    holds no rate. A host may slow the machine down for a tenth of a second at a time, again and again, and then nothing
    answers in time: so ``api_p99_at_speed`` leaves out what a slow spell touched, and ``machine_slow`` says how much of
    the time that was.
    """

    name = "api_request"

    def __init__(self, effort: Effort) -> None:
        self.units: Mapping[str, str] = {
            "api_request": flood_unit(),
            "api_p50": "ms",
            "api_p99": "ms",
            "api_p99_at_speed": "ms",
            "machine_slow": "% of the time",
        }
        self._requests = effort.api_requests

    def prepare(self, ground: Ground) -> None:
        """Load running jobs."""
        make_requestable(ground, self._requests)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The rate, and the latencies at half of it."""
        with ground.lend(REQUESTABLE) as database:
            with ground.connect(database) as connection:
                lines = [f"POST /jobs/{row[0]}/request-cancellation" for row in connection.execute(_JOBS)]
            with serving(ground, database) as (port, token):
                half = len(lines) // 2
                rate = flood(ground, port, token, lines[:half])
                calm = load(ground, port, token, lines[half:], rate=rate / 2)
            check_requested(ground, database, len(lines))
        return {
            "api_request": rate,
            "api_p50": calm.milliseconds(50),
            "api_p99": calm.milliseconds(99),
            "api_p99_at_speed": calm.at_speed().milliseconds(99),
            "machine_slow": calm.slow_percent(),
        }


class Loaded(NamedTuple):
    """How a load was answered; moments are those of `time.perf_counter`."""

    rate: float  #: a second
    answered: list[tuple[float, float]]  #: when each request was due, and when it was answered
    spells: list[Spell]  #: in which the machine was slow meanwhile

    def milliseconds(self, percent: int) -> float:
        """What so many percent of the latencies do not exceed."""
        return percentile([(answered_at - due_at) * 1000 for due_at, answered_at in self.answered], percent)

    def at_speed(self) -> "Loaded":
        """The same without the requests that a slow spell touched."""
        return self._replace(answered=[one for one in self.answered if not any(s.touches(*one) for s in self.spells)])

    def slow_percent(self) -> float:
        """For how much of the time the machine was slow."""
        lasted = max(answered_at for _, answered_at in self.answered) - min(due_at for due_at, _ in self.answered)
        return 100 * sum(spell.ended_at - spell.began_at for spell in self.spells) / lasted


_JOBS = "SELECT job_id FROM queue ORDER BY number"


def make_requestable(ground: Ground, jobs: int) -> None:
    """Make the database in which *jobs* run, numbered in a queue of their own, unless it is there."""
    with ground.connect("postgres") as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [REQUESTABLE]).fetchone():
            return
    with ground.found(REQUESTABLE) as connection:
        population.add_plane(connection)
        population.add_running(connection, jobs)
        connection.execute(
            "CREATE TABLE queue AS SELECT row_number() OVER (ORDER BY created_at) - 1 AS number, job_id FROM jobs"
        )
        connection.execute("ALTER TABLE queue ADD PRIMARY KEY (number)")


def check_requested(ground: Ground, database: str, count: int) -> None:
    """Every job's cancellation is requested and audited: otherwise nothing was measured."""
    with ground.connect(database) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM jobs WHERE state = 'pending_cancellation'), "
            "(SELECT count(*) FROM cancellations), (SELECT count(*) FROM audit WHERE move = 'request_cancellation')"
        ).fetchone()
    if found != (count, count, count):
        raise RuntimeError(f"{count} cancellations were to be requested and audited, but {found} were")


@contextmanager
def serving(ground: Ground, database: str) -> Iterator[tuple[int, Path]]:
    """A server process on the database: its port, and the file of a token."""
    port, token = free_port(), ground.file("token")
    command = [
        sys.executable,
        "-m",
        "benchmarks.processes.api_server",
        ground.server.url(database),
        str(port),
        str(token),
    ]
    log = ground.file("server.log")
    with log.open("wb") as said:
        process = subprocess.Popen(command, stderr=said, stdout=said)
    try:
        wait_until_ready(process, port, log)
        yield port, token
    finally:
        process.terminate()
        process.wait(_PATIENCE_SECONDS)


def wait_until_ready(
    process: subprocess.Popen[bytes],
    port: int,
    log: Path,
    path: str = "/health/ready",
    *,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> None:
    """Come back when the server answers."""
    give_up_at = time.monotonic() + patience_seconds
    while process.poll() is None and time.monotonic() < give_up_at:
        with suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}{path}").raise_for_status()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flood_unit() -> str:
    """What :func:`flood` measures, and with which client."""
    return f"requests/s by {'wrk' if wrk.find() else 'our client'}"


def flood(ground: Ground, port: int, token: Path, lines: list[str]) -> float:
    """Send each request once, as fast as they are answered: requests a second. RuntimeError if one is refused."""
    if found := wrk.find():
        return wrk.read_rate(_run(wrk.command(found, port, token, CONNECTIONS, _write(ground, lines))))
    return load(ground, port, token, lines).rate


def load(
    ground: Ground, port: int, token: Path, lines: list[str], *, rate: float = 0.0, connections: int = CONNECTIONS
) -> Loaded:
    """Send the requests by our own client, a process that can hold a rate, while the machine's pulse is felt."""
    command = [
        sys.executable, "-m", "benchmarks.processes.http_load",
        str(port), str(token), str(connections), str(rate), str(_write(ground, lines)),
    ]  # fmt: skip
    with Pulse.start() as pulse:
        told = json.loads(_run(command))
        return Loaded(**told, spells=pulse.stop())


def _write(ground: Ground, lines: list[str]) -> Path:
    file = ground.file("lines")
    file.write_text("\n".join(lines))
    return file


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
