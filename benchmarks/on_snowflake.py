"""Cancelling on Snowflake, on the double of an account: how soon, beside the bare connector, and how many at once."""

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.plane import EMPTY, SOMEBODY, Plane, make_empty, process
from benchmarks.worker_process import wait_until_listening
from control_plane.intake import CancellationRequest, NewPlane
from control_plane.jobs import Handle, JobType
from control_plane.planes import Platform
from control_plane.work import Executor
from tests.snowflake import ENDLESS, SnowflakeDouble, until

WAREHOUSE = "COMPUTE_WH"
PLANE = "snowflake"
NEW = NewPlane(PLANE, Platform.SNOWFLAKE)
STILL = {"RUNNING", "QUEUED", "ABORTING"}
WAYS = ("SYSTEM$CANCEL_QUERY", "abort-request", "SYSTEM$CANCEL_ALL_QUERIES", "SYSTEM$ABORT_SESSION")
STOP_SECONDS = 0.07
_WARM_UP = 3


class SnowflakeCancel:
    """From the request to ``cancelled``, by the database's clock; and the bare connector, which cancels and polls.

    Both stop the same query of the same user in the same double, in turn: ours by a worker and an executor as
    processes of their own, over Postgres; the connector from this process, with no pause between two looks. First the
    double stops at once, which shows what we add; then it takes 70 ms, as one did that was measured.
    """

    name = "snowflake"
    units: ClassVar[Mapping[str, str]] = {
        "snowflake_instant_p50": "ms",
        "snowflake_instant_bare_p50": "ms",
        "snowflake_p50": "ms",
        "snowflake_bare_p50": "ms",
        "snowflake_overhead": "times",
    }

    def __init__(self, effort: Effort) -> None:
        self._count = effort.snowflake_cancels

    def prepare(self, ground: Ground) -> None:
        """A database with nothing in it."""
        make_empty(ground)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """The medians, and by how much ours is longer where a stop takes its time."""
        with SnowflakeDouble.started() as double, ground.lend(EMPTY) as database:
            environment = settings_of(ground, database, double)
            with (
                SnowflakePlane.made(ground, database, NEW) as plane,
                process(ground, environment, "executor", "--data-plane", PLANE, "--data-folder", "executor"),
                process(ground, environment, "worker"),
            ):
                wait_until_listening(ground, database)
                instant, instant_bare = self._in_turn(plane, double)
                double.switch(stop_seconds=dict.fromkeys(WAYS, STOP_SECONDS))
                ours, bare = self._in_turn(plane, double)
        return {
            "snowflake_instant_p50": instant,
            "snowflake_instant_bare_p50": instant_bare,
            "snowflake_p50": ours,
            "snowflake_bare_p50": bare,
            "snowflake_overhead": ours / bare,
        }

    def _in_turn(self, plane: "SnowflakePlane", double: SnowflakeDouble) -> tuple[float, float]:
        """The medians of both, in milliseconds."""
        ours, bare = [], []
        with double.connect("EXECUTOR", warehouse=WAREHOUSE) as runs, double.connect("CANCELLER") as stops:
            for _ in range(self._count + _WARM_UP):
                ours.append(plane.cancel_one(double))
                bare.append(_cancel_bare(double, runs, stops))
        return statistics.median(ours[_WARM_UP:]), statistics.median(bare[_WARM_UP:])


def _cancel_bare(double: SnowflakeDouble, runs: Any, stops: Any) -> float:
    """Milliseconds until the status of a query says that it ended, from just before it is cancelled."""
    with runs.cursor() as cursor:
        query_id = cursor.execute_async(ENDLESS)["queryId"]
    until(lambda: double.is_executing(query_id))
    began = time.perf_counter()
    with stops.cursor() as cursor:
        cursor.execute(f"SELECT SYSTEM$CANCEL_QUERY('{query_id}')")
    while stops.get_query_status(query_id).name in STILL:
        pass
    return (time.perf_counter() - began) * 1000


