"""A plane that our real commands work: how a job gets to run there, and what the store says of its cancellation."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from uuid import UUID

from benchmarks.ground import Ground
from control_plane.dispatch import Dispatch
from control_plane.intake import Intake, NewJob, NewPlane
from control_plane.jobs import ApiUser, Handle, JobType
from control_plane.policy import Policy
from control_plane.store import Store
from tests.snowflake import until

EMPTY = "empty"  #: the migrated database without a plane
SOMEBODY = ApiUser(company_id=1, user_id=7)
_SELDOM_SECONDS = 0.1  #: between two looks at the store, whose clock measures; ours would cost what is measured


class Plane:
    """The plane, as whoever submits, starts and asks sees it."""

    def __init__(self, ground: Ground, database: str, new: NewPlane) -> None:
        self.ground, self.database = ground, database
        self.store = Store(ground.server.url(database))
        self.intake, self.dispatch = Intake(self.store, Policy()), Dispatch(self.store)
        self.plane_id = self.intake.create_plane(new).data_plane_id

    @classmethod
    @contextmanager
    def made(cls, ground: Ground, database: str, new: NewPlane) -> Iterator[Self]:
        """A new plane in the database."""
        plane = cls(ground, database, new)
        try:
            yield plane
        finally:
            plane.store.close()

    def submit(self, sql: str) -> UUID:
        """A job that counts the query's rows."""
        wanted = {"nql": sql, "compiled_sql": sql}
        return self.intake.submit(NewJob(self.plane_id, JobType.NQL_FORECAST, wanted), SOMEBODY).job_id

    def handle(self, job_id: UUID) -> Handle:
        """What the job's run is called, once an executor has begun it."""
        until(lambda: self.intake.job(job_id).handle is not None, seconds=60)
        handle = self.intake.job(job_id).handle
        assert handle
        return handle

    def request(self, job_id: UUID) -> None:
        """Ask for its cancellation."""
        self.intake.request_cancellation(job_id, SOMEBODY)

    def milliseconds(self, job_id: UUID) -> float:
        """From the request to ``cancelled``, by the database's clock, once that has come."""
        while (job := self.intake.job(job_id)).ended_at is None:
            time.sleep(_SELDOM_SECONDS)
        if job.receipt is None or job.cancellation is None or job.cancellation.settled_at is None:
            raise RuntimeError(f"the cancellation of {job_id} was not settled with a receipt: it is {job.state}")
        return (job.cancellation.settled_at - job.cancellation.requested_at).total_seconds() * 1000


def make_empty(ground: Ground) -> None:
    """Make the migrated database without a plane, unless it is there."""
    with ground.connect("postgres") as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [EMPTY]).fetchone():
            return
    with ground.found(EMPTY):
        pass


@contextmanager
def process(
    ground: Ground, environment: Mapping[str, str], *arguments: str, python: str | Path = sys.executable
) -> Iterator[None]:
    """One of our commands as a process, its log in a file."""
    log = ground.file(f"{arguments[0]}.log")
    with log.open("wb") as said:
        command = [str(python), "-P", "-m", "workers", *arguments]
        started = subprocess.Popen(command, env=dict(environment), cwd=ground.folder, stdout=said, stderr=said)
    try:
        yield
        if started.poll() is not None:
            raise RuntimeError(f"{arguments[0]} ended by itself: {log.read_text()[-2000:]}")
    finally:
        started.terminate()
        started.wait(60)
