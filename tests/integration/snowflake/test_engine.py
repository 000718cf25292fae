"""The executor's engine in Snowflake: what is run and published, and that nothing runs on unknown to anybody."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest
from snowflake.connector import SnowflakeConnection
from structlog.testing import capture_logs

from adapters.base import RunStatus
from adapters.snowflake.account import Account, SignIn
from control_plane.errors import BadInput, Conflict, EngineUnavailable
from control_plane.inputs import check_result
from control_plane.jobs import Handle, JobType, Purpose, with_purpose
from control_plane.work import Claim, Publication, Work
from tests.integration.snowflake.given import adapter_of, cancel, history, opened, rows
from tests.narrative import claim_of, until, view_of
from tests.snowflake import ENDLESS, SnowflakeDouble
from workers.clock import Clock
from workers.engines.base import Ending, NotStarted
from workers.engines.snowflake import SnowflakeEngine

pytestmark = pytest.mark.anyio

THREE = "SELECT SEQ4() AS N FROM TABLE(GENERATOR(ROWCOUNT => 3))"
#: Each is refused before Snowflake hears of it, with the sentence that names the field.
REFUSED = {
    "nothing": " ",
    "malformed": "SELEC 1",
    "unbalanced": "SELECT 1) UNION (SELECT 2",
    "two statements": "SELECT 1; SELECT 2",
    "a second one that writes": "SELECT 1; DROP TABLE X",
    "creates": "CREATE TABLE X AS SELECT 1",
    "drops": "DROP TABLE X",
    "inserts": "INSERT INTO X SELECT 1",
    "copies": "COPY INTO X FROM @STAGE",
    "configures": "ALTER SESSION SET QUERY_TAG = 'x'",
    "calls": "CALL SOMETHING()",
    "runs a text": "EXECUTE IMMEDIATE 'SELECT 1'",
    "stops another job": "SELECT SYSTEM$CANCEL_QUERY('01b01a20-bcf7-e843-7367-8fcc415acda9')",
    "stops another job by a name": "SELECT IDENTIFIER('SYSTEM$CANCEL_QUERY')('01b01a20-bcf7-e843-7367-8fcc415acda9')",
    "calls what a variable names": "SELECT IDENTIFIER($F)('01b01a20-bcf7-e843-7367-8fcc415acda9')",
    "ends another's session": "SELECT * FROM (SELECT system$abort_session(1))",
}


def plenty() -> float:
    """A permit that holds."""
    return 30.0


def just_before_submitting(double: SnowflakeDouble, *, left: float = 30.0, **faults: Any) -> Callable[[], float]:
    """A permit; it is asked for last, so that the faults are there for the submission and not before."""

    def permit_left() -> float:
        double.switch(**faults)
        return left

    return permit_left


def forecast_of(sql: str) -> Claim:
    return claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": sql})


async def run_to_end(engine: SnowflakeEngine, claim: Claim) -> Ending:
    return await engine.follow(await engine.start(claim, plenty))


async def executing(double: SnowflakeDouble, handle: Handle) -> None:
    await until(lambda: double.is_executing(handle.run_id))


async def published(engine: SnowflakeEngine, claim: Claim, number: int) -> frozenset[Any]:
    order = Publication(claim.input["dataset_id"], number)
    return await engine.publish([Claim(claim.job_id, claim.type, claim.input, claim.tag, claim.epoch, 30.0, order)])


def shown(executor: SnowflakeConnection, engine: SnowflakeEngine, dataset_id: int = 6404) -> list[Any]:
    return rows(executor, f"SELECT N FROM {engine._outputs.readers(dataset_id)} ORDER BY N")


def sessions_of(canceller: SnowflakeConnection, claim: Claim) -> set[int]:
    """In which the job's run, and what opened a session for it, are told to have been."""
    found = rows(
        canceller,
        "SELECT SESSION_ID FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) WHERE QUERY_TAG IN (?, ?)",
        claim.tag,
        with_purpose(claim.tag, Purpose.SESSION),
    )
    return {session for (session,) in found}


# --- what jobs answer and write


