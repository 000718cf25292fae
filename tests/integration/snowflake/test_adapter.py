"""What is true of the Snowflake adapter alone: its check, its statements, and what it does not let in."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs

from adapters.base import ClosedWork, Run, RunStatus, StopAnswer
from adapters.registry import Surroundings, adapter_factory
from adapters.snowflake.line import _fate, fate_by_public_calls, sign_in
from control_plane.errors import BadInput
from control_plane.ids import new_id
from control_plane.jobs import Handle, Rung, Waiting, work_tag
from control_plane.planes import Tracking
from control_plane.work import Work
from tests.contract.snowflake import SnowflakePlane
from tests.integration.snowflake.given import adapter_of
from tests.narrative import PLANE, named_work
from tests.snowflake import SnowflakeAccount, SnowflakeDouble, until

pytestmark = pytest.mark.anyio

HOSTILE = ["", "x", "'; DROP TABLE T; --", "01b2c3d4-0000-1234-0000-00001234567", "../login", "\\'); SELECT 1 --"]


def active_in(double: SnowflakeDouble) -> set[str]:
    """The queries that have not ended, by their ids."""
    return {active["id"] for active in double.state()["active"]}


def handle(double: SnowflakeDouble, query_id: str) -> Handle:
    return Handle("snowflake", double.incarnation, query_id)


@pytest.fixture
async def plane(snowflake: SnowflakeAccount) -> AsyncIterator[SnowflakePlane]:
    with ExitStack() as sessions:
        made = SnowflakePlane(snowflake, sessions)
        yield made
        await made.aclose()


# --- the check


async def test_the_check_sees_and_stops_a_query_of_the_executors_user_and_says_how_long_that_took(
    double: SnowflakeDouble,
) -> None:
    adapter = adapter_of(double, executor_user="executor", canary=double.sign_in("EXECUTOR"))

    check = await adapter.check()

    assert (check.ok, check.detail) == (True, "CANCELLER sees and stops what EXECUTOR runs")
    assert check.seconds is not None
    assert double.state()["active"] == []
    await adapter.aclose()


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"denied": ["CANCELLER"]}, "CANCELLER may not: SQL access control error"),
        ({"blind": ["CANCELLER"]}, "CANCELLER is not shown what EXECUTOR runs"),
        ({"lying": ["SYSTEM$CANCEL_QUERY"]}, "CANCELLER told a query of EXECUTOR to stop, and after 5 s it is RUNNING"),
        ({"hanging": ["statement"]}, "COUNTERMAND did not answer within 5 s"),
    ],
)
async def test_the_check_says_in_one_line_what_would_go_wrong(
    double: SnowflakeDouble, faults: dict[str, Any], says: str
) -> None:
    who = double.sign_in("EXECUTOR")
    adapter = adapter_of(double, executor_user="EXECUTOR", canary=who, timeout_seconds=5.0)
    double.switch(**faults)

    check = await adapter.check()

    assert not check.ok
    assert says in check.detail
    assert "\n" not in check.detail
    await adapter.aclose()


async def test_the_check_says_what_the_user_needs_who_may_not_stop(double: SnowflakeDouble) -> None:
    adapter = adapter_of(double, executor_user="EXECUTOR", canary=double.sign_in("EXECUTOR"))
    double.switch(denied=["CANCELLER"])

    check = await adapter.check()

    assert check.detail.endswith("(needed: OPERATE on the warehouse, or OWNERSHIP of the user EXECUTOR)")
    await adapter.aclose()


async def test_what_cannot_be_tried_is_not_called_in_order(double: SnowflakeDouble) -> None:
    adapter = adapter_of(double, executor_user="EXECUTOR")

    check = await adapter.check()

    assert not check.ok
    assert "was not tried: how that user signs in is not configured here" in check.detail
    await adapter.aclose()


async def test_one_user_for_both_sides_needs_no_other_canary(double: SnowflakeDouble) -> None:
    adapter = adapter_of(double, "EXECUTOR")

    assert (await adapter.check()).ok
    await adapter.aclose()


# --- what is let in


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_has_not_the_form_of_a_query_id_never_leaves_this_process(
    double: SnowflakeDouble, plane: SnowflakePlane, name: str
) -> None:
    await plane.adapter.find([plane.work()])  # signed in
    handle = Handle("snowflake", double.incarnation, name)
    run = Run(uuid4(), "t", handle, RunStatus.ACTIVE)
    tracked = structs.replace(plane.work(), handle=handle, tracked=Tracking(users=["DBT"]))
    before = double.state()["statements"]

    listing = (await plane.adapter.find([tracked]))[tracked.job_id]
    answers = {rung: await plane.adapter.stop([run], rung) for rung in Rung}
    seen = await plane.adapter.observe([run])

    assert (listing.runs, listing.complete) == ((), False)
    assert not any(answers.values())
    assert not seen
    assert double.state()["statements"] == before


@pytest.mark.parametrize("tag", ["it's", "\\", "\\' OR 1=1 --", "%", "' OR '1'='1"])
async def test_a_hostile_tag_finds_nothing_and_breaks_nothing(plane: SnowflakePlane, tag: str) -> None:
    await plane.start(work := plane.work())

    listing = (await plane.adapter.find([structs.replace(work, tag=tag)]))[work.job_id]

    assert (listing.runs, listing.complete) == ((), True)


def test_the_registry_makes_the_adapter_and_names_what_is_missing(double: SnowflakeDouble) -> None:
    options = {"account": double.account(), "sign_in": double.sign_in("CANCELLER")}
    make = adapter_factory("snowflake")

    assert make(Surroundings("tests", PLANE, 1.0, options)).engine == "snowflake"
    with pytest.raises(BadInput, match="sign_in is needed"):
        make(Surroundings("tests", PLANE, 1.0, {"account": double.account()}))
    with pytest.raises(BadInput, match="unknown for snowflake: warehouse"):
        make(Surroundings("tests", PLANE, 1.0, {**options, "warehouse": "X"}))


# --- stopping


async def test_the_stop_goes_on_when_whoever_asked_for_it_is_cancelled(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    """The connector aborts the statement of a task that is cancelled: here, the one that cancels."""
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    [run] = (await plane.adapter.find([work]))[work.job_id].runs
    double.switch(hanging=["statement"])
    heard = double.state()["requests"]["statement"]
    stopping = asyncio.create_task(plane.adapter.stop([run], Rung.ASK))
    await asyncio.to_thread(until, lambda: double.state()["requests"]["statement"] > heard)

    stopping.cancel()
    await asyncio.wait([stopping])
    double.switch(hanging=[])

    await asyncio.to_thread(until, lambda: query_id not in [active["id"] for active in double.state()["active"]])


async def test_one_refusal_is_of_that_query_alone(double: SnowflakeDouble, own_warehouse: str) -> None:
    """The statement that cancels many fails as a whole; the others are cancelled by halves."""
    with ExitStack() as sessions:
        plane = SnowflakePlane(double, sessions)
        works = [plane.work() for _ in range(4)]
        for work in works:
            await plane.start(work)
        foreign = sessions.enter_context(double.connect("STRANGER", warehouse=own_warehouse))
        with foreign.cursor() as cursor:
            query_id = str(cursor.execute_async("SELECT SYSTEM$WAIT(60)")["queryId"])
        listings = await plane.adapter.find(works)
        runs = [run for work in works for run in listings[work.job_id].runs]
        other = Run(uuid4(), "", Handle("snowflake", double.incarnation, query_id), RunStatus.ACTIVE)

        answers = dict(await plane.adapter.stop([*runs[:2], other, *runs[2:]], Rung.ASK))

        assert answers.pop(other.handle) is StopAnswer.NOT_PERMITTED
        assert StopAnswer.NOT_PERMITTED not in answers.values()
        await asyncio.to_thread(until, lambda: not double.state()["executing"])
        await plane.adapter.aclose()


async def test_a_tracked_query_has_no_session_to_be_ended(double: SnowflakeDouble, plane: SnowflakePlane) -> None:
    name = await plane.start_elsewhere("dbt")
    work = structs.replace(plane.work(), handle=Handle("", "", name), tracked=Tracking(users=["DBT"]))
    [run] = (await plane.adapter.find([work]))[work.job_id].runs
    double.switch(lying=["SYSTEM$CANCEL_QUERY", "abort-request"])

    answers = await plane.adapter.stop([run], Rung.FORCE)

    assert answers == {run.handle: StopAnswer.UNSUPPORTED}
    assert double.is_executing(name)


async def test_the_query_of_a_job_is_told_to_be_one_to_whoever_would_track_it(plane: SnowflakePlane) -> None:
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    other = structs.replace(plane.work(), handle=Handle("", "", query_id), tracked=Tracking(users=["EXECUTOR"]))

    listing = (await plane.adapter.find([other]))[other.job_id]

    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.NOT_PERMITTED
    assert "request the cancellation of that job instead" in listing.trouble.detail


@pytest.mark.parametrize("lying", [[], ["SYSTEM$ABORT_SESSION"]])
async def test_a_session_counts_as_ended_only_when_the_account_knows_it_no_more(
    double: SnowflakeDouble, plane: SnowflakePlane, lying: list[str]
) -> None:
    work = plane.work()
    double.switch(lying=lying)

    assert await plane.adapter.close([work]) == (frozenset() if lying else {work.job_id})


async def test_a_session_in_which_something_runs_is_not_ended(double: SnowflakeDouble, plane: SnowflakePlane) -> None:
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")

    assert await plane.adapter.close([work]) == frozenset()
    assert query_id in [active["id"] for active in double.state()["active"]]


async def test_a_rung_does_what_the_lower_ones_do_because_nobody_climbs_down_again(
    double: SnowflakeDouble, own_user: str
) -> None:
    """The worker may not end the executor's sessions: what had lied on the way to the top is all that is left."""
    for privilege in ("OPERATE", "MONITOR"):
        double.administer(f"GRANT {privilege} ON WAREHOUSE COMPUTE_WH TO ROLE {own_user}")
    with ExitStack() as sessions:
        plane = SnowflakePlane(double, sessions, canceller=own_user)
        work = plane.work()
        query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
        [run] = (await plane.adapter.find([work]))[work.job_id].runs

        answers = await plane.adapter.stop([run], Rung.FORCE)

        assert answers == {run.handle: StopAnswer.ACCEPTED}
        await asyncio.to_thread(until, lambda: query_id not in active_in(double))
        await plane.adapter.aclose()


