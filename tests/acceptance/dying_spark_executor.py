"""An executor of a plane with clusters that kills itself, by SIGKILL, before or after one named call.

``python -m tests.acceptance.dying_spark_executor DATABASE_URL PLANE FOLDER before|after CALL``; the clusters are those
that the settings name.
"""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

from config.settings import load_settings
from control_plane.arguments import find_plane
from control_plane.dispatch import Dispatch
from control_plane.intake import Intake
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.work import Executor as Identity
from tests.doubles.interposed import interposed
from workers.cli.engines import opener_of
from workers.engines.folder import Folder
from workers.executor import Executor, Ticks
from workers.local import LocalJobs, threads


async def run_until_death(database_url: str, plane: str, path: Path, when: str, fatal: str) -> None:
    """Run the executor; it does not return."""

    async def die(call: str) -> None:
        if call == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    store, folder = Store(database_url), Folder.open(path)
    known = find_plane(Intake(store, Policy()).planes(), plane)
    async with AsyncExitStack() as opened:
        engine, address = await opener_of(load_settings(), known, (), None)(opened, folder)
        executor = Executor(
            interposed(LocalJobs(Dispatch(store), threads(2)), **{when: die}),
            interposed(engine, **{when: die}),
            identity=Identity(folder.executor_id, folder.incarnation, address),
            data_plane_id=UUID(plane),
        )
        await executor.run(stopping=asyncio.Event(), ticks=Ticks())


if __name__ == "__main__":
    url, plane_id, folder_path, moment, name = sys.argv[1:]
    asyncio.run(run_until_death(url, plane_id, Path(folder_path), moment, name))
