"""What an executor knows of a run in Snowflake."""

import asyncio
from typing import Any

from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.run_book import closed
from workers.engines.snowflake_session import JobSession

ENGINE = "snowflake"


class Run:
    """One job's one run."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.closed = False
        self.unresolved = False  #: it was submitted, and nobody knows yet whether anything runs or will
        self.remark = ""  #: what went wrong with its submission
        self.session: JobSession | None = None
        self.handle: Handle | None = None
        self.ending: asyncio.Task[Ending] | None = None  #: there from when it has a handle
        self.stopping: asyncio.Task[None] | None = None

    @property
    def query_id(self) -> str:
        """Snowflake's own name for it; it has one once it was started."""
        return "" if self.handle is None else self.handle.run_id

    def known(self, code: int | None = None) -> dict[str, Any]:
        """What a failure's cause says of it, with Snowflake's own code where there is one."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": ENGINE, "run_id": self.query_id, "sql": sql, "code": f"{code:06d}" if code else None}
        return {name: value for name, value in known.items() if value}

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)
