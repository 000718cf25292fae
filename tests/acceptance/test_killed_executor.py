"""An executor is killed at every step between claim and complete; the real commands then bring its job to its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import anyio
import pytest

from control_plane.intake import Intake, NewJob, NewPlane
from control_plane.jobs import Job, JobType, Outcome, Process
from control_plane.lifecycle import TERMINAL, JobState
from control_plane.planes import Platform
from control_plane.policy import Policy
from control_plane.store import Store
from tests.acceptance.site import Started
from tests.narrative import QUICK, RESOURCES, until, view_input
from workers.engines.warehouse import Warehouse

PERSON = Process("test")
ROOT = Path(__file__).parents[2]
#: When the executor dies, and whether its job was committed by then.
DEATHS = [
    ("after", "claim", False),
    ("before", "record_handles", False),
    ("after", "record_handles", False),
    ("before", "follow", False),
    ("after", "follow", False),
    ("before", "commit", False),
    ("after", "commit", True),
    ("before", "publish", True),
    ("after", "publish", True),
    ("before", "complete", True),
]
NAMES = [f"{when} {call}" for when, call, _ in DEATHS]
COMMITTED = [death[:2] for death in DEATHS if death[2]]


class Site:
    """A store, a plane, a data folder in *folder*, and the processes that work on them."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = database_url
        self.folder = folder / "data"
        self.folder.mkdir(mode=0o700)
        self.logs = folder
        self.store = Store(database_url)
        self.intake = Intake(self.store, Policy())
        self.plane = self.intake.create_plane(NewPlane("local", Platform.NARRATIVE)).data_plane_id

    def submit(self) -> UUID:
        new = NewJob(self.plane, JobType.MATERIALIZE_VIEW, view_input(QUICK))
        return self.intake.submit(new, PERSON).job_id

    def die(self, when: str, call: str) -> None:
        """Run the executor until it has killed itself at this step."""
        arguments = ["tests.acceptance.dying_executor", self.url, str(self.plane), str(self.folder), when, call]
        died = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL

    @contextmanager
    def command(self, name: str, *arguments: str) -> Iterator[None]:
        """One of the real commands at work; it ends cleanly when it is told to stop."""
        environment = os.environ | {"COUNTERMAND_DATABASE_URL": self.url, "COUNTERMAND_LOG_FORMAT": "json"}
        command = [sys.executable, "-m", "workers", name, *arguments, "--data-plane", str(self.plane)]
        started = Started(name, command, folder=self.logs, environment=environment | {"PYTHONPATH": str(ROOT)})
        try:
            yield
            started.until_event(f"{name}_started")  # before that, nobody would hear the signal
            assert started.terminate() == 0
        finally:
            started.kill()

    def ended(self, job_id: UUID) -> Job:
        """The job, once it has ended."""
        anyio.run(until_ended, self.intake, job_id)
        return self.intake.job(job_id)

    def readers_see(self) -> list[tuple[int]]:
        """The dataset as readers see it, and nothing unpublished beside it."""
        warehouse = Warehouse.open(self.folder, RESOURCES)
        assert warehouse.unpublished() == []
        with warehouse.session() as session:
            views = session.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'ds_6404'").fetchall()
            shown = session.execute("SELECT n FROM narrative.datasets.ds_6404").fetchall() if views else []
        warehouse.close()
        return shown


async def until_ended(intake: Intake, job_id: UUID) -> None:
    await until(lambda: intake.job(job_id).state in TERMINAL, seconds=60)


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(sqlite_url, tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize(("when", "call"), COMMITTED, ids=[f"{when} {call}" for when, call in COMMITTED])
def test_a_job_that_was_committed_ends_completed_and_published_after_the_next_start(
    site: Site, when: str, call: str
) -> None:
    job_id = site.submit()
    site.die(when, call)

    with site.command("executor", "--data-folder", str(site.folder)):
        job = site.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert site.readers_see() == [(0,), (1,), (2,)]


@pytest.mark.parametrize(("when", "call", "committed"), DEATHS, ids=NAMES)
def test_a_cancellation_ends_with_a_receipt_unless_the_job_was_committed_first(
    site: Site, when: str, call: str, committed: bool
) -> None:
    job_id = site.submit()
    site.die(when, call)
    site.intake.request_cancellation(job_id, PERSON)

    with site.command("worker"), site.command("executor", "--data-folder", str(site.folder)):
        job = site.ended(job_id)

    if committed:
        assert (job.state, job.receipt) == (JobState.COMPLETED, None)
        assert site.readers_see() == [(0,), (1,), (2,)]
    else:
        assert job.state is JobState.CANCELLED
        assert job.receipt is not None
        assert (job.receipt.outcome, job.receipt.engine_status) == (Outcome.STOPPED, "incarnation_ended")
        assert site.readers_see() == []
