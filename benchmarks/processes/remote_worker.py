"""``countermand worker --control-plane``, composed as the command composes it, over engines that stop all at once.

Arguments: the control plane's URL, the file for the log, and a file with one plane a line: a name and its token.
"""

import asyncio
import sys
from pathlib import Path
from unittest.mock import patch

from adapters import registry
from adapters.registry import Surroundings
from benchmarks.instant import Instant
from config.logging import configure_logging
from config.settings import load_settings
from workers.cli.remote_worker import run_remote_worker


def for_plane(_surroundings: Surroundings) -> Instant:
    """An engine of the plane's own."""
    return Instant(lambda _settled: None)


def main(url: str, log_file: str, planes_file: str) -> None:
    """Work until stopped."""
    named = [line.split() for line in Path(planes_file).read_text().splitlines()]
    planes = {name: {"token": token} for name, token in named}
    settings = load_settings(control_plane=url, worker={"name": "benchmark", "planes": planes})
    with Path(log_file).open("w") as log, patch.object(registry, "adapter_factory", lambda _engine: for_plane):
        configure_logging("info", "json", stream=log)
        asyncio.run(run_remote_worker(settings, []))


if __name__ == "__main__":
    main(*sys.argv[1:])
