"""The runs of one incarnation of embedded DuckDB: what each does, how it ended, and which tags are closed for good."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from duckdb import DuckDBPyConnection
from msgspec import structs

from adapters.base import Run as SeenRun
from adapters.base import RunStatus
from control_plane.jobs import Handle
from control_plane.planes import Owner
from control_plane.work import Claim
from workers.engines.base import Ending
from workers.engines.run import closed, started_before
from workers.engines.run_book import forget_oldest


class Run:
    """One job's one run, in a session that nothing else ever uses."""

    def __init__(
        self,
        claim: Claim,
        handle: Handle,
        session: DuckDBPyConnection,
        permit_left: Callable[[], float],
        owner: Owner | None = None,
    ) -> None:
        self.claim = claim
        self.owner = owner
        self.handle = handle
        self.session = session
        self.permit_left = permit_left
        self.stopping = threading.Event()
        self.ended: Future[Ending] = Future()
        self.word = "queued"
        self._session_lock = threading.Lock()

    def refusal(self) -> str | None:
        """Why the statement may not be submitted now, if so; asked last before submitting."""
        permitted = self.permit_left() > 0
        if self.stopping.is_set():
            return "stopped before it was submitted"
        return None if permitted else "permit ran out before it was submitted"

    def interrupt(self, how: Callable[[DuckDBPyConnection], None]) -> None:
        """Interrupt what the session executes; before execution has begun this is lost, so it is repeated."""
        with self._session_lock:
            if not self.ended.done():
                how(self.session)

    def end(self, ending: Ending) -> None:
        """The session is closed first: whoever reads the ending may rely on nothing being left of the run."""
        with self._session_lock:
            try:
                self.session.close()
            finally:
                self.ended.set_result(ending)

    def seen(self) -> SeenRun:
        """What the engine says of it now."""
        seen = SeenRun(self.claim.job_id, self.claim.tag, self.handle, RunStatus.ACTIVE, self.word, owner=self.owner)
        if not self.ended.done():
            return seen
        ending = self.ended.result()
        return structs.replace(seen, status=ending.status, word=ending.word, ended_at=ending.ended_at)


class RunBook:
    """Every active run, and as many of the ended runs and closed tags as *remembered* says, oldest forgotten first."""

    def __init__(self, *, remembered: int) -> None:
        self._remembered = remembered
        self._lock = threading.Lock()
        self._by_tag: dict[str, Run] = {}
        self._by_handle: dict[Handle, Run] = {}
        self._ended: dict[str, None] = {}
        self._closed: dict[str, None] = {}

    def add(self, run: Run) -> None:
        """Enter a run that is to start. Raises Conflict when its tag is closed or was started before."""
        tag = run.claim.tag
        with self._lock:
            if tag in self._closed:
                raise closed(tag)
            if tag in self._by_tag:
                raise started_before(tag)
            self._by_tag[tag] = run
            self._by_handle[run.handle] = run

    def close(self, tag: str) -> Run | None:
        """Close the tag for good, whether or not it was ever started; answers its run."""
        with self._lock:
            self._closed[tag] = None
            forget_oldest(self._closed, self._remembered)
            return self._by_tag.get(tag)

    def note_end(self, run: Run) -> None:
        """From now on the run may be forgotten."""
        with self._lock:
            self._ended[run.claim.tag] = None
            for tag in forget_oldest(self._ended, self._remembered):
                del self._by_handle[self._by_tag.pop(tag).handle]

    def by_tags(self, tags: Iterable[str]) -> list[Run]:
        """The runs under these very tags."""
        with self._lock:
            return [run for tag in tags if (run := self._by_tag.get(tag)) is not None]

    def by_handles(self, handles: Iterable[Handle]) -> list[Run]:
        """The runs of these names."""
        with self._lock:
            return [run for handle in handles if (run := self._by_handle.get(handle)) is not None]

    def active(self) -> list[Run]:
        """The runs that have not ended."""
        with self._lock:
            return [run for run in self._by_tag.values() if not run.ended.done()]


class Interrupter:
    """Repeats the interrupt of each run that is to stop until the run has ended."""

    def __init__(self, how: Callable[[DuckDBPyConnection], None], *, every_seconds: float) -> None:
        self._how = how
        self._every_seconds = every_seconds
        self._wanted = threading.Condition()
        self._runs: list[Run] = []
        self._finished = False
        self._thread = threading.Thread(target=self._repeat, name="interrupter", daemon=True)
        self._thread.start()

    def stop(self, run: Run) -> None:
        """Stop the run. Returns at once; the run's end tells when it has stopped."""
        run.stopping.set()
        with self._wanted:
            if run not in self._runs:
                self._runs.append(run)
            self._wanted.notify()

    def finish(self) -> None:
        """End the thread."""
        with self._wanted:
            self._finished = True
            self._wanted.notify()
        self._thread.join()

    def _repeat(self) -> None:
        while runs := self._next_round():
            for run in runs:
                run.interrupt(self._how)
            with self._wanted:
                self._wanted.wait(self._every_seconds)

    def _next_round(self) -> list[Run]:
        with self._wanted:
            self._wanted.wait_for(self._has_work)
            return [] if self._finished else list(self._runs)

    def _has_work(self) -> bool:
        self._runs = [run for run in self._runs if not run.ended.done()]
        return self._finished or bool(self._runs)
