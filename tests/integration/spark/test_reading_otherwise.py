"""What Spark reads in another way than the parser by which a job's SQL is checked: why such a text is refused."""

from collections.abc import AsyncIterator, Mapping
from uuid import uuid4

import pyarrow as pa
import pytest

from adapters.narrative.spark_connect_line import Line, reading
from adapters.narrative.spark_connect_names import Server, Session
from control_plane.errors import BadInput
from tests.contract.spark_connect import TIMEOUT_SECONDS, USER
from tests.spark import ConnectServer
from workers.engines.dialect import untranslated
from workers.engines.spark_plans import SETTINGS

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(240)]

#: A query whose one value shows how Spark has read it.
READ = {
    "a setting in its place": ("SELECT '${spark.master}' AS n", "local[16]"),
    "a comment that goes on": ("SELECT 1 AS n -- \\\n UNION SELECT 2 AS n", "1"),
    "a raw text": ("SELECT r'\\' AS n", "\\"),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def line(spark_connect: ConnectServer) -> AsyncIterator[Line]:
    line = Line(Server.at(spark_connect.url), user=USER, timeout_seconds=TIMEOUT_SECONDS)
    yield line
    await line.aclose()


async def value_of(line: Line, sql: str, settings: Mapping[str, str]) -> str:
    """The one value of the query's one row."""
    session, operation_id = Session(USER, str(uuid4())), str(uuid4())
    await line.touch(session, settings)
    streams = [batch.arrow async for batch in line.execute(session, operation_id, reading(sql), tag="typed")]
    await line.release(session, operation_id)
    await line.release_session(session)
    [row] = [row for stream in streams if stream for row in pa.ipc.open_stream(stream).read_all().to_pylist()]
    return str(row["n"])


@pytest.mark.parametrize(("sql", "value"), READ.values(), ids=READ)
async def test_a_text_that_spark_reads_otherwise_is_refused(line: Line, sql: str, value: str) -> None:
    assert await value_of(line, sql, {}) == value
    with pytest.raises(BadInput, match="Spark might read on in another way"):
        untranslated(sql)


async def test_in_a_jobs_session_spark_puts_no_setting_into_its_sql(line: Line) -> None:
    sql, _ = READ["a setting in its place"]

    assert await value_of(line, sql, SETTINGS) == "${spark.master}"
