"""``countermand worker --control-plane URL``: cancellers of planes, over HTTPS, without a database."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer

from control_plane.errors import BadInput, CountermandError
from workers.cli.desk import HEARTBEAT_SECONDS, read_token, tune_interpreter
from workers.cli.reaching import Sections, bearer_of, line_of, planes_of, sections_of, settings_of, tls_of
from workers.cli.reloading import Rereading, reloader

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from config.worker import PlaneSettings
    from workers.clock import Clock
    from workers.duties import Duty
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
    """Read what the settings point to, and tell what the worker would serve; nobody is spoken to.

    Everything that cannot be used is told at once, by one error.
    """
    planes = planes_of(settings, names)
    looks = [
        *_looks_at_process(settings),
        *(look for item in planes.items() for look in _looks_at_plane(settings, *item)),
    ]
    wrong = [error for error in map(_error_of, looks) if error is not None]
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise BadInput("\n".join(error.message for error in wrong), field=wrong[0].field)
    typer.echo(f"ok: {', '.join(planes)} by {settings.control_plane}")


def _looks_at_process(settings: "Settings") -> "Iterator[Callable[[], object]]":
    from workers.cli.spark import looks_at

    own = settings.tls
    yield lambda: tls_of(own.model_copy(update={"client_certificate_file": None, "client_key_file": None}))
    yield lambda: tls_of(own.model_copy(update={"ca_file": None}))
    yield lambda: line_of(settings.model_copy(update={"tls": type(own)()}))
    yield lambda: read_token(settings.worker.executor_token_file, "worker.executor_token_file")
    yield from looks_at(settings)


def _looks_at_plane(settings: "Settings", name: str, plane: "PlaneSettings") -> "Iterator[Callable[[], object]]":
    from workers.cli.snowflake import account_of, sign_in_of
    from workers.cli.spark import looks_at

    own, sections = settings_of(settings, plane), sections_of(name, plane)
    yield lambda: _bearer(settings, name, plane)
    yield lambda: read_token(plane.executor_token_file, f"worker.planes.{name}.executor_token_file")
    if plane.snowflake is not None:
        yield lambda: account_of(own, sections.snowflake)
        yield lambda: sign_in_of(own, "worker", sections.snowflake)
    if plane.spark is not None:
        yield from looks_at(own, sections.spark)


def _error_of(look: "Callable[[], object]") -> CountermandError | None:
    try:
        look()
    except CountermandError as error:
        return error
    return None


def _outpost(settings: "Settings", name: str, plane: "PlaneSettings", line: "Line", clock: "Clock") -> "Outpost":
    from workers.outposts import Outpost

    return Outpost(
        name,
        line,
        _bearer(settings, name, plane),
        wanted=plane.data_plane,
        make=lambda introduced: make_adapter(settings_of(settings, plane), introduced, sections_of(name, plane)),
        worker=settings.worker.name,
        limits=limits_of(settings, plane),
        clock=clock,
    )


def _bearer(settings: "Settings", name: str, plane: "PlaneSettings") -> "Bearer":
    return bearer_of(plane, f"worker.planes.{name}." if settings.worker.planes else "")


def make_adapter(settings: "Settings", introduced: "Introduced", sections: Sections) -> "Adapter":
    """The adapter of the plane that this process was let in for; what it needs of the settings is in these sections."""
    from workers.cli.adapters import adapter_maker

    return adapter_maker(settings, introduced.installation, sections=sections)(introduced.plane)


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


def _duties(outpost: "Outpost", settings: "Settings") -> "list[Duty]":
    from workers.duties import Duty

    return [
        Duty(f"poll {outpost.name}", outpost.wake, settings.worker.poll_seconds),
        Duty(f"heartbeat {outpost.name}", outpost.beat, HEARTBEAT_SECONDS),
    ]
