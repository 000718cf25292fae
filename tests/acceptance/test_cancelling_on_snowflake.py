"""Jobs that run in Snowflake, cancelled by real processes, whatever becomes of their executor."""

import secrets
import signal
from dataclasses import dataclass
from uuid import UUID

import psutil
import pytest

from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import Closure, Job, JobType, Outcome, Receipt
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from tests.acceptance.site import PERSON, Site, Started, until
from tests.acceptance.snowflake import WAREHOUSE, settings_of
from tests.snowflake import ENDLESS, SnowflakeDouble

LONG = ENDLESS.replace("COUNT(*)", "SEQ8() AS N")


@dataclass
class Plane:
    """A plane on Snowflake, with a database of its own."""

    site: Site
    double: SnowflakeDouble
    plane: UUID
    database: str
    settings: dict[str, str]

    def executor(self, folder: str = "data") -> Started:
        wanted = ["--data-plane", str(self.plane), "--data-folder", str(self.site.folder / folder)]
        started = self.site.start(folder, "workers", "executor", *wanted, **self.settings)
        started.until_event("executor_started")
        return started

    def failing_executor(self, number: str, when: str, call: str) -> Started:
        """One that sends itself the signal at that moment."""
        wanted = [str(self.plane), str(self.site.folder / "data"), number, when, call]
        return self.site.start("failing", "tests.acceptance.failing_snowflake_executor", *wanted, **self.settings)

    def worker(self) -> Started:
        return self.site.worker("worker", self.plane, **self.settings)

    def submit(self, sql: str = LONG, *, dataset_id: int = 6402) -> UUID:
        wanted = {"nql": sql, "compiled_sql": sql, "dataset_id": dataset_id}
        return self.site.intake.submit(NewJob(self.plane, JobType.MATERIALIZE_VIEW, wanted), PERSON).job_id

    def active(self, job_id: UUID) -> list[str]:
        """The queries of the job's run that are active, as the account itself knows."""
        queries = self.double.state()["active"]
        return [query["id"] for query in queries if str(job_id) in query["tag"] and query["tag"].endswith(":run")]

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        session = self.double.connect("EXECUTOR", warehouse=WAREHOUSE, database=self.database)
        with session as connected, connected.cursor() as cursor:
            return list(cursor.execute(sql).fetchall())


@pytest.fixture
def plane(sqlite_site: Site, snowflake_double: SnowflakeDouble) -> Plane:
    database = f"PLANE_{secrets.token_hex(4)}".upper()
    snowflake_double.administer(
        f"CREATE DATABASE {database}", "GRANT OWNERSHIP ON USER EXECUTOR TO ROLE COUNTERMAND_CANCELLER"
    )
    made = sqlite_site.intake.create_plane(NewPlane("snow", Platform.SNOWFLAKE, listing_lag_seconds=0.5))
    settings = settings_of(snowflake_double, database=database)
    return Plane(sqlite_site, snowflake_double, made.data_plane_id, database, settings)


def receipt_of(job: Job) -> Receipt:
    assert job.receipt is not None
    return job.receipt


def test_a_job_that_runs_is_cancelled_and_the_account_falls_idle(plane: Plane) -> None:
    plane.executor()
    plane.worker()
    job_id = plane.submit()
    until(lambda: plane.double.state()["executing"], what="that it executes")

    plane.site.request(job_id)

    receipt = receipt_of(plane.site.ended(job_id))
    assert receipt.outcome is Outcome.STOPPED
    assert receipt.closure in (Closure.EXECUTOR_CLOSED, Closure.ENGINE_CLOSED)
    assert (receipt.engine, receipt.incarnation) == ("snowflake", plane.double.incarnation)
    assert plane.active(job_id) == []
    until(plane.double.is_idle, what="an idle account")


def test_a_job_that_nobody_cancels_is_completed_and_published(plane: Plane) -> None:
    plane.executor()
    job_id = plane.submit("SELECT 7 AS N", dataset_id=11)

    assert plane.site.ended(job_id).state is JobState.COMPLETED
    assert plane.rows(f"SELECT N FROM {plane.database}.COUNTERMAND_DATASETS.DS_11") == [(7,)]


@pytest.mark.parametrize(
    ("when", "call", "outcomes"),
    [
        ("before", "start", {Outcome.NEVER_STARTED}),
        ("before", "submit", {Outcome.NEVER_STARTED}),
        ("after", "start", {Outcome.STOPPED}),
        ("before", "record_handles", {Outcome.STOPPED}),
        ("after", "record_handles", {Outcome.STOPPED}),
    ],
)
def test_whenever_its_executor_is_killed_the_cancellation_leaves_no_query_running(
    plane: Plane, when: str, call: str, outcomes: set[Outcome]
) -> None:
    job_id = plane.submit()
    killed = plane.failing_executor("SIGKILL", when, call)
    assert killed.process.wait(60) == -signal.SIGKILL, killed.says()
    plane.worker()

    plane.site.request(job_id)

    receipt = receipt_of(plane.site.ended(job_id))
    assert receipt.outcome in outcomes
    assert receipt.closure in (Closure.ENGINE_CLOSED, Closure.PERMIT_EXPIRED)
    assert plane.active(job_id) == []


@pytest.mark.parametrize("call", ["commit", "publish"])
def test_a_job_that_was_committed_when_its_executor_was_killed_is_published(plane: Plane, call: str) -> None:
    job_id = plane.submit("SELECT 8 AS N", dataset_id=12)
    killed = plane.failing_executor("SIGKILL", "after", call)
    assert killed.process.wait(60) == -signal.SIGKILL, killed.says()
    plane.site.request(job_id)

    plane.worker()

    assert plane.site.ended(job_id).state is JobState.COMPLETED
    assert plane.rows(f"SELECT N FROM {plane.database}.COUNTERMAND_DATASETS.DS_12") == [(8,)]


def test_what_a_stalled_executor_would_submit_after_the_cancellation_cannot_begin_any_more(plane: Plane) -> None:
    """It stalled after the last look at its permit: no clock can stop it, but its session has ended."""
    job_id = plane.submit()
    stalled = plane.failing_executor("SIGSTOP", "before", "submit")
    stopped = psutil.Process(stalled.process.pid)
    until(lambda: stopped.status() == psutil.STATUS_STOPPED, what="that it is stopped")
    plane.worker()
    plane.site.request(job_id)
    receipt = receipt_of(plane.site.ended(job_id))
    before = plane.double.state()["requests"]["statement"]

    stalled.signal(signal.SIGCONT)
    until(lambda: plane.double.state()["requests"]["statement"] > before, what="that it submits")
    until(lambda: "submission_unanswered" in stalled.says(), what="that its submission is refused")

    assert (receipt.outcome, receipt.closure) == (Outcome.NEVER_STARTED, Closure.ENGINE_CLOSED)
    assert plane.active(job_id) == []
