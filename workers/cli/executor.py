"""``countermand executor``: a plane's jobs, on embedded DuckDB or on Snowflake, over the store or over HTTPS."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from control_plane.arguments import DatabaseUrl, find_plane
from workers.cli.desk import HEARTBEAT_SECONDS, intake_of, listener_of, open_store
from workers.cli.engines import opener_of
from workers.cli.options import ControlPlane, TokenFile, refuse_both
from workers.cli.reaching import bearer_of, line_of
from workers.cli.reloading import Rereading, reloader, survive_early_signals
from workers.clock import Clock

if TYPE_CHECKING:
    from config.settings import ExecutorSettings, Settings
    from control_plane.notify import Listener
    from control_plane.planes import DataPlane
    from control_plane.work import Executor as Identity
    from workers.daemon import Daemon
    from workers.engines.base import Engine
    from workers.engines.embedded import EmbeddedEngine
    from workers.engines.folder import Folder
    from workers.executor import Executor, Limits, Ticks
    from workers.queue import JobQueue


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
    memory_limit: Annotated[str | None, typer.Option(help="What embedded DuckDB may use, as 512MB or 4GB.")] = None,
    threads: Annotated[int | None, typer.Option(help="What embedded DuckDB may use.")] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT instead of the folder's Unix socket; embedded.")] = None,
    listen_token_file: Annotated[Path | None, typer.Option(help="Needed with --listen.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long runs may end by themselves when stopped.")
    ] = None,
    control_plane: ControlPlane = None,
    token_file: TokenFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Run a plane's jobs, until stopped: on embedded DuckDB, its Snowflake account, or its clusters of Spark.

    With a control plane it needs no database: it reaches out over HTTPS, with a token that is bound to its plane.
    SIGTERM drains; a second signal ends it at once; SIGHUP reads limits and log level anew.
    """
    refuse_both(control_plane, database_url)
    survive_early_signals()
    embedded_only = {
        "memory_limit": memory_limit,
        "threads": threads,
        "listen": listen,
        "listen_token_file": listen_token_file,
    }
    given = {"slots": slots, "drain_seconds": drain_seconds, **embedded_only}
    settings = context.obj.settings(
        database_url=database_url, control_plane=control_plane, token_file=token_file, executor=given
    )
    refused = tuple(name for name, value in embedded_only.items() if value is not None)
    if database_url is not None:
        settings = settings.model_copy(update={"control_plane": None})
    run = run_executor(settings, data_plane, data_folder, embedded_only=refused, reread=context.obj.reread)
    asyncio.run(run)


STORE_THREADS = 4


async def run_executor(
    settings: "Settings",
    plane_name: str,
    data_folder: Path,
    *,
    embedded_only: Sequence[str] = (),
    make_engine: "Callable[..., EmbeddedEngine] | None" = None,
    reread: Rereading | None = None,
) -> None:
    """Compose an executor over the store or a control plane elsewhere, and run it until it is stopped.

    *embedded_only* names the options given that mean nothing elsewhere; *make_engine* makes another embedded engine.
    """
    from workers.daemon import Daemon
    from workers.executor import Ticks
    from workers.metrics import served

    daemon, ticks = Daemon(Clock()), Ticks()
    reach = _reach_control_plane if settings.control_plane else _reach_store
    async with AsyncExitStack() as opened:
        opened.enter_context(served(settings.executor.metrics_listen))
        reached = await reach(opened, settings, plane_name, daemon, ticks)
        if reached is None:
            return
        opener = opener_of(settings, reached.plane, embedded_only, make_engine)
        folder = _hold(data_folder, reached.plane)
        opened.callback(folder.close)
        engine, address = await opener(opened, folder)
        executor = _compose(reached, engine, _identity(folder, address), settings.executor)
        with _disowned_when_refused(folder):
            await _run_until_stopped(executor, settings, reached, daemon, ticks, reread)


class Reached(NamedTuple):
    """The plane whose jobs are run, and the queue that has them; *listen* opens its wake-ups, where it sends any."""

    plane: "DataPlane"
    queue: "JobQueue"
    listen: "Callable[[], Listener] | None" = None


