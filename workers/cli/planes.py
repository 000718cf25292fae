"""``countermand planes check``: whether work on the planes can be cancelled now, tried as a worker here would."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control_plane.arguments import AsJson, DatabaseUrl, find_plane
from workers.cli.desk import intake_of, open_store

if TYPE_CHECKING:
    from adapters.base import Check
    from config.settings import Settings
    from control_plane.planes import DataPlane
    from control_plane.store import Store
    from workers.cli.adapters import AdapterMaker


def check(
    context: typer.Context,
    plane: Annotated[
        list[str] | None, typer.Argument(help="Ids or names. Default: all that are active.", metavar="[PLANE]...")
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Try whether work on these planes can be cancelled now, and tell it in a line for each.

    With the settings of this machine, as a worker here would. On Snowflake it stops one query that only waits.
    """
    from control_plane.errors import ExitCode

    settings = context.obj.settings(database_url=database_url)
    checked = asyncio.run(check_planes(settings, plane or []))
    _print(checked, as_json=as_json)
    if not all(result.ok for _, result in checked):
        raise typer.Exit(ExitCode.CHECK_FAILED)


async def check_planes(settings: "Settings", names: Sequence[str]) -> "list[tuple[DataPlane, Check]]":
    """What each plane's adapter says of itself; all are asked at once."""
    from control_plane.dispatch import Dispatch
    from workers.cli.adapters import adapter_maker

    store = open_store(settings)
    try:
        planes = intake_of(store, settings).planes()
        active = [plane for plane in planes if plane.status == "active"]
        wanted = [find_plane(planes, name) for name in names] or active
        make = adapter_maker(settings, Dispatch(store).installation(), known=lambda plane: _registered(store, plane))
        found = await asyncio.gather(*(_check_plane(make, plane) for plane in wanted))
        return list(zip(wanted, found, strict=True))
    finally:
        store.close()


def _registered(store: "Store", plane: "DataPlane") -> Mapping[str, Any]:
    """The plane's executors: a worker comes to know them by their jobs, and nobody else has asked this adapter yet."""
    from control_plane.dispatch import Dispatch

    executors = Dispatch(store).executors(plane.data_plane_id)
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


def _print(checked: "Sequence[tuple[DataPlane, Check]]", *, as_json: bool) -> None:
    from control_plane.printing import print_json, shown

    if as_json:
        print_json({"records": [_record(plane, result) for plane, result in checked]})
    elif not checked:
        typer.echo("No data planes.")
    else:
        for plane, result in checked:
            typer.echo(shown(f"{plane.display_name}: {_sentence(result)}").replace("\n", " "))


def _sentence(result: "Check") -> str:
    taken = "" if result.seconds is None else f" ({result.seconds:.2f} s)"
    return f"{'ok' if result.ok else 'not ok'}: {result.detail}{taken}"


def _record(plane: "DataPlane", result: "Check") -> Mapping[str, Any]:
    return {
        "data_plane_id": str(plane.data_plane_id),
        "display_name": plane.display_name,
        "platform": plane.platform.value,
        "ok": result.ok,
        "detail": result.detail,
        "seconds": result.seconds,
    }
