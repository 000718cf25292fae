"""The drivers that one executor has on a standalone master, and which tags are closed for good."""

import asyncio
from itertools import islice
from typing import Any

from adapters.narrative.spark_standalone_line import ENGINE
from control_plane.errors import Conflict
from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending


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


def closed(tag: str) -> Conflict:
    """What a closed tag is refused with."""
    return Conflict(f"tag: {tag} is closed; nothing of it may start any more", field="tag")


class RunBook:
    """Every run that goes on, and as many of the ended ones and of the closed tags as *remembered* says."""

    def __init__(self, *, remembered: int) -> None:
        self._remembered = remembered
        self._by_tag: dict[str, Run] = {}
        self._by_handle: dict[Handle, Run] = {}
        self._ended: dict[str, None] = {}
        self._closed: dict[str, None] = {}

    def add(self, claim: Claim) -> Run:
        """Enter a run that is to start. Raises Conflict when its tag is closed or was started before."""
        if claim.tag in self._closed:
            raise closed(claim.tag)
        if claim.tag in self._by_tag:
            raise Conflict(f"tag: {claim.tag} was started before; a job is started once", field="tag")
        self._by_tag[claim.tag] = run = Run(claim)
        return run

    def name(self, run: Run, handle: Handle) -> None:
        """The master's own name for the run is known."""
        run.handle = handle
        self._by_handle[handle] = run

    def close(self, tag: str) -> Run | None:
        """Close the tag for good, whether or not it was ever started; answers its run."""
        self._closed[tag] = None
        _forget_oldest(self._closed, self._remembered)
        run = self._by_tag.get(tag)
        if run is not None:
            run.closed = True
        return run

    def note_end(self, run: Run) -> None:
        """From now on the run may be forgotten."""
        self._ended[run.claim.tag] = None
        for tag in _forget_oldest(self._ended, self._remembered):
            forgotten = self._by_tag.pop(tag)
            if forgotten.handle is not None:
                del self._by_handle[forgotten.handle]

    def by_handle(self, handle: Handle) -> Run | None:
        """The run of this name."""
        return self._by_handle.get(handle)

    def everything(self) -> list[Run]:
        """Every run that is remembered."""
        return list(self._by_tag.values())


def _forget_oldest(entries: dict[str, Any], remembered: int) -> list[str]:
    oldest = list(islice(entries, max(0, len(entries) - remembered)))
    for entry in oldest:
        del entries[entry]
    return oldest
