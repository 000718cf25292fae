"""Processes that are killed, stopped, drained or cut off: nothing is lost, and nothing is done twice."""

import signal
import threading
import time
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import select

from control_plane import schema
from control_plane.errors import StoreUnavailable
from control_plane.intake import NewJob
from control_plane.jobs import JobType, Outcome
from control_plane.lifecycle import JobState
from control_plane.migrations import upgrade
from tests.acceptance.site import PERSON, Site, site_of, until
from tests.narrative import QUICK
from tests.postgres import Postgres

#: Short leases, so that the tests need not wait for long ones to run out.
SHORT = {"COUNTERMAND_WORKER__LEASE_SECONDS": "1.5", "COUNTERMAND_WORKER__CALL_TIMEOUT_SECONDS": "1"}
PUBLICATIONS = "SELECT count(*) FROM narrative.bookkeeping.publications"
VIEW = "SELECT n FROM narrative.datasets.ds_6404 ORDER BY n"


def lease_holder(site: Site, job_id: UUID) -> str | None:
    """The worker that was the last to claim the cancellation."""
    table = schema.cancellations
    with site.store.engine.connect() as connection:
        return connection.execute(select(table.c.worker).where(table.c.job_id == job_id)).scalar()


def given_claimed_by_stalled_worker(site: Site) -> UUID:
    """A cancellation in the middle of a round of the worker ``first``: its engine ignores the stop."""
    (job_id,) = site.submit_running(site.plane_with_liar())
    site.request(job_id)
    until(lambda: lease_holder(site, job_id) == "first", what="that the worker holds it")
    return job_id
