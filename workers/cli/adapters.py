"""A plane's adapter, made as the settings say."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workers.cli.desk import read_token

if TYPE_CHECKING:
    from adapters.base import Adapter
    from config.settings import Settings
    from control_plane.planes import DataPlane

AdapterMaker = Callable[["DataPlane"], "Adapter"]


def adapter_maker(
    settings: "Settings",
    installation: str,
    *,
    account: str = "snowflake",
    known: "Callable[[DataPlane], Mapping[str, Any]] | None" = None,
) -> AdapterMaker:
    """Makes the adapter of a plane by its platform; *known* adds options for those of the Narrative plane.

    *account* names the section that the account in the settings comes from.

    It raises BadInput where the plane's platform is not configured, Refused where its packages are missing.
    """
    from adapters.registry import ENGINES, Surroundings, adapter_factory
    from control_plane.planes import Platform
    from workers.cli.snowflake import adapter_options

    token = read_token(settings.worker.executor_token_file)
    embedded = {"token": token} if token else {}

    def make(plane: "DataPlane") -> "Adapter":
        if plane.platform is Platform.SNOWFLAKE:
            seconds, options = settings.snowflake.call_timeout_seconds, adapter_options(settings, account)
        else:
            seconds, options = settings.worker.call_timeout_seconds, embedded | dict(known(plane) if known else {})
        factory = adapter_factory(ENGINES[plane.platform])
        return factory(Surroundings(installation, plane.data_plane_id, seconds, options))

    return make
