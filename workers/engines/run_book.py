"""The runs that one executor has in an engine of its own pace, and which tags are closed for good."""

from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from control_plane.errors import Conflict
from control_plane.jobs import Handle
from control_plane.work import Claim


class Booked(Protocol):
    """One job's one run, as far as the book is concerned."""

    claim: Claim
    closed: bool
    handle: Handle | None  #: there once the engine has named it


Run = TypeVar("Run", bound=Booked)


def closed(tag: str) -> Conflict:
    """What a closed tag is refused with."""
    return Conflict(f"tag: {tag} is closed; nothing of it may start any more", field="tag")


class RunBook(Generic[Run]):
    """Every run that goes on, and as many of the ended ones and of the closed tags as *remembered* says."""

    def __init__(self, new: Callable[[Claim], Run], *, remembered: int) -> None:
        self._new = new
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
        self._by_tag[claim.tag] = run = self._new(claim)
        return run

    def name(self, run: Run, handle: Handle) -> None:
        """The engine's own name for the run is known."""
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
