"""One job's one run in an engine of its own pace: it begins, goes on and ends there, whatever becomes of us."""

import asyncio
from typing import Any

from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.run_book import closed


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

    def known(self, **more: Any) -> dict[str, Any]:
        """What a failure's cause says of it, with *more* in the engine's own words where there are any."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": self.engine, "run_id": self.run_id, "sql": sql, **more}
        return {name: value for name, value in known.items() if value}

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)
