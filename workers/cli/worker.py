"""``countermand worker``: cancellers of planes, over the store or, with a control plane elsewhere, over HTTPS."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.arguments import DatabaseUrl, find_plane
from workers.cli.desk import HEARTBEAT_SECONDS, intake_of, listener_of, open_store, tune_interpreter
from workers.cli.options import ControlPlane, TokenFile, refuse_both
from workers.cli.reloading import Rereading, reloader, survive_early_signals
from workers.cli.remote_worker import check_remote_worker, limits_of, run_remote_worker

if TYPE_CHECKING:
    from config.settings import Settings
    from control_plane.intake import Intake
    from control_plane.planes import DataPlane
    from workers.cli.adapters import AdapterMaker
    from workers.local import HandOff


def worker(
    context: typer.Context,
    data_plane: Annotated[
        list[str] | None, typer.Option(help="Id or name; may be repeated. Default: all, later ones too.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Stands in receipts and logs. Default: host and process id.")] = None,
    executor_token_file: Annotated[
        Path | None, typer.Option(help="The token of executors that listen on the network.")
    ] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="How long to settle what is held when stopped.")] = None,
    control_plane: ControlPlane = None,
    token_file: TokenFile = None,
    check_config: Annotated[
        bool, typer.Option("--check-config", help="Read the settings and the files that they name, and tell.")
    ] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Cancel what is asked to be cancelled, until stopped. SIGTERM drains; a second signal ends it at once.

    With a control plane it needs no database: it reaches out over HTTPS, with a token that is bound to its plane.
    SIGHUP reads limits and log level anew.
    """
    given = {"name": name, "drain_seconds": drain_seconds, "executor_token_file": executor_token_file}
    refuse_both(control_plane, database_url)
    settings = context.obj.settings(
        database_url=database_url, control_plane=control_plane, token_file=token_file, worker=given
    )
    names = data_plane or []
    survive_early_signals()
    if settings.control_plane is None or database_url is not None:
        if check_config:
            typer.echo(f"ok: {', '.join(names) or 'every plane'} by the database")
        else:
            asyncio.run(run_worker(settings, names, reread=context.obj.reread))
    elif check_config:
        check_remote_worker(settings, names)
    else:
        asyncio.run(run_remote_worker(settings, names, reread=context.obj.reread))


async def run_worker(settings: "Settings", names: Sequence[str], *, reread: Rereading | None = None) -> None:
    """Compose a worker for these planes, or for all, over the store, and run it until it is stopped."""
    from structlog.contextvars import bind_contextvars

    from control_plane.dispatch import Dispatch
    from control_plane.work import News
    from workers.cli.adapters import adapter_maker
    from workers.clock import Clock
    from workers.daemon import Daemon
    from workers.duties import Duty
    from workers.local import LocalCancellations, threads
    from workers.metrics import served
    from workers.planes import Planes
    from workers.rounds import Rounds

    tune_interpreter()
    own = settings.worker
    bind_contextvars(worker=own.name)
    store = open_store(settings, pool_size=own.batches_in_flight + 2)
    hand_off, dispatch = threads(own.batches_in_flight + 1), Dispatch(store)
    make = adapter_maker(settings, dispatch.installation())
    planes = Planes(await _reader(intake_of(store, settings), names, make, hand_off), make)
    clock, wake, beat = Clock(), asyncio.Event(), asyncio.Event()
    queue = LocalCancellations(dispatch, hand_off)
    rounds = Rounds(queue, planes.look, worker=own.name, limits=limits_of(settings), clock=clock)
    daemon = Daemon(clock)
    async with AsyncExitStack() as opened:
        opened.enter_context(served(own.metrics_listen))
        opened.push_async_callback(planes.aclose)
        opened.callback(store.close)
        await daemon.run(
            rounds.run(stopping=daemon.stopping, wake=wake, beat=beat),
            duties=[Duty("poll", wake, own.poll_seconds), Duty("heartbeat", beat, HEARTBEAT_SECONDS)],
            woken={News.CANCELLATIONS: wake},
            planes=rounds.planes,
            listen=listener_of(settings.database_url),
            reload=reloader(settings, reread, lambda read: rounds.limit(limits_of(read))),
        )


async def _reader(
    intake: "Intake", names: Sequence[str], make: "AdapterMaker", hand_off: "HandOff"
) -> "Callable[[], Awaitable[Sequence[DataPlane]]]":
    """Reads the planes that were named or, where none was, all that there are at the time."""
    named = [await _find_cancellable_plane(intake, name, make) for name in names]

    async def read() -> "Sequence[DataPlane]":
        return named or await hand_off(intake.planes)

    return read


async def _find_cancellable_plane(intake: "Intake", name: str, make: "AdapterMaker") -> "DataPlane":
    """Whoever names a plane wants no other: what keeps an adapter from being made is said at once."""
    plane = find_plane(intake.planes(), name)
    await make(plane).aclose()
    return plane
