"""What an executor knows of a driver on a standalone master."""

import asyncio
from typing import Any

from adapters.narrative.spark_standalone_line import ENGINE
from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.run_book import closed


class Run:
    """One job's one run."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.closed = False
        self.unresolved = False  #: it was submitted, and nobody knows yet whether anything runs or will
        self.handle: Handle | None = None
        self.ending: asyncio.Task[Ending] | None = None  #: there from when it has a handle
        self.stopping: asyncio.Task[None] | None = None

    @property
    def driver_id(self) -> str:
        """The master's own name for it; it has one once it was started."""
        return "" if self.handle is None else self.handle.run_id

    def known(self) -> dict[str, Any]:
        """What a failure's cause says of it."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": ENGINE, "run_id": self.driver_id, "sql": sql}
        return {name: value for name, value in known.items() if value}

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)
