"""A plane with both kinds of clusters of Spark, worked by the real commands on a real Connect server and master."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from adapters.narrative.spark_warehouse import WHOLE, Kind, Warehouse
from control_plane.errors import ExitCode
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import Closure, ExecutionCluster, JobType, Outcome, work_tag
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from tests.acceptance.site import PERSON, Site, Started, until
from tests.contract.spark_standalone import SMALL
from tests.doubles.tcp_proxy import Fault, proxied
from tests.spark import ConnectServer, Standalone, is_running
from workers.engines.spark_plans import count_rows

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]

WAREHOUSE = "COUNTERMAND_SPARK__WAREHOUSE"
SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
#: As in the README: a hundred billion rows that exist only while they are read.
NUMBERS = "(SELECT explode(sequence(1, 1000000)) AS x)"
ENDLESS = f"SELECT a.x FROM {NUMBERS} a CROSS JOIN {NUMBERS} b WHERE a.x + b.x < 0"
#: One that heeds every interrupt, also while it writes.
LONG = "SELECT id FROM range(100000000000) WHERE id % 99999999977 = 7"
QUICK = "SELECT explode(sequence(1, 12)) AS n"


@dataclass
class Plane:
    """A plane with both clusters, and what its processes are told of them."""

    site: Site
    plane: UUID
    settings: dict[str, str]

    @classmethod
    def of(cls, site: Site, name: str, settings: dict[str, str]) -> Self:
        """A new one of this name."""
        new = NewPlane(name, Platform.NARRATIVE, execution_clusters=[SHARED, DEDICATED])
        return cls(site, site.intake.create_plane(new).data_plane_id, settings)

    def another(self, name: str) -> Self:
        """One on the same clusters, with a warehouse of its own."""
        (warehouse := Path(self.settings[WAREHOUSE]) / name.replace(" ", "-")).mkdir()
        return self.of(self.site, name, self.settings | {WAREHOUSE: str(warehouse)})

    @property
    def folder(self) -> Path:
        """Of its executor."""
        return self.site.folder / f"executor-{self.plane}"

    def executor_that_dies(self, when: str, call: str) -> Started:
        arguments = [self.site.url, str(self.plane), str(self.folder), when, call]
        return self.site.start("dying", "tests.acceptance.dying_spark_executor", *arguments, **self.settings)

    def readers_see(self, dataset_id: int) -> int | None:
        """How many rows of the dataset; None where nobody published it, or it is not whole."""
        warehouse = Warehouse(Path(self.settings[WAREHOUSE]))
        shown = warehouse.shown(Kind.VIEW, dataset_id)
        if shown is None or shown.output is None or not (output := warehouse.root / shown.output / WHOLE).exists():
            return None
        return count_rows(output.parent)

    def executor(self, **settings: str) -> Started:
        wanted = ["--data-plane", str(self.plane), "--data-folder", str(self.folder)]
        started = self.site.start("data", "workers", "executor", *wanted, **self.settings | settings)
        started.until_event("executor_started")
        return started

    def worker(self) -> Started:
        return self.site.worker("worker", self.plane, **self.settings)

    def submit(self, sql: str, cluster: ExecutionCluster | None, *, dataset_id: int | None = None) -> UUID:
        """A forecast; with *dataset_id* a view."""
        document = {"nql": sql, "compiled_sql": sql} | ({} if dataset_id is None else {"dataset_id": dataset_id})
        job_type = JobType.NQL_FORECAST if dataset_id is None else JobType.MATERIALIZE_VIEW
        new = NewJob(self.plane, job_type, document, execution_cluster=cluster)
        return self.site.intake.submit(new, PERSON).job_id

    def until_running(self, *job_ids: UUID) -> None:
        for job_id in job_ids:
            until(lambda of=job_id: self.site.intake.job(of).handle, seconds=120, what=f"the run of {job_id}")  # type: ignore[misc]


@pytest.fixture
def plane(sqlite_site: Site, spark_connect: ConnectServer, spark_standalone: Standalone, tmp_path: Path) -> Plane:
    told = {
        "CONNECT_URL": spark_connect.url,
        "UI_URL": spark_connect.ui_url,
        "MASTER_URL": spark_standalone.rest_url,
        "MASTER_UI_URL": spark_standalone.ui_url,
        "WAREHOUSE": str(tmp_path),
        "PROPERTIES": json.dumps(SMALL),
        "CALL_TIMEOUT_SECONDS": "60",  # a server that has just started takes long over its first query
    }
    settings = {f"COUNTERMAND_SPARK__{name}": value for name, value in told.items()}
    settings["COUNTERMAND_WORKER__LEASE_SECONDS"] = "120"
    return Plane.of(sqlite_site, "big", settings)


def test_both_clusters_are_checked_worked_and_cancelled_on_by_one_executor_and_one_worker(plane: Plane) -> None:
    patient = plane.settings | {"COUNTERMAND_SPARK__CALL_TIMEOUT_SECONDS": "25"}  # the server may just have started
    checked = plane.site.run("planes", "check", "big", **patient)
    plane.executor()
    plane.worker()
    doomed = {cluster: plane.submit(ENDLESS, cluster) for cluster in (SHARED, DEDICATED)}
    quick = plane.submit(QUICK, None)
    plane.until_running(*doomed.values())

    for job_id in doomed.values():
        plane.site.request(job_id)
    ended = {cluster: plane.site.ended(job_id, seconds=120) for cluster, job_id in doomed.items()}

    assert (checked.returncode, checked.stdout.startswith("big: ok: shared: ")) == (ExitCode.OK, True), checked.stdout
    assert "; dedicated: " in checked.stdout
    assert {cluster: (job.state, job.receipt and job.receipt.outcome) for cluster, job in ended.items()} == {
        SHARED: (JobState.CANCELLED, Outcome.STOPPED),
        DEDICATED: (JobState.CANCELLED, Outcome.STOPPED),
    }
    assert [job.receipt and job.receipt.engine for job in ended.values()] == ["spark-connect", "spark-standalone"]
    done = plane.site.ended(quick, seconds=120)
    assert (done.state, done.execution_cluster, done.result) == (JobState.COMPLETED, SHARED, {"rows": 12, "cost": 0})


class Death(NamedTuple):
    """Where an executor dies by SIGKILL, who takes its job up, and how that ends: with this receipt, or completed."""

    when: str
    call: str
    by: str  #: "executor": started again on its folder. "worker": alone, the job's cancellation having been requested
    outcome: Outcome | None
    sql: str = QUICK

    @property
    def name(self) -> str:
        return f"{self.when} {self.call}"

    @property
    def state(self) -> JobState:
        return JobState.COMPLETED if self.outcome is None else JobState.CANCELLED


#: An application costs ten seconds of a processor: on a cluster of its own each way that a job can end is tried once.
DEATHS = {
    SHARED: [
        Death("before", "record_handles", "worker", Outcome.STOPPED, LONG),
        Death("before", "commit", "worker", Outcome.FINISHED_UNPUBLISHED),
        Death("after", "commit", "worker", None),
        Death("before", "publish", "executor", None),
        Death("after", "publish", "executor", None),
        Death("before", "complete", "executor", None),
    ],
    DEDICATED: [  # what nobody recorded has a test of its own, below
        Death("before", "commit", "worker", Outcome.FINISHED_UNPUBLISHED),
        Death("after", "commit", "worker", None),
        Death("before", "complete", "executor", None),
    ],
}


@pytest.mark.parametrize("cluster", DEATHS)
def test_a_killed_executors_job_ends_published_if_it_was_committed_and_never_otherwise(
    plane: Plane, cluster: ExecutionCluster
) -> None:
    """Each on a plane of its own, killed at its own step, all at once."""
    planes = {death: plane.another(death.name) for death in DEATHS[cluster]}
    jobs = {death: own.submit(death.sql, cluster, dataset_id=6404) for death, own in planes.items()}
    dying = {death: own.executor_that_dies(death.when, death.call) for death, own in planes.items()}
    died = {death: executor.process.wait(200) for death, executor in dying.items()}

    for death, own in planes.items():
        if death.by == "worker":
            plane.site.request(jobs[death])
            own.worker()
        else:
            own.executor()
    ended = {death: plane.site.ended(job_id, seconds=200) for death, job_id in jobs.items()}

    assert died == dict.fromkeys(planes, -signal.SIGKILL)
    assert {death.name: job.state for death, job in ended.items()} == {death.name: death.state for death in planes}
    assert {death.name: job.receipt and job.receipt.outcome for death, job in ended.items()} == {
        death.name: death.outcome for death in planes
    }
    assert {job.receipt.closure for job in ended.values() if job.receipt} == {Closure.ENGINE_CLOSED}
    assert {death.name: own.readers_see(6404) for death, own in planes.items()} == {
        death.name: 12 if death.outcome is None else None for death in planes
    }
    assert {plane.site.moves(jobs[death]).count("complete") for death in planes if death.outcome is None} == {1}


def test_an_application_whose_executor_died_before_the_masters_answer_is_found_by_its_tag_and_leaves_no_process(
    plane: Plane, spark_standalone: Standalone
) -> None:
    """Nobody was ever told its driver's id: neither the store nor the warehouse."""
    where, warehouse = urlsplit(spark_standalone.rest_url), Path(plane.settings[WAREHOUSE])
    job_id = plane.submit(LONG, DEDICATED, dataset_id=6404)
    with proxied((str(where.hostname), int(where.port or 0))) as proxy:
        proxy.begin(Fault.WITHHOLD_ANSWERS, only="/create")
        executor = plane.executor(COUNTERMAND_SPARK__MASTER_URL=proxy.url)
        until(lambda: proxy.met, seconds=60, what="the submission")
        executor.kill()
    [started] = executor.events("executor_started")
    tag = work_tag(started["installation"], plane.plane, job_id)
    until(lambda: spark_standalone.computing(warehouse, tag), seconds=200, what="the run")
    processes = spark_standalone.computing(warehouse, tag)
    before = plane.site.intake.job(job_id)

    plane.worker()
    plane.site.request(job_id)
    ended = plane.site.ended(job_id, seconds=120)

    assert before.handle is None
    assert ended.receipt is not None
    assert (ended.receipt.outcome, ended.receipt.closure) == (Outcome.STOPPED, Closure.ENGINE_CLOSED)
    assert (ended.receipt.engine_status, ended.receipt.tag) == ("KILLED", tag)
    assert len(processes) > 1
    assert [process for process in processes if is_running(process)] == []


