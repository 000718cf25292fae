"""``countermand planes check``: whether work on the planes can be cancelled now, tried as a worker here would."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from uuid import UUID

import typer

from control_plane.arguments import AsJson, DatabaseUrl, find_plane
from workers.cli.desk import intake_of, open_store
from workers.cli.options import ControlPlane, TokenFile, refuse_both
from workers.cli.reaching import bearer_of, line_of, planes_of, sections_of, settings_of
from workers.clock import Clock

if TYPE_CHECKING:
    from adapters.base import Check
    from config.settings import Settings
    from config.worker import PlaneSettings
    from control_plane.planes import DataPlane
    from control_plane.work import Executor
    from workers.cli.adapters import AdapterMaker
    from workers.line import Line


def check(
    context: typer.Context,
    plane: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids or names; those of sections worker.planes.NAME where there are any. Default: all active ones.",
            metavar="[PLANE]...",
        ),
    ] = None,
    as_json: AsJson = False,
    control_plane: ControlPlane = None,
    token_file: TokenFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Try whether work on these planes can be cancelled now, and tell it in a line for each.

    With the settings of this machine, as a worker here would: over the database or, with a control plane, over HTTPS,
    with the tokens of the planes.

    On Snowflake it starts and stops one query that only waits. On a shared cluster of Spark it starts and stops one
    that only counts; of a dedicated one it asks whether the master takes orders, and starts nothing. On both it tries
    to write to the warehouse. On the embedded engine it asks the executors, and starts nothing.
    """
    from control_plane.errors import ExitCode

    refuse_both(control_plane, database_url)
    settings = context.obj.settings(database_url=database_url, control_plane=control_plane, token_file=token_file)
    remote = settings.control_plane is not None and database_url is None
    checked = asyncio.run((check_remote_planes if remote else check_planes)(settings, plane or []))
    _print(checked, as_json=as_json)
    if not all(result.ok for _, result in checked):
        raise typer.Exit(ExitCode.CHECK_FAILED)


class Named(NamedTuple):
    """A plane as it is told of; one that this process is not let in for has nothing but a name."""

    name: str
    data_plane_id: UUID | None = None
    platform: str | None = None
    section: str | None = None  #: of ``[worker.planes]``, by whose name it is asked for

    @property
    def shown(self) -> str:
        """By its own name, and by that of its section where that is another."""
        return self.name if self.section in (None, self.name) else f"{self.section} ({self.name})"


Checked = Sequence[tuple[Named, "Check"]]


async def check_planes(settings: "Settings", names: Sequence[str]) -> Checked:
    """What each plane's adapter says of itself; all are asked at once."""
    from control_plane.dispatch import Dispatch
    from workers.cli.adapters import adapter_maker

    store = open_store(settings)
    try:
        planes = intake_of(store, settings).planes()
        active = [plane for plane in planes if plane.status == "active"]
        wanted = [find_plane(planes, name) for name in names] or active
        dispatch = Dispatch(store)
        make = adapter_maker(
            settings, dispatch.installation(), known=lambda plane: _known(dispatch.executors(plane.data_plane_id))
        )
        found = await asyncio.gather(*(_check_plane(make, plane) for plane in wanted))
        return [(_named(plane), result) for plane, result in zip(wanted, found, strict=True)]
    finally:
        store.close()


async def check_remote_planes(settings: "Settings", names: Sequence[str]) -> Checked:
    """The same over HTTPS, without a database; what keeps this process out of a plane is that plane's answer."""
    line = line_of(settings)
    try:
        planes = planes_of(settings, names)
        return await asyncio.gather(*(_check_remote_plane(settings, line, *item) for item in planes.items()))
    finally:
        await line.aclose()


async def _check_remote_plane(
    settings: "Settings", line: "Line", name: str, plane: "PlaneSettings"
) -> "tuple[Named, Check]":
    from adapters.base import Check
    from control_plane.errors import CountermandError
    from control_plane.wire import Executors
    from workers.cli.adapters import adapter_maker
    from workers.introduction import introduce

    section = name if settings.worker.planes else None
    try:
        bearer = bearer_of(plane, f"worker.planes.{name}." if section else "")
        introduced = await introduce(line, bearer, wanted=plane.data_plane, clock=Clock())
        path = f"/data-planes/{introduced.plane.data_plane_id}/executors"
        executors = (await line.call("GET", path, Executors, bearer=bearer)).records
    except CountermandError as error:
        return Named(name, section=section), Check(ok=False, detail=error.message)
    known = _known({known.executor: known.holds_jobs for known in executors})
    own, sections = settings_of(settings, plane), sections_of(name, plane)
    make = adapter_maker(own, introduced.installation, sections=sections, known=lambda _: known)
    return _named(introduced.plane)._replace(section=section), await _check_plane(make, introduced.plane)


def _named(plane: "DataPlane") -> Named:
    return Named(plane.display_name, plane.data_plane_id, plane.platform.value)


def _known(executors: "Mapping[Executor, bool]") -> Mapping[str, Any]:
    """The plane's executors: a worker comes to know them by their jobs, and nobody else has asked this adapter yet."""
    idle = frozenset(executor.executor_id for executor, holds_jobs in executors.items() if not holds_jobs)
    return {"executors": list(executors), "idle": idle}


async def _check_plane(make: "AdapterMaker", plane: "DataPlane") -> "Check":
    from adapters.base import Check
    from control_plane.errors import BadInput, EngineUnavailable, Refused

    try:
        adapter = make(plane)
    except (BadInput, Refused) as error:
        return Check(ok=False, detail=error.message)
    try:
        return await adapter.check()
    except EngineUnavailable as error:
        return Check(ok=False, detail=error.message)
    finally:
        await adapter.aclose()


def _print(checked: Checked, *, as_json: bool) -> None:
    from control_plane.printing import print_json, shown

    if as_json:
        print_json({"records": [_record(plane, result) for plane, result in checked]})
    elif not checked:
        typer.echo("No data planes.")
    else:
        for plane, result in checked:
            typer.echo(shown(f"{plane.shown}: {_sentence(result)}").replace("\n", " "))


def _sentence(result: "Check") -> str:
    taken = "" if result.seconds is None else f" ({result.seconds:.2f} s)"
    return f"{'ok' if result.ok else 'not ok'}: {result.detail}{taken}"


def _record(plane: Named, result: "Check") -> Mapping[str, Any]:
    return {
        "data_plane_id": plane.data_plane_id and str(plane.data_plane_id),
        "display_name": plane.name,
        "platform": plane.platform,
        "section": plane.section,
        "ok": result.ok,
        "detail": result.detail,
        "seconds": result.seconds,
    }
