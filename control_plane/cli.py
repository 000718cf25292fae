"""The control plane's subcommands: ``db``, ``planes``, ``jobs``. What they work on is given by the composition root."""

import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol
from uuid import UUID

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control_plane.errors import BadInput, ExitCode, NotFound
from control_plane.jobs import DataPlane, ExecutionCluster, Job, JobType, Platform, Process
from control_plane.lifecycle import RECEIPTED_STATES, TERMINAL, JobState

if TYPE_CHECKING:  # the store's libraries are imported by the commands that need them
    from control_plane.intake import Intake
    from control_plane.tokens import Tokens


class Desk(Protocol):
    """What the composition root gives: the store, opened from the settings, for one command."""

    def intake(self, database_url: str | None) -> "Intake":
        """Users' side of the store; raises NotMigrated, StoreUnavailable or BadInput."""

    def tokens(self, database_url: str | None) -> "Tokens":
        """The API's tokens; raises as :meth:`intake` does."""

    def database_url(self, database_url: str | None) -> str:
        """The database that was given, by option, environment or file."""


DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME; else COUNTERMAND_DATABASE_URL.", metavar="URL"),
]


def _one_of(kind: type[StrEnum]) -> str:
    return f"One of {', '.join(kind)}."


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]

db = typer.Typer(help="The database.", no_args_is_help=True)
planes = typer.Typer(help="Data planes: where work runs.", no_args_is_help=True)
jobs = typer.Typer(help="Jobs: submit, look, ask for their cancellation.", no_args_is_help=True)


# --- printing ------------------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=2) + "\n")


def print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A line for each row, terminal or not: a narrow terminal continues it in its next line, and no word is broken."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column != "name", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    Console(width=_TABLE_WIDTH).print(table)


_TABLE_WIDTH = 240


def as_moment(moment: datetime | None) -> str:
    """As every listing shows it."""
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _summary(job: Job) -> tuple[Any, ...]:
    outcome = job.receipt.outcome.value if job.receipt else None
    waiting = job.cancellation.waiting if job.cancellation and job.state not in TERMINAL else None
    return job.job_id, job.type.value, job.state.value, outcome or waiting, as_moment(job.created_at)


def _print_field(name: str, value: Any) -> None:
    """One field of a document; what it nests is indented below its beginning."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2)
    typer.echo(f"{name:18} " + text.replace("\n", "\n" + " " * 19))


# --- reading what was given ----------------------------------------------------------------------------------------


def read_member(kind: Any, value: str | None, field: str) -> Any:
    """A member of an enumeration from the command line; BadInput names the field and what is allowed."""
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError as error:
        allowed = ", ".join(member.value for member in kind)
        raise BadInput(f"{field}: {value!r} is not one of {allowed}", field=field) from error


def read_id(value: str, field: str) -> UUID:
    """A UUID from the command line; BadInput names the field."""
    try:
        return UUID(value)
    except ValueError as error:
        raise BadInput(f"{field}: {value!r} is not a UUID", field=field) from error


def find_plane(intake: "Intake", name_or_id: str) -> DataPlane:
    """A data plane by its id or its name; NotFound names those that there are, BadInput several of one name."""
    known = intake.planes()
    found = [plane for plane in known if name_or_id in (str(plane.data_plane_id), plane.display_name)]
    if len(found) == 1:
        return found[0]
    if found:
        named = ", ".join(f"{plane.data_plane_id} of company {plane.company_id}" for plane in found)
        message = f"data_plane: several are called {name_or_id!r}; give one's id: {named}"
        raise BadInput(message, field="data_plane")
    names = ", ".join(plane.display_name for plane in known) or "none yet: `countermand planes create`"
    raise NotFound(f"data_plane: there is no data plane {name_or_id!r}; there are {names}", field="data_plane")


def _read_input(given: str) -> Any:
    """JSON from the argument, from ``@FILE``, or from stdin for ``-``."""
    try:
        text = sys.stdin.read() if given == "-" else Path(given[1:]).read_text() if given.startswith("@") else given
        return json.loads(text)
    except OSError as error:
        raise BadInput(f"input: {given[1:]} cannot be read: {error.strerror}", field="input") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"input: it is not JSON: {error}", field="input") from error


def _myself() -> Process:
    return Process(f"cli:{getpass.getuser()}")


# --- db ------------------------------------------------------------------------------------------------------------


@db.command(epilog="Example: countermand db upgrade --database-url sqlite:///countermand.db")
def upgrade(context: typer.Context, database_url: DatabaseUrl = None) -> None:
    """Create the tables, or bring them to what this version needs. May be repeated."""
    from control_plane import migrations

    migrations.upgrade(context.obj.database_url(database_url))
    typer.echo(f"The database is at revision {migrations.newest()}.")


# --- planes --------------------------------------------------------------------------------------------------------


@planes.command(epilog="Example: countermand planes create local --platform platform_aws")
def create(
    context: typer.Context,
    display_name: Annotated[str, typer.Argument(help="Its name, unique.")],
    platform: Annotated[str, typer.Option(help=f"{_one_of(Platform)} The first is the Narrative plane.")] = (
        Platform.NARRATIVE.value
    ),
    external_id: Annotated[str | None, typer.Option(help="Its name in another system.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    permit_seconds: Annotated[float, typer.Option(help="How long a claim lets an executor start statements.")] = 30.0,
    listing_lag_seconds: Annotated[
        float, typer.Option(help="How far apart two empty listings must be to prove absence.")
    ] = 0.0,
    stuck_after_seconds: Annotated[float, typer.Option(help="A cancellation that waits longer is called stuck.")] = 900,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a data plane."""
    from control_plane.intake import NewPlane

    made = context.obj.intake(database_url).create_plane(
        NewPlane(
            display_name=display_name,
            platform=read_member(Platform, platform, "platform"),
            external_id=external_id,
            description=description,
            tags=tag or [],
            permit_seconds=permit_seconds,
            listing_lag_seconds=listing_lag_seconds,
            stuck_after_seconds=stuck_after_seconds,
        )
    )
    print_json(made) if as_json else typer.echo(f"Created data plane {made.display_name}, {made.data_plane_id}.")


