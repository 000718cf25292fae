"""What Spark is asked for a job: its own SQL, letter by letter, once it is one query over the plane's data."""

from pathlib import Path
from uuid import uuid4

import pytest
from pyarrow import parquet, table

from adapters.narrative.spark_warehouse import Kind, Output
from control_plane.errors import BadInput, EngineUnavailable
from control_plane.inputs import check_result
from control_plane.jobs import JobType
from tests.narrative import claim_of, view_of
from tests.unit.test_embedded_engine import REFUSED
from workers.demo.example import long_view
from workers.engines import plans
from workers.engines.spark_plans import TYPES, Plan, Rows, count_rows, plan, read_answer, statement

ROOT = Path(__file__).parents[2]
#: Each passes as one harmless query here, or nearly, and is another thing to Spark.
READ_OTHERWISE = {
    "a setting in its place": "SELECT '${spark.master}'",
    "the server's environment": "SELECT '${env:AWS_SECRET_ACCESS_KEY}'",
    "a comment that goes on": "-- \\\nSELECT '\nINSERT INTO narrative.datasets.ds_1 SELECT 1 -- '",
    "a comment that goes on, on Windows": "-- \\\r\nSELECT 1",
    "a text in dollars": "SELECT $$ ' $$ AS a, ' $$ ' AS b",
    "a named text in dollars": "SELECT 1 AS a$x$ ; SELECT 2 $x$",
    "a raw text": "SELECT r'\\' AS a -- '",
    "a raw text in double quotes": 'SELECT R"\\" AS a -- "',
    "a semicolon where an escaped quote is": "SELECT 1 AS `a\\`, ';' AS b",
    "an escape behind a semicolon": "SELECT ';' AS a, 'it\\'s' AS b",
}
CALLS = {
    "calls Java": "SELECT java_method('java.lang.System', 'exit', 1)",
    "calls Java by another name": "SELECT reflect('java.lang.System', 'getenv', 'HOME')",
    "calls Java by a third name": "SELECT try_reflect('java.lang.System', 'getenv', 'HOME')",
    "reads what a text names": "SELECT * FROM IDENTIFIER('parquet.`/etc`')",
    "calls what a text names": "SELECT IDENTIFIER('reflect')('java.lang.System', 'getenv', 'HOME')",
    "reads Parquet by its path": "SELECT * FROM parquet.`file:///warehouse/outputs/JOB_1`",
    "reads files": "SELECT * FROM read_files('/etc')",
    "reads a table of Spark's own catalogue": "SELECT * FROM spark_catalog.default.x",
    "runs a block": "BEGIN SELECT 1; END",
}
UNCHANGED = {
    "a hint": "SELECT /*+ BROADCAST(a) */ a.n FROM narrative.datasets.ds_1 a JOIN narrative.datasets.ds_2 b USING (n)",
    "a semicolon in a text": "SELECT ';' AS a FROM narrative.datasets.ds_1",
    "an escaped quote": "SELECT 'it\\'s' AS a FROM narrative.datasets.ds_1",
    "a comment at its end": "SELECT 1 AS a -- and no more",
    "a query under WITH": "WITH x AS (SELECT 1 AS n) SELECT n FROM x",
    "rows that it makes": "SELECT explode(sequence(1, 3)) AS n",
    "a lateral view": "SELECT y FROM narrative.datasets.ds_1 LATERAL VIEW explode(x) t AS y",
    "a sample of a dataset": "SELECT n FROM narrative.samples.ds_7 TABLESAMPLE (10 ROWS)",
    "words of Spark alone": "SELECT try_cast(n AS INT) AS m, n DIV 2 AS h FROM narrative.datasets.ds_1 CLUSTER BY m",
}


def planned(sql: str) -> Plan:
    return plan(view_of(sql), 0.0)


def test_spark_runs_what_the_embedded_engine_runs() -> None:
    assert TYPES == plans.TYPES


def test_the_reference_pages_sql_is_sent_as_it_stands_there() -> None:
    sql = long_view()["compiled_sql"]

    assert planned(sql).query == sql


@pytest.mark.parametrize("sql", UNCHANGED.values(), ids=UNCHANGED)
def test_a_query_is_sent_as_it_was_given(sql: str) -> None:
    assert planned(f"\n{sql} ;\n").query == sql


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
def test_what_the_embedded_engine_refuses_is_refused(sql: str) -> None:
    with pytest.raises(BadInput, match="compiled_sql: ") as refused:
        planned(sql)

    assert refused.value.field == "compiled_sql"


