"""``countermand worker --control-plane URL``: cancellers of planes, over HTTPS, without a database."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer

from workers.cli.desk import HEARTBEAT_SECONDS, tune_interpreter
from workers.cli.reaching import bearer_of, line_of, planes_of, settings_of
from workers.cli.reloading import Rereading, reloader
from workers.duties import Duty

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from config.worker import PlaneSettings
    from workers.clock import Clock
    from workers.introduction import Introduced
    from workers.limits import Limits
    from workers.line import Bearer, Line
    from workers.outposts import Outpost


async def run_remote_worker(settings: "Settings", names: Sequence[str], *, reread: Rereading | None = None) -> None:
    """Compose a worker for the planes of the settings, or for these of them, and run it until it is stopped."""
    from structlog.contextvars import bind_contextvars

    from workers.clock import Clock
    from workers.daemon import Daemon
    from workers.metrics import served
    from workers.outposts import serve_all

    tune_interpreter()
    bind_contextvars(worker=settings.worker.name)
    clock = Clock()
    line = line_of(settings)
    planes = planes_of(settings, names)
    outposts = [_outpost(settings, name, plane, line, clock) for name, plane in planes.items()]
    daemon = Daemon(clock)

    def limit(read: "Settings") -> None:
        for outpost in outposts:
            outpost.limit(limits_of(read, read.worker.planes.get(outpost.name)))

    async with AsyncExitStack() as opened:
        opened.enter_context(served(settings.worker.metrics_listen))
        opened.push_async_callback(line.aclose)
        await daemon.run(
            serve_all(outposts, stopping=daemon.stopping, clock=clock),
            duties=[duty for outpost in outposts for duty in _duties(outpost, settings)],
            reload=reloader(settings, reread, limit),
        )


def check_remote_worker(settings: "Settings", names: Sequence[str]) -> None:
    """Read what the settings point to, and tell what the worker would serve; nobody is spoken to."""
    line_of(settings)
    planes = planes_of(settings, names)
    for name, plane in planes.items():
        _bearer(settings, name, plane)
    typer.echo(f"ok: {', '.join(planes)} by {settings.control_plane}")


def _outpost(settings: "Settings", name: str, plane: "PlaneSettings", line: "Line", clock: "Clock") -> "Outpost":
    from workers.outposts import Outpost

    return Outpost(
        name,
        line,
        _bearer(settings, name, plane),
        wanted=plane.data_plane,
        make=lambda introduced: make_adapter(settings_of(settings, plane), introduced),
        worker=settings.worker.name,
        limits=limits_of(settings, plane),
        clock=clock,
    )


def _bearer(settings: "Settings", name: str, plane: "PlaneSettings") -> "Bearer":
    return bearer_of(plane, f"worker.planes.{name}." if settings.worker.planes else "")


def make_adapter(settings: "Settings", introduced: "Introduced") -> "Adapter":
    """The adapter of the plane that this process was let in for."""
    from workers.cli.adapters import adapter_maker

    return adapter_maker(settings, introduced.installation)(introduced.plane)


def limits_of(settings: "Settings", plane: "PlaneSettings | None" = None) -> "Limits":
    """How much the worker takes on, on a plane that may say so itself."""
    from workers.limits import Limits

    own = settings.worker
    return Limits(
        batch_size=own.batch_size,
        batches_in_flight=own.batches_in_flight,
        max_in_flight=(plane and plane.max_in_flight) or own.max_in_flight,
        stops_per_second=(plane and plane.stops_per_second) or own.stops_per_second,
        lease_seconds=own.lease_seconds,
        drain_seconds=own.drain_seconds,
    )


def _duties(outpost: "Outpost", settings: "Settings") -> list[Duty]:
    return [
        Duty(f"poll {outpost.name}", outpost.wake, settings.worker.poll_seconds),
        Duty(f"heartbeat {outpost.name}", outpost.beat, HEARTBEAT_SECONDS),
    ]
