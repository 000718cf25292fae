"""Workers and executors beside their engine, without a database: what they do, and what is said to those kept out."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import psutil
import pytest

from control_plane.errors import ExitCode
from control_plane.jobs import Closure, Outcome
from control_plane.lifecycle import JobState
from control_plane.tokens import Permission, Tokens
from tests.acceptance.remote import SHORT, WITHOUT_TICKS, held, listens_at, outages, settled_by
from tests.acceptance.site import ROOT, Site, site_of, until
from tests.acceptance.test_bad_input import assert_refused
from tests.databases import Databases

TELLING = Path(__file__).with_name("told_modules")
FOREIGN = ("alembic", "litestar", "psycopg", "sqlalchemy")
#: What nobody was told of is found, and what waits ends, with a long poll's 55 s.
SOON = 30.0
MEGABYTE = 1e6
MOST_MEGABYTES = 90


def test_a_running_job_is_cancelled_with_a_receipt_by_processes_without_a_database(site: Site) -> None:
    plane = site.plane()
    executor = site.remote_executor(plane)
    worker = site.remote_worker(plane)
    (job_id,) = site.submit_running(plane)

    site.request(job_id)

    job = site.ended(job_id)
    assert job.state is JobState.CANCELLED
    assert job.receipt is not None
    assert (job.receipt.outcome, job.receipt.engine, job.receipt.worker) == (Outcome.STOPPED, "duckdb", "remote")
    assert job.receipt.closure in {Closure.EXECUTOR_CLOSED, Closure.ENGINE_CLOSED}
    assert site.moves(job_id)[-2:] == ["request_cancellation", "cancel"]
    assert site.active_runs() == set()
    assert [worker.terminate(), executor.terminate()] == [0, 0]
    assert site.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'outputs'") == []


def test_a_request_reaches_executor_and_worker_at_once_by_their_long_polls(sqlite_site: Site) -> None:
    """Nothing ticks, and the permit is so long that an executor would not ask again for the better part of a minute."""
    site, plane = sqlite_site, sqlite_site.plane(permit_seconds=3600)
    executor = site.remote_executor(plane, settings=WITHOUT_TICKS)
    first, second = site.submit_running(plane, 2)

    request_by_the_api(site, first)
    until(lambda: executor.events("job_closed"), seconds=SOON, what="that the executor is told")
    worker = site.remote_worker(plane, settings=WITHOUT_TICKS)
    assert site.ended(first).state is JobState.CANCELLED
    request_by_the_api(site, second)

    assert site.ended(second, seconds=SOON).state is JobState.CANCELLED
    worker.until_event("cancellation_settled")


def request_by_the_api(site: Site, job_id: UUID) -> None:
    """Ask where the long polls wait: news of another process would be found by a look a second."""
    path, bearer = f"/jobs/{job_id}/request-cancellation", {"Authorization": f"Bearer {site.token()}"}
    httpx.post(site.api_url + path, json={}, headers=bearer, trust_env=False, timeout=30.0).raise_for_status()


def test_remote_processes_are_lean_listen_nowhere_and_import_neither_a_store_nor_a_web_framework(
    sqlite_site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Each tells at its end what it had imported by then."""
    site, plane = sqlite_site, sqlite_site.plane()
    files = {name: site.folder / f"{name}.modules" for name in ("worker", "executor")}
    told = {name: {"PYTHONPATH": f"{TELLING}:{ROOT}", "TOLD_MODULES": str(path)} for name, path in files.items()}
    executor = site.remote_executor(plane, settings=told["executor"])
    worker = site.remote_worker(plane, settings=told["worker"])
    (job_id,) = site.submit_running(plane)
    site.request(job_id)
    site.ended(job_id)

    megabytes = psutil.Process(worker.process.pid).memory_info().rss / MEGABYTE
    assert [listens_at(worker), listens_at(executor)] == [[], []]
    assert [worker.terminate(), executor.terminate()] == [0, 0]
    for path in files.values():
        imported = path.read_text().split()
        assert "workers.remote" in imported
        assert [name for name in imported if name.partition(".")[0] in FOREIGN] == []
    record_property("an idle remote worker of a Narrative plane is resident with", f"{megabytes:.1f} MB")
    assert megabytes <= MOST_MEGABYTES


# --- ending --------------------------------------------------------------------------------------------------------


