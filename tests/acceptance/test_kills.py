"""Processes that are killed, stalled, drained or cut off: nothing is lost, and nothing is done twice."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import pytest
from sqlalchemy import select

from control_plane import schema
from control_plane.errors import StoreUnavailable
from control_plane.jobs import Outcome
from control_plane.lifecycle import JobState
from control_plane.migrations import upgrade
from tests.acceptance.site import Site, Started, site_of, until
from tests.narrative import QUICK
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(300)

#: Short leases, so that nobody waits long for one to run out.
SHORT = {"COUNTERMAND_WORKER__LEASE_SECONDS": "1.5", "COUNTERMAND_WORKER__CALL_TIMEOUT_SECONDS": "1"}
#: So long that nothing ends before the test lets it.
LONG = {
    "COUNTERMAND_WORKER__LEASE_SECONDS": "3600",
    "COUNTERMAND_WORKER__CALL_TIMEOUT_SECONDS": "3000",
    "COUNTERMAND_WORKER__DRAIN_SECONDS": "3600",
}
PUBLICATIONS = "SELECT count(*) FROM narrative.bookkeeping.publications"
READERS_VIEW = "SELECT n FROM narrative.datasets.ds_6404 ORDER BY n"
OUTPUTS = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'outputs'"


def lease_holder(site: Site, job_id: UUID) -> str | None:
    """The worker that holds the cancellation now, or did until its lease ran out."""
    table = schema.cancellations
    holder = select(table.c.worker).where(table.c.job_id == job_id, table.c.lease.is_not(None))
    with site.store.engine.connect() as connection:
        return connection.execute(holder.where(table.c.settled_at.is_(None))).scalar()


def given_held(site: Site, *, count: int = 1, settings: dict[str, str] | None = None) -> tuple[Started, list[UUID]]:
    """The worker ``first`` in the middle of a round: the engine accepts the stops and runs on."""
    plane = site.plane()
    site.liar(plane)
    job_ids = site.submit_running(plane, count)
    worker = site.worker("first", **(settings or {}))
    for job_id in job_ids:
        site.request(job_id)
    until(lambda: all(lease_holder(site, job_id) for job_id in job_ids), what="that the worker holds them")
    return worker, job_ids


def given_asking(site: Site) -> tuple[Started, UUID, Started]:
    """The worker ``first``, in the middle of a round until the executor goes on that it asks; job and executor."""
    plane = site.plane()
    executor = site.executor(plane)
    (job_id,) = site.submit_running(plane)
    stall(executor, site)
    worker = site.worker("first", **LONG)
    site.request(job_id)
    until(lambda: lease_holder(site, job_id), what="that the worker holds it")
    return worker, job_id, executor


def stall(process: Started, site: Site) -> None:
    """Stop it between two transactions: it would keep what it has locked from everybody else."""
    process.stall()
    while site.is_locked():
        process.signal(signal.SIGCONT)
        process.stall()


# --- executors -----------------------------------------------------------------------------------------------------


def test_the_job_of_a_killed_executor_stays_running_until_its_cancellation_is_requested(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    executor = site.executor(plane)
    site.worker()
    (job_id,) = site.submit_running(plane)
    executor.kill()

    restarted = site.executor(plane)

    assert site.intake.job(job_id).state is JobState.RUNNING
    site.request(job_id)
    receipt = site.ended(job_id).receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.engine_status) == (Outcome.STOPPED, "incarnation_ended")
    assert restarted.terminate() == 0
    assert site.rows(OUTPUTS) == []


def test_a_killed_executor_is_waited_for_and_delays_nobody_else(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    executor = site.executor(plane, slots=1)
    (job_id,) = site.submit_running(plane)
    site.executor(plane, "other", slots=1)
    (neighbour,) = site.submit_running(plane)
    executor.kill()
    site.request(job_id)
    site.request(neighbour)

    site.worker()

    assert site.ended(neighbour).state is JobState.CANCELLED
    until(lambda: site.waiting(job_id) == "plane_silent", what="plane_silent")
    assert site.intake.job(job_id).state is JobState.PENDING_CANCELLATION
    site.executor(plane)
    receipt = site.ended(job_id).receipt
    assert receipt is not None
    assert receipt.engine_status == "incarnation_ended"


def test_a_committed_job_is_published_once_however_often_its_executor_starts_again(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    job_id = site.submit(plane, QUICK)
    death = ("after", "publish")
    dying = site.start(
        "data", "tests.acceptance.dying_executor", site.url, str(plane), str(site.folder / "data"), *death
    )
    assert dying.process.wait(60) == -signal.SIGKILL

    for _ in range(2):
        restarted = site.executor(plane)
        site.ended(job_id)
        assert restarted.terminate() == 0

    assert site.intake.job(job_id).state is JobState.COMPLETED
    assert site.moves(job_id).count("complete") == 1
    assert site.rows(PUBLICATIONS) == [(1,)]
    assert site.rows(READERS_VIEW) == [(0,), (1,), (2,)]


# --- workers -------------------------------------------------------------------------------------------------------


def test_another_worker_takes_over_from_one_that_was_killed(site: Site) -> None:
    first, (job_id,) = given_held(site, settings=SHORT)
    first.kill()
    site.lift_fault()

    site.worker("second", **SHORT)

    job = site.ended(job_id)
    assert job.state is JobState.CANCELLED
    assert job.receipt is not None
    assert job.receipt.worker == "second"


@pytest.mark.parametrize("drain_seconds", ["20", "0.2"], ids=["in time", "out of time"])
def test_a_worker_that_is_told_to_stop_leaves_nothing_leased(sqlite_site: Site, drain_seconds: str) -> None:
    site = sqlite_site
    worker, job_ids = given_held(site, count=3, settings={"COUNTERMAND_WORKER__DRAIN_SECONDS": drain_seconds})

    assert worker.terminate() == 0

    assert [lease_holder(site, job_id) for job_id in job_ids] == [None, None, None]
    assert {site.intake.job(job_id).state for job_id in job_ids} == {JobState.PENDING_CANCELLATION}
    assert worker.events("drain_ended")
    site.lift_fault()
    site.worker("second")
    assert {site.ended(job_id).state for job_id in job_ids} == {JobState.CANCELLED}


def test_a_worker_that_is_told_to_stop_settles_what_ends_in_time(sqlite_site: Site) -> None:
    site = sqlite_site
    worker, job_id, executor = given_asking(site)
    worker.signal(signal.SIGTERM)
    worker.until_event("drain_started")

    executor.signal(signal.SIGCONT)

    assert worker.process.wait(60) == 0
    assert site.intake.job(job_id).state is JobState.CANCELLED


def test_a_signal_that_is_repeated_at_once_is_the_same_request(sqlite_site: Site) -> None:
    """``timeout`` signals a process and then its group."""
    worker, _, executor = given_asking(sqlite_site)  # it has something to drain

    worker.signal(signal.SIGSTOP)  # both have come by the time that it goes on, however slowly we send them
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)  # another one: two of the same may be delivered as one
    worker.signal(signal.SIGCONT)

    worker.until_event("drain_started")
    executor.signal(signal.SIGCONT)
    assert worker.process.wait(60) == 0
    assert worker.events("cut_short") == []


def test_signals_after_the_drain_do_not_change_how_a_worker_ends(sqlite_site: Site) -> None:
    worker = sqlite_site.worker("first", sqlite_site.plane())
    worker.signal(signal.SIGTERM)
    worker.until_event("drain_ended")

    assert worker.signal_until_ended(signal.SIGINT) == 0

    assert "Traceback" not in worker.says()


def test_every_line_of_a_process_names_it(sqlite_site: Site) -> None:
    plane = sqlite_site.plane()
    worker, executor = sqlite_site.worker("first"), sqlite_site.executor(plane)

    assert [worker.terminate(), executor.terminate()] == [0, 0]

    assert [line["worker"] for line in worker.events("stop_requested")] == ["first"]
    assert [line["plane"] for line in executor.events("stop_requested")] == [str(plane)]


def test_a_second_signal_that_is_no_echo_of_the_first_ends_a_worker_at_once(sqlite_site: Site) -> None:
    """Its drain would last for an hour."""
    site = sqlite_site
    worker, job_id, _ = given_asking(site)
    worker.signal(signal.SIGTERM)
    worker.until_event("drain_started")

    assert worker.signal_until_ended(signal.SIGTERM) == 1

    assert worker.events("cut_short")
    assert worker.events("drain_ended") == []
    assert site.intake.job(job_id).state is JobState.PENDING_CANCELLATION
    assert lease_holder(site, job_id) == "first"  # as of one that was killed: it runs out by itself


def test_a_worker_that_wakes_up_after_its_lease_settles_nothing_twice(site: Site) -> None:
    stalled, (job_id,) = given_held(site, settings=SHORT)
    stall(stalled, site)
    site.lift_fault()
    quick = site.worker("second", **SHORT)
    settled = site.ended(job_id)
    assert quick.terminate() == 0

    stalled.signal(signal.SIGCONT)

    (plane,) = site.intake.planes()
    (other,) = site.submit_running(plane.data_plane_id)
    site.request(other)
    afterwards = site.ended(other)  # by then it has dealt with what it held
    assert afterwards.receipt is not None
    assert afterwards.receipt.worker == "first"
    assert settled.receipt is not None
    assert settled.receipt.worker == "second"
    assert site.intake.job(job_id) == settled
    assert site.moves(job_id).count("cancel") == 1
    assert [line for line in stalled.events("cancellation_settled") if line["job"] == str(job_id)] == []


# --- the database --------------------------------------------------------------------------------------------------


class Requester:
    """Submits jobs that nobody claims and asks for their cancellation, one after the other, whatever happens."""

    def __init__(self, site: Site, plane: UUID) -> None:
        self.acknowledged: list[UUID] = []
        self._site = site
        self._plane = plane
        self._stopping = threading.Event()

    def ask(self, job_id: UUID) -> None:
        """Ask until it is acknowledged."""
        while True:
            with suppress(StoreUnavailable):
                self._site.request(job_id)
                self.acknowledged.append(job_id)
                return

    def ask_more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, what=f"{count} more acknowledged requests")

    @contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._keep_asking)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _keep_asking(self) -> None:
        while not self._stopping.is_set():
            with suppress(StoreUnavailable):
                job_id = self._site.submit(self._plane)
                self._site.request(job_id)
                self.acknowledged.append(job_id)


def changes_of_state(process: Started) -> list[str]:
    """What the process says of the store's absences."""
    return [line["event"] for name in ("store_lost", "store_back") for line in process.events(name)]


