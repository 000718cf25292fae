"""Jobs, for those who submit them and ask for their cancellation."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Router
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from msgspec import UNSET, Meta, Raw, Struct

from control_plane import lifecycle
from control_plane.api.auth import caller_of, check_bound
from control_plane.api.desk import GivenDesk
from control_plane.api.operations import operation
from control_plane.checks import check_kept
from control_plane.errors import BadInput, Conflict, Forbidden
from control_plane.intake import PER_PAGE_LIMIT, NewJob
from control_plane.jobs import Job, JobType
from control_plane.lifecycle import JobState
from control_plane.statements import ORDERS, Filters
from control_plane.tokens import Caller, Permission
from control_plane.wire import CancellationProgress, CancellationReason, Events, Evidence, JobSubmission, Page
from control_plane.work import Claim, Executor, News, Settlement, check_executor, signed

JobId = Annotated[UUID, PathParameter(description="The job's id.")]


class Start(Struct, frozen=True, forbid_unknown_fields=True):
    """Who runs the job; with the *epoch* of an earlier call whose answer was lost, the same claim again."""

    executor: Executor
    incarnation: Annotated[str, Meta(description="The engine's own incarnation.")] = ""
    epoch: UUID | None = None


class StartedJob(Job, frozen=True):
    """The job, and the claim on it; null where nothing was started."""

    claim: Claim | None = None


@operation("GET", "/jobs", "list_jobs", Permission.JOBS_READ, may_answer=frozenset())
async def list_jobs(  # the reference's filters
    request: Request[Any, Any, Any],
    desk: GivenDesk,
    data_plane_id: Annotated[UUID | None, QueryParameter(description="Jobs of this plane.")] = None,
    dataset_id: Annotated[
        int | None, QueryParameter(description="Jobs whose input has it.", ge=1, le=2**63 - 1)
    ] = None,
    type_: Annotated[
        str | None, QueryParameter(name="type", description="Jobs of this type.", schema_extra={"enum": list(JobType)})
    ] = None,
    state_: Annotated[
        str | None,
        QueryParameter(name="state", description="Jobs in this state.", schema_extra={"enum": list(JobState)}),
    ] = None,
    order_by: Annotated[str, QueryParameter(description="The order.", schema_extra={"enum": list(ORDERS)})] = (
        "created_at_desc"
    ),
    per_page: Annotated[int, QueryParameter(description="Records a page.", ge=1, le=PER_PAGE_LIMIT)] = 100,
    offset: Annotated[int, QueryParameter(description="Records to skip.", ge=0, le=2**53)] = 0,
) -> Page:
    """List your company's jobs; of a plane that it owns, everybody's."""
    _check_query(request)
    filters = Filters(
        data_plane_id=data_plane_id,
        dataset_id=dataset_id,
        type=type_,
        state=state_,
    )
    intake = desk.intake(caller_of(request))

    def look() -> Page:
        page = intake.jobs(filters, order_by=order_by, per_page=per_page, offset=offset)
        return msgspec.structs.replace(page, records=[Raw(msgspec.json.encode(job)) for job in page.records])

    return await desk.call(look)  # encoded there one by one: five hundred large inputs at once would hold up everybody


_FILTERS = ("data_plane_id", "dataset_id", "type", "state", "order_by", "per_page", "offset")


def _check_query(request: Request[Any, Any, Any]) -> None:
    unknown = sorted(set(request.query_params) - set(_FILTERS))
    if unknown:
        raise BadInput(f"{unknown[0]}: there is no such filter; allowed are {', '.join(_FILTERS)}", field=unknown[0])
    for name in _FILTERS:
        if len(request.query_params.getall(name, ())) > 1:  # which of them counts?
            raise BadInput(f"{name}: it is given more than once; give it once", field=name)


@operation("POST", "/jobs", "submit_job", Permission.JOBS_WRITE, may_answer=frozenset({404, 409, 422}), creates=True)
async def submit_job(
    request: Request[Any, Any, Any],
    desk: GivenDesk,
    data: JSONBody[JobSubmission],
    key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key", min_length=1, max_length=255, description="Or idempotency_key in the body."
        ),
    ] = None,
) -> Job:
    """Submit a job; or track work that was started elsewhere, by its *handle*, as a job of type ``external``.

    The same idempotency key with the same job answers the job that there is.
    """
    if None not in (key, data.idempotency_key) and key != data.idempotency_key:
        raise BadInput("idempotency_key: the header says another one than the body", field="idempotency_key")
    if data.input is UNSET and data.type is not JobType.EXTERNAL:
        raise BadInput("input: what to do is needed", field="input")
    fields = msgspec.structs.asdict(data) | {"idempotency_key": data.idempotency_key or key, "input": data.input or {}}
    caller = caller_of(request)
    job = await desk.call(desk.intake(caller).submit, NewJob(**fields), caller.source)
    desk.wakeups.tell(job.data_plane_id, News.JOBS)
    return job


@operation("GET", "/jobs/{job_id:uuid}", "get_job", Permission.JOBS_READ)
async def get_job(request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId) -> Job:
    """One job, with its cancellation and its receipt."""
    return await desk.call(desk.intake(caller_of(request)).job, job_id)


@operation("GET", "/jobs/{job_id:uuid}/events", "list_job_events", Permission.JOBS_READ)
async def list_events(request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId) -> Events:
    """Every move of a job: who, from which state to which, when, why."""
    return Events(await desk.call(desk.intake(caller_of(request)).audit, job_id))


@operation("GET", "/jobs/{job_id:uuid}/cancellation", "get_cancellation", Permission.JOBS_READ)
async def get_cancellation(request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId) -> CancellationProgress:
    """How far a job's cancellation is: who asked, rounds, the reason to wait, whether it is stuck, the receipt."""
    return await desk.call(desk.intake(caller_of(request)).cancellation, job_id)


