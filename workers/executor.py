"""The executor: claims jobs of its plane, runs their SQL, and reports the end.

A job's way is claim → start → follow → commit → publish → complete; what is not committed may be closed at any time,
and nothing of a closed job starts any more. Whatever a crash interrupts, the next start on the same folder takes up.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from msgspec import structs
from structlog.contextvars import bind_contextvars

from adapters.base import RunStatus
from control_plane.errors import Conflict, EngineUnavailable
from control_plane.jobs import FailureCause, Handle, work_tag
from control_plane.release import release
from control_plane.work import Attendance, Claim, Commit, Failure, Presence, Publication
from control_plane.work import Executor as Identity
from workers.clock import Clock
from workers.engines.base import Ending, Engine, NotStarted
from workers.metrics import JOBS_HELD, count_now
from workers.outage import Outage
from workers.permit import Permit
from workers.queue import JobQueue

log = structlog.get_logger()

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """How much an executor takes on, and how long it waits when it is told to stop."""

    slots: int = 4
    drain_seconds: float = 20.0  #: for runs to end by themselves; those that do not are stopped, and fail
    last_words_seconds: float = 5.0  #: for saying so to the store


@dataclass(frozen=True)
class Ticks:
    """What the executor waits for; setting one again before it was seen is the same as setting it once."""

    claim: asyncio.Event = field(default_factory=asyncio.Event)
    attend: asyncio.Event = field(default_factory=asyncio.Event)
    heartbeat: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Held:
    """A job that occupies a slot, from its claim until its run has ended and the store knows how."""

    claim: Claim
    permit: Permit
    handle: Handle | None = None
    closed: bool = False  #: somebody else decides how it ends
    confirmed: bool = False  #: the store was told that nothing of it can start any more
    committed: bool = False
    draining: bool = False

    @property
    def epochs(self) -> dict[UUID, UUID]:
        """Job id and epoch, as the queue wants them."""
        return {self.claim.job_id: self.claim.epoch}


class Executor:
    """Runs one plane's jobs on one engine; *identity* says which start of which executor this is, and its address."""

    def __init__(
        self,
        queue: JobQueue,
        engine: Engine,
        *,
        identity: Identity,
        data_plane_id: UUID,
        limits: Limits = Limits(),
        clock: Clock = Clock(),
    ) -> None:
        self._queue = queue
        self._engine = engine
        self._identity = identity
        self._plane = data_plane_id
        self._limits = limits
        self._clock = clock
        self._outage = Outage(clock)
        self._installation = ""  #: told when it registers
        self._held: dict[UUID, Held] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        count_now(JOBS_HELD, data_plane_id, lambda: len(self._held))

    def limit(self, limits: Limits) -> None:
        """Keep to these limits from now on; what runs beyond them goes on."""
        self._limits = limits

    async def run(self, *, stopping: asyncio.Event, ticks: Ticks) -> None:
        """Take up what an earlier start left, then work until *stopping* is set, then drain.

        Raises Refused when the store knows this start or a later one, EngineUnavailable when the engine is beyond use.
        """
        taking_up = asyncio.create_task(self._take_up())
        await _until(stopping, taking_up)
        if taking_up.done():
            await self._serve(stopping, ticks)
        await _cancel([taking_up])
        log.info("executor_stopped", incarnation=self._identity.incarnation)

    # --- starting and ending

    async def _take_up(self) -> None:
        """In this order: only a registered incarnation may vouch for the earlier ones, and finish what they began."""
        register = partial(self._queue.register, self._identity, data_plane_id=self._plane, token=uuid4())
        installation = await self._outlast(register)
        self._installation = installation
        log.info(
            "executor_started",
            incarnation=self._identity.incarnation,
            address=self._identity.address,
            installation=installation,
            jobs_closed=len(await self._vouch()),
        )
        await self._beat()

    async def _vouch(self) -> Collection[UUID]:
        """Confirm what earlier starts held, where their end is the end of all that they had submitted."""
        if not self._engine.ends_with_executor:
            return []
        return await self._outlast(partial(self._queue.confirm_lower_incarnations, self._identity))

    async def _serve(self, stopping: asyncio.Event, ticks: Ticks) -> None:
        claiming = asyncio.create_task(self._keep_claiming(ticks, stopping))
        attending = asyncio.create_task(_repeat(ticks.attend, self._attend))
        tidying = asyncio.create_task(_repeat(ticks.heartbeat, self._beat))
        try:
            await _until(stopping, claiming, attending, tidying)
            ticks.claim.set()
            await self._drain(claiming)
        finally:
            await _cancel([claiming, attending, tidying, *self._jobs])

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Let runs end; then stop them and say so. What the store cannot be told, the next start takes up."""
        log.info("executor_draining", jobs=len(self._held))
        await self._quieten(claiming, self._limits.drain_seconds)
        for held in list(self._held.values()):
            held.draining = True
            await self._engine.close(held.claim.tag)
        await self._quieten(claiming, self._limits.last_words_seconds)
        if self._held:
            log.warning("jobs_left_behind", jobs=[str(job_id) for job_id in self._held])

    async def _quieten(self, claiming: asyncio.Task[None], seconds: float) -> None:
        """Wait until nothing is under way, or for so long; a claim under way may still bring jobs."""
        enough = asyncio.ensure_future(self._clock.pause(seconds))
        while (busy := {task for task in (claiming, *self._jobs) if not task.done()}) and not enough.done():
            await asyncio.wait({enough, *busy}, return_when=asyncio.FIRST_COMPLETED)
        await _cancel([enough])

    # --- claiming and attending

    async def _keep_claiming(self, ticks: Ticks, stopping: asyncio.Event) -> None:
        """Never cancelled within a claim while it can be helped: its answer would be lost, and the jobs with it."""
        while not stopping.is_set():
            ticks.claim.clear()
            if not await self._claim(ticks):
                await ticks.claim.wait()

    async def _claim(self, ticks: Ticks) -> bool:
        """Whether there were jobs to begin."""
        self._engine.check()
        room = self._limits.slots - len(self._held)
        if room <= 0:
            return False
        asked_at, epoch = self._clock.monotonic(), uuid4()
        # Asked again, when an answer was lost, with the same epoch; the permit counts from the first time.
        claims = await self._outlast(partial(self._ask_for_jobs, room, epoch))
        claimed = [Held(claim, self._permit(claim, asked_at)) for claim in claims]
        self._held.update({held.claim.job_id: held for held in claimed})
        if any(held.permit.is_stale() for held in claimed):  # the queue had been asked long before there was work
            await self._close(await self._renew(patiently=False))
        for held in claimed:
            self._begin(held, ticks)
        return bool(claimed)

    def _permit(self, claim: Claim, asked_at: float) -> Permit:
        return Permit(self._clock.monotonic, seconds=claim.permit_seconds, asked_at=asked_at)

    async def _ask_for_jobs(self, room: int, epoch: UUID) -> list[Claim]:
        return await self._queue.claim(
            self._identity,
            data_plane_id=self._plane,
            types=sorted(self._engine.types),
            limit=room,
            incarnation=self._engine.incarnation,
            epoch=epoch,
            clusters=self._engine.clusters,
        )

    async def _timed(self, ask: Callable[[], Awaitable[Answer]]) -> tuple[float, Answer]:
        """The answer, with the moment before it was asked for: a permit counts from there."""
        asked_at = self._clock.monotonic()
        return asked_at, await ask()

    def _begin(self, held: Held, ticks: Ticks) -> None:
        task = asyncio.create_task(self._work(held))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        task.add_done_callback(lambda _: ticks.claim.set())  # a slot is free

    async def _attend(self) -> None:
        """Renew what is held, and close at once what could not be renewed."""
        unsure = [held for held in self._held.values() if held.closed and not held.confirmed]
        await self._close([*unsure, *await self._renew(patiently=True)])

    async def _renew(self, *, patiently: bool) -> list[Held]:
        """What could not be renewed, of what is held."""
        attended = {job_id: held for job_id, held in self._held.items() if not (held.closed or held.committed)}
        if not attended:
            return []
        epochs = {job_id: held.claim.epoch for job_id, held in attended.items()}
        asked_at, attendance = await self._outlast(
            partial(self._timed, partial(self._queue.attend, epochs, patiently=patiently))
        )
        for job_id in attendance.renewed:
            attended[job_id].permit.renew(asked_at=asked_at)
        return [held for held in attended.values() if self._must_close(held, attendance)]

    def _must_close(self, held: Held, attendance: Attendance) -> bool:
        """What was committed or let go since it was asked about is not renewed either, and needs no closing."""
        job_id = held.claim.job_id
        return job_id not in attendance.renewed and job_id in self._held and not held.committed

    async def _close(self, closing: Sequence[Held]) -> None:
        """Confirmed once the engine is certain that nothing can start: a run may still be ending.

        Of what it is not certain, it is asked again with the next attend, and when the job has ended.
        """
        for held in closing:
            held.closed = True
        certain = [held for held in closing if await self._engine.close(held.claim.tag)]
        if not certain:
            return
        epochs = {held.claim.job_id: held.claim.epoch for held in certain}
        await self._outlast(partial(self._queue.confirm_closed, epochs))
        for held in certain:
            held.confirmed = True
            log.info("job_closed", job=str(held.claim.job_id))

    # --- one job

    async def _work(self, held: Held) -> None:
        """Take one job from its claim to its end; whatever goes wrong with it is its own."""
        bind_contextvars(job=str(held.claim.job_id))
        try:
            await self._conclude(held, await self._follow(held))
        except Conflict as error:  # its tag was closed before it could start
            await self._give_up(held, self._cause(error.message, {}))
        except NotStarted as error:
            await self._give_up(held, self._cause(error.message, error.diagnostics))
        except Exception as error:  # the boundary of one job
            log.exception("job_broken")
            await self._give_up(held, self._cause(f"{type(error).__name__}: {error}", {}))
        finally:
            del self._held[held.claim.job_id]

    async def _follow(self, held: Held) -> Ending:
        """Start the run, record its handle at once, and wait for its end; the store's absence delays neither."""
        handle = held.handle = await self._engine.start(held.claim, held.permit.left_seconds)
        log.info("job_started", type=held.claim.type.value, run_id=handle.run_id)
        record = partial(self._queue.record_handles, {held.claim.job_id: handle}, held.epochs)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._outlast(record))
                ending = both.create_task(self._engine.follow(handle))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the cause of a failure names what went wrong, not where
        return ending.result()

    async def _conclude(self, held: Held, ending: Ending) -> None:
        if held.closed:
            log.info("closed_run_ended", status=ending.status.value, word=ending.word)
            await self._close([] if held.confirmed else [held])
        elif ending.status is RunStatus.SUCCEEDED and ending.result is not None:
            await self._commit(held, ending, ending.result)
        else:
            await self._give_up(held, self._why(held, ending))

    async def _commit(self, held: Held, ending: Ending, result: dict[str, Any]) -> None:
        job_id = held.claim.job_id
        commit = Commit(job_id, held.claim.epoch, result, ending.dataset_id)
        passed = await self._outlast(partial(self._queue.commit, [commit], executor=self._identity))
        if job_id not in passed:
            log.info("commit_lost")  # a cancellation was first: the output is discarded once that is settled
            await self._close([held])
            return
        held.committed = True
        log.info("job_committed", dataset_id=ending.dataset_id)
        await self._complete(held.claim, passed[job_id])

    async def _complete(self, claim: Claim, publication: Publication | None) -> None:
        if publication is None:
            log.info("job_completed")  # without effects: completed by its commit
        else:
            await self._publish(structs.replace(claim, publication=publication))

    async def _publish(self, claim: Claim) -> None:
        """Publish and complete; what cannot be published now is tried again with every heartbeat."""
        try:
            published = await self._engine.publish([claim])
        except EngineUnavailable as error:
            log.error("publication_failed", job=str(claim.job_id), error=error.message)
            return
        if not published:
            log.error("publication_failed", job=str(claim.job_id), error="the engine has no output of this job")
            return
        if await self._outlast(partial(self._queue.complete, [claim.job_id], executor=self._identity)):
            log.info("job_completed", job=str(claim.job_id))

    async def _give_up(self, held: Held, cause: FailureCause) -> None:
        """Fail the job; where a cancellation was first, the cause is a hint, and the job is confirmed as closed.

        ``failed`` is written only once nothing of the job runs: its run is stopped, and waited for. Where the engine
        cannot be certain, nothing is written, and the job is left to whoever misses it.
        """
        if not await self._engine.close(held.claim.tag):
            log.error("job_left_open", cause=cause.message)
            return
        if held.handle is not None:
            await self._engine.follow(held.handle)
        failure = Failure(held.claim.job_id, held.claim.epoch, cause)
        failed = await self._outlast(partial(self._queue.fail, [failure], executor=self._identity))
        if failed:
            log.warning("job_failed", cause=cause.message)
        elif not held.committed:
            await self._close([held])

    def _why(self, held: Held, ending: Ending) -> FailureCause:
        if held.draining and ending.status is RunStatus.STOPPED:
            waited = f"{self._limits.drain_seconds:g} s"
            return self._cause(f"executor_drained: it was told to stop, and the run did not end within {waited}", {})
        return ending.cause or self._cause(f"the run ended as {ending.status.value}: {ending.word}", {})

    def _cause(self, message: str, diagnostics: dict[str, Any]) -> FailureCause:
        known = {"executor": self._identity.executor_id, "incarnation": self._identity.incarnation}
        return FailureCause(message, self._clock.now(), known | diagnostics)

    # --- tidying

    async def _beat(self) -> None:
        await self._outlast(partial(self._queue.heartbeat, [self._plane], self._presence()))
        await self._tidy()

    def _presence(self) -> Presence:
        return Presence(self._identity.executor_id, "executor", release(), [self._engine.name], len(self._held))

    async def _tidy(self) -> None:
        """Finish what was committed, here or by an earlier start; remove what ended without publishing."""
        for claim in await self._outlast(partial(self._queue.committed, self._identity)):
            if claim.job_id not in self._held:
                await self._publish(claim)
        try:
            await self._discard_leftovers()
        except EngineUnavailable as error:
            log.error("leftovers_kept", error=error.message)

    async def _discard_leftovers(self) -> None:
        """Only the store knows which job ended; its output goes whoever ended it."""
        unpublished = await self._engine.unpublished()
        doomed = await self._outlast(partial(self._queue.discardable, unpublished)) if unpublished else []
        tags = {job_id: work_tag(self._installation, self._plane, job_id) for job_id in doomed}
        removed = await self._engine.discard(tags) if tags else {}
        if removed:
            await self._outlast(partial(self._queue.record_leftovers, removed))
            log.info("leftovers_discarded", removed=[name for names in removed.values() for name in names])

    async def _outlast(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        return await self._outage.outlast(call)


async def _repeat(tick: asyncio.Event, duty: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await tick.wait()
        tick.clear()
        await duty()


async def _until(stopping: asyncio.Event, *duties: asyncio.Task[None]) -> None:
    """Wait until *stopping* is set or a duty ends; raises what the duty raised."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        ended, _ = await asyncio.wait({stop, *duties}, return_when=asyncio.FIRST_COMPLETED)
        for duty in ended:
            duty.result()
    finally:
        stop.cancel()


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
