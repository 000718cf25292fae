"""``make bench``: measure in one run on one Postgres, print a table, write ``benchmarks/out/latest.json``."""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.api_list import ApiList
from benchmarks.api_request import ApiRequest, RequestFloor
from benchmarks.benchmark import Benchmark, Figure, summarise
from benchmarks.claim_growth import ClaimGrowth
from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.floor import Floor
from benchmarks.ground import Ground
from benchmarks.idle import Idle
from benchmarks.idle_planes import IdlePlanes
from benchmarks.neighbour import Neighbour
from benchmarks.on_snowflake import SnowflakeCancel, SnowflakeStorm
from benchmarks.on_spark import SparkCancel, SparkDedicatedCancel
from benchmarks.prefect import Prefect
from benchmarks.promises import verdicts
from benchmarks.storm import Storm
from benchmarks.wakeup import Wakeup

#: Every benchmark, in the order of a round: what is compared stands side by side.
BENCHMARKS: Mapping[str, Callable[[Effort], Benchmark]] = {
    "floor": Floor,
    "storm": Storm,
    "peer_pgqueuer": peers.pgqueuer,
    "peer_procrastinate": peers.procrastinate,
    "wakeup": Wakeup,
    "claim_growth": ClaimGrowth,
    "idle": Idle,
    "idle_planes": IdlePlanes,
    "neighbour": Neighbour,
    "request_floor": RequestFloor,
    "api_request": ApiRequest,
    "peer_prefect": Prefect,
    "snowflake": SnowflakeCancel,
    "snowflake_storm": SnowflakeStorm,
    "spark": SparkCancel,
    "spark_dedicated": SparkDedicatedCancel,
    "api_list_100": partial(ApiList, companies=100),
    "api_list_1": partial(ApiList, companies=1),
    "peer_pgqueuer_400": peers.pgqueuer_400,
}
#: Only measured when named.
EXTRA = {"peer_pgqueuer_400"}
LATEST = Path(__file__).parent / "out" / "latest.json"

out = Console(width=100)
progress = Console(stderr=True)


def main() -> int:
    """Run what was asked for. Exit code 1: a promise is not kept."""
    asked = _asked()
    effort = QUICK if asked.quick else FULL
    if asked.rounds:
        effort = effort._replace(rounds=asked.rounds)
    chosen = [BENCHMARKS[name](effort) for name in asked.names or (name for name in BENCHMARKS if name not in EXTRA)]
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as folder, Ground.lay(Path(folder)) as ground:
        samples = measure(chosen, ground, effort.rounds)
    figures = summarise(samples, {name: unit for benchmark in chosen for name, unit in benchmark.units.items()})
    write(figures)
    return report(figures)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(BENCHMARKS)
    named = f"of {known}; default: all but {', '.join(sorted(EXTRA))}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=named)
    parser.add_argument("--quick", action="store_true", help="small sizes, for developing")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"{name} is none of {known}")
    return asked


def measure(chosen: Sequence[Benchmark], ground: Ground, rounds: int) -> dict[str, list[float]]:
    """The samples of each value, one a round."""
    for benchmark in chosen:
        progress.print(f"preparing {benchmark.name}", style="dim")
        benchmark.prepare(ground)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for benchmark in chosen:
            for name, value in benchmark.measure(ground).items():
                progress.print(f"round {number} of {rounds}: {name} {value:,.2f} {benchmark.units[name]}", style="dim")
                samples[name].append(value)
    return samples


def write(figures: Mapping[str, Figure]) -> None:
    """Keep the figures for other programs."""
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def report(figures: Mapping[str, Figure]) -> int:
    """Print the figures, and what they promise."""
    table = Table("", "median", "unit", "min", "max", "of floor", title="Countermand, its floor and its peers")
    for name, figure in figures.items():
        ratio = "" if figure.floor_ratio is None else f"{figure.floor_ratio:.2f}"
        numbers = (f"{number:,.{_decimals(number)}f}" for number in (figure.min, figure.max))
        table.add_row(name, f"{figure.value:,.{_decimals(figure.value)}f}", figure.unit, *numbers, ratio)
    for column in (1, 3, 4, 5):
        table.columns[column].justify = "right"
    out.print(table)
    broken = 0
    for says, kept in verdicts(figures):
        out.print(f"[green]pass[/] {says}" if kept else f"[red]FAIL[/] {says}")
        broken += not kept
    return 1 if broken else 0


def _decimals(number: float) -> int:
    return 0 if number >= 100 else 2


if __name__ == "__main__":
    sys.exit(main())
