"""``countermand worker``, composed as the command composes it, over an engine that stops everything at once.

Arguments: the database's URL, the file for the log, the file for what is measured, and, where it is to end by itself,
how many cancellations it settles first. Measured are moments of the system's clock, which Postgres uses as well.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

import msgspec

from adapters import registry
from adapters.registry import Surroundings
from benchmarks.instant import Instant
from config.logging import configure_logging
from config.settings import load_settings
from workers.cli.worker import run_worker


class Tally:
    """Counts what was settled, and ends this process as an operator would when it was all."""

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted
        self._settled = 0
        self.ended_at = 0.0

    def count(self, settled: int) -> None:
        """Note that so many more are settled."""
        self._settled += settled
        if self._settled == self._wanted:
            self.ended_at = time.time()
            os.kill(os.getpid(), signal.SIGTERM)


def main(database_url: str, log_file: str, moments_file: str, wanted: str | None = None) -> None:
    """Work until stopped, or until all is settled; then write down the moments."""
    tally = Tally(int(wanted) if wanted else None)
    adapter = Instant(tally.count)

    def for_plane(_surroundings: Surroundings) -> Instant:
        return adapter

    settings = load_settings(database_url=database_url, worker={"name": "benchmark"})
    with Path(log_file).open("w") as log, patch.object(registry, "adapter_factory", lambda _engine: for_plane):
        configure_logging("info", "json", stream=log)
        asyncio.run(run_worker(settings, []))
    found_at = {str(job): moment for job, moment in adapter.found_at.items()}
    Path(moments_file).write_bytes(msgspec.json.encode({"ended_at": tally.ended_at, "found_at": found_at}))


if __name__ == "__main__":
    main(*sys.argv[1:])
