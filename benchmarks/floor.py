"""The floor: what Postgres itself needs for these rows, told by pgbench."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.benchmark import PER_SECOND
from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.storm import STORM, check_drained, make_storm

SCRIPT = Path(__file__).with_suffix(".sql")
BATCH = 100


class Floor:
    """``floor.sql``, as fast as one pgbench client sends it: prepared, batches of a hundred, on a copy of our storm.

    It makes the row changes that we make, in our tables, under our trigger, constraints and indexes, with receipts as
    large as ours; it finds no work, looks at no engine, reads nothing back but ids, and writes no log.
    """

    name = "floor"
    units: ClassVar[Mapping[str, str]] = {"floor": PER_SECOND}

    def __init__(self, effort: Effort) -> None:
        self._jobs = effort.storm_jobs

    def prepare(self, ground: Ground) -> None:
        """Load the jobs of a storm."""
        make_storm(ground, self._jobs)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Batches a second as pgbench tells them, connecting apart."""
        with ground.lend(STORM) as database:
            batches_a_second = _run_pgbench(ground, database, batches=self._jobs // BATCH)
            check_drained(ground, database, self._jobs)
        return {"floor": batches_a_second * BATCH}


def _run_pgbench(ground: Ground, database: str, *, batches: int) -> float:
    command = [str(ground.server.binaries / "pgbench"), "--no-vacuum", "--protocol=prepared", "--client=1", "--jobs=1"]
    done = subprocess.run(
        [*command, f"--transactions={batches}", f"--file={SCRIPT}"],
        check=False,
        env={**os.environ, **ground.server.environment(database)},
        capture_output=True,
        text=True,
    )
    told = re.search(r"tps = ([\d.]+) \(without initial connection time\)", done.stdout)
    if done.returncode or not told:
        raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
    return float(told[1])
