"""What the evidence allows to be said of a cancellation: pure decisions, no input and no output.

The one rule: ``cancelled`` needs closing first, and then the engine's word from a listing that was begun afterwards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from adapters.base import ENDED, ClosedWork, Listing, Run, RunStatus, StopAnswer
from control_plane.jobs import Closure, Handle, Outcome, Receipt, Rung, Waiting
from control_plane.planes import Owner
from control_plane.work import Assignment, Work

UNLISTED = Listing()  #: nothing has been asked yet
LADDER = (Rung.ASK, Rung.INSIST, Rung.FORCE)


@dataclass(frozen=True)
class Ended:
    """The engine's word: nothing of the job runs, and nothing can start. *run* is the one that decided."""

    outcome: Outcome
    run: Run | None = None


@dataclass(frozen=True)
class Unsettled:
    """Not yet; *hopeless* when looking again in this round cannot help."""

    waiting: Waiting
    detail: str
    hopeless: bool = False


@dataclass(frozen=True)
class Succeeded:
    """The engine's word: a tracked run did all that it was to do, and the job will be completed."""

    run: Run


Judgement = Ended | Succeeded | Unsettled


@dataclass(eq=False, slots=True)
class Case:
    """One cancellation in one round: what was claimed, and what has been learned since.

    Equal to itself alone: another round of the same job is another case.
    """

    job_id: UUID
    assignment: Assignment
    closure: Closure | None
    rung: Rung | None
    rung_since: datetime | None
    first_stop_at: datetime | None
    lease_ends: float = math.inf  #: monotonic; from then on somebody else may claim it
    top: Rung = Rung.FORCE  #: the highest rung that the engine has
    refused: bool = False  #: the last stop was not permitted
    stopped_at: dict[Handle, float] = field(default_factory=dict)  #: monotonic; each run's last stop in this round
    listing: Listing = UNLISTED
    foreign: bool = False  #: the handle on record names a run that is not this job's
    settled: bool = False
    absent_since: float | None = None  #: monotonic moment of the first listing that proves absence
    judgement: Judgement | None = None
    seen_at: datetime | None = None  #: when that was seen

    @classmethod
    def opened(cls, assignment: Assignment, lease_ends: float = math.inf) -> "Case":
        """A case as it stands when its round begins."""
        return cls(
            job_id=assignment.work.job_id,
            assignment=assignment,
            closure=assignment.closure,
            rung=assignment.rung,
            rung_since=assignment.rung_since,
            first_stop_at=assignment.first_stop_at,
            lease_ends=lease_ends,
        )

    @property
    def work(self) -> Work:
        """The work as an adapter is asked about it: closed, and running when last seen, it is asked about often."""
        work = self.assignment.work
        if self.closure is None or work.tracked is not None or not self.active:
            return work
        return ClosedWork(**msgspec.structs.asdict(work))

    @property
    def active(self) -> tuple[Run, ...]:
        """The runs that the latest listing shows as active."""
        return tuple(run for run in self.listing.runs if run.status is RunStatus.ACTIVE)

    @property
    def stoppable(self) -> tuple[Run, ...]:
        """The runs that the engine shows as this job's and not as ended; what only a handle names is not stopped.

        Nor is a tracked run whose owner is not among those whom the plane allows.
        """
        return tuple(
            run
            for run in self.listing.runs
            if (run.status is RunStatus.ACTIVE or (run.status is RunStatus.UNKNOWN and run != self._by_handle))
            and run not in self.forbidden
        )

    def to_stop(self, now: float, again_seconds: float) -> tuple[Run, ...]:
        """Those that were not told to stop so shortly before monotonic *now*."""
        return tuple(run for run in self.stoppable if now - self.stopped_at.get(run.handle, -math.inf) >= again_seconds)

    @property
    def is_decided(self) -> bool:
        """Whether the evidence suffices; nothing that is seen later takes it back."""
        return isinstance(self.judgement, Ended | Succeeded)

    @property
    def awaits_stop(self) -> bool:
        """Whether the first stop of it is still to come, as far as is known."""
        return self.first_stop_at is None and (self.listing is UNLISTED or bool(self.stoppable))

    @property
    def forbidden(self) -> tuple[Run, ...]:
        """Tracked runs that belong to nobody whom the plane allows."""
        allowed = self.assignment.work.tracked
        if allowed is None:
            return ()
        return tuple(run for run in self.listing.runs if not allowed.allows(run.owner))

    @property
    def _by_handle(self) -> Run | None:
        """The run that the handle on record names, of which nothing else is known; tracked ones are listed by it."""
        work = self.assignment.work
        if work.handle is None or work.tracked is not None:
            return None
        return Run(work.job_id, work.tag, work.handle, RunStatus.UNKNOWN)

    @property
    def unclear(self) -> tuple[Run, ...]:
        """Runs whose fate the listing does not tell: it cannot say, or it lacks the run that the handle names."""
        unknown = tuple(run for run in self.listing.runs if run.status is RunStatus.UNKNOWN)
        named = self._by_handle
        if named is None or any(run.handle == named.handle for run in self.listing.runs):
            return unknown
        return (*unknown, named)

    def observed(self, answers: Mapping[Handle, Run]) -> None:
        """Put what the engine says of the unclear runs in their place in the listing; another job's run stays out."""
        asked, work = self.unclear, self.assignment.work
        if work.tracked is None:
            self.foreign = any(run.handle in answers and answers[run.handle].tag != work.tag for run in asked)
            answers = {handle: run for handle, run in answers.items() if run.tag == work.tag}
        clear = tuple(run for run in self.listing.runs if run not in asked)
        told = tuple(answers.get(run.handle, run) for run in asked)
        self.listing = msgspec.structs.replace(self.listing, runs=clear + told)


