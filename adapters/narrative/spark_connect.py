"""Cancelling on a shared cluster: Spark Connect's Interrupt, and nothing believed but each operation's own status.

An Interrupt that answers ``[]`` proves nothing: so does one for what has ended, for what is about to begin, for another
user's and for what never was. It is repeated, by whoever calls, until GetStatus says that the operation has ended. A
server that is started anew knows nothing of before: its incarnation is the application that it is (``spark.app.id``),
as one user sees it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TypeVar
from uuid import UUID

from msgspec import structs

from adapters.base import Check, Listing, Run, RunStatus, StopAnswer
from adapters.narrative.spark_connect_drill import Drill
from adapters.narrative.spark_connect_errors import SESSION_CLOSED, LineError
from adapters.narrative.spark_connect_ladder import Ladder
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_lookout import Lookout
from adapters.narrative.spark_connect_names import (
    ENGINE,
    Identity,
    Operation,
    Server,
    is_uuid,
    operation_of,
    session_of,
)
from adapters.narrative.spark_connect_sessions import Sessions, gone
from adapters.narrative.spark_connect_sight import Sight
from adapters.narrative.spark_connect_ui import Ui
from adapters.narrative.spark_connect_words import (
    STATUSES,
    UNKNOWN,
    Outliving,
    looked_at,
    operation_named,
    operations_named,
    wants_a_look,
)
from adapters.narrative.spark_outputs import Outputs
from adapters.registry import Surroundings
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.jobs import Handle, Purpose, Rung, Waiting
from control_plane.planes import Owner
from control_plane.work import Work

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AT_ONCE = 50  #: calls under way together
OPTIONS = ("server", "user", "ui_url", "warehouse")
LOOK_AGAIN_SECONDS = 0.05  #: a look has the web UI tell of every job and stage that it knows
HOW_NAMED = "work that was started elsewhere is named <user>/<session>/<operation>"


class SparkConnectAdapter:
    """The adapter of a Narrative plane's shared cluster. No call lasts longer than a few times *timeout_seconds*.

    *user* is whom the plane's executors run their jobs as: it is part of each session's name. A run that Connect says
    has ended has done so once the web UI at *ui_url* shows it too, as `Lookout` tells. *outputs* is where this process
    may publish and clear away; it is closed with the adapter.
    """

    engine = ENGINE
    per_executor = False

    def __init__(
        self,
        server: Server,
        *,
        installation: str,
        data_plane_id: UUID,
        user: str = "countermand",
        outputs: Outputs | None = None,
        ui_url: str,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._line = Line(server, user=user, timeout_seconds=timeout_seconds)
        self._sessions = Sessions(self._line)
        self._ui = Ui(ui_url, timeout_seconds=timeout_seconds)
        self._lookout = Lookout(self._line, self._ui, timeout_seconds=timeout_seconds)
        self._ladder = Ladder(self._line, self._ui)
        self._outliving = Outliving()
        self._drill = Drill(self._line, self._sessions, self._ladder, self._lookout)
        self._outputs = outputs
        self._prefix = f"countermand:{installation}:{data_plane_id}:"
        self._timeout_seconds = timeout_seconds
        self._room = asyncio.Semaphore(AT_ONCE)

    # --- finding

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's operations, by the names that follow from its tag; a tracked one by its own name."""
        if not works:
            return {}
        try:
            here = await self._line.identity()
            listings = await self._each(works, lambda work: self._list(work, here))
            listings = await self._looked_at(works, listings, here)
            await self._line.still_in(here.incarnation)
        except LineError as error:
            listings = [Listing(trouble=error.trouble)] * len(works)
        return {work.job_id: listing for work, listing in zip(works, listings, strict=True)}

    async def _list(self, work: Work, here: Identity) -> Listing:
        try:
            tracked = work.tracked is not None
            runs = await (self._tracked(work, here) if tracked else self._sessions.runs(work.job_id, work.tag, here))
        except LineError as error:
            return Listing(trouble=error.trouble)
        return Listing(runs, complete=True, incarnation=here.incarnation)

    async def _tracked(self, work: Work, here: Identity) -> tuple[Run, ...]:
        name = work.handle.run_id if work.handle else ""
        operation = Operation.named(name)
        if is_uuid(name) or (operation is not None and operation.session.user == here.user):
            raise LineError(Waiting.NOT_PERMITTED, f"{name} is the name of a job's own run here; {HOW_NAMED}")
        if operation is None:
            raise LineError(Waiting.HANDLE_UNKNOWN, f"{name!r} names no run; {HOW_NAMED}")
        state = await self._sessions.state(*operation)
        if state not in STATUSES:
            return ()
        handle = Handle(ENGINE, here.incarnation, name)
        return (Run(work.job_id, "", handle, STATUSES[state], state, owner=Owner(user=operation.session.user)),)

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What each operation's status says now; those of another start of the server are left out.

        One that this start does not know is gone: nothing of an operation outlives its session here.
        """
        if not runs:
            return {}
        here = await self._line.identity()
        asked = [run for run in runs if run.handle.incarnation == here.incarnation]
        seen = [run for run in await self._each(asked, lambda run: self._see(run, here)) if run is not None]
        if doubtful := [run for run in seen if wants_a_look(run)]:
            sight = await self._lookout.look(here.application, operations_named(doubtful, here.user))
            seen = [looked_at(run, sight, here.user, self._outliving) for run in seen]
        await self._line.still_in(here.incarnation)
        return {run.handle: run for run in seen}

    async def _see(self, run: Run, here: Identity) -> Run | None:
        operation = operation_named(run, here.user)
        if operation is None:
            return None
        try:
            if run.owner is None:
                own = await self._sessions.runs(run.job_id, run.tag, here)
                known = {other.handle: other for other in own}
                return known.get(run.handle) or gone(run.job_id, run.tag, operation.operation_id, UNKNOWN, here)
            state = await self._sessions.state(*operation)
        except LineError:
            return None
        return structs.replace(run, status=STATUSES.get(state, RunStatus.GONE), word=state, ended_at=None)

    async def _looked_at(self, works: Sequence[Work], listings: Sequence[Listing], here: Identity) -> list[Listing]:
        """The same as the web UI lets it stand; Connect's word alone proves no end.

        Also where nothing ran when the session was ended: something may have begun in between.
        """
        doubtful = [run for listing in listings for run in listing.runs if wants_a_look(run)]
        ended_here = [work.tag for work in works if self._sessions.was_ended_here(work.tag, here)]
        asked = operations_named(doubtful, here.user)
        asked += [Operation(session_of(here.user, tag), operation_of(tag)) for tag in ended_here]
        if not asked:
            return list(listings)
        sight = await self._lookout.look(here.application, asked)
        return [self._as_seen(work, listing, sight, here) for work, listing in zip(works, listings, strict=True)]

    def _as_seen(self, work: Work, listing: Listing, sight: Sight, here: Identity) -> Listing:
        known = [looked_at(run, sight, here.user, self._outliving) for run in listing.runs]
        if self._sessions.was_ended_here(work.tag, here):
            traced = sight.operations(session_of(here.user, work.tag).session_id)
            unknown = sorted(traced - {run.handle.run_id for run in known})
            late = (gone(work.job_id, work.tag, name, SESSION_CLOSED, here) for name in unknown)
            known += [looked_at(run, sight, here.user, self._outliving) for run in late]
        return structs.replace(listing, runs=tuple(known), again_seconds=LOOK_AGAIN_SECONDS)

    async def running(self) -> Listing:
        """Every run of the plane's jobs that computes, as the web UI shows it; what is being planned it does not."""
        try:
            here = await self._line.identity()
            sight = await self._ui.look(here.application)
            tags = sorted(tag for session_id, tag in sight.tagged(self._prefix) if _is_ours(session_id, tag, here))
            works = [Work(job_id, tag) for tag in tags if (job_id := _job_of(tag)) is not None]
            listings = await self._each(works, lambda work: self._list(work, here))
            listings = await self._looked_at(works, listings, here)
            await self._line.still_in(here.incarnation)
        except LineError as error:
            return Listing(trouble=error.trouble)
        active = tuple(run for listing in listings for run in listing.runs if run.status is RunStatus.ACTIVE)
        trouble = next((listing.trouble for listing in listings if listing.trouble), None)
        return Listing(active, complete=trouble is None, incarnation=here.incarnation, trouble=trouble)

    # --- stopping and closing

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        """Interrupt by tag; each operation by its id; then all of the job's session, and Spark's jobs by the web UI.

        A rung does what the lower ones do as well. The last is not for tracked ones: their session is their owner's.
        """
        if not runs:
            return {}
        try:
            here = await self._line.identity()
        except LineError as error:
            return dict.fromkeys((run.handle for run in runs), _answer_to(error))
        answers = await self._each(runs, lambda run: self._stop(run, rung, here))
        return {run.handle: answer for run, answer in zip(runs, answers, strict=True)}

    async def _stop(self, run: Run, rung: Rung, here: Identity) -> StopAnswer:
        operation = operation_named(run, here.user)
        if operation is None or run.handle.incarnation != here.incarnation:
            return StopAnswer.UNREACHABLE
        try:
            if run.owner is not None:
                return await self._stop_tracked(operation, rung)
            return await self._stop_own(run, operation, rung, here)
        except LineError as error:
            return _answer_to(error)

    async def _stop_own(self, run: Run, operation: Operation, rung: Rung, here: Identity) -> StopAnswer:
        is_given_up = STATUSES.get(run.word) is not RunStatus.ACTIVE  # Connect has: the web UI alone stops it still
        rung = Rung.FORCE if is_given_up else rung
        told = await self._ladder.climb(operation, run.tag, rung, application=here.application)
        return _answer(told, await self._sessions.release_ended(*operation))

    async def _stop_tracked(self, operation: Operation, rung: Rung) -> StopAnswer:
        """Its answer is its owner's to let go of, and its session is its owner's."""
        told = await self._ladder.interrupt(operation.session, operation_id=operation.operation_id)
        if rung is Rung.FORCE:
            return StopAnswer.UNSUPPORTED
        return _answer(told, await self._sessions.state(*operation))

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """End the sessions of jobs of which nothing runs any more; while something does, the ladder is for that."""
        own = [work for work in works if work.tracked is None]
        if not own:
            return frozenset()
        try:
            here = await self._line.identity()
        except LineError:
            return frozenset()
        closed = await self._each(own, lambda work: self._close(work, here))
        return frozenset(work.job_id for work, done in zip(own, closed, strict=True) if done)

    async def _close(self, work: Work, here: Identity) -> bool:
        try:
            return await self._sessions.end(work.job_id, work.tag, here)
        except LineError:
            return False

    # --- effects

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Publish in the warehouse, where it is within reach; the executor does it otherwise."""
        orders = {work.job_id: work.publication for work in works if work.publication is not None}
        return await self._outputs.publish(orders) if self._outputs and orders else frozenset()

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Remove from the warehouse, where it is within reach; the executor does it otherwise."""
        if self._outputs is None or not works:
            return {}
        removed = await self._outputs.discard([work.job_id for work in works])
        return {work.job_id: removed.get(work.job_id, ()) for work in works}

    # --- itself

    async def check(self) -> Check:
        """Start a query that only counts, as the executors' user, and see whether it is stopped; and its web UI.

        The warehouse is tried as well; where both are at fault, both are told.
        """
        began = monotonic()
        drill = self._drill.run(prefix=self._prefix, within_seconds=self._timeout_seconds)
        tried = await asyncio.gather(drill, self._try_warehouse(), return_exceptions=True)
        wrong = [error for error in tried if isinstance(error, BaseException)]
        if unforeseen := [error for error in wrong if not isinstance(error, EngineUnavailable)]:
            raise unforeseen[0]
        if wrong:
            return Check(ok=False, detail="; ".join(map(str, wrong)), seconds=monotonic() - began)
        stopped, written = tried
        detail = f"{stopped}, its web UI shows its tasks{written}"
        return Check(ok=True, detail=detail, seconds=monotonic() - began)

    async def _try_warehouse(self) -> str:
        """What can be said of it; nothing without one. Raises EngineUnavailable."""
        if self._outputs is None:
            return ""
        await self._outputs.prepare()
        return ", and its warehouse can be written"

    async def aclose(self) -> None:
        """Let go of connections, and of this process's own session."""
        await self._lookout.aclose()
        await self._line.aclose()
        await self._ui.aclose()
        if self._outputs is not None:
            await self._outputs.aclose()

    async def _each(self, items: Sequence[Item], ask: Callable[[Item], Awaitable[Answer]]) -> list[Answer]:
        """Ask about each by itself, many at a time."""

        async def one(item: Item) -> Answer:
            async with self._room:
                return await ask(item)

        return list(await asyncio.gather(*map(one, items)))


