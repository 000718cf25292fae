"""A plane's adapter, made as the settings say."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workers.cli.desk import read_token
from workers.cli.reaching import COMMON, Sections

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from control_plane.planes import DataPlane

AdapterMaker = Callable[["DataPlane"], "Adapter"]


def adapter_maker(
    settings: "Settings",
    installation: str,
    *,
    sections: Sections = COMMON,
    known: "Callable[[DataPlane], Mapping[str, Any]] | None" = None,
) -> AdapterMaker:
    """Makes the adapter of a plane by its platform; *known* adds options for those on embedded DuckDB.

    *sections* names those that the account and the clusters in the settings come from.

    It raises BadInput where the plane's platform is not configured, Refused where its packages are missing.
    """
    from adapters.registry import Surroundings, adapter_factory, engine_on
    from workers.cli import snowflake, spark

    token = read_token(settings.worker.executor_token_file)
    embedded = {"token": token} if token else {}

    def make(plane: "DataPlane") -> "Adapter":
        engine = engine_on(plane)
        match engine:
            case "snowflake":
                seconds, options = (
                    settings.snowflake.call_timeout_seconds,
                    snowflake.adapter_options(settings, sections.snowflake),
                )
            case "spark":
                seconds, options = (
                    settings.spark.call_timeout_seconds,
                    spark.adapter_options(settings, plane, sections.spark),
                )
            case _:
                seconds, options = settings.worker.call_timeout_seconds, embedded | dict(known(plane) if known else {})
        return adapter_factory(engine)(Surroundings(installation, plane.data_plane_id, seconds, options))

    return make