async def _reach_store(
    opened: AsyncExitStack, settings: "Settings", plane_name: str, _daemon: "Daemon", _ticks: "Ticks"
) -> Reached | None:
    from control_plane.dispatch import Dispatch
    from workers.local import LocalJobs, threads

    store = open_store(settings, pool_size=STORE_THREADS + 1)
    opened.callback(store.close)
    plane = find_plane(intake_of(store, settings).planes(), plane_name)
    return Reached(plane, LocalJobs(Dispatch(store), threads(STORE_THREADS)), listener_of(settings.database_url))


async def _reach_control_plane(
    opened: AsyncExitStack, settings: "Settings", plane_name: str, daemon: "Daemon", ticks: "Ticks"
) -> Reached | None:
    """As the token lets us; a control plane that is away is waited for, and None is that we were told to stop first."""
    from workers.giving_up import unless
    from workers.introduction import Introduced, introduce
    from workers.line import PlaneLine
    from workers.outage import Outage
    from workers.remote import RemoteJobs

    line, bearer, clock = line_of(settings), bearer_of(settings), Clock()
    opened.push_async_callback(line.aclose)
    introduced: Introduced | None = None

    async def wait() -> None:
        nonlocal introduced
        call = partial(introduce, line, bearer, wanted=plane_name, clock=clock)
        introduced = await unless(daemon.stopping, Outage(clock).outlast(call))

    await daemon.run(wait(), duties=[])
    if introduced is None:
        return None
    own_line = PlaneLine(line, bearer, introduced.plane.data_plane_id)
    return Reached(introduced.plane, RemoteJobs(own_line, stopping=daemon.stopping, again=ticks.attend))


@contextmanager
def _disowned_when_refused(folder: "Folder") -> Iterator[None]:
    """The control plane refuses a start of a folder that was copied or restored; every later one is, too."""
    from control_plane.errors import Refused

    try:
        yield
    except Refused as error:
        folder.disown(error.message)
        raise


def _hold(path: Path, plane: "DataPlane") -> "Folder":
    """The executor's folder, which makes it the executor that it is, in every line of its log."""
    from structlog.contextvars import bind_contextvars

    from workers.engines.folder import Folder

    folder = Folder.open(path)
    bind_contextvars(executor=folder.executor_id, plane=str(plane.data_plane_id))
    return folder


def _identity(folder: "Folder", address: str | None) -> "Identity":
    from control_plane.work import Executor as Identity

    return Identity(folder.executor_id, folder.incarnation, address)


def _limits_of(own: "ExecutorSettings") -> "Limits":
    from workers.executor import Limits

    return Limits(slots=own.slots, drain_seconds=own.drain_seconds)


def _compose(reached: Reached, engine: "Engine", identity: "Identity", own: "ExecutorSettings") -> "Executor":
    from workers.executor import Executor

    return Executor(
        reached.queue,
        engine,
        identity=identity,
        data_plane_id=reached.plane.data_plane_id,
        limits=_limits_of(own),
        clock=Clock(),
    )


async def _run_until_stopped(
    executor: "Executor",
    settings: "Settings",
    reached: Reached,
    daemon: "Daemon",
    ticks: "Ticks",
    reread: Rereading | None,
) -> None:
    from control_plane.work import News
    from workers.duties import Duty

    await daemon.run(
        executor.run(stopping=daemon.stopping, ticks=ticks),
        duties=[
            Duty("claim", ticks.claim, settings.worker.poll_seconds),
            Duty("attend", ticks.attend, settings.worker.poll_seconds),
            Duty("heartbeat", ticks.heartbeat, HEARTBEAT_SECONDS),
        ],
        woken={News.JOBS: ticks.claim, News.CANCELLATIONS: ticks.attend},
        planes=frozenset({reached.plane.data_plane_id}),
        listen=reached.listen,
        reload=reloader(settings, reread, lambda read: executor.limit(_limits_of(read.executor))),
    )