@operation(
    "POST",
    "/jobs/{job_id:uuid}/request-cancellation",
    "request_cancellation",
    Permission.JOBS_WRITE,
    may_answer=frozenset({404, 422}),
)
async def request_cancellation(
    request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId, data: JSONBody[CancellationReason | None] = None
) -> Job:
    """Ask for a job to be cancelled. A no-op for a job that has ended or was asked before."""
    return await desk.request_cancellation(job_id, caller_of(request), data.reason if data else None)


@operation("POST", "/jobs/{job_id:uuid}/cancel", "cancel_job", Permission.JOBS_WRITE, may_answer=frozenset({404, 409}))
async def cancel(
    request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId, data: JSONBody[Evidence | None] = None
) -> Job:
    """Finalize a cancellation, with evidence: the plane's worker with a receipt, a person with an attestation.

    A no-op for a job that has ended; 409 while nobody has asked for its cancellation.
    """
    caller = caller_of(request)
    intake = desk.intake(caller)
    job = await desk.call(intake.job, job_id)
    if job.state in lifecycle.TERMINAL:
        return job
    if job.state is not JobState.PENDING_CANCELLATION:
        raise Conflict(f"job_id: job {job_id} is {job.state}; request its cancellation first", field="job_id")
    if caller.data_plane_id is None:
        attestation = _attestation(caller, data or Evidence())
        return await desk.call(intake.attest, job_id, caller.source, caller.name, attestation)
    settlement = signed(_settlement(job_id, data or Evidence()), caller.name)
    [settled] = await desk.call(desk.dispatch.settle, [settlement], worker=caller.name)
    job = await desk.call(intake.job, job_id)
    if not settled.landed and job.state not in lifecycle.TERMINAL:
        raise Conflict(f"job_id: the lease of job {job_id} was taken over, or the job is committed", field="job_id")
    return job


def _attestation(caller: Caller, data: Evidence) -> str:
    if Permission.JOBS_ATTEST not in caller.permissions:
        raise Forbidden(f"the token {caller.name!r} lacks the permission {Permission.JOBS_ATTEST}")
    if data.attestation is None or data.receipt is not None or data.lease is not None:
        raise BadInput("attestation: a person says how they know that it stopped", field="attestation")
    return data.attestation


def _settlement(job_id: UUID, data: Evidence) -> Settlement:
    if data.lease is None or data.receipt is None:
        raise BadInput("receipt: a worker finalizes with its lease and the engine's word", field="receipt")
    return Settlement(job_id, data.lease, data.receipt)


@operation("POST", "/jobs/{job_id:uuid}/run", "run_job", Permission.JOBS_WRITE, may_answer=frozenset({404, 409}))
async def run(request: Request[Any, Any, Any], desk: GivenDesk, job_id: JobId, data: JSONBody[Start]) -> StartedJob:
    """Claim one job for an executor and move it to ``running``; a no-op for a job that runs, or has ended well."""
    caller = caller_of(request)
    job = await desk.call(desk.intake(caller).job, job_id)
    check_executor(data.executor)
    check_kept("incarnation", data.incarnation)
    check_bound(caller, job.data_plane_id)
    await desk.call(desk.dispatch.check_executor, data.executor.executor_id, job.data_plane_id)
    claim = await desk.call(desk.dispatch.start_one, job, data.executor, incarnation=data.incarnation, epoch=data.epoch)
    job = await desk.call(desk.intake(caller).job, job_id)
    return StartedJob(**msgspec.structs.asdict(job), claim=claim)


ROUTES = Router(
    "/",
    route_handlers=[
        list_jobs,
        submit_job,
        get_job,
        list_events,
        get_cancellation,
        request_cancellation,
        cancel,
        run,
    ],
    tags=["Jobs"],
)
