"""The CPU of what computes for the demo's jobs: while they run, while somebody lies, and afterwards."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

MEASURE_SECONDS = 1.5
IDLE_PERCENT = 15.0
IDLE_WITHIN_SECONDS = 10.0


class Measured(Protocol):
    """What uses the CPU."""

    def cpu_seconds(self) -> float:
        """The processor time that it, and what of its own still runs, have used so far."""


@dataclass
class Load:
    """The CPU of what computes for a plane or a cluster, in percent of a core, at the moments when it was measured."""

    of: str
    measured: Measured
    running: float | None = None
    told_to_stop: float | None = None  #: while it ran on all the same
    after: float | None = None


async def measure(moment: str, loads: Collection[Load]) -> None:
    """Measure them all at the same time."""
    began_at, used = time.monotonic(), [(each, each.measured.cpu_seconds()) for each in loads]
    await asyncio.sleep(MEASURE_SECONDS)
    elapsed = time.monotonic() - began_at
    for load, seconds in used:
        setattr(load, moment, (load.measured.cpu_seconds() - seconds) / elapsed * 100)


async def measure_after(loads: Collection[Load]) -> None:
    """Measure until all are idle, which takes a Java a moment; at last as they are, where one never is.

    What ends while it is measured takes its time with it, so that less than nothing is no measurement.
    """
    deadline = time.monotonic() + IDLE_WITHIN_SECONDS
    await measure("after", loads)
    while not all(0 <= (load.after or 0) < IDLE_PERCENT for load in loads) and time.monotonic() < deadline:
        await measure("after", loads)
