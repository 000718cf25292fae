"""What the commands print and how they end, as somebody new to them sees it."""

import json
import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from control_plane import schema
from control_plane.dispatch import Dispatch
from control_plane.errors import ExitCode
from control_plane.intake import NewJob, NewPlane
from control_plane.jobs import ExecutionCluster, JobType
from control_plane.lifecycle import JobState
from control_plane.planes import Platform
from control_plane.work import Executor
from tests.acceptance.site import PERSON, Site, site_of, until
from tests.databases import Databases

NARROW = {"COLUMNS": "80"}
UNWORKED = "no worker has taken it yet; is one running for this plane?"
MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"


# --- waiting where nobody works ------------------------------------------------------------------------------------


def given_unworked(site: Site) -> UUID:
    """A job that an executor has started, on a plane that no worker looks after."""
    plane = site.intake.create_plane(NewPlane("quiet", Platform.NARRATIVE)).data_plane_id
    job_id = site.submit(plane)
    dispatch, executor = Dispatch(site.store), Executor(f"job-executor-{uuid4()}", 1)
    dispatch.register(executor, data_plane_id=plane)
    dispatch.start(executor, data_plane_id=plane, types=[JobType.MATERIALIZE_VIEW], limit=1, incarnation="1")
    return job_id


def test_waiting_ends_as_stuck_and_asks_for_a_worker_where_none_runs(site: Site) -> None:
    job_id = given_unworked(site)
    waiting = site.start("waiting", "workers", "jobs", "request-cancellation", str(job_id), "--wait")
    until(lambda: UNWORKED in waiting.says(), what="that a worker is asked for")

    call_stuck_after(site, seconds=0.001)

    assert waiting.process.wait(60) == ExitCode.STUCK
    assert f"{job_id} is stuck" in waiting.says()
    assert waiting.says().splitlines()[-1].startswith(f"{job_id}: pending_cancellation: {UNWORKED}")


def call_stuck_after(site: Site, *, seconds: float) -> None:
    """Let a cancellation be stuck so soon, on every plane."""
    with site.store.engine.begin() as connection:
        connection.execute(update(schema.data_planes).values(stuck_after_seconds=seconds))


# --- listings and documents ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def furnished(databases: Databases) -> Iterator[Site]:
    """A site with one plane that was heard of, and a job of the longest type."""
    with databases.lend_sqlite() as url, site_of(url) as site:
        plane = site.plane()
        Dispatch(site.store).heartbeat([plane])
        statistics = {"dataset_id": 1, "columns": {"spending": ["mean", "median"]}}
        site.intake.submit(NewJob(plane, JobType.CALCULATE_COLUMN_STATS, statistics), PERSON)
        yield site


def test_a_listing_has_a_line_for_each_job_however_narrow_it_is(furnished: Site) -> None:
    listed = furnished.run("jobs", "list", **NARROW)

    header, line, pages = listed.stdout.splitlines()
    assert header.split("  ")[0] == "id"
    assert re.fullmatch(rf"[0-9a-f-]{{36}}  datasets_calculate_column_stats  pending +{MOMENT} *", line)
    assert pages == "Page 1 of 1, 1 jobs."


def test_every_moment_of_a_listing_is_written_alike(furnished: Site) -> None:
    listed = furnished.run("planes", "list", **NARROW)

    _, line = listed.stdout.splitlines()
    assert re.search(rf"local  platform_aws  active  {MOMENT} *$", line)


def test_an_empty_page_says_that_there_are_no_jobs(furnished: Site) -> None:
    empty = furnished.run("jobs", "list", "--state", JobState.FAILED)
    beyond = furnished.run("jobs", "list", "--offset", "100")

    assert empty.stdout == "No jobs.\n"
    assert beyond.stdout == "No jobs: 1 match, 100 were skipped.\n"


def test_a_listing_of_no_planes_says_so(sqlite_site: Site) -> None:
    listed = sqlite_site.run("planes", "list")

    assert listed.stdout == "No data planes.\n"


def test_a_planes_clusters_are_given_one_by_one_and_listed(sqlite_site: Site) -> None:
    made = sqlite_site.run("planes", "create", "big", "--cluster", "dedicated", "--cluster", "shared", "--json")
    listed = sqlite_site.run("planes", "list")

    assert json.loads(made.stdout)["execution_clusters"] == ["shared", "dedicated"]
    assert re.search(r"^\S+  big +platform_aws .* shared, dedicated *$", listed.stdout, re.MULTILINE)


def test_nested_documents_are_shown_indented(furnished: Site) -> None:
    (job,) = furnished.intake.jobs().records

    shown = furnished.run("jobs", "show", str(job.job_id)).stdout

    assert "\n" + " " * 21 + '"dataset_id": 1,\n' in shown
    document = re.search(r"^input +(\{.*?^ {19}\})$", shown, re.MULTILINE | re.DOTALL)
    assert document
    assert json.loads(document[1]) == job.input


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "choices"),
    [
        (("jobs", "submit"), [*JobType, *ExecutionCluster]),
        (
            ("jobs", "list"),
            [*JobType, *JobState, "created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"],
        ),
        (("jobs", "track"), [*ExecutionCluster]),
        (("planes", "create"), [*Platform, *ExecutionCluster]),
    ],
)
def test_help_lists_what_can_be_chosen(furnished: Site, command: tuple[str, ...], choices: list[str]) -> None:
    told = furnished.run(*command, "--help", **NARROW).stdout

    assert [choice for choice in choices if not re.search(rf"\b{choice}\b", told)] == []


def test_the_example_of_submitting_can_be_pasted(furnished: Site) -> None:
    told = " ".join(furnished.run("jobs", "submit", "--help", **NARROW).stdout.split())

    example = told.partition("Example: countermand ")[2].split()
    assert example[-2:] == ["--input", "@job.json"]
    assert "'" not in " ".join(example)
