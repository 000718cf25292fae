"""An embedded Narrative plane for tests: a folder, an engine, SQL that ends at once and SQL that runs for minutes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from control_plane.jobs import JobType, work_tag
from control_plane.work import Claim, Work
from workers.engines.base import Ending
from workers.engines.embedded import EmbeddedEngine
from workers.engines.folder import Folder
from workers.engines.warehouse import Resources, Warehouse

PLANE = UUID("5d0ae7a5-76b9-4f0e-a6a1-0d5c5a8a4f5e")
QUICK = "SELECT n FROM narrative.datasets.ds_1"
ENDLESS = "SELECT n FROM narrative.datasets.ds_6402 WHERE n % 99999999977 = 7"
RESOURCES = Resources(memory_limit="500MB", threads=1)
#: Three rows, and a hundred thousand million that exist only while they are read.
DATA = """
CREATE OR REPLACE VIEW narrative.datasets.ds_1 AS SELECT range AS n FROM range(3);
CREATE OR REPLACE VIEW narrative.datasets.ds_6402 AS SELECT range AS n FROM range(100000000000);
"""


def named_work() -> Work:
    """A job of the plane, as its engine would know it; claimed by nobody yet."""
    job_id = uuid4()
    return Work(job_id, work_tag("tests", PLANE, job_id))


def claim_of(job_type: JobType, document: dict[str, Any], *, job_id: UUID | None = None) -> Claim:
    """A claim as an executor is given it."""
    job_id = job_id or uuid4()
    return Claim(job_id, job_type, document, work_tag("tests", PLANE, job_id), epoch=uuid4(), permit_seconds=30.0)


def view_of(sql: str, *, dataset_id: int = 6404, job_id: UUID | None = None) -> Claim:
    """A claimed ``materialize-view`` job."""
    return claim_of(JobType.MATERIALIZE_VIEW, view_input(sql, dataset_id=dataset_id), job_id=job_id)


def view_input(sql: str, *, dataset_id: int = 6404) -> dict[str, Any]:
    """The input of a ``materialize-view`` job."""
    return {"nql": "SELECT 1", "dataset_id": dataset_id, "compiled_sql": sql}


@asynccontextmanager
async def opened(
    path: Path, *, kind: type[EmbeddedEngine] = EmbeddedEngine, **options: Any
) -> AsyncIterator[EmbeddedEngine]:
    """A new incarnation of the engine in the folder, with the data of every test."""
    folder = Folder.open(path)
    warehouse = Warehouse.open(path, RESOURCES)
    with warehouse.session() as session:
        session.execute(DATA)
    engine = kind(folder, warehouse, **options)
    try:
        yield engine
    finally:
        await engine.aclose()
        folder.close()


async def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Look until it is so; TimeoutError when it is not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  it comes true in another thread
            await asyncio.sleep(0.005)


async def run_to_end(engine: EmbeddedEngine, claim: Claim) -> Ending:
    """Start the job under a permit that holds, and wait for its end."""
    return await engine.follow(await engine.start(claim, lambda: 30.0))


def rows(engine: EmbeddedEngine, sql: str) -> list[tuple[Any, ...]]:
    """What a reader of the plane sees."""
    with engine._warehouse.session() as session:
        return session.execute(sql).fetchall()


def outputs(engine: EmbeddedEngine) -> list[str]:
    """The tables that jobs have written and nobody removed."""
    found = rows(engine, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'outputs' ORDER BY 1")
    return [table for (table,) in found]
