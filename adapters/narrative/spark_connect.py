"""Cancelling on a shared cluster: Spark Connect's Interrupt, and nothing believed but each operation's own status.

An Interrupt that answers ``[]`` proves nothing: so does one for what has ended, for what is about to begin, for another
user's and for what never was. It is repeated, by whoever calls, until GetStatus says that the operation has ended. A
started server forgets everything: its incarnation is the application that it is (``spark.app.id``), seen by one user.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TypeVar
from uuid import UUID, uuid4

from msgspec import structs

from adapters.base import ENDED, Check, Listing, Run, RunStatus, StopAnswer, Trouble
from adapters.narrative.spark_connect_line import SESSION_CLOSED, SESSION_NOT_FOUND, Line, LineError, answered, reading
from adapters.narrative.spark_connect_names import (
    ENGINE,
    Identity,
    Operation,
    Server,
    Session,
    is_uuid,
    operation_of,
    session_of,
)
from adapters.narrative.spark_connect_ui import Sight, Ui
from adapters.narrative.spark_outputs import Outputs
from adapters.registry import Surroundings
from control_plane.errors import BadInput
from control_plane.jobs import Handle, Purpose, Rung, Waiting
from control_plane.planes import Owner
from control_plane.work import Work

Item = TypeVar("Item")
Answer = TypeVar("Answer")

STATUSES = {
    "RUNNING": RunStatus.ACTIVE,
    "TERMINATING": RunStatus.ACTIVE,  #: also what has finished, and whose answer nobody has fetched yet
    "SUCCEEDED": RunStatus.SUCCEEDED,
    "FAILED": RunStatus.ERRORED,
    "CANCELLED": RunStatus.STOPPED,
}
TERMINATING = "TERMINATING"
AT_ONCE = 50  #: calls under way together
REMEMBERED = 10_000  #: runs of sessions that were closed here
STOP_SECONDS = 2.0  #: given to what is interrupted, before its session is ended under it
LOOK_SECONDS = 0.05
ENDLESS = "SELECT count(*) FROM range(0, 1000000000000, 1, 1) WHERE id % 99999999977 = 7"
OPTIONS = ("server", "user", "ui_url", "warehouse")
OWN_NAME = "is the name of a job's own run here, or it lacks the user and session: <user>/<session>/<operation>"


class SparkConnectAdapter:
    """The adapter of a Narrative plane's shared cluster. No call lasts longer than a few times *timeout_seconds*.

    *user* is whom the plane's executors run their jobs as: it is part of each session's name. With *ui_url* a run that
    is said to have ended is only believed once no task of it is active.
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
        ui_url: str | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._line = Line(server, user=user, timeout_seconds=timeout_seconds)
        self._ui = Ui(ui_url, timeout_seconds=timeout_seconds) if ui_url else None
        self._outputs = outputs
        self._prefix = f"countermand:{installation}:{data_plane_id}:"
        self._timeout_seconds = timeout_seconds
        self._room = asyncio.Semaphore(AT_ONCE)
        self._closed: OrderedDict[tuple[str, str], tuple[Run, ...]] = OrderedDict()  #: by incarnation and tag

    # --- finding

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's operations, by the names that follow from its tag; a tracked one by its own name."""
        if not works:
            return {}
        try:
            here = await self._line.identity()
            listings = dict(zip((w.job_id for w in works), await self._each(works, self._lister(here)), strict=True))
            listings = await self._checked(listings, here)
            await self._line.still_in(here.incarnation)
        except LineError as error:
            return {work.job_id: Listing(trouble=error.trouble) for work in works}
        return listings

    def _lister(self, here: Identity) -> Callable[[Work], Awaitable[Listing]]:
        async def listing(work: Work) -> Listing:
            try:
                runs = await (self._own(work, here) if work.tracked is None else self._tracked(work, here))
            except LineError as error:
                return Listing(trouble=error.trouble)
            return Listing(runs, complete=True, incarnation=here.incarnation)

        return listing

    async def _own(self, work: Work, here: Identity) -> tuple[Run, ...]:
        """Those of the job's session; where that is closed, those that it had when it was closed here."""
        states = await self._states(session_of(here.user, work.tag))
        if states == SESSION_CLOSED:
            runs = self._closed.get((here.incarnation, work.tag), ())
            return tuple(structs.replace(run, job_id=work.job_id) for run in runs)
        if isinstance(states, str):
            return ()
        return tuple(_run(work.job_id, work.tag, name, state, here) for name, state in states.items())

    async def _tracked(self, work: Work, here: Identity) -> tuple[Run, ...]:
        name = work.handle.run_id if work.handle else ""
        operation = Operation.named(name)
        if is_uuid(name) or (operation is not None and operation.session.user == here.user):
            raise LineError(Waiting.NOT_PERMITTED, f"{name} {OWN_NAME}")
        if operation is None:
            raise LineError(Waiting.HANDLE_UNKNOWN, f"{name!r} {OWN_NAME}")
        states = await self._states(operation.session, operation.operation_id)
        state = "UNKNOWN" if isinstance(states, str) else states.get(operation.operation_id, "UNKNOWN")
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
        seen = dict(zip(asked, await self._each(asked, self._observer(here)), strict=True))
        listings = await self._checked(
            {run.job_id: Listing((now,)) for run, now in seen.items() if now is not None}, here
        )
        await self._line.still_in(here.incarnation)
        return {run.handle: run for listing in listings.values() for run in listing.runs}

    def _observer(self, here: Identity) -> Callable[[Run], Awaitable[Run | None]]:
        async def seen(run: Run) -> Run | None:
            operation = _operation(run, here.user)
            if operation is None:
                return None
            try:
                states = await self._states(operation.session, operation.operation_id)
            except LineError:
                return None
            closed = {kept.handle: kept for kept in self._closed.get((here.incarnation, run.tag), ())}
            if run.handle in closed and states == SESSION_CLOSED:
                return structs.replace(closed[run.handle], job_id=run.job_id)
            state = states if isinstance(states, str) else states.get(operation.operation_id, "UNKNOWN")
            return structs.replace(run, status=STATUSES.get(state, RunStatus.GONE), word=state, ended_at=None)

        return seen

    async def _states(self, session: Session, *operation_ids: str) -> dict[str, str] | str:
        """By operation; or why there are none: the session is closed, or was never seen."""
        return await answered(lambda: self._line.states(session, operation_ids), SESSION_CLOSED, SESSION_NOT_FOUND)

    async def _checked(self, listings: Mapping[UUID, Listing], here: Identity) -> dict[UUID, Listing]:
        """The same, as the web UI lets it stand; where that does not answer, Connect's own word does."""
        unchecked = [run for each in listings.values() for run in each.runs if _wants_a_check(run)]
        sight = await self._ui.look(here.application) if self._ui and unchecked else None
        if sight is None:
            return dict(listings)
        return {
            job_id: structs.replace(each, runs=tuple(_checked(run, sight, here) for run in each.runs))
            for job_id, each in listings.items()
        }

    async def running(self) -> Listing:
        """Every run of the plane's jobs that computes, as the web UI shows it; what is being planned it does not."""
        try:
            here = await self._line.identity()
            sight = await self._ui.look(here.application) if self._ui else None
            if sight is None:
                detail = "what runs on a Connect server is told by its web UI alone; is spark.ui_url right?"
                return Listing(trouble=Trouble(Waiting.HANDLE_UNKNOWN, detail))
            tags = sorted(tag for session_id, tag in sight.tagged(self._prefix) if _is_ours(session_id, tag, here))
            works = [Work(job_id, tag) for tag in tags if (job_id := _job_of(tag)) is not None]
            found = await self._each(works, self._lister(here))
            await self._line.still_in(here.incarnation)
        except LineError as error:
            return Listing(trouble=error.trouble)
        active = tuple(run for each in found for run in each.runs if run.status not in ENDED)
        trouble = next((each.trouble for each in found if each.trouble), None)
        return Listing(active, complete=trouble is None, incarnation=here.incarnation, trouble=trouble)

    # --- stopping and closing

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:
        """Interrupt by tag; each operation by its id; then end the job's own session, which a tracked one has not.

        A rung does what the lower ones do as well.
        """
        if not runs:
            return {}
        try:
            here = await self._line.identity()
        except LineError as error:
            return dict.fromkeys((run.handle for run in runs), _answer_to(error))

        async def stopped(run: Run) -> StopAnswer:
            try:
                return await self._stop(run, rung, here)
            except LineError as error:
                return _answer_to(error)

        return dict(zip((run.handle for run in runs), await self._each(runs, stopped), strict=True))

    async def _stop(self, run: Run, rung: Rung, here: Identity) -> StopAnswer:
        operation = _operation(run, here.user)
        if operation is None or run.handle.incarnation != here.incarnation:
            return StopAnswer.UNREACHABLE
        session, operation_id = operation
        told = await self._interrupt(session, tag=run.tag) if run.owner is None else []
        if run.owner is not None or rung is not Rung.ASK:
            told += await self._interrupt(session, operation_id=operation_id)
        state = await self._let_go(session, operation_id)
        if rung is Rung.FORCE and run.owner is not None:
            return StopAnswer.UNSUPPORTED
        if rung is Rung.FORCE and await self._end(session, run.tag, run.job_id, here, patience=STOP_SECONDS):
            return StopAnswer.ACCEPTED if told or STATUSES.get(state) is RunStatus.ACTIVE else StopAnswer.ALREADY_ENDED
        return StopAnswer.ACCEPTED if told or STATUSES.get(state) is RunStatus.ACTIVE else StopAnswer.ALREADY_ENDED

    async def _interrupt(
        self, session: Session, *, tag: str | None = None, operation_id: str | None = None
    ) -> list[str]:
        told = await answered(lambda: self._line.interrupt(session, tag=tag, operation_id=operation_id), SESSION_CLOSED)
        return [] if isinstance(told, str) else told

    async def _let_go(self, session: Session, operation_id: str) -> str:
        """Its state. One that has ended stays TERMINATING until its answer is let go of, where nobody is left to."""
        states = await self._states(session, operation_id)
        state = states if isinstance(states, str) else states.get(operation_id, "UNKNOWN")
        if state == TERMINATING:
            await self._line.release(session, operation_id)
        return state

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """End the sessions of jobs of which nothing runs any more; while something does, the ladder is for that."""
        own = [work for work in works if work.tracked is None]
        if not own:
            return frozenset()
        try:
            here = await self._line.identity()
        except LineError:
            return frozenset()

        async def closed(work: Work) -> bool:
            try:
                return await self._end(session_of(here.user, work.tag), work.tag, work.job_id, here)
            except LineError:
                return False

        ended = await self._each(own, closed)
        return frozenset(work.job_id for work, done in zip(own, ended, strict=True) if done)

    async def _end(
        self, session: Session, tag: str, job_id: UUID, here: Identity, *, patience: float | None = None
    ) -> bool:
        """End the session for good, once nothing of it runs, or after so many seconds of *patience*; whether it is.

        What became of its operations is kept, since the server forgets it with the session. One that it has never
        seen it does not remember as ended: it is touched first.
        """
        until = monotonic() + (patience or 0.0)
        while not isinstance(states := await self._states(session), str) and not _have_ended(states):
            if patience is None:
                return False
            if monotonic() >= until:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if states == SESSION_CLOSED:
            return True
        if states == SESSION_NOT_FOUND:
            await self._line.touch(session)
        elif not isinstance(states, str):
            self._keep(tag, job_id, states, here)
        await self._line.release_session(session)
        return await self._states(session) == SESSION_CLOSED

    def _keep(self, tag: str, job_id: UUID, states: Mapping[str, str], here: Identity) -> None:
        ended = {name: state for name, state in states.items() if _have_ended({name: state})}
        self._closed[here.incarnation, tag] = tuple(_run(job_id, tag, name, ended[name], here) for name in ended)
        while len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)

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
        """Start a query that only counts, as the executors' user, and see whether it is stopped."""
        began = monotonic()
        try:
            detail = await self._drill()
        except LineError as error:
            return Check(ok=False, detail=error.message, seconds=monotonic() - began)
        return Check(ok=True, detail=detail, seconds=monotonic() - began)

    async def _drill(self) -> str:
        """In a session of its own, under a tag that is no job's."""
        tag = f"{self._prefix}{uuid4()}:drill"
        session, operation_id = session_of(self._line.user, tag), operation_of(tag)
        here = await self._line.identity()
        await self._line.touch(session)
        running = asyncio.create_task(self._exhaust(session, operation_id, tag))
        try:
            seconds = await self._stop_drill(session, operation_id, tag)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await self._line.release_session(session)
        return f"{here.application} stopped a query of {here.user} within {seconds:.2g} s"

    async def _exhaust(self, session: Session, operation_id: str, tag: str) -> None:
        async for _ in self._line.execute(session, operation_id, reading(ENDLESS), tag=tag):
            pass

    async def _stop_drill(self, session: Session, operation_id: str, tag: str) -> float:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                began = 0.0
                while not began or not _have_ended({operation_id: await self._let_go(session, operation_id)}):
                    if await self._line.interrupt(session, tag=tag):
                        began = monotonic()
                return monotonic() - began
        except TimeoutError as error:
            detail = f"{self._line.server.address} did not stop a query within {self._timeout_seconds:g} s"
            raise LineError(Waiting.STILL_RUNNING, detail) from error

    async def aclose(self) -> None:
        """Let go of connections, and of this process's own session."""
        await self._line.aclose()
        if self._ui is not None:
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

    Its options: *server*, where it listens; *user*, whom executors run jobs as; *ui_url*, its web UI, to be asked
    whether tasks are active; *warehouse*, the folder of outputs, where this process is to publish and to clear away.
    """
    options = dict(surroundings.options)
    if unknown := ", ".join(sorted(options.keys() - set(OPTIONS))):
        message = f"options: unknown for {ENGINE}: {unknown}; allowed: {', '.join(OPTIONS)}"
        raise BadInput(message, field="options")
    if options.get("server") is None:
        raise BadInput(f"options: server is needed for {ENGINE}", field="server")
    warehouse = options.pop("warehouse", None)
    return SparkConnectAdapter(
        **options,
        outputs=Outputs(Path(warehouse)) if warehouse else None,
        installation=surroundings.installation,
        data_plane_id=surroundings.data_plane_id,
        timeout_seconds=surroundings.timeout_seconds,
    )


def _run(job_id: UUID, tag: str, operation_id: str, state: str, here: Identity) -> Run:
    handle = Handle(ENGINE, here.incarnation, operation_id)
    return Run(job_id, tag, handle, STATUSES.get(state, RunStatus.UNKNOWN), state)


def _operation(run: Run, user: str) -> Operation | None:
    """A job's own run is in the job's own session; another's is named in full."""
    if run.owner is not None:
        return Operation.named(run.handle.run_id)
    return Operation(session_of(user, run.tag), run.handle.run_id) if is_uuid(run.handle.run_id) else None


