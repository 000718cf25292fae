"""Whether claiming slows down as ended jobs pile up."""

import statistics
import time
from collections.abc import Mapping
from typing import ClassVar

from benchmarks import population
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from control_plane.dispatch import Dispatch
from control_plane.store import Store

BATCH = 100


class ClaimGrowth:
    """The time to claim a batch among very many ended jobs, over the time among few; both tables are analysed.

    Each round claims from both in turn, from the same number of due cancellations, which are never claimed twice.
    """

    name = "claim_growth"
    units: ClassVar[Mapping[str, str]] = {"claim_growth": "times"}

    def __init__(self, effort: Effort) -> None:
        self._claims = effort.claims
        self._due = effort.claims * effort.rounds * BATCH
        self._ended = {"few_ended": effort.ended_jobs_before, "many_ended": effort.ended_jobs}

    def prepare(self, ground: Ground) -> None:
        """Load both databases."""
        for database, ended in self._ended.items():
            with ground.found(database) as connection:
                population.add_plane(connection)
                population.add_ended(connection, ended)
                population.add_requested(connection, self._due)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The ratio of the median latencies."""
        stores = [Store(ground.server.url(database)) for database in self._ended]
        latencies: list[list[float]] = [[] for _ in stores]
        for _ in range(self._claims):
            for store, measured in zip(stores, latencies, strict=True):
                measured.append(_time_claim(store))
        for store in stores:
            store.close()
        few, many = map(statistics.median, latencies)
        return {"claim_growth": many / few}


def _time_claim(store: Store) -> float:
    began = time.perf_counter()
    claimed = Dispatch(store).claim({population.PLANE: BATCH}, worker="benchmark", lease_seconds=3600)
    seconds = time.perf_counter() - began
    if len(claimed) != BATCH:
        raise RuntimeError(f"{BATCH} cancellations were due, and {len(claimed)} were claimed")
    return seconds
