"""The clusters of a Narrative plane: which of them a job gets, and who is told of it."""

from typing import Any

import pytest

from control_plane.errors import BadInput, Conflict
from control_plane.jobs import ExecutionCluster, JobType
from control_plane.planes import DataPlane, Platform
from tests.integration.given import EXECUTOR, Given

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED


@pytest.fixture
def both(given: Given) -> DataPlane:
    return given.new_plane(execution_clusters=[DEDICATED, SHARED, DEDICATED])


def test_a_plane_keeps_each_of_its_clusters_once_and_the_shared_one_first(given: Given, both: DataPlane) -> None:
    assert both.execution_clusters == [SHARED, DEDICATED]
    assert given.plane.execution_clusters == []


def test_only_a_narrative_plane_has_clusters(given: Given) -> None:
    before = given.intake.planes()

    with pytest.raises(BadInput, match=r"^execution_clusters: only a plane on platform_aws has any; leave it out$"):
        given.new_plane(Platform.SNOWFLAKE, execution_clusters={SHARED: "app-1"})

    assert given.intake.planes() == before


@pytest.mark.parametrize(
    ("has", "asked", "gets"),
    [
        ([SHARED, DEDICATED], None, SHARED),
        ([SHARED, DEDICATED], SHARED, SHARED),
        ([SHARED, DEDICATED], DEDICATED, DEDICATED),
        ([DEDICATED], None, DEDICATED),
        ([], None, None),
        ([], SHARED, SHARED),  # one engine, which does not tell them apart
        ([], DEDICATED, DEDICATED),
    ],
)
def test_a_job_gets_the_cluster_that_it_names_or_else_the_planes_first(
    given: Given,
    has: list[ExecutionCluster],
    asked: ExecutionCluster | None,
    gets: ExecutionCluster | None,
) -> None:
    plane = given.new_plane(execution_clusters=has)

    job = given.pending(plane=plane, execution_cluster=asked)

    assert given.job(job.job_id).execution_cluster is gets


def test_a_cluster_that_the_plane_does_not_have_is_refused_with_those_that_it_has_and_no_job_is_made(
    given: Given,
) -> None:
    plane = given.new_plane(display_name="north", execution_clusters={SHARED: "app-1"})

    with pytest.raises(
        BadInput, match=r"execution_cluster: north has no dedicated cluster, only shared: .*leave"
    ) as caught:
        given.pending(plane=plane, execution_cluster=DEDICATED)

    assert caught.value.field == "execution_cluster"
    assert given.intake.jobs().total_records == 0


def test_the_same_key_without_a_cluster_and_with_the_one_that_the_job_got_is_the_same_job(
    given: Given, both: DataPlane
) -> None:
    first = given.pending(plane=both, idempotency_key="monday")

    assert given.pending(plane=both, idempotency_key="monday") == first
    assert given.pending(plane=both, idempotency_key="monday", execution_cluster=SHARED) == first
    with pytest.raises(Conflict, match="idempotency_key"):
        given.pending(plane=both, idempotency_key="monday", execution_cluster=DEDICATED)


@pytest.mark.parametrize("asked", [SHARED, DEDICATED])
def test_whoever_runs_publishes_or_cancels_a_job_is_told_its_cluster(
    given: Given, both: DataPlane, asked: ExecutionCluster
) -> None:
    fields: dict[str, Any] = {"plane": both, "execution_cluster": asked}

    started = given.committed(**fields)
    [unfinished] = given.dispatch.committed(EXECUTOR)
    leased = given.leased(**fields)

    assert (started.execution_cluster, unfinished.execution_cluster) == (asked, asked)
    assert leased.work.execution_cluster is asked


def test_an_executor_starts_the_jobs_of_its_clusters_alone(given: Given, both: DataPlane) -> None:
    dedicated = given.pending(plane=both, execution_cluster=DEDICATED).job_id
    shared = given.pending(plane=both, execution_cluster=SHARED).job_id

    of_shared, again, of_both = (
        given.start(plane=both, limit=10, clusters=clusters)
        for clusters in ({SHARED: "app-1"}, {SHARED: "app-1"}, {SHARED: "app-1", DEDICATED: "master-7"})
    )

    assert [claim.job_id for claim in of_shared] == [shared]
    assert again == []
    assert [claim.job_id for claim in of_both] == [dedicated]


def test_a_job_is_claimed_on_the_incarnation_of_what_runs_on_its_cluster(given: Given, both: DataPlane) -> None:
    """It alone can vouch for a job of which nothing is found."""
    jobs = {cluster: given.pending(plane=both, execution_cluster=cluster).job_id for cluster in both.execution_clusters}

    given.start(plane=both, limit=10, clusters={SHARED: "app-1", DEDICATED: "master-7"})
    for job_id in jobs.values():
        given.request(job_id)

    claimed_on = {held.work.execution_cluster: held.work.incarnation for held in given.claim(plane=both)}
    assert claimed_on == {SHARED: "app-1", DEDICATED: "master-7"}


def test_an_executor_whose_engine_does_not_tell_clusters_apart_starts_whatever_waits(given: Given) -> None:
    jobs = [given.pending(execution_cluster=cluster).job_id for cluster in (None, SHARED, DEDICATED)]

    assert {claim.job_id for claim in given.start(limit=10)} == set(jobs)


def test_a_job_of_another_cluster_never_holds_up_those_that_wait_behind_it(given: Given, both: DataPlane) -> None:
    for _ in range(3):
        given.pending(plane=both, execution_cluster=DEDICATED)
    shared = given.pending(plane=both, execution_cluster=SHARED).job_id

    [claim] = given.start(plane=both, limit=1, clusters={SHARED: "app-1"})

    assert claim.job_id == shared


def test_what_waits_is_known_by_its_plane_its_type_and_its_cluster(given: Given, both: DataPlane) -> None:
    given.pending(plane=both, execution_cluster=DEDICATED)
    given.pending()

    waiting = given.dispatch.pending([both.data_plane_id, given.plane.data_plane_id])

    assert waiting == {
        (both.data_plane_id, JobType.MATERIALIZE_VIEW, DEDICATED),
        (given.plane.data_plane_id, JobType.MATERIALIZE_VIEW, None),
    }