async def test_a_view_is_written_and_once_published_read(
    engine: SnowflakeEngine, executor: SnowflakeConnection
) -> None:
    claim = view_of(THREE)

    ending = await run_to_end(engine, claim)

    assert (ending.status, ending.dataset_id) == (RunStatus.SUCCEEDED, 6404)
    check_result(JobType.MATERIALIZE_VIEW, ending.result)
    assert await published(engine, claim, 1) == {claim.job_id}
    assert shown(executor, engine) == [(0,), (1,), (2,)]


async def test_a_forecast_counts_and_a_sample_is_drawn(ours: Account, who: SignIn) -> None:
    async with opened(ours, who, microcents_per_second=1000.0) as engine:
        view = view_of(THREE)
        await run_to_end(engine, view)
        await published(engine, view, 1)

        forecast = await run_to_end(engine, forecast_of("WITH X AS (SELECT 1 AS N) SELECT * FROM X // one\n;"))
        sample = await run_to_end(engine, claim_of(JobType.SAMPLE, {"dataset_id": 6404, "rows": 2}))

        assert forecast.result is not None
        assert forecast.result["rows"] == 1
        assert forecast.result["cost"] > 0
        assert sample.result == {"dataset_id": 6404, "rows": 2}


@pytest.mark.parametrize("order", list(permutations((1, 2))))
async def test_the_higher_number_is_shown_whichever_comes_first(
    engine: SnowflakeEngine, executor: SnowflakeConnection, order: tuple[int, ...]
) -> None:
    claims = {number: view_of(f"SELECT {number} AS N") for number in order}
    for claim in claims.values():
        await run_to_end(engine, claim)

    for number in order:
        assert await published(engine, claims[number], number) == {claims[number].job_id}

    assert shown(executor, engine) == [(2,)]


async def test_only_unpublished_outputs_are_known_and_discarded(engine: SnowflakeEngine) -> None:
    claims = [view_of(THREE, dataset_id=number) for number in (1, 2, 3)]
    for claim in claims:
        await run_to_end(engine, claim)
    await published(engine, claims[0], 1)
    assert set(await engine.unpublished()) == {claims[1].job_id, claims[2].job_id}

    removed = await engine.discard({claim.job_id: claim.tag for claim in claims[:2]})

    assert set(removed) == {claims[1].job_id}
    assert await engine.unpublished() == [claims[2].job_id]


async def test_what_an_earlier_executor_left_is_known(ours: Account, who: SignIn, engine: SnowflakeEngine) -> None:
    claim = view_of(THREE)
    await run_to_end(engine, claim)

    async with opened(ours, who) as later:
        assert await later.unpublished() == [claim.job_id]