def judge(case: Case, *, closed_before: bool, begun_at: float) -> Judgement:
    """Judge by the latest listing, begun at monotonic *begun_at*; *closed_before*: the job had been closed by then."""
    unsettled = _unsettled(case, closed_before=closed_before)
    if unsettled is not None:
        case.absent_since = None
        return unsettled
    ended = [run for run in case.listing.runs if run.status in ENDED]
    if ended and len(ended) == len(case.listing.runs):
        return _by_tracked(ended[0]) if case.assignment.work.tracked is not None else _by_runs(ended)
    return _by_absence(case, ended, begun_at)


def _unsettled(case: Case, *, closed_before: bool) -> Unsettled | None:
    listing = case.listing
    if case.forbidden:
        return _not_ours(case)
    if case.active:
        return _still_running(case)
    if not listing.complete:
        trouble = listing.trouble
        waiting = trouble.waiting if trouble else Waiting.HANDLE_UNKNOWN
        return Unsettled(waiting, trouble.detail if trouble else "the engine's listing is not complete", hopeless=True)
    if case.foreign:
        return Unsettled(Waiting.HANDLE_UNKNOWN, "the handle on record names a run of another job", hopeless=True)
    unknown = [run for run in listing.runs if run.status is RunStatus.UNKNOWN]
    if unknown:
        return Unsettled(Waiting.HANDLE_UNKNOWN, f"the engine cannot say what became of {unknown[0].handle.run_id}")
    if not closed_before:
        # Nothing of it runs, but something could still start; closing is tried once a round.
        return Unsettled(Waiting.NOT_CLOSED, "its executor has not confirmed that nothing more will be submitted")
    return None


def _not_ours(case: Case) -> Unsettled:
    run = case.forbidden[0]
    whose = f"{run.handle.run_id} belongs to {run.owner or Owner()}"
    remedy = "the plane's owner allows it by `countermand planes allow-tracking`"
    return Unsettled(
        Waiting.NOT_PERMITTED, f"{whose}, whose work may not be stopped on this plane; {remedy}", hopeless=True
    )


def _still_running(case: Case) -> Unsettled:
    words = ", ".join(sorted({f"{run.handle.run_id} is {run.word or run.status.value}" for run in case.active}))
    if case.refused:
        return Unsettled(Waiting.NOT_PERMITTED, f"the engine did not permit the stop; {words}", hopeless=True)
    if case.first_stop_at is None:
        return Unsettled(
            Waiting.STILL_RUNNING, f"{words}, and has yet to be told to stop: so many a second are allowed"
        )
    return Unsettled(Waiting.STILL_RUNNING, f"{words}, although it was told to stop ({_rung(case).value})")


