"""The runs that one executor has in an engine of its own pace, and which tags are closed for good."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar
from uuid import UUID

from control_plane.errors import EngineUnavailable
from control_plane.jobs import Handle
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.chores import cancel_all
from workers.engines.run import Run, closed, started_before

AnyRun = TypeVar("AnyRun", bound=Run)

REMEMBERED = 10_000


class RunBook(Generic[AnyRun]):
    """Every run that goes on, and as many of the ended ones and of the closed tags as *remembered* says.

    *new* makes a claim's run; *ask_to_stop* asks the engine once for the end of one that goes on.
    """

    def __init__(
        self,
        new: Callable[[Claim], AnyRun],
        ask_to_stop: Callable[[AnyRun], Awaitable[Any]],
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        self._new = new
        self._ask_to_stop = ask_to_stop
        self._remembered = remembered
        self._by_tag: dict[str, AnyRun] = {}
        self._by_handle: dict[Handle, AnyRun] = {}
        self._ended: dict[str, None] = {}
        self._closed: dict[str, None] = {}

    @contextmanager
    def starting(self, claim: Claim) -> Iterator[AnyRun]:
        """Enter a run that is to start meanwhile. Raises Conflict when its tag is closed or was started before.

        One that did not, for certain, is kept as long as those that have ended.
        """
        run = self._add(claim)
        try:
            yield run
        finally:
            if run.never_began:
                self._note_end(run)

    def begin(self, run: AnyRun, handle: Handle, end: Callable[[], Awaitable[Ending]]) -> Handle:
        """The engine has begun the run, by this name; *end* waits for how it ends. It is stopped if closed by now."""
        run.handle = handle
        self._by_handle[handle] = run
        run.ending = asyncio.create_task(self._see_to_the_end(run, end))
        if run.closed:
            self._stop(run)
        return handle

    async def follow(self, handle: Handle) -> Ending:
        """Wait for the run's end. Raises EngineUnavailable for a run that this executor did not start."""
        run = self.by_handle(handle)
        if run is None or run.ending is None:
            raise EngineUnavailable(f"handle: {handle.run_id} is no run of this executor", field="handle")
        return await asyncio.shield(run.ending)

    def close(self, tag: str) -> AnyRun | None:
        """Close the tag for good, whether or not it was ever started, and see in the background that its run ends.

        Answers that run.
        """
        self._closed[tag] = None
        forget_oldest(self._closed, self._remembered)
        run = self._by_tag.get(tag)
        if run is not None:
            run.closed = True
            self._stop(run)
        return run

    async def end_all(self, *, within_seconds: float) -> None:
        """Stop every run, wait for so long until all have ended, and look after the others no more."""
        active = [run for run in self.everything() if run.is_active]
        for run in active:
            self._stop(run)
        if endings := [run.ending for run in active if run.ending is not None]:
            _, left = await asyncio.wait(endings, timeout=within_seconds)
            await cancel_all(left)
        await cancel_all({run.stopping for run in active if run.stopping is not None})

    def by_handle(self, handle: Handle) -> AnyRun | None:
        """The run of this name."""
        return self._by_handle.get(handle)

    def everything(self) -> list[AnyRun]:
        """Every run that is remembered."""
        return list(self._by_tag.values())

    def idle(self, jobs: Mapping[UUID, str]) -> dict[UUID, str]:
        """Those of these jobs, given with their tags, for which no run of this executor may still write."""
        busy = {run.claim.job_id for run in self.everything() if run.may_write}
        return {job_id: tag for job_id, tag in jobs.items() if job_id not in busy}

    def _add(self, claim: Claim) -> AnyRun:
        if claim.tag in self._closed:
            raise closed(claim.tag)
        if claim.tag in self._by_tag:
            raise started_before(claim.tag)
        self._by_tag[claim.tag] = run = self._new(claim)
        return run

    async def _see_to_the_end(self, run: AnyRun, end: Callable[[], Awaitable[Ending]]) -> Ending:
        ending = await end()
        self._note_end(run)
        return ending

    def _note_end(self, run: AnyRun) -> None:
        """From now on the run may be forgotten."""
        self._ended[run.claim.tag] = None
        for tag in forget_oldest(self._ended, self._remembered):
            forgotten = self._by_tag.pop(tag)
            if forgotten.handle is not None:
                del self._by_handle[forgotten.handle]

    def _stop(self, run: AnyRun) -> None:
        run.stop(partial(self._ask_to_stop, run))


def forget_oldest(entries: dict[str, Any], remembered: int) -> list[str]:
    """Leave so many of the entries; answers those that were older."""
    oldest = list(islice(entries, max(0, len(entries) - remembered)))
    for entry in oldest:
        del entries[entry]
    return oldest
