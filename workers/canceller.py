"""The canceller of one plane: takes a batch of leased cancellations from the request to the engine's word.

A round is find → stop → close → observe → settle, set-wise. What cannot be settled is postponed with the reason. It
keeps nothing that the store does not know: any canceller can take over after any crash.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import structlog

from adapters.base import Adapter, Listing, Run, StopAnswer
from control_plane.errors import EngineUnavailable
from control_plane.jobs import Closure, Outcome, Rung, Waiting
from control_plane.work import Assignment, Work
from workers.allowance import Allowance
from workers.breaker import Breaker
from workers.clock import Clock
from workers.judgement import Case, Ended, Unsettled, climb, heed, judge
from workers.leases import Leases
from workers.limits import Limits
from workers.outage import Outage
from workers.queue import CancellationQueue

log = structlog.get_logger()

#: The pause before the next look, as a part of the time that has passed without progress: so much later, at most, is an
#: end seen than it was.
LOOK_LATER = 0.1


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
        self._adapter = adapter
        self._limits = limits
        self._clock = clock
        self._leases = Leases(
            queue, engine=adapter.engine, worker=worker, limits=limits, outage=outage, clock=clock, jitter=jitter
        )
        self._allowance = Allowance(clock, per_second=limits.stops_per_second)
        self._repeats = Allowance(clock, per_second=_for_repeats(limits))
        self._breakers: dict[object, Breaker] = {}

    @property
    def held(self) -> AbstractSet[Case]:
        """What is leased and neither settled nor given back; a live view."""
        return self._leases.cases

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
        self._limits = self._leases.limits = limits
        self._allowance.change(limits.stops_per_second)
        self._repeats.change(_for_repeats(limits))

    def batches(self, assignments: Sequence[Assignment]) -> list[Sequence[Assignment]]:
        """Split a claim into what is worked together: suspects alone, the rest by executor where each answers for
        itself, else by cluster, for so does each of these."""
        batches: defaultdict[object, list[Assignment]] = defaultdict(list)
        for assignment in assignments:
            batches[self._together(assignment)].append(assignment)
        return list(batches.values())

    def _together(self, assignment: Assignment) -> object:
        """By what it is grouped; what is settled without looking keeps nothing waiting that is to be stopped."""
        if assignment.alone:
            return assignment.work.job_id
        work = assignment.work
        who = work.executor and work.executor.executor_id if self._adapter.per_executor else work.execution_cluster
        return assignment.committed, assignment.closure is Closure.NEVER_CLAIMED, who

    def hold(self, assignments: Sequence[Assignment]) -> Sequence[Case]:
        """Open the cases of a batch; they count as held from now on."""
        return self._leases.open(assignments)

    async def work(self, cases: Sequence[Case]) -> None:
        """Take one batch from lease to settlement; each job stands or falls alone."""
        try:
            await self._work(cases)
        except EngineUnavailable as error:
            self._breaker(cases).met_silence(error.message)
            await self._leases.settle_decided(cases)  # silence takes back no evidence
            await self._leases.give_up(cases, Unsettled(Waiting.PLANE_SILENT, error.message))
        except Exception as error:  # noqa: BLE001  # the boundary of a round: a bug harms one job alone, and is logged
            await self._narrow_down(self._leases.still_held(cases), error)
        self._leases.let_go(cases)  # not when cancelled: a drain gives back what is held

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
            await self._leases.give_up(cases, Unsettled(Waiting.ADAPTER_ERROR, detail))

    async def _work(self, cases: Sequence[Case]) -> None:
        never_claimed, committed, open_ = _sorted_by_what_is_known(cases)
        await self._leases.settle(never_claimed)
        asking = [*committed, *open_]
        if not asking:
            return
        breaker = self._breaker(asking)
        if not breaker.admits():
            await self._leases.give_up(asking, Unsettled(Waiting.PLANE_SILENT, str(breaker.detail)))
            return
        if await self.publish(committed):
            breaker.met_an_answer()
        await self.find(open_)
        if silence := _silence(open_):
            raise EngineUnavailable(silence)
        if open_:
            breaker.met_an_answer()
        await self.stop(open_)
        await self.close([case for case in open_ if case.stopped_at or not case.stoppable])  # closing may stop as well
        await self.observe_until_ended(open_)
        await self.discard(open_)

    def _breaker(self, cases: Sequence[Case]) -> Breaker:
        """That of the engine on a batch's cluster, or of the one start of an executor that answers for a batch."""
        who, what = self._answerer(cases[0].assignment.work)
        if who not in self._breakers:
            self._breakers = {known: other for known, other in self._breakers.items() if other.is_needed}
            self._breakers[who] = Breaker(self._clock, what=what)
        return self._breakers[who]

    def _answerer(self, work: Work) -> tuple[object, str]:
        """Whose silence would keep the work waiting, and what the log calls it."""
        if self._adapter.per_executor:
            executor = work.executor
            start = executor and (executor.executor_id, executor.registered, executor.address)
            return start, executor.executor_id if executor else self.engine
        cluster = work.execution_cluster
        return cluster, f"{self.engine}, {cluster} cluster" if cluster else self.engine

    # --- the steps of a round ---

    async def find(self, cases: Sequence[Case]) -> Sequence[Case]:
        """List each job's runs; answers the cases, now with their listings."""
        if cases:
            listings = await self._adapter.find([case.work for case in cases])
            for case in cases:
                case.listing = listings.get(case.job_id, Listing())
        return cases

    async def stop(self, cases: Sequence[Case]) -> None:
        """Stop what is not known to have ended, on each case's rung. What the engine answers is not evidence."""
        now, moment = self._clock.now(), self._clock.monotonic()
        rungs: defaultdict[Rung, list[tuple[Case, tuple[Run, ...]]]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: case.first_stop_at is not None):  # who was never stopped goes first
            runs = case.to_stop(moment, self._limits.stop_again_seconds)
            if runs and self._may_stop(case, len(runs)):
                rungs[climb(case, now, self._limits.patience)].append((case, runs))
                case.first_stop_at = case.first_stop_at or now
        for rung, stopped in rungs.items():
            answers = await self._adapter.stop([run for _, runs in stopped for run in runs], rung)
            for case, runs in stopped:
                case.stopped_at |= dict.fromkeys((run.handle for run in runs), moment)  # not where the adapter failed
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
        unclosed = _unclosed(await self._leases.extend(_unclosed(cases)))
        if unclosed:
            closed = await self._adapter.close([case.assignment.work for case in unclosed])
            for case in unclosed:
                case.closure = Closure.ENGINE_CLOSED if case.job_id in closed else case.closure

    async def observe_until_ended(self, cases: Sequence[Case]) -> None:
        """Look, settle what has ended, stop the rest again; until all is settled or looking brings no progress."""
        open_ = list(cases)
        progress_at = extended_at = self._clock.monotonic()
        while open_:
            await self.look([case for case in open_ if not case.is_decided])
            await self._leases.settle_or_keep([case for case in open_ if case.is_decided])
            await self._leases.postpone_or_keep(
                [case for case in open_ if isinstance(case.judgement, Unsettled) and case.judgement.hopeless]
            )
            left, now = self._leases.still_held(open_), self._clock.monotonic()
            if len(left) < len(open_):
                progress_at = now
            if now - progress_at >= self._limits.round_seconds:
                left = await self._leases.postpone_all_but_absent(left)
            if now - extended_at >= self._limits.lease_seconds / 3:
                left, extended_at = await self._leases.extend(left), now
            left = self._leases.let_go_unleased(left)
            if await self.close_what_ended(left):
                open_ = self._leases.still_held(left)
                continue
            open_ = self._leases.still_held(left)
            await self.stop(open_)
            await self._clock.pause(self._pause(open_, now - progress_at) if open_ else 0)

    def _pause(self, cases: Sequence[Case], seconds: float) -> float:
        """How long to wait for the next look at these, so long after the latest progress."""
        soonest = max(self._limits.look_seconds, min(case.listing.again_seconds for case in cases))
        return min(max(LOOK_LATER * seconds, soonest), self._limits.look_at_most_seconds)

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

    async def publish(self, cases: Sequence[Case]) -> bool:
        """A committed job is never stopped: see to its publication, and complete it; whether one is published."""
        if not cases:
            return False
        published = await self._adapter.publish([case.assignment.work for case in cases])
        await self._leases.settle([case for case in cases if case.job_id in published])
        unpublished = [case for case in cases if case.job_id not in published]
        for case in unpublished:
            case.judgement = Unsettled(
                Waiting.PLANE_SILENT, "it is committed, and its publication has not been confirmed"
            )
        await self._leases.postpone(unpublished)
        return bool(published)

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
            await self._leases.record_leftovers(found)


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
