"""Cancelling on the embedded engine: each job is asked of the run server of the executor that claimed it.

The engine lives and dies with its executor's process. Its silence proves nothing; a later incarnation of the same
executor, which holds the folder's lock, proves that every run of the earlier ones has ended.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import TypeVar
from uuid import UUID

from msgspec import Struct, structs

from adapters.base import Check, Listing, Run, RunStatus, StopAnswer, Trouble
from adapters.narrative import wire
from adapters.narrative.line import Line, SilentError
from adapters.registry import Surroundings
from control_plane.errors import BadInput
from control_plane.jobs import Handle, Rung, Waiting, executor_of
from control_plane.work import Executor, Work

Asked = TypeVar("Asked")
Told = TypeVar("Told", bound=wire.Answer)

OPTIONS = ("token", "executors", "idle")
INCARNATION_ENDED = "incarnation_ended"  #: our word for a run whose engine's process is known to be over
NO_EXECUTOR = Trouble(Waiting.HANDLE_UNKNOWN, "no executor is recorded for this job")
NO_SUCH_NAME = Trouble(
    Waiting.HANDLE_UNKNOWN, "the handle names no run of an executor of this plane: <executor>/<incarnation>/<run>"
)


class EmbeddedAdapter:
    """The adapter of a Narrative plane on embedded DuckDB. No call lasts longer than *timeout_seconds*.

    ``running`` and ``check`` ask the *executors* given and every other that works have named since. The *idle* ones
    hold no job, so that their silence keeps nothing from being cancelled.
    """

    engine = wire.ENGINE
    per_executor = True

    def __init__(
        self,
        *,
        timeout_seconds: float = 5.0,
        token: str | None = None,
        executors: Iterable[Executor] = (),
        idle: Collection[str] = (),
    ) -> None:
        self._line = Line(timeout_seconds, token)
        self._executors = {executor.executor_id: executor for executor in executors}
        self._idle = frozenset(idle)

    async def find(self, works: Sequence[Work]) -> Mapping[UUID, Listing]:
        """Each job's run, by its tag, or by its name. A silent executor's jobs are answered with the trouble."""
        own = [work for work in works if work.tracked is None]
        answers = await self._ask_about(own, "/v1/list", _named, wire.Runs)
        found = {run.tag: run for answer in _given(answers) for run in answer.runs}
        listings = {work.job_id: _listing(work, answers, found.get(work.tag)) for work in own}
        return listings | await self._find_tracked([work for work in works if work.tracked is not None])

    async def _find_tracked(self, works: Sequence[Work]) -> dict[UUID, Listing]:
        answers = await self._ask_about(works, "/v1/observe", _handles, wire.Runs)
        found = {run.handle: run for answer in _given(answers) for run in answer.runs}
        return {work.job_id: _tracked_listing(work, answers, found) for work in works}

    async def stop(self, runs: Sequence[Run], rung: Rung) -> Mapping[Handle, StopAnswer]:  # noqa: ARG002  one rung
        """Have these runs interrupted until they end; the engine knows no harder way, so every rung is this one."""
        answers = await self._ask_of_runs(runs, "/v1/stop", wire.Stops)
        told = {stop.handle: stop.answer for answer in _given(answers) for stop in answer.stops}
        return {run.handle: told.get(run.handle) or _unstopped(run, answers) for run in runs}

    async def close(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Close each job's tag at its executor; an earlier incarnation's sessions are closed by its end."""
        answers = await self._ask_about(works, "/v1/close", _named, wire.Done)
        return frozenset(work.job_id for work in works if _is_done(work, answers))

    async def observe(self, runs: Sequence[Run]) -> Mapping[Handle, Run]:
        """What its executor says of each run now; those of a silent executor are left out."""
        answers = await self._ask_of_runs(runs, "/v1/observe", wire.Runs)
        seen = {run.handle: run for answer in _given(answers) for run in answer.runs}
        now = (_seen_now(run, answers, seen.get(run.handle)) for run in runs)
        return {run.handle: run for run in now if run is not None}

    async def running(self) -> Listing:
        """The active runs of every executor known here, without other people's; complete when all of them answered."""
        answers = await self._ask_each(dict.fromkeys(self._executors), "/v1/running", wire.Runs)
        trouble = next((answer for answer in answers.values() if isinstance(answer, Trouble)), None)
        runs = tuple(run for answer in _given(answers) for run in answer.runs if run.owner is None)
        return Listing(runs, complete=trouble is None and bool(answers), trouble=trouble)

    async def publish(self, works: Sequence[Work]) -> frozenset[UUID]:
        """Have each job's executor publish its output; works without a publication are left out."""
        ordered = [work for work in works if work.publication is not None]
        answers = await self._ask_about(ordered, "/v1/publish", _orders, wire.Done)
        return frozenset(work.job_id for work in ordered if _is_done(work, answers))

    async def discard(self, works: Sequence[Work]) -> Mapping[UUID, tuple[str, ...]]:
        """Have each job's executor remove its output; the jobs of a silent one are left out."""
        answers = await self._ask_about(works, "/v1/discard", _named, wire.Removed)
        told = {work.job_id: answers.get(_executor_of(work)) for work in works}
        return {
            job_id: tuple(answer.removed.get(job_id, ()))
            for job_id, answer in told.items()
            if isinstance(answer, wire.Removed)
        }

    async def check(self) -> Check:
        """Whether an executor answers, and every one that may hold jobs; how many do, and how long that took."""
        began = monotonic()
        answers = await self._ask_each(dict.fromkeys(self._executors), "/v1/running", wire.Runs)
        seconds = monotonic() - began
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, Trouble)}
        needed = [trouble.detail for name, trouble in silent.items() if name not in self._idle]
        answering = len(answers) - len(silent)
        detail = _told(answering, len(answers), needed)
        return Check(ok=answering > 0 and not needed, detail=detail, seconds=seconds)

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._line.aclose()

    async def _ask_about(
        self, works: Sequence[Work], path: str, put: Callable[[Sequence[Work]], Struct], told: type[Told]
    ) -> Mapping[str, Told | Trouble]:
        by_executor: defaultdict[str, list[Work]] = defaultdict(list)
        for work in works:
            if work.executor is not None:
                self._executors[work.executor.executor_id] = work.executor
                by_executor[work.executor.executor_id].append(work)
        requests = {executor_id: put(group) for executor_id, group in by_executor.items()}
        return await self._ask_each(requests, path, told)

    async def _ask_of_runs(self, runs: Sequence[Run], path: str, told: type[Told]) -> Mapping[str, Told | Trouble]:
        """A handle names its executor; where that listens was told by the work that it was found for."""
        by_executor: defaultdict[str, list[Handle]] = defaultdict(list)
        for run in runs:
            by_executor[executor_of(run.handle.run_id)].append(run.handle)
        requests = {executor_id: wire.Handles(group) for executor_id, group in by_executor.items()}
        return await self._ask_each(requests, path, told)

    async def _ask_each(
        self, requests: Mapping[str, Struct | None], path: str, told: type[Told]
    ) -> Mapping[str, Told | Trouble]:
        """Ask every executor its own question, all at once: one that hangs holds up nobody else's answer."""
        known = [executor_id for executor_id in requests if executor_id in self._executors]
        asked = (self._ask(self._executors[executor_id], path, told, requests[executor_id]) for executor_id in known)
        return dict(zip(known, await asyncio.gather(*asked), strict=True))

    async def _ask(self, executor: Executor, path: str, told: type[Told], asked: Struct | None) -> Told | Trouble:
        try:
            return await self._line.ask(executor, path, told, asked)
        except SilentError as silent:
            return silent.trouble


