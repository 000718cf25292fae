"""The runs that one executor has on a Connect server, and which tags are closed for good."""

import asyncio
from collections import OrderedDict
from typing import Any

from adapters.narrative.spark_connect_names import ENGINE, Session, operation_of, session_of
from control_plane.errors import Conflict
from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending


class Run:
    """One job's one run, in the session that the job has to itself; both are named after the job's tag."""

    def __init__(self, claim: Claim, user: str) -> None:
        self.claim = claim
        self.session: Session = session_of(user, claim.tag)
        self.operation_id = operation_of(claim.tag)
        self.closed = False
        self.unresolved = False  #: it was submitted, and nobody knows yet whether anything runs or will
        self.remark = ""  #: what went wrong with its submission
        self.handle: Handle | None = None
        self.ending: asyncio.Task[Ending] | None = None  #: there from when it has a handle
        self.stopping: asyncio.Task[None] | None = None
        self.ended_at: float | None = None  #: monotonic

    def known(self, condition: str | None = None) -> dict[str, Any]:
        """What a failure's cause says of it, with Spark's own condition where there is one."""
        sql = self.claim.input.get("compiled_sql") or self.claim.input.get("compiled_select")
        known = {"engine": ENGINE, "run_id": self.handle and self.handle.run_id, "sql": sql, "condition": condition}
        return {name: value for name, value in known.items() if value}

    @property
    def is_active(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self.ending is not None and not self.ending.done()

    def refuse_closed(self) -> None:
        """Raise Conflict when it may not start any more."""
        if self.closed:
            raise closed(self.claim.tag)


def closed(tag: str) -> Conflict:
    """What a closed tag is refused with."""
    return Conflict(f"tag: {tag} is closed; nothing of it may start any more", field="tag")


class RunBook:
    """Every run that goes on, and as many of the ended ones and of the closed tags as *remembered* says."""

    def __init__(self, *, user: str, remembered: int) -> None:
        self._user = user
        self._remembered = remembered
        self._by_tag: OrderedDict[str, Run] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()

    def add(self, claim: Claim) -> Run:
        """Enter a run that is to start. Raises Conflict when its tag is closed or was started before."""
        if claim.tag in self._closed:
            raise closed(claim.tag)
        if claim.tag in self._by_tag:
            raise Conflict(f"tag: {claim.tag} was started before; a job is started once", field="tag")
        self._by_tag[claim.tag] = run = Run(claim, self._user)
        return run

    def close(self, tag: str) -> Run | None:
        """Close the tag for good, whether or not it was ever started; answers its run."""
        self._closed[tag] = None
        _forget_oldest(self._closed, self._remembered)
        run = self._by_tag.get(tag)
        if run is not None:
            run.closed = True
        return run

    def note_end(self, run: Run, *, at: float) -> None:
        """From now on the run may be forgotten."""
        run.ended_at = at
        self._ended[run.claim.tag] = None
        for tag in _forget_oldest(self._ended, self._remembered):
            del self._by_tag[tag]

    def by_handle(self, handle: Handle) -> Run | None:
        """The run of this name."""
        return next((run for run in self._by_tag.values() if run.handle == handle), None)

    def everything(self) -> list[Run]:
        """Every run that is remembered."""
        return list(self._by_tag.values())


def _forget_oldest(entries: OrderedDict[str, Any], remembered: int) -> list[str]:
    return [entries.popitem(last=False)[0] for _ in range(len(entries) - remembered)]
