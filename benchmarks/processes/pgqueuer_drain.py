"""PgQueuer, as its own benchmark runs it (asyncpg, uvloop, drain mode), tuned as its guide says for short jobs.

The guide: larger batches, its autovacuum settings, one connection, and tables that survive a crash, its default.
Arguments: ``prepare`` and how many jobs, or ``drain`` and the batch size. The database is named by libpq's environment.
"""

import sys
import time
from datetime import timedelta

import asyncpg  # type: ignore[import-not-found]  # ships no types
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def prepare(count: int) -> None:
    """Install its tables and enqueue jobs that do nothing."""
    queries = Queries(AsyncpgDriver(await asyncpg.connect()))
    await queries.install()
    await queries.optimize_autovacuum()
    await queries.enqueue(["nothing"] * count, [None] * count, [0] * count)


async def drain(batch_size: int) -> None:
    """Run every job; print when the first one began."""
    began_at: list[float] = []

    async def nothing(_job: object) -> None:
        if not began_at:
            began_at.append(time.time())

    peer = PgQueuer(AsyncpgDriver(await asyncpg.connect()))
    peer.entrypoint("nothing")(nothing)
    await peer.run(batch_size=batch_size, mode=QueueExecutionMode.drain, dequeue_timeout=timedelta(seconds=0.1))
    print(began_at[0])


if __name__ == "__main__":
    uvloop.run({"prepare": prepare, "drain": drain}[sys.argv[1]](int(sys.argv[2])))