async def test_a_session_that_is_gone_keeps_no_other_from_being_emptied(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    works = [plane.work() for _ in range(2)]
    ids = [plane.submit(work, "SELECT SYSTEM$WAIT(60)") for work in works]
    listings = await plane.adapter.find(works)
    runs = [run for work in works for run in listings[work.job_id].runs]
    double.switch(lying=["SYSTEM$CANCEL_QUERY", "abort-request", "SYSTEM$ABORT_SESSION"], logout_stops_queries=False)
    plane.close_session(works[0])

    await plane.adapter.stop(runs, Rung.FORCE)

    await asyncio.to_thread(until, lambda: ids[1] not in active_in(double))
    assert ids[0] in active_in(double)


async def test_a_query_that_the_account_will_not_hear_of_keeps_no_other_from_being_cancelled(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    works = [plane.work() for _ in range(3)]
    ids = [plane.submit(work, "SELECT SYSTEM$WAIT(60)") for work in works]
    listings = await plane.adapter.find(works)
    double.switch(unheard_of=[ids[1]])

    answers = await plane.adapter.stop([run for work in works for run in listings[work.job_id].runs], Rung.ASK)

    assert {handle.run_id: answer for handle, answer in answers.items()}[ids[1]] is StopAnswer.UNREACHABLE
    await asyncio.to_thread(until, lambda: active_in(double) == {ids[1]})


# --- what a listing proves


async def test_who_is_shown_what_ran_on_another_warehouse_alone_proves_nothing_by_an_empty_listing(
    double: SnowflakeDouble, own_warehouse: str
) -> None:
    """It sees queries of the executor's, from when that used COMPUTE_WH; the plane's jobs run elsewhere now."""
    with ExitStack() as sessions:
        plane = SnowflakePlane(double, sessions)
        earlier = plane.work()
        plane.submit(earlier, "SELECT 1")
        work = structs.replace(earlier, job_id=uuid4(), tag=earlier.tag.replace(str(earlier.job_id), str(uuid4())))
        session = sessions.enter_context(double.connect("EXECUTOR", warehouse=own_warehouse))
        with session.cursor() as cursor:
            cursor.execute_async("SELECT SYSTEM$WAIT(60)", _statement_params={"QUERY_TAG": work.tag})
        adapter = adapter_of(double, warehouse=own_warehouse, executor_user="EXECUTOR")

        listing = (await adapter.find([work]))[work.job_id]

        assert (listing.runs, listing.complete) == ((), False)
        assert listing.trouble is not None
        assert listing.trouble.waiting is Waiting.NOT_PERMITTED
        assert own_warehouse in listing.trouble.detail
        await adapter.aclose()
        await plane.aclose()


@pytest.mark.parametrize("given", [None, "its name"])
async def test_a_user_whose_name_is_not_all_capitals_does_not_look_for_anothers_queries(
    double: SnowflakeDouble, given: str | None
) -> None:
    name = f"u_{secrets.token_hex(4)}"
    double.administer(f"CREATE USER \"{name}\" PASSWORD = '{name}'", f'GRANT ROLE PUBLIC TO USER "{name}"')
    work = named_work()
    with double.connect(name, warehouse="COMPUTE_WH") as session, session.cursor() as cursor:
        cursor.execute_async("SELECT SYSTEM$WAIT(60)", _statement_params={"QUERY_TAG": work.tag})
        query_id = str(cursor.sfqid)
        adapter = adapter_of(double, name, executor_user=given and name)

        listing = (await adapter.find([work]))[work.job_id]

        assert [run.handle.run_id for run in listing.runs] == ([query_id] if given is None else [])
        assert listing.complete is (given is None)
        await adapter.aclose()


async def test_a_running_query_whose_end_the_history_puts_long_ago_does_not_make_a_page_the_last(
    double: SnowflakeDouble, plane: SnowflakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.snowflake.history.MOST", 4)
    monkeypatch.setattr("adapters.snowflake.history.PAGES", 1)
    double.switch(open_end="1970-01-01T00:00:00+00:00")
    for _ in range(4):
        plane.submit(plane.work(), "SELECT SYSTEM$WAIT(60)")
    job_id = new_id()
    work = Work(job_id, work_tag("tests", PLANE, job_id), incarnation=double.incarnation)

    listing = (await plane.adapter.find([work]))[work.job_id]

    assert not listing.complete


async def test_what_runs_is_listed_whatever_the_history_gives_as_its_end(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    double.switch(open_end="1970-01-01T00:00:00+00:00")
    query_id = plane.submit(plane.work(), "SELECT SYSTEM$WAIT(60)")

    listing = await plane.adapter.running()

    assert [run.handle.run_id for run in listing.runs] == [query_id]


async def test_a_session_that_is_made_anew_in_another_account_proves_nothing(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    """An address may come to lead to a replica: it knows none of the account's queries, and none of its sessions."""
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    await plane.adapter.find([work])
    double.switch(account="REPLICA", hidden=[query_id])
    double.lose_sessions("CANCELLER", "gone")

    listing = (await plane.adapter.find([work]))[work.job_id]

    assert (listing.runs, listing.complete) == ((), False)


async def test_a_tracked_query_is_found_however_many_have_ended_since(
    double: SnowflakeDouble, plane: SnowflakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.snowflake.history.MOST", 10)
    with double.connect("DBT", warehouse="COMPUTE_WH") as session, session.cursor() as cursor:
        cursor.execute("SELECT 1")
        query_id = str(cursor.sfqid)
        for _ in range(20):
            cursor.execute("SELECT 2")
    work = structs.replace(plane.work(), handle=Handle("", "", query_id), tracked=Tracking(users=["DBT"]))

    listing = (await plane.adapter.find([work]))[work.job_id]

    assert [run.status for run in listing.runs] == [RunStatus.SUCCEEDED]


async def test_a_session_that_another_account_does_not_know_has_not_ended(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    work = plane.work()
    await plane.adapter.find([work])
    double.switch(listing_seconds=3600)
    read = double.state()["statements"]["SELECT"]
    closing = asyncio.create_task(plane.adapter.close([work]))
    await asyncio.to_thread(until, lambda: double.state()["statements"]["SELECT"] > read)

    double.switch(account="REPLICA")
    double.lose_sessions("CANCELLER", "gone")
    double.switch(listing_seconds=0)

    assert await closing == frozenset()


async def test_a_job_of_which_no_session_is_known_is_not_closed(plane: SnowflakePlane) -> None:
    assert await plane.adapter.close([named_work()]) == frozenset()


async def test_a_job_of_another_account_is_not_closed_here(plane: SnowflakePlane) -> None:
    work = structs.replace(plane.work(), incarnation="ELSEWHERE.ACCOUNT")

    assert await plane.adapter.close([work]) == frozenset()


async def test_no_session_of_whoever_runs_a_tracked_query_is_ended(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    with double.connect("DBT", warehouse="COMPUTE_WH") as session, session.cursor() as cursor:
        cursor.execute("SELECT 1")
        name = str(cursor.sfqid)
    tracked = structs.replace(plane.work(), handle=Handle("", "", name), tracked=Tracking(users=["DBT"]))
    asked = double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0)

    assert await plane.adapter.close([tracked]) == frozenset()
    assert double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0) == asked


async def test_a_session_is_not_ended_by_a_handle_that_names_another_jobs_query(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    query_id = plane.submit(plane.work(), "SELECT SYSTEM$WAIT(60)")
    mistaken = plane.work()
    run = Run(mistaken.job_id, mistaken.tag, Handle("snowflake", double.incarnation, query_id), RunStatus.ACTIVE)
    double.switch(lying=["SYSTEM$CANCEL_QUERY", "abort-request"])

    await plane.adapter.stop([run], Rung.FORCE)

    assert query_id in active_in(double)


async def test_a_query_of_another_account_is_not_observed_here(double: SnowflakeDouble, plane: SnowflakePlane) -> None:
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    run = Run(work.job_id, work.tag, Handle("snowflake", "ELSEWHERE.ACCOUNT", query_id), RunStatus.UNKNOWN)

    assert await plane.adapter.observe([run]) == {}


async def test_a_recorded_query_is_listed_although_the_history_does_not_show_it(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    work = plane.work()
    query_id = plane.submit(work, "SELECT 1")
    double.switch(hidden=[query_id])
    recorded = structs.replace(work, handle=Handle("snowflake", double.incarnation, query_id))

    listing = (await plane.adapter.find([recorded]))[work.job_id]

    assert [run.status for run in listing.runs] == [RunStatus.SUCCEEDED]


async def test_an_ended_query_of_another_job_is_not_this_jobs_whatever_its_handle_says(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    query_id = plane.submit(plane.work(), "SELECT 1")
    mistaken = structs.replace(plane.work(), handle=Handle("snowflake", double.incarnation, query_id))

    listing = (await plane.adapter.find([mistaken]))[mistaken.job_id]

    assert listing.runs == ()


async def test_an_account_that_tells_no_status_at_all_is_silent(double: SnowflakeDouble, plane: SnowflakePlane) -> None:
    work = plane.work()
    query_id = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    recorded = structs.replace(work, handle=Handle("snowflake", double.incarnation, query_id))
    await plane.adapter.find([work])
    double.switch(cut_answers={"status": 1})

    listing = (await plane.adapter.find([recorded]))[work.job_id]

    assert listing.trouble is not None
    assert listing.trouble.waiting is Waiting.PLANE_SILENT


async def test_of_a_closed_job_the_history_is_read_once_and_its_end_is_told_by_its_status(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    work = plane.work()
    work = structs.replace(work, handle=handle(double, plane.submit(work, "SELECT SYSTEM$WAIT(60)")))
    closed = ClosedWork(**structs.asdict(work))
    first = (await plane.adapter.find([closed]))[work.job_id]
    read = double.state()["statements"]["SELECT"]

    again = (await plane.adapter.find([closed]))[work.job_id]
    await plane.adapter.stop(first.runs, Rung.ASK)
    await asyncio.to_thread(until, lambda: not active_in(double))
    last = (await plane.adapter.find([closed]))[work.job_id]

    assert double.state()["statements"]["SELECT"] == read
    assert [(listing.complete, listing.runs[0].status) for listing in (first, again, last)] == [
        (True, RunStatus.ACTIVE),
        (True, RunStatus.ACTIVE),
        (True, RunStatus.STOPPED),
    ]
    assert last.runs[0].ended_at is not None
    await plane.adapter.find([closed])
    assert double.state()["statements"]["SELECT"] == read + 1  # what has ended is not remembered


async def test_of_a_job_that_is_not_closed_what_began_since_is_found(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    work = plane.work()
    first = plane.submit(work, "SELECT SYSTEM$WAIT(60)")
    named = structs.replace(work, handle=handle(double, first))
    await plane.adapter.find([ClosedWork(**structs.asdict(named))])  # whoever thought so was wrong
    second = plane.submit(work, "SELECT SYSTEM$WAIT(60)")

    listing = (await plane.adapter.find([structs.replace(named, handle=None)]))[work.job_id]

    assert {run.handle.run_id for run in listing.runs} == {first, second}


async def test_a_history_that_lacks_the_recorded_query_is_read_again(
    double: SnowflakeDouble, plane: SnowflakePlane
) -> None:
    """It lags: what else it lacks, nobody knows."""
    work = plane.work()
    first, second = (plane.submit(work, "SELECT SYSTEM$WAIT(60)") for _ in range(2))
    closed = ClosedWork(**structs.asdict(structs.replace(work, handle=handle(double, first))))
    double.switch(hidden=[first, second])
    early = (await plane.adapter.find([closed]))[work.job_id]
    double.switch(hidden=[])

    late = (await plane.adapter.find([closed]))[work.job_id]

    assert [run.handle.run_id for run in early.runs] == [first]
    assert {run.handle.run_id for run in late.runs} == {first, second}


@pytest.mark.parametrize(
    ("sql", "status"),
    [("SELECT 1", "SUCCESS"), ("SELECT CAST('x' AS INT)", "FAILED_WITH_ERROR"), ("SELECT SYSTEM$WAIT(60)", "RUNNING")],
)
async def test_the_connectors_public_calls_tell_the_same_of_a_query_but_for_its_end(
    double: SnowflakeDouble, sql: str, status: str
) -> None:
    """A later connector may keep its whole answer from us; then these are what is left."""
    account, who = double.account(warehouse="COMPUTE_WH"), double.sign_in("EXECUTOR")
    connection = await sign_in(account, who, timeout_seconds=10.0, with_warehouse=True)
    async with connection.cursor() as cursor:
        query_id = str((await cursor.execute_async(sql))["queryId"])
    await asyncio.to_thread(until, lambda: (query_id in active_in(double)) == (status == "RUNNING"))

    whole, public = await _fate(connection, query_id), await fate_by_public_calls(connection, query_id)

    assert whole.status == status
    assert whole._replace(ended_at=None) == public
    assert (whole.ended_at is None) == (status == "RUNNING")
    await connection.close()
