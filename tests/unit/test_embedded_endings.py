"""The moments about the end of an embedded run: what is still in use, and what is over for good."""

from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import duckdb
import pytest
from duckdb import DuckDBPyConnection

from adapters.base import RunStatus
from control_plane.work import Publication
from tests.narrative import ENDLESS, QUICK, opened, outputs, rows, until, view_of

pytestmark = pytest.mark.anyio

SHOWN = "SELECT n FROM narrative.datasets.ds_6404 ORDER BY n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def is_open(session: DuckDBPyConnection) -> bool:
    try:
        session.execute("SELECT 1")
    except duckdb.ConnectionException:
        return False
    return True


async def test_discarding_what_a_run_is_still_writing_removes_nothing_and_says_nothing_of_it(tmp_path: Path) -> None:
    released = Event()

    def now() -> datetime:  # a run asks for its end's time when its table is there already
        assert released.wait(60)
        return datetime.now(UTC)

    async with opened(tmp_path, now=now) as engine:
        claim = view_of(QUICK)
        handle = await engine.start(claim, lambda: 30.0)
        await until(lambda: outputs(engine) == [f"job_{claim.job_id}"])
        assert engine.observe([handle])[0].status is RunStatus.ACTIVE

        removed = await engine.discard([claim.job_id])
        released.set()

        assert removed == {}
        assert (await engine.follow(handle)).status is RunStatus.SUCCEEDED
        assert await engine.publish_orders({claim.job_id: Publication(6404, 1)}) == {claim.job_id}
        assert rows(engine, SHOWN) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("sql", [QUICK, ENDLESS, "SELECT missing FROM narrative.datasets.ds_1"])
async def test_a_session_is_of_no_use_any_more_when_its_runs_end_is_told(tmp_path: Path, sql: str) -> None:
    asked, begun = Event(), Event()
    usable: list[bool] = []

    def permit_left() -> float:
        asked.set()
        return float(begun.wait(60))

    async with opened(tmp_path) as engine:
        handle = await engine.start(view_of(sql), permit_left)
        await until(asked.is_set)
        [run] = engine._book.by_handles([handle])
        assert is_open(run.session)
        run.ended.add_done_callback(lambda _: usable.append(is_open(run.session)))  # called before anybody who follows

        begun.set()
        if sql == ENDLESS:
            engine.stop([handle])
        await engine.follow(handle)

        assert usable == [False]