def for_plane(surroundings: Surroundings) -> SparkConnectAdapter:
    """The adapter as the registry makes it.

    Its options: *server*, where it listens; *user*, whom executors run jobs as; *ui_url*, its web UI; *warehouse*, the
    folder of outputs, where this process is to publish and to clear away.
    """
    options = dict(surroundings.options)
    if unknown := ", ".join(sorted(options.keys() - set(OPTIONS))):
        message = f"options: unknown for {ENGINE}: {unknown}; allowed: {', '.join(OPTIONS)}"
        raise BadInput(message, field="options")
    for name in ("server", "ui_url"):
        if options.get(name) is None:
            raise BadInput(f"options: {name} is needed for {ENGINE}", field=name)
    warehouse = options.pop("warehouse", None)
    return SparkConnectAdapter(
        **options,
        outputs=Outputs(Path(warehouse)) if warehouse else None,
        installation=surroundings.installation,
        data_plane_id=surroundings.data_plane_id,
        timeout_seconds=surroundings.timeout_seconds,
    )


def _is_ours(session_id: str, tag: str, here: Identity) -> bool:
    """Whether the session is the job's own, as our user has it."""
    return session_of(here.user, tag).session_id == session_id


def _job_of(tag: str) -> UUID | None:
    """The job of a work tag for the purpose ``run``."""
    *_, job_id, purpose = tag.split(":")
    return UUID(job_id) if purpose == Purpose.RUN.value and is_uuid(job_id) else None


def _answer(told: bool, state: str) -> StopAnswer:
    """What still runs was told before: a second interrupt of the same operation answers nothing."""
    is_active = STATUSES.get(state) is RunStatus.ACTIVE
    return StopAnswer.ACCEPTED if told or is_active else StopAnswer.ALREADY_ENDED


def _answer_to(error: LineError) -> StopAnswer:
    return StopAnswer.NOT_PERMITTED if error.trouble.waiting is Waiting.NOT_PERMITTED else StopAnswer.UNREACHABLE
