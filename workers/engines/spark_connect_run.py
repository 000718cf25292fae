"""One job's run on a Connect server."""

import asyncio
from typing import Any

from adapters.narrative.spark_connect_names import ENGINE, Identity, Operation, operation_of, session_of
from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.run_book import closed


class Run:
    """One job's one run, in the session that the job has to itself; both are named after the job's tag."""

    def __init__(self, claim: Claim, here: Identity) -> None:
        self.claim = claim
        self.here = here  #: the start of the server that it is submitted to
        self.session = session_of(here.user, claim.tag)
        self.operation_id = operation_of(claim.tag)
        self.closed = False
        self.unresolved = False  #: it was submitted, and nobody knows yet whether anything runs or will
        self.remark = ""  #: what went wrong with its submission
        self.handle: Handle | None = None
        self.ending: asyncio.Task[Ending] | None = None  #: there from when it has a handle
        self.stopping: asyncio.Task[None] | None = None

    def known(self, condition: str | None = None) -> dict[str, Any]:
        """What a failure's cause says of it, with Spark's own condition where there is one."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": ENGINE, "run_id": self.handle and self.handle.run_id, "sql": sql, "condition": condition}
        return {name: value for name, value in known.items() if value}

    @property
    def operation(self) -> Operation:
        """Its one operation."""
        return Operation(self.session, self.operation_id)

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)
