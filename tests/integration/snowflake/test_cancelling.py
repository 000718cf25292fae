"""What becomes of cancellations on Snowflake: proven, or waiting for a reason, whatever the account says and does."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from snowflake.connector import SnowflakeConnection
from structlog.testing import capture_logs

from adapters.base import Listing
from control_plane.jobs import Closure, Handle, Outcome, Receipt, Rung, Waiting
from control_plane.lifecycle import JobState
from control_plane.work import Work
from tests.integration.snowflake.cancelling import Site
from tests.integration.snowflake.given import rows
from tests.snowflake import ENDLESS, SnowflakeDouble, until

EVERYTHING = ["SYSTEM$CANCEL_QUERY", "abort-request", "SYSTEM$CANCEL_ALL_QUERIES", "SYSTEM$ABORT_SESSION"]
UNKNOWN = ["NO_DATA", "DISCONNECTED"]
STILL_RUNNING = [
    "RUNNING", "QUEUED", "BLOCKED", "RESUMING_WAREHOUSE", "QUEUED_REPARING_WAREHOUSE", "RESTARTED", "ABORTING",
]  # fmt: skip


def receipt_of(site: Site, work: Work) -> Receipt:
    receipt = site.job(work).receipt
    assert receipt is not None
    return receipt


@pytest.mark.live
def test_a_running_query_is_stopped_and_proven_by_its_own_status(site: Site) -> None:
    site.be_patient_at(Rung.ASK)
    work = site.running()
    site.request(work)
    site.close(work)

    site.work_until(site.has_ended(work))

    receipt = receipt_of(site, work)
    assert (receipt.outcome, receipt.closure, receipt.rung) == (
        Outcome.STOPPED,
        Closure.EXECUTOR_CLOSED,
        Rung.ASK,
    )
    assert receipt.engine_status == "FAILED_WITH_ERROR 000604 SQL execution canceled"
    assert (receipt.engine, receipt.incarnation) == ("snowflake", site.account.incarnation)
    assert receipt.handle is not None
    assert receipt.handle.run_id == site.queries[work.job_id]
    assert receipt.engine_ended_at is not None
    assert not site.is_executing(work)


@pytest.mark.live
@pytest.mark.ends_sessions
def test_a_job_whose_executor_died_is_closed_by_the_end_of_its_session(site: Site) -> None:
    work = site.running()
    site.request(work)

    site.work_until(site.has_ended(work))

    assert receipt_of(site, work).closure is Closure.ENGINE_CLOSED
    assert not site.is_executing(work)


@pytest.mark.live
@pytest.mark.ends_sessions
def test_a_query_that_was_never_written_down_is_found_by_its_tag_and_stopped(site: Site) -> None:
    work = site.running(record=False)
    site.request(work)

    site.work_until(site.has_ended(work))

    receipt = receipt_of(site, work)
    assert (receipt.outcome, receipt.handle and receipt.handle.run_id) == (
        Outcome.STOPPED,
        site.queries[work.job_id],
    )
    assert not site.is_executing(work)


@pytest.mark.live
@pytest.mark.ends_sessions
def test_a_job_that_had_submitted_nothing_is_never_started_and_can_start_nothing_any_more(site: Site) -> None:
    work = site.claimed()
    site.request(work)

    site.work_until(site.has_ended(work))

    receipt = receipt_of(site, work)
    assert (receipt.outcome, receipt.closure) == (Outcome.NEVER_STARTED, Closure.ENGINE_CLOSED)
    with pytest.raises(Exception, match="closed"):
        site.engine.submit(work, "SELECT 1")


@pytest.mark.live
@pytest.mark.ends_sessions
def test_a_query_that_had_succeeded_is_told_as_finished_and_not_as_stopped(site: Site) -> None:
    work = site.running(sql="SELECT 1")
    site.request(work)

    site.work_until(site.has_ended(work))

    assert receipt_of(site, work).outcome is Outcome.FINISHED_UNPUBLISHED


@pytest.mark.parametrize("status", STILL_RUNNING)
def test_a_query_that_is_said_to_be_running_is_never_taken_as_stopped(
    site: Site, double: SnowflakeDouble, status: str
) -> None:
    work = site.running()
    double.switch(statuses={site.queries[work.job_id]: status})
    site.request(work)
    site.close(work)

    site.work_until(site.waits(work, Waiting.STILL_RUNNING, rounds=2))

    assert site.job(work).state is JobState.PENDING_CANCELLATION
    assert status in str(site.cancellation(work).waiting_detail)


@pytest.mark.parametrize("status", UNKNOWN)
def test_a_query_of_which_nothing_is_known_is_never_taken_as_stopped(
    site: Site, double: SnowflakeDouble, status: str
) -> None:
    work = site.running()
    double.switch(statuses={site.queries[work.job_id]: status})
    site.request(work)
    site.close(work)

    site.work_until(site.waits(work, Waiting.HANDLE_UNKNOWN, rounds=2))

    assert site.job(work).state is JobState.PENDING_CANCELLATION


@pytest.mark.parametrize(
    ("lying", "rung"),
    [
        (["SYSTEM$CANCEL_QUERY"], Rung.INSIST),
        (["SYSTEM$CANCEL_QUERY", "abort-request"], Rung.FORCE),
        (["SYSTEM$CANCEL_QUERY", "abort-request", "SYSTEM$CANCEL_ALL_QUERIES"], Rung.FORCE),
    ],
)
def test_a_lie_is_not_believed_and_the_next_rung_stops_the_query(
    site: Site, double: SnowflakeDouble, lying: list[str], rung: Rung
) -> None:
    site.be_patient_at(rung)
    double.switch(lying=lying)
    work = site.running()
    site.request(work)
    site.close(work)

    site.work_until(site.has_ended(work))

    assert receipt_of(site, work).rung is rung
    assert not site.is_executing(work)


def test_where_every_rung_lies_the_job_waits_at_the_top_and_is_never_cancelled(
    site: Site, double: SnowflakeDouble
) -> None:
    double.switch(lying=EVERYTHING)
    work = site.running()
    site.request(work)

    site.work_until(
        lambda: site.cancellation(work).rung is Rung.FORCE, site.waits(work, Waiting.STILL_RUNNING, rounds=3)
    )

    assert site.job(work).state is JobState.PENDING_CANCELLATION
    assert site.is_executing(work)


def test_a_query_that_is_aborting_for_a_while_is_waited_for(site: Site, double: SnowflakeDouble) -> None:
    double.switch(stop_seconds={"SYSTEM$CANCEL_QUERY": 1.0})
    work = site.running()
    site.request(work)
    site.close(work)

    site.work_until(site.has_ended(work))

    assert not site.is_executing(work)


def test_without_the_privilege_the_first_round_says_so(site: Site, double: SnowflakeDouble) -> None:
    double.switch(denied=["CANCELLER"])
    work = site.running()
    site.request(work)
    site.close(work)

    with capture_logs() as logs:
        site.work_until(site.waits(work, Waiting.NOT_PERMITTED))

    told, *_ = (entry for entry in logs if entry["event"] == "cancellation_postponed")  # another round may have ended
    assert (told["job"], told["waiting"], told["rounds"]) == (work.job_id, Waiting.NOT_PERMITTED, 1)
    assert site.is_executing(work)


def test_whom_nothing_is_shown_proves_nothing_by_an_empty_listing(site: Site, double: SnowflakeDouble) -> None:
    double.switch(blind=["CANCELLER"])
    work = site.running(record=False)
    site.request(work)
    site.close(work)

    site.work_until(site.waits(work, Waiting.NOT_PERMITTED, rounds=3))

    assert site.job(work).state is JobState.PENDING_CANCELLATION
    assert site.is_executing(work)


def test_a_listing_that_was_cut_off_proves_nothing(
    site: Site, double: SnowflakeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.snowflake.history.MOST", 2)
    monkeypatch.setattr("adapters.snowflake.history.PAGES", 1)
    work = site.running(record=False)
    double.switch(hidden=[site.queries[work.job_id]])  # as if others had taken its place
    for _ in range(2):
        site.claimed()
    site.request(work)
    site.close(work)

    site.work_until(site.waits(work, Waiting.HANDLE_UNKNOWN, rounds=2))

    assert site.job(work).state is JobState.PENDING_CANCELLATION
    assert site.is_executing(work)


def test_what_many_later_queries_have_pushed_off_the_first_page_is_found_on_another(
    site: Site, executor: SnowflakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.snowflake.history.MOST", 50)
    monkeypatch.setattr("adapters.snowflake.history.PAGES", 200)
    work = site.running(record=False, sql="SELECT 1")
    for _ in range(60):
        rows(executor, "SELECT 1")
    site.request(work)
    site.close(work)

    site.work_until(site.has_ended(work))

    assert receipt_of(site, work).outcome is Outcome.FINISHED_UNPUBLISHED


def test_a_listing_that_hides_the_query_does_not_hide_its_status(site: Site, double: SnowflakeDouble) -> None:
    work = site.running()
    double.switch(hidden=[site.queries[work.job_id]], lying=EVERYTHING)
    site.request(work)
    site.close(work)

    site.work_until(site.waits(work, Waiting.STILL_RUNNING, rounds=1))

    assert site.job(work).state is JobState.PENDING_CANCELLATION
    assert site.is_executing(work)


@pytest.mark.live
def test_another_account_does_not_judge_what_ran_in_this_one(site: Site) -> None:
    work = site.running()
    elsewhere = Handle("snowflake", "AWS_EU_WEST_1.XY12345", site.queries[work.job_id])

    async def ask() -> Listing:
        adapter = site.engine.adapter
        found = await adapter.find([structs.replace(work, handle=elsewhere)])
        await adapter.aclose()
        return found[work.job_id]

    listing = asyncio.run(ask())

    assert (listing.runs, listing.complete) == ((), False)
    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.HANDLE_UNKNOWN


def decoys_of(work: Work) -> list[str]:
    """Tags that are almost the job's, and not its."""
    installation, plane, job = work.tag.split(":")[1:4]
    return [
        f"countermand:other:{plane}:{job}:run",
        f"countermand:{installation}:{uuid4()}:{job}:run",
        f"countermand:{installation}:{plane}:{uuid4()}:run",
        f"countermand:{installation}:{plane}:{job}:publish",
        f"{work.tag}2",
        work.tag[:-1],
        work.tag.upper(),
        work.tag.replace("countermand", "countermand%"),
    ]


