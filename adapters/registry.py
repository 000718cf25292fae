"""Adapters by name: those built in, and those that other packages offer as entry points ``countermand.adapters``."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct

from adapters.base import Adapter
from control_plane.errors import BadInput
from control_plane.planes import DataPlane, Platform

GROUP = "countermand.adapters"
BUILT_IN = {
    "duckdb": "adapters.narrative.embedded:for_plane",
    "snowflake": "adapters.snowflake.adapter:for_plane",
    "spark": "adapters.narrative.spark:for_plane",
    "spark-connect": "adapters.narrative.spark_connect:for_plane",
    "spark-standalone": "adapters.narrative.spark_standalone:for_plane",
}


def engine_on(plane: DataPlane) -> str:
    """The engine that runs the plane's jobs, as its adapter is named."""
    if plane.platform is Platform.SNOWFLAKE:
        return "snowflake"
    return "spark" if plane.execution_clusters else "duckdb"


class Surroundings(Struct, frozen=True):
    """What every adapter is told; *options* are its own, from the configuration."""

    installation: str
    data_plane_id: UUID
    timeout_seconds: float
    options: Mapping[str, Any] = {}


class AdapterFactory(Protocol):
    """Makes the adapter of one plane. Raises BadInput, naming the field, for options that it does not know."""

    def __call__(self, surroundings: Surroundings, /) -> Adapter:
        """The adapter, not yet connected."""


def adapter_names() -> list[str]:
    """The engines that can be cancelled on here."""
    return sorted(_offers())


def adapter_factory(engine: str) -> AdapterFactory:
    """The factory of the engine's adapter. Raises BadInput when there is none, or it cannot be imported."""
    offers = _offers()
    if engine not in offers:
        raise BadInput(f"engine: no adapter for {engine!r}; there are {', '.join(sorted(offers))}", field="engine")
    try:
        factory: AdapterFactory = offers[engine].load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"engine: the adapter for {engine!r} cannot be imported: {error}", field="engine") from error
    return factory


def _offers() -> dict[str, EntryPoint]:
    """What is built in cannot be replaced by a package that happens to be installed."""
    built_in = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    return {offer.name: offer for offer in entry_points(group=GROUP)} | built_in