class SnowflakeStorm:
    """A worker process drains requested cancellations of queries that run, and only wait, in the double.

    From the first claim to the last settlement, by the database's clock. Queries that computed would leave the worker
    nothing of two cores.
    """

    name = "snowflake_storm"
    units: ClassVar[Mapping[str, str]] = {"snowflake_storm": "cancelled/s"}

    def __init__(self, effort: Effort) -> None:
        self._jobs = effort.snowflake_storm_jobs

    def prepare(self, ground: Ground) -> None:
        """A database with nothing in it."""
        make_empty(ground)

    def measure(self, ground: Ground) -> Mapping[str, float]:
        """Cancellations a second."""
        with (
            SnowflakeDouble.started("--capacity", str(2 * self._jobs)) as double,
            ground.lend(EMPTY) as database,
            SnowflakePlane.made(ground, database, NEW) as plane,
        ):
            plane.request_all(double, self._jobs)
            with process(ground, settings_of(ground, database, double), "worker"):
                return {"snowflake_storm": self._jobs / plane.seconds_until_cancelled(self._jobs)}


class SnowflakePlane(Plane):
    """A plane on the double."""

    def cancel_one(self, double: SnowflakeDouble) -> float:
        """Submit a job, see its query run, and ask for its cancellation: milliseconds until it is cancelled."""
        job_id = self.submit(ENDLESS.replace("COUNT(*)", "SEQ8() AS N"))
        query_id = self.handle(job_id).run_id
        until(lambda: double.is_executing(query_id))
        self.request(job_id)
        return self.milliseconds(job_id)

    def request_all(self, double: SnowflakeDouble, jobs: int) -> None:
        """So many jobs whose queries run, closed by their executor, and their cancellation asked for."""
        executor = Executor("job-executor-benchmark", 1)
        for _ in range(jobs):
            self.submit("SELECT 1")
        claims = self.dispatch.start(
            executor,
            data_plane_id=self.plane_id,
            types=[JobType.NQL_FORECAST],
            limit=jobs,
            incarnation=double.incarnation,
        )
        epochs = {claim.job_id: claim.epoch for claim in claims}
        with double.connect("EXECUTOR", warehouse=WAREHOUSE) as session, session.cursor() as cursor:
            handles = {}
            for claim in claims:
                told = cursor.execute_async("SELECT SYSTEM$WAIT(3600)", _statement_params={"QUERY_TAG": claim.tag})
                handles[claim.job_id] = Handle("snowflake", double.incarnation, str(told["queryId"]))
            self.dispatch.record_handles(handles, epochs)
            double.switch(logout_stops_queries=False)
        self.intake.request_cancellations([CancellationRequest(job_id, SOMEBODY) for job_id in epochs])
        self.dispatch.confirm_closed(epochs)

    def seconds_until_cancelled(self, jobs: int) -> float:
        """Wait until all are; the time from the first claim on."""
        asked = (
            "SELECT count(*), extract(epoch FROM max(settled_at) - min(first_claimed_at)) FROM cancellations "
            "JOIN jobs USING (job_id) WHERE state = 'cancelled' AND receipt IS NOT NULL"
        )
        with self.ground.connect(self.database) as connection:

            def all_are() -> bool:
                return bool(connection.execute(asked).fetchall()[0][0] == jobs)

            until(all_are, seconds=300)
            return float(connection.execute(asked).fetchall()[0][1])


def settings_of(ground: Ground, database: str, double: SnowflakeDouble) -> dict[str, str]:
    """What tells our processes where the store and the account are."""
    account = double.account(warehouse=WAREHOUSE)
    told = {
        "DATABASE_URL": ground.server.url(database),
        "SNOWFLAKE__ACCOUNT": account.account,
        "SNOWFLAKE__HOST": account.host,
        "SNOWFLAKE__PORT": account.port,
        "SNOWFLAKE__PROTOCOL": account.protocol,
        "SNOWFLAKE__DATABASE": account.database,
        "SNOWFLAKE__WAREHOUSE": account.warehouse,
    }
    for side, user in (("WORKER", "CANCELLER"), ("EXECUTOR", "EXECUTOR")):
        token = double.sign_in(user).token
        told |= {f"SNOWFLAKE__{side}__USER": user, f"SNOWFLAKE__{side}__TOKEN_KIND": "oauth"}
        told |= {f"SNOWFLAKE__{side}__TOKEN": token.get_secret_value() if token else ""}
    return os.environ | {f"COUNTERMAND_{name}": str(value) for name, value in told.items()}
