"""Cancelling on Snowflake, on the double of an account: how soon, beside the bare connector, and how many at once."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

from benchmarks.effort import Effort
from benchmarks.ground import Ground
from benchmarks.worker_process import wait_until_listening
from control_plane.dispatch import Dispatch
from control_plane.intake import CancellationRequest, Intake, NewJob, NewPlane
from control_plane.jobs import ApiUser, Handle, JobType
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.store import Store
from control_plane.work import Executor
from tests.snowflake import ENDLESS, SnowflakeDouble, until

WAREHOUSE = "COMPUTE_WH"
PLANE = "snowflake"
SOMEBODY = ApiUser(company_id=1, user_id=7)
STILL = {"RUNNING", "QUEUED", "ABORTING"}
WAYS = ("SYSTEM$CANCEL_QUERY", "abort-request", "SYSTEM$CANCEL_ALL_QUERIES", "SYSTEM$ABORT_SESSION")
STOP_SECONDS = 0.07
_WARM_UP = 3
_SELDOM_SECONDS = 0.1  #: between two looks at the store, whose clock measures; ours would cost what is measured


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
        with SnowflakeDouble.started() as double, ground.lend(PLANE) as database:
            environment = settings_of(ground, database, double)
            with (
                plane_of(ground, database) as plane,
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

    def _in_turn(self, plane: "Plane", double: SnowflakeDouble) -> tuple[float, float]:
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
            ground.lend(PLANE) as database,
            plane_of(ground, database) as plane,
        ):
            plane.request_all(double, self._jobs)
            with process(ground, settings_of(ground, database, double), "worker"):
                return {"snowflake_storm": self._jobs / plane.seconds_until_cancelled(self._jobs)}


class Plane:
    """The plane, as whoever submits, starts and asks sees it."""

    def __init__(self, ground: Ground, database: str) -> None:
        self._ground, self._database = ground, database
        self.store = Store(ground.server.url(database))
        self._intake, self._dispatch = Intake(self.store, Policy()), Dispatch(self.store)
        self.plane_id = self._intake.create_plane(NewPlane(PLANE, Platform.SNOWFLAKE)).data_plane_id

    def cancel_one(self, double: SnowflakeDouble) -> float:
        """Submit a job, see its query run, and ask for its cancellation: milliseconds until it is cancelled."""
        sql = ENDLESS.replace("COUNT(*)", "SEQ8() AS N")
        wanted = {"nql": sql, "compiled_sql": sql}
        job_id = self._intake.submit(NewJob(self.plane_id, JobType.NQL_FORECAST, wanted), SOMEBODY).job_id
        until(lambda: self._intake.job(job_id).handle is not None, seconds=60)
        handle = self._intake.job(job_id).handle
        until(lambda: handle is not None and double.is_executing(handle.run_id))
        self._intake.request_cancellation(job_id, SOMEBODY)
        while self._intake.job(job_id).ended_at is None:
            time.sleep(_SELDOM_SECONDS)
        return self._milliseconds(job_id)

    def _milliseconds(self, job_id: UUID) -> float:
        cancellation = self._intake.job(job_id).cancellation
        if cancellation is None or cancellation.settled_at is None:
            raise RuntimeError(f"the cancellation of {job_id} was not settled")
        return (cancellation.settled_at - cancellation.requested_at).total_seconds() * 1000

    def request_all(self, double: SnowflakeDouble, jobs: int) -> None:
        """So many jobs whose queries run, closed by their executor, and their cancellation asked for."""
        executor = Executor("job-executor-benchmark", 1)
        wanted = {"nql": "SELECT 1", "compiled_sql": "SELECT 1"}
        for _ in range(jobs):
            self._intake.submit(NewJob(self.plane_id, JobType.NQL_FORECAST, wanted), SOMEBODY)
        claims = self._dispatch.start(
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
            self._dispatch.record_handles(handles, epochs)
            double.switch(logout_stops_queries=False)
        self._intake.request_cancellations([CancellationRequest(job_id, SOMEBODY) for job_id in epochs])
        self._dispatch.confirm_closed(epochs)

    def seconds_until_cancelled(self, jobs: int) -> float:
        """Wait until all are; the time from the first claim on."""
        asked = (
            "SELECT count(*), extract(epoch FROM max(settled_at) - min(first_claimed_at)) FROM cancellations "
            "JOIN jobs USING (job_id) WHERE state = 'cancelled' AND receipt IS NOT NULL"
        )
        with self._ground.connect(self._database) as connection:

            def all_are() -> bool:
                return bool(connection.execute(asked).fetchall()[0][0] == jobs)

            until(all_are, seconds=300)
            return float(connection.execute(asked).fetchall()[0][1])


def make_empty(ground: Ground) -> None:
    """Make the migrated database without a plane, unless it is there."""
    with ground.connect("postgres") as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [PLANE]).fetchone():
            return
    with ground.found(PLANE):
        pass


@contextmanager
def plane_of(ground: Ground, database: str) -> Iterator[Plane]:
    """A new plane in the database."""
    plane = Plane(ground, database)
    try:
        yield plane
    finally:
        plane.store.close()


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


@contextmanager
def process(ground: Ground, environment: Mapping[str, str], *arguments: str) -> Iterator[None]:
    """One of our commands as a process, its log in a file."""
    command = [sys.executable, "-P", "-m", "workers", *arguments]
    log = ground.file(f"{arguments[0]}.log")
    with log.open("wb") as said:
        started = subprocess.Popen(command, env=dict(environment), cwd=ground.folder, stdout=said, stderr=said)
    try:
        yield
        if started.poll() is not None:
            raise RuntimeError(f"{arguments[0]} ended by itself: {log.read_text()[-2000:]}")
    finally:
        started.terminate()
        started.wait(60)
