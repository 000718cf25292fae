"""One job's one run in an engine of its own pace: it begins, goes on and ends there, whatever becomes of us."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from adapters.base import RunStatus
from control_plane.errors import BadInput, Conflict, EngineUnavailable
from control_plane.jobs import FailureCause, Handle
from control_plane.work import Claim
from workers.engines.base import Ending, NotStarted

Plan = TypeVar("Plan")

STOP_AGAIN_SECONDS = 1.0


def closed(tag: str) -> Conflict:
    """What a closed tag is refused with."""
    return Conflict(f"tag: {tag} is closed; nothing of it may start any more", field="tag")


def started_before(tag: str) -> Conflict:
    """What a tag is refused with that was started already."""
    return Conflict(f"tag: {tag} was started before; a job is started once", field="tag")


class Run:
    """What its executor knows of it; *engine* is as in handles."""

    def __init__(self, claim: Claim, engine: str) -> None:
        self.claim = claim
        self.engine = engine
        self.closed = False
        self.unresolved = False  #: it was submitted, and nobody knows yet whether anything runs or will
        self.handle: Handle | None = None
        self.ending: asyncio.Task[Ending] | None = None  #: there from when it has a handle
        self.stopping: asyncio.Task[None] | None = None

    @property
    def run_id(self) -> str:
        """The engine's own name for it; it has one once it was started."""
        return "" if self.handle is None else self.handle.run_id

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    @property
    def may_write(self) -> bool:
        """Whether it may still add to its output, now or later."""
        return self.is_active or self.unresolved

    @property
    def never_began(self) -> bool:
        """Whether nothing of it was started, nor will be by what was submitted."""
        return self.handle is None and not self.unresolved

    def known(self, **more: Any) -> dict[str, Any]:
        """What a failure's cause says of it, with *more* in the engine's own words where there are any."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": self.engine, "run_id": self.run_id, "sql": sql, **more}
        return {name: value for name, value in known.items() if value}

    # --- starting

    async def plan(self, read: Callable[[Claim], Plan]) -> Plan:
        """What *read* makes of its job, in a thread: a long SQL takes seconds. Raises NotStarted for BadInput."""
        try:
            return await asyncio.to_thread(read, self.claim)
        except BadInput as error:
            raise NotStarted(error.message, **self.known(), field=error.field) from error

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)

    def begin_submission(self, permit_left: Callable[[], float]) -> float:
        """The seconds that its submission may take; from now on it is unresolved.

        Raises Conflict when its tag was closed, and NotStarted when its permit ran out.
        """
        self.refuse_closed()
        if (left := permit_left()) <= 0:
            raise self.not_started("the permit ran out before it was submitted")
        self.unresolved = True
        return left

    def not_started(self, message: str, **more: Any) -> NotStarted:
        """Why nothing of it runs; *more* as in :meth:`known`."""
        return NotStarted(message, **self.known(**more))

    # --- ending

    def stop(self, ask: Callable[[], Awaitable[Any]]) -> None:
        """See in the background that it ends, by what *ask* does once, unless that is seen to already."""
        if self.ending is not None and self.is_active and self.stopping is None:
            self.stopping = asyncio.create_task(ask_until_ended(ask, self.ending))

    def failed(self, status: RunStatus, word: str, message: str, at: datetime, **more: Any) -> Ending:
        """Its ending, of whatever status but succeeded, as seen at that moment; *more* as in :meth:`known`."""
        return Ending(status, word, at, cause=FailureCause(message, at, self.known(**more)))


async def ask_until_ended(ask: Callable[[], Awaitable[Any]], ending: asyncio.Task[Any]) -> None:
    """Ask for an end again and again: what is answered proves nothing, and only the end itself ends this."""
    while not ending.done():
        with contextlib.suppress(EngineUnavailable):  # whoever watches for the end tells of the silence
            await ask()
        await asyncio.wait([ending], timeout=STOP_AGAIN_SECONDS)