@pytest.mark.parametrize("sql", (READ_OTHERWISE | CALLS).values(), ids=READ_OTHERWISE | CALLS)
def test_what_spark_would_read_or_call_otherwise_is_refused(sql: str) -> None:
    with pytest.raises(BadInput, match="compiled_sql: "):
        planned(sql)


def test_a_view_is_written_for_its_dataset_to_a_place_of_the_jobs_own() -> None:
    claim = view_of("SELECT 1 AS n")

    wanted = plan(claim, 0.0)

    assert (wanted.output, wanted.dataset_id, wanted.rows) == (Output(Kind.VIEW, claim.job_id), 6404, Rows.UNWANTED)
    result = wanted.conclude(0, 1.0)
    assert check_result(JobType.MATERIALIZE_VIEW, result) == result


def test_a_forecast_writes_nothing_on_a_shared_cluster_and_an_answer_on_one_of_its_own() -> None:
    claim = claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": "SELECT 1 AS n -- one"})

    wanted = plan(claim, 100.0)

    assert wanted.query == "SELECT count(*) AS rows FROM (\nSELECT 1 AS n -- one\n)"
    assert (wanted.output, wanted.dataset_id, wanted.rows) == (None, None, Rows.ANSWERED)
    assert wanted.written == Output(Kind.ANSWER, claim.job_id)
    assert wanted.conclude(7, 2.0) == {"rows": 7, "cost": 200}


def test_a_sample_is_of_any_rows_and_tells_how_many_were_written() -> None:
    claim = claim_of(JobType.SAMPLE, {"dataset_id": 7, "rows": 20})

    wanted = plan(claim, 0.0)

    assert wanted.query == "SELECT * FROM narrative.datasets.ds_7 ORDER BY rand() LIMIT 20"
    assert (wanted.output, wanted.rows) == (Output(Kind.SAMPLE, claim.job_id), Rows.WRITTEN)
    assert wanted.conclude(19, 1.0) == {"dataset_id": 7, "rows": 19}


def test_an_application_is_given_one_statement_that_writes_to_a_place() -> None:
    claim = view_of("SELECT 1 AS n")
    name = f"job_{claim.job_id}".replace("-", "_")

    asked = statement(plan(claim, 0.0), "file:///warehouse/outputs/x")

    assert asked == (
        f"CREATE TABLE spark_catalog.default.{name} USING parquet LOCATION 'file:///warehouse/outputs/x' AS\n"
        "SELECT 1 AS n"
    )


def test_an_application_that_counts_writes_json() -> None:
    claim = claim_of(JobType.NQL_FORECAST, {"nql": "x", "compiled_sql": "SELECT 1 AS n"})

    asked = statement(plan(claim, 0.0), "file:///warehouse/outputs/x")

    assert " USING json LOCATION 'file:///warehouse/outputs/x' AS\nSELECT count(*) AS rows FROM (\n" in asked


def test_an_answer_is_read_as_spark_writes_it() -> None:
    assert read_answer(b'{"rows":3}\n') == 3


@pytest.mark.parametrize("written", [None, b"", b"{", b'{"rows":"3"}', b"[3]"], ids=str)
def test_an_answer_that_is_none_is_told(written: bytes | None) -> None:
    with pytest.raises(EngineUnavailable, match="the answer of the job's query cannot be read"):
        read_answer(written)


def test_rows_are_counted_by_the_footers(tmp_path: Path) -> None:
    for number, rows in enumerate((3, 0, 4)):
        parquet.write_table(table({"n": list(range(rows))}), tmp_path / f"part-0000{number}-{uuid4()}.parquet")
    (tmp_path / "_SUCCESS").touch()

    assert count_rows(tmp_path) == 7


def test_rows_of_what_is_no_parquet_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").write_text("half")

    with pytest.raises(EngineUnavailable, match="cannot be counted"):
        count_rows(tmp_path)


def test_no_statement_of_ours_overwrites_what_readers_see() -> None:
    """Interrupted, ``INSERT OVERWRITE`` leaves an empty table: see ``test_interrupted_writes``."""
    found = (path for name in ("adapters", "workers") for path in (ROOT / name).rglob("*"))
    texts = {path: path.read_text() for path in found if path.suffix in {".py", ".scala", ".json"}}

    assert len(texts) > 50
    assert [str(path) for path, text in texts.items() if "insert overwrite" in " ".join(text.lower().split())] == []
