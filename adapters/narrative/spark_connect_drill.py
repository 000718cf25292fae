"""A query that only counts, started and stopped: can work on this server be cancelled now?"""

import asyncio
from time import monotonic
from uuid import uuid4

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_names import Session, operation_of, session_of
from adapters.narrative.spark_connect_sessions import Sessions
from adapters.narrative.spark_connect_words import have_ended
from control_plane.jobs import Waiting

ENDLESS = "SELECT count(*) FROM range(0, 1000000000000, 1, 1) WHERE id % 99999999977 = 7"


async def drill(line: Line, sessions: Sessions, *, prefix: str, timeout_seconds: float) -> str:
    """What was found, in one sentence. In a session of its own, under a tag that is no job's. Raises LineError."""
    tag = f"{prefix}{uuid4()}:drill"
    session = session_of(line.user, tag)
    here = await line.identity()
    await line.touch(session)
    running = asyncio.create_task(_exhaust(line, session, tag))
    try:
        async with asyncio.timeout(timeout_seconds):
            seconds = await _stop(line, sessions, session, tag)
    except TimeoutError as error:
        detail = f"{line.server.address} did not stop a query within {timeout_seconds:g} s"
        raise LineError(Waiting.STILL_RUNNING, detail) from error
    finally:
        running.cancel()
        await asyncio.wait([running])
        await line.release_session(session)
    return f"{here.application} stopped a query of {here.user} within {seconds:.2g} s"


async def _exhaust(line: Line, session: Session, tag: str) -> None:
    async for _ in line.execute(session, operation_of(tag), reading(ENDLESS), tag=tag):
        pass


async def _stop(line: Line, sessions: Sessions, session: Session, tag: str) -> float:
    """Seconds from the interrupt that met it to its last status."""
    operation_id, began = operation_of(tag), 0.0
    while not began or not have_ended({operation_id: await sessions.release_ended(session, operation_id)}):
        if await line.interrupt(session, tag=tag):
            began = monotonic()
    return monotonic() - began
