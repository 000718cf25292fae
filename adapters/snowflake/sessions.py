"""Ending sessions for good: a job has one of its own, so that what ends it closes the job."""

import asyncio
from collections.abc import Collection

from adapters.snowflake.line import NOT_ALLOWED, Line, LineError
from control_plane.jobs import Waiting

#: "… not found": what is answered for a session that has ended. Unverified; where Snowflake answers otherwise, no
#: session is ever taken as ended, and its job is closed by its executor or its permit.
NOT_FOUND = 709
_AT_ONCE = 8


async def cancel_all_in(line: Line, session_ids: Collection[int]) -> None:
    """Cancel whatever runs in these sessions; one that is no more, or may not be touched, keeps no other from it."""
    for session_id in sorted(session_ids):
        try:
            await line.tell(f"SELECT SYSTEM$CANCEL_ALL_QUERIES({session_id:d})")
        except LineError as error:
            if error.trouble.waiting is Waiting.PLANE_SILENT:
                raise


async def end_sessions(line: Line, session_ids: Collection[int]) -> frozenset[int]:
    """Abort these sessions; answers those of which the account itself says that they are no more.

    That it accepted to abort one is not evidence, so that it is asked again. None where the user may not abort them.
    """
    wanted = sorted(session_ids)
    if not wanted:
        return frozenset()
    try:
        await line.tell(f"SELECT {', '.join(map(_abort, wanted))}")
    except LineError as error:
        if error.code in NOT_ALLOWED:
            return frozenset()
        if error.code != NOT_FOUND:  # of one of them: the others are aborted below
            raise
    room = asyncio.Semaphore(_AT_ONCE)

    async def is_gone(session_id: int) -> bool:
        async with room:
            return await _is_gone(line, session_id)

    gone = await asyncio.gather(*map(is_gone, wanted))
    return frozenset(session_id for session_id, ended in zip(wanted, gone, strict=True) if ended)


async def _is_gone(line: Line, session_id: int) -> bool:
    """Whether it ended, from the answer to aborting it once more; a second time where that was the first to work."""
    for _ in range(2):
        try:
            await line.tell(f"SELECT {_abort(session_id)}")
        except LineError as error:
            return error.code == NOT_FOUND
    return False


def _abort(session_id: int) -> str:
    return f"SYSTEM$ABORT_SESSION({session_id:d})"
