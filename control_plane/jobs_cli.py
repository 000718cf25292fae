"""The subcommand ``jobs``: jobs and their cancellation, by way of the API."""

from typing import Annotated, Any
from uuid import uuid5

import typer

from control_plane.arguments import AsJson, JobId, find_plane_id, option_of, read_document, read_id, read_member
from control_plane.errors import BadInput
from control_plane.jobs import ExecutionCluster, FailureCause, Job, JobType, Process, RequestSource
from control_plane.lifecycle import TERMINAL, JobState
from control_plane.printing import as_moment, print_fields, print_json, print_table
from control_plane.waiting import describe, exit_code, wait_for_end
from control_plane.wire import JobSubmission, Order

_FIRST = "Default: the first that its plane has."

jobs = typer.Typer(help="Jobs: submit, look, ask for their cancellation.", no_args_is_help=True)


@jobs.command(epilog="Example: countermand jobs submit --data-plane local --type nql-forecast --input @job.json")
def submit(
    context: typer.Context,
    data_plane: Annotated[str, typer.Option("--data-plane", "--plane", help="Id or name.")],
    type_: Annotated[str, option_of(JobType, "--type")],
    input_: Annotated[str, typer.Option("--input", help="JSON, @FILE, or - for stdin.")],
    idempotency_key: Annotated[str | None, typer.Option(help="The same key answers the same job.")] = None,
    execution_cluster: Annotated[str | None, option_of(ExecutionCluster, help_=_FIRST)] = None,
    retry_of: Annotated[str | None, typer.Option(help="The job that this one repeats.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; an executor of its plane starts it."""
    job_type = read_member(JobType, type_, "type")
    cluster = _read_cluster(execution_cluster)
    document = read_document(input_, "input")
    if not isinstance(document, dict):
        raise BadInput(f"input: a JSON object is needed, not {type(document).__name__}", field="input")
    repeated = read_id(retry_of, "retry_of") if retry_of else None
    with context.obj.client() as client:
        submission = JobSubmission(
            data_plane_id=find_plane_id(client, data_plane),
            type=job_type,
            input=document,
            execution_cluster=cluster,
            idempotency_key=idempotency_key,
            retry_of=repeated,
        )
        job = client.submit_job(submission)
    print_json(job) if as_json else typer.echo(f"Submitted {job.type.value} job {job.job_id}: {job.state.value}.")


@jobs.command(
    epilog="Example: countermand jobs track --plane prod --handle 01b1c9a2-… --wait-cancel. "
    "With --wait-cancel: 0 cancelled, 3 succeeded first, 4 stuck, 13 cancelled on a person's word alone."
)
def track(
    context: typer.Context,
    plane: Annotated[str, typer.Option("--data-plane", "--plane", help="Id or name.")],
    handle: Annotated[str, typer.Option(help="The engine's own name of the run, such as a Snowflake query id.")],
    execution_cluster: Annotated[str | None, option_of(ExecutionCluster, help_=_FIRST)] = None,
    wait_cancel: Annotated[
        bool, typer.Option("--wait-cancel", help="Ask for its cancellation, and wait for the proof.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is cancelled.")] = None,
    as_json: AsJson = False,
) -> None:
    """Track work that was started elsewhere; the same handle again is the same job.

    Whose work may be tracked on a plane says its owner: `countermand planes allow-tracking`.
    """
    cluster = _read_cluster(execution_cluster)
    with context.obj.client() as client:
        plane_id = find_plane_id(client, plane)
        key = f"track:{uuid5(plane_id, handle)}"
        job = client.submit_job(
            JobSubmission(
                data_plane_id=plane_id,
                type=JobType.EXTERNAL,
                handle=handle,
                execution_cluster=cluster,
                idempotency_key=key,
            )
        )
        if wait_cancel:
            job = wait_for_end(client, client.request_cancellation(job.job_id, reason))
    print_json(job) if as_json else _print_tracked(job)
    if wait_cancel:
        raise typer.Exit(exit_code(job))


def _read_cluster(given: str | None) -> ExecutionCluster | None:
    return None if given is None else read_member(ExecutionCluster, given, "execution_cluster")


def _print_tracked(job: Job) -> None:
    typer.echo(describe(job))
    proof = job.receipt or job.result
    if proof:
        print_fields(proof)


@jobs.command("list", epilog="Example: countermand jobs list --state pending_cancellation --json")
def list_jobs(
    context: typer.Context,
    data_plane: Annotated[str | None, typer.Option("--data-plane", "--plane", help="Id or name.")] = None,
    dataset_id: Annotated[int | None, typer.Option(help="The input has it.")] = None,
    type_: Annotated[str | None, option_of(JobType, "--type")] = None,
    state: Annotated[str | None, option_of(JobState)] = None,
    order_by: Annotated[str, option_of(Order)] = Order.CREATED_AT_DESC.value,
    per_page: Annotated[int, typer.Option(help="At most 500.")] = 100,
    offset: Annotated[int, typer.Option(help="Records to skip.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first unless told otherwise."""
    filters = {
        "type_": read_member(JobType, type_, "type") if type_ else None,
        "state": read_member(JobState, state, "state") if state else None,
        "order_by": read_member(Order, order_by, "order_by"),
        "dataset_id": dataset_id,
        "per_page": per_page,
        "offset": offset,
    }
    with context.obj.client() as client:
        page = client.list_jobs(data_plane_id=find_plane_id(client, data_plane) if data_plane else None, **filters)
    if as_json:
        print_json(page)
        return
    if not page.records:
        typer.echo(f"No jobs: {page.total_records} match, {offset} were skipped." if page.total_records else "No jobs.")
        return
    print_table(("id", "type", "state", "outcome or reason", "created"), [_summary(job) for job in page.records])
    typer.echo(f"Page {page.current_page} of {page.total_pages}, {page.total_records} jobs.")


def _first_line(failures: list[FailureCause]) -> str | None:
    return failures[0].message.partition("\n")[0][:_SHOWN] if failures else None


_SHOWN = 80  #: characters of a failure in a listing


def _summary(job: Job) -> tuple[Any, ...]:
    outcome = job.receipt.outcome.value if job.receipt else _first_line(job.failures)
    waiting = job.cancellation.waiting if job.cancellation and job.state not in TERMINAL else None
    return job.job_id, job.type.value, job.state.value, outcome or waiting, as_moment(job.created_at)


@jobs.command(epilog="Example: countermand jobs show 6f1c… --json")
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job, with its cancellation and its receipt."""
    wanted = read_id(job_id, "job_id")
    with context.obj.client() as client:
        job = client.get_job(wanted)
    print_json(job) if as_json else print_fields(job)


@jobs.command(epilog="Example: countermand jobs events 6f1c…")
def events(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show every move of a job, in order: from, to, who, why, when."""
    wanted = read_id(job_id, "job_id")
    with context.obj.client() as client:
        told = client.list_job_events(wanted)
    if as_json:
        print_json(told)
        return
    rows = [
        (
            entry.move,
            entry.from_state and entry.from_state.value,
            entry.to_state.value,
            _who(entry.actor),
            entry.reason,
            as_moment(entry.moved_at),
        )
        for entry in told.records
    ]
    print_table(("move", "from", "to", "who", "why", "when"), rows)


def _who(actor: RequestSource) -> str:
    return actor.name if isinstance(actor, Process) else f"user {actor.user_id} of company {actor.company_id}"


@jobs.command(
    epilog="Example: countermand jobs request-cancellation 6f1c… --reason 'wrong month' --wait. "
    "With --wait: 0 cancelled, 3 completed or failed first, 4 stuck, 13 cancelled on a person's word alone."
)
def request_cancellation(
    context: typer.Context,
    job_id: JobId,
    reason: Annotated[str | None, typer.Option(help="Kept with the request, for whoever asks later.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, showing progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a job to be cancelled. A no-op for a job that has ended or was asked before."""
    wanted = read_id(job_id, "job_id")
    with context.obj.client() as client:
        job = client.request_cancellation(wanted, reason)
        if wait:
            job = wait_for_end(client, job)
    print_json(job) if as_json else typer.echo(describe(job))
    if wait:
        raise typer.Exit(exit_code(job))


@jobs.command(epilog="Example: countermand jobs attest 6f1c… --attestation 'the cluster was deleted yesterday'")
def attest(
    context: typer.Context,
    job_id: JobId,
    attestation: Annotated[str, typer.Option(help="How you know that it stopped; kept in the receipt.")],
    as_json: AsJson = False,
) -> None:
    """End a cancellation on your word that the job stopped. It is recorded with your name, and shown as unproven.

    Needs a token of a person (`countermand tokens create --user`) with jobs:write and jobs:attest. A no-op for a job
    that has ended.
    """
    wanted = read_id(job_id, "job_id")
    with context.obj.client() as client:
        job = client.attest(wanted, attestation)
    print_json(job) if as_json else typer.echo(describe(job))
