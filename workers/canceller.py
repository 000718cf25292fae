"""The canceller of one plane: takes a batch of leased cancellations from the request to the engine's word.

A round is find → stop → close → observe → settle, set-wise. What cannot be settled is postponed with the reason. It
keeps nothing that the store does not know: any canceller can take over after any crash.
"""

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog

from adapters.base import Adapter, Listing, Run, StopAnswer
from control_plane.errors import EngineUnavailable
from control_plane.inputs import ExternalResult
from control_plane.jobs import Closure, Outcome, Rung, Waiting
from control_plane.work import Assignment, Hold, Postponed, Postponement, Settled, Settlement
from workers.allowance import Allowance
from workers.breaker import Breaker
from workers.clock import Clock
from workers.judgement import Case, Ended, Succeeded, Unsettled, climb, heed, judge, receipt_of
from workers.outage import Outage
from workers.queue import CancellationQueue
from workers.story import tell_postponed, tell_settled

log = structlog.get_logger()

Answer = TypeVar("Answer")
#: A way to ask the queue: until it answers, or once.
Asking = Callable[[Callable[[], Awaitable[Answer]]], Awaitable[Answer | None]]

#: By how much each pause between two looks is longer than the one before: what ends soon is seen soon.
LOOK_LATER = 1.25


@dataclass(frozen=True)
class Limits:
    """How much a canceller takes on, and how long it waits for what."""

    batch_size: int = 400
    batches_in_flight: int = 3  #: a plane
    max_in_flight: int | None = None  #: cancellations of a plane; by default as many as the batches hold
    stops_per_second: float | None = None  #: of runs, at most, on a plane; half of them may repeat earlier ones
    lease_seconds: float = 30.0
    drain_seconds: float = 20.0
    round_seconds: float = 3.0  #: how long a round looks without progress before it postpones
    look_seconds: float = 0.02  #: the first pause between two looks; each further one is a quarter longer
    look_at_most_seconds: float = 0.5
    postpone_seconds: float = 1.0  #: after the first round; doubled by each further one
    postpone_at_most_seconds: float = 60.0
    patience: Mapping[Rung, timedelta] = field(
        default_factory=lambda: {Rung.ASK: timedelta(seconds=10), Rung.INSIST: timedelta(seconds=30)}
    )


