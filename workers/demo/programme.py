"""What is played, where, and how much patience that needs: on embedded DuckDB and Snowflake, or on Spark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.demo.parts import Part, parts
from workers.demo.snowflake import snowflake_parts
from workers.demo.spark import spark_parts
from workers.demo.spark_local import SPARK_VERSION
from workers.demo.venue import Venue


@dataclass(frozen=True)
class Patience:
    """The longest, in seconds, until a job is seen at work; until something is seen of it; and for all of it."""

    begin_seconds: float
    see_seconds: float
    play_seconds: float


@dataclass(frozen=True)
class Programme:
    """*told* is said before; *venue* is where the Snowflake plane is; *place* goes into the JSON document."""

    told: str
    place: Mapping[str, Any]
    parts: Sequence[Part]
    patience: Patience
    venue: Venue | None = None
    on_spark: bool = False


def programme_at(venue: Venue) -> Programme:
    """The seven on embedded DuckDB, and those in Snowflake for which there is a place."""
    played = [*parts(), *snowflake_parts(venue.kind)]
    return Programme(venue.told, {"snowflake": venue.kind}, played, Patience(60.0, 60.0, 180.0), venue=venue)


def programme_on_spark() -> Programme:
    """The five on each cluster, and the delivery; an application needs a dozen seconds until it computes."""
    told = "The jobs run on Spark: on a shared cluster (Connect), then on a dedicated one (standalone), started here."
    return Programme(told, {"spark": SPARK_VERSION}, spark_parts(), Patience(600.0, 300.0, 900.0), on_spark=True)