def _rung(case: Case) -> Rung:
    return case.rung or Rung.ASK


def _by_tracked(run: Run) -> Judgement:
    """Nothing of it waits to be published: what succeeded has had its effect, and cannot be called cancelled."""
    return Succeeded(run) if run.status is RunStatus.SUCCEEDED else Ended(Outcome.STOPPED, run)


def _by_runs(ended: Sequence[Run]) -> Ended:
    finished = [run for run in ended if run.status is RunStatus.SUCCEEDED]
    if finished:
        return Ended(Outcome.FINISHED_UNPUBLISHED, _latest(finished))
    return Ended(Outcome.STOPPED, _latest(ended))


def _by_absence(case: Case, ended: Sequence[Run], begun_at: float) -> Judgement:
    """No run, or one that is gone: evidence only twice, listing_lag apart, by the incarnation that would know it."""
    work = case.assignment.work
    if work.tracked is not None:  # somebody saw this run: that the engine does not know it proves nothing
        named = work.handle.run_id if work.handle else ""
        return Unsettled(Waiting.HANDLE_UNKNOWN, f"the engine knows no run {named!r}; is it its name?", hopeless=True)
    expected = work.handle.incarnation if work.handle else work.incarnation
    if expected is not None and case.listing.incarnation != expected:
        case.absent_since = None
        detail = f"incarnation {case.listing.incarnation} of the engine cannot vouch for {expected}"
        return Unsettled(Waiting.HANDLE_UNKNOWN, detail, hopeless=True)
    if case.absent_since is None:
        case.absent_since = begun_at
        return Unsettled(Waiting.HANDLE_UNKNOWN, "the engine shows no run of it; a second listing has to agree")
    if begun_at - case.absent_since < case.assignment.listing_lag_seconds:
        return Unsettled(Waiting.HANDLE_UNKNOWN, "the engine shows no run of it; its listings may lag")
    known = [*ended, *(run for run in case.listing.runs if run.status is RunStatus.GONE)]
    if known:
        return _by_runs(known)
    return Ended(Outcome.STOPPED if work.handle else Outcome.NEVER_STARTED)


def _latest(runs: Iterable[Run]) -> Run:
    return max(runs, key=lambda run: (run.ended_at is not None, run.ended_at.timestamp() if run.ended_at else 0.0))


def receipt_of(case: Case, ended: Ended, *, engine: str, worker: str, seen_at: datetime) -> Receipt:
    """The evidence as it is written down."""
    work = case.assignment.work
    handle: Handle | None = ended.run.handle if ended.run else work.handle
    return Receipt(
        outcome=ended.outcome,
        seen_at=seen_at,
        worker=worker,
        closure=case.closure,
        tag=None if work.tracked is not None else work.tag,
        engine=case.listing.engine or engine,
        incarnation=case.listing.incarnation,
        handle=handle,
        engine_status=ended.run.word if ended.run else None,
        engine_ended_at=ended.run.ended_at if ended.run else None,
        rounds=case.assignment.rounds,
        rung=case.rung,
    )


def climb(case: Case, now: datetime, patience: Mapping[Rung, timedelta]) -> Rung:
    """The rung to stop with now: the next one when the time of the present one is up, never above the engine's top."""
    if case.rung is None or case.rung_since is None:
        case.rung, case.rung_since = Rung.ASK, now
        return case.rung
    higher = LADDER[LADDER.index(case.rung) + 1 :]
    if higher and case.rung is not case.top and now - case.rung_since >= patience.get(case.rung, timedelta.max):
        case.rung, case.rung_since = higher[0], now
    return case.rung


def heed(case: Case, answers: Sequence[StopAnswer]) -> None:
    """Take note of what the engine answered to a stop: it decides nothing but what is tried next."""
    case.refused = StopAnswer.NOT_PERMITTED in answers
    if StopAnswer.UNSUPPORTED in answers and case.rung is not None:
        case.top = case.rung = LADDER[max(LADDER.index(case.rung) - 1, 0)]
