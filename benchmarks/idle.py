"""What a worker costs that has nothing to do."""

import subprocess
import sys
import time
from collections.abc import Mapping
from typing import ClassVar

import psutil

from benchmarks import population
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.worker_process import wait_until_listening

IDLE = "idle"  #: a database with a plane and no jobs
_SETTLE_SECONDS = 2.0  #: after its start, so that only idling is measured


class Idle:
    """The real command with its default settings, on a plane without work: a tick a second, heartbeats, wake-ups."""

    name = "idle"
    units: ClassVar[Mapping[str, str]] = {"idle_cpu": "% of a core", "idle_memory": "MB"}

    def __init__(self, effort: Effort) -> None:
        self._seconds = effort.idle_seconds

    def prepare(self, ground: Ground) -> None:
        """Make the plane."""
        with ground.found(IDLE) as connection:
            population.add_plane(connection)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Its CPU time over a stretch of idling, and its resident memory at the end."""
        with ground.lend(IDLE) as database, ground.file("idle.log").open("w") as log:
            command = [sys.executable, "-m", "workers", "worker", "--database-url", ground.server.url(database)]
            worker = subprocess.Popen(command, stderr=log)
            try:
                wait_until_listening(ground, database)
                time.sleep(_SETTLE_SECONDS)
                return self._watch(psutil.Process(worker.pid))
            finally:
                worker.terminate()
                worker.wait()

    def _watch(self, process: psutil.Process) -> Mapping[str, float]:
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(self._seconds)
        after, passed = process.cpu_times(), time.monotonic() - began
        busy = after.user + after.system - before.user - before.system
        return {"idle_cpu": busy / passed * 100, "idle_memory": process.memory_info().rss / 1e6}