def test_a_database_that_crashes_under_load_loses_no_acknowledged_request(own_postgres: Postgres) -> None:
    upgrade(own_postgres.url())
    with site_of(own_postgres.url()) as site:
        plane, honest_plane = site.plane("liars"), site.plane("honest")
        requester = Requester(site, site.plane("nobody's"))
        processes = [site.worker(), site.liar(plane), site.executor(honest_plane)]
        held = site.submit_running(plane, 3)
        running = site.submit_running(honest_plane, 4)
        for job_id in (*held, *running[:2]):
            requester.ask(job_id)

        with requester.asking():
            requester.ask_more(20)
            own_postgres.suspend()  # a crash: it stops at once
            for process in processes:
                process.until_event("store_lost")  # back before it was missed, it would be no news
            own_postgres.resume()
            requester.ask_more(20)
        for job_id in running[2:]:
            requester.ask(job_id)
        site.lift_fault()

        assert {site.ended(job_id).state for job_id in requester.acknowledged} == {JobState.CANCELLED}
        for process in processes:
            process.until_event("store_back")  # one that was waiting for its next try may say it last
        assert [changes_of_state(process) for process in processes] == [["store_lost", "store_back"]] * 3
        assert [process.terminate() for process in processes] == [0, 0, 0]


def test_a_worker_outlasts_a_database_that_is_away_without_spinning(own_postgres: Postgres) -> None:
    upgrade(own_postgres.url())
    with site_of(own_postgres.url()) as site:
        plane = site.plane()
        worker = site.worker()
        site.executor(plane)
        (job_id,) = site.submit_running(plane)
        own_postgres.suspend()
        worker.until_event("store_lost")

        until(lambda: not worker.is_busy(), what="that it waits")  # what spins is busy whenever one looks

        assert worker.process.poll() is None
        own_postgres.resume()
        Requester(site, plane).ask(job_id)
        assert site.ended(job_id).state is JobState.CANCELLED
        worker.until_event("store_back")
        assert changes_of_state(worker) == ["store_lost", "store_back"]