def _have_ended(states: Mapping[str, str]) -> bool:
    """Whether each of them is known to have; what the server knows nothing of does not keep its session open."""
    return all(STATUSES.get(state) is not RunStatus.ACTIVE for state in states.values())


def _wants_a_check(run: Run) -> bool:
    return run.status is RunStatus.GONE or (run.status in ENDED and run.ended_at is None)


def _checked(run: Run, sight: Sight, here: Identity) -> Run:
    """The run as both say it is: what has active tasks runs, whatever its status is."""
    operation = _operation(run, here.user)
    if operation is None or not _wants_a_check(run):
        return run
    traces = sight.traces(operation.session.session_id, operation.operation_id)
    if traces.active_tasks:
        word = f"{run.word}, {traces.active_tasks} tasks active"
        return structs.replace(run, status=RunStatus.ACTIVE, word=word)
    return structs.replace(run, ended_at=traces.ended_at if run.status in ENDED else None)


def _is_ours(session_id: str, tag: str, here: Identity) -> bool:
    return session_of(here.user, tag).session_id == session_id


def _job_of(tag: str) -> UUID | None:
    """The job of a work tag for the purpose ``run``."""
    *_, job_id, purpose = tag.split(":")
    return UUID(job_id) if purpose == Purpose.RUN.value and is_uuid(job_id) else None


def _answer_to(error: LineError) -> StopAnswer:
    return StopAnswer.NOT_PERMITTED if error.trouble.waiting is Waiting.NOT_PERMITTED else StopAnswer.UNREACHABLE
