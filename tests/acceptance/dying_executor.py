"""An executor that kills itself, by SIGKILL, before or after one named call; started by the tests of such deaths.

``python -m tests.acceptance.dying_executor DATABASE_URL PLANE FOLDER before|after CALL``
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from uuid import UUID

from control_plane.dispatch import Dispatch
from control_plane.store import Store
from control_plane.work import Executor as Identity
from tests.doubles.interposed import interposed
from tests.narrative import DATA, RESOURCES
from workers.engines.embedded import EmbeddedEngine
from workers.engines.folder import Folder
from workers.engines.warehouse import Warehouse
from workers.executor import Executor, Ticks
from workers.local import LocalJobs, threads


async def run_until_death(database_url: str, plane: UUID, path: Path, when: str, fatal: str) -> None:
    """Run the executor; it does not return."""

    async def die(call: str) -> None:
        if call == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    folder = Folder.open(path)
    warehouse = Warehouse.open(path, RESOURCES)
    with warehouse.session() as session:
        session.execute(DATA)
    executor = Executor(
        interposed(LocalJobs(Dispatch(Store(database_url)), threads(2)), **{when: die}),
        interposed(EmbeddedEngine(folder, warehouse), **{when: die}),
        identity=Identity(folder.executor_id, folder.incarnation, f"unix:{path}/run.sock"),
        data_plane_id=plane,
    )
    await executor.run(stopping=asyncio.Event(), ticks=Ticks())


if __name__ == "__main__":
    url, plane_id, folder_path, moment, name = sys.argv[1:]
    asyncio.run(run_until_death(url, UUID(plane_id), Path(folder_path), moment, name))
