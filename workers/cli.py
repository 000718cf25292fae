"""The command ``countermand``: the composition root. It alone reads the configuration, and imports late."""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from workers.shadow import PACKAGES, describe_shadowing

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from control_plane.client import Client
    from control_plane.intake import Intake
    from control_plane.jobs import DataPlane
    from control_plane.notify import Listener
    from control_plane.store import Store
    from control_plane.tokens import Tokens
    from workers.engines.embedded import EmbeddedEngine
    from workers.local import HandOff
    from workers.run_server import Door

#: What the commands need beside the bare package; of those that are not named, some need the store.
EXTRAS = {"worker": "server,worker", "executor": "server,worker,embedded", "demo": "server,worker,embedded"}
HOW_TO_GET_ONE = (  # a token
    "give COUNTERMAND_TOKEN, or a profile with a token_file; the control plane's operator makes one "
    "by `countermand tokens create NAME --permission jobs:read --permission jobs:write`"
)
_REFUSED = 10  #: ExitCode.REFUSED, for when the module that declares it may be somebody else's


def _profiles(context: typer.Context, incomplete: str) -> list[str]:
    """The profiles that the shell may complete; none where the settings cannot be read."""
    from config.settings import SettingsError, load_settings

    try:
        known = load_settings(context.params.get("config"), profile=None).profiles
    except SettingsError:
        return []
    return [name for name in known if name.startswith(incomplete)]


ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file; else COUNTERMAND_CONFIG.")]
ProfileName = Annotated[
    str | None, typer.Option(help="A profile of the settings file; else COUNTERMAND_PROFILE.", autocompletion=_profiles)
]
Url = Annotated[str | None, typer.Option(help="The control plane, for `jobs` and `planes`; else COUNTERMAND_URL.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(help="auto, json or console.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///PATH or postgresql://USER@HOST/NAME; else COUNTERMAND_DATABASE_URL.", metavar="URL"),
]


def main() -> None:
    """Run the command; whatever is wrong is one sentence on stderr and a documented exit code."""
    shadowing = describe_shadowing()
    if shadowing:
        sys.stderr.write(f"countermand: {shadowing}\n")
        raise SystemExit(_REFUSED)
    from config.settings import SettingsError
    from control_plane.errors import CountermandError, ExitCode
    from control_plane.printing import fail

    try:
        raise SystemExit(build_app()(prog_name="countermand", standalone_mode=False))
    except CountermandError as error:
        fail(error.message, error.exit_code)
    except SettingsError as error:
        fail(str(error), ExitCode.BAD_INPUT)
    except typer.TyperException as error:
        _fail_over_usage(error.format_message())
    except typer.Abort:
        fail("aborted", ExitCode.UNEXPECTED)


def _fail_over_usage(message: str) -> NoReturn:
    """Without arguments nothing is wrong: the help was shown, and there is no message."""
    from control_plane.errors import ExitCode
    from control_plane.printing import fail

    if not message:
        raise SystemExit(ExitCode.BAD_INPUT)
    fail(" ".join(message.split()), ExitCode.BAD_INPUT)


class Commands(TyperGroup):
    """The subcommands; one whose packages are missing names all the extras that it needs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; Refused when it is not wholly installed."""
        from control_plane.errors import Refused

        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in PACKAGES:
                raise
            extras = EXTRAS.get(ctx.invoked_subcommand, "server")
            raise Refused(f"{error.name} is not installed: this command needs countermand[{extras}]") from error


def build_app() -> typer.Typer:
    """The command with all its subcommands."""
    from control_plane import cli, jobs_cli, planes_cli, tokens_cli

    app = typer.Typer(
        cls=Commands,
        help="Cancels running data jobs and proves that they stopped.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.add_typer(cli.db, name="db")
    app.add_typer(planes_cli.planes, name="planes")
    app.add_typer(jobs_cli.jobs, name="jobs")
    app.add_typer(tokens_cli.tokens, name="tokens")
    app.command(epilog="Example: countermand serve --port 8080 --database-url postgresql://user@host/name")(serve)
    app.command(epilog="Example: countermand worker --data-plane local")(worker)
    app.command(epilog="Example: countermand executor --data-plane local --data-folder ./executor-1")(executor)
    app.command(epilog="Example: countermand demo --json")(demo)
    return app


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"countermand {version('countermand')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: ConfigFile = None,
    profile: ProfileName = None,
    url: Url = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Tell the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    given = {"profile": profile, "url": url, "log_level": log_level, "log_format": log_format}
    context.obj = Desk(config, given)


# --- what a command works with -------------------------------------------------------------------------------------


@dataclass
class Desk:
    """The settings, and what is opened from them."""

    config: Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def settings(self, **given: Any) -> "Settings":
        """The settings, with what the command line gave; logging is set up by them."""
        from config.logging import configure_logging
        from config.settings import load_settings

        settings = load_settings(self.config, **self.given, **given)
        configure_logging(settings.log_level, settings.log_format)
        return settings

    def database_url(self, database_url: str | None) -> str:
        """The database that was given, by option, environment or file."""
        return self.settings(database_url=database_url).database_url

    def client(self) -> "Client":
        """The control plane as users see it, with the token that was set."""
        from control_plane.client import Client, is_loopback
        from control_plane.errors import Unauthenticated
        from control_plane.printing import tell

        settings = self.settings()
        token = settings.token.get_secret_value() if settings.token else _token(settings.token_file)
        if not token:
            raise Unauthenticated(f"no token was set: {HOW_TO_GET_ONE}")
        if settings.url.startswith("http://") and not is_loopback(settings.url):
            tell(f"the token travels unencrypted to {settings.url}: use https where others could listen")
        return Client(settings.url, token, tell=tell)

    def intake(self, database_url: str | None) -> "Intake":
        """Users' side of the store."""
        return open_intake(self.settings(database_url=database_url))

    def tokens(self, database_url: str | None) -> "Tokens":
        """The API's tokens."""
        from control_plane.tokens import Tokens

        return Tokens(open_store(self.settings(database_url=database_url)))


def open_intake(settings: "Settings") -> "Intake":
    """Users' side of a store that is opened for it."""
    return _intake(open_store(settings), settings)


def _intake(store: "Store", settings: "Settings") -> "Intake":
    from control_plane.intake import Intake
    from control_plane.policy import Policy

    return Intake(store, Policy(settings.policy.overrides))


def open_store(settings: "Settings", *, pool_size: int = 5) -> "Store":
    """The store, after a look whether it is there and migrated."""
    from control_plane.migrations import check_migrated
    from control_plane.store import Store

    store = Store(settings.database_url, pool_size=pool_size)
    try:
        check_migrated(store)
    except BaseException:
        store.close()
        raise
    return store


def _listener(database_url: str) -> "Callable[[], Listener] | None":
    """Wake-ups, where the database sends any."""
    from control_plane.notify import Listener, can_listen

    return (lambda: Listener(database_url)) if can_listen(database_url) else None


def _token(file: Path | None) -> str | None:
    from control_plane.errors import BadInput

    if file is None:
        return None
    with suppress(RuntimeError):  # nobody's home is known
        file = file.expanduser()
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise BadInput(f"token_file: {file} cannot be read: {error.strerror}", field="token_file") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"token_file: {file} is not text", field="token_file") from error
    if not token:
        raise BadInput(f"token_file: {file} is empty; a token is needed", field="token_file")
    return token


# --- serve ---------------------------------------------------------------------------------------------------------


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Where to listen. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8080; 0 takes a free one.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the HTTP API, until stopped. SIGTERM answers what was accepted; a second SIGINT ends it at once."""
    settings = context.obj.settings(database_url=database_url, server={"host": host, "port": port})
    from control_plane.api.app import build_api
    from control_plane.api.desk import THREADS
    from control_plane.api.desk import Desk as ApiDesk
    from control_plane.api.server import serve as serve_api
    from control_plane.policy import Policy

    tune_interpreter()
    desk = ApiDesk(open_store(settings, pool_size=THREADS), Policy(settings.policy.overrides))
    app = build_api(desk, open_listener=_listener(settings.database_url))
    serve_api(app, desk, host=settings.server.host, port=settings.server.port)


# --- worker --------------------------------------------------------------------------------------------------------


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
    planes = Planes(_reader(_intake(store, settings), names, hand_off), _adapter_maker(settings, store))
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
            listen=_listener(settings.database_url),
        )


HEARTBEAT_SECONDS = 10.0


def tune_interpreter() -> None:
    """For a process that works many small batches; each measured in a storm of 20,000 cancellations.

    Threads that come back from the store wait 1 ms for the interpreter, not 5 (a tenth of the rate); a batch's objects
    form no cycles, so they are looked through for some 30 times less often (a tenth to a fifth of the CPU).
    """
    sys.setswitchinterval(0.001)
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


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
    from control_plane.arguments import find_plane
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
    token = _token(settings.worker.executor_token_file)
    options = {"token": token} if token else {}

    def make(plane: "DataPlane") -> "Adapter | None":
        engine = ENGINES.get(plane.platform)
        surroundings = Surroundings(installation, plane.data_plane_id, timeout_seconds, options)
        return adapter_factory(engine)(surroundings) if engine else None

    return make


# --- executor ------------------------------------------------------------------------------------------------------


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
    from control_plane.jobs import Executor as Identity
    from workers.clock import Clock
    from workers.daemon import Daemon
    from workers.duties import Duty
    from workers.engines.embedded import EmbeddedEngine
    from workers.engines.folder import Folder
    from workers.engines.warehouse import Resources, Warehouse
    from workers.executor import Executor, Limits, Ticks
    from workers.local import LocalJobs
    from workers.local import threads as store_threads
    from workers.run_server import run_application, serving

    own, clock, ticks, token = settings.executor, Clock(), Ticks(), _token(settings.executor.token_file)
    store = open_store(settings, pool_size=STORE_THREADS + 1)
    plane = _find_embedded_plane(_intake(store, settings), plane_name)
    async with AsyncExitStack() as opened:
        opened.callback(store.close)
        folder = Folder.open(data_folder)
        opened.callback(folder.close)
        bind_contextvars(executor=folder.executor_id, plane=str(plane.data_plane_id))
        warehouse = Warehouse.open(folder.path, Resources(own.memory_limit, own.threads))
        engine = (make_engine or EmbeddedEngine)(folder, warehouse, microcents_per_second=own.microcents_per_second)
        opened.push_async_callback(engine.aclose)
        door = _door(folder.path, own.listen, token)
        address = await opened.enter_async_context(serving(run_application(engine, token=door[1]), door[0]))
        running = Executor(
            LocalJobs(Dispatch(store), store_threads(STORE_THREADS)),
            engine,
            identity=Identity(folder.executor_id, folder.incarnation, address),
            data_plane_id=plane.data_plane_id,
            limits=Limits(slots=own.slots, drain_seconds=own.drain_seconds),
            clock=clock,
        )
        daemon = Daemon(clock)
        work = daemon.run(
            running.run(stopping=daemon.stopping, ticks=ticks),
            duties=[
                Duty("claim", ticks.claim, settings.worker.poll_seconds),
                Duty("attend", ticks.attend, settings.worker.poll_seconds),
                Duty("heartbeat", ticks.heartbeat, HEARTBEAT_SECONDS),
            ],
            woken=[ticks.claim, ticks.attend],
            planes=frozenset({plane.data_plane_id}),
            listen=_listener(settings.database_url),
        )
        try:
            await work
        except Refused as error:
            folder.disown(error.message)
            raise


STORE_THREADS = 4


def _find_embedded_plane(intake: "Intake", name: str) -> "DataPlane":
    from control_plane.arguments import find_plane
    from control_plane.errors import BadInput
    from control_plane.jobs import Platform

    plane = find_plane(intake.planes(), name)
    if plane.platform is not Platform.NARRATIVE:
        message = f"{name} is on {plane.platform.value}; this executor runs the jobs of {Platform.NARRATIVE.value} only"
        raise BadInput(f"data_plane: {message}", field="data_plane")
    return plane


def _door(folder: Path, listen: str | None, token: str | None) -> "tuple[Door, str | None]":
    """Where the run server listens, and the token that it asks for there: the folder's socket needs none."""
    from workers.run_server import open_network_door, open_unix_door

    if listen is None:
        return open_unix_door(folder), None
    host, _, port = listen.rpartition(":")
    return open_network_door(host.strip("[]"), int(port), token=token), token


# --- demo ----------------------------------------------------------------------------------------------------------


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Show seven jobs meeting their fates, with real processes and real SQL. Exits 0 only if each is as it must be."""
    from config.logging import configure_logging
    from workers.demo.show import show

    configure_logging("warning")
    raise typer.Exit(show(_prepare_demo, as_json=as_json))


def _prepare_demo(database_url: str, names: "Sequence[str]") -> dict[str, str]:
    """A new database, and a token for each of the names."""
    from control_plane.migrations import upgrade
    from control_plane.store import Store
    from control_plane.tokens import NewToken, Permission, Tokens

    upgrade(database_url)
    store = Store(database_url)
    allowed = [Permission.JOBS_READ, Permission.JOBS_WRITE, Permission.DATA_PLANES_WRITE]
    made = {name: Tokens(store).create(NewToken(name, 1, allowed))[1] for name in names}
    store.close()
    return made
