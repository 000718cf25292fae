"""What readers see of jobs' outputs: only ever the highest number, whoever publishes when, and nothing unpublished."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from snowflake.connector import SnowflakeConnection

from adapters.snowflake.account import Account, SignIn
from adapters.snowflake.line import Line, LineError
from adapters.snowflake.outputs import Output, Outputs
from control_plane.errors import BadInput
from control_plane.jobs import Purpose, Waiting, with_purpose, work_tag
from control_plane.work import Publication
from tests.integration.snowflake.given import history

pytestmark = pytest.mark.anyio

PLANE = uuid4()


class StallingLine(Line):
    """Stops before the statements that begin so, until it is told to go on; *stalled* tells that it has."""

    before = "nothing"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stalled = asyncio.Event()
        self.going_on = asyncio.Event()

    async def ask(self, sql: str, *, tag: str | None = None) -> list[tuple[Any, ...]]:
        if sql.startswith(self.before):
            self.stalled.set()
            await self.going_on.wait()
        return await super().ask(sql, tag=tag)


@pytest.fixture
async def line(ours: Account, who: SignIn) -> AsyncIterator[StallingLine]:
    line = StallingLine(ours, who, timeout_seconds=10, tag="tests", with_warehouse=True)
    yield line
    await line.aclose()


@pytest.fixture
async def other_line(ours: Account, who: SignIn) -> AsyncIterator[StallingLine]:
    line = StallingLine(ours, who, timeout_seconds=10, tag="tests", with_warehouse=True)
    yield line
    await line.aclose()


@pytest.fixture
def outputs(line: StallingLine, own_database: str) -> Outputs:
    return Outputs(line, own_database)


def tag_of(job_id: UUID) -> str:
    return work_tag("tests", PLANE, job_id)


async def written(outputs: Outputs, value: int) -> UUID:
    """A job that wrote one row."""
    await outputs.prepare()
    output = Output.of_view(uuid4())
    await outputs._line.ask(f"CREATE TABLE {outputs.name(output)} AS SELECT {value} AS N")
    return output.job_id


async def publish(outputs: Outputs, job_id: UUID, number: int) -> bool:
    return await outputs.publish(tag_of(job_id), job_id, Publication(6404, number))


async def publish_at_last(outputs: Outputs, job_id: UUID, number: int) -> bool:
    """Tried again, as with every heartbeat: the double's DuckDB answers with a conflict where Snowflake waits."""
    for _ in range(20):
        with suppress(LineError):
            return await publish(outputs, job_id, number)
    return False


async def shown(outputs: Outputs) -> list[Any]:
    """What readers see."""
    return [value for (value,) in await outputs._line.ask(f"SELECT N FROM {outputs.readers(6404)}")]


async def tables(outputs: Outputs, database: str) -> set[str]:
    found = await outputs._line.ask(
        f"SELECT TABLE_NAME FROM {database}.INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'COUNTERMAND_OUTPUTS'"
    )
    return {table for (table,) in found} - {"PUBLICATIONS"}


async def test_readers_see_what_was_published_and_nothing_before(outputs: Outputs) -> None:
    job_id = await written(outputs, 7)
    with pytest.raises(LineError):
        await shown(outputs)

    assert await publish(outputs, job_id, 1)

    assert await shown(outputs) == [7]


async def test_an_unprepared_database_has_nothing_unpublished(outputs: Outputs) -> None:
    assert await outputs.unpublished() == []


async def test_publishing_again_changes_nothing(outputs: Outputs) -> None:
    job_id = await written(outputs, 7)

    assert [await publish(outputs, job_id, 1), await publish(outputs, job_id, 1)] == [True, True]

    assert await shown(outputs) == [7]


async def test_a_job_without_an_output_is_not_published(outputs: Outputs) -> None:
    assert not await publish(outputs, uuid4(), 1)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
async def test_the_highest_number_is_shown_in_whatever_order_they_come(
    outputs: Outputs, own_database: str, order: tuple[int, ...]
) -> None:
    jobs = {number: await written(outputs, number) for number in order}

    published = [await publish(outputs, jobs[number], number) for number in order]

    assert published == [True, True, True]
    assert await shown(outputs) == [3]
    assert await tables(outputs, own_database) == {f"JOB_{jobs[3]}"}


async def test_publishers_at_once_show_the_highest_number(outputs: Outputs) -> None:
    jobs = [await written(outputs, number) for number in range(1, 6)]

    async with asyncio.timeout(60), asyncio.TaskGroup() as together:
        for number, job_id in enumerate(jobs, start=1):
            together.create_task(publish_at_last(outputs, job_id, number))

    assert await shown(outputs) == [5]