class Canceller:
    """One plane's cancellations, through its adapter."""

    def __init__(
        self,
        queue: CancellationQueue,
        adapter: Adapter,
        *,
        worker: str,
        limits: Limits,
        outage: Outage,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._adapter = adapter
        self._worker = worker
        self._limits = limits
        self._outage = outage
        self._clock = clock
        self._jitter = jitter
        self._allowance = Allowance(clock, per_second=limits.stops_per_second)
        self._repeats = Allowance(clock, per_second=_for_repeats(limits))
        self._breakers: dict[object, Breaker] = {}
        self.held: set[Case] = set()  #: what is leased and neither settled nor given back

    @property
    def engine(self) -> str:
        """What the plane's work runs on."""
        return self._adapter.engine

    @property
    def room(self) -> int:
        """How many more it takes on now."""
        limits = self._limits
        most = limits.batches_in_flight * limits.batch_size
        free = min(most, limits.max_in_flight or most) - len(self.held)
        stops = self._allowance.left()
        if stops is not None:  # those who were claimed for them have not all used them up yet
            free = min(free, stops - sum(case.awaits_stop for case in self.held))
        return max(0, min(limits.batch_size, free))

    def limit(self, limits: Limits) -> None:
        """Keep to these limits from now on."""
        self._limits = limits
        self._allowance.change(limits.stops_per_second)
        self._repeats.change(_for_repeats(limits))

    def batches(self, assignments: Sequence[Assignment]) -> list[Sequence[Assignment]]:
        """Split a claim into what is worked together: suspects alone, and by executor where each answers for itself."""
        batches: defaultdict[object, list[Assignment]] = defaultdict(list)
        for assignment in assignments:
            batches[self._together(assignment)].append(assignment)
        return list(batches.values())

    def _together(self, assignment: Assignment) -> object:
        """By what it is grouped; what is settled without looking keeps nothing waiting that is to be stopped."""
        if assignment.alone:
            return assignment.work.job_id
        executor = assignment.work.executor if self._adapter.per_executor else None
        return assignment.committed, assignment.closure is Closure.NEVER_CLAIMED, executor and executor.executor_id

    def hold(self, assignments: Sequence[Assignment]) -> Sequence[Case]:
        """Open the cases of a batch; they count as held from now on."""
        lease_ends = self._clock.monotonic() + self._limits.lease_seconds
        cases = [Case.opened(assignment, lease_ends) for assignment in assignments]
        self.held.update(cases)
        return cases

    async def work(self, cases: Sequence[Case]) -> None:
        """Take one batch from lease to settlement; each job stands or falls alone."""
        try:
            await self._work(cases)
        except EngineUnavailable as error:
            self._breaker(cases).met_silence(error.message)
            await self._settle_decided(cases)  # silence takes back no evidence
            await self._give_up(cases, Unsettled(Waiting.PLANE_SILENT, error.message))
        except Exception as error:  # noqa: BLE001  # the boundary of a round: a bug harms one job alone, and is logged
            await self._narrow_down(self._still_held(cases), error)
        self._let_go(cases)  # not when cancelled: a drain gives back what is held

    async def _narrow_down(self, cases: Sequence[Case], error: Exception) -> None:
        """Work each half by itself, until the one is found that the adapter, or the store, fails over."""
        if len(cases) > 1:
            log.warning("round_split", jobs=len(cases), error=str(error))
            half = len(cases) // 2
            await self.work(cases[:half])
            await self.work(cases[half:])
        elif cases:
            log.error("round_failed", job=cases[0].job_id, exc_info=error)
            detail = f"the adapter failed: {type(error).__name__}: {error}"
            await self._give_up(cases, Unsettled(Waiting.ADAPTER_ERROR, detail))

    def _still_held(self, cases: Sequence[Case]) -> list[Case]:
        """Those that this round still holds; a later round of ours may hold the same job as another case."""
        return [case for case in cases if case in self.held]

    def _let_go(self, cases: Sequence[Case]) -> None:
        self.held.difference_update(cases)

    async def _work(self, cases: Sequence[Case]) -> None:
        never_claimed, committed, open_ = _sorted_by_what_is_known(cases)
        await self.settle(never_claimed)
        asking = [*committed, *open_]
        if not asking:
            return
        breaker = self._breaker(asking)
        if not breaker.admits():
            await self._give_up(asking, Unsettled(Waiting.PLANE_SILENT, str(breaker.detail)))
            return
        if await self.publish(committed):
            breaker.met_an_answer()
        await self.find(open_)
        if silence := _silence(open_):
            raise EngineUnavailable(silence)
        if open_:
            breaker.met_an_answer()
        await self.stop(open_)
        await self.close([case for case in open_ if case.told or not case.stoppable])  # closing may stop as well
        await self.observe_until_ended(open_)
        await self.discard(open_)

    def _breaker(self, cases: Sequence[Case]) -> Breaker:
        """That of the engine, or of the one start of an executor that answers for a batch."""
        executor = cases[0].assignment.work.executor if self._adapter.per_executor else None
        start = executor and (executor.executor_id, executor.registered, executor.address)
        if start not in self._breakers:
            self._breakers[start] = Breaker(self._clock, what=executor.executor_id if executor else self.engine)
        return self._breakers[start]

    # --- the steps of a round ---

    async def find(self, cases: Sequence[Case]) -> Sequence[Case]:
        """List each job's runs; answers the cases, now with their listings."""
        if cases:
            listings = await self._adapter.find([case.assignment.work for case in cases])
            for case in cases:
                case.listing = listings.get(case.job_id, Listing())
        return cases

    async def stop(self, cases: Sequence[Case]) -> None:
        """Stop what is not known to have ended, on each case's rung. What the engine answers is not evidence."""
        now = self._clock.now()
        rungs: defaultdict[Rung, list[tuple[Case, tuple[Run, ...]]]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: case.first_stop_at is not None):  # who was never stopped goes first
            if (runs := case.stoppable) and self._may_stop(case, len(runs)):
                rungs[climb(case, now, self._limits.patience)].append((case, runs))
                case.first_stop_at, case.told = case.first_stop_at or now, True
        for rung, stopped in rungs.items():
            answers = await self._adapter.stop([run for _, runs in stopped for run in runs], rung)
            for case, runs in stopped:
                heed(case, [answers.get(run.handle, StopAnswer.UNREACHABLE) for run in runs])

    def _may_stop(self, case: Case, runs: int) -> bool:
        """Whether so many stops are allowed now. Those that repeat others are half of all at most: who does not end
        keeps nobody from being stopped for the first time."""
        if case.first_stop_at is None:
            return self._allowance.take(runs)
        return self._repeats.allows(runs) and self._allowance.take(runs) and self._repeats.take(runs)

    async def close(self, cases: Sequence[Case]) -> None:
        """End the sessions of jobs that nothing but time has closed: the engine's word is better than a clock.

        Its executor's word is as good, and may have come since the job was claimed.
        """
        unclosed = _unclosed(await self.extend(_unclosed(cases)))
        if unclosed:
            closed = await self._adapter.close([case.assignment.work for case in unclosed])
            for case in unclosed:
                case.closure = Closure.ENGINE_CLOSED if case.job_id in closed else case.closure

    async def observe_until_ended(self, cases: Sequence[Case]) -> None:
        """Look, settle what has ended, stop the rest again; until all is settled or looking brings no progress."""
        open_, pause = list(cases), self._limits.look_seconds
        progress_at = extended_at = self._clock.monotonic()
        while open_:
            await self.look([case for case in open_ if not case.is_decided])
            await self.settle_or_keep([case for case in open_ if case.is_decided])
            await self.postpone_or_keep(
                [case for case in open_ if isinstance(case.judgement, Unsettled) and case.judgement.hopeless]
            )
            left, now = self._still_held(open_), self._clock.monotonic()
            if len(left) < len(open_):
                progress_at, pause = now, self._limits.look_seconds
            if now - progress_at >= self._limits.round_seconds:
                left = await self.postpone_all_but_absent(left)
            if now - extended_at >= self._limits.lease_seconds / 3:
                left, extended_at = await self.extend(left), now
            left = self._let_go_unleased(left)
            if await self.close_what_ended(left):
                open_ = self._still_held(left)
                continue
            open_ = self._still_held(left)
            await self.stop(open_)
            await self._clock.pause(pause if open_ else 0)
            pause = min(LOOK_LATER * pause, self._limits.look_at_most_seconds)

    async def close_what_ended(self, cases: Sequence[Case]) -> bool:
        """Learn of what has ended whether it was closed, or close it; whether the next look can decide more."""
        ended = [
            case
            for case in cases
            if isinstance(case.judgement, Unsettled) and case.judgement.waiting is Waiting.NOT_CLOSED
        ]
        if ended:
            await self.close(ended)
        return any(case.closure is not None for case in ended)

    async def look(self, cases: Sequence[Case]) -> None:
        """List again and judge; only a listing that was begun after closing can end a case."""
        closed = {case.job_id for case in cases if case.closure is not None}
        begun_at = self._clock.monotonic()
        await self.find(cases)
        await self.observe([case for case in cases if case.unclear])
        for case in cases:
            case.judgement = judge(case, closed_before=case.job_id in closed, begun_at=begun_at)
            case.seen_at = self._clock.now()

    async def observe(self, cases: Sequence[Case]) -> None:
        """Ask the engine for the fate of each run that its listing does not tell."""
        if cases:
            answers = await self._adapter.observe([run for case in cases for run in case.unclear])
            for case in cases:
                case.observed(answers)

    async def settle(self, cases: Sequence[Case]) -> None:
        """Write ``cancelled`` with the receipts, and ``completed`` for what had its effect: published, or tracked."""
        await self._settle(cases, self._outage.outlast)

    async def settle_or_keep(self, cases: Sequence[Case]) -> None:
        """The same; while the queue is away, what is still leased is looked at again meanwhile.

        Evidence is not given up with the lease, which somebody else may not even have taken over.
        """
        leased = {case for case in cases if self._is_leased(case)}
        await self._settle([case for case in cases if case in leased], self._outage.attempt)
        await self._settle([case for case in cases if case not in leased], self._outage.outlast)

    async def _settle(self, cases: Sequence[Case], ask: Asking[list[Settled]]) -> None:
        if not cases:
            return
        settlements = [self._settlement(case) for case in cases]
        answers = await ask(partial(self._queue.settle, settlements, worker=self._worker))
        if answers is None:
            return
        for case, answer in zip(cases, answers, strict=True):
            case.settled = answer.landed
        self._let_go(cases)
        tell_settled(cases, settlements, answers)

    def _settlement(self, case: Case) -> Settlement:
        receipt = result = None
        seen_at = case.seen_at or self._clock.now()
        match case.judgement:
            case Ended() as ended:
                receipt = receipt_of(case, ended, engine=self._adapter.engine, worker=self._worker, seen_at=seen_at)
            case Succeeded(run):
                result = ExternalResult(run.handle, run.word or run.status.value, run.ended_at)
        return Settlement(case.job_id, case.assignment.lease, receipt, case.first_stop_at, result)

    async def publish(self, cases: Sequence[Case]) -> bool:
        """A committed job is never stopped: see to its publication, and complete it; whether one is published."""
        if not cases:
            return False
        published = await self._adapter.publish([case.assignment.work for case in cases])
        await self.settle([case for case in cases if case.job_id in published])
        unpublished = [case for case in cases if case.job_id not in published]
        for case in unpublished:
            case.judgement = Unsettled(
                Waiting.PLANE_SILENT, "it is committed, and its publication has not been confirmed"
            )
        await self.postpone(unpublished)
        return bool(published)

    async def postpone(self, cases: Sequence[Case]) -> None:
        """Give back for now, each with the reason in a sentence; later each time, and not all at once."""
        await self._postpone(cases, self._outage.outlast)

    async def postpone_or_keep(self, cases: Sequence[Case]) -> None:
        """The same; while the queue is away, what is still leased is looked at again meanwhile."""
        await self._postpone(cases, self._outage.attempt)
        self._let_go_unleased(cases)

    async def _postpone(self, cases: Sequence[Case], ask: Asking[list[Postponed]]) -> None:
        if not cases:
            return
        given = [self._postponement(case) for case in cases]
        answers = await ask(partial(self._queue.postpone, given))
        if answers is None:
            return
        by_job = {answer.job_id: answer for answer in answers}
        self._let_go(cases)
        for case, postponement in zip(cases, given, strict=True):
            tell_postponed(case, postponement, by_job.get(case.job_id))

    async def postpone_all_but_absent(self, cases: Sequence[Case]) -> list[Case]:
        """What waits to be settled is kept, and what only lacks its second listing: another round would begin anew."""
        await self.postpone_or_keep(
            [case for case in cases if isinstance(case.judgement, Unsettled) and case.absent_since is None]
        )
        return self._still_held(cases)

    def _postponement(self, case: Case) -> Postponement:
        reason = case.judgement
        if not isinstance(reason, Unsettled):
            raise TypeError(f"a case is postponed only with a reason, not {reason}")
        return Postponement(
            case.job_id,
            case.assignment.lease,
            reason.waiting,
            reason.detail,
            self._delay(case.assignment.rounds),
            case.rung,
            case.rung_since,
            case.first_stop_at,
        )

    def _delay(self, rounds: int) -> float:
        """Exponential in the rounds so far, bounded, and between half and the whole of that by chance."""
        longest: float = self._limits.postpone_seconds * 2 ** min(max(rounds - 1, 0), 16)
        return min(longest, self._limits.postpone_at_most_seconds) * (0.5 + self._jitter() / 2)

    async def extend(self, cases: Sequence[Case]) -> list[Case]:
        """Keep the leases of a batch that makes progress, and learn what closed meanwhile.

        While the queue is away, what is leased is held until its lease ends.
        """
        if not cases:
            return []
        lease_seconds, asked_at = self._limits.lease_seconds, self._clock.monotonic()
        holds = [Hold(case.job_id, case.assignment.lease) for case in cases]
        kept = await self._outage.attempt(partial(self._queue.extend, holds, lease_seconds=lease_seconds))
        if kept is None:
            return self._let_go_unleased(cases)
        closures = {hold.job_id: hold.closure for hold in kept}
        for case in cases:
            if case.job_id in closures:
                case.closure = case.closure or closures[case.job_id]
                case.lease_ends = asked_at + lease_seconds
            elif not case.is_decided:  # a settlement whose answer was lost may have landed
                self._lose(case)
        return self._still_held(cases)

    def _is_leased(self, case: Case) -> bool:
        """Whether nobody else can have taken it over, as far as this process can count."""
        return self._clock.monotonic() < case.lease_ends

    def _let_go_unleased(self, cases: Sequence[Case]) -> list[Case]:
        """Let go of what somebody else may have by now, unless it waits to be settled; answers what is held."""
        for case in self._still_held(cases):
            if not (case.is_decided or self._is_leased(case)):
                self._lose(case)
        return self._still_held(cases)

    def _lose(self, case: Case) -> None:
        self._let_go([case])
        log.info("lease_lost", job=case.job_id)

    async def discard(self, cases: Sequence[Case]) -> None:
        """Remove what the cancelled jobs wrote; what cannot be removed now is found again by its executor."""
        cancelled = [case.assignment.work for case in cases if case.settled and case.assignment.work.tracked is None]
        if not cancelled:
            return
        try:
            removed = await self._adapter.discard(cancelled)
        except EngineUnavailable as error:
            log.warning("leftovers_kept", jobs=len(cancelled), error=error.message)
            return
        found = {job_id: names for job_id, names in removed.items() if names}
        if found:
            await self._outage.outlast(partial(self._queue.record_leftovers, found))

    async def _give_up(self, cases: Sequence[Case], reason: Unsettled) -> None:
        held = self._still_held(cases)
        for case in held:
            case.judgement = reason
        with suppress(Exception):  # the store fails over it as well: then the lease runs out
            await self.postpone(held)

    async def _settle_decided(self, cases: Sequence[Case]) -> None:
        with suppress(Exception):  # as above
            await self.settle([case for case in self._still_held(cases) if case.is_decided])


def _silence(cases: Sequence[Case]) -> str | None:
    """Why nothing at all was learned of a batch; None where the engine told something, or nobody asked."""
    silent = [
        case.listing.trouble.detail
        for case in cases
        if case.listing.trouble and case.listing.trouble.waiting is Waiting.PLANE_SILENT and not case.listing.runs
    ]
    return silent[0] if silent and len(silent) == len(cases) else None


def _for_repeats(limits: Limits) -> float | None:
    return None if limits.stops_per_second is None else limits.stops_per_second / 2


def _unclosed(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.closure in (None, Closure.PERMIT_EXPIRED)]


def _sorted_by_what_is_known(cases: Sequence[Case]) -> tuple[list[Case], list[Case], list[Case]]:
    """Never claimed (the store itself is the evidence), committed, and those that the engine has to be asked about."""
    never_claimed = [case for case in cases if case.closure is Closure.NEVER_CLAIMED]
    for case in never_claimed:
        case.judgement = Ended(Outcome.NEVER_STARTED)
    committed = [case for case in cases if case.assignment.committed]
    known = {case.job_id for case in (*never_claimed, *committed)}
    return never_claimed, committed, [case for case in cases if case.job_id not in known]