def for_plane(surroundings: Surroundings) -> EmbeddedAdapter:
    """The adapter as the registry makes it.

    Its options: the run servers' *token*, for those on the network; the *executors* that are known, and the *idle* of
    them.
    """
    if unknown := ", ".join(sorted(surroundings.options.keys() - set(OPTIONS))):
        message = f"options: unknown for {wire.ENGINE}: {unknown}; allowed: {', '.join(OPTIONS)}"
        raise BadInput(message, field="options")
    return EmbeddedAdapter(timeout_seconds=surroundings.timeout_seconds, **surroundings.options)


def _told(answering: int, known: int, troubles: Sequence[str]) -> str:
    """What a check found, in one sentence."""
    if known == 0:
        return "no executor is known here; has one been started for this plane?"
    counted = f"{answering} of {known} executors {'answers' if answering == 1 else 'answer'}"
    if troubles:
        return f"{counted}; {troubles[0]}, and may hold jobs"
    return counted if answering == known else f"{counted}, and no other holds a job"


def _given(answers: Mapping[str, Told | Trouble]) -> list[Told]:
    return [answer for answer in answers.values() if not isinstance(answer, Trouble)]


def _named(works: Sequence[Work]) -> wire.Jobs:
    return wire.Jobs([wire.NamedJob(work.job_id, work.tag) for work in works])


def _orders(works: Sequence[Work]) -> wire.Orders:
    return wire.Orders([wire.Order(work.job_id, work.publication) for work in works if work.publication is not None])


def _executor_of(work: Work) -> str:
    return work.executor.executor_id if work.executor is not None else ""


