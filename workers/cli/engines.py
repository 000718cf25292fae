"""The engine of an executor, opened as its plane's platform and the settings say."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workers.cli.desk import read_token

if TYPE_CHECKING:
    from config.settings import ExecutorSettings, Settings
    from control_plane.jobs import ExecutionCluster
    from control_plane.planes import DataPlane
    from workers.engines.base import Engine
    from workers.engines.embedded import EmbeddedEngine
    from workers.engines.folder import Folder


class Opened(NamedTuple):
    """An engine, and where its run server listens; None where its service answers for its runs itself."""

    engine: "Engine"
    address: str | None


Opener = Callable[[AsyncExitStack, "Folder"], Awaitable[Opened]]


def opener_of(
    settings: "Settings",
    plane: "DataPlane",
    embedded_only: Sequence[str],
    make_engine: "Callable[..., EmbeddedEngine] | None",
) -> Opener:
    """Opens the engine that the plane's jobs run on. Whatever the settings lack is said before anything is opened."""
    from adapters.registry import engine_on

    engine = engine_on(plane)
    if engine == "duckdb":
        return _embedded_opener(settings.executor, make_engine)
    _refuse_embedded_only(plane, embedded_only)
    return _snowflake_opener(settings) if engine == "snowflake" else _spark_opener(settings, plane)


def _refuse_embedded_only(plane: "DataPlane", given: Sequence[str]) -> None:
    from control_plane.errors import BadInput

    for name in given:
        option = f"--{name}".replace("_", "-")
        where = (
            f"{plane.display_name} {'has clusters of Spark' if plane.execution_clusters else f'is on {plane.platform}'}"
        )
        raise BadInput(f"{name}: {option} is for embedded DuckDB, and {where}: leave it out", field=name)


def _embedded_opener(own: "ExecutorSettings", make_engine: "Callable[..., EmbeddedEngine] | None") -> Opener:
    token = read_token(own.listen_token_file, "listen_token_file")

    async def open_embedded(opened: AsyncExitStack, folder: "Folder") -> Opened:
        from workers.engines.embedded import EmbeddedEngine
        from workers.engines.warehouse import Resources, Warehouse

        warehouse = Warehouse.open(folder.path, Resources(own.memory_limit, own.threads))
        make = make_engine or EmbeddedEngine
        engine = make(folder, warehouse, microcents_per_second=own.microcents_per_second)
        opened.push_async_callback(engine.aclose)
        address = await opened.enter_async_context(_serving_runs(engine, folder.path, own.listen, token))
        return Opened(engine, address)

    return open_embedded


def _snowflake_opener(settings: "Settings") -> Opener:
    from workers.cli.snowflake import account_of, sign_in_of, warehouse_of

    account, sign_in = account_of(settings), sign_in_of(settings, "executor")
    warehouse_of(settings)

    async def open_snowflake(opened: AsyncExitStack, _folder: "Folder") -> Opened:
        from workers.engines.snowflake import SnowflakeEngine

        with _refusal_for_good():
            engine = await SnowflakeEngine.open(
                account,
                sign_in,
                timeout_seconds=settings.snowflake.call_timeout_seconds,
                statement_timeout_seconds=settings.snowflake.statement_timeout_seconds,
                queued_timeout_seconds=settings.snowflake.queued_timeout_seconds,
                microcents_per_second=settings.executor.microcents_per_second,
            )
        opened.push_async_callback(engine.aclose)
        return Opened(engine, None)

    return open_snowflake


def _spark_opener(settings: "Settings", plane: "DataPlane") -> Opener:
    from workers.cli.spark import engine_options

    options = engine_options(settings, plane)

    async def open_spark(opened: AsyncExitStack, _folder: "Folder") -> Opened:
        from workers.engines.spark import SparkEngine

        async def join(cluster: "ExecutionCluster") -> "Engine":
            with _refusal_for_good():
                part = await _open_part(cluster, options[cluster], settings)
            opened.push_async_callback(part.aclose)
            return part

        parts, away = await _those_that_answer(options, join)
        engine = SparkEngine(parts)
        opened.push_async_callback(engine.wait_no_more)
        for cluster in away:
            engine.await_cluster(cluster, partial(join, cluster))
        return Opened(engine, None)

    return open_spark


async def _those_that_answer(
    clusters: Iterable["ExecutionCluster"], join: "Callable[[ExecutionCluster], Awaitable[Engine]]"
) -> "tuple[dict[ExecutionCluster, Engine], list[ExecutionCluster]]":
    """The engines of the clusters that answer, and which do not. Raises EngineUnavailable where none does."""
    from structlog import get_logger

    from control_plane.errors import EngineUnavailable

    parts: dict[ExecutionCluster, Engine] = {}
    away: dict[ExecutionCluster, EngineUnavailable] = {}
    for cluster in clusters:
        try:
            parts[cluster] = await join(cluster)
        except EngineUnavailable as error:
            away[cluster] = error
    if not parts:
        raise next(iter(away.values()))
    log = get_logger()
    for cluster, silence in away.items():
        log.warning("cluster_away", cluster=cluster.value, error=silence.message)
    return parts, list(away)


async def _open_part(cluster: "ExecutionCluster", options: Mapping[str, Any], settings: "Settings") -> "Engine":
    from adapters.narrative.spark_outputs import Outputs
    from control_plane.jobs import ExecutionCluster

    seconds, price = settings.spark.call_timeout_seconds, settings.executor.microcents_per_second
    if cluster is ExecutionCluster.DEDICATED:
        from workers.engines.spark_standalone import SparkStandaloneEngine

        return await SparkStandaloneEngine.open(
            **options, properties=settings.spark.properties, timeout_seconds=seconds, microcents_per_second=price
        )
    from workers.engines.spark_connect import SparkConnectEngine

    return await SparkConnectEngine.open(
        options["server"],
        Outputs(options["warehouse"], timeout_seconds=seconds),
        user=options["user"],
        ui_url=options["ui_url"],
        timeout_seconds=seconds,
        microcents_per_second=price,
    )


@contextmanager
def _refusal_for_good() -> Iterator[None]:
    """A service that is away may be back at the next start; one that refuses the user is not mended by another."""
    from control_plane.errors import EngineUnavailable, Refused
    from control_plane.jobs import Waiting

    try:
        yield
    except EngineUnavailable as error:
        trouble = getattr(error, "trouble", None)
        if trouble is not None and trouble.waiting is Waiting.NOT_PERMITTED:
            raise Refused(error.message) from error
        raise


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
