"""``countermand worker``: cancellers of planes, over the store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.arguments import DatabaseUrl, find_plane
from workers.cli.desk import HEARTBEAT_SECONDS, intake_of, listener_of, open_store, read_token, tune_interpreter

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from control_plane.intake import Intake
    from control_plane.planes import DataPlane
    from control_plane.store import Store
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
    database_url: DatabaseUrl = None,
) -> None:
    """Cancel what is asked to be cancelled, until stopped. SIGTERM drains; a second signal ends it at once."""
    given = {"name": name, "drain_seconds": drain_seconds, "executor_token_file": executor_token_file}
    settings = context.obj.settings(database_url=database_url, worker=given)
    asyncio.run(run_worker(settings, data_plane or []))


async def run_worker(settings: "Settings", names: Sequence[str]) -> None:
    """Compose a worker for these planes, or for all, over the store, and run it until it is stopped."""
    from structlog.contextvars import bind_contextvars

    from control_plane.dispatch import Dispatch
    from workers.canceller import Limits
    from workers.clock import Clock
    from workers.daemon import Daemon
    from workers.duties import Duty
    from workers.local import LocalCancellations, threads
    from workers.planes import Planes
    from workers.rounds import Rounds

    tune_interpreter()
    own = settings.worker
    bind_contextvars(worker=own.name)
    store = open_store(settings, pool_size=own.batches_in_flight + 2)
    hand_off = threads(own.batches_in_flight + 1)
    planes = Planes(_reader(intake_of(store, settings), names, hand_off), _adapter_maker(settings, store))
    clock, wake, beat = Clock(), asyncio.Event(), asyncio.Event()
    limits = Limits(
        batch_size=own.batch_size,
        batches_in_flight=own.batches_in_flight,
        lease_seconds=own.lease_seconds,
        drain_seconds=own.drain_seconds,
    )
    queue = LocalCancellations(Dispatch(store), hand_off)
    rounds = Rounds(queue, planes.look, worker=own.name, limits=limits, clock=clock)
    daemon = Daemon(clock)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(planes.aclose)
        opened.callback(store.close)
        await daemon.run(
            rounds.run(stopping=daemon.stopping, wake=wake, beat=beat),
            duties=[Duty("poll", wake, own.poll_seconds), Duty("heartbeat", beat, HEARTBEAT_SECONDS)],
            woken=[wake],
            planes=rounds.planes,
            listen=listener_of(settings.database_url),
        )


def _reader(
    intake: "Intake", names: Sequence[str], hand_off: "HandOff"
) -> "Callable[[], Awaitable[Sequence[DataPlane]]]":
    """Reads the planes that were named or, where none was, all that there are at the time."""
    named = [_find_cancellable_plane(intake, name) for name in names]

    async def read() -> "Sequence[DataPlane]":
        return named or await hand_off(intake.planes)

    return read


def _find_cancellable_plane(intake: "Intake", name: str) -> "DataPlane":
    from adapters.registry import ENGINES
    from control_plane.errors import BadInput

    plane = find_plane(intake.planes(), name)
    if plane.platform not in ENGINES:
        message = f"{name} is on {plane.platform.value}, which has no adapter yet; name other planes with --data-plane"
        raise BadInput(f"data_plane: {message}", field="data_plane")
    return plane


def _adapter_maker(settings: "Settings", store: "Store") -> "Callable[[DataPlane], Adapter | None]":
    """Makes the adapter of a plane by its platform; None where there is none for it."""
    from adapters.registry import ENGINES, Surroundings, adapter_factory
    from control_plane.dispatch import Dispatch

    installation = Dispatch(store).installation()
    timeout_seconds = settings.worker.call_timeout_seconds
    token = read_token(settings.worker.executor_token_file)
    options = {"token": token} if token else {}

    def make(plane: "DataPlane") -> "Adapter | None":
        engine = ENGINES.get(plane.platform)
        surroundings = Surroundings(installation, plane.data_plane_id, timeout_seconds, options)
        return adapter_factory(engine)(surroundings) if engine else None

    return make