def _listing(work: Work, answers: Mapping[str, wire.Runs | Trouble], found: Run | None) -> Listing:
    if work.executor is None:
        return Listing(trouble=NO_EXECUTOR)
    answer = answers[work.executor.executor_id]
    if isinstance(answer, Trouble):
        return Listing(trouble=answer)
    now, claimed = answer.identity.incarnation, work.executor.incarnation
    if now < claimed:
        return Listing(incarnation=str(now), trouble=_restored(work.executor, now))
    run = _ended_with(work, work.executor) if now > claimed else found
    return Listing((run,) if run is not None else (), complete=True, incarnation=str(now))


def _handles(works: Sequence[Work]) -> wire.Handles:
    return wire.Handles([handle for work in works if (handle := _whole_handle(work)) is not None])


def _whole_handle(work: Work) -> Handle | None:
    """The handle of a tracked work, whose name somebody gave; None where it cannot be the name of a run here."""
    executor_id, _, rest = work.handle.run_id.partition("/") if work.handle else ("", "", "")
    incarnation, _, name = rest.partition("/")
    if not (executor_id and name and incarnation.isdecimal()):
        return None
    return Handle(wire.ENGINE, incarnation, f"{executor_id}/{incarnation}/{name}")


def _tracked_listing(work: Work, answers: Mapping[str, wire.Runs | Trouble], found: Mapping[Handle, Run]) -> Listing:
    handle = _whole_handle(work)
    if handle is None or work.executor is None:
        return Listing(trouble=NO_SUCH_NAME)
    answer = answers[work.executor.executor_id]
    if isinstance(answer, Trouble):
        return Listing(trouble=answer)
    now, then = answer.identity.incarnation, int(handle.incarnation)
    if now != then:
        return Listing(incarnation=str(now), trouble=_of_another_start(handle, now))
    run = found.get(handle)
    if run is not None and run.owner is None:
        return Listing(incarnation=str(now), trouble=_of_a_job(run))
    runs = () if run is None else (structs.replace(run, job_id=work.job_id),)
    return Listing(runs, complete=True, incarnation=str(now))


def _of_another_start(handle: Handle, now: int) -> Trouble:
    """Of a job that would be enough: what it wrote is not published. This run may have had its effect."""
    if now < int(handle.incarnation):
        detail = f"{handle.run_id} is of a start that is not known here: {now} is the latest; is it its name?"
    else:
        detail = (
            f"its executor has been started again since {handle.run_id}: nothing of it runs any more, but nobody knows "
            "how it ended, or whether there was such a run; look whether it had its effect, and attest"
        )
    return Trouble(Waiting.HANDLE_UNKNOWN, detail)


def _of_a_job(run: Run) -> Trouble:
    return Trouble(
        Waiting.NOT_PERMITTED,
        f"{run.handle.run_id} is the run of job {run.job_id}: request the cancellation of that job instead",
    )


def _restored(executor: Executor, now: int) -> Trouble:
    return Trouble(
        Waiting.PLANE_SILENT,
        f"{executor.executor_id} answers as incarnation {now}, but incarnation {executor.incarnation} claimed the job: "
        "its folder is an older copy",
    )


def _ended_with(work: Work, executor: Executor) -> Run:
    """The one run that the job can have had, whether or not it came to begin."""
    handle = work.handle or wire.run_handle(executor.executor_id, str(executor.incarnation), work.job_id)
    return Run(work.job_id, work.tag, handle, RunStatus.STOPPED, INCARNATION_ENDED)


def _is_done(work: Work, answers: Mapping[str, wire.Done | Trouble]) -> bool:
    """Whether the executor says so, and is the incarnation that claimed the job or a later one."""
    answer = answers.get(_executor_of(work))
    if work.executor is None or not isinstance(answer, wire.Done):
        return False
    return work.job_id in answer.job_ids and answer.identity.incarnation >= work.executor.incarnation


def _unstopped(run: Run, answers: Mapping[str, wire.Stops | Trouble]) -> StopAnswer:
    answer = answers.get(executor_of(run.handle.run_id))
    if isinstance(answer, Trouble) and answer.waiting is Waiting.NOT_PERMITTED:
        return StopAnswer.NOT_PERMITTED
    return StopAnswer.UNREACHABLE


def _seen_now(run: Run, answers: Mapping[str, wire.Runs | Trouble], seen: Run | None) -> Run | None:
    answer = answers.get(executor_of(run.handle.run_id))
    if not isinstance(answer, wire.Runs):
        return None
    now, then = answer.identity.incarnation, int(run.handle.incarnation)
    if now > then:
        return structs.replace(run, status=RunStatus.STOPPED, word=INCARNATION_ENDED, ended_at=None)
    return seen or (structs.replace(run, status=RunStatus.GONE, word="", ended_at=None) if now == then else None)
