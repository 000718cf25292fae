"""An executor of a Snowflake plane that ends, or stops, itself at one named moment; started by the tests of these.

``python -m tests.acceptance.failing_snowflake_executor PLANE FOLDER SIGNAL before|after CALL``; everything else comes
from the settings. CALL is one of the queue's or the engine's, or ``submit``: the permit has been looked at by then.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from config.settings import Settings, load_settings
from control_plane.dispatch import Dispatch
from control_plane.store import Store
from control_plane.work import Executor as Identity
from tests.doubles.interposed import interposed
from workers.cli.snowflake import account_of, sign_in_of
from workers.engines.folder import Folder
from workers.engines.snowflake import SnowflakeEngine
from workers.engines.snowflake_session import JobSession
from workers.executor import Executor, Ticks
from workers.local import LocalJobs, threads

Happen = Callable[[str], Awaitable[None]]


async def run_until_it_happens(
    settings: Settings, plane: UUID, path: Path, number: str, when: str, happen: Happen
) -> None:
    """Run the executor; where it is killed, this does not return."""
    engine = await SnowflakeEngine.open(
        account_of(settings), sign_in_of(settings, "executor"), timeout_seconds=settings.snowflake.call_timeout_seconds
    )
    folder = Folder.open(path)
    executor = Executor(
        interposed(LocalJobs(Dispatch(Store(settings.database_url)), threads(2)), **{when: happen}),
        interposed(engine, **{when: happen}),
        identity=Identity(folder.executor_id, folder.incarnation, None),
        data_plane_id=plane,
    )
    ticks = Ticks()
    if number != "SIGSTOP":  # stopped in the middle of a transaction, it would keep the store from everybody else
        asyncio.get_running_loop().call_later(2.0, ticks.attend.set)
    with patch.object(JobSession, "submit", _announced(JobSession.submit, happen)):
        await executor.run(stopping=asyncio.Event(), ticks=ticks)


def _announced(submit: Callable[[JobSession, str], Awaitable[str]], happen: Happen) -> Callable[..., Awaitable[str]]:
    async def announced(session: JobSession, sql: str) -> str:
        await happen("submit")
        return await submit(session, sql)

    return announced


def main(plane: str, folder: str, number: str, when: str, fatal: str) -> None:
    """Run it, and send this process the signal at that moment."""

    async def happen(call: str) -> None:
        if call == fatal:
            os.kill(os.getpid(), signal.Signals[number])

    asyncio.run(run_until_it_happens(load_settings(), UUID(plane), Path(folder), number, when, happen))


if __name__ == "__main__":
    main(*sys.argv[1:])
