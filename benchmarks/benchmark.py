"""What a benchmark is, and what becomes of its samples."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from benchmarks.ground import Ground


class Benchmark(Protocol):
    """One thing to measure. Rounds of all benchmarks are interleaved, so that noise hits all alike."""

    @property
    def name(self) -> str:
        """Its name, by which it is chosen."""

    @property
    def units(self) -> Mapping[str, str]:
        """What it measures, each with its unit."""

    def prepare(self, ground: Ground) -> None:
        """Load what every round begins from, once."""

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """One round: a value for each of its units."""


class Figure(Struct, frozen=True):
    """What is known of one value after all rounds; *value* is their median."""

    value: float
    unit: str
    median_of: int
    min: float
    max: float
    floor_ratio: float | None = None  #: where both are jobs a second


#: The unit of everything that is held against the floor.
PER_SECOND = "jobs/s"


def summarise(samples: Mapping[str, Sequence[float]], units: Mapping[str, str]) -> dict[str, Figure]:
    """The figures of a run, by the names of the values."""
    floor = statistics.median(samples["floor"]) if "floor" in samples else None
    return {name: _figure(values, units[name], floor) for name, values in samples.items()}


def _figure(values: Sequence[float], unit: str, floor: float | None) -> Figure:
    median = statistics.median(values)
    ratio = median / floor if floor and unit == PER_SECOND else None
    return Figure(median, unit, len(values), min(values), max(values), ratio)
