"""A plane with both kinds of clusters of Spark, worked by the real commands on a real Connect server and master."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from control_plane.errors import ExitCode
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import ExecutionCluster, JobType, Outcome
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from tests.acceptance.site import PERSON, Site, Started, until
from tests.spark import ConnectServer, Standalone

pytestmark = pytest.mark.spark

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
#: As in the README: a hundred billion rows that exist only while they are read.
NUMBERS = "(SELECT explode(sequence(1, 1000000)) AS x)"
ENDLESS = f"SELECT a.x FROM {NUMBERS} a CROSS JOIN {NUMBERS} b WHERE a.x + b.x < 0"
QUICK = "SELECT explode(sequence(1, 12)) AS n"


@dataclass
class Plane:
    """A plane with both clusters, and what its processes are told of them."""

    site: Site
    plane: UUID
    settings: dict[str, str]

    def executor(self) -> Started:
        wanted = ["--data-plane", str(self.plane), "--data-folder", str(self.site.folder / "data")]
        started = self.site.start("data", "workers", "executor", *wanted, **self.settings)
        started.until_event("executor_started")
        return started

    def worker(self) -> Started:
        return self.site.worker("worker", self.plane, **self.settings)

    def submit(self, sql: str, cluster: ExecutionCluster | None) -> UUID:
        document = {"nql": sql, "compiled_sql": sql}
        new = NewJob(self.plane, JobType.NQL_FORECAST, document, execution_cluster=cluster)
        return self.site.intake.submit(new, PERSON).job_id

    def until_running(self, *job_ids: UUID) -> None:
        for job_id in job_ids:
            until(lambda of=job_id: self.site.intake.job(of).handle, seconds=60, what=f"the run of {job_id}")  # type: ignore[misc]


@pytest.fixture
def plane(sqlite_site: Site, spark_connect: ConnectServer, spark_standalone: Standalone, tmp_path: Path) -> Plane:
    new = NewPlane("big", Platform.NARRATIVE, execution_clusters=[SHARED, DEDICATED])
    told = {
        "CONNECT_URL": spark_connect.url,
        "UI_URL": spark_connect.ui_url,
        "MASTER_URL": spark_standalone.rest_url,
        "MASTER_UI_URL": spark_standalone.ui_url,
        "WAREHOUSE": str(tmp_path),
    }
    settings = {f"COUNTERMAND_SPARK__{name}": value for name, value in told.items()}
    return Plane(sqlite_site, sqlite_site.intake.create_plane(new).data_plane_id, settings)


def test_both_clusters_are_checked_worked_and_cancelled_on_by_one_executor_and_one_worker(plane: Plane) -> None:
    checked = plane.site.run("planes", "check", "big", **plane.settings)
    plane.executor()
    plane.worker()
    doomed = {cluster: plane.submit(ENDLESS, cluster) for cluster in (SHARED, DEDICATED)}
    quick = plane.submit(QUICK, None)
    plane.until_running(*doomed.values())

    for job_id in doomed.values():
        plane.site.request(job_id)
    ended = {cluster: plane.site.ended(job_id, seconds=60) for cluster, job_id in doomed.items()}

    assert (checked.returncode, checked.stdout.startswith("big: ok: shared: ")) == (ExitCode.OK, True), checked.stdout
    assert "; dedicated: " in checked.stdout
    assert {cluster: (job.state, job.receipt and job.receipt.outcome) for cluster, job in ended.items()} == {
        SHARED: (JobState.CANCELLED, Outcome.STOPPED),
        DEDICATED: (JobState.CANCELLED, Outcome.STOPPED),
    }
    assert [job.receipt and job.receipt.engine for job in ended.values()] == ["spark-connect", "spark-standalone"]
    done = plane.site.ended(quick, seconds=60)
    assert (done.state, done.execution_cluster, done.result) == (JobState.COMPLETED, SHARED, {"rows": 12, "cost": 0})


def test_an_executor_serves_the_cluster_that_answers_while_the_other_is_away(plane: Plane) -> None:
    plane.settings["COUNTERMAND_SPARK__MASTER_URL"] = "http://127.0.0.1:1"

    executor = plane.executor()
    quick, waiting = plane.submit(QUICK, SHARED), plane.submit(QUICK, DEDICATED)

    done = plane.site.ended(quick, seconds=60)
    [away] = executor.events("cluster_away")
    assert away["cluster"] == DEDICATED
    assert done.state is JobState.COMPLETED
    assert plane.site.intake.job(waiting).state is JobState.PENDING


def test_a_worker_that_does_not_reach_one_of_the_clusters_leaves_the_plane_out_and_says_which(plane: Plane) -> None:
    shared_alone = {name: value for name, value in plane.settings.items() if "MASTER" not in name}

    worker = plane.site.worker(**shared_alone)

    [left_out] = worker.events("plane_left_out")
    assert "spark.master_url: nothing says where the dedicated cluster is" in left_out["detail"]


def test_a_check_tells_which_cluster_is_away(plane: Plane) -> None:
    nobody = plane.settings | {"COUNTERMAND_SPARK__MASTER_URL": "http://127.0.0.1:1"}

    checked = plane.site.run("planes", "check", "big", **nobody)

    assert checked.returncode == ExitCode.CHECK_FAILED
    assert checked.stdout.startswith("big: not ok: shared: ")
    assert "dedicated: the Spark master at http://127.0.0.1:1 cannot be reached" in checked.stdout