def test_an_executor_serves_the_cluster_that_answers_while_the_other_is_away(plane: Plane) -> None:
    plane.settings["COUNTERMAND_SPARK__MASTER_URL"] = "http://127.0.0.1:1"

    executor = plane.executor()
    quick, waiting = plane.submit(QUICK, SHARED), plane.submit(QUICK, DEDICATED)

    done = plane.site.ended(quick, seconds=120)
    [away] = executor.events("cluster_away")
    assert away["cluster"] == DEDICATED
    assert done.state is JobState.COMPLETED
    assert plane.site.intake.job(waiting).state is JobState.PENDING


def test_a_worker_that_does_not_reach_one_of_the_clusters_leaves_the_plane_out_and_says_which(plane: Plane) -> None:
    of_dedicated = ("COUNTERMAND_SPARK__MASTER", "COUNTERMAND_SPARK__PROPERTIES")
    shared_alone = {name: value for name, value in plane.settings.items() if not name.startswith(of_dedicated)}

    worker = plane.site.worker(**shared_alone)

    [left_out] = worker.events("plane_left_out")
    assert "spark.master_url: nothing says where the dedicated cluster is" in left_out["detail"]


def test_a_check_tells_that_the_warehouse_is_missing_or_cannot_be_written_for_each_cluster(
    plane: Plane, tmp_path: Path
) -> None:
    (unwritable := tmp_path / "unwritable").mkdir()
    (unwritable / "outputs").touch()  # where its folder is to be made
    missing = tmp_path / "nowhere"

    without = plane.site.run("planes", "check", "big", **plane.settings | {WAREHOUSE: str(missing)})
    refusing = plane.site.run("planes", "check", "big", **plane.settings | {WAREHOUSE: str(unwritable)})

    assert [without.returncode, refusing.returncode] == [ExitCode.CHECK_FAILED] * 2
    assert without.stdout.count(f"warehouse: {missing} is no folder here; is it mounted?") == 2, without.stdout
    assert refusing.stdout.count(f"warehouse: {unwritable}/outputs: ") == 2, refusing.stdout


def test_a_check_tells_which_cluster_is_away(plane: Plane) -> None:
    nobody = plane.settings | {"COUNTERMAND_SPARK__MASTER_URL": "http://127.0.0.1:1"}

    checked = plane.site.run("planes", "check", "big", **nobody)

    assert checked.returncode == ExitCode.CHECK_FAILED
    assert checked.stdout.startswith("big: not ok: shared: ")
    assert "dedicated: the Spark master at http://127.0.0.1:1 cannot be reached" in checked.stdout
