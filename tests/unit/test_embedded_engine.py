"""The embedded engine: what runs, what can be stopped, what is written where, and what is refused."""

import subprocess
import sys
from pathlib import Path
from threading import Event
from uuid import uuid4

import duckdb
import pytest
from duckdb import DuckDBPyConnection

from adapters.base import RunStatus, StopAnswer
from control_plane.errors import BadInput, Conflict, EngineUnavailable
from control_plane.inputs import check_result
from control_plane.jobs import JobType
from control_plane.work import Publication
from tests.narrative import ENDLESS, QUICK, claim_of, opened, outputs, rows, run_to_end, until, view_of
from workers.engines.folder import Folder
from workers.engines.warehouse import Resources, Warehouse

pytestmark = pytest.mark.anyio

SHOWN = "SELECT n FROM narrative.datasets.ds_6404 ORDER BY n"
STRUCTS = "SELECT `d`.`who`['value'] `v`, `d`.`who`.`value` `w` FROM narrative.datasets.ds_9 `d`"
#: Each is refused before it runs, with the sentence that names the field.
REFUSED = {
    "nothing": " ",
    "only a comment": "-- nothing",
    "malformed": "SELEC 1",
    "unbalanced": "SELECT (1",
    "unclosed": "SELECT `n",
    "too deep": "(" * 5_000,
    "two statements": "SELECT 1; SELECT 2",
    "a second one that writes": "SELECT 1; DROP TABLE narrative.datasets.ds_1",
    "creates": "CREATE TABLE narrative.datasets.x AS SELECT 1",
    "drops": "DROP VIEW narrative.datasets.ds_1",
    "inserts": "INSERT INTO narrative.datasets.ds_1 SELECT 1",
    "attaches": "ATTACH ':memory:' AS other",
    "detaches": "DETACH narrative",
    "configures": "SET threads = 8",
    "writes under WITH": "WITH x AS (DELETE FROM narrative.datasets.ds_1) SELECT 1",
    "selects into": "SELECT n INTO narrative.datasets.x FROM narrative.datasets.ds_1",
    "runs a script": "SELECT TRANSFORM(n) USING 'cat' AS m FROM narrative.datasets.ds_1",
    "reads a file": "SELECT * FROM read_csv('/etc/passwd')",
    "reads a file by its name": "SELECT * FROM csv.`/etc/passwd`",
    "reads a file as a table": "SELECT * FROM '/etc/passwd'",
    "reads the network": "SELECT * FROM parquet_scan('https://example.com/x.parquet')",
    "reads the environment": "SELECT getenv('HOME')",
    "runs a query in a text": "SELECT * FROM query('SELECT 1')",
    "sleeps": "SELECT sleep_ms(1000)",
    "reads another job's output": "SELECT * FROM narrative.outputs.x",
    "reads the bookkeeping": "SELECT * FROM narrative.bookkeeping.publications",
    "reads the catalogue": "SELECT * FROM duckdb_settings()",
    "reads a table without a schema": "SELECT * FROM ds_1",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- what jobs answer and write


async def test_a_view_is_invisible_to_readers_until_it_is_published(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        claim = view_of(QUICK)

        ending = await run_to_end(engine, claim)

        assert ending.status is RunStatus.SUCCEEDED
        with pytest.raises(duckdb.CatalogException):
            rows(engine, SHOWN)
        await engine.publish_orders({claim.job_id: Publication(6404, 1)})
        assert rows(engine, SHOWN) == [(0,), (1,), (2,)]


async def test_a_view_answers_the_documented_result(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        ending = await run_to_end(engine, view_of(QUICK))

    assert ending.result is not None
    assert check_result(JobType.MATERIALIZE_VIEW, ending.result) == ending.result
    assert 0 < ending.result["snapshot_id"] < 2**63
    assert ending.result["dataset_id"] == ending.dataset_id == 6404


async def test_the_older_spelling_of_the_compiled_sql_runs_too(tmp_path: Path) -> None:
    claim = claim_of(JobType.MATERIALIZE_VIEW, {"nql": "x", "dataset_id": 6404, "compiled_select": QUICK})
    async with opened(tmp_path) as engine:
        assert (await run_to_end(engine, claim)).status is RunStatus.SUCCEEDED


async def test_a_forecast_counts_rows_costs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        ending = await run_to_end(engine, claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": QUICK}))

        assert ending.result == {"rows": 3, "cost": 0}
        assert ending.dataset_id is None
        assert outputs(engine) == []


async def test_a_forecast_costs_what_its_seconds_are_said_to_cost(tmp_path: Path) -> None:
    async with opened(tmp_path, microcents_per_second=1e12) as engine:
        ending = await run_to_end(engine, claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": QUICK}))

    assert ending.result is not None
    assert ending.result["cost"] > 0


async def test_a_sample_is_published_beside_the_dataset(tmp_path: Path) -> None:
    claim = claim_of(JobType.SAMPLE, {"dataset_id": 1, "rows": 2})
    async with opened(tmp_path) as engine:
        ending = await run_to_end(engine, claim)
        await engine.publish_orders({claim.job_id: Publication(1, 1)})

        assert ending.result == {"dataset_id": 1, "rows": 2}
        assert len(rows(engine, "SELECT * FROM narrative.samples.ds_1")) == 2
        assert len(rows(engine, "SELECT * FROM narrative.datasets.ds_1")) == 3


async def test_spark_reads_structs_by_both_of_its_ways(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        rows(engine, "CREATE VIEW narrative.datasets.ds_9 AS SELECT {'value': 'a'} AS who")
        claim = view_of(STRUCTS)

        await run_to_end(engine, claim)

        assert rows(engine, f'SELECT v, w FROM narrative.outputs."job_{claim.job_id}"') == [("a", "a")]


# --- what is refused


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
async def test_whatever_is_not_one_plain_query_is_refused_by_its_field(tmp_path: Path, sql: str) -> None:
    async with opened(tmp_path) as engine:
        ending = await run_to_end(engine, view_of(sql))

        assert ending.status is RunStatus.ERRORED
        assert ending.cause is not None
        assert ending.cause.message.startswith("compiled_sql: ")
        assert "\n" not in ending.cause.message
        assert outputs(engine) == []
        assert rows(engine, QUICK) == [(0,), (1,), (2,)]


async def test_an_error_of_the_engine_is_the_cause_with_its_sql(tmp_path: Path) -> None:
    sql = "SELECT missing FROM narrative.datasets.ds_1"
    async with opened(tmp_path) as engine:
        ending = await run_to_end(engine, view_of(sql))

    assert ending.status is RunStatus.ERRORED
    assert ending.cause is not None
    assert "missing" in ending.cause.message
    assert ending.cause.value["sql"] == sql


async def test_a_dataset_that_is_a_table_is_not_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        rows(engine, "CREATE TABLE narrative.datasets.ds_6404 AS SELECT 7 AS n")

        ending = await run_to_end(engine, view_of(QUICK))

        assert ending.cause is not None
        assert ending.cause.message.startswith("dataset_id: ")
        assert rows(engine, SHOWN) == [(7,)]


async def test_duckdb_itself_reaches_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        for sql in ("SELECT * FROM read_text('/etc/passwd')", "SET enable_external_access = true"):
            with pytest.raises(duckdb.Error):
                rows(engine, sql)


async def test_a_python_variable_is_no_table(tmp_path: Path) -> None:
    secret = duckdb.sql("SELECT 1 AS leaked")  # noqa: F841  its name is what the query tries
    async with opened(tmp_path) as engine:
        with pytest.raises(duckdb.CatalogException):
            rows(engine, "SELECT * FROM secret")


@pytest.mark.parametrize("resources", [Resources(memory_limit="lots"), Resources(threads=0)])
def test_malformed_resources_are_refused_by_their_names(tmp_path: Path, resources: Resources) -> None:
    with pytest.raises(BadInput, match="memory_limit, threads"):
        Warehouse.open(tmp_path, resources)


async def test_a_second_process_cannot_open_the_database(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from workers.engines.warehouse import *\n"
        "Warehouse.open(Path(sys.argv[1]), Resources())"
    )
    async with opened(tmp_path):
        second = subprocess.run(  # noqa: ASYNC221  a second of its own
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )

    assert "Refused" in second.stderr
    assert "Could not set lock" in second.stderr


# --- stopping and closing


async def test_a_run_that_would_take_minutes_stops_and_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        handle = await engine.start(view_of(ENDLESS), lambda: 30.0)
        assert engine.observe([handle])[0].status is RunStatus.ACTIVE

        answers = engine.stop([handle])
        ending = await engine.follow(handle)

        assert answers == {handle: StopAnswer.ACCEPTED}
        assert ending.status is RunStatus.STOPPED
        assert engine.observe([handle])[0].ended_at == ending.ended_at
        assert outputs(engine) == []


async def test_a_stop_that_comes_before_execution_begins_is_not_lost(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        for _ in range(30):
            handle = await engine.start(view_of(ENDLESS), lambda: 30.0)
            engine.stop([handle])

            assert (await engine.follow(handle)).status is RunStatus.STOPPED


async def test_a_run_that_is_stopped_while_its_permit_is_asked_for_submits_nothing(tmp_path: Path) -> None:
    asked, answer = Event(), Event()

    def permit_left() -> float:
        asked.set()
        return float(answer.wait(60))

    async with opened(tmp_path, interrupt=lambda _session: None) as engine:
        handle = await engine.start(view_of(QUICK), permit_left)
        await until(asked.is_set)
        engine.stop([handle])
        answer.set()

        assert (await engine.follow(handle)).status is RunStatus.STOPPED
        assert outputs(engine) == []


async def test_stopping_one_run_leaves_the_others_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        doomed, spared = [await engine.start(view_of(ENDLESS), lambda: 30.0) for _ in range(2)]

        engine.stop([doomed])
        await engine.follow(doomed)

        assert engine.observe([spared])[0].status is RunStatus.ACTIVE


async def test_an_ended_run_has_nothing_to_stop(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        handle = await engine.start(view_of(QUICK), lambda: 30.0)
        await engine.follow(handle)

        assert engine.stop([handle]) == {handle: StopAnswer.ALREADY_ENDED}
        assert engine.observe([handle])[0].status is RunStatus.SUCCEEDED


async def test_a_run_whose_interrupts_are_lost_is_active_until_one_is_not(tmp_path: Path) -> None:
    faulty, asked = Event(), Event()
    faulty.set()

    def interrupt(session: DuckDBPyConnection) -> None:
        asked.set()
        if not faulty.is_set():
            session.interrupt()

    async with opened(tmp_path, interrupt=interrupt) as engine:
        handle = await engine.start(view_of(ENDLESS), lambda: 30.0)
        await until(lambda: engine.observe([handle])[0].word == "executing")
        engine.stop([handle])
        assert asked.wait(60)
        assert engine.observe([handle])[0].status is RunStatus.ACTIVE

        faulty.clear()

        assert (await engine.follow(handle)).status is RunStatus.STOPPED


async def test_a_closed_tag_never_starts(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        claim = view_of(QUICK)

        await engine.close(claim.tag)

        with pytest.raises(Conflict, match="closed"):
            await engine.start(claim, lambda: 30.0)
        assert engine.list_runs([claim.tag]) == []


async def test_closing_a_tag_stops_its_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        claim = view_of(ENDLESS)
        handle = await engine.start(claim, lambda: 30.0)

        await engine.close(claim.tag)

        assert (await engine.follow(handle)).status is RunStatus.STOPPED


async def test_a_job_is_started_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        claim = view_of(QUICK)
        await run_to_end(engine, claim)

        with pytest.raises(Conflict, match="started before"):
            await engine.start(claim, lambda: 30.0)


async def test_without_a_permit_nothing_is_submitted(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        ending = await engine.follow(await engine.start(view_of(QUICK), lambda: 0.0))

        assert ending.status is RunStatus.STOPPED
        assert "permit" in ending.word
        assert outputs(engine) == []


async def test_the_oldest_ended_runs_are_forgotten_and_active_ones_never(tmp_path: Path) -> None:
    async with opened(tmp_path, remembered=2) as engine:
        active = await engine.start(view_of(ENDLESS), lambda: 30.0)
        ended = []
        for _ in range(3):
            ended.append(await engine.start(view_of(QUICK), lambda: 30.0))
            await engine.follow(ended[-1])

        await until(lambda: [run.handle for run in engine.observe([active, *ended])] == [active, *ended[1:]])


async def test_a_run_of_another_incarnation_cannot_be_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        handle = await engine.start(view_of(QUICK), lambda: 30.0)
        await engine.follow(handle)
    async with opened(tmp_path) as restarted:
        with pytest.raises(EngineUnavailable):
            await restarted.follow(handle)


# --- publishing and discarding


async def test_publishing_moves_only_to_higher_numbers_and_drops_what_it_supersedes(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        first, second, third = view_of("SELECT 1 AS n"), view_of("SELECT 2 AS n"), view_of("SELECT 3 AS n")
        for claim in (first, second, third):
            await run_to_end(engine, claim)

        for claim, number in ((first, 1), (third, 3), (second, 2)):
            published = await engine.publish_orders({claim.job_id: Publication(6404, number)})
            assert published == {claim.job_id}

        assert rows(engine, SHOWN) == [(3,)]
        assert outputs(engine) == [f"job_{third.job_id}"]


async def test_publishing_again_changes_nothing_even_in_a_later_incarnation(tmp_path: Path) -> None:
    first, second = view_of("SELECT 1 AS n"), view_of("SELECT 2 AS n")
    orders = {first.job_id: Publication(6404, 1), second.job_id: Publication(6404, 2)}
    async with opened(tmp_path) as engine:
        for claim in (first, second):
            await run_to_end(engine, claim)
        await engine.publish_orders(orders)

    async with opened(tmp_path) as restarted:
        assert await restarted.publish_orders(orders) == orders.keys()
        assert rows(restarted, SHOWN) == [(2,)]


async def test_what_is_wrong_with_one_publication_keeps_no_other_from_its_readers(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        poisoned, sound = view_of(QUICK, dataset_id=1234), view_of(QUICK)
        for claim in (poisoned, sound):
            await run_to_end(engine, claim)
        rows(engine, "CREATE TABLE narrative.datasets.ds_1234 AS SELECT 7 AS n")
        orders = {poisoned.job_id: Publication(1234, 1), sound.job_id: Publication(6404, 1)}

        assert await engine.publish_orders(orders) == {sound.job_id}

        assert rows(engine, SHOWN) == [(0,), (1,), (2,)]
        with pytest.raises(EngineUnavailable, match="ds_1234"):
            await engine.publish_orders({poisoned.job_id: Publication(1234, 1)})


async def test_what_has_no_output_is_not_published(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        assert await engine.publish_orders({uuid4(): Publication(6404, 1)}) == frozenset()


async def test_discarding_removes_unpublished_outputs_once_and_published_ones_never(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        shown, leftover = view_of(QUICK), view_of(QUICK)
        for claim in (shown, leftover):
            await run_to_end(engine, claim)
        await engine.publish_orders({shown.job_id: Publication(6404, 1)})
        jobs = [shown.job_id, leftover.job_id, uuid4()]
        assert await engine.unpublished() == [leftover.job_id]

        removed = await engine.discard(jobs)
        again = await engine.discard(jobs)

        assert removed == {leftover.job_id: (f'narrative.outputs."job_{leftover.job_id}"',)}
        assert again == {}
        assert rows(engine, SHOWN) == [(0,), (1,), (2,)]


async def test_outputs_survive_the_executor_and_its_spill_does_not(tmp_path: Path) -> None:
    claim = view_of(QUICK)
    async with opened(tmp_path) as engine:
        await run_to_end(engine, claim)
    (tmp_path / "spill").mkdir(exist_ok=True)
    (tmp_path / "spill" / "duckdb_temp_1").write_text("left by a killed process")

    folder = Folder.open(tmp_path)
    warehouse = Warehouse.open(tmp_path, Resources())

    assert warehouse.unpublished() == [claim.job_id]
    assert not (tmp_path / "spill" / "duckdb_temp_1").exists()
    warehouse.close()
    folder.close()
