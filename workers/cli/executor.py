"""``countermand executor``: a plane's jobs on embedded DuckDB, over the store."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from control_plane.arguments import DatabaseUrl, find_plane
from workers.cli.desk import HEARTBEAT_SECONDS, intake_of, listener_of, open_store, read_token
from workers.clock import Clock

if TYPE_CHECKING:
    from config.settings import ExecutorSettings, Settings
    from control_plane.intake import Intake
    from control_plane.planes import DataPlane
    from workers.engines.embedded import EmbeddedEngine
    from workers.engines.folder import Folder
    from workers.executor import Executor


def _read_folder(given: str) -> Path:
    """The folder; an empty name, as an unset variable leaves it, would be the current one."""
    from control_plane.errors import BadInput

    if not given:
        raise BadInput("data_folder: it is empty; the path of a folder is needed", field="data_folder")
    return Path(given)


def executor(
    context: typer.Context,
    data_plane: Annotated[str, typer.Option(help="Id or name.")],
    data_folder: Annotated[
        Path, typer.Option(help="The executor's identity and data; one process at a time.", parser=_read_folder)
    ],
    slots: Annotated[int | None, typer.Option(help="How many jobs run at a time.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="What DuckDB may use, as 512MB or 4GB.")] = None,
    threads: Annotated[int | None, typer.Option(help="What DuckDB may use.")] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT instead of the folder's Unix socket.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Needed with --listen.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long runs may end by themselves when stopped.")
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Run a plane's jobs on embedded DuckDB, until stopped. SIGTERM drains; a second signal ends it at once."""
    given = {
        "slots": slots,
        "memory_limit": memory_limit,
        "threads": threads,
        "listen": listen,
        "token_file": token_file,
        "drain_seconds": drain_seconds,
    }
    settings = context.obj.settings(database_url=database_url, executor=given)
    asyncio.run(run_executor(settings, data_plane, data_folder))


async def run_executor(
    settings: "Settings",
    plane_name: str,
    data_folder: Path,
    *,
    make_engine: "Callable[..., EmbeddedEngine] | None" = None,
) -> None:
    """Compose an executor over the store, and run it until it is stopped; *make_engine* makes another than ours."""
    from structlog.contextvars import bind_contextvars

    from control_plane.dispatch import Dispatch
    from control_plane.errors import Refused
    from control_plane.work import Executor as Identity
    from workers.engines.embedded import EmbeddedEngine
    from workers.engines.folder import Folder
    from workers.executor import Executor, Limits
    from workers.local import LocalJobs, threads

    own, token = settings.executor, read_token(settings.executor.token_file)
    store = open_store(settings, pool_size=STORE_THREADS + 1)
    plane = _find_embedded_plane(intake_of(store, settings), plane_name)
    async with AsyncExitStack() as opened:
        opened.callback(store.close)
        folder = Folder.open(data_folder)
        opened.callback(folder.close)
        bind_contextvars(executor=folder.executor_id, plane=str(plane.data_plane_id))
        engine = _open_engine(make_engine or EmbeddedEngine, folder, own)
        opened.push_async_callback(engine.aclose)
        executor = Executor(
            LocalJobs(Dispatch(store), threads(STORE_THREADS)),
            engine,
            identity=Identity(
                folder.executor_id,
                folder.incarnation,
                await opened.enter_async_context(_serving_runs(engine, folder.path, own.listen, token)),
            ),
            data_plane_id=plane.data_plane_id,
            limits=Limits(slots=own.slots, drain_seconds=own.drain_seconds),
            clock=Clock(),
        )
        try:
            await _run_until_stopped(executor, settings, plane.data_plane_id)
        except Refused as error:
            folder.disown(error.message)
            raise


STORE_THREADS = 4


def _open_engine(make: "Callable[..., EmbeddedEngine]", folder: "Folder", own: "ExecutorSettings") -> "EmbeddedEngine":
    from workers.engines.warehouse import Resources, Warehouse

    warehouse = Warehouse.open(folder.path, Resources(own.memory_limit, own.threads))
    return make(folder, warehouse, microcents_per_second=own.microcents_per_second)


def _serving_runs(
    engine: "EmbeddedEngine", folder: Path, listen: str | None, token: str | None
) -> AbstractAsyncContextManager[str]:
    """The run server, at the folder's socket, which needs no token, or on the network; gives its address."""
    from workers.run_server import open_network_door, open_unix_door, run_application, serving

    if listen is None:
        return serving(run_application(engine), open_unix_door(folder))
    host, _, port = listen.rpartition(":")
    door = open_network_door(host.strip("[]"), int(port), token=token)
    return serving(run_application(engine, token=token), door)


async def _run_until_stopped(executor: "Executor", settings: "Settings", data_plane_id: UUID) -> None:
    from workers.daemon import Daemon
    from workers.duties import Duty
    from workers.executor import Ticks

    daemon, ticks = Daemon(Clock()), Ticks()
    await daemon.run(
        executor.run(stopping=daemon.stopping, ticks=ticks),
        duties=[
            Duty("claim", ticks.claim, settings.worker.poll_seconds),
            Duty("attend", ticks.attend, settings.worker.poll_seconds),
            Duty("heartbeat", ticks.heartbeat, HEARTBEAT_SECONDS),
        ],
        woken=[ticks.claim, ticks.attend],
        planes=frozenset({data_plane_id}),
        listen=listener_of(settings.database_url),
    )


def _find_embedded_plane(intake: "Intake", name: str) -> "DataPlane":
    from control_plane.errors import BadInput
    from control_plane.planes import Platform

    plane = find_plane(intake.planes(), name)
    if plane.platform is not Platform.NARRATIVE:
        message = f"{name} is on {plane.platform.value}; this executor runs the jobs of {Platform.NARRATIVE.value} only"
        raise BadInput(f"data_plane: {message}", field="data_plane")
    return plane
