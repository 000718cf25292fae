"""Our worker as a process: started, seen to be ready, stopped, and asked what it saw."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from uuid import UUID

import msgspec
from msgspec import Struct

from benchmarks.ground import Ground

_PATIENCE_SECONDS = 300.0


class Moments(Struct):
    """What the process measured, by the system's clock."""

    ended_at: float  #: when the last one had been settled
    found_at: dict[UUID, float]  #: when each claimed job had arrived at its adapter


class WorkerProcess:
    """``benchmarks.processes.worker`` at work on a database."""

    def __init__(self, ground: Ground, database: str, *, jobs: int | None = None) -> None:
        self._ground, self._database = ground, database
        self._log, self._moments = ground.file("worker.log"), ground.file("moments.json")
        arguments = [ground.server.url(database), str(self._log), str(self._moments), *([str(jobs)] if jobs else [])]
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.processes.worker", *arguments])

    @classmethod
    @contextmanager
    def start(cls, ground: Ground, database: str, *, jobs: int | None = None) -> Iterator[Self]:
        """A worker that ends by itself when it has settled *jobs*, or when it is stopped; no longer than needed."""
        worker = cls(ground, database, jobs=jobs)
        try:
            yield worker
        finally:
            worker._process.kill()
            worker._process.wait()

    def wait_until_listening(self) -> None:
        """Return when it waits for wake-ups."""
        wait_until_listening(self._ground, self._database)

    def stop(self) -> None:
        """Let it drain and end."""
        self._process.send_signal(signal.SIGTERM)

    def moments(self) -> Moments:
        """Wait for its end, and read what it measured."""
        if self._process.wait(_PATIENCE_SECONDS):
            raise RuntimeError(f"the worker exited {self._process.returncode}: {self._log.read_text()[-2000:]}")
        return msgspec.json.decode(self._moments.read_bytes(), type=Moments)


def wait_until_listening(ground: Ground, database: str) -> None:
    """Return when somebody waits for wake-ups on the database, which a worker does once it has started."""
    listening = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN %%' AND state = 'idle'"
    give_up_at = time.monotonic() + 30
    with ground.connect("postgres") as connection:
        while not connection.execute(listening, [database]).fetchone():
            if time.monotonic() > give_up_at:
                raise RuntimeError("the worker does not wait for wake-ups")
            time.sleep(0.05)
