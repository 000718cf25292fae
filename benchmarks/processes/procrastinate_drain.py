"""Procrastinate: asynchronous tasks on a psycopg pool, many at a time in one worker, uvloop.

Arguments: ``prepare`` and how many jobs, or ``drain`` and how many run at a time. The database is named by libpq's
environment.
"""

import sys
import time

import uvloop
from procrastinate import App, PsycopgConnector

_began_at: list[float] = []


async def nothing() -> None:
    """The job; notes when the first one began."""
    if not _began_at:
        _began_at.append(time.time())


app = App(connector=PsycopgConnector(min_size=4, max_size=10))
task = app.task(name="nothing")(nothing)


async def prepare(count: int) -> None:
    """Install its tables and defer jobs that do nothing."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*({} for _ in range(count)))


async def drain(concurrency: int) -> None:
    """Run every job; print when the first one began."""
    async with app.open_async():
        await app.run_worker_async(concurrency=concurrency, wait=False)
    print(_began_at[0])


if __name__ == "__main__":
    uvloop.run({"prepare": prepare, "drain": drain}[sys.argv[1]](int(sys.argv[2])))
