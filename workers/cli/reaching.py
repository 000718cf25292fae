"""From the settings to a control plane elsewhere, and to whom each plane's processes are there."""

import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog

from control_plane.errors import BadInput, Unauthenticated
from workers.cli.desk import at_home, read_secret

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from config.settings import Settings
    from config.tls import TlsSettings
    from config.worker import PlaneSettings
    from workers.line import Bearer, Line

log = structlog.get_logger()

HOW_TO_GET_A_PLANES = (  # process a token
    "give --token-file, COUNTERMAND_TOKEN_FILE or COUNTERMAND_TOKEN; the control plane's operator makes one by "
    "`countermand tokens create NAME --permission jobs:write --plane ID`"
)


def line_of(settings: "Settings") -> "Line":
    """The way to the control plane that the settings name."""
    from control_plane.client import is_loopback
    from workers.line import Line

    url = str(settings.control_plane)
    if url.startswith("http://") and not is_loopback(url):
        log.warning("token_unencrypted", url=url)
    return Line(url, tls=tls_of(settings.tls))


def tls_of(own: "TlsSettings") -> ssl.SSLContext:
    """How this process and the control plane know each other. BadInput for files that cannot be used."""

    from control_plane.certificates import tls_context

    files = (own.ca_file, own.client_certificate_file, own.client_key_file)
    ca_file, certificate_file, key_file = (None if file is None else at_home(file) for file in files)
    return tls_context(ca_file, certificate_file=certificate_file, key_file=key_file)


def bearer_of(settings: "Settings | PlaneSettings", section: str = "") -> "Bearer":
    """Whose token the settings, or those of a plane in *section*, give; a file is read anew when it is refused."""
    from workers.line import Bearer

    token, file = settings.token, settings.token_file
    if token is not None:
        return Bearer(lambda: _checked(token, f"{section}token"))
    if file is not None:
        return Bearer(lambda: _read(file, f"{section}token_file"))
    raise Unauthenticated(f"no token was set: {HOW_TO_GET_A_PLANES}")


def _read(file: "Path", field: str) -> str:
    return _checked(read_secret(file, field), field)


def _checked(token: "SecretStr", field: str) -> str:
    from control_plane.client import check_token

    return check_token(token.get_secret_value(), field)


def settings_of(settings: "Settings", plane: "PlaneSettings") -> "Settings":
    """The settings as they are for one plane: its own account, clusters and token of executors, where it has them."""
    worker = settings.worker
    if plane.executor_token_file is not None:
        worker = worker.model_copy(update={"executor_token_file": plane.executor_token_file})
    snowflake = settings.snowflake if plane.snowflake is None else plane.snowflake
    spark = settings.spark if plane.spark is None else plane.spark
    return settings.model_copy(update={"worker": worker, "snowflake": snowflake, "spark": spark})


class Sections(NamedTuple):
    """Where a plane's account stands, and where its clusters do."""

    snowflake: str
    spark: str


COMMON = Sections("snowflake", "spark")  #: of planes without sections of their own


def sections_of(name: str, plane: "PlaneSettings") -> Sections:
    """Those of the plane: its own, or the common ones."""
    own = f"worker.planes.{name}."
    return Sections(
        COMMON.snowflake if plane.snowflake is None else f"{own}{COMMON.snowflake}",
        COMMON.spark if plane.spark is None else f"{own}{COMMON.spark}",
    )


def planes_of(settings: "Settings", names: Sequence[str]) -> "dict[str, PlaneSettings]":
    """The planes to serve: those of the settings or, of these, the *names*. Where it has none, the token's own.

    BadInput for a name that is none of theirs.
    """
    from config.worker import PlaneSettings

    planes = settings.worker.planes
    if not planes:
        wanted = _one(names)
        alone = PlaneSettings.model_construct(token=settings.token, token_file=settings.token_file, data_plane=wanted)
        return {wanted or "plane": alone}
    unknown = [name for name in names if name not in planes]
    if unknown:
        message = f"data_plane: there is no {unknown[0]!r} in [worker.planes]; there are {', '.join(planes)}"
        raise BadInput(message, field="data_plane")
    return {name: plane for name, plane in planes.items() if not names or name in names}


def _one(names: Sequence[str]) -> str | None:
    if len(names) > 1:
        message = "data_plane: a token is bound to one plane; several have sections of their own, [worker.planes.NAME]"
        raise BadInput(message, field="data_plane")
    return names[0] if names else None