async def test_an_output_that_is_being_written_is_not_discarded(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    claim = view_of(ENDLESS)
    await executing(double, await engine.start(claim, plenty))

    assert await engine.discard({claim.job_id: claim.tag}) == {}


async def test_a_job_without_a_publication_is_not_published(engine: SnowflakeEngine) -> None:
    assert await engine.publish([view_of(THREE)]) == frozenset()


# --- sessions and tags


async def test_each_job_has_a_session_of_its_own_which_is_gone_when_it_has_ended(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    await engine.unpublished()
    before = double.state()["sessions"]

    handles = [await engine.start(view_of(sql), plenty) for sql in (ENDLESS, ENDLESS, THREE)]

    assert (await engine.follow(handles[2])).status is RunStatus.SUCCEEDED
    await until(lambda: double.state()["sessions"] == before + 2)
    await until(lambda: set(double.state()["executing"]) == {handle.run_id for handle in handles[:2]})


async def test_the_run_carries_its_tag_and_what_opened_its_session_another(
    engine: SnowflakeEngine, canceller: SnowflakeConnection
) -> None:
    claim = view_of(THREE)

    handle = await engine.start(claim, plenty)
    await engine.follow(handle)

    assert handle == Handle("snowflake", "LOCAL.COUNTERMAND", handle.run_id)
    assert history(canceller, claim.tag) == [(handle.run_id, "SUCCESS")]
    assert history(canceller, with_purpose(claim.tag, Purpose.SESSION)) != []
    assert len(sessions_of(canceller, claim)) == 1


async def test_a_session_elsewhere_than_the_engine_is_not_used(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    await engine.unpublished()
    before = double.state()["sessions"]
    engine.incarnation = "ELSEWHERE.ACCOUNT"
    claim = view_of(THREE)

    with pytest.raises(NotStarted, match=r"is now LOCAL.COUNTERMAND, and was ELSEWHERE.ACCOUNT"):
        await engine.start(claim, plenty)

    assert history(canceller, claim.tag) == []
    assert double.state()["sessions"] == before


# --- closing


async def test_a_closed_tag_is_not_started(engine: SnowflakeEngine, double: SnowflakeDouble) -> None:
    claim = view_of(ENDLESS)
    before = double.state()["queries"]

    assert await engine.close(claim.tag)

    with pytest.raises(Conflict):
        await engine.start(claim, plenty)
    assert double.state()["queries"] == before


async def test_a_job_is_started_once(engine: SnowflakeEngine, canceller: SnowflakeConnection) -> None:
    claim = view_of(THREE)
    await run_to_end(engine, claim)

    with pytest.raises(Conflict):
        await engine.start(claim, plenty)

    assert len(history(canceller, claim.tag)) == 1


async def test_a_job_that_is_closed_while_it_signs_in_is_not_started(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    logins = double.state()["requests"]["login"]
    double.switch(hanging=["login"])
    claim = forecast_of(ENDLESS)
    starting = asyncio.create_task(engine.start(claim, plenty))
    await until(lambda: double.state()["requests"]["login"] > logins)

    certain = await engine.close(claim.tag)
    double.switch(hanging=[])

    assert certain
    with pytest.raises(Conflict):
        await starting
    assert history(canceller, claim.tag) == []


async def test_a_job_that_is_closed_while_its_session_is_being_opened_is_not_started(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = forecast_of(ENDLESS)
    asked = double.state()["requests"]["statement"]
    double.switch(hanging=["statement"])
    starting = asyncio.create_task(engine.start(claim, plenty))
    await until(lambda: double.state()["requests"]["statement"] > asked)

    certain = await engine.close(claim.tag)
    double.switch(hanging=[])

    assert certain
    with pytest.raises(Conflict):
        await starting
    assert history(canceller, claim.tag) == []


async def test_closing_a_running_job_ends_its_query(engine: SnowflakeEngine, double: SnowflakeDouble) -> None:
    claim = view_of(ENDLESS)
    handle = await engine.start(claim, plenty)
    await executing(double, handle)

    assert await engine.close(claim.tag)

    ending = await engine.follow(handle)
    assert (ending.status, ending.word) == (RunStatus.STOPPED, "FAILED_WITH_ERROR 000604 SQL execution canceled")
    assert double.state()["executing"] == []
    await until(double.is_idle)


async def test_a_cancel_that_lies_is_repeated(engine: SnowflakeEngine, double: SnowflakeDouble) -> None:
    claim = view_of(ENDLESS)
    handle = await engine.start(claim, plenty)
    double.switch(lying=["SYSTEM$CANCEL_QUERY"])
    await engine.close(claim.tag)
    await until(lambda: double.state()["calls"]["SYSTEM$CANCEL_QUERY"] >= 1)

    double.switch(lying=[])

    assert (await engine.follow(handle)).status is RunStatus.STOPPED


async def test_letting_go_of_the_engine_stops_what_it_runs(ours: Account, who: SignIn, double: SnowflakeDouble) -> None:
    before = double.state()["sessions"]

    async with opened(ours, who) as engine:
        await executing(double, await engine.start(view_of(ENDLESS), plenty))

    assert double.state()["active"] == []
    assert double.state()["sessions"] == before


async def test_a_job_whose_session_was_ended_while_it_was_being_opened_does_not_start_in_another(
    ours: Account, who: SignIn, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    """What ends the job's session closes the job: it never has a second one, so that nothing of it can start."""
    lost, goes_on = asyncio.Event(), asyncio.Event()

    async def pause(_seconds: float) -> None:
        lost.set()
        await goes_on.wait()

    async with (
        opened(ours, who, clock=Clock(pause=pause)) as engine,
        contextlib.aclosing(adapter_of(double, "EXECUTOR")) as adapter,
    ):
        claim = forecast_of(ENDLESS)
        double.switch(cut_answers={"statement": 1})
        starting = asyncio.create_task(engine.start(claim, plenty))
        await lost.wait()

        closed = await adapter.close([Work(claim.job_id, claim.tag, incarnation=double.incarnation)])
        goes_on.set()

        assert closed == {claim.job_id}
        with pytest.raises(NotStarted):
            await starting
    assert history(canceller, claim.tag) == []


async def test_a_session_whose_opening_was_not_answered_is_opened_once_more_and_is_the_same(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = forecast_of(THREE)
    double.switch(cut_answers={"statement": 1})

    ending = await run_to_end(engine, claim)

    assert ending.status is RunStatus.SUCCEEDED
    assert len(sessions_of(canceller, claim)) == 1


# --- submissions


async def test_a_used_up_permit_submits_nothing(engine: SnowflakeEngine, canceller: SnowflakeConnection) -> None:
    claim = view_of(ENDLESS)

    with pytest.raises(NotStarted, match="permit ran out before"):
        await engine.start(claim, lambda: 0.0)

    assert await engine.close(claim.tag)
    assert history(canceller, claim.tag) == []


async def test_a_lost_answer_is_asked_for_again_and_the_query_runs_once(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = view_of(THREE)

    handle = await engine.start(claim, just_before_submitting(double, lost_answers={"statement": 1}))

    assert (await engine.follow(handle)).status is RunStatus.SUCCEEDED
    assert history(canceller, claim.tag) == [(handle.run_id, "SUCCESS")]


async def test_a_query_whose_answer_was_cut_is_found_and_has_been_stopped(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = view_of(ENDLESS)

    handle = await engine.start(claim, just_before_submitting(double, cut_answers={"statement": 1}))
    ending = await engine.follow(handle)

    assert [query_id for query_id, _ in history(canceller, claim.tag)] == [handle.run_id]
    assert ending.status is RunStatus.STOPPED
    assert ending.cause is not None
    assert "its submission was not answered (Invalid Snowflake response" in ending.cause.message
    assert double.state()["active"] == []


async def test_a_quick_query_whose_answer_was_cut_is_found_however_late_the_history_is(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    claim = view_of("SELECT 1 AS N")

    faults: dict[str, Any] = {"cut_answers": {"statement": 1}, "history_lag_seconds": 1.0}
    handle = await engine.start(claim, just_before_submitting(double, **faults))

    await engine.follow(handle)
    assert handle.run_id


async def test_a_submission_that_hangs_is_not_certain_until_it_is_resolved_and_nothing_runs(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = view_of(ENDLESS)
    asked = double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0)
    permit_left = just_before_submitting(double, left=0.3, hanging=["statement"])
    with capture_logs() as logs:
        starting = asyncio.create_task(engine.start(claim, permit_left))
        await until(lambda: any(entry["event"] == "submission_unanswered" for entry in logs))

        uncertain = await engine.close(claim.tag)
        double.switch(hanging=[])

        with pytest.raises(NotStarted, match="no query was begun under its tag"):
            await starting
    assert not uncertain
    assert await engine.close(claim.tag)
    assert double.state()["calls"]["SYSTEM$ABORT_SESSION"] > asked
    assert history(canceller, claim.tag) == []
    assert double.state()["active"] == []


async def test_a_query_that_begins_when_its_permit_is_over_is_found_and_has_been_stopped(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    claim = view_of(ENDLESS)

    handle = await engine.start(claim, just_before_submitting(double, left=2.0, late_seconds=4.0))
    ending = await engine.follow(handle)

    assert ending.status is RunStatus.STOPPED
    assert ending.cause is not None
    assert "no answer within the 2 s that its permit had left" in ending.cause.message
    assert double.state()["executing"] == []


async def test_a_submission_that_is_under_way_when_its_job_is_given_up_begins_nothing_later(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim, late_seconds = view_of(ENDLESS), 5.0
    arrived: list[int] = []

    def permit_left() -> float:
        double.switch(late_seconds=late_seconds, hanging=["session"])  # signing out will not end the session either
        arrived.append(double.state()["requests"]["statement"])
        return 2.0  # enough to arrive in

    starting = asyncio.create_task(engine.start(claim, permit_left))
    await until(lambda: bool(arrived) and double.state()["requests"]["statement"] > arrived[0])
    arrived_before = time.monotonic()
    double.switch(late_seconds=0.0)  # for whatever comes after it

    with pytest.raises(NotStarted, match=r"no query was begun under its tag"):
        await starting

    await until(lambda: time.monotonic() > arrived_before + late_seconds)
    double.switch(hanging=[])
    assert history(canceller, claim.tag) == []
    assert double.state()["active"] == []


async def test_a_session_that_only_pretends_to_have_ended_is_not_believed(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    claim = view_of(ENDLESS)
    faults: dict[str, Any] = {"cut_answers": {"statement": 1}, "lying": ["SYSTEM$ABORT_SESSION"]}
    asked = double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0)
    starting = asyncio.create_task(engine.start(claim, just_before_submitting(double, **faults)))
    await until(lambda: double.state()["calls"].get("SYSTEM$ABORT_SESSION", 0) >= asked + 2)

    assert not starting.done()
    assert not await engine.close(claim.tag)
    double.switch(lying=[])

    assert (await engine.follow(await starting)).status is RunStatus.STOPPED


async def test_a_session_that_is_lost_before_the_submission_fails_the_job_and_nothing_runs(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    claim = view_of(THREE)

    def permit_left() -> float:
        double.lose_sessions("EXECUTOR", "gone")
        return 30.0

    with pytest.raises(NotStarted, match="did not report a queryId"):
        await engine.start(claim, permit_left)

    assert history(canceller, claim.tag) == []


async def test_another_account_does_not_tell_what_became_of_a_submission(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    """An address may come to lead to a replica, which knows neither the session nor the query."""
    claim = view_of(THREE)

    def permit_left() -> float:
        double.switch(account="REPLICA")
        double.lose_sessions("EXECUTOR", "gone")
        return 30.0

    with capture_logs() as logs:
        starting = asyncio.create_task(engine.start(claim, permit_left))
        await until(lambda: any("REPLICA answers where" in str(entry.get("error")) for entry in logs), seconds=60)
        assert not await engine.close(claim.tag)
        asked = double.state()["calls"]["SYSTEM$ABORT_SESSION"]

        double.switch(account="COUNTERMAND")
        double.lose_sessions("EXECUTOR", "gone")

        with pytest.raises(NotStarted, match="no query was begun under its tag"):
            await starting
    assert double.state()["calls"]["SYSTEM$ABORT_SESSION"] > asked


# --- outages


async def test_a_run_is_followed_through_bursts_of_refusals_and_lost_sessions(
    engine: SnowflakeEngine, double: SnowflakeDouble, canceller: SnowflakeConnection
) -> None:
    handle = await engine.start(view_of(ENDLESS), plenty)
    with capture_logs() as logs:
        following = asyncio.create_task(engine.follow(handle))
        double.switch(unavailable={"status": 1000})
        double.lose_sessions("EXECUTOR", "gone")
        await until(lambda: any(entry["event"] == "engine_lost" for entry in logs), seconds=60)
        double.switch(unavailable={})
        await until(lambda: any(entry["event"] == "engine_back" for entry in logs), seconds=60)
        assert not following.done()

        cancel(canceller, handle.run_id)

        assert (await following).status is RunStatus.STOPPED
    assert [entry["event"] for entry in logs].count("engine_lost") == 1


@pytest.mark.parametrize("status", ["NO_DATA", "DISCONNECTED", "ABORTING"])
async def test_a_status_that_proves_nothing_is_no_end(
    engine: SnowflakeEngine, double: SnowflakeDouble, status: str
) -> None:
    double.switch(statuses={"*": status})
    handle = await engine.start(view_of(THREE), plenty)
    asked = double.state()["requests"].get("status", 0)
    following = asyncio.create_task(engine.follow(handle))
    await until(lambda: double.state()["requests"].get("status", 0) >= asked + 3)

    assert not following.done()
    double.switch(statuses={})

    assert (await following).status is RunStatus.SUCCEEDED


async def test_signing_in_is_tried_again_until_it_is_answered(engine: SnowflakeEngine, double: SnowflakeDouble) -> None:
    double.switch(unavailable={"login": 8})

    ending = await run_to_end(engine, view_of(THREE))

    assert ending.status is RunStatus.SUCCEEDED


async def test_a_refused_sign_in_fails_the_job_at_once(ours: Account, double: SnowflakeDouble, own_user: str) -> None:
    async with opened(ours, double.sign_in(own_user)) as engine:
        double.administer(f"ALTER USER {own_user} SET DISABLED = TRUE")

        with pytest.raises(NotStarted, match=f"refused {own_user}") as raised:
            await engine.start(forecast_of(THREE), plenty)

        assert raised.value.diagnostics["code"] == "390101"


# --- what is wrong with a job


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED.keys())
async def test_sql_that_is_not_one_query_is_refused_and_snowflake_hears_nothing_of_it(
    engine: SnowflakeEngine, double: SnowflakeDouble, sql: str
) -> None:
    before = double.state()["requests"]

    with pytest.raises(NotStarted, match="compiled_sql: ") as raised:
        await engine.start(view_of(sql), plenty)

    assert raised.value.diagnostics == {"engine": "snowflake", "sql": sql, "field": "compiled_sql"}
    assert double.state()["requests"] == before


async def test_sql_that_cannot_be_sent_fails_the_job_and_leaves_it_certain(
    engine: SnowflakeEngine, double: SnowflakeDouble
) -> None:
    """The connector raises what is no error of its own, and nobody else knows that it sent nothing."""
    claim = forecast_of("SELECT '\ud800'")

    with pytest.raises(NotStarted, match=r"surrogates not allowed.*no query was begun under its tag"):
        await engine.start(claim, plenty)

    assert await engine.close(claim.tag)


async def test_failing_sql_fails_with_snowflakes_own_message(engine: SnowflakeEngine) -> None:
    sql = "SELECT MISSING FROM NOWHERE"
    handle = await engine.start(view_of(sql), plenty)

    ending = await engine.follow(handle)

    assert ending.status is RunStatus.ERRORED
    assert ending.cause is not None
    assert "does not exist or not authorized" in ending.cause.message
    assert ending.cause.value == {"engine": "snowflake", "run_id": handle.run_id, "sql": sql, "code": "002003"}


async def test_a_statement_time_out_ends_the_run_with_that_cause(ours: Account, who: SignIn) -> None:
    async with opened(ours, who, statement_timeout_seconds=1.0) as engine:
        ending = await run_to_end(engine, view_of(ENDLESS))

    assert ending.status is RunStatus.STOPPED
    assert ending.cause is not None
    assert "timeout of 1 second" in ending.cause.message


async def test_a_run_that_is_not_its_own_is_not_followed(engine: SnowflakeEngine) -> None:
    with pytest.raises(EngineUnavailable, match="is no run of this executor"):
        await engine.follow(Handle("snowflake", engine.incarnation, str(uuid4())))


async def test_a_database_that_is_no_plain_name_is_refused(ours: Account, who: SignIn) -> None:
    account = Account(**{**vars(ours), "database": "A; DROP"})

    with pytest.raises(BadInput, match="database"):
        await SnowflakeEngine.open(account, who)


# --- what is told


async def test_a_runs_end_is_told_in_one_line(engine: SnowflakeEngine) -> None:
    with capture_logs() as logs:
        handle = await engine.start(view_of(THREE), plenty)
        await engine.follow(handle)
        await until(lambda: any(entry["event"] == "run_ended" for entry in logs))

    [told] = [entry for entry in logs if entry["event"] == "run_ended"]
    assert (told["query_id"], told["status"], told["credits"]) == (handle.run_id, "SUCCESS", 0.0)


async def test_secrets_are_shown_nowhere(engine: SnowflakeEngine, who: SignIn) -> None:
    assert who.token is not None
    handle = await engine.start(view_of(ENDLESS), plenty)
    run = engine._book.by_handle(handle)

    everything = repr([engine, vars(engine), vars(engine._line), run and vars(run), run and vars(run.session)])

    assert who.token.get_secret_value() not in everything
