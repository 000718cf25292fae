"""What a plane's own processes ask: cancellations to work, jobs to run. In batches; every call may be repeated.

Each needs a token bound to the plane. What is of another plane, stale or taken over is left out of the answers.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from litestar import Request, Router
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from control_plane.api.auth import caller_of, check_bound, check_still_valid
from control_plane.api.desk import Desk, GivenDesk
from control_plane.api.operations import operation
from control_plane.api.planes import PlaneId
from control_plane.api.wakeups import Wish
from control_plane.checks import check_kept
from control_plane.errors import BadInput, Refused
from control_plane.jobs import Process
from control_plane.process_wire import (
    Assignments,
    Attend,
    ClaimCancellations,
    ClaimJobs,
    Claims,
    Commits,
    Committed,
    Epochs,
    Failures,
    Handles,
    HeldLeases,
    Holds,
    JobIds,
    Jobs,
    Leftovers,
    OfExecutor,
    PostponedCancellations,
    Postponements,
    Published,
    Registered,
    Registration,
    SettledCancellations,
    Settlements,
)
from control_plane.tokens import Permission
from control_plane.wire import Executors, KnownExecutor
from control_plane.work import (
    Assignment,
    Attendance,
    Claim,
    Executor,
    News,
    Settled,
    check_executor,
    signed,
)


class _Named(Protocol):
    @property
    def job_id(self) -> UUID: ...


Item = TypeVar("Item", bound=_Named)


def _operation(path: str, name: str) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    may_answer = frozenset({404, 409})
    return operation(
        "POST", f"/data-planes/{{data_plane_id:uuid}}{path}", name, Permission.JOBS_WRITE, may_answer=may_answer
    )


AnyRequest = Request[Any, Any, Any]


async def _own(desk: Desk, plane: UUID, items: Sequence[Item]) -> list[Item]:
    """Those of the items whose job is on the plane. BadInput where one job stands there twice: which one counts?"""
    named = Counter(item.job_id for item in items)
    for job_id, times in named.most_common(1):
        if times > 1:
            raise BadInput(f"job_id: job {job_id} stands there {times} times; send it once", field="job_id")
    own = await _own_ids(desk, plane, (item.job_id for item in items))
    return [item for item in items if item.job_id in own]


async def _own_ids(desk: Desk, plane: UUID, job_ids: Iterable[UUID]) -> set[UUID]:
    return await desk.call(desk.dispatch.of_plane, plane, list(job_ids))


def _until_gone(request: AnyRequest) -> Callable[[], Coroutine[Any, Any, None]]:
    """For a request whose body is read: what its server receives then is that its client has gone."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


async def _check_executor(desk: Desk, request: AnyRequest, plane: UUID, executor: Executor) -> None:
    check_bound(caller_of(request), plane)
    check_executor(executor)
    await desk.call(desk.dispatch.check_executor, executor.executor_id, plane)


# --- cancellations -------------------------------------------------------------------------------------------------


@_operation("/cancellations/claim", "claim_cancellations")
async def claim_cancellations(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[ClaimCancellations]
) -> Assignments:
    """Lease due cancellations, oldest first; waits until there is one."""
    check_bound(caller_of(request), data_plane_id)
    check_kept("worker", data.worker)

    async def look() -> list[Assignment]:
        await check_still_valid(request)
        return await desk.call(
            desk.dispatch.claim,
            {data_plane_id: data.limit},
            worker=data.worker,
            lease_seconds=data.lease_seconds,
            lease=data.lease,
        )

    nothing: list[Assignment] = []
    wish, gone = Wish(cancellations=True), _until_gone(request)
    asked = None if data.lease is None else (data_plane_id, data.lease)
    found = await desk.wakeups.poll(
        data_plane_id, data.wait_seconds, look, bool, gone, wish=wish, nothing=nothing, asked=asked
    )
    return Assignments(found)