def test_processes_whose_long_polls_wait_end_at_once_when_they_are_told_to(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    processes = [site.remote_executor(plane, settings=WITHOUT_TICKS), site.remote_worker(plane, settings=WITHOUT_TICKS)]

    codes = [process.terminate(seconds=SOON) for process in processes]

    assert codes == [0, 0]
    assert held(site) == set()


@pytest.mark.parametrize("command", [("worker",), ("executor", "--data-plane", "local", "--data-folder", "data")])
def test_who_waits_for_a_control_plane_that_is_away_ends_in_order_when_told_to(
    sqlite_site: Site, command: tuple[str, ...]
) -> None:
    away = {"COUNTERMAND_CONTROL_PLANE": "http://127.0.0.1:9", "COUNTERMAND_TOKEN": "ctm_token"}
    process = sqlite_site.start("waiting", "workers", *command, **away)
    process.until_event("control_plane_lost")

    assert process.terminate() == 0
    assert len(process.events("stop_requested")) == 1


def test_a_worker_that_wakes_up_after_its_lease_settles_nothing_stale(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.liar(plane)
    job_id, other = site.submit_running(plane, 2)
    stalled = site.remote_worker(plane, "first", settings=SHORT)
    site.request(job_id)
    until(lambda: held(site), what="that the first worker holds it")
    stalled.stall()
    site.lift_fault()
    quick = site.remote_worker(plane, "second", settings=SHORT)
    settled = site.ended(job_id)
    assert quick.terminate() == 0

    stalled.signal(signal.SIGCONT)

    site.request(other)
    afterwards = site.ended(other)  # by then it has dealt with what it held
    assert settled.receipt is not None
    assert afterwards.receipt is not None
    assert (settled.receipt.worker, afterwards.receipt.worker) == ("second", "first")
    assert site.intake.job(job_id) == settled
    assert site.moves(job_id).count("cancel") == 1
    assert settled_by([stalled]) == [other]


# --- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_is_renewed_in_its_file_while_the_worker_runs(sqlite_site: Site) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.executor(plane)
    worker = site.remote_worker(plane)
    first, second = site.submit_running(plane, 2)

    site.token_file(site.plane_token(plane, name="in time"), "remote.token")
    revoke(site, "plane")
    site.request(first)
    assert site.ended(first).state is JobState.CANCELLED
    assert outages(worker) == []

    revoke(site, "in time")
    site.request(second)
    worker.until_event("control_plane_lost")
    assert site.intake.job(second).state is JobState.PENDING_CANCELLATION
    site.token_file(site.plane_token(plane, name="too late"), "remote.token")
    assert site.ended(second).state is JobState.CANCELLED
    assert outages(worker) == ["control_plane_lost", "control_plane_back"]


def revoke(site: Site, name: str) -> None:
    """End the tokens of that name."""
    tokens = Tokens(site.store)
    for token in tokens.known():
        if token.name == name:
            tokens.revoke(token.token_id)


class KeptOut(NamedTuple):
    """A token, or what is asked with it, that does not let a worker in."""

    name: str
    exits: ExitCode
    mentions: tuple[str, ...]
    token: dict[str, Any] | None = None  #: what it is made of; by default it is one that nobody made
    asked: tuple[str, ...] = ()


LET_IN = {"permissions": [Permission.JOBS_WRITE], "bound": True}
KEPT_OUT = [
    KeptOut("a token that nobody made", ExitCode.UNAUTHENTICATED, ("does not accept the token", "tokens create")),
    KeptOut("one that has expired", ExitCode.UNAUTHENTICATED, ("expired",), LET_IN | {"lifetime_seconds": 1e-6}),
    KeptOut("one of no plane", ExitCode.FORBIDDEN, ("bound to no data plane", "--plane"), LET_IN | {"bound": False}),
    KeptOut(
        "one that may only read",
        ExitCode.FORBIDDEN,
        ("lacks the permission jobs:write",),
        LET_IN | {"permissions": [Permission.JOBS_READ]},
    ),
    KeptOut(
        "another plane's", ExitCode.BAD_INPUT, ("data_plane", "bound to local"), LET_IN, ("--data-plane", "elsewhere")
    ),
]


@pytest.fixture(scope="module")
def shared_site(databases: Databases) -> Iterator[Site]:
    """A site for tests that leave nothing behind that another could trip over."""
    with databases.lend_sqlite() as url, site_of(url) as site:
        site.plane()
        yield site


@pytest.mark.parametrize("case", KEPT_OUT, ids=[case.name for case in KEPT_OUT])
def test_whom_the_control_plane_does_not_let_in_is_told_why_in_a_sentence(shared_site: Site, case: KeptOut) -> None:
    site, text = shared_site, f"ctm_{uuid4().hex}_nobodys"
    if case.token is not None:
        given = dict(case.token)
        [plane] = site.intake.planes()
        given |= {"data_plane_id": plane.data_plane_id} if given.pop("bound") else {}
        text = site.token(*given.pop("permissions"), **given)
    file = site.token_file(text)

    reach = ("--control-plane", site.api_url, "--token-file", str(file))
    refused = site.run_remote("worker", *reach, *case.asked)

    assert_refused(refused, case.exits, *case.mentions)
    assert text not in refused.stderr


def test_a_process_without_a_token_is_told_how_a_planes_token_is_made(shared_site: Site) -> None:
    refused = shared_site.run_remote("worker", "--control-plane", shared_site.api_url)

    assert_refused(refused, ExitCode.UNAUTHENTICATED, "no token was set", "--token-file", "--plane ID")
