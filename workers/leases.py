"""What one plane's canceller has leased at its queue: settled, given back, or extended while it makes progress.

While the queue is away, what is leased is kept until its lease ends, and evidence for longer.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from control_plane.inputs import ExternalResult
from control_plane.work import Assignment, Hold, Postponed, Postponement, Settled, Settlement
from workers.clock import Clock
from workers.judgement import Case, Ended, Succeeded, Unsettled, receipt_of
from workers.limits import Limits
from workers.outage import Outage
from workers.queue import CancellationQueue
from workers.story import tell_postponed, tell_settled

log = structlog.get_logger()

Answer = TypeVar("Answer")
#: A way to ask the queue: until it answers, or once.
Asking = Callable[[Callable[[], Awaitable[Answer]]], Awaitable[Answer | None]]


class Leases:
    """The open cases of one plane, at one queue; *engine* is what its receipts say of where the work ran."""

    def __init__(
        self,
        queue: CancellationQueue,
        *,
        engine: str,
        worker: str,
        limits: Limits,
        outage: Outage,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.limits = limits
        self.cases: set[Case] = set()  #: what is leased and neither settled nor given back
        self._queue = queue
        self._engine = engine
        self._worker = worker
        self._outage = outage
        self._clock = clock
        self._jitter = jitter

    def open(self, assignments: Sequence[Assignment]) -> Sequence[Case]:
        """Open the cases of a batch; they count as held from now on."""
        lease_ends = self._clock.monotonic() + self.limits.lease_seconds
        cases = [Case.opened(assignment, lease_ends) for assignment in assignments]
        self.cases.update(cases)
        return cases

    def still_held(self, cases: Sequence[Case]) -> list[Case]:
        """Those that this round still holds; a later round of ours may hold the same job as another case."""
        return [case for case in cases if case in self.cases]

    def let_go(self, cases: Sequence[Case]) -> None:
        """Hold these no longer; whatever becomes of them is somebody else's."""
        self.cases.difference_update(cases)

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
        self.let_go(cases)
        tell_settled(cases, settlements, answers)

    def _settlement(self, case: Case) -> Settlement:
        receipt = result = None
        seen_at = case.seen_at or self._clock.now()
        match case.judgement:
            case Ended() as ended:
                receipt = receipt_of(case, ended, engine=self._engine, worker=self._worker, seen_at=seen_at)
            case Succeeded(run):
                result = ExternalResult(run.handle, run.word or run.status.value, run.ended_at)
        return Settlement(case.job_id, case.assignment.lease, receipt, case.first_stop_at, result)

    async def postpone(self, cases: Sequence[Case]) -> None:
        """Give back for now, each with the reason in a sentence; later each time, and not all at once."""
        await self._postpone(cases, self._outage.outlast)

    async def postpone_or_keep(self, cases: Sequence[Case]) -> None:
        """The same; while the queue is away, what is still leased is looked at again meanwhile."""
        await self._postpone(cases, self._outage.attempt)
        self.let_go_unleased(cases)

    async def _postpone(self, cases: Sequence[Case], ask: Asking[list[Postponed]]) -> None:
        if not cases:
            return
        given = [self._postponement(case) for case in cases]
        answers = await ask(partial(self._queue.postpone, given))
        if answers is None:
            return
        by_job = {answer.job_id: answer for answer in answers}
        self.let_go(cases)
        for case, postponement in zip(cases, given, strict=True):
            tell_postponed(case, postponement, by_job.get(case.job_id))

    async def postpone_all_but_absent(self, cases: Sequence[Case]) -> list[Case]:
        """What waits to be settled is kept, and what only lacks its second listing: another round would begin anew."""
        await self.postpone_or_keep(
            [case for case in cases if isinstance(case.judgement, Unsettled) and case.absent_since is None]
        )
        return self.still_held(cases)

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
        longest: float = self.limits.postpone_seconds * 2 ** min(max(rounds - 1, 0), 16)
        return min(longest, self.limits.postpone_at_most_seconds) * (0.5 + self._jitter() / 2)

    async def extend(self, cases: Sequence[Case]) -> list[Case]:
        """Keep the leases of a batch that makes progress, and learn what closed meanwhile.

        While the queue is away, what is leased is held until its lease ends.
        """
        if not cases:
            return []
        lease_seconds, asked_at = self.limits.lease_seconds, self._clock.monotonic()
        holds = [Hold(case.job_id, case.assignment.lease) for case in cases]
        kept = await self._outage.attempt(partial(self._queue.extend, holds, lease_seconds=lease_seconds))
        if kept is None:
            return self.let_go_unleased(cases)
        closures = {hold.job_id: hold.closure for hold in kept}
        for case in cases:
            if case.job_id in closures:
                case.closure = case.closure or closures[case.job_id]
                case.lease_ends = asked_at + lease_seconds
            elif not case.is_decided:  # a settlement whose answer was lost may have landed
                self._lose(case)
        return self.still_held(cases)

    def _is_leased(self, case: Case) -> bool:
        """Whether nobody else can have taken it over, as far as this process can count."""
        return self._clock.monotonic() < case.lease_ends

    def let_go_unleased(self, cases: Sequence[Case]) -> list[Case]:
        """Let go of what somebody else may have by now, unless it waits to be settled; answers what is held."""
        for case in self.still_held(cases):
            if not (case.is_decided or self._is_leased(case)):
                self._lose(case)
        return self.still_held(cases)

    def _lose(self, case: Case) -> None:
        self.let_go([case])
        log.info("lease_lost", job=case.job_id)

    async def record_leftovers(self, removed: Mapping[UUID, Sequence[str]]) -> None:
        """Note on the cancellations what was discarded of their jobs' output."""
        await self._outage.outlast(partial(self._queue.record_leftovers, removed))

    async def give_up(self, cases: Sequence[Case], reason: Unsettled) -> None:
        """Postpone what is still held, all for one reason. Where the queue fails over it, the leases run out."""
        held = self.still_held(cases)
        for case in held:
            case.judgement = reason
        with suppress(Exception):
            await self.postpone(held)

    async def settle_decided(self, cases: Sequence[Case]) -> None:
        """Settle what is known already of those that are still held. Where the queue fails over it, as above."""
        with suppress(Exception):
            await self.settle([case for case in self.still_held(cases) if case.is_decided])