@_operation("/cancellations/extend", "extend_leases")
async def extend(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Holds]) -> HeldLeases:
    """Keep leases; answers those still held, with what is known now of their closure."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own(desk, data_plane_id, data.holds)
    return HeldLeases(await desk.call(desk.dispatch.extend, own, lease_seconds=data.lease_seconds))


@_operation("/cancellations/settle", "settle_cancellations")
async def settle(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Settlements]
) -> SettledCancellations:
    """End cancellations. Sent again after a lost answer they land once, and are answered as landed."""
    check_bound(caller_of(request), data_plane_id)
    check_kept("worker", data.worker)
    own = await _own(desk, data_plane_id, [signed(item, data.worker) for item in data.settlements])
    settled = {item.job_id: item for item in await desk.call(desk.dispatch.settle, own, worker=data.worker)}
    stale = (Settled(item.job_id, landed=False) for item in data.settlements)
    return SettledCancellations([settled.get(item.job_id, item) for item in stale])


@_operation("/cancellations/postpone", "postpone_cancellations")
async def postpone(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Postponements]
) -> PostponedCancellations:
    """Give cancellations back for now, with the reason."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own(desk, data_plane_id, data.postponements)
    return PostponedCancellations(await desk.call(desk.dispatch.postpone, own))


@_operation("/cancellations/release", "release_cancellations")
async def release(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Holds]) -> Jobs:
    """Give cancellations back as if never claimed, due at once."""
    check_bound(caller_of(request), data_plane_id)
    return Jobs(await desk.call(desk.dispatch.release, await _own(desk, data_plane_id, data.holds)))


@_operation("/cancellations/leftovers", "record_leftovers")
async def record_leftovers(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Leftovers]
) -> Jobs:
    """Note what was removed of cancelled jobs."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own_ids(desk, data_plane_id, data.removed)
    removed = {job_id: data.removed[job_id] for job_id in own}
    return Jobs(sorted(await desk.call(desk.dispatch.record_leftovers, removed)))


# --- jobs ----------------------------------------------------------------------------------------------------------


@_operation("/executors/register", "register_executor")
async def register(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Registration]
) -> Registered:
    """Make a start of an executor known; 409 for a folder that is a copy, or was restored."""
    check_bound(caller_of(request), data_plane_id)
    check_executor(data.executor)
    try:
        installation = await desk.call(
            desk.dispatch.register, data.executor, data_plane_id=data_plane_id, token=data.token
        )
    except Refused:  # which names the plane that it belongs to
        await desk.call(desk.dispatch.check_executor, data.executor.executor_id, data_plane_id)
        raise
    return Registered(installation)


@operation("GET", "/data-planes/{data_plane_id:uuid}/executors", "list_executors", Permission.JOBS_WRITE)
async def list_executors(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId) -> Executors:
    """Every executor that ever registered for the plane, by its latest start, and whether it holds jobs."""
    check_bound(caller_of(request), data_plane_id)
    known = await desk.call(desk.dispatch.executors, data_plane_id)
    return Executors([KnownExecutor(executor, holds_jobs) for executor, holds_jobs in known.items()])


@_operation("/executors/confirm-lower-incarnations", "confirm_lower_incarnations")
async def confirm_lower_incarnations(
    request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[OfExecutor]
) -> Jobs:
    """Confirm that nothing of what the executor's earlier starts had claimed can start any more."""
    await _check_executor(desk, request, data_plane_id, data.executor)
    await desk.call(desk.dispatch.check_latest, data.executor)
    return Jobs(await desk.call(desk.dispatch.confirm_lower_incarnations, data.executor))


@_operation("/jobs/claim", "claim_jobs")
async def claim_jobs(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[ClaimJobs]) -> Claims:
    """Start pending jobs for an executor, oldest first; waits until there is one.

    With clusters, those of these clusters alone.
    """
    await _check_executor(desk, request, data_plane_id, data.executor)
    check_kept("incarnation", data.incarnation)
    check_kept("clusters", list(data.clusters.values()))

    async def look() -> list[Claim]:
        await check_still_valid(request)
        return await desk.call(
            desk.dispatch.start,
            data.executor,
            data_plane_id=data_plane_id,
            types=data.types,
            limit=data.limit,
            incarnation=data.incarnation,
            epoch=data.epoch,
            clusters=data.clusters,
        )

    nothing: list[Claim] = []
    wish = Wish(jobs=frozenset(data.types), clusters=frozenset(data.clusters))
    gone = _until_gone(request)
    asked = None if data.epoch is None else (data_plane_id, data.epoch)
    found = await desk.wakeups.poll(
        data_plane_id, data.wait_seconds, look, bool, gone, wish=wish, nothing=nothing, asked=asked
    )
    return Claims(found)


