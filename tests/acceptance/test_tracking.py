"""Work that somebody else started on a real engine, tracked and cancelled by real processes."""

import json
from uuid import UUID

import httpx

from control_plane.errors import ExitCode
from control_plane.intake import NewJob
from control_plane.jobs import Closure, JobType, Outcome, Tracking
from control_plane.lifecycle import JobState
from tests.acceptance.site import PERSON, Site, until
from tests.narrative import ENDLESS
from workers.run_server import SOCKET

SHORT = "SELECT 1 AS x"


def query(site: Site, owner: str, sql: str = ENDLESS, folder: str = "data") -> str:
    """Start a query that is nobody's job, and answer its name."""
    transport = httpx.HTTPTransport(uds=str(site.folder / folder / SOCKET))
    with httpx.Client(transport=transport, base_url="http://executor") as client:
        told = client.post("/v1/query", json={"owner": owner, "sql": sql}).raise_for_status().json()
    return str(told["handle"]["run_id"])


def tracked(site: Site, plane: UUID, name: str) -> UUID:
    return site.intake.submit(NewJob(plane, JobType.EXTERNAL, {}, handle=name), PERSON).job_id


def running(site: Site) -> set[str]:
    """The names of the runs that the engine has."""
    return {run["handle"]["run_id"] for run in site._runs(site.folder / "data")}


def test_somebody_elses_query_is_stopped_by_its_name_and_its_neighbours_run_on(site: Site) -> None:
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    site.executor(plane)
    site.worker()
    name, neighbour, foreign = query(site, "dbt"), query(site, "dbt"), query(site, "finance")
    (job_id,) = site.submit_running(plane)
    allowed, forbidden = tracked(site, plane, name), tracked(site, plane, foreign)

    for tracked_id in (allowed, forbidden):
        site.request(tracked_id)

    receipt = site.ended(allowed).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.closure) == (Outcome.STOPPED, Closure.SINGLE_RUN)
    assert receipt.handle is not None
    assert receipt.handle.run_id == name
    until(lambda: site.waiting(forbidden) == "not_permitted", what="not_permitted")
    assert running(site) >= {neighbour, foreign}
    assert name not in running(site)
    assert site.intake.job(job_id).state is JobState.RUNNING


def test_one_command_tracks_requests_proves_and_prints_the_receipt(site: Site) -> None:
    plane = site.plane()
    site.executor(plane)
    site.worker()
    name = query(site, "dbt")
    track = ["jobs", "track", "--plane", "local", "--handle", name, "--wait-cancel", "--reason", "killed in Airflow"]

    refused = site.run(*track)
    allowed = site.run("planes", "allow-tracking", "local", "--user", "dbt", "--json")
    cancelled = site.run(*track)
    again = site.run(*track, "--json")

    assert refused.returncode == ExitCode.NOT_CANCELLABLE
    assert "allow-tracking" in refused.stderr
    assert json.loads(allowed.stdout)["tracking"]["users"] == ["dbt"]
    assert cancelled.returncode == ExitCode.OK, cancelled.stderr
    assert "cancelled, stopped (closed by single_run" in cancelled.stdout
    assert name in cancelled.stdout
    assert name not in running(site)
    job = json.loads(again.stdout)
    assert (again.returncode, job["job_id"] in cancelled.stdout) == (ExitCode.OK, True)
    assert job["cancellation"]["reason"] == "killed in Airflow"


def test_a_query_that_had_succeeded_completes_its_tracked_job(site: Site) -> None:
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    site.executor(plane)
    name = query(site, "dbt", SHORT)
    until(lambda: name not in running(site), what="the query's end")
    job_id = tracked(site, plane, name)
    site.worker()

    asked = site.run("jobs", "track", "--plane", str(plane), "--handle", name, "--wait-cancel")
    site.request(job_id)

    assert asked.returncode == ExitCode.COMPLETED_FIRST, asked.stderr
    assert "succeeded" in asked.stdout
    job = site.ended(job_id)
    assert (job.state, job.result and job.result["engine_status"]) == (JobState.COMPLETED, "succeeded")


def test_a_query_whose_executor_was_killed_waits_until_the_next_one_vouches_for_it(site: Site) -> None:
    plane = site.plane()
    site.intake.allow_tracking(plane, Tracking(users=["dbt"]))
    executor = site.executor(plane)
    site.worker()
    job_id = tracked(site, plane, query(site, "dbt"))
    executor.kill()

    site.request(job_id)
    until(lambda: site.waiting(job_id) == "plane_silent", what="plane_silent")
    site.executor(plane)

    receipt = site.ended(job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.engine_status) == (Outcome.STOPPED, "incarnation_ended")
