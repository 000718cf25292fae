"""What an interrupted write leaves behind on Spark: facts, and not ours. They are why jobs write as they do.

A job writes to a place of its own, which readers are shown by a manifest once the job is committed. What has no
``_SUCCESS`` in it is no output, and ``INSERT OVERWRITE`` appears nowhere.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from pyspark.sql.connect.proto import base_pb2, commands_pb2, relations_pb2

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_names import Server, Session
from tests.contract.spark_connect import TIMEOUT_SECONDS, USER, rows_in
from tests.narrative import until
from tests.spark import ConnectServer

#: Rows that take seconds to write. Not longer: a task often overlooks that it was interrupted, and then writes on, at
#: the cost of whatever runs beside it, with the operation CANCELED and its job FAILED.
SLOW = "SELECT id AS n FROM range(0, 60000000, 1, 2)"

pytestmark = [pytest.mark.anyio, pytest.mark.spark, pytest.mark.timeout(240)]


class Shell:
    """Somebody who types SQL: a session of its own on a server."""

    def __init__(self, server: ConnectServer) -> None:
        self._line = Line(Server.at(server.url), user=USER, timeout_seconds=TIMEOUT_SECONDS)
        self._session = Session(USER, str(uuid4()))

    async def run(self, statement: str, *, tag: str = "typed") -> None:
        """Raises LineError with Spark's condition."""
        sql = relations_pb2.Relation(
            common=relations_pb2.RelationCommon(plan_id=0), sql=relations_pb2.SQL(query=statement)
        )
        plan = base_pb2.Plan(command=commands_pb2.Command(sql_command=commands_pb2.SqlCommand(input=sql)))
        operation_id = str(uuid4())
        async for _ in self._line.execute(self._session, operation_id, plan, tag=tag):
            pass
        await self._line.release(self._session, operation_id)

    async def interrupt_once_it_writes(self, statement: str, folder: Path) -> None:
        """Begin it, and have it interrupted when files of it are in the folder."""
        running = asyncio.create_task(self.run(statement, tag="interrupted"))
        await until(lambda: any(folder.rglob("_temporary/**/part-*")) or running.done(), seconds=TIMEOUT_SECONDS)
        while not running.done():
            await self._line.interrupt(self._session, tag="interrupted")
            await asyncio.wait([running], timeout=0.2)
        with pytest.raises(LineError) as interrupted:
            await running
        assert interrupted.value.condition == "OPERATION_CANCELED", interrupted.value.message

    async def creates(self, statement: str) -> bool:
        """Whether the table is made; False where files are in its place."""
        try:
            await self.run(statement)
        except LineError as error:
            if "non-empty directory" not in error.message:
                raise
            return False
        return True

    async def aclose(self) -> None:
        with contextlib.suppress(LineError):
            await self._line.release_session(self._session)
        await self._line.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def shell(spark_connect: ConnectServer) -> AsyncIterator[Shell]:
    shell = Shell(spark_connect)
    yield shell
    await shell.aclose()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a table's files are to be."""
    return tmp_path / "table"


@pytest.fixture
def table() -> str:
    """A name that nobody else has."""
    return f"interrupted_{uuid4().hex}"


def files_in(place: Path) -> list[str]:
    """Their paths in it."""
    files = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(str(path.relative_to(place)) for path in files)


async def test_create_table_as_select_leaves_no_table_and_no_rows_and_can_be_repeated_once_its_files_stay_gone(
    shell: Shell, place: Path, table: str
) -> None:
    """Mostly it leaves an empty folder; a task that ends late leaves files in ``_temporary``, or makes them anew."""
    create = f"CREATE TABLE {table} USING parquet LOCATION 'file://{place}' AS "

    await shell.interrupt_once_it_writes(create + SLOW, place)

    assert [name for name in files_in(place) if not (place / name).is_relative_to(place / "_temporary")] == []
    with pytest.raises(LineError) as missing:
        await shell.run(f"DROP TABLE {table}")
    assert missing.value.condition == "TABLE_OR_VIEW_NOT_FOUND"
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await shell.creates(create + "SELECT 1L AS n"):
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    assert rows_in(place) == [1]
    await shell.run(f"DROP TABLE {table}")


async def test_create_table_as_select_whose_server_is_killed_leaves_files_that_forbid_its_repetition(
    shell: Shell, tmp_path: Path, place: Path, table: str
) -> None:
    create = f"CREATE TABLE {table} USING parquet LOCATION 'file://{place}' AS "
    server = await asyncio.to_thread(ConnectServer.start, tmp_path / "server")
    doomed = Shell(server)
    running = asyncio.create_task(doomed.run(create + SLOW))
    await until(lambda: any(place.rglob("_temporary/**/part-*")) or running.done(), seconds=TIMEOUT_SECONDS)

    await asyncio.to_thread(server.stop)

    with pytest.raises(LineError):
        await running
    await doomed.aclose()
    assert (place / "_temporary").is_dir()
    assert "_SUCCESS" not in files_in(place)
    with pytest.raises(LineError) as refused:
        await shell.run(create + "SELECT 1L AS n")
    assert "non-empty directory" in refused.value.message


async def test_insert_overwrite_leaves_an_empty_table(shell: Shell, place: Path, table: str) -> None:
    await shell.run(f"CREATE TABLE {table} USING parquet LOCATION 'file://{place}' AS SELECT 1L AS n")
    before = rows_in(place)

    await shell.interrupt_once_it_writes(f"INSERT OVERWRITE {table} {SLOW}", place)

    assert before == [1]
    assert rows_in(place) == []
    await shell.run(f"DROP TABLE {table}")


async def test_insert_into_leaves_the_rows_that_were_there(shell: Shell, place: Path, table: str) -> None:
    await shell.run(f"CREATE TABLE {table} USING parquet LOCATION 'file://{place}' AS SELECT 1L AS n")

    await shell.interrupt_once_it_writes(f"INSERT INTO {table} {SLOW}", place)

    assert rows_in(place) == [1]
    await shell.run(f"DROP TABLE {table}")
