"""What the figures have to show."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.benchmark import Figure

Figures = Mapping[str, Figure]


class Promise(NamedTuple):
    """One requirement: what it says, which figures it needs, and whether they keep it."""

    says: str
    needs: tuple[str, ...]
    kept: Callable[[Figures], bool]


PROMISES = (
    Promise("storm ≥ 0.45 floor", ("storm", "floor"), lambda by: by["storm"].value >= 0.45 * by["floor"].value),
    Promise("storm > pgqueuer", ("storm", "peer_pgqueuer"), lambda by: by["storm"].value > by["peer_pgqueuer"].value),
    Promise(
        "storm > procrastinate",
        ("storm", "peer_procrastinate"),
        lambda by: by["storm"].value > by["peer_procrastinate"].value,
    ),
    Promise("wakeup p99 ≤ 10 ms", ("wakeup_p99",), lambda by: by["wakeup_p99"].value <= 10),
    Promise("claim_growth ≤ 1.3", ("claim_growth",), lambda by: by["claim_growth"].value <= 1.3),
    Promise(
        "api_request ≥ 2,000/s, or 0.8 request_floor",
        ("api_request", "request_floor"),
        lambda by: by["api_request"].value >= min(2_000, 0.8 * by["request_floor"].value),
    ),
    Promise(
        "api p99 ≤ 25 ms at half the load, at the machine's own speed",
        ("api_p99_at_speed",),
        lambda by: by["api_p99_at_speed"].value <= 25,
    ),
    Promise(
        "GET /jobs p99 ≤ 25 ms at that speed, by any filter; 10,000 jobs of the company among 1,000,000",
        ("api_list_100_p99_at_speed",),
        lambda by: by["api_list_100_p99_at_speed"].value <= 25,
    ),
    Promise(
        "api_request ≥ 5 times Prefect's set_state",
        ("api_request", "peer_prefect"),
        lambda by: by["api_request"].value >= 5 * by["peer_prefect"].value,
    ),
    Promise(
        "request to cancelled on Snowflake ≤ 1.5 times the bare connector",
        ("snowflake_overhead",),
        lambda by: by["snowflake_overhead"].value <= 1.5,
    ),
    Promise(
        "request to no active task on Spark Connect ≤ 150 ms more than a bare interrupt",
        ("spark_overhead",),
        lambda by: by["spark_overhead"].value <= 150,
    ),
    Promise(
        "request to nothing running of a dedicated application of Spark ≤ 1.2 times a bare kill",
        ("spark_dedicated_overhead",),
        lambda by: by["spark_dedicated_overhead"].value <= 1.2,
    ),
    Promise(
        "1,000 idle planes' long polls ≤ 1 core-second a minute",
        ("planes_idle",),
        lambda by: by["planes_idle"].value <= 1,
    ),
    Promise(
        "request to claimed on one of 1,000 planes p99 ≤ 100 ms",
        ("planes_claim_p99",),
        lambda by: by["planes_claim_p99"].value <= 100,
    ),
    Promise(
        "a storm of 10,000 delays no single cancellation on another plane by more than 200 ms",
        ("neighbour_delay_max",),
        lambda by: by["neighbour_delay_max"].value <= 200,
    ),
    Promise("idle ≤ 0.5 % of a core", ("idle_cpu",), lambda by: by["idle_cpu"].value <= 0.5),
)


def verdicts(figures: Figures) -> Iterator[tuple[str, bool]]:
    """Each promise of which everything was measured, and whether it is kept."""
    for promise in PROMISES:
        if all(name in figures for name in promise.needs):
            yield promise.says, promise.kept(figures)
