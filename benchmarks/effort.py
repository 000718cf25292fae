"""How much is measured."""

from typing import NamedTuple


class Effort(NamedTuple):
    """The sizes of one run; the requirements are meant for :data:`FULL`."""

    rounds: int
    storm_jobs: int  #: requested cancellations, drained once a round
    peer_jobs: int
    wakeups: int  #: requests a round
    ended_jobs: int  #: in the larger table of ``claim_growth``
    ended_jobs_before: int  #: in the smaller one
    claims: int  #: of each table, a round
    idle_seconds: float
    idle_planes_seconds: float
    idle_planes_requests: int  #: a round
    neighbour_storm_jobs: int
    neighbour_singles: int  #: while nothing else happens, a round
    api_requests: int  #: half of them at full speed, half at half of it
    prefect_runs: int  #: flow runs that are moved to Cancelling, a round
    listed_jobs: int  #: ended, of all companies together
    list_requests: int  #: of each kind, a round
    snowflake_cancels: int  #: one after the other, a round
    snowflake_storm_jobs: int
    spark_cancels: int  #: on Connect, one after the other, a round
    spark_dedicated_cancels: int


FULL = Effort(
    rounds=5,
    storm_jobs=20_000,
    peer_jobs=5_000,
    wakeups=300,
    ended_jobs=1_000_000,
    ended_jobs_before=1_000,
    claims=40,
    idle_seconds=30,
    idle_planes_seconds=60,
    idle_planes_requests=1_000,
    neighbour_storm_jobs=10_000,
    neighbour_singles=20,
    api_requests=16_000,
    prefect_runs=500,
    listed_jobs=1_000_000,
    list_requests=200,
    snowflake_cancels=20,
    snowflake_storm_jobs=2_000,
    spark_cancels=20,
    spark_dedicated_cancels=3,
)
#: For developing: the same path in a fraction of the time, with numbers that mean little.
QUICK = Effort(
    rounds=2,
    storm_jobs=5_000,
    peer_jobs=1_000,
    wakeups=50,
    ended_jobs=50_000,
    ended_jobs_before=1_000,
    claims=20,
    idle_seconds=3,
    idle_planes_seconds=10,
    idle_planes_requests=200,
    neighbour_storm_jobs=5_000,
    neighbour_singles=10,
    api_requests=4_000,
    prefect_runs=200,
    listed_jobs=50_000,
    list_requests=50,
    snowflake_cancels=8,
    snowflake_storm_jobs=300,
    spark_cancels=8,
    spark_dedicated_cancels=1,
)