@pytest.mark.live
def test_decoys_with_almost_the_same_tag_run_on_untouched(site: Site) -> None:
    work = site.running(record=False)
    account = site.account
    with account.connect("EXECUTOR", warehouse=account.warehouse) as session, session.cursor() as cursor:
        ids = [
            str(cursor.execute_async(ENDLESS, _statement_params={"QUERY_TAG": tag})["queryId"])
            for tag in decoys_of(work)
        ]
        until(lambda: all(map(account.is_executing, ids)))
        site.request(work)
        site.close(work)

        site.work_until(site.has_ended(work))

        assert all(map(account.is_executing, ids))


@pytest.mark.parametrize("several", [pytest.param(3, marks=pytest.mark.live), 20])
def test_one_of_several_is_cancelled_and_the_others_run_on(site: Site, several: int) -> None:
    works = [site.running() for _ in range(several)]
    chosen = works[several // 2]
    site.request(chosen)
    site.close(chosen)

    site.work_until(site.has_ended(chosen))

    assert [site.is_executing(work) for work in works] == [work is not chosen for work in works]


@pytest.mark.timeout(300)
def test_two_hundred_are_proven_stopped_by_a_handful_of_statements_and_the_account_falls_idle(
    site: Site, double: SnowflakeDouble
) -> None:
    works = [site.running(sql="SELECT SYSTEM$WAIT(3600)") for _ in range(190)]  # so many that compute slow each other
    works += [site.running() for _ in range(10)]
    before = double.state()["statements"].get("SYSTEM$CANCEL_QUERY", 0)
    site.request(*works)
    site.close(*works)

    site.work_until(site.has_ended(*works), real_seconds=100.0)

    assert all(receipt_of(site, work).outcome is Outcome.STOPPED for work in works)
    assert double.state()["statements"]["SYSTEM$CANCEL_QUERY"] - before <= 10
    assert double.state()["executing"] == []
    until(double.is_idle)


def test_one_that_may_not_be_cancelled_keeps_no_other_from_it(site: Site, double: SnowflakeDouble) -> None:
    double.switch(denied=[])
    works = [site.running() for _ in range(5)]
    site.request(*works)
    site.close(*works)

    site.work_until(site.has_ended(*works))

    assert not set(site.queries.values()) & set(double.state()["executing"])


@pytest.mark.parametrize(
    "fault",
    [
        {"unavailable": {"statement": 2, "status": 2}},
        {"lost_answers": {"statement": 1, "abort": 1}},
        {"cut_answers": {"statement": 1}},
    ],
)
def test_what_the_network_does_delays_and_never_misleads(
    site: Site, double: SnowflakeDouble, fault: dict[str, Any]
) -> None:
    work = site.running()
    site.request(work)
    site.close(work)
    double.switch(**fault)

    site.work_until(site.has_ended(work))

    assert receipt_of(site, work).outcome is Outcome.STOPPED
    assert not site.is_executing(work)


@pytest.mark.parametrize("part", ["statement", "status"])
def test_an_account_that_hangs_is_silent_and_the_job_waits_until_it_answers(
    site: Site, double: SnowflakeDouble, part: str
) -> None:
    work = site.running()
    site.request(work)
    site.close(work)
    line = site.engine.adapter._line
    patience, line._timeout_seconds = line._timeout_seconds, 0.5
    double.switch(hanging=[part])

    def answers_again() -> bool:
        line._timeout_seconds = patience
        double.switch(hanging=[])
        return True

    site.work_until(site.waits(work, Waiting.PLANE_SILENT), answers_again, site.has_ended(work))

    assert not site.is_executing(work)


@pytest.mark.parametrize("loss", ["token_expired", "master_token_expired", "gone", "unknown"])
def test_a_lost_session_of_the_canceller_is_made_anew(site: Site, double: SnowflakeDouble, loss: str) -> None:
    first, second = site.running(), site.running()
    site.request(first)
    site.close(first, second)

    def lost() -> bool:
        double.lose_sessions("CANCELLER", loss)
        site.request(second)
        return True

    site.work_until(site.has_ended(first), lost, site.has_ended(second))

    assert not site.is_executing(second)


def test_no_warehouse_is_started_for_cancelling(site: Site, double: SnowflakeDouble, own_warehouse: str) -> None:
    site.engine.account = double.account(warehouse=own_warehouse)
    work = site.running()
    site.request(work)
    site.close(work)
    double.administer(f"ALTER WAREHOUSE {own_warehouse} SUSPEND")

    site.work_until(site.has_ended(work))

    assert double.state()["warehouses"][own_warehouse]["resumes"] == 0
