"""Cancelling real work with the real commands: what was asked for ends, and nothing else does."""

import json
from collections import Counter
from uuid import UUID

from control_plane.jobs import Closure, Outcome
from control_plane.lifecycle import JobState
from tests.acceptance.site import Site, site_of, until
from tests.databases import Databases

OUTPUTS = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'outputs'"


def test_a_running_job_is_cancelled_with_a_receipt_and_its_work_is_gone(site: Site) -> None:
    plane = site.plane()
    executor = site.executor(plane)
    site.worker()
    (job_id,) = site.submit_running(plane)
    until(executor.is_busy, what="that the executor is busy")

    asked = site.run("jobs", "request-cancellation", str(job_id), "--reason", "the wrong month", "--wait", "--json")

    assert asked.returncode == 0, asked.stderr
    assert site.active_runs() == set()
    job = json.loads(asked.stdout)
    assert (job["state"], job["cancellation"]["reason"]) == ("cancelled", "the wrong month")
    receipt = job["receipt"]
    assert (receipt["outcome"], receipt["engine"]) == ("stopped", "duckdb")
    assert receipt["handle"]["run_id"].endswith(str(job_id))
    assert receipt["closure"] in {Closure.EXECUTOR_CLOSED, Closure.ENGINE_CLOSED}
    assert receipt["engine_ended_at"] <= receipt["seen_at"]
    until(lambda: not executor.is_busy(percent=15), what="that the executor is idle")
    assert executor.terminate() == 0
    assert site.rows(OUTPUTS) == []


def test_of_twenty_running_jobs_only_the_one_that_was_asked_for_ends(site: Site) -> None:
    plane = site.plane()
    site.executor(plane, slots=20)
    site.worker()
    chosen, *neighbours = site.submit_running(plane, 20)

    site.request(chosen)

    assert site.ended(chosen).state is JobState.CANCELLED
    assert site.active_runs() == set(neighbours)
    assert {site.intake.job(job_id).state for job_id in neighbours} == {JobState.RUNNING}


def test_neighbouring_planes_and_installations_are_left_alone(databases: Databases, sqlite_site: Site) -> None:
    """Same names everywhere: only installation and plane tell the jobs apart."""
    ours = sqlite_site
    with databases.lend_sqlite() as url, site_of(url) as theirs:
        plane, next_door, foreign = ours.plane(), ours.plane("local-2"), theirs.plane()
        ours.executor(plane)
        ours.executor(next_door, "next-door")
        theirs.executor(foreign)
        ours.worker("ours", plane)
        (job_id,) = ours.submit_running(plane)
        decoys = ours.submit_running(next_door, 2)
        foreigners = theirs.submit_running(foreign, 2)
        ours.request(decoys[0])
        theirs.request(foreigners[0])

        ours.request(job_id)

        assert ours.ended(job_id).state is JobState.CANCELLED
        assert ours.active_runs() == set()
        for site, folder, (asked, running) in ((ours, "next-door", decoys), (theirs, "data", foreigners)):
            assert site.intake.job(running).state is JobState.RUNNING
            assert running in site.active_runs(folder)
            assert site.intake.job(asked).state is JobState.PENDING_CANCELLATION
            assert site.waiting(asked) is None  # no worker of its plane has looked at it


def test_several_workers_share_a_plane_and_do_nothing_twice(site: Site) -> None:
    plane = site.plane()
    site.executor(plane, slots=8)
    job_ids = site.submit_running(plane, 8)
    workers = [site.worker(name) for name in ("one", "two", "three")]

    for job_id in job_ids:
        site.request(job_id)

    jobs = [site.ended(job_id) for job_id in job_ids]
    assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert all(site.moves(job_id)[-2:] == ["request_cancellation", "cancel"] for job_id in job_ids)
    assert [worker.terminate() for worker in workers] == [0, 0, 0]
    settled = Counter(UUID(line["job"]) for worker in workers for line in worker.events("cancellation_settled"))
    assert settled == Counter(job_ids)
    assert [line for worker in workers for line in worker.events("settlement_stale")] == []


def test_a_job_that_nobody_claimed_is_settled_without_any_worker(site: Site) -> None:
    job_id = site.submit(site.plane())

    asked = site.run("jobs", "request-cancellation", str(job_id), "--json")

    assert (asked.returncode, json.loads(asked.stdout)["state"]) == (0, "pending_cancellation")
    job = site.ended(job_id)
    assert job.state is JobState.CANCELLED
    assert job.receipt is not None
    assert (job.receipt.outcome, job.receipt.closure) == (Outcome.NEVER_STARTED, Closure.NEVER_CLAIMED)


def test_waiting_for_a_job_that_was_completed_first_exits_with_3(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    sqlite_site.executor(plane)
    job_id = sqlite_site.submit(plane, "SELECT n FROM narrative.datasets.ds_1")
    sqlite_site.ended(job_id)

    waited = sqlite_site.run("jobs", "request-cancellation", str(job_id), "--wait")

    assert waited.returncode == 3
    assert sqlite_site.intake.job(job_id).cancellation is None