async def test_a_publisher_that_stalled_with_a_lower_number_in_its_hand_cannot_show_it_any_more(
    outputs: Outputs, other_line: StallingLine, own_database: str
) -> None:
    low, high = await written(outputs, 1), await written(outputs, 2)
    other_line.before = "CREATE OR REPLACE VIEW"
    slow = asyncio.create_task(publish(Outputs(other_line, own_database), low, 1))
    await other_line.stalled.wait()

    assert await publish(outputs, high, 2)
    other_line.going_on.set()

    assert await slow
    assert await shown(outputs) == [2]


async def test_a_publisher_shows_the_higher_number_that_another_recorded_and_never_showed(
    outputs: Outputs, line: StallingLine, other_line: StallingLine, own_database: str
) -> None:
    others = Outputs(other_line, own_database)
    low, high = await written(others, 1), await written(others, 2)
    line.before = other_line.before = "CREATE OR REPLACE VIEW"
    slow = asyncio.create_task(publish(others, low, 1))
    await other_line.stalled.wait()
    dying = asyncio.create_task(publish(outputs, high, 2))
    await line.stalled.wait()
    dying.cancel()

    other_line.going_on.set()

    assert await slow
    assert await shown(others) == [2]


async def test_whoever_shows_a_lower_number_while_it_is_dropped_is_outdone(
    outputs: Outputs, line: StallingLine, other_line: StallingLine, own_database: str
) -> None:
    others = Outputs(other_line, own_database)
    low, high = await written(others, 1), await written(others, 2)
    assert await publish(others, low, 1)
    line.before = "DROP TABLE"
    publishing = asyncio.create_task(publish(outputs, high, 2))
    await line.stalled.wait()

    lower = others.name(Output.of_view(low))
    await other_line.ask(f"CREATE OR REPLACE VIEW {others.readers(6404)} AS SELECT * FROM {lower}")
    await other_line.ask(f"DROP TABLE {lower}")  # another publisher of the same job was first with this too
    line.going_on.set()

    assert await publishing
    assert await shown(outputs) == [2]


async def test_a_publication_that_was_recorded_and_not_shown_is_taken_up(
    outputs: Outputs, line: StallingLine, own_database: str, other_line: StallingLine
) -> None:
    job_id = await written(outputs, 7)
    line.before = "CREATE OR REPLACE VIEW"
    dying = asyncio.create_task(publish(outputs, job_id, 1))
    await line.stalled.wait()
    dying.cancel()

    others = Outputs(other_line, own_database)
    assert await others.unpublished() == []
    assert await publish(others, job_id, 1)

    assert await shown(others) == [7]


async def test_only_what_is_unpublished_is_discarded(outputs: Outputs, own_database: str) -> None:
    published, doomed, spared = [await written(outputs, number) for number in range(3)]
    await publish(outputs, published, 1)
    assert set(await outputs.unpublished()) == {doomed, spared}

    removed = await outputs.discard({job_id: tag_of(job_id) for job_id in (published, doomed, uuid4())})

    assert removed == {doomed: (outputs.name(Output.of_view(doomed)),)}
    assert await tables(outputs, own_database) == {f"JOB_{published}", f"JOB_{spared}"}
    assert await outputs.discard({doomed: tag_of(doomed)}) == {}


async def test_publishing_and_cleaning_up_carry_tags_of_their_own(
    outputs: Outputs, canceller: SnowflakeConnection
) -> None:
    published, doomed = [await written(outputs, number) for number in range(2)]

    await publish(outputs, published, 1)
    await outputs.discard({doomed: tag_of(doomed)})

    assert len(history(canceller, with_purpose(tag_of(published), Purpose.PUBLISH))) == 3
    assert len(history(canceller, with_purpose(tag_of(doomed), Purpose.CLEANUP))) == 1
    assert history(canceller, tag_of(published)) == history(canceller, tag_of(doomed)) == []


async def test_a_database_that_nothing_may_be_made_in_is_refused_with_the_missing_privilege(line: StallingLine) -> None:
    outputs = Outputs(line, "NOWHERE")

    with pytest.raises(LineError, match="needed: CREATE SCHEMA on the database NOWHERE") as raised:
        await outputs.prepare()

    assert raised.value.trouble.waiting is Waiting.NOT_PERMITTED


@pytest.mark.parametrize("database", ["", "A B", "A; DROP", 'A"', "1A", "A.B", "Ä"])
async def test_a_database_that_is_no_plain_name_is_refused(line: StallingLine, database: str) -> None:
    with pytest.raises(BadInput) as raised:
        Outputs(line, database)

    assert raised.value.field == "database"
