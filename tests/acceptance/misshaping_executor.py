"""An executor whose engine answers results of the wrong shape.

``python -m tests.acceptance.misshaping_executor PLANE FOLDER``
"""

import asyncio
import sys
from pathlib import Path

from msgspec.structs import replace

from control_plane.jobs import Handle
from workers.cli.desk import Desk
from workers.cli.executor import run_executor
from workers.engines.base import Ending
from workers.engines.embedded import EmbeddedEngine


class MisshapingEngine(EmbeddedEngine):
    """The engine of every executor, but for its results."""

    async def follow(self, handle: Handle) -> Ending:
        """The run's end, with a text in the place of a number, and the other fields missing."""
        return replace(await super().follow(handle), result={"dataset_id": "many"})


if __name__ == "__main__":
    asyncio.run(run_executor(Desk().settings(), sys.argv[1], Path(sys.argv[2]), make_engine=MisshapingEngine))