@_operation("/jobs/attend", "attend_jobs")
async def attend(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Attend]) -> Attendance:
    """Renew permits, and learn at once what to close: also what is no job of this plane."""
    caller = caller_of(request)
    check_bound(caller, data_plane_id)
    plane = await desk.call(desk.intake(caller).plane, data_plane_id)
    own = await _own_ids(desk, data_plane_id, data.held)
    held = {job_id: epoch for job_id, epoch in data.held.items() if job_id in own}

    async def look() -> Attendance:
        await check_still_valid(request)
        renewed = (await desk.call(desk.dispatch.attend, held)).renewed
        return Attendance(renewed, sorted(data.held.keys() - set(renewed)))

    wait = min(data.wait_seconds, plane.permit_seconds / 8)
    nobody, gone = Attendance([], []), _until_gone(request)
    return await desk.wakeups.poll(
        data_plane_id, wait, look, lambda answer: bool(answer.closing), gone, wish=Wish(), nothing=nobody
    )


@_operation("/jobs/handles", "record_handles")
async def record_handles(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Handles]) -> Jobs:
    """Write down the engine's names of runs."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own_ids(desk, data_plane_id, data.handles.keys() & data.epochs.keys())
    handles = {job_id: data.handles[job_id] for job_id in own}
    return Jobs(sorted(await desk.call(desk.dispatch.record_handles, handles, data.epochs)))


@_operation("/jobs/closed", "confirm_closed")
async def confirm_closed(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Epochs]) -> Jobs:
    """Write that the executor will submit nothing more of these jobs."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own_ids(desk, data_plane_id, data.epochs)
    closed = await desk.call(desk.dispatch.confirm_closed, {job_id: data.epochs[job_id] for job_id in own})
    desk.wakeups.tell(data_plane_id, News.CANCELLATIONS)
    return Jobs(closed)


@_operation("/jobs/commit", "commit_jobs")
async def commit(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Commits]) -> Committed:
    """Pass the commit point: from then on a job will be completed, and no cancellation wins."""
    await _check_executor(desk, request, data_plane_id, data.executor)
    own = await _own(desk, data_plane_id, data.commits)
    return Committed(await desk.call(desk.dispatch.commit, own, executor=data.executor))


@_operation("/jobs/complete", "complete_jobs")
async def complete(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Published]) -> Jobs:
    """Complete committed jobs whose publication stands."""
    await _check_executor(desk, request, data_plane_id, data.executor)
    own = await _own_ids(desk, data_plane_id, data.job_ids)
    actor = Process(data.executor.executor_id)
    return Jobs(await desk.call(desk.dispatch.complete, sorted(own), actor=actor))


@_operation("/jobs/fail", "fail_jobs")
async def fail(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[Failures]) -> Jobs:
    """Fail running jobs; where a cancellation was requested it is a hint to look again."""
    await _check_executor(desk, request, data_plane_id, data.executor)
    own = await _own(desk, data_plane_id, data.failures)
    return Jobs(await desk.call(desk.dispatch.fail, own, executor=data.executor))


@_operation("/jobs/committed", "list_committed_jobs")
async def committed(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[OfExecutor]) -> Claims:
    """The executor's committed jobs that are not completed: to be published, then completed."""
    await _check_executor(desk, request, data_plane_id, data.executor)
    return Claims(await desk.call(desk.dispatch.committed, data.executor))


@_operation("/jobs/discardable", "list_discardable_jobs")
async def discardable(request: AnyRequest, desk: GivenDesk, data_plane_id: PlaneId, data: JSONBody[JobIds]) -> Jobs:
    """Those of the jobs that ended without publishing."""
    check_bound(caller_of(request), data_plane_id)
    own = await _own_ids(desk, data_plane_id, data.job_ids)
    return Jobs(await desk.call(desk.dispatch.discardable, sorted(own)))


ROUTES = Router(
    "/",
    route_handlers=[
        claim_cancellations,
        extend,
        settle,
        postpone,
        release,
        record_leftovers,
        register,
        list_executors,
        confirm_lower_incarnations,
        claim_jobs,
        attend,
        record_handles,
        confirm_closed,
        commit,
        complete,
        fail,
        committed,
        discardable,
    ],
    tags=["A plane's processes"],
)
