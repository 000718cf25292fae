"""Which planes the real commands serve."""

from control_plane.intake import NewPlane
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from tests.acceptance.site import Site, site_of


def test_a_worker_leaves_out_a_plane_that_is_not_configured_and_serves_the_others(sqlite_site: Site) -> None:
    sqlite_site.intake.create_plane(NewPlane("snow", Platform.SNOWFLAKE))
    local = sqlite_site.plane()

    worker = sqlite_site.worker()

    [left_out] = worker.events("plane_left_out")
    assert left_out["name"] == "snow"
    assert "COUNTERMAND_SNOWFLAKE__ACCOUNT" in left_out["detail"]
    assert [line["planes"] for line in worker.events("worker_started")] == [[str(local)]]


def test_a_plane_that_was_made_after_the_worker_started_is_served_and_its_wake_ups_are_heard(postgres_url: str) -> None:
    with site_of(postgres_url) as site:
        worker = site.worker(COUNTERMAND_WORKER__POLL_SECONDS="3600")
        plane = site.plane()
        site.executor(plane)
        (job_id,) = site.submit_running(plane)
        worker.until_event("planes_taken_up")

        site.request(job_id)

        assert site.ended(job_id).state is JobState.CANCELLED
        assert [line["planes"] for line in worker.events("planes_taken_up")] == [[str(plane)]]
