"""From the settings to a plane's clusters of Spark; nothing of Spark is imported before."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings import variable_of
from control_plane.errors import BadInput, Refused
from control_plane.jobs import ExecutionCluster
from workers.cli.desk import at_home, read_secret

if TYPE_CHECKING:
    from pydantic import SecretStr

    from config.settings import Settings
    from control_plane.planes import DataPlane

COMMON = "spark"  #: the section of the clusters that planes have without one of their own
#: The setting that says where a cluster is.
REACHED_BY = {ExecutionCluster.SHARED: "connect_url", ExecutionCluster.DEDICATED: "master_url"}

Options = Mapping[str, Any]


def adapter_options(settings: "Settings", plane: "DataPlane", section: str = COMMON) -> Options:
    """What the adapter is told: the adapter of each of the plane's clusters, and its options.

    BadInput names what is missing: a worker that lacked a cluster would be given the cancellations there all the same.
    """
    _refuse_calls_longer_than_a_lease(settings, section)
    return {"parts": {cluster: _part(settings, cluster, section) for cluster in plane.execution_clusters}}


def _part(settings: "Settings", cluster: ExecutionCluster, section: str) -> tuple[str, Options]:
    from adapters.narrative.spark import PARTS

    own = settings.spark.adapters.get(cluster.value)
    return (PARTS[cluster], options_of(settings, cluster, section)) if own is None else (own.name, own.options)


def engine_options(settings: "Settings", plane: "DataPlane") -> Mapping[ExecutionCluster, Options]:
    """The options of those of the plane's clusters that this executor is to serve: of which the settings say where.

    BadInput where they say it of none.
    """
    served = [cluster for cluster in plane.execution_clusters if getattr(settings.spark, REACHED_BY[cluster])]
    if not served:
        needed = " or ".join(f"{COMMON}.{REACHED_BY[cluster]}" for cluster in plane.execution_clusters)
        has = " and ".join(plane.execution_clusters)
        message = (
            f"{needed}: {plane.display_name} has clusters of Spark ({has}), and nothing says where; "
            f"set {' or '.join(REACHED_BY[cluster] for cluster in plane.execution_clusters)} in [{COMMON}] of the "
            f"settings file, or {variable_of(f'{COMMON}.{REACHED_BY[plane.execution_clusters[0]]}')}"
        )
        raise BadInput(message, field=f"{COMMON}.{REACHED_BY[plane.execution_clusters[0]]}")
    return {cluster: options_of(settings, cluster) for cluster in served}


def options_of(settings: "Settings", cluster: ExecutionCluster, section: str = COMMON) -> Options:
    """How the cluster is reached, and what it shares with us. BadInput names what is missing or cannot be read."""
    from adapters.narrative.spark_connect_names import Server

    own, name = settings.spark, REACHED_BY[cluster]
    address = _needed(getattr(own, name), name, f"nothing says where the {cluster} cluster is", section)
    warehouse = _needed(own.warehouse, "warehouse", "nothing says where outputs lie", section)
    if cluster is ExecutionCluster.DEDICATED:
        why = "a driver's end is not that of its executors"
        return {
            "master_url": address,
            "ui_url": _needed(own.master_ui_url, "master_ui_url", why, section),
            "token": _token(own.master_token, own.master_token_file, f"{section}.master_token_file"),
            "warehouse": warehouse,
        }
    need_client()
    token = _token(own.connect_token, own.connect_token_file, f"{section}.connect_token_file")
    authorities = _certificates(own.connect_ca_file, f"{section}.connect_ca_file")
    server = Server.at(address, token=token, authorities=authorities)
    ui_url = _needed(own.ui_url, "ui_url", "Connect's own word that something has ended is not proof", section)
    return {"server": server, "user": own.connect_user, "ui_url": ui_url, "warehouse": warehouse}


def looks_at(settings: "Settings", section: str = COMMON) -> Iterator[Callable[[], object]]:
    """A look at each file that the section names; each raises BadInput where it cannot be used."""
    own = settings.spark
    yield lambda: _token(None, own.connect_token_file, f"{section}.connect_token_file")
    yield lambda: _certificates(own.connect_ca_file, f"{section}.connect_ca_file")
    yield lambda: _token(None, own.master_token_file, f"{section}.master_token_file")
    yield lambda: _check_folder(own.warehouse, f"{section}.warehouse")


def need_client() -> None:
    """Refused where what a Connect server is spoken to by is not installed."""
    for module in ("grpc", "pyspark"):
        if find_spec(module) is None:
            extras = "server,worker,spark" if find_spec("sqlalchemy") else "worker,spark"  # beside what is there
            message = f"{module} is not installed: planes with a shared cluster of Spark need countermand[{extras}]"
            raise Refused(message)


def _needed(value: Any, name: str, missing: str, section: str) -> Any:
    """The value. A plane's own section takes nothing from variables, so none of them is a remedy there."""
    if value is None:
        setting = f"{section}.{name}"
        common = f" of the settings file, or {variable_of(setting)}" if section == COMMON else ""
        raise BadInput(f"{setting}: {missing}; set {name} in [{section}]{common}", field=setting)
    return value


def _token(token: "SecretStr | None", file: Path | None, field: str) -> str | None:
    if file is not None:
        token = read_secret(file, field)
    return None if token is None else token.get_secret_value()


def _certificates(file: Path | None, field: str) -> bytes | None:
    return None if file is None else read_secret(file, field).get_secret_value().encode()


def _check_folder(folder: Path | None, field: str) -> None:
    if folder is not None and not at_home(folder).is_dir():
        message = f"{field}: {folder} is no folder here; it has to be there before, under this path also for Spark"
        raise BadInput(message, field=field)


def _refuse_calls_longer_than_a_lease(settings: "Settings", section: str) -> None:
    call, lease = settings.spark.call_timeout_seconds, settings.worker.lease_seconds
    if call >= lease:
        setting = f"{section}.call_timeout_seconds"
        raise BadInput(f"{setting}: {call:g} should be less than worker.lease_seconds, {lease:g}", field=setting)