@planes.command("list", epilog="Example: countermand planes list --json")
def list_planes(context: typer.Context, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the data planes."""
    found = context.obj.intake(database_url).planes()
    if as_json:
        print_json({"records": found})
        return
    if not found:
        typer.echo("No data planes.")
        return
    columns = ("id", "name", "platform", "status", "last heartbeat")
    rows = [
        (
            plane.data_plane_id,
            plane.display_name,
            plane.platform.value,
            plane.status,
            as_moment(plane.last_heartbeat_at),
        )
        for plane in found
    ]
    print_table(columns, rows)


# --- jobs ----------------------------------------------------------------------------------------------------------


@jobs.command(epilog="Example: countermand jobs submit --data-plane local --type nql-forecast --input @job.json")
def submit(
    context: typer.Context,
    data_plane: Annotated[str, typer.Option(help="Id or name.")],
    type_: Annotated[str, typer.Option("--type", help=_one_of(JobType))],
    input_: Annotated[str, typer.Option("--input", help="JSON, @FILE, or - for stdin.")],
    idempotency_key: Annotated[str | None, typer.Option(help="The same key answers the same job.")] = None,
    execution_cluster: Annotated[str | None, typer.Option(help=_one_of(ExecutionCluster))] = None,
    retry_of: Annotated[str | None, typer.Option(help="The job that this one repeats.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; an executor of its plane starts it."""
    from control_plane.intake import NewJob

    intake = context.obj.intake(database_url)
    new = NewJob(
        data_plane_id=find_plane(intake, data_plane).data_plane_id,
        type=read_member(JobType, type_, "type"),
        input=_read_input(input_),
        execution_cluster=read_member(ExecutionCluster, execution_cluster, "execution_cluster"),
        idempotency_key=idempotency_key,
        retry_of=read_id(retry_of, "retry_of") if retry_of else None,
    )
    job = intake.submit(new, _myself())
    print_json(job) if as_json else typer.echo(f"Submitted {job.type.value} job {job.job_id}: {job.state.value}.")


@jobs.command("list", epilog="Example: countermand jobs list --state pending_cancellation --json")
def list_jobs(
    context: typer.Context,
    data_plane: Annotated[str | None, typer.Option(help="Id or name.")] = None,
    dataset_id: Annotated[int | None, typer.Option(help="The input has it.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help=_one_of(JobType))] = None,
    state: Annotated[str | None, typer.Option(help=_one_of(JobState))] = None,
    order_by: Annotated[
        str, typer.Option(help="One of created_at_asc, created_at_desc, updated_at_asc, updated_at_desc.")
    ] = "created_at_desc",
    per_page: Annotated[int, typer.Option(help="At most 500.")] = 100,
    offset: Annotated[int, typer.Option(help="Records to skip.")] = 0,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first unless told otherwise."""
    from control_plane.statements import Filters

    intake = context.obj.intake(database_url)
    filters = Filters(
        data_plane_id=find_plane(intake, data_plane).data_plane_id if data_plane else None,
        dataset_id=dataset_id,
        type=type_ and read_member(JobType, type_, "type").value,
        state=state and read_member(JobState, state, "state").value,
    )
    page = intake.jobs(filters, order_by=order_by, per_page=per_page, offset=offset)
    if as_json:
        print_json(page)
        return
    if not page.records:
        typer.echo(f"No jobs: {page.total_records} match, {offset} were skipped." if page.total_records else "No jobs.")
        return
    print_table(("id", "type", "state", "outcome or reason", "created"), [_summary(job) for job in page.records])
    typer.echo(f"Page {page.current_page} of {page.total_pages}, {page.total_records} jobs.")


@jobs.command(epilog="Example: countermand jobs show 6f1c… --json")
def show(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one job, with its cancellation and its receipt."""
    job = context.obj.intake(database_url).job(read_id(job_id, "job_id"))
    if as_json:
        print_json(job)
        return
    for name, value in msgspec.to_builtins(job).items():
        if value not in (None, [], {}):
            _print_field(name, value)


@jobs.command(
    epilog="Example: countermand jobs request-cancellation 6f1c… --reason 'wrong month' --wait. "
    "With --wait: 0 cancelled, 3 completed or failed first, 4 stuck."
)
def request_cancellation(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    reason: Annotated[str | None, typer.Option(help="Kept with the request, for whoever asks later.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, showing progress.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a job to be cancelled. A no-op for a job that has ended or was asked before."""
    intake = context.obj.intake(database_url)
    job = intake.request_cancellation(read_id(job_id, "job_id"), _myself(), reason)
    if wait:
        job = _wait_for_end(intake, job)
    print_json(job) if as_json else typer.echo(describe(job))
    if wait:
        raise typer.Exit(_exit_code(job))


def describe(job: Job) -> str:
    """How far a job's cancellation is, in one line."""
    text = f"{job.job_id}: {job.state.value}"
    if job.receipt:
        receipt = job.receipt
        proof = [f"closed by {receipt.closure.value}" if receipt.closure else "", receipt.engine_status or ""]
        return f"{text}, {receipt.outcome.value} ({', '.join(filter(None, proof))})"
    if job.cancellation is None or job.state in TERMINAL:
        return text
    if job.cancellation.waiting:
        return f"{text} ({job.cancellation.waiting.value}): {job.cancellation.waiting_detail}"
    if job.cancellation.first_claimed_at is None and _has_waited(job, _UNCLAIMED_IS_ODD):
        return f"{text}: no worker has taken it yet; is one running for this plane?"
    return text


_UNCLAIMED_IS_ODD = timedelta(seconds=3)  #: a worker looks every second


def _has_waited(job: Job, time_allowed: timedelta) -> bool:
    return job.cancellation is not None and datetime.now(UTC) - job.cancellation.requested_at > time_allowed


def _wait_for_end(intake: "Intake", job: Job) -> Job:
    """The job once it has ended, or is stuck: without a worker there is nobody else who could say so."""
    stuck_after = timedelta(seconds=intake.plane(job.data_plane_id).stuck_after_seconds)
    with _progress() as tell:
        while job.state not in TERMINAL and not _is_stuck(job, stuck_after):
            tell(describe(job))
            time.sleep(0.2)
            job = intake.job(job.job_id)
    return job


def _is_stuck(job: Job, stuck_after: timedelta) -> bool:
    marked = job.cancellation is not None and job.cancellation.stuck_at is not None
    return marked or _has_waited(job, stuck_after)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """On a terminal one line that changes; elsewhere a line for each change. Always on stderr."""
    console = Console(stderr=True)
    told: list[str] = []
    with console.status("") as status:

        def tell(text: str) -> None:
            if console.is_terminal:
                status.update(text)
            elif text not in told[-1:]:
                told.append(text)
                console.print(text, soft_wrap=True)

        yield tell


def _exit_code(job: Job) -> ExitCode:
    if job.state in RECEIPTED_STATES:
        return ExitCode.OK
    return ExitCode.COMPLETED_FIRST if job.state in TERMINAL else ExitCode.STUCK


def fail(message: str, code: ExitCode) -> NoReturn:
    """End the command with one sentence on stderr."""
    typer.echo(f"countermand: {message}", err=True)
    raise SystemExit(code)
