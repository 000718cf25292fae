"""The subcommand ``planes``: data planes, by way of the API."""

from typing import Annotated

import typer

from control_plane.arguments import AsJson, find_plane_id, option_of, read_member
from control_plane.jobs import ExecutionCluster
from control_plane.planes import Platform, Tracking
from control_plane.printing import as_moment, print_fields, print_json, print_table
from control_plane.wire import DataPlaneSubmission, PlatformObject

planes = typer.Typer(help="Data planes: where work runs.", no_args_is_help=True)

PlaneName = Annotated[str, typer.Argument(help="Id or name.", metavar="PLANE")]


@planes.command(
    epilog="Examples: countermand planes create local --platform platform_aws; on Spark: "
    "countermand planes create big --cluster shared --cluster dedicated"
)
def create(
    context: typer.Context,
    display_name: Annotated[str, typer.Argument(help="Its name, unique.")],
    platform: Annotated[str, option_of(Platform, help_="The first is the Narrative plane.")] = Platform.NARRATIVE.value,
    external_id: Annotated[str | None, typer.Option(help="Its name in another system.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    collaborator: Annotated[
        list[int] | None, typer.Option(help="A company that may submit jobs to it; may be repeated.")
    ] = None,
    permit_seconds: Annotated[float, typer.Option(help="How long a claim lets an executor start statements.")] = 30.0,
    listing_lag_seconds: Annotated[
        float | None,
        typer.Option(help="How far apart two empty listings must be to prove absence. Default: 0; on Snowflake 10."),
    ] = None,
    stuck_after_seconds: Annotated[float, typer.Option(help="A cancellation that waits longer is called stuck.")] = 900,
    cluster: Annotated[
        list[str] | None,
        option_of(
            ExecutionCluster, "--cluster", help_="A cluster of Spark that a Narrative plane has; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a data plane."""
    submission = DataPlaneSubmission(
        display_name=display_name,
        platform=PlatformObject(read_member(Platform, platform, "platform")),
        external_id=external_id,
        description=description,
        tags=tag or [],
        collaborators=collaborator or [],
        permit_seconds=permit_seconds,
        listing_lag_seconds=listing_lag_seconds,
        stuck_after_seconds=stuck_after_seconds,
        execution_clusters=[read_member(ExecutionCluster, name, "execution_clusters") for name in cluster or []],
    )
    with context.obj.client() as client:
        made = client.create_data_plane(submission)
    print_json(made) if as_json else typer.echo(f"Created data plane {made.display_name}, {made.data_plane_id}.")


@planes.command("list", epilog="Example: countermand planes list --json")
def list_planes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the data planes."""
    with context.obj.client() as client:
        found = client.list_data_planes()
    if as_json:
        print_json({"records": found})
        return
    if not found:
        typer.echo("No data planes.")
        return
    rows = [
        (
            plane.data_plane_id,
            plane.display_name,
            plane.platform.type.value,
            "silent" if plane.silent and plane.status == "active" else plane.status,
            as_moment(plane.last_heartbeat_at),
            ", ".join(plane.execution_clusters),
        )
        for plane in found
    ]
    print_table(("id", "name", "platform", "status", "last heartbeat", "clusters"), rows)


@planes.command(epilog="Example: countermand planes show local --json")
def show(context: typer.Context, plane: PlaneName, as_json: AsJson = False) -> None:
    """Show one data plane."""
    with context.obj.client() as client:
        found = client.get_data_plane(find_plane_id(client, plane))
    print_json(found) if as_json else print_fields(found)


@planes.command(epilog="Example: countermand planes allow-tracking local --user dbt --warehouse LOADING")
def allow_tracking(
    context: typer.Context,
    plane: PlaneName,
    user: Annotated[list[str] | None, typer.Option(help="Whoever runs as this user; may be repeated.")] = None,
    warehouse: Annotated[list[str] | None, typer.Option(help="Whatever runs there; may be repeated.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="Whoever runs with it; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whose work, started elsewhere, may be tracked and stopped here; it replaces what was said before.

    Letter by letter, as the engine writes the names; one match is enough. Without any, nobody's may.
    """
    with context.obj.client() as client:
        wanted = Tracking(user or [], warehouse or [], role or [])
        changed = client.allow_tracking(find_plane_id(client, plane), wanted)
    told = f"On {changed.display_name} may be tracked: {changed.tracking}."
    print_json(changed) if as_json else typer.echo(told)


@planes.command(epilog="Example: countermand planes archive local")
def archive(context: typer.Context, plane: PlaneName, as_json: AsJson = False) -> None:
    """Let a data plane take no more jobs. Its owner may, once every job on it has ended."""
    with context.obj.client() as client:
        archived = client.archive_data_plane(find_plane_id(client, plane))
    told = f"Archived data plane {archived.display_name}, {archived.data_plane_id}."
    print_json(archived) if as_json else typer.echo(told)
